//! The connection to a tool server drops: the server is killed, and comes back at once or is away for some seconds. A client
//! goes on calling through the proxy all the while.
//!
//! Each call must have one answer; one that says it was done was done once, one that says it was not was not, and one of which
//! nobody knows was not done twice. The session's log says the same, and the first call after the server is back comes through
//! within a minute.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::{Instant, sleep, timeout},
};

use super::{Arena, Ending, Outcome, PATIENCE, Scenario, cannot, noticed, prove, until_up};
use crate::{
    client::{Client, query},
    failure::Failure,
    swarm::{check, dice::Dice, folder::Folder, outside, process::Daemon, run},
    verb::{entries, field, number, path, text},
};

/// Where the calls land.
const CALLS: &str = "chaos/connection";
/// Calls under way at once.
const AT_ONCE: usize = 4;
/// Between two calls.
const PACE: Duration = Duration::from_millis(5);
/// From one drop to the next: the link has to have settled.
const BETWEEN: Duration = Duration::from_millis(700);
/// So often it drops, if the time suffices for that or not.
const LEAST: u64 = 3;
/// How long the server is away, of every second drop.
const AWAY: Duration = Duration::from_secs(3);
/// The first call has to come through so soon after the server is back.
const BACK: Duration = Duration::from_secs(60);
/// For the last answers, and for the log to have them.
const SETTLED: Duration = Duration::from_secs(90);

/// What a client was told of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Done,
    NotDone,
    Unknown,
}

/// A call of the client's.
#[derive(Debug, Default)]
struct Made {
    told: Vec<Told>,
    /// The server was away when it was made.
    while_away: bool,
}

/// The files by which the scenario and its tool server know of each other.
struct Site {
    gate: PathBuf,
    pid: PathBuf,
}

impl Site {
    fn server(&self) -> Option<Pid> {
        let pid = fs::read_to_string(&self.pid).ok()?.trim().parse().ok()?;
        Pid::from_raw(pid)
    }

    /// Whether there was one to be killed.
    fn kill(&self) -> bool {
        self.server().is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok())
    }
}

/// A client with the proxy in its server's place.
struct Caller {
    child: Child,
    to: Option<ChildStdin>,
    from: Lines<BufReader<ChildStdout>>,
    calls: BTreeMap<u64, Made>,
    /// Of them, how many have no answer yet.
    open: usize,
    odd: Vec<String>,
}

impl Caller {
    async fn start(folder: &Folder, site: &Site) -> io::Result<Self> {
        let program = std::env::current_exe()?;
        let log = fs::OpenOptions::new().create(true).append(true).open(folder.log())?;
        let mut command = Command::new(&program);
        command.args(["mcp", "proxy", "--session", CALLS, "--name", "tools", "--store"]).arg(&folder.store).arg("--");
        command.arg(&program).arg("chaos-tools").arg("--outside").arg(folder.outside());
        command.arg("--gate").arg(&site.gate).arg("--pid").arg(&site.pid);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true).spawn()?;
        let (to, from) = (child.stdin.take(), child.stdout.take());
        let from = BufReader::new(from.ok_or_else(|| io::Error::other("no pipe"))?).lines();
        let mut caller = Self { child, to, from, calls: BTreeMap::new(), open: 0, odd: Vec::new() };
        let hello = json!({ "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "chaos", "version": "1" } });
        caller.say(&json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello })).await?;
        let answer = timeout(PATIENCE, caller.from.next_line()).await.map_err(|_| io::ErrorKind::TimedOut)??;
        if !answer.is_some_and(|line| line.contains("chaos-tools")) {
            return Err(io::Error::other("the proxy does not answer for its server"));
        }
        caller.say(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })).await?;
        Ok(caller)
    }

    async fn say(&mut self, message: &Value) -> io::Result<()> {
        match &mut self.to {
            Some(to) => to.write_all(format!("{message}\n").as_bytes()).await,
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    async fn call(&mut self, while_away: bool) -> io::Result<()> {
        let number = self.calls.len() as u64 + 1;
        self.calls.insert(number, Made { while_away, ..Made::default() });
        self.open += 1;
        let params = json!({ "name": "act", "arguments": { "key": key(number) } });
        self.say(&json!({ "jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params })).await
    }

    /// Takes what comes within `wait`; what it tells of a call.
    async fn hear(&mut self, wait: Duration) -> io::Result<Option<Told>> {
        let line = match timeout(wait, self.from.next_line()).await {
            Err(_) => return Ok(None),
            Ok(line) => line?.ok_or_else(|| io::Error::other("the proxy has ended"))?,
        };
        let message: Value = serde_json::from_str(&line).map_err(io::Error::other)?;
        let id = number(&message, "id");
        let Some(made) = self.calls.get_mut(&id).filter(|_| field(&message, "method").is_null()) else {
            return Ok(None);
        };
        let executed = message.pointer("/result/_meta/swarmkeep~1outcome/executed").and_then(Value::as_str);
        let told = match executed {
            Some("no") => Told::NotDone,
            Some("unknown") => Told::Unknown,
            None if message.pointer("/result/content/0/text").and_then(Value::as_str) == Some(&key(id)) => Told::Done,
            _ => {
                self.odd.push(format!("call {id} was answered {line}"));
                Told::Unknown
            }
        };
        self.open -= usize::from(made.told.is_empty());
        made.told.push(told);
        Ok(Some(told))
    }

    async fn end(mut self) -> io::Result<()> {
        self.to = None;
        match timeout(PATIENCE, self.child.wait()).await {
            Ok(ended) => ended.map(drop),
            Err(_) => self.child.kill().await,
        }
    }
}

fn key(number: u64) -> String {
    format!("call-{number}")
}

/// What a run of drops came to.
#[derive(Default)]
struct Drops {
    strikes: u64,
    back_ms: Vec<f64>,
    wrong: Vec<String>,
}

/// The scenario, in a folder of its own.
pub(super) async fn run(arena: &Arena, folder: &Folder, dir: &Path) -> Result<Outcome, Failure> {
    let broken = |error: io::Error| cannot(dir, &error);
    let mut daemon = Daemon::start(folder, &[]).map_err(broken)?;
    let mut client = until_up(folder, &mut daemon).await.map_err(|why| cannot(dir, &io::Error::other(why)))?;
    let site = Site { gate: dir.join("gate"), pid: dir.join("tools.pid") };
    let mut caller = Caller::start(folder, &site).await.map_err(broken)?;
    let mut drops = drop_and_return(arena, &mut caller, &site).await.map_err(broken)?;
    let mut outcome = judge(&caller, folder, &mut drops).map_err(broken)?;
    outcome.missing = settled(&mut client, &caller, &mut drops).await?;
    caller.end().await.map_err(broken)?;
    let proof = prove(&mut client).await?;
    let findings = entries(field(&proof, "findings"), "");
    drops.wrong.extend(findings.iter().take(5).map(|finding| format!("verify: {}", text(finding, "what"))));
    outcome.noticed = noticed(&mut client).await?;
    (outcome.records_verified, outcome.findings) = (number(&proof, "records"), findings.len() as u64);
    daemon.stop().await.map_err(broken)?;
    if !drops.wrong.is_empty() || outcome.missing > 0 {
        outcome.verdict = Ending::Failed;
    }
    outcome.why = drops.wrong;
    Ok(outcome)
}

/// Calls, and drops the connection meanwhile, until the time is over and everything is answered.
async fn drop_and_return(arena: &Arena, caller: &mut Caller, site: &Site) -> io::Result<Drops> {
    let mut dice = Dice::new(arena.seed);
    let mut drops = Drops::default();
    let end = Instant::now() + Duration::from_secs(arena.seconds);
    let mut next_drop = Instant::now() + Duration::from_millis(500);
    let mut returns: Option<Instant> = None;
    let mut back: Option<Instant> = None;
    let mut next_call = Instant::now();
    loop {
        let now = Instant::now();
        let goes_on = now < end || (drops.strikes < LEAST && now < end + BACK);
        if !goes_on && returns.is_none() && back.is_none() {
            break;
        }
        if returns.is_some_and(|at| now >= at) {
            fs::remove_file(&site.gate)?;
            (returns, back) = (None, Some(now));
        }
        if back.is_some_and(|at| now.duration_since(at) > BACK) {
            drops.wrong.push(format!("no call came through within {} s of the server's return", BACK.as_secs()));
            back = None;
        }
        if now >= next_drop && goes_on && returns.is_none() && back.is_none() {
            let is_away = drops.strikes % 2 == 1;
            if is_away {
                fs::write(&site.gate, "")?;
            }
            if site.kill() {
                drops.strikes += 1;
                (returns, back) = if is_away { (Some(now + AWAY), None) } else { (None, Some(now)) };
            } else if is_away {
                fs::remove_file(&site.gate)?;
            }
            next_drop = now + BETWEEN + Duration::from_millis(dice.between(0, 500));
        }
        if now >= next_call && caller.open < AT_ONCE {
            caller.call(returns.is_some()).await?;
            next_call = now + PACE;
        }
        if caller.hear(PACE).await? == Some(Told::Done)
            && let Some(at) = back.take()
        {
            drops.back_ms.push(at.elapsed().as_secs_f64() * 1e3);
        }
    }
    let deadline = Instant::now() + SETTLED;
    while caller.open > 0 && Instant::now() < deadline {
        caller.hear(Duration::from_millis(100)).await?;
    }
    Ok(drops)
}

/// What the client was told against what was done.
fn judge(caller: &Caller, folder: &Folder, drops: &mut Drops) -> io::Result<Outcome> {
    let done = outside::count(&folder.outside())?;
    let wrong = &mut drops.wrong;
    wrong.extend(caller.odd.iter().take(5).cloned());
    let weighed = weigh(&caller.calls, &done, wrong);
    if drops.strikes < LEAST || weighed.acknowledged == 0 || weighed.of_away == 0 {
        wrong.push("no connection dropped under a call: nothing was tried; give it longer (--seconds)".into());
    }
    wrong.truncate(10);
    let verdict = if wrong.is_empty() { Ending::Held } else { Ending::Failed };
    Ok(Outcome {
        strikes: drops.strikes,
        acknowledged: weighed.acknowledged,
        lost: weighed.lost,
        repeated: weighed.repeated,
        recover_ms_median: run::median(&drops.back_ms).round(),
        recover_ms_max: drops.back_ms.iter().copied().fold(0.0, f64::max).round(),
        ..Outcome::of(Scenario::ConnectionDrop, verdict, Vec::new())
    })
}

/// Calls, weighed against what was done.
#[derive(Debug, Default, PartialEq, Eq)]
struct Weighed {
    acknowledged: u64,
    lost: u64,
    repeated: u64,
    /// Calls made while the server was away of which it is known what became of them.
    of_away: u64,
}

fn weigh(calls: &BTreeMap<u64, Made>, done: &BTreeMap<String, u64>, wrong: &mut Vec<String>) -> Weighed {
    let mut weighed = Weighed::default();
    for (id, made) in calls {
        let times = done.get(&key(*id)).copied().unwrap_or(0);
        let [told] = made.told[..] else {
            wrong.push(format!("call {id} has {} answers", made.told.len()));
            continue;
        };
        weighed.of_away += u64::from(made.while_away && told != Told::Unknown);
        match (told, times) {
            (Told::Done, 1) => weighed.acknowledged += 1,
            (Told::Done, 0) => {
                weighed.lost += 1;
                wrong.push(format!("call {id} was said to be done, and was not"));
            }
            (Told::NotDone | Told::Unknown, 0) | (Told::Unknown, 1) => {}
            (Told::NotDone, 1) => {
                weighed.repeated += 1;
                wrong.push(format!("call {id} was said not to be done, and was"));
            }
            (_, times) => {
                weighed.repeated += times - 1;
                wrong.push(format!("call {id} was done {times} times"));
            }
        }
    }
    weighed
}

/// Waits until the log has every call that was answered as done as finished; how many it has not, in the end.
async fn settled(client: &mut Client, caller: &Caller, drops: &mut Drops) -> Result<u64, Failure> {
    let deadline = Instant::now() + SETTLED;
    loop {
        let mut finished = std::collections::BTreeSet::new();
        let mut after = None;
        loop {
            let pairs = [("limit", Some("1000".to_owned())), ("after", after)];
            let page = check::get(client, path(CALLS, "/effects") + &query(&pairs)).await?;
            for effect in entries(&page, "effects").iter().filter(|effect| text(effect, "status") == "finished") {
                finished.extend(effect.pointer("/request/arguments/key").and_then(Value::as_str).map(str::to_owned));
            }
            after = field(&page, "next").as_str().map(str::to_owned);
            if after.is_none() {
                break;
            }
        }
        let is_missing = |(id, made): &(&u64, &Made)| made.told == [Told::Done] && !finished.contains(&key(**id));
        let missing = caller.calls.iter().filter(is_missing).count() as u64;
        if missing == 0 {
            return Ok(0);
        }
        if Instant::now() >= deadline {
            drops.wrong.push(format!("{missing} calls that were answered are not finished in the session's log"));
            return Ok(missing);
        }
        sleep(Duration::from_millis(100)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_held_against_what_was_done() {
        let calls = |told: &[&[Told]]| -> BTreeMap<u64, Made> {
            let made = |told: &&[Told]| Made { told: told.to_vec(), while_away: true };
            (1..).zip(told.iter().map(made)).collect()
        };
        let done: BTreeMap<String, u64> =
            [(1, 1), (3, 1), (5, 1), (6, 2), (7, 2)].map(|(id, times)| (key(id), times)).into();
        let mut wrong = Vec::new();
        let fine = calls(&[&[Told::Done], &[Told::NotDone], &[Told::Unknown], &[Told::Unknown]]);
        let weighed = weigh(&fine, &done, &mut wrong);
        assert_eq!((weighed, wrong.len()), (Weighed { acknowledged: 1, of_away: 2, ..Weighed::default() }, 0));
        let bad = calls(&[
            &[Told::Done, Told::Unknown],
            &[Told::Done],
            &[],
            &[Told::NotDone],
            &[Told::NotDone],
            &[Told::Done],
            &[Told::Unknown],
        ]);
        let weighed = weigh(&bad, &done, &mut wrong);
        assert_eq!((weighed.lost, weighed.repeated, wrong.len()), (1, 3, 6), "{wrong:?}");
    }
}
