//! HTTP dates (RFC 9110 §5.6.7): all three forms, read as RFC 9111 §4.2 wants a cache to read them.
//!
//! *Invariants*
//! 1. Letters are compared without case (RFC 9111 §4.2); everything else is exact.
//! 2. A zone other than GMT is no date (RFC 9111 §4.2).
//! 3. A time before the epoch is the epoch: for a cache both are long past.
//!
//! *Why not `httpdate`?* It compares by case and reads the two-digit year by a fixed pivot; the
//! RFC's rule needs to know the present.

use std::time::Duration;

use crate::numbered;

/// Wall time of an HTTP date; `None` when it is none.
///
/// `now` (wall) decides the century of a two-digit year: what would be more than 50 years ahead
/// is the past (RFC 9110 §5.6.7).
pub fn parse_date(value: &[u8], now: Duration) -> Option<Duration> {
    let comma = value.iter().position(|&byte| byte == b',');
    let date = match comma.and_then(|at| value.split_at_checked(at)) {
        Some((day, rest)) if is_one_of(day, &DAYS) => imf_fixdate(rest)?,
        Some((day, rest)) if is_one_of(day, &LONG_DAYS) => rfc850_date(rest, now)?,
        Some(_) => return None,
        None => asctime_date(value)?,
    };
    date.wall()
}

/// The same of when an answer was made, which is mostly in the one form that is sent.
pub(super) fn parse_made_at(value: &[u8], now: Duration) -> Option<Duration> {
    let second = numbered::read_date(value).map(|second| Duration::from_secs(second.into()));
    second.or_else(|| parse_date(value, now))
}

/// A moment in GMT by the proleptic Gregorian calendar; not checked yet.
struct Moment {
    year: u64,
    month: u64,
    day: u64,
    second_of_day: u64,
}

impl Moment {
    /// Wall time, if there is such a day.
    fn wall(&self) -> Option<Duration> {
        let leap = self.year.is_multiple_of(4)
            && (!self.year.is_multiple_of(100) || self.year.is_multiple_of(400));
        let days_in_month = match self.month {
            2 => 28 + u64::from(leap),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        if self.day == 0 || self.day > days_in_month {
            return None;
        }
        let days = days_to(self.year, self.month, self.day).saturating_sub(days_to(1970, 1, 1));
        let seconds = days * 86_400 + self.second_of_day;
        Some(Duration::from_secs(if self.year < 1970 { 0 } else { seconds }))
    }
}

/// `, 06 Nov 1994 08:49:37 GMT`
fn imf_fixdate(rest: &[u8]) -> Option<Moment> {
    let [b',', b' ', d1, d2, b' ', m1, m2, m3, b' ', y1, y2, y3, y4, b' ', time @ ..] = rest else {
        return None;
    };
    Some(Moment {
        year: number(&[*y1, *y2, *y3, *y4])?,
        month: month(&[*m1, *m2, *m3])?,
        day: number(&[*d1, *d2])?,
        second_of_day: second_of_day(without_zone(time)?)?,
    })
}

/// `, 06-Nov-94 08:49:37 GMT`
fn rfc850_date(rest: &[u8], now: Duration) -> Option<Moment> {
    let [b',', b' ', d1, d2, b'-', m1, m2, m3, b'-', y1, y2, b' ', time @ ..] = rest else {
        return None;
    };
    let this_year = year_of(now);
    let mut year = this_year - this_year % 100 + 100 + number(&[*y1, *y2])?;
    while year > this_year + 50 {
        year = year.saturating_sub(100);
    }
    Some(Moment {
        year,
        month: month(&[*m1, *m2, *m3])?,
        day: number(&[*d1, *d2])?,
        second_of_day: second_of_day(without_zone(time)?)?,
    })
}

/// `Sun Nov  6 08:49:37 1994`
fn asctime_date(value: &[u8]) -> Option<Moment> {
    let [w1, w2, w3, b' ', m1, m2, m3, b' ', d1, d2, b' ', rest @ ..] = value else {
        return None;
    };
    let (time, year) = rest.split_at_checked(8)?;
    let [b' ', year @ ..] = year else { return None };
    let tens = if *d1 == b' ' { b'0' } else { *d1 };
    if !is_one_of(&[*w1, *w2, *w3], &DAYS) || year.len() != 4 {
        return None;
    }
    Some(Moment {
        year: number(year)?,
        month: month(&[*m1, *m2, *m3])?,
        day: number(&[tens, *d2])?,
        second_of_day: second_of_day(time)?,
    })
}

fn without_zone(time: &[u8]) -> Option<&[u8]> {
    let (time, zone) = time.split_at_checked(8)?;
    zone.eq_ignore_ascii_case(b" GMT").then_some(time)
}

/// `08:49:37`; 60 seconds are a leap second.
fn second_of_day(time: &[u8]) -> Option<u64> {
    let [h1, h2, b':', m1, m2, b':', s1, s2] = time else {
        return None;
    };
    let (hour, minute) = (number(&[*h1, *h2])?, number(&[*m1, *m2])?);
    let second = number(&[*s1, *s2])?;
    (hour < 24 && minute < 60 && second <= 60).then(|| hour * 3600 + minute * 60 + second.min(59))
}

fn month(name: &[u8]) -> Option<u64> {
    (1..)
        .zip(MONTHS)
        .find_map(|(number, month)| name.eq_ignore_ascii_case(month.as_bytes()).then_some(number))
}

/// A number of a few digits and nothing else.
fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |number, digit| {
        digit.is_ascii_digit().then(|| number * 10 + u64::from(digit - b'0'))
    })
}

fn is_one_of(name: &[u8], names: &[&str]) -> bool {
    names.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}

/// Days from the first day of the year 0 to this one; months count from 1.
fn days_to(year: u64, month: u64, day: u64) -> u64 {
    // The year is taken to begin in March, so that the leap day is its last.
    let (year, month) = if month > 2 { (year + 1, month - 3) } else { (year, month + 9) };
    let before = year.saturating_sub(1);
    let leap_days = before / 4 - before / 100 + before / 400;
    before * 365 + leap_days + (month * 153 + 2) / 5 + day - 1
}

/// The year of a wall time, give or take a day at its turn.
fn year_of(wall: Duration) -> u64 {
    let days = (wall.as_secs() / 86_400).min(u64::from(u32::MAX));
    // 146,097 days are 400 years.
    1970 + days * 400 / 146_097
}

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const LONG_DAYS: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::*;

    /// 2026-11-23.
    const NOW: Duration = Duration::from_hours(498_720);

    fn seconds(date: &str) -> Option<u64> {
        parse_date(date.as_bytes(), NOW).map(|wall| wall.as_secs())
    }

    #[test]
    fn the_three_forms_are_one_moment() {
        for date in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "SUN, 06 nov 1994 08:49:37 gmt",
            "sunday, 06-NOV-94 08:49:37 Gmt",
        ] {
            assert_eq!(seconds(date), Some(784_111_777), "{date}");
        }
    }

    #[test]
    fn when_an_answer_was_made_is_read_anew_where_it_changes() {
        let made_at = |date: &str| parse_made_at(date.as_bytes(), NOW).map(|wall| wall.as_secs());
        let (one, other) = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:38 GMT");
        for date in [one, one, "Sun, 06 Nov 1994 08:49:61 GMT", one, other, "", other] {
            assert_eq!(made_at(date), seconds(date), "{date}");
        }
        assert_eq!(made_at("Sun Nov  6 08:49:37 1994"), made_at(one));
    }

    #[test]
    fn what_is_nearly_a_date_is_none() {
        for date in [
            "",
            "0",
            "-1",
            "Thu",
            "Thu,",
            ", 18 Aug 2050 02:01:18 GMT",
            "Thu, 18 Aug 2050 02:01:18 UTC",
            "Thu, 18 Aug 2050 02:01:18 +0000",
            "Thu, 18 Aug 2050 02:01:18",
            "Thu, 18 Aug 50 02:01:18 GMT",
            "Thu 18 Aug 2050 02:01:18 GMT",
            "Thu, 18  Aug  2050 02:01:18 GMT",
            "Thu, 18-Aug-2050 02:01:18 GMT",
            "Thu, 18 Aug 2050 02.01.18 GMT",
            "Thu, 18 Aug 2050 2:01:18 GMT",
            "Thu, 18 Aug 2050 24:01:18 GMT",
            "Thu, 18 Aug 2050 02:60:18 GMT",
            "Thu, 18 Aug 2050 02:01:61 GMT",
            "Thu, 31 Feb 2050 02:01:18 GMT",
            "Mon, 29 Feb 2100 00:00:00 GMT",
            "Thu, 00 Aug 2050 02:01:18 GMT",
            "Thu, 18 Foo 2050 02:01:18 GMT",
            "Thx, 18 Aug 2050 02:01:18 GMT",
            "Sun Nov 6 08:49:37 1994",
            "Sun Nov  6 08:49:37 1994 GMT",
            "Sunday, 06-Nov-1994 08:49:37 GMT",
            "Thu, 18 Aug 2050 02:01:18 GMT, Thu, 18 Aug 2050 02:01:18 GMT",
        ] {
            assert_eq!(seconds(date), None, "{date}");
        }
    }

    #[test]
    fn a_two_digit_year_is_never_more_than_fifty_years_ahead() {
        let year = |date: &str| 1970 + seconds(date).unwrap() / 31_556_952;
        assert_eq!(year("Sunday, 06-Nov-76 08:49:37 GMT"), 2076);
        assert_eq!(year("Sunday, 06-Nov-77 08:49:37 GMT"), 1977);
        assert_eq!(year("Sunday, 06-Nov-26 08:49:37 GMT"), 2026);
        assert_eq!(year("Sunday, 06-Nov-00 08:49:37 GMT"), 2000);
    }

    #[test]
    fn the_years_of_the_ends_are_read() {
        assert_eq!(seconds("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(seconds("Wed, 31 Dec 1969 23:59:59 GMT"), Some(0));
        assert_eq!(seconds("Sat, 01 Jan 0000 00:00:00 GMT"), Some(0));
        assert_eq!(seconds("Fri, 31 Dec 9999 23:59:59 GMT"), Some(253_402_300_799));
        assert_eq!(seconds("Sat, 31 Dec 2016 23:59:60 GMT"), Some(1_483_228_799));
        assert_eq!(seconds("Thu, 29 Feb 2024 00:00:00 GMT"), Some(1_709_164_800));
    }

    proptest! {
        #[test]
        fn a_written_date_reads_back(second in 0_u64..253_402_300_799) {
            let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second));
            prop_assert_eq!(seconds(&date), Some(second));
        }

        #[test]
        fn any_bytes_are_a_date_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..40), now: u64) {
            let _ = parse_date(&bytes, Duration::from_secs(now));
        }

        #[test]
        fn any_look_alike_is_a_date_or_none(
            date in "(Sun|Sunday)?,? ?[0-9]{2}[ -](Jan|Feb|nov)[ -][0-9]{2,4} [0-9]{2}:[0-9]{2}:[0-9]{2} ?(GMT)?",
            now: u64,
        ) {
            let _ = parse_date(date.as_bytes(), Duration::from_secs(now));
        }
    }
}
