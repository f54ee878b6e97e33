//! Resources: a session's state and its history, as they stand or stood.
//!
//! `swarmkeep://NAMESPACE/NAME/state` with `?at=SEQ`, and `swarmkeep://NAMESPACE/NAME/history` with `?from=SEQ` (the first seq
//! that is wanted) and `&limit=N`.

use axum::http::Uri;
use rmcp::{
    ErrorData,
    model::{ListResourcesResult, ReadResourceResult, Resource, ResourceContents, ResourceTemplate},
};
use serde_json::Value;

use super::{
    api::{Api, Ask, Problem, escaped, session_path},
    surface::internal,
};

const SCHEME: &str = "swarmkeep";
const JSON: &str = "application/json";
/// Sessions in one page of the list; each has two resources.
const SESSIONS: usize = 50;

pub(super) fn templates() -> Vec<ResourceTemplate> {
    vec![
        ResourceTemplate::new("swarmkeep://{namespace}/{name}/state{?at}", "state")
            .with_title("State of a session")
            .with_description("The whole state: agents, tasks, messages, memory, effects; now, or as it was at a seq")
            .with_mime_type(JSON),
        ResourceTemplate::new("swarmkeep://{namespace}/{name}/history{?from,limit}", "history")
            .with_title("History of a session")
            .with_description("Records in order, from a seq on: what happened, when, by whom")
            .with_mime_type(JSON),
    ]
}

/// The resources of the sessions, newest sessions first.
pub(super) async fn list(api: &Api, cursor: Option<String>) -> Result<ListResourcesResult, ErrorData> {
    let cursor = cursor.map(|cursor| format!("&cursor={}", escaped(&cursor))).unwrap_or_default();
    let page = api.json(Ask::get(format!("/v1/sessions?order=newest&limit={SESSIONS}{cursor}"))).await;
    let page = page.map_err(|problem| match problem.code.as_str() {
        "invalid" => ErrorData::invalid_params(problem.detail, None),
        _ => internal(problem),
    })?;
    let text = |row: &Value, name: &str| row.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut resources = Vec::new();
    for row in page.get("rows").and_then(Value::as_array).into_iter().flatten() {
        let name = format!("{}/{}", text(row, "namespace"), text(row, "name"));
        let status = text(row, "status");
        resources.extend([("state", "State"), ("history", "History")].map(|(what, title)| {
            Resource::new(format!("{SCHEME}://{name}/{what}"), format!("{name} {what}"))
                .with_title(format!("{title} of {name}"))
                .with_description(format!("a session that is {status}"))
                .with_mime_type(JSON)
        }));
    }
    let mut result = ListResourcesResult::with_all_items(resources);
    result.next_cursor = page.get("next").and_then(Value::as_str).map(str::to_owned);
    Ok(result)
}

pub(super) async fn read(api: &Api, uri: &str) -> Result<ReadResourceResult, ErrorData> {
    let missing = |what: &str| ErrorData::resource_not_found(what.to_owned(), Some(serde_json::json!({ "uri": uri })));
    let path =
        path(uri).ok_or_else(|| missing("no such resource: use swarmkeep://NAMESPACE/NAME/state or …/history"))?;
    let bytes = api.ask(Ask::get(path)).await.map_err(|problem| match problem.code.as_str() {
        "not_found" => missing(&problem.detail),
        "invalid" | "limit" => ErrorData::invalid_params(problem.detail, problem.document),
        _ => ErrorData::internal_error(problem.detail, problem.document),
    })?;
    let text =
        String::from_utf8(bytes.into()).map_err(|_| internal(Problem::new("internal", "the state is not UTF-8")))?;
    Ok(ReadResourceResult::new(vec![ResourceContents::text(text, uri).with_mime_type(JSON)]))
}

/// Where the API has what a URI names.
fn path(uri: &str) -> Option<String> {
    let uri: Uri = uri.parse().ok()?;
    let namespace = uri.authority()?.as_str();
    let (name, what) = uri.path().strip_prefix('/')?.split_once('/')?;
    if uri.scheme_str() != Some(SCHEME) || name.is_empty() || name.contains('%') {
        return None;
    }
    let mut pairs = Vec::new();
    for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=')?;
        match (what, key) {
            ("state", "at") | ("history", "limit") => pairs.push(format!("{key}={value}")),
            // The API counts from the record before.
            ("history", "from") => pairs.push(format!("after={}", value.parse::<u64>().ok()?.saturating_sub(1))),
            _ => return None,
        }
    }
    let place = match what {
        "state" => "/state",
        "history" => "/records",
        _ => return None,
    };
    let query = if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) };
    Some(session_path(&format!("{namespace}/{name}"), place) + &query)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_name_state_and_history() {
        let is = |uri: &str, wanted: &str| assert_eq!(path(uri).as_deref(), Some(wanted), "{uri}");
        is("swarmkeep://team/work/state", "/v1/sessions/team/work/state");
        is("swarmkeep://team/work/state?at=7", "/v1/sessions/team/work/state?at=7");
        is("swarmkeep://team/work/history?from=1", "/v1/sessions/team/work/records?after=0");
        is("swarmkeep://team/work/history?from=41&limit=5", "/v1/sessions/team/work/records?after=40&limit=5");
        for wrong in [
            "swarmkeep://team/work",
            "swarmkeep://team/work/state?from=1",
            "swarmkeep://team/work/history?from=x",
            "swarmkeep://team/work/secrets",
            "swarmkeep://team/work/state/more",
            "file:///etc/passwd",
            "swarmkeep://team/%2e%2e/state",
            "",
        ] {
            assert_eq!(path(wrong), None, "{wrong}");
        }
    }
}
