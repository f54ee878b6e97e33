//! After a sync that failed: what SQLite believes may not be what its files hold.
//!
//! The kernel may have dropped the pages (they read as they were before) or have marked them clean (they read as written, and
//! no later sync writes them). All connections to a database share an index of its write-ahead log, which still names what
//! was dropped. So all of them go, the writer's and the readers', copying nothing as they close; the index goes with them.
//! What a new one finds is what the log's own checksums bear out, and a main file into which nothing was ever copied but from
//! a log that was durable by then (`copying`). That is a state the database was in, at some position that the journal still
//! reaches back to: a segment goes only when its frames are in the main file, synced and read back. From there the journal is
//! applied again. Whoever reads in between is told to ask again, and what was applied once is served from RAM until it is again.
//!
//! The views are not worth that much thought: they are made anew.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use swarmkeep_core::{
    Seq,
    clock::Clock,
    log::{Damage, Position},
};
use swarmkeep_sqlite::{Mode, Options, ReaderPool, RecordsDb, SqliteError, ViewsDb};

use super::{
    applier::Applier,
    case::Cases,
    copying::Found,
    remake::{self, Broken, Site},
    unreported::Unreported,
};
use crate::{
    disk::Disk,
    incident::Noticed,
    journal::{Frame, Journal, StoreId, frame::Span, search},
    sync::Mutex,
    workers::Workers,
};

/// Between two looks whether the last reader has let go.
const LOOK: Duration = Duration::from_millis(20);
/// Looks until it is put off.
const LOOKS: usize = 250;
/// How often records.db is made again within [`REMADE_WITHIN_MS`]: a disk that damages it more often is no place for it.
const REMADE_MAX: usize = 8;
const REMADE_WITHIN_MS: u64 = 60 * 60 * 1000;

/// What the applier's databases lie among.
pub(super) struct Surroundings {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) folder: PathBuf,
    pub(super) store: StoreId,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) records: Arc<ReaderPool>,
    pub(super) views: Arc<ReaderPool>,
    pub(super) cases: Arc<Cases>,
    pub(super) unreported: Arc<Mutex<Unreported>>,
}

/// Whether an error leaves it open what the files hold.
pub(super) fn is_doubtful(error: &SqliteError) -> bool {
    matches!(error, SqliteError::Unknown(_) | SqliteError::Io(_))
}

impl Applier {
    /// Opens records.db again where it is in doubt. Nothing is taken from the inbox before this has said `Ok`.
    pub(super) fn settle(&mut self) -> Result<(), SqliteError> {
        if !self.doubtful {
            return Ok(());
        }
        let had = self.progress.records.get();
        self.records.shut()?;
        self.wait_for_readers(&self.surroundings.records.clone())?;
        let path = self.surroundings.folder.join("records.db");
        match self.copying.look(|| RecordsDb::main_stamp(self.surroundings.disk.vfs(), &path).ok())? {
            Found::Differs(position) => {
                let what = "SQLite's write-ahead log was being copied into it, and is not what it was";
                self.break_with(Broken::Torn(Position(position)), what.into());
            }
            // What a failed copying left, or what is yet to be named.
            Found::Idle | Found::Whole | Found::PutBack | Found::OtherLog => {}
        }
        self.make_again()?;
        self.records.reopen()?;
        // Whatever a sync says of the log from here on holds for what was written since.
        self.log_in_doubt = true;
        let readers = self.surroundings.records.prepare()?;
        let position = self.records.position().0;
        let (lacking, lost) = self.journalled(position, had)?;
        self.lost(&lost)?;
        tracing::warn!(
            from = position.0,
            to = had.0,
            frames = lacking.len(),
            "records.db was opened again; the journal is applied again"
        );
        self.lanes.again(&lacking);
        self.progress.records.set(position);
        self.progress.take_again(lacking);
        self.surroundings.records.resume(readers);
        if self.views.position() > position {
            self.views_doubtful = true;
        }
        self.doubtful = false;
        Ok(())
    }

    /// Makes records.db again, if it has to be.
    fn make_again(&mut self) -> Result<(), SqliteError> {
        self.still_held()?;
        let surroundings = &self.surroundings;
        if let Some((how, why)) = &self.broken {
            let now_ms = surroundings.clock.monotonic_ms();
            self.remade_at_ms.retain(|at_ms| now_ms.saturating_sub(*at_ms) < REMADE_WITHIN_MS);
            if self.remade_at_ms.len() >= REMADE_MAX {
                let what = format!(
                    "made again {REMADE_MAX} times within an hour, and not once more before that is over: {why}"
                );
                return Err(SqliteError::damaged(None, None, what));
            }
            let site = Site {
                disk: &surroundings.disk,
                folder: &surroundings.folder,
                cases: &surroundings.cases,
                now_ms: surroundings.clock.now_ms(),
                stamp: self.copying.stamp() + 1,
                has: self.copying.has(),
            };
            let mut told = None;
            let aside = remake::make(&site, *how, why, &mut |damage| {
                told = Some(damage.clone());
                surroundings.unreported.lock().add_later(damage.clone())
            })?;
            for damage in surroundings.cases.aside() {
                if damage.session.is_some_and(|session| aside.contains(&session)) {
                    self.set_aside(damage);
                }
            }
            if let Some(damaged) = told {
                self.progress.made_again.lock().push(damaged.what.clone());
                self.progress.notice(Noticed::of_damaged(damaged));
            }
            self.remade_at_ms.push(now_ms);
            self.progress.another_file();
            self.broken = None;
            self.views_doubtful = true;
        }
        self.still_held()?;
        if remake::end(surroundings.disk.as_ref(), &surroundings.folder, surroundings.clock.now_ms())? {
            (self.mark_stands, self.log_unnamed) = (None, false);
        }
        Ok(())
    }

    /// Frames that records.db lacks now, and that the journal does not have any more: whose they were takes nothing until it is
    /// known whether that stands elsewhere.
    fn lost(&self, lost: &Lost) -> Result<(), SqliteError> {
        let cause = "the journal does not have what a records.db that was opened again lacks";
        for Span { session, seqs } in &lost.spans {
            let Some(seqs) = seqs.clone() else { continue };
            let had = match self.records.reader().head(*session) {
                Ok(head) => head.map_or(0, |(head, _)| head.seq.0),
                Err(SqliteError::Damaged(_)) => 0,
                Err(error) => return Err(error),
            };
            if had >= *seqs.end() || self.lanes.is_leaving(*session) {
                continue;
            }
            let known = self.surroundings.cases.get(*session).unwrap_or_default();
            let first = Seq((*seqs.start()).max(had + 1));
            let case = known.lacking(first, Seq(*seqs.end()), cause);
            self.surroundings.cases.put(*session, &case)?;
            self.set_aside(Damage { session: Some(*session), seqs: Some(seqs), what: cause.to_owned() });
            self.progress.made_again.lock().push(format!("{cause}: session {session}"));
        }
        if lost.is_more {
            self.progress.made_again.lock().push(format!("{cause}; whose it was cannot be told"));
        }
        Ok(())
    }

    /// The frames after `beyond` up to `through`, from the journal.
    fn journalled(&self, beyond: Position, through: Position) -> Result<(Vec<Arc<Frame>>, Lost), SqliteError> {
        if through <= beyond {
            return Ok(Default::default());
        }
        let gone = || SqliteError::Io("the journal is closed".into());
        let journal = self.journal.upgrade().ok_or_else(gone)?;
        frames(&self.surroundings, &journal, beyond, through).map_err(SqliteError::from)
    }

    /// Makes views.db anew, from nothing.
    pub(super) fn remake_views(&mut self) -> Result<(), SqliteError> {
        let surroundings = &self.surroundings;
        let (disk, pool, path) = (surroundings.disk.clone(), surroundings.views.clone(), self.views.path().to_owned());
        self.views.shut()?;
        self.wait_for_readers(&pool)?;
        if self.views_damaged {
            views_aside(disk.as_ref(), &path, self.surroundings.clock.now_ms())?;
        }
        for name in sidelong(&path) {
            match disk.remove(&name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        disk.sync_dir(&self.surroundings.folder)?;
        let options = Options {
            store_id: Some(self.surroundings.store.0),
            create: true,
            mode: Mode::WalNormal,
            now_ms: self.surroundings.clock.now_ms(),
            vfs: disk.vfs(),
        };
        self.views = ViewsDb::open(&path, options)?;
        disk.sync_dir(&self.surroundings.folder)?;
        self.progress.views.set(self.views.position());
        pool.resume(pool.prepare()?);
        (self.views_doubtful, self.views_damaged) = (false, false);
        Ok(())
    }

    /// Returns when no reader of a database is open any more; an error when one stays too long.
    fn wait_for_readers(&self, pool: &ReaderPool) -> Result<(), SqliteError> {
        for _ in 0..LOOKS {
            if pool.suspend() {
                return Ok(());
            }
            if self.workers == Workers::Caller {
                break;
            }
            self.progress.rest(LOOK);
        }
        Err(SqliteError::Busy("a reader of a database that has to be opened again does not end".into()))
    }
}

/// Frames of a journal that do not verify.
#[derive(Default)]
struct Lost {
    /// What they held, where that can be told.
    spans: Vec<Span>,
    /// There are some of which it cannot.
    is_more: bool,
}

/// The frames of a journal after `beyond` up to `through`, in order, as far as they verify; and what does not.
fn frames(
    surroundings: &Surroundings,
    journal: &Journal,
    beyond: Position,
    through: Position,
) -> io::Result<(Vec<Arc<Frame>>, Lost)> {
    let (disk, folder) = (surroundings.disk.as_ref(), surroundings.folder.as_path());
    let (mut found, mut lost): (Vec<Arc<Frame>>, Lost) = Default::default();
    for extent in search::extents(disk, folder, &journal.extents())? {
        let Some(segment) = search::Segment::read(disk, folder, surroundings.store, extent, through)? else { continue };
        let (frames, damaged) = segment.frames();
        if damaged > 0 {
            let (spans, is_more) = segment.damaged(beyond);
            lost.spans.extend(spans);
            lost.is_more |= is_more;
        }
        found.extend(frames.into_iter().filter(|frame| frame.position > beyond && frame.position <= through));
    }
    found.sort_by_key(|frame| frame.position);
    found.dedup_by_key(|frame| frame.position);
    Ok((found, lost))
}

/// Puts a views.db aside that is damaged, or is not what it should be.
pub(super) fn views_aside(disk: &dyn Disk, path: &Path, now_ms: u64) -> io::Result<()> {
    let folder = path.with_file_name("quarantine");
    let aside = folder.join(format!("views-{now_ms}.db"));
    tracing::warn!(aside = %aside.display(), "views.db is put aside and made again");
    disk.create_dir(&folder)?;
    for (from, to) in sidelong(path).iter().zip(sidelong(&aside)) {
        match disk.rename(from, &to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// A database's files.
pub(super) fn sidelong(path: &Path) -> [PathBuf; 3] {
    ["", "-wal", "-shm"].map(|suffix| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        name.into()
    })
}
