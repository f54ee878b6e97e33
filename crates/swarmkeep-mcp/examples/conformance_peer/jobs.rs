//! Work that takes long, as tasks (extension `io.modelcontextprotocol/tasks`), for clients that know them.

use std::time::Duration;

use rmcp::{
    ErrorData,
    model::{CallToolResponse, CallToolResult, ClientCapabilities, ContentBlock, CreateTaskResult, JsonObject},
    task_manager::{TaskContext, TaskExit, TaskManager, TaskOptions},
};
use serde_json::Value;

use crate::question::Question;

/// How often a client should ask how far a task is.
const POLL_MS: u64 = 200;

/// Longest work that is taken.
const LONGEST_S: u64 = 300;

/// How long work takes that fails.
const UNTIL_FAILURE: Duration = Duration::from_secs(1);

/// What a task does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Job {
    /// Takes as many seconds as it is told.
    Computes,
    /// Comes to a result that says an error.
    Fails,
    /// Comes to no result, but an error of the protocol.
    Breaks,
    /// Asks before it goes on.
    Confirms,
    /// Asks two things at the same time.
    AsksTwice,
    /// Says the name it was told.
    Greets,
}

const CONFIRM: Question = Question::Form { message: "Shall it be deleted?", field: "confirm", of_type: "boolean" };
const NAME: Question = Question::Form { message: "What is your name?", field: "name", of_type: "string" };

impl Job {
    /// Begins it as a task. A client that knows no tasks waits for what may be waited for, and else is refused.
    pub(crate) async fn begin(
        self,
        tasks: &TaskManager,
        arguments: JsonObject,
        capabilities: &ClientCapabilities,
    ) -> Result<CallToolResponse, ErrorData> {
        if capabilities.supports_tasks() {
            let options = TaskOptions::new().with_poll_interval_ms(POLL_MS);
            let task = tasks.spawn(options, |task| Box::pin(async move { self.run(&arguments, &task).await }));
            return Ok(CreateTaskResult::new(task).into());
        }
        match self {
            Self::Computes => {
                tokio::time::sleep(seconds(&arguments)).await;
                Ok(computed(&arguments).into())
            }
            _ => {
                let needed = ClientCapabilities::builder().enable_tasks().build();
                Err(ErrorData::missing_required_client_capability(needed))
            }
        }
    }

    async fn run(self, arguments: &JsonObject, task: &TaskContext) -> Result<CallToolResult, TaskExit> {
        match self {
            Self::Computes => {
                pause(task, seconds(arguments)).await?;
                Ok(computed(arguments))
            }
            Self::Fails => {
                pause(task, UNTIL_FAILURE).await?;
                Ok(CallToolResult::error(vec![ContentBlock::text("This job always fails.")]))
            }
            Self::Breaks => {
                pause(task, UNTIL_FAILURE).await?;
                Err(ErrorData::internal_error("this job always breaks", None).into())
            }
            Self::Confirms => {
                let may = ask(task, "confirm", CONFIRM).await?;
                Ok(said(&format!("deleted `{}`: {may}", word(arguments, "filename"))))
            }
            Self::AsksTwice => {
                let (name, may) = tokio::try_join!(ask(task, "name", NAME), ask(task, "confirm", CONFIRM))?;
                Ok(said(&format!("{name} said {may}")))
            }
            Self::Greets => Ok(said(&format!("Hello, {}!", word(arguments, "name")))),
        }
    }
}

async fn ask(task: &TaskContext, key: &str, question: Question) -> Result<String, TaskExit> {
    let answer = task.request_input(key, question.request()?).await?;
    Ok(question.said(&answer).unwrap_or_else(|| "nothing".to_owned()))
}

async fn pause(task: &TaskContext, long: Duration) -> Result<(), TaskExit> {
    tokio::select! {
        () = tokio::time::sleep(long) => Ok(()),
        () = task.cancelled() => Err(TaskExit::Cancelled),
    }
}

fn seconds(arguments: &JsonObject) -> Duration {
    Duration::from_secs(arguments.get("seconds").and_then(Value::as_u64).unwrap_or(0).min(LONGEST_S))
}

fn computed(arguments: &JsonObject) -> CallToolResult {
    said(&format!("computed `{}` in {} s", word(arguments, "label"), seconds(arguments).as_secs()))
}

fn word<'a>(arguments: &'a JsonObject, name: &str) -> &'a str {
    arguments.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn said(words: &str) -> CallToolResult {
    CallToolResult::success(vec![ContentBlock::text(words)])
}
