//! The route table: method and target → [`Route`] with its policy, and the one canonical target.
//!
//! *Invariants*
//! 1. The canonical target is the path and query as sent, byte for byte: authority and fragment cut,
//!    nothing decoded, nothing normalised. The key and the upstream request are both made of it.
//! 2. On a route with a parameter or a token, a path that two readers could read differently is refused:
//!    dot segments, escaped slashes, controls, broken escapes. A token route's parameters are unit ids.
//! 3. The first route whose template and method match is taken; templates are tried in the table's order.
//! 4. A route, and a family, keeps its number from one table to the next by its name, and no other gets it:
//!    what is filed under a number stays right when routes are added, removed or reordered.
//!
//! *Why not a trie:* a table has a handful of lines; comparing literal prefixes in order costs less than
//! a trie's hashing, and the order is what the operator reads.

use http::{Method, Uri};

use crate::config::{self, CachePolicy, CallerMode, Config, ForwardMode, SecretsMode};
use crate::unit::is_unit_id;

/// The route table.
#[derive(Debug)]
pub struct Routes {
    table: Vec<Route>,
    /// Every route's name so far, by its number.
    names: Vec<String>,
    /// Every family so far, by its number.
    families: Vec<String>,
}

/// One line of the table, ready to match.
#[derive(Debug)]
pub struct Route {
    /// Its place in the table: the label index of metrics.
    pub index: u16,
    /// Its number: part of every key, and of the limiters'.
    pub id: u16,
    /// What the operator wrote.
    pub config: config::Route,
    /// Number of its `family`, equal for all routes of one family.
    pub family: Option<u16>,
    /// What a successful write drops: number of the family, and index of the member in [`Routes::members`].
    pub invalidates: Option<(u16, usize)>,
    template: Vec<Piece>,
}

/// A request's place in the table.
#[derive(Clone, Copy, Debug)]
pub struct Match<'a> {
    /// The route that serves it.
    pub route: &'a Route,
    /// The canonical target.
    pub target: &'a str,
    /// The unit that the path names, where the route has a unit parameter.
    pub unit: Option<&'a str>,
}

/// A template, cut at its parameters.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    /// These bytes, slashes included.
    Literal(String),
    /// One segment that is not empty; `unit` where it names the unit.
    Parameter { unit: bool },
    /// Whatever is left.
    Rest,
}

impl Routes {
    /// The table of a valid configuration.
    pub fn new(config: &Config) -> Self {
        Self::numbered(config, Vec::new(), Vec::new())
    }

    /// The table of the configuration that follows this one's.
    #[must_use]
    pub fn succeeded_by(&self, config: &Config) -> Self {
        Self::numbered(config, self.names.clone(), self.families.clone())
    }

    /// The table, its names numbered on from those known.
    fn numbered(config: &Config, mut names: Vec<String>, mut families: Vec<String>) -> Self {
        number(&mut names, config.routes.iter().map(|route| &route.name));
        number(&mut families, config.routes.iter().filter_map(|route| route.family.as_ref()));
        let members = Self::members(config);
        let routes = config.routes.iter().enumerate().map(|(index, route)| {
            let position = |family: &String| families.iter().position(|known| known == family);
            let id = names.iter().position(|known| *known == route.name);
            Route {
                index: index16(index),
                id: index16(id.unwrap_or_default()),
                config: route.clone(),
                family: route.family.as_ref().and_then(position).map(index16),
                invalidates: route.invalidates.as_ref().and_then(|what| {
                    let member = members.iter().position(|known| *known == what.member)?;
                    Some((index16(position(&what.family)?), member))
                }),
                template: template(&route.path, &unit_names(config, route)),
            }
        });
        Self { table: routes.collect(), names, families }
    }

    /// The members of answers that name units, over all routes: what the masker looks out for.
    pub fn members(config: &Config) -> Vec<String> {
        let mut members: Vec<String> = Vec::new();
        for what in config.routes.iter().filter_map(|route| route.invalidates.as_ref()) {
            if !members.contains(&what.member) {
                members.push(what.member.clone());
            }
        }
        members
    }

    /// All routes, in the table's order.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.table.iter()
    }

    /// The route at `index`, the place in the table.
    pub fn at(&self, index: u16) -> Option<&Route> {
        self.table.get(usize::from(index))
    }

    /// Finds the route of a request.
    ///
    /// # Errors
    /// Unknown path, wrong method (with what is allowed), or a target that is refused.
    pub fn resolve<'a>(&'a self, method: &Method, uri: &'a Uri) -> Result<Match<'a>, RouteError> {
        if method == Method::CONNECT {
            return Err(RouteError::NotImplemented);
        }
        let target = uri.path_and_query().ok_or(RouteError::NotFound)?.as_str();
        let path = uri.path();
        let mut allowed: Vec<&Method> = Vec::new();
        for route in &self.table {
            let Some(parameters) = route.matches(path) else { continue };
            if route.config.methods.contains(method) {
                route.accept(path, uri.query(), &parameters)?;
                return Ok(Match { route, target, unit: parameters.unit });
            }
            allowed.extend(route.config.methods.named());
        }
        if allowed.is_empty() {
            return Err(RouteError::NotFound);
        }
        Err(RouteError::MethodNotAllowed { allow: allow(allowed) })
    }
}

impl Route {
    /// What of an answer may be kept, if anything.
    pub fn cache(&self) -> Option<&CachePolicy> {
        self.config.cache.as_ref()
    }

    /// What each of its targets begins with.
    pub fn begins_with(&self) -> &str {
        match self.template.first() {
            Some(Piece::Literal(literal)) => literal,
            _ => "",
        }
    }

    /// Whether a token is required.
    pub fn wants_token(&self) -> bool {
        self.config.caller == CallerMode::Token
    }

    /// Whether every end-to-end field crosses.
    pub fn forwards_all(&self) -> bool {
        self.config.forward == ForwardMode::All
    }

    /// Whether bodies go through the masker.
    pub fn masks(&self) -> bool {
        self.config.secrets == SecretsMode::Mask
    }

    /// What the path holds where the template has parameters, if the path is of this template.
    fn matches<'a>(&self, path: &'a str) -> Option<Parameters<'a>> {
        let mut left = path;
        let mut parameters = Parameters { unit: None, all_ids: true, rest: false };
        for piece in &self.template {
            match piece {
                Piece::Literal(literal) => left = left.strip_prefix(literal.as_str())?,
                Piece::Rest => {
                    parameters.rest = true;
                    left = "";
                }
                Piece::Parameter { unit } => {
                    let end = left.find('/').unwrap_or(left.len());
                    let (segment, after) = left.split_at_checked(end).filter(|_| end > 0)?;
                    parameters.note(segment, *unit);
                    left = after;
                }
            }
        }
        left.is_empty().then_some(parameters)
    }

    /// Judges a path that matched: invariant 2.
    fn accept(
        &self,
        path: &str,
        query: Option<&str>,
        parameters: &Parameters<'_>,
    ) -> Result<(), RouteError> {
        // Ids hold nothing that could be read in two ways, and literals are what the operator wrote.
        let plain = parameters.all_ids && !parameters.rest;
        if !plain && is_ambiguous(path) {
            return Err(RouteError::AmbiguousPath);
        }
        let ids_wanted = self.wants_token() || parameters.unit.is_some();
        if ids_wanted && !parameters.all_ids {
            return Err(RouteError::BadParameter);
        }
        self.accept_query(query)
    }

    fn accept_query(&self, query: Option<&str>) -> Result<(), RouteError> {
        let (Some(accepted), Some(query)) = (&self.config.query, query) else {
            return Ok(());
        };
        let name = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
        let known = |pair: &str| accepted.contains(&name(pair));
        if query.split('&').filter(|pair| !pair.is_empty()).all(known) {
            return Ok(());
        }
        Err(RouteError::UnknownParameter)
    }
}

/// Why a request has no place in the table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// No route has this path.
    #[error("no route serves this path")]
    NotFound,
    /// The path is served, this method is not.
    #[error("the path is not served with this method")]
    MethodNotAllowed {
        /// What is served, as an `Allow` field (RFC 9110 §10.2.1).
        allow: String,
    },
    /// `CONNECT`: this is no tunnel.
    #[error("the method is not implemented")]
    NotImplemented,
    /// Dot segments, escaped slashes, controls or broken escapes.
    #[error("the path can be read in more than one way")]
    AmbiguousPath,
    /// A parameter that is no id: `[A-Za-z0-9._~-]{1,128}`, but not `.` or `..`.
    #[error("a path parameter is not a valid id")]
    BadParameter,
    /// A query parameter that the route does not accept.
    #[error("the route does not accept a query parameter of this name")]
    UnknownParameter,
}

/// What a path holds where its template has parameters.
struct Parameters<'a> {
    unit: Option<&'a str>,
    all_ids: bool,
    rest: bool,
}

impl<'a> Parameters<'a> {
    fn note(&mut self, segment: &'a str, unit: bool) {
        self.all_ids &= is_unit_id(segment.as_bytes());
        if unit {
            self.unit = Some(segment);
        }
    }
}

/// Whether two readers could read `path` differently.
fn is_ambiguous(path: &str) -> bool {
    let bytes = path.as_bytes();
    let odd = |byte: &u8| matches!(byte, b'%' | b'\\' | 0..=0x1f | 0x7f);
    // Nearly every path has none of these, and no segment that begins with a dot.
    let odd = bytes.iter().any(odd);
    if odd
        && (bytes.iter().any(|byte| byte.is_ascii_control() || *byte == b'\\')
            || !escapes_are_plain(bytes))
    {
        return true;
    }
    (odd || path.contains("/.")) && path.split('/').any(is_dot_segment)
}

/// Every `%` begins an escape of two hex digits, and none of a slash, a backslash or a control.
fn escapes_are_plain(bytes: &[u8]) -> bool {
    bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%').all(|(at, _)| {
        let digit =
            |offset: usize| bytes.get(at + offset).and_then(|byte| char::from(*byte).to_digit(16));
        match (digit(1), digit(2)) {
            (Some(high), Some(low)) => !matches!(high * 16 + low, 0x2f | 0x5c | 0..=0x1f | 0x7f),
            _ => false,
        }
    })
}

/// `.` or `..`, also with `%2e` for a dot (RFC 3986 §6.2.2).
fn is_dot_segment(segment: &str) -> bool {
    if segment.len() > "%2e%2e".len() || !segment.starts_with(['.', '%']) {
        return false;
    }
    let plain = segment.to_ascii_lowercase().replace("%2e", ".");
    plain == "." || plain == ".."
}

/// Cuts a template at its parameters; those named like a unit's member hold the unit.
fn template(path: &str, unit_names: &[&str]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut left = path;
    while let Some((literal, after)) = left.split_once('{') {
        let (name, after) = after.split_once('}').unwrap_or((after, ""));
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal.to_owned()));
        }
        pieces.push(if name.starts_with('*') {
            Piece::Rest
        } else {
            Piece::Parameter { unit: unit_names.contains(&name) }
        });
        left = after;
    }
    if !left.is_empty() {
        pieces.push(Piece::Literal(left.to_owned()));
    }
    pieces
}

/// The members by which the writes of a route's family name units: a parameter called so is the unit.
fn unit_names<'a>(config: &'a Config, route: &config::Route) -> Vec<&'a str> {
    let of_family = |what: &&config::Invalidates| Some(&what.family) == route.family.as_ref();
    let writes = config.routes.iter().filter_map(|other| other.invalidates.as_ref());
    writes.filter(of_family).map(|what| what.member.as_str()).collect()
}

/// Adds the names that are not known yet.
fn number<'a>(known: &mut Vec<String>, names: impl Iterator<Item = &'a String>) {
    for name in names {
        if !known.contains(name) {
            known.push(name.clone());
        }
    }
}

/// Methods as an `Allow` field (RFC 9110 §10.2.1).
pub fn allow<'a>(methods: impl IntoIterator<Item = &'a Method>) -> String {
    let mut names: Vec<&str> = methods.into_iter().map(Method::as_str).collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

fn index16(index: usize) -> u16 {
    u16::try_from(index).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes() -> Routes {
        Routes::new(&Config::default())
    }

    fn resolve(method: &str, uri: &str) -> Result<(String, Option<String>, String), RouteError> {
        let routes = routes();
        let uri: Uri = uri.parse().unwrap();
        let found = routes.resolve(&method.parse().unwrap(), &uri)?;
        let unit = found.unit.map(str::to_owned);
        Ok((found.route.config.path.clone(), unit, found.target.to_owned()))
    }

    #[test]
    fn the_unit_list_is_found_before_the_integration_of_that_name() {
        let (path, unit, _) = resolve("GET", "/api/v1/calcom/integration/unit/u-1").unwrap();
        assert_eq!(path, "/api/v1/calcom/integration/unit/{unitId}");
        assert_eq!(unit.as_deref(), Some("u-1"));
        let (path, unit, _) = resolve("GET", "/api/v1/calcom/integration/i-1").unwrap();
        assert_eq!((path.as_str(), unit), ("/api/v1/calcom/integration/{integrationId}", None));
    }

    #[test]
    fn the_canonical_target_is_path_and_query_byte_for_byte() {
        let (_, _, target) =
            resolve("GET", "/api/v1/calcom/integration/unit/u?b=%7e&a=&&B").unwrap();
        assert_eq!(target, "/api/v1/calcom/integration/unit/u?b=%7e&a=&&B");
        let absolute = "http://elsewhere.example/api/v1/calcom/integration/unit/u?x";
        assert_eq!(resolve("GET", absolute).unwrap().2, "/api/v1/calcom/integration/unit/u?x");
    }

    #[test]
    fn a_wrong_method_is_told_what_is_allowed_over_all_routes_of_the_path() {
        let error = resolve("DELETE", "/api/v1/calcom/integration/i-1").unwrap_err();
        assert_eq!(error, RouteError::MethodNotAllowed { allow: "GET, HEAD, PUT".to_owned() });
    }

    #[test]
    fn a_route_keeps_its_number_by_its_name_and_no_other_gets_it() {
        let mut config = Config::default();
        let before = Routes::new(&config);
        let ids = |table: &Routes| -> Vec<(String, u16, Option<u16>)> {
            let of = |route: &Route| (route.config.name.clone(), route.id, route.family);
            table.iter().map(of).collect()
        };
        let first = ids(&before);
        let gone = config.routes.remove(0);
        config.routes.reverse();
        config.routes.push(config::Route { name: "new".to_owned(), ..gone.clone() });
        let after = before.succeeded_by(&config);
        for (name, id, family) in ids(&after).iter().filter(|(name, ..)| name != "new") {
            assert!(first.contains(&(name.clone(), *id, *family)), "{name}");
        }
        let new = ids(&after).pop().unwrap();
        assert!(first.iter().all(|(_, id, _)| *id != new.1), "a number was given again");
        config.routes.push(gone);
        let back = ids(&after.succeeded_by(&config)).pop();
        assert_eq!(back.as_ref(), first.first());
    }

    #[test]
    fn what_is_not_in_the_table_is_not_found() {
        for path in [
            "/",
            "/api",
            "/api/v1/calcom/integration/unit/",
            "/api/v1/calcom/integration/unit/u/x",
            "/API/v1/calcom/integration/unit/u",
        ] {
            assert_eq!(resolve("GET", path).unwrap_err(), RouteError::NotFound, "{path}");
        }
    }

    #[test]
    fn a_path_that_two_readers_could_read_differently_is_refused() {
        for id in [
            ".", "..", "%2e", "%2E%2e", ".%2e", "a%2fb", "a%5Cb", "a%00", "a%7f", "a%", "a%2",
            "a%zz",
        ] {
            let error =
                resolve("GET", &format!("/api/v1/calcom/integration/unit/{id}")).unwrap_err();
            assert_eq!(error, RouteError::AmbiguousPath, "{id}");
        }
    }

    #[test]
    fn a_parameter_of_a_token_route_is_an_id_and_nothing_decoded() {
        for id in ["a%41", "a,b", "a:b", "a@b", &"a".repeat(129)] {
            let error =
                resolve("GET", &format!("/api/v1/calcom/integration/unit/{id}")).unwrap_err();
            assert_eq!(error, RouteError::BadParameter, "{id}");
        }
        for id in ["a", "A-Z.0_9~", "...", &"a".repeat(128)] {
            assert!(
                resolve("GET", &format!("/api/v1/calcom/integration/unit/{id}")).is_ok(),
                "{id}"
            );
        }
    }

    #[test]
    fn a_tunnel_is_not_implemented() {
        assert_eq!(resolve("CONNECT", "example.com:443").unwrap_err(), RouteError::NotImplemented);
    }

    #[test]
    fn a_route_that_lists_its_parameters_accepts_no_other() {
        let mut config = Config::default();
        config.routes[0].query = Some(vec!["page".to_owned()]);
        let routes = Routes::new(&config);
        let path = "/api/v1/calcom/integration/unit/u";
        let judge = |query: &str| {
            let uri: Uri = format!("{path}?{query}").parse().unwrap();
            routes.resolve(&Method::GET, &uri).map(|_| ())
        };
        for fine in ["", "page=1", "page", "page=1&page=2", "&page=1&"] {
            assert_eq!(judge(fine), Ok(()), "{fine}");
        }
        for foreign in ["x=1", "page=1&x", "Page=1", "p%61ge=1", "=1"] {
            assert_eq!(judge(foreign), Err(RouteError::UnknownParameter), "{foreign}");
        }
    }

    #[test]
    fn the_rest_of_a_path_is_any_number_of_segments() {
        let mut config = Config::default();
        config.routes[0].path = "/{*path}".to_owned();
        config.routes[0].caller = CallerMode::Open;
        let routes = Routes::new(&config);
        for path in ["/", "/a", "/a/b/c?d", "/a//b"] {
            let uri: Uri = path.parse().unwrap();
            assert_eq!(
                routes.resolve(&Method::GET, &uri).map(|found| found.target.to_owned()),
                Ok(path.to_owned())
            );
        }
        let uri: Uri = "/a/../b".parse().unwrap();
        assert_eq!(routes.resolve(&Method::GET, &uri).map(|_| ()), Err(RouteError::AmbiguousPath));
    }
}
