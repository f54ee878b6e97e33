//! Opening: acts on what [`super::tail`] found. Copies what is in doubt to quarantine, then starts this open's own segment,
//! with the frame that nothing vouched for as its first.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use swarmkeep_core::{
    Hash,
    clock::{Clock, Entropy},
    log::Position,
};

use super::{
    Frame, Inspection, Journal, OpenError, Settings, StoreId, Vouch,
    frame::{self, Place},
    pool::{Active, Finished, Pool},
    segment::{FRAMES_AT, Header, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, file_name},
    tail::inspect,
    writer::{Chain, Sink, Surroundings},
};
use crate::{
    disk::{Disk, OpenHow, read_whole},
    lock::Fence,
};

/// A journal whose tail is settled and whose own segment is durable; not yet taking entries.
#[derive(Debug)]
pub struct Opened {
    /// The store; made now for a new one.
    pub store: StoreId,
    /// This open.
    pub incarnation: u64,
    /// What records.db does not have: verified, in order, durable. To be applied before anything that the journal takes.
    pub unapplied: Vec<Arc<Frame>>,
    /// What was found, for the report; its `unapplied` has moved up here.
    pub inspection: Inspection,
    surroundings: Surroundings,
    pool: Pool,
    active: Active,
    chain: Chain,
}

impl Opened {
    /// Has this looked at between every sync and telling anybody of it.
    #[must_use]
    pub fn fenced_by(mut self, fence: Fence) -> Self {
        self.surroundings.fence = fence;
        self
    }

    /// Begins to take entries. `sink` gets every frame once its sync has returned, in order, before anybody is told.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(self, sink: Sink) -> std::io::Result<Journal> {
        Journal::start(self.surroundings, self.pool, self.active, self.chain, sink)
    }

    /// [`Opened::start`] without threads: nothing is written but by [`Journal::turn`].
    #[must_use]
    pub fn start_by_hand(self, sink: Sink) -> Journal {
        Journal::by_hand(self.surroundings, self.pool, self.active, self.chain, sink)
    }
}

impl Journal {
    /// Opens the journal of the store in `store_dir`, or makes a new one there.
    ///
    /// `vouch` is what records.db says (`None`: there is no records.db). The caller holds the store's lock.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(
        disk: Arc<dyn Disk>,
        store_dir: &Path,
        settings: Settings,
        vouch: Option<Vouch>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Opened, OpenError> {
        let inspection = inspect(disk.as_ref(), store_dir, vouch)?;
        Self::open_inspected((disk, store_dir), settings, vouch, inspection, clock, entropy)
    }

    /// [`Journal::open`] of a journal that was just read by [`inspect`], with the same `vouch`, and not written since.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_inspected(
        (disk, store_dir): (Arc<dyn Disk>, &Path),
        settings: Settings,
        vouch: Option<Vouch>,
        mut inspection: Inspection,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Opened, OpenError> {
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&settings.segment_bytes)
            || !settings.segment_bytes.is_multiple_of(4096)
        {
            return Err(OpenError::Settings("segment_bytes must be a multiple of 4096 from 16 KiB to 64 MiB"));
        }
        let dir = store_dir.join("journal");
        disk.create_dir(&dir).map_err(OpenError::io(&dir))?;
        disk.sync_dir(store_dir).map_err(OpenError::io(store_dir))?;
        // A process that was killed may have renamed a segment to a spare and not synced it: the old name must be gone for
        // good before the file gets other contents.
        disk.sync_dir(&dir).map_err(OpenError::io(&dir))?;
        quarantine(disk.as_ref(), store_dir, &inspection)?;

        let store = inspection.store.or(vouch.map(|vouch| vouch.store)).unwrap_or_else(|| {
            let mut id = [0; 16];
            entropy.fill(&mut id);
            StoreId(id)
        });
        let incarnation = inspection.incarnation.saturating_add(1);
        let finished = inspection
            .segments
            .iter()
            .map(|&(number, bytes, last, end)| {
                // What lies beyond its end was given up after a failed write or sync: the file is not used again.
                let poisoned = inspection.doubts.iter().any(|doubt| doubt.abandoned && doubt.segment == number);
                Finished { number, bytes, end, last, poisoned }
            })
            .collect();
        let mut pool = Pool::new(Arc::clone(&disk), &dir, settings.clone(), &inspection.spares, finished);
        let mut unapplied = std::mem::take(&mut inspection.unapplied);
        let carried = if inspection.carried { unapplied.pop() } else { None };

        let mut nonce = [0; 32];
        entropy.fill(&mut nonce);
        let (previous_number, previous_end) = inspection.last.unwrap_or_default();
        let header = Header {
            store,
            number: inspection.number + 1,
            incarnation,
            nonce,
            first_position: inspection.next,
            previous_hash: inspection.last_hash,
            previous_number,
            previous_end,
            data_position: inspection.data.0,
            data_hash: inspection.data.1,
            records_position: vouch.map_or(Position(0), |vouch| vouch.position),
            records_hash: vouch.map_or(Hash::default(), |vouch| vouch.frame_hash),
            recycled: false,
            carried: carried.is_some(),
            size: 0,
            time_ms: clock.now_ms(),
        };
        let mut chain = Chain {
            store,
            incarnation,
            next: inspection.next,
            hash: inspection.last_hash,
            data: inspection.data,
            previous: (previous_number, previous_end),
            records: (header.records_position, header.records_hash),
            number: header.number,
        };
        let mut hash = Hash::default();
        pool.make_first().map_err(OpenError::io(&dir))?;
        let (active, _) = pool
            .activate(header, |key| {
                let frame = carried.as_ref()?;
                let mut bytes = Vec::new();
                let place = Place {
                    position: chain.next,
                    offset: FRAMES_AT,
                    durable_through: Position(chain.next.0.saturating_sub(1)),
                    previous: chain.hash,
                    time_ms: clock.now_ms(),
                };
                hash = frame::encode(&mut bytes, key, &place, &frame.entries);
                Some(bytes)
            })
            .map_err(OpenError::io(dir.join(file_name(chain.number))))?;
        if let Some(frame) = carried {
            let position = chain.next;
            let entries = frame.entries.clone();
            unapplied.push(Arc::new(Frame { position, hash, incarnation, bytes: frame.bytes, entries }));
            chain.next = Position(position.0.saturating_add(1));
            chain.hash = hash;
            chain.data = (position, hash);
        }
        let surroundings = Surroundings { settings, clock, entropy, fence: Fence::default() };
        Ok(Opened { store, incarnation, unapplied, inspection, surroundings, pool, active, chain })
    }
}

/// Copies what is in doubt, and what is damaged, to where nothing overwrites it. A file there also says that it was
/// reported.
fn quarantine(disk: &dyn Disk, store_dir: &Path, inspection: &Inspection) -> Result<(), OpenError> {
    let dir = store_dir.join("quarantine");
    let doubts =
        inspection.doubts.iter().map(|doubt| (doubt.segment, doubt.quarantine_name(), Some(doubt.bytes.clone())));
    let damage =
        inspection.damage.iter().map(|damage| (damage.segment, damage.quarantine_name(), damage.bytes.clone()));
    let mut any = false;
    for (segment, name, range) in doubts.chain(damage) {
        if !any {
            disk.create_dir(&dir).map_err(OpenError::io(&dir))?;
            disk.sync_dir(store_dir).map_err(OpenError::io(store_dir))?;
            any = true;
        }
        let from: PathBuf = store_dir.join("journal").join(file_name(segment));
        let to = dir.join(&name);
        let copy = || {
            let bytes = match disk.open(&from, OpenHow::Read) {
                Ok(file) => read_whole(file.as_ref(), SEGMENT_BYTES_MAX)?,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
                Err(error) => return Err(error),
            };
            let bytes = match &range {
                Some(range) => {
                    let start = usize::try_from(*range.start()).unwrap_or(usize::MAX).min(bytes.len());
                    let end = usize::try_from(*range.end()).unwrap_or(usize::MAX).saturating_add(1).min(bytes.len());
                    bytes.get(start..end).unwrap_or_default()
                }
                None => &bytes,
            };
            let temporary = dir.join(format!("{name}.part"));
            let file = disk.open(&temporary, OpenHow::Create)?;
            file.set_len(0)?;
            file.write_at(bytes, 0)?;
            file.sync_data()?;
            disk.rename(&temporary, &to)
        };
        copy().map_err(OpenError::io(&to))?;
        // A segment that cannot be read at all has moved for good.
        if range.is_none() && disk.open(&from, OpenHow::Read).is_ok() {
            disk.sync_dir(&dir).map_err(OpenError::io(&dir))?;
            disk.remove(&from).map_err(OpenError::io(&from))?;
        }
    }
    if any {
        disk.sync_dir(&dir).map_err(OpenError::io(&dir))?;
    }
    Ok(())
}
