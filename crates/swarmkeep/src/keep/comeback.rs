//! Looking at every live session after a start: proves that it comes back, starts its clocks, marks what an earlier life
//! left behind.
//!
//! Whole pages of sessions in one snapshot of records.db, on as many threads as there are cores. What is not plainly well
//! there is asked for as any caller would, one by one: that way knows blobs, older checkpoints and the journal's tail, and
//! has the last word.

use std::{
    ops::ControlFlow,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use swarmkeep_core::{Error, ErrorKind, SessionId, State, state::SessionStatus};
use swarmkeep_sqlite::{RecordsReader, Restored, SqliteError};
use tokio::task::JoinSet;

use super::Engine;
use crate::{damage, recovery::Problem, slot::Phase};

/// Problems listed in a report; more are counted.
const PROBLEMS_LISTED: usize = 100;
/// The ids are cut into so many ranges of equal width, which threads take one after another. Ids are hashes, so ranges
/// hold about equally many sessions.
const RANGES: usize = 64;
/// Sessions read in one snapshot, in milliseconds if they are small: the write-ahead log cannot shrink meanwhile.
const PAGE_SESSIONS: usize = 1_000;
/// And so long at most, but for one session that takes longer.
const PAGE_MS: u64 = 500;
/// Threads at most: a start shares the machine with those who are back already.
const THREADS_MAX: usize = 4;

/// What became of a page.
#[derive(Default)]
struct Page {
    checked: u64,
    replayed: u64,
    /// Sessions to be asked for one by one.
    doubtful: Vec<SessionId>,
    /// Where the next page begins; `None`: the range is through.
    next: Option<SessionId>,
    /// Why the range could not be read to its end.
    broken: Option<Error>,
}

/// Reads every live session once; then the store is ready.
pub(super) async fn return_all(engine: Weak<Engine>) {
    let Some(begun_ms) = engine.upgrade().map(|engine| engine.clock.monotonic_ms()) else { return };
    let Some(held) = engine.upgrade() else { return };
    match held.embedded.clone() {
        Some(embedded) => {
            tokio::select! {
                biased;
                () = embedded.replayed() => {}
                // A store that does not come that far must not hold up the end.
                () = held.closing() => return,
            }
            let workers = held.workers();
            drop((held, embedded));
            let threads = workers.at_once(THREADS_MAX);
            let next = Arc::new(AtomicUsize::new(0));
            let mut threads: JoinSet<()> = (0..threads).map(|_| return_ranges(engine.clone(), next.clone())).collect();
            while let Some(ended) = threads.join_next().await {
                if let Err(error) = ended {
                    tracing::error!(%error, "looking at sessions ended badly; each is looked at when it is asked for");
                }
            }
        }
        None => {
            let sessions = held.tabulated_sessions().await;
            drop(held);
            match sessions {
                Ok(sessions) => return_each(&engine, sessions).await,
                Err(error) => not_listed(&engine, &error),
            }
        }
    }
    if let Some(engine) = engine.upgrade().filter(|engine| !engine.is_closing()) {
        engine.finish_recovery(begun_ms).await;
        engine.ready.set(true);
    }
}

/// Takes ranges of ids until none is left.
async fn return_ranges(engine: Weak<Engine>, next: Arc<AtomicUsize>) {
    loop {
        let range = next.fetch_add(1, Ordering::Relaxed);
        let Some((mut after, through)) = bounds(range) else { return };
        let mut mended = false;
        loop {
            let Some(workers) = engine.upgrade().map(|engine| engine.workers()) else { return };
            let reading = engine.clone();
            let page = workers.offload(move || read_page(&reading, after, through)).await;
            // The runtime ends, or the store did.
            let Ok(Some(page)) = page else { return };
            // Over one damaged row of a session no page can be read; once the row is put right, the page is read again.
            let corrupt = page.broken.as_ref().is_some_and(|error| error.kind == ErrorKind::Corrupt);
            let embedded = engine.upgrade().filter(|_| corrupt && !mended).and_then(|engine| engine.embedded.clone());
            if let Some(embedded) = embedded {
                mended = embedded.mend_session_rows().await;
                if mended {
                    continue;
                }
            }
            if let Some(engine) = engine.upgrade() {
                engine.count_checked(page.checked, page.replayed);
            }
            return_each(&engine, page.doubtful).await;
            if let Some(error) = page.broken {
                not_listed(&engine, &error);
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
    }
}

/// The last id before a range, and the last one in it.
fn bounds(range: usize) -> Option<(Option<SessionId>, SessionId)> {
    // Before this range begins; of the first one: before all.
    let last_before = |range: usize| {
        let first = u8::try_from(range * (256 / RANGES)).ok()?.checked_sub(1)?;
        let mut id = [0xff; 16];
        let [head, ..] = &mut id;
        *head = first;
        Some(SessionId(id))
    };
    let through = last_before(range + 1).unwrap_or(SessionId([0xff; 16]));
    (range < RANGES).then(|| (last_before(range), through))
}

/// Folds a page of sessions and keeps none of them. `None`: the store is closing or gone.
fn read_page(engine: &Weak<Engine>, after: Option<SessionId>, through: SessionId) -> Option<Page> {
    let (readers, clock) = {
        let engine = engine.upgrade()?;
        (engine.embedded.as_ref()?.records_readers(), engine.clock.clone())
    };
    let began_ms = clock.monotonic_ms();
    let mut page = Page::default();
    let mut ended = false;
    let wanted = |id, status: SessionStatus| {
        // Somebody asked for it already: it was looked at on the way in.
        let resident = engine.upgrade().is_some_and(|engine| engine.is_resident(id));
        !status.is_ended() && status != SessionStatus::Quarantined && !resident
    };
    // The store is held for one session at a time: this thread must not be what keeps it from ending.
    let each = |id, restored: Result<Restored, SqliteError>| {
        let Some(engine) = engine.upgrade().filter(|engine| !engine.is_closing()) else {
            ended = true;
            return ControlFlow::Break(());
        };
        match restored {
            Ok(Restored { state, replayed }) if engine.is_settled(&state) => {
                engine.watch.register(&state);
                page.checked += 1;
                page.replayed += replayed;
            }
            Ok(_) => page.doubtful.push(id),
            Err(error) => {
                tracing::debug!(session = %id, %error, "reading this session by itself");
                page.doubtful.push(id);
            }
        }
        match clock.monotonic_ms().saturating_sub(began_ms) {
            0..PAGE_MS => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    };
    // Without a deadline: it ends by itself, between two sessions.
    let read = readers.read_unhurried(|connection| {
        RecordsReader::new(connection).restore(after, through, PAGE_SESSIONS, wanted, each)
    });
    match read {
        Ok(next) => page.next = next,
        Err(error) => page.broken = Some(damage::log(error.into())),
    }
    (!ended).then_some(page)
}

/// Sessions one by one, as any caller would ask for them.
async fn return_each(engine: &Weak<Engine>, sessions: impl IntoIterator<Item = SessionId>) {
    for session in sessions {
        let Some(engine) = engine.upgrade().filter(|engine| !engine.is_closing()) else { return };
        match engine.look_at(session).await {
            Ok(replayed) => engine.count_checked(1, replayed),
            // Removed in the meantime.
            Err(error) if error.kind == ErrorKind::NotFound => {}
            Err(error) => engine.count_problem(session, &error),
        }
        tokio::task::yield_now().await;
    }
}

fn not_listed(engine: &Weak<Engine>, error: &Error) {
    tracing::error!(%error, "sessions could not be listed; looking at them on access only");
    if let Some(engine) = engine.upgrade()
        && let Some(report) = &mut *engine.recovery.lock()
    {
        report.damage.push(format!("sessions could not be listed, each is looked at when it is asked for: {error}"));
    }
}

impl Engine {
    fn is_resident(&self, id: SessionId) -> bool {
        self.residency.get(id).is_some_and(|slot| matches!(*slot.phase.lock(), Phase::Live(_) | Phase::Packed(_)))
    }

    /// Whether nothing is left to do for a session that was read: no records of it are missing further on, nothing of an
    /// earlier life is open.
    fn is_settled(&self, state: &State) -> bool {
        let aside = self.embedded.as_ref().is_some_and(|embedded| embedded.is_set_aside(state.info.id));
        !aside && self.left_open(state).is_none()
    }

    /// Folds a session without keeping it; what needs settling is settled.
    async fn look_at(self: &Arc<Self>, id: SessionId) -> Result<u64, Error> {
        if self.is_resident(id) {
            return Ok(0);
        }
        let head = self.log.head(id).await.map_err(damage::log)?.ok_or_else(|| Self::no_session(id))?;
        let (state, loaded, _) = self.fold(id, head.seq).await?;
        self.watch.register(&state);
        if self.left_open(&state).is_some() {
            self.live(id, |_| ()).await?;
        }
        Ok(loaded.replayed)
    }

    fn count_checked(&self, sessions: u64, replayed: u64) {
        if let Some(report) = &mut *self.recovery.lock() {
            report.sessions_checked += sessions;
            report.records_replayed += replayed;
        }
    }

    fn count_problem(&self, session: SessionId, error: &Error) {
        tracing::error!(%session, %error, "a session does not come back");
        self.notice_error(session, error);
        if let Some(report) = &mut *self.recovery.lock() {
            report.sessions_failed += 1;
            if report.problems.len() < PROBLEMS_LISTED {
                report.problems.push(Problem { session, what: error.to_string() });
            }
        }
    }

    async fn finish_recovery(self: &Arc<Self>, begun_ms: u64) {
        let report = {
            let mut report = self.recovery.lock();
            let Some(report) = &mut *report else { return };
            report.all_checked_ms = Some(self.clock.monotonic_ms().saturating_sub(begun_ms));
            report.clone()
        };
        if let Some(embedded) = &self.embedded
            && let Err(error) = embedded.keep_report(report).await
        {
            tracing::warn!(%error, "the recovery report was not stored");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_is_in_one_range() {
        let mut before = None;
        for range in 0..RANGES {
            let (after, through) = bounds(range).unwrap();
            assert_eq!(after, before);
            assert!(after.is_none_or(|after| after < through));
            before = Some(through);
        }
        assert_eq!(before, Some(SessionId([0xff; 16])));
        assert!(bounds(RANGES).is_none());
    }
}
