//! Looking at everything: now and then in the storm, and when the calm has put everything right.

use std::collections::VecDeque;

use bytes::Bytes;
use swarmkeep::{BlobId, Error, core::ErrorKind};

use super::{CALM_MS, Caller, Event, World};
use crate::{
    client::Ask,
    holder::{Answer, Wanted},
    invariant::{Evidence, holding},
};

/// How long a store may take to come right after failed syncs before it is started again.
const PATIENCE_MS: u64 = 20_000;

/// How long the calm lasts at the least where clients work at tasks.
const SILENCE_MS: u64 = 4_000;

/// How far a world has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Everything fails.
    Storm,
    /// Nothing fails any more; everything is to come right.
    Calm,
    /// It has. The store shows everything.
    Showing,
    /// It proves itself.
    Verifying,
    /// It is parked.
    Closing,
    /// Opened again, it shows everything once more.
    Again,
    /// The end.
    Over,
}

/// What the world asks its holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// For everything there is.
    Show,
    /// To prove itself.
    Verify,
    /// To park.
    Close,
    /// For the state of a session, to append to it what must be refused.
    Stale(usize),
    /// To remove records of a session, up to this seq.
    Trim(usize, u64),
}

/// What was asked, and what has been heard.
#[derive(Debug, Default)]
pub(super) struct Inquiry {
    heard: VecDeque<(Question, Answer)>,
    /// Somebody is waited for, who is to show each session at least this far.
    floors: Option<Vec<u64>>,
    /// The question that everything is to be shown.
    show: u64,
}

impl Inquiry {
    /// The holder has answered.
    pub(super) fn hears(&mut self, question: Question, answer: Answer) {
        self.heard.push_back((question, answer));
    }

    /// The holder has ended: it answers nothing any more.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

impl World {
    pub(super) fn inquire(&mut self, question: Question) {
        self.next_call += 1;
        let call = self.next_call;
        self.calls.insert(call, Caller::World(question));
        let Some(holder) = &self.holder else { return };
        match question {
            Question::Show => {
                self.inquiry.show = call;
                self.inquiry.floors =
                    Some(self.oracle.sessions.iter().map(|known| known.floor.max(known.read_to())).collect());
                let all = self.phase != Phase::Storm;
                let (draw, rotten) = (&mut self.draw, self.oracle.rotten);
                let wanted = self.oracle.sessions.iter().enumerate().map(|(session, known)| {
                    let blobs = known.blobs.iter().copied();
                    let blobs =
                        blobs.filter(|blob| all || rotten == Some((session, *blob)) || draw.one_in(4)).collect();
                    Wanted { session, after: known.trimmed, blobs }
                });
                holder.show(call, wanted.collect());
            }
            Question::Verify => holder.verify(call),
            Question::Close => holder.close(call),
            Question::Stale(session) => holder.ask(call, Ask::Look { session }),
            Question::Trim(session, through) => holder.trim(call, session, through),
        }
    }

    pub(super) fn prove(&mut self) -> Result<(), String> {
        if self.phase != Phase::Storm {
            return Ok(());
        }
        let pause = 500 + self.draw.below(2_500) as u64;
        self.at(pause, Event::Prove);
        if self.inquiry.floors.is_none() && !self.is_stopped() && !self.parking {
            self.inquire(Question::Show);
        }
        self.bounded()
    }

    /// A holder of an earlier grant tries to write.
    pub(super) fn stale(&mut self) {
        if self.epochs.len() > 1 && !self.is_stopped() && !self.parking {
            let session = self.draw.below(self.weather.sessions);
            self.inquire(Question::Stale(session));
        }
    }

    pub(super) fn hear(&mut self) -> Result<(), String> {
        while let Some((question, answer)) = self.inquiry.heard.pop_front() {
            match (question, answer) {
                (Question::Show, Answer::Shown(shown)) => self.is_shown(shown)?,
                (Question::Verify, Answer::Verified(Ok(findings))) if self.are_known(&findings) => {
                    self.say(format_args!("verified"));
                    self.phase = Phase::Closing;
                    self.inquire(Question::Close);
                }
                (Question::Verify, answer) => return Err(format!("verify: {answer:?}")),
                (Question::Trim(session, through), Answer::Trimmed(outcome)) => {
                    self.say(format_args!("records of s{session} through {through}: {outcome:?}"));
                    self.figures.trims += u64::from(outcome.is_ok());
                }
                (Question::Close, Answer::Closed(outcome)) if self.phase != Phase::Closing => self.parked(outcome)?,
                (Question::Close, Answer::Closed(Ok(()))) => {
                    self.say(format_args!("parked"));
                    self.holder = None;
                    self.disk = self.disk.kill();
                    self.phase = Phase::Again;
                    self.at(1, Event::Start);
                }
                (Question::Close, answer) => return Err(format!("liveness: it does not park: {answer:?}")),
                (Question::Stale(_), Answer::State(state)) => {
                    let epoch = self.epochs[self.draw.below(self.epochs.len() - 1)];
                    let Some(holder) = &self.holder else { continue };
                    let refused = holding::refuses(holder.log(), *state, epoch, self.now_ms);
                    self.figures.checks += refused.map_err(|what| format!("holding: {what}"))?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn is_shown(&mut self, shown: Result<Vec<Evidence>, Error>) -> Result<(), String> {
        let Some(floors) = self.inquiry.floors.take() else { return Ok(()) };
        let mut all = match shown {
            Ok(all) => all,
            Err(error) if self.phase == Phase::Storm && (self.disk_faults || self.parking) => {
                self.say(format_args!("nothing is shown: {error}"));
                return Ok(());
            }
            Err(error) => return Err(format!("acknowledged is durable: nothing is shown: {error:?}")),
        };
        if let Some((session, blob, last_call)) = self.was_rotten
            && self.inquiry.show <= last_call
        {
            // It was put back while the answer was on its way.
            let is_other = |of: usize, (found, bytes): &(BlobId, Result<Bytes, Error>)| {
                (of, *found) != (session, blob) || bytes.is_ok()
            };
            all.iter_mut().for_each(|evidence| {
                let of = evidence.session;
                evidence.blobs.retain(|found| is_other(of, found));
            });
        }
        if self.phase == Phase::Storm && self.disk_faults {
            // A disk that fails has no answer for some of them: that is said, and tells nothing about what was kept.
            let is_answered = |found: &Result<Bytes, Error>| !matches!(found, Err(error) if matches!(error.kind, ErrorKind::Unknown | ErrorKind::Unavailable));
            all.iter_mut().for_each(|evidence| evidence.blobs.retain(|(_, found)| is_answered(found)));
        }
        for (session, (evidence, floor)) in all.iter().zip(floors).enumerate() {
            let head = evidence.head.seq.0;
            if (floor..self.oracle.sessions[session].read_to()).contains(&head) {
                self.say(format_args!("s{session} was looked at before somebody else read on"));
                continue;
            }
            let proved = self.oracle.prove(evidence, floor, self.now_ms);
            let proof = proved.map_err(|what| format!("{what} (session s{session})"))?;
            self.figures.checks += proof.checks;
            self.figures.blobs += evidence.blobs.iter().filter(|(_, found)| found.is_ok()).count() as u64;
            self.figures.said += evidence.blobs.iter().filter(|(_, found)| found.is_err()).count() as u64;
            if !proof.is_whole {
                self.say(format_args!("s{session} begins with a state that was not read yet"));
                if self.phase != Phase::Storm {
                    return Err(format!("fold: s{session} begins with a state that nobody knows"));
                }
                continue;
            }
            self.say(format_args!("s{session} is right up to {}, {}", evidence.head.seq, evidence.head.hash));
            if self.phase == Phase::Showing {
                self.lapses(session)?;
            }
        }
        match self.phase {
            Phase::Showing => {
                self.phase = Phase::Verifying;
                self.inquire(Question::Verify);
            }
            Phase::Again => self.phase = Phase::Over,
            _ => {}
        }
        Ok(())
    }

    /// No lease goes on for ever.
    fn lapses(&mut self, session: usize) -> Result<(), String> {
        let known = &self.oracle.sessions[session];
        if known.read_to() > 0 {
            let epoch = self.epochs.last().copied().unwrap_or_default();
            let lapse = known.leases.lapse(known.read.fold.newest(), epoch, self.now_ms, &self.oracle.times);
            self.figures.checks += lapse.map_err(|what| format!("leases: {what} (session s{session})"))?;
        }
        Ok(())
    }

    /// Whether everything has come right.
    pub(super) fn settle(&mut self) -> Result<(), String> {
        self.at(50, Event::Settle);
        let ready = self.holder.as_ref().is_some_and(crate::holder::Holder::is_ready);
        let clients = self.clients.iter().all(crate::client::Client::is_idle);
        let readers = self.readers.iter().all(|reader| reader.is_up_to(&self.oracle));
        let tools = self.tools.as_ref().is_none_or(crate::tools::Tools::is_idle);
        // Whoever fell silent at a task is to lose it.
        let silence_ms = if self.weather.workers { SILENCE_MS } else { 0 };
        let silent = self.now_ms >= self.weather.storm_ms + silence_ms;
        match self.phase {
            // An answer to what was asked before is no answer to this.
            Phase::Calm
                if ready && clients && readers && tools && silent && !self.parking && self.inquiry.floors.is_none() =>
            {
                self.phase = Phase::Showing;
                self.inquire(Question::Show);
            }
            Phase::Again if ready && self.inquiry.floors.is_none() => self.inquire(Question::Show),
            Phase::Calm
                if self.syncs_failed && self.holder.is_some() && self.now_ms > self.weather.storm_ms + PATIENCE_MS =>
            {
                self.say(format_args!("it does not come right after failed syncs: started again"));
                self.figures.restarted += 1;
                self.syncs_failed = false;
                self.disk.die_at(0);
                self.collect();
            }
            _ => {}
        }
        if self.now_ms > self.weather.storm_ms + CALM_MS {
            let clients: Vec<String> =
                self.clients.iter().filter(|client| !client.is_idle()).map(|client| client.plight()).collect();
            let readers: Vec<_> = self.readers.iter().map(crate::reader::Reader::stands).collect();
            let health = self.holder.as_ref().map(|holder| holder.health());
            return Err(format!(
                "liveness: {:?} does not end; ready: {ready}; {clients:?}; readers {readers:?}; tools idle: {tools}; {health:?}",
                self.phase
            ));
        }
        Ok(())
    }
}
