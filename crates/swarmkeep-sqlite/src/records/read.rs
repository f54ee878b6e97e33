//! Reading `records.db`. Everything that comes out was verified on the way.

use bytes::Bytes;
use rusqlite::{Connection, Row, Rows};
use swarmkeep_core::{
    BlobId, Epoch, Hash, Seq, SessionId, SessionName,
    checkpoint::Checkpoint,
    log::{Head, Observation, Position},
    record,
    state::{STATE_VERSION, SessionStatus},
};

use super::{
    Anchor, apply,
    chunk::{self, Chunk},
    remove,
    row::{self, SessionRow, checksum, fixed, unsigned},
};
use crate::{
    codec,
    error::{Result, SqliteError},
};

/// Reads through a connection, by one snapshot if there is a transaction around it.
#[derive(Debug, Clone, Copy)]
pub struct RecordsReader<'c> {
    connection: &'c Connection,
}

/// A session as `records.db` knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSession {
    /// Its id.
    pub id: SessionId,
    /// `namespace/name`; `None` when the body that said so was removed.
    pub name: Option<SessionName>,
    /// As its events say.
    pub status: SessionStatus,
    /// Time of its first record.
    pub created_at_ms: u64,
    /// Its last record.
    pub head: Head,
    /// Under which holder the last record was written.
    pub epoch: Epoch,
    /// The last record that was removed below a checkpoint; seq 0: none was.
    pub base: Head,
    /// Bytes of its records, unpacked.
    pub bytes: u64,
    /// The position that changed it last.
    pub position: Position,
}

/// A checkpoint, without its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointInfo {
    /// The record it stands at.
    pub head: Head,
    /// Which of the session's checkpoints, from 0.
    pub number: u64,
    /// Of its canonical bytes.
    pub hash: Hash,
    /// Length of its canonical bytes.
    pub raw_len: u64,
    /// The version of the state's shape.
    pub state_version: u32,
}

/// A session that was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removal {
    /// Which session.
    pub session: SessionId,
    /// By which frame.
    pub position: Position,
    /// Where it ended: seq and record hash.
    pub head: (Seq, Hash),
}

/// Observations of a session from one batch.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredObservations {
    /// Row number, ascending in the order of applying: the cursor.
    pub id: i64,
    /// Which session.
    pub session: SessionId,
    /// At which position they were applied.
    pub position: Position,
    /// The observations.
    pub observations: Vec<Observation>,
}

/// The report of a recovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// Its id.
    pub id: String,
    /// When it ended, ms since the Unix epoch.
    pub at_ms: u64,
    /// The report, JSON.
    pub report: String,
}

impl Recovery {
    pub(super) fn checksum(&self) -> [u8; 16] {
        checksum(&[b"recovery", self.id.as_bytes(), &self.at_ms.to_le_bytes(), self.report.as_bytes()])
    }
}

impl<'c> RecordsReader<'c> {
    /// Reads through this connection, which must be to a `records.db`.
    #[must_use]
    pub fn new(connection: &'c Connection) -> Self {
        Self { connection }
    }

    /// How far the file has come.
    ///
    /// # Errors
    /// `Damaged`.
    pub fn anchor(&self) -> Result<Anchor> {
        row::anchor(self.connection)
    }

    /// Whether the file has its tables and nothing in them: it was being made when the power went.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn is_unborn(&self) -> Result<bool> {
        let sql = "SELECT NOT EXISTS (SELECT 1 FROM meta) AND NOT EXISTS (SELECT 1 FROM sessions) \
                   AND NOT EXISTS (SELECT 1 FROM chunks)";
        Ok(self.connection.query_row(sql, [], |row| row.get(0))?)
    }

    /// Where a session ends, and under which holder it was written last. `None`: no such session.
    ///
    /// # Errors
    /// `Damaged`.
    pub fn head(&self, session: SessionId) -> Result<Option<(Head, Epoch)>> {
        if let Some(row) = SessionRow::load(self.connection, session)? {
            return Ok(Some((row.head, row.epoch)));
        }
        // One whose row cannot be found any more must not be taken for one that never was, and begun again.
        let mut statement = self.connection.prepare_cached("SELECT 1 FROM chunks WHERE session = ?1 LIMIT 1")?;
        if statement.exists([session.0])? {
            let what = "records.db: the session's row is not there, its records are";
            return Err(SqliteError::damaged(Some(session), None, what));
        }
        Ok(None)
    }

    /// A session. `None`: no such session.
    ///
    /// # Errors
    /// `Damaged`.
    pub fn session(&self, session: SessionId) -> Result<Option<StoredSession>> {
        Ok(SessionRow::load(self.connection, session)?.map(|row| stored(session, row)))
    }

    /// Sessions in the order of their ids, after `after`, at most `limit`.
    ///
    /// # Errors
    /// `Damaged`.
    pub fn sessions(&self, after: Option<SessionId>, limit: usize) -> Result<Vec<StoredSession>> {
        let mut sessions = Vec::new();
        self.each_session(after, limit, |session| {
            sessions.push(session);
            Ok(())
        })?;
        Ok(sessions)
    }

    fn each_session(
        &self,
        after: Option<SessionId>,
        limit: usize,
        mut each: impl FnMut(StoredSession) -> Result<()>,
    ) -> Result<()> {
        let sql = format!("SELECT {} FROM sessions WHERE id > ?1 ORDER BY id LIMIT ?2", row::COLUMNS);
        let mut statement = self.connection.prepare_cached(&sql)?;
        // Before every 16-byte id stands the empty one.
        let after: &[u8] = after.as_ref().map_or(&[], |after| &after.0);
        let mut rows = statement.query((after, i64::try_from(limit).unwrap_or(i64::MAX)))?;
        while let Some(found) = rows.next()? {
            let (id, row) = SessionRow::read(found)?;
            each(stored(id, row))?;
        }
        Ok(())
    }

    /// How many sessions there are.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn count(&self) -> Result<u64> {
        let count: i64 = self.connection.query_row("SELECT count(*) FROM sessions", [], |row| row.get(0))?;
        Ok(count.cast_unsigned())
    }

    /// The ids of all sessions that have a row or records, whether those can be used or not.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn session_ids(&self) -> Result<Vec<SessionId>> {
        let sql = "SELECT id FROM sessions UNION SELECT session FROM chunks";
        let mut statement = self.connection.prepare_cached(sql)?;
        let ids = statement.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
        let ids = ids.filter_map(|id| id.map(|id| id.try_into().ok().map(SessionId)).transpose());
        Ok(ids.collect::<rusqlite::Result<_>>()?)
    }

    /// How many sessions there are that have not ended.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn count_live(&self) -> Result<u64> {
        let sql = "SELECT count(*) FROM sessions WHERE status NOT IN ('closed', 'expired', 'quarantined')";
        let count: i64 = self.connection.query_row(sql, [], |row| row.get(0))?;
        Ok(count.cast_unsigned())
    }

    /// Records after `after`, whole, contiguous and verified, at least one if there is one, then up to about `max_bytes`
    /// (a chunk, 256 KiB, is read at a time; what is beyond `max_bytes` is cut off between records).
    ///
    /// # Errors
    /// `NotFound`: no such session. `Damaged` with the range of seqs: a hole, a bad checksum, a broken chain, or records
    /// that were removed below a checkpoint.
    pub fn read(&self, session: SessionId, after: Seq, max_bytes: usize) -> Result<Bytes> {
        let row = SessionRow::load(self.connection, session)?
            .ok_or_else(|| SqliteError::NotFound(format!("session {session}")))?;
        if after >= row.head.seq {
            return Ok(Bytes::new());
        }
        if after < row.base.seq {
            let seqs = after.0 + 1..=row.base.seq.0;
            return Err(SqliteError::damaged(Some(session), Some(seqs), "records were removed below a checkpoint"));
        }
        let mut out = Vec::new();
        self.walk(session, &row, after, Chunk::read, |view, _| {
            if !out.is_empty() && out.len() + view.bytes().len() > max_bytes {
                return false;
            }
            out.extend_from_slice(view.bytes());
            out.len() < max_bytes
        })?;
        Ok(out.into())
    }

    /// Every record after `after`, verified, with the head after it, until `each` says false. The last record of all must be
    /// the head. `chunk` reads a row of chunks.
    pub(super) fn walk(
        &self,
        session: SessionId,
        row: &SessionRow,
        after: Seq,
        chunk: fn(&Row<'_>, SessionId) -> Result<Chunk>,
        mut each: impl FnMut(&record::RecordView<'_>, Head) -> bool,
    ) -> Result<()> {
        let damaged = |seqs: std::ops::RangeInclusive<u64>, what: String| {
            SqliteError::damaged(Some(session), Some(seqs), format!("records.db: {what}"))
        };
        let mut statement = self.connection.prepare_cached(
            "SELECT id, first_seq, last_seq, codec, raw_len, checksum, bytes FROM chunks WHERE session = ?1 AND \
             first_seq >= (SELECT coalesce(max(first_seq), 0) FROM chunks WHERE session = ?1 AND first_seq <= ?2) \
             ORDER BY first_seq",
        )?;
        let mut rows = statement.query((session.0, bound(after.0.saturating_add(1))))?;
        let mut head: Option<Head> = (after == row.base.seq).then_some(row.base);
        while let Some(found) = rows.next()? {
            let chunk = chunk(found, session)?;
            let expected = head.map_or(chunk.first, |head| head.seq.0 + 1);
            if chunk.first != expected || (head.is_none() && chunk.first > after.0 + 1) {
                let from = head.map_or(after.0 + 1, |head| head.seq.0 + 1);
                return Err(damaged(from..=chunk.first.saturating_sub(1).max(from), "records are missing".into()));
            }
            for view in record::iter(&chunk.raw) {
                let view = view.map_err(|error| damaged(chunk.first..=chunk.last, error.to_string()))?;
                // The first record of a read from the middle has nothing before it to be compared with but itself.
                let before =
                    head.unwrap_or(Head { seq: Seq(chunk.first.saturating_sub(1)), hash: view.previous(), time_ms: 0 });
                let next = view
                    .follows(session, before)
                    .map_err(|error| damaged(before.seq.0 + 1..=chunk.last, error.to_string()))?;
                head = Some(next);
                if next.seq > after && !each(&view, next) {
                    return Ok(());
                }
            }
            let end = head.map_or(0, |head| head.seq.0);
            if end != chunk.last {
                return Err(damaged(end + 1..=chunk.last, "chunk ends early".into()));
            }
        }
        if head != Some(row.head) {
            let from = head.map_or(after.0, |head| head.seq.0).min(row.head.seq.0);
            return Err(damaged(
                from + 1..=row.head.seq.0.max(from + 1),
                "records do not end at the session's head".into(),
            ));
        }
        Ok(())
    }

    /// Hash of the record at a seq. `None`: there is none (any more).
    ///
    /// # Errors
    /// `Damaged`.
    pub fn hash_at(&self, session: SessionId, seq: Seq) -> Result<Option<Hash>> {
        let sql = format!(
            "SELECT {} FROM chunks WHERE session = ?1 AND first_seq <= ?2 ORDER BY first_seq DESC LIMIT 1",
            chunk::COLUMNS
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query((session.0, bound(seq.0)))?;
        let Some(found) = rows.next()? else { return Ok(None) };
        let chunk = Chunk::read(found, session)?;
        for view in record::iter(&chunk.raw) {
            let view = view.map_err(|error| {
                SqliteError::damaged(Some(session), Some(chunk.first..=chunk.last), error.to_string())
            })?;
            if view.seq() == seq {
                return Ok(Some(view.hash()));
            }
        }
        Ok(None)
    }

    /// The newest checkpoint at or below a seq that verifies; damaged ones, and those of another state version, are
    /// passed over.
    ///
    /// # Errors
    /// Whatever SQLite says of the table itself.
    pub fn load(&self, session: SessionId, at_or_below: Seq) -> Result<Option<Checkpoint>> {
        self.load_noting(session, at_or_below, &mut |_, _| ())
    }

    /// [`RecordsReader::load`]; `damaged` is told of every checkpoint that was passed over because it does not verify: its
    /// seq, where that can be read, and what is wrong.
    ///
    /// # Errors
    /// As [`RecordsReader::load`].
    pub fn load_noting(
        &self,
        session: SessionId,
        at_or_below: Seq,
        damaged: &mut dyn FnMut(Option<u64>, String),
    ) -> Result<Option<Checkpoint>> {
        let mut statement = self.connection.prepare_cached(
            "SELECT seq, number, head_hash, head_time, state_version, hash, raw_len, checksum, codec, bytes \
             FROM checkpoints WHERE session = ?1 AND seq <= ?2 ORDER BY seq DESC",
        )?;
        let mut rows = statement.query((session.0, bound(at_or_below.0)))?;
        while let Some(found) = rows.next()? {
            match read_checkpoint(session, found) {
                Ok(Some(checkpoint)) => return Ok(Some(checkpoint)),
                Ok(None) => {}
                Err(error) => damaged(unsigned(found, 0).ok(), error.to_string()),
            }
        }
        Ok(None)
    }

    /// A session's checkpoints, newest first.
    ///
    /// # Errors
    /// `Damaged` for a row that does not verify.
    pub fn checkpoints(&self, session: SessionId) -> Result<Vec<CheckpointInfo>> {
        let mut statement = self.connection.prepare_cached(
            "SELECT seq, number, head_hash, head_time, state_version, hash, raw_len, checksum FROM checkpoints \
             WHERE session = ?1 ORDER BY seq DESC",
        )?;
        let mut rows = statement.query([session.0])?;
        let mut infos = Vec::new();
        while let Some(found) = rows.next()? {
            infos.push(checkpoint_info(session, found)?);
        }
        Ok(infos)
    }

    /// Seqs of checkpoints that do not verify, with what is wrong.
    pub(super) fn damaged_checkpoints(&self, session: SessionId) -> Result<Vec<(u64, String)>> {
        let mut statement = self.connection.prepare_cached(
            "SELECT seq, number, head_hash, head_time, state_version, hash, raw_len, checksum, codec, bytes \
             FROM checkpoints WHERE session = ?1 ORDER BY seq",
        )?;
        let mut rows = statement.query([session.0])?;
        let mut damaged = Vec::new();
        while let Some(found) = rows.next()? {
            let seq = unsigned(found, 0)?;
            match read_checkpoint(session, found) {
                Err(error) => damaged.push((seq, error.to_string())),
                Ok(Some(checkpoint)) => {
                    if let Some(hash) = self.hash_at(session, Seq(seq)).ok().flatten()
                        && hash != checkpoint.head.hash
                    {
                        damaged.push((seq, "stands at another record than the one of its seq".into()));
                    }
                }
                Ok(None) => {}
            }
        }
        Ok(damaged)
    }

    /// Whether the records up to and including `seq` may go: a checkpoint at or after it reads.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn may_remove_through(&self, session: SessionId, seq: Seq) -> Result<bool> {
        Ok(self.load(session, Seq(i64::MAX.cast_unsigned()))?.is_some_and(|checkpoint| checkpoint.head.seq >= seq))
    }

    /// A blob, verified. `Ok(None)`: it is in a file of its own.
    ///
    /// # Errors
    /// `NotFound`, `Damaged`.
    pub fn blob(&self, session: SessionId, id: BlobId) -> Result<Option<Bytes>> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT raw_len, codec, bytes FROM blobs WHERE session = ?1 AND blob = ?2")?;
        let mut rows = statement.query((session.0, id.0))?;
        let found = rows.next()?.ok_or_else(|| SqliteError::NotFound(format!("blob {id} of session {session}")))?;
        read_blob(session, id, found)
    }

    /// A session's blobs, and the length of each; `file`: those that are in files of their own.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn blobs(&self, session: SessionId, file: bool) -> Result<Vec<(BlobId, u64)>> {
        let mut statement = self.connection.prepare_cached(
            "SELECT blob, raw_len FROM blobs WHERE session = ?1 AND (bytes IS NULL) = ?2 ORDER BY blob",
        )?;
        let mut rows = statement.query((session.0, file))?;
        let mut blobs = Vec::new();
        while let Some(found) = rows.next()? {
            blobs.push((BlobId(fixed(found, 0)?), unsigned(found, 1)?));
        }
        Ok(blobs)
    }

    /// Rows of observations after row `after_id` that were applied beyond `beyond`, at most `limit`, in order.
    ///
    /// # Errors
    /// `Damaged`.
    pub fn observations(&self, after_id: i64, beyond: Position, limit: usize) -> Result<Vec<StoredObservations>> {
        let mut statement = self.connection.prepare_cached(
            "SELECT id, session, position, checksum, json FROM observations WHERE id > ?1 AND position > ?2 \
             ORDER BY id LIMIT ?3",
        )?;
        stored_observations(statement.query((after_id, bound(beyond.0), i64::try_from(limit).unwrap_or(i64::MAX)))?)
    }

    /// [`RecordsReader::observations`] without the damaged rows: the views do without them, `verify` names them.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub(crate) fn sound_observations(
        &self,
        after_id: i64,
        beyond: Position,
        limit: usize,
    ) -> Result<Vec<StoredObservations>> {
        let mut statement = self.connection.prepare_cached(
            "SELECT id, session, position, checksum, json FROM observations WHERE id > ?1 AND position > ?2 ORDER BY id",
        )?;
        // A position that decayed to nothing is not passed over for ever.
        let beyond = if beyond.0 == 0 { -1 } else { bound(beyond.0) };
        let mut rows = statement.query((after_id, beyond))?;
        let mut stored = Vec::new();
        while stored.len() < limit
            && let Some(found) = rows.next()?
        {
            stored.extend(observations_in(found).ok());
        }
        Ok(stored)
    }

    /// Rows of observations of one session after row `after_id` that were applied up to `through`, at most `limit`, in order.
    ///
    /// # Errors
    /// `Damaged`.
    pub fn observations_of(
        &self,
        session: SessionId,
        after_id: i64,
        through: Position,
        limit: usize,
    ) -> Result<Vec<StoredObservations>> {
        let mut statement = self.connection.prepare_cached(
            "SELECT id, session, position, checksum, json FROM observations WHERE session = ?1 AND id > ?2 AND position <= ?3 \
             ORDER BY id LIMIT ?4",
        )?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        stored_observations(statement.query((session.0, after_id, bound(through.0), limit))?)
    }

    /// Whether this session was removed, and none of its id was made since.
    ///
    /// # Errors
    /// `Damaged`.
    pub fn is_removed(&self, session: SessionId) -> Result<bool> {
        let mut statement = self.connection.prepare_cached("SELECT 1 FROM removed WHERE session = ?1")?;
        Ok(statement.exists([session.0])? && self.head(session)?.is_none())
    }

    /// Sessions that were removed beyond a position.
    ///
    /// # Errors
    /// `Damaged`.
    pub fn removals(&self, beyond: Position) -> Result<Vec<Removal>> {
        let mut statement = self.connection.prepare_cached(
            "SELECT session, position, head_seq, head_hash, checksum FROM removed WHERE position > ?1 ORDER BY session",
        )?;
        let mut rows = statement.query([bound(beyond.0)])?;
        let mut removals = Vec::new();
        while let Some(found) = rows.next()? {
            let (session, position, seq, hash) =
                (SessionId(fixed(found, 0)?), unsigned(found, 1)?, unsigned(found, 2)?, fixed(found, 3)?);
            if remove::removed_sum(session, position, seq, &hash) != fixed(found, 4)? {
                return Err(SqliteError::damaged(Some(session), None, "records.db, removed: checksum differs"));
            }
            removals.push(Removal { session, position: Position(position), head: (Seq(seq), Hash(hash)) });
        }
        Ok(removals)
    }

    /// Reports of recoveries, newest first, at most `limit`.
    ///
    /// # Errors
    /// `Damaged`.
    pub fn recoveries(&self, limit: usize) -> Result<Vec<Recovery>> {
        let mut recoveries = Vec::new();
        self.each_report("", limit, |recovery| recovery.map(|recovery| recoveries.push(recovery)))?;
        Ok(recoveries)
    }

    /// Reports whose ids begin with `prefix`, newest first, at most `limit`. One that does not verify is passed over: the
    /// others are still worth reading, and [`RecordsReader::verify_file`] names it.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn reports(&self, prefix: &str, limit: usize) -> Result<Vec<Recovery>> {
        let mut reports = Vec::new();
        self.each_report(prefix, limit, |report| {
            reports.extend(report.ok());
            Ok(())
        })?;
        Ok(reports)
    }

    fn each_report(
        &self,
        prefix: &str,
        limit: usize,
        mut each: impl FnMut(Result<Recovery>) -> Result<()>,
    ) -> Result<()> {
        let mut statement = self.connection.prepare_cached(
            "SELECT id, at, report, checksum FROM recoveries WHERE substr(id, 1, length(?1)) = ?1 \
             ORDER BY at DESC, id DESC LIMIT ?2",
        )?;
        let mut rows = statement.query((prefix, i64::try_from(limit).unwrap_or(i64::MAX)))?;
        while let Some(found) = rows.next()? {
            let read = || {
                let recovery = Recovery { id: found.get(0)?, at_ms: unsigned(found, 1)?, report: found.get(2)? };
                if recovery.checksum() != fixed(found, 3)? {
                    return Err(SqliteError::damaged(
                        None,
                        None,
                        format!("recovery {}: checksum differs", recovery.id),
                    ));
                }
                Ok(recovery)
            };
            each(read())?;
        }
        Ok(())
    }

    pub(super) fn connection(&self) -> &'c Connection {
        self.connection
    }
}

fn stored_observations(mut rows: Rows<'_>) -> Result<Vec<StoredObservations>> {
    let mut stored = Vec::new();
    while let Some(found) = rows.next()? {
        stored.push(observations_in(found)?);
    }
    Ok(stored)
}

pub(super) fn observations_in(found: &Row<'_>) -> Result<StoredObservations> {
    let session = SessionId(fixed(found, 1)?);
    let damaged = |what| SqliteError::damaged(Some(session), None, format!("records.db, observations: {what}"));
    let json: String = found.get(4)?;
    let expected: [u8; 16] = fixed(found, 3)?;
    if checksum(&[b"observations", &session.0, json.as_bytes()]) != expected {
        return Err(damaged("checksum differs".into()));
    }
    Ok(StoredObservations {
        id: found.get(0)?,
        session,
        position: Position(unsigned(found, 2)?),
        observations: serde_json::from_str(&json).map_err(|error| damaged(error.to_string()))?,
    })
}

/// A bound to compare a column with: beyond what SQLite can hold there is nothing.
fn bound(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn stored(id: SessionId, row: SessionRow) -> StoredSession {
    StoredSession {
        id,
        name: row.namespace.zip(row.name).and_then(|(namespace, name)| SessionName::new(&namespace, &name).ok()),
        status: row.status,
        created_at_ms: row.created_at,
        head: row.head,
        epoch: row.epoch,
        base: row.base,
        bytes: row.bytes,
        position: row.position,
    }
}

fn checkpoint_info(session: SessionId, found: &Row<'_>) -> Result<CheckpointInfo> {
    let seq = unsigned(found, 0)?;
    let number: i64 = found.get(1)?;
    let info = CheckpointInfo {
        head: Head { seq: Seq(seq), hash: Hash(fixed(found, 2)?), time_ms: unsigned(found, 3)? },
        number: number.cast_unsigned(),
        hash: Hash(fixed(found, 5)?),
        raw_len: unsigned(found, 6)?,
        state_version: found.get(4)?,
    };
    let sum =
        apply::checkpoint_sum(session, info.head, number, info.state_version, info.hash, info.raw_len.cast_signed());
    if sum != fixed(found, 7)? {
        return Err(SqliteError::damaged(Some(session), None, format!("checkpoint at seq {seq}: checksum differs")));
    }
    Ok(info)
}

/// `None`: of another state version.
pub(super) fn read_checkpoint(session: SessionId, found: &Row<'_>) -> Result<Option<Checkpoint>> {
    let info = checkpoint_info(session, found)?;
    if info.state_version != STATE_VERSION {
        return Ok(None);
    }
    let damaged = |what: String| {
        SqliteError::damaged(Some(session), None, format!("checkpoint at seq {}: {what}", info.head.seq))
    };
    let bytes = found.get_ref(9)?.as_blob().map_err(|error| damaged(error.to_string()))?;
    let canonical = codec::unpack(found.get(8)?, codec::length(info.raw_len.cast_signed())?, bytes).map_err(damaged)?;
    if blake3::hash(&canonical).as_bytes() != &info.hash.0 {
        return Err(damaged("hash differs".into()));
    }
    Ok(Some(Checkpoint { session, head: info.head, hash: info.hash, canonical: canonical.into() }))
}

pub(super) fn read_blob(session: SessionId, id: BlobId, found: &Row<'_>) -> Result<Option<Bytes>> {
    let damaged = |what: String| SqliteError::damaged(Some(session), None, format!("blob {id}: {what}"));
    let Some(bytes) = found.get_ref(2)?.as_blob_or_null().map_err(|error| damaged(error.to_string()))? else {
        return Ok(None);
    };
    let raw = codec::unpack(found.get(1)?, codec::length(found.get(0)?)?, bytes).map_err(damaged)?;
    if blake3::hash(&raw).as_bytes() != &id.0 {
        return Err(damaged("hash differs".into()));
    }
    Ok(Some(raw.into()))
}
