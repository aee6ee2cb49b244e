//! Waiting until something is so, woken by who makes it so.

use std::pin::pin;

use tokio::sync::Notify;

/// What `found` finds, at once or after `news` that it is there. It is asked again at each
/// [`Notify::notify_waiters`], and where [`Notify::notify_one`] wakes this one of those who wait.
pub async fn until<T>(news: &Notify, mut found: impl FnMut() -> Option<T>) -> T {
    loop {
        let mut next = pin!(news.notified());
        // It stands in line from now on: what is told while it looks is heard. If it then finds without having
        // heard, the next in line does.
        next.as_mut().enable();
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

    #[tokio::test]
    async fn each_of_two_who_look_at_once_hears_of_one_of_two_news() {
        let news = Notify::new();
        let there = std::cell::Cell::new(0);
        let looks = std::cell::Cell::new(0);
        let taken = || {
            looks.set(looks.get() + 1);
            if looks.get() == 2 {
                // Both have looked in vain by now, and neither waits yet for more than this.
                there.set(2);
                news.notify_one();
                news.notify_one();
                return None;
            }
            (there.get() > 0).then(|| there.set(there.get() - 1))
        };
        tokio::join!(until(&news, taken), until(&news, taken));
        assert_eq!((there.get(), looks.get()), (0, 4));
    }
}
