//! The twin of what must not compile: the masker stands between raw bytes and what is stored.

use bytes::Bytes;
use unitgate::cache::stored::Stored;
use unitgate::config::Config;
use unitgate::mask::{MaskError, Masker};

fn store(stored: &mut Stored, masker: &Masker, raw: Bytes) -> Result<(), MaskError> {
    let (masked, _facts) = masker.json(raw)?;
    stored.body = masked;
    Ok(())
}

fn main() {
    let masker = Masker::new(&Config::default().secrets, &[]);
    assert!(masker.json(Bytes::from_static(b"{}")).is_ok());
    let _ = store;
}
