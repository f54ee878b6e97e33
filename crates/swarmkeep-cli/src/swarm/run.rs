//! The run: who is started, what is done to whom and when, and how long it took to come back.

use std::{io, time::Duration};

use rustix::process::Signal;
use serde_json::json;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

pub(crate) use super::strike::Script;
use super::{
    dice::Dice,
    folder::Folder,
    ledger,
    link::{Came, Link},
    process::{Agent, Daemon, News},
    reconciler,
    show::{Show, Total},
    strike::{self, Strike},
    worker::{AGENTS, DieAt},
};
use crate::{failure::Failure, moment};

/// A stuttering daemon is stopped for so long, and then goes on for so long.
const STUTTER: (Duration, Duration) = (Duration::from_millis(60), Duration::from_millis(20));
/// Bytes of a record that uses up the room that a store has of its own, and how many of them are tried.
const FILL_BYTES: usize = 48 << 10;
const FILLS: u32 = 1024;
/// Agents are given this long to end what they are doing.
const WIND_UP: Duration = Duration::from_secs(8);
/// A daemon that ended by itself this often will not come up.
const START_FAILURES: u32 = 3;

/// What happened.
#[derive(Debug, Default)]
pub(crate) struct Ran {
    /// Kills of the daemon.
    pub(crate) kills: u64,
    /// Agents that died.
    pub(crate) deaths: u64,
    /// What was done to it besides.
    pub(crate) strikes: u64,
    /// From each kill, or from the end of what else was done, to the first write acknowledged after it, in milliseconds.
    pub(crate) back_ms: Vec<f64>,
    /// Doubts settled as done, and as not done.
    pub(crate) settled: (u64, u64),
    /// It was ended early.
    pub(crate) interrupted: bool,
}

/// The processes of a run.
struct Run<'a> {
    folder: &'a Folder,
    show: &'a Show,
    script: &'a Script,
    dice: Dice,
    began: Instant,
    daemon: Option<Daemon>,
    agents: Vec<Agent>,
    news: mpsc::Sender<News>,
    probe: Link,
    settled: watch::Receiver<(u64, u64)>,
    effects: Vec<(u64, u64)>,
    ran: Ran,
}

/// Lets the swarm work through the script. When it returns the daemon has been killed once more after the last
/// acknowledgement, and is up again.
pub(crate) async fn run(folder: &Folder, show: &Show, script: &Script) -> Result<(Ran, Daemon), Failure> {
    let began = Instant::now();
    let daemon = Daemon::start(folder, &script.environment).map_err(|error| cannot_start("the daemon", &error))?;
    show.daemon_works(daemon.pid());
    let link = |name: &str| Link::new(&folder.socket(), &folder.acknowledged(), name);
    let mut probe = link("demo")?;
    set_up(&mut probe, false).await?;
    daemon.must_hold(folder)?;
    let (news, mut heard) = mpsc::channel(1024);
    let (settled, settled_seen) = watch::channel((0, 0));
    let (stop, stopped) = watch::channel(false);
    let reconciling: JoinHandle<Result<(), Failure>> =
        tokio::spawn(reconciler::run(folder.clone(), link("reconciler")?, settled, stopped));
    let mut run = Run {
        folder,
        show,
        script,
        dice: Dice::new(script.seed),
        began,
        daemon: Some(daemon),
        agents: Vec::new(),
        news,
        probe,
        settled: settled_seen,
        effects: vec![(0, 0); AGENTS.len()],
        ran: Ran::default(),
    };
    for number in 0..AGENTS.len() {
        run.start_agent(number, 1)?;
    }
    run.work(&mut heard).await?;
    run.wind_up(&mut heard).await?;
    stop.send_replace(true);
    let reconciled = reconciling
        .await
        .map_err(|error| Failure::unavailable(format!("the reconciler broke off: {error}"), "please report it"))?;
    reconciled?;
    run.kill_daemon("once more, after the last acknowledgement").await?;
    run.ran.settled = *run.settled.borrow();
    let Some(daemon) = run.daemon.take() else {
        return Err(Failure::unavailable("the daemon is gone", "look into daemon.log"));
    };
    Ok((run.ran, daemon))
}

/// Makes the swarm's session and agents; `again`: where an earlier life of the caller's did, that is as good.
pub(super) async fn set_up(probe: &mut Link, again: bool) -> Result<(), Failure> {
    let refused = |code: String| {
        Failure::refused(
            &code,
            format!("the swarm's session cannot be made: {code}"),
            "give another folder with --store: this one has had a swarm in it",
        )
    };
    let made = |came: &Came| matches!(came, Came::Refused(code) if again && code == "already_exists");
    let created = probe.create_session().await?;
    if !made(&created)
        && let Came::Refused(code) = created
    {
        return Err(refused(code));
    }
    let spawn: Vec<_> =
        AGENTS.iter().map(|name| json!({ "spawn_agent": { "id": name, "name": name, "kind": "worker" } })).collect();
    let spawned = probe.submit(json!(spawn)).await?;
    if !made(&spawned)
        && let Came::Refused(code) = spawned
    {
        return Err(refused(code));
    }
    Ok(())
}

impl Run<'_> {
    fn at_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn start_agent(&mut self, number: usize, life: u64) -> Result<(), Failure> {
        let Some(name) = AGENTS.get(number).copied() else { return Ok(()) };
        // Two die at the two worst moments, once.
        let die_at = match (number, life) {
            (0, 1) => Some(DieAt::Begun),
            (1, 1) => Some(DieAt::Acted),
            _ => None,
        };
        let agent = Agent::start(self.folder, number, name, life, self.dice.next(), die_at, self.news.clone())
            .map_err(|error| cannot_start(name, &error))?;
        match self.agents.get_mut(number) {
            Some(place) => *place = agent,
            None => self.agents.push(agent),
        }
        Ok(())
    }

    /// The time of work: strikes in their moments, news in between.
    async fn work(&mut self, heard: &mut mpsc::Receiver<News>) -> Result<(), Failure> {
        let end = self.began + Duration::from_millis(self.script.work_ms);
        let mut moments = self.script.moments(self.at_ms(), &mut self.dice).into_iter().peekable();
        let interrupt = tokio::signal::ctrl_c();
        tokio::pin!(interrupt);
        let mut redraw = tokio::time::interval(Duration::from_millis(100));
        while Instant::now() < end {
            let next = moments.peek().map_or(end, |(at, _)| self.began + Duration::from_millis(*at));
            tokio::select! {
                _ = &mut interrupt => {
                    self.ran.interrupted = true;
                    self.show.note(self.at_ms(), "ended early: checking what there is");
                    return Ok(());
                }
                Some(news) = heard.recv() => self.hear(news, true).await?,
                _ = redraw.tick() => self.redraw(),
                () = sleep_until(next.min(end)) => if let Some((_, strike)) = moments.next() {
                    self.strike(strike).await?;
                },
            }
        }
        Ok(())
    }

    async fn strike(&mut self, strike: Strike) -> Result<(), Failure> {
        let at_ms = self.at_ms();
        let what = match strike {
            Strike::KillDaemon => return self.kill_daemon("").await,
            Strike::KillDaemonTwice => {
                let Some(daemon) = self.daemon.take() else { return Ok(()) };
                daemon.must_hold(self.folder)?;
                daemon.kill().await.map_err(|error| cannot_start("kill", &error))?;
                self.ran.kills += 1;
                let daemon = self.start_daemon()?;
                // Anywhere between its first instruction and its first answer, as a rule.
                sleep(Duration::from_millis(self.dice.between(2, 150))).await;
                return self.kill_and_start(daemon, "again, while it was coming back").await;
            }
            Strike::KillAgent => return self.kill_agent(),
            Strike::StopDaemon(how_long) => {
                self.signal(Signal::STOP)?;
                sleep(how_long).await;
                self.signal(Signal::CONT)?;
                format!("daemon stopped for {:.1} s", how_long.as_secs_f64())
            }
            Strike::Stutter(how_long) => {
                let end = Instant::now() + how_long;
                while Instant::now() < end {
                    self.signal(Signal::STOP)?;
                    sleep(STUTTER.0).await;
                    self.signal(Signal::CONT)?;
                    sleep(STUTTER.1).await;
                }
                format!("daemon in short bursts for {:.1} s", how_long.as_secs_f64())
            }
            Strike::FillDisk(how_long) => {
                let Some(ballast) = self.script.ballast.clone() else { return Ok(()) };
                let full = |error: io::Error| cannot_start("the ballast", &error);
                let filled = strike::fill(&ballast).map_err(full)?;
                // The store has some room of its own: that is used up first.
                let record = json!([{ "record": { "kind": "fill", "payload": "f".repeat(FILL_BYTES) } }]);
                let mut fills = 0;
                while fills < FILLS && self.probe.is_taken(record.clone()).await? {
                    fills += 1;
                }
                sleep(how_long).await;
                strike::empty(&ballast).map_err(full)?;
                format!("disk full for {:.1} s ({} of ballast)", how_long.as_secs_f64(), moment::bytes(filled))
            }
            Strike::JumpClock(seconds) => {
                let Some(clock) = &self.script.clock else { return Ok(()) };
                std::fs::write(clock, format!("{seconds:+}\n")).map_err(|error| cannot_start("the clock", &error))?;
                format!("daemon's wall clock {seconds:+} s")
            }
        };
        self.ran.strikes += 1;
        let ended_us = moment::monotonic_us();
        self.probe().await?;
        let took_ms = moment::monotonic_us().saturating_sub(ended_us) as f64 / 1000.0;
        self.ran.back_ms.push(took_ms);
        let after = self.show.paint().green(format_args!("acknowledges {took_ms:.0} ms later"));
        self.show.note(at_ms, &format!("{what}   {after}"));
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<(), Failure> {
        match &self.daemon {
            Some(daemon) => daemon.signal(signal).map_err(|error| cannot_start("the daemon", &error)),
            None => Ok(()),
        }
    }

    fn start_daemon(&self) -> Result<Daemon, Failure> {
        Daemon::start(self.folder, &self.script.environment).map_err(|error| cannot_start("the daemon", &error))
    }

    /// One write, acknowledged.
    async fn probe(&mut self) -> Result<(), Failure> {
        let record = json!([{ "record": { "kind": "back", "payload": { "after_kill": self.ran.kills } } }]);
        self.probe.submit(record).await.map(drop)
    }

    async fn hear(&mut self, news: News, start_again: bool) -> Result<(), Failure> {
        match news {
            News::Doing(number, doing) => {
                if let (Some(agent), Some(effects)) = (self.agents.get(number), self.effects.get_mut(number)) {
                    effects.1 = doing.effects;
                    self.show.agent_doing(number, agent.name, &doing);
                }
            }
            News::Ended(number) => {
                let Some(agent) = self.agents.get_mut(number) else { return Ok(()) };
                let status = agent.wait().await.map_err(|error| cannot_start(agent.name, &error))?;
                let (name, life) = (agent.name, agent.life);
                if let Some(effects) = self.effects.get_mut(number) {
                    *effects = (effects.0 + effects.1, 0);
                }
                if status.code().is_some_and(|code| code != 0) {
                    return Err(Failure::unavailable(
                        format!("agent {name} gave up ({status})"),
                        format!("the reason is in {}", self.folder.log().display()),
                    ));
                }
                if status.code().is_none() {
                    self.ran.deaths += 1;
                    self.show.agent_killed(number, name);
                    let how = match (number, life) {
                        (0, 1) => "after begin, before it did anything",
                        (1, 1) => "after it did it, before finish",
                        _ => "at a random moment",
                    };
                    let paint = self.show.paint();
                    self.show
                        .note(self.at_ms(), &format!("{}  {name:<8} {}", paint.alarm(" kill -9 "), paint.dim(how)));
                }
                if start_again || status.code().is_none() {
                    self.start_agent(number, life + 1)?;
                    if !start_again && let Some(agent) = self.agents.get_mut(number) {
                        agent.ask_to_stop();
                    }
                }
            }
        }
        Ok(())
    }

    fn kill_agent(&mut self) -> Result<(), Failure> {
        let number = usize::try_from(self.dice.between(2, AGENTS.len() as u64)).unwrap_or(2);
        match self.agents.get_mut(number) {
            Some(agent) => agent.kill().map_err(|error| cannot_start(agent.name, &error)),
            None => Ok(()),
        }
    }

    /// `kill -9`, start, and the time until a write is acknowledged again.
    async fn kill_daemon(&mut self, why: &str) -> Result<(), Failure> {
        let Some(daemon) = self.daemon.take() else { return Ok(()) };
        // To kill another one would prove nothing.
        daemon.must_hold(self.folder)?;
        self.kill_and_start(daemon, why).await
    }

    async fn kill_and_start(&mut self, daemon: Daemon, why: &str) -> Result<(), Failure> {
        let pid = daemon.pid();
        let at_ms = self.at_ms();
        self.show.daemon_killed();
        let killed_us = moment::monotonic_us();
        daemon.kill().await.map_err(|error| cannot_start("kill", &error))?;
        self.ran.kills += 1;
        let mut failures = 0;
        let mut daemon = self.start_daemon()?;
        let record = json!([{ "record": { "kind": "back", "payload": { "after_kill": self.ran.kills } } }]);
        let back = self.probe.submit(record);
        tokio::pin!(back);
        loop {
            tokio::select! {
                back = &mut back => {
                    back?;
                    break;
                }
                () = sleep(Duration::from_millis(200)) => {
                    if let Some(how) = daemon.ended() {
                        failures += 1;
                        if failures >= START_FAILURES {
                            return Err(Failure::unavailable(
                                format!("the daemon does not come back after kill -9 ({how})"),
                                format!("the reason is in {}", self.folder.log().display()),
                            ));
                        }
                        daemon = Daemon::start(self.folder, &self.script.environment)
                            .map_err(|error| cannot_start("the daemon", &error))?;
                    }
                }
            }
        }
        let took_ms = moment::monotonic_us().saturating_sub(killed_us) as f64 / 1000.0;
        daemon.must_hold(self.folder)?;
        self.ran.back_ms.push(took_ms);
        let paint = self.show.paint();
        let after = if why.is_empty() { String::new() } else { paint.dim(format_args!("   {why}")) };
        self.show.note(
            at_ms,
            &format!(
                "{}  daemon   {}   {}{after}",
                paint.alarm(" kill -9 "),
                paint.dim(format_args!("pid {pid}")),
                paint.green(format_args!("back after {took_ms:.0} ms"))
            ),
        );
        self.show.daemon_works(daemon.pid());
        self.daemon = Some(daemon);
        Ok(())
    }

    fn redraw(&self) {
        self.show.time(self.at_ms());
        let settled = *self.settled.borrow();
        // Counting what is written down is cheap, and the only figure that is about acknowledgements.
        let acknowledged = ledger::count(&self.folder.acknowledged()).unwrap_or(0);
        self.show.total(Total {
            acknowledged,
            effects: self.effects.iter().map(|(before, now)| before + now).sum(),
            settled: settled.0 + settled.1,
            kills: self.ran.kills,
            deaths: self.ran.deaths,
            back_ms: median(&self.ran.back_ms),
        });
    }

    /// Agents end what they are doing. One that does not in time is killed; that is a death like any other.
    async fn wind_up(&mut self, heard: &mut mpsc::Receiver<News>) -> Result<(), Failure> {
        for agent in &mut self.agents {
            agent.ask_to_stop();
        }
        let end = Instant::now() + WIND_UP;
        let mut left = self.agents.len();
        while left > 0 {
            tokio::select! {
                Some(news) = heard.recv() => {
                    let ended = matches!(news, News::Ended(_));
                    let deaths = self.ran.deaths;
                    self.hear(news, false).await?;
                    left -= usize::from(ended && self.ran.deaths == deaths);
                }
                () = sleep_until(end) => {
                    for agent in &mut self.agents {
                        agent.kill().map_err(|error| cannot_start(agent.name, &error))?;
                    }
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

fn cannot_start(what: &str, error: &io::Error) -> Failure {
    Failure::unavailable(
        format!("{what} cannot be started or stopped: {error}"),
        "`swarmkeep doctor` looks at the machine",
    )
}

/// The middle one.
pub(crate) fn median(all: &[f64]) -> f64 {
    let mut sorted = all.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}
