//! What a request of revision 2026-07-28 and later repeats of its body in headers, for whatever stands between: its method,
//! what it names, and the arguments that a tool's schema marks with `x-mcp-header`.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::Value;

use crate::envelope::Envelope;

/// Before the name that a schema gives.
pub(crate) const PARAM: &str = "mcp-param-";
/// Around a value that a header cannot carry as it is.
const CODED: (&str, &str) = ("=?base64?", "?=");
/// Tools whose schemas are remembered.
const TOOLS: usize = 4_096;

/// What a request names: a tool, a prompt, a resource, a task.
pub(crate) fn name(message: &Envelope) -> Option<String> {
    let text = |member: &str| serde_json::from_str(message.param(member)?).ok();
    match message.method()? {
        "tools/call" | "prompts/get" => message.name().map(str::to_owned),
        "resources/read" => text("uri"),
        "tasks/get" | "tasks/update" | "tasks/cancel" => text("taskId"),
        _ => None,
    }
}

/// As a header carries it.
pub(crate) fn encoded(value: &str) -> String {
    let is_plain = value.bytes().all(|byte| (0x20..0x7f).contains(&byte)) && value.trim() == value;
    let is_taken_for_coded = value.starts_with(CODED.0) && value.ends_with(CODED.1);
    if is_plain && !is_taken_for_coded {
        return value.to_owned();
    }
    format!("{}{}{}", CODED.0, BASE64_STANDARD.encode(value), CODED.1)
}

/// What a header carries; `None`: it is no base64, or no text.
pub(crate) fn decoded(value: &str) -> Option<String> {
    match value.strip_prefix(CODED.0).and_then(|value| value.strip_suffix(CODED.1)) {
        Some(coded) => String::from_utf8(BASE64_STANDARD.decode(coded).ok()?).ok(),
        None => Some(value.to_owned()),
    }
}

/// Arguments that are repeated in headers, by tool: where each is, and its header.
#[derive(Debug, Default)]
pub(crate) struct Params {
    tools: BTreeMap<String, Vec<(Vec<String>, String)>>,
}

impl Params {
    /// Reads an answer to `tools/list`, a page of it; any other adds nothing.
    pub(crate) fn learn(&mut self, answer: &Envelope) {
        let Some(tools) =
            answer.result_member("tools").and_then(|tools| serde_json::from_str::<Vec<Value>>(tools).ok())
        else {
            return;
        };
        for tool in tools {
            let Some(name) = tool.get("name").and_then(Value::as_str) else { continue };
            let mut marked = Vec::new();
            mark(tool.pointer("/inputSchema/properties"), &mut Vec::new(), &mut marked);
            if marked.is_empty() {
                self.tools.remove(name);
            } else if self.tools.len() < TOOLS {
                self.tools.insert(name.to_owned(), marked);
            }
        }
    }

    /// The headers of a call, and what each has to say; `None`: the argument is not there, and neither may the header be.
    pub(crate) fn of(&self, call: &Envelope) -> Vec<(String, Option<String>)> {
        let marked = call.name().filter(|_| call.method() == Some("tools/call")).and_then(|name| self.tools.get(name));
        let Some(marked) = marked else { return Vec::new() };
        let arguments = call.param("arguments").and_then(|arguments| serde_json::from_str::<Value>(arguments).ok());
        let value = |path: &[String]| {
            let value = path.iter().try_fold(arguments.as_ref()?, |value, key| value.get(key))?;
            match value {
                Value::String(text) => Some(text.clone()),
                Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
                _ => None,
            }
        };
        marked.iter().map(|(path, header)| (format!("{PARAM}{header}"), value(path))).collect()
    }
}

/// Along `properties` alone.
fn mark(properties: Option<&Value>, path: &mut Vec<String>, marked: &mut Vec<(Vec<String>, String)>) {
    for (name, schema) in properties.and_then(Value::as_object).into_iter().flatten() {
        path.push(name.clone());
        if let Some(header) = schema.get("x-mcp-header").and_then(Value::as_str).filter(|header| !header.is_empty()) {
            marked.push((path.clone(), header.to_ascii_lowercase()));
        }
        mark(schema.get("properties"), path, marked);
        path.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_as_they_were() {
        for value in ["plain", " padded ", "größe", "", "=?base64?x?=", "a\nb"] {
            let coded = encoded(value);
            assert!(coded.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{coded}");
            assert_eq!(decoded(&coded).as_deref(), Some(value));
        }
        assert_eq!(decoded("=?base64?!?="), None);
        assert_eq!(encoded("plain"), "plain");
    }

    #[test]
    fn marked_arguments_are_found_wherever_they_stand() {
        let mut params = Params::default();
        let list = r#"{"id":1,"result":{"tools":[{"name":"t","inputSchema":{"type":"object","properties":{
            "region":{"type":"string","x-mcp-header":"Region"},"other":{"type":"string"},
            "deep":{"type":"object","properties":{"n":{"type":"integer","x-mcp-header":"N"}}}}}},{"name":"u"}]}}"#;
        params.learn(&Envelope::parse(list.replace('\n', " ")).unwrap());
        let of = |text: &str| params.of(&Envelope::parse(text.to_owned()).unwrap());
        let call = r#"{"id":1,"method":"tools/call","params":{"name":"t","arguments":{"region":"eu","deep":{"n":7}}}}"#;
        let both = |region: Option<&str>, n: Option<&str>| {
            let owned = |value: Option<&str>| value.map(str::to_owned);
            vec![("mcp-param-n".to_owned(), owned(n)), ("mcp-param-region".to_owned(), owned(region))]
        };
        assert_eq!(of(call), both(Some("eu"), Some("7")));
        let call = r#"{"id":1,"method":"tools/call","params":{"name":"t","arguments":{"region":null}}}"#;
        assert_eq!(of(call), both(None, None));
        assert_eq!(of(r#"{"id":1,"method":"tools/call","params":{"name":"u","arguments":{}}}"#), vec![]);
        assert_eq!(of(r#"{"id":1,"method":"prompts/get","params":{"name":"t"}}"#), vec![]);
    }
}
