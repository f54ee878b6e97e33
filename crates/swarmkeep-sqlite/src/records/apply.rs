//! A batch of journal frames, applied: grouped by session, one chunk row and one session row for each.

use bytes::Bytes;
use memchr::memmem;
use rusqlite::{Connection, OptionalExtension, params};
use swarmkeep_core::{
    BlobId, Epoch, Event, Hash, Seq, SessionId,
    checkpoint::{Checkpoint, KEEP_EVERY},
    log::{Blob, Head, Observation, Position, Remove},
    record::{self, RecordView},
    state::{STATE_VERSION, SessionStatus},
};

use super::{
    Anchor, RecordsReader, chunk, remove,
    row::{SessionRow, checksum},
};
use crate::{
    codec::Packer,
    error::{Result, SqliteError},
};

/// What is applied in one transaction: any number of frames.
#[derive(Debug, Clone, Default)]
pub struct ApplyBatch {
    /// Of the last frame in it.
    pub position: Position,
    /// Of the last frame in it.
    pub frame_hash: Hash,
    /// Of the last frame in it.
    pub incarnation: u64,
    /// In the order of the frames and of the entries in each.
    pub entries: Vec<Entry>,
}

/// Something that happened to a session.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Of the frame it came in. At or below the file's own position, it is skipped.
    pub position: Position,
    /// To which session.
    pub session: SessionId,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum What {
    /// A group of records.
    Records {
        /// Seq of the first.
        first: Seq,
        /// Where the session ends with them.
        head: Head,
        /// How many.
        count: u32,
        /// Under which holder.
        epoch: Epoch,
        /// One after another.
        bytes: Bytes,
        /// Content they introduce.
        blobs: Vec<NewBlob>,
    },
    /// Observations; of several heartbeats of an agent in one batch the newest is kept.
    Observations(Vec<Observation>),
    /// Something is removed.
    Remove(Remove),
    /// A checkpoint: a hint. One ahead of the session's head, or of another history, is dropped.
    Checkpoint(Checkpoint),
}

/// A blob that records introduce.
#[derive(Debug, Clone)]
pub struct NewBlob {
    /// BLAKE3 of its bytes.
    pub id: BlobId,
    /// How long it is.
    pub len: u64,
    /// The bytes; `None`: they are in a file of their own.
    pub bytes: Option<Bytes>,
}

impl From<Blob> for NewBlob {
    fn from(blob: Blob) -> Self {
        Self { id: blob.id, len: blob.bytes.len() as u64, bytes: Some(blob.bytes) }
    }
}

/// Applies the entries of `batch` that are beyond `anchor`.
pub(super) fn batch(connection: &Connection, packer: &mut Packer, anchor: &Anchor, batch: &ApplyBatch) -> Result<()> {
    let mut entries: Vec<&Entry> = batch
        .entries
        .iter()
        .filter(|entry| entry.position > anchor.position || matches!(entry.what, What::Checkpoint(_)))
        .collect();
    // In the order of ids the rows of `sessions` are walked once, page by page; the sort keeps each session's own order.
    entries.sort_by_key(|entry| entry.session);
    for entries in entries.chunk_by(|a, b| a.session == b.session) {
        if let Some(session) = entries.first().map(|entry| entry.session) {
            Open::load(connection, packer, session)?.apply(entries)?;
        }
    }
    Ok(())
}

/// One session while its part of a batch is applied.
struct Open<'a, 'p> {
    connection: &'a Connection,
    packer: &'p mut Packer,
    id: SessionId,
    row: Option<SessionRow>,
    /// Whether the row is in the table.
    stored: bool,
    /// Whether the row is other than in the table.
    changed: bool,
    /// Records that are yet to be written, and the seq of the first.
    raw: Vec<u8>,
    raw_first: Seq,
    observations: Vec<Observation>,
    checkpoints: Vec<&'a Checkpoint>,
}

impl<'a, 'p> Open<'a, 'p> {
    fn load(connection: &'a Connection, packer: &'p mut Packer, id: SessionId) -> Result<Self> {
        let row = SessionRow::load(connection, id)?;
        Ok(Self {
            connection,
            packer,
            id,
            stored: row.is_some(),
            row,
            changed: false,
            raw: Vec::new(),
            raw_first: Seq::ZERO,
            observations: Vec::new(),
            checkpoints: Vec::new(),
        })
    }

    fn apply(mut self, entries: &[&'a Entry]) -> Result<()> {
        let mut position = Position::default();
        for entry in entries {
            position = position.max(entry.position);
            match &entry.what {
                What::Records { first, head, count, bytes, blobs, .. } => {
                    self.records(*first, *head, *count, bytes, entry.position)?;
                    // Of a session that was removed further on nothing is taken.
                    if self.row.is_some() {
                        self.blobs(*first, blobs)?;
                    }
                }
                What::Observations(observations) => self.observe(observations),
                What::Checkpoint(checkpoint) => self.checkpoints.push(checkpoint),
                What::Remove(what) => {
                    self.flush(position)?;
                    self.remove(what, entry.position)?;
                }
            }
        }
        self.flush(position)
    }

    fn records(&mut self, first: Seq, end: Head, count: u32, bytes: &[u8], position: Position) -> Result<()> {
        if self.next_group(first, end, count, bytes, position)? {
            return Ok(());
        }
        let mut seen = 0u32;
        for view in record::iter(bytes) {
            let view = view.map_err(|error| self.damaged(first..=end.seq, error.to_string()))?;
            seen += 1;
            if self.row.is_none() {
                if view.seq() != Seq(1) {
                    // The rest of a session that was removed further on in the journal.
                    if self.was_removed(end)? {
                        return Ok(());
                    }
                    return Err(self.damaged(Seq(1)..=view.seq(), "records before these are missing"));
                }
                self.row = Some(SessionRow::fresh(view.time_ms()));
            }
            self.record(&view, position)?;
        }
        let head = self.row.as_ref().map_or(Head::default(), |row| row.head);
        if seen != count || (head.seq == end.seq && head != end) || head.seq < end.seq {
            return Err(self.damaged(first..=end.seq, "records are not those that their entry says"));
        }
        Ok(())
    }

    /// The usual case: a group that begins where the session ends. Its bytes were hashed when they were encoded or when
    /// their frame was read, so that here only the chain is followed, from header to header; bodies are hashed again by
    /// whoever reads them. False: not that case, or something does not fit; it is looked at record by record.
    fn next_group(&mut self, first: Seq, end: Head, count: u32, bytes: &[u8], position: Position) -> Result<bool> {
        let Some(row) = &mut self.row else { return Ok(false) };
        if row.head.seq.next() != first || bytes.len() >= chunk::CHUNK_BYTES {
            return Ok(false);
        }
        let (mut head, mut epoch, mut seen) = (row.head, row.epoch, 0u32);
        for view in record::iter(bytes) {
            let Some(next) = view.ok().and_then(|view| {
                epoch = view.epoch();
                view.chained(self.id, head).ok()
            }) else {
                return Ok(false);
            };
            head = next;
            seen += 1;
        }
        if head != end || seen != count {
            return Ok(false);
        }
        (row.head, row.epoch, row.position) = (head, epoch, position);
        row.bytes += bytes.len() as u64;
        self.changed = true;
        if self.raw.is_empty() {
            self.raw_first = first;
        }
        self.raw.extend_from_slice(bytes);
        if memmem::find(bytes, LIFE).is_some() {
            for view in record::iter(bytes).map_while(std::result::Result::ok) {
                row.learn_from(&view);
            }
        }
        if self.raw.len() >= chunk::CHUNK_BYTES {
            self.flush_chunk()?;
        }
        Ok(true)
    }

    fn record(&mut self, view: &RecordView<'_>, position: Position) -> Result<()> {
        let head = self.row.as_ref().map_or(Head::default(), |row| row.head);
        if view.seq() <= head.seq {
            return self.same(view, position);
        }
        let next = view
            .follows(self.id, head)
            .map_err(|error| self.damaged(head.seq.next()..=view.seq(), error.to_string()))?;
        let Some(row) = &mut self.row else { return Ok(()) };
        row.head = next;
        row.epoch = view.epoch();
        row.bytes += view.bytes().len() as u64;
        row.position = position;
        self.changed = true;
        if self.raw.is_empty() {
            self.raw_first = view.seq();
        }
        self.raw.extend_from_slice(view.bytes());
        row.learn_from(view);
        if self.raw.len() >= chunk::CHUNK_BYTES {
            self.flush_chunk()?;
        }
        Ok(())
    }

    /// A record that is stored already must be the one that is stored.
    fn same(&mut self, view: &RecordView<'_>, position: Position) -> Result<()> {
        self.flush(position)?;
        let stored = RecordsReader::new(self.connection).hash_at(self.id, view.seq())?;
        // Below the base nothing is left to compare with.
        if stored.is_some_and(|hash| hash != view.hash()) {
            return Err(self.damaged(view.seq()..=view.seq(), "another record of this seq is stored"));
        }
        Ok(())
    }

    fn was_removed(&self, end: Head) -> Result<bool> {
        let seq: Option<i64> = self
            .connection
            .prepare_cached("SELECT head_seq FROM removed WHERE session = ?1")?
            .query_row([self.id.0], |row| row.get(0))
            .optional()?;
        Ok(seq.is_some_and(|seq| seq.cast_unsigned() >= end.seq.0))
    }

    fn blobs(&mut self, seq: Seq, blobs: &[NewBlob]) -> Result<()> {
        blobs.iter().try_for_each(|blob| put_blob(self.connection, self.packer, self.id, seq, blob))
    }

    fn observe(&mut self, observations: &[Observation]) {
        for observation in observations {
            if let Observation::Heartbeat { agent, at_ms } = observation
                && let Some(Observation::Heartbeat { at_ms: newest, .. }) = self
                    .observations
                    .iter_mut()
                    .find(|kept| matches!(kept, Observation::Heartbeat { agent: kept, .. } if kept == agent))
            {
                *newest = (*newest).max(*at_ms);
                continue;
            }
            self.observations.push(observation.clone());
        }
    }

    fn remove(&mut self, what: &Remove, position: Position) -> Result<()> {
        match (&mut self.row, what) {
            (None, _) => Ok(()),
            (Some(row), Remove::All) => {
                remove::all(self.connection, self.id, row, position)?;
                (self.row, self.stored, self.changed) = (None, false, false);
                Ok(())
            }
            (Some(row), Remove::RecordsThrough(seq)) => {
                self.changed |= remove::records_through(self.connection, self.packer, self.id, row, *seq)?;
                Ok(())
            }
            (Some(row), Remove::Checkpoints { keep }) => {
                remove::checkpoints(self.connection, self.id, row.base.seq, *keep)
            }
        }
    }

    fn flush_chunk(&mut self) -> Result<()> {
        let Some(row) = &mut self.row else { return Ok(()) };
        if !self.raw.is_empty() {
            let tail = usize::try_from(row.tail_raw).unwrap_or(usize::MAX / 4);
            let seqs = (self.raw_first, row.head.seq);
            row.tail_raw = chunk::write(self.connection, self.packer, self.id, seqs, &self.raw, tail)? as u64;
            self.raw.clear();
        }
        Ok(())
    }

    /// Writes everything that has gathered: records, row, observations, then the checkpoints that they make possible.
    fn flush(&mut self, position: Position) -> Result<()> {
        self.flush_chunk()?;
        let Some(row) = &self.row else {
            // Observations of a session that does not exist (any more) have nobody to belong to.
            self.observations.clear();
            self.checkpoints.clear();
            return Ok(());
        };
        if self.changed {
            if self.stored {
                row.update(self.connection, self.id)?
            } else {
                row.insert(self.connection, self.id)?
            }
            (self.stored, self.changed) = (true, false);
        }
        if !self.observations.is_empty() {
            put_observations(self.connection, self.id, position, &self.observations)?;
            self.observations.clear();
        }
        for checkpoint in std::mem::take(&mut self.checkpoints) {
            put_checkpoint(self.connection, self.packer, row, checkpoint)?;
        }
        Ok(())
    }

    fn damaged(&self, seqs: std::ops::RangeInclusive<Seq>, what: impl Into<String>) -> SqliteError {
        SqliteError::damaged(
            Some(self.id),
            Some(seqs.start().0..=seqs.end().0),
            format!("to be applied: {}", what.into()),
        )
    }
}

/// Only events of the session's own life change its row; none of them is written without this name.
const LIFE: &[u8] = b"session_";

/// Keeps a blob; one that is there stays.
pub(super) fn put_blob(
    connection: &Connection,
    packer: &mut Packer,
    id: SessionId,
    seq: Seq,
    blob: &NewBlob,
) -> Result<()> {
    let packed = match &blob.bytes {
        Some(bytes) if BlobId(*blake3::hash(bytes).as_bytes()) != blob.id || bytes.len() as u64 != blob.len => {
            let what = format!("to be applied: blob {} is not the bytes it names", blob.id);
            return Err(SqliteError::damaged(Some(id), Some(seq.0..=seq.0), what));
        }
        Some(bytes) => Some(packer.pack(bytes)?),
        None => None,
    };
    connection
        .prepare_cached(
            "INSERT OR IGNORE INTO blobs (session, blob, seq, raw_len, codec, bytes) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            id.0,
            blob.id.0,
            seq.0.cast_signed(),
            blob.len.cast_signed(),
            packed.as_ref().map_or(0, |packed| packed.codec),
            packed.as_ref().map(|packed| &packed.bytes),
        ])?;
    Ok(())
}

/// Adds a group that follows the session's head, outside the journal's order.
pub(super) fn append(
    connection: &Connection,
    packer: &mut Packer,
    id: SessionId,
    group: &Bytes,
    position: Position,
) -> Result<()> {
    let (mut first, mut count, mut last) = (None, 0, None);
    for view in record::iter(group) {
        let view = view.map_err(|error| SqliteError::Invalid(error.to_string()))?;
        first.get_or_insert(view.seq());
        count += 1;
        last = Some(view);
    }
    let (Some(first), Some(last)) = (first, last) else { return Ok(()) };
    let head = Head { seq: last.seq(), hash: last.hash(), time_ms: last.time_ms() };
    let (epoch, bytes) = (last.epoch(), group.clone());
    let what = What::Records { first, head, count, epoch, bytes, blobs: Vec::new() };
    let entry = Entry { position, session: id, what };
    Open::load(connection, packer, id)?.apply(&[&entry])
}

impl SessionRow {
    pub(super) fn learn_from(&mut self, view: &RecordView<'_>) {
        if memmem::find(view.bytes(), LIFE).is_some()
            && let Ok(record) = view.decode()
            && let Some(body) = record.body
        {
            self.learn(&body.event);
        }
    }

    /// Name and status, from the events that set them.
    fn learn(&mut self, event: &Event) {
        match event {
            Event::SessionCreated { name, .. } | Event::SessionForked { name, .. } => {
                self.namespace = Some(name.namespace().to_owned());
                self.name = Some(name.name().to_owned());
                self.status = SessionStatus::Live;
            }
            Event::SessionStatusChanged { status, .. } => self.status = *status,
            Event::SessionRewound { .. } => self.status = SessionStatus::Live,
            _ => {}
        }
    }
}

fn put_observations(connection: &Connection, id: SessionId, position: Position, list: &[Observation]) -> Result<()> {
    let json = serde_json::to_string(list).map_err(|error| SqliteError::Invalid(error.to_string()))?;
    let (mut at, mut beats) = (0, 0);
    for observation in list {
        at = at.max(match observation {
            Observation::Heartbeat { at_ms, .. } => {
                beats += 1;
                *at_ms
            }
            Observation::Metric { at_ms, .. } => *at_ms,
        });
    }
    let kind = match beats {
        0 => "metric",
        beats if beats == list.len() => "heartbeat",
        _ => "mixed",
    };
    let sum = checksum(&[b"observations", &id.0, json.as_bytes()]);
    connection
        .prepare_cached(
            "INSERT INTO observations (session, position, at, kind, checksum, json) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![id.0, position.0.cast_signed(), at.cast_signed(), kind, sum, json])?;
    Ok(())
}

fn put_checkpoint(
    connection: &Connection,
    packer: &mut Packer,
    row: &SessionRow,
    checkpoint: &Checkpoint,
) -> Result<()> {
    let id = checkpoint.session;
    let head = checkpoint.head;
    let there = if head.seq == row.head.seq {
        Some(row.head.hash)
    } else {
        RecordsReader::new(connection).hash_at(id, head.seq)?
    };
    if there != Some(head.hash) {
        return Ok(());
    }
    write_checkpoint(connection, packer, row.base.seq, checkpoint)
}

/// Writes a checkpoint of a session whose first records, up to `base`, were removed; whether it fits is the caller's to know.
pub(super) fn write_checkpoint(
    connection: &Connection,
    packer: &mut Packer,
    base: Seq,
    checkpoint: &Checkpoint,
) -> Result<()> {
    let (id, head) = (checkpoint.session, checkpoint.head);
    let number: i64 = connection
        .prepare_cached("SELECT coalesce(max(number) + 1, 0) FROM checkpoints WHERE session = ?1")?
        .query_row([id.0], |row| row.get(0))?;
    let packed = packer.pack(&checkpoint.canonical)?;
    let raw_len = checkpoint.canonical.len().try_into().unwrap_or(i64::MAX);
    let written = connection
        .prepare_cached(
            "INSERT OR IGNORE INTO checkpoints (session, seq, number, head_hash, head_time, state_version, hash, codec, \
             raw_len, checksum, bytes) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?
        .execute(params![
            id.0,
            head.seq.0.cast_signed(),
            number,
            head.hash.0,
            head.time_ms.cast_signed(),
            STATE_VERSION,
            checkpoint.hash.0,
            packed.codec,
            raw_len,
            checkpoint_sum(id, head, number, STATE_VERSION, checkpoint.hash, raw_len),
            packed.bytes,
        ])?;
    if written > 0 && number >= 2 {
        remove::checkpoints(connection, id, base, 2)?;
    }
    Ok(())
}

/// Over everything beside the bytes, which have their own hash.
pub(super) fn checkpoint_sum(
    id: SessionId,
    head: Head,
    number: i64,
    version: u32,
    hash: Hash,
    raw_len: i64,
) -> [u8; 16] {
    checksum(&[
        b"checkpoint",
        &id.0,
        &head.seq.0.to_le_bytes(),
        &head.hash.0,
        &head.time_ms.to_le_bytes(),
        &number.to_le_bytes(),
        &version.to_le_bytes(),
        &hash.0,
        &raw_len.to_le_bytes(),
    ])
}

/// Of the numbers of checkpoints, those that are kept for good.
pub(super) fn is_kept(number: i64) -> bool {
    number % KEEP_EVERY.cast_signed() == 0
}
