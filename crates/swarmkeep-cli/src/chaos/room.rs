//! A device that is small enough to be filled: a tmpfs over the store's folder. Only the superuser of a Linux machine can
//! mount one.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Room for a small store: its journal, its tables, and what the run adds.
const BYTES: u64 = 96 << 20;

/// A mounted one; gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Room(PathBuf);

impl Room {
    /// Mounts one over an empty folder; else why not.
    pub(crate) fn make(folder: &Path) -> Result<Self, String> {
        let options = format!("size={BYTES},mode=0700");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "swarmkeep-chaos"]).arg(folder).stdin(Stdio::null());
        match mount.output() {
            Ok(done) if done.status.success() => Ok(Self(folder.to_owned())),
            Ok(done) => {
                let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
                Err(format!("a small device cannot be mounted without being root ({said})"))
            }
            Err(error) => Err(format!("a small device cannot be mounted: {error}")),
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // Whoever still has a file open there keeps it until then.
        let ended = Command::new("umount").arg("--lazy").arg(&self.0).stdin(Stdio::null()).status();
        if !ended.is_ok_and(|status| status.success()) {
            crate::say::remark!("{} is still mounted: umount it", self.0.display());
        }
    }
}
