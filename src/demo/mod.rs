//! `unitgate demo`: a sample upstream, the real gateway in front of it, and a tour of what it does.
//!
//! *Invariants*
//! 1. Everything listens and asks on loopback, on free ports; no configuration and no variable is read.
//! 2. What is printed of a reply was taken from it, and what is said of the upstream is its own count.
//!    A step that does not show what it should says so and fails the demo.
//! 3. No key is printed, not even a sample's.
//!
//! *Where things are:* `sample` is the upstream, `client` asks, `tour` is the story, `page` prints it.

use std::future::Future;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use http::Uri;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::clock::{Clock, Dice};
use crate::config::{AccessLog, Config, Rate};
use crate::listener::{self, BindError, Given, Ground, Places, Workers};
use crate::server::{Server, Setting, StartError};
use crate::shutdown::{Phase, Shutdown};
use crate::telemetry::Lines;

use client::Client;
use page::Page;
use sample::Sample;
use tour::{Addresses, Tour};

mod client;
mod page;
mod sample;
#[cfg(test)]
mod tests;
mod tour;

/// What `unitgate demo` takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How long the sample upstream takes for an answer: "50ms", "1s"; at most 5s.
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = latency)]
    pub latency: Duration,
    /// How many units the sample upstream has.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(10..=9_999))]
    pub units: u16,
    /// Ends after the tour instead of staying up; the exit code tells whether all went as it should.
    #[arg(long)]
    pub once: bool,
}

/// Gives the demo on `out`: the tour first, then whatever its readers try, until `until`.
///
/// # Errors
/// What can't be started, asked or printed; and a tour that did not show what it should.
pub async fn run<W: Write>(
    options: &Options,
    out: &mut W,
    until: impl Future<Output = ()>,
) -> Result<(), DemoError> {
    let mut until = pin!(until);
    let stage = Stage::open(options)?;
    let mut tour = Tour::new(Page::new(out), Client::new(), stage.sample.clone(), stage.addresses);
    let given = tokio::select! {
        given = tour.give(options.latency) => given,
        // Interrupted: what was not shown can't have gone wrong.
        () = until.as_mut() => return stage.leave(Ok(0)).await,
    };
    if given.is_ok() && !options.once {
        tour.part()?;
        until.await;
    }
    drop(tour);
    stage.leave(given).await
}

/// Why a demo did not go as it should.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The words can't be written.
    #[error("the demo can't be printed")]
    Print(#[from] io::Error),
    /// The sample upstream can't listen.
    #[error("the sample upstream can't be started")]
    Sample(#[from] BindError),
    /// The machine refuses what the demo needs.
    #[error("the demo can't be started")]
    Machine(#[source] io::Error),
    /// The gateway can't start.
    #[error("the demo's gateway can't be started")]
    Gateway(#[from] StartError),
    /// A request of the tour got no reply.
    #[error("no reply from {url}: {why}")]
    Silent {
        /// What was asked.
        url: String,
        /// What went wrong.
        why: String,
    },
    /// Some of what was shown is not as it should be.
    #[error("{0} of the things shown are not as they should be: see UNEXPECTED above")]
    Unexpected(u32),
}

/// The two servers of a demo.
struct Stage {
    sample: Sample,
    serving: JoinHandle<io::Result<()>>,
    shutdown: Shutdown,
    server: Server,
    addresses: Addresses,
}

impl Stage {
    fn open(options: &Options) -> Result<Self, DemoError> {
        let clock = Clock::real();
        let shutdown = Shutdown::new();
        let sample = Sample::new(options.units, options.latency);
        let sockets = listener::bind(&[ANY_PORT], false)?;
        let address = only(sockets.first().map(std::net::TcpListener::local_addr))?;
        let listen = Config::default().listen;
        let ground = Ground {
            places: Places::new(listen.connections),
            workers: Workers::here(),
            tls: None,
            clock: clock.clone(),
            dice: Dice::seeded(2),
            shutdown: shutdown.clone(),
        };
        let (handler, listen) = (sample.clone(), watch::Sender::new(listen).subscribe());
        let serving =
            shutdown.spawn(async move { listener::serve(sockets, listen, ground, handler).await });
        // The log goes nowhere: what there is to see stands on the page.
        let lines = Lines::to(io::sink()).map_err(DemoError::Machine)?;
        // Chance without entropy is enough here: it makes request ids and jitter, no secrets.
        let (dice, workers) = (Dice::seeded(1), Workers::here());
        let setting = Setting { lines, clock, dice, workers, given: Given::default() };
        let server = Server::start(&config(address), setting)?;
        let addresses = Addresses {
            gateway: only(server.addresses().first().copied().map(Ok))?,
            admin: only(server.admin_address().map(Ok))?,
            sample: address,
        };
        Ok(Self { sample, serving, shutdown, server, addresses })
    }

    /// Ends both in order; what the tour found is the result.
    async fn leave(self, given: Result<u32, DemoError>) -> Result<(), DemoError> {
        self.server.leave().await;
        self.shutdown.enter(Phase::Draining);
        // Whoever still asks the sample is not waited for.
        drop(timeout(PATIENCE, self.serving).await);
        match given? {
            0 => Ok(()),
            unexpected => Err(DemoError::Unexpected(unexpected)),
        }
    }
}

/// The shipped configuration, on loopback and with the sample as its upstreams.
fn config(sample: SocketAddr) -> Config {
    let mut config = Config::default();
    config.listen.address = vec![ANY_PORT];
    config.admin.address = Some(ANY_PORT);
    config.log.access = AccessLog::Off;
    let url: Uri = format!("http://{sample}").parse().expect("a socket address is an authority");
    for upstream in config.upstreams.values_mut() {
        upstream.url = url.clone();
    }
    for route in &mut config.routes {
        if route.name == tour::LIMITED_ROUTE {
            route.rate = Some(LOW_RATE);
        }
    }
    config
}

fn only(address: Option<io::Result<SocketAddr>>) -> Result<SocketAddr, DemoError> {
    let none = || Err(io::Error::from(io::ErrorKind::AddrNotAvailable));
    address.unwrap_or_else(none).map_err(DemoError::Machine)
}

/// `50ms` or `1s`, up to what the gateway waits for.
fn latency(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
    let number = number.parse().map_err(|_not_a_number| HOW_LATENCY.to_owned())?;
    let latency = match unit {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        _ => return Err(HOW_LATENCY.to_owned()),
    };
    if latency > MOST_LATENCY { Err(HOW_LATENCY.to_owned()) } else { Ok(latency) }
}

const HOW_LATENCY: &str = "write a whole number and its unit, such as 50ms or 1s; at most 5s";

/// Safely below the gateway's deadlines.
const MOST_LATENCY: Duration = Duration::from_secs(5);

/// A free port of loopback.
const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// On one route, so that its limit is soon reached and nobody is in the way of the others.
const LOW_RATE: Rate = Rate { per_second: 5, burst: 10 };

/// Longest wait for the sample's last connections.
const PATIENCE: Duration = Duration::from_secs(2);
