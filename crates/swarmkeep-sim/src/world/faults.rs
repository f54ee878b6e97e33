//! What goes wrong, and when it is all right again.

use swarmkeep::disk::{
    Disk,
    simulated::{Call, Failure, Fault, Loss},
};

use super::{Doom, Event, World, proof::Phase};
use crate::holder::STORE;

/// What ends by itself.
#[derive(Debug)]
pub(super) enum Mend {
    /// There is room on the disk.
    Room,
    /// The disk works.
    Disk,
    /// The holder that was taken over from ends.
    Former,
    /// The holder goes on.
    Holder,
    /// What rotted is put back.
    Rot,
}

impl World {
    /// The holder ends within so many changes of the disk.
    pub(super) fn dooms(&mut self, changes: usize) {
        let loss = (self.weather.power && self.draw.one_in(2)).then(|| Loss::ALL[self.draw.below(Loss::ALL.len())]);
        let nth = self.draw.below(changes) as u64;
        self.say(format_args!("the holder is to end after {nth} changes, {loss:?}"));
        self.disk.die_at(nth);
        self.doom = Some(Doom { loss });
    }

    pub(super) fn fault(&mut self) {
        if self.phase != Phase::Storm {
            return;
        }
        let pause = 100 + self.draw.below(1_100) as u64;
        self.at(pause, Event::Fault);
        if self.doom.is_some() {
            // It has not changed that much: now, then.
            self.disk.die_at(0);
            self.collect();
            return;
        }
        let weather = self.weather;
        match self.draw.below(13) {
            0 | 1 if weather.crashes && self.holder.is_some() => self.dooms(60),
            2 if weather.pauses && self.holder.is_some() && !self.is_stopped() => {
                let stop = 50 + self.draw.below(6_000) as u64;
                self.stopped_at_ms = self.now_ms;
                self.say(format_args!("the holder is stopped for {stop} ms"));
                self.stopped_until_ms = self.now_ms + stop;
                self.at(stop, Event::Mend(Mend::Holder));
            }
            3 if weather.client_faults => {
                let nth = self.draw.below(self.clients.len());
                if self.draw.one_in(2) {
                    self.say(format_args!("{} ends", self.clients[nth].process()));
                    self.clients[nth].crash();
                    let after = 50 + self.draw.below(2_000) as u64;
                    self.wake(nth, after);
                } else {
                    let stop = 50 + self.draw.below(8_000) as u64;
                    self.say(format_args!("{} is stopped for {stop} ms", self.clients[nth].process()));
                    self.clients[nth].stopped_until_ms = self.now_ms + stop;
                }
            }
            4 if weather.partitions => {
                let (nth, until) = (self.draw.below(self.clients.len()), 100 + self.draw.below(4_000) as u64);
                self.say(format_args!("client {nth} is cut off for {until} ms"));
                self.network.cut(nth, self.now_ms + until);
            }
            5 if weather.full_disk => {
                let free = self.disk.free_bytes(std::path::Path::new(STORE)).unwrap_or(0);
                let room = self.draw.below(200_000) as u64;
                self.say(format_args!("{room} bytes are left on the disk"));
                self.disk.set_capacity(Some((1 << 40) - free + room));
                (self.is_full, self.disk_faults) = (true, true);
                let until = 200 + self.draw.below(3_000) as u64;
                self.at(until, Event::Mend(Mend::Room));
            }
            6 if weather.disk_errors && weather.power && self.draw.one_in(2) => {
                let failure = [Failure::SyncMarksClean, Failure::SyncDrops, Failure::Eio][self.draw.below(3)];
                let fault =
                    Fault { call: Some(Call::Sync), nth: 1 + self.draw.below(3) as u64, sticky: false, failure };
                self.say(format_args!("{fault:?}, and then the power goes"));
                self.disk.fail(fault);
                (self.disk_faults, self.syncs_failed) = (true, true);
                let after = 50 + self.draw.below(500) as u64;
                self.at(after, Event::Outage);
            }
            6 if weather.disk_errors => {
                let failures =
                    [Failure::Eio, Failure::Enospc, Failure::Short, Failure::SyncMarksClean, Failure::SyncDrops];
                let calls = [None, Some(Call::Sync), Some(Call::Sync), Some(Call::Write), Some(Call::SyncDir)];
                let fault = Fault {
                    call: calls[self.draw.below(calls.len())],
                    nth: 1 + self.draw.below(30) as u64,
                    sticky: self.draw.one_in(4),
                    failure: failures[self.draw.below(failures.len())],
                };
                self.say(format_args!("{fault:?}"));
                self.disk.fail(fault);
                self.disk_faults = true;
                self.syncs_failed |= matches!(fault.call, None | Some(Call::Sync));
                let until = 100 + self.draw.below(1_500) as u64;
                self.at(until, Event::Mend(Mend::Disk));
            }
            7 if weather.jumps => {
                let by = [3_600_000, -3_600_000, 5_000, -700][self.draw.below(4)];
                self.say(format_args!("the wall clock jumps by {by} ms"));
                self.clock.jump(by);
                self.oracle.times.jumps(self.now_ms, by);
            }
            8 if weather.takeovers && self.may_be_taken_over() => self.take_over(),
            9 if weather.lazy_applier => {
                self.lazy_until_ms = self.now_ms + self.draw.below(5_000) as u64;
            }
            10 if weather.parks && self.holder.is_some() && !self.is_stopped() && !self.parking => self.park(),
            11 if weather.trims && self.holder.is_some() && !self.is_stopped() && !self.parking => self.trim(),
            12 if weather.rot && self.rotten.is_none() => self.rots(),
            _ => self.stale(),
        }
    }

    /// The power goes, now or very soon.
    pub(super) fn outage(&mut self) {
        if self.phase == Phase::Storm && self.holder.is_some() && self.doom.is_none() {
            let loss = Loss::ALL[self.draw.below(Loss::ALL.len())];
            let nth = self.draw.below(8) as u64;
            self.say(format_args!("the power goes after {nth} changes, {loss:?}"));
            self.disk.die_at(nth);
            self.doom = Some(Doom { loss: Some(loss) });
        }
    }

    pub(super) fn mend(&mut self, mend: Mend) {
        self.say(format_args!("{mend:?} again"));
        match mend {
            Mend::Room => {
                self.disk.set_capacity(None);
                self.is_full = false;
            }
            Mend::Disk if self.doom.is_none() => self.disk.heal(),
            Mend::Disk => self.at(300, Event::Mend(Mend::Disk)),
            Mend::Former => self.former_ends(),
            Mend::Rot => self.puts_back(),
            Mend::Holder => {
                if let Some(holder) = self.holder.as_ref().filter(|_| self.stopped_until_ms > 0) {
                    holder.wake(self.now_ms);
                    self.oracle.times.wakes(self.stopped_at_ms, self.now_ms);
                }
                self.stopped_until_ms = 0;
            }
        }
    }

    /// From now on nothing fails.
    pub(super) fn calm(&mut self) {
        self.say(format_args!("calm"));
        if self.doom.take().is_some() || !self.disk.has_died() {
            self.disk.heal();
        }
        self.mend(Mend::Room);
        self.network.calm();
        self.mend(Mend::Holder);
        self.former_ends();
        self.puts_back();
        self.lazy_until_ms = 0;
        self.phase = Phase::Calm;
        for nth in 0..self.clients.len() {
            self.clients[nth].stopped_until_ms = 0;
            self.wake(nth, 1);
        }
        self.at(50, Event::Settle);
    }
}
