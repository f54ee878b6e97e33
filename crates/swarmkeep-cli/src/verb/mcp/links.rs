//! Links to tool servers as they stand, and the calls that went over them.

use std::{io, path::Path};

use serde_json::{Value, json};
use swarmkeep_mcp::wire::{Hello, VERSION, Wants};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    time::timeout,
};

use crate::{
    client::{LIVE_TIMEOUT, connect_socket, patiently},
    context::Context,
    daemon,
    failure::Failure,
    moment,
    place::Place,
    say::say,
    table::{Table, cut},
    verb::{Name, all, entries, field, number, plain, text},
};

/// Keys of the effects that are calls begin so.
const KEY: &str = "mcp-";
/// Characters of what was asked for, and of why nobody knows what came of it, in a line.
const ARGUMENT_CHARS: usize = 40;
const REASON_CHARS: usize = 80;

pub(super) async fn status(context: &mut Context) -> Result<(), Failure> {
    context.place.must_be_a_store()?;
    let socket = context.place.mcp_socket();
    let asked = timeout(LIVE_TIMEOUT, ask_status(&socket));
    let answer = match patiently(&socket.display().to_string(), asked).await {
        Ok(Ok(answer)) => answer,
        Err(_) => return Err(daemon::nobody(&context.place, &io::ErrorKind::TimedOut.into())),
        // No socket: no daemon, or one that takes no MCP clients. There is no link either way.
        Ok(Err(_)) => json!({ "links": [] }),
    };
    let has_daemon = swarmkeep::lock::holder(&context.place.dir).is_ok_and(|holder| holder.is_some());
    let nothing = if has_daemon { "no links" } else { "no links: no daemon runs here; the next client starts one" };
    let mut table =
        Table::new(&["server", "*phase", "client", "session", ">connections", ">failures", ">in flight", "last loss"]);
    for link in entries(&answer, "links") {
        let stands = field(link, "link");
        table.row([
            plain(stands, "upstream"),
            plain(stands, "phase"),
            plain(link, "client"),
            plain(link, "session"),
            plain(stands, "generation"),
            plain(stands, "failures"),
            plain(stands, "in_flight"),
            plain(stands, "last_loss"),
        ]);
    }
    context.answer(&answer, |context| {
        context.print_table(&table, nothing);
        for link in entries(&answer, "links") {
            for call in entries(field(link, "link"), "calls") {
                say!(
                    "  {} {} {}: {} for {} ms",
                    text(field(link, "link"), "upstream"),
                    text(call, "method"),
                    text(call, "name"),
                    if field(call, "is_queued").as_bool() == Some(true) { "queued" } else { text(call, "standing") },
                    number(call, "for_ms"),
                );
            }
        }
    })
}

/// How many MCP clients have their servers by way of this store's daemon.
pub(crate) async fn clients(place: &Place) -> usize {
    match timeout(LIVE_TIMEOUT, ask_status(&place.mcp_socket())).await {
        Ok(Ok(answer)) => entries(&answer, "links").len(),
        _ => 0,
    }
}

async fn ask_status(socket: &Path) -> io::Result<Value> {
    let mut stream = connect_socket(socket).await?;
    let hello = serde_json::to_string(&Hello { version: VERSION, wants: Wants::Status })?;
    stream.write_all(format!("{hello}\n").as_bytes()).await?;
    let line = BufReader::new(stream).lines().next_line().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(serde_json::from_str(&line)?)
}

pub(super) async fn calls(context: &mut Context, session: Name, unknown: bool) -> Result<(), Failure> {
    let status = unknown.then(|| "outcome_unknown".to_owned());
    let answer = all(context, &session, "effects", &[("status", status)]).await?;
    let is_call = |effect: &&Value| text(effect, "id").starts_with(KEY);
    let mut calls: Vec<&Value> = entries(&answer, "effects").iter().filter(is_call).collect();
    calls.sort_by_key(|call| number(call, "begun_at_ms"));
    let mut table = Table::new(&["call", "server", "tool", "arguments", "class", "*status", "outcome", ">ms", "begun"]);
    for call in &calls {
        let asked = field(call, "request");
        let tool = if text(asked, "name").is_empty() { text(asked, "method") } else { text(asked, "name") };
        let outcome = field(call, "outcome");
        let outcome = match field(outcome, "ok").as_bool() {
            Some(true) => "ok",
            Some(false) if text(field(outcome, "value"), "executed") == "no" => "not executed",
            Some(false) => "error",
            None => "",
        };
        let outcome = match text(call, "status") {
            "outcome_unknown" => cut(text(call, "reason"), REASON_CHARS),
            _ => outcome.to_owned(),
        };
        let took = match number(call, "finished_at_ms") {
            0 => String::new(),
            at_ms => at_ms.saturating_sub(number(call, "begun_at_ms")).to_string(),
        };
        table.row([
            plain(call, "id"),
            plain(asked, "upstream"),
            tool.to_owned(),
            cut(&plain(asked, "arguments"), ARGUMENT_CHARS),
            plain(call, "class"),
            plain(call, "status"),
            outcome,
            took,
            moment::ago(number(call, "begun_at_ms"), moment::now_ms()),
        ]);
    }
    context.answer(&json!({ "calls": calls }), |context| context.print_table(&table, "no calls"))
}
