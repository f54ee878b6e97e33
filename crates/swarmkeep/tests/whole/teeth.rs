//! Whether the checkers would find what they are there to find: a defect is planted in the store's own code, and the same
//! checks, unchanged, must fail within a number of trials. Each defect has a process of its own.

use std::process::Command;

use swarmkeep::{
    disk::simulated::{Call, Failure, Fault, SimDisk},
    planted::Defect,
};
use swarmkeep_core::{
    Epoch,
    log::{Durability, Log, LogError},
};

use super::{
    faults, figures,
    power::{self, History},
    work::Work,
};

/// Trials within which a defect must be found by loss of power, and by failed syncs.
const TRIALS: usize = 400;
const FAULTS: u64 = 48;

/// What the first failure says, and how many trials it took.
type Found = Option<(u64, String)>;

/// Loss of power, at moments all over the history.
fn by_power() -> Found {
    let history = History::of(1, 3, 24);
    let jobs = power::losses(&history);
    let runtime = figures::runtime();
    let every = (jobs.len() / TRIALS).max(1);
    jobs.iter().step_by(every).take(TRIALS).zip(1..).find_map(|((at, loss, n), trial)| {
        let moment = &history.moments[*at];
        let image = moment.fork().crash(*loss, *at as u64 * 1_000 + n);
        let found = power::look(&runtime, &image, &history, &history.owed(moment), 1_000 + *at as u64);
        found.err().map(|error| (trial, error))
    })
}

/// Failed syncs whose pages count as written.
fn by_failed_syncs() -> Found {
    let runtime = figures::runtime();
    (1..=FAULTS).find_map(|nth| {
        let fault = Fault { call: Some(Call::Sync), nth, sticky: false, failure: Failure::SyncMarksClean };
        faults::with(&runtime, 1, fault, 12).err().map(|error| (nth, error))
    })
}

/// A writer that was granted an older epoch.
fn by_a_stale_writer() -> Found {
    let mut work = Work::new(SimDisk::new(), 1);
    figures::runtime().block_on(async {
        work.open().await.unwrap();
        let group = work.first_group(Epoch(0));
        match work.take_log().unwrap().append(group, Durability::Durable).await {
            Err(LogError::Fenced(_)) => None,
            other => Some((1, format!("a group of epoch 0: {other:?}"))),
        }
    })
}

fn checker(defect: Defect) -> fn() -> Found {
    match defect {
        Defect::SyncSkipped | Defect::AcknowledgedBeforeSync | Defect::RetiredOnWal => by_power,
        Defect::CacheTrusted => by_failed_syncs,
        Defect::EpochNotCompared => by_a_stale_writer,
    }
}

#[test]
fn every_planted_defect_is_found() {
    for checker in [by_failed_syncs, by_a_stale_writer] {
        assert_eq!(checker(), None, "without a defect");
    }
    let mut unseen = Vec::new();
    for defect in Defect::ALL {
        let run = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "teeth::a_process_with_a_defect", "--ignored", "--nocapture"])
            .env(Defect::VARIABLE, format!("{defect:?}"))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&run.stdout);
        match text.lines().find(|line| line.starts_with("found by trial")) {
            Some(line) if !run.status.success() => println!("{defect:?}: {line}"),
            _ => unseen.push(defect),
        }
    }
    assert_eq!(unseen, vec![], "planted, and not found");
}

#[test]
#[ignore = "a part of `every_planted_defect_is_found`, in a process of its own"]
fn a_process_with_a_defect() {
    let Some(defect) = Defect::of_process() else { return };
    if let Some((trial, error)) = checker(defect)() {
        println!("\nfound by trial {trial}: {error}");
        panic!("found");
    }
}
