//! The store: who holds it, how far its parts have come, what exists once only.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;
use swarmkeep::{DataLoss, lock};

use super::Finding;
use crate::{
    client::{Call, Client, Endpoint},
    context::Context,
    daemon::is_alive,
    moment,
    names::{self, Names},
    served::Served,
    verb::{entries, field, number, recover, serve, text},
};

/// A session that is set aside, and who says what to do about it. `session`: by its name, or its id.
fn set_aside(session: &str, what: String) -> Finding {
    let verb = if session.is_empty() { "ls".to_owned() } else { format!("show {session}") };
    let next = format!("`swarmkeep quarantine {verb}` says what is lost and what can be done; other sessions go on");
    Finding::damaged("set aside", what, next)
}

pub(super) async fn look(context: &Context) -> Vec<Finding> {
    let mut client = match &context.url {
        Some(endpoint) => Client::new(endpoint.clone()),
        None => Client::new(Endpoint::Socket(context.place.socket())),
    };
    let connected = client.connect().await;
    let mut findings = vec![holder(context, connected.is_ok())];
    if context.url.is_none() {
        findings.push(settings(context));
    }
    if connected.is_err() {
        findings.extend(files(context));
        return findings;
    }
    match client.call(&Call::get("/v1/store")).await {
        Ok(answer) if answer.status == 200 => match answer.json::<Value>() {
            Ok(store) => {
                let names = names::ask(&mut client, &store).await;
                findings.extend(parts(&store, &names));
                findings.extend(copies(&mut client).await);
                findings.extend(last_start(&mut client, context).await);
                findings.extend(silent(&mut client).await);
                findings.extend(track_record(&mut client).await.into_iter().flatten());
            }
            Err(failure) => findings.push(Finding::bad("daemon", failure.what, failure.next)),
        },
        Ok(answer) => findings.push(Finding::bad(
            "daemon",
            format!("answers {} when asked how the store stands", answer.status),
            "look into daemon.log",
        )),
        Err(error) => findings.push(Finding::bad("daemon", error.to_string(), "look into daemon.log")),
    }
    findings
}

fn holder(context: &Context, answers: bool) -> Finding {
    let name = "holder";
    let hint = context.place.lock_hint();
    let pid = hint.as_ref().and_then(|hint| hint.pid);
    let since = moment::utc(hint.as_ref().and_then(|hint| hint.started_at_ms).unwrap_or(0));
    let at = hint.as_ref().and_then(|hint| hint.address.clone()).unwrap_or_default();
    let waits_for_token = Served::read(&context.place).wants_token;
    match (answers, pid) {
        (true, Some(pid)) if context.url.is_none() && at.is_empty() && waits_for_token => Finding::warn(
            name,
            format!(
                "process {pid} since {since}, answers at control.sock alone: the store was served with a token, and none is set"
            ),
            "for TCP set `token` in the settings file, then `swarmkeep stop`: the next start answers there again",
        ),
        (true, Some(pid)) if context.url.is_none() && at.is_empty() => {
            Finding::ok(name, format!("process {pid} since {since}, answers at control.sock alone"))
        }
        (true, Some(pid)) if context.url.is_none() => {
            Finding::ok(name, format!("process {pid} since {since}, answers {at}"))
        }
        (true, _) => Finding::ok(name, "answers"),
        (false, Some(pid)) if is_alive(pid) && is_locked(context) => Finding::bad(
            name,
            format!("process {pid} holds the store since {since} and does not answer"),
            format!(
                "wait a moment; then look at it: ps -p {pid}. Its end (also kill -9) loses nothing acknowledged; where it cannot be ended, `swarmkeep take-over`"
            ),
        ),
        _ => Finding::ok(name, "nobody: the next verb that needs one starts a daemon"),
    }
}

/// Whether a daemon could be started with the settings as they are now.
fn settings(context: &Context) -> Finding {
    let name = "settings";
    let checked = context.settings(&[]).and_then(|settings| {
        serve::bind::check(context, &settings)?;
        Ok(settings)
    });
    match checked {
        Ok(settings) => match settings.changed() {
            0 => Finding::ok(name, "the defaults"),
            count => Finding::ok(name, format!("{count} that somebody said, all as they may be")),
        },
        Err(failure) => Finding::bad(name, format!("no daemon starts with them: {}", failure.what), failure.next),
    }
}

/// Whether the kernel has a lock on the lock file; asked without taking one, which could be in a starting daemon's way.
fn is_locked(context: &Context) -> bool {
    use std::os::unix::fs::MetadataExt;
    let Ok(metadata) = fs::metadata(lock::file(&context.place.dir)) else { return false };
    match fs::read_to_string("/proc/locks") {
        Ok(locks) => locks
            .lines()
            .any(|line| line.split_whitespace().any(|word| word.ends_with(&format!(":{}", metadata.ino())))),
        // Not every system says: then the hint is all there is.
        Err(_) => true,
    }
}

/// Without a daemon: only whether the parts are there. Opening them is the daemon's business.
fn files(context: &Context) -> Vec<Finding> {
    let dir = &lock::home(&context.place.dir);
    let size = |name: &str| fs::metadata(dir.join(name)).ok().map(|metadata| metadata.len());
    let misplaced: Vec<Finding> = [("records.db", true), ("views.db", true), ("journal", false)]
        .into_iter()
        .filter(|(name, is_file)| fs::metadata(dir.join(name)).is_ok_and(|found| found.is_file() != *is_file))
        .map(|(name, is_file)| misplaced(dir, name, is_file))
        .collect();
    if !misplaced.is_empty() {
        // Nothing can be said of a store that is none.
        return misplaced;
    }
    let journal: Option<(usize, u64)> = fs::read_dir(dir.join("journal")).ok().map(|entries| {
        let sizes: Vec<u64> = entries.flatten().filter_map(|entry| Some(entry.metadata().ok()?.len())).collect();
        (sizes.len(), sizes.iter().sum())
    });
    let mut findings = Vec::new();
    match (journal, size("records.db")) {
        (None, None) => findings.push(Finding::warn(
            "parts",
            "there is no store here",
            format!("is the folder spelled right? `{} serve` makes a store there", context.place.program()),
        )),
        (Some((count, bytes)), Some(records)) => {
            let views = size("views.db").map_or("not there, built at the next start".to_owned(), moment::bytes);
            findings.push(Finding::ok(
                "parts",
                format!(
                    "journal {} of {}, records.db {}, views.db {views}",
                    moment::counted(count as u64, "file"),
                    moment::bytes(bytes),
                    moment::bytes(records)
                ),
            ));
        }
        (Some(_), None) => findings.push(Finding::damaged(
            "parts",
            "records.db is not there",
            format!(
                "bring it back if you know where it is; else the next start makes it again from the kept copies and the \
                 journal, and says what they lack: {} recover --dry-run",
                context.place.program()
            ),
        )),
        (None, Some(_)) => findings.push(Finding::damaged(
            "parts",
            "records.db is there, the journal is not: this is half of a store",
            "bring the journal back from where records.db came from, or move the folder away and begin a new store",
        )),
    }
    let quarantined: Vec<String> = fs::read_dir(dir.join("quarantine")).map_or(Vec::new(), |entries| {
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
    });
    let aside: BTreeSet<&str> = quarantined
        .iter()
        .filter_map(|name| name.strip_prefix("session-")?.strip_suffix(".records")?.split('-').next())
        .collect();
    let names = names::look(&context.place.dir, &serde_json::json!(aside));
    findings.extend(aside.iter().map(|id| {
        let session = names.of(id);
        set_aside(session, format!("session {session} has records beyond a gap in quarantine/"))
    }));
    if !quarantined.is_empty() {
        findings.push(quarantine(quarantined.len()));
    }
    if context.place.is_a_store() {
        findings.extend(planned(context));
    }
    findings
}

/// Something else stands where a part of the store must be.
fn misplaced(dir: &Path, name: &str, is_file: bool) -> Finding {
    let (is, must) = if is_file { ("no file", "a file") } else { ("no folder", "a folder") };
    let then = match name {
        "views.db" => "; the next start builds views.db again".to_owned(),
        _ => format!("; bring {name} back from where it went, or from a copy of the folder"),
    };
    let next = format!("no daemon starts with it: move {} away{then}", dir.join(name).display());
    Finding::bad("parts", format!("{name} is {is}, and must be {must}"), next)
}

/// What the next start would find; nothing is touched.
fn planned(context: &Context) -> Option<Finding> {
    match swarmkeep::upkeep::plan(&context.place.dir) {
        Ok(plan) if plan.damage.is_empty() => None,
        Ok(plan) => {
            let next =
                format!("{} recover --dry-run says which, and what the next start does", context.place.program());
            let what = recover::ranges(&plan);
            Some(match plan.damage.len() as u64 == plan.damaged(DataLoss::None) {
                true => Finding::warn("journal", what, next),
                false => Finding::damaged("journal", what, next),
            })
        }
        Err(error) if error.kind == swarmkeep::ErrorKind::Corrupt && is_whole(&lock::home(&context.place.dir)) => {
            // Not the hint: it leads here.
            let next = "restore the whole folder from one copy; docs/recovery.md, \"The store cannot be opened\", has each message";
            Some(Finding::damaged("journal", error.message.clone(), next))
        }
        // Half a store, or one of a newer program: said elsewhere.
        Err(_) => None,
    }
}

fn is_whole(dir: &Path) -> bool {
    dir.join("journal").exists() && dir.join("records.db").exists()
}

fn quarantine(count: usize) -> Finding {
    Finding::warn(
        "quarantine",
        format!("bytes that could not be used, in {}", moment::counted(count as u64, "file")),
        "`swarmkeep recover history` says whose they are; keep them until that is settled",
    )
}

/// What the daemon says of the store.
fn parts(store: &Value, names: &Names) -> Vec<Finding> {
    let mut findings = Vec::new();
    let standing = store.get("store").filter(|inner| inner.is_object()).unwrap_or(store);
    let records = number(standing, "records_position");
    let views = number(standing, "views_position");
    let unapplied = number(standing, "unapplied_bytes");
    match text(standing, "trouble") {
        "" => findings.push(Finding::ok(
            "records",
            format!("at position {records}; {} acknowledged and not yet in records.db", moment::bytes(unapplied)),
        )),
        trouble => findings.push(Finding::bad(
            "records",
            trouble.to_owned(),
            "acknowledged writes are safe in the journal; free room or mend the disk, it goes on by itself",
        )),
    }
    match text(standing, "views_trouble") {
        "" if views >= records => findings.push(Finding::ok("views", format!("at position {views}"))),
        "" => {
            findings.push(Finding::ok("views", format!("at position {views}, {} behind the records", records - views)))
        }
        trouble => findings.push(Finding::warn(
            "views",
            trouble.to_owned(),
            "only queries suffer; `swarmkeep migrate views down`, then a start, builds views.db again",
        )),
    }
    findings.extend(second_copies(field(standing, "kept")));
    for aside in standing.get("set_aside").and_then(Value::as_array).into_iter().flatten() {
        findings.push(set_aside(names.of(text(aside, "session")), names.put_into(text(aside, "what"))));
    }
    findings
}

/// What stands in records.db alone.
async fn copies(client: &mut Client) -> Option<Finding> {
    let name = "copies";
    let found: Value = client.call(&Call::get("/v1/store/copies")).await.ok()?.json().ok()?;
    let (records, once) = (number(&found, "records"), number(&found, "once"));
    let recent = match number(&found, "unapplied_bytes") {
        0 => String::new(),
        bytes => format!("; {} stand in the journal alone for now", moment::bytes(bytes)),
    };
    if once == 0 {
        let what =
            format!("{} in records.db, each a second time elsewhere{recent}", moment::counted(records, "record"));
        return Some(Finding::ok(name, what));
    }
    let what = format!(
        "in records.db alone: {} of {}, in {}{recent}",
        moment::thousands(once),
        moment::counted(records, "record"),
        moment::counted(number(&found, "sessions"), "session")
    );
    Some(Finding::warn(name, what, "make a backup of the folder; a larger journal_keep keeps more of what is to come"))
}

/// What the running daemon found when it started.
async fn last_start(client: &mut Client, context: &Context) -> Option<Finding> {
    let answer: Value = client.call(&Call::get("/v1/recoveries")).await.ok()?.json().ok()?;
    let last = entries(&answer, "recoveries").first()?;
    let (damage, whole) = recover::damages(last, entries(&answer, "recoveries"));
    let (failed, doubts) = (number(last, "sessions_failed"), entries(field(last, "possibly_acknowledged"), "").len());
    let program = context.place.program();
    let next = format!(
        "{program} recover says which, and whose they are; {program} verify --repair puts right what stands a second time"
    );
    if damage > 0 || failed > 0 {
        let what = format!("found {}", recover::harm(damage, failed));
        return Some(Finding::damaged("last start", what, next));
    }
    if doubts > 0 {
        let what = format!("found {} of the journal", moment::counted(doubts as u64, "doubtful end"));
        return Some(Finding::warn("last start", what, next));
    }
    (whole > 0).then(|| {
        let what = format!("put right without loss: {}; {program} recover says what", moment::counted(whole, "thing"));
        Finding::ok("last start", what)
    })
}

/// Agents that are silent while something waits for it, and tool servers that cannot be reached: as this daemon knows them.
async fn silent(client: &mut Client) -> Vec<Finding> {
    let answer = client.call(&Call::get("/v1/recoveries")).await.ok().and_then(|answer| answer.json::<Value>().ok());
    let answer = answer.unwrap_or_default();
    let is_open = |failure: &&Value| {
        field(failure, "over_at_ms").is_null()
            && (text(failure, "type"), text(failure, "severity")) != ("agent_unresponsive", "low")
    };
    let open: Vec<&Value> = entries(&answer, "failures").iter().filter(is_open).collect();
    let names = names::ask(client, &serde_json::json!(open)).await;
    let finding = |failure: &&Value| {
        let session = names.of(text(failure, "session"));
        let what = format!("{session}: {}", text(failure, "what"));
        match text(failure, "type") {
            "agent_unresponsive" => {
                let next = format!(
                    "see whether its process lives, and start it again: `swarmkeep agent ls {session} --overdue`"
                );
                Some(Finding::warn("agent", what, next))
            }
            "connection_lost" => {
                let next = "start the tool server, or mend its command or URL: `swarmkeep mcp status`";
                Some(Finding::warn("tool server", what, next))
            }
            _ => None,
        }
    };
    open.iter().filter_map(finding).collect()
}

/// How well the store came back in the last day, and each threshold that is passed.
async fn track_record(client: &mut Client) -> Option<Vec<Finding>> {
    let name = "recovery";
    let health: Value = client.call(&Call::get("/api/health")).await.ok()?.json().ok()?;
    let track = field(field(&health, "metrics"), "recovery");
    let percent = |name: &str| field(track, name).as_f64().unwrap_or(100.0);
    let alerts = entries(field(&health, "alerts"), "");
    if !alerts.is_empty() {
        let next = "`swarmkeep recover history` says what happened; docs/recovery.md says what ends an alert";
        let finding = |alert| Finding::warn(name, format!("{}: {}", text(alert, "type"), text(alert, "message")), next);
        return Some(alerts.iter().map(finding).collect());
    }
    let what = match number(track, "recoveries") {
        0 => "nothing had to come back in the last day".to_owned(),
        count => format!(
            "{} in the last day: {:.1} % came back, in {} ms on average, p99 {} ms; {:.2} % lost; available {:.2} % of the time",
            if count == 1 { "1 recovery".to_owned() } else { format!("{count} recoveries") },
            percent("recovery_success_percent"),
            number(track, "mean_time_to_recovery_ms"),
            number(track, "recovery_time_p99_ms"),
            field(track, "data_loss_percent").as_f64().unwrap_or(0.0),
            percent("availability_percent"),
        ),
    };
    Some(vec![Finding::ok(name, what)])
}

/// What there is of second copies, and what there is not.
fn second_copies(kept: &Value) -> Vec<Finding> {
    let name = "second copy";
    let (budget, files) = (number(kept, "budget_bytes"), number(kept, "files"));
    if budget == 0 {
        return vec![Finding::ok(name, "none is made of what the journal gave up (journal_keep is 0)")];
    }
    let mut findings = vec![Finding::ok(
        name,
        format!(
            "{} of what the journal gave up, in {} of {} (at most {}); waiting to be copied: {}",
            moment::counted(number(kept, "records"), "record"),
            moment::counted(files, "file"),
            moment::bytes(number(kept, "bytes")),
            moment::bytes(budget),
            moment::counted(number(kept, "waiting_segments"), "segment")
        ),
    )];
    let not_kept = number(kept, "not_kept_segments");
    if not_kept > 0 {
        findings.push(Finding::warn(
            name,
            format!(
                "segments or copies that were given up since the start: {}; {}",
                moment::thousands(not_kept),
                text(kept, "not_kept_because")
            ),
            "what they held may exist in records.db alone; make a backup, and room where that is what was wanting",
        ));
    }
    for lost in entries(field(kept, "lost"), "") {
        findings.push(Finding::warn(
            name,
            format!("a second copy is damaged and out of use: {}", lost.as_str().unwrap_or_default()),
            "what it held may exist in records.db alone; make a backup",
        ));
    }
    findings
}
