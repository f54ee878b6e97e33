//! How well a store comes back: figures over its history, and the alerts that follow from them.
//!
//! Names and thresholds are those of the seed's recovery metrics. Everything is a function of the history given.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    failure::{FailureType, Severity, names},
    recovery::percent,
};

/// More than this share of recoveries failed, in percent: [`AlertType::RecoveryFailureRateHigh`].
pub const FAILURE_RATE_PERCENT: f64 = 1.0;
/// Recoveries take longer than this on average: [`AlertType::RecoveryTimeHigh`].
pub const RECOVERY_MS: u64 = 30_000;
/// More than this share of records was lost, in percent: [`AlertType::DataLossHigh`].
pub const LOSS_PERCENT: f64 = 0.1;
/// Less than this share of time was available, in percent: [`AlertType::AvailabilityLow`].
pub const AVAILABLE_PERCENT: f64 = 99.9;

/// A recovery that was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    /// From what.
    pub from: FailureType,
    /// Everything came back, or what did not was said and decided upon.
    pub is_success: bool,
    /// How long it took; `None`: nobody can tell, and it is in no mean.
    pub took_ms: Option<u64>,
    /// Records known outside the damage, of what was recovered.
    pub known_records: u64,
    /// How many of them were lost.
    pub lost_records: u64,
    /// Whether hashes, chain and entities agreed afterwards; `None`: it was not looked at.
    pub is_valid: Option<bool>,
}

/// What figures are made of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Recoveries.
    pub recoveries: Vec<Past>,
    /// Checksums that did not hold.
    pub checksum_failures: u64,
    /// For how long there is a history.
    pub observed_ms: u64,
    /// For how much of that the store was being recovered, or took no writes.
    pub unavailable_ms: u64,
}

/// The figures. Percentages are of 100; a figure about nothing says that all is well.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// How many recoveries there were.
    pub recoveries: u64,
    /// `100 × successful ÷ all`.
    pub recovery_success_percent: f64,
    /// The same by type of failure.
    pub recovery_success_percent_by_type: BTreeMap<FailureType, f64>,
    /// The mean.
    pub mean_time_to_recovery_ms: u64,
    /// 95 of 100 took no longer.
    pub recovery_time_p95_ms: u64,
    /// 99 of 100 took no longer.
    pub recovery_time_p99_ms: u64,
    /// `100 × records lost ÷ records known outside the damage`.
    pub data_loss_percent: f64,
    /// `100 × valid ÷ looked at`.
    pub integrity_validation_success_percent: f64,
    /// `100 × (observed − unavailable) ÷ observed`.
    pub availability_percent: f64,
    /// Checksums that did not hold.
    pub checksum_failures: u64,
}

impl Metrics {
    /// Of a history.
    #[must_use]
    pub fn of(history: &History) -> Self {
        let all = &history.recoveries;
        let mut by_type: BTreeMap<FailureType, (u64, u64)> = BTreeMap::new();
        for past in all {
            let (successes, count) = by_type.entry(past.from).or_default();
            *successes += u64::from(past.is_success);
            *count += 1;
        }
        let sum = |of: fn(&Past) -> u64| all.iter().map(of).fold(0, u64::saturating_add);
        let looked_at: Vec<bool> = all.iter().filter_map(|past| past.is_valid).collect();
        let valid = looked_at.iter().filter(|valid| **valid).count() as u64;
        let mut times: Vec<u64> = all.iter().filter_map(|past| past.took_ms).collect();
        times.sort_unstable();
        let unavailable_ms = history.unavailable_ms.min(history.observed_ms);
        Self {
            recoveries: all.len() as u64,
            recovery_success_percent: share(sum(|past| u64::from(past.is_success)), all.len() as u64),
            recovery_success_percent_by_type: by_type
                .into_iter()
                .map(|(kind, (successes, count))| (kind, share(successes, count)))
                .collect(),
            mean_time_to_recovery_ms: times.iter().copied().fold(0, u64::saturating_add) / (times.len() as u64).max(1),
            recovery_time_p95_ms: percentile(&times, 95),
            recovery_time_p99_ms: percentile(&times, 99),
            data_loss_percent: percent(sum(|past| past.lost_records), sum(|past| past.known_records)),
            integrity_validation_success_percent: share(valid, looked_at.len() as u64),
            availability_percent: share(history.observed_ms - unavailable_ms, history.observed_ms),
            checksum_failures: history.checksum_failures,
        }
    }

    /// What a person should be told.
    #[must_use]
    pub fn alerts(&self) -> Vec<Alert> {
        let alert = |kind, severity, message| Alert { kind, severity, message };
        let mut alerts = Vec::new();
        if self.recovery_success_percent < 100.0 - FAILURE_RATE_PERCENT {
            alerts.push(alert(
                AlertType::RecoveryFailureRateHigh,
                Severity::Critical,
                format!(
                    "recoveries that succeeded: {:.1} % of {}; more than {FAILURE_RATE_PERCENT} % failed",
                    self.recovery_success_percent, self.recoveries
                ),
            ));
        }
        if self.mean_time_to_recovery_ms > RECOVERY_MS {
            alerts.push(alert(
                AlertType::RecoveryTimeHigh,
                Severity::Medium,
                format!("a recovery takes {} ms on average: more than {RECOVERY_MS}", self.mean_time_to_recovery_ms),
            ));
        }
        if self.data_loss_percent > LOSS_PERCENT {
            alerts.push(alert(
                AlertType::DataLossHigh,
                Severity::Critical,
                format!("{:.2} % of what was recovered is lost: more than {LOSS_PERCENT} %", self.data_loss_percent),
            ));
        }
        if self.availability_percent < AVAILABLE_PERCENT {
            alerts.push(alert(
                AlertType::AvailabilityLow,
                Severity::High,
                format!(
                    "the store took writes for {:.2} % of the time: less than {AVAILABLE_PERCENT} %",
                    self.availability_percent
                ),
            ));
        }
        alerts
    }
}

names!(
    /// What an alert is about.
    AlertType {
        /// Recoveries fail.
        RecoveryFailureRateHigh = "RECOVERY_FAILURE_RATE_HIGH",
        /// Recoveries take long.
        RecoveryTimeHigh = "RECOVERY_TIME_HIGH",
        /// Records are lost.
        DataLossHigh = "DATA_LOSS_HIGH",
        /// The store takes no writes for too long.
        AvailabilityLow = "AVAILABILITY_LOW",
    }
);

/// A threshold that was passed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// Which.
    #[serde(rename = "type")]
    pub kind: AlertType,
    /// How bad it is.
    pub severity: Severity,
    /// In one sentence.
    pub message: String,
}

/// `100 × part ÷ whole`, 100 of nothing.
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 100.0 } else { percent(part, whole) }
}

/// The nearest rank; 0 of nothing.
fn percentile(sorted: &[u64], of_100: usize) -> u64 {
    let rank = (sorted.len() * of_100).div_ceil(100);
    rank.checked_sub(1).and_then(|at| sorted.get(at)).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn past(is_success: bool, took_ms: u64, lost_records: u64) -> Past {
        Past {
            from: FailureType::ProcessCrash,
            is_success,
            took_ms: Some(took_ms),
            known_records: 1_000,
            lost_records,
            is_valid: Some(is_success),
        }
    }

    fn kinds(history: &History) -> Vec<AlertType> {
        Metrics::of(history).alerts().iter().map(|alert| alert.kind).collect()
    }

    #[test]
    fn nothing_that_was_is_nothing_to_be_told() {
        let metrics = Metrics::of(&History::default());
        assert_eq!((metrics.recoveries, metrics.mean_time_to_recovery_ms), (0, 0));
        assert!(metrics.availability_percent > 99.99 && metrics.data_loss_percent < 0.01);
        assert_eq!(metrics.alerts(), []);
    }

    #[test]
    fn each_threshold_has_its_alert_and_is_not_passed_by_standing_on_it() {
        let well = History {
            recoveries: (0..100).map(|n| past(n > 0, 30_000, 1)).collect(),
            observed_ms: 1_000_000,
            unavailable_ms: 1_000,
            ..History::default()
        };
        assert_eq!(kinds(&well), []);
        let mut failed = well.clone();
        failed.recoveries[1].is_success = false;
        assert_eq!(kinds(&failed), [AlertType::RecoveryFailureRateHigh]);
        let mut slow = well.clone();
        slow.recoveries[0].took_ms = Some(40_000);
        assert_eq!(kinds(&slow), [AlertType::RecoveryTimeHigh]);
        let mut lossy = well.clone();
        lossy.recoveries[0].lost_records = 2;
        assert_eq!(kinds(&lossy), [AlertType::DataLossHigh]);
        let away = History { unavailable_ms: 1_100, ..well };
        assert_eq!(kinds(&away), [AlertType::AvailabilityLow]);
    }

    #[test]
    fn percentiles_are_times_that_were() {
        let history = History { recoveries: (1..=200).map(|n| past(true, n, 0)).collect(), ..History::default() };
        let metrics = Metrics::of(&history);
        assert_eq!((metrics.recovery_time_p95_ms, metrics.recovery_time_p99_ms), (190, 198));
        assert_eq!(metrics.mean_time_to_recovery_ms, 100);
        let json = serde_json::to_value(&metrics).unwrap();
        assert_eq!(json["recovery_success_percent_by_type"]["process_crash"], 100.0);
    }
}
