//! Sessions that are damaged: what would be done about them, what was, and a person's word where that is waited for.

use serde::{Deserialize, Serialize};
use swarmkeep::{Actor, SessionId, SessionRecovery, core::recovery::Plan};

use crate::{
    api::{Api, Content, Op},
    app::id_in,
    problem::Problem,
    wire::{Answer, Call, json},
};

pub(crate) fn routes(api: Api) -> Api {
    api.get(
        "/v1/quarantine",
        quarantine,
        Op::read(
            "listQuarantine",
            "Sessions that wait for a person's decision, each with what was tried and what would be lost",
            Content::Json("Quarantine"),
        )
        .query(&[("all", "boolean", "Those that were recovered as well")]),
    )
    .get(
        "/v1/sessions/{namespace}/{name}/recovery",
        show,
        Op::read(
            "showRecovery",
            "The newest recovery of a session, and what would be done about it now; reads all of it",
            Content::Json("Recovery"),
        ),
    )
    .post(
        "/v1/sessions/{namespace}/{name}/recovery",
        recover,
        Op::read(
            "recoverSession",
            "Recover a session again from whatever copies there are now; with `accept_loss`, go on without what cannot be had",
            Content::Json("Recovery"),
        )
        .body("RecoverSession"),
    )
    .get(
        "/v1/plans",
        plans,
        Op::read(
            "listPlans",
            "What would be done about every session that is not well; reads the whole store, changes nothing",
            Content::Json("Plans"),
        ),
    )
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    #[serde(default)]
    all: bool,
}

#[derive(Debug, Serialize)]
struct Quarantine {
    sessions: Vec<SessionRecovery>,
}

async fn quarantine(call: Call) -> Answer {
    let Which { all } = call.query()?;
    let mut sessions = call.app.keep().session_recoveries();
    sessions.retain(|recovery| all || recovery.waits());
    json(&Quarantine { sessions }, None)
}

#[derive(Debug, Serialize)]
struct Recovery {
    recovery: Option<SessionRecovery>,
    plan: Option<Plan>,
}

/// The session that the path names, or whose id it has: that is all that is left of some.
async fn asked(call: &Call) -> Result<SessionId, Problem> {
    let name = call.session_name()?;
    // One that was given up is told of, though it is gone.
    let known = call.app.keep().session_recoveries();
    let is_known = |id: &SessionId| known.iter().any(|recovery| recovery.session == *id);
    match [Some(name.id()), id_in(&name)].into_iter().flatten().find(is_known) {
        Some(id) => Ok(id),
        // A typing error is no session without damage.
        None => Ok(call.app.session(&name.to_string()).await?.id()),
    }
}

async fn show(call: Call) -> Answer {
    let id = asked(&call).await?;
    let keep = call.app.keep();
    let plan = keep.plan_recovery(id, false).await?;
    let recovery = keep.session_recoveries().into_iter().find(|recovery| recovery.session == id);
    json(&Recovery { recovery, plan }, None)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Recover {
    #[serde(default)]
    accept_loss: bool,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    actor: Option<Actor>,
}

async fn recover(mut call: Call) -> Answer {
    let Recover { accept_loss, dry_run, actor } = call.json().await?;
    let id = asked(&call).await?;
    let keep = call.app.keep();
    if dry_run {
        let plan = keep.plan_recovery(id, accept_loss).await?;
        return json(&Recovery { recovery: None, plan }, None);
    }
    let recovery = match accept_loss {
        false => keep.recover_session(id).await?,
        true => keep.accept_loss(id, actor.as_ref().unwrap_or(call.unnamed())).await?,
    };
    json(&Recovery { recovery, plan: None }, None)
}

#[derive(Debug, Serialize)]
struct Plans {
    /// Sessions that were looked at.
    sessions: u64,
    plans: Vec<Plan>,
}

async fn plans(call: Call) -> Answer {
    let (sessions, plans) = call.app.keep().plan_recoveries().await?;
    json(&Plans { sessions, plans }, None)
}
