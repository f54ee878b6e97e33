//! Where a swarm works, and where it keeps what it writes down: a demo inside its store's folder, in `demo/`; chaos beside
//! the store, which may be full or damaged.

use std::path::{Path, PathBuf};

use crate::{failure::Failure, moment, place};

/// The session that a swarm works in.
pub(crate) const SESSION: &str = "demo/swarm";

/// The folders of one swarm.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    /// The store.
    pub(crate) store: PathBuf,
    /// What was acknowledged, and what was done outside.
    pub(crate) notes: PathBuf,
}

impl Folder {
    /// A new one below the platform's data folder.
    pub(crate) fn scratch() -> Result<Self, Failure> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let above = place::data_folder(&set)?.join("swarmkeep-demo");
        let stamp = moment::stamp(moment::now_ms());
        let mut store = above.join(format!("demo-{stamp}"));
        let mut again = 2;
        while store.exists() {
            store = above.join(format!("demo-{stamp}-{again}"));
            again += 1;
        }
        Ok(Self::within(store))
    }

    /// With its notes inside its store.
    pub(crate) fn within(store: PathBuf) -> Self {
        let notes = store.join("demo");
        Self { store, notes }
    }

    /// Makes it.
    pub(crate) fn make(&self) -> Result<(), Failure> {
        place::make_private(&self.store)?;
        place::make_private(&self.notes)?;
        place::make_private(&self.acknowledged())
    }

    /// One file for each life of each agent: what was acknowledged to it.
    pub(crate) fn acknowledged(&self) -> PathBuf {
        self.notes.join("acknowledged")
    }

    /// The outside world: one line for each thing done.
    pub(crate) fn outside(&self) -> PathBuf {
        self.notes.join("outside.log")
    }

    /// What it takes on the disk, about.
    pub(crate) fn bytes(&self) -> u64 {
        fn below(dir: &Path) -> u64 {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            entries
                .map(|entry| match entry.metadata() {
                    Ok(metadata) if metadata.is_dir() => below(&entry.path()),
                    // Blocks: segments are made longer than what is written into them.
                    Ok(metadata) => std::os::unix::fs::MetadataExt::blocks(&metadata) * 512,
                    Err(_) => 0,
                })
                .sum()
        }
        below(&self.store)
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.store.join("daemon.log")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.store.join("control.sock")
    }
}
