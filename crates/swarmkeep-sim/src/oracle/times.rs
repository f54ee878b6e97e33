//! When what happened, in the world's time: records carry the wall clock's, which jumps.

use std::collections::BTreeMap;

use swarmkeep::Epoch;

use crate::holder::BEGAN_MS;

/// A holder that was stopped for longer gives every lease its full time again.
const MISSED_BEAT_MS: u64 = 2_000;

/// A stop of the holder's process.
#[derive(Debug, Clone, Copy)]
pub struct Stop {
    /// When it was stopped.
    pub from_ms: u64,
    /// When it went on.
    pub to_ms: u64,
}

/// Starts, stops, and jumps of the wall clock.
#[derive(Debug, Default)]
pub struct Times {
    /// When each holder started, by its epoch.
    starts: BTreeMap<Epoch, u64>,
    stops: Vec<Stop>,
    /// From when on the wall clock was how far ahead.
    skews: Vec<(u64, i64)>,
}

impl Times {
    /// A holder has started.
    pub fn starts(&mut self, epoch: Epoch, now_ms: u64) {
        self.starts.insert(epoch, now_ms);
    }

    /// A holder that was stopped goes on.
    pub fn wakes(&mut self, from_ms: u64, now_ms: u64) {
        if now_ms.saturating_sub(from_ms) > MISSED_BEAT_MS {
            self.stops.push(Stop { from_ms, to_ms: now_ms });
        }
    }

    /// The wall clock jumps.
    pub fn jumps(&mut self, now_ms: u64, by_ms: i64) {
        let before = self.skews.last().map_or(0, |(_, skew)| *skew);
        self.skews.push((now_ms, before + by_ms));
    }

    /// The life of a holder: when it started, and when the next one did.
    #[must_use]
    pub fn life(&self, epoch: Epoch) -> (u64, u64) {
        let from = self.starts.get(&epoch).copied().unwrap_or(0);
        let to = self.starts.range(Epoch(epoch.0 + 1)..).next().map_or(u64::MAX, |(_, start)| *start);
        (from, to)
    }

    /// Stops that were over by then, and long enough for every lease to begin again.
    pub fn stops(&self, at_ms: u64) -> impl Iterator<Item = Stop> {
        self.stops.iter().copied().filter(move |stop| stop.to_ms <= at_ms)
    }

    /// The earliest and the latest moment at which a holder of this epoch can have made a record of this time, seen at
    /// `seen_ms`. A record's time is never before that of the one before it: where they are equal after a jump, the clock may
    /// have been behind, and nothing more is known.
    #[must_use]
    pub fn when(&self, wall_ms: u64, before_ms: u64, epoch: Epoch, seen_ms: u64) -> (u64, u64) {
        let (from_ms, to_ms) = self.life(epoch);
        let seen_ms = seen_ms.min(to_ms);
        let mut found: Option<(u64, u64)> = None;
        let first = (0, 0);
        let segments = std::iter::once(&first).chain(&self.skews);
        let ends = self.skews.iter().map(|(from, _)| *from).chain([u64::MAX]);
        for ((from, skew), end) in segments.zip(ends) {
            let at = wall_ms.checked_sub(BEGAN_MS).and_then(|ms| ms.checked_add_signed(-skew));
            if let Some(at) = at.filter(|at| *at >= from_ms.max(*from) && *at <= end.min(seen_ms)) {
                found = Some((found.map_or(at, |(earliest, _)| earliest.min(at)), at));
            }
        }
        match found {
            Some(found) if wall_ms > before_ms || self.skews.is_empty() => found,
            _ => (from_ms, seen_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_s_time_is_found_over_jumps() {
        let mut times = Times::default();
        times.starts(Epoch(1), 0);
        let when = |times: &Times, wall_ms: u64, before_ms: u64, seen_ms: u64| {
            times.when(BEGAN_MS + wall_ms, BEGAN_MS + before_ms, Epoch(1), seen_ms)
        };
        assert_eq!(when(&times, 50, 0, 90), (50, 50));
        assert_eq!(when(&times, 50, 50, 90), (50, 50), "in the same millisecond");
        times.jumps(100, 1_000);
        assert_eq!(when(&times, 1_150, 0, 200), (150, 150));
        assert_eq!(when(&times, 1_150, 1_150, 200), (0, 200), "the clock may be behind, and has been since any moment");
        times.jumps(300, -1_100);
        assert_eq!(when(&times, 260, 0, 500), (360, 360));
        assert_eq!(when(&times, 9_000, 0, 500), (0, 500), "at no moment that is known");
        times.starts(Epoch(2), 400);
        assert_eq!(when(&times, 9_000, 0, 500), (0, 400), "but by this holder");
    }
}
