//! The upstream of the soak: fast and right, or failing in one of a few ways.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::Scene;
use crate::http1::field;
use crate::load::key;

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Errors,
    Resets,
    Drips,
    BlackHole,
}

impl Fault {
    pub(crate) const ALL: [Self; 4] = [Self::Errors, Self::Resets, Self::Drips, Self::BlackHole];
}

pub(crate) async fn start(tasks: &mut JoinSet<()>, scene: Arc<Scene>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let (stream, _peer) = accepted.unwrap();
                    stream.set_nodelay(true).ok();
                    let scene = Arc::clone(&scene);
                    connections.spawn(async move { converse(stream, &scene).await.ok() });
                }
                Some(_ended) = connections.join_next() => {}
            }
        }
    });
    address
}

async fn converse(mut stream: TcpStream, scene: &Scene) -> io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        let Some((head, body)) = read(&mut stream, &mut bytes).await? else { return Ok(()) };
        let fault = *scene.fault.lock();
        match fault {
            Some(Fault::BlackHole) => return wait_for_the_end(stream).await,
            Some(Fault::Resets) => {
                stream.set_zero_linger()?;
                return Ok(());
            }
            Some(Fault::Errors) => {
                let secret = key("upstream");
                let body = format!(r#"{{"message":"later","apiKey":"{secret}"}}"#);
                stream.write_all(response("503 Service Unavailable", &body).as_bytes()).await?;
            }
            Some(Fault::Drips) => {
                for byte in answer(scene, &head, &body).as_bytes() {
                    stream.write_all(&[*byte]).await?;
                    sleep(Duration::from_millis(40)).await;
                }
            }
            None => stream.write_all(answer(scene, &head, &body).as_bytes()).await?,
        }
    }
}

async fn wait_for_the_end(mut stream: TcpStream) -> io::Result<()> {
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.map(drop)
}

async fn read(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<Option<(String, String)>> {
    loop {
        let text = String::from_utf8_lossy(bytes).into_owned();
        if let Some((head, rest)) = text.split_once("\r\n\r\n") {
            let length = field(head, "content-length").map_or(0, |length| length.parse().unwrap());
            if let Some(body) = rest.get(..length) {
                bytes.drain(..head.len() + 4 + length);
                return Ok(Some((head.to_owned(), body.to_owned())));
            }
        }
        if stream.read_buf(bytes).await? == 0 {
            return Ok(None);
        }
    }
}

fn answer(scene: &Scene, head: &str, body: &str) -> String {
    let token = field(head, "authorization").and_then(|value| value.strip_prefix("Bearer "));
    let Some(caller) = token.and_then(|token| token.strip_prefix("tok.")) else {
        return response("401 Unauthorized", r#"{"message":"who are you"}"#);
    };
    let caller = caller.split('-').next().unwrap_or_default();
    let secret = key(caller);
    let mut book = scene.book.lock();
    if head.starts_with("PUT ") {
        let unit = body.split('"').nth(3).unwrap_or_default();
        let version = book.write(unit);
        let body = format!(r#"{{"unitId":"{unit}","version":{version},"apiKey":"{secret}"}}"#);
        return response("200 OK", &body);
    }
    let target = head.split(' ').nth(1).unwrap_or_default();
    let unit = target.rsplit('/').next().unwrap_or_default();
    let version = book.version(unit);
    drop(book);
    let prompt = "Be kind and brief, and offer the next free hour. ".repeat(16);
    response(
        "200 OK",
        &format!(
            r#"{{"data":[{{"unitId":"{unit}","for":"{caller}","version":{version},"apiKey":"{secret}","prompt":"{prompt}{secret}"}}]}}"#
        ),
    )
}

fn response(status: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}
