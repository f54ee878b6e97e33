//! parking_lot's faces over shuttle's locks.

#![allow(clippy::panic, reason = "built for tests alone")]

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::PoisonError,
    time::Duration,
};

use shuttle::{
    rand::{Rng, thread_rng},
    sync,
    sync::atomic::{AtomicUsize, Ordering},
};

#[derive(Default)]
pub(crate) struct Mutex<T>(sync::Mutex<T>);

impl<T> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mutex")
    }
}

/// Empty only while a [`Condvar`] has given the lock away.
pub(crate) struct MutexGuard<'a, T> {
    mutex: &'a sync::Mutex<T>,
    held: Option<sync::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard { mutex: &self.0, held: Some(locked(&self.0)) }
    }
}

fn locked<T>(mutex: &sync::Mutex<T>) -> sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        let Some(held) = &self.held else { panic!("used while it waits") };
        held
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        let Some(held) = &mut self.held else { panic!("used while it waits") };
        held
    }
}

#[derive(Default)]
pub(crate) struct Condvar {
    inner: sync::Condvar,
    /// How often it was notified: those who wait for a time only look at this.
    notified: AtomicUsize,
}

impl fmt::Debug for Condvar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Condvar")
    }
}

/// How a wait for a time ended.
pub(crate) struct Ended {
    timed_out: bool,
}

impl Ended {
    pub(crate) fn timed_out(&self) -> bool {
        self.timed_out
    }
}

impl Condvar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let Some(held) = guard.held.take() else { panic!("used while it waits") };
        guard.held = Some(self.inner.wait(held).unwrap_or_else(PoisonError::into_inner));
    }

    /// The time may be over at any moment: the scheduler draws it.
    pub(crate) fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _time: Duration) -> Ended {
        let before = self.notified.load(Ordering::SeqCst);
        guard.held = None;
        let timed_out = loop {
            shuttle::thread::yield_now();
            if self.notified.load(Ordering::SeqCst) != before {
                break false;
            }
            if thread_rng().gen_bool(0.2) {
                break true;
            }
        };
        guard.held = Some(locked(guard.mutex));
        Ended { timed_out }
    }

    pub(crate) fn notify_one(&self) {
        self.notified.fetch_add(1, Ordering::SeqCst);
        self.inner.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.notified.fetch_add(1, Ordering::SeqCst);
        self.inner.notify_all();
    }
}
