//! The field values that are made for a reply.
//!
//! *Why here:* made one by one, each is an allocation or two, and a hit has four. They are cut from a sheet
//! of their thread instead, whose memory comes back once the replies before are written.

use std::cell::RefCell;

use bytes::BytesMut;
use http::HeaderValue;

/// What `write` writes, as a field value; none of ours can hold what may not stand in one.
pub(super) fn make(write: impl FnOnce(&mut BytesMut)) -> HeaderValue {
    SHEET.with_borrow_mut(|sheet| {
        if sheet.capacity() < LONGEST {
            // Takes the same memory again where nothing holds on to it.
            sheet.reserve(SIZE);
        }
        write(sheet);
        HeaderValue::from_maybe_shared(sheet.split().freeze())
            .unwrap_or(HeaderValue::from_static(""))
    })
}

thread_local! {
    static SHEET: RefCell<BytesMut> = RefCell::new(BytesMut::with_capacity(SIZE));
}

/// Room for the values of some thirty hits.
const SIZE: usize = 4096;

/// Nearly every value is shorter.
const LONGEST: usize = 64;
