//! Calls that wait in the queue, as tasks: for clients that know them (extension `io.modelcontextprotocol/tasks`).
//!
//! A client would wait for such a call for minutes. One that knows tasks is told the id of one instead, and asks for it: the
//! call stands where it stood, and what it comes to is the task's. A task is an entry in the memory of the session, durable
//! before its id is told, for 24 hours; when the daemon was killed the next one takes up what its client has not cancelled, and
//! the session's log says what was sent of it. What it comes to, and that it was cancelled, is told when it is durable. Its
//! server's own tasks are the server's: they pass through.

mod entry;

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use swarmkeep::{Error, State};
use tokio::time::sleep;

use self::entry::{KEPT_BYTES, Status, id_of, knows_tasks, removal};
pub(super) use self::entry::{Task, asked_for, tasks_in};
use super::{Done, Place, Upstream};
use crate::{
    calls::{Before, CODE_FULL, CallId, Standing},
    envelope::{Envelope, compose},
    link::{self, Gate},
};

/// Answers that were too long for that: so much of them is held, the last ones.
const HELD_BYTES: usize = 64 << 20;
/// Before what could not be written is written again.
const AGAIN: Duration = Duration::from_secs(1);
/// How often a client should ask.
const POLL_MS: u64 = 500;
const POLL_MOST_MS: u64 = 5_000;
/// A request that names no task, or one that is not there.
const CODE_INVALID: i64 = -32602;
const CODE_INTERNAL: i64 = -32603;
/// What `tasks/cancel` is answered.
const CANCELLED: &str = r#"{"resultType":"complete"}"#;

fn no_input(id: &str) -> String {
    format!("task `{id}` waits for no input")
}

impl Upstream {
    /// Nobody can be reached: calls that wait in the queue become tasks, where their clients know them.
    pub(super) fn make_tasks(&mut self) {
        let is_made = |call: CallId| self.tasks.values().any(|task| task.call == Some(call));
        let waits = |standing: Standing| matches!(standing, Standing::Accepted | Standing::Ready);
        let now_ms = self.now_ms();
        let made: Vec<(CallId, u64, u64, String)> = self
            .calls
            .open()
            .filter(|(call, message, _, standing)| {
                waits(*standing)
                    && self.calls.is_queued(*call)
                    && message.bytes().len() <= KEPT_BYTES
                    // Of a batch each part is answered with it.
                    && self.places.get(call).is_some_and(|place| {
                        place.task.is_none() && !place.is_answered && !self.batches.contains_key(&place.number)
                    })
                    && !is_made(*call)
                    && knows_tasks(message)
            })
            .filter_map(|(call, message, ..)| {
                let line = String::from_utf8_lossy(message.bytes()).into_owned();
                let left_ms = self.calls.queue_left_ms(call, now_ms).unwrap_or_default();
                Some((call, self.places.get(&call)?.number, left_ms, line))
            })
            .collect();
        for (call, number, left_ms, line) in made {
            let id = id_of(&self.terms.client, number);
            let said = format!("queued: `{}` cannot be reached", self.terms.upstream);
            let task = Task::new(self.terms.client.clone(), number, line, left_ms, said, call);
            self.tasks.insert(id.clone(), task);
            self.write_task(id);
        }
    }

    fn write_task(&mut self, id: String) {
        self.write_task_after(id, Duration::ZERO);
    }

    fn write_task_after(&mut self, id: String, pause: Duration) {
        let Some(task) = self.tasks.get(&id) else { return };
        let Some(command) = task.entry(&id, self.terms.limits.call_most_ms) else { return };
        let record = self.tasks_record.clone();
        self.beside.spawn(async move {
            sleep(pause).await;
            Done::Task(id, record.write_at(command).await)
        });
    }

    /// A task is written down: its client may hear of it.
    pub(super) fn task_written(&mut self, id: &str, written: Result<u64, Error>) {
        let Some(task) = self.tasks.get_mut(id) else { return };
        let cancelling = std::mem::take(&mut task.cancelling);
        match &written {
            Ok(at_ms) => {
                task.is_unwritten = false;
                task.created_at_ms.get_or_insert(*at_ms);
                task.updated_at_ms = *at_ms;
            }
            Err(error) => {
                tracing::warn!(upstream = %self.terms.upstream, %error, "a task could not be written down");
            }
        }
        let was_told = task.is_told;
        task.is_told |= written.is_ok();
        for (number, request) in cancelling {
            let line = match &written {
                Ok(_) => compose::result(&request, CANCELLED),
                Err(error) => {
                    let text = format!("that it is cancelled could not be written down yet: {error}");
                    compose::error(&request, CODE_INTERNAL, &text, None)
                }
            };
            self.give(Some(number), line);
        }
        match written {
            Ok(_) if was_told => return self.hold_less(id),
            Ok(_) => {}
            // What it came to is told when it is durable.
            Err(_) if was_told => return self.write_task_after(id.to_owned(), AGAIN),
            // Its call goes on waiting as calls do, until it is tried again.
            Err(_) => return drop(self.tasks.remove(id)),
        }
        let Some(task) = self.tasks.get(id) else { return };
        let Some((call, number)) = task.call.map(|call| (call, task.number)) else { return };
        let request = self.calls.get(call).and_then(|(message, _)| message.id()).map(str::to_owned);
        let place = self.places.get_mut(&call).filter(|place| !place.is_answered);
        match (request, place) {
            (Some(request), Some(place)) => {
                place.task = Some(id.to_owned());
                self.calls.detach(call);
                self.tell_task(&request, number, id);
            }
            // Its server came back, or its client cancelled it, in that moment: what it came to was the client's answer.
            _ => self.forget_task(id),
        }
    }

    /// What is over is read from the session when it is asked for. Answers too long for that stay here while there is room.
    fn hold_less(&mut self, id: &str) {
        let is_over = |task: &Task| task.status != Status::Working && !task.is_unwritten;
        let bytes = |task: &Task| task.body.as_ref().map_or(0, String::len);
        if self.tasks.get(id).is_some_and(|task| is_over(task) && bytes(task) <= KEPT_BYTES) {
            self.tasks.remove(id);
        }
        loop {
            let held = || self.tasks.iter().filter(|(_, task)| is_over(task));
            let oldest = held().min_by_key(|(_, task)| task.updated_at_ms).map(|(id, _)| id.clone());
            match oldest {
                Some(oldest) if held().map(|(_, task)| bytes(task)).sum::<usize>() > HELD_BYTES => {
                    self.tasks.remove(&oldest);
                }
                _ => return,
            }
        }
    }

    fn forget_task(&mut self, id: &str) {
        self.tasks.remove(id);
        let Some(command) = removal(id) else { return };
        let record = self.tasks_record.clone();
        self.beside.spawn(async move {
            if let Err(error) = record.write(command).await {
                tracing::debug!(%error, "a task that is none stays in the session's memory for a day");
            }
            Done::Written
        });
    }

    /// A call is answered with its task.
    fn tell_task(&mut self, request: &str, number: u64, id: &str) {
        let poll_ms = self.poll_ms();
        let Some(task) = self.tasks.get(id) else { return };
        let line = compose::result(request, &task.shown(id, "task", poll_ms));
        self.give(Some(number), line);
    }

    fn poll_ms(&self) -> u64 {
        match self.link.gate(self.now_ms()) {
            Gate::Offline { retry_after_ms } => retry_after_ms.clamp(POLL_MS, POLL_MOST_MS),
            _ => POLL_MS,
        }
    }

    /// This line of the client is a task already: it is told again. A line is offered again when nothing is known of it.
    pub(super) fn is_task(&mut self, number: u64, message: &Envelope) -> bool {
        if self.tasks.is_empty() {
            return false;
        }
        let id = id_of(&self.terms.client, number);
        if !self.tasks.get(&id).is_some_and(|task| task.number == number && task.is_told) {
            return false;
        }
        let request = message.id().unwrap_or("null").to_owned();
        self.tell_task(&request, number, &id);
        true
    }

    /// Tasks that an earlier daemon had are taken up: what was sent of their calls the log knows.
    pub(super) fn take_up_tasks(&mut self) {
        self.tasks = std::mem::take(&mut self.terms.remembered.tasks);
        let open = self.tasks.iter().filter(|(_, task)| task.status == Status::Working);
        let mut open: Vec<(u64, String)> = open.map(|(id, task)| (task.number, id.clone())).collect();
        // They wait in the order in which they came.
        open.sort();
        for (_, id) in open {
            let Some(task) = self.tasks.get(&id) else { continue };
            let Ok(message) = Envelope::parse(task.line.clone()) else { continue };
            let (number, left_ms) = (task.number, task.left_ms);
            let made_ms = task.created_at_ms.unwrap_or(task.updated_at_ms);
            self.handshake.saw(&message);
            let asked = self.class_of(&message);
            let key = asked.class.is_recorded().then(|| self.key(number, 0)).flatten();
            let for_ms = self.terms.limits.queue.for_ms;
            let before = Before {
                waited_ms: for_ms
                    .saturating_sub(left_ms)
                    .saturating_add(self.terms.began_at_ms.saturating_sub(made_ms)),
                may_be_sent: self.begun.as_ref().is_none_or(|begun| begun.contains(&number)),
            };
            let (now_ms, mut commands) = (self.now_ms(), Vec::new());
            let known = self.known_of(&message, true);
            let Some(call) = self.calls.request(now_ms, message, asked, known, before, &mut commands) else {
                self.end_task(&id, |task| {
                    let text = "too many calls wait for its server; nothing was carried out";
                    let data = json!({ "executed": "no", "retryable": true });
                    task.fails(text, json!({ "code": CODE_FULL, "message": text, "data": data }).to_string());
                });
                continue;
            };
            if let Some(task) = self.tasks.get_mut(&id) {
                task.call = Some(call);
            }
            self.calls.goes_by(call, key.clone());
            let place = Place { number, key, attempt: 1, begun_in: None, is_answered: false, task: Some(id) };
            self.places.insert(call, place);
            self.calls.detach(call);
            self.ledger(|_, all| all.append(&mut commands));
        }
    }

    /// The call of a task is answered.
    pub(super) fn task_answered(&mut self, id: &str, line: &Bytes) {
        let Ok(answer) = Envelope::parse(line.clone()) else { return };
        self.end_task(id, |task| task.ends_with(&answer));
    }

    /// The call of a task is over without an answer: it was cancelled, or its client is gone. The daemon's end is not the
    /// task's, nor that of a client that comes back.
    pub(super) fn task_dropped(&mut self, id: &str) {
        let comes_back = self.daemon_ends() || (self.terms.is_lasting && self.draining_until_ms.is_none());
        if self.is_ending && comes_back {
            return;
        }
        self.end_task(id, |task| {
            task.status = Status::Cancelled;
            "cancelled: `swarmkeep mcp calls` says whether it was sent".clone_into(&mut task.said);
        });
    }

    fn end_task(&mut self, id: &str, end: impl FnOnce(&mut Task)) {
        let Some(task) = self.tasks.get_mut(id) else { return };
        task.call = None;
        if task.status == Status::Working {
            end(task);
            task.is_unwritten = true;
            self.write_task(id.to_owned());
        }
    }

    /// A request about a task of ours.
    pub(super) fn task_asked(&mut self, number: u64, message: &Envelope, id: &str) {
        let request = message.id().unwrap_or("null").to_owned();
        // Who asks how far it is wants its server.
        self.link(link::Event::Wanted);
        let poll_ms = self.poll_ms();
        let line = match (self.tasks.get(id).filter(|task| task.is_told), message.method()) {
            (None, _) => return self.look_for_task(number, message, id.to_owned()),
            (Some(task), Some("tasks/get")) => match self.task_stands(task) {
                Some(said) => {
                    let task = Task { status: Status::Working, said, body: None, ..task.clone() };
                    compose::result(&request, &task.shown(id, "complete", poll_ms))
                }
                None => compose::result(&request, &task.shown(id, "complete", poll_ms)),
            },
            (Some(task), Some("tasks/cancel")) => {
                if let Some(call) = task.call {
                    self.cancel_task(id, call);
                }
                if let Some(task) = self.tasks.get_mut(id).filter(|task| task.is_unwritten) {
                    return task.cancelling.push((number, request));
                }
                compose::result(&request, CANCELLED)
            }
            _ => compose::error(&request, CODE_INVALID, &no_input(id), None),
        };
        self.give(Some(number), line);
    }

    /// It may be over, or another client process's of this session.
    fn look_for_task(&mut self, number: u64, message: &Envelope, id: String) {
        let request = message.id().unwrap_or("null").to_owned();
        let (cancels, updates) = (message.method() == Some("tasks/cancel"), message.method() == Some("tasks/update"));
        let session = self.tasks_record.session().clone();
        self.looked_for += 1;
        self.beside.spawn(async move {
            let read = |state: State| Task::of(&state, &id);
            let line = match session.state().await.map(read) {
                Err(error) => {
                    compose::error(&request, CODE_INTERNAL, &format!("the task cannot be read: {error}"), None)
                }
                Ok(None) => {
                    compose::error(&request, CODE_INVALID, &format!("there is no task `{id}`, or not any more"), None)
                }
                Ok(Some(_)) if updates => compose::error(&request, CODE_INVALID, &no_input(&id), None),
                Ok(Some(task)) if cancels && task.status == Status::Working => {
                    let text = format!("task `{id}` is another client's: that one may cancel it");
                    compose::error(&request, CODE_INVALID, &text, None)
                }
                Ok(Some(_)) if cancels => compose::result(&request, CANCELLED),
                Ok(Some(mut task)) => {
                    if task.status == Status::Working {
                        "another client's: it goes on while that one is here".clone_into(&mut task.said);
                    }
                    compose::result(&request, &task.shown(&id, "complete", POLL_MOST_MS))
                }
            };
            Done::Found(number, line)
        });
    }

    fn task_stands(&self, task: &Task) -> Option<String> {
        if task.is_unwritten {
            return Some("over: that is being written down".to_owned());
        }
        let standing = self.calls.open().find(|(call, ..)| Some(*call) == task.call).map(|(.., standing)| standing)?;
        (standing == Standing::Sent).then(|| format!("sent to `{}`", self.terms.upstream))
    }

    /// What was not sent is not sent any more; a server that has it is told.
    fn cancel_task(&mut self, id: &str, call: CallId) {
        // The server hears its own id for it.
        let params = r#"{"requestId":0,"reason":"its task was cancelled"}"#;
        if let Ok(cancelled) = Envelope::parse(compose::notification("notifications/cancelled", params)) {
            self.ledger(|calls, commands| calls.cancel_call(call, &cancelled, commands));
        }
        self.task_dropped(id);
    }
}
