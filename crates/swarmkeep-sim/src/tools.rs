//! A client of a tool server behind the proxy. The proxy is the real one, in the process that holds the store; the server is
//! away now and then, hangs up before or after it did what it was asked for, and ends; the client offers the next process again
//! what has no answer.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use serde_json::{Value, json};
use swarmkeep_core::testing::Draw;
use swarmkeep_mcp::{
    transport::{Connection, Ending, Inbound, Opener, Outbound, Resumable},
    upstream::{FromClient, Handles, ToClient},
};
use tokio::sync::{mpsc, oneshot};

use crate::holder::Holder;

/// Lines under way on one connection.
const QUEUE: usize = 4_096;
/// The client's first lines: its handshake.
const HANDSHAKE: u64 = 2;
/// Calls of one world.
const CALLS: u64 = 60;

/// A connection, from the server's side.
struct Wire {
    outbox: mpsc::Receiver<Outbound>,
    inbox: mpsc::Sender<Inbound>,
    closing: mpsc::Receiver<()>,
    /// Dropped: nothing of it is left.
    _over: oneshot::Sender<()>,
}

/// Where connections come in.
#[derive(Default)]
struct Door {
    is_shut: bool,
    opened: Vec<Wire>,
}

/// Something that the server is at.
struct Job {
    connection: u64,
    wire: u64,
    call: u64,
    at_ms: u64,
}

/// A line of the client.
struct Line {
    text: Bytes,
    tool: &'static str,
    asked_ms: u64,
    is_settled: bool,
    /// What the client was told of it.
    told: Option<Told>,
    /// How often the server did it.
    deeds: u32,
}

/// What came of a call, for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Done,
    NotDone,
    Unknown,
}

/// See the module.
pub struct Tools {
    draw: Draw,
    door: Arc<Mutex<Door>>,
    /// The server is away until then.
    away_until_ms: u64,
    connections: BTreeMap<u64, Wire>,
    next_connection: u64,
    jobs: Vec<Job>,
    lines: BTreeMap<u64, Line>,
    /// The process that has the client, by its life.
    life: u64,
    opening: Option<oneshot::Receiver<Handles>>,
    proxy: Option<Handles>,
    asks_at_ms: u64,
}

/// What happened, in numbers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counted {
    /// Calls that have their answer.
    pub answered: u64,
    /// Of them, those of which nobody knows.
    pub unknown: u64,
    /// Connections that broke.
    pub cuts: u64,
    /// Things that were compared.
    pub checks: u64,
}

impl Tools {
    /// A client that has said nothing yet.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut tools = Self {
            draw: Draw::new(seed),
            door: Arc::default(),
            away_until_ms: 0,
            connections: BTreeMap::new(),
            next_connection: 0,
            jobs: Vec::new(),
            lines: BTreeMap::new(),
            life: 0,
            opening: None,
            proxy: None,
            asks_at_ms: 0,
        };
        let client = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "sim", "version": "1" } });
        let line = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": client });
        tools.line(0, "initialize", &line);
        tools.line(0, "initialized", &json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
        tools
    }

    fn line(&mut self, now_ms: u64, tool: &'static str, text: &Value) -> u64 {
        let number = self.lines.len() as u64 + 1;
        let text = Bytes::from(text.to_string());
        self.lines.insert(number, Line { text, tool, asked_ms: now_ms, is_settled: false, told: None, deeds: 0 });
        number
    }

    /// Whether every line has its answer.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.lines.values().all(|line| line.is_settled)
    }

    /// Until something happens again.
    pub fn rests_ms(&mut self) -> u64 {
        1 + self.draw.below(20) as u64
    }

    /// The client's process ends: nobody takes answers any more.
    pub fn leave(&mut self) {
        (self.proxy, self.opening) = (None, None);
    }

    /// Some of everything happens; `says` is told of it.
    ///
    /// # Errors
    /// What must not be.
    pub fn step(
        &mut self,
        now_ms: u64,
        holder: Option<(u64, &Holder)>,
        is_storm: bool,
        counted: &mut Counted,
        says: &mut dyn FnMut(std::fmt::Arguments<'_>),
    ) -> Result<(), String> {
        self.attach(now_ms, holder, says);
        self.hears(counted, says)?;
        if is_storm {
            self.asks(now_ms, says);
            self.fails(now_ms, counted, says);
        }
        self.serves(now_ms, is_storm, counted, says)
    }

    /// The client is with whoever holds the store.
    fn attach(&mut self, now_ms: u64, holder: Option<(u64, &Holder)>, says: &mut dyn FnMut(std::fmt::Arguments<'_>)) {
        let Some((life, holder)) = holder else { return self.leave() };
        if self.life != life {
            self.leave();
            self.life = life;
        }
        if let Some(mut opening) = self.opening.take() {
            match opening.try_recv() {
                Ok(handles) => {
                    let again: Vec<(u64, Bytes)> =
                        self.unanswered().map(|(number, line)| (number, line.text.clone())).collect();
                    says(format_args!("tools: the client is with holder {life}, and offers {} lines", again.len()));
                    for (number, line) in again {
                        let _ = handles.client.try_send(FromClient::Line { number, line });
                    }
                    self.proxy = Some(handles);
                }
                Err(oneshot::error::TryRecvError::Empty) => self.opening = Some(opening),
                // The store was not ready for it.
                Err(oneshot::error::TryRecvError::Closed) => {}
            }
        } else if self.proxy.as_ref().is_none_or(|proxy| proxy.client.is_closed()) {
            self.proxy = None;
            let greeting = self.lines.get(&1).filter(|line| line.is_settled).map(|line| line.text.clone());
            let waited = self.unanswered().map(|(number, line)| (number, now_ms - line.asked_ms)).collect();
            self.opening = Some(holder.proxy(self.opener(), greeting, waited, self.draw.number()));
        }
    }

    fn unanswered(&self) -> impl Iterator<Item = (u64, &Line)> {
        self.lines.iter().filter(|(_, line)| !line.is_settled).map(|(number, line)| (*number, line))
    }

    fn opener(&self) -> Opener {
        let door = self.door.clone();
        Arc::new(move |_, _, _| {
            let mut door = door.lock().unwrap();
            let opened = if door.is_shut {
                Err(io::Error::from(io::ErrorKind::ConnectionRefused))
            } else {
                let (outbox, from_owner) = mpsc::channel(QUEUE);
                let (to_owner, inbox) = mpsc::channel(QUEUE);
                let (close, closing) = mpsc::channel(1);
                let (ended, over) = oneshot::channel();
                door.opened.push(Wire { outbox: from_owner, inbox: to_owner, closing, _over: ended });
                Ok(Connection { outbox, inbox, ending: Ending::new(close, over), resumable: Resumable::default() })
            };
            Box::pin(std::future::ready(opened))
        })
    }

    /// What the proxy gives its client.
    fn hears(&mut self, counted: &mut Counted, says: &mut dyn FnMut(std::fmt::Arguments<'_>)) -> Result<(), String> {
        while let Some(given) = self.proxy.as_mut().and_then(|proxy| proxy.answers.try_recv().ok()) {
            let (number, line) = match given {
                ToClient::Taken(number) => (number, None),
                ToClient::Line { answers: Some(number), line } => (number, Some(line)),
                // Notifications, of the server or of the proxy.
                ToClient::Line { answers: None, .. } => continue,
            };
            let known = self.lines.get_mut(&number).ok_or_else(|| format!("line {number} was never said"))?;
            if known.is_settled {
                return Err(format!("line {number} is answered twice"));
            }
            counted.checks += 1;
            known.is_settled = true;
            let Some(line) = line.filter(|_| number > HANDSHAKE) else { continue };
            let said: Value = serde_json::from_slice(&line).map_err(|error| format!("{error}: {line:?}"))?;
            if said["id"] != number {
                return Err(format!("line {number} has the answer of another: {said}"));
            }
            let told = told(&said).ok_or_else(|| format!("line {number} has no honest answer: {said}"))?;
            says(format_args!("tools: {} {number} is answered: {told:?}, done {} times", known.tool, known.deeds));
            counted.answered += 1;
            counted.unknown += u64::from(told == Told::Unknown);
            known.told = Some(told);
            fits(number, known)?;
        }
        Ok(())
    }

    fn asks(&mut self, now_ms: u64, says: &mut dyn FnMut(std::fmt::Arguments<'_>)) {
        if now_ms < self.asks_at_ms || self.lines.len() as u64 >= CALLS + HANDSHAKE || !self.lines[&1].is_settled {
            return;
        }
        self.asks_at_ms = now_ms + self.draw.below(400) as u64;
        // `pay` and `order` may be done once only; `order` waits in the queue; `look` may be done again.
        let tool = ["pay", "order", "look"][self.draw.below(3)];
        let id = self.lines.len() as u64 + 1;
        let params = json!({ "name": tool, "arguments": { "call": id } });
        let number =
            self.line(now_ms, tool, &json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params }));
        says(format_args!("tools: {tool} {number}"));
        let line = self.lines[&number].text.clone();
        if let Some(proxy) = &self.proxy {
            let _ = proxy.client.try_send(FromClient::Line { number, line });
        }
    }

    /// The server goes away, or hangs up.
    fn fails(&mut self, now_ms: u64, counted: &mut Counted, says: &mut dyn FnMut(std::fmt::Arguments<'_>)) {
        if now_ms < self.away_until_ms || !self.draw.one_in(60) {
            return;
        }
        counted.cuts += self.connections.len() as u64;
        self.cut();
        if self.draw.one_in(2) {
            let away = self.draw.below(9_000) as u64;
            self.away_until_ms = now_ms + away;
            says(format_args!("tools: the server is away for {away} ms"));
        } else {
            says(format_args!("tools: the server hangs up"));
        }
    }

    fn cut(&mut self) {
        for (_, wire) in std::mem::take(&mut self.connections) {
            let _ = wire.inbox.try_send(Inbound::Closed { why: "the world cut it".to_owned() });
        }
        if self.draw.one_in(2) {
            // It was its end, and of what it was at.
            self.jobs.clear();
        }
    }

    /// The server's turn.
    fn serves(
        &mut self,
        now_ms: u64,
        is_storm: bool,
        counted: &mut Counted,
        says: &mut dyn FnMut(std::fmt::Arguments<'_>),
    ) -> Result<(), String> {
        let is_away = is_storm && now_ms < self.away_until_ms;
        let opened = {
            let mut door = self.door.lock().unwrap();
            door.is_shut = is_away;
            std::mem::take(&mut door.opened)
        };
        for wire in opened {
            self.next_connection += 1;
            self.connections.insert(self.next_connection, wire);
        }
        let mut gone = Vec::new();
        for (&connection, wire) in &mut self.connections {
            while let Ok(out) = wire.outbox.try_recv() {
                let said: Value = serde_json::from_slice(&out.line).map_err(|error| format!("{error}: {out:?}"))?;
                let Some(id) = out.wire else { continue };
                let result = match said["method"].as_str() {
                    Some("initialize") => {
                        let server = json!({ "name": "peer", "version": "1" });
                        json!({ "protocolVersion": "2025-11-25", "capabilities": { "tools": {} }, "serverInfo": server })
                    }
                    Some("tools/list") => {
                        let tools = ["pay", "order", "look"];
                        let tools = tools.map(|name| json!({ "name": name, "inputSchema": { "type": "object" } }));
                        json!({ "tools": tools.as_slice() })
                    }
                    Some("tools/call") => {
                        let call = said["params"]["arguments"]["call"]
                            .as_u64()
                            .ok_or_else(|| format!("not what was asked: {said}"))?;
                        let at_ms = now_ms + self.draw.below(120) as u64;
                        self.jobs.push(Job { connection, wire: id, call, at_ms });
                        continue;
                    }
                    _ => json!({}),
                };
                answer(wire, id, &result);
            }
            let is_closed = matches!(wire.closing.try_recv(), Err(mpsc::error::TryRecvError::Disconnected));
            if is_closed || wire.outbox.is_closed() && wire.outbox.is_empty() {
                gone.push(connection);
            }
        }
        for connection in gone {
            // A child ends with its input; another server goes on with what it is at.
            self.connections.remove(&connection);
            if self.draw.one_in(2) {
                self.jobs.retain(|job| job.connection != connection);
            }
        }
        let due: Vec<Job> = self.jobs.extract_if(.., |job| job.at_ms <= now_ms).collect();
        for Job { connection, wire: id, call, .. } in due {
            let line = self.lines.get_mut(&call).ok_or_else(|| format!("call {call} was never asked for"))?;
            line.deeds += 1;
            counted.checks += 1;
            says(format_args!("tools: the server does {} {call}, {} times", line.tool, line.deeds));
            fits(call, line)?;
            if is_storm && self.draw.one_in(12) {
                says(format_args!("tools: and hangs up"));
                counted.cuts += 1;
                self.cut();
            } else if let Some(wire) = self.connections.get(&connection) {
                answer(wire, id, &json!({ "content": [{ "type": "text", "text": call.to_string() }] }));
            }
        }
        Ok(())
    }
}

fn answer(wire: &Wire, id: u64, result: &Value) {
    let line = json!({ "jsonrpc": "2.0", "id": id, "result": result }).to_string() + "\n";
    let _ = wire.inbox.try_send(Inbound::Line(line.into()));
}

/// What an answer says of its call.
fn told(said: &Value) -> Option<Told> {
    let executed = [&said["result"]["_meta"]["swarmkeep/outcome"]["executed"], &said["error"]["data"]["executed"]];
    match executed.iter().find_map(|executed| executed.as_str()) {
        Some("no") => Some(Told::NotDone),
        Some("unknown") => Some(Told::Unknown),
        Some(_) => None,
        None => (said["result"]["content"][0]["text"].as_str()
            == said["id"].as_u64().map(|id| id.to_string()).as_deref())
        .then_some(Told::Done),
    }
}

/// What the client was told of a call, and what was done.
fn fits(number: u64, line: &Line) -> Result<(), String> {
    let (tool, deeds) = (line.tool, line.deeds);
    if tool != "look" && deeds > 1 {
        return Err(format!("REPEATED: {tool} {number} was done {deeds} times"));
    }
    match line.told {
        Some(Told::NotDone) if deeds > 0 => {
            Err(format!("{tool} {number} was done, and its client was told that it was not"))
        }
        Some(Told::Done) if deeds == 0 => {
            Err(format!("{tool} {number} was not done, and its client was told that it was"))
        }
        _ => Ok(()),
    }
}
