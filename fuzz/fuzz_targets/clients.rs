//! The property `clients` of `tests/gateway/properties`, for bytes that the fuzzer makes up.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/gateway/properties/mod.rs"]
mod properties;

fuzz_target!(|data: &[u8]| properties::clients(data));
