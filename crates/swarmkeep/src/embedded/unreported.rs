//! What starts have found that no report in the store tells of yet: `unreported.json`.
//!
//! A start writes it down, durably, before it puts anything aside, and so before anything comes after what is lost: one that is cut
//! off anywhere is followed by one that tells it all the same. The file goes when the report is in records.db. The first line is
//! the BLAKE3 hash of the rest.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use swarmkeep_core::{Seq, SessionId, failure::Place, log::Damage};

use super::{
    case::{Case, Cases, hashed, unhashed},
    lane::Lanes,
};
use crate::{
    disk::{self, Disk, OpenHow, about, is_no_file_of_ours, read_whole},
    journal::Inspection,
    recovery::{Damaged, DataLoss, RecoveryReport, Span},
};

const NAME: &str = "unreported.json";
/// The same once more: what it says may be nowhere else.
const TWIN: &str = "unreported.twin";
/// A longer file is not one of these.
const BYTES_MAX: u64 = 16 << 20;
const UNREADABLE: &str = "unreported.json: what a start that was cut off had found cannot be read, nor can its second copy; the \
                          bytes that it set aside are in quarantine/";

/// Acknowledged records of a session that neither the journal nor records.db has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Lost {
    session: SessionId,
    first: Seq,
    last: Seq,
    cause: String,
}

/// What there is to tell.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Found {
    damage: Vec<Damaged>,
    possibly_acknowledged: Vec<Span>,
    lost: Vec<Lost>,
}

impl Found {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn add(&mut self, more: Self) {
        merge(&mut self.damage, more.damage);
        merge(&mut self.possibly_acknowledged, more.possibly_acknowledged);
        merge(&mut self.lost, more.lost);
    }
}

fn merge<T: PartialEq>(all: &mut Vec<T>, more: Vec<T>) {
    for one in more {
        if !all.contains(&one) {
            all.push(one);
        }
    }
}

/// See the module.
pub(super) struct Unreported {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    found: Found,
    /// What was met since this start: the next one tells it.
    later: Found,
}

impl Unreported {
    /// Reads what earlier starts left to be told. Changes nothing.
    pub(super) fn look(disk: Arc<dyn Disk>, folder: &Path) -> io::Result<Self> {
        let mut found = None;
        let mut is_there = false;
        // The first copy is never the older one: where it is whole it counts.
        for name in [NAME, TWIN] {
            let file = match disk.open(&folder.join(name), OpenHow::Read) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => file,
            };
            is_there = true;
            match file.and_then(|file| read_whole(file.as_ref(), BYTES_MAX)) {
                Ok(bytes) if found.is_none() => found = unhashed(&bytes),
                Ok(_) => {}
                Err(error) if is_no_file_of_ours(&error) => {}
                // It may be read another time, and what it says must not be forgotten.
                Err(error) => return Err(about(name, &error)),
            }
        }
        let found = match found {
            None if is_there => unreadable(),
            found => found.unwrap_or_default(),
        };
        Ok(Self { disk, folder: folder.to_owned(), found, later: Found::default() })
    }

    /// There is more, of what is not in the journal.
    pub(super) fn add_damage(&mut self, damage: Damaged) -> io::Result<()> {
        self.add(Found { damage: vec![damage], ..Found::default() })
    }

    /// There is damage that was met after the start.
    pub(super) fn add_later(&mut self, damage: Damaged) -> io::Result<()> {
        self.later.add(Found { damage: vec![damage], ..Found::default() });
        self.write()
    }

    /// There is more, of the journal.
    pub(super) fn add_inspection(&mut self, inspection: &Inspection) -> io::Result<()> {
        self.add(found_in(inspection))
    }

    /// The same, to be known by whoever only looks.
    pub(super) fn note_inspection(&mut self, inspection: &Inspection) {
        self.found.add(found_in(inspection));
    }

    fn add(&mut self, more: Found) -> io::Result<()> {
        let before = self.found.clone();
        self.found.add(more);
        if self.found == before { Ok(()) } else { self.write() }
    }

    fn write(&self) -> io::Result<()> {
        let mut all = self.found.clone();
        all.add(self.later.clone());
        let bytes = hashed(&all)?;
        [NAME, TWIN].iter().try_for_each(|name| disk::replace(self.disk.as_ref(), &self.folder, name, &bytes))
    }

    /// The report of this start tells all of it.
    pub(super) fn put_into(&self, report: &mut RecoveryReport) {
        report.clean &= self.found.is_empty();
        (report.damage, report.possibly_acknowledged) = self.told();
    }

    /// What is damaged, and what may have been acknowledged and cannot be read.
    pub(super) fn told(&self) -> (Vec<Damaged>, Vec<Span>) {
        (self.found.damage.clone(), self.found.possibly_acknowledged.clone())
    }

    /// Sessions of which acknowledged records are lost take nothing until it is known whether these stand elsewhere. `keep` is
    /// given what is to be remembered of each, unless it was before.
    pub(super) fn set_lost_aside(
        &self,
        lanes: &Lanes,
        cases: &Cases,
        mut keep: impl FnMut(SessionId, Case) -> io::Result<()>,
    ) -> io::Result<()> {
        for Lost { session, first, last, cause } in &self.found.lost {
            let mut known = cases.get(*session).unwrap_or_default();
            let told = format!("{cause}, seqs {first} to {last}");
            if lanes.is_leaving(*session) || known.told.contains(&told) {
                continue;
            }
            known.told.push(told);
            let case = known.lacking(*first, *last, cause);
            keep(*session, case)?;
            let damage = Damage { session: Some(*session), seqs: Some(first.0..=last.0), what: cause.clone() };
            lanes.set_aside(damage);
        }
        Ok(())
    }

    /// The report is in the store.
    pub(super) fn is_told(&mut self) -> io::Result<()> {
        if self.found.is_empty() {
            return Ok(());
        }
        self.found = Found::default();
        if !self.later.is_empty() {
            return self.write();
        }
        // The second one last: a first one that is there, and is the older, would count.
        for name in [NAME, TWIN] {
            match self.disk.remove(&self.folder.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.disk.sync_dir(&self.folder)
    }
}

fn unreadable() -> Found {
    let (loss, what) = (DataLoss::Possible, UNREADABLE.to_owned());
    let unread = Damaged { place: Place::Journal, loss, sessions: Vec::new(), what };
    Found { damage: vec![unread], ..Found::default() }
}

fn found_in(inspection: &Inspection) -> Found {
    let mut found = Found::default();
    for damage in &inspection.damage {
        let (loss, saved) = match (damage.in_records, &damage.spans) {
            (true, _) if damage.positions.is_empty() => (DataLoss::None, "no frame is missing".into()),
            (true, _) => (DataLoss::None, "records.db has all of it".into()),
            (false, Some(spans)) => (DataLoss::Certain, format!("NOT in records.db: {}", in_words(spans))),
            (false, None) => (DataLoss::Certain, "NOT in records.db; whose it was cannot be told".into()),
        };
        let (segment, what, name) = (damage.segment, &damage.what, damage.quarantine_name());
        let what = format!("journal segment {segment}: {what} ({saved}); its bytes go to quarantine/{name}");
        let mut sessions: Vec<SessionId> = damage.spans.iter().flatten().map(|span| span.session).collect();
        sessions.sort_unstable();
        sessions.dedup();
        found.damage.push(Damaged { place: Place::Journal, loss, sessions, what });
        if !damage.in_records {
            let cause = format!("journal segment {segment}: {}", damage.what);
            let lost = damage.spans.iter().flatten().filter_map(|span| {
                let seqs = span.seqs.as_ref()?;
                let (first, last) = (Seq(*seqs.start()), Seq(*seqs.end()));
                Some(Lost { session: span.session, first, last, cause: cause.clone() })
            });
            found.lost.extend(lost);
        }
    }
    for doubt in inspection.doubts.iter().filter(|doubt| !doubt.abandoned) {
        match &doubt.spans {
            Some(spans) => found.possibly_acknowledged.extend(spans.iter().map(|span| Span {
                session: span.session,
                first: span.seqs.as_ref().map(|seqs| *seqs.start()),
                last: span.seqs.as_ref().map(|seqs| *seqs.end()),
            })),
            None => {
                let what = format!(
                    "journal segment {}: after its end is, or was, what may have been acknowledged; whose it was cannot be \
                     told; its bytes go to quarantine/{}",
                    doubt.segment,
                    doubt.quarantine_name()
                );
                let (place, loss) = (Place::Journal, DataLoss::Possible);
                found.damage.push(Damaged { place, loss, sessions: Vec::new(), what });
            }
        }
    }
    found
}

fn in_words(spans: &[crate::journal::frame::Span]) -> String {
    let words = spans.iter().map(|span| match &span.seqs {
        Some(seqs) => format!("session {} seqs {} to {}", span.session, seqs.start(), seqs.end()),
        None => format!("session {}", span.session),
    });
    words.collect::<Vec<_>>().join(", ")
}
