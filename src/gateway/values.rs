//! The field values that are made for a reply.
//!
//! *Why here:* made one by one, each is an allocation or two, and a hit has four. Those that few numbers stand for are
//! made once for good: nobody counts who holds them. The others are cut from a sheet of their thread, whose memory
//! comes back once the replies before are written.

use std::cell::RefCell;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderValue;

use super::reply::NAME;
use crate::cache::policy::{CacheStatus, write_age};
use crate::numbered::Lasting;

/// `Age` (RFC 9111 §5.1).
pub(super) fn age(age: Duration) -> HeaderValue {
    static AGES: Lasting =
        Lasting::of(|age| text(|out| write_age(Duration::from_secs(age.into()), out)));
    AGES.get(age.as_secs()).unwrap_or_else(|| make(|out| write_age(age, out)))
}

/// Our member of `Cache-Status`.
pub(super) fn cache_status(status: &CacheStatus) -> HeaderValue {
    static HITS: Lasting =
        Lasting::of(|ttl| text(|out| CacheStatus::hit(ttl.into()).write(NAME, out)));
    let plain = status.ttl.filter(|ttl| *status == CacheStatus::hit(*ttl));
    plain
        .and_then(|ttl| HITS.get(u64::try_from(ttl).ok()?))
        .unwrap_or_else(|| make(|out| status.write(NAME, out)))
}

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

/// What `write` writes: what lasts is made of.
pub(super) fn text(write: impl FnOnce(&mut BytesMut)) -> String {
    let mut out = BytesMut::new();
    write(&mut out);
    String::from_utf8_lossy(&out).into_owned()
}

thread_local! {
    static SHEET: RefCell<BytesMut> = RefCell::new(BytesMut::with_capacity(SIZE));
}

/// Room for the values of some twenty hits.
const SIZE: usize = 4096;

/// Nearly every value that is made is shorter; what several are cut from may be longer, and then the sheet grows.
const LONGEST: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::policy::Forward;

    #[test]
    fn what_lasts_is_what_would_be_written() {
        for seconds in [0, 1, 59, 60, 4095, 4096, 5000, 1 << 31, (1 << 31) + 1] {
            let written = text(|out| write_age(Duration::from_secs(seconds), out));
            assert_eq!(age(Duration::from_secs(seconds)), written);
        }
        for ttl in [0, 1, 59, 60, 4095, 4096, 5000, i64::MAX, -1, -5000, i64::MIN] {
            let hit = CacheStatus::hit(ttl);
            let stale = CacheStatus { detail: Some("stale-if-error"), ..hit };
            let forwarded =
                CacheStatus { ttl: Some(ttl), ..CacheStatus::forwarded(Forward::Stale) };
            let collapsed = CacheStatus { collapsed: true, ..forwarded };
            for status in [hit, stale, forwarded, collapsed, CacheStatus { ttl: None, ..hit }] {
                assert_eq!(cache_status(&status), status.member(NAME));
            }
        }
    }

    #[test]
    fn a_usual_age_and_a_usual_hit_are_made_once() {
        let place = |value: HeaderValue| value.as_bytes().as_ptr();
        let aged = || place(age(Duration::from_secs(7)));
        let hit = || place(cache_status(&CacheStatus::hit(7)));
        let (first_age, first_hit) = (aged(), hit());
        assert!(aged() == first_age && hit() == first_hit);
    }
}
