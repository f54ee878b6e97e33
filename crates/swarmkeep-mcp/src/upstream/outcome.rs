//! What the log has to do with a call.

use bytes::Bytes;
use futures_util::future::join_all;
use swarmkeep::{EntityId, Error, ErrorKind};

use super::{CallId, Done, Ending, Upstream};
use crate::{
    envelope::compose,
    record::{Begun, Record, not_executed, whole},
};

/// What a call came to waits this long for the beginning of the next one, to be synced with it: a client that calls again at
/// once would else wait for two syncs, one after the other.
const FINISH_MS: u64 = 2;

/// An answer that is larger waits for nothing.
const LARGE_BYTES: usize = 64 * 1024;

/// What calls came to, on its way into the log.
#[derive(Default)]
pub(super) struct Finishes {
    waiting: Vec<Finish>,
    pub(super) due_ms: Option<u64>,
}

struct Finish {
    record: Record,
    effect: EntityId,
    attempt: u32,
    ending: Ending,
}

impl Finishes {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Writes all that wait.
    fn write(&mut self, upstream: &str) -> impl Future<Output = Vec<()>> + use<> {
        self.due_ms = None;
        let upstream = upstream.to_owned();
        let all = std::mem::take(&mut self.waiting).into_iter().map(move |finish| {
            let upstream = upstream.clone();
            async move {
                if let Err(error) = finish.record.finish(finish.effect, finish.attempt, finish.ending).await {
                    tracing::warn!(%upstream, %error, "what a call came to could not be recorded; it counts as unknown");
                }
            }
        });
        join_all(all)
    }
}

impl Upstream {
    pub(super) fn begin(&mut self, call: CallId) {
        let Some((message, asked)) = self.calls.get(call) else { return };
        let Some(key) = self.places.get(&call).and_then(|place| place.key.clone()) else { return };
        let (record, class, message) = (self.record.clone(), asked.class, message.clone());
        let deadline_ms = self.terms.limits.call_most_ms;
        let finishes = self.finishes.write(&self.terms.upstream);
        self.beside.spawn(async move {
            // In this order, at once: they leave together.
            let (_, (record, begun)) = tokio::join!(finishes, record.begin(key, class, &message, deadline_ms));
            Done::Begun(call, Box::new(record), begun)
        });
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

    /// An answer that is on record: given again, or, where it was too large to be kept, said to have been.
    fn recorded_before(&self, call: CallId, ok: bool, body: &str, is_whole: bool) -> Bytes {
        if !is_whole {
            let why = "the call was carried out and answered before; its answer was too large to be kept";
            return self.calls.unknown_line(call, why).unwrap_or_default();
        }
        let is_error = !ok && !body.contains(r#""content""#) && body.contains(r#""code""#);
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
        // To hash a large answer takes a while, which no beginning is to wait for.
        let is_large = matches!(&ending, Ending::Answered { body, .. } if body.len() > LARGE_BYTES);
        self.finishes.waiting.push(Finish { record, effect: key, attempt: place.attempt, ending });
        let due_ms = self.now_ms().saturating_add(FINISH_MS);
        self.finishes.due_ms.get_or_insert(due_ms);
        if is_large {
            self.write_finishes();
        }
    }

    /// Writes what calls came to, without waiting for the next one.
    pub(super) fn write_finishes(&mut self) {
        if self.finishes.is_empty() {
            return;
        }
        let finishes = self.finishes.write(&self.terms.upstream);
        self.beside.spawn(async move {
            finishes.await;
            Done::Written
        });
    }
}
