//! The links of MCP clients, for as long as the daemon serves.

use std::{fs::File, time::Duration};

use swarmkeep::Swarmkeep;
use swarmkeep_mcp::daemon::{Daemon, Threads};
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};

use super::bind;
use crate::context::Context;

/// Servers that do not end, and calls that are still written down, are not waited for longer.
const STOP_TIME: Duration = Duration::from_secs(15);

/// See the module.
pub(super) struct Links {
    running: Option<(oneshot::Sender<()>, JoinHandle<Threads>)>,
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
        match Daemon::bind(keep.clone(), &path, starter()) {
            Ok(daemon) => {
                let (stop, stopped) = oneshot::channel::<()>();
                let running = tokio::spawn(daemon.run(async { drop(stopped.await) }));
                Self { running: Some((stop, running)), _folder: folder }
            }
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "MCP clients are not answered");
                none
            }
        }
    }

    /// Ends every link; the store is still open for what they have to write down. Gives the threads that they ran on.
    pub(super) async fn stop(self) -> Option<Threads> {
        let (stop, running) = self.running?;
        drop(stop);
        match timeout(STOP_TIME, running).await {
            Ok(threads) => threads.ok(),
            Err(_) => {
                tracing::warn!("links of MCP clients did not end in time; what they had under way is in doubt");
                None
            }
        }
    }
}
