//! What a seed decides before anything happens: how large the world is, and which kinds of faults it has. Every world has
//! only some of them: what one kind would hide, another world shows.

use swarmkeep_core::testing::Draw;

/// The climate of one world. Probabilities are in per mille, times in milliseconds of the world.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// Sessions.
    pub sessions: usize,
    /// Clients that write.
    pub clients: usize,
    /// Clients that read feeds.
    pub readers: usize,
    /// When the storm ends, and everything has to come right.
    pub storm_ms: u64,
    /// A message takes up to this long.
    pub delay_ms: u64,
    /// Messages lost, requests and answers alike.
    pub lost: usize,
    /// Requests that arrive twice.
    pub doubled: usize,
    /// The holder ends by itself.
    pub crashes: bool,
    /// When it ends, the power may go too.
    pub power: bool,
    /// It also ends while it comes back.
    pub nested: bool,
    /// The holder is stopped for a while, and goes on.
    pub pauses: bool,
    /// Clients are stopped, or end.
    pub client_faults: bool,
    /// The network falls apart.
    pub partitions: bool,
    /// The disk is full for a while.
    pub full_disk: bool,
    /// Calls to the disk fail for a while.
    pub disk_errors: bool,
    /// The wall clock jumps.
    pub jumps: bool,
    /// Another holder takes over while this one still runs.
    pub takeovers: bool,
    /// Journal frames reach the databases late.
    pub lazy_applier: bool,
    /// Bytes of large blobs and of second copies change on the disk.
    pub rot: bool,
    /// Sessions are begun with another one's state.
    pub forks: bool,
    /// Sessions are set back.
    pub rewinds: bool,
    /// Sessions keep blobs.
    pub blobs: bool,
    /// Clients work at tasks, under leases.
    pub workers: bool,
    /// The store is stopped cleanly, and goes on, perhaps under other settings.
    pub parks: bool,
    /// Records below a checkpoint are removed.
    pub trims: bool,
    /// Sessions are removed, and made again under the same name.
    pub removals: bool,
    /// Large values: little fits into RAM.
    pub fat: bool,
    /// Second copies are kept.
    pub kept: bool,
    /// Bytes of a journal segment.
    pub segment_bytes: u64,
    /// Applied bytes between two retirements.
    pub retire_bytes: usize,
}

impl Weather {
    /// Draws it.
    #[must_use]
    pub fn of(draw: &mut Draw) -> Self {
        let crashes = !draw.one_in(6);
        Self {
            sessions: 1 + draw.below(3),
            clients: 2 + draw.below(3),
            readers: 1 + draw.below(2),
            storm_ms: 4_000 + draw.below(8_000) as u64,
            delay_ms: [5, 40, 300][draw.below(3)],
            lost: [0, 20, 100][draw.below(3)],
            doubled: [0, 50, 200][draw.below(3)],
            crashes,
            power: draw.one_in(2),
            nested: draw.one_in(2),
            pauses: draw.one_in(3),
            client_faults: draw.one_in(2),
            partitions: draw.one_in(3),
            full_disk: draw.one_in(4),
            disk_errors: draw.one_in(3),
            jumps: draw.one_in(4),
            takeovers: draw.one_in(4),
            lazy_applier: draw.one_in(3),
            rot: draw.one_in(2),
            forks: draw.one_in(3),
            rewinds: draw.one_in(3),
            blobs: draw.one_in(2),
            workers: draw.one_in(2),
            parks: draw.one_in(3),
            trims: draw.one_in(3),
            removals: draw.one_in(4),
            fat: draw.one_in(8),
            kept: draw.one_in(2),
            segment_bytes: [64 * 1024, 128 * 1024][draw.below(2)],
            retire_bytes: [16 * 1024, 256 * 1024][draw.below(2)],
        }
    }
}
