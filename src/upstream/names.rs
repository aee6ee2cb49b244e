//! Names into addresses, by the system's resolver; where that fails, the last addresses that were had.
//!
//! *Invariants*
//! 1. A name is resolved for each new connection, so that a change of address is followed.
//! 2. Old addresses are used only when the resolver fails or does not answer in its time; each time is
//!    counted.
//! 3. One entry per name that is connected to: those of the configuration.
//!
//! *Why not heed TTLs:* `getaddrinfo` does not tell them; the system's resolver caches.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use parking_lot::Mutex;
use tokio::time::timeout;
use tower_service::Service;
use tracing::debug;

/// Resolves names, and remembers.
#[derive(Clone, Debug)]
pub(super) struct Resolver {
    system: System,
    /// How long a resolver may take where old addresses are known.
    patience: Duration,
    memory: Memory,
}

/// What was had last, shared by all connectors.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory(Arc<Known>);

#[derive(Debug, Default)]
struct Known {
    addresses: Mutex<HashMap<Name, Vec<SocketAddr>>>,
    fallbacks: AtomicU64,
}

/// Who resolves.
#[derive(Clone)]
enum System {
    Real(GaiResolver),
    #[cfg(test)]
    Scripted(Script),
}

#[cfg(test)]
type Script = Arc<dyn Fn() -> Pin<Box<Resolving>> + Send + Sync>;
type Resolving = dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send;

/// The resolver failed, and nothing is remembered.
#[derive(Debug, thiserror::Error)]
#[error("name resolution failed")]
pub(super) struct Unresolved(#[source] io::Error);

impl Memory {
    /// How often old addresses were used for want of new ones.
    pub(super) fn fallbacks(&self) -> u64 {
        self.0.fallbacks.load(Ordering::Relaxed)
    }

    fn keep(&self, name: Name, addresses: &[SocketAddr]) {
        self.0.addresses.lock().insert(name, addresses.to_vec());
    }

    fn recall(&self, name: &Name) -> Option<Vec<SocketAddr>> {
        self.0.addresses.lock().get(name).cloned()
    }
}

impl Resolver {
    /// The system's, which gets `patience` where old addresses are known.
    pub(super) fn new(patience: Duration, memory: Memory) -> Self {
        Self { system: System::Real(GaiResolver::new()), patience, memory }
    }
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = Unresolved;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Unresolved>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Unresolved>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let resolving = self.system.resolve(name.clone());
        let (memory, patience) = (self.memory.clone(), self.patience);
        Box::pin(async move {
            let known = memory.recall(&name);
            let resolved = match known {
                // Half of the time to connect is left for old addresses.
                Some(_) => timeout(patience, resolving)
                    .await
                    .unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into())),
                None => resolving.await,
            };
            let resolved = resolved.and_then(|addresses| {
                if addresses.is_empty() {
                    Err(io::ErrorKind::NotFound.into())
                } else {
                    Ok(addresses)
                }
            });
            match (resolved, known) {
                (Ok(addresses), _) => {
                    memory.keep(name, &addresses);
                    Ok(addresses.into_iter())
                }
                (Err(error), Some(known)) => {
                    memory.0.fallbacks.fetch_add(1, Ordering::Relaxed);
                    debug!(name = name.as_str(), %error, "the name does not resolve; its last addresses are used");
                    Ok(known.into_iter())
                }
                (Err(error), None) => Err(Unresolved(error)),
            }
        })
    }
}

impl System {
    fn resolve(&mut self, name: Name) -> Pin<Box<Resolving>> {
        match self {
            Self::Real(system) => {
                let resolving = system.call(name);
                Box::pin(async move { resolving.await.map(Iterator::collect) })
            }
            #[cfg(test)]
            Self::Scripted(script) => script(),
        }
    }
}

impl std::fmt::Debug for System {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("System(…)")
    }
}

#[cfg(test)]
impl Resolver {
    /// One whose answers a test decides.
    pub(super) fn scripted(patience: Duration, script: Script) -> Self {
        Self { system: System::Scripted(script), patience, memory: Memory::default() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    enum Word {
        Is(u8),
        Fails,
        Empty,
        Silence,
    }

    fn resolver(words: impl IntoIterator<Item = Word>) -> Resolver {
        let words = Mutex::new(words.into_iter().collect::<VecDeque<_>>());
        let script = move || -> Pin<Box<Resolving>> {
            let word = words.lock().pop_front().expect("no more than scripted is asked");
            Box::pin(async move {
                match word {
                    Word::Is(last) => Ok(vec![SocketAddr::from(([10, 0, 0, last], 0))]),
                    Word::Fails => Err(io::ErrorKind::Other.into()),
                    Word::Empty => Ok(Vec::new()),
                    Word::Silence => std::future::pending().await,
                }
            })
        };
        Resolver::scripted(Duration::from_secs(1), Arc::new(script))
    }

    async fn resolve(resolver: &mut Resolver) -> Option<Vec<u8>> {
        let addresses = resolver.call("api.test".parse().unwrap()).await.ok()?;
        let last = |address: SocketAddr| match address.ip() {
            std::net::IpAddr::V4(ip) => ip.octets()[3],
            std::net::IpAddr::V6(_) => 0,
        };
        Some(addresses.map(last).collect())
    }

    #[tokio::test]
    async fn each_connection_gets_the_addresses_of_its_time() {
        let mut resolver = resolver([Word::Is(1), Word::Is(2)]);
        assert_eq!(resolve(&mut resolver).await, Some(vec![1]));
        assert_eq!(resolve(&mut resolver).await, Some(vec![2]));
        assert_eq!(resolver.memory.fallbacks(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn when_the_resolver_fails_is_empty_or_silent_the_last_addresses_are_used() {
        let words =
            [Word::Is(1), Word::Fails, Word::Is(2), Word::Empty, Word::Silence, Word::Is(3)];
        let mut resolver = resolver(words);
        for want in [1, 1, 2, 2, 2, 3] {
            assert_eq!(resolve(&mut resolver).await, Some(vec![want]));
        }
        assert_eq!(resolver.memory.fallbacks(), 3);
    }

    #[tokio::test]
    async fn a_name_that_never_resolved_has_no_address() {
        let mut resolver = resolver([Word::Fails, Word::Empty]);
        assert_eq!(resolve(&mut resolver).await, None);
        assert_eq!(resolve(&mut resolver).await, None);
    }
}
