//! `swarmkeep take-over`: takes a store away from a holder that does not answer and cannot be ended. Never done by itself.

use std::time::Duration;

use clap::Args;
use serde_json::json;
use swarmkeep::lock::{self, LockError};

use super::stop;
use crate::{
    client::{Call, Client, Endpoint},
    context::Context,
    failure::Failure,
    moment,
    place::Place,
    say::say,
};

/// A daemon that answers within this is asked to stop, not taken over from.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug, Args)]
pub(crate) struct TakeOver {
    /// Say who holds the store and what would be done; touch nothing
    #[arg(long)]
    dry_run: bool,
}

impl TakeOver {
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Failure> {
        if let Some(endpoint) = &context.url {
            return Err(Failure::usage(
                format!("a store is not taken over over TCP ({endpoint})"),
                "on its machine: swarmkeep take-over --store DIR",
            ));
        }
        let place = &context.place;
        place.must_be_a_store()?;
        let Some(pid) = stop::holder(place)? else { return Err(nobody(place)) };
        if answers(place).await {
            return Err(Failure::refused(
                "answers",
                format!("process {pid} holds {} and answers", place.dir.display()),
                format!("end it, which loses nothing: {} stop", place.program()),
            ));
        }
        let since = moment::utc(place.lock_hint().and_then(|hint| hint.started_at_ms).unwrap_or(0));
        if self.dry_run {
            let answer = json!({ "dry_run": true, "store": place.dir, "held_by": pid, "since": since });
            return context.answer(&answer, |_| {
                say!("process {pid} holds {} since {since} and does not answer", place.dir.display());
                say!("would shut it out for good, and go on with a copy of what it acknowledged");
                say!("`kill -9 {pid}`, where that can be done, does without: the next start finds everything");
            });
        }
        let dir = place.dir.clone();
        let taken = tokio::task::spawn_blocking(move || lock::take_over(&dir, moment::now_ms())).await;
        let taken = taken.map_err(|error| Failure::unavailable(format!("it was broken off: {error}"), AGAIN))?;
        let lock = taken.map_err(|error| refused(place, &error))?;
        // Nobody answers there any more. Whoever looks for a daemon must not wait for this one.
        if let Err(error) = std::fs::remove_file(place.socket())
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "the socket of the old holder is still there");
        }
        let term = lock.untold().map_or(0, |taken_over| taken_over.term);
        let answer = json!({
            "store": place.dir, "taken_over": lock.untold(), "files": lock.home(),
            "copied": lock.home().ends_with(format!("term-{term}")),
        });
        context.answer(&answer, |_| {
            say!("process {pid} is shut out: it acknowledges nothing any more, and ends by itself when it goes on");
            say!("what it had acknowledged is in {}; the store is free", lock.home().display());
            say!("go on: {} serve (or any other verb)", place.program());
        })
    }
}

const AGAIN: &str = "the next start goes on with it; or the same call again";

/// Whether a daemon answers through the control socket. One that is stopped takes connections and says nothing.
async fn answers(place: &Place) -> bool {
    let mut client = Client::new(Endpoint::Socket(place.socket()));
    let asked = async { client.connect().await.is_ok() && client.call(&Call::get("/health/live")).await.is_ok() };
    tokio::time::timeout(ANSWERS_WITHIN, asked).await.unwrap_or(false)
}

fn nobody(place: &Place) -> Failure {
    Failure::refused(
        "not_held",
        format!("nobody holds {}", place.dir.display()),
        format!("there is nobody to take it from: {} serve, or any other verb, opens it", place.program()),
    )
}

fn refused(place: &Place, error: &LockError) -> Failure {
    match error {
        LockError::Free { .. } => nobody(place),
        LockError::Overtaken { .. } => Failure::refused("overtaken", error.to_string(), "use the store as always"),
        LockError::Io { .. } => Failure::unavailable(
            format!("{error}; its holder is shut out"),
            "free room, or end that process where that can be done; then any verb that opens the store goes on with it",
        ),
        _ => Failure::unavailable(error.to_string(), "`swarmkeep doctor` looks at the folder"),
    }
}
