//! The tools, as lines of a table, and what they do.

#![expect(deprecated, reason = "the suites still ask for sampling and the log")]

use std::time::Duration;

use rmcp::{
    ErrorData, RoleServer,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, JsonObject, LoggingLevel,
        ProgressNotificationParam, ResourceContents, Tool as Described,
    },
    service::RequestContext,
};
use serde_json::{Value, json};

use crate::{
    change::{Change, World},
    hang_up::hang_up,
    jobs::Job,
    peer::Log,
    question::{self, Question},
    rounds::{Next, Rounds},
    sample,
};

/// Between two steps of work that is watched.
const STEP: Duration = Duration::from_millis(50);

/// Comes and goes.
const MORE: &str = "test_dynamic_tool";

/// A tool.
struct Tool {
    name: &'static str,
    about: &'static str,
    schema: fn() -> Value,
    does: Does,
}

/// What a call of a tool comes to.
enum Does {
    Says(fn() -> Vec<ContentBlock>),
    SaysArguments,
    Fails,
    Logs,
    Progresses,
    HangsUp,
    /// Asks the client's model, by a request.
    Samples,
    /// Asks the client's user, by a request.
    Elicits(fn(&JsonObject) -> (String, Value)),
    /// Answers with questions.
    Asks(Rounds),
    NeedsSampling,
    Changes(Change),
    Greets,
    /// Goes on as a task.
    Works(Job),
    /// Answers with questions, and goes on as a task.
    AsksAndWorks(Rounds, Job),
}

const NAME: (&str, Question) =
    ("user_name", Question::Form { message: "What is your name?", field: "name", of_type: "string" });
const GREETING: (&str, Question) = ("greeting", Question::Sample { prompt: "Generate a greeting", tokens: 50 });
const CONFIRM: (&str, Question) =
    ("confirm", Question::Form { message: "Please confirm", field: "ok", of_type: "boolean" });

const TOOLS: &[Tool] = &[
    Tool {
        name: "test_simple_text",
        about: "Answers with a text",
        schema: nothing,
        does: Does::Says(|| vec![text("This is a simple text response for testing.")]),
    },
    Tool {
        name: "test_image_content",
        about: "Answers with a picture",
        schema: nothing,
        does: Does::Says(|| vec![ContentBlock::image(sample::PNG, "image/png")]),
    },
    Tool {
        name: "test_audio_content",
        about: "Answers with a sound",
        schema: nothing,
        does: Does::Says(|| vec![ContentBlock::audio(sample::WAV, "audio/wav")]),
    },
    Tool {
        name: "test_embedded_resource",
        about: "Answers with a resource",
        schema: nothing,
        does: Does::Says(|| {
            let resource = ResourceContents::text("This is an embedded resource content.", "test://embedded-resource");
            vec![ContentBlock::resource(resource.with_mime_type("text/plain"))]
        }),
    },
    Tool {
        name: "test_multiple_content_types",
        about: "Answers with a text, a picture and a resource",
        schema: nothing,
        does: Does::Says(|| {
            let data = json!({ "test": "data", "value": 123 }).to_string();
            let resource = ResourceContents::text(data, "test://mixed-content-resource");
            vec![
                text("Multiple content types test:"),
                ContentBlock::image(sample::PNG, "image/png"),
                ContentBlock::resource(resource.with_mime_type("application/json")),
            ]
        }),
    },
    Tool { name: "test_tool_with_logging", about: "Says in the log how far it is", schema: nothing, does: Does::Logs },
    Tool { name: "test_logging_tool", about: "Says in the log how far it is", schema: nothing, does: Does::Logs },
    Tool { name: "test_error_handling", about: "Always fails", schema: nothing, does: Does::Fails },
    Tool { name: "test_tool_with_progress", about: "Tells its progress", schema: nothing, does: Does::Progresses },
    Tool {
        name: "test_reconnection",
        about: "Ends the answer's stream before the answer, which is there for who comes back",
        schema: nothing,
        does: Does::HangsUp,
    },
    Tool {
        name: "test_sampling",
        about: "Asks the client's model",
        schema: || one_text("prompt", "What the model is asked"),
        does: Does::Samples,
    },
    Tool {
        name: "test_elicitation",
        about: "Asks the client's user",
        schema: || one_text("message", "What the user is asked"),
        does: Does::Elicits(who),
    },
    Tool {
        name: "test_elicitation_sep1034_defaults",
        about: "Asks the client's user, with what is filled in already",
        schema: nothing,
        does: Does::Elicits(filled_in),
    },
    Tool {
        name: "test_elicitation_sep1330_enums",
        about: "Asks the client's user to choose, in each way in which a choice may be written",
        schema: nothing,
        does: Does::Elicits(choices),
    },
    Tool {
        name: "json_schema_2020_12_tool",
        about: "Has a schema with much of what JSON Schema 2020-12 has",
        schema: rich,
        does: Does::SaysArguments,
    },
    Tool {
        name: "test_header_parameter",
        about: "Takes an argument that is sent as a header, too",
        schema: || {
            json!({
                "type": "object",
                "properties": { "region": { "type": "string", "x-mcp-header": "Region" } },
                "required": ["region"],
            })
        },
        does: Does::SaysArguments,
    },
    Tool {
        name: "test_missing_capability",
        about: "Needs a client that has a model",
        schema: nothing,
        does: Does::NeedsSampling,
    },
    Tool {
        name: "test_streaming_elicitation",
        about: "Asks, and never by a request of its own",
        schema: nothing,
        does: Does::Asks(Rounds { rounds: &[&[NAME]], has_state: false }),
    },
    Tool {
        name: "test_input_required_result_elicitation",
        about: "Asks the client's user",
        schema: nothing,
        does: Does::Asks(Rounds { rounds: &[&[NAME]], has_state: false }),
    },
    Tool {
        name: "test_input_required_result_sampling",
        about: "Asks the client's model",
        schema: nothing,
        does: Does::Asks(Rounds {
            rounds: &[&[(
                "capital_question",
                Question::Sample { prompt: "What is the capital of France?", tokens: 100 },
            )]],
            has_state: false,
        }),
    },
    Tool {
        name: "test_input_required_result_list_roots",
        about: "Asks for the client's roots",
        schema: nothing,
        does: Does::Asks(Rounds { rounds: &[&[("client_roots", Question::Roots)]], has_state: false }),
    },
    Tool {
        name: "test_input_required_result_request_state",
        about: "Asks, and gives the client a state to carry",
        schema: nothing,
        does: Does::Asks(Rounds { rounds: &[&[CONFIRM]], has_state: true }),
    },
    Tool {
        name: "test_input_required_result_tampered_state",
        about: "Asks, and refuses a state that is not its own",
        schema: nothing,
        does: Does::Asks(Rounds { rounds: &[&[CONFIRM]], has_state: true }),
    },
    Tool {
        name: "test_input_required_result_multiple_inputs",
        about: "Asks the client's user and model, and for its roots, together",
        schema: nothing,
        does: Does::Asks(Rounds { rounds: &[&[NAME, GREETING, ("client_roots", Question::Roots)]], has_state: true }),
    },
    Tool {
        name: "test_input_required_result_multi_round",
        about: "Asks, and asks again",
        schema: nothing,
        does: Does::Asks(Rounds {
            rounds: &[
                &[(
                    "step1",
                    Question::Form { message: "Step 1: What is your name?", field: "name", of_type: "string" },
                )],
                &[(
                    "step2",
                    Question::Form {
                        message: "Step 2: What is your favorite color?",
                        field: "color",
                        of_type: "string",
                    },
                )],
            ],
            has_state: true,
        }),
    },
    Tool {
        name: "test_input_required_result_capabilities",
        about: "Asks what the client can answer",
        schema: nothing,
        does: Does::Asks(Rounds { rounds: &[&[NAME, GREETING]], has_state: false }),
    },
    Tool {
        name: "test_trigger_tool_change",
        about: "Adds a tool, or takes it away again",
        schema: nothing,
        does: Does::Changes(Change::Tools),
    },
    Tool {
        name: "test_trigger_prompt_change",
        about: "Adds a prompt, or takes it away again",
        schema: nothing,
        does: Does::Changes(Change::Prompts),
    },
    Tool {
        name: "test_trigger_resource_change",
        about: "Writes to the resource that may be watched",
        schema: nothing,
        does: Does::Changes(Change::Watched),
    },
    Tool { name: "greet", about: "Greets, at once", schema: || one_text("name", "Who is greeted"), does: Does::Greets },
    Tool {
        name: "slow_compute",
        about: "Takes its time, as a task for whoever knows tasks",
        schema: || {
            json!({
                "type": "object",
                "properties": {
                    "seconds": { "type": "integer", "minimum": 0 },
                    "label": { "type": "string" },
                },
                "required": ["seconds"],
            })
        },
        does: Does::Works(Job::Computes),
    },
    Tool { name: "failing_job", about: "A task that says an error", schema: nothing, does: Does::Works(Job::Fails) },
    Tool {
        name: "protocol_error_job",
        about: "A task that comes to no result",
        schema: nothing,
        does: Does::Works(Job::Breaks),
    },
    Tool {
        name: "confirm_delete",
        about: "A task that asks",
        schema: || one_text("filename", "What is deleted; nothing is, in truth"),
        does: Does::Works(Job::Confirms),
    },
    Tool {
        name: "multi_input",
        about: "A task that asks two things",
        schema: nothing,
        does: Does::Works(Job::AsksTwice),
    },
    Tool {
        name: "test_tool_with_task",
        about: "Asks, and then is a task",
        schema: nothing,
        does: Does::AsksAndWorks(Rounds { rounds: &[&[NAME]], has_state: false }, Job::Greets),
    },
];

/// The one that comes and goes.
const COMING: Tool = Tool {
    name: MORE,
    about: "A tool that comes and goes",
    schema: nothing,
    does: Does::Says(|| vec![text("This tool will be gone again.")]),
};

pub(crate) fn all(world: &World) -> Vec<Described> {
    present(world).map(Tool::described).collect()
}

/// A tool by its name, for whoever checks a call against its schema.
pub(crate) fn described(world: &World, name: &str) -> Option<Described> {
    present(world).find(|tool| tool.name == name).map(Tool::described)
}

fn present(world: &World) -> impl Iterator<Item = &'static Tool> {
    TOOLS.iter().chain(world.has_more_tools().then_some(&COMING))
}

pub(crate) async fn call(
    world: &World,
    log: &Log,
    request: CallToolRequestParams,
    context: RequestContext<RoleServer>,
) -> Result<CallToolResponse, ErrorData> {
    let Some(tool) = present(world).find(|tool| tool.name == request.name) else {
        return Err(ErrorData::invalid_params(format!("there is no tool `{}`", request.name), None));
    };
    let capabilities = context.client_capabilities().unwrap_or_default();
    let arguments = request.arguments.unwrap_or_default();
    let carried = (request.input_responses.as_ref(), request.request_state.as_deref());
    let answer = match &tool.does {
        Does::Says(content) => CallToolResult::success(content()),
        Does::SaysArguments => done(&Value::Object(arguments).to_string()),
        Does::Fails => failed("This tool intentionally returns an error for testing"),
        Does::Logs => {
            for words in ["Tool execution started", "Tool processing data", "Tool execution completed"] {
                log.say(&context, LoggingLevel::Info, words).await;
                tokio::time::sleep(STEP).await;
            }
            done("Everything is in the log.")
        }
        Does::Progresses => {
            for progress in [0.0, 50.0, 100.0] {
                if let Some(token) = context.meta.get_progress_token() {
                    let progress = ProgressNotificationParam::new(token, progress).with_total(100.0);
                    // A client that is gone is seen when it is answered.
                    drop(context.peer.notify_progress(progress).await);
                }
                tokio::time::sleep(STEP).await;
            }
            done("The work is done.")
        }
        Does::HangsUp => {
            hang_up(&context).await;
            done("The client has come back.")
        }
        Does::Samples => {
            let prompt = arguments.get("prompt").and_then(Value::as_str).unwrap_or_default();
            match question::ask_model(&context.peer, prompt).await {
                Ok(answer) => {
                    let words = answer.message.content.first().and_then(|content| content.as_text());
                    done(&format!("LLM response: {}", words.map_or("no text", |words| words.text.as_str())))
                }
                Err(error) => failed(&format!("the model was not asked: {error}")),
            }
        }
        Does::Elicits(form) => {
            let (message, schema) = form(&arguments);
            match question::elicit(&context.peer, &message, schema).await {
                Ok(answer) => {
                    let answer = serde_json::to_string(&answer);
                    done(&format!("User response: {}", answer.unwrap_or_default()))
                }
                Err(error) => failed(&format!("the user was not asked: {error}")),
            }
        }
        Does::Asks(rounds) => match rounds.next(&world.seal, tool.name, carried, &capabilities)? {
            Next::Ask(question) => return Ok(question.into()),
            Next::Known(known) => {
                let state = if rounds.has_state { "state-ok" } else { "no state" };
                let known = known.iter().map(|(key, said)| format!("{key}: {said}")).collect::<Vec<_>>();
                done(&format!("{}; {state}", known.join("; ")))
            }
        },
        Does::NeedsSampling if capabilities.sampling.is_some() => done("The client has a model."),
        Does::NeedsSampling => {
            return Err(ErrorData::missing_required_client_capability(GREETING.1.needed()));
        }
        Does::Changes(change) => {
            world.make(*change);
            done("It is changed.")
        }
        Does::Greets => {
            let name = arguments.get("name").and_then(Value::as_str).unwrap_or_default();
            done(&format!("Hello, {name}!"))
        }
        Does::Works(job) => return job.begin(&world.tasks, arguments, &capabilities).await,
        Does::AsksAndWorks(rounds, job) => match rounds.next(&world.seal, tool.name, carried, &capabilities)? {
            Next::Ask(question) => return Ok(question.into()),
            Next::Known(known) => {
                let name = known.into_values().collect::<Vec<_>>().join(" ");
                let arguments = JsonObject::from_iter([("name".to_owned(), Value::from(name))]);
                return job.begin(&world.tasks, arguments, &capabilities).await;
            }
        },
    };
    Ok(answer.into())
}

impl Tool {
    fn described(&self) -> Described {
        let schema = match (self.schema)() {
            Value::Object(schema) => schema,
            _ => JsonObject::new(),
        };
        Described::new(self.name, self.about, schema)
    }
}

fn text(words: &str) -> ContentBlock {
    ContentBlock::text(words)
}

fn done(words: &str) -> CallToolResult {
    CallToolResult::success(vec![text(words)])
}

fn failed(words: &str) -> CallToolResult {
    CallToolResult::error(vec![text(words)])
}

fn nothing() -> Value {
    json!({ "type": "object", "properties": {} })
}

fn one_text(name: &str, about: &str) -> Value {
    json!({ "type": "object", "properties": { name: { "type": "string", "description": about } }, "required": [name] })
}

fn rich() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {
            "address": {
                "$anchor": "addressDef",
                "type": "object",
                "properties": { "street": { "type": "string" }, "city": { "type": "string" } },
            },
        },
        "properties": {
            "name": { "type": "string" },
            "address": { "$ref": "#/$defs/address" },
            "contactMethod": { "type": "string", "enum": ["phone", "email"] },
            "phone": { "type": "string" },
            "email": { "type": "string" },
        },
        "allOf": [{ "anyOf": [{ "required": ["phone"] }, { "required": ["email"] }] }],
        "if": { "properties": { "contactMethod": { "const": "phone" } }, "required": ["contactMethod"] },
        "then": { "required": ["phone"] },
        "else": { "required": ["email"] },
        "additionalProperties": false,
    })
}

fn who(arguments: &JsonObject) -> (String, Value) {
    let message = arguments.get("message").and_then(Value::as_str).unwrap_or("Who are you?");
    let schema = json!({
        "type": "object",
        "properties": {
            "username": { "type": "string", "description": "User's response" },
            "email": { "type": "string", "description": "User's email address" },
        },
        "required": ["username", "email"],
    });
    (message.to_owned(), schema)
}

fn filled_in(_: &JsonObject) -> (String, Value) {
    let schema = json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "default": "John Doe" },
            "age": { "type": "integer", "default": 30 },
            "score": { "type": "number", "default": 95.5 },
            "status": { "type": "string", "enum": ["active", "inactive", "pending"], "default": "active" },
            "verified": { "type": "boolean", "default": true },
        },
    });
    ("Is this right?".to_owned(), schema)
}

fn choices(_: &JsonObject) -> (String, Value) {
    let options = ["option1", "option2", "option3"];
    let titled = |word: &str| {
        let titles = ["First", "Second", "Third"];
        let choices = titles
            .iter()
            .zip(1..)
            .map(|(title, number)| json!({ "const": format!("value{number}"), "title": format!("{title} {word}") }));
        Value::from_iter(choices)
    };
    let schema = json!({
        "type": "object",
        "properties": {
            "untitledSingle": { "type": "string", "enum": options },
            "titledSingle": { "type": "string", "oneOf": titled("Option") },
            "legacyEnum": {
                "type": "string",
                "enum": ["opt1", "opt2", "opt3"],
                "enumNames": ["Option One", "Option Two", "Option Three"],
            },
            "untitledMulti": { "type": "array", "items": { "type": "string", "enum": options } },
            "titledMulti": { "type": "array", "items": { "anyOf": titled("Choice") } },
        },
    });
    ("Which shall it be?".to_owned(), schema)
}
