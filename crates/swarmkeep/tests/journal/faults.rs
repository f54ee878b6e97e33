//! Errors at each call, once and for good; a full disk in the middle.

use std::{ffi::OsStr, path::Path};

use swarmkeep::{
    disk::simulated::{Call, Failure, Fault, Loss},
    journal::{AppendRefused, Entry, Settings},
};
use swarmkeep_core::{log::Durability, testing::Draw};

use super::{
    history::burst,
    kit::{Fixed, Mark, World, assert_chained, settings},
    tally,
};

const FAILURES: [Failure; 5] =
    [Failure::Eio, Failure::Enospc, Failure::Short, Failure::SyncMarksClean, Failure::SyncDrops];

/// Writes on through errors, as an engine would: what failed is dropped and staged again upon what is durable. What was
/// acknowledged, and what nobody knows about.
pub fn run(world: &mut World, seed: u64) -> (Vec<Mark>, Vec<Mark>) {
    let (mut acked, mut unknown) = (Vec::new(), Vec::new());
    let mut draw = Draw::new(seed);
    for _ in 0..2 {
        let opened = match world.open() {
            Ok(opened) => opened,
            Err(_) => continue,
        };
        // What the journal gave counts as known from here on.
        let log = world.log(&opened);
        assert!(log.starts_with(&acked), "{log:?} {acked:?}");
        acked = log;
        let mut writer = world.by_hand(opened);
        for _ in 0..6 {
            let _ = writer.burst(&burst(&mut draw, 12));
        }
        writer.journal.close();
        acked.extend(&writer.acked);
        unknown.extend(&writer.unknown);
    }
    (acked, unknown)
}

/// Looks at a disk whose faults are gone, after loss of power: what was acknowledged is there, and beside it at most what
/// nobody knows about; and it takes writes.
fn look(world: &World, (acked, unknown): (&[Mark], &[Mark]), loss: Loss, lot: u64, what: &str) {
    let disk = world.disk.fork().crash(loss, lot);
    let mut after = World { disk, entropy: Fixed::from(1 << 32), settings: world.settings.clone(), ..World::new() };
    let opened = after.open().unwrap_or_else(|error| panic!("{what}, {loss:?}: {error}"));
    let log = after.log(&opened);
    assert!(log.starts_with(acked), "{what}, {loss:?}: acknowledged {}, there {}", acked.len(), log.len());
    assert!(log[acked.len()..].iter().all(|mark| unknown.contains(mark)), "{what}, {loss:?}");
    assert_chained(&log, what);
    let mut writer = after.by_hand(opened);
    writer.burst(&[(5, 10)]).unwrap_or_else(|error| panic!("{what}, {loss:?}: {error}"));
    drop(writer);
    after.disk = after.disk.kill();
}

#[test]
fn an_error_at_every_call_once_and_for_good_loses_nothing_acknowledged() {
    tally::over_seeds("an_error_at_every_call_once_and_for_good_loses_nothing_acknowledged", 2_000, |seed, tally| {
        let mut world = World::new();
        let (acked, unknown) = run(&mut world, seed);
        assert_eq!(unknown, vec![]);
        tally.writes += acked.len() as u64;
        let calls = world.disk.calls();
        for nth in 1..=calls {
            for (sticky, failure) in [false, true].into_iter().flat_map(|sticky| FAILURES.map(|kind| (sticky, kind))) {
                let what = format!("seed {seed}, call {nth} of {calls}, {failure:?}, sticky {sticky}");
                let mut world = World::new();
                world.disk.fail(Fault { call: None, nth, sticky, failure });
                let (acked, unknown) = run(&mut world, seed);
                tally.trials += 1;
                for (loss, lot) in [(Loss::Nothing, 1), (Loss::Everything, 1), (Loss::Subset, nth)] {
                    tally.checks += acked.len() as u64;
                    look(&world, (&acked, &unknown), loss, lot, &what);
                }
                for ((call, path), count) in world.disk.struck() {
                    *tally.struck.entry(format!("{call:?} {}", kind(&path))).or_default() += count;
                }
            }
        }
    });
}

/// What a file of a journal is, without its number.
fn kind(path: &Path) -> String {
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or("a file without a name");
    name.chars().filter(|letter| !letter.is_ascii_digit()).collect()
}

#[test]
fn a_full_disk_refuses_and_goes_on_by_itself() {
    for spares_ahead in [0, 1] {
        let mut world = World::new();
        world.settings = Settings { spares_ahead, ..settings() };
        let mut writer = world.start(world.open().unwrap());
        writer.write(1, 100).unwrap();
        world.disk.set_capacity(Some(40 * 1024));
        let mut refused = None;
        for _ in 0..100 {
            if let Err(error) = writer.write(1, 1500) {
                refused = Some(error);
                break;
            }
        }
        let refused = refused.expect("a segment of 16 KiB does not take 100 groups");
        assert!(refused.contains("no room on the device"), "{refused}");
        let acked = writer.acked.len();
        assert!(acked >= 4, "the segments that fit were used: {acked}");
        // It is refused as long as there is no room, and nothing of it is there.
        assert!(writer.write(1, 1500).unwrap_err().contains("no room"));
        let full = World { disk: world.disk.fork().crash(Loss::Everything, 1), ..World::new() };
        full.disk.set_capacity(None);
        assert_eq!(full.log(&full.open().unwrap()), writer.acked);
        // Room again: no restart, no call to make.
        world.disk.set_capacity(None);
        while writer.write(1, 1500).is_err() {
            std::thread::yield_now();
        }
        let acked = writer.acked.clone();
        writer.journal.close();
        drop(writer);
        world.disk = world.disk.crash(Loss::Nothing, 1);
        assert_eq!(world.log(&world.open().unwrap()), acked);
    }
}

#[test]
fn retiring_makes_room_too() {
    let mut world = World::new();
    let mut writer = world.start(world.open().unwrap());
    world.disk.set_capacity(Some(40 * 1024));
    while writer.write(1, 1500).is_ok() {}
    let frames = writer.seen.lock().clone();
    world.apply(writer.store, writer.incarnation, &frames);
    let vouch = world.vouch.unwrap();
    writer.journal.retire(vouch.position, vouch.frame_hash).unwrap();
    writer.write(1, 1500).unwrap();
}

#[test]
fn what_a_frame_cannot_hold_is_refused() {
    let world = World::new();
    let writer = world.start(world.open().unwrap());
    let entry = Entry::Records(writer.next(1, 9000));
    let refused = writer.journal.append(entry, 0, Durability::Durable);
    assert!(matches!(refused, Err(AppendRefused::TooLarge { limit, .. }) if limit < 8192), "{refused:?}");
    writer.journal.close();
    let closed = writer.journal.append(Entry::Records(writer.next(1, 9)), 0, Durability::Durable);
    assert!(matches!(closed, Err(AppendRefused::Closing)));
}

#[test]
fn a_poisoned_segment_is_never_written_again() {
    let world = World::new();
    let mut writer = world.start(world.open().unwrap());
    writer.write(1, 100).unwrap();
    let before: Vec<_> = world.disk.files();
    world.disk.fail(Fault { call: Some(Call::Write), nth: 1, sticky: false, failure: Failure::Short });
    writer.write(1, 100).unwrap_err();
    let poisoned = world.disk.contents(&before[0]).unwrap();
    for _ in 0..10 {
        writer.write(1, 1000).unwrap();
    }
    let frames = writer.seen.lock().clone();
    let last = frames.last().unwrap();
    assert_eq!(world.disk.contents(&before[0]).unwrap(), poisoned);
    writer.journal.retire(last.position, last.hash).unwrap();
    let left: Vec<_> = world.disk.files().iter().map(|file| world.disk.contents(file).unwrap()).collect();
    assert!(left.len() > 1 && !left.contains(&poisoned), "deleted, not reused");
}

#[test]
fn the_last_segment_stays_while_no_other_can_be_started() {
    let mut world = World::new();
    let mut writer = world.start(world.open().unwrap());
    writer.write(1, 100).unwrap();
    world.disk.fail(Fault { call: Some(Call::Write), nth: 1, sticky: true, failure: Failure::Eio });
    writer.write(1, 100).unwrap_err();
    // Everything that was acknowledged is in records.db, and the journal has no segment that is written.
    let frames = writer.seen.lock().clone();
    world.apply(writer.store, writer.incarnation, &frames);
    let vouch = world.vouch.unwrap();
    writer.journal.retire(vouch.position, vouch.frame_hash).unwrap();
    let segments = |world: &World| {
        world.disk.files().iter().filter(|file| file.extension().is_some_and(|ext| ext == "segment")).count()
    };
    assert_eq!(segments(&world), 1, "records.db alone would be half of a store");
    let acked = writer.acked.clone();
    world.disk.heal();
    let killed =
        World { disk: world.disk.fork().kill(), vouch: world.vouch, applied: world.applied.clone(), ..World::new() };
    assert_eq!(killed.log(&killed.open().unwrap()), acked);
    // And it goes, once there is another.
    writer.write(1, 100).unwrap();
    writer.journal.retire(vouch.position, vouch.frame_hash).unwrap();
    assert_eq!(segments(&world), 1);
}
