//! What a person sees of the demo: lines that change in place on a terminal, plain lines elsewhere, nothing with `--json`.

use std::{io::IsTerminal, time::Duration};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::process::Doing;
use crate::{
    paint::Paint,
    say::say,
    table::{cut, printable},
};

/// See the module.
#[derive(Debug)]
pub(crate) struct Show {
    stage: Stage,
    paint: Paint,
}

#[derive(Debug)]
enum Stage {
    Silent,
    Lines,
    Live { all: MultiProgress, time: ProgressBar, daemon: ProgressBar, agents: Vec<ProgressBar>, total: ProgressBar },
}

/// How far it has come.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Total {
    pub(crate) acknowledged: u64,
    pub(crate) effects: u64,
    pub(crate) settled: u64,
    pub(crate) kills: u64,
    pub(crate) deaths: u64,
    pub(crate) back_ms: f64,
}

impl Show {
    pub(crate) fn new(json: bool, seconds: u64, agents: &[&str]) -> Self {
        let paint = Paint::stdout();
        let stage = if json {
            Stage::Silent
        } else if std::io::stdout().is_terminal() {
            live(seconds, agents, paint)
        } else {
            Stage::Lines
        };
        Self { stage, paint }
    }

    /// What this is, before it begins.
    pub(crate) fn begin(&self, store: &std::path::Path, seconds: u64, agents: usize) {
        self.line(&format!(
            "\n  {}  {agents} agents work for {seconds} s; their daemon gets {} again and again\n  {}\n",
            self.paint.bold("swarmkeep demo"),
            self.paint.bold("kill -9"),
            self.paint.dim(format_args!("store: {}", store.display()))
        ));
    }

    /// A line that stays.
    pub(crate) fn line(&self, text: &str) {
        match &self.stage {
            Stage::Silent => {}
            Stage::Lines => say!("{text}"),
            Stage::Live { all, .. } => {
                // A terminal that cannot be written to has nobody who reads.
                let _ = all.println(text);
            }
        }
    }

    /// Something happened at this moment.
    pub(crate) fn note(&self, at_ms: u64, text: &str) {
        self.line(&format!("  {}  {text}", self.paint.dim(format_args!("{:>5.1} s", at_ms as f64 / 1000.0))));
    }

    pub(crate) fn paint(&self) -> Paint {
        self.paint
    }

    pub(crate) fn time(&self, at_ms: u64) {
        if let Stage::Live { time, .. } = &self.stage {
            time.set_position(at_ms);
        }
    }

    pub(crate) fn daemon_works(&self, pid: u32) {
        if let Stage::Live { daemon, .. } = &self.stage {
            daemon.set_message(format!(
                "{:<8} {} at work   {}",
                "daemon",
                self.paint.green("●"),
                self.paint.dim(format_args!("pid {pid}"))
            ));
        }
    }

    pub(crate) fn daemon_killed(&self) {
        if let Stage::Live { daemon, .. } = &self.stage {
            daemon.set_message(format!("{:<8} {}", "daemon", self.paint.alarm(" kill -9 ")));
        }
    }

    pub(crate) fn agent_doing(&self, number: usize, name: &str, doing: &Doing) {
        if let Stage::Live { agents, .. } = &self.stage
            && let Some(line) = agents.get(number)
        {
            let mark = if doing.doing.contains("doubt") { self.paint.yellow("?") } else { self.paint.cyan("●") };
            let what = cut(&printable(&doing.what), 40);
            let done = self.paint.dim(format_args!("{:>4} done outside", doing.effects));
            line.set_message(format!("{name:<8} {mark} {:<14} {what:<28} {done}", doing.doing));
        }
    }

    pub(crate) fn agent_killed(&self, number: usize, name: &str) {
        if let Stage::Live { agents, .. } = &self.stage
            && let Some(line) = agents.get(number)
        {
            line.set_message(format!("{name:<8} {}", self.paint.alarm(" kill -9 ")));
        }
    }

    pub(crate) fn total(&self, total: Total) {
        if let Stage::Live { total: line, .. } = &self.stage {
            let paint = self.paint;
            line.set_message(format!(
                "{} acknowledged   {} done outside   {} doubts settled   {} kills   {}",
                paint.bold(crate::moment::thousands(total.acknowledged)),
                crate::moment::thousands(total.effects),
                total.settled,
                paint.red(total.kills + total.deaths),
                if total.kills > 0 { format!("back after {:.0} ms", total.back_ms) } else { String::new() },
            ));
        }
    }

    /// Takes the changing lines away; those that stay, stay.
    pub(crate) fn end(&self) {
        if let Stage::Live { all, time, daemon, agents, total } = &self.stage {
            for line in agents.iter().chain([time, daemon, total]) {
                line.finish_and_clear();
            }
            let _ = all.clear();
        }
    }
}

fn live(seconds: u64, names: &[&str], paint: Paint) -> Stage {
    let all = MultiProgress::with_draw_target(ProgressDrawTarget::stdout_with_hz(20));
    let plain = ProgressStyle::with_template("  {msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
    let line = |text: String| {
        let bar = all.add(ProgressBar::new(1).with_style(plain.clone()));
        bar.set_message(text);
        bar
    };
    let blank = line(" ".into());
    let daemon = line(format!("{:<8} starts", "daemon"));
    let agents = names.iter().map(|name| line(format!("{name:<8} {}", paint.dim("waits")))).collect();
    let total = line(" ".into());
    blank.tick();
    let style = ProgressStyle::with_template("  {bar:44.cyan/dim} {msg}")
        .map(|style| style.progress_chars("━╸─"))
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let time = all.add(ProgressBar::new(seconds * 1000).with_style(style));
    time.set_message(format!("{seconds} s"));
    time.enable_steady_tick(Duration::from_millis(100));
    Stage::Live { all, time, daemon, agents, total }
}
