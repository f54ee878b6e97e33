//! Whether the file at records.db's path is still the one that this process writes.
//!
//! An open file is open whatever becomes of its name, and SQLite reads a page that it has in its cache from there. So it goes on
//! over a file that somebody has written over, and copies its write-ahead log into it: pages of two times, which still look like
//! a database. What is at the path is looked at before every copying, where records do not follow, and every now and then.

use swarmkeep_sqlite::{RecordsDb, SqliteError};

use super::{
    applier::{Applier, Batch},
    open::GONE,
    progress::Ask,
    remake::{self, Broken},
};
use crate::{
    incident::Noticed,
    recovery::{Damaged, DataLoss},
};

/// Between two looks at the file.
const LOOK_EVERY_MS: u64 = 1_000;
impl Applier {
    /// Whether it is time to look at the file again.
    pub(super) fn is_look_due(&self, batch: &Batch) -> bool {
        self.is_look_late() || batch.asks.iter().any(|ask| matches!(ask, Ask::Look(_)))
    }

    /// Whether nobody has looked at the file for a while.
    pub(super) fn is_look_late(&self) -> bool {
        self.surroundings.clock.monotonic_ms().saturating_sub(self.looked_at_ms) >= LOOK_EVERY_MS
    }

    /// Looks whether the file at its path is still the one that this process writes: SQLite would not see before the next start that
    /// somebody put another in its place, wrote over it, or took it away.
    pub(super) fn look_at_file(&mut self) {
        self.looked_at_ms = self.surroundings.clock.monotonic_ms();
        if self.doubtful {
            return;
        }
        let (disk, path) = (self.surroundings.disk.clone(), self.surroundings.folder.join("records.db"));
        let found = match disk.exists(&path) {
            Ok(true) => match RecordsDb::main_stamp(disk.vfs(), &path) {
                Ok(stamp) if stamp < self.copying.last_stamp() => {
                    Some((Broken::PutBack, "a file of an earlier time was put in its place".to_owned()))
                }
                Err(SqliteError::Damaged(damage)) => {
                    Some((Broken::Unreadable, SqliteError::Damaged(damage).to_string()))
                }
                _ => None,
            },
            Ok(false) => {
                if self.still_held().is_ok() {
                    self.write_down_again();
                }
                None
            }
            // It may be answered the next time.
            Err(_) => None,
        };
        // Whoever has taken the store over may be writing it just now: it is theirs.
        if let Some((how, why)) = found.filter(|_| self.still_held().is_ok()) {
            self.break_with(how, why);
        }
    }

    /// That nobody has taken the store over: what lies there is theirs then.
    pub(super) fn still_held(&self) -> Result<(), SqliteError> {
        match self.journal.upgrade().and_then(|journal| journal.look_at_fence()) {
            Some(_) => Err(SqliteError::Busy("another process has taken the store over".into())),
            None => Ok(()),
        }
    }

    /// An error, where what is there is not to be written before it was opened again.
    pub(super) fn undoubted(&self) -> Result<(), SqliteError> {
        match &self.broken {
            Some((_, why)) => Err(SqliteError::damaged(None, None, why.clone())),
            None if self.doubtful => Err(SqliteError::Busy("records.db is to be opened again".into())),
            None => Ok(()),
        }
    }

    /// Nobody finds the file any more, and it is still open: all of it is written down once more.
    fn write_down_again(&mut self) {
        let (disk, folder) = (self.surroundings.disk.clone(), self.surroundings.folder.clone());
        let saved = remake::save(disk.as_ref(), &folder, &self.records, || self.still_held());
        match saved {
            Ok(()) => {
                let said = "records.db: it was taken away; made again from what was open of it: nothing is missing";
                tracing::error!("{said}");
                self.progress.made_again.lock().push(said.to_owned());
                self.progress.notice(Noticed::of_damaged(Damaged::in_records(DataLoss::None, said.to_owned())));
                self.doubtful = true;
            }
            Err(error) => {
                tracing::error!(%error, "records.db is gone, and what is open of it could not be saved");
                self.break_with(Broken::Unreadable, GONE.to_owned());
            }
        }
    }
}
