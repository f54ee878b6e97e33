//! A mark beside records.db: that its main file and SQLite's write-ahead log belong together, and how far one was copied into
//! the other.
//!
//! While the log is being copied the main file is half of what it was and half of what it will be, and only the log says which
//! half. When a process dies just then, SQLite begins again from the log as far as the log's checksums hold, and where they do
//! not it stops without a word. So `records.copying` keeps the log's length and hash from before the first page is copied until
//! all of them are durable.
//!
//! Nor does SQLite know whether a log was written on top of the main file that it finds: pages of one time over those of
//! another still look like a database. So every copying has a number, its stamp, which is a row of records.db itself, and the mark
//! says which stamp the main file has, and which log was begun upon it. What does not fit is said, and records.db is made
//! again (`remake`).
//!
//! # Bytes (112, little-endian)
//!
//! ```text
//! offset size
//!      0    8  magic "SWKCOPY\0"
//!      8    4  0: all is copied; 1: the log is being copied; 2: all is copied, and another log was begun
//!     12    4  crc32c of bytes 0..12 and 16..112
//!     16    8  1: bytes of the log
//!     24   32  1: BLAKE3 of them
//!     56   32  1, 2: the log's own header
//!     88    8  stamp of this copying, or of the last
//!     96    8  1: stamp of the last one that came to its end
//!    104    8  position of records.db when the last one came to its end
//! ```

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use swarmkeep_core::log::Position;

use crate::disk::{Disk, DiskFile, OpenHow, read_whole};

const MAGIC: &[u8; 8] = b"SWKCOPY\0";
const BYTES: usize = 112;
/// The header of SQLite's log.
const LOG_HEADER: usize = 32;
/// Bytes of the log read at a time.
const PIECE: usize = 256 * 1024;

pub(super) struct Copying {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    /// Stamp and position of the last copying that came to its end.
    last: Mutex<(u64, u64)>,
}

/// What the mark says at a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing was being copied.
    Idle,
    /// The log was being copied, and all of it is there.
    Whole,
    /// The log was being copied, and is not what it was. The main file has everything up to this position.
    Differs(u64),
    /// The main file is of another time than the mark.
    PutBack,
    /// The main file is what it should be, and the log is not the one that was begun upon it.
    OtherLog,
}

/// What is written in the mark.
#[derive(Debug, Clone, Copy)]
struct Mark {
    state: u32,
    length: u64,
    hash: [u8; 32],
    header: [u8; LOG_HEADER],
    stamp: u64,
    last: (u64, u64),
}

/// Why copying was not begun.
#[derive(Debug)]
pub(super) enum Begin {
    /// The log is not durable: it must not be copied.
    Log(io::Error),
    /// The log is durable, and that it is being copied could not be written down.
    Mark(io::Error),
}

impl Copying {
    pub(super) fn new(disk: Arc<dyn Disk>, store: &Path) -> Self {
        Self { disk, folder: store.to_owned(), last: Mutex::new((0, 0)) }
    }

    /// Before the first page is copied. The log is synced first: what is marked must not go with the power, and nothing may
    /// be copied of which a failed sync leaves only the cache's word. `again`: an earlier sync of it failed, or may have: its
    /// bytes are written in their places once more, because a sync after a failed one proves nothing of pages that count as
    /// written.
    pub(super) fn begin(&self, again: bool, stamp: u64) -> Result<(), Begin> {
        let Some(log) = self.log().map_err(Begin::Log)? else { return Ok(()) };
        let synced = || {
            if again {
                write_again(log.as_ref())?;
            }
            log.sync_data()
        };
        synced().map_err(Begin::Log)?;
        self.mark(log.as_ref(), stamp).map_err(Begin::Mark)
    }

    fn mark(&self, log: &dyn DiskFile, stamp: u64) -> io::Result<()> {
        let (length, header) = (log.len()?, header_of(log)?);
        let Some((header, hash)) = header.zip(hash_of(log, length)?) else { return Ok(()) };
        self.put(&Mark { state: 1, length, hash, header, stamp, last: *self.last.lock() })
    }

    /// After the first commit into a log that was begun anew.
    pub(super) fn name_log(&self) -> io::Result<()> {
        let Some(log) = self.log()? else { return Ok(()) };
        let Some(header) = header_of(log.as_ref())? else { return Ok(()) };
        let last = *self.last.lock();
        self.put(&Mark { state: 2, length: 0, hash: [0; 32], header, stamp: last.0, last })
    }

    /// After the last page is durable, and before the log is begun anew.
    pub(super) fn end(&self, stamp: u64, position: Position) -> io::Result<()> {
        let last = (stamp, position.0);
        *self.last.lock() = last;
        self.put(&Mark { state: 0, length: 0, hash: [0; 32], header: [0; LOG_HEADER], stamp, last })
    }

    /// At a start, before SQLite is let near the files. `main`: the stamp that the main file has without its log, where that
    /// can be read.
    pub(super) fn look(&self, main: impl FnOnce() -> Option<u64>) -> io::Result<Found> {
        let mark = match self.disk.open(&self.path(), OpenHow::Read) {
            Ok(file) => read_whole(file.as_ref(), BYTES as u64),
            Err(error) => Err(error),
        };
        let mark = match mark {
            Ok(mark) => mark,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            // Longer than one: it is none.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Vec::new(),
            Err(error) => return Err(error),
        };
        // A mark that cannot be read says nothing: it was being written, and nothing was copied yet; or it is damaged itself.
        let Some(mark) = marked(&mark) else {
            *self.last.lock() = (main().unwrap_or_default(), 0);
            return Ok(Found::Idle);
        };
        *self.last.lock() = mark.last;
        if let Some(main) = main()
            && !(if mark.state == 1 { mark.last.0..=mark.stamp } else { mark.stamp..=mark.stamp }).contains(&main)
        {
            return Ok(Found::PutBack);
        }
        let log = self.log()?;
        let header = match &log {
            Some(log) => header_of(log.as_ref())?,
            None => None,
        };
        if mark.state == 2 && header.is_some_and(|found| found != mark.header && is_header(&found)) {
            return Ok(Found::OtherLog);
        }
        if mark.state != 1 {
            return Ok(Found::Idle);
        }
        let hash = match &log {
            Some(log) => hash_of(log.as_ref(), mark.length)?,
            None => None,
        };
        Ok(if hash == Some(mark.hash) { Found::Whole } else { Found::Differs(mark.last.1) })
    }

    /// Up to which position the main file has everything, as far as is known.
    pub(super) fn has(&self) -> Position {
        Position(self.last.lock().1)
    }

    /// The stamp of the last copying that came to its end: the main file has it, or a later one.
    pub(super) fn last_stamp(&self) -> u64 {
        self.last.lock().0
    }

    /// The highest stamp that the mark knows of.
    pub(super) fn stamp(&self) -> u64 {
        let mark = self.disk.open(&self.path(), OpenHow::Read).and_then(|file| read_whole(file.as_ref(), BYTES as u64));
        mark.ok().as_deref().and_then(marked).map_or(0, |mark| mark.stamp)
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

    fn put(&self, mark: &Mark) -> io::Result<()> {
        let path = self.path();
        let new = !self.disk.exists(&path)?;
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&mark.state.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&mark.length.to_le_bytes());
        bytes.extend_from_slice(&mark.hash);
        bytes.extend_from_slice(&mark.header);
        for number in [mark.stamp, mark.last.0, mark.last.1] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        let crc = sum(&bytes).unwrap_or_default().to_le_bytes();
        if let Some(field) = bytes.get_mut(12..16) {
            field.copy_from_slice(&crc);
        }
        let file = self.disk.open(&path, OpenHow::Create)?;
        file.write_at(&bytes, 0)?;
        file.sync_data()?;
        if new { self.disk.sync_dir(&self.folder) } else { Ok(()) }
    }
}

/// Writes a file's bytes in their places again.
fn write_again(file: &dyn DiskFile) -> io::Result<()> {
    let (mut piece, mut at) = (vec![0; PIECE], 0);
    loop {
        let read = file.read_at(&mut piece, at)?;
        if read == 0 {
            return Ok(());
        }
        file.write_at(piece.get(..read).unwrap_or_default(), at)?;
        at += read as u64;
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

/// What a mark says; `None`: nothing.
fn marked(mark: &[u8]) -> Option<Mark> {
    let small = |at: usize| mark.get(at..).and_then(<[u8]>::first_chunk).copied().map(u32::from_le_bytes);
    let number = |at: usize| mark.get(at..).and_then(<[u8]>::first_chunk).copied().map(u64::from_le_bytes);
    let bytes = |at: usize| mark.get(at..).and_then(<[u8]>::first_chunk).copied();
    let right = mark.get(..8)? == MAGIC && small(12)? == sum(mark)? && small(8)? <= 2;
    right.then_some(Mark {
        state: small(8)?,
        length: number(16)?,
        hash: bytes(24)?,
        header: bytes(56)?,
        stamp: number(88)?,
        last: (number(96)?, number(104)?),
    })
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
        let look = |main: u64| copying.look(|| Some(main)).unwrap();
        assert_eq!(look(0), Found::Idle);
        copying.begin(false, 1).unwrap();
        assert_eq!((look(0), look(1)), (Found::Whole, Found::Whole));
        assert_eq!(look(2), Found::PutBack);
        connection.execute_batch("INSERT INTO t VALUES (2)").unwrap();
        assert_eq!(look(0), Found::Whole, "what comes after it was not being copied");
        let log = folder.path().join("records.db-wal");
        let whole = std::fs::read(&log).unwrap();
        for at in [0, 20, 33, 4_000, 7_000] {
            let mut flipped = whole.clone();
            flipped[at] ^= 4;
            std::fs::write(&log, flipped).unwrap();
            assert_eq!(look(0), Found::Differs(0), "byte {at}");
        }
        std::fs::write(&log, &whole[..100]).unwrap();
        assert_eq!(look(0), Found::Differs(0));
        std::fs::write(&log, &whole).unwrap();
        copying.end(1, Position(7)).unwrap();
        assert_eq!((look(1), look(0), look(2)), (Found::Idle, Found::PutBack, Found::PutBack));
        connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE); INSERT INTO t VALUES (3)").unwrap();
        assert_eq!(look(1), Found::Idle, "begun anew, and not yet named");
        copying.name_log().unwrap();
        assert_eq!(look(1), Found::Idle);
        let newer = std::fs::read(&log).unwrap();
        std::fs::write(&log, &whole).unwrap();
        assert_eq!(look(1), Found::OtherLog, "the one before");
        std::fs::write(&log, &newer).unwrap();
        copying.begin(true, 2).unwrap();
        assert_eq!((look(1), look(2), look(0)), (Found::Whole, Found::Whole, Found::PutBack));
        std::fs::remove_file(&log).unwrap();
        assert_eq!(look(1), Found::Differs(7));
        let mark = folder.path().join("records.copying");
        let bytes = std::fs::read(&mark).unwrap();
        std::fs::write(&mark, &bytes[..50]).unwrap();
        assert_eq!(look(9), Found::Idle);
    }
}
