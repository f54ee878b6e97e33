//! A client: an agent's process that asks for one thing at a time, repeats what was not answered with the same request id,
//! and does things outside the store between `begin` and `finish`.

mod effects;
mod shift;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use swarmkeep::{Actor, Blob, BlobId, EntityId, RequestId, State};
use swarmkeep_core::{
    command::{Command, CreateTask, Outcome, SpawnAgent},
    json::Json,
    state::{EffectClass, EffectOutcome},
    testing::{self, Draw},
};

use self::{effects::Work, shift::Shift};
use crate::{
    oracle::Oracle,
    outside::{Key, Outside},
    weather::Weather,
};

/// Answered requests that a client keeps, to send one again.
const ANSWERED: usize = 6;
/// Sizes of blobs, in bytes: those up to 64 KiB are kept in the record's frame.
const BLOB_SIZES: [usize; 5] = [0, 700, 65_536, 65_537, 90_000];

/// Something to be carried out.
#[derive(Debug, Clone)]
pub struct Submission {
    /// The same for every copy.
    pub request: RequestId,
    /// What.
    pub commands: Vec<Command>,
    /// What they refer to.
    pub blobs: Vec<Blob>,
    /// Who.
    pub actor: Actor,
}

/// What a client asks a holder.
#[derive(Debug, Clone)]
pub enum Ask {
    /// To carry something out.
    Submit {
        /// In which session.
        session: usize,
        /// What.
        what: Submission,
    },
    /// What was answered before, again: in its session, or in a fork that was made since.
    Again {
        /// In which session.
        session: usize,
        /// What.
        what: Submission,
        /// What it was answered.
        said: Vec<Outcome>,
    },
    /// For the state of a session.
    Look {
        /// Which.
        session: usize,
    },
    /// To set a session back.
    Rewind {
        /// Which.
        session: usize,
        /// To its state at this seq.
        to: u64,
        /// The same for every copy.
        request: RequestId,
        /// Who.
        actor: Actor,
    },
    /// For a session that begins with another one's state.
    Fork {
        /// Whose.
        session: usize,
        /// At this seq; absent: now.
        at: Option<u64>,
        /// The new session.
        to: usize,
        /// The same for every copy.
        request: RequestId,
        /// Who.
        actor: Actor,
    },
    /// For a blob.
    Fetch {
        /// Of which session.
        session: usize,
        /// Which.
        blob: BlobId,
    },
    /// To be taken for alive.
    Beat {
        /// In which session.
        session: usize,
        /// At which task.
        task: EntityId,
        /// Under which lease.
        lease: u64,
    },
}

impl Ask {
    /// The session that it is about; of a fork, the new one.
    #[must_use]
    pub fn session(&self) -> usize {
        match self {
            Self::Submit { session, .. }
            | Self::Again { session, .. }
            | Self::Look { session }
            | Self::Rewind { session, .. }
            | Self::Fork { to: session, .. }
            | Self::Fetch { session, .. }
            | Self::Beat { session, .. } => *session,
        }
    }

    /// The request that it is the first or a later copy of.
    #[must_use]
    pub fn request(&self) -> Option<(&RequestId, &[Command])> {
        match self {
            Self::Submit { what, .. } => Some((&what.request, &what.commands)),
            Self::Rewind { request, .. } | Self::Fork { request, .. } => Some((request, &[])),
            _ => None,
        }
    }
}

/// Something that it waits for an answer to.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// Names this question among all of the world.
    pub call: u64,
    /// What it asked.
    pub ask: Ask,
    /// How often it was sent.
    pub sent: u32,
    /// Where the session stood at least when it was sent first; of a sign of life, the newest lease of the task that anybody
    /// knew of.
    pub floor: u64,
}

/// What a client does next.
#[derive(Debug)]
pub enum Step {
    /// It asks something.
    Ask(Ask),
    /// It does something outside, as this attempt.
    Act(Key, EffectClass, u32),
    /// It does nothing for so long.
    Rest(u64),
    /// It has nothing left to do.
    Idle,
}

/// A client, over all its lives.
#[derive(Debug)]
pub struct Client {
    number: usize,
    life: u32,
    counter: u64,
    item: u64,
    weather: Weather,
    /// Its own randomness.
    pub draw: Draw,
    /// What it waits for.
    pub waiting: Option<Waiting>,
    work: Option<Work>,
    shift: Option<Shift>,
    /// What the next life knows of this one's work: agents keep notes.
    notes: Option<Work>,
    spawned: BTreeSet<usize>,
    states: BTreeMap<usize, State>,
    /// What it was answered lately, and in which session; and where that session stood then.
    answered: VecDeque<(usize, Submission, Vec<Outcome>, u64)>,
    /// When it next does something, in the world's time.
    pub wakes_at_ms: u64,
    /// It is stopped until then.
    pub stopped_until_ms: u64,
}

impl Client {
    /// The first life of a client.
    #[must_use]
    pub fn new(number: usize, seed: u64, weather: Weather) -> Self {
        Self {
            number,
            life: 1,
            counter: 0,
            item: 0,
            weather,
            draw: Draw::new(seed),
            waiting: None,
            work: None,
            shift: None,
            notes: None,
            spawned: BTreeSet::new(),
            states: BTreeMap::new(),
            answered: VecDeque::new(),
            wakes_at_ms: 0,
            stopped_until_ms: 0,
        }
    }

    /// Names the process.
    #[must_use]
    pub fn process(&self) -> String {
        format!("client{}-{}", self.number, self.life)
    }

    fn agent(&self) -> EntityId {
        EntityId::new(format!("a{}", self.number)).unwrap()
    }

    fn actor(&self) -> Actor {
        Actor::new(self.agent().as_str()).unwrap()
    }

    /// It ends. Another life begins, which knows at most what it was at.
    pub fn crash(&mut self) {
        let note = self.draw.below(4) > 0;
        self.notes = self.work.take().or(self.notes.take()).filter(|_| note);
        self.waiting = None;
        self.shift = None;
        self.states.clear();
        self.spawned.clear();
        self.answered.clear();
        self.life += 1;
        self.counter = 0;
    }

    /// A session is gone, and what it knew and did in it.
    pub fn forgets(&mut self, gone: usize) {
        self.work = self.work.take().filter(|work| work.key.0 != gone);
        self.notes = self.notes.take().filter(|work| work.key.0 != gone);
        self.shift = self.shift.take().filter(|shift| shift.session != gone);
        let of_it = |ask: &Ask| {
            let of_origin = matches!(ask, Ask::Fork { session, .. } if *session == gone);
            of_origin || ask.session() == gone
        };
        self.waiting = self.waiting.take().filter(|waiting| !of_it(&waiting.ask));
        self.states.remove(&gone);
        self.spawned.remove(&gone);
        self.answered.retain(|(session, ..)| *session != gone);
    }

    /// Whether it is, or may be, about to do this.
    #[must_use]
    pub fn is_at(&self, key: &Key) -> bool {
        self.work.as_ref().is_some_and(|work| work.is_at(key))
    }

    /// Whether it has nothing under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.waiting.is_none() && self.work.is_none() && self.shift.is_none()
    }

    /// What it waits for or works at, for people.
    #[must_use]
    pub fn plight(&self) -> String {
        format!("{} waits for {:?}, works at {:?}, {:?}", self.process(), self.waiting, self.work, self.shift)
    }

    fn request(&mut self) -> RequestId {
        self.counter += 1;
        RequestId::Counted { client: EntityId::new(self.process()).unwrap(), counter: self.counter }
    }

    fn submit(&mut self, session: usize, commands: Vec<Command>, blobs: Vec<Blob>) -> Step {
        let what = Submission { request: self.request(), commands, blobs, actor: self.actor() };
        Step::Ask(Ask::Submit { session, what })
    }

    /// What it does now. `winding_up`: it finishes what it is at, and takes nothing new. `sessions`: those that it knows of.
    pub fn next(
        &mut self,
        winding_up: bool,
        sessions: &[usize],
        oracle: &Oracle,
        outside: &Outside,
        held: impl Fn(&Key) -> bool,
    ) -> Step {
        if self.work.is_none() {
            self.work = self.notes.take().map(Work::again);
        }
        if let Some(work) = self.work.clone() {
            return self.go_on(work, outside, held);
        }
        if let Some(shift) = self.shift.clone() {
            return self.at_task(shift, winding_up);
        }
        if winding_up {
            return Step::Idle;
        }
        let session = sessions[self.draw.below(sessions.len())];
        if self.spawned.insert(session) {
            let agent = SpawnAgent { id: Some(self.agent()), ..SpawnAgent::new(format!("agent {}", self.number)) };
            return self.submit(session, vec![Command::SpawnAgent(agent)], Vec::new());
        }
        let weather = self.weather;
        match self.draw.below(20) {
            0 => Step::Rest(self.draw.below(300) as u64),
            1..=3 => Step::Ask(Ask::Look { session }),
            4..=6 => {
                self.take_up(session);
                Step::Rest(1)
            }
            7 | 8 if weather.workers => self.begin_shift(session),
            9 if weather.rewinds && self.draw.one_in(2) => self.rewind(session),
            10 if weather.forks && self.draw.one_in(2) => self.fork(session),
            11 if weather.blobs => self.keep_blob(session),
            12 if weather.blobs => self.fetch(session, oracle),
            13 => self.again(),
            _ => {
                let commands = self.commands(session);
                if commands.is_empty() { Step::Rest(5) } else { self.submit(session, commands, Vec::new()) }
            }
        }
    }

    fn commands(&mut self, session: usize) -> Vec<Command> {
        let state = self.states.get(&session).cloned().unwrap_or_default();
        if self.weather.fat && self.draw.one_in(3) {
            let key = EntityId::new(format!("large-{}", self.draw.below(12))).unwrap();
            let value = Json::parse(&format!("\"{}\"", "x".repeat(20_000 + self.draw.below(60_000)))).unwrap();
            let scope = EntityId::new("shared").unwrap();
            return vec![Command::SetMemory { scope, key, value, if_version: None, ttl_ms: None }];
        }
        let commands = (0..1 + self.draw.below(3)).map(|_| testing::command(&mut self.draw, &state));
        commands.collect::<Vec<_>>().into_iter().filter(is_plain).collect()
    }

    fn rewind(&mut self, session: usize) -> Step {
        let Some(head) = self.states.get(&session).map(|state| state.head.seq.0).filter(|head| *head > 1) else {
            return Step::Ask(Ask::Look { session });
        };
        let back = self.draw.below(usize::try_from(head.min(40)).unwrap()) as u64;
        Step::Ask(Ask::Rewind { session, to: head - back, request: self.request(), actor: self.actor() })
    }

    fn fork(&mut self, session: usize) -> Step {
        let head = self.states.get(&session).map(|state| state.head.seq.0).filter(|head| *head > 1);
        let at =
            head.filter(|_| self.draw.one_in(2)).map(|head| 1 + self.draw.below(usize::try_from(head).unwrap()) as u64);
        // Which session it is, the world says.
        Step::Ask(Ask::Fork { session, at, to: usize::MAX, request: self.request(), actor: self.actor() })
    }

    /// Few contents: the same one comes again, from others too.
    fn keep_blob(&mut self, session: usize) -> Step {
        let nth = self.draw.below(2 * BLOB_SIZES.len());
        let mut content = vec![0; BLOB_SIZES[nth % BLOB_SIZES.len()]];
        blake3::Hasher::new().update(&nth.to_le_bytes()).finalize_xof().fill(&mut content);
        let blob = Blob::new(Bytes::from(content));
        let command = Command::Record {
            kind: "blob".into(),
            aggregate: None,
            payload: Json::null(),
            blobs: BTreeMap::from([(format!("content {nth}"), blob.id)]),
        };
        self.submit(session, vec![command], vec![blob])
    }

    fn fetch(&mut self, session: usize, oracle: &Oracle) -> Step {
        let blobs = &oracle.sessions[session].blobs;
        match blobs.iter().nth(self.draw.below(blobs.len())) {
            Some(blob) => Step::Ask(Ask::Fetch { session, blob: *blob }),
            None => Step::Rest(1),
        }
    }

    /// Sends something again that it was answered already.
    fn again(&mut self) -> Step {
        match self.answered.get(self.draw.below(self.answered.len())).cloned() {
            Some((session, what, said, _)) => Step::Ask(Ask::Again { session, what, said }),
            None => Step::Rest(1),
        }
    }

    /// It made a fork of a session: what it had been answered there by `at` is remembered in it.
    pub fn made_fork(&mut self, from: usize, at: u64, to: usize) {
        self.waiting = None;
        let known = self.answered.iter().find(|(session, _, _, seq)| *session == from && *seq <= at).cloned();
        if let Some((_, what, said, _)) = known {
            self.answered.push_front((to, what, said, at));
        }
    }

    /// What it asked for was carried out, by records up to `written` (0: nothing had to be written, and nothing is remembered).
    /// Gives what it was told of an effect's outcome.
    pub fn hears(&mut self, session: usize, outcomes: &[Outcome], written: u64) -> Option<(Key, EffectOutcome)> {
        let waiting = self.waiting.take();
        if self.work.is_some() {
            return self.work_hears(outcomes);
        }
        if self.shift.is_some() {
            self.shift_hears(outcomes);
            return None;
        }
        if let Some(Waiting { ask: Ask::Submit { what, .. }, .. }) = waiting.filter(|_| written > 0) {
            self.answered.push_back((session, what, outcomes.to_vec(), written));
            if self.answered.len() > ANSWERED {
                self.answered.pop_front();
            }
        }
        None
    }

    /// What it asked for was refused. True: it went on under a lease that is over.
    pub fn is_refused(&mut self, in_doubt: bool, lease_lost: bool) -> bool {
        self.waiting = None;
        if self.work.is_some() {
            self.work_is_refused(in_doubt);
            return false;
        }
        self.shift.is_some() && self.shift_is_refused(lease_lost)
    }

    /// It was shown the state of a session.
    pub fn sees(&mut self, session: usize, state: State) {
        self.waiting = None;
        self.states.insert(session, state);
    }

    fn work_task(&mut self) -> Command {
        self.item += 1;
        let id = EntityId::new(format!("work-{}-{}", self.number, self.item)).unwrap();
        let task = CreateTask { id: Some(id), kind: shift::KIND.into(), ..CreateTask::new("work") };
        Command::CreateTask(CreateTask { max_retries: Some(1_000), ..task })
    }
}

/// Whether clients of this world ask for it: not what ends or stops a session, nor what is for effects and the engine.
fn is_plain(command: &Command) -> bool {
    !matches!(
        command,
        Command::Pause { .. }
            | Command::Park {}
            | Command::Close { .. }
            | Command::Expire {}
            | Command::BeginEffect(_)
            | Command::FinishEffect { .. }
            | Command::ResolveEffect { .. }
            | Command::DoubtEffect { .. }
            | Command::Rewind { .. }
    )
}
