//! What the log has to do with a call.

use bytes::Bytes;
use swarmkeep::{Error, ErrorKind};

use super::{CallId, Done, Ending, Upstream};
use crate::{
    envelope::compose,
    record::{Begun, Record, whole},
};

impl Upstream {
    pub(super) fn begin(&mut self, call: CallId) {
        let Some((message, asked)) = self.calls.get(call) else { return };
        let Some(key) = self.places.get(&call).and_then(|place| place.key.clone()) else { return };
        let (record, class, message) = (self.record.clone(), asked.class, message.clone());
        let deadline_ms = self.terms.limits.call_most_ms;
        self.beside.spawn(async move {
            let (record, begun) = record.begin(key, class, &message, deadline_ms).await;
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
                self.ledger(|calls, commands| calls.recorded(now_ms, call, commands));
            }
            Ok(Begun::Before(outcome)) => {
                let line =
                    self.recorded_before(call, outcome.ok, outcome.value.as_str(), whole(&outcome.value).is_some());
                self.ledger(|calls, commands| calls.refused(call, line, commands));
            }
            Ok(Begun::Unknown(why)) => {
                let why = format!("the call was sent before the proxy's last end, and no answer is on record ({why})");
                let line = self.calls.unknown_line(call, &why).unwrap_or_default();
                self.ledger(|calls, commands| calls.refused(call, line, commands));
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
                self.ledger(|calls, commands| calls.refused(call, line, commands));
            }
        }
    }

    /// An answer that is on record: given again, or, where it was too large to be kept, said to have been.
    fn recorded_before(&self, call: CallId, ok: bool, body: &str, is_whole: bool) -> Bytes {
        if !is_whole {
            let why = "the call was carried out and answered before the proxy's last end; its answer was too large to be kept";
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
        let (attempt, upstream) = (place.attempt, self.terms.upstream.clone());
        self.beside.spawn(async move {
            if let Err(error) = record.finish(key, attempt, ending).await {
                tracing::warn!(%upstream, %error, "what a call came to could not be recorded; it counts as unknown");
            }
            Done::Written
        });
    }
}
