//! A cache key that belongs to nobody in particular.

use unitgate::cache::stored::CacheKey;

fn main() {
    let _key = CacheKey::default();
}
