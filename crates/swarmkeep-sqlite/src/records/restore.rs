//! Many sessions folded in one go: after a start each is brought back once, to prove that it can be.
//!
//! In the order of their ids and by one snapshot, so that the inner pages of every index are read once for thousands of
//! sessions, and nothing is asked twice.

use std::ops::ControlFlow;

use swarmkeep_core::{
    BlobId, Record, Seq, SessionId, State, recovery::Complexity, session::fold_record, state::SessionStatus,
};

use super::{RecordsReader, chunk::Chunk, read, row, row::SessionRow};
use crate::error::{Result, SqliteError};

/// A session brought back.
#[derive(Debug, Clone)]
pub struct Restored {
    /// Its state, which stands at the head that the session's row names.
    pub state: State,
    /// Records folded, beyond the checkpoint.
    pub replayed: u64,
}

impl RecordsReader<'_> {
    /// Brings sessions back one after another, in the order of their ids: those after `after` up to and including
    /// `through`, at most `limit`, and of them those that are `wanted`, which is told how each stands and how much work it is
    /// (by what its row says; the checkpoint is asked only where that is much). `each` is given the session, or what stands in
    /// its way. Gives the last id looked at when `limit` or `each` ended it, for the next call.
    ///
    /// Checked of each session: its row by its checksum; the newest checkpoint by its checksum and hash, its state decoded
    /// and compared with the record it says it stands at; every record after that, by its own hashes, folded, and the chain
    /// from the checkpoint to the head in the session's row. Older checkpoints, records before the checkpoint's chunk and
    /// blobs are not read: they are not needed now, and verified when they are. `Damaged` for `each` also means what only a
    /// caller can settle: a session that begins with a state in a blob.
    ///
    /// # Errors
    /// Whatever SQLite says of the table of sessions itself.
    pub fn restore(
        &self,
        after: Option<SessionId>,
        through: SessionId,
        limit: usize,
        mut wanted: impl FnMut(SessionId, SessionStatus, Complexity) -> bool,
        mut each: impl FnMut(SessionId, Result<Restored>) -> ControlFlow<()>,
    ) -> Result<Option<SessionId>> {
        let sql = format!("SELECT {} FROM sessions WHERE id > ?1 AND id <= ?2 ORDER BY id LIMIT ?3", row::COLUMNS);
        let mut statement = self.connection().prepare_cached(&sql)?;
        // Before every 16-byte id stands the empty one.
        let after: &[u8] = after.as_ref().map_or(&[], |after| &after.0);
        let mut rows = statement.query((after, through.0, i64::try_from(limit).unwrap_or(i64::MAX)))?;
        let mut looked_at = 0;
        let mut last = None;
        while let Some(found) = rows.next()? {
            let id = SessionId(row::fixed(found, 0)?);
            looked_at += 1;
            last = Some(id);
            let restored = match SessionRow::read(found) {
                Ok((_, row)) if wanted(id, row.status, self.complexity(id, &row)) => self.fold(id, &row),
                Ok(_) => continue,
                Err(error) => Err(error),
            };
            if each(id, restored).is_break() {
                return Ok(last);
            }
        }
        Ok(last.filter(|_| looked_at == limit))
    }

    fn complexity(&self, session: SessionId, row: &SessionRow) -> Complexity {
        let records = row.head.seq.0.saturating_sub(row.base.seq.0);
        let all = Complexity::of(row.bytes, records);
        if all == Complexity::Low {
            return all;
        }
        let sql = "SELECT seq, raw_len FROM checkpoints WHERE session = ?1 ORDER BY seq DESC LIMIT 1";
        let newest = self.connection().prepare_cached(sql).and_then(|mut statement| {
            statement.query_row([session.0], |found| Ok((found.get::<_, i64>(0)?, found.get::<_, i64>(1)?)))
        });
        match newest {
            Ok((seq, bytes)) => {
                Complexity::of(bytes.cast_unsigned(), row.head.seq.0.saturating_sub(seq.cast_unsigned()))
            }
            // None, or none that reads.
            Err(_) => all,
        }
    }

    /// Brings one session back from the state of its checkpoint at `from` (0: from nothing), as [`RecordsReader::restore`]
    /// does from the newest one. `base` gives the state that a fork or a rewind carries in a blob.
    ///
    /// # Errors
    /// `Damaged`; `NotFound`: no such session.
    pub fn replay(
        &self,
        session: SessionId,
        from: Seq,
        base: &mut dyn FnMut(BlobId) -> std::result::Result<State, String>,
    ) -> Result<Restored> {
        let row = SessionRow::load(self.connection(), session)?
            .ok_or_else(|| SqliteError::NotFound(format!("session {session}")))?;
        let state = match from {
            Seq::ZERO => State::empty(),
            _ => {
                let damaged = |what: String| SqliteError::damaged(Some(session), Some(from.0..=from.0), what);
                let checkpoint = self.load(session, from)?.filter(|checkpoint| checkpoint.head.seq == from);
                let checkpoint = checkpoint.ok_or_else(|| damaged("no checkpoint that verifies".into()))?;
                checkpoint.state().map_err(damaged)?
            }
        };
        self.fold_from(session, &row, state, |state, record| {
            fold_record(state, record, base).map_err(|error| error.to_string())
        })
    }

    fn fold(&self, session: SessionId, row: &SessionRow) -> Result<Restored> {
        let state = self.newest_state(session)?.unwrap_or_else(State::empty);
        self.fold_from(session, row, state, |state, record| state.apply(record).map_err(|error| error.to_string()))
    }

    fn fold_from(
        &self,
        session: SessionId,
        row: &SessionRow,
        mut state: State,
        mut apply: impl FnMut(&mut State, &Record) -> std::result::Result<(), String>,
    ) -> Result<Restored> {
        let mut replayed = 0;
        let mut unfit = None;
        if state.head.seq < row.head.seq {
            self.walk(session, row, state.head.seq.max(row.base.seq), Chunk::read_unsummed, |view, head| {
                let folded = view
                    .decode_verified(head)
                    .map_err(|error| error.to_string())
                    .and_then(|record| apply(&mut state, &record));
                match folded {
                    Ok(()) => replayed += 1,
                    Err(what) => unfit = Some((head.seq.0, what)),
                }
                unfit.is_none()
            })?;
        }
        if let Some((seq, what)) = unfit {
            return Err(SqliteError::damaged(Some(session), Some(seq..=seq), what));
        }
        if state.head != row.head {
            let what = format!("what is stored leads to seq {}, the session ends at {}", state.head.seq, row.head.seq);
            return Err(SqliteError::damaged(Some(session), None, what));
        }
        Ok(Restored { state, replayed })
    }

    /// The state of the newest checkpoint. `None`: there is no checkpoint, or it is of another state version.
    fn newest_state(&self, session: SessionId) -> Result<Option<State>> {
        let mut statement = self.connection().prepare_cached(
            "SELECT seq, number, head_hash, head_time, state_version, hash, raw_len, checksum, codec, bytes \
             FROM checkpoints WHERE session = ?1 ORDER BY seq DESC LIMIT 1",
        )?;
        let mut rows = statement.query([session.0])?;
        let Some(found) = rows.next()? else { return Ok(None) };
        let Some(checkpoint) = read::read_checkpoint(session, found)? else { return Ok(None) };
        let seq = checkpoint.head.seq.0;
        let damaged = |what: String| SqliteError::damaged(Some(session), Some(seq..=seq), what);
        // The bytes were hashed when they were read.
        let state = State::from_canonical(&checkpoint.canonical).map_err(damaged)?;
        if state.head != checkpoint.head || state.info.id != session {
            return Err(damaged("a checkpoint of another place".into()));
        }
        Ok(Some(state))
    }
}
