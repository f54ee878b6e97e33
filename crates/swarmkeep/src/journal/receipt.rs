//! Receipts: how the callers of one frame learn what became of it.
//!
//! All entries of a frame share one [`Batch`]. It is resolved once; no channel, no allocation and no system call per entry.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, Waker},
};

use swarmkeep_core::log::Position;

use super::AppendError;
use crate::sync::{Condvar, Mutex};

/// What the entries of one frame wait for.
#[derive(Debug, Default)]
pub(super) struct Batch {
    outcome: OnceLock<Result<Position, AppendError>>,
    wakers: Mutex<Vec<Waker>>,
    resolved: Condvar,
}

impl Batch {
    /// Tells everybody. Only the first call counts.
    pub(super) fn resolve(&self, outcome: Result<Position, AppendError>) {
        let _ = self.outcome.set(outcome);
        let wakers = std::mem::take(&mut *self.wakers.lock());
        self.resolved.notify_all();
        for waker in wakers {
            waker.wake();
        }
    }
}

/// Resolves when the entry's frame is durable, or will not be. Dropping it undoes nothing.
#[must_use = "an append is acknowledged by its receipt"]
pub struct Receipt {
    batch: Arc<Batch>,
    slot: Option<usize>,
}

impl Receipt {
    pub(super) fn of(batch: &Arc<Batch>) -> Self {
        Self { batch: Arc::clone(batch), slot: None }
    }

    /// Blocks this thread until it resolves.
    ///
    /// # Errors
    /// As the future.
    pub fn wait(self) -> Result<Position, AppendError> {
        let mut wakers = self.batch.wakers.lock();
        loop {
            if let Some(outcome) = self.batch.outcome.get() {
                return outcome.clone();
            }
            self.batch.resolved.wait(&mut wakers);
        }
    }

    /// What it came to, if that is known.
    #[must_use]
    pub fn peek(&self) -> Option<Result<Position, AppendError>> {
        self.batch.outcome.get().cloned()
    }
}

impl Future for Receipt {
    type Output = Result<Position, AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let batch = Arc::clone(&self.batch);
        if let Some(outcome) = batch.outcome.get() {
            return Poll::Ready(outcome.clone());
        }
        let mut wakers = batch.wakers.lock();
        // `resolve` sets the outcome before it takes the wakers: whoever gets the lock after it sees it here.
        if let Some(outcome) = batch.outcome.get() {
            return Poll::Ready(outcome.clone());
        }
        match self.slot.and_then(|slot| wakers.get_mut(slot)) {
            Some(waker) => waker.clone_from(context.waker()),
            None => {
                self.slot = Some(wakers.len());
                wakers.push(context.waker().clone());
            }
        }
        Poll::Pending
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receipt").field("outcome", &self.batch.outcome.get()).finish()
    }
}
