//! Errors tell the caller what to do.
//!
//! [`Refusal`] is the pure half: a command that the state does not allow. [`Error`] is what every surface returns: one kind
//! that says what to do next, a sentence, a hint for the operator, and the cause.

use std::{error::Error as StdError, fmt};

use serde::{Deserialize, Serialize};

/// Why a command was refused. Stable names: they travel in HTTP problem details and exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RefusalCode {
    /// The call itself is wrong: fix it.
    Invalid,
    /// No such entity or session.
    NotFound,
    /// An entity or session of that id or name exists.
    AlreadyExists,
    /// The session, or the entity's version, is not where the caller expected it: re-read, decide again.
    Conflict,
    /// The lease number is not the current one: another worker has the task, stop working on it.
    LeaseLost,
    /// The entity is in a state that does not allow this (a finished task cannot be claimed).
    WrongState,
    /// The session is paused, closed or expired: resume or open another.
    SessionNotLive,
    /// The effect was begun and its outcome is not known: resolve it, never repeat it blindly.
    OutcomeUnknown,
    /// Another live worker is carrying out this effect now: wait or ask later.
    InProgress,
    /// The request id is older than what the session remembers: it was never carried out by this call.
    RequestTooOld,
    /// The request id was used with another body: use a new one.
    RequestMismatch,
    /// A named limit is reached.
    Limit,
    /// Another process has taken the session, or the whole store, over: go to it.
    FencedOut,
    /// The session is damaged beyond what a program may decide: it can be read, and waits for a person.
    NeedsDecision,
}

impl RefusalCode {
    /// The stable snake_case name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            RefusalCode::Invalid => "invalid",
            RefusalCode::NotFound => "not_found",
            RefusalCode::AlreadyExists => "already_exists",
            RefusalCode::Conflict => "conflict",
            RefusalCode::LeaseLost => "lease_lost",
            RefusalCode::WrongState => "wrong_state",
            RefusalCode::SessionNotLive => "session_not_live",
            RefusalCode::OutcomeUnknown => "outcome_unknown",
            RefusalCode::InProgress => "in_progress",
            RefusalCode::RequestTooOld => "request_too_old",
            RefusalCode::RequestMismatch => "request_mismatch",
            RefusalCode::Limit => "limit",
            RefusalCode::FencedOut => "fenced_out",
            RefusalCode::NeedsDecision => "needs_decision",
        }
    }
}

/// A command refused by the state: nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Why, by a stable name.
    pub code: RefusalCode,
    /// A sentence that says what to do.
    pub message: String,
    /// With `conflict`: what the number is now (a seq, or a memory entry's version).
    pub current: Option<u64>,
}

impl Refusal {
    /// A refusal with a sentence that says what to do.
    pub fn new(code: RefusalCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), current: None }
    }

    /// `invalid`.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(RefusalCode::Invalid, message)
    }

    /// `not_found`: `what` names the kind, `id` which one.
    pub fn not_found(what: &str, id: impl fmt::Display) -> Self {
        Self::new(RefusalCode::NotFound, format!("no {what} `{id}` in this session"))
    }

    /// `conflict`, with the current number.
    pub fn conflict(message: impl Into<String>, current: u64) -> Self {
        Self { code: RefusalCode::Conflict, message: message.into(), current: Some(current) }
    }
}

/// What to do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// Nothing was written; the same call may succeed later.
    Retry,
    /// Nothing was written; somebody else was faster: re-read, then decide again.
    Conflict,
    /// Nothing was written; fix the call.
    Invalid,
    /// Nothing was written; there is no such thing.
    NotFound,
    /// Nothing was written; the state does not allow this (the refusal says why).
    Refused,
    /// Nothing was written; the store cannot write now (disk full, read-only, locked): see the hint.
    Unavailable,
    /// It may or may not have been written: repeat it with the same request id.
    Unknown,
    /// Data at rest is damaged: see the report named in the hint. Nothing was overwritten.
    Corrupt,
    /// Nothing was written; a named limit is reached.
    Limit,
}

impl ErrorKind {
    /// The stable snake_case name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorKind::Retry => "retry",
            ErrorKind::Conflict => "conflict",
            ErrorKind::Invalid => "invalid",
            ErrorKind::NotFound => "not_found",
            ErrorKind::Refused => "refused",
            ErrorKind::Unavailable => "unavailable",
            ErrorKind::Unknown => "unknown",
            ErrorKind::Corrupt => "corrupt",
            ErrorKind::Limit => "limit",
        }
    }
}

/// What every surface returns.
#[derive(Debug)]
pub struct Error {
    /// What to do.
    pub kind: ErrorKind,
    /// With a refused command: exactly why.
    pub refusal: Option<Refusal>,
    /// One sentence for the caller.
    pub message: String,
    /// For the operator: where to look or what to run.
    pub hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind` with one sentence.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, refusal: None, message: message.into(), hint: None, source: None }
    }

    /// Adds what the operator should look at or run.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Keeps the cause.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The stable code: the refusal's where there is one, else the kind's.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.refusal.as_ref().map_or(self.kind.as_str(), |refusal| refusal.code.as_str())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let kind = match refusal.code {
            RefusalCode::Invalid | RefusalCode::RequestMismatch | RefusalCode::RequestTooOld => ErrorKind::Invalid,
            RefusalCode::NotFound => ErrorKind::NotFound,
            RefusalCode::Conflict => ErrorKind::Conflict,
            RefusalCode::InProgress => ErrorKind::Retry,
            RefusalCode::Limit => ErrorKind::Limit,
            RefusalCode::FencedOut => ErrorKind::Unavailable,
            RefusalCode::NeedsDecision => ErrorKind::Corrupt,
            RefusalCode::AlreadyExists
            | RefusalCode::LeaseLost
            | RefusalCode::WrongState
            | RefusalCode::SessionNotLive
            | RefusalCode::OutcomeUnknown => ErrorKind::Refused,
        };
        Self { kind, message: refusal.message.clone(), refusal: Some(refusal), hint: None, source: None }
    }
}
