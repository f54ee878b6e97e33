//! Durable sessions for agent swarms: a session is a log, everything else is derived from it.

pub mod blobs;
#[cfg(feature = "engine")]
mod clock;
#[cfg(feature = "engine")]
mod damage;
pub mod disk;
#[cfg(feature = "engine")]
mod effect;
#[cfg(feature = "engine")]
pub mod embedded;
#[cfg(feature = "engine")]
mod feed;
pub mod journal;
#[cfg(feature = "engine")]
mod keep;
pub mod lock;
#[cfg(feature = "engine")]
pub mod log;
#[cfg(feature = "engine")]
mod recovery;
#[cfg(feature = "engine")]
mod residency;
#[cfg(feature = "engine")]
mod session;
#[cfg(feature = "engine")]
mod settings;
#[cfg(feature = "engine")]
mod slot;
#[cfg(feature = "engine")]
mod watch;
