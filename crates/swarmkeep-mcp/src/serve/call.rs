//! Arguments put where the operation takes them; what it answers as a tool's result.

use axum::http::{HeaderName, header};
use rmcp::model::{CallToolResult, ContentBlock, MetaObject};
use serde_json::Value;

use super::{
    api::{Api, Ask, Problem, escaped},
    document::{Document, Object, Operation},
    tool::{Tool, expected},
    words,
};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const ACTOR: HeaderName = HeaderName::from_static("swarmkeep-actor");

/// Under this name a result's `_meta` has the API's problem document.
const PROBLEM: &str = "swarmkeep/problem";

/// Calls a tool. What the API refuses is the tool's answer, for the model to read.
pub(super) async fn call(api: &Api, tool: &Tool, arguments: Object) -> CallToolResult {
    match answer(api, tool, arguments).await {
        Ok(value) => CallToolResult::structured(value),
        Err(problem) => failed(&problem),
    }
}

async fn answer(api: &Api, tool: &Tool, arguments: Object) -> Result<Value, Problem> {
    let ask = asked(api.document().await?, tool, arguments)?;
    api.json(ask).await.map_err(|problem| words::of_tool(tool, problem))
}

/// What kept it from being done, in a sentence, and as the API says it beside. Not as structured content: clients hold that
/// to the schema of what is answered when all went well.
pub(super) fn failed(problem: &Problem) -> CallToolResult {
    let hint = problem.hint.as_ref().map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
    let text = format!("{}: {}{hint}", problem.code, problem.detail);
    let document = problem
        .document
        .clone()
        .unwrap_or_else(|| serde_json::json!({ "code": problem.code, "detail": problem.detail, "hint": problem.hint }));
    let mut meta = MetaObject::default();
    meta.insert(PROBLEM.to_owned(), document);
    CallToolResult::error(vec![ContentBlock::text(text)]).with_meta(Some(meta))
}

/// The request that these arguments are.
pub(super) fn asked(document: &Document, tool: &Tool, mut arguments: Object) -> Result<Ask, Problem> {
    let operation = tool.route(document, &arguments)?;
    if let Some((choice, _)) = tool.choice() {
        arguments.remove(choice);
    }
    let mut ask = Ask { method: operation.method.clone(), ..Ask::default() };
    ask.path = path(tool, operation, &mut arguments)?;
    let (mut pairs, mut left_out) = (Vec::new(), None);
    for (name, _) in operation.query.iter().filter(|(name, _)| !tool.hides(operation, name)) {
        let argument = tool.argument(name);
        match take(&mut arguments, argument) {
            Some(value) => pairs.push(format!("{name}={}", escaped(&text(argument, &value)?))),
            None if tool.needed.contains(&name.as_str()) => left_out = Some(argument.to_owned()),
            None => {}
        }
    }
    if !pairs.is_empty() {
        ask.path = format!("{}?{}", ask.path, pairs.join("&"));
    }
    if operation.writes {
        let request = take(&mut arguments, "request_id").ok_or_else(|| {
            missing("request_id").hint("a name of your own, new for each request; the same when you repeat one")
        })?;
        ask.headers.push((IDEMPOTENCY_KEY, text("request_id", &request)?));
        if let Some(actor) = take(&mut arguments, "actor") {
            ask.headers.push((ACTOR, text("actor", &actor)?));
        }
    }
    if let Some(about) = operation.if_match.as_deref().filter(|about| !about.is_empty()) {
        let argument = expected(about);
        if let Some(number) = take(&mut arguments, argument) {
            let number = number
                .as_u64()
                .ok_or_else(|| Problem::invalid(format!("argument `{argument}`: a number, 0 or more")))?;
            ask.headers.push((header::IF_MATCH, format!("\"{number}\"")));
        }
    }
    if let Some(schema) = &operation.body {
        ask.body = Some(body(document, tool, operation, schema, &mut arguments, &mut left_out)?);
    }
    // A `null` says what leaving it out says.
    arguments.retain(|_, value| !value.is_null());
    match arguments.keys().next() {
        None => left_out.map_or(Ok(ask), |argument| Err(missing(&argument))),
        // One that is misspelt is another one left out: this says more.
        Some(unknown) => {
            let unknown: String = unknown.chars().take(80).collect();
            let known = tool.arguments(document, operation).names().join(", ");
            Err(Problem::invalid(format!("no argument `{unknown}` here; known: {known}")))
        }
    }
}

fn missing(argument: &str) -> Problem {
    Problem::invalid(format!("argument `{argument}` is missing"))
}

fn take(arguments: &mut Object, name: &str) -> Option<Value> {
    arguments.remove(name).filter(|value| !value.is_null())
}

/// A value where the API takes text.
fn text(argument: &str, value: &Value) -> Result<String, Problem> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(_) | Value::Bool(_) => Ok(value.to_string()),
        _ => Err(Problem::invalid(format!("argument `{argument}`: a text or a number"))),
    }
}

fn path(tool: &Tool, operation: &Operation, arguments: &mut Object) -> Result<String, Problem> {
    let mut path = operation.path.clone();
    for place in operation.places() {
        match place {
            "name" => {}
            "namespace" => {
                let session = take(arguments, "session").ok_or_else(|| missing("session"))?;
                let session = text("session", &session)?;
                let (namespace, name) = session.split_once('/').unwrap_or(("default", &session));
                path = path.replace("{namespace}", &escaped(namespace)).replace("{name}", &escaped(name));
            }
            place => {
                let argument = tool.argument(place);
                let given = take(arguments, argument);
                let value = match (given, tool.default(argument)) {
                    (Some(given), _) => text(argument, &given)?,
                    (None, Some(default)) => default.to_owned(),
                    (None, None) => return Err(missing(argument)),
                };
                if value.is_empty() {
                    return Err(Problem::invalid(format!("argument `{argument}` is empty")));
                }
                path = path.replace(&format!("{{{place}}}"), &escaped(&value));
            }
        }
    }
    Ok(path)
}

/// The body; `left_out` is an argument that there must be.
fn body(
    document: &Document,
    tool: &Tool,
    operation: &Operation,
    schema: &str,
    arguments: &mut Object,
    left_out: &mut Option<String>,
) -> Result<Vec<u8>, Problem> {
    let written = |value: &Value| {
        serde_json::to_vec(value).map_err(|error| Problem::invalid(format!("an argument cannot be written: {error}")))
    };
    if schema == "Json" {
        let value = arguments.remove("value").ok_or_else(|| missing("value"))?;
        return written(&value);
    }
    let mut fields = Object::new();
    let (taken, required) = document.fields(schema);
    for (name, schema) in taken.into_iter().filter(|(name, _)| !tool.hides(operation, name)) {
        let argument = tool.argument(&name).to_owned();
        // Where any JSON may stand, `null` is a value.
        let is_any = schema.get("type").is_none() && schema.get("oneOf").is_none();
        let value = if is_any { arguments.remove(&argument) } else { take(arguments, &argument) };
        match value {
            Some(value) => {
                fields.insert(name, value);
            }
            None if required.contains(&name) => {
                left_out.get_or_insert(argument);
            }
            None => {}
        }
    }
    written(&Value::Object(fields))
}
