//! What must hold, one file each: functions of what the oracle knows and of what the store shows.

pub mod bounded;
pub mod durable;
pub mod effects;
pub mod feeds;
pub mod fold;
pub mod holding;
pub mod order;

use swarmkeep::Record;
use swarmkeep_core::{checkpoint::Checkpoint, log::Head};

use crate::oracle::Known;

/// What a store shows of one session, asked for everything.
#[derive(Debug)]
pub struct Evidence {
    /// Which session.
    pub session: usize,
    /// Where the resident state stands; seq 0: there is no such session.
    pub head: Head,
    /// The resident state's canonical bytes.
    pub canonical: Vec<u8>,
    /// The records through `head`.
    pub records: Vec<Record>,
    /// The newest checkpoint at or below `head`.
    pub saved: Option<Checkpoint>,
}

/// Everything that is proved of one session, of which somebody had been shown record `floor` when the store was asked.
/// Gives how many things were compared.
///
/// # Errors
/// What does not hold, after the name of the invariant.
pub fn prove(known: &Known, evidence: &Evidence, floor: u64) -> Result<u64, String> {
    let named = |name: &'static str| move |what: String| format!("{name}: {what}");
    let mut checks = durable::check(known, evidence, floor).map_err(named("acknowledged is durable"))?;
    checks += order::check(known, evidence).map_err(named("order"))?;
    checks += fold::check(evidence).map_err(named("fold"))?;
    checks += effects::recorded(evidence).map_err(named("effects"))?;
    Ok(checks)
}
