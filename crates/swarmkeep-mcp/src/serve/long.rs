//! Work that takes long, as MCP tasks (extension `io.modelcontextprotocol/tasks`): for clients that know them.
//!
//! A task is an entry in the memory of a session of its own, so it is as durable as anything else: written before the client
//! hears its id, and again with its result. One that was at work when the daemon died is begun again by whoever asks for it;
//! every tool that is done this way may be done twice. Entries go by their time-to-live.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use axum::http::{Method, header};
use rmcp::model::{CreateTaskResult, DetailedTask, Task, TaskPayload, TaskStatus};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    api::{Api, Ask, Problem, escaped, session_path},
    call,
    document::Object,
    drawn::drawn,
    tools,
};
use crate::utc::utc;

/// The session that keeps them, and the scope in its memory.
const SESSION: &str = "mcp/tasks";
const SCOPE: &str = "tasks";
/// How long a task is kept after it was last written.
const TTL_MS: u64 = 24 * 60 * 60 * 1000;
const POLL_MS: u64 = 500;
/// At work at once; more are refused.
const AT_WORK: usize = 64;

/// The tasks of one server.
#[derive(Clone)]
pub(super) struct Tasks {
    api: Api,
    /// Ids of those that this process works on.
    at_work: Arc<Mutex<HashSet<String>>>,
}

/// What is remembered of a task.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    tool: String,
    arguments: Object,
    status: Status,
    /// When it was made; absent until it is written a second time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created_at_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    result: Option<Object>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    Working,
    Completed,
    Cancelled,
}

/// An entry as it stands.
struct Kept {
    entry: Entry,
    version: u64,
    updated_at_ms: u64,
}

impl Tasks {
    pub(super) fn new(api: Api) -> Self {
        Self { api, at_work: Arc::default() }
    }

    /// Makes a task of a call, and begins it.
    pub(super) async fn begin(&self, tool: &str, arguments: Object) -> Result<CreateTaskResult, Problem> {
        let id = drawn()?;
        if !self.take(&id) {
            return Err(Problem::new("limit", format!("{AT_WORK} tasks are at work: wait for one of them")));
        }
        let entry =
            Entry { tool: tool.to_owned(), arguments, status: Status::Working, created_at_ms: None, result: None };
        let kept = async {
            let open = Ask { method: Method::POST, path: session_path(SESSION, "/open"), ..Ask::default() };
            self.api.json(open).await?;
            self.write(&id, &entry, 0).await
        };
        match kept.await {
            Ok(kept) => {
                let task = task(&id, &kept);
                self.work(id, kept);
                Ok(CreateTaskResult::new(task))
            }
            Err(problem) => {
                self.give_back(&id);
                Err(problem)
            }
        }
    }

    /// How a task stands. One that nobody works on is begun again.
    pub(super) async fn get(&self, id: &str) -> Result<DetailedTask, Problem> {
        let kept = self.read(id).await?;
        let told = task(id, &kept);
        let payload = match kept.entry.status {
            Status::Working => TaskPayload::Working,
            Status::Cancelled => TaskPayload::Cancelled,
            Status::Completed => TaskPayload::Completed { result: kept.entry.result.clone().unwrap_or_default() },
        };
        if kept.entry.status == Status::Working && self.take(id) {
            self.work(id.to_owned(), kept);
        }
        Ok(DetailedTask::new(told, payload))
    }

    /// Its result is not waited for any more. What has been begun in the engine comes to its end there.
    pub(super) async fn cancel(&self, id: &str) -> Result<(), Problem> {
        let kept = self.read(id).await?;
        if kept.entry.status != Status::Working {
            return Ok(());
        }
        let entry = Entry {
            status: Status::Cancelled,
            created_at_ms: Some(kept.entry.created_at_ms.unwrap_or(kept.updated_at_ms)),
            ..kept.entry
        };
        match self.write(id, &entry, kept.version).await {
            // It came to its end a moment before.
            Err(problem) if problem.code == "precondition_failed" => Ok(()),
            done => done.map(drop),
        }
    }

    fn work(&self, id: String, kept: Kept) {
        let tasks = self.clone();
        tokio::spawn(async move {
            let created_at_ms = Some(kept.entry.created_at_ms.unwrap_or(kept.updated_at_ms));
            let result = match tools::named(&kept.entry.tool) {
                Some(tool) => call::call(&tasks.api, tool, kept.entry.arguments.clone()).await,
                None => call::failed(&Problem::invalid(format!("there is no tool `{}`", kept.entry.tool))),
            };
            let result = serde_json::to_value(result).ok().and_then(|result| match result {
                Value::Object(result) => Some(result),
                _ => None,
            });
            let entry = Entry { status: Status::Completed, created_at_ms, result, ..kept.entry };
            match tasks.write(&id, &entry, kept.version).await {
                Ok(_) => {}
                // It was cancelled meanwhile.
                Err(problem) if problem.code == "precondition_failed" => {}
                Err(problem) => {
                    tracing::warn!(%id, code = problem.code, detail = problem.detail, "the result of a task was not kept");
                    let told = serde_json::to_value(call::failed(&problem)).ok();
                    let result = told.and_then(|told| told.as_object().cloned());
                    if let Err(problem) = tasks.write(&id, &Entry { result, ..entry }, kept.version).await {
                        tracing::warn!(%id, code = problem.code, "nor was that kept: it is begun again when it is asked for");
                    }
                }
            }
            tasks.give_back(&id);
        });
    }

    fn take(&self, id: &str) -> bool {
        let mut at_work = self.at_work.lock().unwrap_or_else(PoisonError::into_inner);
        at_work.len() < AT_WORK && at_work.insert(id.to_owned())
    }

    fn give_back(&self, id: &str) {
        self.at_work.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    async fn read(&self, id: &str) -> Result<Kept, Problem> {
        let entry = self.api.json(Ask::get(place(id))).await.map_err(|problem| match problem.code.as_str() {
            "not_found" | "invalid" => Problem::new("not_found", format!("there is no task `{id}`, or not any more")),
            _ => problem,
        })?;
        let number = |name: &str| entry.get(name).and_then(Value::as_u64).unwrap_or_default();
        let value = entry.get("value").cloned().unwrap_or_default();
        let kept = serde_json::from_value(value)
            .map_err(|error| Problem::new("internal", format!("task `{id}` cannot be read: {error}")))?;
        Ok(Kept { entry: kept, version: number("version"), updated_at_ms: number("updated_at_ms") })
    }

    /// Writes an entry whose version is the one given; 0: there is none.
    async fn write(&self, id: &str, entry: &Entry, version: u64) -> Result<Kept, Problem> {
        let body = serde_json::to_vec(entry).map_err(|error| Problem::new("internal", error.to_string()))?;
        let ask = Ask {
            method: Method::PUT,
            path: format!("{}?ttl_ms={TTL_MS}", place(id)),
            headers: vec![(header::IF_MATCH, format!("\"{version}\""))],
            body: Some(body),
        };
        let reply = self.api.json(ask).await?;
        let number = |at: &str| reply.pointer(at).and_then(Value::as_u64).unwrap_or_default();
        Ok(Kept {
            entry: entry.clone(),
            version: number("/outcomes/0/version/version"),
            updated_at_ms: number("/head/time_ms"),
        })
    }
}

fn place(id: &str) -> String {
    session_path(SESSION, &format!("/memory/{SCOPE}/{}", escaped(id)))
}

fn task(id: &str, kept: &Kept) -> Task {
    let status = match kept.entry.status {
        Status::Working => TaskStatus::Working,
        Status::Completed => TaskStatus::Completed,
        Status::Cancelled => TaskStatus::Cancelled,
    };
    let created = utc(kept.entry.created_at_ms.unwrap_or(kept.updated_at_ms));
    Task::new(id, status, created, utc(kept.updated_at_ms))
        .with_status_message(format!("{}: {}", kept.entry.tool, format!("{status:?}").to_lowercase()))
        .with_ttl_ms(TTL_MS)
        .with_poll_interval_ms(POLL_MS)
}
