//! Second copies of what is damaged in records.db: where they are looked for, and what may be put back.
//!
//! One way only: the damaged rows themselves (a flipped column leaves the records whole), what was set aside, the journal,
//! the kept files. A record is taken where the session's hash chain leads to it and nowhere else: a gap is filled backwards
//! from the hash that the record after it names, so that what is put in cannot be another than what stood there. When, and
//! whether, is decided in `recover`.

use std::{collections::BTreeMap, io};

use bytes::{Bytes, BytesMut};
use swarmkeep_core::{
    BlobId, Hash, Seq, SessionId,
    log::{Blob, LogError, Refused},
    record,
    recovery::{Range, Ranges},
};
use swarmkeep_sqlite::{Gap, Survey};

use super::{case::Case, keeper::may_pass, sight::Places};
use crate::{
    disk::about,
    journal::{
        Entry,
        search::{self, Segment},
    },
    recovery::Repair,
};

/// Records and blobs that were found, by what names them.
#[derive(Default)]
pub(super) struct Found {
    pub(super) records: BTreeMap<(u64, Hash), (Bytes, &'static str)>,
    /// By seq and the hash of the record before: the way forward where no later record is known. Where a session went back
    /// there are two; the one of the later epoch and time is the one that stands.
    next: BTreeMap<(u64, Hash), (Hash, (u64, u64))>,
    pub(super) blobs: BTreeMap<BlobId, (Seq, Bytes, &'static str)>,
    /// Blobs without a row that can be used, and with a file that verifies: its length.
    pub(super) files: BTreeMap<BlobId, u64>,
    /// What could not be read for the moment: it may have what was not found.
    unread: Option<io::Error>,
}

impl Found {
    pub(super) fn add(&mut self, session: SessionId, bytes: &Bytes, from: &'static str) {
        let mut at = 0;
        for view in record::iter(bytes).map_while(Result::ok) {
            let length = view.bytes().len();
            let hash = view.hash();
            if view.session() == session && view.body().is_ok() {
                let seq = view.seq().0;
                self.records.entry((seq, hash)).or_insert_with(|| (bytes.slice(at..at + length), from));
                let age = (view.epoch().0, view.time_ms());
                let next = self.next.entry((seq, view.previous())).or_insert((hash, age));
                if next.1 < age {
                    *next = (hash, age);
                }
            }
            at += length;
        }
    }

    pub(super) fn blob(&mut self, seq: Seq, blob: &Blob, from: &'static str) {
        if !blob.bytes.is_empty() && *blake3::hash(&blob.bytes).as_bytes() == blob.id.0 {
            self.blobs.entry(blob.id).or_insert_with(|| (seq, blob.bytes.clone(), from));
        }
    }

    pub(super) fn has_blob(&self, id: &BlobId) -> bool {
        self.blobs.contains_key(id) || self.files.contains_key(id)
    }

    fn could_not_read(&mut self, read: io::Result<()>) {
        self.unread = read.err().or(self.unread.take());
    }

    /// Nothing is given up of which a copy may stand in what could not be read now.
    ///
    /// # Errors
    /// `Busy` when something was not found, is not known as lost, and not every place could be read.
    pub(super) fn must_be_all<'a>(
        &self,
        survey: &Survey,
        after: Option<&Gap>,
        runs: impl Iterator<Item = &'a Run>,
        case: &Case,
    ) -> Result<(), LogError> {
        let Some(error) = &self.unread else { return Ok(()) };
        let last = |gap: &Gap| Seq(gap.last.map_or(u64::MAX - 1, |(last, _)| last));
        let gaps = survey.gaps.iter().chain(after);
        let gaps: Ranges = gaps.filter_map(|gap| Range::between(Seq(gap.first), last(gap))).collect();
        let filled: Ranges = runs.filter_map(Run::range).collect();
        let is_lost = |blob: &BlobId| case.parts_lost.contains(&format!("blob {blob}"));
        let bad = survey.blobs.iter().filter_map(|row| row.blob.as_ref());
        let has_blobs = survey.missing.keys().chain(bad).all(|blob| self.has_blob(blob) || is_lost(blob));
        if has_blobs && gaps.without(&case.history_lost).without(&filled).is_empty() {
            return Ok(());
        }
        Err(unread(error))
    }

    /// Records from `first` on that follow the one with this hash, up to `last`.
    pub(super) fn forwards(&self, first: u64, mut before: Hash, last: u64) -> Run {
        let mut run = Run { first, ..Run::default() };
        for seq in first..=last {
            let Some((hash, _)) = self.next.get(&(seq, before)) else { break };
            let Some((bytes, from)) = self.records.get(&(seq, *hash)) else { break };
            run.records.push((bytes.clone(), from));
            before = *hash;
        }
        run.end = before;
        run
    }

    /// Records down from the one with this seq and hash, to `first`.
    fn backwards(&self, first: u64, last: u64, mut hash: Hash) -> Run {
        let mut run = Run { first: last + 1, end: hash, ..Run::default() };
        while run.first > first {
            let Some((bytes, from)) = self.records.get(&(run.first - 1, hash)) else { break };
            let Ok((view, _)) = record::RecordView::split(bytes) else { break };
            hash = view.previous();
            run.records.push((bytes.clone(), from));
            run.first -= 1;
        }
        run.records.reverse();
        run
    }
}

/// Contiguous records, each with where it was found.
#[derive(Default, Clone)]
pub(super) struct Run {
    pub(super) first: u64,
    records: Vec<(Bytes, &'static str)>,
    /// Hash of the last.
    end: Hash,
}

impl Run {
    pub(super) fn bytes(&self) -> Bytes {
        let mut all = BytesMut::new();
        self.records.iter().for_each(|(bytes, _)| all.extend_from_slice(bytes));
        all.freeze()
    }

    pub(super) fn next(&self) -> u64 {
        self.first + self.records.len() as u64
    }

    /// Its seqs; `None`: there are none.
    pub(super) fn range(&self) -> Option<Range> {
        (!self.records.is_empty()).then(|| Range { first: Seq(self.first), last: Seq(self.next() - 1) })
    }

    /// Of it, what does not go beyond `last`.
    pub(super) fn through(mut self, last: u64) -> Self {
        let length = usize::try_from((last + 1).saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.records.truncate(length);
        self
    }

    /// Its bytes.
    pub(super) fn len(&self) -> usize {
        self.records.iter().map(|(bytes, _)| bytes.len()).sum()
    }

    /// Those that follow `after`, as many as fit, and one at least; `None`: it does not have the next one.
    pub(super) fn following(&self, after: Seq, max_bytes: usize) -> Option<Bytes> {
        let skipped = usize::try_from(after.0.saturating_add(1).checked_sub(self.first)?).ok()?;
        let mut out = BytesMut::new();
        for (bytes, _) in self.records.get(skipped..)? {
            if !out.is_empty() && out.len() + bytes.len() > max_bytes {
                break;
            }
            out.extend_from_slice(bytes);
        }
        (!out.is_empty()).then(|| out.freeze())
    }

    pub(super) fn repairs(&self, session: SessionId) -> Vec<Repair> {
        let mut repairs: Vec<Repair> = Vec::new();
        for (seq, (_, from)) in (self.first..).zip(&self.records) {
            match repairs.last_mut() {
                Some(last) if last.from == **from => last.last = Some(seq),
                _ => repairs.push(Repair {
                    session,
                    what: "records".into(),
                    first: Some(seq),
                    last: Some(seq),
                    from: (*from).into(),
                }),
            }
        }
        repairs
    }
}

impl Places<'_> {
    /// Everything of a session's gaps that is anywhere, the damaged rows first.
    pub(super) fn gather(
        &self,
        session: SessionId,
        survey: &Survey,
        gaps: &[Gap],
        groups: &[(String, u64, Bytes)],
    ) -> Result<Found, LogError> {
        let mut found = Found::default();
        for row in &survey.chunks {
            found.add(session, &Bytes::from(row.salvaged.clone()), "row");
        }
        for (.., bytes) in groups {
            found.add(session, bytes, "quarantine");
        }
        let wants_blobs = !survey.blobs.is_empty() || !survey.missing.is_empty();
        if gaps.is_empty() && !wants_blobs {
            return Ok(found);
        }
        let wanted = |first: u64, last: u64| {
            wants_blobs
                || gaps.iter().any(|gap| first <= gap.last.map_or(u64::MAX, |(last, _)| last) && last >= gap.first)
        };
        for id in survey.missing.keys() {
            if let Ok(bytes) = self.blobs.get(session, *id) {
                found.files.insert(*id, bytes.len() as u64);
            }
        }
        let searched = self.search_journal(session, &wanted, &mut found);
        found.could_not_read(searched);
        let searched = (self.kept)(&mut |file| {
            for run in file.runs.iter().filter(|run| run.session == session) {
                if wanted(*run.seqs.start(), *run.seqs.end()) {
                    found.add(session, &file.records(run)?, "kept");
                }
            }
            for blob in file.blobs.iter().filter(|blob| blob.session == session) {
                found.blob(blob.seq, &Blob { id: blob.id, bytes: file.blob(blob)? }, "kept");
            }
            Ok(false)
        });
        found.could_not_read(searched);
        Ok(found)
    }

    /// The error is of what could not be read, once everything else was gone through.
    fn search_journal(
        &self,
        session: SessionId,
        wanted: &impl Fn(u64, u64) -> bool,
        found: &mut Found,
    ) -> io::Result<()> {
        let mut failed = None;
        for extent in search::extents(self.disk, self.store_dir, &self.extents)? {
            let segment = match Segment::read(self.disk, self.store_dir, self.store, extent, self.through) {
                Ok(Some(segment)) => segment,
                Ok(None) => continue,
                Err(error) if may_pass(&error) => {
                    failed = Some(about(format_args!("segment {} of the journal", extent.number), &error));
                    continue;
                }
                Err(_) => continue,
            };
            let here = segment.spans().iter().any(|span| {
                span.session == session && span.seqs.as_ref().is_some_and(|seqs| wanted(*seqs.start(), *seqs.end()))
            });
            if !here {
                continue;
            }
            let frames = segment.frames().0;
            for entry in frames.iter().flat_map(|frame| &frame.entries) {
                if let Entry::Records(group) = entry
                    && group.session == session
                {
                    found.add(session, &group.records, "journal");
                    group.blobs.iter().for_each(|blob| found.blob(group.head.seq, blob, "journal"));
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

/// The answer to whoever asks for what depends on a place that cannot be read for the moment.
pub(super) fn unread(error: &io::Error) -> LogError {
    let detail =
        format!("a place where a copy may stand cannot be read for the moment, and nothing is given up: {error}");
    LogError::Refused { kind: Refused::Busy, detail }
}

/// The records that stood in a gap, as far as they were found.
pub(super) fn fill(gap: &Gap, found: &Found) -> Vec<Run> {
    let mut runs = Vec::new();
    match gap.last {
        Some((last, hash)) => {
            let back = found.backwards(gap.first, last, hash);
            if back.first > gap.first {
                runs.push(found.forwards(gap.first, gap.before, back.first - 1));
            }
            runs.push(back);
        }
        None => runs.push(found.forwards(gap.first, gap.before, u64::MAX - 1)),
    }
    runs.retain(|run| !run.records.is_empty());
    runs
}
