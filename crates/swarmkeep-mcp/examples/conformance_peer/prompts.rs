//! Prompts: plain, with arguments, with a resource, with a picture, and one that asks before it is got.

use rmcp::{
    ErrorData,
    model::{
        ClientCapabilities, CompleteResult, CompletionInfo, ContentBlock, GetPromptRequestParams, GetPromptResponse,
        GetPromptResult, JsonObject, Prompt, PromptArgument, PromptMessage, Reference, ResourceContents, Role,
    },
};
use serde_json::Value;

use crate::{
    change::World,
    question::Question,
    rounds::{Next, Rounds},
    sample,
};

const SIMPLE: &str = "test_simple_prompt";
const WITH_ARGUMENTS: &str = "test_prompt_with_arguments";
const WITH_RESOURCE: &str = "test_prompt_with_embedded_resource";
const WITH_IMAGE: &str = "test_prompt_with_image";
const ASKING: &str = "test_input_required_result_prompt";
/// Comes and goes.
const MORE: &str = "test_dynamic_prompt";

/// What the first argument is completed to.
const WORDS: &[&str] = &["paris", "park", "party", "test", "testing", "tested"];

const CONTEXT: Rounds = Rounds {
    rounds: &[&[(
        "user_context",
        Question::Form { message: "What context should the prompt use?", field: "context", of_type: "string" },
    )]],
    has_state: false,
};

pub(crate) fn all(world: &World) -> Vec<Prompt> {
    let required = |name: &str, about: &str| PromptArgument::new(name).with_description(about).with_required(true);
    let mut prompts = vec![
        Prompt::new(SIMPLE, Some("A prompt without arguments"), None),
        Prompt::new(
            WITH_ARGUMENTS,
            Some("A prompt that says its arguments"),
            Some(vec![required("arg1", "The first argument"), required("arg2", "The second argument")]),
        ),
        Prompt::new(
            WITH_RESOURCE,
            Some("A prompt with a resource in it"),
            Some(vec![required("resourceUri", "The resource that is put in")]),
        ),
        Prompt::new(WITH_IMAGE, Some("A prompt with a picture"), None),
        Prompt::new(ASKING, Some("A prompt that asks for its context first"), None),
    ];
    if world.has_more_prompts() {
        prompts.push(Prompt::new(MORE, Some("A prompt that comes and goes"), None));
    }
    prompts
}

pub(crate) fn get(
    world: &World,
    request: &GetPromptRequestParams,
    capabilities: &ClientCapabilities,
) -> Result<GetPromptResponse, ErrorData> {
    let said = |text: String| PromptMessage::new_text(Role::User, text);
    let shown = |content| PromptMessage::new(Role::User, content);
    let none = JsonObject::new();
    let arguments = request.arguments.as_ref().unwrap_or(&none);
    let messages = match request.name.as_str() {
        SIMPLE => vec![said("This is a simple prompt for testing.".to_owned())],
        WITH_ARGUMENTS => {
            let (first, second) = (argument(arguments, "arg1")?, argument(arguments, "arg2")?);
            vec![said(format!("Prompt with arguments: arg1='{first}', arg2='{second}'"))]
        }
        WITH_RESOURCE => {
            let resource =
                ResourceContents::text("Embedded resource content for testing.", argument(arguments, "resourceUri")?);
            vec![
                shown(ContentBlock::resource(resource.with_mime_type("text/plain"))),
                said("Please process the embedded resource above.".to_owned()),
            ]
        }
        WITH_IMAGE => vec![
            shown(ContentBlock::image(sample::PNG, "image/png")),
            said("Please analyze the image above.".to_owned()),
        ],
        ASKING => {
            let carried = (request.input_responses.as_ref(), request.request_state.as_deref());
            match CONTEXT.next(&world.seal, ASKING, carried, capabilities)? {
                Next::Ask(question) => return Ok(question.into()),
                Next::Known(known) => {
                    let context = known.into_values().collect::<Vec<_>>().join(" ");
                    vec![said(format!("Prompt in the context: {context}"))]
                }
            }
        }
        MORE if world.has_more_prompts() => vec![said("This prompt will be gone again.".to_owned())],
        name => return Err(ErrorData::invalid_params(format!("there is no prompt `{name}`"), None)),
    };
    Ok(GetPromptResult::new(messages).into())
}

fn argument<'a>(arguments: &'a JsonObject, name: &str) -> Result<&'a str, ErrorData> {
    let argument = arguments.get(name).and_then(Value::as_str);
    argument.ok_or_else(|| ErrorData::invalid_params(format!("argument `{name}` is missing"), None))
}

/// Words that a prompt's argument, or a template's id, may go on with.
pub(crate) fn complete(reference: &Reference, begun: &str) -> Result<CompleteResult, ErrorData> {
    let words = match reference {
        Reference::Prompt(prompt) if prompt.name == WITH_ARGUMENTS => WORDS,
        _ => &[],
    };
    let fitting = words.iter().filter(|word| word.starts_with(begun)).map(|word| (*word).to_owned()).collect();
    let completion = CompletionInfo::with_all_values(fitting).map_err(|why| ErrorData::internal_error(why, None))?;
    Ok(CompleteResult::new(completion))
}
