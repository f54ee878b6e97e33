//! A session's state at a seq, out of `records.db`: what a fork or a rewind replaces the views by.

use bytes::Bytes;
use swarmkeep_core::{BlobId, Seq, SessionId, State, session};

use crate::{
    error::{Result, SqliteError},
    records::RecordsReader,
};

/// Bytes of records folded at a time.
const PIECE: usize = 1024 * 1024;
/// Longest state a blob may unpack to: twice the largest state there is.
const BASE_BYTES_MAX: usize = 2 * swarmkeep_core::limits::STATE_BYTES;
/// The first bytes of a zstd frame.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Where records come from, and blobs that are files of their own.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// One snapshot of `records.db`.
    pub records: RecordsReader<'a>,
    /// Reads a blob that is not in `records.db`; its bytes are compared with its id here.
    pub files: &'a dyn Fn(SessionId, BlobId) -> Result<Bytes>,
}

impl std::fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").finish_non_exhaustive()
    }
}

impl<'a> Source<'a> {
    /// For a store whose blobs are all in `records.db`.
    #[must_use]
    pub fn new(records: RecordsReader<'a>) -> Self {
        Self { records, files: &|_, id| Err(SqliteError::NotFound(format!("file of blob {id}"))) }
    }

    /// A blob, wherever it is, verified.
    ///
    /// # Errors
    /// `NotFound`, `Damaged`.
    pub fn blob(&self, session: SessionId, id: BlobId) -> Result<Bytes> {
        if let Some(bytes) = self.records.blob(session, id)? {
            return Ok(bytes);
        }
        let bytes = (self.files)(session, id)?;
        if blake3::hash(&bytes).as_bytes() != &id.0 {
            return Err(SqliteError::damaged(Some(session), None, format!("file of blob {id}: hash differs")));
        }
        Ok(bytes)
    }

    /// The state that travels in a blob: canonical bytes, zstd or plain.
    ///
    /// # Errors
    /// `NotFound`, `Damaged`.
    pub fn base(&self, session: SessionId, id: BlobId) -> Result<State> {
        let bytes = self.blob(session, id)?;
        let damaged =
            |what: String| SqliteError::damaged(Some(session), None, format!("base state in blob {id}: {what}"));
        let canonical = if bytes.starts_with(&ZSTD) {
            let length = zstd::zstd_safe::get_frame_content_size(&bytes)
                .ok()
                .flatten()
                .and_then(|length| usize::try_from(length).ok())
                .filter(|length| *length <= BASE_BYTES_MAX)
                .ok_or_else(|| damaged("its length is not given, or beyond any limit".into()))?;
            zstd::bulk::decompress(&bytes, length).map_err(|error| damaged(error.to_string()))?.into()
        } else {
            bytes
        };
        State::from_canonical(&canonical).map_err(damaged)
    }

    /// The state at a seq: newest checkpoint at or below it, and the records from there.
    ///
    /// # Errors
    /// `NotFound`: the session has no such seq. `Damaged`: it cannot be folded.
    pub fn state_at(&self, session: SessionId, seq: Seq) -> Result<State> {
        let mut state = State::empty();
        let mut from = seq;
        while let Some(checkpoint) = self.records.load(session, from)? {
            if let Ok(saved) = checkpoint.state() {
                state = saved;
                break;
            }
            // A state this program does not read: an older checkpoint, or the beginning.
            if checkpoint.head.seq.0 == 0 {
                break;
            }
            from = Seq(checkpoint.head.seq.0 - 1);
        }
        while state.head.seq < seq {
            let bytes = self.records.read(session, state.head.seq, PIECE)?;
            if bytes.is_empty() {
                return Err(SqliteError::NotFound(format!("seq {seq} of session {session}")));
            }
            for view in swarmkeep_core::record::iter(&bytes) {
                let at = state.head.seq.0 + 1;
                let damaged = |what: String| SqliteError::damaged(Some(session), Some(at..=at), what);
                let view = view.map_err(|error| damaged(error.to_string()))?;
                if view.seq() > seq {
                    break;
                }
                let record = view.decode().map_err(|error| damaged(error.to_string()))?;
                let mut base = |id| self.base(session, id).map_err(|error| error.to_string());
                session::fold_record(&mut state, &record, &mut base).map_err(|error| damaged(error.to_string()))?;
            }
        }
        Ok(state)
    }
}
