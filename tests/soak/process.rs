//! The binary under test: its start, its memory and descriptors, its end.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use tempfile::TempDir;

use crate::load::holds_a_secret;

/// What it holds at a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Bytes of resident memory.
    pub(crate) memory: u64,
    pub(crate) descriptors: u64,
}

/// A running `unitgate`. It is killed when it is dropped before its [`end`](Unitgate::end).
pub(crate) struct Unitgate {
    child: Child,
    address: SocketAddr,
    admin: SocketAddr,
    /// Reads its log; ends with the lines that held a secret.
    log: JoinHandle<Vec<String>>,
    _directory: TempDir,
}

impl Unitgate {
    /// Starts it in front of `upstream`, with deadlines and windows so short that a phase sees them all.
    pub(crate) fn start(upstream: SocketAddr) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = format!(
            "listen.address = \"127.0.0.1:0\"\nlisten.head = \"1s\"\nlisten.write = \"2s\"\n\
             admin.address = \"127.0.0.1:0\"\n\
             cache.ttl = \"1s\"\ncache.stale_while_revalidate = \"1s\"\ncache.stale_if_error = \"2s\"\n\
             cache.max_bytes = \"16MiB\"\nlimits.keys = 1000\nlimits.caller = \"off\"\nlimits.caller_upstream = \"off\"\n\
             upstream.connect = \"500ms\"\nupstream.first_byte = \"500ms\"\nupstream.total = \"1s\"\n\
             upstreams.converflow.url = \"http://{upstream}\"\nupstreams.chat.url = \"http://{upstream}\"\n"
        );
        let path = directory.path().join("config.toml");
        fs::write(&path, config).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_unitgate"))
            .arg("--config")
            .arg(&path)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (told, addresses) = mpsc::channel();
        let log = std::thread::spawn(move || {
            let mut secret = Vec::new();
            for line in output.lines().map_while(Result::ok) {
                if let Some(address) = line.split("\"address\":\"").nth(1) {
                    let address = address.split('"').next().unwrap_or_default();
                    told.send(address.parse().unwrap()).ok();
                }
                if holds_a_secret(&line) {
                    secret.push(line);
                }
            }
            secret
        });
        let next = || addresses.recv_timeout(Duration::from_secs(30)).expect("it tells its ports");
        let (address, admin) = (next(), next());
        Self { child, address, admin, log, _directory: directory }
    }

    /// Where the public port listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it holds now.
    pub(crate) fn sample(&self) -> Sample {
        let proc = format!("/proc/{}", self.child.id());
        let status = fs::read_to_string(format!("{proc}/status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        let descriptors = fs::read_dir(format!("{proc}/fd")).unwrap().count();
        Sample { memory: kilobytes << 10, descriptors: u64::try_from(descriptors).unwrap() }
    }

    /// Ends it with SIGTERM, once nobody asks any more; what was left under way, or how it ended otherwise
    /// than well.
    pub(crate) async fn end(mut self) -> Result<(), String> {
        // Longer than any exchange may last.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let scrape = self.scrape();
        let mut wrong = Vec::new();
        for left in ["unitgate_requests_in_flight 0", "unitgate_connections 0"] {
            if !scrape.lines().any(|line| line == left) {
                wrong.push(format!("not in the last scrape: {left}"));
            }
        }
        let signalled = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(signalled.success());
        let ended = self.child.wait().unwrap();
        if !ended.success() {
            wrong.push(format!("it ended with {ended}"));
        }
        let log = std::mem::replace(&mut self.log, std::thread::spawn(Vec::new));
        wrong.extend(log.join().unwrap().into_iter().take(5).map(|line| format!("logged: {line}")));
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
    }

    fn scrape(&self) -> String {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Unitgate {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
