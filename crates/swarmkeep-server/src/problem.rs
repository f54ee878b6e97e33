//! What every surface answers when it did not do it: problem details (RFC 9457), one type per code.

use std::fmt;

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use swarmkeep::{Error, ErrorKind, Refusal, RefusalCode};

/// Every code that a problem can carry, with its status and title. The document at `/openapi.json` lists them from here.
pub const CODES: &[(&str, u16, &str)] = &[
    ("invalid", 400, "The call is wrong"),
    ("unauthorized", 401, "A token is needed"),
    ("forbidden", 403, "Not from there"),
    ("not_found", 404, "There is no such thing"),
    ("method_not_allowed", 405, "Not with this method"),
    ("timeout", 408, "The request took too long to arrive"),
    ("conflict", 409, "Somebody else was faster"),
    ("already_exists", 409, "It exists already"),
    ("lease_lost", 409, "The lease is another worker's now"),
    ("wrong_state", 409, "Its state does not allow this"),
    ("session_not_live", 409, "The session is not live"),
    ("outcome_unknown", 409, "Nobody knows whether it was done"),
    ("in_progress", 409, "Another worker is at it"),
    ("needs_decision", 409, "The session waits for a person's decision"),
    ("diverged", 409, "The history behind this token is gone"),
    ("request_too_old", 410, "The request id is older than what is remembered"),
    ("precondition_failed", 412, "It is not where the caller expected it"),
    ("limit", 413, "A limit is reached"),
    ("unsupported_media_type", 415, "Not this kind of body"),
    ("request_mismatch", 422, "The request id was used with another body"),
    ("internal", 500, "A fault in the server"),
    ("corrupt", 500, "Data at rest is damaged"),
    ("retry", 503, "Not now"),
    ("unavailable", 503, "The store cannot do it now"),
    ("fenced_out", 503, "Another process holds the store now"),
    ("unknown", 503, "It may or may not have been done"),
];

/// A problem: what went wrong, what to do next.
///
/// Boxed, because it travels in every `Result` of the hot path.
#[derive(Debug)]
pub struct Problem(Box<Details>);

#[derive(Debug)]
struct Details {
    body: Document,
    headers: HeaderMap,
}

/// The fields of the document, in order.
#[derive(Debug, Serialize)]
struct Document {
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    status: u16,
    detail: String,
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    current: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    common: Option<u64>,
}

impl Problem {
    /// A problem of one of the [`CODES`]; a code that is not among them is a fault in the server.
    #[must_use]
    pub fn new(code: &str, detail: impl Into<String>) -> Self {
        let (code, status, title) = CODES.iter().copied().find(|(known, ..)| *known == code).unwrap_or((
            "internal",
            500,
            "A fault in the server",
        ));
        let mut headers = HeaderMap::new();
        match code {
            "retry" | "unavailable" | "unknown" | "in_progress" | "fenced_out" => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            "unauthorized" => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        Self(Box::new(Details {
            body: Document {
                kind: format!("urn:swarmkeep:problem:{code}"),
                title,
                status,
                detail: detail.into(),
                code,
                hint: None,
                current: None,
                common: None,
            },
            headers,
        }))
    }

    /// The call itself is wrong.
    #[must_use]
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new("invalid", detail)
    }

    /// There is no such thing.
    #[must_use]
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new("not_found", detail)
    }

    /// A named limit is reached.
    #[must_use]
    pub fn limit(detail: impl Into<String>) -> Self {
        Self::new("limit", detail)
    }

    /// Adds what to look at or run next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.body.hint = Some(hint.into());
        self
    }

    /// Adds what the number is now: a seq, or the version of a memory entry.
    #[must_use]
    pub fn current(mut self, current: u64) -> Self {
        self.0.body.current = Some(current);
        self
    }

    /// With `diverged`: the last seq that both histories have in common.
    #[must_use]
    pub fn common(mut self, seq: u64) -> Self {
        self.0.body.common = Some(seq);
        self
    }

    /// Adds a header to the answer.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.insert(name, value);
        self
    }

    /// A conflict is a failed precondition (412) when the caller stated one in `If-Match`.
    #[must_use]
    pub fn precondition(mut self, stated: bool) -> Self {
        if stated && self.0.body.code == "conflict" {
            let failed = Problem::new("precondition_failed", std::mem::take(&mut self.0.body.detail));
            let Details { mut body, headers } = *failed.0;
            body.hint = self.0.body.hint.take();
            body.current = self.0.body.current;
            return Self(Box::new(Details { body, headers }));
        }
        self
    }

    /// The stable name.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.0.body.code
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.0.body.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Writes the document to the end of `out`, in one line.
    pub fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        // Writing strings and numbers into a Vec cannot fail; an empty document would still carry its status.
        if serde_json::to_writer(&mut *out, &self.0.body).is_err() {
            out.truncate(start);
            out.extend_from_slice(b"{}");
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.body.code, self.0.body.detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut bytes = Vec::with_capacity(256);
        self.write(&mut bytes);
        let mut response = Response::new(Body::from(bytes));
        *response.status_mut() = self.status();
        *response.headers_mut() = self.0.headers;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let problem = Self::new(refusal.code.as_str(), refusal.message);
        match refusal.current {
            Some(current) => problem.current(current),
            None => problem,
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        if matches!(error.kind, ErrorKind::Corrupt | ErrorKind::Unavailable | ErrorKind::Unknown) {
            tracing::warn!(%error, kind = error.kind.as_str(), "a request failed");
        }
        let current = error.refusal.as_ref().and_then(|refusal| refusal.current);
        let code = match (&error.refusal, error.kind) {
            // A refusal's own code says more than its kind does.
            (Some(refusal), _) => refusal.code.as_str(),
            (None, ErrorKind::Refused) => RefusalCode::WrongState.as_str(),
            (None, kind) => kind.as_str(),
        };
        let mut problem = Self::new(code, error.message);
        problem.0.body.hint = error.hint;
        problem.0.body.current = current;
        problem
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_and_kind_has_a_code_of_its_own() {
        for code in [
            RefusalCode::Invalid,
            RefusalCode::NotFound,
            RefusalCode::AlreadyExists,
            RefusalCode::Conflict,
            RefusalCode::LeaseLost,
            RefusalCode::WrongState,
            RefusalCode::SessionNotLive,
            RefusalCode::OutcomeUnknown,
            RefusalCode::InProgress,
            RefusalCode::RequestTooOld,
            RefusalCode::RequestMismatch,
            RefusalCode::Limit,
            RefusalCode::FencedOut,
            RefusalCode::NeedsDecision,
        ] {
            assert_eq!(Problem::from(Refusal::new(code, "x")).code(), code.as_str());
        }
        for kind in [
            ErrorKind::Retry,
            ErrorKind::Conflict,
            ErrorKind::Invalid,
            ErrorKind::NotFound,
            ErrorKind::Unavailable,
            ErrorKind::Unknown,
            ErrorKind::Corrupt,
            ErrorKind::Limit,
        ] {
            assert_eq!(Problem::from(Error::new(kind, "x")).code(), kind.as_str());
        }
    }

    /// Whoever calls looks a code up in the table, or catches it by its class in Python.
    #[test]
    fn every_code_has_a_row_in_the_table_and_a_class_in_python() {
        let table = include_str!("../../../docs/operations.md").split("\n## Errors\n").nth(1).unwrap();
        let rows = table.split("\n## ").next().unwrap().lines().filter(|line| line.starts_with("| `"));
        let mut told = Vec::new();
        for row in rows {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let codes = cells[1].split(", ").map(|code| code.trim_matches('`'));
            // One status beside several codes is that of all of them.
            let statuses: Vec<&str> = cells[2].split(", ").collect();
            told.extend(codes.enumerate().map(|(nth, code)| {
                let status = statuses.get(nth).or(statuses.last()).unwrap();
                (code, status.parse::<u16>().unwrap())
            }));
        }
        told.sort_unstable();
        let mut known: Vec<(&str, u16)> = CODES.iter().map(|(code, status, _)| (*code, *status)).collect();
        known.sort_unstable();
        assert_eq!(told, known);

        let python = include_str!("../../../examples/swarmkeep_agent.py");
        let caught = |code: &str| python.contains(&format!("\n    code = \"{code}\"\n"));
        let missing: Vec<&str> = known.iter().map(|(code, _)| *code).filter(|code| !caught(code)).collect();
        assert!(missing.is_empty(), "no class for {missing:?}");
    }

    #[test]
    fn a_stated_precondition_turns_a_conflict_into_412_and_keeps_the_current_number() {
        let problem = Problem::from(Refusal::conflict("moved on", 9)).precondition(true);
        assert_eq!(problem.status(), StatusCode::PRECONDITION_FAILED);
        let mut text = Vec::new();
        problem.write(&mut text);
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("\"current\":9") && text.contains("moved on"), "{text}");
        assert_eq!(Problem::from(Refusal::conflict("x", 1)).precondition(false).status(), StatusCode::CONFLICT);
        assert_eq!(Problem::not_found("x").precondition(true).status(), StatusCode::NOT_FOUND);
    }
}
