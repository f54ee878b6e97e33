//! A group on its way to the disk: whoever waits for it hears what became of it, and so does its lane.

use std::sync::Arc;

use swarmkeep_core::{
    SessionId,
    log::{LogError, Position},
};

use super::{lane::Lanes, lost};
use crate::journal::Receipt;

/// A receipt waited for; the lane hears of it also when nobody waits any more.
pub(super) struct Settle {
    lanes: Arc<Lanes>,
    session: SessionId,
    receipt: Option<Receipt>,
}

impl Settle {
    pub(super) fn new(lanes: Arc<Lanes>, session: SessionId, receipt: Receipt) -> Self {
        Self { lanes, session, receipt: Some(receipt) }
    }

    pub(super) async fn wait(&mut self) -> Result<Position, LogError> {
        let Some(receipt) = &mut self.receipt else {
            return Err(LogError::Unknown("settled already".into()));
        };
        let outcome = receipt.await;
        self.receipt = None;
        settled(&self.lanes, self.session, outcome.is_err());
        outcome.map_err(lost)
    }
}

impl Drop for Settle {
    fn drop(&mut self) {
        if self.receipt.take().is_some() {
            settled(&self.lanes, self.session, false);
        }
    }
}

/// A group's receipt resolved: its lane has one less in flight.
fn settled(lanes: &Lanes, session: SessionId, failed: bool) {
    let mut shard = lanes.shard(session);
    if let Some(lane) = shard.get_mut(&session) {
        lane.in_flight = lane.in_flight.saturating_sub(1);
        if failed {
            // What was sent is void; the next group follows what is durable.
            lane.sent = lane.durable;
        }
    }
}
