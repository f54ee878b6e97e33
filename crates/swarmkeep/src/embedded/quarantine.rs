//! Records of sessions that were set aside: kept in files, one per group, until somebody decides.
//!
//! `quarantine/session-SESSION-FIRST-LAST.records` holds the records of one group as they were acknowledged. As long as a
//! session has such a file it stays set aside: it takes no writes, and its state is not served, because the records between
//! are missing. When they are found, the groups follow them into records.db and their files are renamed (`mended-…`). When a
//! person accepts that they are lost, the files are renamed too (`given-up-…`), and the session goes on from before them.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use swarmkeep_core::{SessionId, limits, log::Damage};
use swarmkeep_sqlite::{Entry, What};

use crate::disk::{self, Disk, OpenHow, about, free_name, is_no_file_of_ours, read_whole};

pub(super) struct Quarantine {
    disk: Arc<dyn Disk>,
    store: PathBuf,
}

impl Quarantine {
    pub(super) fn new(disk: Arc<dyn Disk>, store: &Path) -> Self {
        Self { disk, store: store.to_owned() }
    }

    /// Keeps an entry, durably. The same entry again changes nothing. Entries that are not records are let go: they are
    /// observations, checkpoints, and removals of what nobody can read.
    pub(super) fn keep(&self, entry: &Entry) -> io::Result<()> {
        let What::Records { first, head, bytes, .. } = &entry.what else { return Ok(()) };
        let folder = self.store.join("quarantine");
        self.disk.create_dir(&folder)?;
        self.disk.sync_dir(&self.store)?;
        let name = format!("session-{}-{first}-{}.records", entry.session, head.seq);
        disk::replace(self.disk.as_ref(), &folder, &name, bytes)
    }

    /// Keeps bytes that could not be used, durably, under a name of their own.
    pub(super) fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let folder = self.store.join("quarantine");
        self.disk.create_dir(&folder)?;
        self.disk.sync_dir(&self.store)?;
        disk::replace(self.disk.as_ref(), &folder, name, bytes)
    }

    /// The groups of a session that was set aside: their files' names, the last seq that each says it has, their bytes. What
    /// cannot be such a file has none.
    pub(super) fn groups(&self, session: SessionId) -> io::Result<Vec<(String, u64, Bytes)>> {
        let folder = self.store.join("quarantine");
        let names = match self.disk.list(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            names => names?,
        };
        let mut groups = Vec::new();
        for name in names {
            let Some(damage) = parse(&name).filter(|damage| damage.session == Some(session)) else { continue };
            let file = self.disk.open(&folder.join(&name), OpenHow::Read);
            let bytes = match file.and_then(|file| read_whole(file.as_ref(), limits::FRAME_BYTES as u64)) {
                Err(error) if is_no_file_of_ours(&error) => {
                    tracing::warn!(name, %error, "what is kept of a session that was set aside is no copy of it");
                    Vec::new()
                }
                read => read.map_err(|error| about(format_args!("quarantine/{name}"), &error))?,
            };
            groups.push((name, damage.seqs.map_or(0, |seqs| *seqs.end()), bytes.into()));
        }
        Ok(groups)
    }

    /// Their session is not set aside for these groups any more: `mended`, they are in records.db; `given-up`, somebody
    /// accepted that they are not. They stay, under another name.
    pub(super) fn settled(&self, names: &[String], how: &str) -> io::Result<()> {
        let folder = self.store.join("quarantine");
        for name in names {
            let settled = free_name(self.disk.as_ref(), &folder, &format!("{how}-{name}"))?;
            self.disk.rename(&folder.join(name), &folder.join(settled))?;
        }
        self.disk.sync_dir(&folder)
    }

    /// The sessions that were set aside before, and what is kept of each.
    pub(super) fn sessions(&self) -> io::Result<Vec<Damage>> {
        let folder = self.store.join("quarantine");
        let names = match self.disk.list(&folder) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(about("quarantine", &error)),
        };
        Ok(names.iter().filter_map(|name| parse(name)).collect())
    }
}

fn parse(name: &str) -> Option<Damage> {
    let parts: Vec<&str> = name.strip_prefix("session-")?.strip_suffix(".records")?.split('-').collect();
    let [session, first, last] = parts.as_slice() else { return None };
    let session: SessionId = session.parse().ok()?;
    let seqs = first.parse().ok()?..=last.parse().ok()?;
    let what = format!("records before these are missing; these are kept as quarantine/{name}");
    Some(Damage { session: Some(session), seqs: Some(seqs), what })
}
