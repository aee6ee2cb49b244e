//! Purging: what an operator wants gone, found and ended.
//!
//! *Invariants*
//! 1. What is under way is ended first, by its generation; what is stored is counted and freed after
//!    that, so that nothing slips in between. (The counts are of a moment; the ending is not.)
//! 2. It takes a scan of what is stored: on a thread of its own, never on a request's.

use http::uri::PathAndQuery;

use super::generation::{Scope, Strength, Verdict};
use super::slot::Slot;
use super::{Cache, Invalidation, Source};
use crate::caller::CallerId;

/// What an operator wants gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purge {
    /// Every caller's answers for targets whose path names a unit.
    Unit(String),
    /// All answers to one caller: the first 12 or more digits of its digest, as logs show it.
    Caller(String),
    /// Every caller's answers for a target, byte for byte.
    Target(PathAndQuery),
    /// Everything.
    All,
}

/// What became of a purge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// Stored answers that it ended, or made stale.
    pub entries: usize,
    /// Fetches under way whose answers won't be stored.
    pub fetches: usize,
}

/// Several callers have a digest that begins so: these, in hexadecimal. One has to be named in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Several(pub Vec<String>);

impl Cache {
    /// What a purge is about; `None` where there is nothing of it.
    ///
    /// # Errors
    /// When a fingerprint stands for several callers.
    pub fn scope_of(&self, purge: &Purge) -> Result<Option<Scope>, Several> {
        Ok(match purge {
            Purge::Unit(unit) => Some(self.generations.unit(None, unit)),
            Purge::Target(target) => Some(self.generations.target(target.as_str())),
            Purge::All => Some(Scope::All),
            Purge::Caller(digits) => match &self.generations.callers(digits)[..] {
                [] => None,
                [one] => Some(Scope::Caller(*one)),
                several => return Err(Several(several.iter().map(CallerId::hex).collect())),
            },
        })
    }

    /// Ends what is stored of a scope, or makes it stale; says how many answers that were.
    pub fn purge(&self, scope: &Scope, strength: Strength) -> usize {
        self.invalidate(&Invalidation { scope: *scope, strength, source: Source::Purge });
        let Some(entries) = &self.entries else { return 0 };
        let mut ended = 0;
        entries.retain(|slot| {
            let of_it =
                slot.count(|stamp| stamp.is_of(scope) && self.verdict(stamp) != Verdict::Current);
            ended += of_it;
            strength == Strength::Soft || of_it < slot.variants().len()
        });
        ended
    }
}

impl Slot {
    fn count(&self, of: impl Fn(&super::Stamp) -> bool) -> usize {
        self.variants().iter().filter(|stored| of(&stored.stamp)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::stored::{KeyRef, Owner};

    fn caller(last: u8) -> CallerId {
        CallerId::from_bytes(std::array::from_fn(|at| if at == 31 { last } else { 0xab }))
    }

    #[test]
    fn a_fingerprint_of_several_callers_is_no_scope_and_a_whole_digest_is() {
        let cache = Cache::new(1 << 20);
        let key = |id| KeyRef { owner: Owner::Caller(id), route: 0, target: "/x" };
        let scope = |digits: &str| cache.scope_of(&Purge::Caller(digits.to_owned()));
        assert_eq!(scope("abababababab"), Ok(None), "nothing is stored or under way");
        let one = cache.stamp(&key(caller(1)), None, None);
        assert_eq!(scope("abababababab"), Ok(Some(Scope::Caller(caller(1)))));
        let _two = cache.stamp(&key(caller(2)), None, None);
        let Err(Several(mut callers)) = scope("abababababab") else { panic!("one of two") };
        callers.sort_unstable();
        assert_eq!(callers, [caller(1).hex(), caller(2).hex()]);
        assert_eq!(scope(&caller(2).hex()), Ok(Some(Scope::Caller(caller(2)))));
        assert_eq!(scope(&caller(3).hex()), Ok(None));
        drop(one);
        assert_eq!(scope("abababababab"), Ok(Some(Scope::Caller(caller(2)))));
    }
}
