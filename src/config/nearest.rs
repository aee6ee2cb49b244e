//! The name that somebody may have meant.

/// The name that a mistyped one is nearest to, if it is near.
pub(super) fn nearest(key: &str, names: &[&'static str]) -> Option<&'static str> {
    let key = key.to_ascii_lowercase().replace('-', "_");
    if key.len() > 64 {
        return None;
    }
    let near = names.iter().map(|name| (distance(&key, name), *name));
    let (steps, name) = near.min_by_key(|(steps, _)| *steps)?;
    (steps.saturating_mul(2) <= name.len().max(key.len())).then_some(name)
}

/// Levenshtein's: the least number of letters inserted, left out or replaced.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (above, letter) in from.chars().enumerate() {
        let mut left = above.saturating_add(1);
        let mut next = vec![left];
        for (pair, other) in row.windows(2).zip(&to) {
            let &[diagonal, up] = pair else { continue };
            let replaced = diagonal.saturating_add(usize::from(letter != *other));
            left = replaced.min(up.saturating_add(1)).min(left.saturating_add(1));
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}
