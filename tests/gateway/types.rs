//! What must not compile: raw bytes can be neither stored nor sent.
//!
//! *Claims*
//! 1. Nobody outside the masker makes a `Masked`, and nothing but a `Masked` is a stored body.
//! 2. The same code with the masker in the middle compiles: it is the type that stands in the way.

#[test]
fn raw_bytes_can_be_neither_stored_nor_sent() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/gateway/compile/masked_bytes_are_stored.rs");
    cases.compile_fail("tests/gateway/compile/raw_bytes_are_masked.rs");
    cases.compile_fail("tests/gateway/compile/raw_bytes_are_stored.rs");
    cases.compile_fail("tests/gateway/compile/a_token_is_printed.rs");
    cases.compile_fail("tests/gateway/compile/a_key_from_nothing.rs");
}
