//! What is due when: leases, deadlines of effects, ends of life.
//!
//! Deadlines are not state. They are measured on the monotonic clock, begin when the event that starts them is durable or
//! when the session is first read after a start, and so cost nobody anything while the daemon is down. What is due becomes
//! a command, and the state decides whether it still applies.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use swarmkeep_core::{
    EntityId, Event, SessionId, State,
    clock::Clock,
    decide, limits,
    state::{AgentStatus, EffectStatus},
    turn::Turn,
};

use crate::planted::{self, Defect};

/// What a deadline is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum About {
    /// A task's lease.
    Lease(EntityId),
    /// An effect.
    Effect(EntityId),
    /// An agent that gives signs of life: `number` is how long it has been silent when this is due.
    Agent(EntityId),
    /// A tool call that has no result yet.
    Call(EntityId),
    /// Something in the session ends by the wall clock: memory, or the session itself.
    Life,
}

/// A deadline that passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) session: SessionId,
    pub(crate) about: About,
    /// The lease or attempt it was for.
    pub(crate) number: u64,
}

pub(crate) struct Watch {
    clock: Arc<dyn Clock>,
    timers: Mutex<Timers>,
    /// An agent has sent a heartbeat in this life of the store.
    expects: AtomicBool,
}

#[derive(Default)]
struct Timers {
    queue: BTreeSet<(u64, SessionId, About)>,
    set: HashMap<(SessionId, About), Timer>,
    /// When the clock was last looked at; absent: never.
    looked_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Timer {
    at_ms: u64,
    length_ms: u64,
    number: u64,
}

impl Timers {
    fn set(&mut self, session: SessionId, about: About, timer: Timer) {
        if let Some(old) = self.set.insert((session, about.clone()), timer) {
            self.queue.remove(&(old.at_ms, session, about.clone()));
        }
        self.queue.insert((timer.at_ms, session, about));
    }

    /// Looks at the clock. After a gap the detector itself missed beats (the process was stopped, the machine suspended):
    /// every verdict on a lease or an effect waits one full length again. Nobody is declared dead for a silence that was
    /// ours. True: there was one.
    fn look(&mut self, now_ms: u64) -> bool {
        let last_ms = self.looked_ms.replace(now_ms);
        let missed_none = last_ms.is_none_or(|last_ms| now_ms.saturating_sub(last_ms) <= MISSED_BEAT_MS);
        if missed_none || planted::is(Defect::StopCounted) {
            return false;
        }
        let all: Vec<_> = self
            .set
            .iter()
            .filter(|((_, about), _)| *about != About::Life)
            .map(|((session, about), timer)| (*session, about.clone(), *timer))
            .collect();
        for (session, about, timer) in all {
            self.set(session, about, Timer { at_ms: now_ms.saturating_add(timer.length_ms), ..timer });
        }
        true
    }

    fn clear(&mut self, session: SessionId, about: About) {
        if let Some(old) = self.set.remove(&(session, about.clone())) {
            self.queue.remove(&(old.at_ms, session, about));
        }
    }
}

impl Watch {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, timers: Mutex::default(), expects: AtomicBool::new(false) }
    }

    fn start(&self, session: SessionId, about: About, number: u64, length_ms: u64) {
        let at_ms = self.clock.monotonic_ms().saturating_add(length_ms);
        self.timers.lock().set(session, about, Timer { at_ms, length_ms, number });
    }

    /// Starts every clock that a state implies and that does not run yet.
    pub(crate) fn register(&self, state: &State) {
        let session = state.info.id;
        let now_ms = self.clock.monotonic_ms();
        let mut timers = self.timers.lock();
        let mut start = |about: About, number: u64, length_ms: u64| {
            if timers.set.get(&(session, about.clone())).is_none_or(|timer| timer.number != number) {
                timers.set(session, about, Timer { at_ms: now_ms.saturating_add(length_ms), length_ms, number });
            }
        };
        if state.info.status.is_ended() {
            return;
        }
        for task in state.tasks.iter() {
            if let Some(lease) = &task.lease {
                start(About::Lease(task.id.clone()), lease.number, lease.lease_ms);
            }
        }
        for effect in state.effects.iter().filter(|effect| effect.status == EffectStatus::Begun) {
            start(About::Effect(effect.id.clone()), u64::from(effect.attempt), effect.deadline_ms);
        }
        for call in state.calls.iter() {
            start(About::Call(call.id.clone()), 0, limits::EFFECT_DEADLINE_MS);
        }
        drop(timers);
        self.register_life(state);
    }

    /// Starts the clock of the next thing in a state that is over by the wall clock.
    pub(crate) fn register_life(&self, state: &State) {
        if let Some(at_ms) = decide::next_due_ms(state) {
            // Decided by `max(previous record, now)`: so it is measured.
            let now_ms = self.clock.now_ms().max(state.head.time_ms);
            self.life(state.info.id, at_ms.saturating_sub(now_ms));
        }
    }

    fn life(&self, session: SessionId, length_ms: u64) {
        let at_ms = self.clock.monotonic_ms().saturating_add(length_ms);
        let mut timers = self.timers.lock();
        if timers.set.get(&(session, About::Life)).is_none_or(|timer| timer.at_ms > at_ms) {
            timers.set(session, About::Life, Timer { at_ms, length_ms, number: 0 });
        }
    }

    /// An event is durable: it may start or stop a clock.
    pub(crate) fn note(&self, session: SessionId, event: &Event) {
        match event {
            Event::TaskClaimed { task, lease, lease_ms, .. } => {
                self.start(session, About::Lease(task.clone()), *lease, *lease_ms);
            }
            Event::TaskLeaseExpired { task, .. }
            | Event::TaskReleased { task, .. }
            | Event::TaskCompleted { task, .. }
            | Event::TaskFailed { task, .. }
            | Event::TaskCancelled { task, .. } => self.timers.lock().clear(session, About::Lease(task.clone())),
            Event::EffectBegun { effect, attempt, deadline_ms, .. } => {
                self.start(session, About::Effect(effect.clone()), u64::from(*attempt), *deadline_ms);
            }
            Event::EffectFinished { effect, .. } | Event::EffectOutcomeUnknown { effect, .. } => {
                self.timers.lock().clear(session, About::Effect(effect.clone()));
            }
            Event::MessageSent { calls, results, .. } | Event::Custom { calls, results, .. } => {
                for call in results {
                    self.timers.lock().clear(session, About::Call(call.clone()));
                }
                for call in calls {
                    self.start(session, About::Call(call.clone()), 0, limits::EFFECT_DEADLINE_MS);
                }
            }
            Event::Interrupted { turn: Turn::Call { call, .. }, .. } => {
                self.timers.lock().clear(session, About::Call(call.clone()));
            }
            Event::MemorySet { ttl_ms: Some(ttl_ms), .. } => self.life(session, *ttl_ms),
            Event::MessageDelivered { attempt, .. } if *attempt >= limits::DELIVERIES => {
                self.life(session, limits::REDELIVERY_AFTER_MS);
            }
            // Looked at soon: the state says what is due now, or when. A pause had put everything off; what a rewind brings
            // back may be over; an agent that ended may have left more behind than one record takes.
            Event::SessionUpdated { .. } | Event::SessionStatusChanged { .. } | Event::SessionRewound { .. } => {
                self.life(session, 0);
            }
            Event::AgentStatusChanged { agent, status: AgentStatus::Failed | AgentStatus::Terminated, .. } => {
                self.forget_agent(session, agent);
                self.life(session, 0);
            }
            _ => {}
        }
    }

    /// A sign of life for a lease. Whoever gives it may have looked a while ago: the clock of another lease, which has begun
    /// since, is left alone.
    pub(crate) fn renew_lease(&self, session: SessionId, task: &EntityId, number: u64, lease_ms: u64) {
        let at_ms = self.clock.monotonic_ms().saturating_add(lease_ms);
        let about = About::Lease(task.clone());
        let mut timers = self.timers.lock();
        if timers.set.get(&(session, about.clone())).is_none_or(|timer| timer.number == number) {
            timers.set(session, about, Timer { at_ms, length_ms: lease_ms, number });
        }
    }

    /// A clock was due for a lease that is over. The one that is on now has its own, or gets one: no lease goes without.
    pub(crate) fn see_to_lease(&self, session: SessionId, task: &EntityId, number: u64, lease_ms: u64) {
        let at_ms = self.clock.monotonic_ms().saturating_add(lease_ms);
        let about = About::Lease(task.clone());
        let mut timers = self.timers.lock();
        if !timers.set.contains_key(&(session, about.clone())) {
            timers.set(session, about, Timer { at_ms, length_ms: lease_ms, number });
        }
    }

    /// Waits for an agent's next sign of life. It has been silent for `silent_ms` when that is due, in `length_ms`.
    pub(crate) fn expect_agent(&self, session: SessionId, agent: &EntityId, silent_ms: u64, length_ms: u64) {
        self.expects.store(true, Ordering::Relaxed);
        self.start(session, About::Agent(agent.clone()), silent_ms, length_ms);
    }

    /// Whether any agent's next sign of life is waited for: cheap, and rarely true where agents send none.
    pub(crate) fn is_expecting(&self) -> bool {
        self.expects.load(Ordering::Relaxed)
    }

    /// Whether an agent's next sign of life is waited for.
    pub(crate) fn expects_agent(&self, session: SessionId, agent: &EntityId) -> bool {
        self.timers.lock().set.contains_key(&(session, About::Agent(agent.clone())))
    }

    /// No sign of life of an agent is waited for.
    pub(crate) fn forget_agent(&self, session: SessionId, agent: &EntityId) {
        self.timers.lock().clear(session, About::Agent(agent.clone()));
    }

    /// Puts a deadline off: there is a reason to believe in life.
    pub(crate) fn put_off(&self, due: &Due, length_ms: u64) {
        let at_ms = self.clock.monotonic_ms().saturating_add(length_ms.max(1));
        let mut timers = self.timers.lock();
        // Meanwhile another lease or attempt may have begun: its time is its own.
        if !timers.set.contains_key(&(due.session, due.about.clone())) {
            let timer = Timer { at_ms, length_ms: length_ms.max(1), number: due.number };
            timers.set(due.session, due.about.clone(), timer);
        }
    }

    /// How long an effect still has, if it is being carried out.
    pub(crate) fn effect_left_ms(&self, session: SessionId, effect: &EntityId) -> Option<u64> {
        let timer = self.timers.lock().set.get(&(session, About::Effect(effect.clone()))).copied()?;
        Some(timer.at_ms.saturating_sub(self.clock.monotonic_ms()))
    }

    /// Looks at the clock and does nothing else, so that a gap between two looks is never work of ours.
    pub(crate) fn feel_pulse(&self) {
        let mut timers = self.timers.lock();
        let was_stopped = timers.look(self.clock.monotonic_ms());
        drop(timers);
        if was_stopped {
            say_stopped();
        }
    }

    /// Takes what is due, at most so many at a time. The look at the clock, what follows from a gap before it, and the
    /// verdicts are one step: another thread that woke with this one cannot come between them.
    pub(crate) fn take_due(&self, most: usize) -> Vec<Due> {
        let mut timers = self.timers.lock();
        let now_ms = self.clock.monotonic_ms();
        if timers.look(now_ms) {
            drop(timers);
            say_stopped();
            return Vec::new();
        }
        let mut due = Vec::new();
        while due.len() < most
            && let Some((at_ms, session, about)) = timers.queue.first().cloned()
            && at_ms <= now_ms
        {
            timers.queue.pop_first();
            let number = timers.set.remove(&(session, about.clone())).map_or(0, |timer| timer.number);
            due.push(Due { session, about, number });
        }
        due
    }

    pub(crate) fn len(&self) -> usize {
        self.timers.lock().set.len()
    }
}

fn say_stopped() {
    tracing::warn!("this process was stopped for a while: every lease and deadline gets its full time again");
}

/// A gap between two looks at the clock from which on the detector distrusts itself: ten beats. Shorter than any lease
/// that a worker with a heartbeat every few seconds would take, so that a stop never looks like a worker's silence.
const MISSED_BEAT_MS: u64 = 2_000;

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    struct Hand(AtomicU64);

    impl Clock for Hand {
        fn now_ms(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }

        fn monotonic_ms(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    fn claimed(lease: u64) -> Event {
        let id = |text| EntityId::new(text).unwrap();
        Event::TaskClaimed { task: id("t"), agent: id("a"), lease, lease_ms: 100 }
    }

    #[test]
    fn a_lease_is_due_after_silence_and_not_before() {
        let hand = Arc::new(Hand(AtomicU64::new(0)));
        let watch = Watch::new(hand.clone());
        let session = SessionId([1; 16]);
        watch.note(session, &claimed(1));
        hand.0.store(99, Ordering::Relaxed);
        assert!(watch.take_due(10).is_empty());
        watch.renew_lease(session, &EntityId::new("t").unwrap(), 1, 100);
        hand.0.store(150, Ordering::Relaxed);
        assert!(watch.take_due(10).is_empty());
        hand.0.store(199, Ordering::Relaxed);
        assert_eq!(watch.take_due(10).len(), 1);
        assert_eq!(watch.len(), 0);
    }

    #[test]
    fn a_late_sign_of_life_does_not_take_the_next_lease_s_clock() {
        let hand = Arc::new(Hand(AtomicU64::new(0)));
        let watch = Watch::new(hand.clone());
        let (session, task) = (SessionId([1; 16]), EntityId::new("t").unwrap());
        watch.note(session, &claimed(1));
        watch.note(session, &claimed(2));
        hand.0.store(50, Ordering::Relaxed);
        watch.renew_lease(session, &task, 1, 100);
        hand.0.store(100, Ordering::Relaxed);
        assert_eq!(watch.take_due(10).iter().map(|due| due.number).collect::<Vec<_>>(), [2]);
        // However it was lost: who looks sees to it that there is one.
        watch.see_to_lease(session, &task, 2, 100);
        watch.see_to_lease(session, &task, 2, 1_000_000);
        hand.0.store(200, Ordering::Relaxed);
        assert_eq!(watch.take_due(10).len(), 1);
    }

    #[test]
    fn a_pause_of_the_detector_takes_no_lease() {
        let hand = Arc::new(Hand(AtomicU64::new(0)));
        let watch = Watch::new(hand.clone());
        watch.note(SessionId([1; 16]), &claimed(1));
        watch.feel_pulse();
        hand.0.store(3_600_000, Ordering::Relaxed);
        // Whichever of the two comes first.
        assert!(watch.take_due(10).is_empty());
        assert!(watch.take_due(10).is_empty());
        hand.0.store(3_600_100, Ordering::Relaxed);
        assert_eq!(watch.take_due(10).len(), 1);
    }
}
