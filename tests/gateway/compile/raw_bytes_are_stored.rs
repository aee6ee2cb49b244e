//! Raw bytes are put where a stored response has its body.

use bytes::Bytes;
use unitgate::cache::stored::Stored;

fn store(stored: &mut Stored, raw: Bytes) {
    stored.body = raw;
}

fn main() {
    let _ = store;
}
