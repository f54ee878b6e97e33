//! What whoever runs a store does to it: stops it cleanly, starts it as another program, has old records and whole sessions
//! removed.

use std::path::Path;

use swarmkeep::{Error, disk::Disk, lock};

use super::{
    Event, World,
    proof::{Phase, Question},
};
use crate::{client::Ask, holder::STORE, reader::Reader};

impl World {
    /// The holder is gone, however it ended.
    pub(super) fn ended(&mut self) {
        self.readers.iter_mut().for_each(Reader::cut);
        self.loyal.fill(false);
        self.inquiry.forget();
        self.parking = false;
        if self.weather.removals && self.phase == Phase::Storm && self.removing.is_empty() && self.draw.one_in(4) {
            let session = self.open[self.draw.below(self.open.len())];
            // The oracle has to know what a fork began with.
            let unread = |(to, from): &(usize, usize)| *from == session && self.oracle.sessions[*to].read_to() == 0;
            if !self.origins.iter().any(unread) {
                self.say(format_args!("s{session} is to be removed"));
                self.removing.push(session);
            }
        }
    }

    /// It is asked to stop.
    pub(super) fn park(&mut self) {
        self.say(format_args!("the store is being parked"));
        self.parking = true;
        self.inquire(Question::Close);
    }

    /// It has stopped, or could not do so cleanly.
    pub(super) fn parked(&mut self, outcome: Result<(), Error>) -> Result<(), String> {
        match outcome {
            Ok(()) => {
                self.say(format_args!("parked"));
                self.figures.parks += 1;
                // On a disk that fails there may be no seal.
                self.is_parked = !self.disk_faults;
            }
            // The journal has what the tables lack.
            Err(error) if self.disk_faults => self.say(format_args!("it does not park: {error}")),
            Err(error) => return Err(format!("liveness: it does not park: {error:?}")),
        }
        self.former_ends();
        self.holder = None;
        self.disk = self.disk.kill();
        self.ended();
        if self.draw.one_in(2) {
            self.program = self.program.another(&mut self.draw);
            let program = format!("{:?}", self.program);
            self.say(format_args!("another program: {program}"));
            // Views of another version are made again.
            if self.draw.one_in(2) {
                let home = lock::home_on(&self.disk, Path::new(STORE));
                for name in ["views.db", "views.db-wal", "views.db-shm"] {
                    let _ = self.disk.remove(&home.join(name));
                }
                let _ = self.disk.sync_dir(&home);
            }
        }
        let after = 5 + self.draw.below(500) as u64;
        self.at(after, Event::Start);
        Ok(())
    }

    /// Old records of a session are to go.
    pub(super) fn trim(&mut self) {
        let session = self.open[self.draw.below(self.open.len())];
        let known = &mut self.oracle.sessions[session];
        let read = usize::try_from(known.read_to()).unwrap();
        let through = known.trimmed + 1 + self.draw.below(read.max(1)) as u64 / 2;
        if through > known.read_to() {
            return;
        }
        known.trimmed = through;
        self.say(format_args!("records of s{session} through {through} are to be removed"));
        self.inquire(Question::Trim(session, through));
    }

    /// Removes what is to be removed before anybody else opens the store. False: it did not come to that.
    pub(super) fn remove_sessions(&mut self, seed: u64) -> Result<bool, String> {
        if self.removing.is_empty() {
            return Ok(true);
        }
        if let Err(error) = self.program.remove(&self.disk, &self.clock, !seed, &self.removing) {
            self.does_not_start(&error)?;
            return Ok(false);
        }
        self.disk = self.disk.kill();
        for gone in std::mem::take(&mut self.removing) {
            self.say(format_args!("s{gone} is removed"));
            self.figures.removals += 1;
            self.oracle.sessions[gone].is_removed();
            self.outside.forget(gone);
            if self.rotten.as_ref().is_some_and(|rotten| rotten.session == gone) {
                (self.rotten, self.oracle.rotten) = (None, None);
            }
            self.clients.iter_mut().for_each(|client| client.forgets(gone));
            self.readers.iter_mut().for_each(|reader| reader.forgets(gone));
            self.queue.retain(|_, event| !matches!(event, Event::Arrive { ask, .. } if is_of(ask, gone)));
        }
        for nth in 0..self.clients.len() {
            if self.clients[nth].waiting.is_none() {
                self.wake(nth, 1);
            }
        }
        Ok(true)
    }
}

fn is_of(ask: &Ask, gone: usize) -> bool {
    ask.session() == gone || matches!(ask, Ask::Fork { session, .. } if *session == gone)
}
