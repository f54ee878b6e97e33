//! Hints that something changed: lossy in number, never in the end.
//!
//! A [`Hints`] keeps a bounded set of sessions, not a queue of what happened to them: a session that moved a thousand times
//! since somebody looked is named once, and when more sessions moved than the set holds, it says [`Hint::Store`] instead of
//! their names. So a slow consumer costs its log nothing, and no writer waits for it.

use std::{
    collections::BTreeSet,
    fmt,
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

use crate::id::SessionId;

/// Sessions that one [`Hints`] remembers; beyond it the answer is [`Hint::Store`].
pub const HINTED_SESSIONS: usize = 256;

/// Where it is worth looking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    /// This session's durable head moved, or the session is gone.
    Moved(SessionId),
    /// Something changed: look at everything you follow.
    Store,
}

/// What [`super::Log::watch`] gives.
pub struct Hints {
    set: Arc<Set>,
}

/// The other end of any number of [`Hints`]: what a log tells of its changes.
#[derive(Debug, Default)]
pub struct Watchers {
    /// Asked at every group; usually nobody watches.
    any: AtomicBool,
    sets: Mutex<Vec<Weak<Set>>>,
}

#[derive(Debug, Default)]
struct Set(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    sessions: BTreeSet<SessionId>,
    store: bool,
    gone: bool,
    waker: Option<Waker>,
}

impl Hints {
    /// The next hint, as soon as there is one. `None`: the log is gone, there will be no more. Dropping the future loses
    /// nothing.
    pub async fn next(&mut self) -> Option<Hint> {
        poll_fn(|context| self.poll(context)).await
    }

    /// A hint that is there already.
    pub fn try_next(&mut self) -> Option<Hint> {
        self.set.lock().take()
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Hint>> {
        let mut waiting = self.set.lock();
        match waiting.take() {
            Some(hint) => Poll::Ready(Some(hint)),
            None if waiting.gone => Poll::Ready(None),
            None => {
                waiting.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl fmt::Debug for Hints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hints").finish_non_exhaustive()
    }
}

impl Watchers {
    /// Hints of everything from now on.
    #[must_use]
    pub fn watch(&self) -> Hints {
        let set = Arc::new(Set::default());
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        sets.retain(|set| set.strong_count() > 0);
        sets.push(Arc::downgrade(&set));
        self.any.store(true, Ordering::Release);
        Hints { set }
    }

    /// A session's durable head moved, or the session is gone. To be called once readers would find it so. Never waits.
    pub fn moved(&self, session: SessionId) {
        self.tell(|waiting| {
            if waiting.store {
                return;
            }
            waiting.sessions.insert(session);
            if waiting.sessions.len() > HINTED_SESSIONS {
                waiting.sessions.clear();
                waiting.store = true;
            }
        });
    }

    /// Something changed that no one session stands for, or hints may have been missed.
    pub fn changed(&self) {
        self.tell(|waiting| {
            waiting.sessions.clear();
            waiting.store = true;
        });
    }

    fn tell(&self, what: impl Fn(&mut Waiting)) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        sets.retain(|set| {
            let Some(set) = set.upgrade() else { return false };
            let mut waiting = set.lock();
            what(&mut waiting);
            if let Some(waker) = waiting.waker.take() {
                waker.wake();
            }
            true
        });
        self.any.store(!sets.is_empty(), Ordering::Release);
    }
}

impl Drop for Watchers {
    fn drop(&mut self) {
        self.tell(|waiting| waiting.gone = true);
    }
}

impl Set {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn take(&mut self) -> Option<Hint> {
        if std::mem::take(&mut self.store) {
            return Some(Hint::Store);
        }
        self.sessions.pop_first().map(Hint::Moved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_goes_ends_its_hints_after_what_was_left() {
        let watchers = Watchers::default();
        let mut hints = watchers.watch();
        watchers.moved(SessionId([1; 16]));
        drop(watchers);
        let mut context = Context::from_waker(Waker::noop());
        assert_eq!(hints.poll(&mut context), Poll::Ready(Some(Hint::Moved(SessionId([1; 16])))));
        assert_eq!(hints.poll(&mut context), Poll::Ready(None));
    }

    #[test]
    fn whoever_does_not_watch_any_more_is_forgotten() {
        let watchers = Watchers::default();
        drop(watchers.watch());
        watchers.changed();
        assert!(!watchers.any.load(Ordering::Acquire));
        assert!(watchers.sets.lock().unwrap().is_empty());
    }
}
