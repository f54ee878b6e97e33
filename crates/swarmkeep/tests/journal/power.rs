//! Loss of power, and death of the process, at every call that changes the disk.

use swarmkeep::disk::simulated::{Call, Failure, Fault, Loss, SimDisk};
use swarmkeep_core::testing::Draw;

use super::{
    history::{History, check},
    kit::{Fixed, World},
    tally,
};

/// Losses of power with what is left drawn by lot, at each moment; each becomes three images.
const DRAWS: u64 = 2;

#[test]
fn acknowledged_survives_loss_of_power_at_every_boundary() {
    tally::over_seeds("acknowledged_survives_loss_of_power_at_every_boundary", 12_000, |seed, tally| {
        let history = History::of(seed);
        tally.writes += history.sent.len() as u64;
        for (at, moment) in history.moments.iter().enumerate() {
            for loss in Loss::ALL {
                let draws = if matches!(loss, Loss::Nothing | Loss::Everything) { 1 } else { DRAWS };
                for nth in 0..draws {
                    let lot = (seed << 32) + at as u64 * 100 + nth;
                    let what = format!("seed {seed}, moment {at}, {loss:?}, {nth}");
                    tally.trials += 3;
                    tally.checks += 3 * lose_power(&history, moment, loss, lot, &what);
                }
            }
        }
    });
}

/// What is left is opened, loses power again, is opened, goes on, and loses power a third time. How many acknowledged groups
/// the journal owes.
fn lose_power(history: &History, moment: &SimDisk, loss: Loss, lot: u64, what: &str) -> u64 {
    let (mut world, known) = history.world(moment);
    world.disk = world.disk.crash(loss, lot);
    world.entropy = Fixed::from(1 << 32);
    let (log, _) = check(&world, &known, what);

    // What was found is durable now: it survives the next loss of power too, whatever the cache showed.
    world.disk = world.disk.crash(Loss::Nothing, lot);
    let (again, opened) = check(&world, std::slice::from_ref(&log), what);
    assert_eq!(again, log, "{what}: found once, lost later");

    // And the store goes on from there.
    let mut writer = world.by_hand(opened);
    writer.burst(&[(7, 100)]).unwrap();
    let more = [log, writer.acked.clone()].concat();
    drop(writer);
    world.disk = world.disk.crash(Loss::Nothing, lot);
    check(&world, &[more], what);
    (known[0].len() - world.applied.len()) as u64
}

#[test]
fn death_while_opening_loses_nothing() {
    let history = History::of(3);
    for (at, moment) in history.moments.iter().enumerate().step_by(3) {
        let mut draw = Draw::new(at as u64);
        for again in 1..30 {
            let what = format!("moment {at}, then call {again} while opening");
            let (mut world, known) = history.world(moment);
            let loss = Loss::ALL[draw.below(5)];
            world.disk = if again % 2 == 0 { world.disk.kill() } else { world.disk.crash(loss, draw.number()) };
            world.entropy = Fixed::from(1 << 32);
            world.disk.die_at(again);
            let finished = world.open().is_ok();
            world.disk = world.disk.crash(Loss::ALL[draw.below(5)], draw.number());
            world.entropy = Fixed::from(1 << 33);
            check(&world, &known, &what);
            if finished {
                break;
            }
        }
    }
}

#[test]
fn a_killed_process_leaves_a_warm_cache_that_is_not_trusted() {
    let mut world = World::new();
    let mut writer = world.start(world.open().unwrap());
    writer.write(1, 100).unwrap();
    // Killed between the write of the second frame and its sync.
    world.disk.die_at(2);
    assert!(writer.write(2, 100).is_err());
    let wanted = [writer.acked.clone(), writer.unknown.clone()].concat();
    drop(writer);
    world.disk = world.disk.kill();

    let opened = world.open().unwrap();
    assert!(opened.inspection.carried, "nothing vouches for it");
    assert_eq!(world.log(&opened), wanted, "it is accepted");
    let mut writer = world.start(opened);
    writer.write(1, 50).unwrap();
    let wanted = [wanted, writer.acked.clone()].concat();
    drop(writer);
    world.disk = world.disk.crash(Loss::Nothing, 1);
    assert_eq!(world.log(&world.open().unwrap()), wanted, "and durable since");
}

#[test]
fn a_seal_that_only_the_cache_has_is_not_missed_later() {
    for seed in 0..4 {
        let mut world = World::new();
        let mut writer = world.start(world.open().unwrap());
        writer.write(1, 100).unwrap();
        // Killed between the write of the seal and its sync.
        world.disk.die_at(2);
        writer.journal.close();
        let wanted = writer.acked.clone();
        drop(writer);
        world.disk = world.disk.kill();

        let opened = world.open().unwrap();
        assert!(opened.inspection.sealed && !opened.inspection.carried, "it vouches for what is before it");
        let mut writer = world.start(opened);
        writer.write(2, 50).unwrap();
        let wanted = [wanted, writer.acked.clone()].concat();
        drop(writer);
        world.disk = world.disk.crash(Loss::ALL[seed % 5], seed as u64);
        let opened = world.open().unwrap();
        assert_eq!(opened.inspection.damage, vec![], "nothing was damaged");
        assert_eq!(opened.inspection.doubts, vec![]);
        assert_eq!(world.log(&opened), wanted);
    }
}

#[test]
fn without_the_copy_the_planted_bug_is_found() {
    // The teeth of the test above: the disk as it was before the second open really loses the frame.
    let world = World::new();
    let mut writer = world.start(world.open().unwrap());
    writer.write(1, 100).unwrap();
    world.disk.die_at(2);
    assert!(writer.write(2, 100).is_err());
    let acked = writer.acked.clone();
    drop(writer);
    let world = World { disk: world.disk.crash(Loss::Nothing, 1), ..World::new() };
    assert_eq!(world.log(&world.open().unwrap()), acked);
}

#[test]
fn a_failed_sync_is_not_believed_through_a_warm_cache() {
    for failure in [Failure::Eio, Failure::SyncMarksClean, Failure::SyncDrops] {
        let mut world = World::new();
        let mut writer = world.start(world.open().unwrap());
        writer.write(1, 100).unwrap();
        let stale = writer.journal.generation();
        world.disk.fail(Fault { call: Some(Call::Sync), nth: 1, sticky: false, failure });
        let error = writer.write(2, 100).unwrap_err();
        assert!(error.starts_with("outcome unknown"), "{error}");
        assert_eq!(writer.journal.generation(), stale + 1);
        let refused = writer.journal.append(
            swarmkeep::journal::Entry::Records(writer.next(2, 9)),
            stale,
            swarmkeep_core::log::Durability::Durable,
        );
        assert!(matches!(refused, Err(swarmkeep::journal::AppendRefused::Stale)));
        // It goes on in another segment, without the group.
        writer.write(2, 60).unwrap();
        writer.write(1, 60).unwrap();
        let acked = writer.acked.clone();
        drop(writer);
        let warm = World { disk: world.disk.fork().kill(), ..World::new() };
        let opened = warm.open().unwrap();
        assert_eq!(warm.log(&opened), acked, "{failure:?}: warm cache");
        let abandoned = opened.inspection.doubts.iter().filter(|doubt| doubt.abandoned).count();
        assert_eq!(abandoned, usize::from(failure != Failure::SyncDrops), "{failure:?}: it is reported");
        world.disk = world.disk.crash(Loss::Nothing, 3);
        assert_eq!(world.log(&world.open().unwrap()), acked, "{failure:?}: after loss of power");
    }
}

#[test]
fn a_clean_close_is_sealed_and_asks_nothing() {
    let world = World::new();
    let mut writer = world.start(world.open().unwrap());
    for _ in 0..5 {
        writer.write(1, 100).unwrap();
    }
    writer.journal.close();
    let opened = world.open().unwrap();
    assert!(opened.inspection.sealed && !opened.inspection.carried);
    assert!(opened.inspection.doubts.is_empty() && opened.inspection.damage.is_empty());
    assert_eq!(opened.incarnation, 2);
    assert_eq!(world.log(&opened), writer.acked);
}

#[test]
fn the_simulated_disk_loses_what_was_not_synced() {
    use std::path::Path;
    use swarmkeep::disk::{Disk, OpenHow};
    let disk = SimDisk::new();
    let dir = Path::new("/d");
    disk.create_dir(dir).unwrap();
    let path = dir.join("f");
    let file = disk.open(&path, OpenHow::CreateNew).unwrap();
    file.write_at(&[1; 1024], 0).unwrap();
    assert_eq!(disk.fork().crash(Loss::Nothing, 1).contents(&path), None, "its name was not synced");
    disk.sync_dir(dir).unwrap();
    assert_eq!(disk.fork().crash(Loss::Nothing, 1).contents(&path), Some(vec![]));
    file.sync_data().unwrap();
    file.write_at(&[2; 1024], 512).unwrap();
    assert_eq!(disk.fork().crash(Loss::Nothing, 1).contents(&path), Some(vec![1; 1024]));
    assert_eq!(disk.kill().contents(&path).unwrap()[600], 2, "the cache survives a process");
    assert!(file.write_at(&[3], 0).is_err(), "a handle of a dead process");
}
