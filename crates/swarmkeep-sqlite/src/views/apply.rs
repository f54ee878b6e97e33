//! A batch of records, tabulated.

use std::{borrow::Cow, collections::BTreeMap, fmt::Write as _};

use memchr::memmem;
use rusqlite::Connection;
use serde::Deserialize;
use swarmkeep_core::{
    Seq, SessionId, State,
    log::{Observation, Position, Remove},
    record::{self, Body, OVERHEAD_BYTES, Record, RecordView},
    tabulate::{self, RowChange, ViewTable},
};

use super::{
    Source,
    merge::{Merged, Row},
    write,
};
use crate::{
    error::{Result, SqliteError},
    records::{ApplyBatch, Entry, What},
};

/// Applies the entries of `batch` beyond `from`.
pub(super) fn batch(connection: &Connection, from: Position, batch: &ApplyBatch, source: &Source<'_>) -> Result<()> {
    let mut entries: Vec<&Entry> = batch.entries.iter().filter(|entry| entry.position > from).collect();
    entries.sort_by_key(|entry| entry.session);
    for entries in entries.chunk_by(|a, b| a.session == b.session) {
        let Some(session) = entries.first().map(|entry| entry.session) else { continue };
        let mut pending = Pending::new(session);
        // The rows may be of a records.db that had more of the session than its position says: it was put together of copies.
        pending.seen = Seq(write::seq(connection, &pending.session_id)?);
        let mut observations = Vec::new();
        for (at, entry) in entries.iter().enumerate() {
            match &entry.what {
                What::Records { bytes, .. } => {
                    let more = entries.iter().skip(at + 1).any(|entry| matches!(entry.what, What::Records { .. }));
                    pending.records(bytes, more, source)?;
                }
                What::Observations(list) => observations.extend(list),
                What::Remove(Remove::All) => {
                    pending = Pending::new(session);
                    observations.clear();
                    write::remove(connection, &session.to_string())?;
                }
                What::Remove(_) | What::Checkpoint(_) => {}
            }
        }
        pending.flush(connection)?;
        observe(connection, session, observations.into_iter())?;
    }
    Ok(())
}

/// What records of one session came to, not yet written.
pub(super) struct Pending {
    session: SessionId,
    session_id: String,
    /// The last record of which the rows have everything.
    seen: Seq,
    merged: Merged,
    groups: BTreeMap<(&'static str, String), Group>,
    scratch: Vec<RowChange>,
}

/// What the views need of a caller's own event, without its payload.
#[derive(Deserialize)]
struct OwnEvent<'a> {
    #[serde(borrow, default)]
    aggregate: Option<Cow<'a, str>>,
}

impl<'a> OwnEvent<'a> {
    /// `None`: the body is another event's.
    fn of(body: &'a [u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct OwnBody<'a> {
            #[serde(borrow)]
            event: Named<'a>,
        }
        #[derive(Deserialize)]
        struct Named<'a> {
            #[serde(borrow)]
            custom: OwnEvent<'a>,
        }
        // Cheap, and true of every such body; a payload that only looks like it does not decode.
        memmem::find(body, b"\"event\":{\"custom\":")?;
        serde_json::from_slice::<OwnBody<'_>>(body).ok().map(|body| body.event.custom)
    }
}

struct Group {
    first_seq: u64,
    last_seq: u64,
    first_time: u64,
    events: String,
}

impl Pending {
    pub(super) fn new(session: SessionId) -> Self {
        Self {
            session,
            session_id: session.to_string(),
            seen: Seq::ZERO,
            merged: Merged::default(),
            groups: BTreeMap::new(),
            scratch: Vec::new(),
        }
    }

    /// How many rows are waiting.
    pub(super) fn len(&self) -> usize {
        self.merged.len() + self.groups.len()
    }

    /// Forgets what is not of these tables, and the list of events: for whoever writes nothing.
    pub(super) fn keep(&mut self, wanted: fn(&ViewTable) -> bool) {
        self.merged.keep(wanted);
        self.groups.clear();
    }

    /// The rows that are waiting, in no particular order.
    pub(super) fn rows(&self) -> impl Iterator<Item = (&'static ViewTable, &Row)> {
        self.merged.rows()
    }

    /// Puts the rows of a state in place of everything the session had.
    pub(super) fn replace(&mut self, state: &State) {
        self.merged.replace();
        tabulate::rows(state).into_iter().for_each(|row| self.merged.add(row));
    }

    /// Tabulates records; `more`: others of the same session follow in the batch.
    pub(super) fn records(&mut self, bytes: &[u8], more: bool, source: &Source<'_>) -> Result<()> {
        let mut views = record::iter(bytes).peekable();
        while let Some(view) = views.next() {
            let damaged = |error: String| SqliteError::damaged(Some(self.session), None, error);
            let view = view.map_err(|error| damaged(error.to_string()))?;
            self.record(&view, more || views.peek().is_some(), source)?;
        }
        Ok(())
    }

    fn record(&mut self, view: &RecordView<'_>, more: bool, source: &Source<'_>) -> Result<()> {
        let seq = view.seq();
        if seq <= self.seen {
            return Ok(());
        }
        let damaged = |error: String| SqliteError::damaged(Some(self.session), Some(seq.0..=seq.0), error);
        // What comes here was verified when it went into records.db, or when it came out; it is not hashed again.
        let body = view.bytes().get(OVERHEAD_BYTES..).filter(|_| !view.body_removed());
        // A caller's own event changes no entity.
        if more && let Some(own) = body.and_then(OwnEvent::of) {
            let aggregate = own.aggregate.map_or(("session", "session".into()), |id| ("custom", id.into_owned()));
            self.event(aggregate, "custom", seq.0, view.time_ms());
            return Ok(());
        }
        let body: Option<Body> = match body {
            Some(body) => Some(serde_json::from_slice(body).map_err(|error| damaged(error.to_string()))?),
            None => None,
        };
        if let Some(Body { event, .. }) = &body {
            self.event(tabulate::aggregate(event), tabulate::event_type(event), seq.0, view.time_ms());
        }
        let record = Record {
            session: self.session,
            seq,
            time_ms: view.time_ms(),
            epoch: view.epoch(),
            hash: view.hash(),
            previous: view.previous(),
            body,
        };
        let mut scratch = std::mem::take(&mut self.scratch);
        tabulate::changes(&record, &mut scratch);
        // The session's position follows from the next record as well.
        if !more {
            scratch.push(tabulate::position(&record));
        }
        for change in scratch.drain(..) {
            if matches!(change, RowChange::Reset) {
                self.replace(&source.state_at(self.session, seq)?);
            } else {
                self.merged.add(change);
            }
        }
        self.scratch = scratch;
        Ok(())
    }

    fn event(&mut self, aggregate: (&'static str, String), kind: &str, seq: u64, time_ms: u64) {
        let group = self.groups.entry(aggregate).or_insert_with(|| Group {
            first_seq: seq,
            last_seq: seq,
            first_time: time_ms,
            events: String::from("["),
        });
        group.last_seq = seq;
        if group.events.len() > 1 {
            group.events.push(',');
        }
        // Names of events are plain words; writing into a string cannot fail.
        let _ = write!(group.events, "[{},\"{kind}\",{}]", seq - group.first_seq, time_ms - group.first_time);
    }

    /// Writes everything, and starts anew.
    pub(super) fn flush(&mut self, connection: &Connection) -> Result<()> {
        if !self.merged.is_empty() {
            let beats = if self.merged.replaced {
                let beats = write::heartbeats(connection, &self.session_id)?;
                write::clear_state(connection, &self.session_id)?;
                beats
            } else {
                Vec::new()
            };
            for (table, row) in self.merged.rows() {
                write::row(connection, table, row)?;
            }
            for (agent, at) in beats {
                write::heartbeat(connection, &self.session_id, &agent, at)?;
            }
            self.merged = Merged::default();
        }
        for ((aggregate_type, aggregate_id), group) in std::mem::take(&mut self.groups) {
            connection
                .prepare_cached(
                    "INSERT OR REPLACE INTO event_groups (session_id, aggregate_id, aggregate_type, first_seq, last_seq, \
                     first_time, events) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                )?
                .execute((
                    &self.session_id,
                    aggregate_id,
                    aggregate_type,
                    group.first_seq.cast_signed(),
                    group.last_seq.cast_signed(),
                    group.first_time.cast_signed(),
                    group.events + "]",
                ))?;
        }
        Ok(())
    }
}

/// Heartbeats into `agents`, metrics into `metrics`. Of a session that is not there: nothing.
pub(super) fn observe<'a>(
    connection: &Connection,
    session: SessionId,
    observations: impl Iterator<Item = &'a Observation>,
) -> Result<()> {
    let mut observations = observations.peekable();
    if observations.peek().is_none() {
        return Ok(());
    }
    let session_id = session.to_string();
    if !write::exists(connection, &session_id)? {
        return Ok(());
    }
    let mut beats: BTreeMap<&str, u64> = BTreeMap::new();
    for observation in observations {
        match observation {
            Observation::Heartbeat { agent, at_ms } => {
                let newest = beats.entry(agent.as_str()).or_default();
                *newest = (*newest).max(*at_ms);
            }
            Observation::Metric { agent, kind, name, value, tags, at_ms } => {
                // NaN has no place in a column that is NOT NULL, and JSON cannot carry it here.
                if !value.is_nan() {
                    write::metric(
                        connection,
                        &session_id,
                        (agent.as_str(), kind, name),
                        *value,
                        tags.as_str(),
                        *at_ms,
                    )?;
                }
            }
        }
    }
    for (agent, at) in beats {
        write::heartbeat(connection, &session_id, agent, at)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_s_own_event_is_told_from_a_payload_that_looks_like_one() {
        let own = br#"{"actor":"a","event":{"custom":{"kind":"step","aggregate":"thing \u0031","payload":{"x":[1]}}}}"#;
        assert_eq!(OwnEvent::of(own).unwrap().aggregate.unwrap(), "thing 1");
        let nothing = br#"{"actor":"a","event":{"custom":{"kind":"step","payload":null}}}"#;
        assert!(OwnEvent::of(nothing).unwrap().aggregate.is_none());
        let other =
            br#"{"actor":"a","event":{"config_set":{"key":"k","value":{"event":{"custom":{"aggregate":"no"}}}}}}"#;
        assert!(OwnEvent::of(other).is_none());
    }
}
