//! Chunks: runs of a session's records, packed, one row each.
//!
//! A batch writes one chunk per session (more when it has more than [`CHUNK_BYTES`] of one). A session that gets a record
//! now and then would leave a row for each; so a new chunk takes up the ones before it while they are small: the previous
//! one is joined when it is at most twice as long as what is being written and both together stay below
//! [`SMALL_BYTES`]. Each time a byte is written again its chunk has grown by half at least, so that no byte is written
//! more than about ten times in its life (log 1.5 of 16 KiB over a few hundred bytes), most only two or three times; and
//! of the chunks that stay small each is more than twice as long as the next, so that there are never more than a handful.

use rusqlite::{Connection, params};
use swarmkeep_core::{Seq, SessionId};

use super::row::{checksum, fixed, unsigned};
use crate::{
    codec::{self, Packed, Packer},
    error::{Result, SqliteError},
};

/// A chunk is closed when it has this much, unpacked: what one read unpacks for a single record.
pub(super) const CHUNK_BYTES: usize = 256 * 1024;
/// Chunks below this are joined with what follows, unpacked length.
pub(super) const SMALL_BYTES: usize = 16 * 1024;

/// A chunk as stored, verified and unpacked.
pub(super) struct Chunk {
    pub(super) id: i64,
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) raw: Vec<u8>,
}

/// Chunks below this stay as they are: they are about to be joined with what follows, and packing them each time took a
/// third of the time of applying.
const PACKED_BYTES: usize = 4 * 1024;

pub(super) const COLUMNS: &str = "id, first_seq, last_seq, codec, raw_len, checksum, bytes";

impl Chunk {
    /// Reads a row selected as [`COLUMNS`]; the records inside are yet to be verified.
    pub(super) fn read(row: &rusqlite::Row<'_>, session: SessionId) -> Result<Self> {
        Self::unpack(row, session, true)
    }

    /// [`Chunk::read`] for a caller that verifies every record inside, and compares their seqs with `first` and `last`: that
    /// leaves nothing for the checksum to find that would be used, and spares hashing every byte twice.
    pub(super) fn read_unsummed(row: &rusqlite::Row<'_>, session: SessionId) -> Result<Self> {
        Self::unpack(row, session, false)
    }

    fn unpack(row: &rusqlite::Row<'_>, session: SessionId, summed: bool) -> Result<Self> {
        let (id, codec, raw_len): (i64, i64, i64) = (row.get(0)?, row.get(3)?, row.get(4)?);
        let (first, last) = (unsigned(row, 1)?, unsigned(row, 2)?);
        let damaged = |what: String| {
            SqliteError::damaged(Some(session), Some(first..=last), format!("records.db, chunk {id}: {what}"))
        };
        let bytes = row.get_ref(6)?.as_blob().map_err(|error| damaged(error.to_string()))?;
        let expected: [u8; 16] = fixed(row, 5).map_err(|_| damaged("checksum is cut off".into()))?;
        if summed && sum(session, first, last, codec, raw_len, bytes) != expected {
            return Err(damaged("checksum differs".into()));
        }
        let raw = codec::unpack(codec, codec::length(raw_len)?, bytes).map_err(damaged)?;
        Ok(Self { id, first, last, raw })
    }
}

fn sum(session: SessionId, first: u64, last: u64, codec: i64, raw_len: i64, bytes: &[u8]) -> [u8; 16] {
    let mut head = [0u8; 32];
    for (slot, number) in head.chunks_exact_mut(8).zip([first, last, codec.cast_unsigned(), raw_len.cast_unsigned()]) {
        slot.copy_from_slice(&number.to_le_bytes());
    }
    checksum(&[b"chunk", &session.0, &head, bytes])
}

/// Writes `raw`, the records `first..=last`, after the session's last chunk, which has `tail_raw` bytes unpacked; gives
/// the length of the session's last chunk afterwards.
pub(super) fn write(
    connection: &Connection,
    packer: &mut Packer,
    session: SessionId,
    (first, last): (Seq, Seq),
    raw: &[u8],
    tail_raw: usize,
) -> Result<usize> {
    let joins = |before: usize, now: usize| before > 0 && before <= 2 * now && before + now <= SMALL_BYTES;
    if !joins(tail_raw, raw.len()) {
        put(connection, packer, session, None, (first.0, last.0), raw)?;
        return Ok(raw.len());
    }
    let mut joined: Vec<Chunk> = Vec::new();
    let mut length = raw.len();
    {
        let mut statement = connection.prepare_cached(
            "SELECT id, first_seq, last_seq, codec, raw_len, checksum, bytes FROM chunks WHERE session = ?1 \
             ORDER BY first_seq DESC LIMIT 16",
        )?;
        let mut rows = statement.query([session.0])?;
        let mut next = first.0;
        while let Some(row) = rows.next()? {
            let before = codec::length(row.get(4)?)?;
            if !joins(before, length) {
                break;
            }
            // A damaged chunk stays as it is, for `verify` and for whoever reads it; new records do not depend on it.
            let Ok(chunk) = Chunk::read(row, session) else { break };
            // Nor is one taken up that ends before a hole.
            if chunk.last.checked_add(1) != Some(next) {
                break;
            }
            next = chunk.first;
            length += chunk.raw.len();
            joined.push(chunk);
        }
    }
    // The oldest row takes everything, so that its index entry stays as it is.
    let Some(oldest) = joined.pop() else {
        put(connection, packer, session, None, (first.0, last.0), raw)?;
        return Ok(raw.len());
    };
    let mut all = oldest.raw;
    for chunk in joined.iter().rev() {
        all.extend_from_slice(&chunk.raw);
        connection.prepare_cached("DELETE FROM chunks WHERE id = ?1")?.execute([chunk.id])?;
    }
    all.extend_from_slice(raw);
    put(connection, packer, session, Some(oldest.id), (oldest.first, last.0), &all)?;
    Ok(all.len())
}

/// Writes one row: a new one, or in place of `id`.
pub(super) fn put(
    connection: &Connection,
    packer: &mut Packer,
    session: SessionId,
    id: Option<i64>,
    (first, last): (u64, u64),
    raw: &[u8],
) -> Result<()> {
    let packed = if raw.len() < PACKED_BYTES { Packed::plain(raw) } else { packer.pack(raw)? };
    let raw_len =
        i64::try_from(raw.len()).map_err(|_| SqliteError::Invalid("a chunk of more than 2^63 bytes".into()))?;
    let sum = sum(session, first, last, packed.codec, raw_len, &packed.bytes);
    let taken = |error: rusqlite::Error| match error.sqlite_error_code() {
        // A fault of this session's rows, and of no other's.
        Some(rusqlite::ErrorCode::ConstraintViolation) => {
            SqliteError::damaged(Some(session), Some(first..=last), "rows of records stand where these belong")
        }
        _ => error.into(),
    };
    let (first, last) = (first.cast_signed(), last.cast_signed());
    match id {
        None => connection
            .prepare_cached(
                "INSERT INTO chunks (session, first_seq, last_seq, codec, raw_len, checksum, bytes) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![session.0, first, last, packed.codec, raw_len, sum, packed.bytes])
            .map_err(taken)?,
        Some(id) => connection
            .prepare_cached(
                "UPDATE chunks SET first_seq = ?2, last_seq = ?3, codec = ?4, raw_len = ?5, checksum = ?6, bytes = ?7 \
                 WHERE id = ?1",
            )?
            .execute(params![id, first, last, packed.codec, raw_len, sum, packed.bytes])
            .map_err(taken)?,
    };
    Ok(())
}
