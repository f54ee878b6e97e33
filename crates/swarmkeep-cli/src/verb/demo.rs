//! `swarmkeep demo`: half a minute that shows what this is for.

use clap::Args;
use serde::Serialize;
use swarmkeep_server::DEFAULT_PORT;

use crate::{
    context::{Context, print_json},
    failure::{Exit, Failure},
    hint, moment,
    paint::Paint,
    place,
    say::say,
    swarm::{
        check::{self, Verdict},
        folder::{Folder, SESSION},
        process,
        run::{self, Ran, Script, median},
        show::Show,
        worker::AGENTS,
    },
};

/// See the module.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// How long it takes, about
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(4..=3600))]
    seconds: u64,
    /// Choose the moments of the kills by this number
    #[arg(long)]
    seed: Option<u64>,
    /// Only check an earlier demo's store again (give it with --store)
    #[arg(long)]
    check: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Printed<'a> {
    acknowledged: u64,
    lost: u64,
    repeated: u64,
    missing: u64,
    records: u64,
    effects: u64,
    in_doubt: u64,
    doubts_settled: u64,
    kills: u64,
    agent_kills: u64,
    back_ms_median: f64,
    back_ms_max: f64,
    store: &'a std::path::Path,
    session: &'static str,
    seed: u64,
    wrong: &'a [String],
}

impl Demo {
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Failure> {
        let folder = match context.place.said_by {
            "--store" => Folder::within(context.place.dir.clone()),
            _ if self.check => {
                return Err(Failure::usage(
                    "which demo is to be checked?",
                    "give its store: swarmkeep demo --check --store DIR (the demo said which)",
                ));
            }
            _ => Folder::scratch()?,
        };
        if self.check {
            return self.check_again(context, &folder).await;
        }
        if folder.acknowledged().exists() {
            return Err(Failure::refused(
                "already_exists",
                format!("{} has a demo in it", folder.store.display()),
                "give another folder with --store, or check that one again: swarmkeep demo --check",
            ));
        }
        refuse_a_store(&folder)?;
        folder.make()?;
        let seed = match self.seed {
            Some(seed) => seed,
            None => u64::try_from(crate::context::random()? & u128::from(u32::MAX)).unwrap_or(1),
        };
        let show = Show::new(context.json, self.seconds, AGENTS);
        show.begin(&folder.store, self.seconds, AGENTS.len());
        let ran = run::run(&folder, &show, &Script::demo(self.seconds, seed)).await;
        show.end();
        let (ran, daemon) = ran?;
        let verdict = check::check(&folder, &folder.socket()).await?;
        daemon.stop().await.map_err(|error| {
            Failure::unavailable(format!("the daemon does not stop: {error}"), "look into daemon.log")
        })?;
        tell(context, &folder, &verdict, &ran, seed)
    }

    /// The comparison alone, with the daemon that is there or is started.
    async fn check_again(&self, context: &mut Context, folder: &Folder) -> Result<(), Failure> {
        drop(context.connect().await?);
        let verdict = check::check(folder, &folder.socket()).await?;
        tell(context, folder, &verdict, &Ran::default(), self.seed.unwrap_or(0))
    }
}

/// The demo kills the daemon of its store, and adds a session: that is for a store of its own, never for somebody's.
fn refuse_a_store(folder: &Folder) -> Result<(), Failure> {
    if !place::is_a_store(&folder.store) && process::holder(folder)?.is_none() {
        return Ok(());
    }
    Err(Failure::refused(
        "already_exists",
        format!("{} is a store already, and the demo wants one of its own", folder.store.display()),
        "give a folder that is not there yet, or leave --store out",
    ))
}

fn tell(context: &Context, folder: &Folder, verdict: &Verdict, ran: &Ran, seed: u64) -> Result<(), Failure> {
    let back_max = ran.back_ms.iter().copied().fold(0.0, f64::max);
    if context.json {
        let tenth = |ms: f64| (ms * 10.0).round() / 10.0;
        print_json(&Printed {
            acknowledged: verdict.acknowledged,
            lost: verdict.lost,
            repeated: verdict.repeated,
            missing: verdict.missing,
            records: verdict.records,
            effects: verdict.effects,
            in_doubt: verdict.in_doubt,
            doubts_settled: ran.settled.0 + ran.settled.1,
            kills: ran.kills,
            agent_kills: ran.deaths,
            back_ms_median: tenth(median(&ran.back_ms)),
            back_ms_max: tenth(back_max),
            store: &folder.store,
            session: SESSION,
            seed,
            wrong: &verdict.wrong,
        })?;
    } else {
        summary(context.paint, folder, verdict, ran);
    }
    if verdict.is_good() {
        return Ok(());
    }
    let mut failure = Failure::new(
        Exit::Refused,
        "lost",
        format!("{} lost, {} repeated, {} missing", verdict.lost, verdict.repeated, verdict.missing),
        format!("please report it with the folder {} and --seed {seed}", folder.store.display()),
    );
    failure.detail.clone_from(&verdict.wrong);
    Err(failure)
}

fn summary(paint: Paint, folder: &Folder, verdict: &Verdict, ran: &Ran) {
    let good = |count: u64| if count == 0 { paint.green(0) } else { paint.red(count) };
    let thousands = moment::thousands;
    let mut lines = vec![
        (
            format!("{} writes acknowledged", thousands(verdict.acknowledged)),
            format!("{} writes acknowledged", paint.bold(thousands(verdict.acknowledged))),
        ),
        (
            format!("lost {}     repeated {}", verdict.lost, verdict.repeated + verdict.missing),
            format!("lost {}     repeated {}", good(verdict.lost), good(verdict.repeated + verdict.missing)),
        ),
    ];
    if ran.kills > 0 {
        let back_max = ran.back_ms.iter().copied().fold(0.0, f64::max);
        let text = [
            format!("{} × kill -9 of the daemon, {} × of an agent", ran.kills, ran.deaths),
            format!("back after {:.0} ms (median), {back_max:.0} ms at most", median(&ran.back_ms)),
        ];
        lines.extend(text.map(|text| (text.clone(), text)));
    }
    let settled = ran.settled.0 + ran.settled.1;
    let mut effects = format!("{} things done outside, each exactly once", thousands(verdict.effects));
    if verdict.repeated + verdict.missing + verdict.lost > 0 {
        effects = format!("{} things done outside", thousands(verdict.effects));
    }
    lines.push((effects.clone(), effects));
    if settled > 0 {
        let text = format!("{settled} doubts after a death, settled by a look outside");
        lines.push((text.clone(), text));
    }
    let width = lines.iter().map(|(plain, _)| plain.chars().count()).max().unwrap_or(0);
    let edge = |left: &str, right: &str| paint.dim(format_args!("{left}{}{right}", "─".repeat(width + 4)));
    say!("\n  {}", edge("╭", "╮"));
    for (plain, painted) in &lines {
        let room = " ".repeat(width - plain.chars().count().min(width));
        say!("  {side}  {painted}{room}  {side}", side = paint.dim("│"));
    }
    say!("  {}\n", edge("╰", "╯"));
    let store = place::shown(&folder.store);
    let program = hint::program();
    let (how, to_serve, url) = match process::served_at(folder) {
        Some(url) => ("it is served", url.clone(), url),
        None => {
            let port = free_port();
            let listen = if port == DEFAULT_PORT { String::new() } else { format!(" --listen 127.0.0.1:{port}") };
            (
                "serve it",
                format!("{program} --store {store} serve --take-over{listen}"),
                format!("http://127.0.0.1:{port}"),
            )
        }
    };
    say!("  The store stays: {store} ({}; nothing else needs it)\n", moment::bytes(folder.bytes()));
    say!("  {}", paint.bold("What now?"));
    let steps = [
        ("look", "how it stands", format!("{program} --store {store} session show {SESSION}")),
        ("", "what happened", format!("{program} --store {store} session history {SESSION} --last 20")),
        ("", "who was there", format!("{program} --store {store} agent ls {SESSION}")),
        ("connect", how, to_serve),
        ("", "in Python", format!("Swarm(\"{url}\", \"{SESSION}\")")),
        ("learn", "every verb", format!("{program} --help")),
    ];
    for (step, what, command) in steps {
        let (step, what) = (paint.bold(format_args!("{step:<7}")), paint.dim(format_args!("{what:<13}")));
        say!("    {step}  {what}  {}", paint.cyan(command));
    }
    say!(
        "\n  {}\n",
        paint.dim("Swarm is in examples/swarmkeep_agent.py: one file to copy; its first lines are a first program.")
    );
}

/// Where the daemon that is told to be started will find room: the usual port, or the next one that is free now.
fn free_port() -> u16 {
    let is_free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    (DEFAULT_PORT..DEFAULT_PORT + 100).find(is_free).unwrap_or(DEFAULT_PORT)
}
