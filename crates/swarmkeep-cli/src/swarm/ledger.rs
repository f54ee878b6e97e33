//! What was acknowledged, written down by whom it was acknowledged to: one JSON line each, synced before the next request.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};

/// An acknowledgement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ack {
    /// The request's id.
    pub(crate) request: String,
    /// The first record that it made.
    pub(crate) first: u64,
    /// The last one.
    pub(crate) seq: u64,
    /// Its hash, which holds for all before it.
    pub(crate) hash: String,
}

/// A file of them.
#[derive(Debug)]
pub(crate) struct Ledger {
    file: File,
}

impl Ledger {
    /// One for each life of each agent: nobody else writes to it.
    pub(crate) fn create(folder: &Path, whose: &str) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(folder.join(format!("{whose}.ndjson")))?;
        File::open(folder)?.sync_all()?;
        Ok(Self { file })
    }

    /// Writes one down; it is on disk when this returns.
    pub(crate) fn note(&mut self, ack: &Ack) -> io::Result<()> {
        let mut line = serde_json::to_vec(ack)?;
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.file.sync_data()
    }
}

/// All that was written down, in all files. A line without an end was never written down: its writer was killed.
pub(crate) fn read(folder: &Path) -> io::Result<Vec<Ack>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let text = fs::read_to_string(&path)?;
        let complete = text.rfind('\n').map_or("", |end| text.get(..end).unwrap_or(""));
        for line in complete.lines() {
            let ack = serde_json::from_str(line).map_err(|error| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{}: `{line}`: {error}", path.display()))
            })?;
            all.push(ack);
        }
    }
    Ok(all)
}

/// How many were written down so far.
pub(crate) fn count(folder: &Path) -> io::Result<u64> {
    let mut lines = 0;
    for entry in fs::read_dir(folder)? {
        lines += fs::read(entry?.path())?.iter().filter(|byte| **byte == b'\n').count() as u64;
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_a_torn_line_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let ack = |seq| Ack { request: format!("ada.1:{seq}"), first: seq, seq, hash: "ab".repeat(32) };
        let mut ledger = Ledger::create(dir.path(), "ada.1").unwrap();
        ledger.note(&ack(1)).unwrap();
        ledger.note(&ack(2)).unwrap();
        ledger.file.write_all(b"{\"request\":\"ada.1:3\"").unwrap();
        assert_eq!(read(dir.path()).unwrap(), [ack(1), ack(2)]);
        ledger.file.write_all(b"\n").unwrap();
        assert!(read(dir.path()).is_err(), "a whole line that is no acknowledgement is not passed over");
    }
}
