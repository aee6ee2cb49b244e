//! The thread, runtime and listener of the operators' port.
//!
//! *Invariants*
//! 1. A taken port is an error of [`start`], not of a thread that nobody watches.
//! 2. Connections are few and end: idle ones after [`IDLE`], all after [`OLDEST`].

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{Request, Response, StatusCode, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::changes::{PURGE, RELOAD};
use super::problem;
use crate::admin::Admin;

/// The operators' port, open until this is dropped.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    socket: TcpListener,
    admin: Arc<Admin>,
    // Dropping the sender ends the server; the thread is not joined, a last reply may be under way.
    _stop: oneshot::Sender<Infallible>,
    _thread: JoinHandle<()>,
}

impl Running {
    /// Where it listens; tells the port where 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its listening socket.
    pub fn socket(&self) -> &TcpListener {
        &self.socket
    }

    /// Goes on at a free port of the same address, and leaves the one it had to another process.
    ///
    /// # Errors
    /// There is no free port, or the machine refuses a thread; it stays where it was then.
    pub fn move_aside(&mut self) -> io::Result<()> {
        let socket = TcpListener::bind((self.address.ip(), 0))?;
        *self = serve_on(socket, Arc::clone(&self.admin))?;
        Ok(())
    }
}

/// Opens the operators' port on `address`, or serves a socket that was `given`.
///
/// # Errors
/// The address can't be listened on, or the machine refuses a thread.
pub fn start(address: SocketAddr, given: Option<TcpListener>, admin: Admin) -> io::Result<Running> {
    let socket = given.map_or_else(|| TcpListener::bind(address), Ok)?;
    serve_on(socket, Arc::new(admin))
}

fn serve_on(socket: TcpListener, admin: Arc<Admin>) -> io::Result<Running> {
    socket.set_nonblocking(true)?;
    let address = socket.local_addr()?;
    let (listener, serving) = (socket.try_clone()?, Arc::clone(&admin));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = {
        let _entered = runtime.enter();
        tokio::net::TcpListener::from_std(listener)?
    };
    let (stop, stopped) = oneshot::channel();
    let thread =
        std::thread::Builder::new().name("unitgate-admin".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, serving) => {}
                    // It is never sent anything: this resolves when the sender is dropped.
                    _ = stopped => {}
                }
            });
        })?;
    Ok(Running { address, socket, admin, _stop: stop, _thread: thread })
}

async fn accept(listener: tokio::net::TcpListener, admin: Arc<Admin>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= MOST {
            connections.join_next().await;
        }
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, Arc::clone(&admin)));
                }
                // Out of descriptors, most likely: don't spin until one is free.
                Err(_) => sleep(PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Serves one connection; how it ended interests nobody.
async fn serve(stream: TcpStream, admin: Arc<Admin>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let admin = Arc::clone(&admin);
        async move {
            let reply = match request.uri().path() {
                _ if !has_host(&request) => {
                    problem(StatusCode::BAD_REQUEST, "bad_host", "Send exactly one Host field.")
                }
                PURGE | RELOAD => admin.changes.make(request).await,
                path => admin.answer(request.method(), path),
            };
            Ok::<Response<Full<Bytes>>, Infallible>(reply)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    if let Err(_old) = timeout(OLDEST, connection.as_mut()).await {
        connection.as_mut().graceful_shutdown();
        drop(timeout(IDLE, connection).await);
    }
}

/// RFC 9112 §3.2: a request of HTTP/1.1 has exactly one Host, an older one at most one.
fn has_host(request: &Request<Incoming>) -> bool {
    match request.headers().get_all(HOST).iter().count() {
        0 => request.version() < Version::HTTP_11,
        hosts => hosts == 1,
    }
}

/// Most connections at once; further ones wait in the kernel's backlog.
const MOST: usize = 64;

/// Longest time until the next head is complete.
const IDLE: Duration = Duration::from_secs(5);

/// Age at which a connection is asked to end.
const OLDEST: Duration = Duration::from_mins(1);

/// Rest after a failed accept.
const PAUSE: Duration = Duration::from_millis(100);
