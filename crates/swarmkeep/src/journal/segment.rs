//! A segment file: its name and its header.
//!
//! A segment is written by one open of one process. It begins with its header, twice (one flipped bit in the only copy of
//! the nonce would make every frame of the segment unreadable), then come frames (see [`super::frame`]) to the logical end
//! that the next segment's header names, or that the last valid frame makes.
//!
//! # Bytes of a header block (4096, little-endian; at offsets 0 and 4096 of the file)
//!
//! ```text
//! offset size
//!      0    8  magic "SWKJRNL\0"
//!      8    4  format version: 1
//!     12    4  crc32c of bytes 0..12 and 16..40; this and what it covers never move in any version
//!     16    8  incompatible feature bits: one unknown, and the file is refused
//!     24    8  read-only-compatible feature bits: one unknown, and the file may only be read
//!     32    8  compatible feature bits: unknown ones may be ignored
//!     40   16  store id
//!     56    8  segment number, from 1; the file is named by it
//!     64    8  incarnation: one more at every open
//!     72   32  nonce, random for each use: keys the hashes and checksums of the frames
//!    104    8  position of the first frame
//!    112   32  hash of the frame before that; zeros: none
//!    144    8  number of the segment before; 0: none
//!    152    8  where that segment logically ends, in bytes; 0: none
//!    160    8  records.db's position when this was made
//!    168   32  records.db's frame hash when this was made
//!    200    4  alignment of frames: 512
//!    204    4  flags: bit 0, the file's blocks were used before; bit 1, the first frame was carried over from behind the
//!              logical end of the segment before
//!    208    8  size of the file in bytes
//!    216    8  time it was made, ms since the Unix epoch
//!    224    4  key id: 0, not encrypted
//!    228    4  hash algorithm: 1, BLAKE3
//!    232    8  position of the last frame with entries before this segment; 0: none
//!    240   32  hash of that frame
//!    272   32  BLAKE3 of bytes 0..272
//!    304    …  zeros, not read
//! ```

use swarmkeep_core::{Hash, log::Position};

use super::StoreId;

/// Bytes of one header block.
pub const HEADER_BYTES: usize = 4096;
/// Where frames begin: after the header and its copy.
pub const FRAMES_AT: u64 = 2 * HEADER_BYTES as u64;
/// Frames begin and end at multiples of this: a write never touches a sector that holds acknowledged bytes.
pub const ALIGNMENT: usize = 512;
/// The newest format this program writes and reads.
pub const FORMAT_VERSION: u32 = 1;
/// Largest segment file this program makes or reads.
pub const SEGMENT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Smallest segment file this program makes.
pub const SEGMENT_BYTES_MIN: u64 = 16 * 1024;

const MAGIC: &[u8; 8] = b"SWKJRNL\0";
const HASHED: usize = 272;
const FLAG_RECYCLED: u32 = 1;
const FLAG_CARRIED: u32 = 2;
const BLAKE3: u32 = 1;

/// A segment's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The store it belongs to.
    pub store: StoreId,
    /// From 1.
    pub number: u64,
    /// Which open of the store writes it.
    pub incarnation: u64,
    /// Keys its frames.
    pub nonce: [u8; 32],
    /// Position of its first frame.
    pub first_position: Position,
    /// Hash of the frame before.
    pub previous_hash: Hash,
    /// The segment before; 0: none.
    pub previous_number: u64,
    /// Where that one ends, in bytes.
    pub previous_end: u64,
    /// The last frame with entries before this segment (a seal may stand between); 0: none. What records.db can be at.
    pub data_position: Position,
    /// Its hash.
    pub data_hash: Hash,
    /// records.db's position when this was made.
    pub records_position: Position,
    /// Its hash.
    pub records_hash: Hash,
    /// Whether its blocks were used before: bytes beyond the end are then old.
    pub recycled: bool,
    /// Whether its first frame was carried over.
    pub carried: bool,
    /// Size of the file.
    pub size: u64,
    /// When it was made.
    pub time_ms: u64,
}

/// Why bytes are not a header that may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderError {
    /// Damaged, or never one.
    Damaged,
    /// Written by a newer program: version and unknown feature bits.
    Newer(String),
}

impl Header {
    /// Its 4096 bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        let features = [0u8; 24];
        out.extend_from_slice(&prefix_crc(&out, &features).to_le_bytes());
        out.extend_from_slice(&features);
        out.extend_from_slice(&self.store.0);
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.incarnation.to_le_bytes());
        out.extend_from_slice(&self.nonce);
        out.extend_from_slice(&self.first_position.0.to_le_bytes());
        out.extend_from_slice(&self.previous_hash.0);
        out.extend_from_slice(&self.previous_number.to_le_bytes());
        out.extend_from_slice(&self.previous_end.to_le_bytes());
        out.extend_from_slice(&self.records_position.0.to_le_bytes());
        out.extend_from_slice(&self.records_hash.0);
        out.extend_from_slice(&(ALIGNMENT as u32).to_le_bytes());
        let flags = if self.recycled { FLAG_RECYCLED } else { 0 } | if self.carried { FLAG_CARRIED } else { 0 };
        out.extend_from_slice(&flags.to_le_bytes());
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(&self.time_ms.to_le_bytes());
        out.extend_from_slice(&0u32.to_le_bytes());
        out.extend_from_slice(&BLAKE3.to_le_bytes());
        out.extend_from_slice(&self.data_position.0.to_le_bytes());
        out.extend_from_slice(&self.data_hash.0);
        let hash = blake3::hash(&out);
        out.extend_from_slice(hash.as_bytes());
        out.resize(HEADER_BYTES, 0);
        out
    }

    /// Reads one block.
    ///
    /// # Errors
    /// `Newer` before anything that a newer version may have moved is looked at; else `Damaged`.
    pub fn decode(block: &[u8]) -> Result<Self, HeaderError> {
        let damaged = HeaderError::Damaged;
        if block.get(..8) != Some(MAGIC) {
            return Err(damaged);
        }
        let (head, features) =
            (block.get(..12).ok_or(HeaderError::Damaged)?, block.get(16..40).ok_or(HeaderError::Damaged)?);
        if u32_at(block, 12) != Some(prefix_crc(head, features)) {
            return Err(damaged);
        }
        let version = u32_at(block, 8).ok_or(HeaderError::Damaged)?;
        let incompatible = u64_at(block, 16).ok_or(HeaderError::Damaged)?;
        let read_only = u64_at(block, 24).ok_or(HeaderError::Damaged)?;
        // A journal is never only read by this program (every open writes a segment), so both kinds of bits refuse.
        if version != FORMAT_VERSION || incompatible != 0 || read_only != 0 {
            return Err(HeaderError::Newer(format!(
                "version {version}, feature bits {incompatible:#x} (incompatible) and {read_only:#x} (read-only-compatible)"
            )));
        }
        let hashed = block.get(..HASHED).ok_or(HeaderError::Damaged)?;
        if array_at(block, HASHED) != Some(*blake3::hash(hashed).as_bytes()) {
            return Err(damaged);
        }
        let (key, algorithm) = (u32_at(block, 224), u32_at(block, 228));
        if key != Some(0) || algorithm != Some(BLAKE3) || u32_at(block, 200) != Some(ALIGNMENT as u32) {
            return Err(HeaderError::Newer(format!("version {version}, key {key:?}, hash algorithm {algorithm:?}")));
        }
        let flags = u32_at(block, 204).ok_or(HeaderError::Damaged)?;
        let read = || {
            Some(Self {
                store: StoreId(array_at(block, 40)?),
                number: u64_at(block, 56)?,
                incarnation: u64_at(block, 64)?,
                nonce: array_at(block, 72)?,
                first_position: Position(u64_at(block, 104)?),
                previous_hash: Hash(array_at(block, 112)?),
                previous_number: u64_at(block, 144)?,
                previous_end: u64_at(block, 152)?,
                data_position: Position(u64_at(block, 232)?),
                data_hash: Hash(array_at(block, 240)?),
                records_position: Position(u64_at(block, 160)?),
                records_hash: Hash(array_at(block, 168)?),
                recycled: flags & FLAG_RECYCLED != 0,
                carried: flags & FLAG_CARRIED != 0,
                size: u64_at(block, 208)?,
                time_ms: u64_at(block, 216)?,
            })
        };
        read().ok_or(HeaderError::Damaged)
    }
}

fn prefix_crc(head: &[u8], features: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(head), features)
}

/// The file name of a segment.
#[must_use]
pub fn file_name(number: u64) -> String {
    format!("{number:016}.segment")
}

/// The number in a segment's file name; `None`: it is not one.
#[must_use]
pub fn file_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".segment")?;
    (digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// The file name of a spare: blocks for later use, contents without meaning.
#[must_use]
pub fn spare_name(number: u64) -> String {
    format!("spare-{number:016}")
}

/// The number in a spare's file name.
#[must_use]
pub fn spare_number(name: &str) -> Option<u64> {
    name.strip_prefix("spare-")?.parse().ok()
}

pub(super) fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array_at(bytes, at).map(u32::from_le_bytes)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array_at(bytes, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            store: StoreId([7; 16]),
            number: 12,
            incarnation: 3,
            nonce: [9; 32],
            first_position: Position(77),
            previous_hash: Hash([5; 32]),
            previous_number: 11,
            previous_end: 8192,
            data_position: Position(75),
            data_hash: Hash([4; 32]),
            records_position: Position(70),
            records_hash: Hash([6; 32]),
            recycled: true,
            carried: false,
            size: 65536,
            time_ms: 1_700_000_000_000,
        }
    }

    #[test]
    fn a_header_comes_back_and_any_flipped_bit_is_found() {
        let block = header().encode();
        assert_eq!(block.len(), HEADER_BYTES);
        assert_eq!(Header::decode(&block), Ok(header()));
        for bit in 0..(HASHED + 32) * 8 {
            let mut block = block.clone();
            block[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&block), Err(HeaderError::Damaged), "bit {bit}");
        }
        for length in 0..HASHED + 32 {
            assert_eq!(Header::decode(&block[..length]), Err(HeaderError::Damaged));
        }
    }

    #[test]
    fn newer_versions_and_unknown_features_are_told_from_damage() {
        for (at, what) in [(8, "version 2"), (16, "0x1"), (24, "0x1")] {
            let mut block = header().encode();
            block[at] = if at == 8 { 2 } else { 1 };
            let crc = prefix_crc(&block[..12], &block[16..40]);
            block[12..16].copy_from_slice(&crc.to_le_bytes());
            let Err(HeaderError::Newer(text)) = Header::decode(&block) else { panic!("byte {at}") };
            assert!(text.contains(what), "{text}");
        }
    }

    #[test]
    fn names() {
        assert_eq!(file_number(&file_name(42)), Some(42));
        assert_eq!(spare_number(&spare_name(42)), Some(42));
        assert_eq!(file_number("42.segment"), None);
        assert_eq!(file_number("+000000000000042.segment"), None);
    }
}
