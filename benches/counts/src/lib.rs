//! Nothing is here: the counts are in `counts.rs`.
