//! Signs of life and measurements: kept, batched, not events.

use std::sync::Arc;

use swarmkeep_core::{EntityId, Error, Refusal, RefusalCode, SessionId, limits, log::Observation, state::AgentStatus};

use super::Engine;
use crate::{
    damage,
    planted::{self, Defect},
};

impl Engine {
    pub(crate) async fn observe(
        self: &Arc<Self>,
        id: SessionId,
        mut observations: Vec<Observation>,
    ) -> Result<(), Error> {
        self.check_open()?;
        if observations.len() > limits::OBSERVATIONS_PER_REQUEST {
            let message = format!("at most {} observations in one request", limits::OBSERVATIONS_PER_REQUEST);
            return Err(Refusal::new(RefusalCode::Limit, message).into());
        }
        if let Some(error) = self.needs_decision(id) {
            return Err(error);
        }
        let state = self.live(id, |live| live.published.clone()).await?;
        let now_ms = self.clock.now_ms();
        for observation in &observations {
            let (Observation::Heartbeat { agent, .. } | Observation::Metric { agent, .. }) = observation;
            let Some(found) = state.agents.get(agent) else {
                return Err(Refusal::not_found("agent", agent).into());
            };
            // What is measured of an agent may arrive after its end; a sign of life may not.
            if matches!(observation, Observation::Heartbeat { .. }) && found.status == AgentStatus::Terminated {
                let message = format!("agent `{agent}` is terminated: stop its process, or spawn another agent");
                return Err(Refusal::new(RefusalCode::WrongState, message).into());
            }
        }
        for observation in &mut observations {
            let (Observation::Heartbeat { at_ms, .. } | Observation::Metric { at_ms, .. }) = observation;
            if *at_ms == 0 {
                *at_ms = now_ms;
            }
        }
        for observation in &observations {
            if let Observation::Heartbeat { agent, .. } = observation {
                self.agent_beats(id, agent);
                for task in state.tasks.iter() {
                    if let Some(lease) = task.lease.as_ref().filter(|lease| lease.agent_id == *agent) {
                        self.watch.renew_lease(id, &task.id, lease.number, lease.lease_ms);
                    }
                }
            }
        }
        self.log.observe(id, observations).await.map_err(|error| self.said_by_log(error, id))
    }

    /// An agent's last sign of life: none is waited for after it, until it gives another.
    pub(crate) async fn rest_agent(self: &Arc<Self>, id: SessionId, agent: EntityId) -> Result<(), Error> {
        self.observe(id, vec![Observation::Heartbeat { agent: agent.clone(), at_ms: 0 }]).await?;
        self.watch.forget_agent(id, &agent);
        Ok(())
    }

    pub(crate) async fn heartbeat_task(
        self: &Arc<Self>,
        id: SessionId,
        task: &EntityId,
        lease: u64,
    ) -> Result<(), Error> {
        self.check_open()?;
        if let Some(error) = self.needs_decision(id) {
            return Err(error);
        }
        let state = self.live(id, |live| live.published.clone()).await?;
        let found = state.tasks.get(task).ok_or_else(|| Refusal::not_found("task", task))?;
        match &found.lease {
            Some(current) if current.number == lease || planted::is(Defect::LeaseNotCompared) => {
                self.watch.renew_lease(id, task, lease, current.lease_ms);
                self.agent_acts(id, current.agent_id.as_str());
                self.log
                    .observe(
                        id,
                        vec![Observation::Heartbeat { agent: current.agent_id.clone(), at_ms: self.clock.now_ms() }],
                    )
                    .await
                    .map_err(damage::log)
            }
            _ => Err(Refusal::new(
                RefusalCode::LeaseLost,
                format!("lease {lease} of task `{task}` is over (it is {} now): stop working on it", found.status),
            )
            .into()),
        }
    }
}
