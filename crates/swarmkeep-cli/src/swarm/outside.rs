//! The world outside the session: a file that a line is appended to for each thing done.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, Write},
    path::Path,
};

/// Does it: one line, one write, synced.
pub(crate) fn act(path: &Path, key: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all(format!("{key}\n").as_bytes())?;
    file.sync_data()
}

/// How often each thing was done.
pub(crate) fn count(path: &Path) -> io::Result<BTreeMap<String, u64>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    let mut counts = BTreeMap::new();
    for key in text.lines() {
        *counts.entry(key.to_owned()).or_insert(0) += 1;
    }
    Ok(counts)
}
