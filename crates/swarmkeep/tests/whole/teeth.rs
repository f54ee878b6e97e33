//! Whether the checkers would find what they are there to find: a defect is planted in the store's own code, and the same
//! checks, unchanged, must fail within a number of trials. Each defect has a process of its own.

use std::{collections::BTreeMap, path::Path, process::Command, sync::Arc};

use bytes::Bytes;
use swarmkeep::{
    Actor, Json, Request, RequestId, Settings, Swarmkeep,
    disk::{
        Disk,
        simulated::{Call, Failure, Fault, SimDisk},
    },
    journal::{self, Entry, frame, inspect, segment},
    planted::Defect,
};
use swarmkeep_core::{
    EntityId, Epoch, Hash, SessionId, command,
    log::{Durability, Head, Log, LogError, Position},
};

use super::{
    faults, figures, kit,
    power::{self, History},
    rot,
    work::Work,
    world::{Fixed, STORE, open_by},
};

/// Trials within which a defect must be found by loss of power, and by failed syncs.
const TRIALS: usize = 400;
const FAULTS: u64 = 48;
/// The same by harm to segments.
const HARMS: usize = 480;

/// What the first failure says, and how many trials it took.
type Found = Option<(u64, String)>;

/// Loss of power, at moments all over the history; of a store with second copies, which bring back what was given up too
/// early, and of one without.
fn by_power() -> Found {
    [1, 2].into_iter().find_map(by_power_of)
}

fn by_power_of(seed: u64) -> Found {
    let history = History::of(seed, 3, 24);
    let jobs = power::losses(&history);
    let runtime = figures::runtime();
    let every = (jobs.len() / TRIALS).max(1);
    jobs.iter().step_by(every).take(TRIALS).zip(1..).find_map(|((at, loss, n), trial)| {
        let moment = &history.moments[*at];
        let image = moment.fork().crash(*loss, *at as u64 * 1_000 + n);
        let found = power::look(&runtime, &image, &history, &history.owed(moment), 1_000 + *at as u64);
        found.err().map(|error| (trial, error))
    })
}

/// Failed syncs whose pages count as written.
fn by_failed_syncs() -> Found {
    let runtime = figures::idle_clock();
    (1..=FAULTS).find_map(|nth| {
        let fault = Fault { call: Some(Call::Sync), nth, sticky: false, failure: Failure::SyncMarksClean };
        faults::with(&runtime, 1, fault, 12, &mut BTreeMap::new()).err().map(|error| (nth, error))
    })
}

/// A writer that was granted an older epoch.
fn by_a_stale_writer() -> Found {
    let mut work = Work::new(SimDisk::new(), 1);
    figures::runtime().block_on(async {
        work.open().await.unwrap();
        let group = work.first_group(Epoch(0));
        match work.take_log().unwrap().append(group, Durability::Durable).await {
            Err(LogError::Fenced(_)) => None,
            other => Some((1, format!("a group of epoch 0: {other:?}"))),
        }
    })
}

/// A client that knows everything but the secrets of a segment puts a frame into a payload, at a frame's place; then the
/// frame around it is damaged.
fn by_a_forger() -> Found {
    (1..=8).find_map(|trial| {
        let mut world = kit::World::new();
        world.settings = journal::Settings { segment_bytes: 64 * 1024, ..kit::settings() };
        let mut writer = world.start(world.open().unwrap());
        writer.write(1, 100).unwrap();
        let file = world.disk.files().into_iter().rfind(|file| file.to_string_lossy().ends_with(".segment")).unwrap();
        let outer = 8192 + 1024u64;
        let mut header = segment::Header::decode(&world.disk.contents(&file).unwrap()[..4096]).unwrap();
        header.nonce = [0; 32];
        let place = frame::Place {
            position: Position(3),
            offset: outer + 512,
            durable_through: Position(2),
            previous: Hash::default(),
            time_ms: trial,
        };
        let group = kit::group(8, Head::default(), 1, 10 * trial as usize, 1);
        let mut forged = Vec::new();
        frame::encode(&mut forged, &frame::Key::of(&header), &place, &[Entry::Records(group)]);
        let mut payload = vec![0; 512 - 144 - 48];
        payload.extend_from_slice(&forged);
        let entry = Entry::Observations { session: SessionId([6; 16]), payload: Bytes::from(payload) };
        writer.journal.append(entry, 0, Durability::Durable).unwrap().wait().unwrap();
        let wanted = writer.acked.clone();
        world.disk.die_at(1);
        drop(writer);
        world.disk = world.disk.kill();
        world.disk.rot(&file, outer as usize + 40, |byte| *byte ^= 1);
        let seen = inspect(&world.disk, Path::new(STORE), world.vouch).unwrap();
        let there = kit::marks(&seen.unapplied);
        (there != wanted).then(|| (trial, format!("the journal gives {there:?}, {wanted:?} was written")))
    })
}

/// Harm to the journal's segments.
fn by_harm() -> Found {
    rot::first_wrong(1, HARMS, "segment")
}

/// Every request again after every start, with checkpoints in between.
fn by_repeating() -> Found {
    figures::runtime().block_on(async {
        let (disk, fixed) = (SimDisk::new(), Fixed::new(1));
        disk.create_dir(Path::new(STORE)).unwrap();
        let (mut sent, mut trial) = (Vec::new(), 0);
        for start in 0..6u64 {
            let log = Arc::new(open_by(&disk, true, fixed.clone()).unwrap());
            let keep = Swarmkeep::over_embedded(log, Settings::default(), fixed.clone(), fixed.clone()).await.unwrap();
            let session = keep.open_session("s").await.unwrap();
            for (request, first) in &sent {
                trial += 1;
                let again = session.submit(Request::clone(request)).await;
                if !again.as_ref().is_ok_and(|again| again.repeated && again.first == *first) {
                    return Some((trial, format!("carried out at seq {first}, and repeated: {again:?}")));
                }
            }
            for n in 1..=5 {
                let counter = start * 5 + n;
                let command = command::Command::Record {
                    kind: "step".into(),
                    aggregate: None,
                    payload: Json::null(),
                    blobs: Default::default(),
                };
                let id = match n % 2 {
                    0 => RequestId::Counted { client: EntityId::new("client").unwrap(), counter },
                    _ => RequestId::Key(EntityId::new(format!("key{counter}")).unwrap()),
                };
                let request = Request::of(Actor::new("user:someone").unwrap(), command).id(id);
                let reply = session.submit(request.clone()).await.unwrap();
                sent.push((request, reply.first));
            }
            if start % 2 == 1 {
                session.checkpoint().await.unwrap();
            }
            keep.close().await.unwrap();
        }
        None
    })
}

/// Who has to find it; nobody here where it takes clients, clocks or forks, which the simulator has.
fn checker(defect: Defect) -> Option<fn() -> Found> {
    let checker: fn() -> Found = match defect {
        Defect::SyncSkipped | Defect::AcknowledgedBeforeSync | Defect::RetiredOnWal => by_power,
        Defect::CacheTrusted => by_failed_syncs,
        Defect::EpochNotCompared => by_a_stale_writer,
        Defect::NonceLeftOut => by_a_forger,
        Defect::HashNotCompared => by_harm,
        Defect::DedupeForgotten => by_repeating,
        Defect::ForkForgets
        | Defect::BlobSyncSkipped
        | Defect::BlobHashNotCompared
        | Defect::LeaseNotCompared
        | Defect::StopCounted
        | Defect::SealLeftOut
        | Defect::FilesShared => return None,
    };
    Some(checker)
}

#[test]
fn every_planted_defect_is_found() {
    for checker in [by_failed_syncs, by_a_stale_writer, by_a_forger, by_harm, by_repeating] {
        assert_eq!(checker(), None, "without a defect");
    }
    let mut unseen = Vec::new();
    for defect in Defect::ALL.into_iter().filter(|defect| checker(*defect).is_some()) {
        let run = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "teeth::a_process_with_a_defect", "--ignored", "--nocapture"])
            .env(Defect::VARIABLE, format!("{defect:?}"))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&run.stdout);
        match text.lines().find(|line| line.starts_with("found by trial")) {
            Some(line) if !run.status.success() => println!("{defect:?}: {line}"),
            _ => unseen.push(defect),
        }
    }
    assert_eq!(unseen, vec![], "planted, and not found");
}

#[test]
#[ignore = "a part of `every_planted_defect_is_found`, in a process of its own"]
fn a_process_with_a_defect() {
    let Some(checker) = Defect::of_process().and_then(checker) else { return };
    if let Some((trial, error)) = checker() {
        println!("\nfound by trial {trial}: {error}");
        panic!("found");
    }
}
