//! `swarmkeep chaos`: everything that can go wrong, on purpose, on a store of its own or on copies of yours.

use std::{fs, path::PathBuf};

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::{
    chaos::{Arena, Ending, Outcome, Scenario},
    context::{Context, print_json},
    failure::{Exit, Failure},
    moment,
    paint::Paint,
    place,
    say::say,
    table::Table,
};

/// See the module.
#[derive(Debug, Args)]
pub(crate) struct Chaos {
    /// Only these [default: all]
    #[arg(long = "scenario", value_enum, value_name = "SCENARIO", value_delimiter = ',')]
    scenarios: Vec<Scenario>,
    /// How long each takes, about: 4 to 3600
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(4..=3600))]
    seconds: u64,
    /// Choose the moments and places by this number
    #[arg(long)]
    seed: Option<u64>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Leave the folders there although everything held
    #[arg(long)]
    keep: bool,
}

#[derive(Serialize)]
struct Printed<'a> {
    verdict: Ending,
    seed: u64,
    seconds_each: u64,
    acknowledged: u64,
    lost: u64,
    repeated: u64,
    scenarios: &'a [Outcome],
}

impl Chaos {
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Failure> {
        let scenarios = if self.scenarios.is_empty() { Scenario::value_variants() } else { &self.scenarios };
        let source = source(context)?;
        let dir = folder(context, source.is_some())?;
        if self.dry_run {
            return self.tell_plan(context, scenarios, &dir, source.as_ref());
        }
        let seed = match self.seed {
            Some(seed) => seed,
            None => u64::try_from(crate::context::random()? & u128::from(u32::MAX)).unwrap_or(1),
        };
        place::make_private(&dir)?;
        let arena = Arena { dir, source, seconds: self.seconds, seed, json: context.json };
        let paint = context.paint;
        if !context.json {
            say!(
                "\n  {}  {}, {} s each, seed {seed}\n  {}\n",
                paint.bold("swarmkeep chaos"),
                moment::counted(scenarios.len() as u64, "scenario"),
                self.seconds,
                paint.dim(format_args!("in {}", arena.dir.display()))
            );
        }
        let mut outcomes = Vec::new();
        for scenario in scenarios {
            if !context.json {
                say!("  {}", paint.bold(scenario.name()));
            }
            let outcome = arena.run(*scenario).await?;
            if !context.json {
                tell_one(paint, &outcome);
            }
            outcomes.push(outcome);
        }
        self.judge(context, &arena, &outcomes)
    }

    fn tell_plan(
        &self,
        context: &Context,
        scenarios: &[Scenario],
        dir: &std::path::Path,
        source: Option<&PathBuf>,
    ) -> Result<(), Failure> {
        let plan = serde_json::json!({
            "folder": dir, "copy_of": source, "seconds_each": self.seconds,
            "scenarios": scenarios.iter().map(|scenario| scenario.name()).collect::<Vec<_>>(),
        });
        context.answer(&plan, |_| {
            match source {
                Some(source) => say!("each on a copy of {}, which is only read", place::shown(source)),
                None => say!("each on a new store"),
            }
            say!("below {}, about {} s each:", place::shown(dir), self.seconds);
            for scenario in scenarios {
                let help = scenario.to_possible_value().and_then(|value| value.get_help().map(ToString::to_string));
                say!("  {:<15} {}", scenario.name(), help.unwrap_or_default());
            }
        })
    }

    fn judge(&self, context: &Context, arena: &Arena, outcomes: &[Outcome]) -> Result<(), Failure> {
        let count = |verdict| outcomes.iter().filter(|outcome| outcome.verdict == verdict).count() as u64;
        let verdict = match (count(Ending::Failed), count(Ending::Held)) {
            (1.., _) => Ending::Failed,
            (0, 0) => Ending::Skipped,
            _ => Ending::Held,
        };
        let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).sum();
        let printed = Printed {
            verdict,
            seed: arena.seed,
            seconds_each: self.seconds,
            acknowledged: sum(|outcome| outcome.acknowledged),
            lost: sum(|outcome| outcome.lost),
            repeated: sum(|outcome| outcome.repeated + outcome.missing),
            scenarios: outcomes,
        };
        if context.json {
            print_json(&printed)?;
        } else {
            summary(context, outcomes);
        }
        if verdict != Ending::Failed && !self.keep {
            fs::remove_dir_all(&arena.dir).map_err(|error| {
                Failure::unavailable(format!("{}: {error}", arena.dir.display()), "remove the folder by hand")
            })?;
        } else if !context.json {
            say!("  The folders stay: {}", place::shown(&arena.dir));
        }
        match verdict {
            Ending::Held => Ok(()),
            Ending::Skipped => Err(Failure::unavailable(
                "no scenario could be run on this machine",
                "the reasons stand beside each of them",
            )),
            Ending::Failed => {
                let mut failure = Failure::new(
                    Exit::Corrupt,
                    "chaos_failed",
                    format!(
                        "{} did not hold: {} lost, {} repeated",
                        moment::counted(count(Ending::Failed), "scenario"),
                        printed.lost,
                        printed.repeated
                    ),
                    format!("please report it with the folder {} and --seed {}", arena.dir.display(), arena.seed),
                );
                failure.detail = outcomes.iter().flat_map(|outcome| outcome.why.clone()).take(10).collect();
                Err(failure)
            }
        }
    }
}

/// The store that somebody named, if it is one: each scenario works on a copy of it.
fn source(context: &Context) -> Result<Option<PathBuf>, Failure> {
    if context.place.said_by != "--store" || !context.place.is_a_store() {
        return Ok(None);
    }
    let dir = &context.place.dir;
    match swarmkeep::lock::holder(dir) {
        Ok(None) => Ok(Some(dir.clone())),
        Ok(Some(holder)) => Err(Failure::refused(
            "held",
            format!("process {} holds {}: a store at work cannot be copied file by file", holder.pid, dir.display()),
            format!("{} stop, or leave --store out for a new store", context.place.program()),
        )),
        Err(error) => {
            Err(Failure::unavailable(format!("{}: {error}", dir.display()), "`swarmkeep doctor` looks at it"))
        }
    }
}

/// Where the scenarios' folders are made: beside the store that is copied, in the folder that was named, else below the
/// platform's data folder.
fn folder(context: &Context, is_copy: bool) -> Result<PathBuf, Failure> {
    let stamp = moment::stamp(moment::now_ms());
    match context.place.said_by {
        "--store" if is_copy => Ok(context.place.dir.with_file_name(format!("chaos-{stamp}"))),
        "--store" => Ok(context.place.dir.clone()),
        _ => {
            let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
            Ok(place::data_folder(&set)?.join("swarmkeep-chaos").join(stamp))
        }
    }
}

fn tell_one(paint: Paint, outcome: &Outcome) {
    let (mark, said) = match outcome.verdict {
        Ending::Held => {
            let noticed = outcome.noticed.join(", ");
            let noticed = if noticed.is_empty() { noticed } else { format!("; noticed: {noticed}") };
            (paint.green("held   "), format!("{} acknowledged{noticed}", moment::thousands(outcome.acknowledged)))
        }
        Ending::Failed => (paint.red("FAILED "), outcome.why.join("; ")),
        Ending::Skipped => (paint.yellow("skipped"), outcome.why.join("; ")),
    };
    say!("    {mark}  {said}\n");
}

fn summary(context: &Context, outcomes: &[Outcome]) {
    let mut table = Table::new(&[
        "scenario",
        "*verdict",
        ">strikes",
        ">acknowledged",
        ">lost",
        ">repeated",
        ">back ms",
        ">at most",
        ">verified",
    ]);
    for outcome in outcomes {
        let name = outcome.scenario.name().to_owned();
        match outcome.verdict {
            Ending::Skipped => table.row([name, "skipped".into()]),
            verdict => table.row([
                name,
                if verdict == Ending::Held { "held" } else { "failed" }.into(),
                moment::thousands(outcome.strikes),
                moment::thousands(outcome.acknowledged),
                outcome.lost.to_string(),
                (outcome.repeated + outcome.missing).to_string(),
                format!("{:.0}", outcome.recover_ms_median),
                format!("{:.0}", outcome.recover_ms_max),
                moment::thousands(outcome.records_verified),
            ]),
        }
    }
    context.print_table(&table, "nothing was run");
    for detection in outcomes.iter().filter_map(|outcome| outcome.detection.as_ref()) {
        say!(
            "\n  {} damaged copies: {} found ({} without loss), {} made no difference, {} missed; {} untouched copies: {} false \
             alarms; accuracy {:.1} %",
            detection.damaged,
            detection.found,
            detection.without_loss,
            detection.without_effect,
            detection.missed,
            detection.clean,
            detection.false_alarms,
            detection.accuracy_percent
        );
    }
    say!();
}
