//! A journal's life: writers of two sessions, one that stands in for records.db and retires segments, one that copies them,
//! a sync that may fail, and power that goes at some moment.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use parking_lot::Mutex;
use shuttle::{
    rand::{Rng, thread_rng},
    thread,
};
use swarmkeep::{
    disk::simulated::{Call, Failure, Fault, Loss, SimDisk},
    journal::{AppendError, AppendRefused, Entry, Frame, Journal, Settings, Vouch},
};
use swarmkeep_core::log::{Durability, Head};

use super::{
    drawn,
    kit::{self, Mark, STORE, World},
    wait_a_while,
    yielding::Yielding,
};

/// Groups of each writer, and the bytes of a record: a segment takes four or five groups.
const GROUPS: usize = 4;
const BYTES: usize = 1_500;
/// Writers.
const WRITERS: u8 = 3;

/// What is known outside the journal, all of one moment: no thread goes on while this is held.
#[derive(Default)]
struct Known {
    acked: Vec<Mark>,
    applied: Vec<Mark>,
    vouch: Option<Vouch>,
}

/// What the power left, and what was owed then.
struct Cut {
    disk: SimDisk,
    known: Known,
}

pub fn life() {
    let mut world = World::new();
    world.settings = Settings { spares_ahead: 1, spares_max: 2, keep_bytes: 40 * 1024, ..kit::settings() };
    let seen: Arc<Mutex<Vec<Arc<Frame>>>> = Arc::default();
    let known: Arc<Mutex<Known>> = Arc::default();
    let entropy = Arc::clone(&world.entropy);
    let disk = Yielding::new(world.disk.clone());
    let failing = disk.failing();
    let disk = Arc::new(disk);
    let opened = Journal::open(disk, Path::new(STORE), world.settings.clone(), None, entropy.clone(), entropy).unwrap();
    let (store, incarnation) = (opened.store, opened.incarnation);
    let sink = Arc::clone(&seen);
    let journal = Arc::new(opened.start(Box::new(move |frame| sink.lock().push(frame))).unwrap());
    match drawn(3) {
        0 => {
            let failure = [Failure::Eio, Failure::SyncMarksClean, Failure::SyncDrops, Failure::Enospc][drawn(4)];
            let call = [Call::Sync, Call::Write][drawn(2)];
            world.disk.fail(Fault { call: Some(call), nth: 1 + drawn(16) as u64, sticky: false, failure });
        }
        // Several in a row: a segment is given up, and no other can be started for a while.
        1 => {
            let first = 1 + drawn(16);
            failing.fails(first..first + 1 + drawn(6));
        }
        _ => {}
    }

    let mut threads = Vec::new();
    for session in 1..=WRITERS {
        let (journal, known, seen) = (Arc::clone(&journal), Arc::clone(&known), Arc::clone(&seen));
        threads.push(thread::spawn(move || write(session, &journal, &known, &seen)));
    }
    {
        let (journal, known, seen) = (Arc::clone(&journal), Arc::clone(&known), Arc::clone(&seen));
        threads.push(thread::spawn(move || {
            for _ in 0..3 {
                wait_a_while(40);
                let frames = seen.lock().clone();
                let Some(last) = frames.last() else { continue };
                let vouch = Vouch { store, position: last.position, frame_hash: last.hash, incarnation };
                {
                    let mut known = known.lock();
                    known.applied = kit::marks(&frames);
                    known.vouch = Some(vouch);
                }
                // What the disk says here is said again with the next call.
                let _ = journal.retire(last.position, last.hash);
            }
        }));
    }
    {
        let journal = Arc::clone(&journal);
        threads.push(thread::spawn(move || {
            for _ in 0..3 {
                wait_a_while(40);
                if let Some(taken) = journal.take_retired() {
                    thread::yield_now();
                    let _ = journal.release(taken.number);
                }
            }
        }));
    }
    let cut = {
        let (known, disk) = (Arc::clone(&known), world.disk.clone());
        thread::spawn(move || {
            wait_a_while(200);
            let known = known.lock();
            let known = Known { acked: known.acked.clone(), applied: known.applied.clone(), vouch: known.vouch };
            let loss = Loss::ALL[drawn(Loss::ALL.len())];
            Cut { disk: disk.fork().crash(loss, thread_rng().r#gen()), known }
        })
    };
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    check(&world, cut.join().unwrap(), "power lost in between");
    world.disk.heal();
    failing.fails(0..0);
    takes_writes_again(&journal, &known);
    journal.close();
    let known = std::mem::take(&mut *known.lock());
    check(&world, Cut { disk: world.disk.fork().crash(Loss::Nothing, 1), known }, "power lost at the end");
}

/// A writer as the log's lanes are: what is sent follows what is durable.
fn write(session: u8, journal: &Journal, known: &Mutex<Known>, seen: &Mutex<Vec<Arc<Frame>>>) {
    let mut head = Head::default();
    let mut left = GROUPS;
    for _ in 0..3 * GROUPS {
        if left == 0 {
            return;
        }
        let generation = journal.generation();
        let group = kit::group(session, head, 1 + u32::from(session % 3), BYTES, session);
        let next = group.head;
        let entry = Entry::Records(group);
        let mark = kit::mark(&entry);
        let receipt = match journal.append(entry, generation, Durability::Durable) {
            Ok(receipt) => receipt,
            Err(AppendRefused::TooLarge { .. } | AppendRefused::Closing) => panic!("refused for nothing"),
            Err(_) => {
                thread::yield_now();
                continue;
            }
        };
        // Half of those who wait do so as tasks.
        let outcome = if drawn(2) == 0 { receipt.wait() } else { shuttle::future::block_on(receipt) };
        match outcome {
            Ok(position) => {
                let frames = seen.lock();
                let shown = frames.iter().any(|frame| {
                    frame.position == position && frame.entries.iter().any(|entry| kit::mark(entry) == mark)
                });
                assert!(shown, "acknowledged before the sink had it");
                drop(frames);
                assert!(journal.durable() >= position, "acknowledged before it counted as durable");
                known.lock().acked.push(mark);
                head = next;
                left -= 1;
            }
            // The journal has settled that it is not part of it, or the disk refused it.
            Err(AppendError::Unknown(_) | AppendError::NotWritten(_)) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
}

/// The disk is well: sooner or later, by itself, the journal takes what comes.
fn takes_writes_again(journal: &Journal, known: &Mutex<Known>) {
    let group = kit::group(WRITERS + 1, Head::default(), 1 + u32::from((WRITERS + 1) % 3), BYTES, 0);
    for _ in 0..2_000 {
        let entry = Entry::Records(group.clone());
        let mark = kit::mark(&entry);
        let receipt = journal.append(entry, journal.generation(), Durability::Durable);
        if let Ok(receipt) = receipt
            && receipt.wait().is_ok()
        {
            known.lock().acked.push(mark);
            return;
        }
        thread::yield_now();
    }
    panic!("the disk is well again, and the journal takes nothing");
}

fn check(world: &World, cut: Cut, when: &str) {
    let mut after = World::new();
    after.disk = cut.disk;
    after.settings = Settings { spares_ahead: 0, ..world.settings.clone() };
    after.vouch = cut.known.vouch;
    after.applied = cut.known.applied;
    after.entropy = Arc::clone(&world.entropy);
    let opened = after.open().unwrap_or_else(|error| panic!("{when}: {error}"));
    let log = after.log(&opened);
    kit::assert_chained(&log, when);
    let mut times: BTreeMap<Mark, usize> = BTreeMap::new();
    log.iter().for_each(|mark| *times.entry(*mark).or_default() += 1);
    for mark in &cut.known.acked {
        assert_eq!(times.get(mark), Some(&1), "{when}: {mark:?} was acknowledged");
    }
}
