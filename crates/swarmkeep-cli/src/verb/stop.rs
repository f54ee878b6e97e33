//! `swarmkeep stop`: the end of the store's daemon, as clean as SIGTERM's, asked for through the control socket.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{mcp::links, number};
use crate::{
    client::{Call, Client, Endpoint},
    context::Context,
    failure::Failure,
    place::Place,
    say::say,
};

/// A daemon gives requests in flight a few seconds, and then its tables; one that takes longer than this is in trouble.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether the store is free.
const POLL: Duration = Duration::from_millis(10);

/// See the module.
#[derive(Debug, Args)]
pub(crate) struct Stop {}

impl Stop {
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Failure> {
        if let Some(endpoint) = &context.url {
            return Err(Failure::usage(
                format!("a daemon is not stopped over TCP ({endpoint})"),
                "on its machine: swarmkeep stop --store DIR",
            ));
        }
        context.place.must_be_a_store()?;
        let clients = links::clients(&context.place).await;
        let stopped = stop(&context.place).await?;
        let answer =
            json!({ "store": context.place.dir, "stopped": stopped.is_some(), "pid": stopped, "mcp_clients": clients });
        context.answer(&answer, |_| match stopped {
            Some(pid) if clients > 0 => say!(
                "process {pid} has parked and ended; {clients} MCP {} still there, and {} the next daemon: end {} to keep the store free",
                if clients == 1 { "client is" } else { "clients are" },
                if clients == 1 { "starts" } else { "start" },
                if clients == 1 { "it" } else { "them" },
            ),
            Some(pid) => say!("process {pid} has parked and ended; the store is free"),
            None => say!("no daemon runs for {}", context.place.dir.display()),
        })
    }
}

/// Stops the daemon of a store and waits until nobody holds the store. The daemon's process; `None`: there was none.
pub(super) async fn stop(place: &Place) -> Result<Option<u64>, Failure> {
    let mut client = Client::new(Endpoint::Socket(place.socket()));
    if client.connect().await.is_err() {
        return match holder(place)? {
            None => Ok(None),
            Some(pid) => Err(Failure::unavailable(
                format!("process {pid} holds {} and does not answer", place.dir.display()),
                format!(
                    "it may be starting or ending: try again in a moment, or look at it: ps -p {pid}; where it cannot be ended: \
                     {} take-over",
                    place.program()
                ),
            )),
        };
    }
    let asked = client
        .call(&Call::post("/v1/stop", &json!({})))
        .await
        .map_err(|error| Failure::unavailable(error.to_string(), "was it ending already? the same call again tells"))?;
    let answer: Value = asked.ok()?.json()?;
    drop(client);
    let pid = number(&answer, "pid");
    let deadline = Instant::now() + PATIENCE;
    // Another daemon may have the store as soon as this one gave it back: then this one has ended just the same.
    while holder(place)?.is_some_and(|holder| u64::from(holder) == pid) {
        if Instant::now() >= deadline {
            return Err(Failure::unavailable(
                format!("process {pid} was told to stop and still holds the store after {} s", PATIENCE.as_secs()),
                format!("daemon.log says what it does; kill {pid} asks a second time, and loses nothing acknowledged"),
            ));
        }
        sleep(POLL).await;
    }
    Ok(Some(pid))
}

/// The process that holds the store, by its own word; 0 where it does not say.
pub(super) fn holder(place: &Place) -> Result<Option<u32>, Failure> {
    match swarmkeep::lock::holder(&place.dir) {
        Ok(holder) => Ok(holder.map(|holder| holder.pid)),
        Err(error) => Err(Failure::unavailable(
            format!("{}: {error}", place.dir.join("lock").display()),
            "`swarmkeep doctor` looks at the folder",
        )),
    }
}
