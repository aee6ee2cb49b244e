//! [`Portless`]: the whole gateway without a socket, for simulated networks and fuzzers.
//!
//! *Invariants*
//! 1. What it is given goes the way of an accepted connection: the same listener, handler and gateway.
//! 2. It opens nothing: no port, no operators' port, no thread. Connections to upstreams are dialled by
//!    whoever made it.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::caller::Callers;
use crate::clock::{Clock, Dice};
use crate::config::Config;
use crate::gateway::{Current, Gateway, Ground};
use crate::listener;
use crate::server::{self, Door, Setting, StartError};
use crate::shutdown::{Phase, Shutdown};
use crate::telemetry::Telemetry;
use crate::upstream::{self, Dial, Upstreams};

/// A gateway whose connections are brought to it; clones share it.
#[derive(Clone)]
pub struct Portless {
    gateway: Current,
    telemetry: Arc<Telemetry>,
    config: Arc<Config>,
    callers: Callers,
    clock: Clock,
    dice: Dice,
    shutdown: Shutdown,
    door: Door,
}

impl Portless {
    /// The gateway of a valid configuration; addresses and numbers of connections in it mean nothing here.
    ///
    /// # Errors
    /// What can't be read or set up.
    pub fn new(config: &Config, setting: Setting, dial: Dial) -> Result<Self, StartError> {
        let callers = server::callers(config)?;
        let telemetry = Arc::new(server::telemetry(config, &callers, &setting)?);
        let Setting { clock, dice, .. } = setting;
        Self::with(Arc::new(config.clone()), callers, telemetry, clock, dice, dial)
    }

    /// Another gateway of the same configuration, which remembers nothing of what this one saw. The two share
    /// their clock and their telemetry: making that is most of the price of a gateway.
    ///
    /// # Errors
    /// As at [`new`](Self::new).
    pub fn afresh(&self, dice: Dice, dial: Dial) -> Result<Self, StartError> {
        let (config, telemetry) = (Arc::clone(&self.config), Arc::clone(&self.telemetry));
        Self::with(config, self.callers.clone(), telemetry, self.clock.clone(), dice, dial)
    }

    fn with(
        config: Arc<Config>,
        callers: Callers,
        telemetry: Arc<Telemetry>,
        clock: Clock,
        dice: Dice,
        dial: Dial,
    ) -> Result<Self, StartError> {
        let shutdown = Shutdown::new();
        let of_upstreams = upstream::Ground {
            callers: config.limits.keys,
            clock: clock.clone(),
            dice: dice.clone(),
            dial: Some(dial),
        };
        let upstreams = Upstreams::new(&config.upstream, &config.upstreams, of_upstreams)?;
        let ground = Ground {
            callers: callers.clone(),
            upstreams: Arc::new(upstreams),
            telemetry: Arc::clone(&telemetry),
            clock: clock.clone(),
            dice: dice.clone(),
            shutdown: shutdown.clone(),
        };
        let gateway = Current::new(Gateway::new(&config, ground));
        let door = Door::new(gateway.clone(), Arc::clone(&telemetry), clock.clone());
        Ok(Self { gateway, telemetry, config, callers, clock, dice, shutdown, door })
    }

    /// Serves one connection of `peer` to its end.
    pub async fn serve<S>(&self, stream: S, peer: SocketAddr)
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let _tracked = self.shutdown.track();
        let (clock, dice) = (self.clock.clone(), self.dice.clone());
        let (shutdown, door) = (self.shutdown.clone(), self.door.clone());
        listener::serve_one(stream, peer, &self.config.listen, clock, dice, shutdown, door).await;
    }

    /// The gateway itself.
    pub fn gateway(&self) -> &Current {
        &self.gateway
    }

    /// Its metrics and logs.
    pub fn telemetry(&self) -> &Arc<Telemetry> {
        &self.telemetry
    }

    /// Drains: returns when no connection and no work in the background is left. The caller bounds it.
    pub async fn leave(&self) {
        self.shutdown.enter(Phase::Draining);
        self.shutdown.idle().await;
    }
}
