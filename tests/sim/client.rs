//! The callers: they read and write, leave in the middle, come back, and check what they get.

use std::io;
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::time::{sleep, timeout};
use turmoil::net::TcpStream;
use unitgate::clock::Dice;

use crate::RECOVERY;
use crate::http1::{Reply, field, read};
use crate::world::{CALLERS, Shared, UNITS, draw, key, moment, pick, token};

/// How long a caller waits for an answer. Longer than the gateway needs for any.
const PATIENCE: Duration = Duration::from_secs(4);

pub(crate) struct Caller {
    world: Shared,
    dice: Dice,
    name: &'static str,
    half: u8,
    asked: u64,
    stream: Option<TcpStream>,
}

impl Caller {
    pub(crate) fn new(name: &'static str, half: u8, world: Shared, dice: Dice) -> Self {
        Self { world, dice, name, half, asked: 0, stream: None }
    }

    /// Asks until the trouble is over, then until it is served again.
    pub(crate) async fn live(mut self) -> turmoil::Result {
        while !self.world.lock().over {
            match draw(&self.dice, 20) {
                0..13 => self.read().await,
                13..16 => self.write().await,
                16 => self.leave_in_the_middle().await,
                17 => self.stream = None,
                18 => self.ask_as_nobody().await,
                _ => sleep(moment(&self.dice, Duration::from_secs(3))).await,
            }
            sleep(moment(&self.dice, Duration::from_millis(300))).await;
        }
        let until = self.world.lock().now + RECOVERY;
        for unit in UNITS {
            while self.get(unit).await != Some(200) {
                let late = self.world.lock().now > until;
                if late {
                    let said = format!("{} is not served again", self.name);
                    self.world.lock().complain(said);
                    return Ok(());
                }
                sleep(Duration::from_millis(200)).await;
            }
        }
        Ok(())
    }

    async fn read(&mut self) {
        let unit = pick(&self.dice, &UNITS);
        self.get(unit).await;
    }

    async fn get(&mut self, unit: &str) -> Option<u16> {
        let floor = self.world.lock().floor(self.name, unit);
        let target = format!("/api/v1/calcom/integration/unit/{unit}");
        let reply = self.ask("GET", &target, self.name, "").await?;
        let cache = field(&reply.head, "cache-status").unwrap_or_default().to_owned();
        let mut world = self.world.lock();
        match reply.status {
            200 => {
                let body: Value = serde_json::from_str(&reply.body).unwrap_or_default();
                let list = &body["data"][0];
                if list["for"] != self.name {
                    world.complain(format!("{} got {}", self.name, reply.body));
                    return Some(200);
                }
                let stamp = usize::try_from(list["stamp"].as_u64().unwrap()).unwrap();
                let excused = cache.contains("stale-if-error");
                let hit = cache.contains("hit");
                world.tally.hits += u64::from(hit);
                world.tally.stale += u64::from(hit && cache.contains("ttl=-"));
                world.tally.excused += u64::from(excused);
                world.tally.joined += u64::from(cache.contains("collapsed"));
                world.check_age(floor, stamp, list["version"].as_u64().unwrap(), excused);
            }
            401 => {
                let body: Value = serde_json::from_str(&reply.body).unwrap_or_default();
                if let Some(number) = body["rejection"].as_u64() {
                    world.was_rejected(self.name, usize::try_from(number).unwrap());
                }
                world.tally.rejections += 1;
            }
            502..=504 => world.tally.failures += 1,
            other => world.complain(format!("{other} for a read")),
        }
        Some(reply.status)
    }

    async fn write(&mut self) {
        let unit = pick(&self.dice, &UNITS);
        let body = format!(r#"{{"unitId":"{unit}"}}"#);
        let target = "/api/v1/calcom/integration/one";
        let Some(reply) = self.ask("PUT", target, self.name, &body).await else { return };
        let body: Value = serde_json::from_str(&reply.body).unwrap_or_default();
        let mut world = self.world.lock();
        if reply.status == 200 {
            world.tally.writes += 1;
            world.was_written(unit, body["version"].as_u64().unwrap());
        } else if let (401, Some(number)) = (reply.status, body["rejection"].as_u64()) {
            world.was_rejected(self.name, usize::try_from(number).unwrap());
        }
    }

    async fn leave_in_the_middle(&mut self) {
        let target = format!("/api/v1/calcom/integration/unit/{}", pick(&self.dice, &UNITS));
        let request = self.request("GET", &target, self.name, "");
        let most = request.len();
        // Half of them in the middle of the fetch, and back at once for the same.
        let whole = draw(&self.dice, 2) == 0;
        let part =
            if whole { most } else { most - 1 - usize::try_from(draw(&self.dice, 40)).unwrap() };
        if let Ok(mut stream) = self.connected().await {
            let sent = timeout(PATIENCE, stream.write_all(&request.as_bytes()[..part])).await;
            drop(sent);
            sleep(moment(&self.dice, Duration::from_millis(300))).await;
        }
        if whole {
            self.get(target.rsplit('/').next().unwrap_or_default()).await;
        }
    }

    async fn ask_as_nobody(&mut self) {
        let target = format!("/api/v1/calcom/integration/unit/{}", pick(&self.dice, &UNITS));
        if let Some(reply) = self.ask("GET", &target, "nobody", "").await
            && reply.status < 400
        {
            self.world.lock().complain(format!("nobody got {}", reply.body));
        }
    }

    fn request(&mut self, method: &str, target: &str, caller: &str, body: &str) -> String {
        self.asked += 1;
        let id = format!("{}{}-{}", self.name, self.half, self.asked);
        let (token, length) = (token(caller), body.len());
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {token}\r\nX-Request-Id: {id}\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        self.world.lock().ids.insert(id, 0);
        request
    }

    async fn connected(&mut self) -> io::Result<TcpStream> {
        match self.stream.take() {
            Some(stream) => Ok(stream),
            None => timeout(PATIENCE, TcpStream::connect(("gateway", 80))).await?,
        }
    }

    async fn ask(&mut self, method: &str, target: &str, caller: &str, body: &str) -> Option<Reply> {
        let request = self.request(method, target, caller, body);
        let id = format!("{}{}-{}", self.name, self.half, self.asked);
        let answered = async {
            let mut stream = self.connected().await?;
            let reply = exchange(&mut stream, &request).await?;
            Ok::<_, io::Error>((stream, reply))
        };
        let answered = timeout(PATIENCE, answered).await;
        let mut world = self.world.lock();
        let Ok(Ok((stream, reply))) = answered else {
            world.tally.unanswered += 1;
            world.tell(format!("{id} {method} {target}: no answer"));
            return None;
        };
        let cache = field(&reply.head, "cache-status").unwrap_or_default();
        world.tell(format!("{id} {method} {target}: {} {cache} {}", reply.status, reply.body));
        *world.ids.get_mut(&id).unwrap() += 1;
        if field(&reply.head, "x-request-id") != Some(&id) {
            world.complain(format!("{id} got the reply of another request: {}", reply.head));
        }
        for secret in CALLERS.iter().chain(&["nobody"]).flat_map(|name| [key(name), token(name)]) {
            if reply.head.contains(&secret) || reply.body.contains(&secret) {
                world.complain(format!("{id} got the secret {secret}"));
            }
        }
        let closes = field(&reply.head, "connection").is_some_and(|value| value == "close");
        self.stream = (!closes).then_some(stream);
        Some(reply)
    }
}

async fn exchange(stream: &mut TcpStream, request: &str) -> io::Result<Reply> {
    stream.write_all(request.as_bytes()).await?;
    read(stream).await
}
