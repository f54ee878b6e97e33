//! Time and randomness, passed in.
//!
//! Nothing in this workspace reads a clock or draws a random number but through these two traits, so that a simulator can
//! own both and the same seed gives the same run.

/// Where the time comes from.
pub trait Clock: Send + Sync + 'static {
    /// Wall-clock milliseconds since the Unix epoch. May jump; records use `max(previous, now)`.
    fn now_ms(&self) -> u64;

    /// Milliseconds of a clock that never goes back and, where the platform allows, does not run while the machine is
    /// suspended. Leases and deadlines are measured on it, so that a stopped daemon or a clock set forward costs nobody
    /// a lease.
    fn monotonic_ms(&self) -> u64;
}

/// Where random bytes come from (salts, nonces, store ids).
pub trait Entropy: Send + Sync + 'static {
    /// Fills `bytes`. In production from the operating system; in a simulator from the seed.
    fn fill(&self, bytes: &mut [u8]);
}
