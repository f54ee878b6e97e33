//! A figure, and the arithmetic behind it.

use serde::Serialize;

use crate::moment;

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figure {
    /// What.
    pub(crate) what: String,
    /// The median of the runs.
    pub(crate) value: f64,
    /// In what.
    pub(crate) unit: &'static str,
    /// All runs.
    pub(crate) runs: Vec<f64>,
    /// Limits and peers of the same run.
    pub(crate) beside: Vec<Beside>,
    /// More about it: latencies, conditions.
    pub(crate) notes: Vec<String>,
    /// What it should be.
    pub(crate) wanted: String,
    /// Whether it is; absent where there was nothing to compare with.
    pub(crate) reached: Option<bool>,
}

/// A limit or a peer.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Beside {
    pub(crate) what: String,
    pub(crate) value: f64,
    /// Ours by theirs.
    pub(crate) ratio: f64,
}

impl Figure {
    pub(crate) fn new(what: impl Into<String>, unit: &'static str, runs: Vec<f64>) -> Self {
        Self {
            what: what.into(),
            value: median(&runs),
            unit,
            runs,
            beside: Vec::new(),
            notes: Vec::new(),
            wanted: String::new(),
            reached: None,
        }
    }

    pub(crate) fn beside(mut self, what: impl Into<String>, runs: &[f64]) -> Self {
        let value = median(runs);
        self.beside.push(Beside {
            what: what.into(),
            value,
            ratio: if value > 0.0 { self.value / value } else { 0.0 },
        });
        self
    }

    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// At most this much, in its unit.
    pub(crate) fn at_most(mut self, most: f64) -> Self {
        self.wanted = format!("≤ {} {}", number(most), self.unit);
        self.reached = Some(self.value <= most);
        self
    }

    /// At least this much, in its unit.
    pub(crate) fn at_least(mut self, least: f64) -> Self {
        self.wanted = format!("≥ {} {}", number(least), self.unit);
        self.reached = Some(self.value >= least);
        self
    }

    /// At least this often what stands beside it, in the order in which it was put there.
    pub(crate) fn at_least_of(mut self, shares: &[f64]) -> Self {
        let pairs: Vec<_> = self.beside.iter().zip(shares).collect();
        self.wanted =
            pairs.iter().map(|(beside, share)| format!("≥ {share} × {}", beside.what)).collect::<Vec<_>>().join(", ");
        self.reached = (!pairs.is_empty()).then(|| pairs.iter().all(|(beside, share)| beside.ratio >= **share));
        self
    }

    /// At most this often the first that stands beside it.
    pub(crate) fn at_most_of(mut self, share: f64) -> Self {
        if let Some(beside) = self.beside.first() {
            self.wanted = format!("≤ {share} × {}", beside.what);
            self.reached = Some(beside.ratio <= share);
        }
        self
    }
}

/// The middle one.
pub(crate) fn median(all: &[f64]) -> f64 {
    crate::swarm::run::median(all)
}

/// Digits that mean something.
pub(crate) fn number(value: f64) -> String {
    if value >= 1000.0 {
        moment::thousands(value.round() as u64)
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

/// Latencies of one run or several, in microseconds.
#[derive(Debug, Default)]
pub(crate) struct Latencies {
    us: Vec<f32>,
}

impl Latencies {
    pub(crate) fn add(&mut self, since: tokio::time::Instant) {
        self.us.push(since.elapsed().as_nanos() as f32 / 1000.0);
    }

    pub(crate) fn join(&mut self, other: Self) {
        self.us.extend(other.us);
    }

    pub(crate) fn len(&self) -> usize {
        self.us.len()
    }

    /// The latency that this share of all is below.
    pub(crate) fn at(&mut self, share: f64) -> f64 {
        self.us.sort_unstable_by(f32::total_cmp);
        let place = ((self.us.len() as f64 * share) as usize).min(self.us.len().saturating_sub(1));
        f64::from(self.us.get(place).copied().unwrap_or(0.0))
    }

    /// `p50 120 µs, p99 …, p99.9 …`.
    pub(crate) fn say(&mut self) -> String {
        format!(
            "p50 {} µs, p99 {} µs, p99.9 {} µs",
            number(self.at(0.5)),
            number(self.at(0.99)),
            number(self.at(0.999))
        )
    }
}

/// Processes that want to run, over the last minute.
pub(crate) fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0.0)
}

/// Bytes of RAM that a process has, by its id; this one for `None`. 0 where the system does not say.
pub(crate) fn resident_bytes(pid: Option<u32>) -> u64 {
    status_bytes(pid, "VmRSS:")
}

/// The most that a process has ever had, by its id. 0 where the system does not say.
pub(crate) fn peak_bytes(pid: u32) -> u64 {
    status_bytes(Some(pid), "VmHWM:")
}

fn status_bytes(pid: Option<u32>, field: &str) -> u64 {
    let path = pid.map_or("/proc/self/status".to_owned(), |pid| format!("/proc/{pid}/status"));
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let kilobytes =
        text.lines().find_map(|line| line.strip_prefix(field)?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}
