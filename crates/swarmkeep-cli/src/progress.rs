//! How far something is, for whoever waits for it at a terminal. For scripts nothing is drawn: not with `--json`, and not
//! where standard error is no terminal.

use std::{io::IsTerminal, path::Path, time::Duration};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;
use swarmkeep::Swarmkeep;

use crate::{
    client::{Call, Client, Endpoint},
    context::Context,
    moment::counted,
    table::printable,
    verb::{entries, field, number, text},
};

/// What takes no longer is not worth a line.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Whoever waits for a start sees it move, or waits no longer.
const STANDSTILL: u32 = 40;

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Point {
    /// What is being done.
    pub(crate) what: String,
    /// So many.
    pub(crate) done: u64,
    /// Of so many; 0: nobody knows.
    pub(crate) of: u64,
}

/// A line at the terminal, gone when this goes.
pub(crate) struct Line(ProgressBar);

impl Line {
    /// `None`: nobody is looking.
    pub(crate) fn new(context: &Context) -> Option<Self> {
        if context.json || !std::io::stderr().is_terminal() {
            return None;
        }
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(10));
        Some(Self(bar))
    }

    pub(crate) fn show(&self, point: &Point) {
        let template = match point.of {
            0 if point.done == 0 => "  {spinner} {msg}",
            0 => "  {spinner} {msg}: {pos}",
            _ => "  {bar:30} {pos} of {len} {msg}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.0.set_style(style.progress_chars("━╸─"));
        }
        self.0.set_length(point.of);
        self.0.set_position(point.done);
        self.0.set_message(printable(&point.what).to_string());
        self.0.tick();
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Does it; meanwhile what `look` says is shown, if anybody is looking.
pub(crate) async fn beside<T>(
    line: Option<Line>,
    work: impl Future<Output = T>,
    mut look: impl AsyncFnMut() -> Option<Point>,
) -> T {
    let Some(line) = line else { return work.await };
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = tokio::time::sleep(LOOK_EVERY) => {
                if let Some(point) = look().await {
                    line.show(&point);
                }
            }
        }
    }
}

/// How far the return of a store's sessions is; `None`: they are back.
fn returning(report: &Value) -> Option<Point> {
    let (done, of) = (number(report, "sessions_checked"), number(report, "sessions_live"));
    let is_back = report.is_null() || field(report, "all_checked_ms").is_u64();
    (!is_back).then(|| Point { what: "sessions back".into(), done: done.min(of.max(done)), of })
}

/// What a list says while the start has not looked at every session; `None`: it has.
pub(crate) fn still_looked_at(sessions: u64) -> Option<String> {
    let (are, they) = if sessions == 1 { ("is", "it is") } else { ("are", "they are") };
    let line = || {
        format!("{} {are} still being looked at: whether {they} damaged is not known yet", counted(sessions, "session"))
    };
    (sessions > 0).then(line)
}

/// Returns when every session is back, or the store ends.
pub(crate) async fn until_back(line: Option<Line>, keep: Swarmkeep) {
    let Some(line) = line else { return keep.wait_ready().await };
    loop {
        tokio::select! {
            biased;
            () = keep.wait_ready() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {
                let report = serde_json::to_value(keep.last_recovery()).unwrap_or_default();
                returning(&report).iter().for_each(|point| line.show(point));
            }
        }
    }
}

/// Returns when the daemon has every session back, or nothing moves any more; at once where nobody is looking.
pub(crate) async fn until_daemon_is_back(context: &mut Context) {
    let Some(line) = Line::new(context) else { return };
    let (mut last, mut still) = (None, 0);
    while still < STANDSTILL {
        let Ok(answer) = context.get_json("/v1/recoveries").await else { return };
        let reports = entries(&answer, "recoveries").iter();
        let start = reports.clone().find(|report| text(report, "id").starts_with("open-"));
        let Some(point) = start.and_then(returning) else { return };
        line.show(&point);
        still = if last.as_ref() == Some(&point) { still + 1 } else { 0 };
        last = Some(point);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The recovery that the daemon is carrying out at present, asked beside whoever waits for it.
pub(crate) async fn recovering(socket: &Path) -> Option<Point> {
    let mut client = Client::new(Endpoint::Socket(socket.to_owned()));
    let answer: Value = client.call(&Call::get("/v1/quarantine?all=true")).await.ok()?.json().ok()?;
    let recovery = entries(&answer, "sessions").iter().find(|recovery| text(recovery, "event") == "unfinished")?;
    let steps = entries(recovery, "steps");
    let attempt = steps.last().map_or(0, |step| number(step, "attempt"));
    let of_this = steps.iter().filter(|step| number(step, "attempt") == attempt);
    let step = steps.last().and_then(|step| {
        serde_json::from_value::<swarmkeep::core::recovery::Step>(step.clone()).ok().map(|step| step.to_string())
    });
    Some(Point {
        what: format!("steps: {}", step.unwrap_or_else(|| "looking".into())),
        done: of_this.filter(|step| !field(step, "done_at_ms").is_null()).count() as u64,
        of: entries(field(recovery, "plan"), "steps").len() as u64,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_start_is_told_until_every_session_is_back() {
        let point = |report| returning(&report).map(|point| (point.done, point.of));
        assert_eq!(point(json!({ "sessions_checked": 3, "sessions_live": 9 })), Some((3, 9)));
        assert_eq!(point(json!({ "sessions_checked": 3 })), Some((3, 0)), "not counted yet");
        assert_eq!(point(json!({ "sessions_checked": 9, "sessions_live": 9, "all_checked_ms": 5 })), None);
        assert_eq!(point(Value::Null), None, "a new store");
    }

    #[tokio::test]
    async fn where_nobody_looks_nothing_is_asked() {
        let done = beside(None, async { 7 }, async || panic!("nobody looks")).await;
        assert_eq!(done, 7);
    }
}
