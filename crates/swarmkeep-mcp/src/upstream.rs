//! One client and its server: the link, the ledger, the log and the connection, driven by one task.
//!
//! What decides is pure ([`crate::link`], [`crate::calls`]); here its commands are carried out. The task never waits for one
//! of them: what goes out is queued, the log is written beside it, a server is started and ended beside it. So that queues
//! stay bounded, a client that sends faster than its server takes is not read, and a server that sends faster than its client
//! takes is not read.

mod client;
mod connection;
mod ending;
mod handshake;
mod outcome;
mod queue;
mod seen;
mod status;
mod task;
mod terms;
mod trouble;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    future::{BoxFuture, FutureExt as _},
    stream::{FuturesUnordered, StreamExt as _},
};
use swarmkeep::{EntityId, Error, core::failure::ProtocolCause};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};

pub use self::{
    connection::{Remembered, connection_of},
    terms::{FromClient, Handles, OpenCall, Status, Terms, ToClient},
};
use self::{
    handshake::{Handshake, Own},
    outcome::Finishes,
    queue::Queue,
    seen::Seen,
    task::Task,
    trouble::Trouble,
};
use crate::{
    breach,
    calls::{self, CallId, Calls, Ending, Limits, Standing, Stray},
    class::{self, Catalogue, Class},
    desired::Desired,
    envelope::{Edit, Envelope, Frame, Kind, compose},
    link::{self, Gate, Generation, Link, Notice, Phase},
    record::{Begin, Begun, Record},
    reply,
    transport::{self, Connection, Inbound, Opener, Outbound},
};

/// Bytes on their way in one direction, beyond which the other side is not read.
const QUEUED_BYTES: usize = 16 << 20;
/// Lines of one side that are taken before the other has its turn.
const TURN: usize = 64;
/// Starts the task.
#[must_use]
pub fn start(terms: Terms, record: Record, seed: u64) -> Handles {
    start_over(transport::opener(), terms, record, seed)
}

/// [`start`], over connections that are opened so.
#[must_use]
pub fn start_over(opener: Opener, terms: Terms, record: Record, seed: u64) -> Handles {
    let (client, from_client) = mpsc::channel(64);
    let (to_client, answers) = mpsc::channel(64);
    let (status, asked) = mpsc::channel(4);
    let mut upstream = Upstream::new(opener, terms, record, seed, to_client);
    let over = tokio::spawn(async move {
        upstream.run(from_client, asked).await;
        upstream.end().await;
    });
    Handles { client, answers, status, over }
}

/// A connection that is open.
struct Live {
    generation: Generation,
    outbox: mpsc::Sender<Outbound>,
    ending: transport::Ending,
    resumable: transport::Resumable,
}

/// A call's place in the client's lines and in the log.
#[derive(Clone)]
struct Place {
    number: u64,
    key: Option<EntityId>,
    attempt: u32,
    /// Where its effect was begun.
    begun_in: Option<Record>,
    is_answered: bool,
    /// Its client was given this task for an answer.
    task: Option<String>,
}

/// What was done beside the task.
enum Done {
    Opened(Generation, std::io::Result<Connection>),
    Begun(CallId, Box<Record>, Result<Begun, Error>),
    Exchanged(Record, Vec<(CallId, Begin)>, Option<Vec<Result<Begun, Error>>>),
    Written,
    Task(String, Result<u64, Error>),
    /// What a line of the client is answered.
    Found(u64, Bytes),
    Noted,
    Seen,
}

struct Upstream {
    opener: Opener,
    terms: Terms,
    record: Record,
    began: Instant,
    /// The time, as of the last look: it is looked at whenever something comes to pass, not for every line.
    now_ms: u64,
    link: Link,
    calls: Calls,
    /// The connection on which the server has said something.
    heard_on: Option<Generation>,
    places: BTreeMap<CallId, Place>,
    /// Room for the ledger's commands.
    commands: Vec<calls::Command>,
    /// Lines with several messages, and how many of these are not settled.
    batches: BTreeMap<u64, usize>,
    /// What is known of the server's tools.
    catalogue: Option<Catalogue>,
    /// The connection on which that was read.
    catalogue_on: Option<Generation>,
    desired: Desired,
    handshake: Handshake,
    own: BTreeMap<u64, Own>,
    live: Option<Live>,
    inbox: Option<mpsc::Receiver<Inbound>>,
    /// The end of the last connection: over before the next one is opened.
    closing: Option<transport::Ending>,
    /// The server's session that an earlier daemon left, until it was tried; and the connection that tries it.
    resume: Option<transport::Resume>,
    resumes_on: Option<Generation>,
    beside: JoinSet<Done>,
    /// Calls whose effects are to be begun at the end of this turn.
    to_begin: Vec<(CallId, Begin)>,
    /// Calls whose effects are being begun. In this task: they reach the journal without a way through another one.
    begins: FuturesUnordered<BoxFuture<'static, Done>>,
    finishes: Finishes,
    /// Calls of which the client was told a task, by id; and the session that remembers them.
    tasks: BTreeMap<String, Task>,
    tasks_record: Record,
    /// Lines of the client whose answers are on their way from the log.
    looked_for: usize,
    /// The server's own tasks of which no end was seen.
    server_tasks: BTreeSet<String>,
    /// What was known of the server's tools before this daemon.
    known_before: Option<Catalogue>,
    /// Lines of the client that were begun as calls before this daemon; absent where that cannot be told.
    begun: Option<BTreeSet<u64>>,
    to_server: Queue<Outbound>,
    to_client: mpsc::Sender<ToClient>,
    for_client: Queue<ToClient>,
    last_loss: Option<String>,
    /// Why the server is refused, until its connection is closed for that.
    refusal: Option<String>,
    in_flight: usize,
    /// What the session's log has of the connection.
    noted: Option<connection::Noted>,
    is_noting: bool,
    /// What the server said when it was last there.
    seen: Seen,
    written_seen: Seen,
    is_writing_seen: bool,
    /// The client was answered from that, and does not know what the server says now.
    gave_seen: bool,
    trouble: Trouble,
    draw: u64,
    draining_until_ms: Option<u64>,
    /// The daemon ends, and what is under way is waited for.
    leaving_until_ms: Option<u64>,
    /// The client has said all, and was told of what it waited for.
    has_let_go: bool,
    is_over: bool,
    is_ending: bool,
}

/// Says until when what is under way is waited for, each time that this is said.
async fn closes(closing: &mut Option<watch::Receiver<Option<Instant>>>) -> Instant {
    if let Some(said) = closing
        && said.changed().await.is_ok()
    {
        return said.borrow_and_update().unwrap_or_else(Instant::now);
    }
    std::future::pending().await
}

async fn next<T>(from: &mut Option<mpsc::Receiver<T>>) -> Option<T> {
    match from {
        Some(from) => from.recv().await,
        None => std::future::pending().await,
    }
}

impl Upstream {
    fn new(opener: Opener, terms: Terms, record: Record, seed: u64, to_client: mpsc::Sender<ToClient>) -> Self {
        let limits = Limits { upstream: terms.upstream.clone(), ..terms.limits.clone() };
        let mut link = Link::new(terms.timing.clone());
        let remembered = terms.remembered.clone();
        link.restore(remembered.failures);
        Self {
            opener,
            link,
            calls: Calls::new(limits),
            heard_on: None,
            places: BTreeMap::new(),
            commands: Vec::new(),
            batches: BTreeMap::new(),
            catalogue: None,
            catalogue_on: None,
            desired: Desired::restored(&remembered.desired),
            handshake: Handshake::known(terms.initialize.clone(), remembered.revision),
            own: BTreeMap::new(),
            live: None,
            inbox: None,
            closing: None,
            resume: remembered.resume,
            resumes_on: None,
            beside: JoinSet::new(),
            to_begin: Vec::new(),
            begins: FuturesUnordered::new(),
            finishes: Finishes::default(),
            tasks: BTreeMap::new(),
            looked_for: 0,
            server_tasks: remembered.server_tasks,
            begun: remembered.begun,
            known_before: remembered.seen.catalogue(),
            tasks_record: record.clone(),
            to_server: Queue::new(),
            to_client,
            for_client: Queue::new(),
            last_loss: None,
            refusal: None,
            in_flight: 0,
            noted: None,
            is_noting: false,
            written_seen: remembered.seen.clone(),
            seen: remembered.seen,
            is_writing_seen: false,
            gave_seen: false,
            trouble: Trouble::default(),
            draw: seed,
            draining_until_ms: None,
            leaving_until_ms: None,
            has_let_go: false,
            is_over: false,
            is_ending: false,
            began: Instant::now(),
            now_ms: 0,
            terms,
            record,
        }
    }

    fn now_ms(&self) -> u64 {
        self.now_ms
    }

    fn look_at_clock(&mut self) {
        self.now_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
    }

    async fn run(
        &mut self,
        mut from_client: mpsc::Receiver<FromClient>,
        mut asked: mpsc::Receiver<oneshot::Sender<Status>>,
    ) {
        let to_client = self.to_client.clone();
        let alarm = sleep_until(Instant::now());
        let mut alarm = std::pin::pin!(alarm);
        let mut rings_at = None;
        let mut closing = self.terms.closing.clone();
        if let Some(closing) = &mut closing {
            closing.mark_unchanged();
        }
        if let Some(until) = closing.as_ref().and_then(|closing| *closing.borrow()) {
            self.leave(until);
        }
        // A client starts its server because it wants it.
        self.link(link::Event::Start);
        self.take_up_tasks();
        while !self.is_over {
            self.begin_all();
            self.flush();
            self.hand_over();
            self.end_if_drained();
            if self.is_over {
                return;
            }
            // To ring too early costs a look; to set it anew for every call costs more.
            if let Some(due) = self.due().filter(|due| rings_at.is_none_or(|at| *due < at)) {
                alarm.as_mut().reset(due);
                rings_at = Some(due);
            }
            let (reads_client, reads_server) = (self.reads_client(), self.reads_server());
            // In this order, so that one seed gives one run; whoever is last gets a turn with every turn of the server.
            tokio::select! {
                biased;
                Some(answer) = asked.recv() => {
                    // Whoever asked may be gone.
                    self.look_at_clock();
                    let _ = answer.send(self.status());
                }
                until = closes(&mut closing) => {
                    self.look_at_clock();
                    self.leave(until);
                }
                () = &mut alarm, if rings_at.is_some() => {
                    rings_at = None;
                    self.look_at_clock();
                    self.tick();
                }
                Some(done) = self.beside.join_next() => {
                    if let Ok(done) = done {
                        self.done(done);
                    }
                }
                Some(done) = self.begins.next() => {
                    self.done(done);
                    while let Some(Some(done)) = self.begins.next().now_or_never() {
                        self.done(done);
                    }
                }
                permit = to_client.reserve(), if !self.for_client.lines.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some(line) = self.for_client.pop() {
                            permit.send(line);
                        }
                    }
                    Err(_) => self.is_over = true,
                },
                () = Self::room(self.live.as_ref()), if !self.to_server.lines.is_empty() && self.live.is_some() => {}
                came = next(&mut self.inbox), if reads_server => {
                    self.look_at_clock();
                    self.came(came);
                    for _ in 1..TURN {
                        let Some(Ok(came)) = self.inbox.as_mut().map(mpsc::Receiver::try_recv) else { break };
                        self.came(Some(came));
                        if !self.reads_server() {
                            break;
                        }
                    }
                    self.hear_client(&mut from_client);
                }
                said = from_client.recv(), if reads_client => match said {
                    Some(said) => {
                        self.look_at_clock();
                        self.client_has_said(said);
                        self.hear_client(&mut from_client);
                    }
                    None => self.is_over = true,
                },
                () = to_client.closed() => self.is_over = true,
            }
        }
    }

    /// When there is something to do, whoever says what.
    fn due(&self) -> Option<Instant> {
        let due_ms = [
            self.link.due_ms(),
            self.calls.due_ms(),
            self.handshake.due_ms(),
            self.draining_until_ms,
            self.leaving_until_ms,
            self.trouble.breaches.due_ms(),
            self.finishes.due_ms,
        ];
        let due_ms = due_ms.into_iter().flatten().min()?;
        Some(self.began + Duration::from_millis(due_ms))
    }

    fn reads_server(&self) -> bool {
        self.for_client.bytes < QUEUED_BYTES
    }

    /// Returns when the connection takes a line, or takes none any more.
    async fn room(live: Option<&Live>) {
        match live {
            // Its end is said by its inbox.
            Some(live) => drop(live.outbox.reserve().await),
            None => std::future::pending().await,
        }
    }

    fn flush(&mut self) {
        let Some(live) = &self.live else { return };
        while let Some((bytes, line)) = self.to_server.lines.pop_front() {
            self.to_server.bytes -= bytes;
            match live.outbox.try_send(line) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(line)) => {
                    self.to_server.bytes += bytes;
                    self.to_server.lines.push_front((bytes, line));
                    return;
                }
                // The connection is over: its inbox says so, and what was not taken was not sent.
                Err(mpsc::error::TrySendError::Closed(line)) => {
                    if let Some(wire) = line.wire {
                        self.bounced(wire);
                    }
                    return;
                }
            }
        }
    }

    fn bounced(&mut self, wire: u64) {
        let now_ms = self.now_ms();
        self.ledger(|calls, commands| calls.bounced(now_ms, wire, commands));
    }

    /// A sending has no answer, and the connection may be as good as ever.
    fn broken(&mut self, generation: Generation, wire: u64) {
        match self.own.remove(&wire) {
            Some(Own::Initialize | Own::Resume | Own::Hello | Own::Tools { is_handshake: true, .. }) => {
                return self.lose(generation, "the handshake broke off".to_owned());
            }
            Some(_) => return,
            None => {}
        }
        self.count_broken(wire);
        let now_ms = self.now_ms();
        self.ledger(|calls, commands| calls.broken(now_ms, wire, commands));
        if self.link.gate(now_ms) == Gate::Pass {
            self.release();
        }
    }

    fn tick(&mut self) {
        let now_ms = self.now_ms();
        if self.handshake.due_ms().is_some_and(|due_ms| now_ms >= due_ms) {
            let generation = self.link.generation();
            self.lose(generation, "it did not finish its handshake in time".to_owned());
        }
        if self.finishes.due_ms.is_some_and(|due_ms| now_ms >= due_ms) {
            self.write_finishes();
        }
        self.link(link::Event::Tick);
        let listed = self.trouble.breaches.tick(now_ms);
        self.list(listed);
        let retry_after_ms = match self.link.gate(now_ms) {
            Gate::Offline { retry_after_ms } => Some(retry_after_ms),
            _ => None,
        };
        self.ledger(|calls, commands| calls.tick(now_ms, retry_after_ms, commands));
    }

    /// Carries the link's commands out.
    fn link(&mut self, event: link::Event) {
        self.draw = self.draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let now_ms = self.now_ms();
        let commands = self.link.step(now_ms, event, self.draw >> 16);
        for command in commands {
            match command {
                link::Command::Open(generation) => self.open(generation),
                link::Command::Sync(generation) => self.shake_hands(generation),
                link::Command::Probe(generation) => self.probe(generation),
                // A child's end is seen by itself; there is nothing else to look at.
                link::Command::LookAside(_) => {}
                link::Command::Close(generation) => {
                    let given_up = || "it was silent, or did not finish its handshake, and was given up".to_owned();
                    self.last_loss = Some(self.refusal.take().unwrap_or_else(given_up));
                    self.drop_connection(generation);
                }
                link::Command::Release => self.release(),
                link::Command::SettleHeld => self.settle_held(),
                link::Command::Notice(Notice::Offline { for_ms }) => {
                    tracing::warn!(upstream = %self.terms.upstream, for_ms, "the server cannot be reached; it is tried for ever");
                    self.note_connection();
                    self.notice_outage(for_ms);
                }
                link::Command::Notice(Notice::Back { after_ms }) => {
                    tracing::info!(upstream = %self.terms.upstream, after_ms, "the server is back");
                    self.notice_back();
                }
            }
        }
        if self.link.gate(self.now_ms()) != Gate::Pass {
            self.calls.block();
        }
    }

    fn open(&mut self, generation: Generation) {
        let (recipe, bounds, last) = (self.terms.recipe.clone(), self.terms.bounds.clone(), self.closing.take());
        let resume = self.resume.clone().filter(|_| self.handshake.may_go_on());
        self.resumes_on = resume.is_some().then_some(generation);
        if resume.is_some() {
            // Ids of the earlier daemon's requests do not come again in one session.
            self.calls.count_from((self.draw >> 24) << 10);
        }
        let opener = self.opener.clone();
        self.beside.spawn(async move {
            // Two of one server at a time would get into each other's way.
            if let Some(last) = last {
                last.close().await;
            }
            Done::Opened(generation, opener(recipe, bounds, resume).await)
        });
    }

    fn drop_connection(&mut self, generation: Generation) {
        if let Some(live) = self.live.take_if(|live| live.generation == generation) {
            self.count_lost();
            self.inbox = None;
            self.closing = Some(live.ending);
        }
        // What was not given to the connection was not sent on it.
        let unsent: Vec<u64> = self.to_server.lines.iter().filter_map(|(_, line)| line.wire).collect();
        self.to_server.clear();
        for wire in unsent {
            self.bounced(wire);
        }
        self.own.clear();
        self.handshake.is_lost();
        let now_ms = self.now_ms();
        self.ledger(|calls, commands| calls.lost(now_ms, generation, commands));
    }

    fn lose(&mut self, generation: Generation, why: String) {
        tracing::info!(upstream = %self.terms.upstream, generation = generation.0, %why, "the connection to the server is lost");
        self.last_loss = Some(why);
        self.drop_connection(generation);
        self.link(link::Event::Lost(generation));
    }

    fn release(&mut self) {
        if self.handshake.is_under_way() {
            return;
        }
        let (now_ms, generation) = (self.now_ms(), self.link.generation());
        // What another connection's server said of its tools says nothing of this one's.
        let catalogue = self.catalogue.clone().filter(|_| self.catalogue_on == Some(generation));
        self.ledger(|calls, commands| calls.pass(now_ms, generation, catalogue.as_ref(), commands));
    }

    fn settle_held(&mut self) {
        if let Gate::Offline { retry_after_ms } = self.link.gate(self.now_ms()) {
            self.settle_as_seen();
            self.make_tasks();
            self.ledger(|calls, commands| calls.offline(retry_after_ms, commands));
            self.handshake_offline();
        }
    }

    /// Carries the ledger's commands out.
    fn ledger(&mut self, act: impl FnOnce(&mut Calls, &mut Vec<calls::Command>)) {
        let mut commands = std::mem::take(&mut self.commands);
        act(&mut self.calls, &mut commands);
        for command in commands.drain(..) {
            match command {
                calls::Command::Record(call) => self.begin(call),
                calls::Command::Send { wire, line, .. } => self.send(Some(wire), line),
                calls::Command::Tell { generation, line } => {
                    if self.live.as_ref().is_some_and(|live| live.generation == generation) {
                        self.send(None, line);
                    }
                }
                calls::Command::Deliver(line) => self.give(None, line),
                calls::Command::Answer { call, line } => self.call_answered(call, line),
                calls::Command::Finish { call, ending } => self.finish(call, ending),
                calls::Command::Stray(stray) => {
                    tracing::debug!(upstream = %self.terms.upstream, ?stray, "something came that belongs to nothing");
                }
            }
        }
        self.commands = commands;
        self.forget_over();
        self.tell_in_flight();
    }

    fn call_answered(&mut self, call: CallId, line: Bytes) {
        let Some(place) = self.places.get_mut(&call) else { return self.give(None, line) };
        place.is_answered = true;
        match place.task.clone() {
            Some(id) => self.task_answered(&id, &line),
            None => {
                let number = place.number;
                self.give(Some(number), line);
            }
        }
    }

    /// Of calls that are over the places are not kept.
    fn forget_over(&mut self) {
        if self.places.len() == self.calls.len() {
            return;
        }
        let calls = &self.calls;
        let mut over = Vec::new();
        self.places.retain(|call, place| {
            let stays = calls.get(*call).is_some();
            if !stays && !place.is_answered {
                over.push((place.number, place.task.take()));
            }
            stays
        });
        // Cancelled: nothing is left to be done about it.
        for (number, task) in over {
            match task {
                Some(task) => self.task_dropped(&task),
                None => self.taken(number),
            }
        }
    }

    /// The link is told how much the server has to do: a handshake is something, too.
    fn tell_in_flight(&mut self) {
        let in_flight = self.calls.in_flight() + usize::from(self.handshake.is_under_way());
        if in_flight != std::mem::replace(&mut self.in_flight, in_flight) {
            self.link(link::Event::InFlight(in_flight));
        }
    }

    fn send(&mut self, wire: Option<u64>, line: Bytes) {
        self.to_server.push(line.len(), Outbound { wire, line });
    }

    /// The connection says something.
    fn came(&mut self, came: Option<Inbound>) {
        let Some(generation) = self.live.as_ref().map(|live| live.generation) else { return };
        match came {
            Some(Inbound::Line(line)) => {
                self.link(link::Event::Heard(generation));
                self.server_says(generation, line);
            }
            Some(Inbound::Failed { wire, failure }) => match wire {
                Some(wire) if failure.is_not_executed() && !self.own.contains_key(&wire) => self.bounced(wire),
                Some(wire) => self.broken(generation, wire),
                None => {}
            },
            Some(Inbound::Heard) => self.link(link::Event::Heard(generation)),
            Some(Inbound::Breach(breach)) => self.breached(generation, breach),
            Some(Inbound::Closed { why }) => self.lose(generation, why),
            None => self.lose(generation, "the connection ended without a word".to_owned()),
        }
    }

    fn server_says(&mut self, generation: Generation, line: Bytes) {
        let size = line.len();
        let messages = match Frame::parse(line.clone()) {
            Ok(Frame::One(message)) => vec![Ok(*message)],
            Ok(Frame::Batch(parts)) => parts,
            Err(malformed) => vec![Err(malformed)],
        };
        for message in messages {
            match message {
                Ok(message) => self.server_message(generation, &message),
                // Servers print. What is no message is nobody's answer.
                Err(malformed) => {
                    tracing::warn!(upstream = %self.terms.upstream, size, %malformed, "the server printed what is no message");
                    self.breached(generation, breach::breach(ProtocolCause::NotAMessage, malformed.to_string(), &line));
                }
            }
        }
    }

    fn server_message(&mut self, generation: Generation, message: &Envelope) {
        self.trouble.breaches.heard();
        self.heard_on = Some(generation);
        let wire = message.id().and_then(|id| id.parse::<u64>().ok());
        let is_answer = matches!(message.kind(), Kind::Result | Kind::Error);
        if is_answer && let Some(wire) = wire {
            if let Some(own) = self.own.remove(&wire) {
                return self.own_answer(generation, own, message);
            }
            if self.handshake.was_done_on(generation) && reply::is_uninitialized(message).is_some() {
                self.bounced(wire);
                return self.lose(generation, "the server has forgotten that it was initialized".to_owned());
            }
            if message.kind() == Kind::Result {
                self.learn(wire, message);
            }
        }
        if message.method() == Some("notifications/tools/list_changed") {
            self.tools_changed(generation);
        }
        let now_ms = self.now_ms();
        let foreign = |calls: &Calls| calls.strays().get(&Stray::Foreign).copied();
        let before = foreign(&self.calls);
        self.ledger(|calls, commands| calls.from_server(now_ms, generation, message, commands));
        if is_answer && foreign(&self.calls) != before {
            self.answered_nothing(generation, message);
        }
    }

    /// What a client's own request tells about the server.
    fn learn(&mut self, wire: u64, answer: &Envelope) {
        let Some((request, asked)) = self.calls.sent_as(wire) else { return };
        if asked.class == Class::Desired {
            self.desired.agreed(request);
        }
        let has_other_tasks = connection::saw_task(&mut self.server_tasks, request, answer);
        let is_desired = asked.class == Class::Desired;
        let is_first_page = request.method() == Some("tools/list") && !request.has_cursor();
        if request.method() == Some("tools/list")
            && let Some(body) = answer.body()
        {
            if !request.has_cursor() {
                self.catalogue = Some(Catalogue::default());
                self.catalogue_on = self.live.as_ref().map(|live| live.generation);
            }
            if let Some(catalogue) = &mut self.catalogue {
                // What is no list adds nothing.
                let _ = catalogue.add(body);
            }
        }
        if is_desired || has_other_tasks {
            self.note_connection();
        }
        if is_first_page {
            self.saw_tools(answer);
        }
    }

    fn done(&mut self, done: Done) {
        self.look_at_clock();
        match done {
            Done::Opened(generation, Ok(connection)) => {
                if generation != self.link.generation() || self.link.phase() != Phase::Opening {
                    // It came too late: another try is under way, or it is all over.
                    self.closing = Some(connection.ending);
                    return;
                }
                // Whatever comes of it, the next connection begins a session of its own.
                self.resume = None;
                let Connection { outbox, inbox, ending, resumable } = connection;
                self.live = Some(Live { generation, outbox, ending, resumable });
                self.inbox = Some(inbox);
                self.link(link::Event::Opened(generation));
            }
            Done::Opened(generation, Err(error)) => {
                let is_child = self.terms.recipe.is_a_program();
                let what = if is_child { "the server cannot be started" } else { "the server cannot be reached" };
                self.last_loss = Some(format!("{what}: {error}"));
                tracing::info!(upstream = %self.terms.upstream, %error, "{what}");
                self.link(link::Event::Lost(generation));
            }
            Done::Begun(call, record, begun) => self.begun(call, *record, begun),
            Done::Exchanged(record, calls, begun) => self.exchanged(&record, calls, begun),
            Done::Written => {}
            Done::Task(id, written) => self.task_written(&id, written),
            Done::Found(number, line) => {
                self.looked_for = self.looked_for.saturating_sub(1);
                self.give(Some(number), line);
            }
            Done::Seen => {
                self.is_writing_seen = false;
                self.write_seen();
            }
            Done::Noted => {
                self.is_noting = false;
                self.note_connection();
            }
        }
    }
}
