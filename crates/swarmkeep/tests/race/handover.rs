//! A store's life: writers, a follower that is told when to look, a reader that looks when it likes, while the records move
//! from the journal to the databases, segments are retired and copied, a sync of the journal may fail, and power may go.

use std::{
    ops::Range,
    path::Path,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use parking_lot::Mutex;
use shuttle::{
    future::block_on,
    rand::{Rng, thread_rng},
    thread,
};
use swarmkeep::{
    Settings, Turn, Workers,
    disk::simulated::{Loss, SimDisk},
    embedded::{EmbeddedLog, Pace},
};
use swarmkeep_core::{
    Actor, Epoch, Seq, SessionName,
    command::Command,
    json::Json,
    log::{Durability, Group, Log, LogError, Refused},
    record,
    session::{self, Circumstances, NewSession, Request, Staged},
};

use super::{
    drawn,
    kit::{Fixed, STORE},
    wait_a_while,
    yielding::Yielding,
};

/// Groups of each session, and the letters in a record: a segment takes a few.
const GROUPS: usize = 4;
const LETTERS: usize = 9_000;
const NAMES: [&str; 2] = ["one", "two"];
/// The base is made by the store's first open.
const EPOCH: Epoch = Epoch(2);

/// What every life begins with, and what its writers will send.
struct Base {
    disk: SimDisk,
    sessions: Vec<Vec<Group>>,
}

fn base() -> &'static Base {
    static BASE: OnceLock<Base> = OnceLock::new();
    BASE.get_or_init(|| {
        let disk = SimDisk::new();
        let log = open(&disk, Workers::Caller, 0..0);
        log.turn(Turn::Apply);
        log.close().unwrap();
        drop(log);
        Base { disk, sessions: NAMES.iter().map(|name| groups(name)).collect() }
    })
}

fn groups(name: &str) -> Vec<Group> {
    let mut salt = 0_u128;
    let mut salts = || {
        salt += 1;
        salt.to_le_bytes()
    };
    let actor = Actor::system();
    let new = NewSession::new(SessionName::new("race", name).unwrap());
    let circumstances = Circumstances { epoch: EPOCH, now_ms: 1_000, salts: &mut salts };
    let (mut session, first) = session::create(new, &actor, circumstances).unwrap();
    let mut groups = vec![first.log];
    for nth in 1..GROUPS {
        let payload = Json::encode(&nth.to_string().repeat(LETTERS)).unwrap();
        let note = Command::Record { kind: "note".into(), aggregate: None, payload, blobs: Default::default() };
        let circumstances = Circumstances { epoch: EPOCH, now_ms: 2_000, salts: &mut salts };
        let staged = session.stage(Request::new(actor.clone(), vec![note]), circumstances).unwrap();
        let Staged::Group(group) = staged else { panic!("a group") };
        groups.push(group.log);
    }
    groups
}

fn open(disk: &SimDisk, workers: Workers, fails: Range<usize>) -> EmbeddedLog {
    let settings = Settings { readers: 1, journal_keep: 1 << 20, ..Settings::default() };
    let mut pace = Pace::of(&settings);
    pace.workers = workers;
    pace.journal.segment_bytes = 64 * 1024;
    pace.journal.keep_bytes = 128 * 1024;
    pace.retire_bytes = 20_000;
    let fixed = Arc::new(Fixed::default());
    let open = |fails| {
        let disk = Yielding::new(disk.clone());
        disk.failing().fails(fails);
        EmbeddedLog::open_at_pace(
            Arc::new(disk),
            Path::new(STORE),
            &settings,
            pace.clone(),
            fixed.clone(),
            fixed.clone(),
        )
    };
    // A sync that fails while it is opened refuses the start; the next one meets none.
    open(fails).or_else(|_| open(0..0)).unwrap()
}

pub fn life() {
    let base = base();
    let disk = base.disk.fork();
    // The syncs of its open succeed.
    let first = 3 + drawn(8);
    let failing = if drawn(3) == 0 { first..first + 1 + drawn(4) } else { 0..0 };
    let log = Arc::new(open(&disk, Workers::Threads, failing));
    assert_eq!(Epoch(log.incarnation()), EPOCH);
    // How many groups of each session were acknowledged.
    let acked: Arc<Mutex<[usize; 2]>> = Arc::default();
    let mut threads = Vec::new();
    for nth in 0..NAMES.len() {
        // Registered before anything is written: it is told of all of it.
        let mut hints = log.watch();
        let reader = Arc::clone(&log);
        threads.push(thread::spawn(move || {
            let groups = &base.sessions[nth];
            let mut reached = Seq::ZERO;
            while reached < groups[GROUPS - 1].head.seq {
                let bytes = read(&reader, nth, reached);
                reached = after(reached, &bytes, nth);
                if bytes.is_empty() {
                    block_on(hints.next()).expect("the store is open");
                }
            }
        }));
        let (writer, acked) = (Arc::clone(&log), Arc::clone(&acked));
        threads.push(thread::spawn(move || write(&writer, nth, &acked)));
    }
    {
        let (log, acked) = (Arc::clone(&log), Arc::clone(&acked));
        threads.push(thread::spawn(move || {
            for _ in 0..4 {
                wait_a_while(60);
                let nth = drawn(NAMES.len());
                let owed = acked.lock()[nth];
                let bytes = read(&log, nth, Seq::ZERO);
                let reached = after(Seq::ZERO, &bytes, nth);
                let least = owed.checked_sub(1).map_or(Seq::ZERO, |last| base.sessions[nth][last].head.seq);
                assert!(reached >= least, "{reached} is shown, {least} was acknowledged before");
            }
        }));
    }
    let cut = {
        let (acked, disk) = (Arc::clone(&acked), disk.clone());
        thread::spawn(move || {
            wait_a_while(600);
            let owed = acked.lock();
            (disk.fork().crash(Loss::ALL[drawn(Loss::ALL.len())], thread_rng().r#gen()), *owed)
        })
    };
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let (image, owed) = cut.join().unwrap();
    check(&image, owed);
    log.close().unwrap();
    let standing = log.standing();
    assert_eq!((standing.unapplied_bytes, standing.trouble), (0, None));
    drop(log);
    check(&disk.crash(Loss::Nothing, 1), [GROUPS; 2]);
}

fn write(log: &EmbeddedLog, nth: usize, acked: &Mutex<[usize; 2]>) {
    for (at, group) in base().sessions[nth].iter().enumerate() {
        loop {
            match block_on(log.append(group.clone(), Durability::Durable)) {
                Ok(commit) => {
                    assert_eq!(commit.head, group.head);
                    break;
                }
                Err(LogError::Unknown(_) | LogError::Refused { .. } | LogError::Conflict(_)) => {
                    // As an engine does: what is durable says whether it is to be sent again.
                    if asked(|| block_on(log.head(group.session)))
                        .unwrap()
                        .is_some_and(|head| head.seq >= group.head.seq)
                    {
                        break;
                    }
                }
                Err(other) => panic!("{other}"),
            }
            thread::yield_now();
        }
        acked.lock()[nth] = at + 1;
    }
}

/// After a sync that failed the databases are opened again; whoever asks meanwhile is told to ask again, and does.
fn asked<T>(ask: impl Fn() -> Result<T, LogError>) -> Result<T, LogError> {
    loop {
        match ask() {
            Err(LogError::Refused { kind: Refused::Busy, .. }) => thread::yield_now(),
            answered => return answered,
        }
    }
}

fn read(log: &EmbeddedLog, nth: usize, from: Seq) -> Bytes {
    match asked(|| block_on(log.read(base().sessions[nth][0].session, from, 1 << 20))) {
        Ok(bytes) => bytes,
        Err(LogError::NotFound) => Bytes::new(),
        Err(other) => panic!("session {nth} after {from}: {other}"),
    }
}

/// Goes through what was read after a seq: contiguous, and byte for byte what was sent.
fn after(from: Seq, bytes: &Bytes, nth: usize) -> Seq {
    let sent: Vec<u8> = base().sessions[nth].iter().flat_map(|group| group.records.to_vec()).collect();
    let sent = Bytes::from(sent);
    let mut reached = from;
    let mut expected = record::iter(&sent).map(Result::unwrap).skip_while(|view| view.seq() <= from);
    for view in record::iter(bytes).map(Result::unwrap) {
        let as_sent = expected.next().expect("no more than was sent");
        assert_eq!((view.seq(), view.bytes()), (reached.next(), as_sent.bytes()), "session {nth}");
        reached = view.seq();
    }
    reached
}

fn check(image: &SimDisk, owed: [usize; 2]) {
    let log = open(image, Workers::Caller, 0..0);
    for (nth, owed) in owed.into_iter().enumerate() {
        let reached = after(Seq::ZERO, &read(&log, nth, Seq::ZERO), nth);
        let least = owed.checked_sub(1).map_or(Seq::ZERO, |last| base().sessions[nth][last].head.seq);
        assert!(reached >= least, "session {nth}: {reached} came back, {least} was acknowledged");
    }
}
