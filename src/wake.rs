//! Waiting until something is so, woken by who makes it so.

use tokio::sync::Notify;

/// What `found` finds, at once or after `news` that it is there. It is asked again at each
/// [`Notify::notify_waiters`].
pub async fn until<T>(news: &Notify, mut found: impl FnMut() -> Option<T>) -> T {
    loop {
        // It hears of what is told from now on, also of what comes before it is polled.
        let next = news.notified();
        if let Some(found) = found() {
            return found;
        }
        next.await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn news_that_come_while_it_is_looked_for_are_heard() {
        let news = Notify::new();
        let mut looks = 0;
        let found = until(&news, || {
            looks += 1;
            news.notify_waiters();
            (looks == 2).then_some(looks)
        });
        assert_eq!(found.await, 2);
    }
}
