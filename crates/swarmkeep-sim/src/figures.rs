//! What worlds came to, in numbers.

use std::ops::AddAssign;

use serde_json::{Map, Value};

/// Each figure stands here once: its field, its name in the report, and how people read it.
macro_rules! figures {
    ($($(#[doc = $doc:literal])+ $field:ident: $text:literal,)+) => {
        /// Of one world.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Figures {
            $($(#[doc = $doc])+ pub $field: u64,)+
        }

        impl Figures {
            /// Every one: its name, its value, and what it counts.
            #[must_use]
            pub fn all(&self) -> Vec<(&'static str, u64, &'static str)> {
                vec![$((stringify!($field), self.$field, $text)),+]
            }
        }

        impl AddAssign for Figures {
            fn add_assign(&mut self, other: Self) {
                $(self.$field += other.$field;)+
            }
        }
    };
}

figures! {
    /// Things that happened.
    steps: "steps",
    /// Milliseconds of the world's time.
    world_ms: "ms of the world's time",
    /// Ends of a holder, loss of power included.
    crashes: "crashes",
    /// Of them, with the power.
    power: "of them with loss of power",
    /// Of them, because the store did not come right by itself after failed syncs.
    restarted: "because failed syncs left no other way",
    /// Takeovers.
    takeovers: "takeovers",
    /// Clean stops, and starts after them, some with other settings and without views.
    parks: "clean stops",
    /// Answers that acknowledged records.
    writes: "acknowledged writes",
    /// Of them, for what had been done before.
    repeated: "of them repeats",
    /// Requests sent again after they had been answered.
    again: "answered requests sent again",
    /// Things done outside.
    deeds: "effects carried out",
    /// Items of feeds.
    items: "feed items",
    /// Sessions that began with another's state.
    forks: "forks",
    /// States set back.
    rewinds: "rewinds",
    /// Blobs that were acknowledged.
    blobs_kept: "blobs kept",
    /// Blobs that were read back and hashed.
    blobs: "blobs read back",
    /// Places of files that rotted.
    rotten: "places that rotted",
    /// Answers that said so.
    said: "answers that said so",
    /// Leases of tasks given out.
    leases: "leases",
    /// Signs of life that were taken.
    beats: "signs of life",
    /// Leases that silence ended.
    lapsed: "leases ended by silence",
    /// Old lease numbers that were refused.
    lease_lost: "old lease numbers refused",
    /// Removals of records below a checkpoint.
    trims: "removals of old records",
    /// Removals of whole sessions.
    removals: "removals of sessions",
    /// Calls of tools behind the proxy that were answered.
    tool_calls: "calls of tools answered",
    /// Of them, those of which nobody knows whether they were carried out.
    tool_doubts: "of them in doubt",
    /// Connections to a tool server that broke.
    tool_cuts: "connections to a tool server broken",
    /// Things that were compared.
    checks: "checks",
}

/// Of many worlds.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Worlds.
    pub seeds: u64,
    /// Of all of them.
    pub figures: Figures,
    /// Seeds that failed, and why.
    pub failed: Vec<(u64, String)>,
}

impl Summary {
    /// One line for people.
    #[must_use]
    pub fn line(&self, ms: u64) -> String {
        let figures: Vec<String> =
            self.figures.all().into_iter().map(|(_, value, text)| format!("{value} {text}")).collect();
        format!("{} seeds, {} failed: {}, {ms} ms", self.seeds, self.failed.len(), figures.join(", "))
    }

    /// One line for the report, of seeds from this one on.
    #[must_use]
    pub fn json(&self, first: u64, ms: u64) -> String {
        let counts = [("seed", first), ("seeds", self.seeds), ("failed", self.failed.len() as u64), ("ms", ms)];
        let figures = self.figures.all().into_iter().map(|(name, value, _)| (name, value));
        let mut line: Map<String, Value> =
            counts.into_iter().chain(figures).map(|(name, value)| (name.to_owned(), value.into())).collect();
        line.insert("test".into(), "simulator".into());
        Value::Object(line).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_is_added_and_said() {
        let one = Figures { steps: 1, lapsed: 2, ..Figures::default() };
        let mut both = one;
        both += one;
        assert_eq!((both.steps, both.lapsed, both.checks), (2, 4, 0));
        let summary = Summary { seeds: 3, figures: both, failed: vec![(7, "why".into())] };
        let line: Value = serde_json::from_str(&summary.json(5, 9)).unwrap();
        let named = |name: &str| line.get(name).and_then(Value::as_u64);
        assert_eq!([named("seed"), named("seeds"), named("failed"), named("ms")], [Some(5), Some(3), Some(1), Some(9)]);
        for (name, value, text) in both.all() {
            assert_eq!(named(name), Some(value), "{name}");
            assert!(summary.line(9).contains(text), "{text}");
        }
    }
}
