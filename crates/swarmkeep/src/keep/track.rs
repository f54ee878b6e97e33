//! How well this store comes back: its reports and failures as figures, and the alerts that follow from them.
//!
//! Of the last [`WINDOW_MS`], so that an alert ends by itself when what caused it is over and some time has passed; what
//! still stands (a session that is set aside, a device that takes nothing) counts for as long as it does.

use std::collections::BTreeSet;

use serde::Serialize;
use swarmkeep_core::{
    Error, FailureType, SessionId,
    health::{Alert, History, Metrics, Past},
};

use super::{Engine, Swarmkeep};
use crate::{
    incident::Incident,
    recovery::{RecoveryReport, Span},
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
                let seqs = damage.seqs.as_ref();
                // What is kept of it begins behind the gap.
                let missing = |first: u64| first.saturating_sub(1).saturating_sub(embedded.readable_to(session));
                Some(Hurt {
                    session,
                    known_records: seqs.map_or(0, |seqs| *seqs.end()),
                    lost_records: seqs.map_or(0, |seqs| missing(*seqs.start())),
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
    let mut recoveries = Vec::new();
    let mut unavailable_ms = 0u64;
    for report in reports.iter().filter(|report| report.at_ms >= from_ms) {
        if report.crashed {
            let took_ms = report.opened_ms.saturating_add(report.all_checked_ms.unwrap_or(0));
            let known_records = report.records_replayed;
            recoveries.push(Past { known_records, ..past(FailureType::ProcessCrash, true, Some(took_ms)) });
            unavailable_ms = unavailable_ms.saturating_add(report.opened_ms);
        }
        for repair in &report.repaired {
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
            _ => {}
        }
    }
    // A store that is younger than the window was not unavailable before it was made.
    History { recoveries, checksum_failures, observed_ms: WINDOW_MS, unavailable_ms }
}

#[cfg(test)]
mod tests {
    use swarmkeep_core::{Failure, failure::StorageCause, health::AlertType};

    use super::*;
    use crate::incident::{Incidents, Noticed};

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
