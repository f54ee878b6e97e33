//! Whether the invariants would find what they are there to find: a defect is planted in the engine's own code, and the
//! same worlds, with the same invariants, must break within a number of seeds. Each defect has a process of its own.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

use std::process::Command;

use swarmkeep::planted::Defect;
use swarmkeep_sim::run;

/// Seeds within which a defect must be found.
const SEEDS: u64 = 240;

/// What these worlds can see of what can be planted.
const SEEN: &[Defect] = &[
    Defect::SyncSkipped,
    Defect::AcknowledgedBeforeSync,
    Defect::RetiredOnWal,
    Defect::EpochNotCompared,
    Defect::DedupeForgotten,
    Defect::ForkForgets,
    Defect::BlobSyncSkipped,
    Defect::BlobHashNotCompared,
    Defect::LeaseNotCompared,
    Defect::StopCounted,
    Defect::SealLeftOut,
    Defect::FilesShared,
];

#[test]
fn every_planted_defect_that_a_world_can_see_breaks_an_invariant() {
    let mut unseen = Vec::new();
    for defect in SEEN {
        let run = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "worlds_with_a_defect", "--ignored", "--nocapture"])
            .env(Defect::VARIABLE, format!("{defect:?}"))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&run.stdout);
        match text.lines().find(|line| line.starts_with("found by seed")) {
            Some(line) if !run.status.success() => println!("{defect:?}: {line}"),
            _ => unseen.push(defect),
        }
    }
    assert!(unseen.is_empty(), "planted, and not found in {SEEDS} seeds: {unseen:?}");
}

#[test]
#[ignore = "a part of `every_planted_defect_that_a_world_can_see_breaks_an_invariant`, in a process of its own"]
fn worlds_with_a_defect() {
    if Defect::of_process().is_none() {
        return;
    }
    for seed in 1..=SEEDS {
        if let Some(failed) = run(seed, false).failed {
            println!("\nfound by seed {seed}: {failed}");
            panic!("found");
        }
    }
}
