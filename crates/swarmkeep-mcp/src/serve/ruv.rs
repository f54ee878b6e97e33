//! The tools of `ruv-swarm`, by their names, with their schemas and the shapes of their results: for clients that are written
//! for it.
//!
//! What they make is a session like any other: a swarm is a group, its settings the group's; agents are its members. Nothing is
//! made up: a task that is orchestrated waits for agents that do it, and what only a simulation could answer is not among the
//! tools ([`UNSUPPORTED`]).

mod read;
mod write;

use axum::http::{HeaderName, Method};
use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, ErrorCode, Implementation,
        ListToolsResult, PaginatedRequestParams, RequestId, ServerCapabilities, ServerConfig, Tool,
    },
    service::RequestContext,
};
use serde_json::{Value, json};

use super::{
    api::{Api, Ask, Problem, session_path},
    document::Object,
    drawn::drawn,
    surface::internal,
};

/// As the package lists them.
const TOOLS: &str = include_str!("ruv/tools.json");
/// What the package has and this does not, and why.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("swarm_monitor", "its figures are random numbers"),
    ("agent_metrics", "its figures are random numbers"),
    ("benchmark_run", "it measures the package's own modules"),
    ("features_detect", "it describes the package's own runtime"),
    ("neural_", "there are no neural networks here"),
    ("daa_", "there are no autonomous agents here: a session keeps what agents do"),
];

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The server of one session, as one client sees it.
#[derive(Clone)]
pub(super) struct Ruv {
    api: Api,
    session: String,
    /// Whose requests they are: with it a request that is sent again is known, for these tools have no key of their own.
    client: Option<String>,
}

/// What names one request: the same again is the same.
pub(super) struct Key(String);

impl Key {
    /// An id for what the request makes: the same for the same request.
    fn id(&self, kind: &str) -> String {
        let Some((client, number)) = self.0.split_once(':') else { return format!("{kind}-{}", self.0) };
        let tail = client.char_indices().rev().nth(11).map_or(client, |(at, _)| client.get(at..).unwrap_or(client));
        format!("{kind}-{tail}-{number}")
    }
}

/// A session as it stands; `null` for one that is not there yet.
pub(super) struct State(Value);

impl State {
    fn list(&self, name: &str) -> &[Value] {
        self.0.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    fn find(&self, name: &str, id: &str) -> Option<&Value> {
        self.list(name).iter().find(|one| text(one, "id") == id)
    }

    /// The swarm that is meant: the one named, else the first.
    fn swarm(&self, id: Option<&str>) -> Option<&Value> {
        match id {
            Some(id) => self.find("groups", id),
            None => self.list("groups").iter().min_by_key(|swarm| number(swarm, "created_at_ms")),
        }
    }

    /// The agents of a swarm that have not ended.
    fn agents(&self, swarm: &Value) -> Vec<&Value> {
        let members = swarm.get("members").and_then(Value::as_array).into_iter().flatten();
        members
            .filter_map(|member| self.find("agents", text(member, "agent_id")))
            .filter(|agent| text(agent, "status") != "terminated")
            .collect()
    }

    /// The tasks of a swarm, in the order in which they were made.
    fn tasks(&self, swarm: &Value) -> Vec<&Value> {
        let id = text(swarm, "id");
        let of = |task: &&Value| task.pointer("/payload/swarm_id").and_then(Value::as_str) == Some(id);
        let mut tasks: Vec<&Value> = self.list("tasks").iter().filter(of).collect();
        tasks.sort_by_key(|task| number(task, "created_seq"));
        tasks
    }

    /// When it was last written to.
    fn time_ms(&self) -> u64 {
        self.0.pointer("/head/time_ms").and_then(Value::as_u64).unwrap_or_default()
    }
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn number(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or_default()
}

/// Adds a field to what is shown.
fn put(shown: &mut Value, name: &str, value: Value) {
    if let Some(fields) = shown.as_object_mut() {
        fields.insert(name.to_owned(), value);
    }
}

impl Ruv {
    pub(super) fn new(api: Api, session: String, client: Option<String>) -> Self {
        Self { api, session, client }
    }

    async fn state(&self) -> Result<State, Problem> {
        match self.api.json(Ask::get(session_path(&self.session, "/state"))).await {
            Ok(state) => Ok(State(state)),
            Err(problem) if problem.code == "not_found" => Ok(State(Value::Null)),
            Err(problem) => Err(problem),
        }
    }

    /// Carries out commands as one group, once.
    async fn submit(&self, key: &Key, commands: Value) -> Result<Value, Problem> {
        let body = serde_json::to_vec(&json!({ "commands": commands }))
            .map_err(|error| Problem::invalid(error.to_string()))?;
        let ask = Ask {
            method: Method::POST,
            path: session_path(&self.session, "/commands"),
            headers: vec![(IDEMPOTENCY_KEY, key.0.clone())],
            body: Some(body),
        };
        self.api.json(ask).await
    }

    fn key(&self, id: &RequestId) -> Result<Key, Problem> {
        Ok(Key(match (&self.client, id) {
            // Clients count their requests: the engine remembers those for as long as they may come again.
            (Some(client), RequestId::Number(number)) if *number >= 0 => format!("{client}:{}", number + 1),
            (Some(client), id) => format!("{client}-{id}"),
            (None, _) => drawn()?,
        }))
    }

    async fn call(&self, name: &str, arguments: &Object, id: &RequestId) -> Result<Value, Problem> {
        match name {
            "swarm_init" => write::swarm_init(self, &self.key(id)?, arguments).await,
            "agent_spawn" => write::agent_spawn(self, &self.key(id)?, arguments).await,
            "task_orchestrate" => write::task_orchestrate(self, &self.key(id)?, arguments).await,
            "swarm_status" => read::swarm_status(&self.state().await?, arguments),
            "agent_list" => read::agent_list(&self.state().await?, arguments),
            "task_status" => read::task_status(&self.state().await?, arguments),
            "task_results" => read::task_results(&self.state().await?, arguments),
            "memory_usage" => {
                let health = self.api.json(Ask::get("/api/health")).await?;
                read::memory_usage(&self.state().await?, &health, arguments)
            }
            _ => Err(Problem::new("not_found", format!("Unknown tool: {name}"))),
        }
    }
}

impl ServerHandler for Ruv {
    fn get_info(&self) -> ServerConfig {
        let about = Implementation::new("swarmkeep-ruv-swarm", env!("CARGO_PKG_VERSION"));
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build()).with_server_info(about)
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let tools: Vec<Tool> = serde_json::from_str(TOOLS).map_err(|error| {
            internal(Problem::new("internal", format!("the list of tools cannot be read: {error}")))
        })?;
        Ok(ListToolsResult::with_all_items(tools))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let name = request.name.as_ref();
        if let Some((_, why)) = UNSUPPORTED.iter().find(|(unsupported, _)| name.starts_with(unsupported)) {
            return Err(ErrorData::new(
                ErrorCode::METHOD_NOT_FOUND,
                "Method not found",
                Some(json!(format!("Unsupported tool: {name}: {why}"))),
            ));
        }
        match self.call(name, &request.arguments.unwrap_or_default(), &context.id).await {
            Ok(result) => {
                let text = serde_json::to_string_pretty(&result)
                    .map_err(|error| internal(Problem::new("internal", error.to_string())))?;
                Ok(CallToolResult::success(vec![ContentBlock::text(text)]).into())
            }
            Err(problem) if problem.detail == format!("Unknown tool: {name}") => {
                Err(ErrorData::new(ErrorCode::METHOD_NOT_FOUND, "Method not found", Some(json!(problem.detail))))
            }
            // As the package says it.
            Err(problem) => Err(ErrorData::internal_error(
                format!("MCP tool error: {}", problem.detail),
                Some(json!({ "tool": name, "error": problem.detail })),
            )),
        }
    }
}

/// An argument that must be one of these texts.
fn one_of<'a>(arguments: &'a Object, name: &str, known: &[&str], default: &'a str) -> Result<&'a str, Problem> {
    let given = match arguments.get(name) {
        None | Some(Value::Null) => default,
        Some(given) => given.as_str().unwrap_or_default(),
    };
    if known.contains(&given) {
        return Ok(given);
    }
    Err(Problem::invalid(format!("Parameter '{name}' must be one of: {}", known.join(", "))))
}

/// An argument that must be a whole number in a range, if it is given.
fn whole(arguments: &Object, name: &str, least: u64, most: u64) -> Result<Option<u64>, Problem> {
    let Some(given) = arguments.get(name).filter(|given| !given.is_null()) else { return Ok(None) };
    // JavaScript's numbers: 5.0 is 5.
    let number = given.as_u64().or_else(|| {
        given.as_f64().filter(|number| number.fract() == 0.0 && (0.0..1e9).contains(number)).map(|number| number as u64)
    });
    match number {
        Some(number) if (least..=most).contains(&number) => Ok(Some(number)),
        _ => Err(Problem::invalid(format!("Parameter '{name}' must be a whole number from {least} to {most}"))),
    }
}

fn words(arguments: &Object, name: &str) -> Result<Vec<String>, Problem> {
    let Some(given) = arguments.get(name).filter(|given| !given.is_null()) else { return Ok(Vec::new()) };
    let words = given.as_array().and_then(|all| all.iter().map(|one| one.as_str().map(str::to_owned)).collect());
    words.ok_or_else(|| Problem::invalid(format!("Parameter '{name}' must be a list of texts")))
}

fn optional<'a>(arguments: &'a Object, name: &str) -> Option<&'a str> {
    arguments.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_request_makes_the_same_id_and_another_makes_another() {
        let id = |key: &str| Key(key.to_owned()).id("agent");
        assert_eq!(id("cli-00112233445566778899aabbccddeeff:7"), "agent-aabbccddeeff-7");
        assert_ne!(id("cli-00112233445566778899aabbccddeeff:7"), id("cli-00112233445566778899aabbccddeeff:8"));
        assert_eq!((id("short:1"), id("cli-1-a")), ("agent-short-1".to_owned(), "agent-cli-1-a".to_owned()));
    }
}
