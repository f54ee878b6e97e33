//! The one state machine of a connection to a server: tries, back-off, breaker, offline and half-open detection are one thing.
//! Events in, commands out; it does nothing itself.
//!
//! | phase | what happens | left for |
//! |---|---|---|
//! | idle | nothing was asked of it yet | opening, when it is started or wanted |
//! | opening | one try is under way | syncing; waiting, when it fails or takes longer than `open_ms` |
//! | syncing | handshake, what ought to be said again, list of tools | connected; waiting; offline, when the server refuses |
//! | connected | calls pass. After `probe_after_ms` without a byte: a probe | suspect; waiting, when it is lost |
//! | suspect | nothing was heard for `suspect_after_ms`. New calls are held. With nothing in flight a second probe; after `second_ms` without a byte it is closed. With something in flight the server may be busy with it: it is looked at from the side, and never closed | connected, at the first byte; waiting |
//! | immediate | the next of `immediate_ms` | opening |
//! | backoff | `backoff_ms` doubled up to `backoff_most_ms`, with full jitter; a use shortens it | opening |
//! | offline | every `offline_every_ms`, for ever, and at once on use; a notice, and another after each of `notice_after_ms` | opening |
//! | stopped | over | nothing |
//!
//! The breaker is not a phase: it is [open](Link::is_open) when `breaker` tries or short-lived connections failed in a row.
//! Calls are then answered at once instead of held, and the one try under way is the half-open probe: a connection and a
//! handshake, never a call. Nothing that a tool answers counts as a failure. A connection must last `stable_ms` before what
//! failed earlier is forgotten, so a server that dies after every start does not begin at the top each time.
//!
//! People are told of an outage when it comes to offline, or has lasted as long as the last of `notice_after_ms` without coming
//! to it; and that it is over when a connection has lasted `stable_ms`. One outage is one, however often the server dies
//! right after its start meanwhile.
//!
//! A use costs one of `uses` (one more every `use_refill_ms`) and no try follows another within `use_gap_ms`: whoever calls in
//! a loop does not start a server in a loop.
//!
//! Time is monotonic. A machine that was suspended, or a program that was stopped, sees its own timer late: no silence that
//! it slept through counts against the server.

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

/// How long things take. Each is a setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timing {
    /// A try that has made no connection after this long has failed.
    pub open_ms: u64,
    /// So has one whose handshake is not over after this long.
    pub sync_ms: u64,
    /// After this long without a byte a probe is sent; 0: never.
    pub probe_after_ms: u64,
    /// After this long without a byte, a probe included, the connection is suspect.
    pub suspect_after_ms: u64,
    /// A suspect connection with nothing in flight is closed this long after its second probe.
    pub second_ms: u64,
    /// Before the first tries after a loss.
    pub immediate_ms: Vec<u64>,
    /// Before the next one; doubled for each after it.
    pub backoff_ms: u64,
    /// Up to this.
    pub backoff_most_ms: u64,
    /// From then on.
    pub offline_every_ms: u64,
    /// People are told again after each of these, in order.
    pub notice_after_ms: Vec<u64>,
    /// So many failures in a row open the breaker.
    pub breaker: u32,
    /// A connection that lasts this long makes earlier failures forgotten.
    pub stable_ms: u64,
    /// No try on use sooner than this after the last one.
    pub use_gap_ms: u64,
    /// So many tries on use at once.
    pub uses: u32,
    /// One more after this long.
    pub use_refill_ms: u64,
    /// A timer that is later than this was slept through.
    pub asleep_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            open_ms: 30_000,
            sync_ms: 120_000,
            probe_after_ms: 5_000,
            suspect_after_ms: 15_000,
            second_ms: 10_000,
            immediate_ms: vec![0, 50, 200],
            backoff_ms: 1_000,
            backoff_most_ms: 30_000,
            offline_every_ms: 60_000,
            notice_after_ms: vec![60_000, 5 * 60_000],
            breaker: 5,
            stable_ms: 5_000,
            use_gap_ms: 150,
            uses: 8,
            use_refill_ms: 1_000,
            asleep_ms: 2_000,
        }
    }
}

/// Numbers the connections of a link, from 1: what comes from an earlier one is not mistaken for the present one's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Connect, without waiting for a use.
    Start,
    /// There is a connection.
    Opened(Generation),
    /// Its handshake is over, and what ought to be said was said.
    Synced(Generation),
    /// The try failed, or the connection is lost.
    Lost(Generation),
    /// The server answers, and will not have us (a revision we do not speak, rights): trying again at once changes nothing.
    Refused(Generation),
    /// A byte came.
    Heard(Generation),
    /// So many calls are under way.
    InFlight(usize),
    /// Somebody wants to use it.
    Wanted,
    /// Time has passed: at [`Link::due_ms`], or any other time.
    Tick,
    /// It is over.
    Stop,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// Connect, or start the server.
    Open(Generation),
    /// Carry out the handshake.
    Sync(Generation),
    /// Ask for a sign of life: `ping`, `server/discover` or a list; never a call.
    Probe(Generation),
    /// Look from the side whether the server is alive: its process, a second connection.
    LookAside(Generation),
    /// Close the connection, or end the server.
    Close(Generation),
    /// Let held calls go.
    Release,
    /// Answer held calls: nobody can be reached for a while.
    SettleHeld,
    /// Tell people.
    Notice(Notice),
}

/// What people are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// Not reachable for this long by now: once when the outage comes to offline, and as it gets longer.
    Offline {
        /// So long.
        for_ms: u64,
    },
    /// Reachable again, and for long enough that it is believed.
    Back {
        /// The outage lasted so long.
        after_ms: u64,
    },
}

/// Where a link stands, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the table above says what each is")]
pub enum Phase {
    Idle,
    Opening,
    Syncing,
    Connected,
    Suspect,
    Immediate,
    Backoff,
    Offline,
    Stopped,
}

/// Whether a call may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Now.
    Pass,
    /// Not yet: hold it.
    Hold,
    /// Not for a while: say so.
    Offline {
        /// The next try.
        retry_after_ms: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Idle,
    Opening { since_ms: u64 },
    Syncing { since_ms: u64 },
    Up(Up),
    Waiting { until_ms: u64 },
    Stopped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Up {
    since_ms: u64,
    heard_ms: u64,
    probed_ms: Option<u64>,
    /// When the second probe went out, or when it was last looked at from the side.
    suspect_ms: Option<u64>,
}

/// An outage that people were told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Outage {
    since_ms: u64,
    /// So many of `notice_after_ms` are over.
    passed: usize,
}

/// A connection's state.
#[derive(Debug, Clone)]
pub struct Link {
    timing: Timing,
    at: At,
    generation: Generation,
    /// Tries and short-lived connections that failed in a row.
    failures: u32,
    in_flight: usize,
    /// Since when nobody could be reached.
    down_since_ms: Option<u64>,
    outage: Option<Outage>,
    last_try_ms: Option<u64>,
    uses_left: u32,
    refilled_ms: u64,
}

impl Link {
    /// One that was not asked for yet.
    #[must_use]
    pub fn new(timing: Timing) -> Self {
        let uses_left = timing.uses;
        Self {
            timing,
            at: At::Idle,
            generation: Generation(0),
            failures: 0,
            in_flight: 0,
            down_since_ms: None,
            outage: None,
            last_try_ms: None,
            uses_left,
            refilled_ms: 0,
        }
    }

    /// Takes an event in at `now_ms`. `draw` is a random number, from which jitter is made.
    #[must_use = "commands are to be carried out, in order"]
    pub fn step(&mut self, now_ms: u64, event: Event, draw: u64) -> Vec<Command> {
        let mut commands = Vec::new();
        if self.at == At::Stopped {
            return commands;
        }
        self.forgive_sleep(now_ms);
        match event {
            Event::Start => {
                if self.at == At::Idle {
                    self.open(now_ms, &mut commands);
                }
            }
            Event::Wanted => self.wanted(now_ms, &mut commands),
            Event::Opened(generation) => {
                if self.is_current(generation) && matches!(self.at, At::Opening { .. }) {
                    self.at = At::Syncing { since_ms: now_ms };
                    commands.push(Command::Sync(generation));
                }
            }
            Event::Synced(generation) => {
                if self.is_current(generation) && matches!(self.at, At::Syncing { .. }) {
                    self.up(now_ms, &mut commands);
                }
            }
            Event::Lost(generation) if self.is_current(generation) => self.failed(now_ms, draw, &mut commands),
            Event::Refused(generation) if self.is_current(generation) => {
                commands.push(Command::Close(generation));
                self.failures = self.failures.max(self.offline_from());
                self.failed(now_ms, draw, &mut commands);
            }
            Event::Heard(generation) if self.is_current(generation) => self.heard(now_ms, &mut commands),
            Event::Lost(_) | Event::Refused(_) | Event::Heard(_) => {}
            Event::InFlight(calls) => self.in_flight(now_ms, calls, &mut commands),
            Event::Tick => {}
            Event::Stop => {
                if matches!(self.at, At::Opening { .. } | At::Syncing { .. } | At::Up(_)) {
                    commands.push(Command::Close(self.generation));
                }
                commands.push(Command::SettleHeld);
                self.at = At::Stopped;
                return commands;
            }
        }
        self.tick(now_ms, draw, &mut commands);
        commands
    }

    /// When [`Event::Tick`] is due.
    #[must_use]
    pub fn due_ms(&self) -> Option<u64> {
        let timing = &self.timing;
        let own = match self.at {
            At::Idle | At::Stopped => None,
            At::Opening { since_ms } => Some(since_ms.saturating_add(timing.open_ms)),
            At::Syncing { since_ms } => Some(since_ms.saturating_add(timing.sync_ms)),
            At::Waiting { until_ms } => Some(until_ms),
            At::Up(_) if timing.probe_after_ms == 0 => None,
            At::Up(up) => Some(match (up.suspect_ms, up.probed_ms) {
                (Some(at_ms), _) => at_ms.saturating_add(timing.second_ms),
                (None, Some(_)) => up.heard_ms.saturating_add(timing.suspect_after_ms),
                (None, None) => up.heard_ms.saturating_add(timing.probe_after_ms),
            }),
        };
        [own, self.notice_due_ms()].into_iter().flatten().min()
    }

    fn notice_due_ms(&self) -> Option<u64> {
        let timing = &self.timing;
        match (self.at, self.outage) {
            (At::Stopped, _) => None,
            (At::Up(up), Some(_)) => Some(up.since_ms.saturating_add(timing.stable_ms)),
            (_, Some(outage)) => {
                timing.notice_after_ms.get(outage.passed).map(|after_ms| outage.since_ms.saturating_add(*after_ms))
            }
            (_, None) => {
                self.down_since_ms.zip(timing.notice_after_ms.last()).map(|(at, after)| at.saturating_add(*after))
            }
        }
    }

    /// Whether a call may go now.
    #[must_use]
    pub fn gate(&self, now_ms: u64) -> Gate {
        match self.at {
            At::Up(Up { suspect_ms: None, .. }) => Gate::Pass,
            At::Idle | At::Up(_) | At::Opening { .. } | At::Syncing { .. } => Gate::Hold,
            At::Waiting { until_ms } if self.is_open() => match until_ms.saturating_sub(now_ms) {
                wait_ms if wait_ms <= self.timing.use_gap_ms => Gate::Hold,
                retry_after_ms => Gate::Offline { retry_after_ms },
            },
            At::Waiting { .. } => Gate::Hold,
            At::Stopped => Gate::Offline { retry_after_ms: u64::MAX },
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.at {
            At::Idle => Phase::Idle,
            At::Opening { .. } => Phase::Opening,
            At::Syncing { .. } => Phase::Syncing,
            At::Up(Up { suspect_ms: None, .. }) => Phase::Connected,
            At::Up(_) => Phase::Suspect,
            At::Waiting { .. } if self.failures >= self.offline_from() => Phase::Offline,
            At::Waiting { .. } if self.failures >= self.backoff_from() => Phase::Backoff,
            At::Waiting { .. } => Phase::Immediate,
            At::Stopped => Phase::Stopped,
        }
    }

    /// Whether the breaker is open: too much failed in a row, and there is no connection.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.failures >= self.timing.breaker && !matches!(self.at, At::Up(_))
    }

    /// The connection of now, or the one tried last.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// What failed in a row so far.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Since when nobody can be reached.
    #[must_use]
    pub fn down_since_ms(&self) -> Option<u64> {
        self.down_since_ms
    }

    /// Whether people were told of an outage that is not over.
    #[must_use]
    pub fn has_outage(&self) -> bool {
        self.outage.is_some()
    }

    /// Goes on with the failures that were counted before a restart of the program, so that its own end does not close a
    /// breaker.
    pub fn restore(&mut self, failures: u32) {
        if self.at == At::Idle {
            self.failures = failures;
        }
    }

    fn is_current(&self, generation: Generation) -> bool {
        generation == self.generation && matches!(self.at, At::Opening { .. } | At::Syncing { .. } | At::Up(_))
    }

    fn backoff_from(&self) -> u32 {
        u32::try_from(self.timing.immediate_ms.len()).unwrap_or(u32::MAX)
    }

    /// From so many failures on it is offline: every doubling has been waited for once.
    fn offline_from(&self) -> u32 {
        let doublings = (0..32u32).find(|&doubling| self.backoff_base_ms(doubling) >= self.timing.backoff_most_ms);
        self.backoff_from().saturating_add(doublings.unwrap_or(32)).saturating_add(1)
    }

    fn backoff_base_ms(&self, doublings: u32) -> u64 {
        let factor = 1u64.checked_shl(doublings).unwrap_or(u64::MAX);
        self.timing.backoff_ms.saturating_mul(factor).min(self.timing.backoff_most_ms)
    }

    fn delay_ms(&self, draw: u64) -> u64 {
        if let Some(&immediate_ms) = self.timing.immediate_ms.get(self.failures as usize) {
            return immediate_ms.saturating_add(draw % (immediate_ms / 4 + 1));
        }
        if self.failures >= self.offline_from() {
            return self.timing.offline_every_ms;
        }
        let base_ms = self.backoff_base_ms(self.failures - self.backoff_from());
        (draw % base_ms.saturating_add(1).max(1)).max(self.timing.use_gap_ms)
    }

    fn open(&mut self, now_ms: u64, commands: &mut Vec<Command>) {
        self.generation.0 += 1;
        self.at = At::Opening { since_ms: now_ms };
        self.last_try_ms = Some(now_ms);
        self.down_since_ms.get_or_insert(now_ms);
        commands.push(Command::Open(self.generation));
    }

    fn up(&mut self, now_ms: u64, commands: &mut Vec<Command>) {
        self.at = At::Up(Up { since_ms: now_ms, heard_ms: now_ms, probed_ms: None, suspect_ms: None });
        self.down_since_ms = None;
        commands.push(Command::Release);
    }

    fn failed(&mut self, now_ms: u64, draw: u64, commands: &mut Vec<Command>) {
        match self.at {
            At::Up(up) if now_ms.saturating_sub(up.since_ms) >= self.timing.stable_ms => {
                self.failures = 0;
                self.uses_left = self.timing.uses;
            }
            _ => self.failures = self.failures.saturating_add(1),
        }
        self.down_since_ms.get_or_insert(now_ms);
        self.at = At::Waiting { until_ms: now_ms.saturating_add(self.delay_ms(draw)) };
        if matches!(self.gate(now_ms), Gate::Offline { .. }) {
            commands.push(Command::SettleHeld);
        }
    }

    fn heard(&mut self, now_ms: u64, commands: &mut Vec<Command>) {
        if let At::Up(up) = &mut self.at {
            let was_suspect = up.suspect_ms.is_some();
            (up.heard_ms, up.probed_ms, up.suspect_ms) = (now_ms, None, None);
            if was_suspect {
                commands.push(Command::Release);
            }
        }
    }

    fn in_flight(&mut self, now_ms: u64, calls: usize, commands: &mut Vec<Command>) {
        let was = std::mem::replace(&mut self.in_flight, calls);
        let generation = self.generation;
        if let At::Up(up) = &mut self.at
            && up.suspect_ms.is_some()
            && was > 0
            && calls == 0
        {
            // It may have been busy with what has ended just now: it gets a probe of its own, and the time for it.
            (up.probed_ms, up.suspect_ms) = (Some(now_ms), Some(now_ms));
            commands.push(Command::Probe(generation));
        }
    }

    fn wanted(&mut self, now_ms: u64, commands: &mut Vec<Command>) {
        match self.at {
            At::Idle => self.open(now_ms, commands),
            At::Waiting { until_ms } => {
                let refills = now_ms.saturating_sub(self.refilled_ms) / self.timing.use_refill_ms.max(1);
                if refills > 0 {
                    let left = u64::from(self.uses_left).saturating_add(refills).min(u64::from(self.timing.uses));
                    self.uses_left = u32::try_from(left).unwrap_or(self.timing.uses);
                    self.refilled_ms = now_ms;
                }
                let early_ms =
                    self.last_try_ms.map_or(now_ms, |at_ms| at_ms.saturating_add(self.timing.use_gap_ms).max(now_ms));
                if early_ms < until_ms && self.uses_left > 0 {
                    self.uses_left -= 1;
                    self.at = At::Waiting { until_ms: early_ms };
                }
            }
            _ => {}
        }
    }

    /// What a program that did not run did not hear counts against nobody.
    fn forgive_sleep(&mut self, now_ms: u64) {
        let slept = self.due_ms().is_some_and(|due_ms| now_ms > due_ms.saturating_add(self.timing.asleep_ms));
        if !slept {
            return;
        }
        match &mut self.at {
            At::Opening { since_ms } | At::Syncing { since_ms } => *since_ms = now_ms,
            At::Up(up) => {
                (up.heard_ms, up.probed_ms) = (now_ms, None);
                up.suspect_ms = up.suspect_ms.map(|_| now_ms);
            }
            At::Idle | At::Waiting { .. } | At::Stopped => {}
        }
    }

    fn tick(&mut self, now_ms: u64, draw: u64, commands: &mut Vec<Command>) {
        let over = |from_ms: u64, after_ms: u64| now_ms.saturating_sub(from_ms) >= after_ms;
        match self.at {
            At::Opening { since_ms } if over(since_ms, self.timing.open_ms) => self.give_up(now_ms, draw, commands),
            At::Syncing { since_ms } if over(since_ms, self.timing.sync_ms) => self.give_up(now_ms, draw, commands),
            At::Waiting { until_ms } if now_ms >= until_ms => self.open(now_ms, commands),
            At::Up(up) if self.timing.probe_after_ms > 0 => self.listen(now_ms, draw, up, commands),
            _ => {}
        }
        self.notice(now_ms, commands);
    }

    /// Tells people how an outage goes on.
    fn notice(&mut self, now_ms: u64, commands: &mut Vec<Command>) {
        let passed = |since_ms: u64| {
            let is_over = |after_ms: &&u64| now_ms.saturating_sub(since_ms) >= **after_ms;
            self.timing.notice_after_ms.iter().filter(is_over).count()
        };
        let outage = match (self.at, self.outage, self.down_since_ms) {
            (At::Up(up), Some(outage), _) if now_ms.saturating_sub(up.since_ms) >= self.timing.stable_ms => {
                self.outage = None;
                let after_ms = up.since_ms.saturating_sub(outage.since_ms);
                return commands.push(Command::Notice(Notice::Back { after_ms }));
            }
            (At::Up(_) | At::Stopped, ..) => return,
            (_, Some(Outage { since_ms, passed: before }), _) if passed(since_ms) > before => {
                Outage { since_ms, passed: passed(since_ms) }
            }
            (_, None, Some(since_ms)) => Outage { since_ms, passed: passed(since_ms) },
            _ => return,
        };
        let is_long = outage.passed > 0 && outage.passed == self.timing.notice_after_ms.len();
        // Failures of another life say nothing before a try has failed in this one.
        let is_offline = self.phase() == Phase::Offline;
        if self.outage.is_some() || is_long || is_offline {
            self.outage = Some(outage);
            commands.push(Command::Notice(Notice::Offline { for_ms: now_ms.saturating_sub(outage.since_ms) }));
        }
    }

    fn listen(&mut self, now_ms: u64, draw: u64, mut up: Up, commands: &mut Vec<Command>) {
        let generation = self.generation;
        let silent_ms = now_ms.saturating_sub(up.heard_ms);
        match (up.suspect_ms, up.probed_ms) {
            (Some(at_ms), _) if now_ms.saturating_sub(at_ms) >= self.timing.second_ms => {
                if self.in_flight == 0 && up.probed_ms.is_some() {
                    self.give_up(now_ms, draw, commands);
                    return;
                }
                up.suspect_ms = Some(now_ms);
                if self.in_flight == 0 {
                    up.probed_ms = Some(now_ms);
                    commands.push(Command::Probe(generation));
                } else {
                    commands.push(Command::LookAside(generation));
                }
            }
            (None, Some(_)) if silent_ms >= self.timing.suspect_after_ms => {
                up.suspect_ms = Some(now_ms);
                if self.in_flight == 0 {
                    up.probed_ms = Some(now_ms);
                    commands.push(Command::Probe(generation));
                } else {
                    up.probed_ms = None;
                    commands.push(Command::LookAside(generation));
                }
            }
            (None, None) if silent_ms >= self.timing.probe_after_ms => {
                up.probed_ms = Some(now_ms);
                commands.push(Command::Probe(generation));
            }
            _ => return,
        }
        self.at = At::Up(up);
    }

    fn give_up(&mut self, now_ms: u64, draw: u64, commands: &mut Vec<Command>) {
        commands.push(Command::Close(self.generation));
        self.failed(now_ms, draw, commands);
    }
}
