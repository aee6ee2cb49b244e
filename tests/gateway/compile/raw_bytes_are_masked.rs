//! Raw bytes are called masked.

use bytes::Bytes;
use unitgate::mask::Masked;

fn main() {
    let _masked = Masked(Bytes::from_static(b"{}"));
}
