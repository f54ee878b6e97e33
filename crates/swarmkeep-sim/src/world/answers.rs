//! What clients are told, and whether it can be true.

use swarmkeep::{Error, ErrorKind, RefusalCode, State};

use super::{Event, World};
use crate::{
    client::{Ask, Waiting},
    holder::{Answer, id},
    invariant::{blobs, effects, leases, requests},
};

impl World {
    /// The moment in which the holder took a sign of life is when its answer is made, whether anybody gets it or not.
    pub(super) fn notes_sign(&mut self, client: usize, call: u64, answer: &Answer) {
        let waiting = self.clients[client].waiting.as_ref().filter(|waiting| waiting.call == call);
        if let (Some(Waiting { ask: Ask::Beat { session, task, lease }, .. }), Answer::Beaten) = (waiting, answer) {
            self.oracle.sessions[*session].leases.sign(task, *lease, self.now_ms);
            self.figures.beats += 1;
        }
    }

    pub(super) fn told(&mut self, nth: usize, call: u64, answer: Answer, former: bool) -> Result<(), String> {
        let client = &self.clients[nth];
        if client.stopped_until_ms > self.now_ms {
            let rest = client.stopped_until_ms - self.now_ms;
            self.at(rest, Event::Told { client: nth, call, answer, former });
            return Ok(());
        }
        let Some(waiting) = client.waiting.clone().filter(|waiting| waiting.call == call) else { return Ok(()) };
        let mut rest = 1 + self.draw.below(40) as u64;
        match (waiting.ask.clone(), answer) {
            (ask @ (Ask::Submit { .. } | Ask::Rewind { .. }), Answer::Done(reply)) => {
                let session = ask.session();
                let (first, head) = (reply.first, reply.head);
                let Some((request, _)) = ask.request() else { return Ok(()) };
                self.say(format_args!("{request} is acknowledged: {first} to {}, {:?}", head.seq, reply.outcomes));
                let known = self.oracle.acknowledges(session, request, &reply);
                known.map_err(|what| format!("acknowledged is durable: {what}"))?;
                if let Ask::Submit { what, .. } = &ask {
                    self.figures.blobs_kept += what.blobs.len() as u64;
                    self.oracle.sessions[session].blobs.extend(what.blobs.iter().map(|blob| blob.id));
                    self.is_told_leases(session, &reply.outcomes);
                } else {
                    self.figures.rewinds += 1;
                }
                let written = if first.0 > 0 { head.seq.0 } else { 0 };
                if let Some((key, outcome)) = self.clients[nth].hears(session, &reply.outcomes, written) {
                    let told = effects::told(&self.outside, &key, &outcome);
                    self.figures.checks += told.map_err(|what| format!("effects: {what}"))?;
                }
            }
            (Ask::Again { said, .. }, Answer::Done(reply)) => {
                let again = requests::again(&said, &reply);
                self.figures.checks += again.map_err(|what| format!("requests: {what}"))?;
                self.figures.again += 1;
                self.clients[nth].waiting = None;
            }
            (Ask::Look { session }, Answer::State(state)) => {
                let head = state.head;
                // A holder that was taken over from shows what it had: it knows nothing of the other.
                if head.seq.0 < waiting.floor && !former {
                    let floor = waiting.floor;
                    return Err(format!("order: s{session} was shown at {}, after {floor} had been", head.seq));
                }
                self.oracle.shows(session, head.seq.0, head.hash).map_err(|what| format!("order: {what}"))?;
                self.clients[nth].sees(session, *state);
            }
            (Ask::Fork { session, to, request, .. }, Answer::State(state)) => {
                self.is_forked(nth, session, to, &state)?;
                let known = self.oracle.forks(to, &request, &state);
                known.map_err(|what| format!("acknowledged is durable: {what}"))?;
            }
            (Ask::Fetch { blob, .. }, Answer::Content(bytes)) => {
                let there = blobs::is_there(blob, &Ok(bytes)).map_err(|what| format!("blobs: {what}"))?;
                self.figures.checks += there;
                self.figures.blobs += there;
                self.clients[nth].waiting = None;
            }
            (Ask::Fetch { blob, .. }, Answer::Failed(error)) if error.kind == ErrorKind::NotFound && !former => {
                blobs::is_there(blob, &Err(error)).map_err(|what| format!("blobs: {what}"))?;
            }
            (Ask::Beat { session, task, lease }, Answer::Beaten) => {
                if !former {
                    let current = leases::is_current(&task, lease, waiting.floor);
                    self.figures.checks += current.map_err(|what| format!("leases: {what}"))?;
                }
                self.clients[nth].hears(session, &[], 0);
            }
            (_, Answer::Failed(error)) => {
                if !self.fails(nth, &waiting, &error)? {
                    rest = 100 + self.draw.below(300) as u64;
                }
            }
            _ => return Ok(()),
        }
        self.wake(nth, rest);
        Ok(())
    }

    fn is_told_leases(&mut self, session: usize, outcomes: &[swarmkeep::Outcome]) {
        for outcome in outcomes {
            if let swarmkeep::Outcome::Claimed { task: Some(task), lease: Some(lease), .. } = outcome {
                self.oracle.sessions[session].leases.is_told(task, *lease);
                self.figures.leases += 1;
            }
        }
    }

    fn is_forked(&mut self, nth: usize, from: usize, to: usize, state: &State) -> Result<(), String> {
        let origin = state.info.forked_from.as_ref().filter(|origin| origin.session == id(from));
        let Some(origin) = origin else {
            return Err(format!("fold: s{to} was forked from s{from}, and says {:?}", state.info.forked_from));
        };
        self.say(format_args!("s{to} is a fork of s{from} at {}", origin.seq));
        self.figures.forks += 1;
        if !self.open.contains(&to) {
            self.open.push(to);
        }
        self.clients[nth].made_fork(from, origin.seq.0, to);
        Ok(())
    }

    /// Something was not done, or nobody knows. False: it is asked again.
    fn fails(&mut self, nth: usize, waiting: &Waiting, error: &Error) -> Result<bool, String> {
        let code = error.refusal.as_ref().map(|refusal| refusal.code);
        self.say(format_args!("client {nth} hears {:?} {code:?}: {}", error.kind, error.message));
        let refused = match (error.kind, code) {
            (ErrorKind::Corrupt, _) if self.is_rotten(waiting) => {
                self.figures.said += 1;
                true
            }
            (ErrorKind::Corrupt, _) if self.is_of_removed_records(&waiting.ask) => true,
            (ErrorKind::Corrupt, _) if !self.disk_faults => {
                return Err(format!("damage: nothing was damaged; {:?} was answered {error:?}", waiting.ask));
            }
            // The other one has the store: the same again, of that one.
            (_, Some(RefusalCode::FencedOut)) => {
                self.loyal[nth] = false;
                false
            }
            (_, Some(_))
            | (ErrorKind::Refused | ErrorKind::Invalid | ErrorKind::NotFound | ErrorKind::Conflict, _)
            | (ErrorKind::Limit, _) => true,
            // It may have been done, or may be done later: the same again.
            _ => false,
        };
        let client = &mut self.clients[nth];
        if refused {
            let in_doubt = code == Some(RefusalCode::OutcomeUnknown);
            if client.is_refused(in_doubt, code == Some(RefusalCode::LeaseLost)) {
                self.figures.lease_lost += 1;
                self.figures.checks += 1;
            }
        } else if let Some(waiting) = &mut client.waiting {
            waiting.sent += 1;
        }
        Ok(refused)
    }

    /// Whether it needs records that somebody wanted removed.
    fn is_of_removed_records(&self, ask: &Ask) -> bool {
        match ask {
            // The oldest state there is may be that of a checkpoint further on.
            Ask::Rewind { session, .. } | Ask::Fork { session, at: Some(_), .. } => {
                self.oracle.sessions[*session].trimmed > 0
            }
            _ => false,
        }
    }
}
