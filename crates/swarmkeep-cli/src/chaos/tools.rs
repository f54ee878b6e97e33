//! The tool server of the connection's scenario: real enough to be killed. It has one tool, which does something outside and
//! says so; each call that reaches it is one line in a file, synced.

use std::{
    fs,
    io::{self, BufRead, Write},
    path::PathBuf,
};

use clap::Args;
use serde_json::{Value, json};

use crate::{failure::Failure, swarm::outside, verb::field};

/// See the module.
#[derive(Debug, Args)]
pub(crate) struct ToolServer {
    /// What was done
    #[arg(long)]
    outside: PathBuf,
    /// While this file is there, it does not start
    #[arg(long)]
    gate: PathBuf,
    /// Where it says which process it is
    #[arg(long)]
    pid: PathBuf,
}

impl ToolServer {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        if self.gate.exists() {
            return Err(Failure::unavailable("it is not to be reached", "wait until the scenario lets it"));
        }
        let done = fs::write(&self.pid, std::process::id().to_string()).and_then(|()| self.serve());
        done.map_err(|error| Failure::unavailable(format!("the tool server: {error}"), "look into the folder's log"))
    }

    fn serve(&self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        for line in io::stdin().lock().lines() {
            let Ok(message) = serde_json::from_str::<Value>(&line?) else { continue };
            let id = field(&message, "id");
            if id.is_null() {
                continue;
            }
            let answer = match self.answer(&message)? {
                Some(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
                None => {
                    let error = json!({ "code": -32601, "message": "there is no such method here" });
                    json!({ "jsonrpc": "2.0", "id": id, "error": error })
                }
            };
            writeln!(out, "{answer}")?;
            out.flush()?;
        }
        Ok(())
    }

    fn answer(&self, message: &Value) -> io::Result<Option<Value>> {
        let text = |pointer: &str| message.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        Ok(match text("/method") {
            "initialize" => Some(json!({
                "protocolVersion": text("/params/protocolVersion"), "capabilities": { "tools": {} },
                "serverInfo": { "name": "chaos-tools", "version": env!("CARGO_PKG_VERSION") },
            })),
            "ping" => Some(json!({})),
            "tools/list" => Some(json!({ "tools": [{
                "name": "act", "description": "Does it, once per call.",
                "inputSchema": { "type": "object", "properties": { "key": { "type": "string" } }, "required": ["key"] },
            }] })),
            "tools/call" => {
                let key = text("/params/arguments/key");
                outside::act(&self.outside, key)?;
                Some(json!({ "content": [{ "type": "text", "text": key }] }))
            }
            _ => None,
        })
    }
}
