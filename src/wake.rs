//! Waiting until something is so, woken by who makes it so.

use std::pin::pin;

use tokio::sync::Notify;

/// What `found` finds, at once or after `news` that it is there. It is asked again at each
/// [`Notify::notify_waiters`].
pub async fn until<T>(news: &Notify, mut found: impl FnMut() -> Option<T>) -> T {
    loop {
        // Listened for before it is looked for: it may come in between.
        let mut next = pin!(news.notified());
        next.as_mut().enable();
        if let Some(found) = found() {
            return found;
        }
        next.await;
    }
}
