//! Reading what is left of a damaged session: from the beginning on, as far as its hash chain leads, through rows that do not
//! verify as a whole.

use bytes::Bytes;
use swarmkeep_core::{
    Seq, SessionId,
    log::Head,
    record::{self, RecordView},
};

use super::{
    RecordsReader,
    chunk::{self, Chunk},
    mend::bad_chunk,
    row::SessionRow,
};
use crate::error::{Result, SqliteError};

impl RecordsReader<'_> {
    /// Records of a damaged session after `after`, contiguous and each verified by what follows it, at least one if one can be had, then up to
    /// about `max_bytes`. The session's own row may be damaged, and of a damaged row of records those before the damage are
    /// given. Where [`RecordsReader::read`] says that something further on is wrong, this gives what comes before it.
    ///
    /// # Errors
    /// `Damaged`: no record follows that can be had.
    pub fn read_left(&self, session: SessionId, after: Seq, max_bytes: usize) -> Result<Bytes> {
        let row = match SessionRow::load(self.connection(), session) {
            Ok(row) => row,
            Err(SqliteError::Damaged(_)) => None,
            Err(error) => return Err(error),
        };
        let (base, end) = row.map(|row| (row.base, row.head)).unwrap_or_default();
        let sql = format!(
            "SELECT {} FROM chunks WHERE session = ?1 AND \
             first_seq >= (SELECT coalesce(max(first_seq), 0) FROM chunks WHERE session = ?1 AND first_seq <= ?2) \
             ORDER BY first_seq",
            chunk::COLUMNS
        );
        let mut statement = self.connection().prepare_cached(&sql)?;
        let mut rows = statement.query((session.0, i64::try_from(after.0.saturating_add(1)).unwrap_or(i64::MAX)))?;
        let mut head: Option<Head> = (after == base.seq).then_some(base);
        let mut left = Left { after, max_bytes, out: Vec::new(), unvouched: None };
        'rows: while let Some(found) = rows.next()? {
            let (raw, is_whole) = match Chunk::read(found, session) {
                Ok(chunk) => (chunk.raw, true),
                Err(SqliteError::Damaged(_)) => (bad_chunk(found)?.salvaged, false),
                Err(error) => return Err(error),
            };
            for view in record::iter(&raw).map_while(std::result::Result::ok) {
                let is_vouched = head.is_none_or(|head| view.seq() == head.seq.next() && view.previous() == head.hash);
                if !is_vouched || !left.vouched() {
                    break 'rows;
                }
                let Some(next) = next(session, head, after, &view) else { break 'rows };
                head = Some(next);
                left.unvouched = Some((next.seq, view.bytes().to_vec()));
                if is_whole && !left.vouched() {
                    break 'rows;
                }
            }
        }
        if head.is_some_and(|head| head == end) {
            left.vouched();
        }
        let out = left.out;
        if out.is_empty() {
            let from = after.0.saturating_add(1);
            let what = "records.db: no record that follows can be had";
            return Err(SqliteError::damaged(Some(session), Some(from..=from), what));
        }
        Ok(out.into())
    }
}

/// What was read so far.
struct Left {
    after: Seq,
    max_bytes: usize,
    out: Vec<u8>,
    /// The newest record. Its body is what its header says; that its header is what was written is said by the hash in the
    /// record that follows, by the checksum of its row, or by the session's row.
    unvouched: Option<(Seq, Vec<u8>)>,
}

impl Left {
    /// The newest record is what was written. False: that was enough.
    fn vouched(&mut self) -> bool {
        let Some((_, bytes)) = self.unvouched.take().filter(|(seq, _)| *seq > self.after) else { return true };
        if !self.out.is_empty() && self.out.len() + bytes.len() > self.max_bytes {
            return false;
        }
        self.out.extend_from_slice(&bytes);
        self.out.len() < self.max_bytes
    }
}

/// The head after a record, if it is the one that follows. The first one of a read from the middle has nothing before it to be
/// compared with but itself.
fn next(session: SessionId, head: Option<Head>, after: Seq, view: &RecordView<'_>) -> Option<Head> {
    let before = match head {
        Some(head) => head,
        None if view.seq() <= after.next() => {
            Head { seq: Seq(view.seq().0.checked_sub(1)?), hash: view.previous(), time_ms: 0 }
        }
        None => return None,
    };
    view.follows(session, before).ok()
}
