//! A [`Log`] on SQLite alone: what a browser uses, and what shows that nothing above the seam counts on a journal.
//!
//! One connection to `records.db`, whose commit is the acknowledgement (`synchronous=FULL`, as a rollback journal or as a
//! write-ahead log), and one to `views.db`, which follows. Everything happens inside the call; the futures are ready when
//! they are returned. So a call blocks its thread as long as SQLite does: fit for a worker of a browser, a test, a small
//! tool, not for many writers at once.

use std::{
    future::ready,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use parking_lot::Mutex;
use swarmkeep_core::{
    BlobId, Epoch, Hash, Seq, SessionId,
    checkpoint::Checkpoint,
    limits,
    log::{
        Commit, Durability, Grant, Group, Head, Hints, Log, LogError, LogFuture, Observation, Position, Refused,
        Remove, Take, Watchers,
    },
    query::{Page, Query},
    record,
};

use crate::{
    Mode, Options, Source, ViewsDb,
    error::{Result, SqliteError},
    query,
    records::{ApplyBatch, Entry, NewBlob, RecordsDb, What},
};

/// Bytes of records that the views may be behind, until somebody asks them something.
const VIEWS_BEHIND_BYTES: usize = 1024 * 1024;
/// Sessions forced into a newer epoch than the others, at most; beyond it the log is to be opened again.
const FORCED_MAX: usize = 100_000;

/// Records and views in two SQLite files, and nothing else.
pub struct SqliteLog {
    open: Mutex<Open>,
    watchers: Watchers,
}

impl std::fmt::Debug for SqliteLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteLog").finish_non_exhaustive()
    }
}

struct Open {
    records: RecordsDb,
    views: Option<ViewsDb>,
    views_path: PathBuf,
    options: Options,
    /// The epoch of everything that was not forced: this open's.
    epoch: Epoch,
    forced: std::collections::HashMap<SessionId, Epoch>,
    /// Observations that wait for the next write.
    observations: Vec<(SessionId, Vec<Observation>)>,
    /// What `records.db` has and the views do not.
    behind: Vec<Entry>,
    behind_bytes: usize,
}

impl SqliteLog {
    /// Opens, or makes, both files. Each open is a new epoch: whoever had the store before can no longer write it.
    ///
    /// # Errors
    /// `Newer`, `Changed`, `Foreign`, `Damaged` of `records.db`. Views that cannot be used are put beside (as `….old`) and
    /// made again.
    pub fn open(records: &Path, views: &Path, options: Options) -> Result<Self> {
        let mode = if options.mode == Mode::WalNormal { Mode::WalFull } else { options.mode };
        let options = Options { mode, ..options };
        let mut records = RecordsDb::open(records, options)?;
        let epoch = Epoch(records.anchor().incarnation + 1);
        records.set_incarnation(epoch.0)?;
        let mut open = Open {
            options: Options { store_id: Some(records.anchor().store_id), create: true, ..options },
            records,
            views: None,
            views_path: views.to_owned(),
            epoch,
            forced: std::collections::HashMap::new(),
            observations: Vec::new(),
            behind: Vec::new(),
            behind_bytes: 0,
        };
        // Views that cannot be made now are tried again when they are asked for.
        let _ = open.views();
        Ok(Self { open: Mutex::new(open), watchers: Watchers::default() })
    }

    /// Writes what waits: observations, and rows of the views. For whoever has a timer (once a second is enough).
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn flush(&self) -> Result<()> {
        let mut open = self.open.lock();
        open.heal()?;
        open.write(Vec::new())?;
        open.views().map(drop)
    }

    fn with<T: Send + 'static>(&self, work: impl FnOnce(&mut Open) -> Result<T, LogError>) -> LogFuture<'static, T> {
        let mut open = self.open.lock();
        let done = open.heal().map_err(LogError::from).and_then(|()| work(&mut open));
        Box::pin(ready(done))
    }
}

impl Drop for SqliteLog {
    fn drop(&mut self) {
        let open = self.open.get_mut();
        if !open.observations.is_empty() {
            let _ = open.write(Vec::new());
        }
        let _ = open.views();
    }
}

impl Open {
    /// After a commit of unknown outcome the file is opened again, so that heads come from what is durable.
    fn heal(&mut self) -> Result<()> {
        if self.records.is_poisoned() {
            self.records.reopen()?;
            self.behind_lost();
        }
        Ok(())
    }

    /// What was put together for the views may not be what was committed: they catch up by themselves.
    fn behind_lost(&mut self) {
        self.behind.clear();
        self.behind_bytes = 0;
        self.views = None;
    }

    fn head(&self, session: SessionId) -> Result<Option<Head>, LogError> {
        Ok(self.records.reader().head(session)?.map(|(head, _)| head))
    }

    fn expected(&self, session: SessionId) -> Epoch {
        self.forced.get(&session).copied().unwrap_or(self.epoch)
    }

    fn fence(&self, session: SessionId, epoch: Epoch) -> Result<(), LogError> {
        let expected = self.expected(session);
        if epoch == expected { Ok(()) } else { Err(LogError::Fenced(expected)) }
    }

    fn take(&mut self, session: SessionId, how: Take) -> Result<Grant, LogError> {
        let head = self.head(session)?;
        let head = match (how, head) {
            (Take::Create, Some(_)) => return Err(LogError::Exists),
            (Take::Create, None) => Head::default(),
            (Take::Resume | Take::Force, None) => return Err(LogError::NotFound),
            (Take::Resume | Take::Force, Some(head)) => head,
        };
        if how == Take::Force {
            if self.forced.len() >= FORCED_MAX && !self.forced.contains_key(&session) {
                return Err(refused(Refused::Busy, "too many sessions were taken by force; open the log again"));
            }
            // Durable before it is granted, so that the next open has a newer one still.
            let epoch = Epoch(self.records.anchor().incarnation + 1);
            self.records.set_incarnation(epoch.0)?;
            self.forced.insert(session, epoch);
        }
        Ok(Grant { epoch: self.expected(session), head })
    }

    fn append(&mut self, group: Group) -> Result<Commit, LogError> {
        self.fence(group.session, group.epoch)?;
        let head = self.head(group.session)?.unwrap_or_default();
        if head != group.after {
            return Err(LogError::Conflict(head));
        }
        check(&group)?;
        let what = What::Records {
            first: group.after.seq.next(),
            head: group.head,
            count: group.count,
            epoch: group.epoch,
            bytes: group.records,
            blobs: group.blobs.into_iter().map(NewBlob::from).collect(),
        };
        let position = self.write(vec![(group.session, what)])?;
        Ok(Commit { head: group.head, position, durability: Durability::Durable })
    }

    /// One transaction: what waits, then `what`.
    fn write(&mut self, what: Vec<(SessionId, What)>) -> Result<Position> {
        let anchor = self.records.anchor();
        let waiting = std::mem::take(&mut self.observations);
        if waiting.is_empty() && what.is_empty() {
            return Ok(anchor.position);
        }
        let position = Position(anchor.position.0 + 1);
        let observed = waiting.into_iter().map(|(session, list)| (session, What::Observations(list)));
        let entries: Vec<Entry> =
            observed.chain(what).map(|(session, what)| Entry { position, session, what }).collect();
        // Chained like a journal's frames, so that two stores that went apart can be told from each other.
        let mut hasher = blake3::Hasher::new();
        hasher.update(&anchor.frame_hash.0).update(&position.0.to_le_bytes());
        for entry in &entries {
            hasher.update(&entry.session.0);
            if let What::Records { head, .. } = &entry.what {
                hasher.update(&head.hash.0);
            }
        }
        let frame_hash = Hash(*hasher.finalize().as_bytes());
        let batch = ApplyBatch { position, frame_hash, incarnation: anchor.incarnation, entries };
        if let Err(error) = self.records.apply(&batch) {
            // Observations are not worth more than the group they went with: they are gone, as after a crash.
            self.behind_lost();
            return Err(error);
        }
        self.behind_bytes += batch.entries.iter().map(|entry| weight(&entry.what)).sum::<usize>();
        self.behind.extend(batch.entries);
        if self.behind_bytes > VIEWS_BEHIND_BYTES {
            // Views never stop records; what is wrong with them shows when they are asked.
            let _ = self.views();
        }
        Ok(position)
    }

    /// The views, at the position of the records.
    fn views(&mut self) -> Result<&ViewsDb> {
        let anchor = self.records.anchor();
        let source = Source::new(self.records.reader());
        let entries = std::mem::take(&mut self.behind);
        self.behind_bytes = 0;
        let mut views = match self.views.take() {
            Some(views) => views,
            None => open_views(&self.views_path, self.options, &source)?,
        };
        let batch = ApplyBatch {
            position: anchor.position,
            frame_hash: anchor.frame_hash,
            incarnation: anchor.incarnation,
            entries,
        };
        if views.apply(&batch, &source).is_err() {
            drop(views);
            views = open_views(&self.views_path, self.options, &source)?;
        }
        Ok(self.views.insert(views))
    }

    fn find(&mut self, query: &Query, not_before: Option<Position>) -> Result<Page, LogError> {
        let position = self.records.anchor().position;
        if not_before.is_some_and(|wanted| wanted > position) {
            return Err(refused(Refused::Invalid, "this log has not come to that position: it is another log's"));
        }
        self.write(Vec::new())?;
        let views = self.views()?;
        Ok(query::find(views.connection(), query)?)
    }

    fn remove(&mut self, session: SessionId, epoch: Epoch, what: Remove) -> Result<(), LogError> {
        self.fence(session, epoch)?;
        let Some(stored) = self.records.reader().session(session)? else {
            return if what == Remove::All { Ok(()) } else { Err(LogError::NotFound) };
        };
        if let Remove::RecordsThrough(seq) = &what {
            if *seq <= stored.base.seq {
                return Ok(());
            }
            if !self.records.reader().may_remove_through(session, *seq)? {
                return Err(refused(Refused::Needed, "no checkpoint at or after that seq reads"));
            }
        }
        if what == Remove::All {
            self.observations.retain(|(of, _)| *of != session);
        }
        self.write(vec![(session, What::Remove(what))])?;
        Ok(())
    }
}

/// Opens the views and brings them to the records; what cannot be used is put aside.
fn open_views(path: &Path, options: Options, source: &Source<'_>) -> Result<ViewsDb> {
    let attempt = || {
        let mut views = ViewsDb::open(path, options)?;
        views.catch_up(source, &mut |_, _| {})?;
        views.catch_up_incomplete(source)?;
        Ok(views)
    };
    match attempt() {
        Err(
            SqliteError::Damaged(_) | SqliteError::Foreign { .. } | SqliteError::Changed { .. } | SqliteError::Sql(_),
        ) => {
            set_aside(path)?;
            attempt()
        }
        other => other,
    }
}

/// Renames a file and what SQLite keeps beside it.
fn set_aside(path: &Path) -> Result<()> {
    for suffix in ["-journal", "-wal", "-shm", ""] {
        let with = |more: &str| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            name.push(more);
            PathBuf::from(name)
        };
        match std::fs::rename(with(""), with(".old")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

fn weight(what: &What) -> usize {
    match what {
        What::Records { bytes, blobs, .. } => {
            bytes.len() + blobs.iter().filter_map(|blob| blob.bytes.as_ref()).map(Bytes::len).sum::<usize>()
        }
        What::Observations(list) => list.len() * 128,
        What::Remove(_) => 64,
        What::Checkpoint(checkpoint) => checkpoint.canonical.len(),
    }
}

/// The group is what it says it is.
fn check(group: &Group) -> Result<(), LogError> {
    let wrong = |what: String| refused(Refused::Invalid, what);
    if group.records.len() > limits::GROUP_BYTES {
        return Err(refused(Refused::TooLarge, format!("{} bytes of records in one group", group.records.len())));
    }
    for blob in &group.blobs {
        if blob.bytes.len() > limits::BLOB_BYTES {
            return Err(refused(Refused::TooLarge, format!("a blob of {} bytes", blob.bytes.len())));
        }
        if blake3::hash(&blob.bytes).as_bytes() != &blob.id.0 {
            return Err(wrong(format!("blob {} is not the bytes it names", blob.id)));
        }
    }
    let mut head = group.after;
    let mut count = 0;
    for view in record::iter(&group.records) {
        let view = view.map_err(|error| wrong(error.to_string()))?;
        head = view.follows(group.session, head).map_err(|error| wrong(error.to_string()))?;
        count += 1;
    }
    if head != group.head || count != group.count || count == 0 {
        return Err(wrong("the group's records do not end at its head".into()));
    }
    Ok(())
}

fn refused(kind: Refused, detail: impl Into<String>) -> LogError {
    LogError::Refused { kind, detail: detail.into() }
}

impl Log for SqliteLog {
    fn take(&self, session: SessionId, how: Take) -> LogFuture<'_, Grant> {
        self.with(|open| open.take(session, how))
    }

    fn append(&self, group: Group, _: Durability) -> LogFuture<'static, Commit> {
        let session = group.session;
        let done = self.with(|open| open.append(group));
        self.watchers.moved(session);
        done
    }

    fn observe(&self, session: SessionId, observations: Vec<Observation>) -> LogFuture<'_, ()> {
        self.with(|open| {
            open.observations.push((session, observations));
            let waiting: usize = open.observations.iter().map(|(_, list)| list.len().max(1)).sum();
            if waiting >= limits::OBSERVATIONS_PER_REQUEST {
                open.write(Vec::new())?;
            }
            Ok(())
        })
    }

    fn head(&self, session: SessionId) -> LogFuture<'_, Option<Head>> {
        self.with(|open| open.head(session))
    }

    fn read(&self, session: SessionId, after: Seq, max_bytes: usize) -> LogFuture<'_, Bytes> {
        self.with(|open| Ok(open.records.reader().read(session, after, max_bytes)?))
    }

    fn save(&self, session: SessionId, checkpoint: Checkpoint) -> LogFuture<'_, ()> {
        self.with(|open| {
            let anchor = open.records.anchor();
            let entry = Entry { position: anchor.position, session, what: What::Checkpoint(checkpoint) };
            let batch = ApplyBatch {
                position: anchor.position,
                frame_hash: anchor.frame_hash,
                incarnation: anchor.incarnation,
                entries: vec![entry],
            };
            Ok(open.records.apply(&batch)?)
        })
    }

    fn load(&self, session: SessionId, at_or_below: Seq) -> LogFuture<'_, Option<Checkpoint>> {
        self.with(|open| Ok(open.records.reader().load(session, at_or_below)?))
    }

    fn blob(&self, session: SessionId, id: BlobId) -> LogFuture<'_, Bytes> {
        self.with(|open| open.records.reader().blob(session, id)?.ok_or(LogError::NotFound))
    }

    fn find(&self, query: Query, not_before: Option<Position>) -> LogFuture<'_, Page> {
        self.with(|open| open.find(&query, not_before))
    }

    fn remove(&self, session: SessionId, epoch: Epoch, what: Remove) -> LogFuture<'_, ()> {
        let done = self.with(|open| open.remove(session, epoch, what));
        self.watchers.moved(session);
        done
    }

    fn watch(&self) -> Hints {
        self.watchers.watch()
    }
}
