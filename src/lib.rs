//! `unitgate`: a caching, masking, rate-limiting reverse proxy in front of the Cal.com integration API.
//!
//! ```text
//!             ┌────────────────────────── gateway::respond ──────────────────────────┐
//!  client ──► │ limit ─► route ─► caller ─► limit ─► cache ──hit──────────────► reply │ ──► client
//!   listener  │  429      404      401       429       │ miss                   ▲     │
//!             │           405                          ▼                        │     │
//!             │           400                       flight ─► upstream ─► mask ─┤     │
//!             │                                    (one per key)  502/504    502 ▼     │
//!             │                                                              cache    │
//!             └──────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! The tour, in reading order:
//!
//! 1. [`gateway`]: the path of a request; every other module is one stage of it.
//! 2. [`route`]: method and target → route ([`mod@unit`]: what its ids may be; [`alphabet`]: of what they and tokens are made; [`fields`]: rules of any message, [`numbered`]: values that numbers stand for); [`caller`]: token → digest; [`limit`]: who may ask how often.
//! 3. [`mask`]: the only maker of bytes that may be stored or sent.
//! 4. [`cache`]: keys, stored answers, generations, flights; [`cache::policy`] is RFC 9111 as pure functions.
//! 5. [`upstream`]: one exchange, its deadlines and caps, and in `guard` whether it is begun; [`error`]: every refusal in one table.
//! 6. [`telemetry`] and [`admin`]: what operators see; [`listener`]: connections; [`config`]: what they decide.
//! 7. [`server`] puts them together, [`portless`] does so without sockets, [`reload`] changes them under traffic; [`clock`], [`wake`], [`socket`] and [`shutdown`]: time, chance, waiting, writing, and the way to the end; [`handover`] and [`systemd`]: the process before and after this one, and who starts it; [`machine`]: what there is room for; [`demo`]: a tour with real requests.

pub mod admin;
pub mod alphabet;
pub mod cache;
pub mod caller;
pub mod clock;
pub mod config;
pub mod demo;
pub mod error;
pub mod fields;
pub mod gateway;
pub mod handover;
pub mod limit;
pub mod listener;
pub mod machine;
pub mod mask;
pub mod numbered;
pub mod portless;
pub mod reload;
pub mod route;
pub mod server;
pub mod shutdown;
pub mod socket;
pub mod systemd;
pub mod telemetry;
pub mod unit;
pub mod upstream;
pub mod wake;
