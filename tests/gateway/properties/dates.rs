//! HTTP dates: exact both ways, whatever the form.
//!
//! An input has three lines: the present and a moment, both in seconds since 1970, and a text.
//!
//! *Claims*
//! 1. A written date reads back in each of the three forms (RFC 9110 §5.6.7), so a later one is a later
//!    moment.
//! 2. What is read writes back: nothing but the day's name and the case of letters is read leniently.
//! 3. Nothing may stand before or behind a date, and no zone but GMT in it.
//! 4. The present decides about two-digit years only: never more than 50 years ahead, nor a century behind.
//! 5. What the crate `httpdate` reads is the same moment here.

use std::time::{Duration, UNIX_EPOCH};

use unitgate::cache::policy::parse_date;

use super::lines;

/// Panics unless the claims of this file hold for `data`.
pub(crate) fn dates(data: &[u8]) {
    let mut lines = lines(data);
    let [now, second] = [(); 2].map(|()| number(lines.next().unwrap_or_default()));
    let now = Duration::from_secs(now);
    a_written_date_reads_back(second % YEAR_10_000, now);
    if let Some(text) = lines.next() {
        what_is_read_writes_back(text, now);
        nothing_but_case_is_lenient(text, now);
        another_reader_agrees(text, now);
    }
}

/// The digits of a line as a number, whatever else stands among them.
fn number(line: &[u8]) -> u64 {
    let digits = line.iter().filter(|byte| byte.is_ascii_digit());
    digits
        .fold(0, |number: u64, digit| number.wrapping_mul(10).wrapping_add(u64::from(digit - b'0')))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`
fn written(moment: Duration) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + moment)
}

/// `Sunday, 06-Nov-94 08:49:37 GMT` for the form above.
fn rfc850(date: &str) -> String {
    let (day, rest) = date.split_once(", ").unwrap();
    let long = LONG_DAYS.iter().find(|long| long.starts_with(day)).unwrap();
    let [day, month, year, time, zone] = split(rest);
    format!("{long}, {day}-{month}-{} {time} {zone}", year.get(2..).unwrap())
}

/// `Sun Nov  6 08:49:37 1994` for the form above.
fn asctime(date: &str) -> String {
    let (name, rest) = date.split_once(", ").unwrap();
    let [day, month, year, time, _] = split(rest);
    let day: u8 = day.parse().unwrap();
    format!("{name} {month} {day:2} {time} {year}")
}

fn split(rest: &str) -> [&str; 5] {
    rest.split(' ').collect::<Vec<_>>().try_into().unwrap()
}

fn a_written_date_reads_back(second: u64, now: Duration) {
    let moment = Duration::from_secs(second);
    let date = written(moment);
    for form in [&date, &asctime(&date)] {
        assert_eq!(parse_date(form.as_bytes(), now), Some(moment), "{form}");
    }
    let short = rfc850(&date);
    let read = parse_date(short.as_bytes(), now);
    // The year of the present may be off at its turn, so the ends of the century are left out.
    if second.abs_diff(now.as_secs()) < 49 * YEAR && now.as_secs() < YEAR_10_000 {
        assert_eq!(read, Some(moment), "{short} in {now:?}");
    }
    a_short_year_is_near(&short, now);
}

/// Claim 4 for a date with a two-digit year.
fn a_short_year_is_near(text: &str, now: Duration) {
    let Some(moment) = parse_date(text.as_bytes(), now) else { return };
    if now.as_secs() >= YEAR_10_000 {
        return;
    }
    assert!(moment <= now.saturating_add(Duration::from_secs(52 * YEAR)), "{text} in {now:?}");
    // Long ago there is no such date but the epoch.
    let long_ago = moment.is_zero();
    assert!(
        long_ago || moment.saturating_add(Duration::from_secs(52 * YEAR)) >= now,
        "{text} in {now:?}"
    );
}

fn what_is_read_writes_back(text: &[u8], now: Duration) {
    let Some(moment) = parse_date(text, now) else { return };
    let text = std::str::from_utf8(text).expect("a date is ASCII");
    assert!(moment.subsec_nanos() == 0);
    if text.contains('-') {
        a_short_year_is_near(text, now);
    } else {
        assert_eq!(parse_date(text.as_bytes(), Duration::ZERO), Some(moment), "{text}");
    }
    // The epoch stands for all that was before it, and what is later than the year 9999 can't be written.
    if moment.is_zero() || moment.as_secs() >= YEAR_10_000 {
        return;
    }
    let date = written(moment);
    let forms = match (text.contains(','), text.contains('-')) {
        (true, true) => [rfc850(&date), String::new()],
        (true, false) => [date, String::new()],
        // A day of one digit may have a zero before it.
        (false, _) => [asctime(&date), asctime(&date).replacen("  ", " 0", 1)],
    };
    // A leap second is taken for the one before it.
    let read = text.replacen(":60 ", ":59 ", 1);
    let read = without_day(&read);
    let same = forms.iter().any(|form| read.eq_ignore_ascii_case(without_day(form)));
    assert!(same, "{text} was read as {forms:?}");
}

/// The date without the name of its day.
fn without_day(date: &str) -> &str {
    date.split_once(' ').map_or(date, |(_, rest)| rest)
}

fn nothing_but_case_is_lenient(text: &[u8], now: Duration) {
    let moment = parse_date(text, now);
    assert_eq!(parse_date(&text.to_ascii_uppercase(), now), moment);
    assert_eq!(parse_date(&text.to_ascii_lowercase(), now), moment);
    if moment.is_none() {
        return;
    }
    for noise in [&b" "[..], b"\t", b"0", b",", b"x", b"\0"] {
        assert_eq!(parse_date(&[noise, text].concat(), now), None);
        assert_eq!(parse_date(&[text, noise].concat(), now), None);
    }
    if let Some(head) = text.strip_suffix(b"GMT") {
        for zone in [&b""[..], b"UTC", b"GM", b"+00", b"   "] {
            assert_eq!(parse_date(&[head, zone].concat(), now), None);
        }
    }
}

fn another_reader_agrees(text: &[u8], now: Duration) {
    let Ok(text) = std::str::from_utf8(text) else { return };
    let Ok(theirs) = httpdate::parse_http_date(text) else { return };
    // It passes over white space, and has a century of its own for two-digit years.
    if text.trim() != text || text.contains('-') {
        return;
    }
    let theirs = theirs.duration_since(UNIX_EPOCH).ok();
    assert_eq!(parse_date(text.as_bytes(), now), theirs, "{text}");
}

/// The mean year in seconds.
const YEAR: u64 = 31_556_952;

/// The first second that has no HTTP date.
const YEAR_10_000: u64 = 253_402_300_800;

const LONG_DAYS: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_are_written_as_the_rfc_does() {
        let date = written(Duration::from_secs(784_111_777));
        assert_eq!(date, "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(rfc850(&date), "Sunday, 06-Nov-94 08:49:37 GMT");
        assert_eq!(asctime(&date), "Sun Nov  6 08:49:37 1994");
    }

    #[test]
    fn dates_at_the_ends_of_centuries_hold() {
        for now in [0_u64, 946_684_799, 4_102_444_800, 253_402_300_799, u64::MAX] {
            for second in [0_u64, 951_782_400, 4_107_542_399, 253_402_300_799] {
                dates(format!("{now}\n{second}\nSat, 29 Feb 2000 23:59:60 GMT").as_bytes());
            }
        }
    }
}
