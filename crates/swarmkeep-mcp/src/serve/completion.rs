//! What may stand where a name is asked for: sessions, their parts, agents.

use rmcp::{
    ErrorData,
    model::{CompleteRequestParams, CompleteResult, CompletionInfo, Reference},
};
use serde_json::Value;

use super::{
    api::{Api, Ask, Problem, session_path},
    prompt, resource,
    surface::internal,
};

/// Sessions that are looked through for one answer, the newest.
const SESSIONS: usize = 1_000;

pub(super) async fn complete(api: &Api, request: CompleteRequestParams) -> Result<CompleteResult, ErrorData> {
    let asked = &request.argument.name;
    let known = match &request.r#ref {
        Reference::Prompt(prompt) => prompt::all()
            .into_iter()
            .find(|known| known.name == prompt.name)
            .map(|known| known.arguments.unwrap_or_default().into_iter().map(|argument| argument.name).collect()),
        Reference::Resource(template) => resource::templates()
            .into_iter()
            .find(|known| known.uri_template == template.uri)
            .map(|_| vec!["namespace".to_owned(), "name".to_owned()]),
        _ => None,
    };
    let known: Vec<String> =
        known.ok_or_else(|| ErrorData::invalid_params("there is no such prompt or template", None))?;
    if !known.contains(asked) {
        return Ok(CompleteResult::default());
    }
    let given = |name: &str| request.context.as_ref().and_then(|context| context.get_argument(name)).cloned();
    let found = match asked.as_str() {
        "agent" => agents(api, given("session")).await,
        part => sessions(api, part, given("namespace")).await,
    };
    let mut found = found.map_err(internal)?;
    let begun = request.argument.value.to_lowercase();
    found.retain(|name| name.to_lowercase().contains(&begun));
    // What begins so comes before what only contains it.
    found.sort_by_key(|name| (!name.to_lowercase().starts_with(&begun), name.clone()));
    found.dedup();
    let total = u32::try_from(found.len()).ok();
    let has_more = found.len() > CompletionInfo::MAX_VALUES;
    found.truncate(CompletionInfo::MAX_VALUES);
    CompletionInfo::with_pagination(found, total, has_more)
        .map(CompleteResult::new)
        .map_err(|error| ErrorData::internal_error(error, None))
}

async fn sessions(api: &Api, part: &str, namespace: Option<String>) -> Result<Vec<String>, Problem> {
    let page = api.json(Ask::get(format!("/v1/sessions?order=newest&limit={SESSIONS}"))).await?;
    let rows = page.get("rows").and_then(Value::as_array).into_iter().flatten();
    let text = |row: &Value, name: &str| row.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let rows = rows.map(|row| (text(row, "namespace"), text(row, "name")));
    Ok(rows
        .filter(|(of, _)| part != "name" || namespace.as_ref().is_none_or(|namespace| of == namespace))
        .map(|(namespace, name)| match part {
            "namespace" => namespace,
            "name" => name,
            _ => format!("{namespace}/{name}"),
        })
        .collect())
}

async fn agents(api: &Api, session: Option<String>) -> Result<Vec<String>, Problem> {
    let Some(session) = session else { return Ok(Vec::new()) };
    let page = match api.json(Ask::get(session_path(&session, "/agents?limit=1000"))).await {
        // No session, no agents: a name that is being typed is no error.
        Err(problem) if matches!(problem.code.as_str(), "not_found" | "invalid") => return Ok(Vec::new()),
        page => page?,
    };
    let rows = page.get("agents").and_then(Value::as_array).into_iter().flatten();
    Ok(rows.filter_map(|row| row.get("id").and_then(Value::as_str)).map(str::to_owned).collect())
}
