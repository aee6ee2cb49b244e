//! [`Asked`]: a request that has found its route, with what is to be known of it on its way.

use std::borrow::Cow;

use http::{HeaderMap, Method};

use super::account::Account;
use super::inbound::{Inbound, Payload};
use super::plan::Plan;
use crate::cache::stored::{KeyRef, Owner};
use crate::caller::Caller;
use crate::route::Match;

/// A request that has found its route.
pub(super) struct Asked<'a, 't, B> {
    pub(super) inbound: &'a Inbound<'a, B>,
    pub(super) matched: Match<'a>,
    pub(super) plan: &'a Plan,
    pub(super) account: &'a mut Account<'t>,
}

impl<'a, B> Asked<'a, '_, B> {
    /// What it is filed under.
    pub(super) fn key(&self, caller: Option<&Caller<'_>>) -> KeyRef<'a> {
        KeyRef {
            owner: caller.map_or(Owner::Open, |caller| Owner::Caller(caller.id)),
            route: self.matched.route.id,
            target: self.matched.target,
        }
    }

    /// The fields that may select an answer; where we make the request ourselves, none does.
    pub(super) fn selecting(&self) -> Cow<'a, HeaderMap> {
        if self.matched.route.wants_token() {
            Cow::Borrowed(self.inbound.fields())
        } else {
            self.inbound.selecting()
        }
    }

    pub(super) fn method(&self) -> &Method {
        self.inbound.method()
    }

    /// Whether it is a HEAD that can't be answered by a GET for everybody: what it brings is no answer
    /// to a GET, and on an open route the GET may be much larger.
    pub(super) fn goes_as_head(&self) -> bool {
        *self.method() == Method::HEAD && !self.matched.route.wants_token()
    }
}

impl<B: Payload> Asked<'_, '_, B> {
    /// Whether it is looked up. Where everything crosses, so does a read's content, which means
    /// something to its upstream alone (RFC 9110 §9.3.1).
    pub(super) fn may_be_cached(&self) -> bool {
        let route = self.matched.route;
        let plain = !route.forwards_all() || !self.inbound.leaves_body();
        self.inbound.is_safe_read() && route.cache().is_some() && plain
    }
}
