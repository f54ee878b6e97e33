//! `swarmkeep report`: what a person wants to know in the morning, on one screen: done, interrupted, waiting for a yes or no,
//! not paid twice, lost, and how to continue.

mod page;

use clap::Args;
use swarmkeep_server::report::Report;

use super::Name;
use crate::{client::query, context::Context, failure::Failure, moment, paint::Paint, say, table::terminal_width};

/// See the module.
#[derive(Debug, Args)]
pub(crate) struct Asked {
    /// Only of this session
    session: Option<Name>,
    /// From when on: 90s, 30m, 12h, 7d before now, a time in UTC (2026-11-20 22:00), or `all`
    #[arg(long, value_name = "WHEN", default_value = "24h")]
    since: String,
    /// As Markdown, for a mail or a pull request
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
}

impl Asked {
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Failure> {
        let now_ms = moment::now_ms();
        let since_ms = match self.since.as_str() {
            "all" => 0,
            when => moment::back(when, now_ms).or_else(|| moment::parse(when)).ok_or_else(|| {
                Failure::usage(
                    format!("--since {when}: not a time"),
                    "use 90s, 30m, 12h or 7d before now, a time in UTC as 2026-11-20 22:00, or `all`",
                )
            })?,
        };
        let asked = query(&[("session", self.session), ("since_ms", Some(since_ms.to_string()))]);
        let found: Report = context.get(format!("/v1/report{asked}")).await?.json()?;
        context.answer(&found, |context| {
            let text = if self.markdown {
                page::markdown(&found)
            } else {
                page::screen(&found, terminal_width(), Paint::stdout())
            };
            // Commands in it work when they are pasted, for this store.
            let url = context.url.as_ref().map(ToString::to_string);
            say::out(format_args!("{}", crate::hint::pasted(&text, &context.place, url.as_deref())));
        })?;
        let harm = found.lost.len() as u64;
        if harm == 0 {
            return match found.behind {
                None => Ok(()),
                Some(why) => Err(Failure::unavailable(
                    format!("not all of it could be looked at: {why}"),
                    "`swarmkeep doctor` says how the disk and the parts stand; nothing acknowledged is lost by it",
                )),
            };
        }
        Err(Failure::corrupt(
            format!("{} lost, or not to be read", moment::counted(harm, "thing")),
            "the report says of what; `swarmkeep recover` says what the last start found, and `swarmkeep recover history` all before",
        ))
    }
}
