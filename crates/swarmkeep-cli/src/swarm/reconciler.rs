//! Settles doubts: looks into the outside world whether a thing was done.

use std::time::Duration;

use serde_json::json;
use tokio::{sync::watch, time::sleep};

use super::{
    folder::{Folder, SESSION},
    link::{Came, Link},
    outside,
};
use crate::{
    failure::Failure,
    verb::{entries, path, text},
};

const EVERY: Duration = Duration::from_millis(60);

/// Settles doubts until it is stopped; counts those it settled as done and as not done.
///
/// An effect is in doubt only once another process of the same agent has asked for it: the one that began it is dead, and
/// the file is final for its key.
pub(crate) async fn run(
    folder: Folder,
    mut link: Link,
    settled: watch::Sender<(u64, u64)>,
    stop: watch::Receiver<bool>,
) -> Result<(), Failure> {
    while !*stop.borrow() {
        sleep(EVERY).await;
        let doubts = link.get(path(SESSION, "/effects?status=outcome_unknown")).await?;
        for doubt in entries(&doubts, "effects") {
            let key = text(doubt, "id");
            let done = outside::count(&folder.outside())
                .map_err(|error| {
                    Failure::unavailable(
                        format!("cannot read {}: {error}", folder.outside().display()),
                        "is the disk all right?",
                    )
                })?
                .contains_key(key);
            let mut resolve = json!({ "effect": key, "by": "reconciler:outside (looked into outside.log)" });
            if done && let Some(fields) = resolve.as_object_mut() {
                fields.insert("outcome".into(), json!({ "ok": true, "value": { "by": "reconciler" } }));
            }
            if let Came::Done(_) = link.command(json!({ "resolve_effect": resolve })).await? {
                settled.send_modify(|(yes, no)| if done { *yes += 1 } else { *no += 1 });
            }
        }
    }
    Ok(())
}
