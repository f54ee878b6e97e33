//! The project's own commands.
//!
//! ```text
//! cargo xtask test [--quick]     everything that must hold, with its own set-up (`ci` is the same)
//! cargo xtask tidy               the rules of the house that no compiler knows
//! cargo xtask soak replay --kills N [--seed N]
//!                                recorded agent runs under many kills, with the release program
//! cargo xtask soak disk [--minutes N | --images N] [--seed N]
//!                                loss of power, errors and full disks under the whole store, for as long as one likes;
//!                                adds its figures to docs/soak/figures.jsonl
//! cargo xtask soak report        makes RELIABILITY.md of those figures
//! cargo xtask fuzz [TARGET…] [--seconds N]
//!                                bytes from nowhere for whatever reads bytes, with the nightly compiler
//! ```

mod disk;
mod fuzz;
mod reliability;
mod repo;
mod setup;
mod stage;
mod suite;
mod tidy;

use std::process::ExitCode;

use crate::{repo::Repo, stage::Report, suite::Extent};

const USAGE: &str = "usage: cargo xtask test [--quick] | ci | tidy | soak replay [--kills N] [--seed N] | \
                     soak disk [--minutes N | --images N] [--seed N] | soak report | \
                     fuzz [TARGET…] [--seconds N]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut report = Report::default();
    let repo = match Repo::find() {
        Ok(repo) => repo,
        Err(why) => return refuse(&why),
    };
    match words.as_slice() {
        ["test" | "ci"] => suite::run(&repo, Extent::Full, &mut report),
        ["test" | "ci", "--quick"] => suite::run(&repo, Extent::Quick, &mut report),
        ["tidy"] => tidy::run(&repo, &mut report),
        ["fuzz", options @ ..] => match fuzz::Options::parse(options) {
            Ok(options) => fuzz::run(&repo, &options, &mut report),
            Err(why) => return refuse(&why),
        },
        ["soak", "replay", options @ ..] => match suite::SoakOptions::parse(options) {
            Ok(options) => suite::soak(&repo, &options, &mut report),
            Err(why) => return refuse(&why),
        },
        ["soak", "disk", options @ ..] => match disk::Options::parse(options) {
            Ok(options) => disk::soak(&repo, &options, &mut report),
            Err(why) => return refuse(&why),
        },
        ["soak", "report"] => {
            if let Err(error) = reliability::write(&repo) {
                return refuse(&format!("{}: {error}", reliability::PAGE));
            }
            return ExitCode::SUCCESS;
        }
        _ => return refuse(USAGE),
    }
    report.print();
    if report.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn refuse(why: &str) -> ExitCode {
    eprintln!("{why}");
    ExitCode::from(2)
}
