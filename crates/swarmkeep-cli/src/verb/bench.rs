//! `swarmkeep bench`: how fast this machine is, beside what it could be.

use clap::Args;

use crate::{
    bench::{ALL, Figure, Plan, Scratch},
    context::{Context, print_json},
    failure::Failure,
    paint::Paint,
    say::say,
};

/// See the module.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Only these: see --list
    names: Vec<String>,
    /// Short runs and few sessions: whether it works, not a figure to publish
    #[arg(long)]
    quick: bool,
    /// Length of what is measured for long: a sustained run, servers that flap
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: Option<u64>,
    /// What there is to measure
    #[arg(long)]
    list: bool,
}

impl Bench {
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Failure> {
        if self.list {
            for measurement in ALL {
                say!("{:<11} {}", measurement.name, measurement.about);
            }
            return Ok(());
        }
        if let Some(unknown) = self.names.iter().find(|name| ALL.iter().all(|measurement| measurement.name != **name)) {
            let known: Vec<&str> = ALL.iter().map(|measurement| measurement.name).collect();
            return Err(Failure::usage(
                format!("nothing to measure is called `{unknown}`"),
                format!("one of {}", known.join(", ")),
            ));
        }
        let plan = if self.quick { Plan::QUICK } else { Plan::FULL };
        let plan = self.seconds.map_or(plan, |seconds| plan.lasting(seconds));
        let scratch = Scratch::beside(&context.place.dir)?;
        let paint = context.paint;
        let load = crate::bench::load();
        if !context.json {
            let build = if cfg!(debug_assertions) {
                paint.red("a debug build: these are no figures")
            } else {
                "release build".to_owned()
            };
            say!("{} cores, load {load:.2}, {build}{}", cores(), if self.quick { ", quick" } else { "" });
            if load > 1.0 {
                say!("{}", paint.yellow("the machine is busy: synced writes show the scheduler's tick, not the disk"));
            }
        }
        let mut all = Vec::new();
        for measurement in ALL
            .iter()
            .filter(|measurement| self.names.is_empty() || self.names.iter().any(|name| name == measurement.name))
        {
            let figures = (measurement.take)(&plan, &scratch).await?;
            if !context.json {
                for figure in &figures {
                    show(paint, figure);
                }
            }
            all.extend(
                figures.into_iter().map(|figure| serde_json::json!({ "name": measurement.name, "figure": figure })),
            );
        }
        if context.json {
            print_json(&serde_json::json!({
                "cores": cores(), "load_before": load, "load_after": crate::bench::load(), "quick": self.quick,
                "debug": cfg!(debug_assertions), "runs": plan.runs, "figures": all,
            }))?;
        } else {
            say!("\nload after: {:.2}; medians of {} runs", crate::bench::load(), plan.runs);
        }
        Ok(())
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn show(paint: Paint, figure: &Figure) {
    let number = crate::bench::number;
    say!("\n{}", paint.bold(&figure.what));
    let verdict = match figure.reached {
        Some(true) => paint.green(format_args!("reached: {}", figure.wanted)),
        Some(false) => paint.red(format_args!("not reached: {}", figure.wanted)),
        None => String::new(),
    };
    say!("  {:>12} {:<3}  {verdict}", number(figure.value), figure.unit);
    for beside in &figure.beside {
        say!(
            "  {:>12} {:<3}  {} {}",
            number(beside.value),
            figure.unit,
            beside.what,
            paint.cyan(format_args!("(ours is {:.2} ×)", beside.ratio))
        );
    }
    for note in &figure.notes {
        say!("  {}", paint.dim(note));
    }
}
