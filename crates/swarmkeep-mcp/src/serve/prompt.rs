//! Prompts: how things stand, told to whoever takes a session up again.

use std::fmt::Write as _;

use rmcp::{
    ErrorData,
    model::{GetPromptResult, Prompt, PromptArgument, PromptMessage, Role},
};
use serde_json::Value;

use super::{
    api::{Api, Ask, Problem, escaped, session_path},
    document::Object,
    surface::internal,
};

const RESUME: &str = "resume_session";
/// Things of one kind that are listed; the tools list the rest.
const LISTED: usize = 20;
/// Characters of somebody's text in a line.
const LINE_CHARS: usize = 200;

pub(super) fn all() -> Vec<Prompt> {
    vec![
        Prompt::new(
            RESUME,
            Some("Take a session up where it stood: what stands, what is open, who is alive, what waits for a word"),
            Some(vec![
                PromptArgument::new("session")
                    .with_description("`namespace/name`, or `name` in namespace `default`")
                    .with_required(true),
                PromptArgument::new("agent")
                    .with_description("The agent that goes on, by its id or its name: its tasks and mail come first"),
            ]),
        )
        .with_title("Resume a session"),
    ]
}

pub(super) async fn get(api: &Api, name: &str, arguments: &Object) -> Result<GetPromptResult, ErrorData> {
    if name != RESUME {
        let name: String = name.chars().take(80).collect();
        return Err(ErrorData::invalid_params(format!("there is no prompt `{name}`"), None));
    }
    let argument = |name: &str| arguments.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let session = argument("session")
        .ok_or_else(|| ErrorData::invalid_params("argument `session` is missing".to_owned(), None))?;
    let told = tell(api, session, argument("agent")).await.map_err(|problem| match problem.code.as_str() {
        "not_found" | "invalid" | "needs_decision" => ErrorData::invalid_params(problem.detail, problem.document),
        _ => internal(problem),
    })?;
    let told = GetPromptResult::new(vec![PromptMessage::new_text(Role::User, told)]);
    Ok(told.with_description(format!("How session {session} stands")))
}

async fn tell(api: &Api, session: &str, agent: Option<&str>) -> Result<String, Problem> {
    let at = |rest: &str| Ask::get(session_path(session, rest));
    let shown = api.json(at("")).await?;
    let agents = api.json(at("/agents?limit=1000")).await?;
    let agent = match agent {
        Some(agent) => Some(meant(api, session, list(&agents, "agents"), agent).await?),
        None => None,
    };
    let id = agent.as_ref().map(|agent| text(agent, "id"));
    let mut out = String::new();
    let _ = writeln!(
        out,
        "Take up session `{}` where it stands. It is {}{}; its log ends at seq {}. Everything below is durable.",
        text(&shown, "name"),
        text(&shown, "status"),
        reason(&shown),
        shown.pointer("/head/seq").and_then(Value::as_u64).unwrap_or_default(),
    );

    let rows = list(&agents, "agents");
    let _ = writeln!(out, "\n## Who is alive");
    say(&mut out, rows.iter().filter(|row| is_alive(row)), |row| {
        format!("{}: {}, {}", called(row), text(row, "kind"), text(row, "status"))
    });

    let _ = writeln!(out, "\n## What is open");
    let mut open = Vec::new();
    for status in ["running", "assigned", "pending"] {
        let page = api.json(at(&format!("/tasks?status={status}&limit=1000"))).await?;
        open.extend(list(&page, "tasks").to_vec());
    }
    // The caller's own first, then what somebody is at.
    let is_its = |row: &&Value| id == Some(text(row, "agent_id"));
    open.sort_by_key(|row| id.is_some() && !is_its(&row));
    say(&mut out, open.iter(), |row| {
        let status = text(row, "status");
        let whose = match (status, text(row, "agent_id")) {
            (_, "") => String::new(),
            ("assigned", agent) => format!(" to {agent}"),
            (_, agent) => format!(" by {agent}"),
        };
        format!("task {}: {} ({status}{whose})", text(row, "id"), line(text(row, "title")))
    });

    if let Some(agent) = &agent {
        let _ = writeln!(out, "\n## What waits for {}", called(agent));
        let page = api.json(at(&format!("/messages?agent={}&limit=1000", escaped(text(agent, "id"))))).await?;
        let (tasks, mail) = (open.iter().filter(is_its), list(&page, "messages").iter());
        say(&mut out, tasks.chain(mail), |row| match row.get("from_agent") {
            None => format!("task {}: {} ({})", text(row, "id"), line(text(row, "title")), text(row, "status")),
            Some(_) => {
                let content = row.get("content").map(Value::to_string).unwrap_or_default();
                format!("message {} from {}: {}", text(row, "id"), text(row, "from_agent"), line(&content))
            }
        });
    }

    let _ = writeln!(out, "\n## What waits for somebody's word");
    let doubts = api.json(at("/effects?status=outcome_unknown&limit=1000")).await?;
    say(&mut out, list(&doubts, "effects").iter(), |row| {
        format!(
            "{} ({}): nobody knows whether it was done: {}",
            text(row, "id"),
            text(row, "class"),
            line(text(row, "reason"))
        )
    });

    let remembered = shown.pointer("/counts/memory").and_then(Value::as_u64).unwrap_or_default();
    let _ = write!(
        out,
        "\n{remembered} {} remembered (`memory_search`). Go on with what is open: `task_claim` takes a task, \
         `message_receive` the mail. Do not repeat an effect whose outcome nobody knows: find out, then `effect_resolve`, or leave it to a person.",
        if remembered == 1 { "entry is" } else { "entries are" },
    );
    Ok(out)
}

/// The agent of this id; or of this name, which only one has that is not terminated.
async fn meant(api: &Api, session: &str, agents: &[Value], said: &str) -> Result<Value, Problem> {
    match api.json(Ask::get(session_path(session, &format!("/agents/{}", escaped(said))))).await {
        Err(problem) if matches!(problem.code.as_str(), "not_found" | "invalid") => {}
        agent => return agent,
    }
    let named: Vec<&Value> = agents.iter().filter(|row| text(row, "name") == said).collect();
    let holds_it = |row: &&&Value| text(row, "status") != "terminated";
    match (named.iter().find(holds_it), named.as_slice()) {
        (Some(agent), _) | (None, [agent]) => Ok((*agent).clone()),
        (None, []) => {
            let problem = format!("there is no agent `{}`; there are: {}", line(said), some(agents.iter()));
            Err(Problem::new("not_found", problem))
        }
        _ => {
            let problem = format!(
                "several agents that have ended were called `{}`: give the id of one: {}",
                line(said),
                some(named)
            );
            Err(Problem::invalid(problem))
        }
    }
}

/// Up to [`LISTED`] agents, in one line.
fn some<'a>(agents: impl IntoIterator<Item = &'a Value>) -> String {
    let mut told: Vec<String> = agents.into_iter().map(called).collect();
    if told.len() > LISTED {
        let more = told.len() - LISTED;
        told.truncate(LISTED);
        told.push(format!("and {more} more"));
    }
    if told.is_empty() { "none".to_owned() } else { told.join(", ") }
}

fn is_alive(agent: &Value) -> bool {
    !matches!(text(agent, "status"), "terminated" | "failed")
}

/// An agent's id, and its name if it has one.
fn called(agent: &Value) -> String {
    match text(agent, "name") {
        "" => text(agent, "id").to_owned(),
        name => format!("{} ({})", text(agent, "id"), line(name)),
    }
}

fn text<'a>(row: &'a Value, name: &str) -> &'a str {
    row.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn reason(shown: &Value) -> String {
    let reason = text(shown, "status_reason");
    if reason.is_empty() { String::new() } else { format!(" ({})", line(reason)) }
}

fn list<'a>(page: &'a Value, name: &str) -> &'a [Value] {
    page.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Up to [`LISTED`] lines, and how many more there are.
fn say<'a>(out: &mut String, rows: impl Iterator<Item = &'a Value>, told: impl Fn(&Value) -> String) {
    let mut count = 0;
    for row in rows {
        count += 1;
        if count <= LISTED {
            let _ = writeln!(out, "- {}", told(row));
        }
    }
    match count {
        0 => {
            let _ = writeln!(out, "nothing");
        }
        count if count > LISTED => {
            let _ = writeln!(out, "- and {} more", count - LISTED);
        }
        _ => {}
    }
}

/// Somebody's text on one line, and not too long.
fn line(text: &str) -> String {
    let mut words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((at, _)) = words.char_indices().nth(LINE_CHARS) {
        words.truncate(at);
        words.push('…');
    }
    words
}
