//! What the store is asked to do: a history drawn from a seed. The acknowledgements are written down outside the store, after
//! each has come.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use swarmkeep::{Turn, Workers, disk::simulated::SimDisk, embedded::EmbeddedLog};
use swarmkeep_core::{
    EntityId, Epoch, RequestId, Seq, SessionId, SessionName,
    checkpoint::Checkpoint,
    command::Command,
    json::Json,
    log::{Blob, Durability, Log, Observation, Remove},
    session::{self, Circumstances, Group, NewSession, Request, Session, Staged},
    state::{State, forked_base},
    testing::{self, Draw},
};

use super::world::{Fact, Fixed, STORE, Story, driven, open_with, some_turns};

/// A store at work.
pub struct Work {
    pub disk: SimDisk,
    pub kept: bool,
    pub fixed: Arc<Fixed>,
    pub story: Story,
    draw: Draw,
    /// A store without threads: the same seed makes the same calls.
    pub by_hand: bool,
    /// Chooses its turns.
    turns: Draw,
    log: Option<EmbeddedLog>,
    sessions: BTreeMap<SessionId, Session>,
    /// The state at the end of each group that was sent.
    states: BTreeMap<(SessionId, u64), State>,
    /// Sessions with a group of which it is not known what became.
    unsettled: BTreeSet<SessionId>,
    names: u64,
    requests: u64,
    /// Goes on after an error, as an engine does: what failed is dropped, and decided again upon what is durable.
    pub persists: bool,
    /// Writes that were acknowledged.
    pub writes: u64,
    /// The most bytes that the disk ever held between two steps.
    pub most_bytes: u64,
    /// A wrong answer that was met on the way.
    pub wrong: Option<String>,
}

/// Steps that fail one after the other before it is no use to go on.
const ERRORS_IN_A_ROW: usize = 3;
/// Longer than anything takes on a disk in memory.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(4);

/// Why it went no further: what the store said.
pub type Stopped = String;

impl Work {
    pub fn new(disk: SimDisk, seed: u64) -> Self {
        swarmkeep::disk::Disk::create_dir(&disk, std::path::Path::new(STORE)).unwrap();
        Self {
            disk,
            kept: seed % 2 == 1,
            fixed: Fixed::new(seed),
            story: Story::default(),
            draw: Draw::new(seed),
            by_hand: false,
            turns: Draw::new(!seed),
            log: None,
            sessions: BTreeMap::new(),
            states: BTreeMap::new(),
            unsettled: BTreeSet::new(),
            names: 0,
            requests: 0,
            persists: false,
            writes: 0,
            most_bytes: 0,
            wrong: None,
        }
    }

    /// One whose store has no threads.
    pub fn by_hand(disk: SimDisk, seed: u64) -> Self {
        Self { by_hand: true, ..Self::new(disk, seed) }
    }

    pub async fn open(&mut self) -> Result<(), Stopped> {
        let workers = if self.by_hand { Workers::Caller } else { Workers::Threads };
        let opened = open_with(&self.disk, self.kept, self.fixed.clone(), workers);
        self.log = Some(opened.map_err(|error| format!("{error:?}"))?);
        Ok(())
    }

    /// While it is open.
    pub fn log(&self) -> Option<&EmbeddedLog> {
        self.log.as_ref()
    }

    fn opened(&self) -> &EmbeddedLog {
        self.log.as_ref().unwrap()
    }

    /// The group that makes a session, under an epoch of the caller's.
    pub fn first_group(&mut self, epoch: Epoch) -> swarmkeep_core::log::Group {
        let (new, now_ms) = (self.name(), self.tick());
        let mut salts = || [7; 16];
        let circumstances = Circumstances { epoch, now_ms, salts: &mut salts };
        session::create(new, &testing::actor(), circumstances).unwrap().1.log
    }

    /// The store, while it is open; from here on it is somebody else's.
    pub fn take_log(&mut self) -> Option<EmbeddedLog> {
        self.log.take()
    }

    fn happened(&mut self, fact: Fact) {
        self.story.facts.push(fact);
        self.disk.note(self.story.facts.len() as u64);
    }

    fn tick(&mut self) -> u64 {
        self.fixed.now_ms.fetch_add(1 + self.draw.below(1500) as u64, Ordering::SeqCst)
    }

    /// Opens, works, closes and opens again.
    pub async fn run(&mut self, opens: usize, steps: usize) -> Result<(), Stopped> {
        for nth in 0..opens {
            if let Err(error) = self.open().await {
                // An error once: the next try may meet none.
                let again = if self.persists { self.open().await } else { Err(error) };
                again?;
            }
            let mut failed = 0;
            for _ in 0..steps {
                // A disk that never works again keeps a removal waiting for it.
                let done = tokio::time::timeout(PATIENCE, self.step()).await;
                let done = done.unwrap_or_else(|_| {
                    // What is still on its way may come to pass later: nobody can say yet.
                    std::mem::take(&mut self.unsettled).iter().for_each(|id| drop(self.sessions.remove(id)));
                    Err("it did not come to an end".into())
                });
                self.most_bytes = self.most_bytes.max(self.disk.used_bytes());
                failed = if done.is_ok() { 0 } else { failed + 1 };
                if !self.persists || failed > ERRORS_IN_A_ROW {
                    done?;
                }
                if !self.unsettled.is_empty() {
                    self.settle().await;
                }
                if let Some(log) = &self.log {
                    some_turns(log, &mut self.turns);
                }
            }
            if nth + 1 < opens && nth % 2 == 0 {
                // Parked; every other time it just ends.
                let parked = self.opened().close().map_err(|error| format!("{error:?}"));
                if !self.persists {
                    parked?;
                }
            }
            if nth + 1 < opens || !self.persists {
                self.log = None;
            }
        }
        Ok(())
    }

    /// Asks where the sessions end that had a group on its way when something failed. What the store says then is owed from
    /// there on: a group that it says is not there must not come back.
    async fn settle(&mut self) {
        for id in std::mem::take(&mut self.unsettled) {
            let head = match tokio::time::timeout(PATIENCE, driven(self.opened(), self.opened().head(id))).await {
                Ok(Ok(head)) => head,
                _ => {
                    self.sessions.remove(&id);
                    continue;
                }
            };
            let seq = head.map_or(0, |head| head.seq.0);
            let acknowledged = self.story.owed(self.story.facts.len())[&id].acknowledged;
            let life = &self.story.lives[&id];
            let known = head.is_none_or(|head| life.records.get(seq as usize - 1) == Some(&head.hash));
            if seq < acknowledged || !known || (seq > 0 && !life.ends.contains(&seq)) {
                self.wrong = Some(format!("after an error session {id} ends at {seq}, {acknowledged} acknowledged"));
            }
            if (life.records.len() as u64) > seq {
                self.story.turn(id, seq);
            }
            self.happened(Fact::Served(id, seq));
            match self.states.get(&(id, seq)).cloned() {
                Some(state) if self.sessions.contains_key(&id) => {
                    self.sessions.insert(id, Session::new(state));
                }
                _ => {
                    self.sessions.remove(&id);
                }
            }
        }
    }

    /// Makes sessions until one is taken: true when the store takes writes again by itself.
    pub async fn takes_writes(&mut self) -> bool {
        let again = async {
            while self.create().await.is_err() {
                self.settle().await;
                match self.by_hand {
                    // Its time passes only when somebody waits.
                    true => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
                    false => tokio::task::yield_now().await,
                }
                for turn in [Turn::Apply, Turn::Retire] {
                    self.opened().turn(turn);
                }
            }
        };
        tokio::time::timeout(PATIENCE * 2, again).await.is_ok()
    }

    async fn step(&mut self) -> Result<(), Stopped> {
        let live = self.sessions.len();
        match self.draw.below(24) {
            0 | 1 if live < 5 => self.create().await,
            _ if live < 2 => self.create().await,
            2 if live < 6 => self.fork().await,
            3 => self.save().await,
            4 if live > 3 => self.remove().await,
            5 => self.trim().await,
            6 => self.blob(3_000).await,
            7 => self.blob(66_000).await,
            8 => self.observe().await,
            9..12 => self.write(3).await,
            _ => self.write(1).await,
        }
    }

    fn pick(&mut self) -> SessionId {
        let ids: Vec<SessionId> = self.sessions.keys().copied().collect();
        ids[self.draw.below(ids.len())]
    }

    fn stage(&mut self, id: SessionId, request: Request) -> Option<Group> {
        let now_ms = self.tick();
        let epoch = Epoch(self.opened().incarnation());
        let number = self.draw.number();
        let mut salt = 0u128;
        let mut salts = || {
            salt += 1;
            (u128::from(number) << 64 | salt).to_le_bytes()
        };
        let session = self.sessions.get_mut(&id).unwrap();
        match session.stage(request, Circumstances { epoch, now_ms, salts: &mut salts }) {
            Ok(Staged::Group(group)) => Some(*group),
            _ => None,
        }
    }

    /// What is on its way to the store, whatever becomes of it.
    fn sent(&mut self, group: &Group) {
        let life = self.story.lives.entry(group.log.session).or_default();
        life.records.extend(group.records.iter().map(|record| record.hash));
        let seq = group.state.head.seq.0;
        assert_eq!(life.records.len() as u64, seq);
        life.ends.insert(seq);
        life.states.insert(seq, group.state.hash());
        life.blobs.extend(group.log.blobs.iter().map(|blob| (seq, blob.id)));
    }

    /// Sends groups of different sessions at once, and waits for all.
    async fn send(&mut self, groups: Vec<Group>) -> Result<(), Stopped> {
        for group in &groups {
            self.sent(group);
            self.unsettled.insert(group.log.session);
            if self.persists {
                self.states.insert((group.log.session, group.state.head.seq.0), group.state.clone());
            }
        }
        let sent: Vec<_> =
            groups.iter().map(|group| self.opened().append(group.log.clone(), Durability::Durable)).collect();
        let mut stopped = Ok(());
        for (group, receipt) in groups.iter().zip(sent) {
            match driven(self.opened(), receipt).await {
                Ok(_) => {
                    self.unsettled.remove(&group.log.session);
                    self.writes += 1;
                    self.happened(Fact::Acknowledged(group.log.session, group.state.head.seq.0));
                }
                Err(error) => stopped = Err(format!("{error:?}")),
            }
        }
        stopped
    }

    fn name(&mut self) -> NewSession {
        self.names += 1;
        NewSession::new(SessionName::new("test", &format!("s{}", self.names)).unwrap())
    }

    async fn create(&mut self) -> Result<(), Stopped> {
        let new = self.name();
        let (epoch, now_ms, salt) = (Epoch(self.opened().incarnation()), self.tick(), self.draw.number());
        let mut salts = || u128::from(salt).to_le_bytes();
        let circumstances = Circumstances { epoch, now_ms, salts: &mut salts };
        let (session, group) = session::create(new, &testing::actor(), circumstances).unwrap();
        self.sessions.insert(group.log.session, session);
        self.send(vec![group]).await
    }

    async fn fork(&mut self) -> Result<(), Stopped> {
        let from = self.pick();
        let base = forked_base(self.sessions[&from].staged());
        // Packed, as the engine has it.
        let blob = Blob::new(Bytes::from(zstd::bulk::compress(&base.canonical(), 1).unwrap()));
        if blob.bytes.len() > 4_000 {
            return Ok(());
        }
        let new = self.name();
        let (epoch, now_ms, salt) = (Epoch(self.opened().incarnation()), self.tick(), self.draw.number());
        let mut salts = || u128::from(salt).to_le_bytes();
        let circumstances = Circumstances { epoch, now_ms, salts: &mut salts };
        let (session, group) = session::fork(new, &base, blob, None, None, &testing::actor(), circumstances).unwrap();
        self.sessions.insert(group.log.session, session);
        self.send(vec![group]).await
    }

    async fn write(&mut self, most: usize) -> Result<(), Stopped> {
        let mut ids: Vec<SessionId> = self.sessions.keys().copied().collect();
        let mut groups = Vec::new();
        for _ in 0..most.min(ids.len()) {
            let id = ids.swap_remove(self.draw.below(ids.len()));
            let mut request = Request::new(testing::actor(), Vec::new());
            for _ in 0..1 + self.draw.below(2) {
                let command = testing::command(&mut self.draw, self.sessions[&id].staged());
                if !matches!(command, Command::Expire { .. } | Command::Pause { .. } | Command::Park { .. }) {
                    request.commands.push(command);
                }
            }
            self.requests += 1;
            let client = EntityId::new("client").unwrap();
            request.id = Some(RequestId::Counted { client, counter: self.requests });
            groups.extend(self.stage(id, request));
        }
        self.send(groups).await
    }

    async fn blob(&mut self, bytes: usize) -> Result<(), Stopped> {
        let id = self.pick();
        let mut content = vec![0; bytes];
        blake3::Hasher::new().update(&self.draw.number().to_le_bytes()).finalize_xof().fill(&mut content);
        let blob = Blob::new(Bytes::from(content));
        let command = Command::Record {
            kind: "blob".into(),
            aggregate: None,
            payload: Json::null(),
            blobs: BTreeMap::from([("it".to_owned(), blob.id)]),
        };
        let mut request = Request::new(testing::actor(), vec![command]);
        request.blobs.push(blob);
        let group = self.stage(id, request);
        self.send(group.into_iter().collect()).await
    }

    async fn save(&mut self) -> Result<(), Stopped> {
        let id = self.pick();
        let checkpoint = Checkpoint::of(self.sessions[&id].staged());
        driven(self.opened(), self.opened().save(id, checkpoint)).await.map_err(|error| format!("{error:?}"))
    }

    async fn observe(&mut self) -> Result<(), Stopped> {
        let id = self.pick();
        let metric = Observation::Metric {
            agent: EntityId::new("agent0").unwrap(),
            kind: "usage".into(),
            name: "tokens".into(),
            value: 1.5,
            tags: Json::parse("{}").unwrap(),
            at_ms: 5,
        };
        driven(self.opened(), self.opened().observe(id, vec![metric])).await.map_err(|error| format!("{error:?}"))
    }

    async fn remove(&mut self) -> Result<(), Stopped> {
        let id = self.pick();
        self.sessions.remove(&id);
        self.happened(Fact::Removing(id));
        let epoch = Epoch(self.opened().incarnation());
        driven(self.opened(), self.opened().remove(id, epoch, Remove::All))
            .await
            .map_err(|error| format!("{error:?}"))?;
        self.happened(Fact::Removed(id));
        Ok(())
    }

    async fn trim(&mut self) -> Result<(), Stopped> {
        let id = self.pick();
        let checkpoint = Checkpoint::of(self.sessions[&id].staged());
        let through = checkpoint.head.seq.0.saturating_sub(3);
        driven(self.opened(), self.opened().save(id, checkpoint)).await.map_err(|error| format!("{error:?}"))?;
        if through == 0 {
            return Ok(());
        }
        self.happened(Fact::Trimming(id, through));
        let epoch = Epoch(self.opened().incarnation());
        let what = Remove::RecordsThrough(Seq(through));
        driven(self.opened(), self.opened().remove(id, epoch, what)).await.map_err(|error| format!("{error:?}"))
    }
}
