//! Messages of our own.

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

#[derive(Serialize)]
struct Message<'a> {
    jsonrpc: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    params: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Error<'a>>,
}

#[derive(Serialize)]
struct Error<'a> {
    code: i64,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a serde_json::Value>,
}

const EMPTY: Message<'static> =
    Message { jsonrpc: "2.0", id: None, method: None, params: None, result: None, error: None };

/// JSON text as it is; `null` where it is none.
fn raw(text: &str) -> &RawValue {
    serde_json::from_str(text).unwrap_or(RawValue::NULL)
}

fn bytes(message: &Message<'_>) -> Bytes {
    // Strings, numbers and text that is JSON already: writing them cannot fail.
    serde_json::to_vec(message).unwrap_or_default().into()
}

/// A request. `id` and `params` are JSON text.
#[must_use]
pub fn request(id: &str, method: &str, params: &str) -> Bytes {
    bytes(&Message { id: Some(raw(id)), method: Some(method), params: Some(raw(params)), ..EMPTY })
}

/// A notification. `params` is JSON text.
#[must_use]
pub fn notification(method: &str, params: &str) -> Bytes {
    bytes(&Message { method: Some(method), params: Some(raw(params)), ..EMPTY })
}

/// An answer. `id` and `result` are JSON text.
#[must_use]
pub fn result(id: &str, result: &str) -> Bytes {
    bytes(&Message { id: Some(raw(id)), result: Some(raw(result)), ..EMPTY })
}

/// An answer that is an error. `id` is JSON text: `null` where the request's could not be read.
#[must_use]
pub fn error(id: &str, code: i64, message: &str, data: Option<&serde_json::Value>) -> Bytes {
    bytes(&Message { id: Some(raw(id)), error: Some(Error { code, message, data }), ..EMPTY })
}
