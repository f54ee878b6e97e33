//! What can go wrong with a SQLite file, and what it means for a caller.

use rusqlite::ErrorCode;
use swarmkeep_core::{
    Epoch, Refusal, SessionId,
    log::{Damage, LogError, Refused},
};

/// What the functions of this crate return.
pub type Result<T, E = SqliteError> = std::result::Result<T, E>;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SqliteError {
    /// Data at rest is damaged. Nothing was written.
    #[error("damaged: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Damaged(Vec<Damage>),
    /// The file was written by a newer program. It was not touched.
    #[error(
        "{file}: schema version {found}, this program knows up to {known}; use a newer program (the file was not touched)"
    )]
    Newer {
        /// Which file.
        file: String,
        /// The version found.
        found: i64,
        /// The newest version known here.
        known: i64,
    },
    /// A migration that was applied to the file is not the one this program has. The file was not touched.
    #[error("{file}: migration {version} `{name}` differs from this program's (the file was not touched)")]
    Changed {
        /// Which file.
        file: String,
        /// Which migration.
        version: i64,
        /// Its name in the file.
        name: String,
    },
    /// The file is not what it should be: another program's, or of another store. It was not touched.
    #[error("{file}: {what} (the file was not touched)")]
    Foreign {
        /// Which file.
        file: String,
        /// What it is instead.
        what: String,
    },
    /// There is no such file, session, record, checkpoint or blob.
    #[error("not found: {0}")]
    NotFound(String),
    /// What was given contradicts itself or what is stored. Nothing was written.
    #[error("invalid: {0}")]
    Invalid(String),
    /// A query that cannot be answered as asked.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The file's connections are being closed and opened again, because a sync failed. Ask again.
    #[error("the database is being opened again after a failure; ask again")]
    Reopening,
    /// Somebody else opened the file for writing after us. Nothing was written.
    #[error("fenced out: another holder has written under incarnation {incarnation}")]
    Fenced {
        /// The other one's.
        incarnation: u64,
    },
    /// No room on the device. Nothing was written.
    #[error("no room on the device: {0}")]
    Full(String),
    /// Somebody else has the file locked. Nothing was written.
    #[error("locked by somebody else: {0}")]
    Busy(String),
    /// The file may not be written.
    #[error("read-only: {0}")]
    ReadOnly(String),
    /// The read took longer than a snapshot may live, and was interrupted so that the write-ahead log can shrink.
    #[error("interrupted: a read may take at most {} s", crate::SNAPSHOT_MS_MAX / 1_000)]
    Interrupted,
    /// Input or output failed before the commit. Nothing was written.
    #[error("input/output: {0}")]
    Io(String),
    /// Input or output failed in the commit: it may or may not have been written. The connection is not used for writing
    /// again; reopen and read the head.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// The SQLite library does not do what the store needs of it.
    #[error("SQLite {library}: {what}")]
    Library {
        /// Its version.
        library: &'static str,
        /// What is missing.
        what: String,
    },
    /// Anything else SQLite says.
    #[error("SQLite: {0}")]
    Sql(String),
}

impl SqliteError {
    /// One damaged thing.
    #[must_use]
    pub fn damaged(
        session: Option<SessionId>,
        seqs: Option<std::ops::RangeInclusive<u64>>,
        what: impl Into<String>,
    ) -> Self {
        Self::Damaged(vec![Damage { session, seqs, what: what.into() }])
    }

    /// Whether it says that the file is another store's, or a newer program's: then nothing is wrong with it.
    #[must_use]
    pub fn is_of_another(&self) -> bool {
        matches!(self, Self::Foreign { .. } | Self::Newer { .. })
    }

    /// An error of `COMMIT`: input/output errors leave the outcome open.
    pub(crate) fn of_commit(error: rusqlite::Error) -> Self {
        match Self::from(error) {
            Self::Io(detail) => Self::Unknown(detail),
            other => other,
        }
    }
}

fn is_short(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|error| error.extended_code == rusqlite::ffi::SQLITE_IOERR_SHORT_READ)
}

impl From<rusqlite::Error> for SqliteError {
    fn from(error: rusqlite::Error) -> Self {
        let text = error.to_string();
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full(text),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::damaged(None, None, text),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy(text),
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => Self::ReadOnly(text),
            Some(ErrorCode::OperationInterrupted) => Self::Interrupted,
            // The file ends before a page that it must have: nothing is wrong with the device.
            Some(ErrorCode::SystemIoFailure) if is_short(&error) => Self::damaged(None, None, text),
            Some(ErrorCode::SystemIoFailure) => Self::Io(text),
            Some(ErrorCode::CannotOpen) => Self::NotFound(text),
            // Columns of STRICT tables have the types we read; another type means the row was altered.
            None if matches!(
                error,
                rusqlite::Error::InvalidColumnType(..)
                    | rusqlite::Error::FromSqlConversionFailure(..)
                    | rusqlite::Error::IntegralValueOutOfRange(..)
            ) =>
            {
                Self::damaged(None, None, text)
            }
            _ => Self::Sql(text),
        }
    }
}

impl From<std::io::Error> for SqliteError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::Full(error.to_string()),
            std::io::ErrorKind::NotFound => Self::NotFound(error.to_string()),
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                Self::ReadOnly(error.to_string())
            }
            _ => Self::Io(error.to_string()),
        }
    }
}

impl From<SqliteError> for LogError {
    fn from(error: SqliteError) -> Self {
        let detail = error.to_string();
        let refused = |kind| LogError::Refused { kind, detail: detail.clone() };
        match error {
            SqliteError::Damaged(damage) => LogError::Corrupt(damage),
            SqliteError::NotFound(_) => LogError::NotFound,
            SqliteError::Fenced { incarnation } => LogError::Fenced(Epoch(incarnation)),
            SqliteError::Full(_) => refused(Refused::DiskFull),
            SqliteError::Busy(_) => refused(Refused::Locked),
            SqliteError::ReadOnly(_)
            | SqliteError::Newer { .. }
            | SqliteError::Changed { .. }
            | SqliteError::Foreign { .. } => refused(Refused::ReadOnly),
            SqliteError::Interrupted | SqliteError::Reopening => refused(Refused::Busy),
            // A query that cannot be answered, a group that contradicts itself: nothing was written, and asking again
            // would come to the same.
            SqliteError::Refused(_) | SqliteError::Invalid(_) => refused(Refused::Invalid),
            SqliteError::Io(_) | SqliteError::Library { .. } | SqliteError::Sql(_) => refused(Refused::Failed),
            SqliteError::Unknown(_) => LogError::Unknown(detail),
        }
    }
}
