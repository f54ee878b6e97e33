//! A mark beside records.db while SQLite's write-ahead log is being copied into it.
//!
//! While that goes on the main file is half of what it was and half of what it will be, and only the log says which half. When
//! a process dies just then, SQLite begins again from the log as far as the log's checksums hold, and where they do not it
//! stops without a word. So `records.copying` keeps the log's length and hash from before the first page is copied until all
//! of them are durable. What is marked at a start and is not there any more is damage, and is said.
//!
//! # Bytes (96, little-endian)
//!
//! ```text
//! offset size
//!      0    8  magic "SWKCOPY\0"
//!      8    4  1: the log is being copied; 0: it is not
//!     12    4  crc32c of bytes 0..12 and 16..96
//!     16    8  bytes of the log
//!     24   32  BLAKE3 of them
//!     56   32  the log's own header
//!     88    8  zeros
//! ```

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::disk::{Disk, DiskFile, OpenHow, read_whole};

const MAGIC: &[u8; 8] = b"SWKCOPY\0";
const BYTES: usize = 96;
/// The header of SQLite's log.
const LOG_HEADER: usize = 32;
/// Bytes of the log read at a time.
const PIECE: usize = 256 * 1024;

pub(super) struct Copying {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
}

/// What the mark says at a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing was being copied.
    Idle,
    /// The log was being copied, and all of it is there.
    Whole,
    /// The log was being copied, and is not what it was.
    Differs,
}

impl Copying {
    pub(super) fn new(disk: Arc<dyn Disk>, store: &Path) -> Self {
        Self { disk, folder: store.to_owned() }
    }

    /// Before the first page is copied. The log is synced first: what is marked must not go with the power.
    pub(super) fn begin(&self) -> io::Result<()> {
        let Some(log) = self.log()? else { return Ok(()) };
        log.sync_data()?;
        let (length, header) = (log.len()?, header_of(log.as_ref())?);
        let Some((header, hash)) = header.zip(hash_of(log.as_ref(), length)?) else { return Ok(()) };
        let mut mark = Vec::with_capacity(BYTES);
        mark.extend_from_slice(&length.to_le_bytes());
        mark.extend_from_slice(&hash);
        mark.extend_from_slice(&header);
        self.put(1, &mark)
    }

    /// After the last page is durable, and before the log is begun anew.
    pub(super) fn end(&self) -> io::Result<()> {
        match self.disk.exists(&self.path())? {
            true => self.put(0, &[]),
            false => Ok(()),
        }
    }

    /// At a start, before SQLite is let near the files.
    pub(super) fn look(&self) -> io::Result<Found> {
        let mark = match self.disk.open(&self.path(), OpenHow::Read) {
            Ok(file) => read_whole(file.as_ref(), BYTES as u64)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Idle),
            Err(error) => return Err(error),
        };
        // A mark that cannot be read says nothing: it was being written, and nothing was copied yet; or it is damaged itself.
        let Some((length, hash, header)) = marked(&mark) else { return Ok(Found::Idle) };
        // SQLite removes a log of which it has copied everything.
        let Some(log) = self.log()? else { return Ok(Found::Idle) };
        // Begun anew since: everything had been copied.
        if header_of(log.as_ref())?.is_some_and(|found| found != header && is_header(&found)) {
            return Ok(Found::Idle);
        }
        let whole = hash_of(log.as_ref(), length)?.is_some_and(|found| found == hash);
        Ok(if whole { Found::Whole } else { Found::Differs })
    }

    fn path(&self) -> PathBuf {
        self.folder.join("records.copying")
    }

    fn log(&self) -> io::Result<Option<Arc<dyn DiskFile>>> {
        match self.disk.open(&self.folder.join("records.db-wal"), OpenHow::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => opened.map(Some),
        }
    }

    fn put(&self, state: u32, rest: &[u8]) -> io::Result<()> {
        let path = self.path();
        let new = !self.disk.exists(&path)?;
        let mut mark = Vec::with_capacity(BYTES);
        mark.extend_from_slice(MAGIC);
        mark.extend_from_slice(&state.to_le_bytes());
        mark.extend_from_slice(&[0; 4]);
        mark.extend_from_slice(rest);
        mark.resize(BYTES, 0);
        let crc = sum(&mark).unwrap_or_default().to_le_bytes();
        if let Some(field) = mark.get_mut(12..16) {
            field.copy_from_slice(&crc);
        }
        let file = self.disk.open(&path, OpenHow::Create)?;
        file.write_at(&mark, 0)?;
        file.sync_data()?;
        if new { self.disk.sync_dir(&self.folder) } else { Ok(()) }
    }
}

fn header_of(log: &dyn DiskFile) -> io::Result<Option<[u8; LOG_HEADER]>> {
    let mut header = [0; LOG_HEADER];
    Ok((log.read_at(&mut header, 0)? == LOG_HEADER).then_some(header))
}

/// The hash of the first `length` bytes; `None`: there are not so many.
fn hash_of(log: &dyn DiskFile, length: u64) -> io::Result<Option<[u8; 32]>> {
    if log.len()? < length {
        return Ok(None);
    }
    let (mut hasher, mut piece, mut at) = (blake3::Hasher::new(), vec![0; PIECE], 0);
    while at < length {
        let wanted = usize::try_from(length - at).unwrap_or(PIECE).min(PIECE);
        let read = log.read_at(piece.get_mut(..wanted).unwrap_or_default(), at)?;
        if read == 0 {
            return Ok(None);
        }
        hasher.update(piece.get(..read).unwrap_or_default());
        at += read as u64;
    }
    Ok(Some(*hasher.finalize().as_bytes()))
}

fn sum(mark: &[u8]) -> Option<u32> {
    Some(crc32c::crc32c_append(crc32c::crc32c(mark.get(..12)?), mark.get(16..BYTES)?))
}

/// Length, hash and header of the log that is marked; `None`: none is.
fn marked(mark: &[u8]) -> Option<(u64, &[u8], &[u8])> {
    let number = |at: usize| mark.get(at..).and_then(<[u8]>::first_chunk).copied().map(u32::from_le_bytes);
    let right = mark.get(..8)? == MAGIC && number(12)? == sum(mark)? && number(8)? == 1;
    let length = u64::from_le_bytes(mark.get(16..).and_then(<[u8]>::first_chunk).copied()?);
    right.then_some((length, mark.get(24..56)?, mark.get(56..88)?))
}

/// Whether the checksum in the header of a write-ahead log is right, as SQLite's file format has it.
fn is_header(header: &[u8]) -> bool {
    let word = |at: usize, big: bool| {
        let bytes: [u8; 4] = header.get(at..).and_then(<[u8]>::first_chunk).copied()?;
        Some(if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    };
    let right = || {
        // The last bit of the magic number says in which order of bytes it was summed.
        let big = word(0, true)? & 1 == 1;
        let (mut one, mut two) = (0u32, 0u32);
        for at in (0..24).step_by(8) {
            one = one.wrapping_add(word(at, big)?).wrapping_add(two);
            two = two.wrapping_add(word(at + 4, big)?).wrapping_add(one);
        }
        Some(word(0, true)? >> 1 == 0x377f_0682 >> 1 && word(24, true)? == one && word(28, true)? == two)
    };
    right().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_that_sqlite_writes_is_one_and_a_changed_one_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records.db");
        let connection = rusqlite::Connection::open(&path).unwrap();
        connection.pragma_update(None, "journal_mode", "wal").unwrap();
        connection.execute_batch("CREATE TABLE t (a)").unwrap();
        let mut header = std::fs::read(folder.path().join("records.db-wal")).unwrap();
        header.truncate(LOG_HEADER);
        assert!(is_header(&header));
        for at in 0..LOG_HEADER {
            header[at] ^= 1;
            assert!(!is_header(&header), "byte {at}");
            header[at] ^= 1;
        }
    }

    #[test]
    fn a_log_is_whole_or_differs_or_was_begun_anew_and_a_torn_mark_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let copying = Copying::new(Arc::new(crate::disk::RealDisk), folder.path());
        let connection = rusqlite::Connection::open(folder.path().join("records.db")).unwrap();
        connection.pragma_update(None, "journal_mode", "wal").unwrap();
        connection.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (1)").unwrap();
        assert_eq!(copying.look().unwrap(), Found::Idle);
        copying.begin().unwrap();
        assert_eq!(copying.look().unwrap(), Found::Whole);
        connection.execute_batch("INSERT INTO t VALUES (2)").unwrap();
        assert_eq!(copying.look().unwrap(), Found::Whole, "what comes after it was not being copied");
        let log = folder.path().join("records.db-wal");
        let whole = std::fs::read(&log).unwrap();
        for at in [0, 20, 33, 4_000, 7_000] {
            let mut flipped = whole.clone();
            flipped[at] ^= 4;
            std::fs::write(&log, flipped).unwrap();
            assert_eq!(copying.look().unwrap(), Found::Differs, "byte {at}");
        }
        std::fs::write(&log, &whole[..100]).unwrap();
        assert_eq!(copying.look().unwrap(), Found::Differs);
        std::fs::write(&log, &whole).unwrap();
        copying.end().unwrap();
        assert_eq!(copying.look().unwrap(), Found::Idle);
        copying.begin().unwrap();
        connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE); INSERT INTO t VALUES (3)").unwrap();
        assert_eq!(copying.look().unwrap(), Found::Idle, "begun anew");
        copying.begin().unwrap();
        let mark = folder.path().join("records.copying");
        let bytes = std::fs::read(&mark).unwrap();
        std::fs::write(&mark, &bytes[..50]).unwrap();
        assert_eq!(copying.look().unwrap(), Found::Idle);
    }
}
