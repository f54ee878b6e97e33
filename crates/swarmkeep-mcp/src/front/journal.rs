//! What of a client's conversation outlives the process: one file of JSON lines for each, appended to as things happen and
//! written anew when it has grown.
//!
//! That a conversation was begun is durable before the client hears its name. The rest is written, and not synced: it is there
//! after a kill. After loss of power its last lines may be missing; the calls that were in them are in the session's log, and
//! their numbers are not used again, because numbers begin at the time of the start.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

/// A file of more than this, and of more than four times what still counts, is written anew.
const GROWN_BYTES: u64 = 4 << 20;

/// A line of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub(super) enum Entry {
    /// A line of the client, as it went on.
    Said {
        number: u64,
        stream: u64,
        /// Its requests: as they went on, and as the client named them.
        requests: Vec<(u64, Names)>,
        line: String,
    },
    /// Nothing is to be done about that line any more.
    Settled { number: u64 },
    /// Something for the client.
    Given { stream: u64, seq: u64, line: String },
    /// Nothing more comes on that stream, and nobody takes it up again.
    Over { stream: u64 },
    /// On the general stream the client was given everything up to here.
    Taken { seq: u64 },
    /// Numbers are used up to here.
    Drawn { number: u64 },
    /// The client's `initialize`.
    Began { number: u64, line: String },
    /// The revision that was agreed upon.
    Agreed { revision: String },
}

/// How a client named a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Names {
    /// JSON text.
    pub(super) id: String,
    /// The progress token, JSON text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) token: Option<String>,
}

/// The folder of all conversations.
#[derive(Debug, Clone)]
pub(super) struct Folder(PathBuf);

/// The file of one.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    bytes: u64,
}

fn text(entries: &[Entry]) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    for entry in entries {
        serde_json::to_writer(&mut text, entry)?;
        text.push(b'\n');
    }
    Ok(text)
}

impl Folder {
    /// Makes it, closed to others.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        Ok(Self(path.to_owned()))
    }

    /// A conversation's name is hexadecimal: nothing else is looked for.
    fn path(&self, name: &str) -> Option<PathBuf> {
        let is_name = name.len() == 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_name.then(|| self.0.join(format!("{name}.jsonl")))
    }

    /// Begins the file of a conversation; durable when this returns.
    pub(super) fn begin(&self, name: &str, entries: &[Entry]) -> io::Result<Journal> {
        let path = self.path(name).ok_or(io::ErrorKind::InvalidInput)?;
        let journal = Journal::create(&path, entries)?;
        File::open(&self.0)?.sync_all()?;
        Ok(journal)
    }

    /// What a conversation's file has; `None`: there is none of that name. A line that was cut off ends it.
    pub(super) fn read(&self, name: &str) -> io::Result<Option<(Journal, Vec<Entry>)>> {
        let Some(path) = self.path(name) else { return Ok(None) };
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text?,
        };
        let lines = text.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
        let entries: Vec<Entry> = lines.map_while(|line| serde_json::from_slice(line).ok()).collect();
        if entries.is_empty() {
            return Ok(None);
        }
        Ok(Some((Journal::create(&path, &entries)?, entries)))
    }

    /// All names, each with how long ago something was written.
    pub(super) fn names(&self) -> io::Result<Vec<(String, u64)>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            let name = entry.file_name().into_string().unwrap_or_default();
            let Some(name) = name.strip_suffix(".jsonl").filter(|name| self.path(name).is_some()) else { continue };
            let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
            names.push((name.to_owned(), u64::try_from(age.as_millis()).unwrap_or(u64::MAX)));
        }
        Ok(names)
    }

    /// Ends one.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        let Some(path) = self.path(name) else { return Ok(()) };
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl Journal {
    fn create(path: &Path, entries: &[Entry]) -> io::Result<Self> {
        let making = path.with_extension("part");
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&making)?;
        let text = text(entries)?;
        file.write_all(&text)?;
        file.sync_data()?;
        fs::rename(&making, path)?;
        Ok(Self { path: path.to_owned(), file, bytes: text.len() as u64 })
    }

    pub(super) fn add(&mut self, entries: &[Entry]) -> io::Result<()> {
        let text = text(entries)?;
        self.file.write_all(&text)?;
        self.bytes += text.len() as u64;
        Ok(())
    }

    /// Whether it is worth writing anew, when so many bytes of it still count.
    pub(super) fn has_grown(&self, counting: u64) -> bool {
        self.bytes > GROWN_BYTES && self.bytes / 4 > counting
    }

    /// Writes it anew.
    pub(super) fn write_anew(&mut self, entries: &[Entry]) -> io::Result<()> {
        *self = Self::create(&self.path.clone(), entries)?;
        Ok(())
    }

    /// Something was written now, although nothing was: whoever comes back later finds it.
    pub(super) fn touch(&self, now_ms: u64) -> io::Result<()> {
        self.file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_millis(now_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "00112233445566778899aabbccddeeff";

    fn given(seq: u64) -> Entry {
        Entry::Given { stream: 1, seq, line: "{}".to_owned() }
    }

    #[test]
    fn what_was_written_is_read_again_up_to_a_line_that_was_cut_off() {
        let home = tempfile::tempdir().unwrap();
        let folder = Folder::open(&home.path().join("http")).unwrap();
        let mut journal = folder.begin(NAME, &[given(1)]).unwrap();
        journal.add(&[given(2), given(3)]).unwrap();
        drop(journal);
        let path = folder.path(NAME).unwrap();
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 5]).unwrap();
        let (mut journal, entries) = folder.read(NAME).unwrap().unwrap();
        assert_eq!(entries.len(), 2);
        // What was cut off is gone from the file, too: what is added stands after what was read.
        journal.add(&[given(4)]).unwrap();
        let (_, entries) = folder.read(NAME).unwrap().unwrap();
        assert!(matches!(entries.last(), Some(Entry::Given { seq: 4, .. })));
        assert_eq!(entries.len(), 3);
        assert_eq!(folder.names().unwrap().len(), 1);
        folder.remove(NAME).unwrap();
        assert!(folder.read(NAME).unwrap().is_none());
    }

    #[test]
    fn every_entry_is_read_as_it_was_written() {
        let names = |id: &str, token: Option<&str>| Names { id: id.to_owned(), token: token.map(str::to_owned) };
        let requests = vec![(u64::MAX, names("\"1\"", Some("1.0"))), (7, names("-3", None))];
        for entry in [
            Entry::Said { number: 9, stream: 2, requests, line: "{\"a\": \"\\ud800\"}".to_owned() },
            Entry::Settled { number: 9 },
            given(3),
            Entry::Over { stream: 2 },
            Entry::Drawn { number: 1 << 50 },
            Entry::Taken { seq: 4 },
            Entry::Began { number: 1, line: "ü".to_owned() },
            Entry::Agreed { revision: "2025-11-25".to_owned() },
        ] {
            let text = serde_json::to_string(&entry).unwrap();
            assert_eq!(serde_json::from_str::<Entry>(&text).unwrap(), entry, "{text}");
        }
    }

    #[test]
    fn names_that_are_none_are_not_looked_for() {
        let home = tempfile::tempdir().unwrap();
        let folder = Folder::open(home.path()).unwrap();
        fs::write(home.path().join("x.jsonl"), "{}").unwrap();
        for name in ["", "x", "../x", "00112233445566778899aabbccddeef", "0011223344556677/../aabbccddeeff"] {
            assert!(folder.read(name).unwrap().is_none(), "{name}");
            assert!(folder.begin(name, &[]).is_err());
        }
        assert_eq!(folder.names().unwrap(), vec![]);
    }
}
