//! What is done to a swarm at work, and in which order.

use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use super::dice::Dice;

/// Kills of the daemon in a demo, at least, besides the last one before the check.
const KILLS_MIN: u64 = 5;

/// Something bad that happens once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strike {
    /// `kill -9` of the daemon.
    KillDaemon,
    /// The same, and once more while it is coming back.
    KillDaemonTwice,
    /// `kill -9` of an agent.
    KillAgent,
    /// The daemon is stopped (SIGSTOP), and continued after this long.
    StopDaemon(Duration),
    /// The daemon is stopped and continued in short bursts: it gets on as slowly as with a disk that hangs.
    Stutter(Duration),
    /// The store's device is filled to the last byte; after this long there is room again.
    FillDisk(Duration),
    /// The daemon's wall clock jumps by so many seconds.
    JumpClock(i64),
}

/// A run: how long, what happens in it, and what that takes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Script {
    /// How long the agents work, from the start of the daemon on.
    pub(crate) work_ms: u64,
    /// One after another, spread over the time.
    pub(crate) strikes: Vec<Strike>,
    /// Chooses the moments.
    pub(crate) seed: u64,
    /// What the daemon's environment has on top.
    pub(crate) environment: Vec<(&'static str, OsString)>,
    /// Says to the daemon's clock by how much it is off.
    pub(crate) clock: Option<PathBuf>,
    /// A file to fill the store's device with.
    pub(crate) ballast: Option<PathBuf>,
}

impl Script {
    /// The demo's: the daemon is killed again and again, one agent once.
    pub(crate) fn demo(seconds: u64, seed: u64) -> Self {
        let kills = usize::try_from((seconds / 4).max(KILLS_MIN)).unwrap_or(usize::MAX);
        let mut strikes = vec![Strike::KillDaemon; kills];
        strikes.insert(kills / 2, Strike::KillAgent);
        Self { work_ms: work_ms(seconds), strikes, seed, ..Self::default() }
    }

    /// When each is due, in milliseconds since the run began; the first not before `begin_ms`.
    pub(crate) fn moments(&self, begin_ms: u64, dice: &mut Dice) -> Vec<(u64, Strike)> {
        let slot = self.work_ms.saturating_sub(begin_ms) / (self.strikes.len() as u64 + 1);
        let at = |n: u64, dice: &mut Dice| begin_ms + n * slot + dice.between(slot * 2 / 5, slot.max(1) * 9 / 10);
        (0..).zip(&self.strikes).map(|(n, strike)| (at(n, dice), *strike)).collect()
    }
}

/// What of `seconds` is work: the rest is for winding up and for the check.
pub(crate) fn work_ms(seconds: u64) -> u64 {
    (seconds * 1000).saturating_sub((seconds * 120).clamp(800, 4_000))
}

/// Writes to `ballast` until the device has no room at all.
pub(crate) fn fill(ballast: &Path) -> io::Result<u64> {
    let mut file = OpenOptions::new().create(true).append(true).open(ballast)?;
    let mut filled = 0;
    for bytes in [1 << 20, 64 << 10, 4 << 10, 512, 1] {
        let block = vec![0xb5; bytes];
        loop {
            match file.write(&block) {
                Ok(0) => break,
                Ok(written) => filled += written as u64,
                Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(filled)
}

/// Makes room again.
pub(crate) fn empty(ballast: &Path) -> io::Result<()> {
    fs::remove_file(ballast)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strikes_are_in_order_within_the_time_and_the_same_for_a_seed() {
        let script = Script::demo(30, 7);
        let moments = script.moments(300, &mut Dice::new(7));
        assert_eq!(moments, script.moments(300, &mut Dice::new(7)));
        assert!(moments.windows(2).all(|pair| pair[0].0 <= pair[1].0), "{moments:?}");
        assert!(moments.iter().all(|(at, _)| (300..script.work_ms).contains(at)), "{moments:?}");
        assert_eq!(moments.iter().filter(|(_, strike)| *strike == Strike::KillAgent).count(), 1);
    }
}
