//! Which segment files there are: the one being written, those that records.db still needs, those that wait to be copied
//! to where second copies are kept, and spares.
//!
//! A spare is a file of full size whose blocks exist and whose contents mean nothing. It becomes a segment by getting its
//! header (and the frame that is carried over, if there is one), a sync, its name, and a sync of the directory, in that
//! order: a segment that can be seen is one whose header is durable.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use swarmkeep_core::log::Position;

use super::{
    Settings,
    frame::{Key, SEAL_BYTES},
    segment::{FRAMES_AT, Header, file_name, spare_name},
};
use crate::disk::{Disk, DiskFile, OpenHow};

/// Size of the segment that an open starts with when no spare is left from before. The next one is made in the background
/// when a quarter of this is written.
const FIRST_BYTES: u64 = 1 << 20;

/// A segment being written.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) key: Key,
    pub(super) number: u64,
    pub(super) size: u64,
    /// Where the next frame goes.
    pub(super) offset: u64,
    /// The last frame is one with entries, which nothing vouches for yet.
    pub(super) unsealed: bool,
}

/// A segment that is no longer written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Finished {
    pub(super) number: u64,
    pub(super) bytes: u64,
    /// Where its frames logically end, in bytes; 0: not known.
    pub(super) end: u64,
    /// Its last frame with entries, or that of the segments before.
    pub(super) last: Position,
    /// A write or sync of it failed: it is not written again, ever.
    pub(super) poisoned: bool,
}

#[derive(Debug, Clone, Copy)]
struct Spare {
    number: u64,
    used: bool,
    bytes: u64,
}

/// The files.
#[derive(Debug)]
pub(super) struct Pool {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    settings: Settings,
    spares: VecDeque<Spare>,
    next_spare: u64,
    finished: VecDeque<Finished>,
    /// The segment being written; none after a failed write, while no other can be started.
    active: Option<u64>,
    /// What records.db has: they wait to be copied elsewhere, up to [`Settings::keep_bytes`].
    retired: VecDeque<Finished>,
    /// The retired segment that is being read: it keeps its contents.
    taken: Option<u64>,
    /// Segments given up before they were copied.
    overrun: u64,
}

impl Pool {
    /// Over the spares and segments that were found.
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        dir: &Path,
        settings: Settings,
        spares: &[u64],
        finished: Vec<Finished>,
    ) -> Self {
        let mut pool = Self {
            disk,
            dir: dir.to_owned(),
            settings,
            next_spare: spares.iter().max().map_or(1, |last| last + 1),
            spares: VecDeque::new(),
            finished: finished.into(),
            active: None,
            retired: VecDeque::new(),
            taken: None,
            overrun: 0,
        };
        for &number in spares {
            let path = dir.join(spare_name(number));
            let whole = pool
                .disk
                .open(&path, OpenHow::Read)
                .and_then(|file| file.len())
                .is_ok_and(|bytes| bytes == pool.settings.segment_bytes);
            if whole && pool.spares.len() < pool.settings.spares_max {
                // Whether it was ever used is not known: its contents are taken for old ones.
                let bytes = pool.settings.segment_bytes;
                pool.spares.push_back(Spare { number, used: true, bytes });
            } else if let Err(error) = pool.disk.remove(&path) {
                tracing::warn!(path = %path.display(), %error, "a spare segment that is not wanted was not removed");
            }
        }
        pool
    }

    /// How many spares are ready.
    pub(super) fn spares(&self) -> usize {
        self.spares.len()
    }

    /// What is needed to make a spare without holding the pool: see [`Recipe::make`].
    pub(super) fn recipe(&mut self) -> Recipe {
        let number = self.next_spare;
        self.next_spare += 1;
        let path = self.dir.join(spare_name(number));
        Recipe { disk: Arc::clone(&self.disk), path, number, bytes: self.settings.segment_bytes }
    }

    /// Makes sure that there is a spare, be it a small one: a program that opens a store and writes little does not wait for
    /// megabytes of zeros, nor leave them behind.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn make_first(&mut self) -> io::Result<()> {
        if self.spares.is_empty() {
            let mut recipe = self.recipe();
            recipe.bytes = recipe.bytes.min(FIRST_BYTES);
            recipe.make()?;
            self.add(&recipe);
        }
        Ok(())
    }

    /// Takes in what a recipe made.
    pub(super) fn add(&mut self, made: &Recipe) {
        self.spares.push_back(Spare { number: made.number, used: false, bytes: made.bytes });
    }

    /// Turns a spare into the segment that `header` describes, with `carried` as its first frame; makes the spare first if
    /// there is none. `recycled` and `size` of the header are filled in here.
    ///
    /// # Errors
    /// What the disk says. The file that failed is given up.
    pub(super) fn activate(
        &mut self,
        mut header: Header,
        carried: impl FnOnce(&Key) -> Option<Vec<u8>>,
    ) -> io::Result<(Active, Header)> {
        if self.spares.is_empty() {
            let recipe = self.recipe();
            recipe.make()?;
            self.add(&recipe);
        }
        let spare = self.spares.pop_front().ok_or(io::ErrorKind::NotFound)?;
        header.recycled = spare.used;
        let key = Key::of(&header);
        let frame = carried(&key);
        // A frame that comes from a larger segment than are made now makes this one longer.
        let needed = FRAMES_AT + (frame.as_ref().map_or(0, Vec::len) + SEAL_BYTES) as u64;
        header.size = spare.bytes.max(needed);
        let from = self.dir.join(spare_name(spare.number));
        let to = self.dir.join(file_name(header.number));
        let turn = || {
            let file = self.disk.open(&from, OpenHow::Write)?;
            let block = header.encode();
            let mut bytes = [block.as_slice(), block.as_slice()].concat();
            bytes.extend_from_slice(frame.as_deref().unwrap_or_default());
            file.write_at(&bytes, 0)?;
            file.sync_data()?;
            self.disk.rename(&from, &to)?;
            self.disk.sync_dir(&self.dir)?;
            Ok(file)
        };
        let file = turn().inspect_err(|error: &io::Error| {
            tracing::warn!(segment = header.number, %error, "a segment could not be started");
            // Under either name it holds nothing that was acknowledged.
            let _ = self.disk.remove(&from);
            let _ = self.disk.remove(&to);
        })?;
        self.active = Some(header.number);
        let offset = FRAMES_AT + frame.as_ref().map_or(0, Vec::len) as u64;
        let active = Active { file, key, number: header.number, size: header.size, offset, unsealed: frame.is_some() };
        Ok((active, header))
    }

    /// A segment that is no longer written.
    pub(super) fn finish(&mut self, finished: Finished) {
        self.active = self.active.filter(|active| *active != finished.number);
        self.finished.push_back(finished);
    }

    /// Segments on disk that are no longer written: number, where their frames end.
    pub(super) fn extents(&self) -> Vec<(u64, u64)> {
        self.retired.iter().chain(&self.finished).map(|segment| (segment.number, segment.end)).collect()
    }

    /// The oldest retired segment, which keeps its contents until it is released.
    pub(super) fn take_retired(&mut self) -> Option<Finished> {
        let oldest = self.retired.front().copied();
        self.taken = oldest.map(|oldest| oldest.number);
        oldest
    }

    /// How many retired segments wait, their bytes, and how many were given up before anybody took them.
    pub(super) fn waiting(&self) -> (usize, u64, u64) {
        (self.retired.len(), self.retired.iter().map(|segment| segment.bytes).sum(), self.overrun)
    }

    /// The segment that was taken is not needed any more.
    ///
    /// # Errors
    /// What the disk says; it is tried again when the next one is retired.
    pub(super) fn release(&mut self, number: u64) -> io::Result<()> {
        self.taken = None;
        let Some(at) = self.retired.iter().position(|segment| segment.number == number) else { return Ok(()) };
        let Some(segment) = self.retired.remove(at) else { return Ok(()) };
        let mut spares = VecDeque::new();
        let outcome = self.give_up(&segment, &mut spares);
        if outcome.is_err() {
            // It counts as one that nobody took; its bytes are freed when there is no more room for those that wait.
            self.retired.push_front(segment);
        }
        self.settle(spares).and(outcome)
    }

    /// Gives up segments that hold nothing beyond `through`, but never the last there is: they wait to be copied up to the bound, then are reused or
    /// deleted.
    ///
    /// # Errors
    /// What the disk says; what was not given up is tried again next time.
    pub(super) fn retire(&mut self, through: Position) -> io::Result<()> {
        // A journal without a segment is half of a store: the last one stays until there is another.
        let stay = usize::from(self.active.is_none());
        while self.finished.len() > stay
            && let Some(finished) = self.finished.pop_front_if(|finished| finished.last <= through)
        {
            self.retired.push_back(finished);
        }
        let mut spares = VecDeque::new();
        let mut outcome = Ok(());
        while outcome.is_ok()
            && self.retired.iter().map(|segment| segment.bytes).sum::<u64>() > self.settings.keep_bytes
        {
            let Some(at) = self.retired.iter().position(|segment| Some(segment.number) != self.taken) else { break };
            let Some(oldest) = self.retired.remove(at) else { break };
            outcome = self.give_up(&oldest, &mut spares);
            if outcome.is_err() {
                self.retired.insert(at, oldest);
            } else if self.settings.keep_bytes > 0 {
                self.overrun += 1;
            }
        }
        self.settle(spares).and(outcome)
    }

    fn give_up(&mut self, segment: &Finished, spares: &mut VecDeque<Spare>) -> io::Result<()> {
        let path = self.dir.join(file_name(segment.number));
        let reuse = !segment.poisoned
            && segment.bytes == self.settings.segment_bytes
            && self.spares.len() + spares.len() < self.settings.spares_max;
        let done = if reuse {
            let number = self.next_spare;
            self.next_spare += 1;
            let done = self.disk.rename(&path, &self.dir.join(spare_name(number)));
            if done.is_ok() {
                spares.push_back(Spare { number, used: true, bytes: segment.bytes });
            }
            done
        } else {
            self.disk.remove(&path)
        };
        match done {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Spares may be used once their old names are gone for good.
    fn settle(&mut self, spares: VecDeque<Spare>) -> io::Result<()> {
        if !spares.is_empty() {
            self.disk.sync_dir(&self.dir)?;
            self.spares.extend(spares);
        }
        Ok(())
    }
}

/// How to make one spare.
#[derive(Debug)]
pub(super) struct Recipe {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    number: u64,
    bytes: u64,
}

impl Recipe {
    /// Writes the file's blocks, so that a later write to them needs no room and a sync of it no metadata.
    ///
    /// # Errors
    /// What the disk says; the file is removed again.
    pub(super) fn make(&self) -> io::Result<()> {
        let fill = || {
            let file = self.disk.open(&self.path, OpenHow::Create)?;
            let zeros = vec![0u8; 256 * 1024];
            let mut at = 0;
            while at < self.bytes {
                let count = usize::try_from(self.bytes - at).unwrap_or(usize::MAX).min(zeros.len());
                file.write_at(zeros.get(..count).unwrap_or_default(), at)?;
                at += count as u64;
            }
            file.sync_data()
        };
        fill().inspect_err(|_| {
            let _ = self.disk.remove(&self.path);
        })
    }
}
