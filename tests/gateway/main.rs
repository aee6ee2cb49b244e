//! The whole gateway on real sockets: each module opens with the claims it proves.
//!
//! `support` holds the language they are written in. A new topic is a file beside this one and a line
//! below.
#![cfg(test)]

mod support;

mod coalescing;
mod hits;
mod isolation;
mod masking;
mod stale;
mod throttling;
mod writes;
