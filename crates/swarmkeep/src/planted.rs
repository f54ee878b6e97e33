//! Defects that can be planted in this crate's own code, to see whether the checkers would find them.
//!
//! Only with the feature `planted`, which nothing but this crate's tests turns on. Without it every question here is `false`
//! at compile time, and the code is as if it had never been asked.

/// A defect of the kind that the tests of the disk and the simulator are there to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// The journal's sync is not made.
    SyncSkipped,
    /// Callers are told before the write and the sync.
    AcknowledgedBeforeSync,
    /// After a failed sync the same segment is synced again, and success is believed.
    CacheTrusted,
    /// Segments are given up when records.db has their frames in its write-ahead log.
    RetiredOnWal,
    /// A group is taken whatever epoch it carries.
    EpochNotCompared,
    /// The frames of a segment are not keyed by its secret nonce.
    NonceLeftOut,
    /// A frame's bytes are believed without their hash.
    HashNotCompared,
    /// A state that comes from a checkpoint knows no request that was carried out before.
    DedupeForgotten,
    /// A fork knows no request that its origin carried out.
    ForkForgets,
    /// The file of a large blob is not synced.
    BlobSyncSkipped,
    /// The bytes of a large blob are believed without their hash.
    BlobHashNotCompared,
    /// A sign of life is taken under any lease number.
    LeaseNotCompared,
    /// The time in which the holder was stopped counts as silence of those whose leases it watches.
    StopCounted,
    /// The journal is not sealed at a clean stop.
    SealLeftOut,
    /// Whoever takes a store over works on the files of the holder that is shut out.
    FilesShared,
}

#[cfg(feature = "planted")]
impl Defect {
    /// Every one.
    pub const ALL: [Self; 15] = [
        Self::SyncSkipped,
        Self::AcknowledgedBeforeSync,
        Self::CacheTrusted,
        Self::RetiredOnWal,
        Self::EpochNotCompared,
        Self::NonceLeftOut,
        Self::HashNotCompared,
        Self::DedupeForgotten,
        Self::ForkForgets,
        Self::BlobSyncSkipped,
        Self::BlobHashNotCompared,
        Self::LeaseNotCompared,
        Self::StopCounted,
        Self::SealLeftOut,
        Self::FilesShared,
    ];

    /// The environment variable that names the defect of a process, as its `Debug` form.
    pub const VARIABLE: &str = "SWARMKEEP_PLANTED";

    /// The defect of this process.
    #[must_use]
    pub fn of_process() -> Option<Self> {
        static OF_PROCESS: std::sync::OnceLock<Option<Defect>> = std::sync::OnceLock::new();
        *OF_PROCESS.get_or_init(|| {
            let name = std::env::var(Self::VARIABLE).ok()?;
            Self::ALL.into_iter().find(|defect| format!("{defect:?}") == name)
        })
    }
}

#[cfg(feature = "planted")]
pub(crate) fn is(defect: Defect) -> bool {
    Defect::of_process() == Some(defect)
}

#[cfg(not(feature = "planted"))]
pub(crate) const fn is(_: Defect) -> bool {
    false
}
