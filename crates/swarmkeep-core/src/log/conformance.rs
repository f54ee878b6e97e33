//! What every [`Log`] must do, as a suite that any of them can be held to.
//!
//! One case per obligation, named as a fact. A case that fails panics with what was promised. No runtime is needed: drive
//! [`all`] with whatever the implementation runs on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test suite: a broken promise is a panic"
)]

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Blob, Commit, Durability, Group, HINTED_SESSIONS, Head, Hint, Hints, Log, LogError, LogFuture, Observation,
    Refused, Remove, Take,
};
use crate::{
    checkpoint::Checkpoint,
    command::{Command, CreateTask},
    id::{Actor, EntityId, Epoch, Seq, SessionId, SessionName},
    json::Json,
    limits,
    query::{Of, Query},
    record,
    session::{self, Circumstances, NewSession, Request, Session, Staged},
};

/// How the suite gets at the implementation.
pub trait Fixture: Send + Sync {
    /// A log over an empty store.
    fn open(&self) -> LogFuture<'_, Arc<dyn Log>>;

    /// Closes cleanly and opens the same store again; what keeps nothing beyond itself gives itself back.
    fn reopen(&self, log: Arc<dyn Log>) -> LogFuture<'_, Arc<dyn Log>>;

    /// Whether a saved checkpoint is still there after [`Fixture::reopen`]; the contract calls it a hint.
    fn keeps_checkpoints(&self) -> bool {
        true
    }
}

/// Runs every case, each over an empty store, and prints its name before it.
///
/// # Panics
/// At the first promise that is not kept.
pub async fn all(fixture: &dyn Fixture) {
    macro_rules! run {
        ($($case:ident),+ $(,)?) => {$(
            println!("conformance: {}", stringify!($case).replace('_', " "));
            $case(fixture, fixture.open().await.expect("an empty store opens")).await;
        )+};
    }
    run!(
        a_created_session_shows_nothing_before_its_first_group,
        create_refuses_what_exists_and_resume_what_does_not,
        the_same_holder_gets_the_same_grant,
        what_was_appended_is_read_byte_for_byte,
        a_read_in_small_pieces_is_contiguous,
        a_stale_head_conflicts_and_writes_nothing,
        an_epoch_that_is_not_the_newest_is_fenced_out,
        overlapping_groups_commit_in_the_order_of_the_calls,
        after_a_failed_group_the_later_ones_fail,
        a_dropped_future_undoes_nothing,
        an_acknowledgement_says_what_it_is,
        sessions_do_not_mix,
        everything_acknowledged_survives_a_reopen,
        an_old_grant_does_not_survive_a_newer_one,
        a_checkpoint_is_never_ahead_and_never_above_what_was_asked,
        blobs_are_there_with_their_record_and_only_in_their_session,
        observations_move_no_head,
        a_find_that_waits_sees_its_own_write,
        a_removed_session_is_gone_and_stays_gone,
        records_are_removed_only_below_a_checkpoint,
        removal_is_fenced_too,
        a_watcher_is_told_where_to_look_and_is_never_a_burden,
    );
}

/// A session that is written through the log under test.
struct Writer {
    id: SessionId,
    epoch: Epoch,
    session: Session,
    salt: u64,
    bytes: Vec<u8>,
}

fn actor() -> Actor {
    Actor::new("conformance").unwrap()
}

fn name(text: &str) -> SessionName {
    SessionName::new("conformance", text).unwrap()
}

fn salts(salt: &mut u64) -> impl FnMut() -> [u8; 16] {
    move || {
        *salt += 1;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&salt.to_le_bytes());
        bytes
    }
}

impl Writer {
    /// Takes a session that does not exist, and stages its first group.
    async fn new(log: &dyn Log, text: &str) -> (Self, Group) {
        let id = name(text).id();
        let grant = log.take(id, Take::Create).await.expect("an unknown name can be created");
        assert_eq!(grant.head, Head::default(), "a created session begins at seq 0");
        let mut salt = 0;
        let (session, group) = {
            let mut salts = salts(&mut salt);
            let circumstances = Circumstances { epoch: grant.epoch, now_ms: 1_000, salts: &mut salts };
            session::create(NewSession::new(name(text)), &actor(), circumstances).unwrap()
        };
        let bytes = group.log.records.to_vec();
        (Self { id, epoch: grant.epoch, session, salt, bytes }, group.log)
    }

    /// A session with its first group committed.
    async fn created(log: &dyn Log, text: &str) -> Self {
        let (writer, group) = Self::new(log, text).await;
        let commit = log.append(group, Durability::Durable).await.expect("the first group commits");
        assert_eq!(commit.head, writer.head());
        writer
    }

    fn head(&self) -> Head {
        self.session.staged().head
    }

    /// The next group: as many records as there are texts.
    fn group(&mut self, texts: &[&str]) -> Group {
        self.group_with(texts, Vec::new())
    }

    fn group_with(&mut self, texts: &[&str], blobs: Vec<Blob>) -> Group {
        let record = |text: &&str| Command::Record {
            kind: "note".into(),
            aggregate: None,
            payload: Json::encode(*text).unwrap(),
            blobs: blobs.iter().map(|blob| (blob.id.to_string(), blob.id)).collect(),
        };
        let mut request = Request::new(actor(), texts.iter().map(record).collect());
        request.blobs = blobs.clone();
        self.stage(request)
    }

    fn stage(&mut self, request: Request) -> Group {
        let staged = {
            let mut salts = salts(&mut self.salt);
            let circumstances = Circumstances { epoch: self.epoch, now_ms: 2_000, salts: &mut salts };
            self.session.stage(request, circumstances).unwrap()
        };
        let Staged::Group(group) = staged else { panic!("a group") };
        self.bytes.extend_from_slice(&group.log.records);
        group.log
    }

    async fn write(&mut self, log: &dyn Log, texts: &[&str]) -> Commit {
        let group = self.group(texts);
        let commit = log.append(group, Durability::Durable).await.expect("a group that follows commits");
        assert_eq!(commit.head, self.head());
        commit
    }

    /// The log holds exactly what was written.
    async fn check(&self, log: &dyn Log) {
        assert_eq!(log.head(self.id).await.unwrap(), Some(self.head()), "head is what was acknowledged last");
        assert_eq!(
            read_all(log, self.id, Seq::ZERO, 1 << 20).await,
            self.bytes,
            "the records are those that were written"
        );
    }
}

async fn read_all(log: &dyn Log, session: SessionId, after: Seq, max_bytes: usize) -> Vec<u8> {
    let mut all = Vec::new();
    let mut after = after;
    loop {
        let bytes = log.read(session, after, max_bytes).await.expect("acknowledged records are read");
        if bytes.is_empty() {
            return all;
        }
        for view in record::iter(&bytes) {
            let view = view.expect("whole records");
            assert_eq!(view.seq(), after.next(), "contiguous");
            after = view.seq();
        }
        all.extend_from_slice(&bytes);
    }
}

async fn a_created_session_shows_nothing_before_its_first_group(fixture: &dyn Fixture, log: Arc<dyn Log>) {
    let (writer, group) = Writer::new(&*log, "one").await;
    assert_eq!(log.head(writer.id).await.unwrap(), None);
    assert!(matches!(log.take(writer.id, Take::Resume).await, Err(LogError::NotFound) | Ok(_)));
    log.append(group, Durability::Durable).await.unwrap();
    writer.check(&*log).await;

    let id = name("never-written").id();
    log.take(id, Take::Create).await.unwrap();
    let log = fixture.reopen(log).await.unwrap();
    assert_eq!(log.head(id).await.unwrap(), None, "a session that was only taken never existed");
    assert!(matches!(log.take(id, Take::Resume).await, Err(LogError::NotFound)));
}

async fn create_refuses_what_exists_and_resume_what_does_not(_: &dyn Fixture, log: Arc<dyn Log>) {
    let writer = Writer::created(&*log, "one").await;
    assert!(matches!(log.take(writer.id, Take::Create).await, Err(LogError::Exists)));
    let unknown = name("unknown").id();
    assert!(matches!(log.take(unknown, Take::Resume).await, Err(LogError::NotFound)));
    assert!(matches!(log.take(unknown, Take::Force).await, Err(LogError::NotFound)));
    assert_eq!(log.head(unknown).await.unwrap(), None);
    assert!(matches!(log.read(unknown, Seq::ZERO, 1).await, Err(LogError::NotFound)));
    writer.check(&*log).await;
}

async fn the_same_holder_gets_the_same_grant(_: &dyn Fixture, log: Arc<dyn Log>) {
    let mut writer = Writer::created(&*log, "one").await;
    let first = log.take(writer.id, Take::Resume).await.unwrap();
    let second = log.take(writer.id, Take::Resume).await.unwrap();
    assert_eq!((first.epoch, first.head), (second.epoch, second.head));
    assert_eq!(first.epoch, writer.epoch);
    assert_eq!(first.head, writer.head());
    writer.write(&*log, &["still mine"]).await;
    writer.check(&*log).await;
}

async fn what_was_appended_is_read_byte_for_byte(_: &dyn Fixture, log: Arc<dyn Log>) {
    let mut writer = Writer::created(&*log, "one").await;
    let long = "x".repeat(100_000);
    writer.write(&*log, &["a", "b", "c"]).await;
    writer.write(&*log, &[&long]).await;
    writer.write(&*log, &["d"]).await;
    writer.check(&*log).await;
    let tail = log.read(writer.id, Seq(5), 1 << 20).await.unwrap();
    assert_eq!(record::RecordView::split(&tail).unwrap().0.seq(), Seq(6));
    assert!(log.read(writer.id, writer.head().seq, 1).await.unwrap().is_empty(), "nothing after the head");
}

async fn a_read_in_small_pieces_is_contiguous(_: &dyn Fixture, log: Arc<dyn Log>) {
    let mut writer = Writer::created(&*log, "one").await;
    for nth in 0..20 {
        let text = format!("{nth}").repeat(nth * 10 + 1);
        writer.write(&*log, &[&text, "and", "more"]).await;
    }
    for max_bytes in [0, 1, 500, 5_000] {
        assert_eq!(read_all(&*log, writer.id, Seq::ZERO, max_bytes).await, writer.bytes);
    }
}

async fn a_stale_head_conflicts_and_writes_nothing(_: &dyn Fixture, log: Arc<dyn Log>) {
    let mut writer = Writer::created(&*log, "one").await;
    let mut behind = Writer {
        id: writer.id,
        epoch: writer.epoch,
        session: writer.session.clone(),
        salt: 1_000,
        bytes: writer.bytes.clone(),
    };
    writer.write(&*log, &["first"]).await;
    match log.append(behind.group(&["second"]), Durability::Durable).await {
        Err(LogError::Conflict(head)) => assert_eq!(head, writer.head(), "a conflict says where the log ends"),
        other => panic!("a stale head conflicts, not {other:?}"),
    }
    writer.check(&*log).await;
    writer.write(&*log, &["third"]).await;
    writer.check(&*log).await;
}

async fn an_epoch_that_is_not_the_newest_is_fenced_out(_: &dyn Fixture, log: Arc<dyn Log>) {
    let mut writer = Writer::created(&*log, "one").await;
    let (state, salt, bytes) = (writer.session.clone(), writer.salt, writer.bytes.clone());
    let granted = writer.epoch;
    writer.epoch = Epoch(granted.0.checked_sub(1).unwrap_or(granted.0 + 1));
    let group = writer.group(&["not mine"]);
    assert!(matches!(log.append(group, Durability::Durable).await, Err(LogError::Fenced(epoch)) if epoch == granted));
    (writer.epoch, writer.session, writer.salt, writer.bytes) = (granted, state, salt, bytes);
    writer.check(&*log).await;
    writer.write(&*log, &["mine"]).await;
    writer.check(&*log).await;
}

async fn overlapping_groups_commit_in_the_order_of_the_calls(_: &dyn Fixture, log: Arc<dyn Log>) {
    let mut writer = Writer::created(&*log, "one").await;
    let mut waiting = Vec::new();
    for nth in 0..32 {
        let group = writer.group(&[&format!("{nth}")]);
        let head = group.head;
        waiting.push((head, log.append(group, Durability::Durable)));
    }
    // Whoever waits for the last one first must not hold up the others.
    for (head, future) in waiting.into_iter().rev() {
        assert_eq!(future.await.expect("each follows the one before").head, head);
    }
    writer.check(&*log).await;
}

async fn after_a_failed_group_the_later_ones_fail(_: &dyn Fixture, log: Arc<dyn Log>) {
    let mut writer = Writer::created(&*log, "one").await;
    let (state, salt, bytes) = (writer.session.clone(), writer.salt, writer.bytes.clone());
    let lost = writer.group(&["never sent"]);
    let first = log.append(writer.group(&["after it"]), Durability::Durable);
    let second = log.append(writer.group(&["and after that"]), Durability::Durable);
    assert!(matches!(first.await, Err(LogError::Conflict(_))));
    assert!(matches!(second.await, Err(LogError::Conflict(_) | LogError::Unknown(_))));
    drop(lost);
    (writer.session, writer.salt, writer.bytes) = (state, salt, bytes);
    writer.check(&*log).await;
    writer.write(&*log, &["goes on"]).await;
    writer.check(&*log).await;
}

async fn a_dropped_future_undoes_nothing(_: &dyn Fixture, log: Arc<dyn Log>) {
    let mut writer = Writer::created(&*log, "one").await;
    let group = writer.group(&["nobody waits for me"]);
    drop(log.append(group, Durability::Durable));
    writer.write(&*log, &["after it"]).await;
    writer.check(&*log).await;
}

async fn an_acknowledgement_says_what_it_is(_: &dyn Fixture, log: Arc<dyn Log>) {
    let mut writer = Writer::created(&*log, "one").await;
    let relaxed = writer.group(&["soon"]);
    let commit = log.append(relaxed, Durability::Relaxed).await.unwrap();
    assert_eq!(commit.head, writer.head(), "with either durability the head is said");
    let durable = writer.write(&*log, &["now"]).await;
    assert_eq!(durable.durability, Durability::Durable, "never less than was asked for");
    assert!(durable.position >= commit.position, "positions of one log do not go back");
    writer.check(&*log).await;
}

async fn sessions_do_not_mix(_: &dyn Fixture, log: Arc<dyn Log>) {
    let mut writers = Vec::new();
    let mut waiting = Vec::new();
    for nth in 0..20 {
        let (writer, group) = Writer::new(&*log, &format!("s{nth}")).await;
        waiting.push(log.append(group, Durability::Durable));
        writers.push(writer);
    }
    for round in 0..5 {
        for (nth, writer) in writers.iter_mut().enumerate() {
            let group = writer.group(&[&format!("{nth} in {round}")]);
            waiting.push(log.append(group, Durability::Durable));
        }
    }
    for future in waiting {
        future.await.unwrap();
    }
    for writer in &writers {
        writer.check(&*log).await;
    }
}

async fn everything_acknowledged_survives_a_reopen(fixture: &dyn Fixture, log: Arc<dyn Log>) {
    let mut one = Writer::created(&*log, "one").await;
    let mut two = Writer::created(&*log, "two").await;
    let mut log = log;
    for round in 0..3 {
        one.write(&*log, &[&format!("{round}"), "x"]).await;
        two.write(&*log, &[&"y".repeat(round * 30_000)]).await;
        log = fixture.reopen(log).await.expect("a store closed cleanly opens");
        for writer in [&mut one, &mut two] {
            writer.check(&*log).await;
            let grant = log.take(writer.id, Take::Resume).await.unwrap();
            assert_eq!(grant.head, writer.head());
            assert!(grant.epoch >= writer.epoch, "epochs never go back");
            writer.epoch = grant.epoch;
        }
    }
    assert!(matches!(log.take(one.id, Take::Create).await, Err(LogError::Exists)));
}

async fn an_old_grant_does_not_survive_a_newer_one(fixture: &dyn Fixture, log: Arc<dyn Log>) {
    let mut writer = Writer::created(&*log, "one").await;
    let log = fixture.reopen(log).await.unwrap();
    let grant = log.take(writer.id, Take::Force).await.unwrap();
    assert!(grant.epoch >= writer.epoch);
    if grant.epoch > writer.epoch {
        let (state, salt, bytes) = (writer.session.clone(), writer.salt, writer.bytes.clone());
        let group = writer.group(&["from before"]);
        assert!(matches!(log.append(group, Durability::Durable).await, Err(LogError::Fenced(_))));
        (writer.session, writer.salt, writer.bytes) = (state, salt, bytes);
    }
    writer.epoch = grant.epoch;
    writer.write(&*log, &["from now"]).await;
    writer.check(&*log).await;
}

async fn a_checkpoint_is_never_ahead_and_never_above_what_was_asked(fixture: &dyn Fixture, log: Arc<dyn Log>) {
    let mut writer = Writer::created(&*log, "one").await;
    writer.write(&*log, &["a", "b"]).await;
    let kept = Checkpoint::of(writer.session.staged());
    log.save(writer.id, kept.clone()).await.unwrap();
    let durable = writer.head();
    let group = writer.group(&["on its way"]);
    // Saved before its record is there: kept back or refused, never shown.
    let _ = log.save(writer.id, Checkpoint::of(writer.session.staged())).await;
    let shown = log.load(writer.id, Seq(u64::MAX)).await.unwrap();
    assert!(shown.is_none_or(|checkpoint| checkpoint.head.seq <= durable.seq), "not ahead of the log");
    log.append(group, Durability::Durable).await.unwrap();
    assert!(log.load(writer.id, Seq(kept.head.seq.0 - 1)).await.unwrap().is_none(), "none below the first");
    let log = fixture.reopen(log).await.unwrap();
    let loaded = log.load(writer.id, kept.head.seq).await.unwrap();
    assert!(loaded.is_some() || !fixture.keeps_checkpoints(), "a saved checkpoint is kept");
    if let Some(loaded) = loaded {
        assert_eq!(loaded, kept);
        assert_eq!(loaded.state().unwrap().head, kept.head);
    }
    writer.check(&*log).await;
}

async fn blobs_are_there_with_their_record_and_only_in_their_session(fixture: &dyn Fixture, log: Arc<dyn Log>) {
    let mut writer = Writer::created(&*log, "one").await;
    let other = Writer::created(&*log, "other").await;
    let small = Blob::new(Bytes::from_static(b"small"));
    let large = Blob::new(Bytes::from(vec![7; limits::BLOB_INLINE_BYTES * 3]));
    for blob in [&small, &large, &small] {
        let group = writer.group_with(&["with content"], vec![blob.clone()]);
        log.append(group, Durability::Durable).await.expect("a group with a blob commits");
        assert_eq!(log.blob(writer.id, blob.id).await.unwrap(), blob.bytes);
    }
    let log = fixture.reopen(log).await.unwrap();
    for blob in [&small, &large] {
        assert_eq!(log.blob(writer.id, blob.id).await.unwrap(), blob.bytes);
        assert!(matches!(log.blob(other.id, blob.id).await, Err(LogError::NotFound)), "blobs belong to one session");
    }
    let unknown = Blob::new(Bytes::from_static(b"never stored")).id;
    assert!(matches!(log.blob(writer.id, unknown).await, Err(LogError::NotFound)));
    writer.check(&*log).await;
}

async fn observations_move_no_head(_: &dyn Fixture, log: Arc<dyn Log>) {
    let mut writer = Writer::created(&*log, "one").await;
    let agent = EntityId::new("agent-1").unwrap();
    let beat = Observation::Heartbeat { agent: agent.clone(), at_ms: 2_000 };
    let metric = Observation::Metric {
        agent,
        kind: "performance".into(),
        name: "tokens".into(),
        value: 17.5,
        tags: Json::object(),
        at_ms: 2_000,
    };
    log.observe(writer.id, vec![beat, metric]).await.unwrap();
    writer.check(&*log).await;
    writer.write(&*log, &["after them"]).await;
    writer.check(&*log).await;
}

async fn a_find_that_waits_sees_its_own_write(_: &dyn Fixture, log: Arc<dyn Log>) {
    let mut writer = Writer::created(&*log, "one").await;
    let task = CreateTask {
        id: Some(EntityId::new("t-1").unwrap()),
        kind: "task".into(),
        title: "found".into(),
        priority: 5,
        payload: Json::object(),
        parent: None,
        max_retries: None,
        assign: None,
    };
    let group = writer.stage(Request::new(actor(), vec![Command::CreateTask(task)]));
    let commit = log.append(group, Durability::Durable).await.unwrap();
    for of in [Of::Sessions, Of::Tasks] {
        let query = Query { session: Some(writer.id), ..Query::of(of) };
        let page = log.find(query, Some(commit.position)).await.unwrap();
        assert!(page.position >= commit.position, "it waits until the tables have come that far");
        assert_eq!(page.rows.len(), 1, "{of:?}");
        assert!(page.next.is_none());
        assert!(page.rows[0].as_str().contains(&writer.id.to_string()), "{}", page.rows[0]);
    }
    let none = Query { session: Some(name("unknown").id()), ..Query::of(Of::Tasks) };
    assert!(log.find(none, None).await.unwrap().rows.is_empty());
}

async fn a_removed_session_is_gone_and_stays_gone(fixture: &dyn Fixture, log: Arc<dyn Log>) {
    let mut writer = Writer::created(&*log, "one").await;
    let other = Writer::created(&*log, "other").await;
    let blob = Blob::new(Bytes::from_static(b"content"));
    let group = writer.group_with(&["with content"], vec![blob.clone()]);
    log.append(group, Durability::Durable).await.unwrap();
    log.save(writer.id, Checkpoint::of(writer.session.staged())).await.unwrap();
    log.remove(writer.id, writer.epoch, Remove::All).await.unwrap();
    let again = log.remove(writer.id, writer.epoch, Remove::All).await;
    assert!(matches!(again, Ok(()) | Err(LogError::NotFound)), "the same call again changes nothing");
    let mut log = log;
    for _ in 0..2 {
        assert_eq!(log.head(writer.id).await.unwrap(), None);
        assert!(matches!(log.read(writer.id, Seq::ZERO, 1).await, Err(LogError::NotFound)));
        assert!(matches!(log.take(writer.id, Take::Resume).await, Err(LogError::NotFound)));
        assert!(matches!(log.blob(writer.id, blob.id).await, Err(LogError::NotFound)));
        assert!(!matches!(log.load(writer.id, Seq(u64::MAX)).await, Ok(Some(_))));
        other.check(&*log).await;
        log = fixture.reopen(log).await.unwrap();
    }
    let mut anew = Writer::created(&*log, "one").await;
    anew.write(&*log, &["another life"]).await;
    anew.check(&*log).await;
    let log = fixture.reopen(log).await.unwrap();
    anew.check(&*log).await;
}

async fn records_are_removed_only_below_a_checkpoint(fixture: &dyn Fixture, log: Arc<dyn Log>) {
    let mut writer = Writer::created(&*log, "one").await;
    writer.write(&*log, &["a", "b", "c"]).await;
    let refused = log.remove(writer.id, writer.epoch, Remove::RecordsThrough(Seq(2))).await;
    assert!(matches!(refused, Err(LogError::Refused { kind: Refused::Needed, .. })), "{refused:?}");
    writer.check(&*log).await;
    if !fixture.keeps_checkpoints() {
        return;
    }
    log.save(writer.id, Checkpoint::of(writer.session.staged())).await.unwrap();
    writer.write(&*log, &["d"]).await;
    let through = Seq(3);
    log.remove(writer.id, writer.epoch, Remove::RecordsThrough(through)).await.unwrap();
    log.remove(writer.id, writer.epoch, Remove::RecordsThrough(through)).await.unwrap();
    log.remove(writer.id, writer.epoch, Remove::Checkpoints { keep: 1 }).await.unwrap();
    let log = fixture.reopen(log).await.unwrap();
    assert_eq!(log.head(writer.id).await.unwrap(), Some(writer.head()));
    assert!(log.load(writer.id, Seq(u64::MAX)).await.unwrap().is_some(), "what is left can be folded");
    let tail: Vec<u8> = read_all(&*log, writer.id, through, 1 << 20).await;
    assert!(writer.bytes.ends_with(&tail) && !tail.is_empty());
    assert_eq!(record::RecordView::split(&tail).unwrap().0.seq(), through.next());
}

async fn removal_is_fenced_too(_: &dyn Fixture, log: Arc<dyn Log>) {
    let writer = Writer::created(&*log, "one").await;
    let epoch = Epoch(writer.epoch.0.checked_sub(1).unwrap_or(writer.epoch.0 + 1));
    assert!(matches!(log.remove(writer.id, epoch, Remove::All).await, Err(LogError::Fenced(_))));
    writer.check(&*log).await;
}

/// Reads hints until one sends us to this session.
async fn told_of(hints: &mut Hints, session: SessionId) {
    loop {
        match hints.next().await.expect("a log that is there goes on giving hints") {
            Hint::Store => return,
            Hint::Moved(moved) if moved == session => return,
            Hint::Moved(_) => {}
        }
    }
}

async fn a_watcher_is_told_where_to_look_and_is_never_a_burden(_: &dyn Fixture, log: Arc<dyn Log>) {
    let mut early = Writer::created(&*log, "early").await;
    let mut hints = log.watch();
    let mut idle = log.watch();
    drop(log.watch());
    let writer = Writer::created(&*log, "one").await;
    told_of(&mut hints, writer.id).await;
    early.write(&*log, &["a"]).await;
    told_of(&mut hints, early.id).await;
    early.check(&*log).await;
    log.remove(writer.id, writer.epoch, Remove::All).await.unwrap();
    told_of(&mut hints, writer.id).await;
    assert_eq!(log.head(writer.id).await.unwrap(), None, "what a hint is about is there to be read");

    // Many changes of one session, and of more sessions than are remembered, while nobody reads.
    for _ in 0..50 {
        early.write(&*log, &["again"]).await;
    }
    told_of(&mut hints, early.id).await;
    let waiting = std::iter::from_fn(|| hints.try_next()).count();
    assert!(waiting <= 2, "{waiting} hints about one session");
    for number in 0..HINTED_SESSIONS + 10 {
        Writer::created(&*log, &format!("many-{number}")).await;
    }
    let last = Writer::created(&*log, "last").await;
    told_of(&mut idle, last.id).await;
    let waiting = std::iter::from_fn(|| idle.try_next()).count();
    assert!(waiting <= HINTED_SESSIONS + 1, "{waiting} hints are kept for one who does not read");
}
