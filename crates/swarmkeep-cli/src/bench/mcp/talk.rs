//! A client of a tool server over pipes. It blocks, and costs next to nothing: what is measured is what it talks to, and that
//! is the server itself or the proxy in front of it, by the same code.

use std::{
    io::{self, BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tokio::time::Instant;

use super::super::figure::Latencies;
use crate::chaos::LATE_URI;

/// Of what is measured with many calls under way, so many are.
pub(super) const IN_FLIGHT: usize = 16;
/// What an echo carries.
const TEXT: &str = "the quick brown fox jumps over the lazy dog, and once again over the same dog, which is still lazy";

/// What is asked of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// Reads a resource (class `read`): answered at once.
    Read,
    /// The same, 5 ms later.
    ReadLate,
    /// Calls a tool (class `at_most_once`, as every tool is of which nobody says otherwise): answered at once.
    Tool,
    /// The same, 5 ms later.
    ToolLate,
    /// A result of so many bytes.
    Large(u64),
}

impl Call {
    fn line(self, id: u64) -> String {
        let (method, params) = match self {
            Self::Read => ("resources/read", json!({ "uri": "tools:echo" })),
            Self::ReadLate => ("resources/read", json!({ "uri": LATE_URI })),
            Self::Tool => ("tools/call", json!({ "name": "echo", "arguments": { "text": TEXT } })),
            Self::ToolLate => ("tools/call", json!({ "name": "late", "arguments": { "text": TEXT } })),
            Self::Large(bytes) => ("tools/call", json!({ "name": "large", "arguments": { "bytes": bytes } })),
        };
        format!("{}\n", json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }))
    }
}

/// An answer, as far as it is looked at.
#[derive(Deserialize)]
struct Answer<'a> {
    id: Option<u64>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
}

/// A client, its server started.
#[derive(Debug)]
pub(super) struct Talk {
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
    line: Vec<u8>,
    next: u64,
}

impl Talk {
    /// Starts the server, and shakes hands.
    pub(super) fn start(mut command: Command) -> io::Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let (to, from) = (child.stdin.take(), child.stdout.take());
        let from = BufReader::with_capacity(64 * 1024, from.ok_or_else(|| io::Error::other("no pipe"))?);
        let mut talk = Self { child, to, from, line: Vec::new(), next: 1 };
        let hello = json!({
            "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "bench", "version": "1" },
        });
        talk.write(&format!("{}\n", json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello })))?;
        if !talk.answer(|id| id == 0)? {
            return Err(io::Error::other(format!("no hello, but {}", talk.beginning())));
        }
        talk.write(&format!("{}\n", json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })))?;
        Ok(talk)
    }

    /// The process that it started.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A call, and its answer waited for: whether that says that it was done.
    pub(super) fn try_one(&mut self, call: Call) -> io::Result<bool> {
        let id = self.begin(call)?;
        self.answer(|answered| answered == id)
    }

    /// A call that must be done.
    pub(super) fn one(&mut self, call: Call) -> io::Result<()> {
        match self.try_one(call)? {
            true => Ok(()),
            false => Err(io::Error::other(format!("it was answered {}", self.beginning()))),
        }
    }

    /// One call after another: how long each took.
    pub(super) fn one_by_one(&mut self, call: Call, run: Duration) -> io::Result<Latencies> {
        let mut latencies = Latencies::default();
        let end = Instant::now() + run;
        while Instant::now() < end {
            let since = Instant::now();
            self.one(call)?;
            latencies.add(since);
        }
        Ok(latencies)
    }

    /// Calls a second, [`IN_FLIGHT`] of them under way at any time.
    pub(super) fn many_at_once(&mut self, call: Call, run: Duration) -> io::Result<f64> {
        let began = Instant::now();
        let end = began + run;
        let first = self.next;
        for _ in 0..IN_FLIGHT {
            self.begin(call)?;
        }
        let mut answered = 0;
        while first + answered < self.next {
            let asked = first..self.next;
            if !self.answer(|id| asked.contains(&id))? {
                return Err(io::Error::other(format!("it was answered {}", self.beginning())));
            }
            answered += 1;
            // Whoever has an answer makes the next call, in a write of its own.
            if Instant::now() < end {
                self.begin(call)?;
            }
        }
        Ok(answered as f64 / began.elapsed().as_secs_f64())
    }

    fn begin(&mut self, call: Call) -> io::Result<u64> {
        let id = self.next;
        self.next += 1;
        self.write(&call.line(id))?;
        Ok(id)
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        self.to.as_mut().ok_or(io::ErrorKind::BrokenPipe)?.write_all(text.as_bytes())
    }

    /// The next answer, which must be to what is asked about: whether it says that the call was done.
    fn answer(&mut self, is_asked: impl Fn(u64) -> bool) -> io::Result<bool> {
        loop {
            self.line.clear();
            if self.from.read_until(b'\n', &mut self.line)? == 0 {
                return Err(io::Error::other("it has ended"));
            }
            let answer: Answer<'_> = serde_json::from_slice(&self.line)?;
            // What has no id is a notification.
            let Some(id) = answer.id else { continue };
            if !is_asked(id) {
                return Err(io::Error::other(format!("an answer to nothing that was asked: {}", self.beginning())));
            }
            return Ok(answer.result.is_some_and(|result| !result.get().contains("\"isError\":true")));
        }
    }

    fn beginning(&self) -> String {
        String::from_utf8_lossy(&self.line).chars().take(300).collect()
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        // A server ends when its input does; one that does not is ended.
        self.to = None;
        let mut patience = 200;
        while patience > 0 && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::park_timeout(Duration::from_millis(10));
            patience -= 1;
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
