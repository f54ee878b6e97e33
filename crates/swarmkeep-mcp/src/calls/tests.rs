use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::{
    class::{self, Trust},
    envelope::Kind,
};

const FIRST: Generation = Generation(1);
const SECOND: Generation = Generation(2);

fn message(text: &str) -> Envelope {
    Envelope::parse(text.to_owned()).unwrap()
}

fn tool(id: &str, name: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{name}","_meta":{{"progressToken":"t{}"}}}}}}"#,
        id.trim_matches('"')
    )
}

fn catalogue(look: &str) -> Catalogue {
    let mut catalogue = Catalogue::default();
    catalogue
        .add(&format!(r#"{{"tools":[{{"name":"pay","inputSchema":{{}}}},{{"name":"look","inputSchema":{{}},"annotations":{{{look}}}}}]}}"#))
        .unwrap();
    catalogue
}

/// With a queue for these tools.
fn queueing(tools: &str) -> Limits {
    Limits { queue: Queue { tools: vec![tools.to_owned()], ..Queue::default() }, ..Limits::default() }
}

/// A ledger whose log is always there.
struct Run {
    calls: Calls,
    now_ms: u64,
    tools: Catalogue,
    said: Vec<Command>,
}

impl Run {
    fn new() -> Self {
        Self {
            calls: Calls::new(Limits::default()),
            now_ms: 0,
            tools: catalogue(r#""readOnlyHint":true"#),
            said: Vec::new(),
        }
    }

    fn up() -> Self {
        let mut run = Self::new();
        run.pass(FIRST);
        run
    }

    fn take(&mut self, mut act: impl FnMut(&mut Calls, u64, &mut Vec<Command>)) -> Vec<Command> {
        let mut commands = Vec::new();
        act(&mut self.calls, self.now_ms, &mut commands);
        // The log takes everything at once.
        let mut at = 0;
        while let Some(command) = commands.get(at).cloned() {
            if let Command::Record(id) = command {
                self.calls.recorded(self.now_ms, id, 1, &mut commands);
            }
            at += 1;
        }
        self.said.extend(commands.iter().cloned());
        commands
    }

    fn pass(&mut self, generation: Generation) -> Vec<Command> {
        let tools = self.tools.clone();
        self.take(|calls, now_ms, commands| calls.pass(now_ms, generation, Some(&tools), commands))
    }

    fn ask(&mut self, text: &str) -> Vec<Command> {
        let request = message(text);
        let trust = Trust { hints: true, ..Trust::default() };
        let asked = class::of(&request, &trust, Some(&self.tools));
        let known = request.name().and_then(|name| self.tools.tool(name));
        self.take(|calls, now_ms, commands| {
            calls.request(now_ms, request.clone(), asked.clone(), known, Before::default(), commands);
        })
    }

    fn server(&mut self, generation: Generation, text: &str) -> Vec<Command> {
        let message = message(text);
        self.take(|calls, now_ms, commands| calls.from_server(now_ms, generation, &message, commands))
    }

    fn client(&mut self, text: &str) -> Vec<Command> {
        let message = message(text);
        self.take(|calls, _, commands| calls.from_client(&message, commands))
    }

    fn lose(&mut self, generation: Generation) -> Vec<Command> {
        self.take(|calls, now_ms, commands| calls.lost(now_ms, generation, commands))
    }

    fn tick(&mut self, for_ms: u64) -> Vec<Command> {
        self.now_ms += for_ms;
        self.take(|calls, now_ms, commands| calls.tick(now_ms, Some(8_000), commands))
    }
}

fn sent(commands: &[Command]) -> Vec<(u64, String)> {
    let line = |command: &Command| match command {
        Command::Send { wire, line, .. } => Some((*wire, String::from_utf8(line.to_vec()).unwrap())),
        _ => None,
    };
    commands.iter().filter_map(line).collect()
}

fn delivered(commands: &[Command]) -> Vec<String> {
    let line = |command: &Command| match command {
        Command::Deliver(line) | Command::Answer { line, .. } => Some(String::from_utf8(line.to_vec()).unwrap()),
        _ => None,
    };
    commands.iter().filter_map(line).collect()
}

fn told(commands: &[Command]) -> Vec<String> {
    let line = |command: &Command| match command {
        Command::Tell { line, .. } => Some(String::from_utf8(line.to_vec()).unwrap()),
        _ => None,
    };
    commands.iter().filter_map(line).collect()
}

fn endings(commands: &[Command]) -> Vec<&Ending> {
    let mut endings = Vec::new();
    for command in commands {
        if let Command::Finish { ending, .. } = command {
            endings.push(ending);
        }
    }
    endings
}

#[test]
fn a_call_is_recorded_then_sent_then_answered_under_its_own_id() {
    let mut run = Run::up();
    let commands = run.ask(&tool("\"1\"", "pay"));
    assert_eq!(commands[0], Command::Record(CallId(1)));
    assert_eq!(
        sent(&commands),
        [(
            1,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pay","_meta":{"progressToken":1}}}"#
                .to_owned()
        )]
    );
    let commands = run.server(FIRST, r#"{"jsonrpc":"2.0","id":1,"result":{"x":1.0}}"#);
    assert_eq!(delivered(&commands), [r#"{"jsonrpc":"2.0","id":"1","result":{"x":1.0}}"#]);
    assert_eq!(endings(&commands), [&Ending::Answered { ok: true, body: r#"{"x":1.0}"#.into() }]);
    assert_eq!(run.calls.in_flight(), 0);
    assert_eq!(run.calls.open().count(), 0);
}

#[test]
fn an_error_that_answers_a_cancellation_does_not_say_that_nothing_was_done() {
    let mut run = Run::up();
    run.ask(&tool("1", "pay"));
    run.ask(&tool("2", "pay"));
    for id in [1, 2] {
        run.client(&format!(r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id}}}}}"#));
    }
    let commands = run.server(FIRST, r#"{"jsonrpc":"2.0","id":1,"error":{"code":0,"message":"Request cancelled"}}"#);
    assert!(matches!(endings(&commands)[..], [Ending::Unknown { .. }]), "{commands:?}");
    let commands = run.server(FIRST, r#"{"jsonrpc":"2.0","id":2,"result":{}}"#);
    assert!(matches!(endings(&commands)[..], [Ending::Answered { ok: true, .. }]), "{commands:?}");
    assert_eq!(run.calls.len(), 0);
}

#[test]
fn what_has_an_effect_waits_while_its_tool_is_looked_at_and_the_rest_goes_on() {
    let mut run = Run::up();
    run.calls.hold_effects();
    assert_eq!(run.ask(&tool("1", "pay")), []);
    assert_eq!(sent(&run.ask(r#"{"id":2,"method":"tools/list"}"#)).len(), 1);
    assert_eq!(told(&run.client(r#"{"method":"notifications/roots/list_changed"}"#)).len(), 1);
    let request = message(&tool("1", "pay"));
    run.calls.class_anew(CallId(1), Asked { class: Class::Idempotent, ..class::of(&request, &Trust::default(), None) });
    assert_eq!(sent(&run.pass(FIRST)).len(), 1);
    assert_eq!(run.calls.get(CallId(1)).unwrap().1.class, Class::Idempotent);
}

#[test]
fn a_client_that_has_said_all_is_answered_when_it_has_waited_for_long_enough() {
    let mut run = Run { calls: Calls::new(queueing("pay")), ..Run::new() };
    run.ask(&tool("1", "pay"));
    let commands = run.take(|calls, _, commands| calls.let_go(CallId(1), commands));
    assert!(delivered(&commands)[0].contains(r#""executed":"no""#), "{commands:?}");
    run.pass(FIRST);
    run.ask(&tool("2", "pay"));
    let commands = run.take(|calls, _, commands| calls.let_go(CallId(2), commands));
    assert!(delivered(&commands)[0].contains(r#""executed":"unknown""#), "{commands:?}");
    assert_eq!((run.calls.len(), sent(&run.said).len()), (0, 1));
}

#[test]
fn who_may_call_again_is_told_so() {
    let told = |name: &str| {
        let mut run = Run::up();
        run.ask(&tool("1", name));
        let mut lines = Vec::new();
        for generation in 1..10 {
            lines.extend(delivered(&run.lose(Generation(generation))));
            run.pass(Generation(generation + 1));
        }
        lines.retain(|line| line.contains(r#""isError":true"#));
        assert_eq!(lines.len(), 1);
        lines.remove(0)
    };
    let (pay, look) = (told("pay"), told("look"));
    assert!(pay.contains("find out before") && pay.contains(r#""retryable":false"#), "{pay}");
    assert!(look.contains("may be made again") && look.contains(r#""retryable":true"#), "{look}");
    for line in [pay, look] {
        assert!(line.contains(r#""executed":"unknown""#), "{line}");
    }
}

#[test]
fn nothing_is_sent_before_its_record_is_durable() {
    let mut calls = Calls::new(Limits::default());
    let mut commands = Vec::new();
    calls.pass(0, FIRST, None, &mut commands);
    let request = message(&tool("1", "pay"));
    let asked = class::of(&request, &Trust::default(), None);
    calls.request(0, request, asked, None, Before::default(), &mut commands);
    assert_eq!(commands, [Command::Record(CallId(1))]);
    // The connection is lost meanwhile: it is held, and sent for the first time on the next one.
    calls.lost(0, FIRST, &mut commands);
    calls.recorded(0, CallId(1), 1, &mut commands);
    assert_eq!(commands.len(), 1);
    calls.pass(0, SECOND, None, &mut commands);
    assert_eq!(sent(&commands).len(), 1);
}

#[test]
fn reads_are_not_recorded() {
    let mut run = Run::up();
    let commands = run.ask(r#"{"id":1,"method":"tools/list"}"#);
    assert!(matches!(commands[..], [Command::Send { .. }]));
    let commands = run.server(FIRST, r#"{"id":1,"result":{}}"#);
    assert!(matches!(commands[..], [Command::Answer { .. }]));
}

#[test]
fn what_may_not_be_repeated_is_settled_at_the_loss() {
    let mut run = Run::up();
    run.ask(&tool("7", "pay"));
    let commands = run.lose(FIRST);
    assert!(matches!(endings(&commands)[..], [Ending::Unknown { .. }]));
    let line = &delivered(&commands)[0];
    assert!(
        line.contains(r#""id":7"#) && line.contains(r#""isError":true"#) && line.contains(r#""executed":"unknown""#),
        "{line}"
    );
    assert_eq!(run.pass(SECOND), []);
    // An answer of the dead connection changes nothing.
    assert_eq!(run.server(FIRST, r#"{"id":1,"result":{}}"#), [Command::Stray(Stray::Over)]);
}

#[test]
fn what_may_be_repeated_is_sent_again_under_a_new_id_if_it_still_says_so() {
    let mut run = Run::up();
    run.ask(&tool("7", "look"));
    assert_eq!(run.lose(FIRST), []);
    let again = run.pass(SECOND);
    assert_eq!(sent(&again)[0].0, 2);
    // The first sending's id is nobody's any more.
    assert_eq!(run.server(SECOND, r#"{"id":1,"result":{}}"#), [Command::Stray(Stray::Over)]);
    let commands = run.server(SECOND, r#"{"id":2,"result":{}}"#);
    assert_eq!(delivered(&commands), [r#"{"id":7,"result":{}}"#]);

    let mut run = Run::up();
    run.ask(&tool("7", "look"));
    run.lose(FIRST);
    run.tools = catalogue("");
    let commands = run.pass(SECOND);
    assert_eq!(sent(&commands), []);
    assert!(delivered(&commands)[0].contains("no longer says that it may be called again"));
    assert!(matches!(endings(&commands)[..], [Ending::Unknown { .. }]));
}

#[test]
fn what_an_earlier_daemon_may_have_sent_is_asked_of_the_log_before_it_is_said_to_be_undone() {
    for (name, attempt, executed) in [("look", 2, "unknown"), ("look", 1, "no"), ("pay", 1, "no")] {
        let mut calls = Calls::new(Limits::default());
        let request = message(&tool("1", name));
        let trust = Trust { hints: true, ..Trust::default() };
        let tools = catalogue(r#""idempotentHint":true"#);
        let asked = class::of(&request, &trust, Some(&tools));
        let mut commands = Vec::new();
        let before = Before { waited_ms: 0, may_be_sent: true };
        let call = calls.request(0, request, asked, None, before, &mut commands).unwrap();
        if calls.get(call).unwrap().1.class.is_recorded() {
            assert_eq!(commands, [Command::Record(call)], "though nobody is there to send it to");
        }
        calls.offline(1_000, &mut commands);
        calls.recorded(0, call, attempt, &mut commands);
        let mut commands = Vec::new();
        calls.offline(1_000, &mut commands);
        let said = format!("{commands:?}").replace('\\', "");
        assert!(said.contains(&format!(r#""executed":"{executed}""#)), "{name} {attempt}: {said}");
    }
}

#[test]
fn it_is_not_sent_again_for_ever() {
    let mut run = Run::up();
    run.ask(&tool("7", "look"));
    for generation in 2..20 {
        run.lose(Generation(generation - 1));
        run.pass(Generation(generation));
    }
    assert_eq!(sent(&run.said).len(), 1 + class::RESENDS as usize);
    assert_eq!(delivered(&run.said).len(), 1);
}

#[test]
fn what_is_held_is_sent_once_the_server_is_there() {
    let mut run = Run::new();
    assert_eq!(run.ask(&tool("7", "pay")), []);
    let progress = run.tick(5_000);
    assert!(delivered(&progress)[0].contains(r#""progressToken":"t7","progress":0.000001"#), "{progress:?}");
    let commands = run.pass(FIRST);
    assert!(matches!(commands[..], [Command::Record(_), Command::Send { .. }]));
    // The server's progress goes on above what was told while it was held.
    let zero = r#"{"method":"notifications/progress","params":{"progressToken":1,"progress":0}}"#;
    assert_eq!(run.server(FIRST, zero), []);
    let one = r#"{"method":"notifications/progress","params":{"progressToken":1,"progress":1}}"#;
    assert_eq!(delivered(&run.server(FIRST, one)), [one.replace(":1,", ":\"t7\",")]);
}

#[test]
fn what_is_held_for_a_tool_that_is_gone_is_not_sent() {
    let mut run = Run::new();
    run.ask(&tool("7", "pay"));
    run.tools = Catalogue::default();
    let commands = run.pass(FIRST);
    assert_eq!(sent(&commands), []);
    assert!(delivered(&commands)[0].contains(r#""executed":"no""#));
}

#[test]
fn what_is_held_too_long_or_offline_is_answered_as_not_executed() {
    let mut run = Run::new();
    run.ask(&tool("1", "pay"));
    run.ask(r#"{"id":2,"method":"resources/read","params":{"uri":"x"}}"#);
    let commands = run.tick(20_000);
    let lines = delivered(&commands);
    assert!(lines[0].contains(r#""executed":"no""#) && lines[0].contains(r#""retryAfterMs":8000"#), "{lines:?}");
    assert!(lines[1].contains("-32010"));

    let mut run = Run::new();
    run.ask(&tool("1", "pay"));
    let commands = run.take(|calls, _, commands| calls.offline(60_000, commands));
    assert!(delivered(&commands)[0].contains("60000"));
    assert_eq!(run.calls.open().count(), 0);
}

#[test]
fn what_is_queued_waits_over_an_open_breaker_and_goes_out_in_its_order() {
    let mut run = Run { calls: Calls::new(queueing("pa*")), ..Run::new() };
    for (id, name) in [("1", "pay"), ("2", "look"), ("3", "pay")] {
        run.ask(&tool(id, name));
    }
    let commands = run.take(|calls, _, commands| calls.offline(60_000, commands));
    assert_eq!((delivered(&commands).len(), run.calls.open().count()), (1, 2), "only the other is answered");
    assert!(run.calls.open().all(|(call, ..)| run.calls.is_queued(call)));
    let told = run.tick(6 * 60_000);
    assert!(delivered(&told).iter().all(|line| line.contains("queued, not sent yet")), "{told:?}");
    // The second is recorded first, and waits for its turn.
    let (mut commands, tools) = (Vec::new(), run.tools.clone());
    run.calls.pass(run.now_ms, FIRST, Some(&tools), &mut commands);
    assert_eq!(sent(&commands).len(), 0);
    run.calls.recorded(run.now_ms, CallId(3), 1, &mut commands);
    assert_eq!(sent(&commands).len(), 0);
    run.calls.recorded(run.now_ms, CallId(1), 1, &mut commands);
    let calls: Vec<_> = commands
        .iter()
        .filter_map(|said| if let Command::Send { call, .. } = said { Some(call.0) } else { None })
        .collect();
    assert_eq!(calls, [1, 3]);
}

#[test]
fn a_queue_ends_in_time_has_bounds_and_begins_where_the_last_daemons_ended() {
    let mut limits = queueing("pay");
    limits.queue.calls = 2;
    let mut run = Run { calls: Calls::new(limits), ..Run::new() };
    run.ask(&tool("1", "pay"));
    // This one had waited for nine minutes in another daemon's queue.
    let mut commands = Vec::new();
    let request = message(&tool("2", "pay"));
    let asked = class::of(&request, &Trust::default(), None);
    let before = Before { waited_ms: 9 * 60_000, may_be_sent: false };
    run.calls.request(0, request, asked, None, before, &mut commands);
    let full = delivered(&run.ask(&tool("3", "pay")));
    assert!(full[0].contains("-32012") && full[0].contains(r#""executed":"no""#), "{full:?}");
    let ended = delivered(&run.tick(60_000));
    assert!(ended.iter().any(|line| line.contains("-32013") && line.contains(r#""id":2"#)), "{ended:?}");
    let ended = delivered(&run.tick(9 * 60_000));
    assert!(ended.iter().any(|line| line.contains("-32013") && line.contains(r#""id":1"#)), "{ended:?}");
    assert_eq!(run.calls.open().count(), 0);
}

#[test]
fn what_is_queued_and_cancelled_or_changed_is_not_sent() {
    let mut run = Run { calls: Calls::new(queueing("pay")), ..Run::new() };
    run.ask(&tool("1", "pay"));
    run.ask(&tool("2", "pay"));
    run.client(r#"{"method":"notifications/cancelled","params":{"requestId":1}}"#);
    run.tools = Catalogue::default();
    let commands = run.pass(FIRST);
    assert_eq!(sent(&commands), []);
    assert!(delivered(&commands)[0].contains(r#""executed":"no""#) && run.calls.open().count() == 0);
    // Once it was sent it waits in no queue: nobody knows what came of it.
    let mut run = Run { calls: Calls::new(queueing("pay")), ..Run::new() };
    run.pass(FIRST);
    run.ask(&tool("1", "pay"));
    assert!(delivered(&run.lose(FIRST))[0].contains(r#""executed":"unknown""#));
}

#[test]
fn a_call_that_was_not_taken_is_sent_again_whatever_its_class() {
    let mut run = Run::up();
    run.ask(&tool("1", "pay"));
    run.take(|calls, now_ms, commands| calls.bounced(now_ms, 1, commands));
    run.lose(FIRST);
    assert_eq!(sent(&run.pass(SECOND)).len(), 1);
    // But not for ever.
    for generation in 2..10u64 {
        let wire = run.calls.next_wire - 1;
        run.take(|calls, now_ms, commands| calls.bounced(now_ms, wire, commands));
        run.pass(Generation(generation + 1));
    }
    assert_eq!(sent(&run.said).len(), 4);
    assert!(delivered(&run.said)[0].contains(r#""executed":"no""#));
}

#[test]
fn no_answer_in_time_is_unknown_and_a_late_answer_is_recorded() {
    let mut run = Run::up();
    run.ask(&tool("7", "pay"));
    let commands = run.tick(10 * 60_000);
    assert!(delivered(&commands)[0].contains(r#""executed":"unknown""#));
    assert!(told(&commands)[0].contains("notifications/cancelled"));
    assert!(matches!(endings(&commands)[..], [Ending::Unknown { .. }]));
    assert_eq!(run.calls.in_flight(), 1, "the server may be busy with it");
    // The id is free for the client.
    run.ask(&tool("7", "pay"));
    let commands = run.server(FIRST, r#"{"id":1,"result":{}}"#);
    assert_eq!(delivered(&commands), Vec::<String>::new());
    assert!(matches!(endings(&commands)[..], [Ending::Answered { .. }]));
    assert_eq!(delivered(&run.server(FIRST, r#"{"id":2,"result":{}}"#)), [r#"{"id":7,"result":{}}"#]);
}

#[test]
fn progress_gives_more_time_but_not_for_ever() {
    let mut run = Run::up();
    run.ask(&tool("7", "pay"));
    for step in 1..=12 {
        run.tick(5 * 60_000);
        run.server(
            FIRST,
            &format!(r#"{{"method":"notifications/progress","params":{{"progressToken":1,"progress":{step}}}}}"#),
        );
    }
    assert!(run.said.iter().any(|command| matches!(command, Command::Finish { .. })), "an hour is the most");
    assert_eq!(delivered(&run.said).iter().filter(|line| line.contains("executed")).count(), 1);
}

#[test]
fn a_cancelled_call_is_not_sent_and_not_answered() {
    let mut run = Run::new();
    run.ask(&tool("7", "pay"));
    let cancel = r#"{"method":"notifications/cancelled","params":{"requestId":7}}"#;
    assert_eq!(run.client(cancel), []);
    assert_eq!(run.pass(FIRST), []);

    let mut run = Run::up();
    run.ask(&tool("7", "pay"));
    assert_eq!(told(&run.client(cancel)), [cancel.replace('7', "1")]);
    let commands = run.server(FIRST, r#"{"id":1,"result":{}}"#);
    assert!(matches!(commands[..], [Command::Finish { ending: Ending::Answered { .. }, .. }]));
    // What is over, and `"7"`, which is another id, cancel nothing.
    assert_eq!(run.client(cancel), []);
    run.ask(&tool("7", "pay"));
    assert_eq!(run.client(r#"{"method":"notifications/cancelled","params":{"requestId":"7"}}"#), []);
}

#[test]
fn ids_that_are_under_way_are_refused_and_text_is_no_number() {
    let mut run = Run::up();
    run.ask(&tool("1", "pay"));
    let refused = run.ask(&tool("1", "pay"));
    assert_eq!(sent(&refused), []);
    assert!(delivered(&refused)[0].starts_with(r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600"#));
    assert_eq!(sent(&run.ask(&tool("\"1\"", "pay"))).len(), 1);
}

#[test]
fn answers_twice_of_others_and_of_nobody_are_counted() {
    let mut run = Run::up();
    run.ask(&tool("1", "pay"));
    run.server(FIRST, r#"{"id":1,"result":{}}"#);
    run.server(FIRST, r#"{"id":1,"result":{}}"#);
    for id in ["99", "\"1\"", "1.0", "null", "-1", "18446744073709551616"] {
        assert_eq!(
            run.server(FIRST, &format!(r#"{{"id":{id},"result":{{}}}}"#)),
            [Command::Stray(Stray::Foreign)],
            "{id}"
        );
    }
    assert_eq!(run.calls.strays()[&Stray::Over], 1);
    assert_eq!(run.calls.strays()[&Stray::Foreign], 6);
    // An id of our own requests is not a call's.
    let own = run.calls.own_id();
    assert_eq!(run.server(FIRST, &format!(r#"{{"id":{own},"result":{{}}}}"#)), [Command::Stray(Stray::Over)]);
}

#[test]
fn what_a_server_asks_is_answered_on_the_connection_it_asked_on() {
    let mut run = Run::up();
    let asked = run.server(FIRST, r#"{"id":0,"method":"elicitation/create","params":{}}"#);
    assert_eq!(delivered(&asked), [r#"{"id":1,"method":"elicitation/create","params":{}}"#]);
    let answer = run.client(r#"{"id":1,"result":{"a":1.0}}"#);
    assert_eq!(told(&answer), [r#"{"id":0,"result":{"a":1.0}}"#]);
    assert_eq!(run.client(r#"{"id":1,"result":{}}"#), [Command::Stray(Stray::ClientLate)]);

    run.server(FIRST, r#"{"id":"x","method":"sampling/createMessage","params":{}}"#);
    let gone = run.lose(FIRST);
    assert!(delivered(&gone)[0].contains(r#""method":"notifications/cancelled","params":{"requestId":2"#));
    run.pass(SECOND);
    assert_eq!(run.client(r#"{"id":2,"result":{}}"#), [Command::Stray(Stray::ClientLate)]);
}

#[test]
fn a_subscription_is_opened_again_and_keeps_the_clients_name_for_it() {
    let mut run = Run::up();
    run.ask(r#"{"id":"s","method":"subscriptions/listen","params":{}}"#);
    assert_eq!(run.tick(24 * 3_600_000), []);
    run.lose(FIRST);
    run.pass(SECOND);
    let event = r#"{"method":"notifications/tools/list_changed","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":2}}}"#;
    assert_eq!(delivered(&run.server(SECOND, event)), [event.replace(":2}", ":\"s\"}")]);
    assert_eq!(run.server(SECOND, &event.replace(":2}", ":1}")), [Command::Stray(Stray::Foreign)]);
}

#[test]
fn two_hundred_answers_in_reverse_over_a_lost_connection_each_find_their_call() {
    let mut run = Run::up();
    for id in 0..200 {
        run.ask(&tool(&id.to_string(), if id % 2 == 0 { "look" } else { "pay" }));
    }
    run.lose(FIRST);
    run.pass(SECOND);
    let wires: Vec<(u64, String)> = sent(&run.said).into_iter().filter(|(wire, _)| *wire > 200).collect();
    assert_eq!(wires.len(), 100);
    for (wire, _) in wires.iter().rev() {
        run.server(SECOND, &format!(r#"{{"id":{wire},"result":{{}}}}"#));
        run.server(FIRST, &format!(r#"{{"id":{},"result":{{}}}}"#, wire - 150));
    }
    let lines = delivered(&run.said);
    let ids: BTreeSet<String> = lines.iter().map(|line| message(line).id().unwrap().to_owned()).collect();
    assert_eq!((lines.len(), ids.len()), (200, 200));
}

#[derive(Debug, Clone, Copy)]
enum Move {
    Ask(u8),
    Recorded(prop::sample::Index),
    Answer(prop::sample::Index),
    AnswerAgain(prop::sample::Index),
    Bounce(prop::sample::Index),
    Cancel(prop::sample::Index),
    Lose,
    Pass,
    Block,
    Offline,
    Time(u64),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let index = any::<prop::sample::Index>;
    let one = prop_oneof![
        6 => (0u8..4).prop_map(Move::Ask),
        6 => index().prop_map(Move::Recorded),
        5 => index().prop_map(Move::Answer),
        1 => index().prop_map(Move::AnswerAgain),
        1 => index().prop_map(Move::Bounce),
        1 => index().prop_map(Move::Cancel),
        2 => Just(Move::Lose),
        4 => Just(Move::Pass),
        1 => Just(Move::Block),
        1 => Just(Move::Offline),
        2 => (0u64..700_000).prop_map(Move::Time),
    ];
    prop::collection::vec(one, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Whatever happens in whatever order: one answer each, nothing that may not be repeated goes out twice, nothing goes out
    /// before it is recorded, and nothing is left behind.
    #[test]
    fn every_call_is_settled_once(moves in moves(), is_queued in any::<bool>()) {
        let tools = catalogue(r#""readOnlyHint":true"#);
        let trust = Trust { hints: true, ..Trust::default() };
        let mut calls = Calls::new(if is_queued { queueing("p*") } else { Limits::default() });
        let mut last_pay = None;
        let (mut now_ms, mut generation) = (0u64, 1u64);
        let mut asked: Vec<(CallId, bool, bool)> = Vec::new();
        let mut cancelled = BTreeSet::new();
        let mut wires: Vec<(u64, Generation, CallId)> = Vec::new();
        let mut bounced = BTreeSet::new();
        let mut recording: Vec<CallId> = Vec::new();
        let mut recorded = BTreeSet::new();
        let mut answers: BTreeMap<u64, u32> = BTreeMap::new();
        let mut sendings: BTreeMap<CallId, u32> = BTreeMap::new();
        let mut endings: BTreeMap<CallId, Vec<Ending>> = BTreeMap::new();
        let end = [Move::Offline, Move::Time(30 * 60_000), Move::Time(30 * 60_000)];
        for (at, next) in moves.iter().chain(&end).enumerate() {
            if at == moves.len() {
                for id in std::mem::take(&mut recording) {
                    recorded.insert(id);
                    let mut commands = Vec::new();
                    calls.block();
                    calls.recorded(now_ms, id, 1, &mut commands);
                    prop_assert!(sent(&commands).is_empty());
                    for command in commands {
                        if let Command::Finish { call, ending } = command {
                            endings.entry(call).or_default().push(ending);
                        }
                    }
                }
            }
            let mut commands = Vec::new();
            let current = Generation(generation);
            match next {
                Move::Ask(kind) => {
                    let number = asked.len();
                    let text = match kind {
                        0 => tool(&number.to_string(), "pay"),
                        1 => tool(&number.to_string(), "look"),
                        2 => format!(r#"{{"id":{number},"method":"resources/read","params":{{"uri":"u"}}}}"#),
                        _ => format!(r#"{{"id":{number},"method":"tools/list","params":{{"cursor":"c"}}}}"#),
                    };
                    let request = message(&text);
                    let class = class::of(&request, &trust, Some(&tools));
                    let known = request.name().and_then(|name| tools.tool(name));
                    let id = calls.request(now_ms, request, class.clone(), known, Before::default(), &mut commands).unwrap();
                    asked.push((id, class.class.is_recorded(), class.class == Class::AtMostOnce));
                }
                Move::Recorded(index) if !recording.is_empty() => {
                    let id = recording.swap_remove(index.index(recording.len()));
                    recorded.insert(id);
                    calls.recorded(now_ms, id, 1, &mut commands);
                }
                Move::Answer(index) | Move::AnswerAgain(index) if !wires.is_empty() => {
                    let (wire, of, call) = wires[index.index(wires.len())];
                    let text = format!(r#"{{"id":{wire},"result":{{"of":{}}}}}"#, call.0 - 1);
                    calls.from_server(now_ms, of, &message(&text), &mut commands);
                }
                Move::Bounce(index) if !wires.is_empty() => {
                    let (wire, of, _) = wires[index.index(wires.len())];
                    if of == current {
                        bounced.insert(wire);
                        calls.bounced(now_ms, wire, &mut commands);
                    }
                }
                Move::Cancel(index) if !asked.is_empty() => {
                    let number = index.index(asked.len());
                    let text = format!(r#"{{"method":"notifications/cancelled","params":{{"requestId":{number}}}}}"#);
                    if !answers.contains_key(&(number as u64)) {
                        cancelled.insert(number as u64);
                    }
                    calls.from_client(&message(&text), &mut commands);
                }
                Move::Lose => {
                    calls.lost(now_ms, current, &mut commands);
                    generation += 1;
                }
                Move::Pass => calls.pass(now_ms, current, Some(&tools), &mut commands),
                Move::Block => calls.block(),
                Move::Offline => calls.offline(1_000, &mut commands),
                Move::Time(for_ms) => {
                    now_ms += for_ms;
                    calls.tick(now_ms, None, &mut commands);
                    prop_assert!(calls.due_ms().is_none_or(|due_ms| due_ms > now_ms));
                }
                _ => {}
            }
            for command in commands {
                match command {
                    Command::Record(id) => recording.push(id),
                    Command::Send { call, wire, generation: of, .. } => {
                        let (_, is_recorded, _) = asked[call.0 as usize - 1];
                        prop_assert!(!is_recorded || recorded.contains(&call), "sent before it was recorded");
                        prop_assert_eq!(of, current);
                        prop_assert!(wires.iter().all(|(other, _, _)| *other != wire), "an id is used once");
                        wires.push((wire, of, call));
                        let times = sendings.entry(call).or_default();
                        *times += 1;
                        if is_queued && *times == 1 && is_recorded && asked[call.0 as usize - 1].2 {
                            prop_assert!(last_pay.replace(call) < Some(call), "what is queued goes in its order");
                        }
                    }
                    Command::Deliver(line) | Command::Answer { line, .. } => {
                        let line = message(std::str::from_utf8(&line).unwrap());
                        if line.kind() == Kind::Notification {
                            continue;
                        }
                        let number: u64 = line.id().unwrap().parse().unwrap();
                        *answers.entry(number).or_default() += 1;
                        prop_assert!(!cancelled.contains(&number), "an answer to what was cancelled");
                        if let Some(of) = line.body().and_then(|body| body.strip_prefix(r#"{"of":"#)) {
                            prop_assert_eq!(of.trim_end_matches('}'), number.to_string(), "another call's answer");
                        }
                    }
                    Command::Finish { call, ending } => endings.entry(call).or_default().push(ending),
                    _ => {}
                }
            }
        }
        prop_assert_eq!(calls.open().count(), 0);
        prop_assert_eq!(calls.in_flight(), 0);
        for (id, is_recorded, is_once) in asked {
            let number = id.0 - 1;
            let answered = answers.get(&number).copied().unwrap_or(0);
            prop_assert_eq!(answered, u32::from(!cancelled.contains(&number)), "call {}", number);
            if is_once {
                let taken = wires.iter().filter(|(wire, _, call)| *call == id && !bounced.contains(wire)).count();
                prop_assert!(taken <= 1, "sent {} times", taken);
            }
            let said = endings.remove(&id).unwrap_or_default();
            prop_assert_eq!(!said.is_empty(), is_recorded && recorded.contains(&id), "call {}: {:?}", number, said);
            // A doubt may be cleared by what comes late; nothing else is said twice.
            match &said[..] {
                [] | [_] | [Ending::Unknown { .. }, Ending::Answered { .. } | Ending::NotExecuted { .. }] => {}
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
