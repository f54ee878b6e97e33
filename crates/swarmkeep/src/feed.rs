//! A session's records as they come: misses nothing, repeats nothing.
//!
//! A feed pulls. It holds a cursor, reads what the log has after it, and sleeps until the session's durable head moves. So
//! a slow reader costs nobody anything: there is no queue to overflow, and nothing is ever skipped.

use std::{collections::VecDeque, fmt, str::FromStr, sync::Arc};

use swarmkeep_core::{
    Error, ErrorKind, Hash, Record, Refusal, RefusalCode, Seq, SessionId,
    record::{self},
};

use crate::{keep::Engine, level};

/// Where a feed begins. Exclusive: the first item is the record after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// Before the first record.
    Start,
    /// After the newest durable record.
    Now,
    /// After this seq.
    Seq(Seq),
    /// After the item that carried this token; refused (`conflict`) when the log no longer contains that item.
    Token(FeedToken),
}

/// Names a place in one session's history, by content: a log that was restored or rewritten below it does not match.
///
/// Text form: session in hex, seq in decimal, first 8 bytes of the record's hash in hex, joined by `-`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedToken {
    /// Which session.
    pub session: SessionId,
    /// Which record.
    pub seq: Seq,
    /// First bytes of its hash.
    pub hash_prefix: [u8; 8],
}

impl FeedToken {
    /// The place of this record.
    #[must_use]
    pub fn of(record: &Record) -> Self {
        Self { session: record.session, seq: record.seq, hash_prefix: prefix(&record.hash) }
    }
}

fn prefix(hash: &Hash) -> [u8; 8] {
    hash.0.first_chunk().copied().unwrap_or_default()
}

impl fmt::Display for FeedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-", self.session, self.seq)?;
        self.hash_prefix.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for FeedToken {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let bad = || {
            Refusal::invalid(format!(
                "`{}` is not a feed token: use one that a feed gave, a seq, `start` or `now`",
                text.chars().take(120).collect::<String>()
            ))
        };
        let mut parts = text.split('-');
        let (Some(session), Some(seq), Some(hash), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(bad());
        };
        let hash = u64::from_str_radix(hash, 16).ok().filter(|_| hash.len() == 16).ok_or_else(bad)?;
        Ok(Self {
            session: session.parse().map_err(|_| bad())?,
            seq: Seq(seq.parse().map_err(|_| bad())?),
            hash_prefix: hash.to_be_bytes(),
        })
    }
}

impl FromStr for From {
    type Err = Refusal;

    /// `start`, `now`, a seq, or a token.
    fn from_str(text: &str) -> Result<Self, Refusal> {
        match text {
            "start" => Ok(From::Start),
            "now" => Ok(From::Now),
            _ => match text.parse() {
                Ok(seq) => Ok(From::Seq(Seq(seq))),
                Err(_) => Ok(From::Token(text.parse()?)),
            },
        }
    }
}

/// One record, and the token that resumes after it.
#[derive(Debug, Clone)]
pub struct FeedItem {
    /// What happened.
    pub record: Record,
    /// Pass it as [`From::Token`] to go on after this item.
    pub token: FeedToken,
}

/// Bytes read from the log at a time.
const READ_BYTES: usize = 256 * 1024;

/// A subscription to one session.
pub struct Feed {
    engine: Arc<Engine>,
    session: SessionId,
    cursor: Seq,
    /// Hash of the record at the cursor, once one was given out.
    last: Option<Hash>,
    buffer: VecDeque<FeedItem>,
    heads: level::Receiver<Seq>,
}

impl Feed {
    pub(crate) async fn begin(engine: Arc<Engine>, session: SessionId, from: From) -> Result<Self, Error> {
        // Registered first, read afterwards: a record that commits in between is seen by the read.
        let mut heads = engine.heads(session).await?;
        let head = heads.see();
        let cursor = match from {
            From::Start => Seq::ZERO,
            From::Now => head,
            From::Seq(seq) => {
                if seq > head {
                    return Err(beyond(seq, head));
                }
                seq
            }
            From::Token(token) => {
                engine.check_token(session, token, head).await?;
                token.seq
            }
        };
        let removed = engine.removed_through(session).seq;
        if cursor < removed {
            let message = format!("the records up to seq {removed} were removed below a checkpoint");
            return Err(Error::from(Refusal::new(RefusalCode::NotFound, message))
                .hint(format!("read the state, and follow the feed from seq {removed} on")));
        }
        // There is nothing to come: it is said at once, and not by a feed that ends and is begun again.
        if let Some(error) = engine.needs_decision(session).filter(|_| cursor >= head) {
            return Err(error);
        }
        Ok(Self { engine, session, cursor, last: None, buffer: VecDeque::new(), heads })
    }

    /// The next record: at once if there is one, else as soon as it is durable. Safe to drop and call again.
    ///
    /// # Errors
    /// `corrupt` when the log is damaged after the cursor, `needs_decision` when the session waits for one there; `conflict`
    /// when it was rolled back to before the cursor; `unavailable` when the store is closing: resume with the last
    /// item's token.
    pub async fn next(&mut self) -> Result<FeedItem, Error> {
        loop {
            if let Some(item) = self.buffer.pop_front() {
                self.cursor = item.record.seq;
                self.last = Some(item.record.hash);
                return Ok(item);
            }
            let durable = self.heads.see();
            if durable > self.cursor {
                let bytes = self.engine.read_up_to_damage(self.session, self.cursor, READ_BYTES).await?;
                for view in record::iter(&bytes) {
                    let view = view.map_err(crate::damage::record)?;
                    if view.seq() > durable {
                        // Durable, and not in the state that readers are given: whoever is told of it may ask for that.
                        break;
                    }
                    if self.buffer.is_empty() && self.last.is_some_and(|last| last != view.previous()) {
                        return Err(went_back(self.cursor, durable));
                    }
                    let record = view.decode().map_err(crate::damage::record)?;
                    self.buffer.push_back(FeedItem { token: FeedToken::of(&record), record });
                }
                if self.buffer.is_empty() {
                    let cursor = self.cursor;
                    let message = format!("the session is published at seq {durable}, and its log ends at {cursor}");
                    return Err(Error::new(ErrorKind::Corrupt, message)
                        .hint("`swarmkeep verify` says what is missing; what the feed gave so far is good"));
                }
                continue;
            }
            if let Some(error) = self.engine.needs_decision(self.session) {
                return Err(error);
            }
            if durable < self.cursor
                && let Ok(Some(head)) = self.engine.log.head(self.session).await
                && head.seq < self.cursor
            {
                // Not merely published later than it was read.
                return Err(went_back(self.cursor, head.seq));
            }
            tokio::select! {
                biased;
                changed = self.heads.changed() => if changed.is_err() {
                    // The session left RAM and came back, or the store is closing.
                    self.heads = self.engine.heads(self.session).await?;
                },
                () = self.engine.closing() => {
                    return Err(Error::new(ErrorKind::Unavailable, "the store is closing")
                        .hint("subscribe again with the last item's token"));
                }
            }
        }
    }

    /// The token of where the feed stands: before its first item, of where it began. A reader that is cut off before it got
    /// an item goes on from there, and misses nothing that came meanwhile.
    ///
    /// # Errors
    /// `corrupt` when the record there cannot be read.
    pub async fn token(&self) -> Result<FeedToken, Error> {
        let hash = match self.cursor {
            Seq::ZERO => Hash::default(),
            seq => match self.engine.removed_through(self.session) {
                removed if removed.seq == seq => removed.hash,
                _ => self.engine.hash_at(self.session, seq).await?,
            },
        };
        Ok(FeedToken { session: self.session, seq: self.cursor, hash_prefix: prefix(&hash) })
    }

    /// The seq of the last item given out (where the feed began, before the first).
    #[must_use]
    pub fn cursor(&self) -> Seq {
        self.cursor
    }
}

fn went_back(cursor: Seq, head: Seq) -> Error {
    let message = format!("diverged: what followed seq {cursor} is another history now; the session is at seq {head}");
    Error::from(Refusal { code: RefusalCode::Conflict, message, current: Some(head.0) })
        .hint("`recover history` says what was given up; begin again")
}

fn beyond(seq: Seq, head: Seq) -> Error {
    Refusal::conflict(format!("the session ends at seq {head}, before {seq}: this is not the log you read"), head.0)
        .into()
}

impl Engine {
    /// The hash of a record from seq 1 on; the default where there is none.
    async fn hash_at(&self, session: SessionId, seq: Seq) -> Result<Hash, Error> {
        let bytes = self.read_log(session, Seq(seq.0.saturating_sub(1)), 1).await?;
        match record::iter(&bytes).next() {
            Some(view) => Ok(view.map_err(crate::damage::record)?.hash()),
            None => Ok(Hash::default()),
        }
    }

    /// That the log still contains the item a token was given with.
    async fn check_token(&self, session: SessionId, token: FeedToken, head: Seq) -> Result<(), Error> {
        if token.session != session {
            return Err(Refusal::invalid("the feed token is of another session").into());
        }
        if token.seq == Seq::ZERO {
            return Ok(());
        }
        if token.seq > head {
            return Err(beyond(token.seq, head));
        }
        let before = Seq(token.seq.0 - 1);
        let removed = self.removed_through(session);
        if token.seq < removed.seq {
            // Nobody can tell any more; where it goes on, it is refused.
            return Ok(());
        }
        let found = if token.seq == removed.seq { removed.hash } else { self.hash_at(session, token.seq).await? };
        if prefix(&found) != token.hash_prefix {
            return Err(Error::from(Refusal {
                code: RefusalCode::Conflict,
                message: format!(
                    "diverged: seq {} is another record now; begin again at or below seq {before}",
                    token.seq
                ),
                current: Some(before.0),
            }));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_from_their_text() {
        let token =
            FeedToken { session: SessionId([7; 16]), seq: Seq(42), hash_prefix: [0, 1, 2, 3, 250, 251, 252, 253] };
        assert_eq!(token.to_string().parse::<FeedToken>().unwrap(), token);
        assert_eq!("17".parse::<From>().unwrap(), From::Seq(Seq(17)));
        for bad in ["", "x", "00-1-2", "-1"] {
            assert!(bad.parse::<From>().is_err(), "{bad}");
        }
    }
}
