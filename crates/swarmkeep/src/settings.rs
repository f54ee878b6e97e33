//! Settings: plain data. Components (clock, entropy, a log of one's own) are given to [`crate::Swarmkeep::over`].

use serde::{Deserialize, Serialize};
use swarmkeep_core::{Error, ErrorKind};

/// How a store is kept. Every field has a default that needs no thought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Budget for sessions in RAM, in bytes. From 80 % on, those not in use for longest are dropped; they come back on
    /// access. Default 100 MiB; at least 1 MiB.
    pub resident_bytes: u64,
    /// Pooled read-only connections to records.db and views.db, each. 4 to 8, default 4.
    pub readers: usize,
    /// Size of a journal segment, in bytes. The journal takes at least two of them on disk. 1 MiB to 64 MiB, default 8 MiB.
    pub segment_bytes: u64,
    /// Groups acknowledged but not yet applied to records.db, in bytes, before writers wait. Default 64 MiB; at least 4 MiB.
    pub unapplied_bytes: u64,
    /// Disk for second copies of what the journal gave up, in bytes, packed; the oldest go first. They are what damage in
    /// records.db is repaired from. 0: none are made. Default 1 GiB; else at least 1 MiB.
    pub journal_keep: u64,
    /// A session that has not been touched for this long is kept in RAM as its canonical bytes only. Default 500 ms.
    pub pack_after_ms: u64,
    /// A session of which acknowledged state is lost goes back to the newest state that can be had, without being asked.
    /// Default false: it waits for a person (`needs_decision`). One of which nothing can be had waits in any case.
    pub accept_loss: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            resident_bytes: 100 << 20,
            readers: 4,
            segment_bytes: 8 << 20,
            unapplied_bytes: 64 << 20,
            journal_keep: 1 << 30,
            pack_after_ms: 500,
            accept_loss: false,
        }
    }
}

impl Settings {
    /// Names the first setting that is out of bounds, with the allowed values.
    ///
    /// # Errors
    /// `invalid`.
    pub fn check(&self) -> Result<(), Error> {
        let wrong = |name: &str, allowed: &str| {
            Err(Error::new(ErrorKind::Invalid, format!("setting `{name}` is out of bounds"))
                .hint(format!("allowed: {allowed}")))
        };
        if self.resident_bytes < 1 << 20 {
            return wrong("resident_bytes", "1048576 (1 MiB) or more");
        }
        if !(4..=8).contains(&self.readers) {
            return wrong("readers", "4 to 8");
        }
        if !((1 << 20)..=(64 << 20)).contains(&self.segment_bytes) || !self.segment_bytes.is_multiple_of(4096) {
            return wrong("segment_bytes", "1048576 (1 MiB) to 67108864 (64 MiB), a multiple of 4096");
        }
        if self.unapplied_bytes < 4 << 20 {
            return wrong("unapplied_bytes", "4194304 (4 MiB) or more");
        }
        if (1..1 << 20).contains(&self.journal_keep) {
            return wrong("journal_keep", "0 (no second copies), or 1048576 (1 MiB) or more");
        }
        Ok(())
    }
}
