//! Loss of power at every call that changes the disk, and again while the store comes back from it.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Mutex,
};

use swarmkeep::disk::simulated::{Loss, SimDisk};
use swarmkeep_core::{SessionId, testing::Draw};
use tokio::runtime::Runtime;

use super::{
    check::{Checked, Served, check},
    figures::{Tally, images, now_ms, runtime, seed, spread},
    work::Work,
    world::{Fact, Owed, Story, open},
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
        let mut work = Work::new(disk, seed);
        runtime().block_on(work.run(opens, steps)).unwrap();
        let writes = work.story.facts.iter().filter(|fact| matches!(fact, Fact::Acknowledged(..))).count() as u64;
        Self { moments: work.disk.moments(), story: work.story, kept: work.kept, writes }
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
    let log = open(image, history.kept, seed).map_err(|error| format!("it does not open: {error:?}"))?;
    let found = runtime.block_on(check(&log, &history.story, owed));
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

#[test]
fn acknowledged_survives_loss_of_power_at_every_moment_of_the_whole_store() {
    let (began, seed) = (now_ms(), seed());
    let history = History::of(seed, 3, 40);
    let jobs = losses(&history);
    let every = jobs.len().div_ceil(images(1_500).min(jobs.len()));
    let jobs: Vec<_> = jobs.into_iter().skip(usize::try_from(seed).unwrap() % every).step_by(every).collect();
    let seen = Mutex::new(HashSet::new());
    let tally = spread(&jobs, |runtime, (at, loss, n), tally| {
        let moment = &history.moments[*at];
        let image = moment.fork().crash(*loss, *at as u64 * 1_000 + n);
        if !seen.lock().unwrap().insert((image.fingerprint(), moment.noted())) {
            tally.repeated += 1;
            return;
        }
        let found = look(runtime, &image, &history, &history.owed(moment), 1_000 + *at as u64);
        tally.take(found.map(|(checked, _)| checked), || format!("moment {at}, {loss:?}, {n}"));
    });
    println!("{} moments, {} sessions", history.moments.len(), history.story.lives.len());
    tally.report("acknowledged_survives_loss_of_power_at_every_moment_of_the_whole_store", seed, history.writes, began);
}

/// Comes back on an image with every moment kept, and loses power again, `deeper` times one within the other. What was
/// served in between is owed from then on.
#[expect(clippy::too_many_arguments, reason = "a recursion carries all of it")]
fn again(
    runtime: &Runtime,
    image: &SimDisk,
    history: &History,
    owed: &BTreeMap<SessionId, Owed>,
    deeper: u32,
    draw: &mut Draw,
    name: &str,
    tally: &mut Tally,
) {
    image.keep_moments();
    let incarnation = draw.number();
    let opened = open(image, history.kept, incarnation).map_err(|error| format!("it does not open: {error:?}"));
    let served = opened.and_then(|log| {
        let found = runtime.block_on(check(&log, &history.story, owed))?;
        image.note(image.noted() | SERVED);
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
            tally.take(Ok(checked), String::new);
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
        let next = if draw.one_in(5) { next.kill() } else { next.crash(loss, draw.number()) };
        let name = format!("{name}, then moment {at}, {loss:?}");
        again(runtime, &next, history, owed, deeper - 1, draw, &name, tally);
    }
}

#[test]
fn loss_of_power_while_coming_back_three_deep() {
    let (began, seed) = (now_ms(), seed());
    let history = History::of(seed + 1, 3, 40);
    // Each becomes 1 + 3 + 9 + 27 images.
    let first = images(800).div_ceil(40).min(history.moments.len());
    let every = history.moments.len() / first;
    let jobs: Vec<usize> = (0..history.moments.len()).step_by(every).collect();
    let tally = spread(&jobs, |runtime, at, tally| {
        let mut draw = Draw::new(seed << 32 | *at as u64);
        let moment = &history.moments[*at];
        let loss = Loss::ALL[draw.below(Loss::ALL.len())];
        let image = moment.fork();
        let image = if draw.one_in(5) { image.kill() } else { image.crash(loss, draw.number()) };
        again(runtime, &image, &history, &history.owed(moment), 3, &mut draw, &format!("moment {at}, {loss:?}"), tally);
    });
    tally.report("loss_of_power_while_coming_back_three_deep", seed, history.writes, began);
}
