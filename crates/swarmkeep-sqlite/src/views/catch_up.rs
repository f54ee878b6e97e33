//! From where the views are to where `records.db` is, session by session.
//!
//! A session whose records are damaged keeps nobody from being listed, itself least of all: it is tabulated as far as it
//! reads, and remembered as incomplete: what it lacks may be put back without a record of it being written. That it is
//! damaged is for `verify`, and for whoever reads it, to say.

use std::{collections::BTreeMap, sync::Arc};

use swarmkeep_core::{Seq, SessionId, State, log::Observation, state::SessionInfo};

use super::{Source, ViewsDb, apply, write};
use crate::{
    error::{Result, SqliteError},
    records::StoredSession,
};

/// Sessions looked at in one go, and in one transaction.
const SESSIONS: usize = 512;
/// Bytes of records tabulated at a time.
const PIECE: usize = 1024 * 1024;
/// Rows waiting, beyond which they are written before the session is through.
const ROWS: usize = 10_000;
/// Rows of observations read at a time.
const OBSERVATIONS: usize = 1024;

pub(super) fn run(views: &mut ViewsDb, source: &Source<'_>, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
    let from = views.position;
    let to = source.records.anchor()?.position;
    if from > to {
        return Err(SqliteError::Foreign {
            file: views.path.display().to_string(),
            what: format!("at position {}, records.db is at {}: delete it, it is made again", from.0, to.0),
        });
    }
    if from == to {
        return Ok(());
    }
    let removals = source.records.removals(from)?;
    views.write(|transaction| {
        // A session that was removed and made again is read from its new beginning.
        removals.iter().try_for_each(|removal| write::remove(transaction, &removal.session.to_string()))
    })?;
    let total = source.records.count()?;
    let mut done = 0;
    let mut after: Option<SessionId> = None;
    loop {
        let page = source.records.sessions(after, SESSIONS)?;
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        views.write(|transaction| {
            let changed = page.iter().filter(|session| session.position > from);
            changed.into_iter().try_for_each(|session| records_or_what_reads(transaction, session, source))
        })?;
        done += page.len() as u64;
        progress(done, total);
        views.bound_log()?;
    }
    views.write(|transaction| {
        // Together with the position: observations have no seq that would say which of them are there already.
        let mut row = 0;
        loop {
            let page = source.records.sound_observations(row, from, OBSERVATIONS)?;
            let Some(last) = page.last() else { break };
            row = last.id;
            let mut by_session: BTreeMap<SessionId, Vec<&Observation>> = BTreeMap::new();
            for stored in &page {
                by_session.entry(stored.session).or_default().extend(&stored.observations);
            }
            for (session, observations) in by_session {
                apply::observe(transaction, session, observations.into_iter())?;
            }
        }
        write::put_position(transaction, to)
    })?;
    views.position = to;
    Ok(())
}

/// A session whose records were put right. What stands here of it may have been made of what could be read before, whatever
/// record it says it has come to: all of it is made again.
pub(super) fn one(views: &mut ViewsDb, source: &Source<'_>, session: SessionId) -> Result<()> {
    let Some(stored) = source.records.session(session)? else { return Ok(()) };
    let through = views.position;
    views.write(|transaction| {
        write::remove(transaction, &stored.id.to_string())?;
        records_or_what_reads(transaction, &stored, source)?;
        let mut row = 0;
        while let Ok(page) = source.records.observations_of(session, row, through, OBSERVATIONS)
            && let Some(last) = page.last()
        {
            row = last.id;
            page.iter().try_for_each(|stored| apply::observe(transaction, session, stored.observations.iter()))?;
        }
        Ok(())
    })
}

fn records_or_what_reads(
    connection: &rusqlite::Connection,
    session: &StoredSession,
    source: &Source<'_>,
) -> Result<()> {
    match records(connection, session, source) {
        Err(SqliteError::Damaged(_)) => what_reads(connection, session, source),
        outcome => outcome,
    }
}

/// The newest state there is; without one, what its first records came to; without those, its name.
fn what_reads(connection: &rusqlite::Connection, session: &StoredSession, source: &Source<'_>) -> Result<()> {
    write::remove(connection, &session.id.to_string())?;
    write::put_incomplete(connection, &session.id.to_string())?;
    let mut pending = apply::Pending::new(session.id);
    if let Ok(state) = source.state_at(session.id, session.head.seq) {
        pending.replace(&state);
        return pending.flush(connection);
    }
    let mut seen = Seq::ZERO;
    // One by one: where the damage begins, its neighbours still read.
    while let Ok(bytes) = source.records.read(session.id, seen, 1)
        && let Some(Ok(view)) = swarmkeep_core::record::iter(&bytes).next()
        && view.seq() == seen.next()
        && pending.records(view.bytes(), false, source).is_ok()
    {
        seen = view.seq();
        if pending.len() >= ROWS {
            pending.flush(connection)?;
        }
    }
    if seen == Seq::ZERO {
        let mut state = State::empty();
        state.info = Arc::new(SessionInfo {
            id: session.id,
            name: session.name.clone(),
            status: session.status,
            created_at_ms: session.created_at_ms,
            ..SessionInfo::default()
        });
        pending.replace(&state);
    }
    pending.flush(connection)
}

fn records(connection: &rusqlite::Connection, session: &StoredSession, source: &Source<'_>) -> Result<()> {
    let mut seen = Seq(write::seq(connection, &session.id.to_string())?);
    let mut pending = apply::Pending::new(session.id);
    if seen < session.base.seq {
        // The records before are gone: from the oldest state there is. What had left the state by then is not known here.
        let state = source.state_at(session.id, session.base.seq).or_else(|_| oldest(session, source))?;
        pending.replace(&state);
        seen = state.head.seq;
    }
    while seen < session.head.seq {
        let bytes = source.records.read(session.id, seen, PIECE)?;
        let read = swarmkeep_core::record::iter(&bytes).filter_map(|view| view.ok().map(|view| view.seq())).last();
        let Some(last) = read.filter(|last| *last > seen) else { break };
        pending.records(&bytes, last < session.head.seq, source)?;
        seen = last;
        if pending.len() >= ROWS {
            pending.flush(connection)?;
        }
    }
    pending.flush(connection)
}

/// The state of the oldest checkpoint that reads, of a session whose first records were removed.
fn oldest(session: &StoredSession, source: &Source<'_>) -> Result<State> {
    let infos = source.records.checkpoints(session.id)?;
    for info in infos.iter().rev().filter(|info| info.head.seq >= session.base.seq) {
        if let Some(checkpoint) = source.records.load(session.id, info.head.seq)?
            && let Ok(state) = checkpoint.state()
            && state.head.seq >= session.base.seq
        {
            return Ok(state);
        }
    }
    let seqs = Some(1..=session.base.seq.0);
    Err(SqliteError::damaged(Some(session.id), seqs, "no checkpoint that stands for the removed records reads"))
}
