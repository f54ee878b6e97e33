//! Chaos: the swarm of the demo, and what can happen to the machine it runs on, one scenario after another.
//!
//! Each scenario has a store of its own: an empty one, or a copy of one that somebody named, which itself is only read. What
//! was acknowledged is written down outside the daemon, synced, before the next request, and beside the store: it is there
//! when the store's device is full or its files are damaged.

mod connection;
mod corruption;
mod room;
mod tools;

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::ValueEnum;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use self::room::Room;
pub(crate) use self::{
    corruption::Detection,
    tools::{LATE, LATE_URI, ToolServer},
};
use crate::{
    client::{Call, Client, Endpoint, query},
    failure::Failure,
    moment, place,
    swarm::{
        check::{self, Verdict},
        folder::{Folder, SESSION},
        process::Daemon,
        run::{self, Ran, Script},
        show::Show,
        strike::{self, Strike},
        worker::AGENTS,
    },
    verb::{entries, field, number, path, text},
};

/// Nobody waits longer than this for a daemon to answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Proving a store of this size takes seconds.
const PROOF: Duration = Duration::from_secs(600);
/// Longer than the gap that a daemon takes for a stop of its own.
const STOPPED: Duration = Duration::from_secs(3);
/// A stuttering daemon gets a quarter of its time.
const STUTTERS: Duration = Duration::from_secs(2);
/// Long enough for every agent to run into it.
const FULL: Duration = Duration::from_millis(1_500);
/// Seconds by which the clock jumps.
const JUMP: i64 = 3600;

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scenario {
    /// `kill -9` of the daemon, also while it is coming back
    ProcessKill,
    /// `kill -9` of agents
    ClientKill,
    /// The daemon is stopped for three seconds (SIGSTOP), as on a suspended machine
    DaemonStopped,
    /// The daemon gets on in short bursts only, as with a disk that hangs
    SlowDisk,
    /// The store's device is full, and has room again
    FullDisk,
    /// The daemon's wall clock jumps by an hour, both ways
    ClockJump,
    /// A tool server is killed under calls of a client, and comes back at once or after some seconds
    ConnectionDrop,
    /// Bytes of copies of a store are flipped, zeroed, cut off: each must be found, or make no difference
    Corruption,
}

impl Scenario {
    /// Its name, as it is typed.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ProcessKill => "process-kill",
            Self::ClientKill => "client-kill",
            Self::DaemonStopped => "daemon-stopped",
            Self::SlowDisk => "slow-disk",
            Self::FullDisk => "full-disk",
            Self::ClockJump => "clock-jump",
            Self::ConnectionDrop => "connection-drop",
            Self::Corruption => "corruption",
        }
    }

    fn strikes(self, seconds: u64) -> Vec<Strike> {
        let times = |one: &[Strike], every_s: u64| {
            let count = usize::try_from((seconds / every_s).max(2)).unwrap_or(2);
            one.iter().copied().cycle().take(count).collect::<Vec<_>>()
        };
        match self {
            Self::ProcessKill => times(&[Strike::KillDaemon, Strike::KillDaemonTwice], 1),
            Self::ClientKill => times(&[Strike::KillAgent], 1),
            Self::DaemonStopped => times(&[Strike::StopDaemon(STOPPED)], 6),
            Self::SlowDisk => times(&[Strike::Stutter(STUTTERS)], 4),
            Self::FullDisk => times(&[Strike::FillDisk(FULL), Strike::FillDisk(FULL), Strike::KillDaemon], 3),
            Self::ClockJump => {
                let there_and_back = [Strike::JumpClock(JUMP), Strike::KillDaemon, Strike::JumpClock(-JUMP)];
                times(&[&there_and_back[..], &[Strike::KillDaemon]].concat(), 2)
            }
            Self::ConnectionDrop | Self::Corruption => Vec::new(),
        }
    }
}

/// How a scenario ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ending {
    /// Nothing lost, nothing repeated, everything verified.
    Held,
    /// Something is wrong.
    Failed,
    /// This machine cannot do it: the reason is said.
    Skipped,
}

/// What came of one scenario.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Outcome {
    pub(crate) scenario: Scenario,
    pub(crate) verdict: Ending,
    /// Why it was skipped, or what is wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) why: Vec<String>,
    /// Things done to it, kills of processes among them.
    pub(crate) strikes: u64,
    pub(crate) acknowledged: u64,
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
    pub(crate) missing: u64,
    /// From the end of each strike to the next acknowledgement, in milliseconds.
    pub(crate) recover_ms_median: f64,
    pub(crate) recover_ms_max: f64,
    /// Records that were read, hashed, folded and compared with RAM and views at the end.
    pub(crate) records_verified: u64,
    /// What did not agree there.
    pub(crate) findings: u64,
    /// Types of failure that the store noticed and keeps in its history.
    pub(crate) noticed: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) detection: Option<Detection>,
}

impl Outcome {
    fn of(scenario: Scenario, verdict: Ending, why: Vec<String>) -> Self {
        Self {
            scenario,
            verdict,
            why,
            strikes: 0,
            acknowledged: 0,
            lost: 0,
            repeated: 0,
            missing: 0,
            recover_ms_median: 0.0,
            recover_ms_max: 0.0,
            records_verified: 0,
            findings: 0,
            noticed: Vec::new(),
            detection: None,
        }
    }

    fn judged(scenario: Scenario, ran: &Ran, verdict: Verdict, proof: &Value) -> Self {
        let findings = entries(field(proof, "findings"), "");
        let mut why = verdict.wrong.clone();
        why.extend(findings.iter().take(5).map(|finding| format!("verify: {}", text(finding, "what"))));
        let held = verdict.is_good() && findings.is_empty() && verdict.acknowledged > 0;
        if verdict.acknowledged == 0 {
            why.push("nothing was acknowledged: nothing was tried".into());
        }
        let tenth = |ms: f64| (ms * 10.0).round() / 10.0;
        Self {
            strikes: ran.strikes + ran.kills + ran.deaths,
            acknowledged: verdict.acknowledged,
            lost: verdict.lost,
            repeated: verdict.repeated,
            missing: verdict.missing,
            recover_ms_median: tenth(run::median(&ran.back_ms)),
            recover_ms_max: tenth(ran.back_ms.iter().copied().fold(0.0, f64::max)),
            records_verified: number(proof, "records"),
            findings: findings.len() as u64,
            ..Self::of(scenario, if held { Ending::Held } else { Ending::Failed }, why)
        }
    }
}

/// Where all of it happens.
#[derive(Debug)]
pub(crate) struct Arena {
    /// A folder of its own.
    pub(crate) dir: PathBuf,
    /// A store to begin with a copy of.
    pub(crate) source: Option<PathBuf>,
    pub(crate) seconds: u64,
    pub(crate) seed: u64,
    pub(crate) json: bool,
}

impl Arena {
    /// Runs one scenario. An error is one of this program or machine, not of the store under test.
    pub(crate) async fn run(&self, scenario: Scenario) -> Result<Outcome, Failure> {
        let dir = self.dir.join(scenario.name());
        let folder = Folder { store: dir.join("store"), notes: dir.join("notes") };
        let broken = |error: io::Error| cannot(&dir, &error);
        let mut script = Script {
            work_ms: strike::work_ms(self.seconds),
            strikes: scenario.strikes(self.seconds),
            seed: self.seed,
            ..Script::default()
        };
        place::make_private(&dir)?;
        let mut room = None;
        match scenario {
            Scenario::FullDisk => {
                place::make_private(&folder.store)?;
                match Room::make(&folder.store) {
                    Ok(made) => room = Some(made),
                    Err(why) => return Ok(Outcome::of(scenario, Ending::Skipped, vec![why])),
                }
                script.ballast = Some(folder.store.join("ballast"));
            }
            Scenario::ClockJump => {
                let Some(library) = faketime() else {
                    let why = "libfaketime is not installed (Debian: apt-get install faketime)".to_owned();
                    return Ok(Outcome::of(scenario, Ending::Skipped, vec![why]));
                };
                let clock = dir.join("clock");
                fs::write(&clock, "+0\n").map_err(broken)?;
                script.environment = clock_environment(library, &clock);
                script.clock = Some(clock);
            }
            _ => {}
        }
        if let Some(source) = &self.source {
            copy(source, &folder.store).map_err(broken)?;
        }
        place::make_private(&folder.store)?;
        place::make_private(&folder.notes)?;
        place::make_private(&folder.acknowledged())?;
        if scenario == Scenario::ConnectionDrop {
            return connection::run(self, &folder, &dir).await;
        }
        let show = Show::new(self.json, self.seconds, AGENTS);
        let ran = run::run(&folder, &show, &script).await;
        show.end();
        let (ran, daemon) = ran?;
        let outcome = self.look(scenario, &folder, &ran, daemon).await;
        drop(room);
        outcome
    }

    async fn look(&self, scenario: Scenario, folder: &Folder, ran: &Ran, daemon: Daemon) -> Result<Outcome, Failure> {
        let mut client = Client::new(Endpoint::Socket(folder.socket()));
        let verdict = check::check(folder, &folder.socket()).await?;
        let proof = prove(&mut client).await?;
        if scenario == Scenario::ClockJump && !jumped(&mut client, &verdict).await? {
            let why = "libfaketime has no effect on this program here".to_owned();
            return Ok(Outcome::of(scenario, Ending::Skipped, vec![why]));
        }
        let noticed = noticed(&mut client).await?;
        daemon.stop().await.map_err(|error| cannot(&folder.store, &error))?;
        if scenario == Scenario::FullDisk && !noticed.iter().any(|kind| kind == "storage_unavailable") {
            let why = "the store had room of its own for all that was written: give it longer (--seconds)".to_owned();
            return Ok(Outcome::of(scenario, Ending::Skipped, vec![why]));
        }
        let mut outcome = Outcome { noticed, ..Outcome::judged(scenario, ran, verdict, &proof) };
        if scenario == Scenario::Corruption && outcome.verdict == Ending::Held {
            let detection = corruption::run(folder, self.seconds, self.seed, self.json).await?;
            outcome.strikes += detection.trials();
            if !detection.is_good() {
                outcome.verdict = Ending::Failed;
                outcome.why.extend(detection.wrong.iter().cloned());
            }
            outcome.detection = Some(detection);
        }
        Ok(outcome)
    }
}

/// Every session read, hashed, folded and compared.
async fn prove(client: &mut Client) -> Result<Value, Failure> {
    check::ask(client, &Call::post("/v1/verify", &json!({})).within(PROOF)).await
}

/// The types of failure that the store keeps in its history.
async fn noticed(client: &mut Client) -> Result<Vec<String>, Failure> {
    let answer = check::get(client, "/v1/recoveries").await?;
    let mut kinds: Vec<String> = entries(&answer, "failures").iter().map(|one| text(one, "type").to_owned()).collect();
    kinds.sort();
    kinds.dedup();
    Ok(kinds)
}

/// Whether the session's newest record is from the time to which the clock jumped: times never go back.
async fn jumped(client: &mut Client, verdict: &Verdict) -> Result<bool, Failure> {
    let before = verdict.records.saturating_sub(1).to_string();
    let last = path(SESSION, "/records") + &query(&[("after", Some(before)), ("limit", Some("1".to_owned()))]);
    let page = check::get(client, last).await?;
    let time_ms = entries(&page, "records").first().map_or(0, |record| number(record, "time_ms"));
    Ok(time_ms > moment::now_ms() + JUMP.unsigned_abs() * 900)
}

/// Waits until a daemon answers; `Err` with how it ended if it did, or if nobody answers for too long.
async fn until_up(folder: &Folder, daemon: &mut Daemon) -> Result<Client, String> {
    let mut client = Client::new(Endpoint::Socket(folder.socket()));
    let end = Instant::now() + PATIENCE;
    loop {
        if client.call(&Call::get("/health/live")).await.is_ok_and(|answer| answer.status == 200) {
            return Ok(client);
        }
        if let Some(how) = daemon.ended() {
            return Err(how);
        }
        if Instant::now() >= end {
            return Err(format!("no answer for {} s", PATIENCE.as_secs()));
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// The library that fakes a process's clock, where it is installed.
fn faketime() -> Option<PathBuf> {
    let below = |dir: &str| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    below("/usr/lib")
        .chain(["/usr/local/lib".into()])
        .map(|dir| dir.join("faketime/libfaketimeMT.so.1"))
        .find(|path| path.exists())
}

fn clock_environment(library: PathBuf, clock: &Path) -> Vec<(&'static str, OsString)> {
    vec![
        ("LD_PRELOAD", library.into()),
        ("FAKETIME_TIMESTAMP_FILE", clock.into()),
        ("FAKETIME_NO_CACHE", "1".into()),
        // A wall clock that is set leaves the monotonic one alone.
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ("DONT_FAKE_MONOTONIC", "1".into()),
    ]
}

/// Copies a store that nobody holds; sockets and the daemon's own papers are left out.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    place_private(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            copy(&entry.path(), &target)?;
        } else if kind.is_file()
            && !matches!(entry.file_name().to_str(), Some("daemon.log" | "daemon.log.1" | "served.json"))
        {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn place_private(dir: &Path) -> io::Result<()> {
    place::make_private(dir).map_err(|failure| io::Error::other(failure.what))
}

fn cannot(dir: &Path, error: &io::Error) -> Failure {
    Failure::unavailable(format!("{}: {error}", dir.display()), "choose a folder on a local disk with --store")
}
