//! Histories of a journal, drawn from a seed: several opens, bursts of groups, reuse of segments; every moment at which the
//! process could have died, and what must be there then.

use std::collections::BTreeMap;

use swarmkeep::{
    disk::simulated::SimDisk,
    journal::{Opened, Settings, Vouch},
};
use swarmkeep_core::testing::Draw;

use super::kit::{Mark, World, settings};

const STEPS: usize = 6;

/// What holds while the disk carries a note.
#[derive(Debug, Clone)]
struct Stage {
    /// How much of what was sent was acknowledged, and how much may be there at most.
    acked: usize,
    through: usize,
    vouch: Option<Vouch>,
    /// How much of it records.db has.
    applied: usize,
}

/// See the module.
#[derive(Debug)]
pub struct History {
    pub moments: Vec<SimDisk>,
    /// Every group, in the order in which they were sent. All were acknowledged in the end.
    pub sent: Vec<Mark>,
    stages: Vec<Stage>,
    settings: Settings,
}

/// Groups that are one frame: many small ones, or one.
pub fn burst(draw: &mut Draw, most: usize) -> Vec<(u8, usize)> {
    if draw.one_in(3) {
        return vec![(draw.below(12) as u8, [40, 900, 1500, 10, 2200][draw.below(5)])];
    }
    (0..most / 2 + draw.below(most / 2)).map(|_| (draw.below(12) as u8, 10 + draw.below(60))).collect()
}

impl History {
    pub fn of(seed: u64) -> Self {
        let mut draw = Draw::new(seed);
        let mut world = World::new();
        // As many as one frame holds.
        let (segment_bytes, most) = if seed.is_multiple_of(2) { (32 * 1024, 40) } else { (64 * 1024, 60) };
        world.settings = Settings { segment_bytes, ..settings() };
        world.disk.keep_moments();
        let (mut sent, mut stages) = (Vec::<Mark>::new(), Vec::new());
        let (mut acked, mut applied) = (0, 0);
        let mut note = |world: &World, acked, through, applied| {
            world.disk.note(stages.len() as u64);
            stages.push(Stage { acked, through, vouch: world.vouch, applied });
        };
        let opens = 2 + draw.below(2);
        for open in 0..opens {
            note(&world, acked, acked, applied);
            let opened = world.open().unwrap();
            let mut writer = world.by_hand(opened);
            let applies = draw.below(2 * STEPS);
            for step in 0..STEPS {
                let groups = burst(&mut draw, most);
                note(&world, acked, acked + groups.len(), applied);
                acked += groups.len();
                writer.burst_then(&groups, || note(&world, acked, acked, applied)).unwrap();
                if step == applies {
                    let frames = writer.seen.lock().clone();
                    world.apply(writer.store, writer.incarnation, &frames[..1 + draw.below(frames.len())]);
                    applied = world.applied.len();
                    note(&world, acked, acked, applied);
                    let vouch = world.vouch.unwrap();
                    let _ = writer.journal.retire(vouch.position, vouch.frame_hash);
                }
            }
            sent.extend(&writer.acked);
            // Once in a while all of it is in records.db when the next one opens, and segments are used again.
            if open == 0 && draw.one_in(3) {
                let frames = writer.seen.lock().clone();
                world.apply(writer.store, writer.incarnation, &frames);
                applied = world.applied.len();
                note(&world, acked, acked, applied);
            }
        }
        note(&world, acked, acked, applied);
        assert_eq!(sent.len(), acked);
        assert_eq!(world.applied, sent[..applied]);
        Self { moments: world.disk.moments(), sent, stages, settings: world.settings }
    }

    /// A moment with a life of its own, and the logs of which it must have one: the first is what was acknowledged.
    pub fn world(&self, moment: &SimDisk) -> (World, Vec<Vec<Mark>>) {
        let stage = &self.stages[usize::try_from(moment.noted()).unwrap()];
        let world = World {
            disk: moment.fork(),
            vouch: stage.vouch,
            applied: self.sent[..stage.applied].to_vec(),
            settings: self.settings.clone(),
            ..World::new()
        };
        let mut known = vec![self.sent[..stage.acked].to_vec()];
        if stage.through > stage.acked {
            known.push(self.sent[..stage.through].to_vec());
        }
        (world, known)
    }
}

/// What must hold of any disk after any death: it opens, nothing was damaged, and it has one of the logs that it may have.
pub fn check(world: &World, known: &[Vec<Mark>], what: &str) -> (Vec<Mark>, Opened) {
    let opened = world.open().unwrap_or_else(|error| panic!("{what}: {error}"));
    let log = world.log(&opened);
    if !known.contains(&log) {
        let same = log.iter().zip(&known[0]).take_while(|(there, sent)| there == sent).count();
        let lengths: Vec<usize> = known.iter().map(Vec::len).collect();
        panic!("{what}: {} groups are there, {same} of them as they were sent; wanted one of {lengths:?}", log.len());
    }
    assert!(opened.inspection.damage.is_empty(), "{what}: {:?}", opened.inspection.damage);
    (log, opened)
}

/// How often each thing was counted, for people.
pub fn said<K: std::fmt::Debug>(counts: &BTreeMap<K, u64>) -> String {
    counts.iter().map(|(key, count)| format!("{key:?} {count}")).collect::<Vec<_>>().join(", ")
}
