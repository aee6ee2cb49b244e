//! Field values that a number stands for: dates, a client's lifetimes, and what [`Lasting`] is made for.
//!
//! *Why tables:* an entry keeps the number, 20 bytes less than the text, and each hit shows the value. To write it
//! and check it anew costs 2 % of a hit; those of what is stored are few, and each thread keeps them. It keeps the
//! last date that was read, too: answers of one second say the same, and each is asked for it three times.
//!
//! *Why some for good:* whoever shows a value counts its holders up and down again, two locked instructions. Of static
//! text nobody counts them; dates are too many for that.

use std::cell::{Cell, RefCell};
use std::sync::OnceLock;
use std::thread::LocalKey;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::HeaderValue;

/// A date in the one form that is sent (RFC 9110 §5.6.7), of its second since the Unix epoch.
pub fn date(second: u32) -> HeaderValue {
    known(&DATES, second, |second| {
        httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second.into()))
    })
}

/// The second of a date in that form; `None` for anything else.
pub fn read_date(value: &[u8]) -> Option<u32> {
    let text: [u8; DATE_LENGTH] = value.try_into().ok()?;
    if let Some((_, second)) = LATEST.get().filter(|(latest, _)| *latest == text) {
        return Some(second);
    }
    let time = httpdate::parse_http_date(str::from_utf8(value).ok()?).ok()?;
    let second = u32::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()?;
    // It reads other forms, too, and any name of a day.
    let is_so = date(second).as_bytes() == value;
    is_so.then(|| LATEST.set(Some((text, second))))?;
    Some(second)
}

/// How many seconds a client may keep an answer (RFC 9111 §5.2.2.1).
pub fn max_age(seconds: u32) -> HeaderValue {
    SHORT.get(seconds.into()).unwrap_or_else(|| known(&MAX_AGES, seconds, max_age_text))
}

/// Lifetimes up to an hour.
static SHORT: Lasting = Lasting::of(max_age_text);

fn max_age_text(seconds: u32) -> String {
    [MAX_AGE, itoa::Buffer::new().format(seconds)].concat()
}

/// The seconds that such a value tells; `None` for anything else.
pub fn read_max_age(value: &HeaderValue) -> Option<u32> {
    let digits = value.as_bytes().strip_prefix(MAX_AGE.as_bytes())?;
    let seconds = str::from_utf8(digits).ok()?.parse().ok()?;
    (max_age(seconds) == value).then_some(seconds)
}

/// The values of the numbers below [`Self::BOUND`], made once for the whole process.
#[derive(Debug)]
pub struct Lasting {
    text: fn(u32) -> String,
    /// A row is made when one of its numbers is first asked for.
    rows: [OnceLock<Box<[HeaderValue]>>; ROWS],
}

impl Lasting {
    /// Those whose text is made so; to be a `static`, since what it makes is never given back.
    pub const fn of(text: fn(u32) -> String) -> Self {
        Self { text, rows: [const { OnceLock::new() }; ROWS] }
    }

    /// The value of a number; `None` from the bound on.
    pub fn get(&self, number: u64) -> Option<HeaderValue> {
        let number = usize::try_from(number).ok()?;
        let row = self.rows.get(number / ROW)?.get_or_init(|| self.row(number / ROW));
        row.get(number % ROW).cloned()
    }

    #[cold]
    fn row(&self, row: usize) -> Box<[HeaderValue]> {
        let numbers = (row * ROW..(row + 1) * ROW).filter_map(|number| u32::try_from(number).ok());
        numbers.map(|number| lasting((self.text)(number))).collect()
    }

    /// More seconds than an hour has.
    pub const BOUND: u64 = (ROW * ROWS) as u64;
}

/// A value for as long as the process lasts: of what is bounded in number.
pub fn lasting(text: String) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::from_static(text.leak().as_bytes()))
        .unwrap_or(HeaderValue::from_static(""))
}

const ROW: usize = 64;

const ROWS: usize = 64;

/// Values, each in the one place that its number has.
type Table = RefCell<[Option<(u32, HeaderValue)>; PLACES]>;

thread_local! {
    /// The last date that was read.
    static LATEST: Cell<Option<([u8; DATE_LENGTH], u32)>> = const { Cell::new(None) };
    static DATES: Table = const { RefCell::new([const { None }; PLACES]) };
    static MAX_AGES: Table = const { RefCell::new([const { None }; PLACES]) };
}

/// More than the seconds that answers of a usual lifetime came in.
const PLACES: usize = 128;

/// The value of a number, made where it isn't known.
fn known(
    table: &'static LocalKey<Table>,
    number: u32,
    make: impl FnOnce(u32) -> String,
) -> HeaderValue {
    table.with_borrow_mut(|places| {
        let place = usize::try_from(number).unwrap_or_default() % PLACES;
        let Some(place) = places.get_mut(place) else { return HeaderValue::from_static("") };
        match place {
            Some((of, value)) if *of == number => value.clone(),
            _ => {
                let value = HeaderValue::try_from(make(number));
                let value = value.unwrap_or(HeaderValue::from_static(""));
                place.insert((number, value)).1.clone()
            }
        }
    })
}

const DATE_LENGTH: usize = 29;

const MAX_AGE: &str = "private, max-age=";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_would_be_shown_so_is_a_number() {
        let value = |text| HeaderValue::from_bytes(text).unwrap();
        assert_eq!(read_date(b"Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(read_date(b"Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(read_date(b"Sun, 07 Feb 2106 06:28:15 GMT"), Some(u32::MAX));
        for other in [
            &b"Sunday, 06-Nov-94 08:49:37 GMT"[..],
            b"Sun Nov  6 08:49:37 1994",
            b"Mon, 06 Nov 1994 08:49:37 GMT",
            b"Sun, 06 Nov 1994 08:49:37 UTC",
            b"Sun, 07 Feb 2106 06:28:16 GMT",
            b"Thu, 01 Jan 1969 00:00:00 GMT",
            b"Sun, 06 Nov 1994 08:49:3\xff GMT",
            b"",
        ] {
            assert_eq!(read_date(other), None, "{}", other.escape_ascii());
        }
        assert_eq!(read_max_age(&value(b"private, max-age=0")), Some(0));
        assert_eq!(read_max_age(&value(b"private, max-age=4294967295")), Some(u32::MAX));
        for other in [
            &b"private, max-age="[..],
            b"private, max-age=060",
            b"private, max-age=+60",
            b"private, max-age=60, must-revalidate",
            b"private, max-age=4294967296",
            b"private,max-age=60",
        ] {
            assert_eq!(read_max_age(&value(other)), None, "{}", other.escape_ascii());
        }
    }

    #[test]
    fn what_lasts_is_made_once_for_each_number_below_the_bound_and_for_no_other() {
        static DOUBLE: Lasting = Lasting::of(|number| (2 * number).to_string());
        for number in 0..Lasting::BOUND {
            let (one, again) = (DOUBLE.get(number).unwrap(), DOUBLE.get(number).unwrap());
            assert_eq!(one, (2 * number).to_string());
            assert_eq!(one.as_bytes().as_ptr(), again.as_bytes().as_ptr());
        }
        for number in [Lasting::BOUND, u64::MAX] {
            assert_eq!(DOUBLE.get(number), None);
        }
    }

    #[test]
    fn a_lifetime_at_the_bound_is_shown_like_one_below() {
        for seconds in [0, 63, 64, 4095, 4096, 4097, u32::MAX] {
            assert_eq!(max_age(seconds), format!("private, max-age={seconds}"));
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_and_no_number_is_taken_for_another(
            numbers in proptest::collection::vec(any::<u32>(), 1..300),
        ) {
            for number in numbers {
                let told = UNIX_EPOCH + Duration::from_secs(number.into());
                prop_assert_eq!(date(number), httpdate::fmt_http_date(told));
                prop_assert_eq!(max_age(number), format!("private, max-age={number}"));
                for _again in 0..2 {
                    prop_assert_eq!(read_date(date(number).as_bytes()), Some(number));
                }
                prop_assert_eq!(read_max_age(&max_age(number)), Some(number));
            }
        }
    }
}
