use proptest::prelude::*;

use super::*;

/// A link, its clock, and everything it said.
struct Run {
    link: Link,
    now_ms: u64,
    said: Vec<(u64, Command)>,
}

impl Run {
    fn new() -> Self {
        Self { link: Link::new(Timing::default()), now_ms: 1_000_000, said: Vec::new() }
    }

    fn step(&mut self, event: Event) -> Vec<Command> {
        let commands = self.link.step(self.now_ms, event, 0);
        self.said.extend(commands.iter().map(|command| (self.now_ms, *command)));
        commands
    }

    fn pass(&mut self, for_ms: u64) -> Vec<Command> {
        let end_ms = self.now_ms + for_ms;
        let mut all = Vec::new();
        while let Some(due_ms) = self.link.due_ms().filter(|due_ms| *due_ms <= end_ms) {
            self.now_ms = self.now_ms.max(due_ms);
            all.extend(self.step(Event::Tick));
        }
        self.now_ms = end_ms;
        all
    }

    fn generation(&self) -> Generation {
        self.link.generation()
    }

    fn connect(&mut self) {
        self.step(Event::Wanted);
        self.step(Event::Opened(self.generation()));
        self.step(Event::Synced(self.generation()));
        assert_eq!(self.link.phase(), Phase::Connected);
    }

    /// Fails every try until the link has failed so often.
    fn fail_until(&mut self, failures: u32) {
        while self.link.failures() < failures {
            if self.link.phase() == Phase::Opening {
                self.step(Event::Lost(self.generation()));
            } else {
                let due_ms = self.link.due_ms().unwrap();
                self.pass(due_ms - self.now_ms);
            }
        }
    }
}

#[test]
fn a_link_comes_up_and_lets_calls_go() {
    let mut run = Run::new();
    assert_eq!(run.link.gate(run.now_ms), Gate::Hold);
    assert_eq!(run.step(Event::Wanted), [Command::Open(Generation(1))]);
    assert_eq!(run.step(Event::Opened(Generation(1))), [Command::Sync(Generation(1))]);
    assert_eq!(run.link.gate(run.now_ms), Gate::Hold);
    assert_eq!(run.step(Event::Synced(Generation(1))), [Command::Release]);
    assert_eq!(run.link.gate(run.now_ms), Gate::Pass);
}

#[test]
fn tries_after_a_loss_follow_the_table() {
    let mut run = Run::new();
    run.connect();
    run.pass(10_000);
    let lost_ms = run.now_ms;
    run.step(Event::Lost(run.generation()));
    let mut gaps = Vec::new();
    let mut last_ms = lost_ms;
    for _ in 0..12 {
        // The notice is due at a time of its own.
        while run.link.phase() != Phase::Opening {
            let due_ms = run.link.due_ms().unwrap();
            run.pass(due_ms - run.now_ms);
        }
        gaps.push(run.now_ms - last_ms);
        last_ms = run.now_ms;
        run.step(Event::Lost(run.generation()));
    }
    // With a draw of 0 the jittered ones are as short as they may be.
    assert_eq!(gaps[..3], [0, 50, 200]);
    assert!(gaps[3..9].iter().all(|gap| *gap == 150), "{gaps:?}");
    assert_eq!(gaps[9..], [60_000; 3][..gaps.len() - 9]);
    assert_eq!(run.link.phase(), Phase::Offline);
}

#[test]
fn back_off_doubles_up_to_its_end() {
    let mut link = Link::new(Timing::default());
    let mut longest = Vec::new();
    for failures in 3..=9 {
        link.failures = failures;
        longest.push((0..200_000u64).step_by(7).map(|draw| link.delay_ms(draw)).max().unwrap().div_ceil(100) * 100);
    }
    assert_eq!(longest, [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 60_000]);
}

#[test]
fn the_breaker_answers_at_once_and_tries_one_at_a_time() {
    let mut run = Run::new();
    run.step(Event::Wanted);
    run.fail_until(4);
    assert!(!run.link.is_open());
    assert_eq!(run.link.gate(run.now_ms), Gate::Hold);
    run.fail_until(9);
    assert!(run.link.is_open());
    assert!(matches!(run.link.gate(run.now_ms), Gate::Offline { retry_after_ms: 60_000 }));
    // A use is held while the one try that it causes is under way, and answered when that fails.
    run.now_ms += 1_000;
    assert_eq!(run.step(Event::Wanted), [Command::Open(run.generation())]);
    assert_eq!(run.link.gate(run.now_ms), Gate::Hold);
    assert_eq!(run.step(Event::Wanted), []);
    assert_eq!(run.step(Event::Lost(run.generation())), [Command::SettleHeld]);
    assert!(matches!(run.link.gate(run.now_ms), Gate::Offline { .. }));
}

fn notices(run: &Run) -> Vec<Notice> {
    let notice = |command: &Command| match command {
        Command::Notice(notice) => Some(*notice),
        _ => None,
    };
    run.said.iter().filter_map(|(_, command)| notice(command)).collect()
}

/// Fails every try for so long.
fn fail_for(run: &mut Run, for_ms: u64) {
    let end_ms = run.now_ms + for_ms;
    while run.now_ms < end_ms {
        if run.link.phase() == Phase::Opening {
            run.step(Event::Lost(run.generation()));
        }
        let due_ms = run.link.due_ms().unwrap();
        run.pass(due_ms - run.now_ms);
    }
}

#[test]
fn offline_lasts_for_ever_and_is_said_once_and_as_it_gets_longer() {
    let mut run = Run::new();
    run.step(Event::Wanted);
    let down_ms = run.now_ms;
    fail_for(&mut run, 24 * 60 * 60_000);
    // Three tries at once, six as short as a draw of 0 makes them.
    let offline = [1_150, 60_000, 300_000].map(|for_ms| Notice::Offline { for_ms });
    assert_eq!(notices(&run), offline);
    let tries = run.said.iter().filter(|(_, command)| matches!(command, Command::Open(_))).count();
    assert!((24 * 60..24 * 60 + 20).contains(&tries), "{tries}");
    run.step(Event::Opened(run.generation()));
    let after_ms = run.now_ms - down_ms;
    assert_eq!(run.step(Event::Synced(run.generation())), [Command::Release]);
    run.pass(4_999);
    assert_eq!(notices(&run).len(), 3, "it may be gone again at once");
    run.pass(1);
    assert_eq!(notices(&run)[3..], [Notice::Back { after_ms }]);
    run.pass(60_000);
    assert_eq!(notices(&run).len(), 4);
}

#[test]
fn a_server_that_dies_after_every_start_is_one_outage() {
    let mut run = Run::new();
    run.step(Event::Wanted);
    run.fail_until(9);
    assert_eq!(notices(&run).len(), 1);
    for _ in 0..20 {
        while run.link.phase() != Phase::Opening {
            let due_ms = run.link.due_ms().unwrap();
            run.pass(due_ms - run.now_ms);
        }
        run.step(Event::Opened(run.generation()));
        run.step(Event::Synced(run.generation()));
        run.pass(1_000);
        run.step(Event::Lost(run.generation()));
    }
    let all = notices(&run);
    assert!(all.iter().all(|notice| matches!(notice, Notice::Offline { .. })) && all.len() == 3, "{all:?}");
}

#[test]
fn a_server_that_hangs_at_its_start_is_noticed_though_it_never_comes_to_offline() {
    let mut run = Run::new();
    run.step(Event::Wanted);
    while notices(&run).is_empty() {
        if run.link.phase() == Phase::Opening {
            run.step(Event::Opened(run.generation()));
        }
        let due_ms = run.link.due_ms().unwrap();
        run.pass(due_ms - run.now_ms);
    }
    assert_eq!(notices(&run), [Notice::Offline { for_ms: 300_000 }]);
    assert!(run.link.failures() < 9);
}

#[test]
fn failures_before_a_restart_open_the_breaker_and_the_first_one_after_it_is_said() {
    let mut run = Run::new();
    run.link.restore(12);
    run.step(Event::Start);
    assert_eq!((notices(&run), run.link.gate(run.now_ms)), (vec![], Gate::Hold), "it is tried");
    run.now_ms += 10;
    run.step(Event::Lost(run.generation()));
    assert_eq!(notices(&run), [Notice::Offline { for_ms: 10 }]);
    assert!(run.link.is_open() && matches!(run.link.gate(run.now_ms), Gate::Offline { .. }));
}

#[test]
fn a_short_loss_is_not_said() {
    let mut run = Run::new();
    run.connect();
    run.pass(10_000);
    run.step(Event::Lost(run.generation()));
    run.fail_until(7);
    while run.link.phase() != Phase::Opening {
        let due_ms = run.link.due_ms().unwrap();
        run.pass(due_ms - run.now_ms);
    }
    run.step(Event::Opened(run.generation()));
    run.step(Event::Synced(run.generation()));
    run.pass(60_000);
    assert_eq!(notices(&run), []);
}

#[test]
fn a_loop_of_callers_does_not_start_a_server_in_a_loop() {
    let mut run = Run::new();
    run.step(Event::Wanted);
    run.fail_until(9);
    let from = run.said.len();
    let from_ms = run.now_ms;
    // Ten calls a second for 100 seconds, each try fails at once.
    for _ in 0..1_000 {
        run.pass(100);
        run.step(Event::Wanted);
        run.pass(0);
        if run.link.phase() == Phase::Opening {
            run.step(Event::Lost(run.generation()));
        }
    }
    let opens: Vec<u64> =
        run.said[from..].iter().filter(|(_, command)| matches!(command, Command::Open(_))).map(|(at, _)| *at).collect();
    let seconds = (run.now_ms - from_ms) / 1_000;
    assert!(opens.len() as u64 <= seconds + 8 + 2, "{} tries in {seconds} s", opens.len());
    assert!(opens.windows(2).all(|pair| pair[1] - pair[0] >= 150), "{opens:?}");
}

#[test]
fn a_server_that_dies_after_every_start_does_not_begin_at_the_top() {
    let mut run = Run::new();
    for _ in 0..9 {
        while run.link.phase() != Phase::Opening {
            run.step(Event::Start);
            let due_ms = run.link.due_ms().unwrap();
            run.pass(due_ms.saturating_sub(run.now_ms));
        }
        run.step(Event::Opened(run.generation()));
        run.step(Event::Synced(run.generation()));
        assert_eq!(run.link.gate(run.now_ms), Gate::Pass);
        run.pass(1_000);
        run.step(Event::Lost(run.generation()));
    }
    assert_eq!(run.link.phase(), Phase::Offline);
    assert!(run.link.is_open());
    // One that lasts makes up for it.
    run.pass(60_000);
    run.step(Event::Opened(run.generation()));
    run.step(Event::Synced(run.generation()));
    run.pass(5_000);
    run.step(Event::Lost(run.generation()));
    assert_eq!((run.link.failures(), run.link.phase()), (0, Phase::Opening));
}

#[test]
fn a_silent_server_with_nothing_to_do_is_given_up_within_35_seconds() {
    let mut run = Run::new();
    run.connect();
    let from_ms = run.now_ms;
    let commands = run.pass(35_000);
    let generation = Generation(1);
    assert_eq!(
        commands[..4],
        [
            Command::Probe(generation),
            Command::Probe(generation),
            Command::Close(generation),
            Command::Open(Generation(2))
        ]
    );
    let closed_ms = run.said.iter().find(|(_, command)| *command == Command::Close(generation)).unwrap().0;
    assert_eq!(closed_ms - from_ms, 25_000);
}

#[test]
fn a_busy_server_is_never_closed() {
    let mut run = Run::new();
    run.connect();
    run.step(Event::InFlight(1));
    let commands = run.pass(600_000);
    assert!(!commands.iter().any(|command| matches!(command, Command::Close(_))), "{commands:?}");
    assert!(commands.contains(&Command::LookAside(Generation(1))));
    assert_eq!((run.link.phase(), run.link.gate(run.now_ms)), (Phase::Suspect, Gate::Hold));
    // What it was busy with was given up: it gets the time of a probe, and is closed if it says nothing then.
    assert_eq!(run.step(Event::InFlight(0)), [Command::Probe(Generation(1))]);
    assert_eq!(run.pass(9_999), []);
    assert_eq!(run.pass(1)[0], Command::Close(Generation(1)));
}

#[test]
fn any_byte_clears_a_suspicion() {
    let mut run = Run::new();
    run.connect();
    run.pass(16_000);
    assert_eq!(run.link.phase(), Phase::Suspect);
    assert_eq!(run.step(Event::Heard(Generation(1))), [Command::Release]);
    assert_eq!(run.link.phase(), Phase::Connected);
    assert_eq!(run.pass(5_000), [Command::Probe(Generation(1))]);
}

#[test]
fn silence_that_was_slept_through_counts_against_nobody() {
    let mut run = Run::new();
    run.connect();
    run.pass(6_000);
    // The machine was suspended for an hour: one late tick.
    run.now_ms += 3_600_000;
    assert_eq!(run.step(Event::Tick), []);
    assert_eq!(run.link.phase(), Phase::Connected);
    assert_eq!(run.pass(5_000), [Command::Probe(Generation(1))]);

    let mut run = Run::new();
    run.step(Event::Wanted);
    run.now_ms += 3_600_000;
    run.step(Event::Tick);
    assert_eq!(run.link.phase(), Phase::Opening, "a try that was slept through has its time again");
}

#[test]
fn a_refusal_is_not_tried_again_at_once() {
    let mut run = Run::new();
    run.step(Event::Wanted);
    run.step(Event::Opened(Generation(1)));
    let told = Command::Notice(Notice::Offline { for_ms: 0 });
    assert_eq!(run.step(Event::Refused(Generation(1))), [Command::Close(Generation(1)), Command::SettleHeld, told]);
    assert_eq!(run.link.phase(), Phase::Offline);
}

#[test]
fn a_handshake_that_never_ends_has_failed() {
    let mut run = Run::new();
    run.step(Event::Wanted);
    run.step(Event::Opened(Generation(1)));
    let commands = run.pass(120_000);
    assert_eq!(commands[0], Command::Close(Generation(1)));
}

#[test]
fn stopping_is_for_good() {
    let mut run = Run::new();
    run.connect();
    assert_eq!(run.step(Event::Stop), [Command::Close(Generation(1)), Command::SettleHeld]);
    for event in [Event::Start, Event::Wanted, Event::Lost(Generation(1)), Event::Tick] {
        assert_eq!(run.step(event), []);
    }
    assert_eq!(run.link.due_ms(), None);
}

#[derive(Debug, Clone, Copy)]
enum Move {
    Pass(u64),
    Due,
    Late(u64),
    Wanted,
    Opened,
    Synced,
    Lost,
    Refused,
    Heard,
    Stale(u8),
    InFlight(usize),
}

fn moves() -> impl Strategy<Value = Vec<(Move, u64)>> {
    let one = prop_oneof![
        3 => (0u64..20_000).prop_map(Move::Pass),
        8 => Just(Move::Due),
        1 => (0u64..4_000_000).prop_map(Move::Late),
        3 => Just(Move::Wanted),
        4 => Just(Move::Opened),
        4 => Just(Move::Synced),
        4 => Just(Move::Lost),
        1 => Just(Move::Refused),
        2 => Just(Move::Heard),
        1 => (0u8..4).prop_map(Move::Stale),
        2 => (0usize..3).prop_map(Move::InFlight),
    ];
    prop::collection::vec((one, any::<u64>()), 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn whatever_happens(moves in moves()) {
        let timing = Timing::default();
        let mut link = Link::new(timing.clone());
        let mut now_ms = 0u64;
        let mut open: Option<Generation> = None;
        let mut last_open_ms: Option<u64> = None;
        let mut in_flight = 0usize;
        let mut probe_ms: Option<u64> = None;
        for (next, draw) in moves {
            let before = (link.phase(), link.due_ms());
            let generation = link.generation();
            let event = match next {
                Move::Pass(for_ms) => {
                    now_ms = (now_ms + for_ms).min(link.due_ms().unwrap_or(u64::MAX).max(now_ms));
                    Event::Tick
                }
                Move::Due => {
                    now_ms = link.due_ms().unwrap_or(now_ms).max(now_ms);
                    Event::Tick
                }
                Move::Late(by_ms) => {
                    now_ms = link.due_ms().unwrap_or(now_ms).max(now_ms) + by_ms;
                    Event::Tick
                }
                Move::Wanted => Event::Wanted,
                Move::Opened => Event::Opened(generation),
                Move::Synced => Event::Synced(generation),
                Move::Lost => Event::Lost(generation),
                Move::Refused => Event::Refused(generation),
                Move::Heard => Event::Heard(generation),
                Move::Stale(0) => Event::Lost(Generation(generation.0.wrapping_sub(1))),
                Move::Stale(1) => Event::Opened(Generation(generation.0 + 1)),
                Move::Stale(2) => Event::Refused(Generation(generation.0 + 1)),
                Move::Stale(_) => Event::Heard(Generation(generation.0.wrapping_sub(1))),
                Move::InFlight(calls) => {
                    in_flight = calls;
                    Event::InFlight(calls)
                }
            };
            if matches!(next, Move::Lost) && matches!(before.0, Phase::Opening | Phase::Syncing | Phase::Connected | Phase::Suspect) {
                open = None;
            }
            let commands = link.step(now_ms, event, draw);
            for command in &commands {
                match command {
                    Command::Open(new) => {
                        prop_assert_eq!(open, None, "one connection at a time");
                        prop_assert!(new.0 == generation.0 + 1);
                        if link.failures() > 3 && let Some(last_ms) = last_open_ms {
                            prop_assert!(now_ms - last_ms >= timing.use_gap_ms, "no try within {} ms of the last", timing.use_gap_ms);
                        }
                        (open, last_open_ms, probe_ms) = (Some(*new), Some(now_ms), None);
                    }
                    Command::Close(closed) => {
                        prop_assert_eq!(open, Some(*closed), "only what is open is closed");
                        let was_up = matches!(before.0, Phase::Connected | Phase::Suspect);
                        let by_silence = was_up && !matches!(next, Move::Refused);
                        prop_assert!(!(by_silence && in_flight > 0), "a busy server was closed");
                        open = None;
                    }
                    Command::Probe(probed) => {
                        prop_assert_eq!(open, Some(*probed));
                        if !matches!(next, Move::InFlight(_)) && let Some(last_ms) = probe_ms {
                            prop_assert!(now_ms - last_ms >= timing.probe_after_ms, "one probe per window");
                        }
                        probe_ms = Some(now_ms);
                    }
                    Command::Sync(synced) => prop_assert_eq!(open, Some(*synced)),
                    Command::Release => prop_assert_eq!(link.gate(now_ms), Gate::Pass),
                    _ => {}
                }
            }
            if matches!(next, Move::Heard) {
                probe_ms = None;
            }
            if matches!(next, Move::Stale(_)) && link.due_ms().is_none_or(|due_ms| now_ms < due_ms) {
                prop_assert!(commands.is_empty() || before.1.is_some_and(|due_ms| due_ms <= now_ms));
            }
            // It never gives up, and no timer is due twice at the same moment.
            if link.phase() != Phase::Idle {
                let due_ms = link.due_ms();
                prop_assert!(due_ms.is_some());
                prop_assert!(due_ms > Some(now_ms) || link.phase() == Phase::Immediate, "{:?} at {}: {:?}", due_ms, now_ms, link);
            }
        }
        // Whatever happened: with a server that is there again, one use and a moment are enough.
        now_ms += 60_000;
        let _ = link.step(now_ms, Event::InFlight(0), 0);
        for _ in 0..8 {
            let _ = link.step(now_ms, Event::Wanted, 0);
            now_ms = now_ms.max(link.due_ms().unwrap_or(now_ms).min(now_ms + timing.use_gap_ms));
            let _ = link.step(now_ms, Event::Tick, 0);
            let generation = link.generation();
            let _ = link.step(now_ms, Event::Opened(generation), 0);
            let _ = link.step(now_ms, Event::Synced(generation), 0);
            let _ = link.step(now_ms, Event::Heard(generation), 0);
        }
        prop_assert_eq!(link.gate(now_ms), Gate::Pass);
    }
}
