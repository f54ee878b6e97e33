//! The real clock and the operating system's randomness: the only place in this crate that touches either.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use swarmkeep_core::clock::{Clock, Entropy};

/// The machine's clocks.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    /// Starts the monotonic clock at 0.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place where ambient time comes in")]
    pub fn new() -> Self {
        Self { started: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place where ambient time comes in")]
    fn now_ms(&self) -> u64 {
        // A clock set before 1970 reads as 1970: records take the maximum of this and their predecessor's time anyway.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn monotonic_ms(&self) -> u64 {
        // CLOCK_MONOTONIC on Linux and mach_absolute_time on macOS: neither runs while the machine is suspended.
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// The operating system's randomness.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        if let Err(error) = getrandom::fill(bytes) {
            // Salts and nonces without randomness would let forged bytes validate: no store can be kept that way.
            tracing::error!(%error, "the operating system gives no random bytes; stopping");
            std::process::abort();
        }
    }
}
