//! How well this store comes back: its reports and failures as figures, and the alerts that follow from them.
//!
//! Of the last [`WINDOW_MS`], so that an alert ends by itself when what caused it is over and some time has passed; what
//! still stands (a session that is set aside, a device that takes nothing) counts for as long as it does.

use std::collections::BTreeSet;

use serde::Serialize;
use swarmkeep_core::{
    Error, FailureType, SessionId,
    health::{Alert, History, Metrics, Past},
    recovery::Validation,
};

use super::{Engine, Swarmkeep};
use crate::{
    incident::Incident,
    recovery::{RecoveryReport, Repair, SessionRecovery, Span},
};

/// Figures are of so long before now.
pub const WINDOW_MS: u64 = 24 * 60 * 60 * 1000;
/// Reports and failures looked at: as many as are kept.
const MOST: usize = 1_000;

/// How well a store comes back.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrackRecord {
    /// Of so long before now.
    pub window_ms: u64,
    /// The figures.
    #[serde(flatten)]
    pub metrics: Metrics,
    /// Thresholds that are passed now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alerts: Vec<Alert>,
}

impl Swarmkeep {
    /// How well this store came back in the last [`WINDOW_MS`], and the thresholds that are passed now. Reads records.db;
    /// blocks.
    ///
    /// # Errors
    /// What the store says.
    pub fn track_record(&self) -> Result<TrackRecord, Error> {
        let engine = &self.engine;
        let mut failures = self.failures(MOST)?;
        for failure in failures.iter_mut().filter(|failure| failure.over_at_ms.is_none()) {
            // Nobody saw how it ended: its store was closed, or died. No longer than until it was last met.
            if !engine.incidents.lists(&failure.id) {
                failure.over_at_ms = Some(failure.last_at_ms);
                failure.lasted_ms += failure.last_at_ms.saturating_sub(failure.since_ms);
            }
        }
        let mut reports: Vec<RecoveryReport> = self.last_recovery().into_iter().collect();
        for report in self.recoveries(MOST)? {
            if reports.iter().all(|known| known.id != report.id) {
                reports.push(report);
            }
        }
        let history = history(&reports, &failures, &engine.damaged(), self.engine.clock.now_ms());
        let metrics = Metrics::of(&history);
        let alerts = metrics.alerts();
        Ok(TrackRecord { window_ms: WINDOW_MS, metrics, alerts })
    }
}

/// A session that is not served, and what of it is lost as far as that is known.
pub(super) struct Hurt {
    session: SessionId,
    /// Its last record, known outside the damage; 0: not known.
    known_records: u64,
    lost_records: u64,
}

impl Engine {
    /// Sessions that are not served now.
    fn damaged(&self) -> Vec<Hurt> {
        let Some(embedded) = &self.embedded else { return Vec::new() };
        let aside = embedded.all_aside();
        let mut hurt: Vec<Hurt> = aside
            .iter()
            .filter_map(|damage| {
                let session = damage.session?;
                if let Some(waiting) = embedded.decision(session) {
                    let (known_records, lost_records) = (waiting.plan.known_head.0, waiting.lost.count());
                    return Some(Hurt { session, known_records, lost_records });
                }
                let seqs = damage.seqs.as_ref();
                // What is kept of it begins behind the gap; where nothing is between, the range itself is what is missing.
                let missing = |seqs: &std::ops::RangeInclusive<u64>| match seqs
                    .start()
                    .saturating_sub(1)
                    .saturating_sub(embedded.readable_to(session))
                {
                    0 => seqs.end().saturating_sub(*seqs.start()).saturating_add(1),
                    gap => gap,
                };
                Some(Hurt {
                    session,
                    known_records: seqs.map_or(0, |seqs| *seqs.end()),
                    lost_records: seqs.map_or(0, missing),
                })
            })
            .collect();
        let known: BTreeSet<SessionId> = hurt.iter().map(|hurt| hurt.session).collect();
        let report = self.recovery.lock().clone().unwrap_or_default();
        // What was put right since the start is served again.
        let is_mended = |session| report.repaired.iter().any(|repair| repair.session == session);
        let others = report.problems.iter().filter(|one| !known.contains(&one.session) && !is_mended(one.session));
        hurt.extend(others.map(|problem| Hurt { session: problem.session, known_records: 0, lost_records: 0 }));
        hurt
    }
}

/// For how long a failure lasted within the window, until it was over or until now.
fn lasted_ms(incident: &Incident, from_ms: u64, now_ms: u64) -> u64 {
    // Of spells before the last one only the sum is known: it counts when all of them are within.
    let is_open = incident.over_at_ms.is_none();
    let last_ms = incident.over_at_ms.unwrap_or(now_ms).saturating_sub(incident.since_ms.max(from_ms));
    match incident.first_at_ms >= from_ms {
        true if is_open => incident.lasted_ms.saturating_add(last_ms),
        true => incident.lasted_ms,
        false => last_ms,
    }
}

/// What is known of the past, as core's figures take it.
fn history(reports: &[RecoveryReport], failures: &[Incident], hurt: &[Hurt], now_ms: u64) -> History {
    let from_ms = now_ms.saturating_sub(WINDOW_MS);
    let past = |from, is_success, took_ms| Past {
        from,
        is_success,
        took_ms,
        known_records: 0,
        lost_records: 0,
        is_valid: Some(is_success),
    };
    let told: BTreeSet<SessionId> =
        reports.iter().filter_map(|report| report.recovery.as_ref()).map(|recovery| recovery.session).collect();
    let mut recoveries = Vec::new();
    let mut unavailable_ms = 0u64;
    for report in reports.iter().filter(|report| report.at_ms >= from_ms) {
        if report.crashed {
            let took_ms = report.opened_ms.saturating_add(report.all_checked_ms.unwrap_or(0));
            let known_records = report.records_replayed;
            recoveries.push(Past { known_records, ..past(FailureType::ProcessCrash, true, Some(took_ms)) });
            unavailable_ms = unavailable_ms.saturating_add(report.opened_ms);
        }
        if let Some(recovery) = &report.recovery {
            recoveries.extend(past_of(recovery));
            continue;
        }
        // What was put right since the start is told by a report of its own, unless an earlier version did it.
        for repair in report.repaired.iter().filter(|repair| !told.contains(&repair.session)) {
            let span = Span { session: repair.session, first: repair.first, last: repair.last };
            let known_records = span.last.zip(span.first).map_or(0, |(last, first)| last.saturating_sub(first) + 1);
            let from = match repair.what.as_str() {
                "checkpoint" => FailureType::CheckpointCorruption,
                _ => FailureType::StateCorruption,
            };
            recoveries.push(Past { known_records, ..past(from, true, None) });
        }
    }
    for hurt in hurt {
        let (known_records, lost_records) = (hurt.known_records, hurt.lost_records);
        let stands = past(FailureType::StateCorruption, false, None);
        recoveries.push(Past { known_records, lost_records, ..stands });
    }
    let mut checksum_failures = 0u64;
    for incident in failures.iter().filter(|incident| incident.over_at_ms.unwrap_or(now_ms) >= from_ms) {
        match incident.failure.kind() {
            FailureType::StateCorruption | FailureType::CheckpointCorruption => {
                checksum_failures += u64::from(incident.last_at_ms >= from_ms) * incident.count;
            }
            // Over by itself, when the device takes writes again: a recovery, and nobody's time to recover.
            kind @ FailureType::StorageUnavailable => {
                unavailable_ms = unavailable_ms.saturating_add(lasted_ms(incident, from_ms, now_ms));
                if incident.over_at_ms.is_some() {
                    recoveries.push(Past { is_valid: None, ..past(kind, true, None) });
                }
            }
            // Put right from outside: a recovery, and nobody's time to recover, either. One that ended with its client is none.
            kind @ (FailureType::ConnectionLost | FailureType::ProtocolError) if incident.took_ms.is_some() => {
                recoveries.push(Past { is_valid: None, ..past(kind, true, None) });
            }
            _ => {}
        }
    }
    // A store that is younger than the window was not unavailable before it was made.
    History { recoveries, checksum_failures, observed_ms: WINDOW_MS, unavailable_ms }
}

/// The recovery of one session, once it is over: while it waits, or is under way, it counts as a session that is not served.
fn past_of(recovery: &SessionRecovery) -> Option<Past> {
    let is_part = |repair: &Repair| repair.what == "checkpoint";
    let of_checkpoints = !recovery.restored.is_empty() && recovery.restored.iter().all(is_part);
    recovery.is_over().then(|| Past {
        from: if of_checkpoints { FailureType::CheckpointCorruption } else { FailureType::StateCorruption },
        // What was lost was said, and accepted: that is counted by itself.
        is_success: true,
        took_ms: Some(recovery.took_ms),
        known_records: recovery.plan.known_head.0,
        lost_records: recovery.lost.count().saturating_add(recovery.history_lost.count()),
        is_valid: recovery.validation.as_ref().map(Validation::passed),
    })
}

#[cfg(test)]
mod tests {
    use swarmkeep_core::{
        EntityId, Failure, Seq, State,
        failure::{ProtocolCause, StorageCause},
        health::AlertType,
        recovery::{Policy, Range, Ranges, Seen, plan, validate},
    };

    use super::*;
    use crate::{
        incident::{Incidents, Noticed},
        recovery::Ending,
    };

    const NOW_MS: u64 = 10 * WINDOW_MS;

    fn crash(ago_ms: u64, opened_ms: u64) -> RecoveryReport {
        RecoveryReport {
            id: format!("open-{ago_ms}"),
            at_ms: NOW_MS - ago_ms,
            crashed: true,
            opened_ms,
            all_checked_ms: Some(opened_ms),
            records_replayed: 1_000,
            ..RecoveryReport::default()
        }
    }

    fn kinds(history: &History) -> Vec<AlertType> {
        Metrics::of(history).alerts().iter().map(|alert| alert.kind).collect()
    }

    #[test]
    fn a_slow_return_counts_for_a_day_and_fast_ones_outweigh_it() {
        let slow = crash(1_000, 20_000);
        assert_eq!(kinds(&history(std::slice::from_ref(&slow), &[], &[], NOW_MS)), [AlertType::RecoveryTimeHigh]);
        let fast = [slow.clone(), crash(900, 20)];
        assert_eq!(kinds(&history(&fast, &[], &[], NOW_MS)), []);
        assert_eq!(history(&[slow], &[], &[], NOW_MS + WINDOW_MS).recoveries, []);
        let parked = RecoveryReport { crashed: false, ..crash(1, 99_000) };
        assert_eq!(history(&[parked], &[], &[], NOW_MS).recoveries, [], "a clean stop is followed by no recovery");
    }

    #[test]
    fn a_session_that_stands_aside_is_a_recovery_that_failed_and_a_loss() {
        let hurt = Hurt { session: SessionId([1; 16]), known_records: 500, lost_records: 3 };
        let found = history(&[crash(1, 20)], &[], &[hurt], NOW_MS);
        assert_eq!(kinds(&found), [AlertType::RecoveryFailureRateHigh, AlertType::DataLossHigh]);
        let metrics = Metrics::of(&found);
        assert!((metrics.data_loss_percent - 0.2).abs() < 1e-9, "3 of 1,500: {metrics:?}");
        assert!((metrics.integrity_validation_success_percent - 50.0).abs() < 1e-9, "{metrics:?}");
    }

    fn recovered(known: u64, readable: u64, took_ms: u64, accept_loss: bool) -> RecoveryReport {
        let range = |first, last| Range { first: Seq(first), last: Seq(last) };
        let seen =
            Seen { known_head: Seq(known), readable: [range(1, readable)].into_iter().collect(), ..Seen::default() };
        let plan = plan(&seen, Policy { accept_loss, start_fresh: accept_loss });
        let event = if plan.waits() { Ending::SessionNeedsDecision } else { Ending::SessionRecoveredWithLoss };
        let recovery = SessionRecovery {
            id: format!("recovery-{known}-{took_ms}"),
            session: SessionId([2; 16]),
            event,
            cause: String::new(),
            begun_at_ms: NOW_MS - took_ms,
            ended_at_ms: Some(NOW_MS),
            took_ms,
            attempts: 1,
            lost: plan.loss.state.clone(),
            plan,
            steps: Vec::new(),
            restored: Vec::new(),
            from: Seq::ZERO,
            records_replayed: 0,
            reaches: Seq(readable),
            history_lost: Ranges::default(),
            parts_lost: Vec::new(),
            entities_lost: Vec::new(),
            effects_lost: Vec::new(),
            effects_left_out: 0,
            data_loss_percent: 0.0,
            integrity_score: None,
            validation: Some(validate(&State::empty())),
            old_head: None,
            accepted_by: None,
        };
        RecoveryReport {
            id: recovery.id.clone(),
            at_ms: NOW_MS,
            clean: true,
            recovery: Some(Box::new(recovery)),
            ..RecoveryReport::default()
        }
    }

    #[test]
    fn a_recovery_that_lost_something_is_a_success_and_a_loss_for_a_day() {
        let found = history(&[recovered(500, 497, 40_000, true)], &[], &[], NOW_MS);
        assert_eq!(kinds(&found), [AlertType::RecoveryTimeHigh, AlertType::DataLossHigh]);
        let metrics = Metrics::of(&found);
        assert!((metrics.data_loss_percent - 0.6).abs() < 1e-9, "3 of 500: {metrics:?}");
        assert_eq!((metrics.mean_time_to_recovery_ms, metrics.recovery_time_p99_ms), (40_000, 40_000));
        assert!(metrics.recovery_success_percent > 99.9 && metrics.integrity_validation_success_percent > 99.9);
        let later = recovered(500, 497, 40_000, true);
        assert_eq!(history(&[later], &[], &[], NOW_MS + WINDOW_MS + 1).recoveries, []);
        // One that waits is told by the session that is not served.
        assert_eq!(history(&[recovered(500, 497, 1, false)], &[], &[], NOW_MS).recoveries, []);
    }

    #[test]
    fn what_a_recovery_put_right_is_told_once() {
        let repair =
            |session| Repair { session, what: "records".into(), first: Some(1), last: Some(9), from: "kept".into() };
        let mut started = crash(1, 20);
        started.repaired = vec![repair(SessionId([2; 16])), repair(SessionId([3; 16]))];
        let mut done = recovered(500, 500, 1, true);
        done.repaired = vec![repair(SessionId([2; 16]))];
        assert_eq!(history(&[started, done], &[], &[], NOW_MS).recoveries.len(), 3, "the start, and each session");
    }

    #[test]
    fn a_tool_server_that_is_back_is_a_recovery_and_one_that_nobody_wants_any_more_is_none() {
        let incidents = Incidents::new(1);
        let id = |name: &str| EntityId::new(name).unwrap();
        let session = SessionId([1; 16]);
        for (at_ms, name) in (NOW_MS..).zip(["back", "gone", "away"]) {
            let connection = id(name);
            let lost = Failure::ConnectionLost { connection, silent_ms: 90_000, in_flight: 0, in_doubt: 0 };
            incidents.note(Noticed::new(lost, Some(session), "gone"), at_ms);
        }
        let cause = ProtocolCause::NotAMessage;
        let noise = Failure::ProtocolError { connection: id("back"), cause, beginning: String::new() };
        incidents.note(Noticed::new(noise, Some(session), "noise"), NOW_MS);
        for kind in [FailureType::ConnectionLost, FailureType::ProtocolError] {
            incidents.connection_is_back(session, &id("back"), kind, NOW_MS + 500_000);
        }
        incidents.connection_is_gone(session, &id("gone"), NOW_MS + 500_000);
        let found = history(&[], &incidents.all(), &[], NOW_MS + 600_000);
        let mut recovered: Vec<_> =
            found.recoveries.iter().map(|past| (past.from, past.is_success, past.took_ms)).collect();
        recovered.sort_unstable();
        let all = [(FailureType::ConnectionLost, true, None), (FailureType::ProtocolError, true, None)];
        assert_eq!((recovered, found.unavailable_ms), (all.to_vec(), 0));
        assert_eq!(kinds(&found), [], "how long a server of somebody else was away is no time of this store's");
    }

    #[test]
    fn time_without_writes_is_counted_spell_by_spell() {
        let incidents = Incidents::new(1);
        let full = || Noticed::new(Failure::StorageUnavailable { cause: StorageCause::DiskFull }, None, "no room");
        incidents.note(full(), NOW_MS);
        incidents.writes_again(|| NOW_MS + 80_000);
        assert_eq!(kinds(&history(&[], &incidents.all(), &[], NOW_MS + 3_600_000)), []);
        incidents.note(full(), NOW_MS + 4_000_000);
        let open = incidents.all();
        assert_eq!(history(&[], &open, &[], NOW_MS + 4_010_000).unavailable_ms, 90_000);
        assert_eq!(kinds(&history(&[], &open, &[], NOW_MS + 4_010_000)), [AlertType::AvailabilityLow]);
        incidents.writes_again(|| NOW_MS + 4_010_000);
        let over = incidents.all();
        assert_eq!(history(&[], &over, &[], NOW_MS + 5_000_000).unavailable_ms, 90_000);
        assert_eq!(kinds(&history(&[], &over, &[], NOW_MS + 5_000_000 + WINDOW_MS)), [], "a day later it is the past");
    }
}
