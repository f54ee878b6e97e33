//! What the log has to do with a call.

use bytes::Bytes;
use futures_util::future::FutureExt as _;
use serde_json::Value;
use swarmkeep::{EffectOutcome, EntityId, Error, ErrorKind};

use super::{CallId, Done, Ending, Upstream, ending::is_of_a_stop};
use crate::{
    envelope::compose,
    record::{Begin, Begun, Finish, Record, not_executed, whole},
};

/// What a call came to waits this long for the beginning of the next one, to be synced with it: a client that calls again at
/// once would else wait for two syncs, one after the other.
const FINISH_MS: u64 = 2;

/// An answer that is larger waits for nothing.
const LARGE_BYTES: usize = 64 * 1024;

/// Beginnings, and endings, in one group.
const GROUP: usize = 32;

/// What calls came to, on its way into the log.
#[derive(Default)]
pub(super) struct Finishes {
    /// And in which session.
    waiting: Vec<(Record, Finish)>,
    pub(super) due_ms: Option<u64>,
}

impl Finishes {
    /// As many of this session as go into one group.
    fn take_of(&mut self, record: &Record) -> Vec<Finish> {
        let mut taken = Vec::new();
        let mut waiting = Vec::new();
        for (of, finish) in std::mem::take(&mut self.waiting) {
            match of.is_of(record) && taken.len() < GROUP {
                true => taken.push(finish),
                false => waiting.push((of, finish)),
            }
        }
        self.waiting = waiting;
        self.due_ms = self.due_ms.filter(|_| !self.waiting.is_empty());
        taken
    }
}

impl Upstream {
    pub(super) fn begin(&mut self, call: CallId) {
        let Some((message, asked)) = self.calls.get(call) else { return };
        let Some(effect) = self.places.get(&call).and_then(|place| place.key.clone()) else { return };
        let deadline_ms = self.terms.limits.call_most_ms;
        let begin = Begin { effect, class: asked.class, call: message.clone(), deadline_ms };
        self.to_begin.push((call, begin));
    }

    /// Begins what came in this turn: with what earlier calls came to, so that all are synced at once.
    pub(super) fn begin_all(&mut self) {
        while !self.to_begin.is_empty() {
            let rest = self.to_begin.split_off(GROUP.min(self.to_begin.len()));
            let calls = std::mem::replace(&mut self.to_begin, rest);
            let (record, finishes) = (self.record.clone(), self.finishes.take_of(&self.record));
            let beginning = async move {
                let (calls, begins): (Vec<CallId>, Vec<Begin>) = calls.into_iter().unzip();
                let (record, begun) = record.exchange(&finishes, &begins).await;
                Done::Exchanged(record, calls.into_iter().zip(begins).collect(), begun)
            };
            self.begins.push(beginning.boxed());
        }
    }

    /// A group was begun, or each of its calls is to be by itself.
    pub(super) fn exchanged(
        &mut self,
        record: &Record,
        calls: Vec<(CallId, Begin)>,
        begun: Option<Vec<Result<Begun, Error>>>,
    ) {
        match begun {
            Some(begun) => {
                for ((call, _), begun) in calls.into_iter().zip(begun) {
                    self.begun(call, record.clone(), begun);
                }
            }
            None => {
                for (call, begin) in calls {
                    let record = record.clone();
                    let beginning = async move {
                        let (record, begun) = record.begin(&begin).await;
                        Done::Begun(call, Box::new(record), begun)
                    };
                    self.begins.push(beginning.boxed());
                }
            }
        }
    }

    pub(super) fn begun(&mut self, call: CallId, record: Record, begun: Result<Begun, Error>) {
        let now_ms = self.now_ms();
        if let Some(place) = self.places.get_mut(&call) {
            place.begun_in = Some(record.clone());
        }
        // Whatever comes after goes where this one found room.
        if begun.is_ok() {
            self.record = record;
        }
        match begun {
            Ok(Begun::Run(attempt)) => {
                if let Some(place) = self.places.get_mut(&call) {
                    place.attempt = attempt;
                }
                self.ledger(|calls, commands| calls.recorded(now_ms, call, attempt, commands));
                // One that was recorded for what an earlier daemon may have done with it may have nobody to go to.
                self.settle_held();
            }
            Ok(Begun::Before(outcome)) if self.goes_on_after_a_stop(call, &outcome) => {}
            Ok(Begun::Before(outcome)) => {
                let line = match not_executed(&outcome) {
                    // Its client had not heard of it yet.
                    Some(why) => self.calls.unsent_line(call, &why).unwrap_or_default(),
                    None => {
                        let is_whole = whole(&outcome.value).is_some();
                        self.recorded_before(call, outcome.ok, outcome.value.as_str(), is_whole)
                    }
                };
                self.ledger(|calls, commands| calls.refused(now_ms, call, line, commands));
            }
            Ok(Begun::Unknown(why)) => {
                let why = format!("the call may have been sent before, and no answer is on record ({why})");
                let line = self.calls.unknown_line(call, &why).unwrap_or_default();
                self.ledger(|calls, commands| calls.refused(now_ms, call, line, commands));
            }
            Err(error) => {
                tracing::warn!(upstream = %self.terms.upstream, %error, "a call could not be recorded, and is not sent");
                if matches!(error.kind, ErrorKind::Unknown | ErrorKind::Retry) {
                    // It may be begun all the same: then nobody is to take it for one that was sent.
                    self.finish(
                        call,
                        Ending::NotExecuted { why: "it could not be recorded, and was not sent".to_owned() },
                    );
                }
                let line = self.not_recorded(call, &error);
                self.ledger(|calls, commands| calls.refused(now_ms, call, line, commands));
            }
        }
    }

    /// It was begun by a daemon that was stopped before anything of it went out: its client waits for it, and it is begun anew,
    /// under a key that follows from the first.
    fn goes_on_after_a_stop(&mut self, call: CallId, outcome: &EffectOutcome) -> bool {
        if !not_executed(outcome).is_some_and(|why| is_of_a_stop(&why)) {
            return false;
        }
        let Some(place) = self.places.get_mut(&call) else { return false };
        let Some(key) = place.key.as_ref().and_then(|key| EntityId::new(format!("{key}+")).ok()) else { return false };
        place.key = Some(key.clone());
        place.begun_in = None;
        self.calls.goes_by(call, Some(key));
        self.begin(call);
        true
    }

    /// An answer that is on record: given again, or, where it was too large to be kept, said to have been.
    fn recorded_before(&self, call: CallId, ok: bool, body: &str, is_whole: bool) -> Bytes {
        if !is_whole {
            let why = "the call was carried out and answered before; its answer was too large to be kept";
            return self.calls.unknown_line(call, why).unwrap_or_default();
        }
        // A result of which its tool says that it failed is a result.
        let answer: Value = serde_json::from_str(body).unwrap_or_default();
        let is = |name: &str, is: fn(&Value) -> bool| answer.get(name).is_some_and(is);
        let is_error =
            !ok && is("code", Value::is_number) && is("message", Value::is_string) && !is("isError", |_| true);
        self.calls.recorded_line(call, is_error, body).unwrap_or_default()
    }

    fn not_recorded(&self, call: CallId, error: &Error) -> Bytes {
        let id = self.calls.get(call).and_then(|(message, _)| message.id()).unwrap_or("null").to_owned();
        let code = if error.kind == ErrorKind::Limit { crate::calls::CODE_FULL } else { crate::calls::CODE_OFFLINE };
        let text = format!("the call could not be recorded, and was not sent: {error}");
        let facts = serde_json::json!({ "upstream": self.terms.upstream, "executed": "no", "retryable": true });
        compose::error(&id, code, &text, Some(&facts))
    }

    pub(super) fn finish(&mut self, call: CallId, ending: Ending) {
        let Some(place) = self.places.get(&call) else { return };
        let Some(key) = place.key.clone() else { return };
        let record = place.begun_in.clone().unwrap_or_else(|| self.record.clone());
        // To read a large answer through takes a while, which no beginning is to wait for.
        let is_large = ending.is_larger_than(LARGE_BYTES);
        self.finishes.waiting.push((record, Finish { effect: key, attempt: place.attempt, ending }));
        let due_ms = self.now_ms().saturating_add(FINISH_MS);
        self.finishes.due_ms.get_or_insert(due_ms);
        if is_large {
            self.write_finishes();
        }
    }

    /// Writes what calls came to, without waiting for the next one.
    pub(super) fn write_finishes(&mut self) {
        while let Some(record) = self.finishes.waiting.first().map(|(record, _)| record.clone()) {
            let finishes = self.finishes.take_of(&record);
            let is_large = finishes.iter().any(|finish| finish.ending.is_larger_than(LARGE_BYTES));
            self.beside.spawn(async move {
                match is_large {
                    true => record.finish_large(finishes).await,
                    false => drop(record.exchange(&finishes, &[]).await),
                }
                Done::Written
            });
        }
    }
}
