//! Mending: what of a session's rows cannot be used, exactly, and rows put in their place.
//!
//! Where the good records come from is not known here. What fits is: a gap names the hash of the record before it and of
//! its own last one, so that nothing but the records that stood there can fill it.

use std::collections::BTreeMap;

use bytes::Bytes;
use rusqlite::{Connection, Row, params, types::ValueRef};
use swarmkeep_core::{
    BlobId, Hash, Seq, SessionId, SessionName,
    checkpoint::Checkpoint,
    log::{Blob, Head},
    record,
    state::{SessionInfo, SessionStatus},
};

use super::{
    Anchor, RecordsDb, RecordsReader,
    apply::{self, NewBlob},
    chunk::{self, Chunk},
    read, remove,
    row::{self, SessionRow},
};
use crate::{
    codec::{self, Packer},
    error::{Result, SqliteError},
};

/// What is wrong with the rows of one session.
#[derive(Debug, Default)]
pub struct Survey {
    /// The session's own row is damaged, or not there.
    pub row_is_bad: bool,
    /// The damaged row itself, in words, where there is one.
    pub row: Option<String>,
    /// No row of records is there, good or bad, and the session's row has the name of another session: its id was
    /// damaged.
    pub is_misnamed: bool,
    /// Rows of records that cannot be used.
    pub chunks: Vec<BadRow>,
    /// Records that are in no row that can be used, in order.
    pub gaps: Vec<Gap>,
    /// Checkpoints that do not verify.
    pub checkpoints: Vec<BadRow>,
    /// Blobs that are not what their rows say.
    pub blobs: Vec<BadRow>,
    /// Blobs that records refer to, and that are in no row which can be used: each with the record that does so first.
    pub missing: BTreeMap<BlobId, Seq>,
    /// Blobs with a state that records begin from.
    pub bases: BTreeMap<BlobId, Seq>,
    /// Blobs that records refer to, and whose rows say that they are files of their own: the record that does so first, and
    /// the row.
    pub in_files: BTreeMap<BlobId, (Seq, i64)>,
    /// Rows of records that verify: the first seq of each, and where it ends. Ascending.
    pub good: Vec<(u64, Head)>,
    /// Checkpoints that verify: where they stand, and their bytes unpacked.
    pub good_checkpoints: Vec<(Head, u64)>,
    /// Records through here were removed on purpose, as far as the session's row can be read.
    pub base: Seq,
    /// Where the session's row says that it ends.
    pub head: Option<Head>,
}

impl Survey {
    /// Whether everything is as it should be.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        !self.row_is_bad
            && self.chunks.is_empty()
            && self.gaps.is_empty()
            && self.checkpoints.is_empty()
            && self.blobs.is_empty()
            && self.missing.is_empty()
    }

    /// Blobs whose rows say that they are files of their own, and whose files are not there, are missing. Gives their rows.
    pub fn miss_files(&mut self, is_there: impl Fn(BlobId) -> bool) -> BTreeMap<BlobId, i64> {
        let gone: BTreeMap<BlobId, i64> = self
            .in_files
            .iter()
            .filter(|(id, _)| !is_there(**id))
            .map(|(id, (seq, row))| {
                self.missing.insert(*id, *seq);
                (*id, *row)
            })
            .collect();
        self.in_files.retain(|id, _| !gone.contains_key(id));
        gone
    }
}

/// A row that cannot be used.
#[derive(Debug, Clone)]
pub struct BadRow {
    /// Its number in its table.
    pub id: i64,
    /// Its large column, as stored: to be kept somewhere before the row goes.
    pub stored: Vec<u8>,
    /// The same unpacked, as far as that can be done; nothing says that it is what was written.
    pub salvaged: Vec<u8>,
    /// Of a blob: what the row calls it.
    pub blob: Option<BlobId>,
    /// Of a checkpoint: where the row says that it stands.
    pub seq: Option<Seq>,
}

/// Records that are missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The first.
    pub first: u64,
    /// Hash of the record before it; zeros before the first of all.
    pub before: Hash,
    /// Seq and hash of the last; `None`: where the session ends is not known, as its row is bad.
    pub last: Option<(u64, Hash)>,
}

/// What is to be done to a session's rows, in one transaction.
#[derive(Debug, Default)]
pub struct Mending {
    /// Rows of records that go.
    pub drop_chunks: Vec<i64>,
    /// Runs of records that come, each contiguous and verified by the caller.
    pub runs: Vec<Bytes>,
    /// The session's own row is made again from its records.
    pub rebuild_row: bool,
    /// The session's own row goes: there are no records of such a session.
    pub drop_row: bool,
    /// All rows of the session go, its own among them, whatever is in them.
    pub erase: bool,
    /// The session ends here: later records and checkpoints go, and its row is made again so. Its records may have holes.
    pub cut: Option<Head>,
    /// A state that is known from elsewhere: the session ends here, and this stands for whatever is missing before it.
    pub stand: Option<Box<Checkpoint>>,
    /// Groups that follow the session's head, in order.
    pub append: Vec<Bytes>,
    /// Checkpoints that go.
    pub drop_checkpoints: Vec<i64>,
    /// Rows of blobs that go.
    pub drop_blobs: Vec<i64>,
    /// Blobs that come, each with the seq of the record that introduced it.
    pub blobs: Vec<(Seq, Blob)>,
    /// Blobs that are files of their own: the record of each, or a later one, its name and its length.
    pub files: Vec<(Seq, BlobId, u64)>,
}

/// A row of records that verifies.
pub(super) struct Good {
    first: u64,
    before: Hash,
    end: Head,
    id: i64,
    /// Blobs that its records refer to.
    blobs: Vec<(BlobId, Seq, bool)>,
}

impl RecordsReader<'_> {
    /// The rows of records of a session that end after `after` and verify: the first seq of each, the last one, the records.
    ///
    /// # Errors
    /// Whatever SQLite says of the file itself.
    pub fn rows_after(&self, session: SessionId, after: Seq) -> Result<Vec<(u64, u64, Bytes)>> {
        let sql =
            format!("SELECT {} FROM chunks WHERE session = ?1 AND last_seq > ?2 ORDER BY first_seq", chunk::COLUMNS);
        let mut statement = self.connection().prepare_cached(&sql)?;
        let mut rows = statement.query((session.0, after.0.cast_signed()))?;
        let mut whole = Vec::new();
        while let Some(found) = rows.next()? {
            whole.extend(Chunk::read(found, session).ok().map(|chunk| (chunk.first, chunk.last, chunk.raw.into())));
        }
        Ok(whole)
    }

    /// The rows of records of a session that end after `after`.
    ///
    /// # Errors
    /// Whatever SQLite says of the file itself.
    pub fn rows_beyond(&self, session: SessionId, after: Seq) -> Result<Vec<i64>> {
        let sql = "SELECT id FROM chunks WHERE session = ?1 AND last_seq > ?2";
        let mut statement = self.connection().prepare_cached(sql)?;
        let ids = statement.query_map((session.0, after.0.cast_signed()), |row| row.get(0))?;
        Ok(ids.collect::<rusqlite::Result<_>>()?)
    }

    /// The blobs of a session that stand in records.db and verify.
    ///
    /// # Errors
    /// Whatever SQLite says of the file itself.
    pub fn blobs_of(&self, session: SessionId) -> Result<Vec<(BlobId, Bytes)>> {
        let mut statement =
            self.connection().prepare_cached("SELECT raw_len, codec, bytes, blob FROM blobs WHERE session = ?1")?;
        let mut rows = statement.query([session.0])?;
        let mut whole = Vec::new();
        while let Some(found) = rows.next()? {
            let Ok(id) = row::fixed(found, 3).map(BlobId) else { continue };
            whole.extend(read::read_blob(session, id, found).ok().flatten().map(|bytes| (id, bytes)));
        }
        Ok(whole)
    }

    /// What of a session cannot be used. Reads everything it has.
    ///
    /// # Errors
    /// `NotFound`: nothing of it is there, or it was removed; whatever SQLite says of the file itself.
    pub fn survey(&self, session: SessionId) -> Result<Survey> {
        let row = match SessionRow::load(self.connection(), session) {
            Ok(row) => row,
            Err(SqliteError::Damaged(_)) => None,
            Err(error) => return Err(error),
        };
        let mut survey = Survey { row_is_bad: row.is_none(), ..Survey::default() };
        let mut good = Vec::new();
        let sql = format!("SELECT {} FROM chunks WHERE session = ?1 ORDER BY first_seq", chunk::COLUMNS);
        let mut statement = self.connection().prepare_cached(&sql)?;
        let mut rows = statement.query([session.0])?;
        while let Some(found) = rows.next()? {
            match examine(found, session) {
                Some(chunk) => {
                    for (blob, seq, is_base) in &chunk.blobs {
                        survey.missing.entry(*blob).or_insert(*seq);
                        if *is_base {
                            survey.bases.entry(*blob).or_insert(*seq);
                        }
                    }
                    good.push(chunk);
                }
                None => survey.chunks.push(bad_chunk(found)?),
            }
        }
        if row.is_none() {
            survey.row = self.row_in_words(session)?;
        }
        let is_empty = good.is_empty() && survey.chunks.is_empty();
        survey.is_misnamed = row.is_none() && is_empty && self.is_misnamed(session)?;
        if row.is_none() && is_empty && survey.row.is_none() {
            return Err(SqliteError::NotFound(format!("session {session}")));
        }
        good.sort_by_key(|chunk| chunk.first);
        let mut at = row.as_ref().map_or(Head::default(), |row| row.base);
        survey.base = at.seq;
        survey.head = row.as_ref().map(|row| row.head);
        for chunk in good {
            let next = at.seq.0 + 1;
            if chunk.first == next && chunk.before == at.hash {
                at = chunk.end;
                survey.good.push((chunk.first, at));
            } else if chunk.first > next {
                let last = Some((chunk.first - 1, chunk.before));
                survey.gaps.push(Gap { first: next, before: at.hash, last });
                at = chunk.end;
                survey.good.push((chunk.first, at));
            } else {
                // Records twice, or of another history: those that the chain came to first stay.
                survey.chunks.extend(self.chunk(chunk.id)?);
            }
        }
        match &row {
            Some(row) if at.seq < row.head.seq => {
                let last = Some((row.head.seq.0, row.head.hash));
                survey.gaps.push(Gap { first: at.seq.0 + 1, before: at.hash, last });
            }
            Some(_) => {}
            None => survey.gaps.push(Gap { first: at.seq.0 + 1, before: at.hash, last: None }),
        }
        if !survey.gaps.is_empty() {
            self.strays(session, &mut survey)?;
        }
        self.bad_checkpoints(session, &mut survey)?;
        self.bad_blobs(session, &mut survey)?;
        let stands = |base: Seq| survey.good_checkpoints.iter().any(|(head, _)| head.seq >= base);
        if let Some(base) = row.map(|row| row.base).filter(|base| base.seq > Seq::ZERO && !stands(base.seq)) {
            // No checkpoint that stands for the records that were removed can be read: they are needed again.
            let last = Some((base.seq.0, base.hash));
            survey.gaps.insert(0, Gap { first: 1, before: Hash::default(), last });
            (survey.base, survey.row_is_bad) = (Seq::ZERO, true);
        }
        Ok(survey)
    }

    fn is_misnamed(&self, session: SessionId) -> Result<bool> {
        let names: Option<(String, String)> = self
            .connection()
            .query_row("SELECT namespace, name FROM sessions WHERE id = ?1", [session.0], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .ok();
        let name = names.and_then(|(namespace, name)| SessionName::new(&namespace, &name).ok());
        Ok(name.is_some_and(|name| name.id() != session))
    }

    fn row_in_words(&self, session: SessionId) -> Result<Option<String>> {
        let sql = format!("SELECT {} FROM sessions WHERE id = ?1", row::COLUMNS);
        let mut statement = self.connection().prepare_cached(&sql)?;
        let mut rows = statement.query([session.0])?;
        let Some(found) = rows.next()? else { return Ok(None) };
        let columns = row::COLUMNS.split(", ").enumerate().map(|(number, name)| {
            let value = found.get_ref(number).map(|value| match value {
                ValueRef::Null => "null".to_owned(),
                ValueRef::Integer(number) => number.to_string(),
                ValueRef::Real(number) => number.to_string(),
                ValueRef::Text(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                ValueRef::Blob(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
            });
            Ok(format!("{name}: {}\n", value?))
        });
        columns.collect::<Result<String>>().map(Some)
    }

    fn chunk(&self, id: i64) -> Result<Option<BadRow>> {
        let sql = format!("SELECT {} FROM chunks WHERE id = ?1", chunk::COLUMNS);
        let mut statement = self.connection().prepare_cached(&sql)?;
        let mut rows = statement.query([id])?;
        rows.next()?.map(bad_chunk).transpose()
    }

    /// Rows that name a session which does not exist, and hold records of this one.
    fn strays(&self, session: SessionId, survey: &mut Survey) -> Result<()> {
        let sql = format!(
            "SELECT {} FROM chunks WHERE session NOT IN (SELECT id FROM sessions) AND session <> ?1",
            chunk::COLUMNS
        );
        let mut statement = self.connection().prepare_cached(&sql)?;
        let mut rows = statement.query([session.0])?;
        while let Some(found) = rows.next()? {
            let stray = bad_chunk(found)?;
            let first = record::iter(&stray.salvaged).next();
            if first.is_some_and(|view| view.is_ok_and(|view| view.session() == session)) {
                survey.chunks.push(stray);
            }
        }
        Ok(())
    }

    fn bad_checkpoints(&self, session: SessionId, survey: &mut Survey) -> Result<()> {
        let mut statement = self.connection().prepare_cached(
            "SELECT seq, number, head_hash, head_time, state_version, hash, raw_len, checksum, codec, bytes, id \
             FROM checkpoints WHERE session = ?1",
        )?;
        let mut rows = statement.query([session.0])?;
        while let Some(found) = rows.next()? {
            match read::read_checkpoint(session, found) {
                // Of another version of the state: it is no use here, and no damage.
                Ok(None) => {}
                Ok(Some(checkpoint)) => {
                    survey.good_checkpoints.push((checkpoint.head, checkpoint.canonical.len() as u64));
                }
                Err(_) => {
                    let (id, stored) = (found.get(10)?, blob_of(found, 9)?);
                    let seq = u64::try_from(number(found, 0)?).ok().map(Seq);
                    survey.checkpoints.push(BadRow { id, stored, salvaged: Vec::new(), blob: None, seq });
                }
            }
        }
        Ok(())
    }

    fn bad_blobs(&self, session: SessionId, survey: &mut Survey) -> Result<()> {
        let mut statement =
            self.connection().prepare_cached("SELECT raw_len, codec, bytes, blob, id FROM blobs WHERE session = ?1")?;
        let mut rows = statement.query([session.0])?;
        while let Some(found) = rows.next()? {
            let id = row::fixed(found, 3).map(BlobId);
            let read = id.as_ref().ok().and_then(|id| Some((*id, read::read_blob(session, *id, found).ok()?)));
            if let Some((id, stored)) = read {
                let seq = survey.missing.remove(&id);
                if let (None, Some(seq)) = (stored, seq) {
                    survey.in_files.insert(id, (seq, found.get(4)?));
                }
            } else {
                let stored = blob_of(found, 2)?;
                let salvaged = salvage(number(found, 1)?, number(found, 0)?, &stored);
                survey.blobs.push(BadRow { id: found.get(4)?, stored, salvaged, blob: id.ok(), seq: None });
            }
        }
        Ok(())
    }
}

impl RecordsDb {
    /// Puts good rows in place of bad ones, all or nothing. Whoever has these records elsewhere keeps them until
    /// [`RecordsDb::wal_checkpoint`] has said that they are in the main file.
    ///
    /// # Errors
    /// `Invalid`: the session changed in a way that what was to be done does not fit any more; survey it again. Else as
    /// [`RecordsDb::apply`].
    pub fn mend(&mut self, session: SessionId, mending: &Mending) -> Result<()> {
        self.write(|transaction, packer, anchor| mend(transaction, packer, anchor, session, mending))
    }

    /// Adds groups and blobs to a session, or makes it of them: those that [`Mending`] has, and nothing else of it is done.
    ///
    /// # Errors
    /// As [`RecordsDb::mend`].
    pub fn add(&mut self, session: SessionId, mending: &Mending) -> Result<()> {
        self.write(|transaction, packer, anchor| add(transaction, packer, anchor, session, mending))
    }
}

fn mend(
    connection: &Connection,
    packer: &mut Packer,
    anchor: &Anchor,
    session: SessionId,
    mending: &Mending,
) -> Result<()> {
    if mending.erase {
        remove::rows(connection, session)?;
        return remove::mark(connection, session, Head::default(), anchor.position);
    }
    for (table, ids) in
        [("chunks", &mending.drop_chunks), ("checkpoints", &mending.drop_checkpoints), ("blobs", &mending.drop_blobs)]
    {
        let mut statement = connection.prepare_cached(&format!("DELETE FROM {table} WHERE id = ?1"))?;
        for id in ids {
            statement.execute([id])?;
        }
    }
    for run in &mending.runs {
        put_run(connection, packer, session, run)?;
    }
    if let Some(checkpoint) = &mending.stand {
        stand(connection, packer, anchor, checkpoint)?;
    } else if let Some(end) = mending.cut {
        cut(connection, session, end, anchor, None)?;
    } else if mending.drop_row {
        connection.prepare_cached("DELETE FROM sessions WHERE id = ?1")?.execute([session.0])?;
    } else if mending.rebuild_row {
        let row = row_of(connection, session, anchor)?;
        connection.prepare_cached("DELETE FROM sessions WHERE id = ?1")?.execute([session.0])?;
        row.insert(connection, session)?;
    } else {
        match SessionRow::load(connection, session) {
            Ok(Some(mut row)) => {
                row.measure(connection, session)?;
                row.update(connection, session)?;
            }
            // Nothing of it was here, and it is made of what follows; unless it was removed since somebody looked.
            Ok(None) if mending.runs.is_empty() && !RecordsReader::new(connection).is_removed(session)? => {}
            Ok(None) => return Err(SqliteError::Invalid(format!("session {session} was removed meanwhile"))),
            // It stays as it is until it is made again.
            Err(SqliteError::Damaged(_)) => {}
            Err(error) => return Err(error),
        }
    }
    add(connection, packer, anchor, session, mending)
}

fn add(
    connection: &Connection,
    packer: &mut Packer,
    anchor: &Anchor,
    session: SessionId,
    mending: &Mending,
) -> Result<()> {
    for group in &mending.append {
        apply::append(connection, packer, session, group, anchor.position)?;
    }
    for (seq, blob) in &mending.blobs {
        apply::put_blob(connection, packer, session, *seq, &NewBlob::from(blob.clone()))?;
    }
    for (seq, id, len) in &mending.files {
        apply::put_blob(connection, packer, session, *seq, &NewBlob { id: *id, len: *len, bytes: None })?;
    }
    Ok(())
}

/// A session is what its checkpoint says from now on, and ends there.
fn stand(connection: &Connection, packer: &mut Packer, anchor: &Anchor, checkpoint: &Checkpoint) -> Result<()> {
    let session = checkpoint.session;
    if RecordsReader::new(connection).is_removed(session)? {
        return Err(SqliteError::Invalid(format!("session {session} was removed meanwhile")));
    }
    let state = checkpoint.state().map_err(SqliteError::Invalid)?;
    let base = cut(connection, session, checkpoint.head, anchor, Some(&state.info))?;
    apply::write_checkpoint(connection, packer, base, checkpoint)
}

/// A session ends at `end` from now on; `info`: what is known of it besides what is left. Gives the last of its records that were
/// removed on purpose.
fn cut(
    connection: &Connection,
    session: SessionId,
    end: Head,
    anchor: &Anchor,
    info: Option<&SessionInfo>,
) -> Result<Seq> {
    let last = end.seq.0.cast_signed();
    let straddled = "SELECT 1 FROM chunks WHERE session = ?1 AND first_seq <= ?2 AND last_seq > ?2 LIMIT 1";
    if connection.prepare_cached(straddled)?.exists(params![session.0, last])? {
        return Err(SqliteError::Invalid(format!("session {session}: seq {} is not where a row ends", end.seq)));
    }
    connection
        .prepare_cached("DELETE FROM chunks WHERE session = ?1 AND first_seq > ?2")?
        .execute(params![session.0, last])?;
    connection
        .prepare_cached("DELETE FROM checkpoints WHERE session = ?1 AND seq > ?2")?
        .execute(params![session.0, last])?;
    let known = match SessionRow::load(connection, session) {
        Ok(row) => row,
        Err(SqliteError::Damaged(_)) => None,
        Err(error) => return Err(error),
    };
    let mut row = known.unwrap_or_else(|| SessionRow::fresh(end.time_ms));
    // How it stands is said by what is left.
    row.status = SessionStatus::Live;
    let mut reached = Seq::ZERO;
    {
        let sql = format!("SELECT {} FROM chunks WHERE session = ?1 ORDER BY first_seq", chunk::COLUMNS);
        let mut statement = connection.prepare_cached(&sql)?;
        let mut rows = statement.query([session.0])?;
        while let Some(found) = rows.next()? {
            let chunk = Chunk::read(found, session)?;
            for view in record::iter(&chunk.raw).map_while(std::result::Result::ok) {
                row.learn_from(&view);
                row.epoch = view.epoch();
            }
            reached = Seq(chunk.last);
        }
    }
    row.head = end;
    row.position = anchor.position;
    row.measure(connection, session)?;
    if reached != end.seq {
        // A checkpoint stands for what is missing: the next record begins a row of its own.
        row.tail_raw = 0;
    }
    if let Some(info) = info {
        (row.status, row.created_at) = (info.status, info.created_at_ms);
        let name = info.name.as_ref();
        row.namespace = name.map(|name| name.namespace().to_owned());
        row.name = name.map(|name| name.name().to_owned());
    }
    connection.prepare_cached("DELETE FROM sessions WHERE id = ?1")?.execute([session.0])?;
    row.insert(connection, session)?;
    Ok(row.base.seq)
}

fn put_run(connection: &Connection, packer: &mut Packer, session: SessionId, run: &[u8]) -> Result<()> {
    let mut piece: Option<(u64, u64)> = None;
    let (mut from, mut at) = (0, 0);
    let mut put = |piece: Option<(u64, u64)>, bytes: Option<&[u8]>| -> Result<()> {
        let (Some((first, last)), Some(bytes)) = (piece, bytes) else { return Ok(()) };
        let taken: bool = connection
            .prepare_cached("SELECT 1 FROM chunks WHERE session = ?1 AND first_seq <= ?3 AND last_seq >= ?2 LIMIT 1")?
            .exists(params![session.0, first.cast_signed(), last.cast_signed()])?;
        if taken {
            return Err(SqliteError::Invalid(format!("session {session}: records {first} to {last} are there again")));
        }
        chunk::put(connection, packer, session, None, (first, last), bytes)
    };
    for view in record::iter(run) {
        let view = view.map_err(|error| SqliteError::Invalid(error.to_string()))?;
        let seq = view.seq().0;
        if at > from && at - from + view.bytes().len() > chunk::CHUNK_BYTES {
            put(piece.take(), run.get(from..at))?;
            from = at;
        }
        piece = Some(piece.map_or((seq, seq), |(first, _)| (first, seq)));
        at += view.bytes().len();
    }
    put(piece, run.get(from..at))
}

/// A session's row, from its records.
fn row_of(connection: &Connection, session: SessionId, anchor: &Anchor) -> Result<SessionRow> {
    let sql = format!("SELECT {} FROM chunks WHERE session = ?1 ORDER BY first_seq", chunk::COLUMNS);
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query([session.0])?;
    let mut row: Option<SessionRow> = None;
    while let Some(found) = rows.next()? {
        let chunk = Chunk::read(found, session)?;
        for view in record::iter(&chunk.raw) {
            let view = view.map_err(|error| SqliteError::damaged(Some(session), None, error.to_string()))?;
            let row = row.get_or_insert_with(|| {
                let mut fresh = SessionRow::fresh(view.time_ms());
                // Records before the oldest there is were removed below a checkpoint.
                fresh.base = Head { seq: Seq(view.seq().0.saturating_sub(1)), hash: view.previous(), time_ms: 0 };
                fresh.head = fresh.base;
                fresh
            });
            row.head = view
                .follows(session, row.head)
                .map_err(|error| SqliteError::damaged(Some(session), None, error.to_string()))?;
            row.epoch = view.epoch();
            row.learn_from(&view);
        }
    }
    let mut row = row.ok_or_else(|| SqliteError::Invalid(format!("session {session} has no records")))?;
    row.position = anchor.position;
    row.measure(connection, session)?;
    Ok(row)
}

/// A row of records that is what it says, or nothing.
pub(super) fn examine(found: &Row<'_>, session: SessionId) -> Option<Good> {
    let chunk = Chunk::read(found, session).ok()?;
    let mut head: Option<Head> = None;
    let mut before = Hash::default();
    let mut blobs = Vec::new();
    for view in record::iter(&chunk.raw) {
        let view = view.ok()?;
        let at = head.unwrap_or_else(|| {
            before = view.previous();
            Head { seq: Seq(chunk.first.saturating_sub(1)), hash: before, time_ms: 0 }
        });
        let stands = view.follows(session, at).ok()?;
        // A body that this version cannot read is no damage.
        let body = view.decode_verified(stands).ok().and_then(|record| record.body);
        for event in body.iter().map(|body| &body.event) {
            let base = event.base();
            blobs.extend(event.blobs().map(|blob| (blob, stands.seq, base == Some(blob))));
        }
        head = Some(stands);
    }
    let end = head.filter(|head| head.seq.0 == chunk.last)?;
    Some(Good { first: chunk.first, before, end, id: chunk.id, blobs })
}

pub(super) fn bad_chunk(found: &Row<'_>) -> Result<BadRow> {
    let stored = blob_of(found, 6)?;
    let salvaged = salvage(number(found, 3)?, number(found, 4)?, &stored);
    Ok(BadRow { id: found.get(0)?, stored, salvaged, blob: None, seq: None })
}

/// What a column has, whatever its type has become.
fn blob_of(found: &Row<'_>, column: usize) -> Result<Vec<u8>> {
    Ok(match found.get_ref(column)? {
        ValueRef::Blob(bytes) | ValueRef::Text(bytes) => bytes.to_vec(),
        _ => Vec::new(),
    })
}

fn number(found: &Row<'_>, column: usize) -> Result<i64> {
    Ok(match found.get_ref(column)? {
        ValueRef::Integer(number) => number,
        _ => -1,
    })
}

/// Unpacked by what the row says, else by what its bytes look like.
fn salvage(codec: i64, raw_len: i64, stored: &[u8]) -> Vec<u8> {
    let said = codec::length(raw_len).ok().and_then(|length| codec::unpack(codec, length, stored).ok());
    said.or_else(|| codec::unpack_unsure(stored, 4 * chunk::CHUNK_BYTES)).unwrap_or_else(|| stored.to_vec())
}

impl SessionRow {
    /// Takes the lengths of what there is.
    fn measure(&mut self, connection: &Connection, session: SessionId) -> Result<()> {
        let (bytes, tail): (i64, i64) = connection
            .prepare_cached(
                "SELECT coalesce(sum(raw_len), 0), \
                 coalesce((SELECT raw_len FROM chunks WHERE session = ?1 ORDER BY first_seq DESC LIMIT 1), 0) \
                 FROM chunks WHERE session = ?1",
            )?
            .query_row([session.0], |found| Ok((found.get(0)?, found.get(1)?)))?;
        (self.bytes, self.tail_raw) = (bytes.cast_unsigned(), tail.cast_unsigned());
        Ok(())
    }
}
