//! Disk after many turns of one session whose state is large: what is written is what is new, not the state again.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use swarmkeep::{Command, NewSession, Of, Query, Request, Settings, Swarmkeep};

use super::{
    Figure, Plan, Scratch,
    scratch::{actor, json, name},
};
use crate::{failure::Failure, moment, verb::serve::refused};

const TURNS: u64 = 10_000;
/// New in each turn: a thought, an answer.
const TURN_BYTES: usize = 600;
const TRANSCRIPT_BYTES: usize = 60_000;

pub(super) async fn take(_: &Plan, scratch: &Scratch) -> Result<Vec<Figure>, Failure> {
    let folder = scratch.path("disk");
    let settings = Settings::default();
    let segments = settings.segment_bytes;
    let keep = Swarmkeep::open_with(folder.to_string_lossy(), settings).await.map_err(refused)?;
    let session = keep.create_session(NewSession::new(name(0)?), &actor()).await.map_err(refused)?;
    let id = |text: &str| text.parse::<swarmkeep::EntityId>().map_err(|refusal| refused(refusal.into()));
    let transcript = json(&format!("\"{}\"", words(TRANSCRIPT_BYTES, 1)))?;
    let set = Command::SetMemory {
        scope: id("shared")?,
        key: id("transcript")?,
        value: transcript,
        if_version: None,
        ttl_ms: None,
    };
    session.submit(Request::of(actor(), set)).await.map_err(refused)?;
    let mut position = swarmkeep::Position::default();
    for turn in 0..TURNS {
        let payload = json(&format!("\"{}\"", words(TURN_BYTES, turn + 2)))?;
        let record = Command::Record { kind: "turn".into(), aggregate: None, payload, blobs: Default::default() };
        position = session.submit(Request::of(actor(), record)).await.map_err(refused)?.position;
    }
    keep.find(Query { limit: Some(1), ..Query::of(Of::Sessions) }, Some(position)).await.map_err(refused)?;
    keep.close().await.map_err(refused)?;
    let all = used(&folder);
    let journal = used(&folder.join("journal"));
    let new = (TRANSCRIPT_BYTES as u64 + TURNS * TURN_BYTES as u64) as f64;
    Ok(vec![
        Figure::new("disk after 10,000 turns, without the journal", "MB", vec![(all - journal) as f64 / 1e6])
            .beside("bytes that were new", &[new / 1e6])
            .at_most_of(1.5)
            .note(format!(
                "journal, its floor of {} segments included: {}",
                moment::bytes(segments),
                moment::bytes(journal)
            )),
    ])
}

/// Text that compresses about as text does: words from a small stock, in an order that does not come again.
fn words(bytes: usize, seed: u64) -> String {
    const STOCK: [&str; 16] = [
        "the", "parser", "reads", "tokens", "and", "builds", "a", "tree", "because", "tests", "fail", "in", "module",
        "error", "returns", "value",
    ];
    let mut text = String::with_capacity(bytes + 16);
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while text.len() < bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.push_str(STOCK.get(usize::try_from(state >> 60).unwrap_or(0)).copied().unwrap_or("x"));
        text.push_str(&format!("{:x} ", state >> 52 & 0xff));
    }
    text.truncate(bytes);
    text
}

/// Bytes of disk below a folder, as the file system counts them.
pub(super) fn used(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => used(&entry.path()),
            Ok(metadata) => metadata.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}
