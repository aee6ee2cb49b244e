//! The rules of masking, written down once more: what a reader of a body has to see in place of what was sent.
//!
//! *Why not* the masker's own parts? What they get wrong they would approve of.

use std::sync::LazyLock;

use unitgate::config::Secrets;

use super::json::Node;

/// What a value is by its name.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Role {
    Plain,
    Secret,
    Shape,
    Flag,
}

impl Role {
    /// The role of a member that stands among values of the role `around`.
    pub(super) fn of(name: &str, around: Self) -> Self {
        let name = normalised(name);
        let is = |listed: &str| name == normalised(listed);
        match around {
            _ if SECRETS.names.iter().any(|listed| is(listed)) => Self::Secret,
            Self::Shape if is("isTokenMasked") => Self::Flag,
            Self::Shape => Self::Shape,
            _ if SECRETS.objects.iter().any(|listed| is(listed)) => Self::Shape,
            _ if is("isTokenMasked") => Self::Flag,
            _ => Self::Plain,
        }
    }
}

pub(super) fn normalised(name: &str) -> String {
    name.chars()
        .filter(|one| !matches!(one, '_' | '-'))
        .map(|one| one.to_ascii_lowercase())
        .collect()
}

/// Judges what became of a value, where those around are of the role `around`, and says whether it was masked
/// itself.
pub(super) fn judge(before: &Node, after: &Node, around: Role) -> bool {
    judge_as(before, after, around, around)
}

fn judge_as(before: &Node, after: &Node, role: Role, around: Role) -> bool {
    let gone = |with: &str| assert_eq!(after, &Node::Text(with.to_owned()), "{before:?}");
    match (before, role) {
        (Node::List(values), Role::Plain | Role::Shape | Role::Flag) => {
            let Node::List(now) = after else { panic!("{before:?} became {after:?}") };
            assert_eq!(values.len(), now.len());
            let role = if role == Role::Flag { around } else { role };
            let masked: Vec<bool> =
                values.iter().zip(now).map(|(before, after)| judge(before, after, role)).collect();
            masked.contains(&true)
        }
        (Node::Members(members), Role::Plain | Role::Shape | Role::Flag) => {
            let Node::Members(now) = after else { panic!("{before:?} became {after:?}") };
            judge_members(members, now, if role == Role::Flag { around } else { role });
            false
        }
        (Node::List(_) | Node::Members(_), Role::Secret) => {
            gone(BARE);
            true
        }
        (Node::Scalar(text), Role::Secret | Role::Shape) if !is_word(text) => {
            gone(BARE);
            true
        }
        (Node::Text(text), Role::Secret | Role::Shape) if !text.is_empty() && !is_mask(text) => {
            gone(if text.starts_with("cal_") { PREFIXED } else { BARE });
            true
        }
        (Node::Text(text), Role::Flag) if !is_mask(text) => {
            let secret = has_key(text.as_bytes()) || around == Role::Shape && !text.is_empty();
            let marked = *after == Node::Scalar("true".to_owned());
            assert!(marked || !secret && after == before, "{before:?} became {after:?}");
            secret
        }
        (Node::Scalar(_), Role::Flag) => {
            let marked = *after == Node::Scalar("true".to_owned());
            assert!(marked || after == before, "{before:?} became {after:?}");
            false
        }
        (Node::Text(text), Role::Plain) => {
            let masked = without_keys(text.as_bytes());
            assert_eq!(
                after,
                &Node::Text(String::from_utf8_lossy(&masked).into_owned()),
                "{before:?}"
            );
            has_key(text.as_bytes())
        }
        _ => {
            assert_eq!(before, after);
            false
        }
    }
}

fn judge_members(before: &[(String, Node)], after: &[(String, Node)], around: Role) {
    assert_eq!(before.len(), after.len());
    let mut masked = false;
    for ((name, value), (shown, now)) in before.iter().zip(after) {
        assert_eq!(without_keys(name.as_bytes()), shown.as_bytes());
        masked |= judge_as(value, now, Role::of(name, around), around);
    }
    if !masked {
        return;
    }
    for (name, now) in after.iter().filter(|(name, _)| Role::of(name, around) == Role::Flag) {
        let said = match now {
            Node::Scalar(word) => word == "true",
            Node::Text(text) => is_mask(text),
            Node::List(_) | Node::Members(_) => true,
        };
        assert!(said, "{before:?}: {name} is {now:?}");
    }
}

/// `null`, `true` or `false`.
fn is_word(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
}

fn is_mask(text: &str) -> bool {
    let stars =
        ["cal_live_", "cal_test_", "cal_"].iter().find_map(|prefix| text.strip_prefix(prefix));
    let stars = stars.unwrap_or(text);
    stars.len() >= 3 && stars.bytes().all(|byte| byte == b'*')
}

/// The length of the key that begins at `at`, if one does.
fn key_at(text: &[u8], at: usize) -> Option<usize> {
    let before = at.checked_sub(1).is_some_and(|before| text[before].is_ascii_alphanumeric());
    let rest = text[at..].strip_prefix(b"cal_").filter(|_| !before)?;
    let run = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
    let kinds = [&b"live_"[..], b"test_", b""];
    let mut lengths =
        kinds.iter().filter_map(|kind| Some((kind.len(), run(rest.strip_prefix(*kind)?))));
    lengths.find(|(_, run)| *run >= 16).map(|(kind, run)| 4 + kind + run)
}

pub(super) fn without_keys(text: &[u8]) -> Vec<u8> {
    let mut shown = Vec::new();
    let mut at = 0;
    while at < text.len() {
        if let Some(length) = key_at(text, at) {
            shown.extend_from_slice(PREFIXED.as_bytes());
            at += length;
        } else {
            shown.push(text[at]);
            at += 1;
        }
    }
    shown
}

pub(super) fn has_key(text: &[u8]) -> bool {
    (0..text.len()).any(|at| key_at(text, at).is_some())
}

pub(super) static SECRETS: LazyLock<Secrets> = LazyLock::new(Secrets::default);

pub(super) const BARE: &str = "****************";

pub(super) const PREFIXED: &str = "cal_****************";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_finds_keys_as_the_rule_describes_them() {
        for (text, shown) in [
            ("cal_$k", "cal_****************"),
            ("x cal_live_$k.", "x cal_****************."),
            ("cal_cal_test_$k_a", "cal_cal_****************_a"),
            ("cal_live$k", "cal_****************"),
            ("xcal_$k cal_a1B2 cal_prod_$k", "xcal_$k cal_a1B2 cal_prod_$k"),
        ] {
            let [text, shown] =
                [text, shown].map(|text| text.replace("$k", &"a1B2".repeat(6)).into_bytes());
            assert_eq!(without_keys(&text), shown);
        }
    }
}
