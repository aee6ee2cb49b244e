//! The whole gateway on real sockets: each module opens with the claims it proves.
//!
//! `support` holds the language they are written in. A new topic is a file beside this one and a line
//! below.
#![cfg(test)]
#![expect(clippy::float_cmp, reason = "counts are whole numbers, and compared as such")]

mod support;

mod admin;
mod cache_status;
mod coalescing;
mod config;
mod descriptors;
mod drain;
mod framing;
mod guard;
mod handover;
mod hits;
mod house;
mod interim;
mod intermediary;
mod isolation;
mod logs;
mod masking;
mod methods;
mod metrics;
mod model;
mod open_conditions;
mod open_freshness;
mod open_invalidation;
mod open_sharing;
mod open_stale;
mod open_storing;
mod open_validation;
mod open_variants;
mod properties;
mod protocol;
mod purge;
mod purge_access;
mod refusals;
mod reload;
mod reload_access;
mod shared;
mod stale;
mod systemd;
mod targeted;
mod throttling;
mod transport;
mod types;
mod upstream_failures;
mod writes;
