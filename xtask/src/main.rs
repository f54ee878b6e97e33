//! The project's own commands.
//!
//! ```text
//! cargo xtask test [--quick]     everything that must hold, with its own set-up (`ci` is the same)
//! cargo xtask tidy               the rules of the house that no compiler knows
//! cargo xtask peers              the MCP server with SDKs, inspector and conformance suites, and real servers behind the
//!                                proxy (PyPI and npm)
//! cargo xtask peers conformance  the conformance suites against a server that has everything they ask for, directly and
//!                                through the proxy: scenario by scenario the same
//! cargo xtask peers compare      the proxy beside other proxies, whose server is killed and comes back
//! cargo xtask soak replay --kills N [--seed N]
//!                                recorded agent runs under many kills, with the release program
//! cargo xtask soak disk [--minutes N | --images N] [--seed N] [--only WORDS]
//!                                loss of power, errors, rot and full disks under the whole store or the journal alone, for
//!                                as long as one likes, or one of those tests by the words of its title;
//!                                adds its figures to docs/soak/figures.jsonl, as the next five do
//! cargo xtask soak kill [--trials N] [--seconds N] [--seed N]
//!                                kills of a loaded daemon
//! cargo xtask soak sim [--trials N] [--seconds N] [--seed N]
//!                                worlds of the simulator, from the seed on at which the last such run ended
//! cargo xtask soak race [--trials N] [--seconds N] [--seed N]
//!                                schedules of the log's own threads, optimised
//! cargo xtask soak machine [--trials N] [--seconds N] [--seed N]
//!                                losses of power of a whole machine (root, FUSE and loop devices)
//! cargo xtask soak fuzz [TARGET…] [--seconds N]
//!                                bytes from nowhere, for half an hour each
//! cargo xtask soak report        makes RELIABILITY.md of those figures
//! cargo xtask fuzz [TARGET…] [--seconds N]
//!                                bytes from nowhere for whatever reads bytes, with the nightly compiler
//! ```

mod disk;
mod fuzz;
mod ledger;
mod peers;
mod reliability;
mod repo;
mod setup;
mod soak;
mod stage;
mod suite;
mod tidy;

use std::process::ExitCode;

use crate::{repo::Repo, stage::Report, suite::Extent};

const USAGE: &str = "usage: cargo xtask test [--quick] | ci | tidy | peers [conformance | compare] | soak replay [--kills N] [--seed N] | \
                     soak disk [--minutes N | --images N] [--seed N] [--only WORDS] | \
                     soak kill|sim|race|machine [--trials N] [--seconds N] [--seed N] | soak fuzz [TARGET…] [--seconds N] | soak report | \
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
        ["peers"] => suite::peers(&repo, &mut report),
        ["peers", "conformance"] => suite::conform(&repo, &mut report),
        ["peers", "compare"] => suite::compare(&repo, &mut report),
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
        ["soak", "kill", bounds @ ..] => match soak::Bounds::parse(&soak::KILL, bounds) {
            Ok(bounds) => soak::soak_kill(&repo, &bounds, &mut report),
            Err(why) => return refuse(&why),
        },
        ["soak", "sim", bounds @ ..] => match soak::Bounds::parse(&soak::SIMULATOR, bounds) {
            Ok(bounds) => soak::soak_simulator(&repo, &bounds, &mut report),
            Err(why) => return refuse(&why),
        },
        ["soak", "race", bounds @ ..] => match soak::Bounds::parse(&soak::RACE, bounds) {
            Ok(bounds) => soak::soak_race(&repo, &bounds, &mut report),
            Err(why) => return refuse(&why),
        },
        ["soak", "machine", bounds @ ..] => match soak::Bounds::parse(&soak::MACHINE, bounds) {
            Ok(bounds) => soak::soak_machine(&repo, &bounds, &mut report),
            Err(why) => return refuse(&why),
        },
        ["soak", "fuzz", options @ ..] => match fuzz::Options::parse_long(options) {
            Ok(options) => fuzz::run(&repo, &options, &mut report),
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
