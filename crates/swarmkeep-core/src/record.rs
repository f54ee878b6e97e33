//! A record: an event as stored, chained by hash to the one before it.
//!
//! # Bytes (little-endian)
//!
//! ```text
//! offset size
//!      0    4  length of the whole record, header and body
//!      4    2  record format version: 1
//!      6    2  event class: 1 (session event); others are refused
//!      8   16  session id
//!     24    8  seq, from 1
//!     32    8  time, ms since the Unix epoch: max(previous record's, now)
//!     40    8  epoch of the holder that wrote it
//!     48    4  key id: 0, the body is not encrypted
//!     52    4  flags: bit 0, the body was removed (its hash stays)
//!     56   32  hash of the previous record; zeros before the first
//!     88   32  body hash: BLAKE3(salt ‖ body)
//!    120   16  salt, random
//!    136    …  body: canonical JSON, {"actor":…,"request":…,"event":…}
//! ```
//!
//! **Record hash** = BLAKE3 over bytes 4 to 120: the header with the body's hash in it. A body can therefore be removed
//! (erased, scrubbed) and every chain through it still verifies. The length stands outside, because removing a body
//! changes it.

use serde::{Deserialize, Serialize};

use crate::{
    command::Outcome,
    event::Event,
    id::{Actor, Epoch, Hash, RequestId, Seq, SessionId},
    state::Head,
};

/// Bytes before the salt and body.
pub const HEADER_BYTES: usize = 120;
/// Bytes of a record with an empty body.
pub const OVERHEAD_BYTES: usize = HEADER_BYTES + SALT_BYTES;
const SALT_BYTES: usize = 16;
const VERSION: u16 = 1;
const CLASS_EVENT: u16 = 1;
const FLAG_BODY_REMOVED: u32 = 1;

/// What stands in a record's body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Body {
    /// Who did it.
    pub actor: Actor,
    /// Which request asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestId>,
    /// What happened.
    pub event: Event,
    /// On the last record of a group that has a request id: what a repeat of the request is answered with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
}

/// What a request came to, as remembered with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Seq of the group's first record; the record that holds this is the last.
    pub first: Seq,
    /// BLAKE3 of the request's commands: another body under the same id is refused.
    pub request_hash: Hash,
    /// One per command.
    pub outcomes: Vec<Outcome>,
}

/// A record, decoded. [`RecordView`] reads the header without the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Which session.
    pub session: SessionId,
    /// Position in it.
    pub seq: Seq,
    /// When.
    pub time_ms: u64,
    /// Under which holder.
    pub epoch: Epoch,
    /// Its hash.
    pub hash: Hash,
    /// Hash of the record before it.
    pub previous: Hash,
    /// What happened; absent when the body was removed.
    pub body: Option<Body>,
}

impl Record {
    /// Where a log ends that ends with this record.
    #[must_use]
    pub fn head(&self) -> Head {
        Head { seq: self.seq, hash: self.hash, time_ms: self.time_ms }
    }
}

/// Why bytes are not a record that may be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Fewer bytes than the record says it has.
    #[error("cut off: {have} of {need} bytes")]
    CutOff {
        /// Bytes there are.
        have: usize,
        /// Bytes it should have.
        need: usize,
    },
    /// Written by a newer program.
    #[error("record format version {0}; this program reads version 1: use a newer one")]
    Newer(u16),
    /// An event class this program does not know.
    #[error("event class {0} is not known to this program: use a newer one")]
    Class(u16),
    /// A flag this program does not know. Flags are outside the hash, because removing a body sets one.
    #[error("record flags {0:#x} are not known to this program: damaged, or written by a newer one")]
    Flags(u32),
    /// The body is not the one that was hashed.
    #[error("body hash differs at seq {0}")]
    Body(Seq),
    /// The chain is broken here.
    #[error("seq {seq} does not follow the record before it: {what}")]
    Chain {
        /// Where.
        seq: Seq,
        /// Session, seq or hash.
        what: &'static str,
    },
    /// The body is not JSON of the expected shape.
    #[error("body of seq {seq}: {error}")]
    Decode {
        /// Where.
        seq: Seq,
        /// What the decoder says.
        error: String,
    },
}

/// Appends one record to `out` and returns the head after it.
///
/// `time_ms` is what the clock says; the record gets `max(head.time_ms, time_ms)`.
pub fn encode(
    out: &mut Vec<u8>,
    session: SessionId,
    head: Head,
    epoch: Epoch,
    time_ms: u64,
    salt: [u8; 16],
    body: &[u8],
) -> Head {
    let seq = head.seq.next();
    let time_ms = time_ms.max(head.time_ms);
    let start = out.len();
    let length = u32::try_from(OVERHEAD_BYTES + body.len()).unwrap_or(u32::MAX);
    out.reserve(OVERHEAD_BYTES + body.len());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&CLASS_EVENT.to_le_bytes());
    out.extend_from_slice(&session.0);
    out.extend_from_slice(&seq.0.to_le_bytes());
    out.extend_from_slice(&time_ms.to_le_bytes());
    out.extend_from_slice(&epoch.0.to_le_bytes());
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&head.hash.0);
    out.extend_from_slice(body_hash(&salt, body).as_bytes());
    let hash = out.get(start + 4..).map_or(Hash::default(), |header| Hash(*blake3::hash(header).as_bytes()));
    out.extend_from_slice(&salt);
    out.extend_from_slice(body);
    Head { seq, hash, time_ms }
}

fn body_hash(salt: &[u8], body: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(salt);
    hasher.update(body);
    hasher.finalize()
}

/// A record's bytes, its header read and nothing verified yet.
#[derive(Debug, Clone, Copy)]
pub struct RecordView<'a> {
    bytes: &'a [u8],
}

impl<'a> RecordView<'a> {
    /// The record at the start of `bytes`, and what follows it.
    ///
    /// # Errors
    /// `CutOff`, `Newer`, `Class`, `Flags`: nothing here was allocated or trusted on the length's word.
    pub fn split(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), RecordError> {
        let cut = |need| RecordError::CutOff { have: bytes.len(), need };
        let length = u32::from_le_bytes(field(bytes, 0).ok_or(cut(OVERHEAD_BYTES))?) as usize;
        let minimum = HEADER_BYTES;
        if length < minimum || length > bytes.len() {
            return Err(cut(length.max(minimum)));
        }
        let (bytes, rest) = bytes.split_at(length);
        let view = Self { bytes };
        let version = u16::from_le_bytes(view.field(4));
        if version != VERSION {
            return Err(RecordError::Newer(version));
        }
        let class = u16::from_le_bytes(view.field(6));
        if class != CLASS_EVENT {
            return Err(RecordError::Class(class));
        }
        let flags = u32::from_le_bytes(view.field(52));
        if flags & !FLAG_BODY_REMOVED != 0 {
            return Err(RecordError::Flags(flags));
        }
        if !view.body_removed() && length < OVERHEAD_BYTES {
            return Err(RecordError::CutOff { have: length, need: OVERHEAD_BYTES });
        }
        Ok((view, rest))
    }

    fn field<const N: usize>(&self, at: usize) -> [u8; N] {
        field(self.bytes, at).unwrap_or([0; N])
    }

    /// The whole record.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Which session.
    #[must_use]
    pub fn session(&self) -> SessionId {
        SessionId(self.field(8))
    }

    /// Position in it.
    #[must_use]
    pub fn seq(&self) -> Seq {
        Seq(u64::from_le_bytes(self.field(24)))
    }

    /// When.
    #[must_use]
    pub fn time_ms(&self) -> u64 {
        u64::from_le_bytes(self.field(32))
    }

    /// Under which holder.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        Epoch(u64::from_le_bytes(self.field(40)))
    }

    /// Hash of the record before it.
    #[must_use]
    pub fn previous(&self) -> Hash {
        Hash(self.field(56))
    }

    /// Whether the body was removed.
    #[must_use]
    pub fn body_removed(&self) -> bool {
        u32::from_le_bytes(self.field(52)) & FLAG_BODY_REMOVED != 0
    }

    /// Its hash, computed.
    #[must_use]
    pub fn hash(&self) -> Hash {
        let mut header: [u8; HEADER_BYTES - 4] = self.field(4);
        // The flag that says the body is gone is set after the fact: it is hashed as it was written.
        if let Some(flags) = header.get_mut(48..52) {
            flags.fill(0);
        }
        Hash(*blake3::hash(&header).as_bytes())
    }

    /// The body's bytes, hashed and compared; `None`: removed.
    ///
    /// # Errors
    /// `Body` when they are not the ones that were hashed.
    pub fn body(&self) -> Result<Option<&'a [u8]>, RecordError> {
        if self.body_removed() {
            return Ok(None);
        }
        let expected: [u8; 32] = self.field(88);
        let salted = self.bytes.get(HEADER_BYTES..).unwrap_or_default();
        let (_, body) = salted.split_at_checked(SALT_BYTES).ok_or(RecordError::Body(self.seq()))?;
        // Salt and body stand side by side. In one piece long ones are hashed several blocks at a time.
        if *blake3::hash(salted).as_bytes() != expected {
            return Err(RecordError::Body(self.seq()));
        }
        Ok(Some(body))
    }

    /// Checks that this record follows `head` in `session`, and gives the head after it.
    ///
    /// # Errors
    /// `Chain` or `Body`.
    pub fn follows(&self, session: SessionId, head: Head) -> Result<Head, RecordError> {
        let next = self.chained(session, head)?;
        self.body()?;
        Ok(next)
    }

    /// [`RecordView::follows`] without hashing the body: for bytes that something else vouches for.
    ///
    /// # Errors
    /// `Chain`.
    pub fn chained(&self, session: SessionId, head: Head) -> Result<Head, RecordError> {
        let broken = |what| RecordError::Chain { seq: self.seq(), what };
        if self.session() != session {
            return Err(broken("another session's"));
        }
        if self.seq() != head.seq.next() {
            return Err(broken("seq"));
        }
        if self.previous() != head.hash {
            return Err(broken("hash of the one before"));
        }
        if self.time_ms() < head.time_ms {
            return Err(broken("time goes back"));
        }
        Ok(Head { seq: self.seq(), hash: self.hash(), time_ms: self.time_ms() })
    }

    /// Decodes it, verifying the body's hash (the chain is [`RecordView::follows`]'s).
    ///
    /// # Errors
    /// `Body` or `Decode`.
    pub fn decode(&self) -> Result<Record, RecordError> {
        self.body()?;
        self.decode_verified(Head { seq: self.seq(), hash: self.hash(), time_ms: self.time_ms() })
    }

    /// Decodes a record that [`RecordView::follows`] verified and gave `head` for: nothing is hashed again.
    ///
    /// # Errors
    /// `Decode`.
    pub fn decode_verified(&self, head: Head) -> Result<Record, RecordError> {
        let decode = |body: &[u8]| {
            serde_json::from_slice(body)
                .map_err(|error| RecordError::Decode { seq: head.seq, error: error.to_string() })
        };
        let body = (!self.body_removed()).then(|| self.bytes.get(OVERHEAD_BYTES..).unwrap_or_default());
        Ok(Record {
            session: self.session(),
            seq: head.seq,
            time_ms: head.time_ms,
            epoch: self.epoch(),
            hash: head.hash,
            previous: self.previous(),
            body: body.map(decode).transpose()?,
        })
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// The records in `bytes`, one after another; stops after the first error.
pub fn iter(bytes: &[u8]) -> impl Iterator<Item = Result<RecordView<'_>, RecordError>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        match RecordView::split(rest) {
            Ok((view, after)) => {
                rest = after;
                Some(Ok(view))
            }
            Err(error) => {
                rest = &[];
                Some(Err(error))
            }
        }
    })
}
