//! `swarmkeep quarantine`: sessions that are damaged beyond what a program may decide. They are read and not written until a
//! person says what to do: try again, once a copy is back, or go on without what is lost.

use clap::Subcommand;
use serde_json::{Value, json};

use super::{Name, entries, field, number, path, recover, text};
use crate::{
    client::Call,
    context::{Context, user},
    failure::Failure,
    moment,
    names::Names,
    say::say,
    table::{Table, printable},
};

/// So many of what lost records were about stand on the screen.
const ABOUT: usize = 20;

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// The sessions that wait for a decision
    Ls {
        /// Those that were recovered as well
        #[arg(long)]
        all: bool,
    },
    /// What was met, what was tried, what would be lost, what to do
    Show { session: Name },
    /// Try again, from whatever copies there are by now
    Restore {
        session: Name,
        /// Say what would be done, and do nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Accept the loss: go on from where it can be had up to. What comes after stays in the store's quarantine/
    Discard {
        session: Name,
        /// Say what would be lost, and do nothing
        #[arg(long)]
        dry_run: bool,
    },
}

impl Verb {
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Failure> {
        match self {
            Self::Ls { all } => ls(context, all).await,
            Self::Show { session } => show(context, &session).await,
            Self::Restore { session, dry_run } => decide(context, &session, false, dry_run).await,
            Self::Discard { session, dry_run } => decide(context, &session, true, dry_run).await,
        }
    }
}

async fn ls(context: &mut Context, all: bool) -> Result<(), Failure> {
    let mut answer = context.get_json(if all { "/v1/quarantine?all=true" } else { "/v1/quarantine" }).await?;
    let names = recover::names(context, &answer).await;
    names.add_to(&mut answer);
    let mut table = Table::new(&["session", "stands", ">readable to", ">known head", ">loss %", "since", "attempts"]);
    for recovery in entries(&answer, "sessions") {
        table.row([
            names.of(text(recovery, "session")).to_owned(),
            text(recovery, "event").trim_start_matches("session_").to_owned(),
            number(recovery, "reaches").to_string(),
            number(field(recovery, "plan"), "known_head").to_string(),
            percent(recovery),
            moment::utc(number(recovery, "begun_at_ms")),
            number(recovery, "attempts").to_string(),
        ]);
    }
    context.answer(&answer, |context| context.print_table(&table, "no session waits for a decision"))
}

fn percent(recovery: &Value) -> String {
    format!("{:.2}", field(recovery, "data_loss_percent").as_f64().unwrap_or(0.0))
}

async fn show(context: &mut Context, session: &str) -> Result<(), Failure> {
    let mut answer = context.get_json(path(session, "/recovery")).await?;
    let names = recover::names(context, &answer).await;
    names.add_to(&mut answer);
    let program = context.place.program();
    context.answer(&answer, |context| {
        let recovery = field(&answer, "recovery");
        if recovery.is_null() && field(&answer, "plan").is_null() {
            say!("nothing is, or was, wrong with {session}");
            return;
        }
        if !recovery.is_null() {
            show_recovery(context, recovery, &names);
        }
        if text(recovery, "event") == "session_needs_decision" {
            say!("What you can do:");
            say!("  {program} session history {session}       what is before the damage; `session state` too");
            say!("  {program} quarantine restore {session}    once a copy of what is missing is back in the store's folder");
            say!("  {program} quarantine discard {session}    go on without it; nothing is deleted");
        } else if !field(&answer, "plan").is_null() {
            for line in plan_lines(field(&answer, "plan"), &names) {
                say!("{line}");
            }
        }
    })
}

fn show_recovery(context: &Context, recovery: &Value, names: &Names) {
    let paint = context.paint;
    let line = |name: &str, value: String| {
        if !value.is_empty() {
            say!("{}  {value}", paint.dim(format_args!("{name:<9}")));
        }
    };
    line("session", paint.bold(printable(names.of(text(recovery, "session")))));
    line("recovery", text(recovery, "id").to_owned());
    line("stands", paint.status(text(recovery, "event").trim_start_matches("session_")));
    line("met", printable(&names.put_into(text(recovery, "cause"))).to_string());
    line("begun", moment::utc(number(recovery, "begun_at_ms")));
    line("attempts", number(recovery, "attempts").to_string());
    let known = number(field(recovery, "plan"), "known_head");
    line("reaches", format!("seq {} of {known} that are known", number(recovery, "reaches")));
    line("loss", format!("{} %", percent(recovery)));
    for (name, what) in [("lost", "seqs"), ("history_lost", "only as history, seqs")] {
        for range in entries(field(recovery, name), "") {
            line("lost", format!("{what} {} to {}", number(range, "first"), number(range, "last")));
        }
    }
    for part in entries(field(recovery, "parts_lost"), "") {
        line("lost", printable(part.as_str().unwrap_or_default()).to_string());
    }
    let entities: Vec<&str> = entries(field(recovery, "entities_lost"), "").iter().filter_map(Value::as_str).collect();
    line("about", printable(&in_part(&entities)));
    let carried = entries(field(recovery, "effects_lost"), "").len();
    line(
        "effects",
        match (carried, number(recovery, "effects_left_out")) {
            (0, 0) => String::new(),
            (carried, 0) => format!("what {carried} lost records say of effects is carried over"),
            (carried, more) => format!(
                "what {carried} lost records say of effects is carried over; {more} are too much for that: settle what they began"
            ),
        },
    );
    for restored in entries(field(recovery, "restored"), "") {
        let seqs = match (number(restored, "first"), number(restored, "last")) {
            (0, _) => String::new(),
            (first, last) => format!(" {first} to {last}"),
        };
        line("restored", format!("{}{seqs} from {}", text(restored, "what"), text(restored, "from")));
    }
    if let Some(score) = field(recovery, "integrity_score").as_f64() {
        line("integrity", format!("{score:.1}"));
    }
    line("accepted", printable(text(recovery, "accepted_by")).to_string());
}

/// The first of many: all of them are in the JSON.
fn in_part(entities: &[&str]) -> String {
    let shown = entities.get(..ABOUT).unwrap_or(entities).join(", ");
    match entities.len().saturating_sub(ABOUT) {
        0 => shown,
        more => format!("{shown}, and {} more (--json has all)", moment::thousands(more as u64)),
    }
}

async fn decide(context: &mut Context, session: &str, accept_loss: bool, dry_run: bool) -> Result<(), Failure> {
    let body = json!({ "accept_loss": accept_loss, "dry_run": dry_run, "actor": user() });
    // Done again it changes nothing.
    let answer = context.read(Call::post(path(session, "/recovery"), &body).within(recover::PATIENCE)).await?;
    let mut answer: Value = answer.json()?;
    let names = recover::names(context, &answer).await;
    names.add_to(&mut answer);
    let (recovery, plan) = (field(&answer, "recovery"), field(&answer, "plan"));
    context.answer(&answer, |context| {
        if !plan.is_null() {
            for line in plan_lines(plan, &names) {
                say!("{line}");
            }
            say!("{}", context.paint.dim("Nothing was touched."));
        } else if recovery.is_null() {
            say!("nothing is wrong with {session} that is not known already");
        } else {
            show_recovery(context, recovery, &names);
        }
    })?;
    if text(recovery, "event") == "session_needs_decision" {
        return Err(needs_decision(context, session, recovery));
    }
    Ok(())
}

/// It waits still.
pub(super) fn needs_decision(context: &Context, session: &str, recovery: &Value) -> Failure {
    let program = context.place.program();
    Failure::corrupt(
        format!(
            "{session} needs a decision: it can be had up to seq {} of {}",
            number(recovery, "reaches"),
            number(field(recovery, "plan"), "known_head")
        ),
        format!(
            "restore a copy of the store's folder, or accept the loss of {} %: {program} quarantine discard {session}",
            percent(recovery)
        ),
    )
}

/// A plan for people.
pub(super) fn plan_lines(plan: &Value, names: &Names) -> Vec<String> {
    let mut lines = vec![format!(
        "session {}: {}{}",
        printable(names.of(text(plan, "session"))),
        text(plan, "strategy"),
        match text(plan, "proposed") {
            "" => String::new(),
            proposed => format!(" (proposed: {proposed})"),
        }
    )];
    for (at, step) in entries(plan, "steps").iter().enumerate() {
        let said = serde_json::from_value::<swarmkeep::core::recovery::Step>(step.clone());
        let said = said.map_or_else(|_| text(step, "step").to_owned(), |step| step.to_string());
        lines.push(format!("  {}. {}", at + 1, printable(&said)));
    }
    let loss = field(plan, "loss");
    let lost: Vec<String> = entries(loss, "state")
        .iter()
        .map(|range| format!("seqs {} to {}", number(range, "first"), number(range, "last")))
        .chain(
            entries(loss, "history")
                .iter()
                .map(|range| format!("seqs {} to {} as history only", number(range, "first"), number(range, "last"))),
        )
        .chain(entries(loss, "parts").iter().filter_map(|part| part.as_str().map(str::to_owned)))
        .collect();
    let lost = if lost.is_empty() { "nothing".to_owned() } else { lost.join(", ") };
    lines.push(format!(
        "  estimated loss: {:.2} % ({lost}); estimated time: {} ms; recommended: {}",
        field(loss, "percent").as_f64().unwrap_or(0.0),
        number(plan, "estimated_ms"),
        text(plan, "recommended")
    ));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_things_the_first_are_shown_and_the_rest_counted() {
        let names: Vec<String> = (0..1_300).map(|number| format!("task t{number}")).collect();
        let all: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(in_part(&all[..2]), "task t0, task t1");
        assert_eq!(in_part(&all[..ABOUT]).matches("task").count(), ABOUT);
        assert!(in_part(&all).ends_with("task t19, and 1,280 more (--json has all)"), "{}", in_part(&all));
    }
}
