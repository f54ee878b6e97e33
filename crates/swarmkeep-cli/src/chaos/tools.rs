//! The tool server of the connection's scenario and of the bench: real enough to be killed.
//!
//! | asked for | does |
//! |---|---|
//! | tool `act` | something outside, and says so: each call that reaches it is one line in a file, synced |
//! | tool `echo`, any resource | answers at once with what it was given |
//! | tool `late`, the resource [`LATE_URI`] | the same after [`LATE`], however many are called at once |
//! | tool `large` | answers with as many bytes as it is asked for |

use std::{
    fs::{self, OpenOptions},
    io::{self, BufRead, Write},
    path::PathBuf,
    sync::mpsc,
    thread,
    time::Duration,
};

use clap::Args;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    failure::Failure,
    swarm::outside,
    verb::{field, number},
};

/// What a call of `late` takes.
pub(crate) const LATE: Duration = Duration::from_millis(5);
/// The resource whose reading takes as long.
pub(crate) const LATE_URI: &str = "tools:late";

/// See the module.
#[derive(Debug, Args)]
pub(crate) struct ToolServer {
    /// What was done
    #[arg(long)]
    outside: Option<PathBuf>,
    /// While this file is there, it does not start
    #[arg(long)]
    gate: Option<PathBuf>,
    /// Where it says which process it is
    #[arg(long)]
    pid: Option<PathBuf>,
    /// Where it adds a line each time that it is started, whether it is let or not
    #[arg(long)]
    starts: Option<PathBuf>,
}

impl ToolServer {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let broken = |error| Failure::unavailable(format!("the tool server: {error}"), "look into the folder's log");
        self.note_start().map_err(broken)?;
        if self.gate.as_ref().is_some_and(|gate| gate.exists()) {
            return Err(Failure::unavailable("it is not to be reached", "wait until the scenario lets it"));
        }
        self.serve().map_err(broken)
    }

    fn note_start(&self) -> io::Result<()> {
        match &self.starts {
            Some(path) => writeln!(OpenOptions::new().create(true).append(true).open(path)?, "{}", std::process::id()),
            None => Ok(()),
        }
    }

    fn serve(&self) -> io::Result<()> {
        if let Some(pid) = &self.pid {
            fs::write(pid, std::process::id().to_string())?;
        }
        let (late, due) = mpsc::channel::<(Instant, Value)>();
        // All of them take as long: who comes first is due first. On a thread, as a timer of whole milliseconds would make one
        // burst of what came in one of them.
        thread::spawn(move || {
            for (at, answer) in due {
                while Instant::now() < at {
                    thread::park_timeout(at.saturating_duration_since(Instant::now()));
                }
                if say(&answer).is_err() {
                    return;
                }
            }
        });
        for line in io::stdin().lock().lines() {
            let Ok(message) = serde_json::from_str::<Value>(&line?) else { continue };
            let id = field(&message, "id");
            if id.is_null() {
                continue;
            }
            let answer = match self.answer(&message)? {
                Some(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
                None => {
                    let error = json!({ "code": -32601, "message": "there is no such method or tool here" });
                    json!({ "jsonrpc": "2.0", "id": id, "error": error })
                }
            };
            if message.pointer("/params/name").and_then(Value::as_str) == Some("late")
                || message.pointer("/params/uri").and_then(Value::as_str) == Some(LATE_URI)
            {
                // Whoever says it ends with the output, and then so does this.
                let _ = late.send((Instant::now() + LATE, answer));
            } else {
                say(&answer)?;
            }
        }
        Ok(())
    }

    fn answer(&self, message: &Value) -> io::Result<Option<Value>> {
        let text = |pointer: &str| message.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        Ok(match text("/method") {
            "initialize" => Some(json!({
                "protocolVersion": text("/params/protocolVersion"),
                "capabilities": { "tools": {}, "resources": {} },
                "serverInfo": { "name": "chaos-tools", "version": env!("CARGO_PKG_VERSION") },
            })),
            "ping" => Some(json!({})),
            "tools/list" => Some(json!({ "tools": [
                tool("act", "Does it, once per call.", "key", "string"),
                tool("echo", "Says it again.", "text", "string"),
                tool("late", "Says it again, after a while.", "text", "string"),
                tool("large", "Says much.", "bytes", "integer"),
            ] })),
            "tools/call" => self
                .called(message, text("/params/name"))?
                .map(|text| json!({ "content": [{ "type": "text", "text": text }] })),
            "resources/read" => {
                let uri = text("/params/uri");
                Some(json!({ "contents": [{ "uri": uri, "text": uri }] }))
            }
            _ => None,
        })
    }

    fn called(&self, message: &Value, tool: &str) -> io::Result<Option<String>> {
        let Some(arguments) = message.pointer("/params/arguments") else { return Ok(None) };
        let said = |name| field(arguments, name).as_str().unwrap_or_default().to_owned();
        Ok(match (tool, &self.outside) {
            ("act", Some(outside)) => {
                let key = said("key");
                outside::act(outside, &key)?;
                Some(key)
            }
            ("echo" | "late", _) => Some(said("text")),
            ("large", _) => Some("x".repeat(usize::try_from(number(arguments, "bytes")).unwrap_or(0))),
            _ => None,
        })
    }
}

/// One line, in one piece.
fn say(answer: &Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(format!("{answer}\n").as_bytes())?;
    out.flush()
}

fn tool(name: &str, what: &str, argument: &str, kind: &str) -> Value {
    json!({
        "name": name, "description": what,
        "inputSchema": { "type": "object", "properties": { argument: { "type": kind } }, "required": [argument] },
    })
}
