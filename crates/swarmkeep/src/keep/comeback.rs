//! Looking at every live session after a start: proves that it comes back, starts its clocks, marks what an earlier life
//! left behind.
//!
//! Recoveries that were interrupted come first. Then those that are little work (most of them), in whole pages in one
//! snapshot of records.db, on as many threads as there are cores, at most 8 at a time; then the middling ones, 4 at a time;
//! then the large ones, one by one. Whatever is asked for meanwhile comes back at once. What is not plainly well is asked for
//! as any caller would, one by one: that way knows blobs, older checkpoints and the journal's tail, and has the last word.

use std::{
    ops::ControlFlow,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use swarmkeep_core::{Error, ErrorKind, SessionId, State, recovery::Complexity, state::SessionStatus};
use swarmkeep_sqlite::{RecordsReader, Restored, SqliteError};
use tokio::task::JoinSet;

use super::Engine;
use crate::{
    Swarmkeep, damage,
    recovery::{Damaged, DataLoss, Problem},
    slot::Phase,
};

/// Problems listed in a report; more are counted.
const PROBLEMS_LISTED: usize = 100;
/// The ids are cut into so many ranges of equal width, which threads take one after another. Ids are hashes, so ranges
/// hold about equally many sessions.
const RANGES: usize = 64;
/// Sessions read in one snapshot, in milliseconds if they are small: the write-ahead log cannot shrink meanwhile.
const PAGE_SESSIONS: usize = 1_000;
/// And so long at most, but for one session that takes longer.
const PAGE_MS: u64 = 500;
/// Sessions that are more than a little work, for later.
type Later = Arc<Mutex<Vec<(Complexity, SessionId)>>>;

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
            for session in embedded.unfinished() {
                if let Err(error) = embedded.take_up(session).await {
                    tracing::error!(%session, %error, "a recovery that was interrupted could not be taken up");
                }
            }
            embedded.report_again().await;
            held.count_live();
            let workers = held.workers();
            drop((held, embedded));
            let threads = workers.at_once(Complexity::Low.at_once());
            let next = Arc::new(AtomicUsize::new(0));
            let later = Later::default();
            let mut threads: JoinSet<()> =
                (0..threads).map(|_| return_ranges(engine.clone(), next.clone(), later.clone())).collect();
            while let Some(ended) = threads.join_next().await {
                if let Err(error) = ended {
                    tracing::error!(%error, "looking at sessions ended badly; each is looked at when it is asked for");
                }
            }
            let later = std::mem::take(&mut *later.lock());
            for complexity in [Complexity::Medium, Complexity::High] {
                let sessions = later.iter().filter(|(much, _)| *much == complexity).map(|(_, session)| *session);
                return_some_at_once(&engine, sessions, complexity.at_once()).await;
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
async fn return_ranges(engine: Weak<Engine>, next: Arc<AtomicUsize>, later: Later) {
    loop {
        let range = next.fetch_add(1, Ordering::Relaxed);
        let Some((mut after, through)) = bounds(range) else { return };
        let mut mended = false;
        loop {
            let Some(workers) = engine.upgrade().map(|engine| engine.workers()) else { return };
            let reading = engine.clone();
            let much = later.clone();
            let page = workers.offload(move || read_page(&reading, after, through, &much)).await;
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
fn read_page(engine: &Weak<Engine>, after: Option<SessionId>, through: SessionId, later: &Later) -> Option<Page> {
    let (readers, clock) = {
        let engine = engine.upgrade()?;
        (engine.embedded.as_ref()?.records_readers(), engine.clock.clone())
    };
    let began_ms = clock.monotonic_ms();
    let mut page = Page::default();
    let mut ended = false;
    let wanted = |id, status: SessionStatus, complexity| {
        // Somebody asked for it already: it was looked at on the way in.
        let resident = engine.upgrade().is_some_and(|engine| engine.is_resident(id));
        let wanted = !status.is_ended() && status != SessionStatus::Quarantined && !resident;
        if wanted && complexity > Complexity::Low {
            later.lock().push((complexity, id));
            return false;
        }
        wanted
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

/// Sessions as any caller would ask for them, so many at once.
async fn return_some_at_once(engine: &Weak<Engine>, sessions: impl Iterator<Item = SessionId>, at_once: usize) {
    let mut returning = JoinSet::new();
    for session in sessions {
        if returning.len() >= at_once {
            returning.join_next().await;
        }
        let engine = engine.clone();
        returning.spawn(async move { return_each(&engine, [session]).await });
    }
    while returning.join_next().await.is_some() {}
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
        let what = format!("sessions could not be listed, each is looked at when it is asked for: {error}");
        report.damage.push(Damaged::in_records(DataLoss::Possible, what));
    }
}

impl Swarmkeep {
    /// How many sessions are still being looked at after the start: what may be wrong with them is not known yet. 0: none.
    #[must_use]
    pub fn being_looked_at(&self) -> u64 {
        let engine = &self.engine;
        if engine.ready.get() {
            return 0;
        }
        let report = engine.recovery.lock().clone().unwrap_or_default();
        let live = report.sessions_live.or_else(|| engine.live_sessions()).unwrap_or(0);
        live.saturating_sub(report.sessions_checked).saturating_sub(report.sessions_failed)
    }
}

impl Engine {
    /// Whether a session is in RAM, as far as that can be told without waiting: whoever holds a reader of records.db must
    /// not wait for a session, because whoever works on a session may wait for a reader.
    fn is_resident(&self, id: SessionId) -> bool {
        let slot = self.residency.get(id);
        let phase = slot.as_ref().and_then(|slot| slot.phase.try_lock());
        let resident = phase.is_some_and(|phase| matches!(*phase, Phase::Live(_) | Phase::Packed(_)));
        // What is left of a damaged one is no proof of it.
        resident && self.needs_decision(id).is_none()
    }

    /// Whether nothing is left to do for a session that was read: no records of it are missing further on, nothing of an
    /// earlier life is open.
    fn is_settled(&self, state: &State) -> bool {
        let aside = self
            .embedded
            .as_ref()
            .is_some_and(|embedded| embedded.is_set_aside(state.info.id) || embedded.unnoted(state.info.id).is_some());
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
        let unnoted = self.embedded.as_ref().is_some_and(|embedded| embedded.unnoted(id).is_some());
        if unnoted || self.left_open(&state).is_some() {
            self.live(id, |_| ()).await?;
        }
        Ok(loaded.replayed)
    }

    /// Sessions that have not ended; `None`: they cannot be counted now.
    fn live_sessions(&self) -> Option<u64> {
        let readers = self.embedded.as_ref()?.records_readers();
        readers.read(|connection| RecordsReader::new(connection).count_live()).ok()
    }

    fn count_live(&self) {
        let Some(live) = self.live_sessions().map(Some) else { return };
        if let Some(report) = &mut *self.recovery.lock() {
            report.sessions_live = live;
        }
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

    /// A session that did not come back was recovered since, or given up: nobody is to look for it any more.
    pub(super) fn is_no_problem(&self, session: SessionId) {
        if let Some(report) = &mut *self.recovery.lock() {
            let before = report.problems.len();
            report.problems.retain(|problem| problem.session != session);
            let gone = (before - report.problems.len()) as u64;
            report.sessions_failed = report.sessions_failed.saturating_sub(gone);
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
