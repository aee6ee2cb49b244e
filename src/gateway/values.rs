//! The field values that are made for a reply.
//!
//! *Why here:* made one by one, each is an allocation or two, and a hit has four. They are cut from a sheet
//! of their thread instead, whose memory comes back once the replies before are written.

use std::cell::RefCell;

use bytes::{Bytes, BytesMut};
use http::HeaderValue;

/// What `write` writes, as a field value; none of ours can hold what may not stand in one.
pub(super) fn make(write: impl FnOnce(&mut BytesMut)) -> HeaderValue {
    HeaderValue::from_maybe_shared(piece(write)).unwrap_or(HeaderValue::from_static(""))
}

/// What `write` writes: what several values are cut from.
pub(super) fn piece(write: impl FnOnce(&mut BytesMut)) -> Bytes {
    SHEET.with_borrow_mut(|sheet| {
        if sheet.capacity() < LONGEST {
            // Takes the same memory again where nothing holds on to it.
            sheet.reserve(SIZE);
        }
        write(sheet);
        sheet.split().freeze()
    })
}

thread_local! {
    static SHEET: RefCell<BytesMut> = RefCell::new(BytesMut::with_capacity(SIZE));
}

/// Room for the values of some twenty hits.
const SIZE: usize = 4096;

/// Nearly every value that is made is shorter; what several are cut from may be longer, and then the sheet grows.
const LONGEST: usize = 64;
