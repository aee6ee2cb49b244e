//! What an answer shows of its first integration's secrets.

use serde_json::Value;

use crate::demo::client::Seen;

/// The secrets of an integration, bare or masked.
pub(super) struct Keys {
    pub(super) api_key: String,
    pub(super) is_token_masked: bool,
    pub(super) prompt: String,
}

impl Keys {
    /// Those of a unit's list.
    pub(super) fn of(seen: &Seen) -> Self {
        let body = seen.json();
        let first = body.pointer("/data/0").cloned().unwrap_or_default();
        let text =
            |name: &str| first.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        Self {
            api_key: text("apiKey"),
            is_token_masked: first
                .get("isTokenMasked")
                .and_then(Value::as_bool)
                .unwrap_or_default(),
            prompt: text("prompt"),
        }
    }

    /// The key in the prompt.
    pub(super) fn pasted(&self) -> &str {
        let words = self.prompt.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        words.into_iter().find(|word| word.starts_with("cal_")).unwrap_or("cal_")
    }

    /// Whether both are there in the clear.
    pub(super) fn are_bare(&self) -> bool {
        let bare = |key: &str| key.len() > 16 && !key.contains('*');
        bare(&self.api_key) && bare(self.pasted())
    }

    /// In words, without showing them.
    pub(super) fn described(&self) -> String {
        format!(
            "apiKey of {} characters, {} asterisks; isTokenMasked {}; a key of {} in prompt",
            self.api_key.len(),
            self.api_key.matches('*').count(),
            self.is_token_masked,
            self.pasted().len(),
        )
    }
}
