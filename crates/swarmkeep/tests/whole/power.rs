//! Loss of power at every call that changes the disk, and again while the store comes back from it.

use std::collections::{BTreeMap, HashSet};

use swarmkeep::disk::simulated::{Loss, SimDisk};
use swarmkeep_core::{SessionId, testing::Draw};
use tokio::runtime::Runtime;

use super::{
    check::{Checked, Served, check},
    figures::{Tally, idle_clock, images, now_ms, over_seeds, runtime, seed},
    work::Work,
    world::{Owed, Story, driven, open, open_by_hand, some_turns},
};

/// Noted beside the number of facts: the store was open again, and had served what it found.
const SERVED: u64 = 1 << 40;

/// One run of a store: every moment at which it could have died, and what was written down by then.
pub struct History {
    pub moments: Vec<SimDisk>,
    pub story: Story,
    pub kept: bool,
    pub writes: u64,
}

impl History {
    pub fn of(seed: u64, opens: usize, steps: usize) -> Self {
        let disk = SimDisk::new();
        disk.keep_moments();
        // Every fourth by a store with threads: what meets there meets by chance.
        let mut work = if seed % 4 == 1 { Work::new(disk, seed) } else { Work::by_hand(disk, seed) };
        let runtime = if work.by_hand { idle_clock() } else { runtime() };
        runtime.block_on(work.run(opens, steps)).unwrap();
        Self { moments: work.disk.moments(), writes: work.writes, story: work.story, kept: work.kept }
    }

    pub fn owed(&self, moment: &SimDisk) -> BTreeMap<SessionId, Owed> {
        self.story.owed(usize::try_from(moment.noted() % SERVED).unwrap())
    }
}

/// Opens the store on an image and checks it. Nobody is interested in what it would write afterwards.
pub fn look(
    runtime: &Runtime,
    image: &SimDisk,
    history: &History,
    owed: &BTreeMap<SessionId, Owed>,
    seed: u64,
) -> Result<(Checked, Served), String> {
    // With threads once in a while: an applier that works while it is looked at.
    let opened =
        if seed.is_multiple_of(8) { open(image, history.kept, seed) } else { open_by_hand(image, history.kept, seed) };
    let log = opened.map_err(|error| format!("it does not open: {error:?}"))?;
    some_turns(&log, &mut Draw::new(seed));
    let found = runtime.block_on(driven(&log, check(&log, &history.story, owed)));
    let _ = image.kill();
    found
}

/// Every moment with every kind of loss.
pub fn losses(history: &History) -> Vec<(usize, Loss, u64)> {
    let mut jobs = Vec::new();
    for at in 0..history.moments.len() {
        for loss in Loss::ALL {
            let seeds = if matches!(loss, Loss::Nothing | Loss::Everything) { 1 } else { 2 };
            jobs.extend((0..seeds).map(|n| (at, loss, n)));
        }
    }
    jobs
}

/// Opens, and steps between two of them, of a history: most meet several starts, clean ends and reuse of segments.
pub fn extent(seed: u64) -> (usize, usize) {
    (2 + usize::try_from(seed % 3).unwrap(), 60)
}

/// Images of one history at most: many histories meet more than one looked at closely does.
const IMAGES_OF_ONE: u64 = 500;

#[test]
fn acknowledged_survives_loss_of_power_at_every_moment_of_the_whole_store() {
    let (began, seed) = (now_ms(), seed());
    let tally = over_seeds(runtime, seed, images(300) as u64, IMAGES_OF_ONE, |runtime, seed, most, tally| {
        let (opens, steps) = extent(seed);
        let history = History::of(seed, opens, steps);
        tally.writes += history.writes;
        let jobs = losses(&history);
        let every = jobs.len().div_ceil(most);
        let mut seen = HashSet::new();
        for (at, loss, n) in jobs.into_iter().skip(usize::try_from(seed).unwrap() % every).step_by(every) {
            let moment = &history.moments[at];
            let image = moment.fork().crash(loss, at as u64 * 1_000 + n);
            if !seen.insert((image.fingerprint(), moment.noted())) {
                tally.repeated += 1;
                continue;
            }
            let found = look(runtime, &image, &history, &history.owed(moment), 1_000 + at as u64);
            tally.take(found.map(|(checked, _)| checked), || format!("seed {seed}, moment {at}, {loss:?}, {n}"));
        }
    });
    tally.report("acknowledged_survives_loss_of_power_at_every_moment_of_the_whole_store", seed, 0, began);
}

/// Comes back on an image with every moment kept, and loses power again, `deeper` times one within the other. What was
/// served in between is owed from then on.
#[expect(clippy::too_many_arguments, reason = "a recursion carries all of it")]
fn again(
    runtime: &Runtime,
    image: &SimDisk,
    history: &History,
    owed: &BTreeMap<SessionId, Owed>,
    (deeper, warm): (u32, bool),
    draw: &mut Draw,
    name: &str,
    tally: &mut Tally,
) {
    image.keep_moments();
    let incarnation = draw.number();
    let opened = open_by_hand(image, history.kept, incarnation);
    let served = opened.map_err(|error| format!("it does not open: {error:?}")).and_then(|log| {
        some_turns(&log, draw);
        let found = runtime.block_on(driven(&log, check(&log, &history.story, owed)))?;
        image.note(image.noted() | SERVED);
        some_turns(&log, draw);
        // It goes on applying and retiring, and parks.
        if draw.one_in(2) {
            log.close().map_err(|error| format!("{error:?}"))?;
        }
        Ok(found)
    });
    let moments = image.moments();
    let _ = image.kill();
    let served = match served {
        Ok((checked, served)) => {
            let warm = u64::from(warm && deeper > 0);
            tally.take(Ok(Checked { warm, ..checked }), String::new);
            served
        }
        Err(error) => return tally.take(Err(error), || name.to_owned()),
    };
    if deeper == 0 {
        return;
    }
    let mut owed_then = owed.clone();
    for (id, seq) in served {
        let owed = owed_then.get_mut(&id).unwrap();
        owed.acknowledged = owed.acknowledged.max(seq);
    }
    for _ in 0..3 {
        let at = draw.below(moments.len());
        let loss = Loss::ALL[draw.below(Loss::ALL.len())];
        let owed = if moments[at].noted() & SERVED == 0 { owed } else { &owed_then };
        let next = moments[at].fork();
        next.note(moments[at].noted() & !SERVED);
        // Once in a while only the process dies: the cache stays warm, and is not to be believed.
        let warm = draw.one_in(5);
        let next = if warm { next.kill() } else { next.crash(loss, draw.number()) };
        let how = if warm { "killed".into() } else { format!("{loss:?}") };
        let name = format!("{name}, then moment {at}, {how}");
        again(runtime, &next, history, owed, (deeper - 1, warm), draw, &name, tally);
    }
}

/// Losses of power, and deaths, that one moment becomes: 1 + 3 + 9 + 27.
const NESTED: u64 = 40;
/// Moments of one history that are gone into so.
const MOMENTS_OF_ONE: u64 = 10;

#[test]
fn loss_of_power_while_coming_back_three_deep() {
    let (began, seed) = (now_ms(), seed());
    let tally =
        over_seeds(idle_clock, seed, images(300) as u64, NESTED * MOMENTS_OF_ONE, |runtime, seed, most, tally| {
            let (opens, steps) = extent(seed + 1);
            let history = History::of(seed + 1, opens, steps);
            tally.writes += history.writes;
            let moments = history.moments.len();
            let every = moments.div_ceil(most.div_ceil(NESTED as usize));
            for at in (0..moments).skip(usize::try_from(seed).unwrap() % every).step_by(every) {
                let mut draw = Draw::new(seed << 32 | at as u64);
                let moment = &history.moments[at];
                let loss = Loss::ALL[draw.below(Loss::ALL.len())];
                let warm = draw.one_in(5);
                let image = moment.fork();
                let image = if warm { image.kill() } else { image.crash(loss, draw.number()) };
                let how = if warm { "killed".into() } else { format!("{loss:?}") };
                let name = format!("seed {seed}, moment {at}, {how}");
                again(runtime, &image, &history, &history.owed(moment), (3, warm), &mut draw, &name, tally);
            }
        });
    tally.report("loss_of_power_while_coming_back_three_deep", seed, 0, began);
}
