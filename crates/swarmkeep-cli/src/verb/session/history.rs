//! History: the log, page by page, or followed as it grows.

use std::time::Duration;

use clap::Args;
use serde_json::Value;
use swarmkeep::core::json::decode_lossy;

use super::super::{Name, entries, field, number, path, plain, text};
use crate::{
    client::{Call, Stream, query, segment},
    context::{Context, print_json},
    failure::{Exit, Failure},
    moment,
    say::say,
    table::{cut, printable, terminal_width},
};

/// What happened, record by record.
#[derive(Debug, Args)]
pub(crate) struct History {
    session: Name,
    /// Begin after this seq
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    from: u64,
    /// At most so many records
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Only the last so many
    #[arg(long, value_name = "N", conflicts_with = "from")]
    last: Option<u64>,
    /// Go on as new ones come
    #[arg(long, short)]
    follow: bool,
}

/// Records in one page.
const PAGE: u64 = 1000;

impl History {
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Failure> {
        let mut after = self.from;
        if let Some(last) = self.last {
            let now = context.get_json(path(&self.session, "")).await?;
            after = now.pointer("/head/seq").and_then(Value::as_u64).unwrap_or(0).saturating_sub(last);
        }
        let mut left = self.limit.unwrap_or(u64::MAX);
        if self.follow {
            // The last call that may start a daemon: from here on one that dies is waited for.
            context.get(path(&self.session, "")).await?;
            return follow(context, &self.session, after, left).await;
        }
        let (mut shown, mut damage) = (Vec::new(), String::new());
        while left > 0 && !crate::say::is_silent() {
            let pairs = [("after", Some(after.to_string())), ("limit", Some(left.min(PAGE).to_string()))];
            let page = match context.get_json(path(&self.session, "/records") + &query(&pairs)).await {
                // What came before it is the answer all the same.
                Err(mut failure) if failure.exit == Exit::Corrupt => {
                    if !shown.is_empty() {
                        print_json(&serde_json::json!({ "records": shown, "damage": failure.what }))?;
                    }
                    let name = &self.session;
                    failure.next = format!(
                        "what comes after the damage, where there is anything: swarmkeep session history {name} --from SEQ; {}",
                        failure.next
                    );
                    return Err(failure);
                }
                page => page?,
            };
            let records = entries(&page, "records");
            let Some(end) = records.last() else {
                damage = text(&page, "damage").to_owned();
                break;
            };
            after = number(end, "seq");
            left = left.saturating_sub(records.len() as u64);
            for record in records {
                if context.json {
                    shown.push(record.clone());
                } else {
                    line(context, record);
                }
            }
        }
        if context.json {
            let answer = match damage.is_empty() {
                true => serde_json::json!({ "records": shown }),
                false => serde_json::json!({ "records": shown, "damage": damage }),
            };
            return print_json(&answer);
        }
        Ok(())
    }
}

/// A daemon that is gone is looked for this often at first, and every second later.
const LOOK: Duration = Duration::from_millis(20);
const LOOK_AT_MOST: Duration = Duration::from_secs(1);

/// The feed, from a seq on; it is asked for again where it broke off, from what was seen last. A daemon that is gone is waited
/// for: whoever runs it starts it again, at its place and with its settings.
async fn follow(context: &mut Context, session: &str, after: u64, mut left: u64) -> Result<(), Failure> {
    let mut from = after.to_string();
    let mut pause = LOOK;
    let mut is_told = false;
    while left > 0 && !crate::say::is_silent() {
        let Some(mut stream) = open_feed(context, session, &from).await? else {
            if !is_told {
                is_told = true;
                crate::say::remark!(
                    "swarmkeep: the daemon is away; waiting for it ({} serve), to go on where this broke off",
                    context.place.program()
                );
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOK_AT_MOST);
            continue;
        };
        let mut events = Events::default();
        while let Ok(Some(bytes)) = stream.next().await {
            (pause, is_told) = (LOOK, false);
            for event in events.take(&bytes) {
                if let Some(id) = event.id.filter(|id| !id.is_empty()) {
                    from = id;
                }
                let Ok(record) = decode_lossy::<Value>(event.data.as_bytes()) else { continue };
                if text(&record, "reason") == "failed" && number(&record, "seq") == 0 {
                    return Err(Failure::corrupt(
                        format!("session {session}: its records cannot be read beyond this place ({from})"),
                        format!("{} verify {session} says what is damaged", context.place.program()),
                    ));
                }
                if number(&record, "seq") == 0 {
                    continue;
                }
                if context.json {
                    print_json(&record)?
                } else {
                    line(context, &record)
                }
                left -= 1;
                if left == 0 || crate::say::is_silent() {
                    return Ok(());
                }
            }
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// `None`: nobody answers, or not now.
async fn open_feed(context: &Context, session: &str, from: &str) -> Result<Option<Stream>, Failure> {
    let Ok(mut client) = context.connect_if_running().await else { return Ok(None) };
    let call =
        Call::get(path(session, "/feed") + &format!("?from={}", segment(from))).header("accept", "text/event-stream");
    let Ok(mut stream) = client.stream(&call).await else { return Ok(None) };
    if stream.status == 200 {
        return Ok(Some(stream));
    }
    let mut body = Vec::new();
    while let Ok(Some(bytes)) = stream.next().await {
        body.extend_from_slice(&bytes);
    }
    if stream.status == 503 { Ok(None) } else { Err(Failure::problem(stream.status, &body)) }
}

fn line(context: &Context, record: &Value) {
    let paint = context.paint;
    let seq = number(record, "seq");
    let time = moment::utc(number(record, "time_ms"));
    let time = time.get(11..).unwrap_or(&time).to_owned();
    let data = match field(record, "data") {
        Value::Object(fields) => fields
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| match value {
                Value::String(text) => format!("{name}={text}"),
                other => format!("{name}={other}"),
            })
            .collect::<Vec<_>>()
            .join(" "),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let actor = printable(&plain(record, "actor"));
    let kind = printable(text(record, "type"));
    let before = format!("{seq:>7}  {time}  {actor:<12}  {kind:<24}  ");
    let room =
        terminal_width().unwrap_or(usize::MAX).saturating_sub(unicode_width::UnicodeWidthStr::width(before.as_str()));
    say!(
        "{}  {}  {}  {}  {}",
        paint.dim(format_args!("{seq:>7}")),
        paint.dim(&time),
        paint.cyan(format_args!("{actor:<12}")),
        format_args!("{kind:<24}"),
        paint.dim(cut(&printable(&data), room))
    );
}

/// Server-sent events, cut out of bytes as they come.
#[derive(Debug, Default)]
struct Events {
    rest: Vec<u8>,
}

#[derive(Debug, PartialEq)]
struct Event {
    id: Option<String>,
    data: String,
}

impl Events {
    fn take(&mut self, bytes: &[u8]) -> Vec<Event> {
        self.rest.extend_from_slice(bytes);
        let mut events = Vec::new();
        while let Some(end) = self.rest.windows(2).position(|pair| pair == b"\n\n") {
            let block: Vec<u8> = self.rest.drain(..end + 2).collect();
            let (mut id, mut data) = (None, Vec::new());
            for line in String::from_utf8_lossy(&block).lines() {
                match line.split_once(':') {
                    Some(("id", value)) => id = Some(value.trim_start().to_owned()),
                    Some(("data", value)) => data.push(value.strip_prefix(' ').unwrap_or(value).to_owned()),
                    _ => {}
                }
            }
            // An id alone is where the feed starts.
            if !data.is_empty() || id.is_some() {
                events.push(Event { id, data: data.join("\n") });
            }
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_cut_out_wherever_the_bytes_break() {
        let text = b": hello\nid: a-0\n\nid: a-1\nevent: x\ndata: {\"seq\":1}\n\nid: a-2\ndata: 1\ndata: 2\n\n";
        for cut in 0..text.len() {
            let mut events = Events::default();
            let mut all = events.take(&text[..cut]);
            all.extend(events.take(&text[cut..]));
            assert_eq!(
                all,
                [
                    Event { id: Some("a-0".into()), data: String::new() },
                    Event { id: Some("a-1".into()), data: "{\"seq\":1}".into() },
                    Event { id: Some("a-2".into()), data: "1\n2".into() },
                ]
            );
        }
    }
}
