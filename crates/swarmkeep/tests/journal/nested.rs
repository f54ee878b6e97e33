//! Loss of power again and again while the journal comes back, each time before the one before is over.

use std::sync::Arc;

use swarmkeep::{
    disk::simulated::{Loss, SimDisk},
    journal::{Settings, Vouch},
};
use swarmkeep_core::testing::Draw;

use super::{
    history::{History, burst, check},
    kit::{Fixed, Mark, World},
    tally::{self, Tally},
};

/// Moments of one history that are gone into.
const MOMENTS: usize = 12;
const DEEP: u32 = 3;

/// What never changes on the way down.
struct Below {
    vouch: Option<Vouch>,
    applied: Vec<Mark>,
    settings: Settings,
}

/// Comes back on a disk with every moment kept, goes on a little, and loses power at three of those moments, `deeper` times
/// one within the other. What was found is owed from then on, and so is what was acknowledged then.
fn again(
    disk: SimDisk,
    below: &Below,
    known: &[Vec<Mark>],
    deeper: u32,
    draw: &mut Draw,
    what: &str,
    tally: &mut Tally,
) {
    disk.keep_moments();
    disk.note(0);
    // No two lives of a disk draw the same.
    let entropy: Arc<Fixed> = Fixed::from((1 << 40) + (draw.number() >> 24 << 8));
    let world =
        World { disk, vouch: below.vouch, applied: below.applied.clone(), settings: below.settings.clone(), entropy };
    let (log, opened) = check(&world, known, what);
    tally.trials += 1;
    tally.checks += (known[0].len() - below.applied.len()) as u64;
    if deeper == 0 {
        return;
    }
    world.disk.note(1);
    let mut writer = world.by_hand(opened);
    world.disk.note(2);
    writer.burst_then(&burst(draw, 4), || world.disk.note(3)).unwrap();
    let more = [log.clone(), writer.acked.clone()].concat();
    drop(writer);
    let moments = world.disk.moments();
    for _ in 0..3 {
        let at = draw.below(moments.len());
        let known = match moments[at].noted() {
            0 => known.to_vec(),
            1 => vec![log.clone()],
            2 => vec![log.clone(), more.clone()],
            _ => vec![more.clone()],
        };
        let loss = Loss::ALL[draw.below(5)];
        // Once in a while only the process dies: the cache stays warm, and is not to be believed.
        let warm = draw.one_in(5);
        // Only where power is lost after that.
        tally.warm += u64::from(warm && deeper > 1);
        let disk = moments[at].fork();
        let disk = if warm { disk.kill() } else { disk.crash(loss, draw.number()) };
        let how = if warm { "killed".into() } else { format!("{loss:?}") };
        again(disk, below, &known, deeper - 1, draw, &format!("{what}, then moment {at}, {how}"), tally);
    }
}

#[test]
fn loss_of_power_while_the_journal_comes_back_three_deep() {
    tally::over_seeds("loss_of_power_while_the_journal_comes_back_three_deep", 4_000, |seed, tally| {
        let history = History::of(seed);
        tally.writes += history.sent.len() as u64;
        let mut draw = Draw::new(seed ^ 0x6e65_7374);
        for _ in 0..MOMENTS {
            let at = draw.below(history.moments.len());
            let (world, known) = history.world(&history.moments[at]);
            let below = Below { vouch: world.vouch, applied: world.applied.clone(), settings: world.settings.clone() };
            let loss = Loss::ALL[draw.below(5)];
            let disk = world.disk.crash(loss, draw.number());
            again(disk, &below, &known, DEEP, &mut draw, &format!("seed {seed}, moment {at}, {loss:?}"), tally);
        }
    });
}
