//! Bytes that change on the disk: of a large blob, of which there is one file, and of second copies. What is read of it is
//! said to be damaged; nothing else suffers; whoever runs the store puts the blob's file back from a copy.

use std::path::{Path, PathBuf};

use swarmkeep::{BlobId, lock};

use super::{Event, World, faults::Mend};
use crate::{
    client::{Ask, Waiting},
    holder::{STORE, id},
};

/// A blob's file, as it was.
pub(super) struct Rotten {
    pub(super) session: usize,
    blob: BlobId,
    path: PathBuf,
    bytes: Vec<u8>,
}

impl World {
    fn home(&self) -> PathBuf {
        lock::home_on(&self.disk, Path::new(STORE))
    }

    fn blob_file(&self, session: usize, blob: BlobId) -> PathBuf {
        self.home().join("blobs").join(id(session).to_string()).join(blob.to_string())
    }

    /// Some bytes of a file change.
    pub(super) fn rots(&mut self) {
        let kept = self.home().join("kept");
        let kept: Vec<PathBuf> = self
            .disk
            .files()
            .into_iter()
            .filter(|path| path.starts_with(&kept) && path.extension().is_none_or(|end| end != "part"))
            .collect();
        let owed = self.oracle.sessions.iter().enumerate();
        let owed: Vec<(usize, BlobId)> =
            owed.flat_map(|(session, known)| known.blobs.iter().map(move |blob| (session, *blob))).collect();
        let files: Vec<(usize, BlobId, Vec<u8>)> = owed
            .into_iter()
            .filter_map(|(session, blob)| Some((session, blob, self.disk.contents(&self.blob_file(session, blob))?)))
            .collect();
        match (files.is_empty(), kept.is_empty()) {
            (true, true) => {}
            (false, _) if kept.is_empty() || self.draw.one_in(2) => {
                let (session, blob, bytes) = files[self.draw.below(files.len())].clone();
                let path = self.blob_file(session, blob);
                self.harm(&path);
                self.rotten = Some(Rotten { session, blob, path, bytes });
                self.oracle.rotten = Some((session, blob));
                let until = 200 + self.draw.below(3_000) as u64;
                self.at(until, Event::Mend(Mend::Rot));
            }
            _ => {
                let path = kept[self.draw.below(kept.len())].clone();
                self.harm(&path);
                self.copy_rotted = true;
            }
        }
    }

    fn harm(&mut self, path: &Path) {
        let length = self.disk.contents(path).map_or(0, |bytes| bytes.len());
        let (at, run) = (self.draw.below(length), [1, 16, 4_096][self.draw.below(3)]);
        self.say(format_args!("{} rots from byte {at} on, {run} bytes", path.display()));
        self.figures.rotten += 1;
        self.disk.alter(path, |bytes| bytes.iter_mut().skip(at).take(run).for_each(|byte| *byte ^= 0x55));
    }

    /// The blob's file is put back, unless somebody who brought the same content did so.
    pub(super) fn puts_back(&mut self) {
        let Some(Rotten { session, blob, path, bytes }) = self.rotten.take() else { return };
        self.oracle.rotten = None;
        self.was_rotten = Some((session, blob, self.next_call));
        // A disk that fails just then does not say where the store is; one that was taken over from has been copied as it was.
        for path in [path, self.blob_file(session, blob)] {
            if self.disk.contents(&path).is_some() {
                self.disk.alter(&path, |rotten| rotten.clone_from(&bytes));
            }
        }
    }

    /// Whether the blob that is asked for is damaged, or was when it may have been read: an answer is on its way for a while.
    pub(super) fn is_rotten(&self, waiting: &Waiting) -> bool {
        let Ask::Fetch { session, blob } = &waiting.ask else { return false };
        let is = |(of, what)| (of, what) == (*session, *blob);
        self.oracle.rotten.is_some_and(is)
            || self.was_rotten.is_some_and(|(of, what, last_call)| is((of, what)) && waiting.call <= last_call)
    }

    /// Whether the findings of a proof are of what is known to have rotted.
    pub(super) fn are_known(&self, findings: &[String]) -> bool {
        // Of a sync that failed the views know no more once the power has gone: their pages may be of several moments, and whoever
        // meets that has them made again.
        let is_of_views = |finding: &str| {
            self.weather.disk_errors && finding.contains("place: \"views\"") && finding.contains("is malformed")
        };
        let is_of_copy = |finding: &str| self.copy_rotted && finding.contains("a second copy is damaged");
        findings.iter().all(|finding| is_of_copy(finding) || is_of_views(finding))
    }
}
