//! What worlds came to, in numbers.

use std::ops::AddAssign;

use serde_json::json;

/// Of one world.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Things that happened.
    pub steps: u64,
    /// Milliseconds of the world's time.
    pub world_ms: u64,
    /// Ends of a holder, loss of power included.
    pub crashes: u64,
    /// Of them, with the power.
    pub power: u64,
    /// Of them, because the store did not come right by itself after failed syncs.
    pub restarted: u64,
    /// Takeovers.
    pub takeovers: u64,
    /// Answers that acknowledged records.
    pub acknowledged: u64,
    /// Of them, for what had been done before.
    pub repeated: u64,
    /// Things done outside.
    pub deeds: u64,
    /// Items of feeds.
    pub items: u64,
    /// Things that were compared.
    pub checks: u64,
}

impl AddAssign for Figures {
    fn add_assign(&mut self, other: Self) {
        self.steps += other.steps;
        self.world_ms += other.world_ms;
        self.crashes += other.crashes;
        self.power += other.power;
        self.restarted += other.restarted;
        self.takeovers += other.takeovers;
        self.acknowledged += other.acknowledged;
        self.repeated += other.repeated;
        self.deeds += other.deeds;
        self.items += other.items;
        self.checks += other.checks;
    }
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
        let Figures {
            steps,
            world_ms,
            crashes,
            power,
            restarted,
            takeovers,
            acknowledged,
            repeated,
            deeds,
            items,
            checks,
        } = self.figures;
        format!(
            "{} seeds, {} failed: {steps} steps, {} h of the world's time, {crashes} crashes ({power} with loss of \
             power, {restarted} because failed syncs left no other way), {takeovers} takeovers, {acknowledged} acknowledged writes ({repeated} of them repeats), {deeds} \
             effects carried out, {items} feed items, {checks} checks, {ms} ms",
            self.seeds,
            self.failed.len(),
            world_ms / 3_600_000,
        )
    }

    /// One line for the report, of seeds from this one on.
    #[must_use]
    pub fn json(&self, first: u64, ms: u64) -> String {
        let Figures {
            steps,
            world_ms,
            crashes,
            power,
            restarted,
            takeovers,
            acknowledged,
            repeated,
            deeds,
            items,
            checks,
        } = self.figures;
        json!({
            "test": "simulator", "seed": first, "seeds": self.seeds, "failed": self.failed.len(), "steps": steps,
            "world_ms": world_ms, "crashes": crashes, "power": power, "restarted": restarted, "takeovers": takeovers,
            "writes": acknowledged, "repeated": repeated, "deeds": deeds, "items": items, "checks": checks, "ms": ms,
        })
        .to_string()
    }
}
