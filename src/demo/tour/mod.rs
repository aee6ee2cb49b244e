//! The tour: each step makes real requests and shows what came back.
//!
//! *Invariant:* every number and word of a reply is the reply's own; what a step claims is checked
//! against it, and a claim that fails is printed as such.
//!
//! Here is what all steps share; the steps themselves are in [`steps`].

use std::io::Write;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use http::StatusCode;

use super::DemoError;
use super::client::{Ask, Client, Seen};
use super::page::{Page, time};
use super::sample::{Sample, unit_id};
use crate::listener;

mod keys;
mod steps;

/// Where everything listens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addresses {
    pub(super) gateway: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) sample: SocketAddr,
}

/// A tour under way.
pub(super) struct Tour<'a, W> {
    page: Page<'a, W>,
    client: Client,
    sample: Sample,
    addresses: Addresses,
    /// Requests made to the sample past the gateway.
    direct: u64,
    /// How many ask at once for one cold unit.
    crowd: usize,
}

impl<'a, W: Write> Tour<'a, W> {
    /// A tour that has not begun.
    pub(super) fn new(
        page: Page<'a, W>,
        client: Client,
        sample: Sample,
        addresses: Addresses,
    ) -> Self {
        Self { page, client, sample, addresses, direct: 0, crowd: crowd() }
    }

    /// Shows everything; returns how many checks failed.
    pub(super) async fn give(&mut self, latency: Duration) -> Result<u32, DemoError> {
        self.open(latency)?;
        let first = self.miss().await?;
        self.hit(&first).await?;
        self.coalesced().await?;
        self.masked().await?;
        self.not_modified(&first).await?;
        self.partitioned().await?;
        self.write(&first).await?;
        self.limited().await?;
        self.revoked().await?;
        self.stale().await?;
        self.metrics().await?;
        let (checks, unexpected) = (self.page.checks(), self.page.unexpected());
        self.page.line(&format!("\n{checks} checks of these replies, {unexpected} failed."))?;
        self.page.flush()?;
        Ok(unexpected)
    }

    fn open(&mut self, latency: Duration) -> Result<(), DemoError> {
        let Addresses { gateway, admin, sample } = self.addresses;
        let units = self.sample.units();
        let (first, last) = (unit_id(0), unit_id(units.saturating_sub(1)));
        let latency = time(latency);
        for line in [
            "unitgate DEMO: a sample upstream with the gateway in front of it, all on loopback.",
            "",
            &format!("    gateway          http://{gateway}"),
            &format!("    operators' port  http://{admin}/metrics"),
            &format!(
                "    sample upstream  http://{sample}   {units} units, {first} to {last}; {latency} an answer"
            ),
            "",
            "Each $ line can be pasted into a shell. Below it stands what the real reply said: status, time,",
            "the sample's own count of requests before→after, and Cache-Status as received. Answers stay in",
            "memory for about a minute: another unit is a miss again, and so is any other token.",
        ] {
            self.page.line(line)?;
        }
        Ok(())
    }

    /// The last words, for those who stay.
    pub(super) fn part(&mut self) -> Result<(), DemoError> {
        let sample = self.addresses.sample;
        for line in [
            "DEMO stays up until Ctrl-C. Paste any $ line again, with other units and tokens, or turn the",
            &format!("sample's knobs by POST to http://{sample}/demo/ and one of these:"),
            "    revoke/TOKEN   accept/TOKEN   outage/on   outage/off",
        ] {
            self.page.line(line)?;
        }
        Ok(self.page.flush()?)
    }

    /// Turns a knob of the sample.
    async fn turn(&mut self, knob: &str) -> Result<(), DemoError> {
        let ask = Ask::post(format!("http://{}/demo/{knob}", self.addresses.sample), None);
        self.page.command(&ask.curl())?;
        let done = self.client.send(ask).await?;
        Ok(self.page.check(is_ok(&done), "the sample does as it is told")?)
    }

    /// Makes a request, and prints it and its reply.
    async fn show(&mut self, ask: Ask) -> Result<Seen, DemoError> {
        self.page.command(&ask.curl())?;
        let before = self.sample.requests();
        let mut seen = self.client.send(ask).await?;
        seen.upstream = before..self.sample.requests();
        self.page.reply(&seen)?;
        self.page.flush()?;
        Ok(seen)
    }

    /// Makes many requests at once; also tells what they cost upstream, and how long the slowest took.
    async fn burst(
        &self,
        ask: &Ask,
        times: usize,
    ) -> Result<(Vec<Seen>, Range<u64>, Duration), DemoError> {
        let before = self.sample.requests();
        let all = self.client.burst(ask, times).await?;
        let took = all.iter().map(|seen| seen.took).max().unwrap_or_default();
        Ok((all, before..self.sample.requests(), took))
    }

    fn unit(&self, number: usize) -> Ask {
        self.at(&format!("{LIST}{}", unit_id(number - 1)))
    }

    fn at(&self, path: &str) -> Ask {
        Ask::get(format!("http://{}{path}", self.addresses.gateway))
    }
}

/// As many as open files allow: each holds both ends of a connection, and the sample's are extra.
fn crowd() -> usize {
    let (places, _lowered) = listener::connection_cap(MOST_CROWD * 3);
    (places / 3).clamp(2, MOST_CROWD)
}

/// Whether the status is 200.
fn is_ok(seen: &Seen) -> bool {
    seen.status == StatusCode::OK
}

/// Asked at once for one cold unit.
const MOST_CROWD: usize = 200;

/// The route whose limit the demo lowers.
pub(super) const LIMITED_ROUTE: &str = "integration";

const ALL: &str = "/api/v1/calcom/integration";
const LIST: &str = "/api/v1/calcom/integration/unit/";
