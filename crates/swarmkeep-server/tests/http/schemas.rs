//! The schemas in the document are those of what is really taken and given.

use serde_json::{Value, json};
use swarmkeep::Command;

use crate::daemon::Daemon;

/// What is wrong with a value by a schema: place and reason.
fn check(document: &Value, schema: &Value, value: &Value, place: &str) -> Result<(), String> {
    if let Some(target) = schema["$ref"].as_str() {
        return check(document, document.pointer(target.trim_start_matches('#')).unwrap(), value, place);
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let wrong: Vec<String> =
            choices.iter().filter_map(|choice| check(document, choice, value, place).err()).collect();
        let fitting = choices.len() - wrong.len();
        return if fitting >= 1 { Ok(()) } else { Err(format!("{place}: fits none: {}", wrong.join(" | "))) };
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        return Err(format!("{place}: {value} is none of {allowed:?}"));
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let is = |name: &Value| name == kind || (name == "number" && kind == "integer");
    let fits = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().any(is),
        Value::Null => true,
        one => is(one),
    };
    if !fits {
        return Err(format!("{place}: {value} is not {}", schema["type"]));
    }
    if let Some(items) = value.as_array().filter(|_| schema.get("items").is_some()) {
        for (at, item) in items.iter().enumerate() {
            check(document, &schema["items"], item, &format!("{place}[{at}]"))?;
        }
    }
    if let (Some(fields), Some(properties)) = (value.as_object(), schema["properties"].as_object()) {
        for required in schema["required"].as_array().into_iter().flatten() {
            if !fields.contains_key(required.as_str().unwrap()) {
                return Err(format!("{place}: `{}` is missing", required.as_str().unwrap()));
            }
        }
        for (name, field) in fields {
            match properties.get(name) {
                Some(schema) => check(document, schema, field, &format!("{place}.{name}"))?,
                None => return Err(format!("{place}: `{name}` is not in the document")),
            }
        }
    }
    Ok(())
}

/// A value that a schema allows: with every field, or with those that must be there.
fn example(document: &Value, schema: &Value, whole: bool) -> Value {
    if let Some(target) = schema["$ref"].as_str() {
        return match target.rsplit('/').next().unwrap() {
            "SessionName" => json!("a/b"),
            "Hash" => json!("00".repeat(32)),
            _ => example(document, document.pointer(target.trim_start_matches('#')).unwrap(), whole),
        };
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        return example(document, choices.iter().find(|choice| choice["type"] != "null").unwrap(), whole);
    }
    if let Some(allowed) = schema["enum"].as_array() {
        return allowed[0].clone();
    }
    match schema["type"].as_array().map_or(&schema["type"], |kinds| &kinds[0]).as_str().unwrap() {
        "string" => json!("x"),
        "integer" => json!(1),
        "number" => json!(1.5),
        "boolean" => json!(true),
        "array" => json!([example(document, &schema["items"], whole)]),
        _ => {
            let required = schema["required"].as_array();
            let is_required = |name: &str| required.is_some_and(|all| all.iter().any(|one| one == name));
            let fields = schema["properties"].as_object().into_iter().flatten();
            fields
                .filter(|(name, _)| whole || is_required(name))
                .map(|(name, schema)| (name.clone(), example(document, schema, whole)))
                .collect::<serde_json::Map<_, _>>()
                .into()
        }
    }
}

#[tokio::test]
async fn every_command_is_documented_as_it_is_taken() {
    let daemon = Daemon::start().await;
    let document = daemon.get("/openapi.json").await.expect(200);
    let commands = document["components"]["schemas"]["Command"]["oneOf"].as_array().unwrap();
    for schema in commands {
        for whole in [true, false] {
            let command = example(&document, schema, whole);
            serde_json::from_value::<Value>(command.clone()).unwrap();
            let decoded: Result<Command, _> = serde_json::from_str(&command.to_string());
            decoded.unwrap_or_else(|error| panic!("{command}: {error}"));
        }
    }
    // And none is missing: the decoder names all it knows.
    let error = serde_json::from_str::<Command>(r#"{"?":1}"#).unwrap_err().to_string();
    let engines_own =
        ["expire_lease", "doubt_effect", "interrupt_turns", "interrupt_call", "expire", "note_recovery", "rewind"];
    let known: Vec<&str> = error.split('`').skip(3).step_by(2).filter(|name| !engines_own.contains(name)).collect();
    let mut documented: Vec<&str> = commands
        .iter()
        .map(|schema| schema["properties"].as_object().unwrap().keys().next().unwrap().as_str())
        .collect();
    let mut known = known;
    documented.sort_unstable();
    known.sort_unstable();
    assert_eq!(documented, known);
}

#[tokio::test]
async fn answers_are_as_documented() {
    let daemon = Daemon::start().await;
    let document = daemon.get("/openapi.json").await.expect(200);
    let s = &daemon.session("a/b").await;
    let holds = |name: &str, value: &Value| {
        check(&document, &json!({ "$ref": format!("#/components/schemas/{name}") }), value, name)
            .unwrap_or_else(|wrong| panic!("{wrong}"));
    };
    let commands = json!({ "commands": [
        {"spawn_agent": {"id": "a", "name": "Ada", "capabilities": ["x"]}}, {"spawn_agent": {"id": "b"}},
        {"create_group": {"id": "g", "name": "team"}}, {"join_group": {"group": "g", "agent": "a", "role": "lead"}},
        {"subscribe": {"agent": "b", "topic": "news"}},
        {"create_task": {"id": "t", "title": "x"}}, {"claim_task": {"agent": "a"}}, {"create_task": {"id": "u", "title": "y"}},
        {"send_message": {"from": "a", "to": {"topic": "news"}, "content": {"x": 1}}},
        {"send_message": {"from": "a", "to": "broadcast"}}, {"receive_messages": {"agent": "b"}},
        {"set_memory": {"key": "k", "value": [1], "ttl_ms": 100000}},
        {"begin_effect": {"effect": "e", "instance": "i"}}, {"finish_effect": {"effect": "e", "attempt": 1, "outcome": {"ok": true}}},
        {"begin_effect": {"effect": "e", "instance": "i"}}, {"begin_effect": {"effect": "f", "instance": "i", "agent": "a"}},
        {"set_connection": {"connection": "c", "recipe": {}}}, {"set_config": {"key": "topology", "value": "mesh"}},
        {"record": {"kind": "note", "aggregate": "t"}}, {"record": {"kind": "turn", "payload": {"tool_call": {"id": "c"}}}}
    ], "request_id": "w:1" });
    holds("Reply", &daemon.post(&format!("{s}/commands"), commands).await.expect(200));
    for (path, schema) in [
        ("state", "State"),
        ("", "Session"),
        ("records?limit=1000", "Records"),
        ("agents", "AgentList"),
        ("tasks", "TaskList"),
        ("messages", "MessageList"),
        ("memory", "MemoryList"),
        ("effects", "EffectList"),
        ("tasks/t", "Task"),
        ("diff?from=1", "Diff"),
    ] {
        let path = format!("{s}/{path}");
        holds(schema, &daemon.get(path.trim_end_matches('/')).await.expect(200));
    }
    holds("ClaimReply", &daemon.post(&format!("{s}/tasks/claim"), json!({ "agent": "b" })).await.expect(200));
    holds("ReceiveReply", &daemon.post(&format!("{s}/messages/receive"), json!({ "agent": "a" })).await.expect(200));
    holds("Opened", &daemon.post(&format!("{s}/open"), json!({})).await.expect(200));
    holds("Problem", &daemon.get("/v1/nothing").await.expect(404));
    holds("Page", &daemon.get("/v1/query/tasks").await.expect(200));
    holds("SessionPage", &daemon.get("/v1/sessions").await.expect(200));
    holds("Report", &daemon.get("/v1/report?since_ms=0").await.expect(200));
    holds("ApiHealth", &daemon.get("/api/health").await.expect(200));
    holds("VerifyReport", &daemon.post("/v1/verify", json!({})).await.expect(200));
}
