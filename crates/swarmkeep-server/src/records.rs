//! `…/commands`, `…/records`, `…/state`, `…/diff`: the log and what it folds to.

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use swarmkeep::{
    Actor, Durability, Epoch, ErrorKind, Event, Hash, Json, Record, RefusalCode, RequestId, Seq, SessionStatus,
    core::{
        command::{Command, Outcome},
        limits,
        state::Head,
    },
};

use crate::{
    api::{Api, Content, Op},
    problem::Problem,
    wire::{self, Answer, BODY_BYTES, Call, Envelope, answer, has_already, json, json_bytes, not_modified},
};

/// Records in one page.
const RECORDS_MAX: usize = 1_000;
/// Bytes read from the log at a time.
const READ_BYTES: usize = 1024 * 1024;
/// Reads for one page.
const READS_PER_PAGE: usize = 4;
/// States larger than this are encoded off the async threads.
const ENCODE_INLINE_BYTES: usize = 256 * 1024;

pub(crate) fn routes(api: Api) -> Api {
    api.post(
        "/v1/sessions/{namespace}/{name}/commands",
        commands,
        Op::write("submitCommands", "Several commands as one group, all or nothing").body("Commands"),
    )
    .get(
        "/v1/sessions/{namespace}/{name}/records",
        records,
        Op::read("listRecords", "Records in order: the history", Content::Json("Records")).query(&[
            ("after", "integer", "Only those after this seq; 0 by default"),
            ("limit", "integer", "Records in the page: 1 to 1000, 100 by default"),
        ]),
    )
    .get(
        "/v1/sessions/{namespace}/{name}/state",
        state,
        Op::read("getState", "The whole state, in its canonical bytes", Content::Json("State")).query(&[(
            "at",
            "integer",
            "As it was at this seq; now by default",
        )]),
    )
    .get(
        "/v1/sessions/{namespace}/{name}/diff",
        diff,
        Op::read("diffState", "What changed between two seqs, entity by entity", Content::Json("Diff")).query(&[
            ("from", "integer", "The earlier seq"),
            ("to", "integer", "The later seq; where the session stands by default"),
        ]),
    )
}

/// The body of `POST …/commands`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Commands {
    commands: Vec<Command>,
    #[serde(default)]
    actor: Option<Actor>,
    #[serde(default)]
    request_id: Option<RequestId>,
    #[serde(default)]
    expected_seq: Option<Seq>,
    #[serde(default)]
    durability: Option<Durability>,
}

async fn commands(mut call: Call) -> Answer {
    let bytes = call.bytes(BODY_BYTES).await?;
    let body: Commands = wire::decode_object(&bytes)?;
    check_count(body.commands.len())?;
    let envelope =
        Envelope::of(&call.parts.headers)?.and_body(body.request_id, body.actor, body.expected_seq, body.durability)?;
    let session = call.session().await?;
    let reply = call.carry_out(&session, envelope, None, body.commands).await?;
    Ok(answer(StatusCode::OK, &reply))
}

/// A request has commands, and not too many.
pub(crate) fn check_count(commands: usize) -> Result<(), Problem> {
    match commands {
        0 => Err(Problem::invalid("at `commands`: the list is empty; give at least one command")),
        _ if commands > limits::COMMANDS_PER_REQUEST => Err(Problem::limit(format!(
            "{commands} commands in one request; {} are allowed: send several requests",
            limits::COMMANDS_PER_REQUEST
        ))),
        _ => Ok(()),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordsQuery {
    after: Option<u64>,
    limit: Option<usize>,
}

/// A record as the surfaces show it.
#[derive(Debug, Serialize)]
pub(crate) struct Shown<'a> {
    seq: Seq,
    time_ms: u64,
    epoch: Epoch,
    hash: Hash,
    #[serde(skip_serializing_if = "Option::is_none")]
    actor: Option<&'a Actor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<&'a RequestId>,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    data: Option<Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcomes: Option<&'a [Outcome]>,
}

/// A record with its event taken apart into type and data. One whose body was removed keeps its place: `body_removed`.
pub(crate) fn shown(record: &Record) -> Result<Shown<'_>, Problem> {
    let (kind, data) = match &record.body {
        Some(body) => split(&body.event)?,
        None => ("body_removed".to_owned(), None),
    };
    let body = record.body.as_ref();
    Ok(Shown {
        seq: record.seq,
        time_ms: record.time_ms,
        epoch: record.epoch,
        hash: record.hash,
        actor: body.map(|body| &body.actor),
        request: body.and_then(|body| body.request.as_ref()),
        kind,
        data,
        outcomes: body.and_then(|body| body.answer.as_ref()).map(|answer| answer.outcomes.as_slice()),
    })
}

/// An event is an object with one key, its type.
fn split(event: &Event) -> Result<(String, Option<Json>), Problem> {
    let broken = || Problem::new("internal", "an event is not an object with one key");
    let text = serde_json::to_string(event).map_err(|error| Problem::new("internal", error.to_string()))?;
    let inside = text.strip_prefix("{\"").and_then(|text| text.strip_suffix('}')).ok_or_else(broken)?;
    let (kind, data) = inside.split_once("\":").ok_or_else(broken)?;
    Ok((kind.to_owned(), Some(Json::parse(data)?)))
}

#[derive(Debug, Serialize)]
struct Page<'a> {
    records: Vec<Shown<'a>>,
    head: Head,
    /// The log does not end where these records do: what is after them is damaged.
    #[serde(skip_serializing_if = "Option::is_none")]
    damage: Option<String>,
}

async fn records(call: Call) -> Answer {
    let query: RecordsQuery = call.query()?;
    let limit = wire::page(query.limit, RECORDS_MAX)?;
    let session = call.session().await?;
    // The head is read first: it is at or below what the reads see, never beyond. Of a session that waits for a decision
    // there is none; what comes before the damage is readable all the same, and the reads say where it begins.
    let mut left = None;
    let head = match session.state().await {
        Ok(state) if state.info.status == SessionStatus::NeedsDecision => {
            left = Some(state.head.seq);
            None
        }
        Ok(state) => Some(state.head),
        Err(error) if error.kind == ErrorKind::Corrupt || error.code() == RefusalCode::NeedsDecision.as_str() => None,
        Err(error) => return Err(error.into()),
    };
    let waiting = call.app.keep().decision(session.id());
    let mut damage = waiting.map(|waiting| {
        let known = waiting.plan.known_head;
        let left = left.unwrap_or_default();
        format!("these records end before damage: they can be had up to seq {left} of {known} that are known")
    });
    let mut records: Vec<Record> = Vec::new();
    let mut after = Seq(query.after.unwrap_or(0));
    // Large records make a short page, never a large one; there is always at least one if there is one.
    let (mut reads, mut piece) = (READS_PER_PAGE, READ_BYTES);
    while reads > 0 {
        reads -= 1;
        if records.len() >= limit || head.is_some_and(|head| after >= head.seq) {
            break;
        }
        let more = match session.records(after, piece).await {
            // Damage begins soon: one by one up to there.
            Err(error) if error.kind == ErrorKind::Corrupt && piece > 1 => {
                (reads, piece) = (limit, 1);
                continue;
            }
            // What was read is the answer; the next page has only the damage to tell of.
            Err(error) if error.kind == ErrorKind::Corrupt && (!records.is_empty() || damage.is_some()) => {
                damage.get_or_insert(error.message);
                break;
            }
            more => more?,
        };
        let Some(last) = more.last() else { break };
        after = last.seq;
        records.extend(more.into_iter().take(limit - records.len()));
    }
    let head = head.or_else(|| records.last().map(Record::head)).unwrap_or_default();
    let shown = records.iter().map(shown).collect::<Result<_, _>>()?;
    json(&Page { records: shown, head, damage }, Some(head.seq.0))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateQuery {
    at: Option<u64>,
}

async fn state(call: Call) -> Answer {
    let StateQuery { at } = call.query()?;
    let session = call.session().await?;
    let Some(at) = at else {
        let (head, bytes) = session.canonical().await?;
        if has_already(&call.parts.headers, head.seq.0) {
            return Ok(not_modified(head.seq.0));
        }
        return Ok(json_bytes(StatusCode::OK, bytes, Some(head.seq.0)));
    };
    let state = session.state_at(Seq(at)).await?;
    let bytes = if state.weight() > ENCODE_INLINE_BYTES {
        tokio::task::spawn_blocking(move || state.canonical())
            .await
            .map_err(|error| Problem::new("internal", format!("encoding the state broke off: {error}")))?
    } else {
        state.canonical()
    };
    Ok(json_bytes(StatusCode::OK, bytes.into(), Some(at)))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DiffQuery {
    from: u64,
    to: Option<u64>,
}

async fn diff(call: Call) -> Answer {
    let query: DiffQuery = call.query()?;
    let session = call.session().await?;
    let to = match query.to {
        Some(to) => to,
        None => session.state().await?.head.seq.0,
    };
    if query.from > to {
        return Err(Problem::invalid(format!("parameter `from` ({}) is beyond `to` ({to})", query.from)));
    }
    let diff = session.diff(Seq(query.from), Seq(to)).await?;
    json(&diff, None)
}
