//! A frame: the bytes of one commit.
//!
//! # Bytes (little-endian; begins and ends at a multiple of 512)
//!
//! ```text
//! offset size
//!      0    4  magic "SKFR"
//!      4    4  crc32c over the segment's nonce and bytes 8..144: checked before any length is believed
//!      8    1  kind: 1 entries, 2 seal
//!      9    1  codec of the body: 0, as it is
//!     10    2  flags: 0
//!     12    4  bytes of the whole frame, padding included; at most 1 MiB
//!     16    4  bytes of the directory
//!     20    4  crc32c over the segment's nonce and the directory
//!     24    4  entries in the directory
//!     28    4  bytes of the body
//!     32    8  position: counts frames, from 1
//!     40    8  incarnation of the segment
//!     48    8  durable_through: every frame up to this position was synced before this one was written
//!     56    8  segment number
//!     64    8  offset of this frame in its file
//!     72    8  time, ms since the Unix epoch
//!     80   32  hash of the frame before
//!    112   32  own hash: BLAKE3, keyed with the segment's nonce, over bytes 8..112, directory and body
//!    144    …  directory
//!      …    …  body: the entries' payloads, one after another, each followed by its blobs
//!      …    …  zeros, not read
//!    -32    4  magic "SKEN": the trailer, the last 32 bytes of the frame
//!    -28    4  crc32c over the segment's nonce and the 24 bytes that follow
//!    -24    8  position
//!    -16    8  offset of this frame in its file
//!     -8    4  bytes of the whole frame
//!     -4    4  zeros
//! ```
//!
//! A directory entry is 48 bytes, then 40 for each blob:
//!
//! ```text
//!      0    1  kind: 1 records, 2 observations, 3 remove
//!      1    1  flags: 0
//!      2    2  blobs
//!      4    4  bytes of the payload, blobs not counted
//!      8   16  session
//!     24    8  seq of the first record (remove: the seq or number it names)
//!     32    8  epoch
//!     40    4  records in the group (remove: 1 all, 2 records through a seq, 3 checkpoints but the newest)
//!     44    4  zeros
//!     48   32  blob id ┐ for each
//!     80    4  bytes   │ blob
//!     84    4  zeros   ┘
//! ```
//!
//! The nonce is secret and new for each use of the file. So neither what an earlier use left behind nor bytes that a client
//! put into a payload pass even the header's checksum. The trailer is never needed to read a frame; it betrays a frame whose
//! first sector was lost, which else looked like the end of the journal.

use std::{ops::RangeInclusive, sync::Arc};

use bytes::Bytes;
use swarmkeep_core::{
    BlobId, Epoch, Hash, Seq, SessionId, limits,
    log::{Blob, Group, Head, Position, Remove},
    record,
};

use super::{
    Entry, Frame,
    segment::{ALIGNMENT, Header as Segment, array_at, u32_at, u64_at},
};
use crate::planted::{self, Defect};

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 144;
/// Bytes of a frame's trailer.
pub const TRAILER_BYTES: usize = 32;
/// Largest frame.
pub const FRAME_BYTES_MAX: usize = limits::FRAME_BYTES;
/// Bytes a seal takes.
pub const SEAL_BYTES: usize = ALIGNMENT;

const MAGIC: &[u8; 4] = b"SKFR";
const TRAILER_MAGIC: &[u8; 4] = b"SKEN";
const ENTRY_BYTES: usize = 48;
const BLOB_BYTES: usize = 40;
const HASH_AT: usize = 112;

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Carries entries.
    Entries,
    /// Carries nothing: it vouches for the frame before it.
    Seal,
}

/// What keys the frames of one segment.
#[derive(Debug, Clone)]
pub struct Key {
    nonce: [u8; 32],
    nonce_crc: u32,
    number: u64,
    incarnation: u64,
}

impl Key {
    /// Of a segment.
    #[must_use]
    pub fn of(segment: &Segment) -> Self {
        let nonce = if planted::is(Defect::NonceLeftOut) { [0; 32] } else { segment.nonce };
        Self { nonce, nonce_crc: crc32c::crc32c(&nonce), number: segment.number, incarnation: segment.incarnation }
    }

    fn crc(&self, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(self.nonce_crc, bytes)
    }

    fn hash(&self, frame: &[u8], content: usize) -> Option<Hash> {
        let mut hasher = blake3::Hasher::new_keyed(&self.nonce);
        hasher.update(frame.get(8..HASH_AT)?);
        hasher.update(frame.get(HEADER_BYTES..HEADER_BYTES.checked_add(content)?)?);
        Some(Hash(*hasher.finalize().as_bytes()))
    }
}

/// Where a frame stands.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Its position.
    pub position: Position,
    /// Where it begins in its file.
    pub offset: u64,
    /// Up to where everything was synced before it is written.
    pub durable_through: Position,
    /// Hash of the frame before.
    pub previous: Hash,
    /// Now.
    pub time_ms: u64,
}

/// A frame's header, its checksum verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What it is for.
    pub kind: Kind,
    /// Bytes in all.
    pub bytes: usize,
    /// Its position.
    pub position: Position,
    /// Up to where everything was synced before it was written.
    pub durable_through: Position,
    /// Hash of the frame before.
    pub previous: Hash,
    /// Its own hash, as it says.
    pub hash: Hash,
    directory: usize,
    directory_crc: u32,
    entries: usize,
    body: usize,
}

/// What of a session a frame holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Which session.
    pub session: SessionId,
    /// Which records; `None`: observations or a removal.
    pub seqs: Option<RangeInclusive<u64>>,
}

/// Bytes an entry takes in a frame: payload, blobs and directory.
#[must_use]
pub fn entry_bytes(entry: &Entry) -> usize {
    match entry {
        Entry::Records(group) => {
            let blobs: usize = group.blobs.iter().map(|blob| BLOB_BYTES + blob.bytes.len()).sum();
            ENTRY_BYTES + group.records.len() + blobs
        }
        Entry::Observations { payload, .. } => ENTRY_BYTES + payload.len(),
        Entry::Remove { .. } => ENTRY_BYTES,
    }
}

/// Bytes of a frame whose entries take `content` bytes.
#[must_use]
pub fn frame_bytes(content: usize) -> usize {
    (HEADER_BYTES + content + TRAILER_BYTES).next_multiple_of(ALIGNMENT)
}

/// Largest sum of [`entry_bytes`] that fits in a frame of `limit` bytes.
#[must_use]
pub fn content_max(limit: usize) -> usize {
    limit.min(FRAME_BYTES_MAX) / ALIGNMENT * ALIGNMENT - HEADER_BYTES - TRAILER_BYTES
}

/// Writes a frame into `out` (whose former contents are dropped) and returns its hash. No entries: a seal.
///
/// The caller keeps the sum of [`entry_bytes`] within [`content_max`].
pub fn encode(out: &mut Vec<u8>, key: &Key, place: &Place, entries: &[Entry]) -> Hash {
    out.clear();
    out.resize(HEADER_BYTES, 0);
    for entry in entries {
        encode_directory(out, entry);
    }
    let directory = out.len() - HEADER_BYTES;
    for entry in entries {
        match entry {
            Entry::Records(group) => {
                out.extend_from_slice(&group.records);
                for blob in &group.blobs {
                    out.extend_from_slice(&blob.bytes);
                }
            }
            Entry::Observations { payload, .. } => out.extend_from_slice(payload),
            Entry::Remove { .. } => {}
        }
    }
    let content = out.len() - HEADER_BYTES;
    let bytes = frame_bytes(content);
    out.resize(bytes - TRAILER_BYTES, 0);

    let mut trailer = [0u8; TRAILER_BYTES];
    put(&mut trailer, 0, TRAILER_MAGIC);
    put(&mut trailer, 8, &place.position.0.to_le_bytes());
    put(&mut trailer, 16, &place.offset.to_le_bytes());
    put(&mut trailer, 24, &size(bytes));
    let crc = key.crc(trailer.get(8..).unwrap_or_default());
    put(&mut trailer, 4, &crc.to_le_bytes());
    out.extend_from_slice(&trailer);

    let directory_crc = key.crc(out.get(HEADER_BYTES..HEADER_BYTES + directory).unwrap_or_default());
    put(out, 0, MAGIC);
    put(out, 8, &[if entries.is_empty() { 2 } else { 1 }]);
    put(out, 12, &size(bytes));
    put(out, 16, &size(directory));
    put(out, 20, &directory_crc.to_le_bytes());
    put(out, 24, &size(entries.len()));
    put(out, 28, &size(content - directory));
    put(out, 32, &place.position.0.to_le_bytes());
    put(out, 40, &key.incarnation.to_le_bytes());
    put(out, 48, &place.durable_through.0.to_le_bytes());
    put(out, 56, &key.number.to_le_bytes());
    put(out, 64, &place.offset.to_le_bytes());
    put(out, 72, &place.time_ms.to_le_bytes());
    put(out, 80, &place.previous.0);
    let hash = key.hash(out, content).unwrap_or_default();
    put(out, HASH_AT, &hash.0);
    let crc = key.crc(out.get(8..HEADER_BYTES).unwrap_or_default());
    put(out, 4, &crc.to_le_bytes());
    hash
}

fn encode_directory(out: &mut Vec<u8>, entry: &Entry) {
    let (kind, payload, session, first, epoch, count, blobs): (u8, usize, SessionId, u64, Epoch, u32, &[Blob]) =
        match entry {
            Entry::Records(group) => (
                1,
                group.records.len(),
                group.session,
                group.after.seq.next().0,
                group.epoch,
                group.count,
                &group.blobs,
            ),
            Entry::Observations { session, payload } => (2, payload.len(), *session, 0, Epoch(0), 0, &[]),
            Entry::Remove { session, epoch, what } => {
                let (code, number) = match what {
                    Remove::All => (1, 0),
                    Remove::RecordsThrough(seq) => (2, seq.0),
                    Remove::Checkpoints { keep } => (3, *keep as u64),
                };
                (3, 0, *session, number, *epoch, code, &[])
            }
        };
    out.extend_from_slice(&[kind, 0]);
    out.extend_from_slice(&u16::try_from(blobs.len()).unwrap_or(u16::MAX).to_le_bytes());
    out.extend_from_slice(&size(payload));
    out.extend_from_slice(&session.0);
    out.extend_from_slice(&first.to_le_bytes());
    out.extend_from_slice(&epoch.0.to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    for blob in blobs {
        out.extend_from_slice(&blob.id.0);
        out.extend_from_slice(&size(blob.bytes.len()));
        out.extend_from_slice(&[0; 4]);
    }
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(field) = out.get_mut(at..at + bytes.len()) {
        field.copy_from_slice(bytes);
    }
}

fn size(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes()
}

impl Header {
    /// The header of the frame that begins at `offset` of a segment's bytes; `None`: there is none of this use of the file.
    #[must_use]
    pub fn read(segment: &[u8], offset: u64, key: &Key) -> Option<Self> {
        let frame = segment.get(usize::try_from(offset).ok()?..)?;
        if frame.get(..4)? != MAGIC || u32_at(frame, 4)? != key.crc(frame.get(8..HEADER_BYTES)?) {
            return None;
        }
        let kind = match frame.get(8)? {
            1 => Kind::Entries,
            2 => Kind::Seal,
            _ => return None,
        };
        let length = |at| u32_at(frame, at).and_then(|length| usize::try_from(length).ok());
        let header = Self {
            kind,
            bytes: length(12)?,
            position: Position(u64_at(frame, 32)?),
            durable_through: Position(u64_at(frame, 48)?),
            previous: Hash(array_at(frame, 80)?),
            hash: Hash(array_at(frame, HASH_AT)?),
            directory: length(16)?,
            directory_crc: u32_at(frame, 20)?,
            entries: length(24)?,
            body: length(28)?,
        };
        let fits =
            header.bytes <= FRAME_BYTES_MAX && header.bytes == frame_bytes(header.directory.checked_add(header.body)?);
        let here =
            u64_at(frame, 56)? == key.number && u64_at(frame, 40)? == key.incarnation && u64_at(frame, 64)? == offset;
        let plain = frame.get(9..12)? == [0; 3];
        (fits && here && plain).then_some(header)
    }

    /// The frame's entries, everything verified; `None`: its bytes are not the ones that were written.
    #[must_use]
    pub fn verify(&self, segment: &Bytes, offset: u64, key: &Key) -> Option<Arc<Frame>> {
        let start = usize::try_from(offset).ok()?;
        let bytes =
            start.checked_add(self.bytes).filter(|end| *end <= segment.len()).map(|end| segment.slice(start..end))?;
        let hash = key.hash(&bytes, self.directory.checked_add(self.body)?)?;
        if hash != self.hash && !planted::is(Defect::HashNotCompared) {
            return None;
        }
        let entries = self.entries(&bytes)?;
        Some(Arc::new(Frame {
            position: self.position,
            hash: self.hash,
            incarnation: key.incarnation,
            bytes: self.bytes,
            entries,
        }))
    }

    /// What the frame holds, by its directory alone: also when the body is bad. `None`: the directory is bad too.
    #[must_use]
    pub fn spans(&self, segment: &[u8], offset: u64, key: &Key) -> Option<Vec<Span>> {
        let start = usize::try_from(offset).ok()?.checked_add(HEADER_BYTES)?;
        let directory = segment.get(start..start.checked_add(self.directory)?)?;
        if key.crc(directory) != self.directory_crc {
            return None;
        }
        let mut spans = Vec::new();
        let mut rest = directory;
        while !rest.is_empty() {
            let (line, after) = Line::split(rest)?;
            let last = line.first.checked_add(u64::from(line.count).saturating_sub(1))?;
            let seqs = (line.kind == 1 && line.count > 0).then_some(line.first..=last);
            spans.push(Span { session: line.session, seqs });
            rest = after;
        }
        Some(spans)
    }

    fn entries(&self, frame: &Bytes) -> Option<Vec<Entry>> {
        let body_at = HEADER_BYTES + self.directory;
        let mut rest = frame.get(HEADER_BYTES..body_at)?;
        let mut at = body_at;
        let mut take = |count: usize| {
            let end = at.checked_add(count).filter(|end| *end <= body_at + self.body && *end <= frame.len())?;
            let bytes = frame.slice(at..end);
            at = end;
            Some(bytes)
        };
        // Bounded by the directory's bytes, which are there: never by the count alone.
        let mut entries = Vec::with_capacity(self.entries.min(rest.len() / ENTRY_BYTES));
        while !rest.is_empty() {
            let (line, after) = Line::split(rest)?;
            rest = after;
            let payload = take(line.payload)?;
            entries.push(match line.kind {
                1 => {
                    let blobs = line
                        .blobs
                        .chunks_exact(BLOB_BYTES)
                        .map(|blob| {
                            let length = usize::try_from(u32_at(blob, 32)?).ok()?;
                            Some(Blob { id: BlobId(array_at(blob, 0)?), bytes: take(length)? })
                        })
                        .collect::<Option<Vec<_>>>()?;
                    Entry::Records(line.group(payload, blobs)?)
                }
                2 => Entry::Observations { session: line.session, payload },
                3 => {
                    let what = match line.count {
                        1 => Remove::All,
                        2 => Remove::RecordsThrough(Seq(line.first)),
                        3 => Remove::Checkpoints { keep: usize::try_from(line.first).ok()? },
                        _ => return None,
                    };
                    Entry::Remove { session: line.session, epoch: line.epoch, what }
                }
                _ => return None,
            });
        }
        (entries.len() == self.entries && entries.is_empty() == (self.kind == Kind::Seal)).then_some(entries)
    }
}

/// One line of a directory.
struct Line<'a> {
    kind: u8,
    payload: usize,
    session: SessionId,
    first: u64,
    epoch: Epoch,
    count: u32,
    blobs: &'a [u8],
}

impl<'a> Line<'a> {
    fn split(directory: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let blobs = usize::from(u16::from_le_bytes(array_at(directory, 2)?)) * BLOB_BYTES;
        let end = ENTRY_BYTES.checked_add(blobs)?;
        let line = Self {
            kind: *directory.first()?,
            payload: usize::try_from(u32_at(directory, 4)?).ok()?,
            session: SessionId(array_at(directory, 8)?),
            first: u64_at(directory, 24)?,
            epoch: Epoch(u64_at(directory, 32)?),
            count: u32_at(directory, 40)?,
            blobs: directory.get(ENTRY_BYTES..end)?,
        };
        Some((line, directory.get(end..)?))
    }

    /// The group, its heads read from the records themselves.
    fn group(&self, records: Bytes, blobs: Vec<Blob>) -> Option<Group> {
        let mut previous = Hash::default();
        let mut last = None;
        let mut count = 0u32;
        for view in record::iter(&records) {
            let view = view.ok()?;
            if count == 0 {
                previous = view.previous();
            }
            count += 1;
            last = Some(view);
        }
        let last = last?;
        let after = Head { seq: Seq(self.first.checked_sub(1)?), hash: previous, time_ms: 0 };
        let head = Head { seq: last.seq(), hash: last.hash(), time_ms: last.time_ms() };
        let session = self.session;
        (count == self.count).then_some(Group { session, epoch: self.epoch, after, head, count, records, blobs })
    }
}

/// The position and extent of the frame at `offset` that only its trailer still betrays.
#[must_use]
pub fn betrayed(segment: &[u8], offset: u64, key: &Key) -> Option<(Position, usize)> {
    let start = usize::try_from(offset).ok()?;
    let reach = segment.len().min(start.checked_add(FRAME_BYTES_MAX)?);
    let frames = segment.get(start..reach)?;
    let mut end = ALIGNMENT;
    while end <= frames.len() {
        let trailer = frames.get(end - TRAILER_BYTES..end)?;
        if trailer.get(..4)? == TRAILER_MAGIC
            && u32_at(trailer, 4)? == key.crc(trailer.get(8..)?)
            && u64_at(trailer, 16)? == offset
            && u32_at(trailer, 24)? as usize == end
        {
            return Some((Position(u64_at(trailer, 8)?), end));
        }
        end += ALIGNMENT;
    }
    None
}
