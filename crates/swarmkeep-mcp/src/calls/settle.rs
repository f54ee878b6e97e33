//! What a client is told when its call has no answer of the server's.
//!
//! A `tools/call` gets a result with `isError`, so that the model reads it; everything else an error of JSON-RPC. Both carry the
//! same facts: whether it was carried out (`no` or `unknown`), and whether to try again.

use bytes::Bytes;
use serde_json::{Value, json};
use swarmkeep::EntityId;

use super::Queue;
use crate::{
    class::Class,
    envelope::{Envelope, compose},
};

/// The server cannot be reached; it was not carried out.
pub const CODE_OFFLINE: i64 = -32010;
/// Nobody knows whether it was carried out.
pub const CODE_UNKNOWN: i64 = -32011;
/// Too many calls are under way; it was not carried out.
pub const CODE_FULL: i64 = -32012;
/// It waited in the queue for as long as it may; it was not carried out.
pub const CODE_EXPIRED: i64 = -32013;

/// Progress is told in these steps while a call is held: the server's own begins above.
pub(super) const HOLD_STEP: f64 = 1e-6;

struct Telling<'a> {
    code: i64,
    text: String,
    upstream: &'a str,
    executed: &'static str,
    is_retryable: bool,
    retry_after_ms: Option<u64>,
    /// Its key in the session's log, where a person may have to settle it.
    call: Option<&'a EntityId>,
}

fn not_taken(code: i64, text: String) -> Telling<'static> {
    Telling { code, text, upstream: "", executed: "no", is_retryable: true, retry_after_ms: None, call: None }
}

fn tell(message: &Envelope, telling: &Telling<'_>) -> Bytes {
    let id = message.id().unwrap_or("null");
    let mut facts = json!({
        "code": telling.code,
        "upstream": telling.upstream,
        "executed": telling.executed,
        "retryable": telling.is_retryable,
    });
    if let Some(object) = facts.as_object_mut() {
        if let Some(retry_after_ms) = telling.retry_after_ms.filter(|wait_ms| *wait_ms > 0) {
            object.insert("retryAfterMs".into(), retry_after_ms.into());
        }
        if let Some(call) = telling.call {
            object.insert("call".into(), call.as_str().into());
        }
    }
    if message.method() != Some("tools/call") {
        return compose::error(id, telling.code, &telling.text, Some(&facts));
    }
    let mut result = json!({
        "content": [{"type": "text", "text": telling.text}],
        "isError": true,
        "_meta": {"swarmkeep/outcome": facts},
    });
    if message.is_modern()
        && let Some(object) = result.as_object_mut()
    {
        object.insert("resultType".into(), Value::from("complete"));
    }
    compose::result(id, &result.to_string())
}

pub(crate) fn not_sent(upstream: &str, message: &Envelope, why: &str, retry_after_ms: u64) -> Bytes {
    let text = format!("`{upstream}`: {why}. Nothing was carried out; the call may be made again.");
    tell(message, &Telling { upstream, retry_after_ms: Some(retry_after_ms), ..not_taken(CODE_OFFLINE, text) })
}

pub(crate) fn unknown(upstream: &str, message: &Envelope, class: Class, call: Option<&EntityId>, why: &str) -> Bytes {
    let is_retryable = class != Class::AtMostOnce;
    let then = match is_retryable {
        true => "it may be made again.",
        false => "find out before you make it again.",
    };
    let text = format!("`{upstream}`: {why}. Nobody knows whether the call was carried out: {then}");
    let (code, executed, retry_after_ms) = (CODE_UNKNOWN, "unknown", None);
    tell(message, &Telling { code, text, upstream, executed, is_retryable, retry_after_ms, call })
}

pub(super) fn full(message: &Envelope, most: usize) -> Bytes {
    let text = format!("{most} calls are under way: wait for one to end. This one was not carried out.");
    tell(message, &not_taken(CODE_FULL, text))
}

pub(super) fn queue_full(upstream: &str, message: &Envelope, queue: &Queue) -> Bytes {
    let text = format!(
        "`{upstream}` is offline, and its queue is full ({} calls or {} bytes at most). This call was not carried out.",
        queue.calls, queue.bytes
    );
    tell(message, &Telling { upstream, ..not_taken(CODE_FULL, text) })
}

pub(super) fn expired(upstream: &str, message: &Envelope, for_ms: u64) -> Bytes {
    let text = format!(
        "`{upstream}` did not come back within the {} s that a call waits for it. Nothing was carried out; the call may be \
         made again.",
        for_ms / 1_000
    );
    tell(message, &Telling { upstream, ..not_taken(CODE_EXPIRED, text) })
}

/// Under no id, as an answer with the id would settle the call that has it.
pub(super) fn duplicate(id: &str) -> Bytes {
    let data = json!({ "id": id });
    compose::error("null", -32600, "a request with this id is under way: ids are used once", Some(&data))
}

pub(super) fn held(upstream: &str, token: &str, step: u32, state: &str) -> Bytes {
    let progress = f64::from(step) * HOLD_STEP;
    let message = Value::from(format!("`{upstream}` is offline; the call waits for it ({state})"));
    let params = format!(r#"{{"progressToken":{token},"progress":{progress},"message":{message}}}"#);
    compose::notification("notifications/progress", &params)
}
