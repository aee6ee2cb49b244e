//! What masking costs, side by side with `serde_json` reading and writing the same bodies.
//!
//! The bodies have the documented answer's shape: many small members and one longer text per unit.

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
        group.bench_with_input(BenchmarkId::new("serde_json", name), &body, |bencher, body| {
            bencher.iter(|| {
                let value = serde_json::from_slice::<serde_json::Value>(black_box(body))?;
                serde_json::to_vec(&value)
            });
        });
    }
    group.finish();
}

/// The usual answer, a unit of 1.3 kB with a longer prompt, once and many times; `dense` has short
/// fields only, the hardest case for any reader of JSON.
fn bodies() -> [(&'static str, Bytes); 6] {
    let mask = format!("cal_{}", "*".repeat(16));
    let key = format!("cal_live_{}", "a1b2".repeat(8));
    let prompt = "Be kind and brief, and offer the next free hour. ".repeat(16);
    let leaky = format!("Use {key} to book, and nothing else. ").repeat(4);
    [
        ("1.3 kB masked", body(1_300, &mask, &prompt)),
        ("16 kB masked", body(16_000, &mask, &prompt)),
        ("1 MB masked", body(1_000_000, &mask, &prompt)),
        ("16 kB masked, dense", body(16_000, &mask, "Be brief.")),
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
