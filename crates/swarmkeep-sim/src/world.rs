//! What happens, in order of time: first a storm, in which everything fails that the weather allows; then a calm, in which
//! everything has to come right by itself.

mod answers;
mod faults;
mod keeping;
mod proof;
mod rot;
mod takeover;

use std::{collections::BTreeMap, sync::Arc};

use swarmkeep::{
    BlobId, Damaged, DataLoss, Error, Turn,
    disk::{
        Disk,
        simulated::{Call, Loss, SimDisk},
    },
};
use swarmkeep_core::{failure::Place, testing::Draw};

use self::{
    proof::{Inquiry, Phase, Question},
    rot::Rotten,
    takeover::Taking,
};
use crate::{
    client::{Ask, Client, Step, Waiting},
    figures::Figures,
    holder::{Answer, Holder, Program, STORE, SimClock},
    invariant::{bounded, effects, parked},
    network::Network,
    oracle::{Known, Oracle},
    outside::Outside,
    reader::Reader,
    tools::{Counted, Tools},
    trace::Trace,
    weather::Weather,
};

/// Longest time of the calm until everything is right, in milliseconds of the world.
const CALM_MS: u64 = 90_000;
/// Most things that may happen in a world.
const STEPS: u64 = 2_000_000;
/// What tells worlds with a tool server from others.
const TOOLS_SEED: u64 = 0x0074_6f6f_6c73;
/// Most forks of a world.
const FORKS: usize = 3;

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
    // What was to happen on the disk would keep it.
    world.disk.never_mind();
    if let Some(failed) = &failed {
        world.say(format_args!("BROKEN {failed}"));
    }
    world.figures.steps = world.trace.steps();
    world.figures.world_ms = world.now_ms;
    world.figures.writes = world.oracle.acknowledged;
    world.figures.repeated = world.oracle.repeated;
    world.figures.lapsed += world.oracle.sessions.iter().map(|known| known.leases.lapsed).sum::<u64>();
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
    /// A takeover that is under way comes to its end.
    TakeOver,
    /// A tool server, its client and the proxy between them do something.
    Tools,
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
    /// What opens the store next.
    program: Program,
    /// Forks that were asked for, and of what.
    origins: Vec<(usize, usize)>,
    /// Sessions that clients know of.
    open: Vec<usize>,
    holder: Option<Holder>,
    /// Another one, which this one took the store over from, and which may not know it.
    former: Option<Holder>,
    /// It is stopped until then.
    former_wakes_ms: u64,
    /// A takeover that is under way.
    taking: Option<Taking>,
    /// Clients that still ask it.
    loyal: Vec<bool>,
    doom: Option<Doom>,
    /// It is being parked.
    parking: bool,
    /// It was parked, and nobody has opened the store since.
    is_parked: bool,
    /// What the last start said is damaged.
    told: Vec<Damaged>,
    /// What rotted, as it was.
    rotten: Option<Rotten>,
    /// What had rotted and was put back, and the last question that was asked before.
    was_rotten: Option<(usize, BlobId, u64)>,
    /// A second copy was harmed.
    copy_rotted: bool,
    /// Sessions to be removed before the store is opened for its clients again.
    removing: Vec<usize>,
    /// When the holder was stopped.
    stopped_at_ms: u64,
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
    tools: Option<Tools>,
    oracle: Oracle,
    outside: Outside,
    calls: BTreeMap<u64, Caller>,
    next_call: u64,
    phase: Phase,
    inquiry: Inquiry,
    /// There is hardly any room on the disk.
    is_full: bool,
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
        let clients: Vec<_> = (0..weather.clients).map(|number| Client::new(number, draw.number(), weather)).collect();
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
            program: Program::of(&weather),
            origins: Vec::new(),
            open: (0..weather.sessions).collect(),
            holder: None,
            former: None,
            former_wakes_ms: 0,
            taking: None,
            loyal: vec![false; clients.len()],
            doom: None,
            parking: false,
            is_parked: false,
            told: Vec::new(),
            rotten: None,
            was_rotten: None,
            copy_rotted: false,
            removing: Vec::new(),
            stopped_at_ms: 0,
            stopped_until_ms: 0,
            taken: false,
            lazy_until_ms: 0,
            lives: 0,
            epochs: Vec::new(),
            network: Network::new(draw.number(), weather, clients.len()),
            oracle: Oracle::new(weather.sessions),
            // Drawn apart: a world without one goes as it went before there was any.
            tools: Draw::new(seed ^ TOOLS_SEED).one_in(3).then(|| Tools::new(seed)),
            outside: Outside::default(),
            calls: BTreeMap::new(),
            next_call: 0,
            phase: Phase::Storm,
            inquiry: Inquiry::default(),
            is_full: false,
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
        if world.tools.is_some() {
            world.at(3, Event::Tools);
        }
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
            self.is_taken_over()?;
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
        self.former_runs();
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
                if !former {
                    self.notes_sign(client, call, &answer);
                }
                if let Some(at_ms) = self.network.answer(client, self.now_ms) {
                    self.at(at_ms - self.now_ms, Event::Told { client, call, answer, former });
                }
            }
            // One that was being parked when it was taken over from parks nothing any more.
            Some(Caller::World(Question::Close)) if former => {}
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
            Event::TakeOver => self.takes_over_now()?,
            Event::Tools => self.tools()?,
            Event::Fault => self.fault(),
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
        let held = |key: &_| clients.iter().any(|other| other.is_at(key));
        let step = client.next(winding_up, &self.open, &self.oracle, &self.outside, held);
        clients.insert(nth, client);
        self.clients = clients;
        match step {
            Step::Ask(Ask::Fork { .. }) if self.oracle.sessions.len() >= self.weather.sessions + FORKS => {
                self.wake(nth, 1);
            }
            Step::Ask(mut ask) => {
                self.next_call += 1;
                let call = self.next_call;
                self.calls.insert(call, Caller::Client(nth));
                if let Ask::Fork { session, to, .. } = &mut ask {
                    *to = self.oracle.sessions.len();
                    self.origins.push((*to, *session));
                    self.oracle.sessions.push(Known::default());
                }
                let session = ask.session();
                if let Some((request, commands)) = ask.request() {
                    self.oracle.asks(session, request, commands);
                }
                let known = &self.oracle.sessions[session];
                let floor = match &ask {
                    Ask::Beat { task, .. } => known.leases.newest(task),
                    _ => known.floor,
                };
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
        let session = ask.session();
        match &ask {
            Ask::Submit { .. } | Ask::Rewind { .. } | Ask::Fork { .. } => {
                let request = ask.request().map(|(request, _)| request.clone());
                let request = request.map_or_else(String::new, |request| request.to_string());
                self.say(format_args!("{request} to s{session}, sent {sent} times, arrives {arrivals:?}"));
            }
            Ask::Beat { task, lease, .. } => {
                let task = task.clone();
                self.say(format_args!(
                    "client {nth} is at {task} of s{session} under lease {lease}: arrives {arrivals:?}"
                ));
            }
            _ => {}
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

    fn tools(&mut self) -> Result<(), String> {
        let Some(tools) = &mut self.tools else { return Ok(()) };
        if !matches!(self.phase, Phase::Storm | Phase::Calm) {
            // The store is looked at, and parked: nobody is there any more.
            tools.leave();
            return Ok(());
        }
        let mut counted = Counted::default();
        let holder = self.holder.as_ref().map(|holder| (holder.epoch().0, holder));
        let (now_ms, trace) = (self.now_ms, &mut self.trace);
        let mut says = |what: std::fmt::Arguments<'_>| trace.say(now_ms, what);
        let done = tools.step(now_ms, holder, self.phase == Phase::Storm, &mut counted, &mut says);
        let rest = tools.rests_ms();
        self.figures.tool_calls += counted.answered;
        self.figures.tool_doubts += counted.unknown;
        self.figures.tool_cuts += counted.cuts;
        self.figures.checks += counted.checks;
        self.at(rest, Event::Tools);
        done.map_err(|what| format!("tools: {what}"))
    }

    /// Journal, applier and keeper do some of what they have to do.
    fn turns(&mut self) {
        // Nothing is hurried when nobody asks for anything.
        let is_quiet = self.phase == Phase::Calm && self.clients.iter().all(Client::is_idle);
        let pause = 1 + self.draw.below(if is_quiet { 40 } else { 6 }) as u64;
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
        self.former_turns();
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
        let was_parked = std::mem::take(&mut self.is_parked) && self.removing.is_empty();
        if self.weather.nested && self.phase == Phase::Storm && self.draw.one_in(3) {
            self.dooms(80);
        }
        let seed = self.seed << 16 ^ self.lives;
        if !self.remove_sessions(seed)? {
            return Ok(());
        }
        match Holder::start(&self.disk, &self.program, &self.clock, seed, self.now_ms) {
            Ok(holder) => {
                let epoch = holder.epoch();
                self.say(format_args!("a holder starts, epoch {epoch}"));
                if self.epochs.last().is_some_and(|last| *last >= epoch) {
                    return Err(format!("holding: epoch {epoch} comes after {:?}", self.epochs));
                }
                let report = holder.log().opening_report();
                if report.damage.iter().any(|damage| damage.place == Place::Journal && damage.loss == DataLoss::Certain)
                {
                    return Err(format!("acknowledged is durable: nothing was damaged; the report says {report:?}"));
                }
                if was_parked {
                    self.figures.checks +=
                        parked::check(&report, &self.told).map_err(|what| format!("parked: {what}"))?;
                }
                self.told = report.damage;
                self.epochs.push(epoch);
                self.holder = Some(holder);
                self.oracle.times.starts(epoch, self.now_ms);
                (self.taken, self.stopped_until_ms, self.parking) = (false, 0, false);
                // A fault that was set while nobody held the store is still to come.
                self.disk_faults = self.is_full || self.disk.may_fail(None);
                self.syncs_failed = self.disk.may_fail(Some(Call::Sync));
                self.collect();
            }
            Err(error) => {
                self.does_not_start(&error)?;
            }
        }
        Ok(())
    }

    fn does_not_start(&mut self, error: &Error) -> Result<(), String> {
        self.say(format_args!("a holder does not start: {error}"));
        if self.disk.has_died() {
            self.die();
        } else if self.phase != Phase::Storm {
            return Err(format!("liveness: the store does not open: {error:?}"));
        } else {
            self.at(300, Event::Start);
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
        (self.holder, self.former, self.taking) = (None, None, None);
        self.ended();
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
