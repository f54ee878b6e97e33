//! A client at a task: it claims one, gives signs of life, and ends it. Some fall silent, some do not stop when they are told
//! that their lease is over.

use swarmkeep::{EntityId, Json};
use swarmkeep_core::command::{Command, Outcome};

use super::{Ask, Client, Step};

/// The kind of tasks that clients work at.
pub(super) const KIND: &str = "work";
/// How long leases last, in milliseconds: longer than a stop of the holder that it does not notice.
const LEASES_MS: [u64; 2] = [2_600, 4_000];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Claim,
    Beat,
    /// Until the next sign of life is due.
    Wait,
    End,
}

/// At a task.
#[derive(Debug, Clone)]
pub(super) struct Shift {
    pub(super) session: usize,
    task: EntityId,
    lease: u64,
    lease_ms: u64,
    /// Signs of life until it is done.
    beats: usize,
    stage: Stage,
}

impl Client {
    pub(super) fn begin_shift(&mut self, session: usize) -> Step {
        let lease_ms = LEASES_MS[self.draw.below(LEASES_MS.len())];
        let (task, beats) = (EntityId::new("none").unwrap(), self.draw.below(5));
        self.shift = Some(Shift { session, task, lease: 0, lease_ms, beats, stage: Stage::Claim });
        Step::Rest(1)
    }

    pub(super) fn at_task(&mut self, mut shift: Shift, winding_up: bool) -> Step {
        let (session, task, lease) = (shift.session, shift.task.clone(), shift.lease);
        let command = match shift.stage {
            Stage::Claim => {
                let kinds = Some(vec![KIND.into()]);
                let claim =
                    Command::ClaimTask { agent: self.agent(), task: None, kinds, lease_ms: Some(shift.lease_ms) };
                let commands = vec![self.work_task(), claim];
                return self.submit(session, commands, Vec::new());
            }
            Stage::Beat if !winding_up => return Step::Ask(Ask::Beat { session, task, lease }),
            Stage::Wait if !winding_up => {
                shift.stage = if shift.beats == 0 { Stage::End } else { Stage::Beat };
                shift.beats = shift.beats.saturating_sub(1);
                let rest = shift.lease_ms / 4;
                self.shift = Some(shift);
                return Step::Rest(rest);
            }
            _ => match self.draw.below(4) {
                0 => Command::ReleaseTask { task, lease },
                1 => Command::FailTask { task, lease: Some(lease), error: "no".into(), permanent: false },
                _ => Command::CompleteTask { task, lease: Some(lease), result: Json::null() },
            },
        };
        shift.stage = Stage::End;
        self.shift = Some(shift);
        self.submit(session, vec![command], Vec::new())
    }

    pub(super) fn shift_hears(&mut self, outcomes: &[Outcome]) {
        let Some(shift) = &mut self.shift else { return };
        match (shift.stage, outcomes.last()) {
            (Stage::Claim, Some(Outcome::Claimed { task: Some(task), lease: Some(lease), .. })) => {
                (shift.task, shift.lease, shift.stage) = (task.clone(), *lease, Stage::Wait);
                // It falls silent.
                if self.draw.one_in(4) {
                    self.shift = None;
                }
            }
            (Stage::Beat, _) => shift.stage = Stage::Wait,
            _ => self.shift = None,
        }
    }

    /// True: its lease is over.
    pub(super) fn shift_is_refused(&mut self, lease_lost: bool) -> bool {
        // Some go on all the same, and have to be refused again.
        let goes_on = lease_lost && self.draw.one_in(2);
        match &mut self.shift {
            Some(shift) if goes_on && shift.stage == Stage::Beat => shift.stage = Stage::End,
            _ => self.shift = None,
        }
        lease_lost
    }
}
