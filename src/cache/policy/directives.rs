//! Cache directives (RFC 9111 §5.2, RFC 5861, RFC 9213), of a response or a request.
//!
//! *Invariants*
//! 1. Names are compared without case; an argument may be a token or a quoted string (RFC 9111
//!    §5.2).
//! 2. Doubt restricts: a time that cannot be read, or two that disagree, is zero (RFC 9111 §4.2.1),
//!    a field list that cannot be read means the whole response, and an unexpected argument does
//!    not make a directive disappear.
//! 3. Seconds are at most 2^31 (RFC 9111 §1.2.2).
//!
//! *Why not one enum of directives in a list?* Every reader asks for one directive by name; a
//! struct with the RFC's names answers without a search, and duplicates are settled once.

use std::{borrow::Cow, time::Duration};

use http::{
    HeaderMap, HeaderName,
    header::{CACHE_CONTROL, PRAGMA},
};
use sfv::{BareItem, Dictionary, ListEntry, Parser};

use super::list::{self, members};

/// The directives of one message. Those that were absent are `false`, `None` or [`Scope::Nothing`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a directive by its own RFC name")]
pub struct CacheControl {
    /// RFC 9111 §5.2.1.1 and §5.2.2.1.
    pub max_age: Option<Duration>,
    /// RFC 9111 §5.2.2.10.
    pub s_maxage: Option<Duration>,
    /// RFC 9111 §5.2.1.2; requests only. [`Duration::MAX`]: any staleness. Of several the smallest
    /// counts.
    pub max_stale: Option<Duration>,
    /// RFC 9111 §5.2.1.3; requests only. Of several the largest counts.
    pub min_fresh: Option<Duration>,
    /// RFC 5861 §3.
    pub stale_while_revalidate: Option<Duration>,
    /// RFC 5861 §4.
    pub stale_if_error: Option<Duration>,
    /// RFC 9111 §5.2.1.4 and §5.2.2.4, with the fields it names.
    pub no_cache: Scope,
    /// RFC 9111 §5.2.2.7, with the fields it names.
    pub private: Scope,
    /// RFC 9111 §5.2.1.5 and §5.2.2.5.
    pub no_store: bool,
    /// RFC 9111 §5.2.2.2.
    pub must_revalidate: bool,
    /// RFC 9111 §5.2.2.8.
    pub proxy_revalidate: bool,
    /// RFC 9111 §5.2.2.3.
    pub must_understand: bool,
    /// RFC 9111 §5.2.2.9.
    pub public: bool,
    /// RFC 9111 §5.2.1.7; requests only.
    pub only_if_cached: bool,
    /// Whether a targeted field (RFC 9213) was read in place of `Cache-Control` and `Expires`.
    pub targeted: bool,
}

/// What `no-cache` or `private` is said of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Scope {
    /// The directive is absent.
    #[default]
    Nothing,
    /// Only of these response fields.
    Fields(Vec<HeaderName>),
    /// Of the whole response.
    Whole,
}

impl CacheControl {
    /// The directives in `Cache-Control`, over all its lines.
    pub fn of(fields: &HeaderMap) -> Self {
        let mut control = Self::default();
        for member in members(fields, &CACHE_CONTROL) {
            let (name, argument) = directive(member);
            control.apply(&name.to_ascii_lowercase(), &argument);
        }
        control
    }

    /// The directives of a request: `Cache-Control`, or in its absence `Pragma: no-cache`, which
    /// then means the same as `Cache-Control: no-cache` (RFC 9111 §5.4).
    pub fn of_request(fields: &HeaderMap) -> Self {
        let mut control = Self::of(fields);
        if !fields.contains_key(CACHE_CONTROL)
            && members(fields, &PRAGMA).any(|member| member.eq_ignore_ascii_case(b"no-cache"))
        {
            control.no_cache = Scope::Whole;
        }
        control
    }

    /// The directives of a response for a cache with this target list: the first targeted field
    /// that is valid and not empty, else `Cache-Control` (RFC 9213 §2.2).
    pub fn of_response(fields: &HeaderMap, targets: &[HeaderName]) -> Self {
        targets
            .iter()
            .find_map(|target| Self::of_target(fields, target))
            .unwrap_or_else(|| Self::of(fields))
    }

    /// The directives in one targeted field, a structured dictionary (RFC 9213 §2.1); `None` when
    /// it is absent, empty or invalid, and must be ignored.
    fn of_target(fields: &HeaderMap, target: &HeaderName) -> Option<Self> {
        let lines: Vec<&[u8]> = fields.get_all(target).into_iter().map(AsRef::as_ref).collect();
        if lines.is_empty() {
            return None;
        }
        let dictionary = Parser::new(&lines.join(&b", "[..])).parse::<Dictionary>().ok()?;
        if dictionary.is_empty() {
            return None;
        }
        let mut control = Self { targeted: true, ..Self::default() };
        for (key, entry) in &dictionary {
            if let Some(argument) = structured(entry) {
                control.apply(key.as_str().as_bytes(), &argument);
            }
        }
        Some(control)
    }

    /// Whether the upstream said how long the response is fresh: then no TTL of ours and no
    /// heuristic applies. `Expires` is asked for beside it.
    pub(super) fn says_freshness(&self) -> bool {
        self.max_age.is_some() || self.s_maxage.is_some() || self.no_cache == Scope::Whole
    }

    /// Whether the response must not be served stale, not even when the upstream fails: RFC 9111
    /// §5.2.2.2, §5.2.2.4, §5.2.2.8, and §5.2.2.10, by which `s-maxage` implies `proxy-revalidate`.
    pub(super) fn forbids_stale(&self) -> bool {
        self.must_revalidate
            || self.proxy_revalidate
            || self.s_maxage.is_some()
            || self.no_cache == Scope::Whole
    }

    /// Takes over one directive; `name` is in lower case. Unknown ones are ignored (RFC 9111
    /// §5.2.3).
    fn apply(&mut self, name: &[u8], argument: &Argument<'_>) {
        match name {
            b"max-age" => argument.limit(&mut self.max_age),
            b"s-maxage" => argument.limit(&mut self.s_maxage),
            b"stale-while-revalidate" => argument.limit(&mut self.stale_while_revalidate),
            b"stale-if-error" => argument.limit(&mut self.stale_if_error),
            b"min-fresh" => self.min_fresh = self.min_fresh.max(argument.seconds()),
            b"max-stale" => {
                let limit = match argument {
                    Argument::None => Duration::MAX,
                    argument => argument.seconds().unwrap_or_default(),
                };
                self.max_stale = Some(self.max_stale.map_or(limit, |earlier| earlier.min(limit)));
            }
            b"no-cache" => argument.widen(&mut self.no_cache),
            b"private" => argument.widen(&mut self.private),
            // These have no argument; one that stands there all the same changes nothing.
            b"no-store" => self.no_store = true,
            b"must-revalidate" => self.must_revalidate = true,
            b"proxy-revalidate" => self.proxy_revalidate = true,
            b"must-understand" => self.must_understand = true,
            b"public" => self.public = true,
            b"only-if-cached" => self.only_if_cached = true,
            _ => {}
        }
    }
}

impl Scope {
    /// The fields it names; none when it is absent or means the whole response.
    pub fn fields(&self) -> &[HeaderName] {
        match self {
            Self::Fields(fields) => fields,
            Self::Nothing | Self::Whole => &[],
        }
    }
}

/// What follows a directive's name.
enum Argument<'a> {
    None,
    /// A token or what a quoted string said; or anything else that stood there.
    Text(Cow<'a, [u8]>),
    /// A structured integer (RFC 9213 §2.1).
    Integer(i64),
    /// Another structured type, `true` for want of an argument included; a string or a token has
    /// text.
    Other(Option<&'a str>),
}

impl Argument<'_> {
    /// The delta-seconds it says (RFC 9111 §1.2.2); `None` when it says none.
    fn seconds(&self) -> Option<Duration> {
        match self {
            Self::Text(digits) => delta_seconds(digits),
            Self::Integer(seconds) => u64::try_from(*seconds).ok().map(capped),
            Self::None | Self::Other(_) => None,
        }
    }

    /// Sets a time. Invalid, or in conflict with an earlier one: zero (RFC 9111 §4.2.1).
    fn limit(&self, time: &mut Option<Duration>) {
        // A wrong structured type makes a targeted field's directive disappear (RFC 9213 §2.1).
        if matches!(self, Self::Other(_)) {
            return;
        }
        let seconds = self.seconds().unwrap_or_default();
        *time = Some(match *time {
            Some(earlier) if earlier != seconds => Duration::ZERO,
            _ => seconds,
        });
    }

    /// Adds the fields it names to a scope; without readable field names that is everything.
    fn widen(&self, scope: &mut Scope) {
        let names = match self {
            Self::Text(list) => field_names(list),
            Self::Other(Some(list)) => field_names(list.as_bytes()),
            Self::None | Self::Integer(_) | Self::Other(None) => None,
        };
        match (scope, names) {
            (Scope::Whole, _) => {}
            (Scope::Fields(fields), Some(names)) => fields.extend(names),
            (scope @ Scope::Nothing, Some(names)) => *scope = Scope::Fields(names),
            (scope, None) => *scope = Scope::Whole,
        }
    }
}

/// Non-negative whole seconds, at most 2^31; `None` for anything but digits (RFC 9111 §1.2.2).
pub(super) fn delta_seconds(digits: &[u8]) -> Option<Duration> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = digits.iter().fold(0_u64, |seconds, digit| {
        seconds.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
    });
    Some(capped(seconds))
}

/// Splits `name=argument`. White space around the `=` is not allowed: the name still counts, so
/// that a restriction is not lost, but the argument is unreadable.
fn directive(member: &[u8]) -> (&[u8], Argument<'_>) {
    let equals = member.iter().position(|&byte| byte == b'=');
    let Some((name, rest)) = equals.and_then(|at| member.split_at_checked(at)) else {
        return (member, Argument::None);
    };
    let argument = rest.split_first().map_or(rest, |(_, argument)| argument);
    if list::trim(name) != name || list::trim(argument) != argument {
        return (list::trim(name), Argument::Text(Cow::Borrowed(b"")));
    }
    let said = list::unquote(argument).map_or(Cow::Borrowed(argument), Cow::Owned);
    (name, Argument::Text(said))
}

/// A structured member as an argument; parameters are ignored (RFC 9213 §2.1). `None` for `?0`,
/// which is a directive's absence.
fn structured(entry: &ListEntry) -> Option<Argument<'_>> {
    let ListEntry::Item(item) = entry else {
        return Some(Argument::Other(None));
    };
    match &item.bare_item {
        BareItem::Boolean(said) => said.then_some(Argument::Other(None)),
        BareItem::Integer(seconds) => Some(Argument::Integer(i64::from(*seconds))),
        BareItem::String(text) => Some(Argument::Other(Some(text.as_str()))),
        BareItem::Token(text) => Some(Argument::Other(Some(text.as_str()))),
        _ => Some(Argument::Other(None)),
    }
}

/// The names in a field list; `None` when there is none or one of them is no field name.
fn field_names(list: &[u8]) -> Option<Vec<HeaderName>> {
    let names: Option<Vec<HeaderName>> = list::Members::of(list)
        .filter(|name| !name.is_empty())
        .map(|name| HeaderName::from_bytes(name).ok())
        .collect();
    names.filter(|names| !names.is_empty())
}

fn capped(seconds: u64) -> Duration {
    Duration::from_secs(seconds.min(MOST_SECONDS))
}

/// What a time is taken for that is larger, or does not fit (RFC 9111 §1.2.2).
pub(super) const MOST_SECONDS: u64 = 1 << 31;

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn fields(name: &'static str, lines: &[&str]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for line in lines {
            fields.append(name, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        fields
    }

    fn control(line: &str) -> CacheControl {
        CacheControl::of(&fields("cache-control", &[line]))
    }

    fn targeted(line: &str) -> CacheControl {
        let target = HeaderName::from_static("cdn-cache-control");
        let mut fields = fields("cdn-cache-control", &[line]);
        fields.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=1"));
        CacheControl::of_response(&fields, &[target])
    }

    #[expect(clippy::unnecessary_wraps, reason = "as the fields it is compared with")]
    const fn secs(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    #[test]
    fn max_age_is_read_strictly_and_what_cannot_be_read_is_zero() {
        for (line, max_age) in [
            ("max-age=3600", secs(3600)),
            ("MaX-aGe=3600", secs(3600)),
            (r#"max-age="3600""#, secs(3600)),
            (r#"max-age="36\00""#, secs(3600)),
            ("max-age=003600", secs(3600)),
            ("max-age=0", secs(0)),
            ("max-age=2147483648", secs(1 << 31)),
            ("max-age=99999999999", secs(1 << 31)),
            ("max-age=99999999999999999999999999", secs(1 << 31)),
            ("max-age", secs(0)),
            ("max-age=", secs(0)),
            ("max-age=-100", secs(0)),
            ("max-age=+100", secs(0)),
            ("max-age='3600'", secs(0)),
            ("max-age=3600.0", secs(0)),
            ("max-age=a100", secs(0)),
            ("max-age=100a", secs(0)),
            ("max-age =100", secs(0)),
            ("max-age= 100", secs(0)),
            ("max-age=10 0", secs(0)),
            (r#"max-age="100"#, secs(0)),
            ("s-max-age=100", None),
            ("xmax-age=100", None),
            ("", None),
        ] {
            assert_eq!(control(line).max_age, max_age, "{line}");
        }
    }

    #[test]
    fn two_times_that_disagree_are_zero_and_two_that_agree_are_one() {
        assert_eq!(control("max-age=1800, max-age=1").max_age, secs(0));
        assert_eq!(control("max-age=1, max-age=1800").max_age, secs(0));
        assert_eq!(control("max-age=60, max-age=\"60\"").max_age, secs(60));
        let lines = fields("cache-control", &["s-maxage=60", "public", "s-maxage=61"]);
        assert_eq!(CacheControl::of(&lines).s_maxage, secs(0));
        assert!(CacheControl::of(&lines).public);
    }

    #[test]
    fn what_stands_in_a_quoted_string_is_no_directive() {
        for line in [
            r#"extension="max-age=100, no-store", max-age=1"#,
            r#"max-age="1", extension="max-age=100""#,
            r#"extension="a\", max-age=100", max-age=1"#,
        ] {
            assert_eq!(control(line).max_age, secs(1), "{line}");
            assert!(!control(line).no_store, "{line}");
        }
    }

    #[test]
    fn a_restriction_is_kept_however_it_is_written() {
        for line in [
            "No-StOrE",
            "no-store=x",
            "no-store =x",
            ",, no-store,",
            "a=\"b, no-store",
            "\tno-store",
        ] {
            assert!(control(line).no_store, "{line}");
        }
        let all =
            control("must-revalidate, proxy-revalidate, must-understand, public, only-if-cached");
        assert!(all.must_revalidate && all.proxy_revalidate && all.must_understand);
        assert!(all.public && all.only_if_cached && !all.no_store);
    }

    #[test]
    fn private_and_no_cache_mean_everything_unless_they_name_fields() {
        let names = |names: &[&'static str]| {
            Scope::Fields(names.iter().map(|name| HeaderName::from_static(name)).collect())
        };
        for (line, scope) in [
            ("public", Scope::Nothing),
            ("private", Scope::Whole),
            (r#"private="A, b""#, names(&["a", "b"])),
            ("private=a", names(&["a"])),
            (r#"private="a", private="b""#, names(&["a", "b"])),
            (r#"private="a", private"#, Scope::Whole),
            (r#"private, private="a""#, Scope::Whole),
            (r#"private="""#, Scope::Whole),
            (r#"private=" , ""#, Scope::Whole),
            (r#"private="a b""#, Scope::Whole),
            (r#"private="a"#, Scope::Whole),
            ("private= a", Scope::Whole),
        ] {
            assert_eq!(control(line).private, scope, "{line}");
            assert_eq!(control(&line.replace("private", "no-cache")).no_cache, scope, "{line}");
        }
    }

    #[test]
    fn of_what_a_client_takes_the_least_counts() {
        assert_eq!(control("max-stale").max_stale, Some(Duration::MAX));
        assert_eq!(control("max-stale=5, max-stale").max_stale, secs(5));
        assert_eq!(control("max-stale=5, max-stale=3").max_stale, secs(3));
        assert_eq!(control("max-stale=x").max_stale, secs(0));
        assert_eq!(control("min-fresh=5, min-fresh=9, min-fresh=x").min_fresh, secs(9));
    }

    #[test]
    fn pragma_counts_only_where_there_is_no_cache_control() {
        let mut request = fields("pragma", &["foo", "No-Cache"]);
        assert_eq!(CacheControl::of_request(&request).no_cache, Scope::Whole);
        request.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=5"));
        assert_eq!(CacheControl::of_request(&request).no_cache, Scope::Nothing);
        let other = fields("pragma", &["no-cache-please"]);
        assert_eq!(CacheControl::of_request(&other), CacheControl::default());
    }

    #[test]
    fn a_valid_targeted_field_replaces_cache_control() {
        for (line, max_age) in [
            ("max-age=3600", secs(3600)),
            ("foobar, max-age=3600;x=y", secs(3600)),
            ("max-age=99999999999", secs(1 << 31)),
            ("max-age=-1", secs(0)),
            ("max-age=5, max-age=7", secs(7)),
            // Wrong types: the directive is ignored, the field still counts.
            (r#"max-age="3600""#, None),
            ("max-age=3600.0", None),
            ("max-age=(3600)", None),
            ("max-age, no-store", None),
            // Not valid, or empty: Cache-Control's own counts.
            ("max-age=3600, &&&&&", secs(1)),
            ("MaX-aGe=3600", secs(1)),
            ("max-age =3600", secs(1)),
            ("max-age= 3600", secs(1)),
            ("max-age=9999999999999999", secs(1)),
            ("max-age=3600,", secs(1)),
            ("", secs(1)),
            ("  ", secs(1)),
        ] {
            assert_eq!(targeted(line).max_age, max_age, "{line}");
        }
    }

    #[test]
    fn a_targeted_flag_is_read_by_its_type() {
        assert!(targeted("no-store").no_store);
        assert!(targeted("no-store=?1").no_store);
        assert!(!targeted("no-store=?0").no_store);
        assert_eq!(targeted("private").private, Scope::Whole);
        assert_eq!(targeted(r#"private="a""#).private.fields(), ["a"]);
        assert_eq!(targeted("private=5").private, Scope::Whole);
    }

    #[test]
    fn the_first_target_that_is_valid_counts() {
        let targets = ["own-cache-control", "cdn-cache-control"].map(HeaderName::from_static);
        let mut all = fields("own-cache-control", &["max-age=2", "public"]);
        all.insert("cdn-cache-control", HeaderValue::from_static("max-age=3"));
        all.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=4"));
        let both_lines = CacheControl::of_response(&all, &targets);
        assert_eq!((both_lines.max_age, both_lines.public), (secs(2), true));
        all.insert("own-cache-control", HeaderValue::from_static("&"));
        assert_eq!(CacheControl::of_response(&all, &targets).max_age, secs(3));
        all.remove("cdn-cache-control");
        let fallen_through = CacheControl::of_response(&all, &targets);
        assert_eq!((fallen_through.max_age, fallen_through.targeted), (secs(4), false));
        assert_eq!(CacheControl::of_response(&all, &[]).max_age, secs(4));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(lines in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..4)) {
            let mut all = HeaderMap::new();
            for line in lines.iter().filter_map(|line| HeaderValue::from_bytes(line).ok()) {
                all.append("cdn-cache-control", line.clone());
                all.append(CACHE_CONTROL, line);
            }
            let _ = CacheControl::of_response(&all, &[HeaderName::from_static("cdn-cache-control")]);
            let _ = CacheControl::of_request(&all);
        }

        #[test]
        fn no_line_before_or_after_hides_no_store(noise in r#"[a-z="\\, -]{0,30}"#) {
            // By itself, that is: inside a quoted string of the same line it is none.
            for lines in [[noise.as_str(), "no-store"], ["no-store", noise.as_str()]] {
                prop_assert!(CacheControl::of(&fields("cache-control", &lines)).no_store);
            }
        }

        #[test]
        fn seconds_read_back_up_to_the_most(seconds: u64) {
            let read = control(&format!("max-age={seconds}")).max_age;
            prop_assert_eq!(read, secs(seconds.min(1 << 31)));
        }
    }
}
