//! What masking costs, side by side with others on the same bodies: `serde_json` reading them into
//! a tree and writing it, `serde_json` copying token by token, `sonic-rs` with its tree, and a lexer
//! that only finds where each string ends.
//!
//! The bodies have the documented answer's shape: many small members and one longer text per unit.

#![expect(clippy::indexing_slicing, reason = "a bench that reads past an end had better stop")]

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use unitgate::config::Secrets;
use unitgate::mask::Masker;

fn masking(criterion: &mut Criterion) {
    let masker = Masker::new(&Secrets::default(), &["unitId".to_owned()]);
    let mut group = criterion.benchmark_group("masking");
    for (name, body) in bodies() {
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_with_input(BenchmarkId::new("unitgate", name), &body, |bencher, body| {
            bencher.iter(|| masker.json(black_box(body.clone())));
        });
        for other in OTHERS {
            group.bench_with_input(BenchmarkId::new(other.name, name), &body, |bencher, body| {
                bencher.iter(|| (other.read)(black_box(body)));
            });
        }
    }
    group.finish();
}

/// One who reads bodies beside us.
struct Other {
    name: &'static str,
    /// Says how much it made of a body.
    read: fn(&[u8]) -> usize,
}

const OTHERS: [Other; 4] = [
    Other { name: "serde_json", read: tree },
    Other { name: "serde_json transcode", read: transcode },
    Other { name: "sonic-rs", read: sonic_tree },
    Other { name: "lexer", read: lex },
];

fn tree(body: &[u8]) -> usize {
    let value: serde_json::Value = serde_json::from_slice(body).expect("the body is JSON");
    serde_json::to_vec(&value).expect("a value can be written").len()
}

fn transcode(body: &[u8]) -> usize {
    let mut copy = Vec::with_capacity(body.len());
    let mut from = serde_json::Deserializer::from_slice(body);
    let mut to = serde_json::Serializer::new(&mut copy);
    serde_transcode::transcode(&mut from, &mut to).expect("the body is JSON");
    copy.len()
}

fn sonic_tree(body: &[u8]) -> usize {
    let value: sonic_rs::Value = sonic_rs::from_slice(body).expect("the body is JSON");
    sonic_rs::to_vec(&value).expect("a value can be written").len()
}

/// Finds the end of every string, past escapes, and counts them.
///
/// The least that a masker can do with plain tools: no grammar, no UTF-8, no names, no copy. Where
/// strings are long it is the floor; where they are short, its calls of SIMD searches cost more than
/// they save.
fn lex(body: &[u8]) -> usize {
    let mut rest = body;
    let mut strings = 0;
    while let Some(open) = memchr::memchr(b'"', rest) {
        rest = &rest[open + 1..];
        while let Some(stop) = memchr::memchr2(b'"', b'\\', rest) {
            let escapes = rest[stop] == b'\\';
            rest = &rest[stop + 1 + usize::from(escapes)..];
            if !escapes {
                break;
            }
        }
        strings += 1;
    }
    strings
}

/// The usual answer, a unit of 1.3 kB with a longer prompt, once and many times; `dense` has short
/// fields only, the hardest case for any reader of JSON; `accents` has line breaks too.
fn bodies() -> [(&'static str, Bytes); 7] {
    let mask = format!("cal_{}", "*".repeat(16));
    let key = format!("cal_live_{}", "a1b2".repeat(8));
    let prompt = "Be kind and brief, and offer the next free hour. ".repeat(16);
    let accents = r"Olá! Seja gentil e breve,\n ofereça o próximo horário livre.\n".repeat(12);
    let leaky = format!("Use {key} to book, and nothing else. ").repeat(4);
    [
        ("1.3 kB masked", body(1_300, &mask, &prompt)),
        ("16 kB masked", body(16_000, &mask, &prompt)),
        ("1 MB masked", body(1_000_000, &mask, &prompt)),
        ("16 kB masked, dense", body(16_000, &mask, "Be brief.")),
        ("16 kB masked, accents", body(16_000, &mask, &accents)),
        ("16 kB of keys", body(16_000, &key, &leaky)),
        ("1 MB of keys", body(1_000_000, &key, &leaky)),
    ]
}

/// As many units as fit into `size` bytes, and one at least.
fn body(size: usize, key: &str, prompt: &str) -> Bytes {
    let count = (size / unit(0, key, prompt).len()).max(1);
    let units: Vec<_> = (0..count).map(|index| unit(index, key, prompt)).collect();
    Bytes::from(format!(r#"{{"data":[{}]}}"#, units.join(",")))
}

fn unit(index: usize, key: &str, prompt: &str) -> String {
    let id = format!("{index:08x}-1c2d-4e3f-8a9b-0123456789ab");
    let unit = "6f1d2c3b-1c2d-4e3f-8a9b-0123456789ab";
    [
        format!(r#"{{"id":"{id}","botId":null,"unitId":"{unit}","title":"Calcom","#),
        format!(r#""calcomUsername":"front-desk-{index}","apiKey":"{key}","#),
        r#""isActive":true,"isTokenMasked":true,"timezone":"America/Sao_Paulo","#.to_owned(),
        format!(r#""prompt":"{prompt}","checkAvailabilityEnabled":true,"#),
        r#""createBookingEnabled":true,"defaultEventTypeId":5470074,"#.to_owned(),
        r#""defaultEventTypeSlug":"30min","createdAt":"2025-03-01 12:34:56.123456","#.to_owned(),
        format!(r#""updatedAt":"2025-03-02 12:34:56.{:03}"}}"#, index % 1_000),
    ]
    .concat()
}

criterion_group!(benches, masking);
criterion_main!(benches);
