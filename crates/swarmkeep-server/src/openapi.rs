//! `/openapi.json`: the document, made from the table of routes and from the schemas in `openapi/schemas.json`.
//!
//! The engine's types know nothing of schemas (they live in crates without such a dependency), so the schemas are written
//! down; tests hold them to what the types really take and give.

use std::collections::BTreeMap;

use axum::http::{Method, StatusCode};
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, HttpMethod, InfoBuilder, LicenseBuilder, ObjectBuilder, OpenApi, OpenApiBuilder,
    PathItem, Paths, Ref, RefOr, Required, ResponseBuilder, Schema, Type,
    path::{Operation, OperationBuilder, ParameterBuilder, ParameterIn},
    request_body::RequestBodyBuilder,
    security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme},
};

use crate::{
    api::{Api, Content, Op},
    problem,
    wire::{Answer, Call, json_bytes},
};

const SCHEMAS: &str = include_str!("openapi/schemas.json");

pub(crate) fn routes(api: Api) -> Api {
    api.get("/openapi.json", document_route, Op::read("openapi", "This document", Content::AnyJson))
}

async fn document_route(call: Call) -> Answer {
    Ok(json_bytes(StatusCode::OK, call.app.document(), None))
}

/// The document's bytes.
pub(crate) fn document(operations: &[(Method, &'static str, Op)]) -> Vec<u8> {
    serde_json::to_vec(&build(operations)).unwrap_or_default()
}

fn build(operations: &[(Method, &'static str, Op)]) -> OpenApi {
    let mut paths = Paths::new();
    for (method, path, op) in operations {
        let Some(method) = http_method(method) else { continue };
        let item = PathItem::new(method, operation(path, op));
        match paths.paths.get_mut(*path) {
            Some(there) => there.merge_operations(item),
            None => {
                paths.paths.insert((*path).to_owned(), item);
            }
        }
    }
    let mut components =
        ComponentsBuilder::new().security_scheme("token", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    for (name, schema) in schemas() {
        components = components.schema(name, schema);
    }
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("swarmkeep")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(
                    "Durable sessions for agent swarms. A write is acknowledged when it survives power loss. Give every write an \
                     `Idempotency-Key`, and repeat it with the same one when an answer did not come.",
                ))
                .license(Some(LicenseBuilder::new().name("MIT OR Apache-2.0").build()))
                .build(),
        )
        .paths(paths)
        .components(Some(components.build()))
        .security(Some([SecurityRequirement::default(), SecurityRequirement::new("token", Vec::<String>::new())]))
        .build()
}

fn http_method(method: &Method) -> Option<HttpMethod> {
    Some(match method.as_str() {
        "GET" => HttpMethod::Get,
        "POST" => HttpMethod::Post,
        "PUT" => HttpMethod::Put,
        "PATCH" => HttpMethod::Patch,
        "DELETE" => HttpMethod::Delete,
        _ => return None,
    })
}

/// The schemas, with the problem codes filled in from where they are defined.
fn schemas() -> BTreeMap<String, RefOr<Schema>> {
    let mut tree: serde_json::Value = serde_json::from_str(SCHEMAS).unwrap_or_default();
    if let Some(codes) = tree.pointer_mut("/Problem/properties/code/enum") {
        *codes = problem::CODES.iter().map(|(code, ..)| serde_json::Value::from(*code)).collect();
    }
    // A test sees to it that this works for the file that is compiled in.
    serde_json::from_value(tree).unwrap_or_default()
}

fn operation(path: &str, op: &Op) -> Operation {
    let mut operation = OperationBuilder::new().operation_id(Some(op.id)).summary(Some(op.summary)).tag(tag(path));
    for name in path.split('{').skip(1).filter_map(|rest| rest.split('}').next()) {
        operation = operation.parameter(
            ParameterBuilder::new()
                .name(name)
                .parameter_in(ParameterIn::Path)
                .required(Required::True)
                .schema(Some(of_type(Type::String))),
        );
    }
    for (name, kind, what) in op.query {
        let kind = if *kind == "integer" { Type::Integer } else { Type::String };
        operation = operation.parameter(parameter(name, ParameterIn::Query, what, kind));
    }
    if op.writes {
        for (name, what) in [
            (
                "Idempotency-Key",
                "The request id: `client:counter`, or a key of one's own. The same again is answered, not carried out again.",
            ),
            ("Swarmkeep-Actor", "Who does it."),
            ("Swarmkeep-Durability", "`relaxed`: acknowledge before it is durable."),
        ] {
            operation = operation.parameter(parameter(name, ParameterIn::Header, what, Type::String));
        }
        if !op.if_match.is_empty() {
            operation = operation.parameter(parameter("If-Match", ParameterIn::Header, op.if_match, Type::String));
        }
    }
    if let Some(body) = op.body {
        let (media, content) = content(body);
        operation = operation.request_body(Some(RequestBodyBuilder::new().content(media, content).build()));
    }
    let (media, body) = content(op.answer);
    let answer = match op.answer {
        Content::Socket(_) => {
            ResponseBuilder::new().description("The connection is a WebSocket now; its text frames are of this schema")
        }
        _ => ResponseBuilder::new().description("Done"),
    };
    let status = if matches!(op.answer, Content::Socket(_)) { 101 } else { op.status };
    operation = operation.response(status.to_string(), answer.content(media, body).build());
    let problem = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    operation
        .response(
            "default",
            ResponseBuilder::new()
                .description("Not done; `code` says why: ".to_owned() + &codes())
                .content("application/problem+json", problem)
                .build(),
        )
        .build()
}

fn codes() -> String {
    let codes: Vec<String> = problem::CODES.iter().map(|(code, status, _)| format!("{code} ({status})")).collect();
    codes.join(", ")
}

/// What a path is about: its last part that is not a parameter, below the session.
fn tag(path: &str) -> &str {
    let below = path.strip_prefix("/v1/sessions/{namespace}/{name}/").and_then(|below| below.split('/').next());
    match below {
        Some(part @ ("agents" | "tasks" | "messages" | "memory" | "effects" | "metrics" | "blobs" | "feed")) => part,
        Some("commands" | "records" | "state" | "diff") => "log",
        Some(_) => "sessions",
        None if path.starts_with("/v1/sessions") => "sessions",
        None => "store",
    }
}

fn of_type(kind: Type) -> RefOr<Schema> {
    ObjectBuilder::new().schema_type(kind).into()
}

fn parameter(name: &str, place: ParameterIn, what: &str, kind: Type) -> ParameterBuilder {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(Required::False)
        .description(Some(what))
        .schema(Some(of_type(kind)))
}

fn content(content: Content) -> (&'static str, utoipa::openapi::Content) {
    let of = |name: &str| ContentBuilder::new().schema(Some(Ref::from_schema_name(name))).build();
    match content {
        Content::Json(name) | Content::Socket(name) => ("application/json", of(name)),
        Content::AnyJson => ("application/json", of("Json")),
        Content::Lines(name) => ("application/x-ndjson", of(name)),
        Content::Events(name) => ("text/event-stream", of(name)),
        Content::Bytes => {
            ("application/octet-stream", ContentBuilder::new().schema(Some(of_type(Type::String))).build())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Problem;

    #[test]
    fn the_schemas_are_read_whole() {
        let tree: serde_json::Value = serde_json::from_str(SCHEMAS).unwrap();
        assert_eq!(schemas().len(), tree.as_object().unwrap().len());
        assert!(schemas().len() > 50);
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_schema_is_used() {
        let document: serde_json::Value = serde_json::from_slice(&document(&crate::routes().operations)).unwrap();
        let known = document["components"]["schemas"].as_object().unwrap();
        let mut used = std::collections::BTreeSet::new();
        fn walk(value: &serde_json::Value, used: &mut std::collections::BTreeSet<String>) {
            match value {
                serde_json::Value::Object(fields) => {
                    if let Some(target) = fields.get("$ref").and_then(|target| target.as_str()) {
                        used.insert(target.rsplit('/').next().unwrap().to_owned());
                    }
                    fields.values().for_each(|value| walk(value, used));
                }
                serde_json::Value::Array(items) => items.iter().for_each(|value| walk(value, used)),
                _ => {}
            }
        }
        walk(&document, &mut used);
        for name in &used {
            assert!(known.contains_key(name), "`{name}` is referred to and not there");
        }
        for name in known.keys() {
            assert!(used.contains(name), "`{name}` is there and never referred to");
        }
    }

    #[test]
    fn every_problem_has_a_code_in_the_document() {
        for (code, status, _) in problem::CODES {
            assert_eq!(Problem::new(code, "x").status().as_u16(), *status);
            assert_eq!(Problem::new(code, "x").code(), *code);
        }
    }
}
