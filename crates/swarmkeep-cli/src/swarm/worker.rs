//! An agent of the swarm, as a process of its own: claims tasks, reads and writes mail, remembers, and does one thing
//! outside for each task. It can be told to die at the worst moments.

use std::{io::Write, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt, sync::watch, time::sleep};

use super::{
    dice::Dice,
    folder::{Folder, SESSION},
    link::{Came, Link},
    outside,
};
use crate::{
    client::query,
    failure::Failure,
    moment,
    verb::{entries, field, number, path, text},
};

/// The agents.
pub(crate) const AGENTS: &[&str] = &["ada", "grace", "linus", "edsger", "barbara"];
/// What there is to do.
const WORK: &[&str] = &[
    "pay an invoice",
    "ask the model",
    "mail a customer",
    "merge a branch",
    "book a flight",
    "file a report",
    "order parts",
    "publish a page",
];
/// A doubt is asked about this often until somebody has settled it.
const DOUBT_POLL: Duration = Duration::from_millis(30);

/// Where an agent dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DieAt {
    /// After `begin` was acknowledged, before anything was done.
    Begun,
    /// After it was done, before `finish`.
    Acted,
}

/// See the module.
#[derive(Debug, Args)]
pub(crate) struct Worker {
    #[arg(long)]
    agent: String,
    /// Counts the processes of this agent
    #[arg(long)]
    life: u64,
    #[arg(long)]
    seed: u64,
    /// The store's folder
    #[arg(long = "in", value_name = "DIR")]
    store: PathBuf,
    /// Where it writes down what it got and did
    #[arg(long, value_name = "DIR")]
    notes: PathBuf,
    #[arg(long, value_enum)]
    die_at: Option<DieAt>,
    /// At this effect of this life
    #[arg(long, default_value_t = 3)]
    die_after: u64,
}

/// True once this process's input ends: the run wants it to stop, or is gone.
pub(super) fn until_input_ends() -> watch::Receiver<bool> {
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        let mut nothing = [0u8; 64];
        while matches!(tokio::io::stdin().read(&mut nothing).await, Ok(1..)) {}
        stop.send_replace(true);
    });
    stopped
}

impl Worker {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let folder = Folder { store: self.store.clone(), notes: self.notes.clone() };
        let link = Link::new(&folder.socket(), &folder.acknowledged(), &format!("{}.{}", self.agent, self.life))?;
        let stopped = until_input_ends();
        let mut agent = Agent {
            instance: format!("{}-{}", self.agent, std::process::id()),
            dice: Dice::new(self.seed),
            effects: 0,
            worker: self,
            folder,
            link,
        };
        agent.finish_what_was_begun().await?;
        while !*stopped.borrow() {
            agent.turn().await?;
        }
        Ok(())
    }
}

struct Agent {
    worker: Worker,
    folder: Folder,
    link: Link,
    /// This process: another one after a crash, which is how a crash is seen.
    instance: String,
    dice: Dice,
    effects: u64,
}

impl Agent {
    fn name(&self) -> &str {
        &self.worker.agent
    }

    /// Tells the run what it is doing; one that is gone is noticed elsewhere.
    fn tell(&self, doing: &str, what: &str) {
        let line = json!({ "doing": doing, "what": what, "effects": self.effects });
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }

    async fn think(&mut self) {
        sleep(Duration::from_millis(self.dice.between(2, 14))).await;
    }

    /// The tasks that an earlier life of this agent had claimed: their leases are this agent's still.
    async fn finish_what_was_begun(&mut self) -> Result<(), Failure> {
        if self.worker.life == 1 {
            return Ok(());
        }
        let mine = query(&[("status", Some("running".to_owned())), ("agent", Some(self.name().to_owned()))]);
        let tasks = match self.link.get(path(SESSION, "/tasks") + &mine).await {
            // The earlier life ended before there was one.
            Err(failure) if failure.code == "not_found" => return Ok(()),
            tasks => tasks?,
        };
        for task in entries(&tasks, "tasks") {
            self.tell("goes on with", text(task, "id"));
            let lease = task.pointer("/lease/number").and_then(Value::as_u64).unwrap_or(0);
            self.carry_out(text(task, "id"), lease).await?;
        }
        Ok(())
    }

    async fn turn(&mut self) -> Result<(), Failure> {
        self.read_mail().await?;
        self.think().await;
        let claim = json!({ "claim_task": { "agent": self.name(), "lease_ms": 60_000 } });
        let Came::Done(outcomes) = self.link.command(claim).await? else { return Ok(()) };
        let claimed = outcomes.first().map_or(Value::Null, |outcome| field(outcome, "claimed").clone());
        match text(&claimed, "task") {
            "" => {
                let title = self.dice.pick(WORK).copied().unwrap_or("work");
                self.tell("adds", title);
                let new = json!({ "create_task": { "title": title, "priority": self.dice.between(1, 9) } });
                self.link.submit(json!([new.clone(), new])).await?;
                self.think().await;
            }
            task => self.carry_out(task, number(&claimed, "lease")).await?,
        }
        Ok(())
    }

    async fn read_mail(&mut self) -> Result<(), Failure> {
        let receive = json!({ "receive_messages": { "agent": self.name(), "limit": 5 } });
        let Came::Done(outcomes) = self.link.command(receive).await? else { return Ok(()) };
        let messages = outcomes
            .first()
            .and_then(|outcome| outcome.pointer("/received/messages"))
            .and_then(Value::as_array)
            .cloned();
        for message in messages.unwrap_or_default() {
            self.link.command(json!({ "acknowledge_message": { "message": message, "agent": self.name() } })).await?;
        }
        Ok(())
    }

    async fn carry_out(&mut self, task: &str, lease: u64) -> Result<(), Failure> {
        self.tell("works on", task);
        self.think().await;
        self.act_once(task).await?;
        self.think().await;
        let others: Vec<&str> = AGENTS.iter().copied().filter(|name| *name != self.name()).collect();
        let to = self.dice.pick(&others).copied().unwrap_or("ada");
        let after = json!([
            { "set_memory": { "scope": self.name(), "key": "last", "value": { "task": task, "at_ms": moment::now_ms() } } },
            { "send_message": { "from": self.name(), "to": { "agent": to }, "topic": "done", "content": { "task": task } } },
            { "complete_task": { "task": task, "lease": lease, "result": { "by": self.name() } } },
        ]);
        match self.link.submit(after).await? {
            Came::Done(_) => self.tell("has done", task),
            Came::Refused(code) => self.tell("let go of", &format!("{task} ({code})")),
        }
        Ok(())
    }

    /// One thing done outside, at most once: begin is recorded before, finish after.
    async fn act_once(&mut self, task: &str) -> Result<(), Failure> {
        let key = format!("act-{task}");
        loop {
            let begin = json!({ "begin_effect": {
                "effect": key, "class": "at_most_once", "agent": self.name(), "task": task, "instance": self.instance,
            } });
            let outcome = match self.link.command(begin).await? {
                Came::Done(outcomes) => outcomes.into_iter().next().unwrap_or(Value::Null),
                Came::Refused(code) if matches!(code.as_str(), "outcome_unknown" | "in_progress") => Value::Null,
                Came::Refused(code) => {
                    return Err(Failure::refused(
                        &code,
                        format!("begin of {key} was refused: {code}"),
                        "this is a defect: please report it",
                    ));
                }
            };
            if !field(&outcome, "recorded").is_null() {
                return Ok(());
            }
            let run = field(&outcome, "run");
            if run.is_null() {
                self.tell("is in doubt about", &key);
                sleep(DOUBT_POLL).await;
                continue;
            }
            return self.act(&key, number(run, "attempt")).await;
        }
    }

    async fn act(&mut self, key: &str, attempt: u64) -> Result<(), Failure> {
        self.effects += 1;
        self.die_if(DieAt::Begun);
        outside::act(&self.folder.outside(), key).map_err(|error| {
            Failure::unavailable(
                format!("cannot write {}: {error}", self.folder.outside().display()),
                "free some room, or choose another folder",
            )
        })?;
        self.die_if(DieAt::Acted);
        let finish = json!({ "finish_effect": { "effect": key, "attempt": attempt, "outcome": { "ok": true, "value": { "by": self.name() } } } });
        match self.link.command(finish).await? {
            Came::Done(_) => Ok(()),
            Came::Refused(code) => Err(Failure::refused(
                &code,
                format!("finish of {key} was refused: {code}"),
                "this is a defect: please report it",
            )),
        }
    }

    /// As if the power were cut: no destructor, no flush.
    fn die_if(&self, at: DieAt) {
        if self.worker.die_at == Some(at) && self.effects >= self.worker.die_after {
            let own = rustix::process::getpid();
            let _ = rustix::process::kill_process(own, rustix::process::Signal::KILL);
            std::process::abort();
        }
    }
}
