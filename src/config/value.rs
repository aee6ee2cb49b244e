//! Readers for the kinds of value a key can have, and how each is written back.
//!
//! *Invariants*
//! 1. What a `show_…` writes, its reader reads back to the same value.
//! 2. A value from the environment is read by the same rules: text as it is, lists with commas.
//! 3. Numbers from outside saturate or are refused; none wraps.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::fault::Fault;
use super::names::Named;

/// A value as it was given.
#[derive(Clone, Copy)]
pub(super) enum Value<'a> {
    /// In the file.
    Toml(&'a DeValue<'a>),
    /// In the environment.
    Env(&'a str),
}

impl<'a> Value<'a> {
    /// The text of a string; `wanted` says what should stand there.
    pub(super) fn text(self, wanted: &str) -> Result<&'a str, Fault> {
        match self {
            Self::Toml(DeValue::String(text)) => Ok(text),
            Self::Env(text) => Ok(text.trim()),
            Self::Toml(_) => Err(self.unexpected(wanted)),
        }
    }

    /// The text, if it is one.
    pub(super) fn as_text(self) -> Option<&'a str> {
        self.text("").ok()
    }

    /// The table, if it is one.
    pub(super) fn as_table(self) -> Option<&'a DeTable<'a>> {
        match self {
            Self::Toml(value) => value.as_table(),
            Self::Env(_) => None,
        }
    }

    /// A whole number, if it is one that fits.
    fn as_number(self) -> Option<u64> {
        match self {
            Self::Toml(DeValue::Integer(number)) => {
                u64::from_str_radix(number.as_str(), number.radix()).ok()
            }
            Self::Toml(_) => None,
            Self::Env(text) => text.trim().parse().ok(),
        }
    }

    /// Truth, if it is one.
    pub(super) fn as_flag(self) -> Option<bool> {
        match self {
            Self::Toml(value) => value.as_bool(),
            Self::Env(text) => text.trim().parse().ok(),
        }
    }

    /// The mistake that something else stands where `wanted` should.
    pub(super) fn unexpected(self, wanted: &str) -> Fault {
        let problem = match self {
            Self::Toml(DeValue::Integer(number)) => format!("the number {number} can't stand here"),
            Self::Toml(value) => format!("a value of type {} can't stand here", value.type_str()),
            Self::Env(text) => format!("{text:?} can't be read"),
        };
        Fault::new(problem, format!("write {wanted}"))
    }
}

/// `true` or `false`.
pub(super) fn flag(value: Value<'_>) -> Result<bool, Fault> {
    value.as_flag().ok_or_else(|| value.unexpected("true or false, without quotes"))
}

/// One of a closed set of names.
pub(super) fn choice<T: Named>(value: Value<'_>) -> Result<T, Fault> {
    let names: Vec<String> = T::NAMES.iter().map(|(name, _)| format!("{name:?}")).collect();
    let wanted = names.join(" or ");
    let text = value.text(&wanted)?;
    let found = T::NAMES.iter().find(|(name, _)| *name == text);
    found
        .map(|(_, value)| *value)
        .ok_or_else(|| Fault::new(format!("{text:?} is not known here"), format!("write {wanted}")))
}

/// A whole number within a range.
pub(super) fn count<T>(range: RangeInclusive<T>) -> impl Fn(Value<'_>) -> Result<T, Fault>
where
    T: Copy + Display + PartialOrd + TryFrom<u64>,
{
    move |value| {
        let wanted = format!("a whole number from {} to {}", range.start(), range.end());
        let number = value.as_number().ok_or_else(|| value.unexpected(&wanted))?;
        let fits = T::try_from(number).ok().filter(|number| range.contains(number));
        fits.ok_or_else(|| {
            Fault::new(format!("{number} is out of range"), format!("write {wanted}"))
        })
    }
}

/// A deadline: 100 ms to a day.
pub(super) fn timeout(value: Value<'_>) -> Result<Duration, Fault> {
    duration(value, Duration::from_millis(100)..=DAY)
}

/// A wait that may be left out: 0, or 100 ms to an hour.
pub(super) fn wait(value: Value<'_>) -> Result<Duration, Fault> {
    zero(value).map_or_else(|| duration(value, Duration::from_millis(100)..=HOUR), Ok)
}

/// A lifetime: a second to a year.
pub(super) fn lifetime(value: Value<'_>) -> Result<Duration, Fault> {
    duration(value, Duration::from_secs(1)..=YEAR)
}

/// A window that may be switched off: 0, or a second to a year.
pub(super) fn window(value: Value<'_>) -> Result<Duration, Fault> {
    zero(value).map_or_else(|| lifetime(value), Ok)
}

/// The zero of a duration, with or without a unit.
fn zero(value: Value<'_>) -> Option<Duration> {
    let zero = value.as_number() == Some(0)
        || value.as_text().and_then(parse_duration).is_some_and(|length| length.is_zero());
    zero.then_some(Duration::ZERO)
}

/// A duration within a range.
fn duration(value: Value<'_>, range: RangeInclusive<Duration>) -> Result<Duration, Fault> {
    let remedy = || {
        let (least, most) = (show_duration(*range.start()), show_duration(*range.end()));
        format!("write {DURATION}, from \"{least}\" to \"{most}\"")
    };
    if let Some(number) = value.as_number().filter(|number| *number != 0) {
        return Err(Fault::new(format!("{number} has no unit"), format!("write {DURATION}")));
    }
    if value.as_number() == Some(0) {
        return Err(Fault::new("0 is out of range", remedy()));
    }
    let text = value.text(DURATION)?;
    let length = parse_duration(text).ok_or_else(|| {
        Fault::new(format!("{text:?} is no duration"), format!("write {DURATION}"))
    })?;
    if range.contains(&length) {
        return Ok(length);
    }
    Err(Fault::new(format!("{text:?} is out of range"), remedy()))
}

fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split_unit(text)?;
    match unit {
        "" if number == 0 => Some(Duration::ZERO),
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(number.checked_mul(60)?)),
        "h" => Some(Duration::from_secs(number.checked_mul(3600)?)),
        "d" => Some(Duration::from_secs(number.checked_mul(86_400)?)),
        _ => None,
    }
}

/// A duration as its reader takes it, in the largest unit that is exact; up to two minutes in seconds.
pub(super) fn show_duration(length: Duration) -> String {
    let seconds = length.as_secs();
    if length.subsec_nanos() != 0 {
        return format!("{}ms", length.as_millis());
    }
    match seconds {
        _ if seconds < 120 || !seconds.is_multiple_of(60) => format!("{seconds}s"),
        _ if seconds.is_multiple_of(86_400) => format!("{}d", seconds / 86_400),
        _ if seconds.is_multiple_of(3600) => format!("{}h", seconds / 3600),
        _ => format!("{}m", seconds / 60),
    }
}

/// A number of bytes within a range: `"64MiB"`, or plain.
pub(super) fn size<T>(range: RangeInclusive<T>) -> impl Fn(Value<'_>) -> Result<T, Fault>
where
    T: Copy + PartialOrd + TryFrom<u64> + Into<Bytes>,
{
    move |value| {
        let bytes = if let Some(number) = value.as_number() {
            number
        } else {
            let text = value.text(SIZE)?;
            parse_size(text).ok_or_else(|| {
                Fault::new(format!("{text:?} is no size"), format!("write {SIZE}"))
            })?
        };
        let fits = T::try_from(bytes).ok().filter(|bytes| range.contains(bytes));
        fits.ok_or_else(|| {
            let shown = [range.start(), range.end()].map(|end| show_size((*end).into()));
            let [least, most] = shown;
            let problem = format!("{bytes} bytes are out of range");
            Fault::new(problem, format!("write {SIZE}, from {least} to {most}"))
        })
    }
}

fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text)?;
    let factor = match unit {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// A size as its reader takes it, in the largest binary unit that is exact.
pub(super) fn show_size(bytes: Bytes) -> String {
    let Bytes(bytes) = bytes;
    let units = [("GiB", 30_u32), ("MiB", 20), ("KiB", 10)];
    let exact = units.iter().find(|(_, bits)| bytes != 0 && bytes.trailing_zeros() >= *bits);
    exact.map_or_else(|| bytes.to_string(), |(unit, bits)| format!("\"{}{unit}\"", bytes >> bits))
}

/// Bytes, whatever the width of the number that counts them.
#[derive(Clone, Copy)]
pub(super) struct Bytes(u64);

impl From<u64> for Bytes {
    fn from(bytes: u64) -> Self {
        Self(bytes)
    }
}

impl From<usize> for Bytes {
    fn from(bytes: usize) -> Self {
        Self(u64::try_from(bytes).unwrap_or(u64::MAX))
    }
}

/// A part of up to one half, `"10%"`, with at most two decimals.
pub(super) fn percent(value: Value<'_>) -> Result<f64, Fault> {
    part(value, 0..=50)
}

/// A part of up to the whole.
pub(super) fn share(value: Value<'_>) -> Result<f64, Fault> {
    part(value, 0..=100)
}

/// A part that is not nothing, of up to the whole.
pub(super) fn some_share(value: Value<'_>) -> Result<f64, Fault> {
    part(value, 1..=100)
}

/// A part between two whole numbers of percent.
fn part(value: Value<'_>, range: RangeInclusive<u16>) -> Result<f64, Fault> {
    let (least, most) = (*range.start(), *range.end());
    let wanted = format!("a percentage from \"{least}%\" to \"{most}%\", such as \"10%\"");
    let text = value.text(&wanted)?;
    let problem = || Fault::new(format!("{text:?} is no such part"), format!("write {wanted}"));
    let number = text.strip_suffix('%').ok_or_else(problem)?;
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(decimals) || decimals.len() > 2 {
        return Err(problem());
    }
    // Counted in hundredths of a percent, so that every value that can be read is shown exactly.
    let whole: u16 = whole.parse().ok().filter(|whole| *whole <= most).ok_or_else(problem)?;
    let decimals: u16 = format!("{decimals:0<2}").parse().unwrap_or_default();
    let hundredths = whole.saturating_mul(100).saturating_add(decimals);
    if !(least * 100..=most * 100).contains(&hundredths) {
        return Err(problem());
    }
    Ok(f64::from(hundredths) / 10_000.0)
}

/// A part as its reader takes it.
pub(super) fn show_percent(part: f64) -> String {
    let text = format!("{:.2}", part * 100.0);
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("\"{text}%\"")
}

/// A list of what `item` reads; a single value is a list of one; none twice.
pub(super) fn list<T: PartialEq>(
    item: impl Fn(Value<'_>) -> Result<T, Fault>,
) -> impl Fn(Value<'_>) -> Result<Vec<T>, Fault> {
    move |value| {
        let mut items = Vec::new();
        let mut faults: Vec<Fault> = Vec::new();
        for given in parts(value) {
            match item(given) {
                Ok(item) if items.contains(&item) => {
                    let shown = given.as_text().unwrap_or_default();
                    faults.push(Fault::new(format!("{shown:?} stands twice"), "keep one of them"));
                }
                Ok(item) => items.push(item),
                Err(fault) => faults.push(fault),
            }
        }
        let problems: Vec<&str> = faults.iter().map(|fault| fault.problem.as_str()).collect();
        match faults.first() {
            None => Ok(items),
            Some(first) => Err(Fault::new(problems.join("; "), first.remedy.clone())),
        }
    }
}

/// A list that names at least one.
pub(super) fn filled<T>(
    list: impl Fn(Value<'_>) -> Result<Vec<T>, Fault>,
) -> impl Fn(Value<'_>) -> Result<Vec<T>, Fault> {
    move |value| match list(value)? {
        items if items.is_empty() => Err(Fault::new("is an empty list", "name at least one")),
        items => Ok(items),
    }
}

fn parts(value: Value<'_>) -> Vec<Value<'_>> {
    match value {
        Value::Toml(DeValue::Array(items)) => {
            items.iter().map(|item| Value::Toml(item.get_ref())).collect()
        }
        Value::Env(text) if text.trim().is_empty() => Vec::new(),
        Value::Env(text) => text.split(',').map(Value::Env).collect(),
        Value::Toml(_) => vec![value],
    }
}

/// Text as a TOML string.
pub(super) fn quote(text: &str) -> String {
    let escape = |character: char| match character {
        '"' | '\\' => format!("\\{character}"),
        _ if character.is_control() => format!("\\u{:04X}", u32::from(character)),
        _ => character.to_string(),
    };
    format!("\"{}\"", text.chars().map(escape).collect::<String>())
}

/// A number and the unit behind it.
fn split_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    Some((number.parse().ok()?, unit.trim_start()))
}

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
const YEAR: Duration = Duration::from_hours(365 * 24);
const DURATION: &str = "a whole number and ms, s, m, h or d in quotes, such as \"30s\"";
const SIZE: &str = "a number of bytes, or one with KiB, MiB or GiB in quotes, such as \"64MiB\"";
