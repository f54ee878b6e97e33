//! This program as a daemon, for what is measured from outside.

use std::{net::SocketAddr, path::Path, process::Stdio};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use super::scratch::system;
use crate::{failure::Failure, verb::field};

/// A daemon over a scratch store; killed when dropped.
pub(super) struct Daemon {
    pub(super) address: SocketAddr,
    child: Child,
}

impl Daemon {
    pub(super) async fn start(store: &Path) -> Result<Self, Failure> {
        let program = std::env::current_exe().map_err(system("this program"))?;
        let mut child = Command::new(program)
            .args(["serve", "--json", "--listen", "127.0.0.1:0", "--while-input", "--set", "log=warn", "--store"])
            .arg(store)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(system("the daemon"))?;
        let gone = || {
            Failure::unavailable(
                "the daemon ended before it answered",
                "start one by hand: swarmkeep serve --store DIR",
            )
        };
        let output = child.stdout.take().ok_or_else(gone)?;
        let line = BufReader::new(output).lines().next_line().await.map_err(system("the daemon"))?.ok_or_else(gone)?;
        let said: Value = serde_json::from_str(&line).map_err(|_| gone())?;
        let url = field(&said, "addresses").get(0).and_then(Value::as_str).unwrap_or_default();
        let address = url.trim_start_matches("http://").parse().map_err(|_| gone())?;
        Ok(Self { address, child })
    }

    /// Its process; 0 when it is over.
    pub(super) fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    /// `kill -9`.
    pub(super) async fn kill(mut self) -> Result<(), Failure> {
        self.child.kill().await.map_err(system("kill"))
    }
}
