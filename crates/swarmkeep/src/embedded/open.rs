//! Opening a store: lock, refuse what is newer or does not belong together, settle the journal's tail, serve.

use std::{
    io,
    path::Path,
    sync::{Arc, OnceLock},
};

use parking_lot::Mutex;
use swarmkeep_core::{
    Error, ErrorKind,
    clock::{Clock, Entropy},
    log::{Position, Remove, Watchers},
};
use swarmkeep_sqlite::{
    Anchor, Found, Mode, Options, RECORDS_SCHEMA, ReaderPool, RecordsDb, RecordsReader, Schema, SqliteError,
    VIEWS_SCHEMA, ViewsDb,
};

use super::{
    EmbeddedLog,
    applier::{Applier, Applying, Progress, RETIRE_BYTES},
    copying::{self, Copying},
    keeper::{self, Keeper},
    lane::Lanes,
    mend::{Made, Mender},
    quarantine::Quarantine,
};
use crate::{
    blobs::BlobFiles,
    disk::{Disk, RealDisk},
    journal::{self, Entry, Frame, Inspection, Journal, OpenError, StoreId, Vouch},
    lock::{Holder, LockError, StoreLock},
    recovery::{RecoveryReport, Span},
    settings::Settings,
    workers::Workers,
};

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
        let disk = RealDisk;
        disk.create_dir(folder).map_err(|error| unusable(folder, error))?;
        // How the last holder ended stays written there until this one is open.
        let taking = Holder { parked: None, ..holder(&*clock, None) };
        let mut lock = StoreLock::take(folder, &taking).map_err(locked)?;
        let mut opened = Self::open_on(Arc::new(disk), folder, settings, clock.clone(), entropy)?;
        let did_not_park = lock.previous().is_some_and(|previous| previous.parked == Some(false));
        opened.report.crashed |= did_not_park && opened.incarnation > 1;
        lock.say(&holder(&*clock, None)).map_err(|error| unusable(folder, error))?;
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
        let begun_ms = clock.monotonic_ms();
        disk.create_dir(folder).map_err(|error| unusable(folder, error))?;
        let vfs = disk.vfs();
        let (records_path, views_path) = (folder.join("records.db"), folder.join("views.db"));
        let looked = look(disk.as_ref(), folder, settings.readers, &clock)?;
        let fresh = looked.is_none();
        let Looked { found, inspected, records: read_records, views: mut looked_views } = looked.unwrap_or_default();
        let mut id = [0; 16];
        entropy.fill(&mut id);
        let options = Options {
            store_id: fresh.then_some(id),
            create: fresh,
            mode: Mode::WalNormal,
            now_ms: clock.now_ms(),
            vfs,
        };
        // SQLite syncs the folder of a write-ahead log that it makes, not of one that it finds: a process that was killed in
        // between leaves one whose name the power can take while it is being copied.
        sync_folder(disk.as_ref(), folder)?;
        let copying = Copying::new(disk.clone(), folder);
        let copied = copying.look().map_err(|error| unusable(folder, error))?;
        let records = RecordsDb::open_looked(&records_path, options, found);
        let mut records = records.map_err(|error| database(&records_path, error))?;
        if copied != copying::Found::Idle {
            // What was begun is ended before anything comes on top of it.
            let mut ended = Ok(());
            records
                .wal_checkpoint_saying(|| {
                    ended = copying.end();
                    ended.is_ok()
                })
                .map_err(|error| database(&records_path, error))?;
            ended.map_err(|error| unusable(folder, error))?;
        }
        let anchor = records.anchor();
        let (views, views_rebuilt) =
            open_views(disk.as_ref(), &views_path, &records, clock.now_ms(), &mut looked_views)?;
        sync_folder(disk.as_ref(), folder)?;
        let vouch = vouch(&anchor);
        // What a look at the journal meant holds for the position that it was compared with.
        let inspection = match inspected.filter(|(with, _)| *with == anchor) {
            Some((_, inspection)) => inspection,
            None => {
                journal::inspect(disk.as_ref(), folder, Some(vouch)).map_err(|error| journal_error(folder, error))?
            }
        };
        let place = (disk.clone(), folder);
        let mut opened = Journal::open_inspected(place, pace.journal, Some(vouch), inspection, clock.clone(), entropy)
            .map_err(|error| journal_error(folder, error))?;
        let store = opened.store;
        let quarantine = Quarantine::new(disk.clone(), folder);
        let (kept_disk, mend_disk) = (disk.clone(), disk.clone());
        let blobs = Arc::new(BlobFiles::open(disk, folder).map_err(|error| unusable(folder, error))?);

        let lanes = Arc::new(Lanes::new());
        for damage in quarantine.sessions().map_err(|error| unusable(folder, error))? {
            lanes.set_aside(damage);
        }
        let watchers = Arc::new(Watchers::default());
        let progress = Arc::new(Progress::new(anchor.position, views.position()));
        let unapplied = std::mem::take(&mut opened.unapplied);
        let mut report = report_of(&opened.inspection, opened.incarnation, &unapplied);
        if copied == copying::Found::Differs {
            report.clean = false;
            report.damage.push(
                "records.db: SQLite's write-ahead log was being copied into it when the process ended, and is not what it was: \
                 some of what was applied may be missing in any session; `swarmkeep verify` says what it can"
                    .into(),
            );
        }
        report.views_rebuilt = views_rebuilt;
        report.at_ms = clock.now_ms();
        // As far as the journal tells; a holder that was quiet when it died left a seal, and its lock file says so.
        report.crashed = !fresh && !report.clean;
        let opened_at = unapplied.last().map_or(anchor.position, |frame| frame.position);
        for frame in unapplied {
            hand_over(&lanes, &progress, &watchers, frame);
        }
        if !report.clean {
            finish_removals(&records, &lanes, &blobs).map_err(|error| database(&records_path, error))?;
        }
        let incarnation = opened.incarnation;
        let (sink_lanes, sink_progress, sink_watchers) = (lanes.clone(), progress.clone(), watchers.clone());
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
        let mender = Mender {
            quarantine: Quarantine::new(mend_disk.clone(), folder),
            disk: mend_disk,
            store_dir: folder.to_owned(),
            store,
            incarnation,
            journal: journal.clone(),
            keeper: keeper.clone(),
            records: read_records.clone(),
            lanes: lanes.clone(),
            progress: progress.clone(),
            watchers: watchers.clone(),
            clock: clock.clone(),
            workers: pace.workers,
            made: Made::default(),
        };
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
            mark_stands: false,
            keeper: keeper.clone(),
            retire_bytes: pace.retire_bytes,
            workers: pace.workers,
        };
        let applying = Applying::begin(applier).map_err(|error| unusable(folder, error))?;
        report.opened_ms = clock.monotonic_ms().saturating_sub(begun_ms);
        Ok(Self {
            folder: folder.to_owned(),
            incarnation,
            opened_at,
            report,
            journal,
            lanes,
            watchers,
            progress,
            keeper,
            mender: Arc::new(mender),
            records: read_records,
            views: read_views,
            blobs,
            clock,
            unapplied_bytes: usize::try_from(settings.unapplied_bytes).unwrap_or(usize::MAX),
            workers: pace.workers,
            applying: Mutex::new(applying),
            lock: Mutex::new(None),
        })
    }
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
    Holder { pid: std::process::id(), address, started_at_ms, parked: Some(false) }
}

/// What a look at a store found, with the connections that looked: they become its readers, and while they are open what a
/// write-ahead log holds is found out once.
#[derive(Default)]
struct Looked {
    found: Option<Found>,
    records: Option<ReaderPool>,
    views: Option<(ReaderPool, Found)>,
    /// The journal, and what records.db said when it was read.
    inspected: Option<(Anchor, Inspection)>,
}

/// Looks before anything is opened for writing, so that a store that is refused is as it was: a database that was open for
/// writing copies its write-ahead log into itself when it closes. `None`: neither records.db nor a journal, a new store.
fn look(disk: &dyn Disk, folder: &Path, readers: usize, clock: &Arc<dyn Clock>) -> Result<Option<Looked>, Error> {
    let (records, views, journal) = (folder.join("records.db"), folder.join("views.db"), folder.join("journal"));
    let names = match disk.list(&journal) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(unusable(&journal, error)),
    };
    let has_journal = names.iter().any(|name| name.ends_with(".segment"));
    let half = |there: &str, missing: &str| {
        let message = format!("{} has {there} but no {missing}: this is half of a store", folder.display());
        Err(Error::new(ErrorKind::Corrupt, message).hint(format!(
            "bring back {missing} from where {there} came from, or move the folder away and begin a new store; nothing was changed"
        )))
    };
    let through = |schema: &Schema, path: &Path| {
        let pool = ReaderPool::open_on(disk.vfs(), path, readers, clock.clone())?;
        let found = schema.look_through(&pool, path)?;
        Ok((pool, found))
    };
    // A crash while records.db was being made leaves an empty one, or one that waits to be rolled back to that, or one with
    // tables and nothing in them. The journal is made when records.db is durable, so there is none then.
    let looked = match disk.exists(&records).map_err(|error| unusable(&records, error))? {
        false => None,
        true => match through(&RECORDS_SCHEMA, &records) {
            Ok((_, Found::Empty)) => None,
            Ok(looked) => Some(looked),
            Err(SqliteError::ReadOnly(_)) if !has_journal => None,
            Err(error) => return Err(database(&records, error)),
        },
    };
    let unborn = |reader: &ReaderPool| reader.read(|connection| RecordsReader::new(connection).is_unborn());
    let Some((reader, found)) = looked.filter(|(reader, _)| has_journal || !unborn(reader).unwrap_or(false)) else {
        return if has_journal { half("a journal", "records.db") } else { Ok(None) };
    };
    let anchor =
        reader.read(|connection| RecordsReader::new(connection).anchor()).map_err(|error| database(&records, error))?;
    // A crash between making the two leaves a records.db in which nothing was ever applied.
    if !has_journal && anchor.position != Position(0) {
        return half("records.db", "journal");
    }
    let looked_views = match through(&VIEWS_SCHEMA, &views) {
        Ok((_, Found::Empty)) => None,
        Ok(looked) => Some(looked),
        Err(error @ SqliteError::Newer { .. }) => return Err(database(&views, error)),
        Err(_) => None,
    };
    let inspection =
        journal::inspect(disk, folder, Some(vouch(&anchor))).map_err(|error| journal_error(folder, error))?;
    Ok(Some(Looked {
        found: Some(found),
        records: Some(reader),
        views: looked_views,
        inspected: Some((anchor, inspection)),
    }))
}

fn vouch(anchor: &Anchor) -> Vouch {
    Vouch {
        store: StoreId(anchor.store_id),
        position: anchor.position,
        frame_hash: anchor.frame_hash,
        incarnation: anchor.incarnation,
    }
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
        Err(SqliteError::Damaged(_) | SqliteError::Foreign { .. } | SqliteError::Changed { .. }) => {}
        Err(error) => return Err(database(path, error)),
    }
    *looked = None;
    let folder = path.with_file_name("quarantine");
    let aside = folder.join(format!("views-{now_ms}.db"));
    tracing::warn!(aside = %aside.display(), "views.db does not belong to records.db as it is; put aside and built again");
    disk.create_dir(&folder).and_then(|()| disk.rename(path, &aside)).map_err(|error| unusable(path, error))?;
    for suffix in ["-wal", "-shm"] {
        let name = |path: &Path| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            name
        };
        match disk.rename(Path::new(&name(path)), Path::new(&name(&aside))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unusable(path, error)),
            _ => {}
        }
    }
    Ok((ViewsDb::open(path, options).map_err(|error| database(path, error))?, true))
}

fn in_words(spans: &[journal::frame::Span]) -> String {
    let words = spans.iter().map(|span| match &span.seqs {
        Some(seqs) => format!("session {} seqs {} to {}", span.session, seqs.start(), seqs.end()),
        None => format!("session {}", span.session),
    });
    words.collect::<Vec<_>>().join(", ")
}

fn report_of(inspection: &Inspection, incarnation: u64, unapplied: &[Arc<Frame>]) -> RecoveryReport {
    let spans = |spans: &[journal::frame::Span]| -> Vec<Span> {
        spans
            .iter()
            .map(|span| Span {
                session: span.session,
                first: span.seqs.as_ref().map(|seqs| *seqs.start()),
                last: span.seqs.as_ref().map(|seqs| *seqs.end()),
            })
            .collect()
    };
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
        possibly_acknowledged: inspection
            .doubts
            .iter()
            .filter(|doubt| !doubt.abandoned)
            .flat_map(|doubt| spans(doubt.spans.as_deref().unwrap_or_default()))
            .collect(),
        damage: inspection
            .damage
            .iter()
            .map(|damage| {
                let saved = match (damage.in_records, &damage.spans) {
                    (true, _) => "records.db has all of it".into(),
                    (false, Some(spans)) => format!("NOT in records.db: {}", in_words(spans)),
                    (false, None) => "NOT in records.db; whose it was cannot be told".into(),
                };
                format!(
                    "journal segment {}: {} ({saved}); kept as quarantine/{}",
                    damage.segment,
                    damage.what,
                    damage.quarantine_name()
                )
            })
            .chain(inspection.doubts.iter().filter(|doubt| !doubt.abandoned && doubt.spans.is_none()).map(|doubt| {
                format!(
                    "journal segment {}: after its end is, or was, what may have been acknowledged; whose it was cannot be told; kept \
                     as quarantine/{}",
                    doubt.segment,
                    doubt.quarantine_name()
                )
            }))
            .collect(),
        repaired: Vec::new(),
        views_rebuilt: false,
        sessions_checked: 0,
        records_replayed: 0,
        sessions_failed: 0,
        problems: Vec::new(),
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
        LockError::Locked { .. } => "talk to the program that holds the store (the CLI does by itself), or stop it",
        _ => "check the folder and where it lies",
    };
    Error::new(ErrorKind::Unavailable, error.to_string()).hint(hint).caused_by(error)
}

fn database(path: &Path, error: SqliteError) -> Error {
    let kind = match &error {
        SqliteError::Damaged(_) | SqliteError::Foreign { .. } => ErrorKind::Corrupt,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, format!("{}: {error}", path.display()))
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
