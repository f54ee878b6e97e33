//! Resources: a text, a picture, a template, and one that is written to.

use rmcp::{
    ErrorData,
    model::{ReadResourceResult, Resource, ResourceContents, ResourceTemplate},
};
use serde_json::json;

use crate::{
    change::{WATCHED, World},
    sample,
};

const TEXT: &str = "test://static-text";
const BINARY: &str = "test://static-binary";
/// What the template has before and after the id.
const TEMPLATE: (&str, &str) = ("test://template/", "/data");

pub(crate) fn all() -> Vec<Resource> {
    let resource =
        |uri, name, about, mime_type| Resource::new(uri, name).with_description(about).with_mime_type(mime_type);
    vec![
        resource(TEXT, "static-text", "A text that stays as it is", "text/plain"),
        resource(BINARY, "static-binary", "A picture that stays as it is", "image/png"),
        resource(WATCHED, "watched-resource", "How often it was written to", "text/plain"),
    ]
}

pub(crate) fn templates() -> Vec<ResourceTemplate> {
    let (before, after) = TEMPLATE;
    vec![
        ResourceTemplate::new(format!("{before}{{id}}{after}"), "template")
            .with_description("Data of any id")
            .with_mime_type("application/json"),
    ]
}

pub(crate) fn read(world: &World, uri: &str) -> Result<ReadResourceResult, ErrorData> {
    let (before, after) = TEMPLATE;
    let contents = match uri {
        TEXT => {
            ResourceContents::text("This is the content of the static text resource.", uri).with_mime_type("text/plain")
        }
        BINARY => ResourceContents::blob(sample::PNG, uri).with_mime_type("image/png"),
        WATCHED => {
            ResourceContents::text(format!("written {} times", world.written()), uri).with_mime_type("text/plain")
        }
        _ => match uri.strip_prefix(before).and_then(|rest| rest.strip_suffix(after)).filter(|id| !id.is_empty()) {
            Some(id) => {
                let data = json!({ "id": id, "templateTest": true, "data": format!("Data for ID: {id}") });
                ResourceContents::text(data.to_string(), uri).with_mime_type("application/json")
            }
            None => {
                let data = json!({ "uri": uri });
                return Err(ErrorData::resource_not_found("there is no such resource", Some(data)));
            }
        },
    };
    Ok(ReadResourceResult::new(vec![contents]))
}
