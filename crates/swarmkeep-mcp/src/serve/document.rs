//! The API's own document (OpenAPI), read: which operations there are, what each takes and answers.

use std::collections::BTreeMap;

use axum::http::Method;
use serde_json::{Map, Value};

use super::api::Problem;

/// Where the document keeps its schemas, and where a schema that stands alone does.
const SCHEMAS: &str = "#/components/schemas/";
const DEFINITIONS: &str = "#/$defs/";

/// An object of JSON.
pub(super) type Object = Map<String, Value>;

/// All operations, by their ids, and the schemas they refer to.
#[derive(Debug)]
pub(super) struct Document {
    operations: BTreeMap<String, Operation>,
    schemas: Object,
}

/// One operation.
#[derive(Debug, Clone)]
pub(super) struct Operation {
    pub(super) method: Method,
    /// With its parameters in braces.
    pub(super) path: String,
    pub(super) summary: String,
    /// Parameters of the query string: name and schema.
    pub(super) query: Vec<(String, Value)>,
    /// It writes records: it takes a request id and an actor.
    pub(super) writes: bool,
    /// What `If-Match` is about, where it is taken.
    pub(super) if_match: Option<String>,
    /// Schema of the body, where there is one.
    pub(super) body: Option<String>,
    /// Schema of the answer.
    pub(super) answer: String,
}

impl Document {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Problem> {
        let whole: Value = serde_json::from_slice(bytes)
            .map_err(|error| Problem::new("internal", format!("the API's document is not JSON: {error}")))?;
        let mut operations = BTreeMap::new();
        for (path, methods) in whole.get("paths").and_then(Value::as_object).into_iter().flatten() {
            for (method, operation) in methods.as_object().into_iter().flatten() {
                let Ok(method) = Method::from_bytes(method.to_ascii_uppercase().as_bytes()) else { continue };
                let Some(id) = operation.get("operationId").and_then(Value::as_str) else { continue };
                operations.insert(id.to_owned(), Operation::read(method, path, operation));
            }
        }
        let schemas = whole.pointer("/components/schemas").and_then(Value::as_object).cloned().unwrap_or_default();
        Ok(Self { operations, schemas })
    }

    pub(super) fn operation(&self, id: &str) -> Result<&Operation, Problem> {
        self.operations.get(id).ok_or_else(|| Problem::new("internal", format!("the API has no operation `{id}`")))
    }

    /// The fields of a body, each with its schema written out, and which of them there must be.
    pub(super) fn fields(&self, schema: &str) -> (Vec<(String, Value)>, Vec<String>) {
        let Some(schema) = self.schemas.get(schema) else { return Default::default() };
        let fields = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
        let fields = fields.map(|(name, field)| (name.clone(), self.written_out(field, 0))).collect();
        let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
        (fields, required.filter_map(Value::as_str).map(str::to_owned).collect())
    }

    /// A schema for an argument: no references, no `null` beside what may be left out, no list of all types.
    fn written_out(&self, schema: &Value, depth: usize) -> Value {
        // The document's bodies are a few levels deep; a reference to itself would be a fault in it.
        if depth > 8 {
            return Value::Object(Object::new());
        }
        match schema {
            Value::Object(fields) => {
                let mut out = Object::new();
                if let Some(name) = fields.get("$ref").and_then(Value::as_str).and_then(|to| to.strip_prefix(SCHEMAS))
                    && let Some(Value::Object(meant)) =
                        self.schemas.get(name).map(|meant| self.written_out(meant, depth + 1))
                {
                    out = meant;
                }
                for (key, value) in fields {
                    match (key.as_str(), value) {
                        ("$ref" | "format", _) => {}
                        ("type", Value::Array(types)) => {
                            let types: Vec<&Value> = types.iter().filter(|kind| *kind != "null").collect();
                            // All of them: anything goes, and no type says that.
                            if let [one] = types.as_slice() {
                                out.insert("type".to_owned(), (*one).clone());
                            }
                        }
                        ("oneOf", Value::Array(ways)) => {
                            let ways: Vec<&Value> = ways
                                .iter()
                                .filter(|way| way.get("type").and_then(Value::as_str) != Some("null"))
                                .collect();
                            match ways.as_slice() {
                                [Value::Object(one)] => {
                                    if let Value::Object(one) = self.written_out(&Value::Object(one.clone()), depth + 1)
                                    {
                                        out.extend(one);
                                    }
                                }
                                ways => {
                                    let ways = ways.iter().map(|way| self.written_out(way, depth + 1)).collect();
                                    out.insert("oneOf".to_owned(), Value::Array(ways));
                                }
                            }
                        }
                        (key, value) => {
                            out.insert(key.to_owned(), self.written_out(value, depth + 1));
                        }
                    }
                }
                // What is said of the field itself says more than what is said of its kind.
                if let Some(says) = fields.get("description") {
                    out.insert("description".to_owned(), says.clone());
                }
                Value::Object(out)
            }
            Value::Array(all) => Value::Array(all.iter().map(|one| self.written_out(one, depth + 1)).collect()),
            other => other.clone(),
        }
    }

    /// A schema that stands alone: itself, and in `$defs` what it refers to, in short: a client lists all tools at once.
    pub(super) fn alone(&self, name: &str) -> Object {
        let mut definitions = Object::new();
        let mut to_do = vec![name.to_owned()];
        while let Some(next) = to_do.pop() {
            if definitions.contains_key(&next) {
                continue;
            }
            let mut schema = self.schemas.get(&next).cloned().unwrap_or_default();
            refer_to_definitions(&mut schema, &mut to_do);
            if next != name {
                shorten(&mut schema, false);
            }
            definitions.insert(next, schema);
        }
        let mut whole = match definitions.remove(name) {
            Some(Value::Object(whole)) => whole,
            _ => Object::new(),
        };
        whole.insert("type".to_owned(), "object".into());
        if !definitions.is_empty() {
            whole.insert("$defs".to_owned(), Value::Object(definitions));
        }
        whole
    }
}

/// Takes out of a schema what says nothing about which values fit, or too little for its length.
fn shorten(schema: &mut Value, is_names: bool) {
    match schema {
        Value::Object(fields) => {
            if !is_names {
                fields.retain(|key, _| {
                    !matches!(key.as_str(), "description" | "format" | "minimum" | "pattern" | "additionalProperties")
                });
            }
            // Below `properties` a key is somebody's name for something, whatever it is.
            fields.iter_mut().for_each(|(key, value)| shorten(value, !is_names && key == "properties"));
        }
        Value::Array(all) => all.iter_mut().for_each(|one| shorten(one, false)),
        _ => {}
    }
}

/// Points references at `$defs`, and notes what they point at.
fn refer_to_definitions(schema: &mut Value, found: &mut Vec<String>) {
    match schema {
        Value::Object(fields) => {
            for (key, value) in fields.iter_mut() {
                match value {
                    Value::String(to) if key == "$ref" => {
                        if let Some(name) = to.strip_prefix(SCHEMAS).map(str::to_owned) {
                            *to = format!("{DEFINITIONS}{name}");
                            found.push(name);
                        }
                    }
                    value => refer_to_definitions(value, found),
                }
            }
        }
        Value::Array(all) => all.iter_mut().for_each(|one| refer_to_definitions(one, found)),
        _ => {}
    }
}

impl Operation {
    fn read(method: Method, path: &str, operation: &Value) -> Self {
        let mut query = Vec::new();
        let (mut writes, mut if_match) = (false, None);
        for parameter in operation.get("parameters").and_then(Value::as_array).into_iter().flatten() {
            let text = |name: &str| parameter.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            match text("in").as_str() {
                "query" => {
                    let mut schema = parameter.get("schema").and_then(Value::as_object).cloned().unwrap_or_default();
                    schema.insert("description".to_owned(), text("description").into());
                    query.push((text("name"), Value::Object(schema)));
                }
                "header" if text("name") == "Idempotency-Key" => writes = true,
                "header" if text("name") == "If-Match" => if_match = Some(text("description")),
                _ => {}
            }
        }
        let schema_of = |content: Option<&Value>| {
            let to = content?.as_object()?.values().next()?.pointer("/schema/$ref")?.as_str()?;
            to.strip_prefix(SCHEMAS).map(str::to_owned)
        };
        let answers = operation.get("responses").and_then(Value::as_object);
        let answer = answers.and_then(|answers| answers.iter().find(|(status, _)| status.starts_with('2')));
        Self {
            method,
            path: path.to_owned(),
            summary: operation.get("summary").and_then(Value::as_str).unwrap_or_default().to_owned(),
            query,
            writes,
            if_match,
            body: schema_of(operation.pointer("/requestBody/content")),
            answer: schema_of(answer.and_then(|(_, answer)| answer.get("content"))).unwrap_or_default(),
        }
    }

    /// Names of the path's parameters.
    pub(super) fn places(&self) -> impl Iterator<Item = &str> {
        self.path.split('{').skip(1).filter_map(|rest| rest.split('}').next())
    }
}
