//! [`Process`]: the real binary with a configuration file of its own, as operators run it.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;

use super::client::{Reply, Wire};

/// A running gateway. It is killed with its value.
pub(crate) struct Process {
    child: Arc<Mutex<Child>>,
    pid: u32,
    output: watch::Receiver<String>,
    errors: watch::Receiver<String>,
    directory: TempDir,
}

impl Process {
    /// Starts it on free ports with this configuration in front of `upstream`, and waits until it listens.
    pub(crate) async fn start(upstream: SocketAddr, more: &str, env: &[(&str, &str)]) -> Self {
        let mut process = Self::run(&configuration(upstream, more), env);
        process.logged(OPERATORS).await;
        process
    }

    /// Starts it with exactly this configuration and waits for nothing.
    pub(crate) fn run(configuration: &str, env: &[(&str, &str)]) -> Self {
        Self::under(&[], configuration, |command| {
            command.envs(env.iter().copied());
        })
    }

    /// The same as the last argument of another `program` that becomes it, such as a shell's `exec "$0"`,
    /// with a `change` of how that is started.
    pub(crate) fn under(
        program: &[&str],
        configuration: &str,
        change: impl FnOnce(&mut Command),
    ) -> Self {
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join("config.toml"), configuration).unwrap();
        let mut command = match program {
            [] => command(directory.path(), &[], &[]),
            [program, arguments @ ..] => {
                let binary = env!("CARGO_BIN_EXE_unitgate");
                let arguments = [arguments, &[binary]].concat();
                command_of(program, directory.path(), &arguments)
            }
        };
        change(&mut command);
        let mut child = command.spawn().unwrap();
        let (all, only_errors) =
            (watch::Sender::new(String::new()), watch::Sender::new(String::new()));
        let (output, errors) = (all.subscribe(), only_errors.subscribe());
        gather(child.stdout.take().unwrap(), vec![all.clone()]);
        gather(child.stderr.take().unwrap(), vec![only_errors, all]);
        let pid = child.id();
        Self { child: Arc::new(Mutex::new(child)), pid, output, errors, directory }
    }

    /// Where the public port listens, as the log says.
    pub(crate) fn address(&self) -> SocketAddr {
        self.announced("listening")
    }

    /// Where the operators' port listens, as the log says.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.announced(OPERATORS)
    }

    /// Everything it wrote so far, to both outputs.
    pub(crate) fn log(&self) -> String {
        self.output.borrow().clone()
    }

    /// What it wrote so far to standard error.
    pub(crate) fn errors(&self) -> String {
        self.errors.borrow().clone()
    }

    /// Waits until it has written `text`.
    pub(crate) async fn logged(&mut self, text: &str) {
        let seen = self.output.wait_for(|output| output.contains(text));
        let seen = tokio::time::timeout(PATIENCE, seen).await.is_ok_and(|seen| seen.is_ok());
        assert!(seen, "it did not say {text:?}: {}", self.log());
    }

    /// Its number.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Writes its configuration's file anew.
    pub(crate) fn write(&self, configuration: &str) {
        let path = self.directory.path().join("config.toml");
        // As an operator should: never half a file.
        fs::write(path.with_extension("new"), configuration).unwrap();
        fs::rename(path.with_extension("new"), path).unwrap();
    }

    /// Waits until it has reloaded so many times in all.
    pub(crate) async fn reloaded(&mut self, times: usize) {
        let told = "the configuration was reloaded";
        let seen = self.output.wait_for(|output| output.matches(told).count() >= times);
        let seen = tokio::time::timeout(PATIENCE, seen).await.is_ok_and(|seen| seen.is_ok());
        assert!(seen, "it did not reload {times} times: {}", self.log());
    }

    /// Sends it a signal, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.pid.to_string())
            .status()
            .unwrap();
        assert!(sent.success());
    }

    /// Waits for its end, and for its last words.
    pub(crate) async fn ended(&self) -> ExitStatus {
        let mut output = self.output.clone();
        let silent = async { while output.changed().await.is_ok() {} };
        let silent = tokio::time::timeout(PATIENCE, silent).await.is_ok();
        assert!(silent, "it did not end: {}", self.log());
        let child = Arc::clone(&self.child);
        tokio::task::spawn_blocking(move || child.lock().wait().unwrap()).await.unwrap()
    }

    /// The address in the line with this message.
    pub(crate) fn announced(&self, message: &str) -> SocketAddr {
        let log = self.log();
        let line = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut address = line.filter(|line| line["message"] == message);
        address.next().unwrap()["address"].as_str().unwrap().parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Whoever waits for its end holds the lock, and then it ends by itself.
        if let Some(mut child) = self.child.try_lock() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// What a command that ends by itself wrote, and how it ended.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs the binary to its end in `directory`. One that does not end by itself is ended, without a code.
pub(crate) fn unitgate(directory: &Path, arguments: &[&str], env: &[(&str, &str)]) -> Ended {
    let child = command(directory, arguments, env).spawn().unwrap();
    let pid = child.id().to_string();
    let (done, watched) = mpsc::channel::<()>();
    let watch = thread::spawn(move || {
        if watched.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
            Command::new("kill").arg("-KILL").arg(pid).status().unwrap();
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(done);
    watch.join().unwrap();
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A configuration on free ports of loopback in front of `upstream`, with `more` keys, written dotted.
pub(crate) fn configuration(upstream: SocketAddr, more: &str) -> String {
    format!(
        "listen.address = \"127.0.0.1:0\"\nadmin.address = \"127.0.0.1:0\"\ncache.jitter = \"0%\"\n\
         upstreams.converflow.url = \"http://{upstream}\"\nupstreams.chat.url = \"http://{upstream}\"\n{more}\n"
    )
}

/// Asks with GET over a connection of its own.
pub(crate) async fn fetch(address: SocketAddr, target: &str, fields: &[(&str, &str)]) -> Reply {
    let mut wire = Wire::to(address).await;
    wire.get(target, fields).await;
    wire.read(false).await.expect("the gateway closed the connection instead of answering")
}

fn command(directory: &Path, arguments: &[&str], env: &[(&str, &str)]) -> Command {
    let mut command = command_of(env!("CARGO_BIN_EXE_unitgate"), directory, arguments);
    command.envs(env.iter().copied());
    command
}

fn command_of(program: &str, directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.current_dir(directory).args(arguments).env_remove("RUST_LOG").stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn gather(from: impl Read + Send + 'static, to: Vec<watch::Sender<String>>) {
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            for sender in &to {
                sender.send_modify(|output| {
                    output.push_str(&line);
                    output.push('\n');
                });
            }
        }
    });
}

/// How long a test waits for what must happen before it fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// The last line of a start that names an address.
const OPERATORS: &str = "operators' port: /metrics /healthz /readyz";
