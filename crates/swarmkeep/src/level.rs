//! A value that others wait for, such as how far a log has come.
//!
//! As tokio's `watch`, but for one thing: those who wait go on in the order in which they came. `watch` wakes them in an
//! order drawn at random, and then the same inputs would not give the same run. A session in RAM has one of these for its
//! feeds, so it is small, too.

use std::{pin::pin, sync::Arc};

use tokio::sync::Notify;

use crate::sync::Mutex;

struct Shared<T> {
    standing: Mutex<Standing<T>>,
    moved: Notify,
}

struct Standing<T> {
    value: T,
    /// Grows by one with every value.
    version: u64,
    ended: bool,
}

/// The end that sets the value. When it goes, those who wait hear of it.
pub(crate) struct Sender<T>(Arc<Shared<T>>);

/// An end that sees the value.
pub(crate) struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

/// The sender is gone: the value stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended;

impl<T: Copy> Sender<T> {
    pub(crate) fn new(value: T) -> Self {
        let standing = Mutex::new(Standing { value, version: 0, ended: false });
        Self(Arc::new(Shared { standing, moved: Notify::new() }))
    }

    pub(crate) fn get(&self) -> T {
        self.0.standing.lock().value
    }

    pub(crate) fn set(&self, value: T) {
        self.change(|old| *old = value);
    }

    /// Whoever waits looks again, whether it is another value or not.
    pub(crate) fn change(&self, change: impl FnOnce(&mut T)) {
        let mut standing = self.0.standing.lock();
        change(&mut standing.value);
        standing.version += 1;
        drop(standing);
        self.0.moved.notify_waiters();
    }

    /// Sees the present value as seen.
    pub(crate) fn subscribe(&self) -> Receiver<T> {
        let seen = self.0.standing.lock().version;
        Receiver { shared: self.0.clone(), seen }
    }

    pub(crate) fn receivers(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.standing.lock().ended = true;
        self.0.moved.notify_waiters();
    }
}

impl<T: Copy> Receiver<T> {
    /// The value, seen from now on.
    pub(crate) fn see(&mut self) -> T {
        let standing = self.shared.standing.lock();
        self.seen = standing.version;
        standing.value
    }

    /// Returns when there is a value that was not seen, and sees it.
    pub(crate) async fn changed(&mut self) -> Result<(), Ended> {
        let seen = self.seen;
        self.until(|standing| standing.version != seen).await.map(drop)
    }

    /// Returns when the value is as wanted, at once if it is.
    pub(crate) async fn wait_for(&mut self, mut wanted: impl FnMut(T) -> bool) -> Result<T, Ended> {
        self.until(|standing| wanted(standing.value)).await
    }

    async fn until(&mut self, mut wanted: impl FnMut(&Standing<T>) -> bool) -> Result<T, Ended> {
        let mut moved = pin!(self.shared.moved.notified());
        loop {
            // Before looking: what moves from here on wakes us.
            moved.as_mut().enable();
            {
                let standing = self.shared.standing.lock();
                if wanted(&standing) {
                    self.seen = standing.version;
                    return Ok(standing.value);
                }
                if standing.ended {
                    return Err(Ended);
                }
            }
            moved.as_mut().await;
            moved.set(self.shared.moved.notified());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn those_who_wait_go_on_in_the_order_in_which_they_came() {
        let sender = Sender::new(0);
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = tokio::task::JoinSet::new();
        for nth in 0..40 {
            let (mut receiver, order) = (sender.subscribe(), order.clone());
            waiting.spawn(async move {
                receiver.wait_for(|value| value >= 2).await.unwrap();
                order.lock().push(nth);
            });
            tokio::task::yield_now().await;
        }
        sender.set(1);
        tokio::task::yield_now().await;
        assert!(order.lock().is_empty());
        sender.set(2);
        while waiting.join_next().await.is_some() {}
        assert_eq!(*order.lock(), (0..40).collect::<Vec<_>>());
        assert_eq!(sender.receivers(), 0);
    }

    #[tokio::test]
    async fn a_change_before_the_wait_is_seen_and_so_is_the_end() {
        let sender = Sender::new(5);
        let mut receiver = sender.subscribe();
        sender.change(|value| *value += 1);
        assert_eq!((receiver.changed().await, receiver.see(), sender.get()), (Ok(()), 6, 6));
        sender.set(7);
        drop(sender);
        assert_eq!(receiver.wait_for(|value| value == 7).await, Ok(7), "what was set last counts");
        assert_eq!(receiver.changed().await, Err(Ended));
        assert_eq!((receiver.see(), receiver.wait_for(|value| value == 8).await), (7, Err(Ended)));
    }
}
