//! What the proxy before a tool server costs, with the processes that a user has: this program as the shim that a client
//! starts, a daemon, and a tool server behind it. Beside it the same client talks to the same server without the proxy.

mod flapping;
mod large;
mod latency;
mod restarts;
mod synced;
mod talk;
mod throughput;

use std::{io, path::Path, process::Command};

use self::talk::Talk;
use super::{
    Figure, Plan, Scratch,
    daemon::Daemon,
    scratch::{broke_off, system},
};
use crate::failure::Failure;

pub(super) async fn take(plan: &Plan, scratch: &Scratch) -> Result<Vec<Figure>, Failure> {
    let store = scratch.path("mcp");
    let daemon = Daemon::start(&store).await?;
    let mut figures = latency::take(plan, scratch, &store).await?;
    figures.extend(throughput::take(plan, scratch, &store).await?);
    figures.extend(restarts::take(plan, scratch, &store).await?);
    daemon.kill().await?;
    // What these are about is one daemon's RAM and processes: each has its own.
    figures.extend(large::take(plan, scratch).await?);
    figures.extend(flapping::take(plan, scratch).await?);
    Ok(figures)
}

/// The tool server, with these arguments.
fn server(arguments: &[String]) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("chaos-tools").args(arguments);
    Ok(command)
}

/// The same behind the proxy, in a session of this name.
fn proxied(store: &Path, session: &str, arguments: &[String]) -> io::Result<Command> {
    let program = std::env::current_exe()?;
    let mut command = Command::new(&program);
    command.args(["mcp", "proxy", "--name", "tools", "--session", session, "--store"]).arg(store);
    command.arg("--").arg(program).arg("chaos-tools").args(arguments);
    Ok(command)
}

/// Both: without the proxy and with it.
fn both(store: &Path, session: &str) -> io::Result<(Talk, Talk)> {
    Ok((Talk::start(server(&[])?)?, Talk::start(proxied(store, session, &[])?)?))
}

/// Carries out what blocks.
async fn blocking<T: Send + 'static>(
    what: &'static str,
    act: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(act).await.map_err(broke_off)?.map_err(system(what))
}
