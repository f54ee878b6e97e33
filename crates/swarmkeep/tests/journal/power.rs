//! Loss of power, and death of the process, at every call that changes the disk.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use swarmkeep::disk::simulated::{Call, Failure, Fault, Loss, SimDisk};
use swarmkeep_core::clock::Clock;

use super::kit::{Mark, World, assert_chained};

/// A run with rotation, retiring, reuse of segments, a clean close and a second open. Returns what was acknowledged.
fn run(world: &mut World) -> Vec<Mark> {
    let mut acked = Vec::new();
    for open in 0..3u8 {
        let Ok(opened) = world.open() else { return acked };
        let mut writer = world.start(opened);
        for step in 0..9u8 {
            let size = [40, 900, 1500, 10, 2200][usize::from((step + open) % 5)];
            if writer.write(step % 3, size).is_err() {
                acked.extend(&writer.acked);
                return acked;
            }
            if step % 4 == 3 {
                let frames = writer.seen.lock().clone();
                world.apply(writer.store, writer.incarnation, &frames);
                let vouch = world.vouch.unwrap();
                let _ = writer.journal.retire(vouch.position, vouch.frame_hash);
            }
        }
        let frames = writer.seen.lock().clone();
        if open == 1 {
            world.apply(writer.store, writer.incarnation, &frames);
        }
        writer.journal.close();
        acked.extend(&writer.acked);
    }
    acked
}

/// What must hold of any disk after any death: everything acknowledged is there, in order, and at most what was in flight.
fn check(world: &World, acked: &[Mark], what: &str) -> Vec<Mark> {
    let opened = world.open().unwrap_or_else(|error| panic!("{what}: {error}"));
    let log = world.log(&opened);
    assert!(log.len() >= acked.len(), "{what}: {} acknowledged, {} there", acked.len(), log.len());
    assert_eq!(&log[..acked.len()], acked, "{what}");
    assert!(log.len() <= acked.len() + 1, "{what}: more than what was in flight");
    assert!(opened.inspection.damage.is_empty(), "{what}: {:?}", opened.inspection.damage);
    assert_chained(&log, what);
    log
}

fn boundaries() -> u64 {
    let mut world = World::new();
    let acked = run(&mut world);
    assert_eq!(acked.len(), 27);
    world.disk.changes()
}

/// Losses of power with what is left drawn by lot, at each boundary; each becomes three images.
fn draws(boundaries: u64) -> u64 {
    (number("SWARMKEEP_DISK_IMAGES", 0) / boundaries / 9).max(4)
}

#[test]
fn acknowledged_survives_loss_of_power_at_every_boundary() {
    let began_ms = swarmkeep::SystemClock::new().now_ms();
    let boundaries = boundaries();
    assert!(boundaries > 100, "{boundaries}");
    let (first, draws) = (number("SWARMKEEP_DISK_SEED", 1), draws(boundaries));
    let (next, images, checks) = (AtomicU64::new(1), AtomicU64::new(0), AtomicU64::new(0));
    let at_one = || {
        let at = next.fetch_add(1, Ordering::Relaxed);
        if at > boundaries + 1 {
            return false;
        }
        let mut dying = World::new();
        dying.disk.die_at(at);
        let acked = run(&mut dying);
        for loss in Loss::ALL {
            let seeds = if matches!(loss, Loss::Nothing | Loss::Everything) { 1 } else { draws };
            for seed in 0..seeds {
                let seed = (first << 32) + at * 100_000 + seed;
                let what = format!("boundary {at}, {loss:?}, seed {seed}");
                images.fetch_add(3, Ordering::Relaxed);
                checks.fetch_add(3 * acked.len() as u64, Ordering::Relaxed);
                lose_power(&dying, &acked, loss, seed, &what);
            }
        }
        true
    };
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| (0..cores).for_each(|_| drop(scope.spawn(|| while at_one() {}))));
    let (images, checks) = (images.into_inner(), checks.into_inner());
    println!("{boundaries} boundaries, {images} images, {checks} checks of acknowledged groups");
    let Ok(path) = std::env::var("SWARMKEEP_DISK_FIGURES") else { return };
    let ms = swarmkeep::SystemClock::new().now_ms() - began_ms;
    let line = format!(
        "{{\"test\":\"acknowledged_survives_loss_of_power_at_every_boundary\",\"seed\":{first},\"histories\":1,\
         \"writes\":27,\"trials\":{images},\"checks\":{checks},\"failed\":0,\"ms\":{ms}}}\n"
    );
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    std::io::Write::write_all(&mut file.unwrap(), line.as_bytes()).unwrap();
}

/// What is left is opened, loses power again, is opened, goes on, and loses power a third time.
fn lose_power(dying: &World, acked: &[Mark], loss: Loss, seed: u64, what: &str) {
    let disk = dying.disk.fork().crash(loss, seed);
    let mut world = World { disk, vouch: dying.vouch, applied: dying.applied.clone(), ..World::new() };
    // Nonces never repeat.
    world.entropy = Arc::new(super::kit::Fixed::default());
    (0..1000).for_each(|_| swarmkeep_core::clock::Entropy::fill(&*world.entropy, &mut [0]));
    let log = check(&world, acked, what);

    // What was found is durable now: it survives the next loss of power too, whatever the cache showed.
    world.disk = world.disk.crash(Loss::Nothing, seed);
    assert_eq!(check(&world, acked, what), log, "{what}: found once, lost later");

    // And the store goes on from there.
    let opened = world.open().unwrap();
    let mut writer = world.start(opened);
    writer.write(7, 100).unwrap();
    let more = [log, writer.acked.clone()].concat();
    drop(writer);
    world.disk = world.disk.crash(Loss::Nothing, seed);
    check(&world, &more, what);
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn death_while_opening_loses_nothing() {
    let boundaries = boundaries();
    for at in (1..=boundaries + 1).step_by(3) {
        let mut dying = World::new();
        dying.disk.die_at(at);
        let acked = run(&mut dying);
        for (seed, again) in (1..30).enumerate() {
            let seed = at * 1000 + seed as u64;
            let loss = Loss::ALL[(seed % 5) as usize];
            let disk = if again % 2 == 0 { dying.disk.fork().kill() } else { dying.disk.fork().crash(loss, seed) };
            let mut world = World { disk, vouch: dying.vouch, applied: dying.applied.clone(), ..World::new() };
            (0..1000).for_each(|_| swarmkeep_core::clock::Entropy::fill(&*world.entropy, &mut [0]));
            world.disk.die_at(again);
            let finished = world.open().is_ok();
            world.disk = world.disk.crash(Loss::ALL[((seed / 5) % 5) as usize], seed + 7);
            check(&world, &acked, &format!("boundary {at}, then {again} while opening, seed {seed}"));
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
