//! The upstream: answers as the weather is, after a while.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::sleep;
use turmoil::net::{TcpListener, TcpStream};
use unitgate::clock::Dice;

use crate::http1::field;
use crate::world::{CALLERS, Shared, Weather, draw, key, moment, token};

/// A request as it came.
struct Asked {
    head: String,
    body: String,
}

/// What becomes of a request.
enum Answer {
    Whole(String),
    /// So many bytes of it, then the end.
    Part(String, usize),
    /// The connection is closed at once.
    Closed,
    /// Nothing, for longer than anybody waits.
    Nothing,
}

pub(crate) async fn serve(world: Shared, dice: Dice) -> turmoil::Result {
    let listener = TcpListener::bind("0.0.0.0:80").await?;
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _peer) = listener.accept().await?;
        connections.spawn(converse(stream, world.clone(), dice.clone()));
    }
}

async fn converse(mut stream: TcpStream, world: Shared, dice: Dice) -> io::Result<()> {
    while let Some(asked) = read(&mut stream).await? {
        sleep(moment(&dice, Duration::from_millis(80))).await;
        let answer = decide(&asked, &world, &dice);
        sleep(moment(&dice, Duration::from_millis(80))).await;
        match answer {
            Answer::Whole(text) if draw(&dice, 8) == 0 => {
                // In pieces, so that a head and half a body may be all that is there for a while.
                let (first, rest) = text.split_at(text.len() - 20);
                stream.write_all(first.as_bytes()).await?;
                sleep(moment(&dice, Duration::from_millis(200))).await;
                stream.write_all(rest.as_bytes()).await?;
            }
            Answer::Whole(text) => stream.write_all(text.as_bytes()).await?,
            Answer::Part(text, most) => {
                stream.write_all(&text.as_bytes()[..most]).await?;
                return stream.shutdown().await;
            }
            Answer::Closed => return Ok(()),
            Answer::Nothing => sleep(Duration::from_mins(1)).await,
        }
    }
    Ok(())
}

async fn read(stream: &mut TcpStream) -> io::Result<Option<Asked>> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = field(head, "content-length").map_or(0, |length| length.parse().unwrap());
            if body.len() >= length {
                return Ok(Some(Asked { head: head.to_owned(), body: body.to_owned() }));
            }
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    }
}

fn decide(asked: &Asked, world: &Shared, dice: &Dice) -> Answer {
    let mut world = world.lock();
    let is_read = asked.head.starts_with("GET ");
    // Whoever fails a write may have done it all the same.
    let weather = world.weather;
    let odd = weather != Weather::Fair && draw(dice, 4) > 0;
    if odd && (is_read || draw(dice, 2) == 0) {
        return astray(weather, dice);
    }
    let owner = CALLERS.iter().find(|name| asked.head.contains(&token(name)));
    let known = owner.filter(|name| !world.revoked.contains(**name));
    let Some(caller) = known else {
        let number = world.reject();
        let body = format!(r#"{{"message":"no","rejection":{number}}}"#);
        return Answer::Whole(response("401 Unauthorized", "", &body));
    };
    let text = if is_read {
        let target = asked.head.split(' ').nth(1).unwrap_or_default();
        let unit = target.rsplit('/').next().unwrap_or_default();
        get(&mut world, dice, &asked.head, caller, unit)
    } else {
        let unit = asked.body.split('"').nth(3).unwrap_or_default();
        let version = world.write(unit);
        let secret = key(caller);
        let body = format!(r#"{{"unitId":"{unit}","apiKey":"{secret}","version":{version}}}"#);
        response("200 OK", "", &body)
    };
    drop(world);
    if odd {
        return match weather {
            Weather::Halving => {
                let half = text.len() - 1 - usize::try_from(draw(dice, 60)).unwrap();
                Answer::Part(text, half)
            }
            Weather::Silent => Answer::Nothing,
            _ => Answer::Closed,
        };
    }
    Answer::Whole(text)
}

fn get(
    world: &mut crate::world::World,
    dice: &Dice,
    head: &str,
    caller: &str,
    unit: &str,
) -> String {
    let known = field(head, "if-none-match")
        .and_then(|tags| tags.split("\"s").nth(1)?.split('"').next()?.parse().ok());
    if let Some(stamp) = known
        && draw(dice, 2) == 0
        && world.confirm(stamp, unit)
    {
        world.tally.confirmed += 1;
        return format!(
            "HTTP/1.1 304 Not Modified\r\nETag: \"s{stamp}\"\r\nX-Stamp: {stamp}\r\n\r\n"
        );
    }
    let (stamp, body) = world.list(caller, unit);
    response("200 OK", &format!("ETag: \"s{stamp}\"\r\n"), &body)
}

/// An answer that is none.
fn astray(weather: Weather, dice: &Dice) -> Answer {
    let secret = key("nobody");
    match weather {
        Weather::Failing => {
            let body = format!(r#"{{"message":"later","apiKey":"{secret}"}}"#);
            Answer::Whole(response("503 Service Unavailable", "", &body))
        }
        Weather::Halving => {
            let whole = response("200 OK", "", &format!(r#"{{"data":[{{"apiKey":"{secret}"}}]}}"#));
            let most = whole.len() - 1 - usize::try_from(draw(dice, 60)).unwrap();
            Answer::Part(whole, most)
        }
        Weather::Garbling => {
            Answer::Whole(response("200 OK", "", &format!(r#"{{"data":[{{"apiKey":"{secret}""#)))
        }
        Weather::Silent => Answer::Nothing,
        Weather::Resetting | Weather::Fair => Answer::Closed,
    }
}

fn response(status: &str, fields: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{fields}Content-Length: {length}\r\n\r\n{body}"
    )
}
