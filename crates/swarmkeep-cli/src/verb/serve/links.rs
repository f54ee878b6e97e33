//! The links of MCP clients, for as long as the daemon serves.

use std::{fs::File, pin::pin, time::Duration};

use swarmkeep::Swarmkeep;
use swarmkeep_mcp::daemon::{Daemon, Threads};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use super::bind;
use crate::context::Context;

/// Servers that do not end, and calls that are still written down, are not waited for longer than this after that.
const STOP_TIME: Duration = Duration::from_secs(15);

/// See the module.
pub(super) struct Links {
    running: Option<(watch::Sender<Option<Instant>>, JoinHandle<Threads>)>,
    /// Held open where the socket's path goes through it.
    _folder: Option<File>,
}

/// This program, as what starts a server: `mcp child`. Where a process cannot be told of its parent's end there is none.
fn starter() -> Option<Vec<String>> {
    let program = std::env::current_exe().ok()?.into_os_string().into_string().ok()?;
    cfg!(target_os = "linux").then(|| vec![program, "mcp".to_owned(), "child".to_owned()])
}

impl Links {
    /// A daemon that cannot take MCP clients serves everybody else all the same.
    pub(super) fn start(context: &Context, keep: &Swarmkeep) -> Self {
        let none = Self { running: None, _folder: None };
        let (path, folder) = match bind::socket_path(context, &context.place.mcp_socket()) {
            Ok(path) => path,
            Err(failure) => {
                tracing::warn!(why = %failure.what, "MCP clients are not answered");
                return none;
            }
        };
        let (stop, stopped) = watch::channel(None);
        match Daemon::bind(keep.clone(), &path, starter(), stopped) {
            Ok(daemon) => Self { running: Some((stop, tokio::spawn(daemon.run()))), _folder: folder },
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "MCP clients are not answered");
                none
            }
        }
    }

    /// Ends every link; the store is still open for what they have to write down. Calls that are under way are waited for, up to
    /// `wait`, unless `hurry` says that nobody has the time. Gives the threads that they ran on.
    pub(super) async fn stop(self, wait: Duration, hurry: impl Future<Output = ()>) -> Option<Threads> {
        let (stop, mut running) = self.running?;
        let mut until = Instant::now() + wait;
        stop.send_replace(Some(until));
        let mut hurry = pin!(hurry);
        let mut is_hurried = false;
        loop {
            tokio::select! {
                threads = &mut running => return threads.ok(),
                () = &mut hurry, if !is_hurried => {
                    (until, is_hurried) = (Instant::now(), true);
                    stop.send_replace(Some(until));
                }
                () = sleep_until(until + STOP_TIME) => {
                    tracing::warn!("links of MCP clients did not end in time; what they had under way is in doubt");
                    return None;
                }
            }
        }
    }
}
