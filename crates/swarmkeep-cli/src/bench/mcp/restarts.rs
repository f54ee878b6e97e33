//! A server that was away: how soon after it may be started again the next call is answered.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use super::{
    super::{Figure, Plan, Scratch},
    blocking, proxied,
    talk::{Call, Talk},
};
use crate::failure::Failure;

/// The next call has so long, in milliseconds.
const NEXT_CALL_MS: f64 = 200.0;
/// How long a server is away.
const AWAY: Duration = Duration::from_secs(1);
/// Between two rounds: a connection that has lasted is believed, and what failed before is forgotten.
const BETWEEN: Duration = Duration::from_millis(5_500);
/// Each round takes seconds.
const ROUNDS: usize = 3;

/// The files by which a tool server is known, stopped and let.
#[derive(Debug, Clone)]
pub(super) struct Site {
    gate: PathBuf,
    pid: PathBuf,
    starts: PathBuf,
}

impl Site {
    pub(super) fn new(scratch: &Scratch) -> Self {
        Self { gate: scratch.path("gate"), pid: scratch.path("pid"), starts: scratch.path("starts") }
    }

    /// The server's arguments.
    pub(super) fn arguments(&self) -> Vec<String> {
        [("--gate", &self.gate), ("--pid", &self.pid), ("--starts", &self.starts)]
            .into_iter()
            .flat_map(|(name, path)| [name.to_owned(), path.display().to_string()])
            .collect()
    }

    /// Whether there was one to be killed.
    pub(super) fn kill(&self) -> bool {
        let pid = fs::read_to_string(&self.pid).ok().and_then(|pid| pid.trim().parse().ok()).and_then(Pid::from_raw);
        pid.is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok())
    }

    /// From now on it cannot be started.
    pub(super) fn shut(&self) -> io::Result<()> {
        fs::write(&self.gate, "")
    }

    /// It can be started again.
    pub(super) fn open(&self) -> io::Result<()> {
        match fs::remove_file(&self.gate) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    /// How often it was started, or tried to be.
    pub(super) fn starts(&self) -> usize {
        fs::read_to_string(&self.starts).map_or(0, |text| text.lines().count())
    }
}

pub(super) async fn take(plan: &Plan, scratch: &Scratch, store: &Path) -> Result<Vec<Figure>, Failure> {
    let (site, store, runs) = (Site::new(scratch), store.to_owned(), plan.runs.min(ROUNDS));
    blocking("a server that was away", move || {
        let mut talk = Talk::start(proxied(&store, "bench/restarts", &site.arguments())?)?;
        let (mut killed, mut away) = (Vec::new(), Vec::new());
        for _ in 0..runs {
            killed.push(after(&mut talk, &site, None)?);
            away.push(after(&mut talk, &site, Some(AWAY))?);
        }
        Ok(vec![
            Figure::new("MCP proxy: a server is killed and may be started at once: next call answered", "ms", killed)
                .at_most(NEXT_CALL_MS),
            Figure::new("MCP proxy: a server was away for 1 s: next call answered after it accepts again", "ms", away)
                .at_most(NEXT_CALL_MS)
                .note("the time is that of the call, with the start of the server's process and its handshake in it"),
        ])
    })
    .await
}

/// Kills the server, leaves it away, and calls as soon as it may come again: how long that call took, in milliseconds.
fn after(talk: &mut Talk, site: &Site, away: Option<Duration>) -> io::Result<f64> {
    talk.one(Call::Read)?;
    std::thread::park_timeout(BETWEEN);
    if away.is_some() {
        site.shut()?;
    }
    if !site.kill() {
        return Err(io::Error::other("there is no server to kill"));
    }
    if let Some(away) = away {
        std::thread::park_timeout(away);
        site.open()?;
    }
    let since = Instant::now();
    talk.one(Call::Read)?;
    Ok(since.elapsed().as_secs_f64() * 1e3)
}
