//! What a client is asked. Up to 2025-11-25 the server sends the question as a request of its own; from 2026-07-28 on it
//! answers with the question, and is called again with what was said.

#![expect(deprecated, reason = "the suites still ask for sampling and roots")]

use rmcp::{
    ErrorData, RoleServer,
    model::{
        ClientCapabilities, ClientResult, CreateMessageRequest, CreateMessageRequestParams, CreateMessageResult,
        ElicitRequest, ElicitRequestParams, ElicitResult, InputRequest, ListRootsRequest, SamplingMessage,
        ServerRequest,
    },
    service::{Peer, ServiceError},
};
use serde_json::{Value, json};

/// A question that is the same in each call.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Question {
    /// A form with one field that has to be filled in: its name and its type.
    Form {
        message: &'static str,
        field: &'static str,
        of_type: &'static str,
    },
    /// Words for the client's model.
    Sample {
        prompt: &'static str,
        tokens: u32,
    },
    Roots,
}

impl Question {
    pub(crate) fn request(&self) -> Result<InputRequest, ErrorData> {
        Ok(match *self {
            Self::Form { message, field, of_type } => {
                let schema =
                    json!({ "type": "object", "properties": { field: { "type": of_type } }, "required": [field] });
                InputRequest::Elicitation(form(message, schema)?)
            }
            Self::Sample { prompt, tokens } => InputRequest::CreateMessage(sample(prompt, tokens)),
            Self::Roots => InputRequest::ListRoots(ListRootsRequest::default()),
        })
    }

    /// Whether a client of these capabilities may be asked.
    pub(crate) fn may_be_asked(&self, of: &ClientCapabilities) -> bool {
        match self {
            Self::Form { .. } => of.elicitation.is_some(),
            Self::Sample { .. } => of.sampling.is_some(),
            Self::Roots => of.roots.is_some(),
        }
    }

    /// What a client has to be able to, to be asked.
    pub(crate) fn needed(&self) -> ClientCapabilities {
        match self {
            Self::Form { .. } => ClientCapabilities::builder().enable_elicitation().build(),
            Self::Sample { .. } => ClientCapabilities::builder().enable_sampling().build(),
            Self::Roots => ClientCapabilities::builder().enable_roots().build(),
        }
    }

    /// What was said, as text; none if this is no answer to the question.
    pub(crate) fn said(&self, answer: &Value) -> Option<String> {
        match *self {
            Self::Form { field, of_type, .. } => {
                let accepted = answer.get("action").and_then(Value::as_str) == Some("accept");
                let value = answer.get("content").and_then(|content| content.get(field)).filter(|_| accepted)?;
                match (of_type, value) {
                    ("string", Value::String(text)) => Some(text.clone()),
                    ("boolean", Value::Bool(yes)) => Some(yes.to_string()),
                    _ => None,
                }
            }
            Self::Sample { .. } => answer.pointer("/content/text").and_then(Value::as_str).map(str::to_owned),
            Self::Roots => {
                let roots = answer.get("roots").and_then(Value::as_array)?;
                let uris = roots.iter().map(|root| root.get("uri").and_then(Value::as_str)).collect::<Option<Vec<_>>>();
                uris.map(|uris| uris.join(" "))
            }
        }
    }
}

fn form(message: &str, schema: Value) -> Result<ElicitRequest, ErrorData> {
    let params = json!({ "mode": "form", "message": message, "requestedSchema": schema });
    let params: ElicitRequestParams = serde_json::from_value(params)
        .map_err(|error| ErrorData::internal_error(format!("this is no form: {error}"), None))?;
    Ok(ElicitRequest::new(params))
}

fn sample(prompt: &str, tokens: u32) -> CreateMessageRequest {
    CreateMessageRequest::new(CreateMessageRequestParams::new(vec![SamplingMessage::user_text(prompt)], tokens))
}

/// Asks the client's user to fill in a form, by a request.
pub(crate) async fn elicit(
    peer: &Peer<RoleServer>,
    message: &str,
    schema: Value,
) -> Result<ElicitResult, ServiceError> {
    let request = form(message, schema).map_err(ServiceError::McpError)?;
    match peer.send_request(ServerRequest::ElicitRequest(request)).await? {
        ClientResult::ElicitResult(result) => Ok(result),
        _ => Err(ServiceError::UnexpectedResponse),
    }
}

/// Asks the client's model, by a request.
pub(crate) async fn ask_model(peer: &Peer<RoleServer>, prompt: &str) -> Result<CreateMessageResult, ServiceError> {
    match peer.send_request(ServerRequest::CreateMessageRequest(sample(prompt, 100))).await? {
        ClientResult::CreateMessageResult(result) => Ok(*result),
        _ => Err(ServiceError::UnexpectedResponse),
    }
}
