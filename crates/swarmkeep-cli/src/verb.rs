//! The verbs, one file each.

pub(crate) mod agent;
pub(crate) mod bench;
pub(crate) mod chaos;
pub(crate) mod checkpoint;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod effect;
pub(crate) mod mcp;
pub(crate) mod memory;
pub(crate) mod message;
pub(crate) mod metric;
pub(crate) mod migrate;
pub(crate) mod quarantine;
pub(crate) mod recover;
pub(crate) mod report;
pub(crate) mod serve;
pub(crate) mod session;
pub(crate) mod stop;
pub(crate) mod take_over;
pub(crate) mod task;
pub(crate) mod verify;

use std::io::Read;

use serde_json::Value;
pub(crate) use swarmkeep_server::reading::{entries, field, number, text};

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

/// What standard input has may be so long; what may be stored is less.
const INPUT_BYTES: u64 = 64 * 1024 * 1024;

/// What was typed; for `-`, all of standard input, without the newline that ends its last line.
pub(crate) fn typed_or_read(typed: String) -> Result<String, Failure> {
    if typed == "-" { read_input(std::io::stdin().lock()) } else { Ok(typed) }
}

fn read_input(input: impl Read) -> Result<String, Failure> {
    let mut text = String::new();
    let read = input.take(INPUT_BYTES + 1).read_to_string(&mut text);
    read.map_err(|error| {
        Failure::usage(
            format!("standard input cannot be read as text: {error}"),
            "give JSON or UTF-8 text; other bytes are kept as a blob, over HTTP",
        )
    })?;
    if text.len() as u64 > INPUT_BYTES {
        return Err(Failure::usage(
            format!("standard input has more than {}", moment::bytes(INPUT_BYTES)),
            "give a shorter value; large content is kept as a blob, over HTTP",
        ));
    }
    let line = text.strip_suffix('\n').map(|line| line.strip_suffix('\r').unwrap_or(line).len());
    text.truncate(line.unwrap_or(text.len()));
    Ok(text)
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
    fn standard_input_is_text_without_its_last_newline() {
        let read = |bytes: &[u8]| read_input(bytes);
        assert_eq!(read(b"two\nlines\r\n").unwrap(), "two\nlines");
        assert_eq!(read(b"").unwrap(), "");
        assert_eq!(read(b"\n\n").unwrap(), "\n");
        assert_eq!(read(&[0xff]).unwrap_err().exit, crate::failure::Exit::Usage);
    }

    #[test]
    fn typed_json_arrives_as_it_was_typed() {
        let mut typed = Typed::default();
        let body = json!({ "a": typed.keep("{\"b\":1.0,\"a\":18446744073709551616}"), "b": typed.keep("just text \"0\""), "c": "x" });
        assert_eq!(typed.put_into(&body), r#"{"a":{"b":1.0,"a":18446744073709551616},"b":"just text \"0\"","c":"x"}"#);
    }
}
