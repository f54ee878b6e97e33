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
                PromptArgument::new("agent").with_description("The agent that goes on: its tasks and mail come first"),
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
    let mut out = String::new();
    let _ = writeln!(
        out,
        "Take up session `{}` where it stands. It is {}{}; its log ends at seq {}. Everything below is durable.",
        text(&shown, "name"),
        text(&shown, "status"),
        reason(&shown),
        shown.pointer("/head/seq").and_then(Value::as_u64).unwrap_or_default(),
    );

    let alive = |row: &&Value| !matches!(text(row, "status"), "terminated" | "failed");
    let rows = list(&agents, "agents");
    let _ = writeln!(out, "\n## Who is alive");
    say(&mut out, rows.iter().filter(alive), |row| {
        let name = Some(text(row, "name")).filter(|name| !name.is_empty()).map(|name| format!(" ({name})"));
        format!("{}{}: {}, {}", text(row, "id"), name.unwrap_or_default(), text(row, "kind"), text(row, "status"))
    });

    let _ = writeln!(out, "\n## What is open");
    let mut open = Vec::new();
    for status in ["running", "assigned", "pending"] {
        let page = api.json(at(&format!("/tasks?status={status}&limit=1000"))).await?;
        open.extend(list(&page, "tasks").to_vec());
    }
    // The caller's own first, then what somebody is at.
    open.sort_by_key(|row| agent.is_none_or(|agent| text(row, "agent_id") != agent));
    say(&mut out, open.iter(), |row| {
        let by = Some(text(row, "agent_id")).filter(|by| !by.is_empty()).map(|by| format!(" by {by}"));
        format!("{}: {} ({}{})", text(row, "id"), line(text(row, "title")), text(row, "status"), by.unwrap_or_default())
    });

    if let Some(agent) = agent {
        let _ = writeln!(out, "\n## What waits for {agent}");
        let page = api.json(at(&format!("/messages?agent={}&limit=1000", escaped(agent)))).await?;
        say(&mut out, list(&page, "messages").iter(), |row| {
            let content = row.get("content").map(Value::to_string).unwrap_or_default();
            format!("{} from {}: {}", text(row, "id"), text(row, "from_agent"), line(&content))
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
        "\n{remembered} entries are remembered (`memory_search`). Go on with what is open: `task_claim` takes a task, \
         `message_receive` the mail. Do not repeat an effect whose outcome nobody knows: find out, then `effect_resolve`, or leave it to a person."
    );
    Ok(out)
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
