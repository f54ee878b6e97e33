//! Opening a store: lock, refuse what is newer or does not belong together, settle the journal's tail, serve.

mod look;

use std::{
    io,
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use swarmkeep_core::{
    Error, ErrorKind,
    clock::{Clock, Entropy},
    log::{Position, Remove, Watchers},
    recovery::Policy,
};
use swarmkeep_sqlite::{Found, Mode, Options, ReaderPool, RecordsDb, SqliteError, ViewsDb};

pub(super) use self::look::GONE;
pub(crate) use self::look::beforehand;
use self::look::{Look, Looked, OTHER_LOG, UNBORN, is_broken, look_marked, vouch};
use super::{
    EmbeddedLog,
    applier::{Applier, Applying, RETIRE_BYTES},
    case::Cases,
    copying::{self, Begin, Copying},
    doubt::{Surroundings, views_aside},
    keeper::{self, Keeper},
    lane::Lanes,
    progress::Progress,
    quarantine::Quarantine,
    recover::{Made, Mender},
    remake::{self, Broken, Site},
    unreported::Unreported,
};
use crate::{
    blobs::BlobFiles,
    damage,
    disk::{Disk, RealDisk},
    journal::{self, Entry, Frame, Inspection, Journal, OpenError},
    lock::{Fence, Ground, Holder, LockError, StoreLock},
    recovery::{Damaged, DataLoss, RecoveryReport, Span},
    settings::Settings,
    sync::Mutex,
    workers::Workers,
};

/// How long a read waits for a database that is being opened again, or made again.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often a store does what its settings leave to it. Tests of the disk take small steps.
#[derive(Debug, Clone)]
pub struct Pace {
    /// The journal's own settings.
    pub journal: journal::Settings,
    /// After so many applied bytes the write-ahead logs are copied into the main files, so that segments can be retired.
    pub retire_bytes: usize,
    /// Who does it.
    pub workers: Workers,
}

impl Pace {
    /// As a store with these settings has it.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        let journal = journal::Settings {
            segment_bytes: settings.segment_bytes,
            keep_bytes: keeper::wait_bytes(settings),
            ..journal::Settings::default()
        };
        Self { journal, retire_bytes: RETIRE_BYTES, workers: Workers::Threads }
    }
}

impl EmbeddedLog {
    /// Opens the store in `folder`, or makes one there. Blocks; takes as long as reading what was not yet applied.
    ///
    /// # Errors
    /// `unavailable` when it is held, newer than this program, or its folder cannot be used; `corrupt` when its files do not
    /// belong together. Nothing is changed then.
    pub fn open(
        folder: &Path,
        settings: &Settings,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, Error> {
        Self::open_held(Arc::new(RealDisk), folder, settings, Pace::of(settings), clock, entropy)
    }

    /// [`EmbeddedLog::open`] on a file system of one's own, at a pace of one's own.
    ///
    /// # Errors
    /// As [`EmbeddedLog::open`].
    pub fn open_held(
        ground: Arc<dyn Ground>,
        folder: &Path,
        settings: &Settings,
        pace: Pace,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, Error> {
        ground.create_dir(folder).map_err(|error| unusable(folder, error))?;
        let holder = |clock: &dyn Clock| Holder { pid: ground.process(), ..holder(clock, None) };
        // How the last holder ended stays written there until this one is open.
        let taking = Holder { parked: None, ..holder(&*clock) };
        let mut lock = StoreLock::take_on(ground.clone(), folder, &taking).map_err(locked)?;
        // Two copies of a store that both go on must not do so under the same number.
        let leap = if lock.is_a_copy() { leap(&*entropy) } else { 0 };
        let place = (ground.clone() as Arc<dyn Disk>, lock.home(), lock.fence(), leap);
        let mut opened = Self::open_fenced(place, settings, pace, clock.clone(), entropy)?;
        // The journal tells only what it has: one that is damaged is not one that was left in a hurry.
        if let Some(parked) = lock.previous().and_then(|previous| previous.parked) {
            opened.report.crashed = !parked && opened.incarnation > 1;
        }
        opened.report.taken_over = lock.untold().cloned();
        opened.report.is_a_copy = leap > 0;
        lock.say(&holder(&*clock)).map_err(|error| unusable(folder, error))?;
        if let Err(error) = lock.tidy() {
            tracing::warn!(%error, "files of an earlier term of the store are still there");
        }
        opened.root = Some(folder.to_owned());
        *opened.lock.lock() = Some(lock);
        Ok(opened)
    }

    /// [`EmbeddedLog::open`] on a disk of one's own. Whoever has it sees to it that nobody else opens the store.
    ///
    /// # Errors
    /// As [`EmbeddedLog::open`].
    pub fn open_on(
        disk: Arc<dyn Disk>,
        folder: &Path,
        settings: &Settings,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, Error> {
        Self::open_at_pace(disk, folder, settings, Pace::of(settings), clock, entropy)
    }

    /// [`EmbeddedLog::open_on`], at a pace of one's own.
    ///
    /// # Errors
    /// As [`EmbeddedLog::open`].
    pub fn open_at_pace(
        disk: Arc<dyn Disk>,
        folder: &Path,
        settings: &Settings,
        pace: Pace,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, Error> {
        Self::open_fenced((disk, folder, Fence::default(), 0), settings, pace, clock, entropy)
    }

    /// Nobody is told of a write that the fence does not let pass. `leap` is added to the incarnation.
    fn open_fenced(
        (disk, folder, fence, leap): (Arc<dyn Disk>, &Path, Fence, u64),
        settings: &Settings,
        pace: Pace,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, Error> {
        let begun_ms = clock.monotonic_ms();
        disk.create_dir(folder).map_err(|error| unusable(folder, error))?;
        let vfs = disk.vfs();
        let (records_path, views_path) = (folder.join("records.db"), folder.join("views.db"));
        let (noted, _) = Cases::look(disk.clone(), folder).map_err(|error| unusable(folder, error))?;
        let copying = Copying::new(disk.clone(), folder);
        // What an earlier life made to take the place of a damaged records.db.
        let was_made = remake::end(disk.as_ref(), folder, clock.now_ms()).map_err(|error| unusable(folder, error))?;
        if was_made {
            // They may have what cannot be had any more.
            views_aside(disk.as_ref(), &views_path, clock.now_ms()).map_err(|error| unusable(folder, error))?;
        }
        let mut id = [0; 16];
        entropy.fill(&mut id);
        let options = Options { store_id: None, create: false, mode: Mode::WalNormal, now_ms: clock.now_ms(), vfs };
        // SQLite syncs the folder of a write-ahead log that it makes, not of one that it finds: a process that was killed in
        // between leaves one whose name the power can take while it is being copied.
        sync_folder(disk.as_ref(), folder)?;
        let mut unreported = Unreported::look(disk.clone(), folder).map_err(|error| unusable(folder, error))?;
        let mut made_again = usize::from(was_made);
        let (looked, records) = loop {
            let (how, why) = match look_marked(disk.as_ref(), folder, settings.readers, &clock, &copying)? {
                Look::Found(looked, copied) => {
                    let fresh = looked.is_none();
                    let options = Options { store_id: fresh.then_some(id), create: fresh, ..options };
                    let found = looked.as_ref().and_then(|looked| looked.found);
                    match open_records(&records_path, options, found, copied, &copying) {
                        Ok(records) => break (looked, records),
                        Err(error) if !fresh && is_broken(&error) && !error.is_of_another() => {
                            (Broken::Unreadable, error.to_string())
                        }
                        Err(error) => return Err(database(&records_path, error)),
                    }
                }
                Look::Broken(how, why) => (how, why),
                Look::Unborn => {
                    tracing::warn!("records.db: {UNBORN}; put aside, and made anew");
                    remake::put_aside(disk.as_ref(), folder, clock.now_ms())
                        .map_err(|error| unusable(folder, error))?;
                    continue;
                }
                Look::OtherLog => {
                    let said = format!(
                        "records.db: {OTHER_LOG}; put aside in quarantine, and the journal is applied again: nothing is missing"
                    );
                    unreported
                        .add_damage(Damaged::in_records(DataLoss::None, said))
                        .map_err(|error| unusable(folder, error))?;
                    remake::set_log_aside(disk.as_ref(), folder, clock.now_ms())
                        .map_err(|error| unusable(folder, error))?;
                    made_again += 1;
                    continue;
                }
            };
            if made_again > 3 {
                return Err(database(&records_path, SqliteError::damaged(None, None, why)));
            }
            let (now_ms, stamp) = (clock.now_ms(), copying.stamp() + 1);
            let site = Site { disk: &disk, folder, cases: &noted, now_ms, stamp, has: copying.has() };
            let mut remember = |damage: &Damaged| unreported.add_damage(damage.clone());
            remake::make(&site, how, &why, &mut remember).map_err(|error| database(&records_path, error))?;
            made_again += 1;
            remake::end(disk.as_ref(), folder, now_ms).map_err(|error| unusable(folder, error))?;
            // They may have what cannot be had any more.
            views_aside(disk.as_ref(), &views_path, now_ms).map_err(|error| unusable(folder, error))?;
        };
        let fresh = looked.is_none();
        let Looked { found: _, inspected, records: read_records, views: mut looked_views } =
            looked.map(|looked| *looked).unwrap_or_default();
        let anchor = records.anchor();
        let (views, views_rebuilt) =
            open_views(disk.as_ref(), &views_path, &records, clock.now_ms(), &mut looked_views)?;
        sync_folder(disk.as_ref(), folder)?;
        let vouch = vouch(&anchor);
        // What a look at the journal meant holds for the position that it was compared with.
        let mut inspection = match inspected.filter(|(with, _)| *with == anchor) {
            Some((_, inspection)) => inspection,
            None => {
                journal::inspect(disk.as_ref(), folder, Some(vouch)).map_err(|error| journal_error(folder, error))?
            }
        };
        inspection.incarnation = inspection.incarnation.saturating_add(leap);
        unreported.add_inspection(&inspection).map_err(|error| unusable(folder, error))?;
        let place = (disk.clone(), folder);
        let mut opened = Journal::open_inspected(place, pace.journal, Some(vouch), inspection, clock.clone(), entropy)
            .map_err(|error| journal_error(folder, error))?;
        let store = opened.store;
        let quarantine = Quarantine::new(disk.clone(), folder);
        let (kept_disk, mend_disk, surrounding_disk) = (disk.clone(), disk.clone(), disk.clone());
        let blobs = Arc::new(BlobFiles::open(disk, folder).map_err(|error| unusable(folder, error))?);

        let lanes = Arc::new(Lanes::new());
        for damage in quarantine.sessions().map_err(|error| unusable(folder, error))? {
            lanes.set_aside(damage);
        }
        let watchers = Arc::new(Watchers::default());
        let progress = Arc::new(Progress::new(anchor.position, views.position()));
        let unapplied = std::mem::take(&mut opened.unapplied);
        let mut report = report_of(&opened.inspection, opened.incarnation, &unapplied);
        report.records_rebuilt = made_again > 0;
        report.views_rebuilt = views_rebuilt;
        report.at_ms = clock.now_ms();
        // As far as the journal tells; a holder that was quiet when it died left a seal, and its lock file says so.
        report.crashed = !fresh && !report.clean;
        let opened_at = unapplied.last().map_or(anchor.position, |frame| frame.position);
        for frame in unapplied {
            hand_over(&lanes, &progress, &watchers, frame);
        }
        let (cases, damaged) = Cases::look(mend_disk.clone(), folder).map_err(|error| unusable(folder, error))?;
        for damage in cases.unknown(&damaged) {
            unreported.add_damage(damage).map_err(|error| unusable(folder, error))?;
        }
        cases.mend(damaged).map_err(|error| unusable(folder, error))?;
        let cases = Arc::new(cases);
        unreported.put_into(&mut report);
        let noted = unreported.set_lost_aside(&lanes, &cases, |session, case| cases.put(session, &case));
        noted.map_err(|error| unusable(folder, error))?;
        let mut broken = None;
        if !report.clean {
            match finish_removals(&records, &lanes, &blobs) {
                // SQLite met what it cannot read only now: the applier has it made again before anything else.
                Err(error) if is_broken(&error) => broken = Some((Broken::Unreadable, error.to_string())),
                finished => finished.map_err(|error| database(&records_path, error))?,
            }
        }
        let incarnation = opened.incarnation;
        let (sink_lanes, sink_progress, sink_watchers) = (lanes.clone(), progress.clone(), watchers.clone());
        let opened = opened.fenced_by(fence);
        let sink = Box::new(move |frame: Arc<Frame>| hand_over(&sink_lanes, &sink_progress, &sink_watchers, frame));
        let journal = match pace.workers {
            Workers::Threads => opened.start(sink).map_err(|error| unusable(folder, error))?,
            Workers::Caller => opened.start_by_hand(sink),
        };
        let journal = Arc::new(journal);

        let readers = |path: &Path, looked: Option<ReaderPool>| {
            let pool = looked.map_or_else(|| ReaderPool::open_on(vfs, path, settings.readers, clock.clone()), Ok);
            pool.map(Arc::new).map_err(|error| database(path, error))
        };
        let read_records = readers(&records_path, read_records)?;
        let read_views = readers(&views_path, looked_views.map(|(pool, _)| pool))?;
        if pace.workers == Workers::Threads && !cfg!(feature = "race") {
            [&read_records, &read_views].into_iter().for_each(|pool| pool.set_patience(PATIENCE));
        }
        let keeper = match settings.journal_keep {
            0 => None,
            budget => Some(
                Keeper::start(
                    kept_disk,
                    folder,
                    store,
                    budget,
                    Arc::downgrade(&journal),
                    read_records.clone(),
                    pace.workers,
                )
                .map_err(|error| unusable(folder, error))?,
            ),
        };
        let unreported = Arc::new(Mutex::new(unreported));
        let mender = Mender {
            quarantine: Quarantine::new(mend_disk.clone(), folder),
            disk: mend_disk,
            store_dir: folder.to_owned(),
            store,
            incarnation,
            journal: journal.clone(),
            keeper: keeper.clone(),
            records: read_records.clone(),
            blobs: blobs.clone(),
            lanes: lanes.clone(),
            progress: progress.clone(),
            watchers: watchers.clone(),
            clock: clock.clone(),
            workers: pace.workers,
            policy: Policy { accept_loss: settings.accept_loss, start_fresh: false },
            cases,
            above: OnceLock::new(),
            made: Made::default(),
        };
        mender.cases.aside().into_iter().for_each(|damage| lanes.set_aside(damage));
        let applier = Applier {
            progress: progress.clone(),
            records,
            views,
            lanes: lanes.clone(),
            blobs: blobs.clone(),
            journal: Arc::downgrade(&journal),
            since_retired: 1,
            views_behind: false,
            quarantine,
            copying,
            surroundings: Surroundings {
                disk: surrounding_disk,
                folder: folder.to_owned(),
                store,
                clock: clock.clone(),
                records: read_records.clone(),
                views: read_views.clone(),
                cases: mender.cases.clone(),
                unreported: unreported.clone(),
            },
            doubtful: broken.is_some(),
            broken,
            remade_at_ms: Vec::new(),
            looked_at_ms: 0,
            log_unnamed: true,
            views_damaged: false,
            views_doubtful: false,
            log_in_doubt: true,
            mark_stands: None,
            keeper: keeper.clone(),
            retire_bytes: pace.retire_bytes,
            workers: pace.workers,
        };
        let applying = Applying::begin(applier).map_err(|error| unusable(folder, error))?;
        report.opened_ms = clock.monotonic_ms().saturating_sub(begun_ms);
        Ok(Self {
            folder: folder.to_owned(),
            root: None,
            incarnation,
            opened_at,
            report,
            journal,
            lanes,
            watchers,
            progress,
            keeper,
            mender: Arc::new(mender),
            looking: tokio::sync::Mutex::default(),
            records: read_records,
            views: read_views,
            blobs,
            clock,
            unapplied_bytes: usize::try_from(settings.unapplied_bytes).unwrap_or(usize::MAX),
            workers: pace.workers,
            applying: Mutex::new(applying),
            lock: Mutex::new(None),
            unreported,
        })
    }
}

/// Opens records.db. What was begun is ended before anything comes on top of it, and a file that is new is durable before
/// anything names it.
fn open_records(
    path: &Path,
    options: Options,
    found: Option<Found>,
    copied: copying::Found,
    copying: &Copying,
) -> Result<RecordsDb, SqliteError> {
    let mut records = RecordsDb::open_looked(path, options, found)?;
    records.try_write()?;
    let position = records.position().0;
    if copied == copying::Found::Idle && position != Position(0) {
        return Ok(records);
    }
    let stamp = records.next_stamp(0)?;
    match copying.begin(true, stamp) {
        Ok(()) => {}
        Err(Begin::Log(error) | Begin::Mark(error)) => return Err(error.into()),
    }
    let mut ended = Ok(());
    records.wal_checkpoint_saying(|| {
        ended = copying.end(stamp, position);
        ended.is_ok()
    })?;
    ended?;
    Ok(records)
}

/// How far a copy of a store leaps ahead: a number of its own, from 1 to 2³².
fn leap(entropy: &dyn Entropy) -> u64 {
    let mut bytes = [0; 4];
    entropy.fill(&mut bytes);
    u64::from(u32::from_le_bytes(bytes)) + 1
}

/// Blob files of sessions whose removal was carried out in records.db just before the end: nothing else would remove them.
fn finish_removals(records: &RecordsDb, lanes: &Lanes, blobs: &BlobFiles) -> Result<(), SqliteError> {
    for session in blobs.sessions()? {
        if lanes.head(session).is_none() && records.reader().is_removed(session)? {
            blobs.remove_session(session, &[])?;
        }
    }
    Ok(())
}

/// A frame is durable: readable through its sessions' lanes, and the applier's, from now on.
fn hand_over(lanes: &Lanes, progress: &Progress, watchers: &Watchers, frame: Arc<Frame>) {
    for entry in &frame.entries {
        match entry {
            Entry::Records(group) => {
                lanes.durable(group);
                watchers.moved(group.session);
            }
            Entry::Remove { session, what: Remove::All, .. } => lanes.leaves(*session),
            _ => {}
        }
    }
    progress.hand_over(frame);
}

pub(super) fn holder(clock: &dyn Clock, address: Option<String>) -> Holder {
    // One moment per process, whatever is said later.
    static STARTED_AT_MS: OnceLock<u64> = OnceLock::new();
    let started_at_ms = *STARTED_AT_MS.get_or_init(|| clock.now_ms());
    Holder { pid: std::process::id(), address, started_at_ms, parked: Some(false), ..Holder::default() }
}

/// views.db is derived: one that is damaged, ahead, another store's or another program's is put aside and made again.
/// `looked`: its readers, and what they found; nothing is left of them when it was put aside.
fn open_views(
    disk: &dyn Disk,
    path: &Path,
    records: &RecordsDb,
    now_ms: u64,
    looked: &mut Option<(ReaderPool, Found)>,
) -> Result<(ViewsDb, bool), Error> {
    let store_id = Some(records.anchor().store_id);
    let options = Options { store_id, create: true, mode: Mode::WalNormal, now_ms, vfs: disk.vfs() };
    let applied = records.position().0;
    let was_there = disk.exists(path).map_err(|error| unusable(path, error))?;
    match ViewsDb::open_looked(path, options, looked.as_ref().map(|(_, found)| *found)) {
        Ok(views) if views.position() <= applied => return Ok((views, !was_there && applied > Position(0))),
        Ok(views) => drop(views),
        Err(error) if is_broken(&error) => {}
        Err(error) => return Err(database(path, error)),
    }
    *looked = None;
    views_aside(disk, path, now_ms).map_err(|error| unusable(path, error))?;
    Ok((ViewsDb::open(path, options).map_err(|error| database(path, error))?, true))
}

fn report_of(inspection: &Inspection, incarnation: u64, unapplied: &[Arc<Frame>]) -> RecoveryReport {
    let tail_kept = match unapplied.last() {
        Some(last) if inspection.carried => last
            .entries
            .iter()
            .filter_map(|entry| match entry {
                Entry::Records(group) => Some(Span {
                    session: group.session,
                    first: Some(group.after.seq.0 + 1),
                    last: Some(group.head.seq.0),
                }),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    };
    RecoveryReport {
        id: format!("open-{incarnation}"),
        at_ms: 0,
        crashed: false,
        clean: inspection.sealed && inspection.damage.is_empty() && inspection.doubts.is_empty(),
        opened_ms: 0,
        all_checked_ms: None,
        frames_replayed: unapplied.len() as u64,
        bytes_replayed: unapplied.iter().map(|frame| frame.bytes as u64).sum(),
        tail_kept,
        possibly_acknowledged: Vec::new(),
        damage: Vec::new(),
        repaired: Vec::new(),
        taken_over: None,
        is_a_copy: false,
        views_rebuilt: false,
        records_rebuilt: false,
        sessions_live: None,
        sessions_checked: 0,
        records_replayed: 0,
        sessions_failed: 0,
        problems: Vec::new(),
        recovery: None,
    }
}

fn sync_folder(disk: &dyn Disk, folder: &Path) -> Result<(), Error> {
    // SQLite does not sync the directory after it made the main file.
    disk.sync_dir(folder).map_err(|error| unusable(folder, error))
}

fn unusable(path: &Path, error: io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, format!("{}: {error}", path.display()))
        .hint("check that the folder is there, writable, on a local disk, and that the disk has room")
        .caused_by(error)
}

fn locked(error: LockError) -> Error {
    let hint = match &error {
        LockError::Locked { .. } => {
            "talk to the program that holds the store (the CLI does by itself), or stop it; `swarmkeep take-over` where that \
             cannot be done"
        }
        _ => "check the folder and where it lies",
    };
    Error::new(ErrorKind::Unavailable, error.to_string()).hint(hint).caused_by(error)
}

fn database(path: &Path, error: SqliteError) -> Error {
    let kind = match &error {
        SqliteError::Damaged(_) | SqliteError::Foreign { .. } => ErrorKind::Corrupt,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, damage::of_file(path, &error))
        .hint("`swarmkeep doctor` says what to do; nothing was changed")
        .caused_by(error)
}

fn journal_error(folder: &Path, error: OpenError) -> Error {
    let kind = match &error {
        OpenError::Mixed { .. } => ErrorKind::Corrupt,
        OpenError::Settings(_) => ErrorKind::Invalid,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, format!("{}: {error}", folder.display()))
        .hint("`swarmkeep doctor` says what to do")
        .caused_by(error)
}
