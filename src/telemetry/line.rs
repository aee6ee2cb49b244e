//! One log line, as JSON or text, written into a buffer by hand.
//!
//! *Invariants*
//! 1. Whatever the values hold, a line is one line: every control byte is escaped.
//! 2. A JSON line is valid JSON (RFC 8259); a text line is printable ASCII, so that no terminal obeys it.
//! 3. A value is at most [`LONGEST`] bytes, or fewer where they are told; what is cut off is marked.
//!
//! *Why by hand:* every request writes one; this takes a tenth of what a serializer behind `tracing` does.

use std::cell::Cell;
use std::net::IpAddr;
use std::time::Duration;

/// A line, of JSON or text, that is being written to the end of a buffer.
///
/// *Why the format is a part of its type:* its names and marks are of known length then, each a store or two where
/// it was a call. An access line has some forty.
#[derive(Debug)]
pub(crate) struct Line<'a, const JSON: bool>(&'a mut Vec<u8>);

/// What a member is called.
pub(crate) trait Name: Copy {
    /// The comma or space before a member, its name and what stands before its value.
    fn write<const JSON: bool>(self, out: &mut Vec<u8>);

    /// The same, and the quote before a word.
    fn open<const JSON: bool>(self, out: &mut Vec<u8>);
}

/// A name that every access line has: [`ready`] for both formats, since piece by piece a line's names cost as
/// much as its values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ready {
    pub(crate) json: &'static str,
    pub(crate) json_word: &'static str,
    pub(crate) text: &'static str,
}

/// Makes a [`Ready`] of a name.
macro_rules! ready {
    ($name:literal) => {
        $crate::telemetry::line::Ready {
            json: concat!(",\"", $name, "\":"),
            json_word: concat!(",\"", $name, "\":\""),
            text: concat!(" ", $name, "="),
        }
    };
}
pub(crate) use ready;

impl Name for Ready {
    #[inline]
    fn write<const JSON: bool>(self, out: &mut Vec<u8>) {
        out.extend_from_slice(if JSON { self.json } else { self.text }.as_bytes());
    }

    #[inline]
    fn open<const JSON: bool>(self, out: &mut Vec<u8>) {
        out.extend_from_slice(if JSON { self.json_word } else { self.text }.as_bytes());
    }
}

/// Names are ours, or identifiers of a dependency's source.
impl Name for &str {
    fn write<const JSON: bool>(self, out: &mut Vec<u8>) {
        let [before, after] = if JSON { [",\"", "\":"] } else { [" ", "="] };
        for part in [before, self, after] {
            out.extend_from_slice(part.as_bytes());
        }
    }

    fn open<const JSON: bool>(self, out: &mut Vec<u8>) {
        self.write::<JSON>(out);
        out.extend_from_slice(if JSON { "\"" } else { "" }.as_bytes());
    }
}

/// Whole members, in both formats.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Members {
    pub(crate) json: &'static str,
    pub(crate) text: &'static str,
}

impl<'a, const JSON: bool> Line<'a, JSON> {
    /// Begins a line at `wall`, the time since the Unix epoch.
    pub(crate) fn begin(out: &'a mut Vec<u8>, wall: Duration) -> Self {
        let mut line = Self(out);
        line.0.extend_from_slice(if JSON { "{\"time\":" } else { "time=" }.as_bytes());
        line.quote();
        timestamp(line.0, wall);
        line.quote();
        line
    }

    /// Whole members, as they are.
    pub(crate) fn members(&mut self, members: Members) {
        self.0.extend_from_slice(if JSON { members.json } else { members.text }.as_bytes());
    }

    /// A string.
    pub(crate) fn text(&mut self, name: impl Name, value: &str) {
        self.text_within(name, value, LONGEST);
    }

    /// A string of which at most so many bytes are shown.
    pub(crate) fn text_within(&mut self, name: impl Name, value: &str, most: usize) {
        self.name(name);
        let (value, cut) = shortened(value, most);
        if JSON {
            json_string(self.0, value, cut);
        } else {
            text_value(self.0, value, cut);
        }
    }

    /// A whole number.
    pub(crate) fn number(&mut self, name: impl Name, value: impl Into<u64>) {
        self.name(name);
        self.integer(value.into());
    }

    /// A whole number that may be below zero.
    pub(crate) fn signed(&mut self, name: impl Name, value: i64) {
        self.name(name);
        self.0.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    /// A duration in milliseconds, to the microsecond.
    pub(crate) fn millis(&mut self, name: impl Name, value: Duration) {
        self.name(name);
        let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
        self.integer(micros / 1_000);
        let [_, tenths, hundredths, thousandths] = digits(micros % 1_000);
        self.0.extend_from_slice(&[b'.', tenths, hundredths, thousandths]);
    }

    /// A truth value.
    pub(crate) fn truth(&mut self, name: impl Name, value: bool) {
        self.name(name);
        self.0.extend_from_slice(if value { b"true" } else { b"false" });
    }

    /// A word that needs no escape: a label of ours, a route's name.
    pub(crate) fn word(&mut self, name: impl Name, value: impl AsRef<[u8]>) {
        name.open::<JSON>(self.0);
        self.0.extend_from_slice(value.as_ref());
        self.quote();
    }

    /// An address; an IPv4 one that came in through an IPv6 socket is shown as IPv4.
    pub(crate) fn address(&mut self, name: impl Name, value: IpAddr) {
        let v4 = match value.to_canonical() {
            IpAddr::V4(v4) => v4,
            IpAddr::V6(v6) => return self.text(name, &v6.to_string()),
        };
        name.open::<JSON>(self.0);
        let [a, b, c, d] = v4.octets();
        octet(self.0, a);
        for next in [b, c, d] {
            self.0.push(b'.');
            octet(self.0, next);
        }
        self.quote();
    }

    /// Ends the line.
    pub(crate) fn end(self) {
        self.0.extend_from_slice(if JSON { "}\n" } else { "\n" }.as_bytes());
    }

    fn name(&mut self, name: impl Name) {
        name.write::<JSON>(self.0);
    }

    fn quote(&mut self) {
        if JSON {
            self.0.push(b'"');
        }
    }

    fn integer(&mut self, value: u64) {
        match u8::try_from(value) {
            Ok(small) => octet(self.0, small),
            Err(_) => self.0.extend_from_slice(itoa::Buffer::new().format(value).as_bytes()),
        }
    }
}

/// A number below 256: where the length is known, writing is a store, and a line has six or more of them.
fn octet(out: &mut Vec<u8>, value: u8) {
    let digit = |value: u8| b'0' + value % 10;
    match value {
        0..10 => out.push(digit(value)),
        10..100 => out.extend_from_slice(&[digit(value / 10), digit(value)]),
        _ => out.extend_from_slice(&[digit(value / 100), digit(value / 10), digit(value)]),
    }
}

/// RFC 3339 in UTC, to the millisecond. The second's part is kept by each thread until the next.
fn timestamp(out: &mut Vec<u8>, wall: Duration) {
    let (seconds, [_, f1, f2, f3]) = (wall.as_secs(), digits(u64::from(wall.subsec_millis())));
    let (kept, mut text) = SECOND.get();
    if kept != Some(seconds) {
        text = second(seconds);
        SECOND.set((Some(seconds), text));
    }
    out.extend_from_slice(&text);
    out.extend_from_slice(&[b'.', f1, f2, f3, b'Z']);
}

/// RFC 3339 in UTC, to the second.
fn second(seconds: u64) -> [u8; 19] {
    let (year, month, day) = date(seconds / 86_400);
    let [hour, minute, second] = [seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60];
    let [y1, y2, y3, y4] = digits(year);
    let [_, _, m1, m2] = digits(month);
    let [_, _, d1, d2] = digits(day);
    let [_, _, h1, h2] = digits(hour);
    let [_, _, n1, n2] = digits(minute);
    let [_, _, s1, s2] = digits(second);
    [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, b'T', h1, h2, b':', n1, n2, b':', s1, s2]
}

/// Year, month and day of the proleptic Gregorian calendar, `days` after 1970-01-01.
///
/// Years are counted from 1 March, so that the leap day is the last of its year; 400 of them have
/// 146,097 days. From March on, the months' lengths repeat as 153 days in five months.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // from 1 March of year 0
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next, month, day)
}

/// The last four decimal digits of `value`.
fn digits(value: u64) -> [u8; 4] {
    [1_000, 100, 10, 1].map(|place| b'0' + u8::try_from(value / place % 10).unwrap_or_default())
}

/// At most so many bytes of `value`, and what marks the cut.
fn shortened(value: &str, most: usize) -> (&str, &'static str) {
    if value.len() <= most {
        return (value, "");
    }
    let head = value.get(..value.floor_char_boundary(most));
    (head.unwrap_or_default(), "...")
}

fn json_string(out: &mut Vec<u8>, value: &str, cut: &str) {
    out.push(b'"');
    if all_are(value, is_plain) {
        out.extend_from_slice(value.as_bytes());
    } else {
        for character in value.chars() {
            json_character(out, character);
        }
    }
    out.extend_from_slice(cut.as_bytes());
    out.push(b'"');
}

fn json_character(out: &mut Vec<u8>, character: char) {
    match character {
        '"' | '\\' => out.extend_from_slice(&[b'\\', u8::try_from(character).unwrap_or(b'?')]),
        // Beyond what RFC 8259 §7 asks for: DEL and the C1 controls too; all of them are below U+0100.
        control if control.is_control() => {
            let code = u32::from(control);
            out.extend_from_slice(b"\\u00");
            for nibble in [code >> 4 & 0xf, code & 0xf] {
                out.push(
                    char::from_digit(nibble, 16).and_then(|c| u8::try_from(c).ok()).unwrap_or(b'0'),
                );
            }
        }
        other => out.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

fn text_value(out: &mut Vec<u8>, value: &str, cut: &str) {
    if !value.is_empty() && all_are(value, |b| is_plain(b) && b != b' ' && b != b'=') {
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(cut.as_bytes());
        return;
    }
    out.push(b'"');
    for character in value.chars() {
        let mut escaped = character.escape_default();
        if character == '\'' {
            out.push(b'\'');
        } else {
            out.extend(escaped.by_ref().filter_map(|c| u8::try_from(c).ok()));
        }
    }
    out.extend_from_slice(cut.as_bytes());
    out.push(b'"');
}

/// Whether all bytes are so. It never stops early, so that sixteen are looked at in one step.
fn all_are(value: &str, so: impl Fn(u8) -> bool) -> bool {
    value.bytes().fold(true, |all, byte| all & so(byte))
}

/// Printable ASCII that no format escapes.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

thread_local! {
    /// The second of the last line, and how it is written.
    static SECOND: Cell<(Option<u64>, [u8; 19])> = const { Cell::new((None, [0; 19])) };
}

/// Longest value in bytes.
const LONGEST: usize = 4_096;

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn timestamps_are_rfc_3339_in_utc_through_leap_years_and_centuries() {
        let shown = |seconds: u64, millis| {
            let wall = Duration::from_secs(seconds) + Duration::from_millis(millis);
            written(|out| timestamp(out, wall))
        };
        assert_eq!(shown(0, 0), "1970-01-01T00:00:00.000Z");
        assert_eq!(shown(951_782_399, 999), "2000-02-28T23:59:59.999Z");
        assert_eq!(shown(951_782_400, 0), "2000-02-29T00:00:00.000Z");
        assert_eq!(shown(1_709_251_199, 1), "2024-02-29T23:59:59.001Z");
        assert_eq!(shown(1_709_251_200, 0), "2024-03-01T00:00:00.000Z");
        assert_eq!(shown(4_107_542_400, 0), "2100-03-01T00:00:00.000Z");
        assert_eq!(shown(253_402_300_799, 0), "9999-12-31T23:59:59.000Z");
    }

    #[test]
    fn consecutive_days_have_consecutive_dates_for_eight_centuries() {
        let lengths = |year: u64| {
            let leap =
                year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
            [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
        };
        let mut expected = (1970, 1, 1);
        for days in 0..293_000 {
            assert_eq!(date(days), expected);
            let (year, month, day) = expected;
            let month_index = usize::try_from(month - 1).unwrap();
            expected = match () {
                () if day < lengths(year)[month_index] => (year, month, day + 1),
                () if month < 12 => (year, month + 1, 1),
                () => (year + 1, 1, 1),
            };
        }
    }

    #[test]
    fn any_character_survives_json_and_none_of_them_controls_a_terminal() {
        let every: Vec<char> =
            (0..=0x2_100).filter_map(char::from_u32).chain(['\u{1f980}']).collect();
        for some in every.chunks(100) {
            let value: String = some.iter().collect();
            let json = written(|out| json_string(out, &value, ""));
            assert_eq!(serde_json::from_str::<String>(&json).unwrap(), value);
            assert!(!json.chars().any(char::is_control));
            let text = written(|out| text_value(out, &value, ""));
            assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{text}");
        }
    }

    #[test]
    fn a_long_value_is_cut_between_characters_and_marked() {
        let long = "é".repeat(LONGEST);
        let (head, mark) = shortened(&long, LONGEST);
        assert_eq!((head.len(), mark), (LONGEST, "..."));
        assert_eq!(shortened("short", 5), ("short", ""));
        let odd = format!("x{long}");
        assert_eq!(shortened(&odd, LONGEST).0.len(), LONGEST - 1);
    }

    #[test]
    fn a_name_that_is_ready_is_written_as_any_other() {
        fn members<const JSON: bool>(name: impl Name) -> String {
            written(|out| {
                let mut line = Line::<JSON>(out);
                line.word(name, "w");
                line.number(name, 1_u64);
                line.text(name, "t");
                line.address(name, IpAddr::V6(Ipv6Addr::LOCALHOST));
                line.address(name, [192, 0, 2, 1].into());
            })
        }
        assert_eq!(members::<true>(ready!("a_b")), members::<true>("a_b"));
        assert_eq!(members::<false>(ready!("a_b")), members::<false>("a_b"));
        assert!(members::<true>("a_b").starts_with(r#","a_b":"w","a_b":1,"a_b":"t","#));
    }

    #[test]
    fn numbers_are_written_in_decimal_whatever_their_size() {
        for value in [0, 9, 10, 99, 100, 255, 256, 1_234, u64::MAX] {
            let shown = written(|out| Line::<false>(out).number("n", value));
            assert_eq!(shown, format!(" n={value}"));
        }
        assert_eq!(
            written(|out| Line::<true>(out).signed("n", i64::MIN)),
            format!(r#","n":{}"#, i64::MIN)
        );
    }

    #[test]
    fn an_empty_value_is_still_a_value_in_text() {
        assert_eq!(written(|out| text_value(out, "", "")), r#""""#);
    }

    #[test]
    fn every_octet_of_an_address_is_written_in_decimal() {
        for value in 0..=u8::MAX {
            assert_eq!(written(|out| octet(out, value)), value.to_string());
        }
    }

    #[test]
    fn addresses_are_shown_without_their_mapping() {
        let shown = |ip: IpAddr| {
            written(|out| {
                let mut line = Line::<true>(out);
                line.address("peer", ip);
            })
        };
        assert_eq!(shown("::ffff:192.0.2.1".parse().unwrap()), r#","peer":"192.0.2.1""#);
        assert_eq!(shown(IpAddr::V6(Ipv6Addr::LOCALHOST)), r#","peer":"::1""#);
    }

    #[test]
    fn a_duration_is_told_to_the_microsecond() {
        let shown = |micros| {
            written(|out| {
                let mut line = Line::<false>(out);
                line.millis("ms", Duration::from_micros(micros));
            })
        };
        assert_eq!(shown(7), " ms=0.007");
        assert_eq!(shown(12_034_005), " ms=12034.005");
    }
}
