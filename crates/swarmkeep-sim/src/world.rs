//! What happens, in order of time: first a storm, in which everything fails that the weather allows; then a calm, in which
//! everything has to come right by itself.

mod faults;
mod proof;

use std::{collections::BTreeMap, sync::Arc};

use swarmkeep::{
    ErrorKind, RefusalCode, Turn,
    disk::{
        Disk,
        simulated::{Loss, SimDisk},
    },
};
use swarmkeep_core::testing::Draw;

use self::proof::{Inquiry, Phase, Question};
use crate::{
    client::{Ask, Client, Step, Waiting},
    figures::Figures,
    holder::{Answer, Holder, STORE, SimClock},
    invariant::{bounded, effects},
    network::Network,
    oracle::Oracle,
    outside::Outside,
    reader::Reader,
    trace::Trace,
    weather::Weather,
};

/// Longest time of the calm until everything is right, in milliseconds of the world.
const CALM_MS: u64 = 90_000;
/// Most things that may happen in a world.
const STEPS: u64 = 2_000_000;

/// What a world came to.
#[derive(Debug)]
pub struct Ended {
    /// The hash of its trace.
    pub trace: [u8; 32],
    /// In numbers.
    pub figures: Figures,
    /// Which invariant was broken, and how.
    pub failed: Option<String>,
    /// The trace, if it was wanted.
    pub lines: Vec<String>,
}

/// Runs the world of a seed to its end.
#[must_use]
pub fn run(seed: u64, keep_trace: bool) -> Ended {
    let mut world = World::new(seed, keep_trace);
    let failed = world.live().err();
    if let Some(failed) = &failed {
        world.say(format_args!("BROKEN {failed}"));
    }
    world.figures.steps = world.trace.steps();
    world.figures.world_ms = world.now_ms;
    world.figures.acknowledged = world.oracle.acknowledged;
    world.figures.repeated = world.oracle.repeated;
    Ended { trace: world.trace.hash(), figures: world.figures, failed, lines: world.trace.into_lines() }
}

#[derive(Debug)]
enum Event {
    /// A client does something.
    Wake(usize),
    /// A reader does something.
    Read(usize),
    /// A request reaches a holder.
    Arrive { client: usize, call: u64, ask: Ask },
    /// An answer reaches a client.
    Told { client: usize, call: u64, answer: Answer, former: bool },
    /// The holder gets its turns.
    Turns,
    /// A holder starts.
    Start,
    /// Something goes wrong.
    Fault,
    /// A disk whose sync failed loses its power.
    Outage,
    /// Something is all right again.
    Mend(faults::Mend),
    /// Somebody looks at everything.
    Prove,
    /// The storm is over.
    Calm,
    /// Has everything come right?
    Settle,
}

/// Who asked.
#[derive(Debug, Clone, Copy)]
enum Caller {
    Client(usize),
    World(Question),
}

/// How the holder is to end.
#[derive(Debug, Clone, Copy)]
struct Doom {
    /// With the power.
    loss: Option<Loss>,
}

struct World {
    now_ms: u64,
    nth: u64,
    queue: BTreeMap<(u64, u64), Event>,
    draw: Draw,
    weather: Weather,
    trace: Trace,
    figures: Figures,
    clock: Arc<SimClock>,
    disk: SimDisk,
    names: Arc<Vec<String>>,
    holder: Option<Holder>,
    /// Another one, which has lost the disk to this one and does not know it.
    former: Option<Holder>,
    /// Clients that still ask it.
    loyal: Vec<bool>,
    doom: Option<Doom>,
    /// The holder is stopped until then.
    stopped_until_ms: u64,
    /// A frame is taken and not yet written.
    taken: bool,
    /// The applier does nothing until then.
    lazy_until_ms: u64,
    lives: u64,
    epochs: Vec<swarmkeep::Epoch>,
    network: Network,
    clients: Vec<Client>,
    readers: Vec<Reader>,
    oracle: Oracle,
    outside: Outside,
    calls: BTreeMap<u64, Caller>,
    next_call: u64,
    phase: Phase,
    inquiry: Inquiry,
    /// Faults of the disk were on since the last start: what a look says then proves nothing.
    disk_faults: bool,
    /// Syncs may have failed since the last start. SQLite then believes in pages of its write-ahead log that the disk may
    /// have dropped, for as long as the process lives: if the store does not come right, a restart is allowed to help.
    syncs_failed: bool,
    seed: u64,
}

impl World {
    fn new(seed: u64, keep_trace: bool) -> Self {
        let mut draw = Draw::new(seed);
        let weather = Weather::of(&mut draw);
        let disk = SimDisk::new();
        disk.create_dir(std::path::Path::new(STORE)).unwrap();
        let clients: Vec<_> = (0..weather.clients)
            .map(|number| Client::new(number, draw.number(), weather.sessions, weather.fat))
            .collect();
        let readers =
            (0..weather.readers).map(|_| Reader::new(draw.below(weather.sessions), draw.number(), true)).collect();
        let mut world = Self {
            now_ms: 0,
            nth: 0,
            queue: BTreeMap::new(),
            trace: Trace::new(keep_trace),
            figures: Figures::default(),
            clock: Arc::default(),
            disk,
            names: Arc::new((0..weather.sessions).map(|nth| format!("sim/s{nth}")).collect()),
            holder: None,
            former: None,
            loyal: vec![false; clients.len()],
            doom: None,
            stopped_until_ms: 0,
            taken: false,
            lazy_until_ms: 0,
            lives: 0,
            epochs: Vec::new(),
            network: Network::new(draw.number(), weather, clients.len()),
            oracle: Oracle::new(weather.sessions),
            outside: Outside::default(),
            calls: BTreeMap::new(),
            next_call: 0,
            phase: Phase::Storm,
            inquiry: Inquiry::default(),
            disk_faults: false,
            syncs_failed: false,
            clients,
            readers,
            draw,
            weather,
            seed,
        };
        world.say(format_args!("seed {seed}: {weather:?}"));
        world.at(0, Event::Start);
        for client in 0..world.clients.len() {
            let at = 1 + world.draw.below(50) as u64;
            world.wake(client, at);
        }
        for reader in 0..world.readers.len() {
            world.at(5, Event::Read(reader));
        }
        world.at(1, Event::Turns);
        world.at(200, Event::Fault);
        world.at(700, Event::Prove);
        world.at(weather.storm_ms, Event::Calm);
        world
    }

    fn say(&mut self, what: std::fmt::Arguments<'_>) {
        self.trace.say(self.now_ms, what);
    }

    /// Something is to happen after so many milliseconds.
    fn at(&mut self, after_ms: u64, event: Event) {
        self.nth += 1;
        self.queue.insert((self.now_ms + after_ms, self.nth), event);
    }

    fn wake(&mut self, client: usize, after_ms: u64) {
        self.clients[client].wakes_at_ms = self.now_ms + after_ms;
        self.at(after_ms, Event::Wake(client));
    }

    fn live(&mut self) -> Result<(), String> {
        while let Some(((at_ms, _), event)) = self.queue.pop_first() {
            self.now_ms = at_ms;
            self.clock.set(at_ms);
            self.drive();
            self.happen(event)?;
            if self.phase == Phase::Over {
                return Ok(());
            }
            if self.trace.steps() > STEPS {
                return Err("liveness: it does not come to an end".into());
            }
        }
        Err("liveness: nothing happens any more".into())
    }

    fn is_stopped(&self) -> bool {
        self.stopped_until_ms > self.now_ms
    }

    /// Lets the holders run up to now, and takes what they say.
    fn drive(&mut self) {
        if let Some(holder) = &self.holder
            && !self.is_stopped()
        {
            holder.run(self.now_ms);
        }
        if let Some(former) = &self.former {
            former.run(self.now_ms);
        }
        self.collect();
    }

    fn collect(&mut self) {
        // What a process says in the moment of its death is heard by nobody.
        if self.holder.as_ref().is_some_and(|holder| holder.disk().has_died()) {
            self.die();
        }
        for former in [false, true] {
            let holder = if former { &self.former } else { &self.holder };
            for (call, answer) in holder.as_ref().map(|holder| holder.answers()).unwrap_or_default() {
                self.answered(call, answer, former);
            }
        }
    }

    fn answered(&mut self, call: u64, answer: Answer, former: bool) {
        match self.calls.get(&call).copied() {
            Some(Caller::Client(client)) => {
                if let Some(at_ms) = self.network.answer(client, self.now_ms) {
                    self.at(at_ms - self.now_ms, Event::Told { client, call, answer, former });
                }
            }
            Some(Caller::World(question)) => self.inquiry.hears(question, answer),
            None => {}
        }
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Wake(client) => self.wakes(client)?,
            Event::Read(reader) => self.reads(reader)?,
            Event::Arrive { client, call, ask } => self.arrives(client, call, ask),
            Event::Told { client, call, answer, former } => self.told(client, call, answer, former)?,
            Event::Turns => self.turns(),
            Event::Start => self.start()?,
            Event::Fault => self.fault()?,
            Event::Outage => self.outage(),
            Event::Mend(mend) => self.mend(mend),
            Event::Prove => self.prove()?,
            Event::Calm => self.calm(),
            Event::Settle => self.settle()?,
        }
        self.hear()
    }

    fn wakes(&mut self, nth: usize) -> Result<(), String> {
        let client = &mut self.clients[nth];
        if client.wakes_at_ms != self.now_ms {
            return Ok(());
        }
        if client.stopped_until_ms > self.now_ms {
            let rest = client.stopped_until_ms - self.now_ms;
            self.wake(nth, rest);
            return Ok(());
        }
        if let Some(waiting) = &mut client.waiting {
            waiting.sent += 1;
            self.send(nth);
            return Ok(());
        }
        let winding_up = self.phase != Phase::Storm;
        let mut clients = std::mem::take(&mut self.clients);
        let mut client = clients.remove(nth);
        let step = client.next(winding_up, &self.outside, |key| clients.iter().any(|other| other.is_at(key)));
        clients.insert(nth, client);
        self.clients = clients;
        match step {
            Step::Ask(ask) => {
                self.next_call += 1;
                let call = self.next_call;
                self.calls.insert(call, Caller::Client(nth));
                let session = match &ask {
                    Ask::Submit { session, request, .. } => {
                        self.oracle.asks(*session, request);
                        *session
                    }
                    Ask::Look { session } => *session,
                };
                let floor = self.oracle.sessions[session].floor;
                self.clients[nth].waiting = Some(Waiting { call, ask, sent: 1, floor });
                self.send(nth);
            }
            Step::Act(key, class, attempt) => {
                let process = self.clients[nth].process();
                self.say(format_args!("{process} does {}/{} as attempt {attempt}", key.0, key.1));
                self.outside.act(&key, class, &process, attempt);
                self.figures.deeds += 1;
                self.figures.checks +=
                    effects::done(&self.outside, &key, class).map_err(|what| format!("effects: {what}"))?;
                let rest = 1 + self.draw.below(300) as u64;
                self.wake(nth, rest);
            }
            Step::Rest(ms) => self.wake(nth, ms.max(1)),
            // Woken again when there is something.
            Step::Idle => {}
        }
        Ok(())
    }

    /// Sends what a client waits for, for the first time or again.
    fn send(&mut self, nth: usize) {
        let Some(Waiting { call, ask, sent, .. }) = self.clients[nth].waiting.clone() else { return };
        let arrivals = self.network.request(nth, self.now_ms);
        if let Ask::Submit { session, request, .. } = &ask {
            let (session, request) = (*session, request.clone());
            self.say(format_args!("{request} to s{session}, sent {sent} times, arrives {arrivals:?}"));
        }
        for at_ms in arrivals {
            self.at(at_ms - self.now_ms, Event::Arrive { client: nth, call, ask: ask.clone() });
        }
        let patience = (150 + 2 * self.weather.delay_ms) << (sent - 1).min(4);
        self.wake(nth, patience.min(4_000));
    }

    fn arrives(&mut self, client: usize, call: u64, ask: Ask) {
        let holder = match (&self.former, self.loyal[client]) {
            (Some(former), true) => Some(former),
            _ => self.holder.as_ref(),
        };
        // Nobody listens, or what has arrived waits in the socket of a process that is stopped.
        if let Some(holder) = holder {
            holder.ask(call, ask);
        }
    }

    fn told(&mut self, nth: usize, call: u64, answer: Answer, former: bool) -> Result<(), String> {
        let client = &self.clients[nth];
        if client.stopped_until_ms > self.now_ms {
            let rest = client.stopped_until_ms - self.now_ms;
            self.at(rest, Event::Told { client: nth, call, answer, former });
            return Ok(());
        }
        let Some(Waiting { ask, floor, .. }) = client.waiting.clone().filter(|waiting| waiting.call == call) else {
            return Ok(());
        };
        let mut rest = 1 + self.draw.below(40) as u64;
        match (ask, answer) {
            (Ask::Submit { session, request, .. }, Answer::Done(reply)) => {
                let (first, head) = (reply.first, reply.head);
                self.say(format_args!("{request} is acknowledged: {first} to {}, {:?}", head.seq, reply.outcomes));
                let known = self.oracle.acknowledges(session, &request, &reply);
                known.map_err(|what| format!("acknowledged is durable: {what}"))?;
                if let Some((key, outcome)) = self.clients[nth].hears(&reply.outcomes) {
                    let told = effects::told(&self.outside, &key, &outcome);
                    self.figures.checks += told.map_err(|what| format!("effects: {what}"))?;
                }
            }
            (Ask::Look { session }, Answer::State(state)) => {
                let head = state.head;
                // A holder that lost the disk shows what it had: it writes nothing, and knows nothing of the other.
                if head.seq.0 < floor && !former {
                    return Err(format!("order: s{session} was shown at {}, after {floor} had been", head.seq));
                }
                self.oracle.shows(session, head.seq.0, head.hash).map_err(|what| format!("order: {what}"))?;
                self.clients[nth].sees(session, *state);
            }
            (ask, Answer::Failed(error)) => {
                let code = error.refusal.as_ref().map(|refusal| refusal.code);
                self.say(format_args!("client {nth} hears {:?} {code:?}: {}", error.kind, error.message));
                match (error.kind, code) {
                    (_, Some(RefusalCode::OutcomeUnknown)) => self.clients[nth].is_refused(true),
                    (ErrorKind::Refused | ErrorKind::Invalid | ErrorKind::NotFound | ErrorKind::Conflict, _)
                    | (ErrorKind::Limit, _)
                    | (_, Some(_)) => self.clients[nth].is_refused(false),
                    // It may have been done, or may be done later: the same again.
                    _ => {
                        if let (Some(waiting), Ask::Submit { .. } | Ask::Look { .. }) =
                            (&mut self.clients[nth].waiting, ask)
                        {
                            waiting.sent += 1;
                        }
                        rest = 100 + self.draw.below(300) as u64;
                    }
                }
            }
            _ => return Ok(()),
        }
        self.wake(nth, rest);
        Ok(())
    }

    fn reads(&mut self, nth: usize) -> Result<(), String> {
        let rest = 10 + self.draw.below(60) as u64;
        self.at(rest, Event::Read(nth));
        let Some(holder) = self.holder.as_ref().filter(|_| self.stopped_until_ms <= self.now_ms) else { return Ok(()) };
        let calm = self.phase != Phase::Storm;
        let read = self.readers[nth].read(holder, &mut self.oracle, calm).map_err(|what| format!("feeds: {what}"))?;
        self.figures.items += read;
        self.figures.checks += read;
        if read > 0 {
            let (session, seq) = self.readers[nth].stands();
            self.say(format_args!("reader {nth} of s{session} is at {seq}"));
        }
        Ok(())
    }

    /// Journal, applier and keeper do some of what they have to do.
    fn turns(&mut self) {
        let pause = 1 + self.draw.below(6) as u64;
        self.at(pause, Event::Turns);
        if self.is_stopped() {
            return;
        }
        let (mut done, before) = (Vec::new(), self.disk.calls());
        if let Some(holder) = &self.holder {
            let draw = &mut self.draw;
            let mut turn = |turn| {
                if holder.turn(turn) {
                    done.push(turn);
                    true
                } else {
                    false
                }
            };
            if self.taken {
                // Else it is still being synced.
                if !draw.one_in(4) {
                    turn(Turn::Write);
                    self.taken = false;
                }
            } else {
                self.taken = turn(Turn::Take);
                if !self.taken && draw.one_in(8) {
                    turn(Turn::Seal);
                }
            }
            if self.lazy_until_ms <= self.now_ms && draw.one_in(6) {
                turn(Turn::Apply);
            }
            if draw.one_in(30) {
                turn(Turn::Retire);
            }
            if draw.one_in(30) {
                turn(Turn::Keep);
            }
        }
        if let Some(former) = &self.former {
            former.turn(Turn::Take);
            former.turn(Turn::Write);
            former.turn(Turn::Apply);
        }
        let calls = self.disk.calls();
        if calls != before {
            self.say(format_args!("{done:?}, {calls} calls to the disk"));
        }
        self.collect();
    }

    fn start(&mut self) -> Result<(), String> {
        if self.holder.is_some() {
            return Ok(());
        }
        self.lives += 1;
        if self.weather.nested && self.phase == Phase::Storm && self.draw.one_in(3) {
            self.dooms(80);
        }
        let seed = self.seed << 16 ^ self.lives;
        match Holder::start(&self.disk, &self.weather, &self.clock, seed, self.now_ms, &self.names) {
            Ok(holder) => {
                let epoch = holder.epoch();
                self.say(format_args!("a holder starts, epoch {epoch}"));
                if self.epochs.last().is_some_and(|last| *last >= epoch) {
                    return Err(format!("holding: epoch {epoch} comes after {:?}", self.epochs));
                }
                let report = holder.log().opening_report();
                if report.damage.iter().any(|line| line.contains("NOT in records.db")) {
                    return Err(format!("acknowledged is durable: nothing was damaged; the report says {report:?}"));
                }
                self.epochs.push(epoch);
                self.holder = Some(holder);
                (self.taken, self.stopped_until_ms) = (false, 0);
                (self.disk_faults, self.syncs_failed) = (false, false);
                self.collect();
            }
            Err(error) => {
                self.say(format_args!("a holder does not start: {error}"));
                if self.disk.has_died() {
                    self.die();
                } else if self.phase != Phase::Storm {
                    return Err(format!("liveness: the store does not open: {error:?}"));
                } else {
                    self.at(300, Event::Start);
                }
            }
        }
        Ok(())
    }

    /// The end of the holder's process, perhaps of the machine.
    fn die(&mut self) {
        let doom = self.doom.take().unwrap_or(Doom { loss: None });
        self.figures.crashes += 1;
        self.disk = match doom.loss {
            Some(loss) => {
                self.figures.power += 1;
                let seed = self.draw.number();
                self.disk.crash(loss, seed)
            }
            None => self.disk.kill(),
        };
        (self.holder, self.former) = (None, None);
        self.readers.iter_mut().for_each(Reader::cut);
        self.loyal.fill(false);
        self.inquiry.forget();
        let after = 5 + self.draw.below(1_200) as u64;
        self.say(format_args!("the holder ends, {doom:?}; again after {after} ms"));
        self.at(after, Event::Start);
    }

    fn bounded(&mut self) -> Result<(), String> {
        if let Some(holder) = &self.holder {
            self.figures.checks +=
                bounded::check(&holder.health(), holder.settings()).map_err(|what| format!("bounded: {what}"))?;
        }
        Ok(())
    }
}
