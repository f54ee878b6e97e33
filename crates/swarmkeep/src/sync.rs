//! Locks, atomics and threads of the log: the machine's, or (feature `race`) those of a scheduler that runs one thread at
//! a time and chooses at each lock which goes on, to search for orders in which something goes wrong.

#[cfg(feature = "race")]
mod searched;

#[cfg(not(feature = "race"))]
pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard};
#[cfg(not(feature = "race"))]
pub(crate) use std::{sync::atomic, thread};

#[cfg(feature = "race")]
pub(crate) use self::searched::{Condvar, Mutex, MutexGuard};
#[cfg(feature = "race")]
pub(crate) use shuttle::{sync::atomic, thread};
