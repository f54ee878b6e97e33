//! Where a demo keeps what it needs: inside its store's folder, in `demo/`.

use std::path::{Path, PathBuf};

use crate::{failure::Failure, moment, place};

/// The session that the demo works in.
pub(crate) const SESSION: &str = "demo/swarm";

/// The folder of one demo.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    /// The store.
    pub(crate) store: PathBuf,
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
        Ok(Self { store })
    }

    fn own(&self) -> PathBuf {
        self.store.join("demo")
    }

    /// Makes it.
    pub(crate) fn make(&self) -> Result<(), Failure> {
        place::make_private(&self.store)?;
        place::make_private(&self.own())?;
        place::make_private(&self.acknowledged())
    }

    /// One file for each life of each agent: what was acknowledged to it.
    pub(crate) fn acknowledged(&self) -> PathBuf {
        self.own().join("acknowledged")
    }

    /// The outside world: one line for each thing done.
    pub(crate) fn outside(&self) -> PathBuf {
        self.own().join("outside.log")
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

impl From<&Path> for Folder {
    fn from(store: &Path) -> Self {
        Self { store: store.to_owned() }
    }
}
