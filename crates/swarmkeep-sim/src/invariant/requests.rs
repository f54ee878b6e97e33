//! Requests are remembered: what was answered is answered again and not carried out, after restarts, rewinds and in forks.

use swarmkeep::Reply;
use swarmkeep_core::command::Outcome;

/// The answer to a request that had been answered.
///
/// # Errors
/// When it was carried out, or is answered otherwise.
pub fn again(said: &[Outcome], reply: &Reply) -> Result<u64, String> {
    if !reply.repeated {
        return Err(format!("REPEATED: what was answered {said:?} was carried out again: {reply:?}"));
    }
    match reply.outcomes == said {
        true => Ok(1),
        false => Err(format!("what was answered {said:?} is answered {:?} now", reply.outcomes)),
    }
}
