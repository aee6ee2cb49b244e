//! JSON as its reader sees it, but with every member, the order of members, and numbers as written.
//!
//! *Why not* `serde_json::Value`? Of two members with one name it keeps one, and numbers it reads. Here it
//! judges what is JSON, and unescapes strings; the rest is a walk over what it has accepted.

use std::str::from_utf8;

/// One value.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Node {
    /// A number, `true`, `false` or `null`, as written.
    Scalar(String),
    Text(String),
    List(Vec<Self>),
    Members(Vec<(String, Self)>),
}

impl Node {
    /// The value in `body`, if `serde_json` accepts it. It knows fewer depths and numbers than the grammar
    /// does, and refuses lone surrogates.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        serde_json::from_slice::<serde_json::Value>(body).ok()?;
        Some(Reader(body).value())
    }

    /// Whether the text stands in any string or name of it.
    pub(super) fn shows(&self, text: &str) -> bool {
        match self {
            Self::Scalar(_) => false,
            Self::Text(shown) => shown.contains(text),
            Self::List(values) => values.iter().any(|value| value.shows(text)),
            Self::Members(members) => {
                members.iter().any(|(name, value)| name.contains(text) || value.shows(text))
            }
        }
    }
}

/// What is left of a text that is JSON.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn value(&mut self) -> Node {
        match self.peek() {
            b'"' => Node::Text(self.text()),
            b'[' => Node::List(self.all(Self::value)),
            b'{' => Node::Members(self.all(|reader| {
                let name = reader.text();
                // The colon.
                reader.peek();
                reader.take(1);
                (name, reader.value())
            })),
            _ => {
                let ends = |byte: &u8| b",]} \t\r\n".contains(byte);
                let end = self.0.iter().position(ends).unwrap_or(self.0.len());
                Node::Scalar(from_utf8(self.take(end)).unwrap().to_owned())
            }
        }
    }

    /// What stands between two brackets.
    fn all<T>(&mut self, one: impl Fn(&mut Self) -> T) -> Vec<T> {
        let mut found = Vec::new();
        self.take(1);
        while !b"]}".contains(&self.peek()) {
            found.push(one(self));
            if self.peek() == b',' {
                self.take(1);
            }
        }
        self.take(1);
        found
    }

    fn text(&mut self) -> String {
        let mut end = 1;
        while self.0[end] != b'"' {
            end += if self.0[end] == b'\\' { 2 } else { 1 };
        }
        serde_json::from_slice(self.take(end + 1)).unwrap()
    }

    /// The first byte that is no white space, which is left where it is.
    fn peek(&mut self) -> u8 {
        self.0 = self.0.trim_ascii_start();
        self.0[0]
    }

    fn take(&mut self, count: usize) -> &[u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_members_are_read_in_order_and_numbers_as_written() {
        let body = br#" { "a\u0062" : [ 1.0, "", { } ,[]] ,"ab":null}"#;
        let list = vec![
            Node::Scalar("1.0".to_owned()),
            Node::Text(String::new()),
            Node::Members(vec![]),
            Node::List(vec![]),
        ];
        let members = vec![
            ("ab".to_owned(), Node::List(list)),
            ("ab".to_owned(), Node::Scalar("null".to_owned())),
        ];
        assert_eq!(Node::read(body), Some(Node::Members(members)));
        assert_eq!(Node::read(b"{} {}"), None);
    }
}
