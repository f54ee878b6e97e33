//! Checks of what a caller brings along.

use crate::{
    error::{Refusal, RefusalCode},
    json::Json,
    limits,
};

/// A text of the caller's, within its limit.
pub(super) fn text(what: &str, text: &str) -> Result<(), Refusal> {
    if text.len() <= limits::TEXT_BYTES {
        return Ok(());
    }
    let message =
        format!("{what} has {} bytes, at most {}: put long content into a payload", text.len(), limits::TEXT_BYTES);
    Err(Refusal::new(RefusalCode::Limit, message))
}

/// A text that says something.
pub(super) fn named(what: &str, value: &str) -> Result<(), Refusal> {
    if value.trim().is_empty() {
        return Err(Refusal::invalid(format!("{what} is empty")));
    }
    text(what, value)
}

pub(super) fn optional(what: &str, value: Option<&str>) -> Result<(), Refusal> {
    value.map_or(Ok(()), |value| text(what, value))
}

/// A caller's JSON, within its limit.
pub(super) fn json(what: &str, json: &Json) -> Result<(), Refusal> {
    let bytes = json.as_str().len();
    if bytes <= limits::JSON_BYTES {
        return Ok(());
    }
    let message =
        format!("{what} has {bytes} bytes, at most {}: store it as a blob and refer to it", limits::JSON_BYTES);
    Err(Refusal::new(RefusalCode::Limit, message))
}

/// A list of texts, within its limits.
pub(super) fn list(what: &str, list: &[String]) -> Result<(), Refusal> {
    if list.len() > limits::AGENT_LIST {
        return Err(Refusal::new(RefusalCode::Limit, format!("at most {} {what}", limits::AGENT_LIST)));
    }
    let bytes: usize = list.iter().map(String::len).sum();
    if bytes > limits::TEXT_BYTES {
        return Err(Refusal::new(
            RefusalCode::Limit,
            format!("{what} have {bytes} bytes, at most {}", limits::TEXT_BYTES),
        ));
    }
    list.iter().try_for_each(|text| named(what, text))
}

/// A length of time that a lease or a deadline may have.
pub(super) fn duration(what: &str, ms: u64) -> Result<u64, Refusal> {
    if (1..=limits::LEASE_MS_MAX).contains(&ms) {
        return Ok(ms);
    }
    Err(Refusal::invalid(format!("{what} of {ms} ms: use 1 to {}", limits::LEASE_MS_MAX)))
}
