//! Ranges of seqs.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::Seq;

/// A range of seqs, both ends in it, never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Range {
    /// The first.
    pub first: Seq,
    /// The last.
    pub last: Seq,
}

impl Range {
    /// From `first` to `last`; `None` when that is nothing.
    #[must_use]
    pub fn between(first: Seq, last: Seq) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// How many seqs.
    #[must_use]
    pub fn count(&self) -> u64 {
        (self.last.0 - self.first.0).saturating_add(1)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{} to {}", self.first, self.last) }
    }
}

/// A set of seqs: ranges in ascending order that neither touch nor overlap.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Range>")]
pub struct Ranges(Vec<Range>);

impl Ranges {
    /// Whether there is no seq in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many seqs.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.iter().map(|range| range.count()).fold(0, u64::saturating_add)
    }

    /// The ranges, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Range> {
        self.0.iter().copied()
    }

    /// The last seq.
    #[must_use]
    pub fn last(&self) -> Option<Seq> {
        self.0.last().map(|range| range.last)
    }

    /// How far one comes from `from` without a gap: `from` itself when the seq after it is not there.
    #[must_use]
    pub fn reach(&self, from: Seq) -> Seq {
        let next = after(from);
        self.iter().find(|range| range.first <= next && next <= range.last).map_or(from, |range| range.last)
    }

    /// Both.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.iter().chain(other.iter()).collect()
    }

    /// What is in this and not in the other.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        for range in self.iter() {
            let mut first = Some(range.first);
            for cut in other.iter().filter(|cut| cut.first <= range.last && cut.last >= range.first) {
                if let Some(from) = first.filter(|from| *from < cut.first) {
                    left.push(Range { first: from, last: Seq(cut.first.0 - 1) });
                }
                first = (cut.last < range.last).then(|| cut.last.next());
            }
            left.extend(first.map(|first| Range { first, last: range.last }));
        }
        Self(left)
    }

    /// What is in both.
    #[must_use]
    pub fn within(&self, other: &Self) -> Self {
        self.without(&self.without(other))
    }
}

/// The seq after this one; seqs read from somewhere may be the largest there are.
pub(super) fn after(seq: Seq) -> Seq {
    Seq(seq.0.saturating_add(1))
}

impl FromIterator<Range> for Ranges {
    fn from_iter<I: IntoIterator<Item = Range>>(ranges: I) -> Self {
        // A range read from somewhere may be the wrong way round.
        let mut sorted: Vec<Range> = ranges.into_iter().filter(|range| range.first <= range.last).collect();
        sorted.sort_unstable();
        let mut merged: Vec<Range> = Vec::with_capacity(sorted.len());
        for range in sorted {
            match merged.last_mut() {
                Some(last) if range.first.0 <= last.last.0.saturating_add(1) => last.last = last.last.max(range.last),
                _ => merged.push(range),
            }
        }
        Self(merged)
    }
}

impl From<Vec<Range>> for Ranges {
    fn from(ranges: Vec<Range>) -> Self {
        ranges.into_iter().collect()
    }
}

impl From<Option<Range>> for Ranges {
    fn from(range: Option<Range>) -> Self {
        range.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn any_ranges() -> impl Strategy<Value = Ranges> {
        prop::collection::vec((1u64..60, 0u64..12), 0..6).prop_map(|list| {
            list.into_iter().map(|(first, more)| Range { first: Seq(first), last: Seq(first + more) }).collect()
        })
    }

    fn set(ranges: &Ranges) -> BTreeSet<u64> {
        ranges.iter().flat_map(|range| range.first.0..=range.last.0).collect()
    }

    proptest! {
        #[test]
        fn ranges_are_sets_of_seqs(one in any_ranges(), other in any_ranges(), from in 0u64..80) {
            let (a, b) = (set(&one), set(&other));
            prop_assert_eq!(set(&one.union(&other)), &a | &b);
            prop_assert_eq!(set(&one.without(&other)), &a - &b);
            prop_assert_eq!(set(&one.within(&other)), &a & &b);
            prop_assert_eq!(one.count(), a.len() as u64);
            let reach = (from + 1..).take_while(|seq| a.contains(seq)).last().unwrap_or(from);
            prop_assert_eq!(one.reach(Seq(from)), Seq(reach));
            let read: Ranges = serde_json::from_str(&serde_json::to_string(&one).unwrap()).unwrap();
            prop_assert_eq!(read, one);
        }
    }
}
