//! The verbs, one file each.

pub(crate) mod agent;
pub(crate) mod bench;
pub(crate) mod chaos;
pub(crate) mod checkpoint;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod effect;
pub(crate) mod memory;
pub(crate) mod message;
pub(crate) mod metric;
pub(crate) mod migrate;
pub(crate) mod recover;
pub(crate) mod report;
pub(crate) mod serve;
pub(crate) mod session;
pub(crate) mod stop;
pub(crate) mod task;
pub(crate) mod verify;

use serde_json::Value;

use crate::{
    client::{Answer, Call, query, segment},
    context::Context,
    failure::Failure,
    moment,
    say::say,
};

/// A session's name, as typed: `name` or `namespace/name`.
pub(crate) type Name = String;

/// The path of a session, or of something in it.
pub(crate) fn path(session: &str, rest: &str) -> String {
    let (namespace, name) = session.split_once('/').unwrap_or(("default", session));
    format!("/v1/sessions/{}/{}{rest}", segment(namespace), segment(name))
}

/// Submits one command. `None` with `--dry-run`.
pub(crate) async fn command(context: &mut Context, session: &str, command: Value) -> Result<Option<Reply>, Failure> {
    command_with(context, session, command, Typed::default()).await
}

/// Submits one command that holds JSON that was typed.
pub(crate) async fn command_with(
    context: &mut Context,
    session: &str,
    command: Value,
    typed: Typed,
) -> Result<Option<Reply>, Failure> {
    let body = typed.put_into(&serde_json::json!({ "commands": [command] }));
    let call = Call::post(path(session, "/commands"), &Value::Null).text(body);
    context.write(call).await?.as_ref().map(Reply::of).transpose()
}

/// What a write came to.
#[derive(Debug)]
pub(crate) struct Reply {
    /// The answer as it came.
    pub(crate) raw: Value,
}

impl Reply {
    pub(crate) fn of(answer: &Answer) -> Result<Self, Failure> {
        Ok(Self { raw: answer.json()? })
    }

    /// The outcome of the first command, by its name: `done`, `claimed`, ….
    pub(crate) fn outcome(&self, name: &str) -> &Value {
        self.raw.pointer("/outcomes/0").map_or(&Value::Null, |outcome| field(outcome, name))
    }

    /// The id that the command made or changed.
    pub(crate) fn id(&self) -> &str {
        text(self.outcome("done"), "id")
    }

    /// `seq 17`, and whether it had been done before.
    pub(crate) fn seq(&self) -> String {
        let seq = self.raw.pointer("/head/seq").and_then(Value::as_u64).unwrap_or(0);
        let repeated = self.raw.get("repeated").and_then(Value::as_bool).unwrap_or(false);
        if repeated { format!("seq {seq}, done before") } else { format!("seq {seq}") }
    }

    /// The whole answer as JSON, or a line for people.
    pub(crate) fn tell(&self, context: &Context, line: impl FnOnce(&Self) -> String) -> Result<(), Failure> {
        context.answer(&self.raw, |context| {
            say!("{}  {}", line(self), context.paint.dim(format_args!("({})", self.seq())));
        })
    }
}

/// A field of an object; `null` where there is none.
pub(crate) fn field<'a>(value: &'a Value, name: &str) -> &'a Value {
    value.get(name).unwrap_or(&Value::Null)
}

/// A text field; empty where there is none.
pub(crate) fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    field(value, name).as_str().unwrap_or("")
}

/// A number field; 0 where there is none.
pub(crate) fn number(value: &Value, name: &str) -> u64 {
    field(value, name).as_u64().unwrap_or(0)
}

/// A field as people read it: text without quotes, nothing for `null`, else JSON.
pub(crate) fn plain(value: &Value, name: &str) -> String {
    match field(value, name) {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A time field, as an age.
pub(crate) fn ago(value: &Value, name: &str) -> String {
    moment::ago(number(value, name), moment::now_ms())
}

/// The entries of a list answer: a plain list, or the list under `name`.
pub(crate) fn entries<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.as_array().or_else(|| field(value, name).as_array()).map_or(&[], Vec::as_slice)
}

/// All entities of a kind, page by page: `{"tasks":[…]}`.
pub(crate) async fn all(
    context: &mut Context,
    session: &str,
    what: &str,
    filters: &[(&str, Option<String>)],
) -> Result<Value, Failure> {
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let mut pairs = filters.to_vec();
        pairs.extend([("limit", Some("1000".to_owned())), ("after", after)]);
        let page = context.get_json(path(session, &format!("/{what}")) + &query(&pairs)).await?;
        all.extend_from_slice(entries(&page, what));
        after = field(&page, "next").as_str().map(str::to_owned);
        if after.is_none() {
            return Ok(serde_json::json!({ what: all }));
        }
    }
}

/// JSON that was typed, on its way into a command as it was typed: `1.0` stays `1.0`, and keys keep their order. What is
/// no JSON is taken as text, so that `hello` need not be quoted twice.
#[derive(Debug, Default)]
pub(crate) struct Typed(Vec<String>);

impl Typed {
    /// A stand-in for it. What is typed holds no NUL, so no text of a caller's is mistaken for one.
    pub(crate) fn keep(&mut self, text: &str) -> Value {
        let is_json = serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok();
        self.0.push(if is_json { text.trim().to_owned() } else { Value::from(text).to_string() });
        Value::String(format!("\0{}", self.0.len() - 1))
    }

    /// The same for what may be left out.
    pub(crate) fn keep_if(&mut self, text: Option<&String>) -> Value {
        text.map_or(Value::Null, |text| self.keep(text))
    }

    fn put_into(&self, body: &Value) -> String {
        let mut text = body.to_string();
        for (at, typed) in self.0.iter().enumerate() {
            text = text.replacen(&format!("\"\\u0000{at}\""), typed, 1);
        }
        text
    }
}

/// Prints an object as `name  value` lines, nested ones as JSON, leaving out what is empty.
pub(crate) fn print_fields(context: &Context, value: &Value) {
    let Some(object) = value.as_object() else {
        say!("{}", crate::table::printable(&value.to_string()));
        return;
    };
    let width = object.keys().map(String::len).max().unwrap_or(0);
    for (name, field) in object {
        let shown = match field {
            Value::Null => continue,
            Value::String(text) if name == "status" => context.paint.status(&crate::table::printable(text)),
            Value::String(text) => crate::table::printable(text),
            Value::Number(number) if name.ends_with("_at_ms") || name == "time_ms" || name == "timestamp_ms" => {
                moment::utc(number.as_u64().unwrap_or(0))
            }
            Value::Array(all) if all.is_empty() => continue,
            Value::Object(all) if all.is_empty() => continue,
            other => crate::table::printable(&other.to_string()),
        };
        let name = name.strip_suffix("_ms").filter(|name| name.ends_with("_at")).unwrap_or(name);
        say!("{}  {shown}", context.paint.dim(format_args!("{name:<width$}")));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn typed_json_arrives_as_it_was_typed() {
        let mut typed = Typed::default();
        let body = json!({ "a": typed.keep("{\"b\":1.0,\"a\":18446744073709551616}"), "b": typed.keep("just text \"0\""), "c": "x" });
        assert_eq!(typed.put_into(&body), r#"{"a":{"b":1.0,"a":18446744073709551616},"b":"just text \"0\"","c":"x"}"#);
    }
}
