//! Whether a response may be stored, and which of its fields (RFC 9111 §3).
//!
//! *Invariants*
//! 1. Only a complete, final answer to GET is stored.
//! 2. 428, 429, 431 and 511 are never stored, whatever they say (RFC 6585).
//! 3. What is stored would be of use to a later request.
//! 4. Hop-by-hop fields and those that `private` or `no-cache` name are not stored.

use http::{
    HeaderMap, HeaderName, Method, StatusCode,
    header::{AUTHORIZATION, CACHE_CONTROL, CONNECTION, SET_COOKIE, VARY},
};

use crate::fields::HOP_BY_HOP;

use super::{
    CacheControl, Life, Partition, Rules, Scope, Times, Validators, Variant, list::members,
};

/// Why an answer is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NotStored {
    /// The answer says `no-store` (RFC 9111 §5.2.2.5).
    NoStore,
    /// The answer says `private`, and the partition is shared (RFC 9111 §5.2.2.7).
    Private,
    /// The route does not store this status.
    Status,
    /// Nothing would ever make it reusable.
    NoFreshness,
    /// `Vary` has `*` or cannot be read: no request matches (RFC 9111 §4.1).
    VaryStar,
    /// The request had `Authorization`, and nothing allows a shared partition to reuse it (RFC 9111
    /// §3.5).
    Authorization,
    /// It sets a cookie, and the route does not store those, or the upstream granted it no lifetime.
    SetCookie,
    /// It is a part: a 206, or one that was cut.
    Partial,
    /// The request says `no-store` (RFC 9111 §5.2.1.5).
    RequestNoStore,
    /// It says `must-understand`, and its status is not understood (RFC 9111 §5.2.2.3).
    MustUnderstand,
    /// It does not answer GET.
    Method,
    /// It was invalidated while it was under way.
    Voided,
    /// The configuration that shaped it was replaced while it was under way.
    Superseded,
    /// It is larger than an entry may be.
    TooLarge,
    /// The cache is switched off.
    SwitchedOff,
    /// The token that paid for it has ended, by its own word.
    TokenEnded,
}

impl NotStored {
    /// Every reason, in the order of the metric's label values.
    pub const ALL: &[Self] = &[
        Self::NoStore,
        Self::Private,
        Self::Status,
        Self::NoFreshness,
        Self::VaryStar,
        Self::Authorization,
        Self::SetCookie,
        Self::Partial,
        Self::RequestNoStore,
        Self::MustUnderstand,
        Self::Method,
        Self::Voided,
        Self::Superseded,
        Self::TooLarge,
        Self::SwitchedOff,
        Self::TokenEnded,
    ];

    /// A stable name, for labels and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoStore => "no_store",
            Self::Private => "private",
            Self::Status => "status",
            Self::NoFreshness => "no_freshness",
            Self::VaryStar => "vary_star",
            Self::Authorization => "authorization",
            Self::SetCookie => "set_cookie",
            Self::Partial => "partial",
            Self::RequestNoStore => "request_no_store",
            Self::MustUnderstand => "must_understand",
            Self::Method => "method",
            Self::Voided => "voided",
            Self::Superseded => "superseded",
            Self::TooLarge => "too_large",
            Self::SwitchedOff => "switched_off",
            Self::TokenEnded => "token_ended",
        }
    }

    /// Whether the answer may be meant for nobody but who asked: others must ask for themselves.
    pub fn is_for_its_asker_alone(self) -> bool {
        match self {
            Self::NoStore
            | Self::Private
            | Self::VaryStar
            | Self::Authorization
            | Self::SetCookie
            | Self::Partial
            | Self::RequestNoStore
            | Self::MustUnderstand
            | Self::Method => true,
            Self::Status
            | Self::NoFreshness
            | Self::Voided
            | Self::Superseded
            | Self::TooLarge
            | Self::SwitchedOff
            | Self::TokenEnded => false,
        }
    }

    /// Whether it says something of this request alone, and nothing of what may be stored already.
    pub fn is_of_the_request(self) -> bool {
        match self {
            Self::Authorization
            | Self::Partial
            | Self::RequestNoStore
            | Self::Method
            | Self::Voided
            | Self::Superseded => true,
            Self::NoStore
            | Self::Private
            | Self::Status
            | Self::NoFreshness
            | Self::VaryStar
            | Self::SetCookie
            | Self::MustUnderstand
            | Self::TooLarge
            | Self::SwitchedOff
            | Self::TokenEnded => false,
        }
    }

    /// Whether the upstream's own fields prevent storing: worth a word to the operator.
    pub fn is_by_upstream(self) -> bool {
        match self {
            Self::NoStore
            | Self::Private
            | Self::NoFreshness
            | Self::VaryStar
            | Self::Authorization
            | Self::SetCookie
            | Self::MustUnderstand => true,
            Self::Status
            | Self::Partial
            | Self::RequestNoStore
            | Self::Method
            | Self::Voided
            | Self::Superseded
            | Self::TooLarge
            | Self::SwitchedOff
            | Self::TokenEnded => false,
        }
    }
}

/// Whether the response to this request may be stored (RFC 9111 §3), and the life it then has.
///
/// After a 304 it is asked again, with the status of the stored response and the merged fields.
///
/// # Errors
/// The first reason that bars it.
pub fn judge(
    rules: &Rules,
    method: &Method,
    request: &HeaderMap,
    status: StatusCode,
    response: &HeaderMap,
    times: &Times,
) -> Result<Life, NotStored> {
    if method != Method::GET {
        return Err(NotStored::Method);
    }
    status_allows(rules, status)?;
    if rules.request_directives && CacheControl::of(request).no_store {
        return Err(NotStored::RequestNoStore);
    }
    let control = CacheControl::of_response(response, &rules.targets);
    directives_allow(rules, &control, status)?;
    if rules.partition == Partition::Shared {
        sharing_allowed(&control, request)?;
    }
    // On a private partition `Vary` matches, since we make the requests; but nothing matches `*`.
    let matchable = match rules.partition {
        Partition::Private => !members(response, &VARY).any(|name| name == b"*"),
        Partition::Shared => Variant::of(response, request).is_some(),
    };
    if !matchable {
        return Err(NotStored::VaryStar);
    }
    let mut life = Life::of(rules, &control, status, response, times);
    // RFC 9111 §7.3: a cookie does not keep an answer from being stored. But an upstream that granted no
    // lifetime did not say that it is for all either.
    if rules.partition == Partition::Shared
        && !(rules.store_set_cookie && life.explicit)
        && sets_cookie(rules, &control, response)
    {
        return Err(NotStored::SetCookie);
    }
    if !life.explicit && life.lifetime.is_zero() && !may_lack_freshness(&control, status) {
        return Err(NotStored::NoFreshness);
    }
    if Validators::of(response).any() {
        life.keep = rules.keep;
    }
    if life.initial_age >= life.last_use() {
        return Err(NotStored::NoFreshness);
    }
    Ok(life)
}

/// Which of the fields `shown` may be stored: all but the hop-by-hop ones (RFC 9111 §3.1), those that
/// `no-cache` names (RFC 9111 §5.2.2.4) and, on a shared partition, those that `private` names
/// (RFC 9111 §5.2.2.7). The whole `response` says which those are, also in a targeted field that is
/// not shown. Repeated fields stay repeated, in order.
pub fn fields_to_store(rules: &Rules, response: &HeaderMap, shown: &HeaderMap) -> HeaderMap {
    let control = CacheControl::of_response(response, &rules.targets);
    let mut stored = shown.clone();
    remove_hop_by_hop(&mut stored);
    for name in withheld(rules, &control) {
        stored.remove(name);
    }
    stored
}

/// Removes what concerns one connection or one proxy only (RFC 9110 §7.6.1, RFC 9111 §3.1).
pub(super) fn remove_hop_by_hop(fields: &mut HeaderMap) {
    let named: Vec<HeaderName> = members(fields, &CONNECTION)
        .filter_map(|member| HeaderName::from_bytes(member).ok())
        // Not obeyed: it could take a `no-store` away.
        .filter(|name| *name != CACHE_CONTROL)
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        fields.remove(name);
    }
}

/// Statuses whose definition lets a cache take a heuristic lifetime (RFC 9110 §15.1), without the errors
/// among them: one without explicit freshness is stored only by a negative TTL, for it may be gone in a
/// moment. A part (206) is not stored at all.
pub(super) fn stores_without_explicit_freshness(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308)
}

/// The fields that must not be given to later requests.
fn withheld<'a>(rules: &Rules, control: &'a CacheControl) -> impl Iterator<Item = &'a HeaderName> {
    let private = match rules.partition {
        Partition::Shared => control.private.fields(),
        Partition::Private => &[],
    };
    control.no_cache.fields().iter().chain(private)
}

fn status_allows(rules: &Rules, status: StatusCode) -> Result<(), NotStored> {
    let stored = match (rules.partition, status.as_u16()) {
        (_, 206) => return Err(NotStored::Partial),
        (Partition::Private, 404) => rules.negative_ttl.is_some(),
        (Partition::Private, code) => code == 200,
        // A 304, 412 or 416 answers the request's conditions or range, not the target alone.
        (Partition::Shared, 100..=199 | 304 | 412 | 416 | 428 | 429 | 431 | 511) => false,
        (Partition::Shared, _) => true,
    };
    if stored { Ok(()) } else { Err(NotStored::Status) }
}

fn directives_allow(
    rules: &Rules,
    control: &CacheControl,
    status: StatusCode,
) -> Result<(), NotStored> {
    if control.must_understand {
        // RFC 9111 §5.2.2.3: with a status that is understood, `no-store` beside it is not meant
        // for us.
        return if is_understood(status) { Ok(()) } else { Err(NotStored::MustUnderstand) };
    }
    if control.no_store && !rules.store_no_store {
        return Err(NotStored::NoStore);
    }
    Ok(())
}

/// What only a shared cache has to ask.
fn sharing_allowed(control: &CacheControl, request: &HeaderMap) -> Result<(), NotStored> {
    if control.private == Scope::Whole {
        return Err(NotStored::Private);
    }
    // RFC 9111 §3.5.
    let shareable = control.public || control.must_revalidate || control.s_maxage.is_some();
    if request.contains_key(AUTHORIZATION) && !shareable {
        return Err(NotStored::Authorization);
    }
    Ok(())
}

/// Whether it gives a cookie to whoever reads it.
fn sets_cookie(rules: &Rules, control: &CacheControl, response: &HeaderMap) -> bool {
    response.contains_key(SET_COOKIE) && !withheld(rules, control).any(|name| name == SET_COOKIE)
}

/// Whether a response without explicit freshness may be kept, by a heuristic lifetime (RFC 9111 §4.2.2) or
/// to be revalidated (RFC 9111 §3, last item).
pub(super) fn may_lack_freshness(control: &CacheControl, status: StatusCode) -> bool {
    stores_without_explicit_freshness(status) || (control.public && status.as_u16() < 400)
}

/// Final statuses of RFC 9110 whose caching requirements are kept here.
fn is_understood(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200..=205 | 300..=303 | 305 | 307 | 308
            | 400..=411 | 413..=415 | 417 | 421 | 422 | 426
            | 500..=505
    )
}
