//! What a `Log` or a record says is wrong, as an [`Error`] that says what to do.

use std::path::Path;

use swarmkeep_core::{
    Error, ErrorKind, Refusal,
    log::{LogError, Refused},
    record::RecordError,
};
use swarmkeep_sqlite::SqliteError;

const MENDS: &str = "`swarmkeep recover --session NAME` puts right what stands a second time; `swarmkeep quarantine show NAME` says \
                     what is lost of a session that waits for a decision; for the rest restore a copy of the store's folder \
                     (docs/recovery.md)";

/// What SQLite says of a file, with the file's path before it, once.
pub(crate) fn of_file(path: &Path, error: &SqliteError) -> String {
    let (path, said) = (path.display().to_string(), error.to_string());
    if said.starts_with(&path) { said } else { format!("{path}: {said}") }
}

/// A record that cannot be used.
pub(crate) fn record(error: RecordError) -> Error {
    let kind = match error {
        RecordError::Newer(_) | RecordError::Class(_) => ErrorKind::Unavailable,
        _ => ErrorKind::Corrupt,
    };
    Error::new(kind, error.to_string()).hint(MENDS).caused_by(error)
}

/// A log that did not do it.
pub(crate) fn log(error: LogError) -> Error {
    match error {
        LogError::Conflict(head) => {
            Refusal::conflict(format!("the session ends at seq {} now: read it again", head.seq), head.seq.0).into()
        }
        LogError::Fenced(epoch) => {
            let what = format!("fenced out: this session is held by another process, under epoch {epoch} at least");
            Error::from(Refusal::new(swarmkeep_core::RefusalCode::FencedOut, what))
                .hint("send it to the process that holds the store now, with the same request id")
        }
        LogError::Exists => {
            Refusal::new(swarmkeep_core::RefusalCode::AlreadyExists, "a session of this name exists: `open` resumes it")
                .into()
        }
        LogError::NotFound => Error::new(ErrorKind::NotFound, "not found"),
        LogError::Refused { kind, detail } => {
            let (error_kind, hint) = match kind {
                Refused::DiskFull => {
                    (ErrorKind::Unavailable, "free space on the store's device; writing goes on by itself")
                }
                Refused::ReadOnly => (ErrorKind::Unavailable, "make the store's folder writable"),
                Refused::Locked => (ErrorKind::Unavailable, "stop the process that holds the store, or talk to it"),
                Refused::Busy => (ErrorKind::Retry, "the store is catching up: try again shortly"),
                Refused::Failed => {
                    (ErrorKind::Unavailable, "see what the system's log says of the store's device, then try again")
                }
                Refused::TooLarge => (ErrorKind::Limit, "send less in one request, or large content as a blob"),
                Refused::Closing => {
                    (ErrorKind::Unavailable, "the store is closing; repeat after the restart, with the same request id")
                }
                _ => (ErrorKind::Refused, "something else needs it"),
            };
            Error::new(error_kind, format!("{kind}: {detail}")).hint(hint)
        }
        LogError::Unknown(detail) => {
            Error::new(ErrorKind::Unknown, format!("it may or may not have been written: {detail}"))
                .hint("repeat it with the same request id")
        }
        LogError::Corrupt(damage) => {
            let message = damage.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            Error::new(ErrorKind::Corrupt, format!("damaged: {message}")).hint(MENDS)
        }
        other => Error::new(ErrorKind::Unavailable, other.to_string()),
    }
}
