//! [`Portless`]: the whole gateway without a socket, for simulated networks and fuzzers.
//!
//! *Invariants*
//! 1. What it is given goes the way of an accepted connection: the same listener, handler and gateway.
//! 2. It opens nothing: no port, no operators' port, no thread. Connections to upstreams are dialled by
//!    whoever made it.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::clock::{Clock, Dice};
use crate::config::{self, Config};
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
    listen: config::Listen,
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
        let shutdown = Shutdown::new();
        let callers = server::callers(config)?;
        let telemetry = Arc::new(server::telemetry(config, &callers, &setting)?);
        let Setting { clock, dice, .. } = setting;
        let ground = upstream::Ground {
            callers: config.limits.keys,
            clock: clock.clone(),
            dice: dice.clone(),
            dial: Some(dial),
        };
        let upstreams = Upstreams::new(&config.upstream, &config.upstreams, ground)?;
        let gateway = Gateway::new(
            config,
            Ground {
                callers,
                upstreams: Arc::new(upstreams),
                telemetry: Arc::clone(&telemetry),
                clock: clock.clone(),
                dice: dice.clone(),
                shutdown: shutdown.clone(),
            },
        );
        let gateway = Current::new(gateway);
        let door = Door::new(gateway.clone(), Arc::clone(&telemetry), clock.clone());
        Ok(Self { gateway, telemetry, listen: config.listen.clone(), clock, dice, shutdown, door })
    }

    /// Serves one connection of `peer` to its end.
    pub async fn serve<S>(&self, stream: S, peer: SocketAddr)
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let _tracked = self.shutdown.track();
        let (clock, dice) = (self.clock.clone(), self.dice.clone());
        let (shutdown, door) = (self.shutdown.clone(), self.door.clone());
        listener::serve_one(stream, peer, &self.listen, clock, dice, shutdown, door).await;
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
