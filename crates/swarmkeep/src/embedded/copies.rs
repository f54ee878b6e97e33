//! What stands in records.db alone: lost with it, if nobody made a backup.

use std::{collections::HashMap, ops::RangeInclusive};

use serde::Serialize;
use swarmkeep_core::{Seq, SessionId, log::LogError};

use super::{EmbeddedLog, recover::Mender};
use crate::journal::search::{self, Segment};

/// Ranges that are listed; more are counted.
const LISTED: usize = 1_000;
/// Sessions read at a time.
const PAGE: usize = 1_000;

/// Which of the records in records.db stand nowhere else in the store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct OneCopy {
    /// Records in records.db.
    pub records: u64,
    /// Of them, those that neither the journal nor a kept copy has.
    pub once: u64,
    /// Sessions that have such records.
    pub sessions: u64,
    /// Where they are, at most 1,000 ranges.
    pub ranges: Vec<OnceRange>,
    /// There are more ranges than are listed.
    pub more: bool,
    /// Bytes that are in the journal and not yet in records.db: they stand once, too.
    pub unapplied_bytes: usize,
}

/// Records of one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct OnceRange {
    /// Which session.
    pub session: SessionId,
    /// Seq of the first.
    pub first: u64,
    /// Seq of the last.
    pub last: u64,
}

impl EmbeddedLog {
    /// Compares what records.db has with what the journal and the kept copies have, by their directories: nothing is hashed,
    /// so damage is not found here. Reads the journal's segments; blocks.
    ///
    /// # Errors
    /// What records.db says.
    pub fn one_copy(&self) -> Result<OneCopy, LogError> {
        let elsewhere = self.mender.elsewhere();
        let mut found = OneCopy { unapplied_bytes: self.progress.unapplied.get(), ..OneCopy::default() };
        let mut after = None;
        loop {
            let page = self.read_records(|records| records.sessions(after, PAGE))?;
            after = page.last().map(|session| session.id);
            for session in &page {
                found.records += session.head.seq.0 - session.base.seq.0;
                let covered = elsewhere.get(&session.id).map(Vec::as_slice).unwrap_or_default();
                found.add(session.id, uncovered(session.base.seq.next()..=session.head.seq, covered));
            }
            if page.len() < PAGE {
                return Ok(found);
            }
        }
    }
}

impl OneCopy {
    fn add(&mut self, session: SessionId, ranges: Vec<RangeInclusive<u64>>) {
        self.sessions += u64::from(!ranges.is_empty());
        for range in ranges {
            let (first, last) = range.into_inner();
            self.once += last - first + 1;
            if self.ranges.len() < LISTED {
                self.ranges.push(OnceRange { session, first, last });
            } else {
                self.more = true;
            }
        }
    }
}

impl Mender {
    /// By session, what the journal and the kept copies have, in order.
    fn elsewhere(&self) -> HashMap<SessionId, Vec<RangeInclusive<u64>>> {
        let mut all: HashMap<SessionId, Vec<RangeInclusive<u64>>> = HashMap::new();
        let through = self.journal.durable();
        let extents = search::extents(self.disk.as_ref(), &self.store_dir, &self.journal.extents());
        for extent in extents.unwrap_or_default() {
            let read = Segment::read(self.disk.as_ref(), &self.store_dir, self.store, extent, through);
            let Ok(Some(segment)) = read else { continue };
            for span in segment.spans() {
                all.entry(span.session).or_default().extend(span.seqs);
            }
        }
        if let Some(keeper) = &self.keeper {
            let searched = keeper.search(|file| {
                for run in &file.runs {
                    all.entry(run.session).or_default().push(run.seqs.clone());
                }
                Ok(false)
            });
            if let Err(error) = searched {
                tracing::warn!(%error, "more may stand a second time than is said");
            }
        }
        all.values_mut().for_each(|ranges| ranges.sort_unstable_by_key(|range| *range.start()));
        all
    }
}

/// What of `all` no range in `covered` (sorted by its start) has.
fn uncovered(all: RangeInclusive<Seq>, covered: &[RangeInclusive<u64>]) -> Vec<RangeInclusive<u64>> {
    let (mut next, last) = (all.start().0, all.end().0);
    let mut gaps = Vec::new();
    for range in covered {
        if *range.start() > last {
            break;
        }
        if *range.start() > next {
            gaps.push(next..=range.start() - 1);
        }
        next = next.max(range.end() + 1);
    }
    if next <= last {
        gaps.push(next..=last);
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_range_covers_is_left() {
        let gaps = |covered: &[RangeInclusive<u64>]| uncovered(Seq(3)..=Seq(10), covered);
        assert_eq!(gaps(&[]), [3..=10]);
        assert_eq!(gaps(&[1..=20]), []);
        assert_eq!(gaps(&[1..=4, 2..=3, 6..=7, 12..=13]), [5..=5, 8..=10]);
        assert_eq!(gaps(&[3..=5, 4..=9]), [10..=10]);
        assert_eq!(uncovered(Seq(1)..=Seq(0), &[]), [], "a session without records");
    }
}
