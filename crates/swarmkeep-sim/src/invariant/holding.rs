//! One writer: an append under an older grant is refused, whatever else is right about it.

use std::task::{Context, Poll, Waker};

use swarmkeep::embedded::EmbeddedLog;
use swarmkeep_core::{
    Actor, Epoch, State,
    command::Command,
    json::Json,
    log::{Durability, Log, LogError},
    session::{Circumstances, Request, Session, Staged},
};

/// Appends a group that fits the session as it stands, under an epoch that is over.
///
/// # Errors
/// When it is not refused at once.
pub fn refuses(log: &EmbeddedLog, state: State, epoch: Epoch, now_ms: u64) -> Result<u64, String> {
    let command = Command::Record { kind: "stale".into(), aggregate: None, payload: Json::null(), blobs: [].into() };
    let request = Request::new(Actor::system(), vec![command]);
    let circumstances = Circumstances { epoch, now_ms, salts: &mut || [9; 16] };
    // A session that is paused or over takes nothing, whoever asks.
    let Ok(Staged::Group(group)) = Session::new(state).stage(request, circumstances) else { return Ok(0) };
    let mut append = log.append(group.log, Durability::Durable);
    match append.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Err(LogError::Fenced(_))) => Ok(1),
        other => Err(format!("a group of epoch {epoch} under incarnation {}: {other:?}", log.incarnation())),
    }
}
