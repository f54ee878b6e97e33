//! A kept file: the records of segments that were retired, as a second copy of what records.db has.
//!
//! `kept/FIRST-LAST.kept` (positions, 16 decimal digits each) holds the records and small blobs of the frames in between,
//! sorted by session, in blocks that are packed one by one: the range of one session is found by the directory and costs
//! the unpacking of its own blocks.
//!
//! # Bytes (little-endian)
//!
//! ```text
//! offset size
//!      0    8  magic "SWKKEPT\0"
//!      8    4  format version: 2 (1: bytes 68..72, 96..104 and 136..144 are zeros)
//!     12    4  crc32c of bytes 0..12 and 16..144
//!     16   16  store id
//!     32    8  position of the first frame
//!     40    8  position of the last
//!     48    8  records
//!     56    4  blocks
//!     60    4  runs
//!     64    4  blobs
//!     68    4  removals
//!     72    8  where the directory begins
//!     80    4  bytes of the directory, packed
//!     84    4  bytes of the directory, unpacked
//!     88    8  bytes of the whole file
//!     96    8  position of the frame with entries before the first
//!    104   32  BLAKE3 of the directory as packed
//!    136    8  1: every removal in these frames is listed, and bytes 96..104 say what is before; 0: not known
//!    144    …  blocks, one after another, each one zstd frame
//!      …    …  directory, one zstd frame
//! ```
//!
//! Directory, unpacked: the blocks, then the runs, then the blobs, then the removals.
//!
//! ```text
//! block, 48:   0 8 where it begins    8 4 bytes, packed   12 4 bytes, unpacked   16 32 BLAKE3 of it as packed
//! run, 56:     0 4 block    4 4 where in it, unpacked     8 4 bytes   12 4 zeros
//!             16 16 session   32 8 first seq   40 8 last seq   48 8 position of the newest frame
//! blob, 80:    0 4 block    4 4 where in it, unpacked     8 4 bytes   12 4 zeros
//!             16 16 session   32 8 seq of the record that introduced it   40 8 position   48 32 blob id
//! removal, 24: 0 16 session   16 8 position of the frame that removed it
//! ```
//!
//! A run is contiguous records of one session, one after another. Records verify by their own hashes besides, and nothing
//! of a kept file is used unless the chain of the session leads to it.

use std::{collections::HashMap, io, ops::RangeInclusive, sync::Arc};

use bytes::Bytes;
use swarmkeep_core::{BlobId, Seq, SessionId, log::Position, log::Remove};

use super::{
    Entry, Frame, StoreId,
    segment::{array_at, u32_at, u64_at},
};
use crate::disk::DiskFile;

/// Bytes before the blocks.
pub const HEADER_BYTES: usize = 144;
/// The newest format this program writes and reads.
pub const FORMAT_VERSION: u32 = 2;

const MAGIC: &[u8; 8] = b"SWKKEPT\0";
/// A block is closed when it has this much, unpacked.
const BLOCK_BYTES: usize = 256 * 1024;
/// A block never has more, unpacked: what does not fit beside others stands alone, and is a group or a blob.
const BLOCK_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Nothing allocates more for a directory.
const DIRECTORY_BYTES_MAX: usize = 256 * 1024 * 1024;
/// The fastest of zstd's usual levels: half of a record is hashes and salts, which no level packs.
const LEVEL: i32 = 1;
const BLOCK: usize = 48;
const RUN: usize = 56;
const BLOB: usize = 80;
const REMOVAL: usize = 24;

/// Contiguous records of one session, and what they introduced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Which session.
    pub session: SessionId,
    /// Which records.
    pub seqs: RangeInclusive<u64>,
    /// The newest frame they came in.
    pub position: Position,
    place: Place,
}

/// A blob in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptBlob {
    /// Whose.
    pub session: SessionId,
    /// BLAKE3 of its bytes.
    pub id: BlobId,
    /// The record that introduced it.
    pub seq: Seq,
    /// The frame it came in.
    pub position: Position,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    block: usize,
    at: usize,
    bytes: usize,
}

#[derive(Debug, Clone, Copy)]
struct Block {
    at: u64,
    packed: usize,
    raw: usize,
    hash: [u8; 32],
}

/// Why a kept file is not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeptError {
    /// Its bytes are not those that were written.
    #[error("damaged: {0}")]
    Damaged(&'static str),
    /// Written by a newer program.
    #[error("kept format {0}; this program knows up to version 2")]
    Newer(u32),
    /// Of another store.
    #[error("it belongs to store {0}")]
    Foreign(StoreId),
    /// The disk refused.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// What the header of a kept file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// The first frame it covers.
    pub first: Position,
    /// The last.
    pub last: Position,
    /// Records in it.
    pub records: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// A kept file, its directory read and verified; blocks are read when they are asked for.
#[derive(Debug)]
pub struct KeptFile {
    /// What its header says.
    pub summary: Summary,
    /// By session, then as they came.
    pub runs: Vec<Run>,
    /// By session.
    pub blobs: Vec<KeptBlob>,
    /// Sessions that were removed in these frames, and by which.
    pub removals: Vec<(SessionId, Position)>,
    /// The frame with entries before the first; `None`: not known, nor whether all removals are listed.
    pub before: Option<Position>,
    blocks: Vec<Block>,
    file: Arc<dyn DiskFile>,
}

/// What goes into a kept file.
#[derive(Debug, Default)]
pub struct Content {
    items: Vec<Item>,
    removals: Vec<(SessionId, Position)>,
    before: Option<Position>,
    first: Option<Position>,
    last: Position,
}

#[derive(Debug, Clone)]
struct Item {
    session: SessionId,
    first: u64,
    last: u64,
    position: Position,
    blob: Option<BlobId>,
    bytes: Bytes,
}

impl Content {
    /// What follows the frame with entries at this position.
    #[must_use]
    pub fn after(before: Position) -> Self {
        Self { before: Some(before), ..Self::default() }
    }

    /// Adds a frame: records and the blobs that came with them. What was removed in it, or is in `removed` at a later
    /// position, is not kept, and goes if it is there already.
    pub fn add(&mut self, frame: &Frame, removed: &HashMap<SessionId, Position>) {
        self.covers(frame.position..=frame.position);
        for entry in &frame.entries {
            match entry {
                Entry::Records(group) => {
                    if removed.get(&group.session).is_some_and(|removed| *removed > frame.position) {
                        continue;
                    }
                    let (first, last) = (group.after.seq.next().0, group.head.seq.0);
                    let item = |blob, bytes| Item {
                        session: group.session,
                        first,
                        last,
                        position: frame.position,
                        blob,
                        bytes,
                    };
                    self.items.push(item(None, group.records.clone()));
                    // One without bytes is a file of its own; it has no second copy.
                    let inline = group.blobs.iter().filter(|blob| !blob.bytes.is_empty());
                    self.items.extend(inline.map(|blob| item(Some(blob.id), blob.bytes.clone())));
                }
                // What came before it, in this file; in older files `removed` tells.
                Entry::Remove { session, what: Remove::All, .. } => {
                    self.items.retain(|item| item.session != *session);
                    self.removals.push((*session, frame.position));
                }
                Entry::Remove { .. } | Entry::Observations { .. } => {}
            }
        }
    }

    /// Adds what another file has, but for what was removed after it came.
    ///
    /// # Errors
    /// As [`KeptFile::records`].
    pub fn add_file(&mut self, file: &KeptFile, removed: &HashMap<SessionId, Position>) -> Result<(), KeptError> {
        self.covers(file.summary.first..=file.summary.last);
        self.before = file.before;
        self.removals.extend(&file.removals);
        let stays =
            |session: &SessionId, position: Position| removed.get(session).is_none_or(|removed| *removed < position);
        // Places follow the blocks: each is unpacked once.
        let mut open: Option<(usize, Bytes)> = None;
        let mut slice = |place: Place| -> Result<Bytes, KeptError> {
            if open.as_ref().is_none_or(|(block, _)| *block != place.block) {
                open = Some((place.block, file.block(place.block)?));
            }
            match &open {
                Some((_, raw)) => cut(raw, place),
                None => Err(KeptError::Damaged("a block is missing")),
            }
        };
        for run in file.runs.iter().filter(|run| stays(&run.session, run.position)) {
            let bytes = slice(run.place)?;
            let (first, last) = (*run.seqs.start(), *run.seqs.end());
            self.items.push(Item { session: run.session, first, last, position: run.position, blob: None, bytes });
        }
        for blob in file.blobs.iter().filter(|blob| stays(&blob.session, blob.position)) {
            let bytes = slice(blob.place)?;
            let (first, last) = (blob.seq.0, blob.seq.0);
            let (session, position, blob) = (blob.session, blob.position, Some(blob.id));
            self.items.push(Item { session, first, last, position, blob, bytes });
        }
        Ok(())
    }

    /// Adds what came after it.
    pub fn join(&mut self, after: Content) {
        if let Some(first) = after.first {
            self.covers(first..=after.last);
        }
        self.items.extend(after.items);
        self.removals.extend(after.removals);
        if after.before.is_none() {
            self.before = None;
        }
    }

    fn covers(&mut self, positions: RangeInclusive<Position>) {
        self.first = Some(self.first.map_or(*positions.start(), |first| first.min(*positions.start())));
        self.last = self.last.max(*positions.end());
    }

    /// Bytes of what is in it.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.items.iter().map(|item| item.bytes.len()).sum()
    }

    /// The bytes of the file, and what its header says; `None`: it covers nothing.
    ///
    /// # Errors
    /// What zstd says.
    pub fn encode(mut self, store: StoreId) -> io::Result<Option<(Vec<u8>, Summary)>> {
        let Some(first) = self.first else { return Ok(None) };
        // Stable: each session's records stay in their order.
        self.items.sort_by_key(|item| item.session);
        let mut packer = zstd::bulk::Compressor::new(LEVEL)?;
        let mut out = vec![0; HEADER_BYTES];
        let (mut blocks, mut runs, mut blobs) = (Vec::new(), Vec::<Run>::new(), Vec::new());
        let mut raw = Vec::with_capacity(BLOCK_BYTES * 2);
        let mut records = 0u64;
        for item in &self.items {
            if !raw.is_empty() && raw.len() + item.bytes.len() > BLOCK_BYTES {
                close(&mut packer, &mut out, &mut blocks, &mut raw)?;
            }
            let place = Place { block: blocks.len(), at: raw.len(), bytes: item.bytes.len() };
            raw.extend_from_slice(&item.bytes);
            match item.blob {
                Some(id) => blobs.push((item, id, place)),
                None => {
                    records += item.last + 1 - item.first;
                    match runs.last_mut() {
                        Some(run)
                            if run.session == item.session
                                && *run.seqs.end() + 1 == item.first
                                && run.place.block == place.block
                                && run.place.at + run.place.bytes == place.at =>
                        {
                            run.seqs = *run.seqs.start()..=item.last;
                            run.position = item.position;
                            run.place.bytes += place.bytes;
                        }
                        _ => runs.push(Run {
                            session: item.session,
                            seqs: item.first..=item.last,
                            position: item.position,
                            place,
                        }),
                    }
                }
            }
        }
        if !raw.is_empty() {
            close(&mut packer, &mut out, &mut blocks, &mut raw)?;
        }
        let mut directory = Vec::with_capacity(blocks.len() * BLOCK + runs.len() * RUN + blobs.len() * BLOB);
        for block in &blocks {
            directory.extend_from_slice(&block.at.to_le_bytes());
            directory.extend_from_slice(&small(block.packed));
            directory.extend_from_slice(&small(block.raw));
            directory.extend_from_slice(&block.hash);
        }
        for run in &runs {
            put_place(&mut directory, run.place, run.session);
            directory.extend_from_slice(&run.seqs.start().to_le_bytes());
            directory.extend_from_slice(&run.seqs.end().to_le_bytes());
            directory.extend_from_slice(&run.position.0.to_le_bytes());
        }
        for (item, id, place) in &blobs {
            put_place(&mut directory, *place, item.session);
            directory.extend_from_slice(&item.first.to_le_bytes());
            directory.extend_from_slice(&item.position.0.to_le_bytes());
            directory.extend_from_slice(&id.0);
        }
        for (session, position) in &self.removals {
            directory.extend_from_slice(&session.0);
            directory.extend_from_slice(&position.0.to_le_bytes());
        }
        let packed = packer.compress(&directory)?;
        let directory_at = out.len() as u64;
        out.extend_from_slice(&packed);
        let summary = Summary { first, last: self.last, records, bytes: out.len() as u64 };
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(&store.0);
        header.extend_from_slice(&first.0.to_le_bytes());
        header.extend_from_slice(&self.last.0.to_le_bytes());
        header.extend_from_slice(&records.to_le_bytes());
        for count in [blocks.len(), runs.len(), blobs.len(), self.removals.len()] {
            header.extend_from_slice(&small(count));
        }
        header.extend_from_slice(&directory_at.to_le_bytes());
        header.extend_from_slice(&small(packed.len()));
        header.extend_from_slice(&small(directory.len()));
        header.extend_from_slice(&summary.bytes.to_le_bytes());
        header.extend_from_slice(&self.before.unwrap_or_default().0.to_le_bytes());
        header.extend_from_slice(blake3::hash(&packed).as_bytes());
        header.extend_from_slice(&u64::from(self.before.is_some()).to_le_bytes());
        let mut start = Vec::with_capacity(16);
        start.extend_from_slice(MAGIC);
        start.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        start.extend_from_slice(&crc32c::crc32c_append(crc32c::crc32c(&start), &header).to_le_bytes());
        start.extend_from_slice(&header);
        if let Some(place) = out.get_mut(..HEADER_BYTES) {
            place.copy_from_slice(&start);
        }
        Ok(Some((out, summary)))
    }
}

fn close(
    packer: &mut zstd::bulk::Compressor<'_>,
    out: &mut Vec<u8>,
    blocks: &mut Vec<Block>,
    raw: &mut Vec<u8>,
) -> io::Result<()> {
    let packed = packer.compress(raw)?;
    let hash = *blake3::hash(&packed).as_bytes();
    blocks.push(Block { at: out.len() as u64, packed: packed.len(), raw: raw.len(), hash });
    out.extend_from_slice(&packed);
    raw.clear();
    Ok(())
}

fn put_place(out: &mut Vec<u8>, place: Place, session: SessionId) {
    for number in [place.block, place.at, place.bytes, 0] {
        out.extend_from_slice(&small(number));
    }
    out.extend_from_slice(&session.0);
}

fn small(number: usize) -> [u8; 4] {
    u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes()
}

fn cut(raw: &Bytes, place: Place) -> Result<Bytes, KeptError> {
    let end = place.at.checked_add(place.bytes).filter(|end| *end <= raw.len());
    Ok(raw.slice(place.at..end.ok_or(KeptError::Damaged("a line leads out of its block"))?))
}

/// What the header of a file says, everything in it verified but what it leads to.
///
/// # Errors
/// See [`KeptError`].
pub fn summary(file: &dyn DiskFile, store: StoreId) -> Result<Summary, KeptError> {
    Ok(header(file, store)?.0)
}

fn header(file: &dyn DiskFile, store: StoreId) -> Result<(Summary, Vec<u8>), KeptError> {
    const CUT: KeptError = KeptError::Damaged("the header is cut off");
    let mut header = vec![0; HEADER_BYTES];
    if file.read_at(&mut header, 0)? < HEADER_BYTES || header.get(..8) != Some(MAGIC) {
        return Err(CUT);
    }
    let (start, rest) = (header.get(..12).ok_or(CUT)?, header.get(16..).ok_or(CUT)?);
    if u32_at(&header, 12) != Some(crc32c::crc32c_append(crc32c::crc32c(start), rest)) {
        return Err(KeptError::Damaged("the header's checksum differs"));
    }
    match u32_at(&header, 8) {
        Some(1..=FORMAT_VERSION) => {}
        version => return Err(KeptError::Newer(version.unwrap_or_default())),
    }
    let owner = StoreId(array_at(&header, 16).ok_or(CUT)?);
    if owner != store {
        return Err(KeptError::Foreign(owner));
    }
    let number = |at| u64_at(&header, at).ok_or(CUT);
    let summary =
        Summary { first: Position(number(32)?), last: Position(number(40)?), records: number(48)?, bytes: number(88)? };
    if file.len()? != summary.bytes {
        return Err(KeptError::Damaged("its length is another one"));
    }
    Ok((summary, header))
}

impl KeptFile {
    /// Reads header and directory.
    ///
    /// # Errors
    /// See [`KeptError`].
    pub fn read(file: Arc<dyn DiskFile>, store: StoreId) -> Result<Self, KeptError> {
        const CUT: KeptError = KeptError::Damaged("the directory is cut off");
        let (summary, header) = header(file.as_ref(), store)?;
        let count = |at| u32_at(&header, at).and_then(|count| usize::try_from(count).ok()).ok_or(CUT);
        let (blocks, runs, blobs) = (count(56)?, count(60)?, count(64)?);
        let removals = count(68)?;
        let before = (u64_at(&header, 136) == Some(1)).then(|| u64_at(&header, 96).map(Position)).flatten();
        let (packed, raw) = (count(80)?, count(84)?);
        let at = u64_at(&header, 72).ok_or(CUT)?;
        let expected = blocks * BLOCK + runs * RUN + blobs * BLOB + removals * REMOVAL;
        if raw != expected || raw > DIRECTORY_BYTES_MAX || at.checked_add(packed as u64) != Some(summary.bytes) {
            return Err(KeptError::Damaged("the directory's length is another one"));
        }
        let mut bytes = vec![0; packed];
        if file.read_at(&mut bytes, at)? != packed || Some(*blake3::hash(&bytes).as_bytes()) != array_at(&header, 104) {
            return Err(KeptError::Damaged("the directory's hash differs"));
        }
        let directory =
            zstd::bulk::decompress(&bytes, raw).map_err(|_| KeptError::Damaged("the directory does not unpack"))?;
        let (block_lines, rest) = directory.split_at_checked(blocks * BLOCK).ok_or(CUT)?;
        let (run_lines, rest) = rest.split_at_checked(runs * RUN).ok_or(CUT)?;
        let (blob_lines, removal_lines) = rest.split_at_checked(blobs * BLOB).ok_or(CUT)?;
        let lines = || -> Option<_> {
            let size = |line, at| u32_at(line, at).and_then(|size| usize::try_from(size).ok());
            let place = |line| Some(Place { block: size(line, 0)?, at: size(line, 4)?, bytes: size(line, 8)? });
            let blocks = block_lines.chunks_exact(BLOCK).map(|line| {
                Some(Block {
                    at: u64_at(line, 0)?,
                    packed: size(line, 8)?,
                    raw: size(line, 12)?,
                    hash: array_at(line, 16)?,
                })
            });
            let runs = run_lines.chunks_exact(RUN).map(|line| {
                Some(Run {
                    session: SessionId(array_at(line, 16)?),
                    seqs: u64_at(line, 32)?..=u64_at(line, 40)?,
                    position: Position(u64_at(line, 48)?),
                    place: place(line)?,
                })
            });
            let blobs = blob_lines.chunks_exact(BLOB).map(|line| {
                Some(KeptBlob {
                    session: SessionId(array_at(line, 16)?),
                    seq: Seq(u64_at(line, 32)?),
                    position: Position(u64_at(line, 40)?),
                    id: BlobId(array_at(line, 48)?),
                    place: place(line)?,
                })
            });
            let removals = removal_lines
                .chunks_exact(REMOVAL)
                .map(|line| Some((SessionId(array_at(line, 0)?), Position(u64_at(line, 16)?))));
            Some((
                blocks.collect::<Option<_>>()?,
                runs.collect::<Option<_>>()?,
                blobs.collect::<Option<_>>()?,
                removals.collect::<Option<_>>()?,
            ))
        };
        let (blocks, runs, blobs, removals) = lines().ok_or(CUT)?;
        Ok(Self { summary, runs, blobs, removals, before, blocks, file })
    }

    /// The bytes of a run: records, one after another. They are what was written; whether they are the session's, its chain
    /// tells.
    ///
    /// # Errors
    /// `Damaged` when the block is.
    pub fn records(&self, run: &Run) -> Result<Bytes, KeptError> {
        cut(&self.block(run.place.block)?, run.place)
    }

    /// The bytes of a blob.
    ///
    /// # Errors
    /// `Damaged` when the block is.
    pub fn blob(&self, blob: &KeptBlob) -> Result<Bytes, KeptError> {
        cut(&self.block(blob.place.block)?, blob.place)
    }

    /// Reads every block.
    ///
    /// # Errors
    /// `Damaged` at the first that is.
    pub fn verify(&self) -> Result<(), KeptError> {
        (0..self.blocks.len()).try_for_each(|block| self.block(block).map(drop))
    }

    fn block(&self, number: usize) -> Result<Bytes, KeptError> {
        let block = self.blocks.get(number).ok_or(KeptError::Damaged("a line leads to no block"))?;
        let end = block.at.checked_add(block.packed as u64);
        if block.raw > BLOCK_BYTES_MAX || end.is_none_or(|end| end > self.summary.bytes) {
            return Err(KeptError::Damaged("a block's length is another one"));
        }
        let mut packed = vec![0; block.packed];
        if self.file.read_at(&mut packed, block.at)? != packed.len() || *blake3::hash(&packed).as_bytes() != block.hash
        {
            return Err(KeptError::Damaged("a block's hash differs"));
        }
        let raw =
            zstd::bulk::decompress(&packed, block.raw).map_err(|_| KeptError::Damaged("a block does not unpack"))?;
        if raw.len() != block.raw {
            return Err(KeptError::Damaged("a block unpacks to another length"));
        }
        Ok(raw.into())
    }
}

/// The file name for these positions.
#[must_use]
pub fn file_name(first: Position, last: Position) -> String {
    format!("{:016}-{:016}.kept", first.0, last.0)
}

/// The positions in a kept file's name; `None`: it is not one.
#[must_use]
pub fn file_positions(name: &str) -> Option<(Position, Position)> {
    let (first, last) = name.strip_suffix(".kept")?.split_once('-')?;
    let number = |digits: &str| {
        (digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
    };
    Some((Position(number(first)?), Position(number(last)?)))
}
