//! A journal on a disk that is full, at every size in steps of 4 KiB, then has room.

use swarmkeep::disk::simulated::Loss;
use swarmkeep_core::testing::Draw;

use super::{
    history::burst,
    kit::{Fixed, Mark, World, assert_chained},
    tally,
};

const STEP_BYTES: u64 = 4096;
/// Steps of one life.
const STEPS: usize = 8;
/// Bursts after which it has to take one again, once there is room.
const AGAIN: usize = 3;

/// Two lives on a disk of so many bytes, then room. What was acknowledged, and what nobody knows about.
fn run(world: &mut World, seed: u64, bytes: Option<u64>) -> Result<(Vec<Mark>, Vec<Mark>), String> {
    let (mut acked, mut unknown) = (Vec::new(), Vec::new());
    let mut draw = Draw::new(seed);
    world.disk.set_capacity(bytes);
    for life in 0..2 {
        let opened = match world.open() {
            Ok(opened) => opened,
            Err(_) if life == 0 => continue,
            Err(_) => {
                world.disk.set_capacity(None);
                world.open().map_err(|error| format!("with room it does not open: {error}"))?
            }
        };
        let log = world.log(&opened);
        assert!(log.starts_with(&acked), "{log:?} {acked:?}");
        acked = log;
        let mut writer = world.by_hand(opened);
        for _ in 0..STEPS {
            let _ = writer.burst(&burst(&mut draw, 12));
        }
        if life == 1 {
            // Room: no restart, no call to make.
            world.disk.set_capacity(None);
            if !(0..AGAIN).any(|_| writer.burst(&[(5, 50)]).is_ok()) {
                return Err("it takes no writes, though there is room".into());
            }
        }
        writer.journal.close();
        acked.extend(&writer.acked);
        unknown.extend(&writer.unknown);
    }
    Ok((acked, unknown))
}

#[test]
fn a_journal_on_a_disk_full_at_every_size_loses_nothing_and_takes_writes_again() {
    let test = "a_journal_on_a_disk_full_at_every_size_loses_nothing_and_takes_writes_again";
    tally::over_seeds(test, 300, |seed, tally| {
        let mut clean = World::new();
        let (acked, _) = run(&mut clean, seed, None).unwrap();
        tally.writes += acked.len() as u64;
        let sizes = clean.disk.used_bytes() / STEP_BYTES;
        for size in 1..=sizes {
            let what = format!("seed {seed}, {size} of {sizes} times 4 KiB");
            let mut world = World::new();
            let (acked, unknown) =
                run(&mut world, seed, Some(size * STEP_BYTES)).unwrap_or_else(|error| panic!("{what}: {error}"));
            tally.trials += 1;
            for (loss, lot) in [(Loss::Nothing, 1), (Loss::Everything, 1), (Loss::Subset, size)] {
                let disk = world.disk.fork().crash(loss, lot);
                let after = World { disk, entropy: Fixed::from(1 << 32), ..World::new() };
                let opened = after.open().unwrap_or_else(|error| panic!("{what}, {loss:?}: {error}"));
                let log = after.log(&opened);
                assert!(log.starts_with(&acked), "{what}, {loss:?}: {} of {}", log.len(), acked.len());
                assert!(log[acked.len()..].iter().all(|mark| unknown.contains(mark)), "{what}, {loss:?}");
                assert_chained(&log, &what);
                tally.checks += acked.len() as u64;
            }
        }
    });
}
