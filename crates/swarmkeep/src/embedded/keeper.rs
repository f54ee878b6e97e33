//! The keeper: second copies of what the journal gave up, made by a thread of its own that nobody waits for.
//!
//! It takes the oldest retired segment, packs its records into a kept file ([`crate::journal::kept`]), and releases the
//! segment. What waits for it is bounded by [`wait_bytes`]; beyond that segments are given up without a copy, which is
//! counted and said. Kept files go oldest first when they are more than the budget, and when there is no room on the
//! device: an acknowledgement is worth more than a second copy.
//!
//! # Removed sessions
//!
//! What was removed must not live on in a copy. Nothing is kept of a session that records.db knows as removed later, and
//! when one is removed every kept file that has records of it is written again without them. `kept/erased` says up to which
//! position removals have been carried out, so that a crash in between only delays it to the next start.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use swarmkeep_core::{SessionId, log::Position};
use swarmkeep_sqlite::{ReaderPool, RecordsReader};

use super::KeptStanding;
use crate::{
    disk::{self, Disk, OpenHow},
    journal::{
        Extent, Journal, StoreId,
        kept::{self, Content, KeptError, KeptFile, Summary},
        search::Segment,
    },
    settings::Settings,
    sync::{
        Condvar, Mutex,
        thread::{self, JoinHandle},
    },
    workers::Workers,
};

/// Retired segments wait on disk up to this, so that a burst costs the keeper time and nobody else.
const WAIT_BYTES: u64 = 128 << 20;
/// Files below this, unpacked, are joined with the next: a store that is opened and closed often does not fill with them.
const JOIN_BYTES: usize = 512 * 1024;
/// Most files, whatever their size.
const FILES_MAX: usize = 4096;
/// Room that is left on the device for the journal and the databases.
const ROOM_BYTES: u64 = 64 << 20;
/// Segments copied while the store closes: those of a short life. More stay in the journal.
const CLOSING_SEGMENTS: usize = 4;
/// How often it looks whether the journal has room.
const LOOK: Duration = Duration::from_secs(1);
/// How much less of a turn than others it takes, where the system can say so for one thread.
#[cfg(target_os = "linux")]
const NICE: i32 = 5;

/// Bytes of retired segments that may wait.
pub(super) fn wait_bytes(settings: &Settings) -> u64 {
    if settings.journal_keep == 0 { 0 } else { WAIT_BYTES.max(4 * settings.segment_bytes) }
}

pub(super) struct Keeper {
    disk: Arc<dyn Disk>,
    store_dir: PathBuf,
    folder: PathBuf,
    store: StoreId,
    budget: u64,
    state: Mutex<State>,
    wake: Condvar,
    rested: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// A kept file, under the name that it has: one that somebody put back may have one of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    name: String,
    summary: Summary,
}

impl Known {
    fn has_its_own_name(&self) -> bool {
        self.name == kept::file_name(self.summary.first, self.summary.last)
    }
}

#[derive(Default)]
struct State {
    /// Oldest first.
    files: Vec<Known>,
    /// Names of files that could not be read for the moment, and may be good.
    unread: Vec<String>,
    lost: Vec<String>,
    not_kept: u64,
    not_kept_because: Option<String>,
    /// A session was removed, or may have been before the start.
    removed: bool,
    woken: bool,
    /// Something is being done: records.db may be read.
    busy: bool,
    paused: bool,
    closing: bool,
}

impl Keeper {
    /// Looks at what there is, removes what was left half made, and starts the thread.
    pub(super) fn start(
        disk: Arc<dyn Disk>,
        store_dir: &Path,
        store: StoreId,
        budget: u64,
        journal: Weak<Journal>,
        records: Arc<ReaderPool>,
        workers: Workers,
    ) -> io::Result<Arc<Self>> {
        let folder = store_dir.join("kept");
        disk.create_dir(&folder)?;
        disk.sync_dir(store_dir)?;
        let keeper = Self {
            disk,
            store_dir: store_dir.to_owned(),
            folder,
            store,
            budget,
            state: Mutex::new(State { removed: true, woken: true, ..State::default() }),
            wake: Condvar::new(),
            rested: Condvar::new(),
            thread: Mutex::default(),
        };
        keeper.look()?;
        let keeper = Arc::new(keeper);
        if workers == Workers::Caller {
            return Ok(keeper);
        }
        let working = keeper.clone();
        let thread = thread::Builder::new().name("swarmkeep-keeper".into()).spawn(move || {
            #[cfg(target_os = "linux")]
            let _ = rustix::process::nice(NICE);
            working.work(&journal, &records);
        })?;
        *keeper.thread.lock() = Some(thread);
        Ok(keeper)
    }

    fn look(&self) -> io::Result<()> {
        for name in self.disk.list(&self.folder)? {
            if name.ends_with(".part") {
                self.remove_at_a_start(&name);
            } else if kept::file_positions(&name).is_some() {
                self.admit(&name);
            }
        }
        // One that was joined with others, and whose name a crash kept from going. What somebody put there under a name of
        // their own stays.
        let covers =
            |a: &Summary, b: &Summary| (a.first, a.last) != (b.first, b.last) && a.first <= b.first && b.last <= a.last;
        let files = self.state.lock().files.clone();
        let is_stale =
            |file: &Known| file.has_its_own_name() && files.iter().any(|other| covers(&other.summary, &file.summary));
        for file in files.iter().filter(|file| is_stale(file)) {
            self.remove_at_a_start(&file.name);
        }
        let quarantined = match self.disk.list(&self.store_dir.join("quarantine")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            listed => listed.map_err(|error| disk::about("quarantine", &error))?,
        };
        let mut state = self.state.lock();
        state.files.retain(|file| !is_stale(file));
        for name in quarantined.into_iter().filter(|name| name.starts_with("kept-")) {
            if !state.lost.contains(&name) {
                state.lost.push(name);
            }
        }
        Ok(())
    }

    /// No leftover keeps a store from opening.
    fn remove_at_a_start(&self, name: &str) {
        if let Err(error) = disk::remove_if_there(self.disk.as_ref(), &self.folder.join(name)) {
            tracing::warn!(name, %error, "a leftover among the second copies could not be removed");
        }
    }

    /// Takes a kept file into use, if it can be. The error is one that may pass: it is tried again.
    fn admit(&self, name: &str) -> Option<io::Error> {
        let opened = self.disk.open(&self.folder.join(name), OpenHow::Read).map_err(KeptError::from);
        let summary = opened.and_then(|file| kept::summary(file.as_ref(), self.store));
        self.state.lock().unread.retain(|unread| unread != name);
        match summary {
            Ok(summary) => self.state.lock().add(Known { name: name.to_owned(), summary }),
            Err(KeptError::Damaged(what)) => self.lose(name, what),
            Err(KeptError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
            Err(KeptError::Io(error)) if may_pass(&error) => {
                tracing::warn!(name, %error, "a kept file cannot be read for the moment");
                self.state.lock().unread.push(name.to_owned());
                return Some(error);
            }
            Err(error) => {
                tracing::warn!(name, %error, "a kept file is left as it is and not used");
                self.state.lock().lost.push(format!("kept/{name}: {error}"));
            }
        }
        None
    }

    /// Copies that were put back into the folder since the start, by whoever asks for a recovery. A name that was given up as
    /// damaged counts again.
    pub(super) fn look_again(&self) -> io::Result<()> {
        for name in self.disk.list(&self.folder)?.iter().filter(|name| kept::file_positions(name).is_some()) {
            let file = match self.disk.open(&self.folder.join(name), OpenHow::Read) {
                // It went meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened?,
            };
            let summary = match kept::summary(file.as_ref(), self.store) {
                Err(KeptError::Io(error)) if may_pass(&error) => return Err(error),
                // One that does not fit is left as it is: the next start says so.
                Err(_) => continue,
                Ok(summary) => summary,
            };
            let found = Known { name: name.clone(), summary };
            let mut state = self.state.lock();
            // One of the keeper's own may have been joined with others just now: that begins where it began.
            let is_known = |file: &Known| {
                file.name == *name || (found.has_its_own_name() && file.summary.first == found.summary.first)
            };
            if !state.files.iter().any(is_known) {
                tracing::info!(name, "a second copy was put back");
                state.add(found);
            }
        }
        Ok(())
    }

    /// Segments may have been retired.
    pub(super) fn wake(&self) {
        self.state.lock().woken = true;
        self.wake.notify_one();
    }

    /// A session was removed: its kept copies go too.
    pub(super) fn session_removed(&self) {
        self.state.lock().removed = true;
        self.wake.notify_one();
    }

    /// Returns when nothing is being done, and nothing is begun until [`Keeper::close`]: whoever copies records.db's
    /// write-ahead log into its main file for the last time finds no reader in the way.
    pub(super) fn pause(&self) {
        let mut state = self.state.lock();
        state.paused = true;
        while state.busy {
            self.rested.wait(&mut state);
        }
    }

    /// Copies a few of the segments that wait, and ends; the others stay in the journal until the next start.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closing = true;
        state.paused = false;
        drop(state);
        self.wake.notify_one();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the keeper of second copies ended by a panic");
        }
    }

    pub(super) fn standing(&self) -> KeptStanding {
        let state = self.state.lock();
        KeptStanding {
            budget_bytes: self.budget,
            files: state.files.len() as u64,
            bytes: state.bytes(),
            records: state.files.iter().map(|file| file.summary.records).sum(),
            since_position: state.files.first().map(|file| file.summary.first),
            waiting_segments: 0,
            not_kept_segments: state.not_kept,
            not_kept_because: state.not_kept_because.clone(),
            lost: state.lost.iter().cloned().chain(state.unread.iter().map(|name| unread(name))).collect(),
        }
    }

    /// Goes through the kept files, newest first, until `each` says that it has enough. A damaged one goes to quarantine.
    ///
    /// # Errors
    /// One that could not be read, once all others were gone through: it may have what was not found.
    pub(super) fn search(&self, mut each: impl FnMut(&KeptFile) -> Result<bool, KeptError>) -> io::Result<()> {
        let mut failed = self.admit_unread().err();
        let files = self.state.lock().files.clone();
        for file in files.iter().rev() {
            match self.open(file).and_then(|file| each(&file)) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => failed = self.note(file, error).or(failed),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Tries those again that could not be read.
    fn admit_unread(&self) -> io::Result<()> {
        let unread = self.state.lock().unread.clone();
        let failed = unread.iter().filter_map(|name| Some(named(name, &self.admit(name)?))).last();
        failed.map_or(Ok(()), Err)
    }

    /// Reads every byte of every kept file; those that are damaged go to quarantine, and their names are given.
    pub(super) fn verify(&self) -> Vec<String> {
        let known = self.state.lock().lost.clone();
        if let Err(error) = self.search(|file| file.verify().map(|()| false)) {
            tracing::warn!(%error, "not every second copy could be verified");
        }
        self.state.lock().lost.iter().filter(|name| !known.contains(name)).cloned().collect()
    }

    fn work(&self, journal: &Weak<Journal>, records: &ReaderPool) {
        loop {
            let (removed, closing) = {
                let mut state = self.state.lock();
                state.busy = false;
                self.rested.notify_all();
                while state.paused && !state.closing {
                    self.wake.wait(&mut state);
                }
                if !state.woken && !state.removed && !state.closing {
                    self.wake.wait_for(&mut state, LOOK);
                }
                if state.paused {
                    continue;
                }
                state.busy = true;
                state.woken = false;
                (std::mem::take(&mut state.removed), state.closing)
            };
            self.round(journal.upgrade().as_deref(), records, removed, closing);
            if closing {
                let mut state = self.state.lock();
                state.busy = false;
                self.rested.notify_all();
                return;
            }
        }
    }

    /// Without a thread: what the thread would do now.
    pub(super) fn turn(&self, journal: &Journal, records: &ReaderPool) {
        let mut state = self.state.lock();
        state.woken = false;
        let (removed, closing) = (std::mem::take(&mut state.removed), state.closing);
        drop(state);
        self.round(Some(journal), records, removed, closing);
    }

    fn round(&self, journal: Option<&Journal>, records: &ReaderPool, removed: bool, closing: bool) {
        if removed && let Err(error) = self.erase(records) {
            tracing::warn!(%error, "kept copies of removed sessions are still there; tried again at the next removal or start");
        }
        if let Some(journal) = journal {
            self.keep_waiting(journal, records, if closing { CLOSING_SEGMENTS } else { usize::MAX });
        }
    }

    /// Copies segments that wait, `most` of them, until it is to pause or to end.
    fn keep_waiting(&self, journal: &Journal, records: &ReaderPool, most: usize) {
        while journal.is_full() && self.give_way() {
            tracing::warn!("no room for the journal: a kept second copy was given up");
        }
        for _ in 0..most {
            if records.is_suspended() {
                return;
            }
            {
                let state = self.state.lock();
                if state.paused || (state.closing && most == usize::MAX) {
                    return;
                }
            }
            let Some(retired) = journal.take_retired() else { return };
            if let Err(error) = self.keep(retired, journal, records) {
                tracing::warn!(segment = retired.number, %error, "no second copy of a journal segment was made");
                let mut state = self.state.lock();
                state.not_kept += 1;
                state.not_kept_because = Some(error.to_string());
            }
            if let Err(error) = journal.release(retired.number) {
                tracing::warn!(segment = retired.number, %error, "a copied journal segment could not be given up");
                return;
            }
        }
    }

    /// Makes the second copy of one segment.
    fn keep(&self, retired: Extent, journal: &Journal, records: &ReaderPool) -> io::Result<()> {
        let Some(segment) = Segment::read(self.disk.as_ref(), &self.store_dir, self.store, retired, journal.durable())?
        else {
            return Ok(());
        };
        let (frames, damaged) = segment.frames();
        let Some(first) = frames.first() else { return Ok(()) };
        let gone = removed(records, Position(first.position.0.saturating_sub(1)))?;
        let mut content = match damaged {
            0 => Content::after(segment.before()),
            // A removal may have been in what cannot be read.
            _ => Content::default(),
        };
        for frame in &frames {
            content.add(frame, &gone);
        }
        drop((frames, segment));
        let newest = self.state.lock().files.last().cloned();
        let mut joined = None;
        if content.bytes() < JOIN_BYTES
            && let Some(newest) = newest.filter(|newest| newest.summary.bytes < JOIN_BYTES as u64)
        {
            match self.open(&newest) {
                Ok(file) => {
                    let mut both = Content::default();
                    let gone = removed(records, Position(newest.summary.first.0.saturating_sub(1)))?;
                    if both.add_file(&file, &gone).is_ok() && both.bytes() < JOIN_BYTES {
                        both.join(content);
                        content = both;
                        joined = Some(newest);
                    }
                }
                Err(error) => drop(self.note(&newest, error)),
            }
        }
        let Some((bytes, summary)) = content.encode(self.store)? else { return Ok(()) };
        self.put(&bytes, summary, joined)?;
        if damaged > 0 {
            return Err(io::Error::other("frames of it are damaged: the others were copied"));
        }
        Ok(())
    }

    /// Writes a kept file in place of another, if that is given, and lets the oldest go that are beyond the budget.
    fn put(&self, bytes: &[u8], summary: Summary, instead: Option<Known>) -> io::Result<()> {
        while self.disk.free_bytes(&self.folder)? < bytes.len() as u64 + ROOM_BYTES {
            if !self.give_way() {
                return Err(io::Error::new(io::ErrorKind::StorageFull, "no room on the device for second copies"));
            }
        }
        let new = Known { name: kept::file_name(summary.first, summary.last), summary };
        let path = self.path(&new);
        let part = path.with_extension("part");
        let write = || {
            let file = self.disk.open(&part, OpenHow::Create)?;
            file.set_len(0)?;
            file.write_at(bytes, 0)?;
            file.sync_data()?;
            self.disk.rename(&part, &path)?;
            self.disk.sync_dir(&self.folder)
        };
        while let Err(error) = write() {
            let _ = self.disk.remove(&part);
            if !disk::is_full(&error) || !self.give_way() {
                return Err(error);
            }
        }
        if let Some(old) = instead.as_ref().filter(|old| old.name != new.name) {
            self.remove(old)?;
        }
        let mut state = self.state.lock();
        state.files.retain(|file| Some(file) != instead.as_ref());
        state.add(new);
        while (state.files.len() > FILES_MAX || state.bytes() > self.budget) && !state.files.is_empty() {
            let oldest = state.files.remove(0);
            self.remove(&oldest)?;
        }
        Ok(())
    }

    /// Gives up the oldest kept file; false: there is none.
    fn give_way(&self) -> bool {
        let mut state = self.state.lock();
        if state.files.is_empty() {
            return false;
        }
        let oldest = state.files.remove(0);
        state.not_kept += 1;
        state.not_kept_because = Some("no room on the device: the oldest copies were given up".into());
        drop(state);
        self.remove(&oldest).is_ok()
    }

    /// Writes every kept file again that has records of a session that was removed since.
    fn erase(&self, records: &ReaderPool) -> io::Result<()> {
        let marker = self.folder.join("erased");
        let done = match self.disk.open(&marker, OpenHow::Read) {
            Ok(file) => disk::read_whole(file.as_ref(), 64)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        // What cannot be read is taken for nothing done: erasing twice does no harm.
        let done = Position(std::str::from_utf8(&done).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0));
        let gone = removed(records, done)?;
        let Some(newest) = gone.values().max().copied() else { return Ok(()) };
        // What cannot be read now may have some of it: then it is not done.
        self.admit_unread()?;
        let files = self.state.lock().files.clone();
        for file in files.iter().filter(|file| file.summary.first <= newest) {
            let open = match self.open(file) {
                Ok(open) => open,
                Err(error) => {
                    self.note(file, error).map_or(Ok(()), Err)?;
                    continue;
                }
            };
            let goes = |session: &SessionId, position: Position| gone.get(session).is_some_and(|at| *at > position);
            let concerned = open.runs.iter().any(|run| goes(&run.session, run.position))
                || open.blobs.iter().any(|blob| goes(&blob.session, blob.position));
            if !concerned {
                continue;
            }
            let mut content = Content::default();
            if let Err(error) = content.add_file(&open, &gone) {
                self.note(file, error).map_or(Ok(()), Err)?;
                continue;
            }
            match content.encode(self.store)? {
                Some((bytes, summary)) => self.put(&bytes, summary, Some(file.clone()))?,
                None => {
                    self.remove(file)?;
                    self.state.lock().files.retain(|kept| kept != file);
                }
            }
        }
        let part = marker.with_extension("part");
        let file = self.disk.open(&part, OpenHow::Create)?;
        file.set_len(0)?;
        file.write_at(newest.0.to_string().as_bytes(), 0)?;
        file.sync_data()?;
        self.disk.rename(&part, &marker)?;
        self.disk.sync_dir(&self.folder)
    }

    fn open(&self, file: &Known) -> Result<KeptFile, KeptError> {
        KeptFile::read(self.disk.open(&self.path(file), OpenHow::Read)?, self.store)
    }

    /// A kept file could not be used. Gives the error if it may pass.
    fn note(&self, file: &Known, error: KeptError) -> Option<io::Error> {
        match error {
            KeptError::Damaged(what) => {
                self.forget(file);
                self.lose(&file.name, what);
            }
            // It went in the meantime, and was not needed any more.
            KeptError::Io(error) if error.kind() == io::ErrorKind::NotFound => self.forget(file),
            KeptError::Io(error) if may_pass(&error) => return Some(named(&file.name, &error)),
            _ => {}
        }
        None
    }

    fn forget(&self, file: &Known) {
        self.state.lock().files.retain(|kept| kept != file);
    }

    /// A damaged kept file: out of use, and kept for whoever wants to look.
    fn lose(&self, name: &str, what: &str) {
        tracing::error!(name, what, "a second copy is damaged; what it held may exist once only now");
        let aside = self.put_aside(name).unwrap_or_else(|error| {
            tracing::warn!(name, %error, "a damaged second copy could not be put aside");
            format!("kept-{name}")
        });
        self.state.lock().lost.push(aside);
    }

    /// Moves it to quarantine, beside what is there already; gives its name there.
    fn put_aside(&self, name: &str) -> io::Result<String> {
        let quarantine = self.store_dir.join("quarantine");
        self.disk.create_dir(&quarantine)?;
        let aside = disk::free_name(self.disk.as_ref(), &quarantine, &format!("kept-{name}"))?;
        self.disk.rename(&self.folder.join(name), &quarantine.join(&aside))?;
        self.disk.sync_dir(&quarantine)?;
        Ok(aside)
    }

    fn path(&self, file: &Known) -> PathBuf {
        self.folder.join(&file.name)
    }

    fn remove(&self, file: &Known) -> io::Result<()> {
        disk::remove_if_there(self.disk.as_ref(), &self.path(file))
    }
}

impl State {
    /// In the place of what has its name.
    fn add(&mut self, new: Known) {
        self.files.retain(|file| file.name != new.name);
        let at = self.files.partition_point(|file| file.summary.first < new.summary.first);
        self.files.insert(at, new);
    }

    fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.summary.bytes).sum()
    }
}

/// Whether what could not be read may be read another time. A folder is no copy, and never was one.
pub(super) fn may_pass(error: &io::Error) -> bool {
    error.kind() != io::ErrorKind::IsADirectory
}

/// An error, with the kept file that it is about.
pub(super) fn named(name: &str, error: &io::Error) -> io::Error {
    disk::about(format_args!("kept/{name}"), error)
}

fn unread(name: &str) -> String {
    format!("kept/{name}: it cannot be read for the moment")
}

/// Sessions that records.db knows as removed beyond a position, and where.
fn removed(records: &ReaderPool, beyond: Position) -> io::Result<HashMap<SessionId, Position>> {
    let removals =
        records.read(|connection| RecordsReader::new(connection).removals(beyond)).map_err(io::Error::other)?;
    Ok(removals.into_iter().map(|removal| (removal.session, removal.position)).collect())
}
