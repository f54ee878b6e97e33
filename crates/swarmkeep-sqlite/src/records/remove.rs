//! Removing: sessions, records below a checkpoint, checkpoints. Always inside the batch's transaction.

use rusqlite::{Connection, params};
use swarmkeep_core::{
    Seq, SessionId,
    log::{Head, Position},
    record,
};

use super::{
    RecordsReader, apply, chunk,
    row::{SessionRow, checksum},
};
use crate::{
    codec::Packer,
    error::{Result, SqliteError},
};

/// Every row of a session.
pub(super) fn rows(connection: &Connection, id: SessionId) -> Result<()> {
    for sql in [
        "DELETE FROM chunks WHERE session = ?1",
        "DELETE FROM checkpoints WHERE session = ?1",
        "DELETE FROM blobs WHERE session = ?1",
        "DELETE FROM observations WHERE session = ?1",
        "DELETE FROM sessions WHERE id = ?1",
    ] {
        connection.prepare_cached(sql)?.execute([id.0])?;
    }
    Ok(())
}

/// The session, whole; what stays is a marker.
pub(super) fn all(connection: &Connection, id: SessionId, row: &SessionRow, position: Position) -> Result<()> {
    rows(connection, id)?;
    mark(connection, id, row.head, position)
}

/// Says that a session was removed.
pub(super) fn mark(connection: &Connection, id: SessionId, head: Head, position: Position) -> Result<()> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO removed (session, position, head_seq, head_hash, checksum) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            id.0,
            position.0.cast_signed(),
            head.seq.0.cast_signed(),
            head.hash.0,
            removed_sum(id, position.0, head.seq.0, &head.hash.0),
        ])?;
    Ok(())
}

pub(super) fn removed_sum(id: SessionId, position: u64, seq: u64, hash: &[u8; 32]) -> [u8; 16] {
    checksum(&[b"removed", &id.0, &position.to_le_bytes(), &seq.to_le_bytes(), hash])
}

/// Records up to and including `seq`, and checkpoints before it. Whether something changed.
///
/// Without a checkpoint at or after `seq` that reads, the records are needed: nothing is removed. (Whoever asked was told
/// so before it was journalled, see [`RecordsReader::may_remove_through`]; here it is only made sure of.)
pub(super) fn records_through(
    connection: &Connection,
    packer: &mut Packer,
    id: SessionId,
    row: &mut SessionRow,
    seq: Seq,
) -> Result<bool> {
    if seq <= row.base.seq || !RecordsReader::new(connection).may_remove_through(id, seq)? {
        return Ok(false);
    }
    connection
        .prepare_cached("DELETE FROM chunks WHERE session = ?1 AND last_seq < ?2")?
        .execute(params![id.0, seq.0.cast_signed()])?;
    // The chunk that has `seq` is left: it gives the base, and what is after it stays.
    let sql = format!("SELECT {} FROM chunks WHERE session = ?1 ORDER BY first_seq LIMIT 1", chunk::COLUMNS);
    let cut = {
        let mut statement = connection.prepare_cached(&sql)?;
        let mut rows = statement.query([id.0])?;
        match rows.next()? {
            Some(found) => chunk::Chunk::read(found, id)?,
            None => return Err(SqliteError::damaged(Some(id), Some(seq.0..=seq.0), "records.db: chunk is missing")),
        }
    };
    let (mut from, mut base) = (0usize, row.base);
    for view in record::iter(&cut.raw) {
        let view =
            view.map_err(|error| SqliteError::damaged(Some(id), Some(cut.first..=cut.last), error.to_string()))?;
        if view.seq() > seq {
            break;
        }
        from += view.bytes().len();
        base = Head { seq: view.seq(), hash: view.hash(), time_ms: view.time_ms() };
    }
    let rest = cut.raw.get(from..).unwrap_or_default();
    if rest.is_empty() {
        connection.prepare_cached("DELETE FROM chunks WHERE id = ?1")?.execute([cut.id])?;
    } else {
        chunk::put(connection, packer, id, Some(cut.id), (base.seq.0 + 1, cut.last), rest)?;
    }
    row.base = base;
    // The lengths of what is left; unpacking again tells the tail's, which is never wrong in the safe direction.
    let (bytes, tail): (i64, i64) = connection
        .prepare_cached(
            "SELECT coalesce(sum(raw_len), 0), \
             coalesce((SELECT raw_len FROM chunks WHERE session = ?1 ORDER BY first_seq DESC LIMIT 1), 0) \
             FROM chunks WHERE session = ?1",
        )?
        .query_row([id.0], |found| Ok((found.get(0)?, found.get(1)?)))?;
    (row.bytes, row.tail_raw) = (bytes.cast_unsigned(), tail.cast_unsigned());
    connection
        .prepare_cached("DELETE FROM checkpoints WHERE session = ?1 AND seq < ?2")?
        .execute(params![id.0, base.seq.0.cast_signed()])?;
    Ok(true)
}

/// Checkpoints, but the newest `keep` (at least one), the first and every 64th, and the one that the oldest records kept
/// are folded from.
pub(super) fn checkpoints(connection: &Connection, id: SessionId, base: Seq, keep: usize) -> Result<()> {
    let mut found: Vec<(i64, i64, i64)> = Vec::new();
    {
        let mut statement = connection
            .prepare_cached("SELECT id, seq, number FROM checkpoints WHERE session = ?1 ORDER BY seq DESC")?;
        let mut rows = statement.query([id.0])?;
        while let Some(row) = rows.next()? {
            found.push((row.get(0)?, row.get(1)?, row.get(2)?));
        }
    }
    let needed =
        found.iter().rev().find(|(_, seq, _)| base.0 > 0 && seq.cast_unsigned() >= base.0).map(|(row, ..)| *row);
    for (row, _, number) in found.iter().skip(keep.max(1)) {
        if !apply::is_kept(*number) && needed != Some(*row) {
            connection.prepare_cached("DELETE FROM checkpoints WHERE id = ?1")?.execute([row])?;
        }
    }
    Ok(())
}
