//! A second holder: the store is taken over from one that is stopped, at any moment, in the middle of a call too, by the code
//! that is shipped. Then that one goes on, and some clients still ask it.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use swarmkeep::{
    Turn,
    core::clock::Clock,
    disk::simulated::SimDisk,
    lock::{self, LockError},
};

use super::{Event, World, faults::Mend, proof::Phase};
use crate::{holder::STORE, reader::Reader};

/// Changes of the disk within which a takeover comes.
const CHANGES: usize = 14;

/// A takeover that is under way.
pub(super) struct Taking {
    /// The process that takes the store over.
    disk: SimDisk,
    /// What came of it, once it has come.
    outcome: Arc<Mutex<Option<Result<(), LockError>>>>,
}

impl World {
    pub(super) fn may_be_taken_over(&self) -> bool {
        self.holder.is_some() && self.former.is_none() && self.taking.is_none() && !self.parking
    }

    /// Another process is to take the store over, in the middle of something that the holder does.
    pub(super) fn take_over(&mut self) {
        let nth = self.draw.below(CHANGES) as u64;
        self.say(format_args!("the store is to be taken over after {nth} changes"));
        let taking = Taking { disk: self.disk.beside(), outcome: Arc::default() };
        let (disk, outcome, now_ms) = (taking.disk.clone(), taking.outcome.clone(), self.clock.now_ms());
        self.disk.meanwhile(nth, move || {
            let taken = take(disk, now_ms);
            *outcome.lock().unwrap() = Some(taken);
        });
        self.taking = Some(taking);
        let at_last = 20 + self.draw.below(400) as u64;
        self.at(at_last, Event::TakeOver);
    }

    /// The holder has not changed that much, or is stopped: now, then.
    pub(super) fn takes_over_now(&mut self) -> Result<(), String> {
        if self.disk.never_mind()
            && let Some(taking) = &self.taking
        {
            let taken = take(taking.disk.clone(), self.clock.now_ms());
            *taking.outcome.lock().unwrap() = Some(taken);
        }
        self.is_taken_over()
    }

    /// Looks whether a takeover has come, and lets the new holder start.
    pub(super) fn is_taken_over(&mut self) -> Result<(), String> {
        let Some(taking) = &self.taking else { return Ok(()) };
        let Some(outcome) = taking.outcome.lock().unwrap().take() else { return Ok(()) };
        let disk = taking.disk.clone();
        self.taking = None;
        self.say(format_args!("the store is taken over: {outcome:?}"));
        if self.disk.has_died() {
            return Ok(());
        }
        // One that did not come to its end may have shut the old holder out all the same.
        let is_shut_out = self.holder.as_ref().is_some_and(|holder| holder.log().fenced_out().is_some());
        if !is_shut_out {
            disk.end();
            return Ok(());
        }
        self.figures.takeovers += 1;
        self.disk = disk;
        self.former = self.holder.take();
        (self.former_wakes_ms, self.stopped_until_ms) = (self.stopped_until_ms, 0);
        for nth in 0..self.loyal.len() {
            self.loyal[nth] = self.draw.one_in(2);
        }
        self.readers.iter_mut().for_each(Reader::cut);
        self.inquiry.forget();
        if matches!(self.phase, Phase::Showing | Phase::Verifying) {
            // What was asked of the one before is asked of this one.
            self.phase = Phase::Calm;
        }
        let until = 100 + self.draw.below(3_000) as u64;
        self.at(until, Event::Mend(Mend::Former));
        self.start()
    }

    /// The holder that was taken over from runs, unless it is stopped.
    pub(super) fn former_runs(&mut self) {
        let Some(former) = self.former.as_ref().filter(|_| self.former_wakes_ms <= self.now_ms) else { return };
        if std::mem::take(&mut self.former_wakes_ms) > 0 {
            former.wake(self.now_ms);
        }
        former.run(self.now_ms);
    }

    /// And writes, to files of its own.
    pub(super) fn former_turns(&self) {
        if let Some(former) = self.former.as_ref().filter(|_| self.former_wakes_ms <= self.now_ms) {
            for turn in [Turn::Take, Turn::Write, Turn::Apply, Turn::Retire] {
                former.turn(turn);
            }
        }
    }

    pub(super) fn former_ends(&mut self) {
        if let Some(former) = self.former.take() {
            former.disk().end();
        }
        self.former_wakes_ms = 0;
        self.loyal.fill(false);
    }
}

/// As `swarmkeep take-over` does it; the store is opened by whoever comes next.
fn take(disk: SimDisk, now_ms: u64) -> Result<(), LockError> {
    lock::take_over_on(Arc::new(disk), Path::new(STORE), now_ms).map(drop)
}
