//! The processes of a run: this program, as a daemon and as agents.

use std::{ffi::OsString, fs::OpenOptions, io, process::Stdio};

use rustix::process::Signal;
use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdin, Command},
    sync::mpsc,
};

use super::{folder::Folder, worker::DieAt};
use crate::failure::Failure;

/// A daemon of the run's store. It ends with this process, however that ends: its input is a pipe from here.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
}

impl Daemon {
    /// `environment` on top of this process's own.
    pub(crate) fn start(folder: &Folder, environment: &[(&str, OsString)]) -> io::Result<Self> {
        let log = OpenOptions::new().create(true).append(true).open(folder.log())?;
        let child = Command::new(std::env::current_exe()?)
            .args(["serve", "--listen", "127.0.0.1:0", "--while-input", "--store"])
            .arg(&folder.store)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        Ok(Self { child })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    /// Refuses to go on unless this very process holds the run's store: to kill another one would prove nothing.
    pub(crate) fn must_hold(&self, folder: &Folder) -> Result<(), Failure> {
        let holder = holder(folder)?;
        if holder == Some(self.pid()) {
            return Ok(());
        }
        let who = holder.map_or("nobody".to_owned(), |pid| format!("process {pid}"));
        Err(Failure::refused(
            "not_the_holder",
            format!("{who} holds {}, not this run's own daemon {}", folder.store.display(), self.pid()),
            "end what else uses that folder, or give one of its own with --store",
        ))
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<String> {
        self.child.try_wait().ok().flatten().map(|status| status.to_string())
    }

    /// `kill -9`.
    pub(crate) async fn kill(mut self) -> io::Result<()> {
        self.child.kill().await
    }

    /// Sends it a signal; one that has ended gets none.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        match self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw) {
            Some(pid) => Ok(rustix::process::kill_process(pid, signal)?),
            None => Ok(()),
        }
    }

    /// Asks it to stop, and waits until it has.
    pub(crate) async fn stop(mut self) -> io::Result<bool> {
        self.signal(Signal::TERM)?;
        Ok(self.child.wait().await?.success())
    }
}

/// The process that holds the run's store, by its own word.
pub(crate) fn holder(folder: &Folder) -> Result<Option<u32>, Failure> {
    match swarmkeep::lock::holder(&folder.store) {
        Ok(holder) => Ok(holder.map(|holder| holder.pid)),
        Err(error) => Err(Failure::unavailable(
            format!("{}: {error}", folder.store.join("lock").display()),
            "`swarmkeep doctor` looks at the folder",
        )),
    }
}

/// Where the run's store is served over TCP now, as a URL.
pub(crate) fn served_at(folder: &Folder) -> Option<String> {
    let address = swarmkeep::lock::holder(&folder.store).ok()??.address?;
    address.split_whitespace().next().map(str::to_owned)
}

/// What an agent says it is doing.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Doing {
    pub(crate) doing: String,
    pub(crate) what: String,
    pub(crate) effects: u64,
}

/// What comes from an agent's process.
#[derive(Debug)]
pub(crate) enum News {
    /// It says what it is doing.
    Doing(usize, Doing),
    /// Its output ended: it is dead, or done.
    Ended(usize),
}

/// An agent's process.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) name: &'static str,
    pub(crate) life: u64,
    child: Child,
    input: Option<ChildStdin>,
}

impl Agent {
    /// Starts one; what it says goes to `news` with its number.
    pub(crate) fn start(
        folder: &Folder,
        number: usize,
        name: &'static str,
        life: u64,
        seed: u64,
        die_at: Option<DieAt>,
        news: mpsc::Sender<News>,
    ) -> io::Result<Self> {
        let log = OpenOptions::new().create(true).append(true).open(folder.log())?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["swarm-worker", "--agent", name])
            .arg("--life")
            .arg(life.to_string())
            .arg("--seed")
            .arg(seed.to_string());
        command.arg("--in").arg(&folder.store).arg("--notes").arg(&folder.notes);
        match die_at {
            Some(DieAt::Begun) => command.args(["--die-at", "begun"]),
            Some(DieAt::Acted) => command.args(["--die-at", "acted"]),
            None => &mut command,
        };
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true).spawn()?;
        let input = child.stdin.take();
        if let Some(output) = child.stdout.take() {
            tokio::spawn(async move {
                let mut lines = BufReader::new(output).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    if let Ok(doing) = serde_json::from_str(&line)
                        && news.send(News::Doing(number, doing)).await.is_err()
                    {
                        return;
                    }
                }
                // Nobody to tell: the run is over.
                let _ = news.send(News::Ended(number)).await;
            });
        }
        Ok(Self { name, life, child, input })
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.child.start_kill()
    }

    /// Asks it to stop after what it is doing now.
    pub(crate) fn ask_to_stop(&mut self) {
        self.input = None;
    }

    /// How it ended: by a signal, or with a code.
    pub(crate) async fn wait(&mut self) -> io::Result<std::process::ExitStatus> {
        self.child.wait().await
    }
}
