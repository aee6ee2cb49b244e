//! What a service manager is told: ready, reloading, stopping, alive (`sd_notify(3)`).
//!
//! *Invariants*
//! 1. Without `NOTIFY_SOCKET` nothing is told and nothing fails.
//! 2. `WATCHDOG=1` is told only after every worker has turned since the last time.
//!
//! *Why not a crate:* it is one datagram; what there is reads the environment at each call.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::{interval, timeout};

/// The way to the service manager, if there is one.
#[derive(Debug, Default)]
pub struct Notifier(Option<(UnixDatagram, SocketAddr)>);

impl Notifier {
    /// The service manager that started this process, by `NOTIFY_SOCKET`.
    ///
    /// # Errors
    /// There is such a variable, and it names no socket.
    pub fn from_env() -> io::Result<Self> {
        match std::env::var_os("NOTIFY_SOCKET") {
            Some(address) if !address.is_empty() => Self::to(&address),
            _ => Ok(Self::default()),
        }
    }

    /// The one at `address`: a path, or a name in the abstract space after `@`.
    ///
    /// # Errors
    /// That is no address of a unix socket.
    pub fn to(address: &OsStr) -> io::Result<Self> {
        let address = match address.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(address)?,
        };
        let socket = UnixDatagram::unbound()?;
        // A manager that does not read must not hold us up.
        socket.set_write_timeout(Some(Duration::from_secs(1)))?;
        Ok(Self(Some((socket, address))))
    }

    /// Serving, for the first time or again; `status` is what `systemctl status` shows.
    pub fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    /// Serving in place of the process that was the service's main one so far.
    pub fn took_over(&self, status: &str) {
        let pid = std::process::id();
        self.tell(&format!("READY=1\nMAINPID={pid}\nSTATUS={}", one_line(status)));
    }

    /// A reload begins; [`ready`](Self::ready) ends it, whether it succeeded or not.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}\nSTATUS=Reloading"));
    }

    /// On the way out.
    pub fn stopping(&self, status: &str) {
        self.tell(&format!("STOPPING=1\nSTATUS={}", one_line(status)));
    }

    /// Still turning.
    fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    /// Nothing is left to do where the manager does not listen.
    fn tell(&self, words: &str) {
        if let Some((socket, address)) = &self.0 {
            socket.send_to_addr(words.as_bytes(), address).ok();
        }
    }
}

/// How often the service manager wants to hear that the process is alive, if it does: `usec` is
/// `WATCHDOG_USEC`, `pid` is `WATCHDOG_PID`, for whom it is meant.
pub fn watchdog_period(usec: Option<&str>, pid: Option<&str>) -> Option<Duration> {
    let ours = pid.is_none_or(|pid| pid.parse() == Ok(std::process::id()));
    let micros = usec?.parse().ok().filter(|micros| *micros > 0 && ours)?;
    Some(Duration::from_micros(micros))
}

/// Tells at each half of `period` that the process is alive, as long as `beat` resolves within one.
pub async fn feed_watchdog(
    notifier: &Notifier,
    period: Option<Duration>,
    beat: impl AsyncFn(),
) -> Infallible {
    let Some(half) = period.map(|period| period / 2) else {
        return std::future::pending().await;
    };
    let mut ticks = interval(half.max(LEAST));
    loop {
        ticks.tick().await;
        if timeout(half, beat()).await.is_ok() {
            notifier.alive();
        }
    }
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// Shortest time between two signs of life.
const LEAST: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn manager() -> (tempfile::TempDir, UnixDatagram, Notifier) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let notifier = Notifier::to(path.as_os_str()).unwrap();
        (folder, socket, notifier)
    }

    fn heard(socket: &UnixDatagram) -> Option<String> {
        let mut words = [0; 512];
        let length = socket.recv(&mut words).ok()?;
        Some(String::from_utf8(words[..length].to_vec()).unwrap())
    }

    #[test]
    fn each_state_is_one_datagram_and_a_status_is_one_line() {
        let (_folder, socket, notifier) = manager();
        notifier.ready("serving\nREADY=0");
        assert_eq!(heard(&socket).unwrap(), "READY=1\nSTATUS=serving READY=0");
        notifier.took_over("serving");
        let pid = std::process::id();
        assert_eq!(heard(&socket).unwrap(), format!("READY=1\nMAINPID={pid}\nSTATUS=serving"));
        notifier.reloading();
        let told = heard(&socket).unwrap();
        let usec = told.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap();
        assert!(told.starts_with("RELOADING=1\n") && usec.parse::<u64>().unwrap() > 0, "{told}");
        notifier.stopping("leaving");
        assert_eq!(heard(&socket).unwrap(), "STOPPING=1\nSTATUS=leaving");
        drop(socket);
        notifier.ready("to nobody");
        Notifier::default().ready("to nobody");
    }

    #[test]
    fn a_watchdog_counts_only_if_it_is_meant_for_us() {
        let us = std::process::id().to_string();
        let second = Some(Duration::from_secs(1));
        assert_eq!(watchdog_period(Some("1000000"), Some(&us)), second);
        assert_eq!(watchdog_period(Some("1000000"), None), second);
        assert_eq!(watchdog_period(Some("1000000"), Some("1")), None);
        for no in [None, Some("0"), Some("soon")] {
            assert_eq!(watchdog_period(no, None), None, "{no:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_alive_only_while_the_workers_turn() {
        let (_folder, socket, notifier) = manager();
        let fed = |seconds, turns: bool| {
            let (notifier, socket) = (&notifier, &socket);
            async move {
                let beat = async || {
                    if !turns {
                        std::future::pending::<()>().await;
                    }
                };
                let feeding = feed_watchdog(notifier, Some(Duration::from_secs(10)), beat);
                timeout(Duration::from_secs(seconds), feeding).await.unwrap_err();
                std::iter::from_fn(|| heard(socket)).filter(|word| word == "WATCHDOG=1").count()
            }
        };
        assert_eq!(fed(29, true).await, 6);
        assert_eq!(fed(29, false).await, 0);
    }
}
