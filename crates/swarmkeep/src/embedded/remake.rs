//! records.db, made again: when SQLite cannot read it, when it is gone, when it is of another time than its own log, or when
//! that log was being copied into it and is not what it was.
//!
//! One way, whatever the cause. The new file is made beside the old one, `records.part`: every row of the old one that
//! verifies by itself; then, by the sessions' hash chains, what the kept copies have; then the journal is applied to it
//! as after any crash. What cannot be had is written down session by session (`case`), durably, and those sessions go the way
//! of every damaged one. When the new file is durable it is called `records.made`: from there on the next start ends what was
//! begun ([`end`]). The old file and its log go to `quarantine/`, and the new one takes their place.
//!
//! # Removed sessions
//!
//! A row does not know whether it was removed later. The kept copies list all removals in the frames that they stand for, and so
//! does the journal; as far as these two reach back without a gap, nothing that was removed comes back. Where they do not
//! reach back to what the old file is known to have, a session of which nothing newer is known waits for a decision:
//! whether it went on, or was removed, cannot be told.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use swarmkeep_core::{
    Hash, Seq, SessionId,
    log::{Blob, Position, Remove},
    recovery::Range,
};
use swarmkeep_sqlite::{
    Gap, Mending, Mode, Options, ReaderPool, RecordsDb, Salvaged, SqliteError, Survey, ViewsDb, Wreck,
};

use super::{
    case::Cases,
    doubt::sidelong,
    mend::{Found, Run, fill},
    open::GONE,
    sight::removed_through,
};
use crate::{
    blobs::BlobFiles,
    disk::{Disk, OpenHow},
    journal::{
        self, Entry, Frame, Inspection, OpenError, StoreId, Vouch,
        kept::{self, KeptFile},
        search,
        tail::Reach,
    },
    recovery::{Damaged, DataLoss},
};

/// What is wrong with records.db.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// SQLite cannot read all of it, or there is none.
    Unreadable,
    /// The main file is of another time than its log.
    PutBack,
    /// Its log was being copied into it, and is not what it was. It has everything up to this position.
    Torn(Position),
}

/// Where it is made again.
pub(super) struct Site<'a> {
    pub(super) disk: &'a Arc<dyn Disk>,
    pub(super) folder: &'a Path,
    pub(super) cases: &'a Cases,
    pub(super) now_ms: u64,
    /// The lowest stamp that the new file may have.
    pub(super) stamp: u64,
    /// The old file has everything up to this position, whatever else it has.
    pub(super) has: Position,
}

/// Remembers, durably, what is to be said of a file that was made, before it counts.
pub(super) type Remember<'a> = dyn FnMut(&Damaged) -> io::Result<()> + 'a;

/// What is known besides the old file.
struct Known {
    store: StoreId,
    /// Where the new file stands before the journal is applied.
    position: Position,
    hash: Hash,
    incarnation: u64,
    inspection: Inspection,
    kept: Vec<KeptFile>,
    /// The kept copies and the journal have everything after this position.
    reaches: Position,
    /// The last removal of each session up to `position`.
    removed: BTreeMap<SessionId, Position>,
    /// Sessions that are removed later, in the journal: where, and the last record of each before that.
    leaving: BTreeMap<SessionId, (Position, Seq)>,
}

impl Known {
    /// Of each session that the journal goes on with: its last record there.
    fn ends(&self) -> BTreeMap<SessionId, u64> {
        let entries = self.inspection.unapplied.iter().flat_map(|frame| &frame.entries);
        let groups = entries.filter_map(|entry| if let Entry::Records(group) = entry { Some(group) } else { None });
        groups.map(|group| (group.session, group.head.seq.0)).collect()
    }

    /// The journal is damaged, and what it held there cannot be told, or is nowhere.
    fn is_doubted(&self) -> bool {
        let is_unknown = self.inspection.doubts.iter().any(|doubt| !doubt.abandoned && doubt.spans.is_none());
        is_unknown || self.inspection.lost().next().is_some()
    }

    /// Of each session that the journal goes on with: after which record.
    fn follows(&self) -> BTreeMap<SessionId, u64> {
        let mut follows = BTreeMap::new();
        for entry in self.inspection.unapplied.iter().flat_map(|frame| &frame.entries) {
            if let Entry::Records(group) = entry {
                follows.entry(group.session).or_insert(group.after.seq.0);
            }
        }
        follows
    }
}

/// Whether what there is of records.db belongs to another store than the journal: then it is refused, and stays.
pub(super) fn is_of_another(disk: &dyn Disk, folder: &Path, broken: Broken, store: StoreId) -> bool {
    let wreck = Wreck::open(disk.vfs(), &folder.join("records.db"), broken == Broken::PutBack);
    wreck.is_ok_and(|wreck| wreck.survey().anchor.is_some_and(|anchor| anchor.store_id != store.0))
}

/// Makes records.db again, as `records.made`. Nobody has it open. Gives the sessions of which something cannot be had; [`end`] puts
/// it in its place.
///
/// # Errors
/// `Foreign`: what there is does not suffice, and nothing was changed.
pub(super) fn make(
    site: &Site<'_>,
    broken: Broken,
    why: &str,
    remember: &mut Remember<'_>,
) -> Result<Vec<SessionId>, SqliteError> {
    let (disk, folder) = (site.disk.as_ref(), site.folder);
    let path = folder.join("records.db");
    let wreck = match disk.exists(&path)? {
        true => Wreck::open(disk.vfs(), &path, broken == Broken::PutBack).ok(),
        false => None,
    };
    let salvaged =
        wreck.as_ref().map(Wreck::survey).unwrap_or_else(|| Salvaged { has_gaps: true, ..Salvaged::default() });
    let reach = journal::tail::reach(disk, folder).map_err(|error| journal_error(folder, error))?;
    let reach = reach.ok_or_else(|| refused(folder, "no segment of the journal can be read".into()))?;
    if salvaged.anchor.is_some_and(|anchor| anchor.store_id != reach.store.0) {
        return Err(refused(folder, OF_ANOTHER.into()));
    }
    let known = known(site, broken, &salvaged, &reach)?;
    let has_from = match broken {
        // Not a row of any session was had of it.
        _ if salvaged.sessions.is_empty() && salvaged.has_gaps => Position(0),
        Broken::Torn(position) => position,
        // By itself, or with the log that belongs to it: as of one moment.
        Broken::PutBack => salvaged.anchor.map_or(Position(0), |anchor| anchor.position),
        Broken::Unreadable => salvaged.anchor.map_or(site.has, |anchor| anchor.position),
    };
    let is_covered = known.reaches <= has_from;
    let listed = listed(site, known.store);
    let is_earlier = broken == Broken::PutBack || salvaged.anchor.is_some_and(|anchor| anchor.position < reach.before);
    if !is_covered && listed.is_none() && (salvaged.sessions.is_empty() || is_earlier) {
        let what = format!(
            "{why}; the kept copies and the journal reach back to position {}, and which sessions it had cannot be told",
            known.reaches.0
        );
        return Err(refused(folder, what));
    }

    let takes = |session: SessionId| {
        !known.leaving.contains_key(&session)
            && known
                .removed
                .get(&session)
                .is_none_or(|removed| salvaged.sessions.get(&session).is_some_and(|position| position > removed))
    };
    let part = folder.join("records.part");
    clear(disk, &part)?;
    let options = Options {
        store_id: Some(known.store.0),
        create: true,
        mode: Mode::WalNormal,
        now_ms: site.now_ms,
        vfs: disk.vfs(),
    };
    let mut records = RecordsDb::open(&part, options)?;
    let mut whole = !salvaged.has_gaps;
    if let Some(wreck) = &wreck {
        whole &= records.take_rows(wreck, &takes, known.position)?;
    }
    drop(wreck);
    records.stand_at(known.position, known.hash, known.incarnation)?;
    let mut removed: BTreeMap<SessionId, (Position, Seq)> = salvaged.removed.clone();
    for (session, position) in &known.removed {
        let mark = removed.entry(*session).or_default();
        if mark.0 < *position {
            *mark = (*position, Seq::ZERO);
        }
    }
    removed.extend(&known.leaving);
    removed.retain(|session, (at, _)| *at <= known.position || known.leaving.contains_key(session));
    records.mark_removed(&removed)?;
    // Rows that are of one moment, all of them, fit each other.
    let loose = if whole && broken == Broken::PutBack { BTreeSet::new() } else { salvaged.named.clone() };
    let stood = complete(site, &known, &loose, &takes, &mut records)?;
    let is_known = is_covered && (whole || known.reaches == Position(0));
    let aside = set_aside(site, &known, &salvaged, listed.as_deref(), (is_covered, whole), &takes, &records)?;
    records.drop_strays()?;
    records.next_stamp(site.stamp)?;
    if records.wal_checkpoint()?.is_none() {
        return Err(SqliteError::Busy("records.part is being read".into()));
    }
    drop(records);
    for name in sidelong(&part).iter().skip(1) {
        gone(disk.remove(name))?;
    }
    disk.sync_dir(folder)?;
    let is_doubted = known.is_doubted();
    let sessions = |count: usize| format!("{count} session{}", if count == 1 { "" } else { "s" });
    let rest = match (is_known, aside.len()) {
        (true, 0) if is_doubted => "what the journal has lost is listed beside this".to_owned(),
        (true, 0) => "nothing is missing".to_owned(),
        (true, aside) => format!("lacking something, and waiting for a decision or another copy: {}", sessions(aside)),
        (false, aside) => format!(
            "the kept copies and the journal reach back to position {}: of what stood in records.db alone before that, what is not in a \
             row that verifies is lost; known to lack something: {}",
            known.reaches.0,
            sessions(aside)
        ),
    };
    let from = match why {
        GONE => String::new(),
        _ => format!("its rows that verify ({}), ", sessions(salvaged.sessions.len())),
    };
    let aside_first = if why == GONE { "" } else { "put aside in quarantine, and " };
    let said = format!(
        "records.db: {why}; {aside_first}made again from {from}the kept copies ({}) and the journal; {rest}",
        sessions(stood)
    );
    tracing::error!(said, "records.db was made again");
    // What is missing for it is listed with a session of `aside`, or as lost by the journal; or it is listed nowhere else.
    let loss = if is_known { DataLoss::None } else { DataLoss::Certain };
    remember(&Damaged::in_records(loss, said))?;
    disk.rename(&part, &made(folder))?;
    disk.sync_dir(folder)?;
    Ok(aside)
}

/// Writes all of an open records.db down as `records.made`: its own file is gone. `is_held`: that the store
/// still is.
pub(super) fn save(
    disk: &dyn Disk,
    folder: &Path,
    records: &RecordsDb,
    is_held: impl Fn() -> Result<(), SqliteError>,
) -> Result<(), SqliteError> {
    let part = folder.join("records.part");
    clear(disk, &part)?;
    records.save_as(&part)?;
    disk.open(&part, OpenHow::Write)?.sync_data()?;
    is_held()?;
    disk.rename(&part, &made(folder))?;
    disk.sync_dir(folder)?;
    Ok(())
}

/// Puts the file that [`make`] made in its place, if there is one.
pub(super) fn end(disk: &dyn Disk, folder: &Path, now_ms: u64) -> io::Result<bool> {
    let made = made(folder);
    if !disk.exists(&made)? {
        return Ok(false);
    }
    put_aside(disk, folder, now_ms)?;
    disk.rename(&made, &folder.join("records.db"))?;
    disk.sync_dir(folder)?;
    Ok(true)
}

/// What there is of records.db goes to quarantine/, and what is marked of it goes. In pieces the same again.
pub(super) fn put_aside(disk: &dyn Disk, folder: &Path, now_ms: u64) -> io::Result<()> {
    let path = folder.join("records.db");
    let quarantine = folder.join("quarantine");
    disk.create_dir(&quarantine)?;
    disk.sync_dir(folder)?;
    let mut aside = quarantine.join(format!("records-{now_ms}.db"));
    let mut number = 1;
    while disk.exists(&aside)? {
        aside = quarantine.join(format!("records-{now_ms}-{number}.db"));
        number += 1;
    }
    // Its log first: it must never lie beside another main file.
    let ([main, log, index], [main_aside, log_aside, _]) = (sidelong(&path), sidelong(&aside));
    gone(disk.rename(&log, &log_aside))?;
    gone(disk.rename(&main, &main_aside))?;
    gone(disk.remove(&index))?;
    disk.sync_dir(&quarantine)?;
    disk.sync_dir(folder)?;
    // It says what is wrong with them, for as long as they are there.
    gone(disk.remove(&folder.join("records.copying")))?;
    disk.sync_dir(folder)
}

/// Puts SQLite's log aside, which was not begun on top of the main file beside it: that one stands by itself.
pub(super) fn set_log_aside(disk: &dyn Disk, folder: &Path, now_ms: u64) -> io::Result<()> {
    let quarantine = folder.join("quarantine");
    disk.create_dir(&quarantine)?;
    disk.sync_dir(folder)?;
    let [_, log, index] = sidelong(&folder.join("records.db"));
    disk.rename(&log, &quarantine.join(format!("records-{now_ms}.db-wal")))?;
    gone(disk.remove(&index))?;
    disk.sync_dir(&quarantine)?;
    disk.sync_dir(folder)
}

fn made(folder: &Path) -> PathBuf {
    folder.join("records.made")
}

fn clear(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    sidelong(path).iter().try_for_each(|name| gone(disk.remove(name)))
}

fn gone(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

pub(super) const OF_ANOTHER: &str = "it belongs to another store than the journal";

fn refused(folder: &Path, what: String) -> SqliteError {
    SqliteError::Foreign { file: folder.join("records.db").display().to_string(), what }
}

fn journal_error(folder: &Path, error: OpenError) -> SqliteError {
    match error {
        OpenError::Io { .. } => SqliteError::Io(error.to_string()),
        other => refused(folder, other.to_string()),
    }
}

fn known(site: &Site<'_>, broken: Broken, salvaged: &Salvaged, reach: &Reach) -> Result<Known, SqliteError> {
    let (disk, folder, store) = (site.disk.as_ref(), site.folder, reach.store);
    let trusted = salvaged.anchor.filter(|anchor| broken == Broken::Unreadable && anchor.position >= reach.before);
    let vouch = match trusted {
        Some(anchor) => Vouch {
            store,
            position: anchor.position,
            frame_hash: anchor.frame_hash,
            incarnation: anchor.incarnation.max(reach.incarnation),
        },
        None => Vouch { store, position: reach.before, frame_hash: reach.hash, incarnation: reach.incarnation },
    };
    let inspection = journal::inspect(disk, folder, Some(vouch)).map_err(|error| journal_error(folder, error))?;
    let kept = kept_files(disk, folder, store)?;
    let mut reaches = reach.before;
    for file in kept.iter().rev() {
        let Some(before) = file.before.filter(|_| file.summary.last >= reaches && !reach.has_unreadable) else { break };
        reaches = reaches.min(before);
    }
    let mut removed: BTreeMap<SessionId, Position> =
        salvaged.removed.iter().map(|(session, (position, _))| (*session, *position)).collect();
    let mut note = |session: SessionId, position: Position| {
        let last = removed.entry(session).or_default();
        *last = (*last).max(position);
    };
    kept.iter().flat_map(|file| &file.removals).for_each(|(session, position)| note(*session, *position));
    for extent in search::extents(disk, folder, &inspection.extents())? {
        let Some(segment) = search::Segment::read(disk, folder, store, extent, vouch.position)? else { continue };
        for frame in segment.frames().0 {
            for entry in &frame.entries {
                if let Entry::Remove { session, what: Remove::All, .. } = entry {
                    note(*session, frame.position);
                }
            }
        }
    }
    let mut leaving: BTreeMap<SessionId, (Position, Seq)> = BTreeMap::new();
    if trusted.is_none() {
        let mut ends: HashMap<SessionId, Seq> = HashMap::new();
        for frame in &inspection.unapplied {
            for entry in &frame.entries {
                match entry {
                    Entry::Records(group) => {
                        let end = ends.entry(group.session).or_default();
                        *end = (*end).max(group.head.seq);
                    }
                    Entry::Remove { session, what: Remove::All, .. } => {
                        leaving.insert(*session, (frame.position, ends.get(session).copied().unwrap_or_default()));
                    }
                    _ => {}
                }
            }
        }
    }
    removed.retain(|_, position| *position <= vouch.position);
    let (position, hash, incarnation) = (vouch.position, vouch.frame_hash, vouch.incarnation);
    Ok(Known { store, position, hash, incarnation, inspection, kept, reaches, removed, leaving })
}

/// The kept copies that can be used, the oldest first.
fn kept_files(disk: &dyn Disk, folder: &Path, store: StoreId) -> io::Result<Vec<KeptFile>> {
    let folder = folder.join("kept");
    let mut names = match disk.list(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        names => names?,
    };
    names.retain(|name| kept::file_positions(name).is_some());
    let mut files = Vec::new();
    for name in names {
        let file = disk.open(&folder.join(&name), OpenHow::Read)?;
        files.extend(KeptFile::read(file, store).ok());
    }
    files.sort_by_key(|file| file.summary.last);
    Ok(files)
}

/// The sessions that the views know, and where each ends there; `None`: they do not read.
fn listed(site: &Site<'_>, store: StoreId) -> Option<Vec<(SessionId, Seq)>> {
    let path = site.folder.join("views.db");
    let clock = Arc::new(crate::SystemClock::new());
    let pool = ReaderPool::open_on(site.disk.vfs(), &path, 1, clock).ok()?;
    pool.read(|connection| ViewsDb::heads(connection, store.0)).ok()
}

/// Joins the rows of each `loose` session to each other, and adds what the kept copies have beyond them, along each session's
/// chain; how many sessions had something beyond.
fn complete(
    site: &Site<'_>,
    known: &Known,
    loose: &BTreeSet<SessionId>,
    takes: &dyn Fn(SessionId) -> bool,
    records: &mut RecordsDb,
) -> Result<usize, SqliteError> {
    let mut runs: BTreeMap<SessionId, Vec<(&KeptFile, &kept::Run)>> = BTreeMap::new();
    let is_of_this_life =
        |session: &SessionId, position: Position| known.removed.get(session).is_none_or(|at| *at < position);
    for file in &known.kept {
        for run in file.runs.iter().filter(|run| is_of_this_life(&run.session, run.position)) {
            runs.entry(run.session).or_default().push((file, run));
        }
    }
    let journalled = journalled(site, known)?;
    let follows = known.follows();
    let mut sessions: BTreeSet<SessionId> = runs.keys().chain(loose).copied().collect();
    sessions.extend(journalled.keys());
    let files = BlobFiles::open(site.disk.clone(), site.folder)?;
    sessions.extend(files.sessions()?);
    let mut stood = 0;
    for session in sessions {
        if known.leaving.contains_key(&session) {
            continue;
        }
        let is_loose = loose.contains(&session);
        let through = match records.reader().head(session) {
            Ok(Some((head, _))) if !is_loose => head.seq.0,
            Ok(_) | Err(SqliteError::Damaged(_)) => 0,
            Err(error) => return Err(error),
        };
        let mut found = Found::default();
        for (file, run) in runs.get(&session).into_iter().flatten().filter(|(_, run)| *run.seqs.end() > through) {
            if let Ok(bytes) = file.records(run) {
                found.add(session, &bytes, "kept");
            }
        }
        for frame in journalled.get(&session).into_iter().flatten() {
            for entry in &frame.entries {
                if let Entry::Records(group) = entry
                    && group.session == session
                {
                    found.add(session, &group.records, "journal");
                    group.blobs.iter().for_each(|blob| found.blob(group.head.seq, blob, "journal"));
                }
            }
        }
        if is_loose {
            join_rows(session, &mut found, follows.get(&session) == Some(&0), records)?;
        }
        let (head, is_rowless) = match records.reader().head(session) {
            Ok(head) => (head.map(|(head, _)| head), false),
            // Its row is not there, its records are, and they do not make a whole: whoever meets it looks further.
            Err(SqliteError::Damaged(_)) => (None, true),
            Err(error) => return Err(error),
        };
        let (after, before) = head.map_or((Seq::ZERO, Hash::default()), |head| (head.seq, head.hash));
        let run = match is_rowless {
            true => Run::default(),
            false => found.forwards(after.0 + 1, before, u64::MAX - 1),
        };
        let last = if is_rowless { u64::MAX - 1 } else { run.next() - 1 };
        if head.is_none() && last == 0 {
            continue;
        }
        let mut mending = Mending::default();
        if last > after.0 && !is_rowless {
            stood += 1;
            mending.append.push(run.bytes());
        }
        for file in &known.kept {
            let of = |blob: &&kept::KeptBlob| {
                blob.session == session && blob.seq.0 <= last && is_of_this_life(&session, blob.position)
            };
            for blob in file.blobs.iter().filter(of) {
                if let Ok(bytes) = file.blob(blob) {
                    mending.blobs.push((blob.seq, Blob { id: blob.id, bytes }));
                }
            }
        }
        mending
            .blobs
            .extend(found.blobs.iter().map(|(id, (seq, bytes, _))| (*seq, Blob { id: *id, bytes: bytes.clone() })));
        mending.blobs.retain(|(_, blob)| *blake3::hash(&blob.bytes).as_bytes() == blob.id.0);
        if takes(session) || last > after.0 {
            for id in files.list(session)? {
                if let Ok(bytes) = files.stored(session, id) {
                    mending.files.push((if is_rowless { Seq(1) } else { Seq(last) }, id, bytes.len() as u64));
                }
            }
        }
        records.add(session, &mending)?;
    }
    Ok(stood)
}

/// Rows of a session may be of another moment each: its own row of an earlier one than its records', or there are records and
/// no row. Those that are not joined to the session's row go into `found`, from where they are taken along the chain, and
/// what is missing between the others is taken from there. `is_journalled`: the journal has all of it, and brings it again.
fn join_rows(
    session: SessionId,
    found: &mut Found,
    is_journalled: bool,
    records: &mut RecordsDb,
) -> Result<(), SqliteError> {
    let Some(survey) = surveyed(session, records)? else { return Ok(()) };
    let mut drop_chunks: Vec<i64> = survey.chunks.iter().map(|row| row.id).collect();
    for row in &survey.chunks {
        found.add(session, &Bytes::from(row.salvaged.clone()), "row");
    }
    let stands = survey.head.map(|head| head.seq).or_else(|| is_journalled.then_some(Seq::ZERO));
    if let Some(stands) = stands {
        for (.., bytes) in records.reader().rows_after(session, stands)? {
            found.add(session, &bytes, "row");
        }
        drop_chunks.extend(records.reader().rows_beyond(session, stands)?);
    }
    if !drop_chunks.is_empty() {
        records.mend(session, &Mending { drop_chunks, ..Mending::default() })?;
    }

    let Some(survey) = surveyed(session, records)? else { return Ok(()) };
    let runs: Vec<Run> = survey.gaps.iter().flat_map(|gap| fill(gap, found)).collect();
    let removed = removed_through(&survey, &runs);
    let is_filled = |gap: &Gap| {
        let Some((last, _)) = gap.last else { return true };
        let within = |run: &Range| run.first.0 >= gap.first && run.last.0 <= last;
        let filled: u64 = runs.iter().filter_map(Run::range).filter(within).map(|run| run.count()).sum();
        last <= removed.0 || filled == last - gap.first + 1
    };
    let is_whole = survey.gaps.iter().all(is_filled);
    if survey.row_is_bad && !is_whole || !survey.row_is_bad && runs.is_empty() {
        return Ok(());
    }
    let runs = runs.iter().map(Run::bytes).collect();
    match records.mend(session, &Mending { runs, rebuild_row: survey.row_is_bad, ..Mending::default() }) {
        // It stays as it is: whoever meets it looks further.
        Err(SqliteError::Invalid(what) | SqliteError::NotFound(what)) => {
            tracing::warn!(%session, what, "rows of a session could not be joined");
            Ok(())
        }
        done => done,
    }
}

fn surveyed(session: SessionId, records: &RecordsDb) -> Result<Option<Survey>, SqliteError> {
    match records.reader().survey(session) {
        Err(SqliteError::NotFound(_)) => Ok(None),
        survey => survey.map(Some),
    }
}

/// By session, the frames of the journal that are not applied again: the old file had them, and its rows may be gone.
fn journalled(site: &Site<'_>, known: &Known) -> Result<BTreeMap<SessionId, Vec<Arc<Frame>>>, SqliteError> {
    let mut all: BTreeMap<SessionId, Vec<Arc<Frame>>> = BTreeMap::new();
    let (disk, folder) = (site.disk.as_ref(), site.folder);
    for extent in search::extents(disk, folder, &known.inspection.extents())? {
        let Some(segment) = search::Segment::read(disk, folder, known.store, extent, known.position)? else { continue };
        for frame in segment.frames().0 {
            for entry in &frame.entries {
                match entry {
                    Entry::Records(group) => all.entry(group.session).or_default().push(frame.clone()),
                    Entry::Remove { session, what: Remove::All, .. } => drop(all.remove(session)),
                    _ => {}
                }
            }
        }
    }
    Ok(all)
}

/// What lacks of a session's end.
const NEWEST: &str = "its newest records could not be read from records.db, and stand nowhere else";

/// Writes down which sessions lack something: what is known of them goes before what was made.
fn set_aside(
    site: &Site<'_>,
    known: &Known,
    salvaged: &Salvaged,
    listed: Option<&[(SessionId, Seq)]>,
    (is_covered, is_whole): (bool, bool),
    takes: &dyn Fn(SessionId) -> bool,
    records: &RecordsDb,
) -> Result<Vec<SessionId>, SqliteError> {
    // Those that the journal goes on with are known to be there, and whether what it has follows is seen when it is applied.
    let (journalled, ends) = (known.follows(), known.ends());
    let mut kept: BTreeMap<SessionId, u64> = BTreeMap::new();
    for file in &known.kept {
        for run in &file.runs {
            if known.removed.get(&run.session).is_none_or(|at| *at < run.position) {
                let last = kept.entry(run.session).or_default();
                *last = (*last).max(*run.seqs.end());
            }
        }
    }
    let mut sessions: BTreeMap<SessionId, u64> = salvaged.named.iter().map(|session| (*session, 1)).collect();
    for (session, seq) in kept
        .iter()
        .map(|(session, seq)| (session, *seq))
        .chain(listed.into_iter().flatten().map(|(session, seq)| (session, seq.0)))
    {
        let last = sessions.entry(*session).or_default();
        *last = (*last).max(seq);
    }
    for (session, after) in &journalled {
        let last = sessions.entry(*session).or_default();
        *last = (*last).max(*after);
    }
    let mut aside = Vec::new();
    for (session, last) in sessions {
        let is_gone = known.removed.contains_key(&session) && !takes(session) && !kept.contains_key(&session);
        if known.leaving.contains_key(&session) || is_gone {
            continue;
        }
        let head = match records.reader().head(session) {
            Ok(head) => head.map(|(head, _)| head.seq.0),
            Err(SqliteError::Damaged(_)) => continue,
            Err(error) => return Err(error),
        };
        let end = ends.get(&session).copied().unwrap_or_default();
        let missing = match head {
            // All of it is in the journal.
            None if journalled.get(&session) == Some(&0) && end >= last => continue,
            None if journalled.get(&session) == Some(&0) => (end + 1, last, NEWEST),
            None => (1, last.max(1), "its records could not be read from records.db, and stand nowhere else"),
            Some(head) if journalled.get(&session).is_some_and(|after| *after > head) => {
                let after = journalled.get(&session).copied().unwrap_or_default();
                (head + 1, after, "records between records.db and the journal stand nowhere")
            }
            Some(head) if head.max(end) < last => (head.max(end) + 1, last, NEWEST),
            Some(head) if !is_covered && !kept.contains_key(&session) && !journalled.contains_key(&session) => {
                let what = "records.db is of an earlier time, and nothing tells whether the session went on since, or was removed";
                (head + 1, head + 1, what)
            }
            // Its row says where it ends, and says nothing of the rows of its records.
            Some(head) if !is_whole => {
                let damage = records.reader().verify(session)?.damage;
                let missing = damage.iter().find_map(|damage| damage.seqs.clone());
                // What the journal has comes with it.
                let through = journalled.get(&session).copied().unwrap_or(head).min(head);
                match missing.filter(|seqs| *seqs.start() <= through) {
                    Some(seqs) => (
                        *seqs.start(),
                        through,
                        "records of it could not be read from records.db, and stand nowhere else",
                    ),
                    None => continue,
                }
            }
            Some(_) => continue,
        };
        let (first, last, what) = missing;
        let known = site.cases.get(session).unwrap_or_default();
        let case = known.lacking(Seq(first), Seq(last), what);
        site.cases.put(session, &case)?;
        aside.push(session);
    }
    Ok(aside)
}
