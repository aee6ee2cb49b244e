//! `updatedAt` values: read leniently, as the API gives no zone and varies the fraction.

/// Microseconds since 1970, UTC, of `2025-01-31 12:00:00.123456`, with `T` for the space and any
/// fraction or none.
///
/// Without a zone UTC is assumed; `Z` and `±hh:mm` are honoured. Anything else is no time.
pub(super) fn parse(text: &[u8]) -> Option<i64> {
    let (head, tail) = text.split_first_chunk::<19>()?;
    let [
        y1,
        y2,
        y3,
        y4,
        b'-',
        o1,
        o2,
        b'-',
        d1,
        d2,
        b' ' | b'T' | b't',
        h1,
        h2,
        b':',
        m1,
        m2,
        b':',
        s1,
        s2,
    ] = *head
    else {
        return None;
    };
    let year = number(&[y1, y2, y3, y4])?;
    let month = number(&[o1, o2]).filter(|month| (1..=12).contains(month))?;
    let day = number(&[d1, d2]).filter(|day| (1..=31).contains(day))?;
    let hour = number(&[h1, h2]).filter(|hour| *hour < 24)?;
    let minute = number(&[m1, m2]).filter(|minute| *minute < 60)?;
    // 60 is a leap second.
    let second = number(&[s1, s2]).filter(|second| *second <= 60)?;
    let (micros, zone) = fraction(tail)?;
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second
        - offset(zone)?;
    Some(seconds * 1_000_000 + micros)
}

/// Days from 1970-01-01 in the Gregorian calendar. Years are counted from March, so that the leap
/// day ends a year.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    365 * year + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

/// The microseconds of `.123456…`, and what follows.
fn fraction(tail: &[u8]) -> Option<(i64, &[u8])> {
    let Some(digits) = tail.strip_prefix(b".") else {
        return Some((0, tail));
    };
    let count = digits.iter().take_while(|digit| digit.is_ascii_digit()).count();
    let (digits, zone) = digits.split_at_checked(count).filter(|_| count > 0)?;
    let micros = digits.iter().chain(b"000000").take(6);
    Some((micros.fold(0, |value, digit| value * 10 + i64::from(digit - b'0')), zone))
}

/// The zone's offset from UTC in seconds.
fn offset(zone: &[u8]) -> Option<i64> {
    let (sign, hours, minutes) = match *zone {
        [] | [b'Z' | b'z'] => return Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] | [sign @ (b'+' | b'-'), h1, h2, m1, m2] => {
            (sign, [h1, h2], [m1, m2])
        }
        _ => return None,
    };
    let seconds = number(&hours)? * 3_600 + number(&minutes)? * 60;
    Some(if sign == b'-' { -seconds } else { seconds })
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |value, digit| {
        digit.is_ascii_digit().then(|| value * 10 + i64::from(digit - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_and_six_digits_and_none_are_read() {
        assert_eq!(parse(b"1970-01-02 00:00:00.000001"), Some(86_400_000_001));
        assert_eq!(parse(b"1970-01-01 00:00:01.5"), Some(1_500_000));
        assert_eq!(parse(b"2025-03-01T00:00:00"), Some(1_740_787_200_000_000));
        assert_eq!(parse(b"2000-02-29 23:59:59.999999999Z"), Some(951_868_799_999_999));
    }

    #[test]
    fn a_zone_is_honoured_and_its_absence_is_utc() {
        assert_eq!(parse(b"1970-01-01T03:00:00-03:00"), Some(6 * 3_600_000_000));
        assert_eq!(parse(b"1970-01-01T03:00:00+0300"), Some(0));
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "",
            "2025",
            "2025-13-01 00:00:00",
            "2025-01-01 00:00:00.",
            "2025-01-01 00:00:00 x",
            "YYYY-MM-DD HH:mm:ss.SSS",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }
}
