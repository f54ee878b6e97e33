//! The same seed gives the same world, and nothing in it is broken.
#![allow(clippy::panic, missing_docs, reason = "tests")]

use swarmkeep_sim::run;

#[test]
fn the_same_seed_twice_gives_the_same_trace() {
    for seed in 1..=12 {
        let (first, second) = (run(seed, true), run(seed, true));
        let differ = first.lines.iter().zip(&second.lines).find(|(first, second)| first != second);
        assert_eq!(differ, None, "seed {seed}");
        assert_eq!((first.trace, first.figures), (second.trace, second.figures), "seed {seed}");
        assert_eq!(first.failed, None, "again: cargo run -p swarmkeep-sim -- --seed {seed} --trace");
    }
}

#[test]
fn another_seed_gives_another_world_and_the_weather_comes_through() {
    let mut all = swarmkeep_sim::Figures::default();
    let mut traces = std::collections::BTreeSet::new();
    for seed in 100..140 {
        let ended = run(seed, false);
        assert_eq!(ended.failed, None, "again: cargo run -p swarmkeep-sim -- --seed {seed} --trace");
        traces.insert(ended.trace);
        all += ended.figures;
    }
    assert_eq!(traces.len(), 40);
    let weather = [all.power, all.takeovers, all.repeated, all.deeds, all.forks, all.rewinds, all.blobs, all.leases];
    assert!(all.crashes > all.power && !weather.contains(&0), "{all:?}");
}
