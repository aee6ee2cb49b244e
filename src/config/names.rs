//! The enums of the configuration and the names of their values: read and shown from one table.

use super::{CallerMode, ForwardMode, Http2, Level, LogFormat, LogOutput, LogTarget, SecretsMode};

/// An enum whose values have a name in the configuration.
pub(super) trait Named: Copy + PartialEq + 'static {
    /// Each value with its name.
    const NAMES: &'static [(&'static str, Self)];

    /// The value's name.
    fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, value)| *value == self).map_or("", |(name, _)| name)
    }
}

impl Named for Level {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];
}

impl Named for LogFormat {
    const NAMES: &'static [(&'static str, Self)] = &[("json", Self::Json), ("text", Self::Text)];
}

impl Named for LogOutput {
    const NAMES: &'static [(&'static str, Self)] =
        &[("stdout", Self::Stdout), ("stderr", Self::Stderr)];
}

impl Named for LogTarget {
    const NAMES: &'static [(&'static str, Self)] =
        &[("full", Self::Full), ("digest", Self::Digest), ("off", Self::Off)];
}

impl Named for Http2 {
    const NAMES: &'static [(&'static str, Self)] =
        &[("tls", Self::Tls), ("all", Self::All), ("off", Self::Off)];
}

impl Named for CallerMode {
    const NAMES: &'static [(&'static str, Self)] = &[("token", Self::Token), ("open", Self::Open)];
}

impl Named for ForwardMode {
    const NAMES: &'static [(&'static str, Self)] = &[("key", Self::Key), ("all", Self::All)];
}

impl Named for SecretsMode {
    const NAMES: &'static [(&'static str, Self)] =
        &[("mask", Self::Mask), ("verbatim", Self::Verbatim)];
}
