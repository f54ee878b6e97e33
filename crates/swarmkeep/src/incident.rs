//! Failures that were noticed, each once: what, how often, since when, and whether it is over.
//!
//! A failure seen again is counted, not listed again. The list is bounded; what is on it is written to records.db as soon
//! as that takes writes, so that a full disk is in the history too, from the moment there is room.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use swarmkeep_core::{
    EntityId, SessionId,
    failure::{Exhausted, Failure, FailureType, OwnershipCause, Place, Severity, Stake, StorageCause, Strategy},
    log::{LogError, Refused},
};
use swarmkeep_sqlite::SqliteError;

use crate::recovery::{Damaged, DataLoss};

/// Failures listed for one life of a store; more are counted.
pub(crate) const LISTED: usize = 1_000;
/// What ids of stored incidents begin with.
pub(crate) const PREFIX: &str = "failure-";

/// A failure that was noticed, as it is kept: `{"id": …, "type": "storage_unavailable", "cause": "disk_full", …}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// `failure-INCARNATION-NUMBER`: unique in a store.
    pub id: String,
    /// What, with its detail.
    #[serde(flatten)]
    pub failure: Failure,
    /// How bad it was at its worst.
    pub severity: Severity,
    /// What is done about it.
    pub strategy: Strategy,
    /// In which session; absent: in the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// In one sentence.
    pub what: String,
    /// First noticed, ms since the Unix epoch.
    pub first_at_ms: u64,
    /// When it began, the last time: later than that when it had been over in between.
    #[serde(default)]
    pub since_ms: u64,
    /// For how long it lasted in all, until it was seen to be over.
    #[serde(default)]
    pub lasted_ms: u64,
    /// For how long it lasted, the last time, until it was put right; absent: it is not over, or ended with what it was about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
    /// Last noticed.
    pub last_at_ms: u64,
    /// How often; a connection that is lost: how many times it was.
    pub count: u64,
    /// When it was seen to be over; absent: it is not, or nobody can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over_at_ms: Option<u64>,
}

/// Something noticed, on its way to the list.
#[derive(Debug, Clone)]
pub(crate) struct Noticed {
    pub(crate) failure: Failure,
    pub(crate) session: Option<SessionId>,
    pub(crate) stake: Stake,
    pub(crate) what: String,
    /// How often, since it was noticed last.
    pub(crate) times: u64,
}

impl Noticed {
    pub(crate) fn new(failure: Failure, session: Option<SessionId>, what: impl Into<String>) -> Self {
        Self { failure, session, stake: Stake::default(), what: what.into(), times: 1 }
    }

    /// What a log that did not do it says about the store, if it is a failure: a refusal of one call is none.
    pub(crate) fn of_log(error: &LogError, session: SessionId) -> Option<Self> {
        let (failure, session) = match error {
            LogError::Refused { kind: Refused::DiskFull, .. } => (storage(StorageCause::DiskFull), None),
            LogError::Refused { kind: Refused::ReadOnly | Refused::Failed, .. } => {
                (storage(StorageCause::ReadOnly), None)
            }
            LogError::Refused { kind: Refused::Locked, .. } => (storage(StorageCause::Locked), None),
            LogError::Refused { kind: Refused::Busy, .. } => {
                (Failure::ResourceExhaustion { what: Exhausted::Queue }, None)
            }
            LogError::Fenced(_) => (Failure::OwnershipConflict { cause: OwnershipCause::FencedOut }, Some(session)),
            LogError::Corrupt(damage) => {
                let seqs = damage.iter().find_map(|damage| damage.seqs.clone());
                let failure = Failure::StateCorruption {
                    place: Place::Records,
                    first: seqs.as_ref().map(|seqs| *seqs.start()),
                    last: seqs.map(|seqs| *seqs.end()),
                };
                (failure, Some(session))
            }
            _ => return None,
        };
        Some(Self::new(failure, session, error.to_string()))
    }

    /// What a start, or whoever made records.db again, says is damaged.
    pub(crate) fn of_damaged(damaged: Damaged) -> Self {
        let Damaged { place, loss, sessions: _, what } = damaged;
        let stake = Stake { is_covered: loss == DataLoss::None, ..Stake::default() };
        Self { stake, ..Self::new(Failure::StateCorruption { place, first: None, last: None }, None, what) }
    }

    /// Why records.db did not take a batch.
    pub(crate) fn of_tables(error: &SqliteError) -> Self {
        let failure = match error {
            SqliteError::Full(_) => storage(StorageCause::DiskFull),
            SqliteError::Busy(_) => storage(StorageCause::Locked),
            // Whoever was taken over from has tables of its own: here two at once take this store for theirs.
            SqliteError::Fenced { .. } => Failure::OwnershipConflict { cause: OwnershipCause::SplitBrain },
            SqliteError::Damaged(_) | SqliteError::Foreign { .. } => {
                Failure::StateCorruption { place: Place::Records, first: None, last: None }
            }
            _ => storage(StorageCause::ReadOnly),
        };
        let said = error.to_string();
        let is_named = said.contains("records.db");
        Self::new(failure, None, if is_named { said } else { format!("records.db: {said}") })
    }
}

fn storage(cause: StorageCause) -> Failure {
    Failure::StorageUnavailable { cause }
}

type Key = (FailureType, Option<SessionId>, String);

struct Listed {
    incident: Incident,
    /// Differs from what records.db has.
    is_news: bool,
}

#[derive(Default)]
struct List {
    listed: BTreeMap<Key, Listed>,
    numbered: u64,
    /// Not listed: there were too many.
    unlisted: u64,
}

/// The failures of one life of a store.
pub(crate) struct Incidents {
    incarnation: u64,
    list: Mutex<List>,
    /// How many of them are not over and can end.
    open: AtomicUsize,
    /// How many of those a write that is taken ends: asked on the way of every write, and rarely more than none.
    blocking: AtomicUsize,
}

/// Whether somebody can tell that it is over. What is damaged beside all sessions was met, and that is all.
fn can_end(failure: &Failure, session: Option<SessionId>) -> bool {
    match failure.kind() {
        FailureType::StateCorruption | FailureType::CheckpointCorruption => session.is_some(),
        kind => kind_can_end(kind),
    }
}

fn kind_can_end(kind: FailureType) -> bool {
    matches!(
        kind,
        FailureType::StorageUnavailable
            | FailureType::ResourceExhaustion
            | FailureType::AgentUnresponsive
            | FailureType::ConnectionLost
            | FailureType::ProtocolError
            | FailureType::OutcomeUnknown
    )
}

/// Whether a write that is taken shows that it is over.
fn blocks(failure: &Failure) -> bool {
    matches!(failure, Failure::StorageUnavailable { .. } | Failure::ResourceExhaustion { what: Exhausted::Queue })
}

/// When it began, as far as whoever noticed it knows.
fn began_ms(failure: &Failure, now_ms: u64) -> u64 {
    match failure {
        Failure::ConnectionLost { silent_ms, .. } => now_ms.saturating_sub(*silent_ms),
        _ => now_ms,
    }
}

impl Incidents {
    pub(crate) fn new(incarnation: u64) -> Self {
        Self { incarnation, list: Mutex::default(), open: AtomicUsize::new(0), blocking: AtomicUsize::new(0) }
    }

    /// Lists a failure, or counts it once more. True: it was not on the list, or had been over.
    pub(crate) fn note(&self, noticed: Noticed, now_ms: u64) -> bool {
        let Noticed { failure, session, stake, what, times } = noticed;
        let severity = failure.severity(&stake);
        let key = (failure.kind(), session, failure.about());
        let mut list = self.list.lock();
        if let Some(known) = list.listed.get_mut(&key) {
            let incident = &mut known.incident;
            let was_over = incident.over_at_ms.take().is_some();
            // Seen again within the same second: counted, and not written for that alone.
            known.is_news |= was_over || severity > incident.severity || now_ms / 1_000 > incident.last_at_ms / 1_000;
            // An outage that goes on is noticed again, as it gets worse, and is one.
            let goes_on = !was_over && failure.kind() == FailureType::ConnectionLost;
            incident.count += if goes_on { 0 } else { times };
            incident.last_at_ms = now_ms;
            incident.severity = incident.severity.max(severity);
            (incident.failure, incident.what) = (failure, what);
            if was_over {
                incident.took_ms = None;
                incident.since_ms = began_ms(&incident.failure, now_ms);
                self.opened(&incident.failure, session);
            }
            return was_over;
        }
        if list.listed.len() >= LISTED {
            // The oldest that is written and over, or cannot end, makes room; else this one is only counted.
            let old = list
                .listed
                .iter()
                .filter(|(_, listed)| !listed.is_news)
                .filter(|(_, listed)| {
                    listed.incident.over_at_ms.is_some() || !kind_can_end(listed.incident.failure.kind())
                })
                .min_by_key(|(_, listed)| listed.incident.last_at_ms)
                .map(|(key, _)| key.clone());
            let Some(old) = old else {
                list.unlisted += 1;
                return false;
            };
            if let Some(Listed { incident, .. }) = list.listed.remove(&old)
                && incident.over_at_ms.is_none()
            {
                self.open.fetch_sub(usize::from(can_end(&incident.failure, incident.session)), Ordering::Relaxed);
            }
        }
        list.numbered += 1;
        tracing::warn!(failure = %failure, session = ?session, severity = %severity, what, "a failure");
        self.opened(&failure, session);
        let began_ms = began_ms(&failure, now_ms);
        let is_past = failure.kind() == FailureType::ProcessCrash;
        let incident = Incident {
            id: format!("{PREFIX}{}-{}", self.incarnation, list.numbered),
            strategy: failure.strategy(),
            failure,
            severity,
            session,
            what,
            first_at_ms: now_ms,
            since_ms: began_ms,
            lasted_ms: 0,
            took_ms: None,
            last_at_ms: now_ms,
            count: times,
            // It is noticed by the start that came after it.
            over_at_ms: is_past.then_some(now_ms),
        };
        list.listed.insert(key, Listed { incident, is_news: true });
        true
    }

    /// Those of earlier lives of the store that are not over, and whose end this one can see.
    pub(crate) fn restore(&self, stored: Vec<Incident>, now_ms: u64) {
        let mut list = self.list.lock();
        for mut incident in stored.into_iter().filter(|incident| incident.over_at_ms.is_none()) {
            let key = (incident.failure.kind(), incident.session, incident.failure.about());
            if !can_end(&incident.failure, incident.session) || list.listed.contains_key(&key) {
                continue;
            }
            // The connection ended with the process that had it. Whoever makes it again says anew what is wrong with it, and
            // then it goes on under the same id.
            let has_ended = matches!(incident.failure.kind(), FailureType::ConnectionLost | FailureType::ProtocolError);
            if has_ended {
                incident.over_at_ms = Some(now_ms);
                incident.lasted_ms += now_ms.saturating_sub(incident.since_ms);
            } else {
                self.opened(&incident.failure, incident.session);
            }
            list.listed.insert(key, Listed { incident, is_news: has_ended });
        }
    }

    fn opened(&self, failure: &Failure, session: Option<SessionId>) {
        self.open.fetch_add(usize::from(can_end(failure, session)), Ordering::Relaxed);
        self.blocking.fetch_add(usize::from(blocks(failure)), Ordering::Relaxed);
    }

    /// Failures like this are over: what failed is as it should be.
    fn over(&self, now_ms: u64, is_over: impl Fn(&Incident) -> bool) {
        self.end(now_ms, true, is_over);
    }

    fn end(&self, now_ms: u64, is_put_right: bool, is_over: impl Fn(&Incident) -> bool) {
        if self.open.load(Ordering::Relaxed) == 0 {
            return;
        }
        for listed in self.list.lock().listed.values_mut() {
            let incident = &mut listed.incident;
            if incident.over_at_ms.is_none() && can_end(&incident.failure, incident.session) && is_over(incident) {
                incident.over_at_ms = Some(now_ms);
                let took_ms = now_ms.saturating_sub(incident.since_ms);
                incident.lasted_ms += took_ms;
                incident.took_ms = is_put_right.then_some(took_ms);
                listed.is_news = true;
                self.open.fetch_sub(1, Ordering::Relaxed);
                self.blocking.fetch_sub(usize::from(blocks(&incident.failure)), Ordering::Relaxed);
            }
        }
    }

    /// A write was taken: the store takes writes.
    pub(crate) fn writes_again(&self, now_ms: impl FnOnce() -> u64) {
        if self.blocking.load(Ordering::Relaxed) > 0 {
            self.over(now_ms(), |incident| blocks(&incident.failure));
        }
    }

    /// An agent gave a sign of life.
    pub(crate) fn agent_is_back(&self, session: SessionId, agent: &EntityId, now_ms: u64) {
        self.over(now_ms, |incident| {
            incident.session == Some(session)
                && matches!(&incident.failure, Failure::AgentUnresponsive { agent: silent, .. } if silent == agent)
        });
    }

    /// An agent ended, or its session did (`None`: all of it): nobody waits for a sign of life any more.
    pub(crate) fn agent_is_gone(&self, session: SessionId, agent: Option<&EntityId>, now_ms: u64) {
        self.end(now_ms, false, |incident| {
            incident.session == Some(session)
                && matches!(&incident.failure, Failure::AgentUnresponsive { agent: silent, .. }
                    if agent.is_none_or(|agent| agent == silent))
        });
    }

    /// The sessions in RAM take no more than they may.
    pub(crate) fn memory_is_free(&self, now_ms: impl FnOnce() -> u64) {
        if self.open.load(Ordering::Relaxed) > 0 {
            self.over(now_ms(), |incident| {
                matches!(incident.failure, Failure::ResourceExhaustion { what: Exhausted::Memory })
            });
        }
    }

    /// An effect of a session was done: whoever limited the rate takes calls again.
    pub(crate) fn rate_is_free(&self, session: SessionId, now_ms: u64) {
        self.over(now_ms, |incident| {
            incident.session == Some(session)
                && matches!(incident.failure, Failure::ResourceExhaustion { what: Exhausted::RateLimited })
        });
    }

    /// A connection is there again, or keeps to its protocol again.
    pub(crate) fn connection_is_back(&self, session: SessionId, connection: &EntityId, kind: FailureType, now_ms: u64) {
        self.over(now_ms, |incident| {
            incident.failure.kind() == kind && is_of_connection(incident, session, connection)
        });
    }

    /// Nobody wants a connection any more: whatever was wrong with it was not put right, and is no failure now.
    pub(crate) fn connection_is_gone(&self, session: SessionId, connection: &EntityId, now_ms: u64) {
        self.end(now_ms, false, |incident| is_of_connection(incident, session, connection));
    }

    /// A session was put right, or somebody decided what becomes of it.
    pub(crate) fn session_is_recovered(&self, session: SessionId, now_ms: u64) {
        self.over(now_ms, |incident| {
            let kind = incident.failure.kind();
            incident.session == Some(session)
                && matches!(kind, FailureType::StateCorruption | FailureType::CheckpointCorruption)
        });
    }

    /// Somebody knows what became of an effect.
    pub(crate) fn outcome_is_known(&self, session: SessionId, effect: &EntityId, now_ms: u64) {
        self.over(now_ms, |incident| {
            incident.session == Some(session)
                && matches!(&incident.failure, Failure::OutcomeUnknown { effect: open, .. } if open == effect)
        });
    }

    /// All of this life, newest first.
    pub(crate) fn all(&self) -> Vec<Incident> {
        let mut all: Vec<Incident> = self.list.lock().listed.values().map(|listed| listed.incident.clone()).collect();
        newest_first(&mut all);
        all
    }

    /// Whether one of this id is on the list.
    pub(crate) fn lists(&self, id: &str) -> bool {
        self.list.lock().listed.values().any(|listed| listed.incident.id == id)
    }

    /// Whether there is anything that records.db does not have.
    pub(crate) fn has_news(&self) -> bool {
        self.list.lock().listed.values().any(|listed| listed.is_news)
    }

    /// What records.db does not have as it is now.
    pub(crate) fn news(&self) -> Vec<Incident> {
        let list = self.list.lock();
        list.listed.values().filter(|listed| listed.is_news).map(|listed| listed.incident.clone()).collect()
    }

    /// records.db has it, as it was then.
    pub(crate) fn stored(&self, stored: &Incident) {
        for listed in self.list.lock().listed.values_mut().filter(|listed| listed.incident.id == stored.id) {
            let now = &listed.incident;
            listed.is_news = (now.over_at_ms, now.severity, now.last_at_ms / 1_000)
                != (stored.over_at_ms, stored.severity, stored.last_at_ms / 1_000);
        }
    }
}

fn is_of_connection(incident: &Incident, session: SessionId, connection: &EntityId) -> bool {
    let about = match &incident.failure {
        Failure::ConnectionLost { connection, .. } | Failure::ProtocolError { connection, .. } => connection,
        _ => return false,
    };
    incident.session == Some(session) && about == connection
}

pub(crate) fn newest_first(incidents: &mut [Incident]) {
    incidents.sort_by(|one, other| (other.last_at_ms, &other.id).cmp(&(one.last_at_ms, &one.id)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Noticed {
        Noticed::new(storage(StorageCause::DiskFull), None, "no room")
    }

    #[test]
    fn the_same_failure_is_listed_once_and_counted() {
        let incidents = Incidents::new(7);
        assert!(incidents.note(full(), 1_000));
        for at_ms in 1_001..1_100 {
            assert!(!incidents.note(full(), at_ms));
        }
        let all = incidents.all();
        assert_eq!((all.len(), all[0].count, all[0].first_at_ms, all[0].last_at_ms), (1, 100, 1_000, 1_099));
        assert_eq!(all[0].id, "failure-7-1");
        let json = serde_json::to_value(&all[0]).unwrap();
        assert_eq!((&json["type"], &json["cause"]), (&"storage_unavailable".into(), &"disk_full".into()));
        assert_eq!(serde_json::from_value::<Incident>(json).unwrap(), all[0]);
    }

    #[test]
    fn every_detail_of_a_failure_is_kept_beside_its_sentence() {
        for &what in Exhausted::ALL {
            let incidents = Incidents::new(1);
            incidents.note(Noticed::new(Failure::ResourceExhaustion { what }, None, "a sentence"), 1);
            let [incident] = &incidents.all()[..] else { panic!("{what}") };
            let json = serde_json::to_string(incident).unwrap();
            assert_eq!(serde_json::from_str::<Incident>(&json).unwrap(), *incident, "{json}");
        }
    }

    #[test]
    fn an_outage_is_counted_once_gets_worse_and_says_how_long_it_took() {
        let (incidents, session) = (Incidents::new(1), SessionId([1; 16]));
        let connection = EntityId::new("mcp-shop").unwrap();
        let lost = |silent_ms, in_doubt| {
            let failure =
                Failure::ConnectionLost { connection: connection.clone(), silent_ms, in_flight: in_doubt, in_doubt };
            let stake = Stake { waiting: in_doubt, ..Stake::default() };
            Noticed { stake, ..Noticed::new(failure, Some(session), "gone") }
        };
        let only = || incidents.all().remove(0);
        assert!(incidents.note(lost(4_000, 0), 104_000));
        assert_eq!((only().count, only().since_ms, only().severity), (1, 100_000, Severity::Low));
        assert!(!incidents.note(lost(60_000, 0), 160_000));
        assert_eq!((only().count, only().since_ms, only().severity), (1, 100_000, Severity::Medium));
        incidents.connection_is_back(session, &connection, FailureType::ProtocolError, 165_000);
        assert_eq!(only().over_at_ms, None, "that is another failure");
        incidents.connection_is_back(session, &connection, FailureType::ConnectionLost, 170_000);
        assert_eq!((only().over_at_ms, only().took_ms, only().lasted_ms), (Some(170_000), Some(70_000), 70_000));
        // The next one, which ends with its client.
        assert!(incidents.note(lost(1_000, 1), 201_000));
        assert_eq!((only().count, only().since_ms, only().took_ms), (2, 200_000, None));
        incidents.connection_is_gone(session, &connection, 205_000);
        assert_eq!((only().over_at_ms, only().took_ms, only().lasted_ms), (Some(205_000), None, 75_000));
    }

    #[test]
    fn what_an_earlier_life_left_open_ends_with_its_connection_and_goes_on_with_its_agent() {
        let (before, session) = (Incidents::new(1), SessionId([1; 16]));
        let connection = EntityId::new("mcp-shop").unwrap();
        let failure = Failure::ConnectionLost { connection, silent_ms: 0, in_flight: 0, in_doubt: 0 };
        let lost = || Noticed::new(failure.clone(), Some(session), "gone");
        let [coder, tester] = ["coder", "tester"].map(|name| EntityId::new(name).unwrap());
        let silent = |agent: &EntityId| {
            let failure = Failure::AgentUnresponsive { agent: agent.clone(), silent_ms: 15_000 };
            Noticed::new(failure, Some(session), "no sign of life")
        };
        for noticed in [lost(), silent(&coder), silent(&tester)] {
            before.note(noticed, 1_000);
        }
        let after = Incidents::new(2);
        after.restore(before.news(), 5_000);
        let over = |kind: FailureType| -> Vec<Option<u64>> {
            let all = after.all().into_iter().filter(|incident| incident.failure.kind() == kind);
            all.map(|incident| incident.over_at_ms).collect()
        };
        assert_eq!(over(FailureType::ConnectionLost), [Some(5_000)]);
        assert_eq!(over(FailureType::AgentUnresponsive), [None, None]);
        assert!(after.note(lost(), 6_000), "lost again, or still");
        let of_connection =
            after.all().into_iter().find(|incident| incident.failure.kind() == FailureType::ConnectionLost);
        assert!(of_connection.is_some_and(|incident| incident.id == "failure-1-1" && incident.over_at_ms.is_none()));
        after.agent_is_gone(session, Some(&coder), 7_000);
        assert_eq!(over(FailureType::AgentUnresponsive).iter().flatten().count(), 1);
        after.agent_is_gone(session, None, 8_000);
        assert_eq!(over(FailureType::AgentUnresponsive).iter().flatten().count(), 2);
    }

    #[test]
    fn what_was_stored_is_news_again_when_it_ends_or_comes_back() {
        let incidents = Incidents::new(1);
        incidents.note(full(), 1_000);
        let stored = |incidents: &Incidents| incidents.news().iter().for_each(|news| incidents.stored(news));
        stored(&incidents);
        assert!(incidents.news().is_empty());
        incidents.writes_again(|| 2_000);
        assert_eq!(incidents.news()[0].over_at_ms, Some(2_000));
        stored(&incidents);
        assert!(incidents.note(full(), 2_100), "it had been over");
        assert_eq!((incidents.news().len(), incidents.news()[0].over_at_ms), (1, None));
        // Ended while it was being written: that is news still.
        let before = incidents.news();
        incidents.writes_again(|| 2_200);
        incidents.stored(&before[0]);
        assert_eq!(incidents.news().len(), 1);
    }

    #[test]
    fn the_list_is_bounded_and_forgets_nothing_that_is_not_written() {
        let incidents = Incidents::new(1);
        let corrupt = |seq| {
            let failure = Failure::CheckpointCorruption { seq: Some(seq) };
            Noticed::new(failure, Some(SessionId([1; 16])), "damaged")
        };
        for seq in 0..2 * LISTED as u64 {
            incidents.note(corrupt(seq), seq);
        }
        assert_eq!(incidents.all().len(), LISTED);
        assert_eq!(incidents.all().last().unwrap().first_at_ms, 0);
        incidents.news().iter().for_each(|news| incidents.stored(news));
        incidents.note(corrupt(u64::MAX), 9_999);
        assert_eq!((incidents.all().len(), incidents.all()[0].last_at_ms), (LISTED, 9_999));
    }
}
