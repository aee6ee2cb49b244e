//! A token is shown to people.

use unitgate::caller::Token;

fn show(token: &Token) -> String {
    format!("{token}")
}

fn main() {
    let _ = show;
}
