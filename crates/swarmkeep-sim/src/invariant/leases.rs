//! Leases: silence ends one after its full time and not sooner, and a stop or a restart of the holder gives each its full
//! time again, whatever the wall clock does; an old lease number is refused; none is forgotten.

use std::collections::BTreeMap;

use swarmkeep::{Actor, Epoch};
use swarmkeep_core::{EntityId, Event, Record, RequestId, State, command::Command};

use crate::oracle::{Asked, times::Times};

/// A lease may go on for as long as its agent is carrying out something outside: so long at most, in these worlds.
const EFFECT_MS: u64 = 5_000;
/// From when a lease is due until that is a record: a beat of the engine, and a journal that is slow.
const VERDICT_MS: u64 = 1_500;

/// One lease, since its record was read.
#[derive(Debug, Clone)]
struct Lease {
    number: u64,
    lease_ms: u64,
    /// When it was given out: not before this.
    from_ms: u64,
    /// And not after this.
    by_ms: u64,
}

/// The leases of a session.
#[derive(Debug, Default)]
pub struct Leases {
    /// Those that are on, by task.
    on: BTreeMap<EntityId, Lease>,
    /// When signs of life were taken.
    signs: BTreeMap<(EntityId, u64), Vec<u64>>,
    /// The newest lease of each task that anybody was told of.
    newest: BTreeMap<EntityId, u64>,
    /// The time of the last record.
    last_ms: u64,
    /// Leases that silence ended.
    pub lapsed: u64,
}

impl Leases {
    /// Somebody was told of a lease.
    pub fn is_told(&mut self, task: &EntityId, number: u64) {
        let newest = self.newest.entry(task.clone()).or_default();
        *newest = (*newest).max(number);
    }

    /// The newest lease of a task that anybody knows of; 0: none.
    #[must_use]
    pub fn newest(&self, task: &EntityId) -> u64 {
        self.newest.get(task).copied().unwrap_or(0)
    }

    /// The store took a sign of life.
    pub fn sign(&mut self, task: &EntityId, number: u64, now_ms: u64) {
        self.signs.entry((task.clone(), number)).or_default().push(now_ms);
    }

    /// The next record of the session. `before` is the state before it.
    ///
    /// # Errors
    /// A lease that ended too soon, or a task that was ended under an old lease.
    pub fn next(
        &mut self,
        asked: &BTreeMap<RequestId, Asked>,
        record: &Record,
        before: Option<&State>,
        times: &Times,
        seen_ms: u64,
    ) -> Result<u64, String> {
        let (earliest_ms, latest_ms) = times.when(record.time_ms, self.last_ms, record.epoch, seen_ms);
        self.last_ms = record.time_ms;
        let Some(body) = &record.body else { return Ok(0) };
        let mut checks = 0;
        match &body.event {
            Event::TaskClaimed { task, lease, lease_ms, .. } => {
                let lease = Lease { number: *lease, lease_ms: *lease_ms, from_ms: earliest_ms, by_ms: latest_ms };
                self.on.insert(task.clone(), lease);
            }
            Event::TaskLeaseExpired { task, lease, reason, .. } => {
                // Its agent ended, or somebody said so: that is no verdict on a silence.
                if body.actor == Actor::system() && reason.starts_with("no sign of life") {
                    self.too_soon(task, *lease, times.life(record.epoch).0, latest_ms, times)?;
                    self.lapsed += 1;
                    checks += 1;
                }
                self.on.remove(task);
            }
            Event::TaskCompleted { task, .. } | Event::TaskFailed { task, .. } | Event::TaskReleased { task, .. } => {
                let request = body.request.as_ref().and_then(|request| asked.get(request));
                let shown: Vec<u64> = request.iter().flat_map(|asked| shown(&asked.commands, task)).collect();
                let current = before.and_then(|state| state.tasks.get(task)?.lease.as_ref().map(|lease| lease.number));
                // In a request of several commands another one of it may have been the one.
                if let (Some(current), false) = (current, shown.is_empty())
                    && !shown.contains(&current)
                {
                    return Err(format!(
                        "task {task} was ended under lease {shown:?} at {}; {current} was on",
                        record.seq
                    ));
                }
                checks += u64::from(!shown.is_empty());
                self.on.remove(task);
            }
            Event::TaskCancelled { task, .. } => {
                self.on.remove(task);
            }
            // Leases end with it; and nothing of the origin's is on in a fork.
            Event::SessionRewound { .. } | Event::SessionForked { .. } => self.on.clear(),
            _ => {}
        }
        Ok(checks)
    }

    /// Since when a lease has had its full time, at the least, by then: since it was given out, its last sign of life, the
    /// start of the holder, or the end of a long stop.
    fn full_since(&self, task: &EntityId, lease: &Lease, started_ms: u64, at_ms: u64, times: &Times) -> u64 {
        let signs = self.signs.get(&(task.clone(), lease.number)).into_iter().flatten().copied();
        let signs = signs.filter(|sign| *sign < at_ms).max().unwrap_or(0);
        let since = lease.from_ms.max(signs).max(started_ms);
        // A verdict that was passed before the stop may have been on its way.
        let stops = times.stops(at_ms).filter(|stop| since.saturating_add(lease.lease_ms) > stop.from_ms);
        stops.map(|stop| stop.to_ms).fold(since, u64::max)
    }

    fn too_soon(&self, task: &EntityId, number: u64, started_ms: u64, at_ms: u64, times: &Times) -> Result<(), String> {
        let Some(lease) = self.on.get(task).filter(|lease| lease.number == number) else { return Ok(()) };
        let since = self.full_since(task, lease, started_ms, at_ms, times);
        if at_ms.saturating_sub(since) < lease.lease_ms {
            return Err(format!(
                "lease {number} of task {task} has {} ms, and was ended at {at_ms} for silence since {since}",
                lease.lease_ms
            ));
        }
        Ok(())
    }

    /// In the calm: no lease goes on for ever without a sign of life.
    ///
    /// # Errors
    /// One that does.
    pub fn lapse(&self, state: &State, epoch: Epoch, now_ms: u64, times: &Times) -> Result<u64, String> {
        for (task, lease) in &self.on {
            let since = self.full_since(task, lease, times.life(epoch).0, now_ms, times).max(lease.by_ms);
            let by_ms = since + 2 * lease.lease_ms + EFFECT_MS + VERDICT_MS;
            let is_on = state.tasks.get(task).is_some_and(|task| task.lease.is_some());
            if is_on && now_ms > by_ms {
                return Err(format!(
                    "{lease:?} of task {task} is on at {now_ms}, without a sign of life since {since}"
                ));
            }
        }
        Ok(self.on.len() as u64)
    }
}

/// A sign of life was taken. `known` is the newest lease of the task that anybody knew of when it was given.
///
/// # Errors
/// When its lease was over by then.
pub fn is_current(task: &EntityId, number: u64, known: u64) -> Result<u64, String> {
    match number < known {
        true => Err(format!("a sign of life under lease {number} of task {task} was taken; {known} is given out")),
        false => Ok(1),
    }
}

/// The lease numbers that a request shows for a task.
fn shown(commands: &[Command], wanted: &EntityId) -> Vec<u64> {
    let of = |command: &Command| match command {
        Command::CompleteTask { task, lease: Some(lease), .. }
        | Command::FailTask { task, lease: Some(lease), .. }
        | Command::ReleaseTask { task, lease } => Some((task.clone(), *lease)),
        _ => None,
    };
    commands.iter().filter_map(of).filter(|(task, _)| task == wanted).map(|(_, lease)| lease).collect()
}
