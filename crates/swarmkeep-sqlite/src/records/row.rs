//! Rows of `sessions` and `meta`, with their checksums.

use rusqlite::{Connection, OptionalExtension, Row, params};
use swarmkeep_core::{
    Epoch, Hash, Seq, SessionId,
    log::{Head, Position},
    state::SessionStatus,
};

use super::Anchor;
use crate::error::{Result, SqliteError};

/// A session's row.
#[derive(Debug, Clone)]
pub(super) struct SessionRow {
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
    pub(super) status: SessionStatus,
    pub(super) created_at: u64,
    pub(super) head: Head,
    pub(super) epoch: Epoch,
    pub(super) base: Head,
    pub(super) bytes: u64,
    pub(super) position: Position,
    pub(super) tail_raw: u64,
}

pub(super) const COLUMNS: &str = "id, namespace, name, status, created_at, head_seq, head_hash, head_time, head_epoch, \
     base_seq, base_hash, base_time, bytes, position, tail_raw, checksum";

impl SessionRow {
    pub(super) fn fresh(created_at: u64) -> Self {
        Self {
            namespace: None,
            name: None,
            status: SessionStatus::Live,
            created_at,
            head: Head::default(),
            epoch: Epoch::default(),
            base: Head::default(),
            bytes: 0,
            position: Position::default(),
            tail_raw: 0,
        }
    }

    fn checksum(&self, id: SessionId) -> [u8; 16] {
        let numbers = [
            self.created_at,
            self.head.seq.0,
            self.head.time_ms,
            self.epoch.0,
            self.base.seq.0,
            self.base.time_ms,
            self.bytes,
            self.position.0,
            self.tail_raw,
        ];
        let mut bytes = [0u8; 72];
        for (slot, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            slot.copy_from_slice(&number.to_le_bytes());
        }
        checksum(&[
            b"session",
            &id.0,
            self.namespace.as_deref().unwrap_or_default().as_bytes(),
            self.name.as_deref().unwrap_or_default().as_bytes(),
            self.status.as_str().as_bytes(),
            &bytes,
            &self.head.hash.0,
            &self.base.hash.0,
        ])
    }

    /// Reads a row selected as [`COLUMNS`].
    pub(super) fn read(row: &Row<'_>) -> Result<(SessionId, Self)> {
        let id = SessionId(fixed(row, 0)?);
        let bad = || SqliteError::damaged(Some(id), None, "row of sessions: checksum differs");
        let status: String = row.get(3)?;
        let read = Self {
            namespace: row.get(1)?,
            name: row.get(2)?,
            status: status.parse().map_err(|_| bad())?,
            created_at: unsigned(row, 4)?,
            head: Head { seq: Seq(unsigned(row, 5)?), hash: Hash(fixed(row, 6)?), time_ms: unsigned(row, 7)? },
            epoch: Epoch(unsigned(row, 8)?),
            base: Head { seq: Seq(unsigned(row, 9)?), hash: Hash(fixed(row, 10)?), time_ms: unsigned(row, 11)? },
            bytes: unsigned(row, 12)?,
            position: Position(unsigned(row, 13)?),
            tail_raw: unsigned(row, 14)?,
        };
        let expected: [u8; 16] = fixed(row, 15)?;
        if read.checksum(id) == expected { Ok((id, read)) } else { Err(bad()) }
    }

    pub(super) fn load(connection: &Connection, id: SessionId) -> Result<Option<Self>> {
        let mut statement = connection.prepare_cached(SELECT)?;
        let mut rows = statement.query([id.0])?;
        match rows.next()? {
            Some(row) => Ok(Some(Self::read(row)?.1)),
            None => Ok(None),
        }
    }

    pub(super) fn insert(&self, connection: &Connection, id: SessionId) -> Result<()> {
        connection
            .prepare_cached(
                "INSERT INTO sessions (id, namespace, name, status, created_at, head_seq, head_hash, head_time, \
                 head_epoch, base_seq, base_hash, base_time, bytes, position, tail_raw, checksum) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
            )?
            .execute(params![
                id.0,
                self.namespace,
                self.name,
                self.status.as_str(),
                self.created_at.cast_signed(),
                self.head.seq.0.cast_signed(),
                self.head.hash.0,
                self.head.time_ms.cast_signed(),
                self.epoch.0.cast_signed(),
                self.base.seq.0.cast_signed(),
                self.base.hash.0,
                self.base.time_ms.cast_signed(),
                self.bytes.cast_signed(),
                self.position.0.cast_signed(),
                self.tail_raw.cast_signed(),
                self.checksum(id),
            ])?;
        Ok(())
    }

    pub(super) fn update(&self, connection: &Connection, id: SessionId) -> Result<()> {
        connection
            .prepare_cached(
                "UPDATE sessions SET namespace = ?2, name = ?3, status = ?4, head_seq = ?5, head_hash = ?6, \
                 head_time = ?7, head_epoch = ?8, base_seq = ?9, base_hash = ?10, base_time = ?11, bytes = ?12, \
                 position = ?13, tail_raw = ?14, checksum = ?15 WHERE id = ?1",
            )?
            .execute(params![
                id.0,
                self.namespace,
                self.name,
                self.status.as_str(),
                self.head.seq.0.cast_signed(),
                self.head.hash.0,
                self.head.time_ms.cast_signed(),
                self.epoch.0.cast_signed(),
                self.base.seq.0.cast_signed(),
                self.base.hash.0,
                self.base.time_ms.cast_signed(),
                self.bytes.cast_signed(),
                self.position.0.cast_signed(),
                self.tail_raw.cast_signed(),
                self.checksum(id),
            ])?;
        Ok(())
    }
}

const SELECT: &str = "SELECT id, namespace, name, status, created_at, head_seq, head_hash, head_time, head_epoch, base_seq, base_hash, \
     base_time, bytes, position, tail_raw, checksum FROM sessions WHERE id = ?1";

/// BLAKE3 of the parts, each with its length before it, cut to 16 bytes: against decay, not against an enemy.
pub(crate) fn checksum(parts: &[&[u8]]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut short = [0u8; 16];
    hasher.finalize_xof().fill(&mut short);
    short
}

/// A column of exactly `N` bytes.
pub(super) fn fixed<const N: usize>(row: &Row<'_>, column: usize) -> Result<[u8; N]> {
    let bytes = row.get_ref(column)?.as_blob().map_err(|error| SqliteError::damaged(None, None, error.to_string()))?;
    bytes
        .try_into()
        .map_err(|_| SqliteError::damaged(None, None, format!("{} bytes where {N} were written", bytes.len())))
}

/// A column that was written from a `u64`.
pub(super) fn unsigned(row: &Row<'_>, column: usize) -> Result<u64> {
    Ok(row.get::<_, i64>(column)?.cast_unsigned())
}

/// The anchor of a file, verified.
pub(crate) fn anchor(connection: &Connection) -> Result<Anchor> {
    let value = |key: &str| -> Result<Vec<u8>> {
        connection
            .query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0))
            .optional()?
            .ok_or_else(|| SqliteError::damaged(None, None, format!("meta: `{key}` is missing")))
    };
    let bad = || SqliteError::damaged(None, None, "meta: checksum differs");
    let store_id: [u8; 16] = value("store_id")?.try_into().map_err(|_| bad())?;
    let bytes: [u8; 64] = value("anchor")?.try_into().map_err(|_| bad())?;
    let (body, sum) = bytes.split_at(48);
    if checksum(&[b"anchor", &store_id, body]) != sum {
        return Err(bad());
    }
    let number = |from: usize| -> Result<u64> {
        Ok(u64::from_le_bytes(body.get(from..from + 8).and_then(|bytes| bytes.try_into().ok()).ok_or_else(bad)?))
    };
    Ok(Anchor {
        store_id,
        position: Position(number(0)?),
        incarnation: number(8)?,
        frame_hash: Hash(body.get(16..48).and_then(|bytes| bytes.try_into().ok()).ok_or_else(bad)?),
    })
}

pub(super) fn put_anchor(connection: &Connection, anchor: &Anchor) -> Result<()> {
    let mut bytes = Vec::with_capacity(64);
    bytes.extend_from_slice(&anchor.position.0.to_le_bytes());
    bytes.extend_from_slice(&anchor.incarnation.to_le_bytes());
    bytes.extend_from_slice(&anchor.frame_hash.0);
    let sum = checksum(&[b"anchor", &anchor.store_id, &bytes]);
    bytes.extend_from_slice(&sum);
    connection.prepare_cached("INSERT OR REPLACE INTO meta (key, value) VALUES ('anchor', ?1)")?.execute([bytes])?;
    Ok(())
}

/// The number of the last copying of the write-ahead log that was begun; 0: none was.
pub(super) fn stamp(connection: &Connection) -> Result<u64> {
    let value: Option<Vec<u8>> =
        connection.query_row("SELECT value FROM meta WHERE key = 'copied'", [], |row| row.get(0)).optional()?;
    Ok(value.and_then(|value| value.try_into().ok()).map_or(0, u64::from_le_bytes))
}
