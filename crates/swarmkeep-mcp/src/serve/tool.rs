//! A tool, as a line of a table: which operation of the API it is, what it is called, and what is true of it.
//!
//! Its schemas come from the API's document: arguments are the operation's parameters and the fields of its body, under the
//! names that the API has for them; the structured result is the operation's answer.

use rmcp::model::{Tool as Described, ToolAnnotations};
use serde_json::Value;

use super::{
    api::Problem,
    document::{Document, Object, Operation},
};

/// A tool.
#[derive(Debug)]
pub(super) struct Tool {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    /// What a model has to know to use it, beside its schema.
    pub(super) says: &'static str,
    /// The operations it may come to; the first whose condition holds.
    pub(super) routes: &'static [Route],
    pub(super) nature: Nature,
    /// The API's name for something, and the tool's.
    pub(super) renamed: &'static [(&'static str, &'static str)],
    /// Arguments that may be left out though the API wants them.
    pub(super) defaults: &'static [(&'static str, &'static str)],
    /// What the API would take and the tool does not.
    pub(super) hidden: &'static [&'static str],
    /// Parameters of the query string that the API wants, which its document does not say.
    pub(super) needed: &'static [&'static str],
    /// May take minutes: a client that knows tasks gets one.
    pub(super) is_long: bool,
}

/// An operation, and when it is the one.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) when: When,
    /// Its id in the document.
    pub(super) operation: &'static str,
}

/// When an operation is the one.
#[derive(Debug, Clone, Copy)]
pub(super) enum When {
    Always,
    /// This argument is given.
    Given(&'static str),
    /// This argument, which is the tool's own, has this value.
    Is(&'static str, &'static str),
}

/// What a tool does to what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nature {
    /// Nothing.
    Reads,
    /// It adds: nothing that was there is ended or replaced.
    Adds,
    /// It ends or replaces something. (The log keeps what was; a rewind brings it back into the state.)
    Replaces,
    /// It gives something up for good, or what it does again is done again.
    Decides,
}

impl Tool {
    /// As most are: one operation, nothing renamed.
    pub(super) const fn new(
        name: &'static str,
        title: &'static str,
        nature: Nature,
        routes: &'static [Route],
        says: &'static str,
    ) -> Self {
        Self {
            name,
            title,
            says,
            routes,
            nature,
            renamed: &[],
            defaults: &[],
            hidden: &[],
            needed: &[],
            is_long: false,
        }
    }

    pub(super) const fn renamed(mut self, renamed: &'static [(&'static str, &'static str)]) -> Self {
        self.renamed = renamed;
        self
    }

    pub(super) const fn defaults(mut self, defaults: &'static [(&'static str, &'static str)]) -> Self {
        self.defaults = defaults;
        self
    }

    pub(super) const fn hidden(mut self, hidden: &'static [&'static str]) -> Self {
        self.hidden = hidden;
        self
    }

    pub(super) const fn needed(mut self, needed: &'static [&'static str]) -> Self {
        self.needed = needed;
        self
    }

    pub(super) const fn long(mut self) -> Self {
        self.is_long = true;
        self
    }

    /// What the tool calls something that the API calls `name`.
    pub(super) fn argument<'a>(&self, name: &'a str) -> &'a str {
        self.renamed.iter().find(|(api, _)| *api == name).map_or(name, |(_, tool)| tool)
    }

    pub(super) fn default(&self, argument: &str) -> Option<&'static str> {
        self.defaults.iter().find(|(name, _)| *name == argument).map(|(_, value)| *value)
    }

    /// Whether a parameter or field is none of the tool's arguments.
    pub(super) fn hides(&self, operation: &Operation, name: &str) -> bool {
        // What goes around every write is the same for all of them, wherever the API takes it.
        (operation.writes && matches!(name, "actor" | "request_id")) || self.hidden.contains(&name)
    }

    /// The operation that these arguments come to.
    pub(super) fn route<'a>(&self, document: &'a Document, given: &Object) -> Result<&'a Operation, Problem> {
        let is = |route: &&Route| match route.when {
            When::Always => true,
            When::Given(argument) => given.contains_key(argument),
            When::Is(argument, value) => given.get(argument).and_then(Value::as_str) == Some(value),
        };
        match self.routes.iter().find(is) {
            Some(route) => document.operation(route.operation),
            None => {
                let argument = self.choice().map_or("", |(argument, _)| argument);
                let known: Vec<&str> = self.choice().into_iter().flat_map(|(_, known)| known).collect();
                Err(Problem::invalid(format!("argument `{argument}`: use one of {}", known.join(", "))))
            }
        }
    }

    /// The argument that says which operation it is, and what it may say.
    pub(super) fn choice(&self) -> Option<(&'static str, Vec<&'static str>)> {
        let mut choice: Option<(&str, Vec<&str>)> = None;
        for route in self.routes {
            if let When::Is(argument, value) = route.when {
                choice.get_or_insert((argument, Vec::new())).1.push(value);
            }
        }
        choice
    }

    /// As a client sees it.
    pub(super) fn described(&self, document: &Document) -> Result<Described, Problem> {
        let mut schema = Arguments::default();
        let mut answer = "";
        let mut summary = "";
        if let Some((argument, known)) = self.choice() {
            schema.add(argument, serde_json::json!({ "type": "string", "enum": known }), true);
        }
        for (nth, route) in self.routes.iter().enumerate() {
            let operation = document.operation(route.operation)?;
            (answer, summary) = (&operation.answer, &operation.summary);
            // What only some of the operations must have, all of them may have.
            let mut these = self.arguments(document, operation);
            if let When::Given(argument) = route.when {
                these.required.retain(|name| name != argument);
            }
            if nth == 0 {
                let chosen = std::mem::take(&mut schema.required);
                schema.required = [chosen, these.required.clone()].concat();
            }
            schema
                .required
                .retain(|name| these.required.contains(name) || self.choice().is_some_and(|(a, _)| a == name));
            for (name, value) in these.fields {
                schema.fields.entry(name).or_insert(value);
            }
        }
        let says = if self.says.is_empty() { summary } else { self.says };
        let hints = ToolAnnotations::with_title(self.title)
            .read_only(self.nature == Nature::Reads)
            .destructive(matches!(self.nature, Nature::Replaces | Nature::Decides))
            .idempotent(self.nature != Nature::Decides)
            .open_world(false);
        Ok(Described::new(self.name, says.to_owned(), schema.object())
            .with_title(self.title)
            .with_raw_output_schema(document.alone(answer).into())
            .with_annotations(hints))
    }

    /// What an operation takes, under the tool's names.
    pub(super) fn arguments(&self, document: &Document, operation: &Operation) -> Arguments {
        let mut schema = Arguments::default();
        let places: Vec<&str> = operation.places().collect();
        if places.contains(&"namespace") {
            schema.add("session", session_schema(), true);
        }
        for place in places.iter().filter(|place| !matches!(**place, "namespace" | "name")) {
            let argument = self.argument(place);
            let mut id = serde_json::json!({ "type": "string", "minLength": 1, "maxLength": 256 });
            let default = self.default(argument);
            if let (Some(default), Some(id)) = (default, id.as_object_mut()) {
                id.insert("default".to_owned(), default.into());
            }
            schema.add(argument, id, default.is_none());
        }
        for (name, value) in operation.query.iter().filter(|(name, _)| !self.hides(operation, name)) {
            schema.add(self.argument(name), value.clone(), self.needed.contains(&name.as_str()));
        }
        if let Some(body) = &operation.body {
            if body == "Json" {
                schema.add("value", serde_json::json!({ "description": "Any JSON value" }), true);
            } else {
                let (fields, required) = document.fields(body);
                for (name, value) in fields.into_iter().filter(|(name, _)| !self.hides(operation, name)) {
                    let argument = self.argument(&name);
                    let value = if argument == "session" { session_schema() } else { value };
                    schema.add(argument, value, required.contains(&name));
                }
            }
        }
        if operation.writes {
            let says =
                "Your name for this request, a new one for each: the same again is answered, not carried out again";
            schema.add(
                "request_id",
                serde_json::json!({ "type": "string", "minLength": 1, "maxLength": 278, "description": says }),
                true,
            );
            schema.add(
                "actor",
                serde_json::json!({ "type": "string", "description": "Who does it, for the record; the agent concerned by default" }),
                false,
            );
        }
        if let Some(about) = operation.if_match.as_deref().filter(|about| !about.is_empty()) {
            schema.add(
                expected(about),
                serde_json::json!({ "type": "integer", "minimum": 0, "description": about }),
                false,
            );
        }
        schema
    }
}

/// The argument that stands for `If-Match`: the version of a memory entry, or the session's seq.
pub(super) fn expected(about: &str) -> &'static str {
    if about.contains("version") { "if_version" } else { "expected_seq" }
}

fn session_schema() -> Value {
    serde_json::json!({ "type": "string", "description": "`namespace/name`, or `name` in namespace `default`" })
}

/// Arguments and their schemas.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    fields: Object,
    required: Vec<String>,
}

impl Arguments {
    fn add(&mut self, name: &str, schema: Value, is_required: bool) {
        self.fields.insert(name.to_owned(), schema);
        if is_required && !self.required.iter().any(|known| known == name) {
            self.required.push(name.to_owned());
        }
    }

    pub(super) fn names(&self) -> Vec<&str> {
        self.fields.keys().map(String::as_str).collect()
    }

    fn object(self) -> Object {
        let mut object = Object::new();
        object.insert("type".to_owned(), "object".into());
        object.insert("properties".to_owned(), Value::Object(self.fields));
        if !self.required.is_empty() {
            object.insert("required".to_owned(), self.required.into());
        }
        object.insert("additionalProperties".to_owned(), false.into());
        object
    }
}
