//! `swarmkeep doctor`: what is wrong with this machine or store, and what to do about it.

mod machine;
mod store;

use clap::Args;
use serde::Serialize;

use crate::{
    context::{Context, print_json},
    failure::{Exit, Failure},
    hint, moment,
    say::say,
    table::printable,
};

/// See the module.
#[derive(Debug, Args)]
pub(crate) struct Doctor {}

/// How something stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Grade {
    /// As it should be.
    Ok,
    /// It works; somebody should know.
    Warn,
    /// It does not work, or will not.
    Bad,
    /// Data is damaged.
    Damaged,
}

/// One thing looked at.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    pub(crate) name: &'static str,
    pub(crate) grade: Grade,
    /// What was seen.
    pub(crate) what: String,
    /// What to do; empty where there is nothing to do.
    pub(crate) next: String,
}

impl Finding {
    pub(crate) fn ok(name: &'static str, what: impl Into<String>) -> Self {
        Self { name, grade: Grade::Ok, what: what.into(), next: String::new() }
    }

    pub(crate) fn warn(name: &'static str, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { name, grade: Grade::Warn, what: what.into(), next: next.into() }
    }

    pub(crate) fn bad(name: &'static str, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { name, grade: Grade::Bad, what: what.into(), next: next.into() }
    }

    pub(crate) fn damaged(name: &'static str, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { name, grade: Grade::Damaged, what: what.into(), next: next.into() }
    }
}

impl Doctor {
    /// Never starts a daemon: a store that should be looked at is not opened by looking.
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Failure> {
        let mut findings = machine::look(&context.place);
        findings.extend(store::look(context).await);
        let url = context.url.as_ref().map(ToString::to_string);
        for finding in &mut findings {
            finding.next = hint::pasted(&finding.next, &context.place, url.as_deref());
        }
        let worst = findings.iter().map(|finding| finding.grade).max().unwrap_or(Grade::Ok);
        if context.json {
            print_json(&serde_json::json!({ "store": context.place.dir, "worst": worst, "findings": findings }))?;
        } else {
            let paint = context.paint;
            say!(
                "{} {}",
                paint.bold(context.place.dir.display()),
                paint.dim(format_args!("({})", context.place.said_by))
            );
            for finding in &findings {
                let mark = match finding.grade {
                    Grade::Ok => paint.green("ok  "),
                    Grade::Warn => paint.yellow("warn"),
                    Grade::Bad | Grade::Damaged => paint.red("BAD "),
                };
                say!("{mark}  {:<12}  {}", finding.name, printable(&finding.what));
                if !finding.next.is_empty() {
                    say!("      {:<12}  {}", "", paint.cyan(format_args!("→ {}", printable(&finding.next))));
                }
            }
        }
        let count = findings.iter().filter(|finding| finding.grade == worst).count() as u64;
        match worst {
            Grade::Ok | Grade::Warn => Ok(()),
            Grade::Bad => Err(Failure::refused(
                "unfit",
                format!("not as it must be: {}", moment::counted(count, "thing")),
                "do what stands beside them above",
            )),
            Grade::Damaged => Err(Failure::new(
                Exit::Corrupt,
                "corrupt",
                format!("damaged: {}", moment::counted(count, "thing")),
                format!("do what stands beside them above; {} verify proves the rest", context.place.program()),
            )),
        }
    }
}
