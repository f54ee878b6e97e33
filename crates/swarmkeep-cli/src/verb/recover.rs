//! `swarmkeep recover`: coming back after a death. It happens by itself at every start; this shows what it found, plans it
//! without touching anything, or does it all again from the records.

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use swarmkeep::{
    DataLoss, Settings, Swarmkeep,
    core::recovery::{Action, Plan, Policy},
    upkeep,
};
use swarmkeep_server::reading::{is_after_a_death, is_clean, is_settled, seqs, set_aside, without_hint};

use super::{Name, entries, field, number, quarantine, serve::refused, text, verify};
use crate::{
    client::{Answer, Call, Client, Endpoint},
    context::Context,
    failure::Failure,
    moment,
    names::{self, Names},
    progress::{self, Line, Point},
    say::say,
    table::{Table, printable},
};

/// A large store takes its time.
pub(super) const PATIENCE: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

/// See the module.
#[derive(Debug, Args)]
pub(crate) struct Recover {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Say what the next start would find and do; touch nothing
    #[arg(long)]
    dry_run: bool,
    /// Build views.db again from the records, and verify every session
    #[arg(long, conflicts_with = "session")]
    full: bool,
    /// Put this session's damage right, as far as it stands a second time, read it from the log again, and compare
    #[arg(long, value_name = "SESSION")]
    session: Option<Name>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Every coming back of this store, and every failure that was noticed, newest first
    History,
}

impl Recover {
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Failure> {
        if self.dry_run {
            return plan(context, self.full).await;
        }
        if self.full {
            return full(context).await;
        }
        if let Some(session) = &self.session {
            let report = verify::ask(context, Some(session), true).await?;
            let names = names(context, &report).await;
            context.answer(&report, |context| verify::show(context, &report, &names))?;
            return verify::judge(&report, true);
        }
        progress::until_daemon_is_back(context).await;
        let mut answer = context.get_json("/v1/recoveries").await?;
        let store = context.get_json("/v1/store").await?;
        let aside = set_aside(&store).to_vec();
        let names = names(context, &json!([answer, aside])).await;
        names.add_to(&mut answer);
        let recoveries = entries(&answer, "recoveries");
        if let Some(Verb::History) = self.verb {
            let mut table = Table::new(&["id", "when", "how", ">frames", ">opened ms", ">sessions", "damage"]);
            for recovery in recoveries {
                table.row([
                    text(recovery, "id").to_owned(),
                    moment::utc(number(recovery, "at_ms")),
                    if is_new(recovery) {
                        "a new store"
                    } else if text(recovery, "id").starts_with("repair-") {
                        "damage put right"
                    } else if recovery.get("taken_over").is_some() {
                        "taken over"
                    } else if let Some(how) = text(field(recovery, "recovery"), "event").strip_prefix("session_") {
                        how
                    } else if is_after_a_death(recovery) {
                        "after a death"
                    } else if is_clean(recovery) {
                        "nothing to settle"
                    } else {
                        "damage found"
                    }
                    .to_owned(),
                    number(recovery, "frames_replayed").to_string(),
                    number(recovery, "opened_ms").to_string(),
                    number(recovery, "sessions_checked").to_string(),
                    in_short(recovery),
                ]);
            }
            let failures = failures(entries(&answer, "failures"), &names);
            return context.answer(&answer, |context| {
                context.print_table(&table, "this store never had to come back");
                say!("");
                context.print_table(&failures, "no failure was noticed");
            });
        }
        let mut last = recoveries.first().cloned().unwrap_or(Value::Null);
        if let (Some(fields), false) = (last.as_object_mut(), aside.is_empty()) {
            fields.insert("set_aside".into(), aside.into());
            names.add_to(&mut last);
        }
        context.answer(&last, |_| {
            for line in lines(&last, &names) {
                say!("{line}");
            }
        })?;
        judge(context, &last, entries(&answer, "recoveries"))
    }
}

/// The names of the sessions that an answer speaks of.
pub(super) async fn names(context: &Context, said: &Value) -> Names {
    match context.connect_if_running().await {
        Ok(mut client) => names::ask(&mut client, said).await,
        Err(_) => Names::default(),
    }
}

/// Failures, a line for each.
fn failures(failures: &[Value], names: &Names) -> Table {
    let mut table = Table::new(&["failure", "severity", "session", ">times", "last", "over", "what"]);
    for failure in failures {
        let session = text(failure, "session");
        table.row([
            text(failure, "type").to_owned(),
            text(failure, "severity").to_owned(),
            if session.is_empty() { String::new() } else { names.of(session).to_owned() },
            number(failure, "count").to_string(),
            moment::utc(number(failure, "last_at_ms")),
            field(failure, "over_at_ms").as_u64().map(moment::utc).unwrap_or_default(),
            printable(&names.put_into(text(failure, "what"))),
        ]);
    }
    table
}

/// What a start found that is not as it should be, in a few words.
fn in_short(report: &Value) -> String {
    let (damage, whole) = damages(report, &[]);
    let counts = [
        (damage, "damaged range"),
        (whole, "notice"),
        (number(report, "sessions_failed"), "lost session"),
        (entries(field(report, "possibly_acknowledged"), "").len() as u64, "doubtful end"),
    ];
    let said: Vec<String> =
        counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| moment::counted(*count, what)).collect();
    said.join(", ")
}

/// Damage is an exit code, so that a script need not read the report.
fn judge(context: &Context, report: &Value, recoveries: &[Value]) -> Result<(), Failure> {
    let (damage, _) = damages(report, recoveries);
    let failed = number(report, "sessions_failed").max(entries(field(report, "set_aside"), "").len() as u64);
    if damage == 0 && failed == 0 {
        return Ok(());
    }
    let next = if failed == 0 {
        "docs/recovery.md, \"Frames that are lost\", says what there still is of it, and where; to have it back, restore a copy of the \
         folder"
            .to_owned()
    } else {
        format!(
            "{} quarantine ls, and quarantine show NAME, say what is lost of each and what you can decide; nothing was overwritten",
            context.place.program()
        )
    };
    let others = if failed > 0 { "; the other sessions go on" } else { "" };
    Err(Failure::corrupt(format!("{}{others}", harm(damage, failed)), next))
}

/// How much a start found damaged: what takes something with it, or may, and what is whole again.
/// `recoveries`: what was settled since is not counted.
pub(super) fn damages(report: &Value, recoveries: &[Value]) -> (u64, u64) {
    let all = entries(field(report, "damage"), "").iter();
    let (whole, lost): (Vec<_>, Vec<_>) = all.partition(|damage| text(damage, "loss") == "none");
    let open = lost.into_iter().filter(|damage| !is_settled(damage, report, recoveries));
    (open.count() as u64, whole.len() as u64)
}

/// How much damage the next start would find.
pub(super) fn ranges(plan: &upkeep::Plan) -> String {
    let all = moment::counted(plan.damage.len() as u64, "damaged range");
    let (lost, perhaps) = (plan.damaged(DataLoss::Certain), plan.damaged(DataLoss::Possible));
    let perhaps = if perhaps > 0 { format!(", {perhaps} of which it cannot be told") } else { String::new() };
    format!("{all}, {lost} with what is nowhere else{perhaps}")
}

/// What is damaged and what does not come back: what there is of the two.
pub(super) fn harm(damage: u64, failed: u64) -> String {
    let counts = [(damage, "damaged range"), (failed, "session")];
    let said: Vec<String> =
        counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| moment::counted(*count, what)).collect();
    said.join(", ") + if failed > 0 { " not back" } else { "" }
}

/// Whether a daemon answers for the store.
pub(super) async fn is_served(context: &Context) -> bool {
    Client::new(Endpoint::Socket(context.place.socket())).connect().await.is_ok()
}

/// What stands in the way of work on a store that must not be held.
pub(super) fn held(context: &Context) -> Failure {
    let pid = context.place.lock_hint().and_then(|hint| hint.pid).unwrap_or(0);
    Failure::unavailable(
        format!("process {pid} holds {}", context.place.dir.display()),
        format!("stop it first (it parks): {} stop; then the same call again", context.place.program()),
    )
}

async fn plan(context: &Context, full: bool) -> Result<(), Failure> {
    // Whoever only asks for a plan starts no daemon.
    if let Ok(mut client) = context.connect_if_running().await
        && let Ok(answer) = client.call(&Call::get("/v1/plans").within(PATIENCE)).await
    {
        return plan_open(context, answer).await;
    }
    context.place.must_be_a_store()?;
    let mut plan = upkeep::plan(&context.place.dir).map_err(refused)?;
    if full {
        plan.steps.insert(0, "remove views.db: it is derived".into());
        plan.steps
            .push("fold every session from its oldest kept base and compare with checkpoints, RAM and views".into());
    }
    let accept_loss = context.settings(&[])?.text("accept_loss") == "true";
    let policy = Policy { accept_loss, start_fresh: false };
    // Over what is wrong with the store as a whole its sessions cannot always be looked at; that is said above.
    let (sessions, plans, unseen) = match upkeep::session_plans(&context.place.dir, policy) {
        Ok((sessions, plans)) => (sessions, plans, None),
        Err(error) => (0, Vec::new(), Some(error)),
    };
    let mut answer = serde_json::to_value(&plan).unwrap_or_default();
    if let Some(fields) = answer.as_object_mut() {
        fields.extend([
            ("sessions".to_owned(), sessions.into()),
            ("plans".to_owned(), serde_json::to_value(&plans).unwrap_or_default()),
        ]);
        fields.extend(unseen.as_ref().map(|error| ("unseen".to_owned(), error.to_string().into())));
    }
    let names = names::look(&context.place.dir, &answer);
    names.add_to(&mut answer);
    context.answer(&answer, |context| {
        let paint = context.paint;
        say!(
            "{}: records.db at position {}, the journal at {}{}",
            context.place.dir.display(),
            plan.records_position,
            plan.journal_position,
            if plan.clean { "; nothing to settle" } else { "" }
        );
        for damage in &plan.damage {
            let mark = match damage.loss {
                DataLoss::None => paint.yellow("notice:"),
                DataLoss::Possible | DataLoss::Certain => paint.red("damage:"),
            };
            say!("{mark} {}", printable(&names.put_into(&damage.what)));
        }
        for span in &plan.possibly_acknowledged {
            say!(
                "{} session {}, {}",
                paint.yellow("possibly acknowledged, unreadable:"),
                names.of(&span.session.to_string()),
                seqs(span.first, span.last)
            );
        }
        say!("The next start would:");
        for (number, step) in plan.steps.iter().enumerate() {
            say!("  {}. {step}", number + 1);
        }
        match &unseen {
            None => say!("Estimated loss: {}", estimate(context, &plan, &plans)),
            Some(_) => say!("Estimated loss: {}", paint.red("cannot be told, as said below")),
        }
        show_plans(context, &answer, &names);
        if let Some(error) = &unseen {
            say!(
                "{} {}",
                paint.red("its sessions cannot be looked at:"),
                printable(&names.put_into(&error.to_string()))
            );
        }
    })?;
    if plan.damage.iter().all(|damage| damage.loss == DataLoss::None) {
        return match unseen {
            None => judge_plans(context, plans.iter().filter(|plan| plan.recommended != Action::None).count() as u64),
            Some(error) => Err(refused(error)),
        };
    }
    let without = match plan.is_made_again {
        // What is lost by that is known afterwards.
        true => "which makes records.db again of what can be had",
        false => "which goes on without what is lost, or may be",
    };
    Err(Failure::corrupt(
        ranges(&plan),
        format!("keep a copy of {} before the next start, {without} (docs/recovery.md)", context.place.shown()),
    ))
}

/// What would be lost, for people.
fn estimate(context: &Context, plan: &upkeep::Plan, plans: &[Plan]) -> String {
    let paint = context.paint;
    let losing = plans.iter().filter(|plan| !plan.loss.state.is_empty()).count() as u64;
    if plan.is_made_again {
        let what = "what is in neither rows that verify nor kept copies nor the journal: known when it is made again";
        return paint.yellow(what);
    }
    let lost = plan.damaged(DataLoss::Certain);
    if lost > 0 {
        let ranges = moment::counted(lost, "damaged range");
        return paint.red(format_args!("{ranges}, not to be had elsewhere"));
    }
    if losing > 0 {
        return paint.red(format_args!("of {}, as said below", moment::counted(losing, "session")));
    }
    if plan.damaged(DataLoss::Possible) > 0 || !plan.possibly_acknowledged.is_empty() {
        return paint.yellow("perhaps what was acknowledged last, as said above; else nothing");
    }
    paint.green("nothing that was acknowledged")
}

/// The plan of each session that is not well, as the daemon sees it; nobody's work stops for it.
async fn plan_open(context: &Context, answer: Answer) -> Result<(), Failure> {
    let pid = context.place.lock_hint().and_then(|hint| hint.pid).unwrap_or(0);
    let mut answer: Value = answer.ok()?.json()?;
    let names = names(context, &answer).await;
    names.add_to(&mut answer);
    if let Some(fields) = answer.as_object_mut() {
        fields.extend([
            ("open".to_owned(), true.into()),
            ("held_by".to_owned(), pid.into()),
            ("steps".to_owned(), json!([])),
        ]);
    }
    context.answer(&answer, |context| {
        say!(
            "process {pid} has the store open: there is nothing to recover of the store as a whole. `{} recover` shows what it \
             found",
            context.place.program()
        );
        show_plans(context, &answer, &names);
    })?;
    let is_losing = |plan: &&Value| text(plan, "recommended") != "none";
    judge_plans(context, entries(&answer, "plans").iter().filter(is_losing).count() as u64)
}

/// What would be done about each session that is not well; the same whether a daemon has the store or nobody.
fn show_plans(context: &Context, answer: &Value, names: &Names) {
    let plans = entries(answer, "plans");
    for line in plans.iter().flat_map(|plan| quarantine::plan_lines(plan, names)) {
        say!("{line}");
    }
    let looked = moment::counted(number(answer, "sessions"), "session");
    if !plans.is_empty() {
        say!("A session's plan is carried out when its damage is met, or by recover --session NAME.");
    }
    say!("{looked} looked at, {} not well. {}", plans.len(), context.paint.dim("Nothing was touched."));
}

/// A plan by which nothing is lost needs nobody: it is carried out by whoever meets the damage.
fn judge_plans(context: &Context, losing: u64) -> Result<(), Failure> {
    match losing {
        0 => Ok(()),
        many => Err(Failure::corrupt(
            format!("{} not well, and not to be had whole", moment::counted(many, "session")),
            format!(
                "{} recover --session NAME carries a plan out; what would lose state waits for your word",
                context.place.program()
            ),
        )),
    }
}

async fn full(context: &Context) -> Result<(), Failure> {
    context.place.must_be_a_store()?;
    if is_served(context).await {
        return Err(held(context));
    }
    let lock = swarmkeep::lock::StoreLock::take(
        &context.place.dir,
        &swarmkeep::Holder { pid: std::process::id(), ..Default::default() },
    )
    .map_err(|_| held(context))?;
    remove_views(lock.home())?;
    drop(lock);
    let keep = Swarmkeep::open_with(context.place.dir.to_string_lossy(), Settings::default()).await.map_err(refused)?;
    progress::until_back(Line::new(context), keep.clone()).await;
    let line = Line::new(context);
    let of = keep.last_recovery().and_then(|report| report.sessions_live).unwrap_or(0);
    let verified = keep
        .repair(None, |done| {
            line.iter().for_each(|line| line.show(&Point { what: "sessions folded".into(), done, of: of.max(done) }));
        })
        .await;
    drop(line);
    let recovery = serde_json::to_value(keep.last_recovery()).unwrap_or_default();
    keep.close().await.map_err(refused)?;
    let report = serde_json::to_value(verified.map_err(refused)?).unwrap_or_default();
    let mut answer = json!({ "recovery": recovery, "verify": report });
    let names = names::look(&context.place.dir, &answer);
    names.add_to(&mut answer);
    context.answer(&answer, |context| {
        for line in lines(&recovery, &names) {
            say!("{line}");
        }
        verify::show(context, &report, &names);
    })?;
    verify::judge(&report, true)?;
    judge(context, &recovery, &[])
}

/// Removes views.db with what SQLite keeps beside it: all of it can be made again from records.db.
fn remove_views(dir: &std::path::Path) -> Result<(), Failure> {
    for name in ["views.db", "views.db-wal", "views.db-shm"] {
        match std::fs::remove_file(dir.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Failure::unavailable(
                    format!("{name} cannot be removed: {error}"),
                    "`swarmkeep doctor` looks at the folder",
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The first open of a store has nothing to come back from.
fn is_new(report: &Value) -> bool {
    report.is_null() || (text(report, "id") == "open-1" && is_clean(report))
}

/// A report for people, a line for each thing found.
pub(crate) fn lines(report: &Value, names: &Names) -> Vec<String> {
    if is_new(report) {
        return vec!["a new store".into()];
    }
    let mut lines = Vec::new();
    let opened_ms = number(report, "opened_ms");
    if let Some(taken_over) = report.get("taken_over") {
        lines.push(format!(
            "taken over from process {} on {}, which had held it since {} (term {})",
            number(taken_over, "from_pid"),
            moment::utc(number(taken_over, "at_ms")),
            moment::utc(number(taken_over, "from_started_at_ms")),
            number(taken_over, "term")
        ));
    }
    if field(report, "is_a_copy").as_bool() == Some(true) {
        lines.push("this folder is a copy, or was restored: it goes on under an incarnation of its own".into());
    }
    let before = if is_after_a_death(report) { "a death before; " } else { "" };
    let settled = match number(report, "frames_replayed") {
        0 if is_clean(report) => "the journal left nothing to settle".to_owned(),
        0 => "the tables lacked nothing".to_owned(),
        frames => format!(
            "what the tables lacked is there, {} ({})",
            moment::counted(frames, "frame"),
            moment::bytes(number(report, "bytes_replayed"))
        ),
    };
    lines.push(format!("{before}{settled}; open after {opened_ms} ms"));
    if let Some(all) = field(report, "all_checked_ms").as_u64() {
        lines.push(format!(
            "{} read and verified after {all} ms",
            moment::counted(number(report, "sessions_checked"), "live session")
        ));
    }
    for (name, what) in [
        ("tail_kept", "kept, though nothing vouches that it was acknowledged"),
        ("possibly_acknowledged", "could not be read and may have been acknowledged; its bytes are in quarantine/"),
    ] {
        for span in entries(field(report, name), "") {
            let seqs = seqs(field(span, "first").as_u64(), field(span, "last").as_u64());
            lines.push(format!("session {}, {seqs}: {what}", names.of(text(span, "session"))));
        }
    }
    for damage in entries(field(report, "damage"), "") {
        let mark = if text(damage, "loss") == "none" { "notice" } else { "damage" };
        lines.push(format!("{mark}: {}", printable(&names.put_into(text(damage, "what")))));
    }
    lines.extend(verify::repairs(report, names));
    if field(report, "views_rebuilt").as_bool() == Some(true) {
        lines.push("views.db is built again from the records".into());
    }
    for problem in entries(field(report, "problems"), "") {
        lines.push(format!(
            "session {} does not come back: {}",
            names.of(text(problem, "session")),
            printable(&names.put_into(without_hint(text(problem, "what"))))
        ));
    }
    for aside in entries(field(report, "set_aside"), "") {
        lines.push(format!("set aside: {}", printable(&names.put_into(text(aside, "what")))));
    }
    lines
}
