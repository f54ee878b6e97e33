//! Calls that end without the server's answer: held too long, lost, or too late.

use super::{BOUNCES, CallId, Calls, Command, Ending, Standing, settle};
use crate::envelope::compose;

impl Calls {
    /// Held too long, or nobody can be reached.
    pub(super) fn settle_held(&mut self, id: CallId, retry_after_ms: Option<u64>, commands: &mut Vec<Command>) {
        let Some(call) = self.calls.get(&id) else { return };
        if call.was_sent {
            self.settle_unknown(id, "the connection was lost, and the server did not come back in time", commands);
        } else if call.is_queued() && call.bounces <= BOUNCES {
            self.settle_expired(id, commands);
        } else {
            self.settle_unsent(id, "the server cannot be reached", Some(retry_after_ms.unwrap_or(0)), commands);
        }
    }

    /// Its client has said all, and waits no longer.
    pub fn let_go(&mut self, id: CallId, commands: &mut Vec<Command>) {
        let Some(call) = self.calls.get(&id) else { return };
        match call.standing {
            Standing::Recording => {}
            Standing::Accepted | Standing::Ready if !call.was_sent => {
                let why = "its client has said all, and the server did not come back in time";
                self.settle_unsent(id, why, Some(0), commands);
            }
            _ => self.settle_unknown(id, "its client has said all, and no answer came in time", commands),
        }
    }

    /// It has waited in the queue for as long as it may.
    fn settle_expired(&mut self, id: CallId, commands: &mut Vec<Command>) {
        let why = "it waited in the queue for as long as it may, and the server did not come back".to_owned();
        self.finish(id, Ending::NotExecuted { why }, commands);
        let Some(call) = self.remove(id) else { return };
        if !call.is_cancelled && !call.is_settled {
            let line = settle::expired(&self.limits.upstream, &call.message, self.limits.queue.for_ms);
            commands.push(Command::Answer { call: id, line });
        }
    }

    /// It was not carried out. The client is told unless it has cancelled (`retry_after_ms` absent).
    pub(super) fn settle_unsent(
        &mut self,
        id: CallId,
        why: &str,
        retry_after_ms: Option<u64>,
        commands: &mut Vec<Command>,
    ) {
        self.finish(id, Ending::NotExecuted { why: why.to_owned() }, commands);
        let Some(call) = self.remove(id) else { return };
        if let Some(retry_after_ms) = retry_after_ms.filter(|_| !call.is_cancelled && !call.is_settled) {
            let line = settle::not_sent(&self.limits.upstream, &call.message, why, retry_after_ms);
            commands.push(Command::Answer { call: id, line });
        }
    }

    pub(super) fn settle_unknown(&mut self, id: CallId, why: &str, commands: &mut Vec<Command>) {
        self.finish(id, Ending::Unknown { why: why.to_owned() }, commands);
        let Some(call) = self.remove(id) else { return };
        if !call.is_cancelled && !call.is_settled {
            let line =
                settle::unknown(&self.limits.upstream, &call.message, call.asked.class, call.effect.as_ref(), why);
            commands.push(Command::Answer { call: id, line });
        }
    }

    /// No answer came in time. The server may still be at it: the client is answered, the server is told to stop, and the
    /// sending is remembered for as long again, in case an answer comes.
    pub(super) fn timed_out(&mut self, now_ms: u64, id: CallId, commands: &mut Vec<Command>) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        if call.is_settled {
            self.remove(id);
            return;
        }
        let was_cancelled = call.is_cancelled;
        call.is_settled = true;
        call.until_ms = now_ms.saturating_add(self.limits.call_ms);
        let why = format!("no answer within {} s", now_ms.saturating_sub(call.sent_ms) / 1_000);
        if !was_cancelled {
            let line =
                settle::unknown(&self.limits.upstream, &call.message, call.asked.class, call.effect.as_ref(), &why);
            commands.push(Command::Answer { call: id, line });
            if let Some((wire, generation)) = call.wire {
                let params = format!(r#"{{"requestId":{wire},"reason":"no answer in time"}}"#);
                let line = compose::notification("notifications/cancelled", &params);
                commands.push(Command::Tell { generation, line });
            }
        }
        self.detach(id);
        self.finish(id, Ending::Unknown { why }, commands);
    }
}
