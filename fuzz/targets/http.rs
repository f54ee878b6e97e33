//! Bodies and paths of the HTTP API.
#![no_main]

use libfuzzer_sys::fuzz_target;
use swarmkeep_fuzz::{Input, ask};

const POSTS: [&str; 22] = [
    "/v1/sessions",
    "/v1/sessions/a/b/commands",
    "/v1/sessions/a/b/agents",
    "/v1/sessions/a/b/agents/x/status",
    "/v1/sessions/a/b/agents/x/heartbeat",
    "/v1/sessions/a/b/tasks",
    "/v1/sessions/a/b/tasks/claim",
    "/v1/sessions/a/b/tasks/x/claim",
    "/v1/sessions/a/b/tasks/x/heartbeat",
    "/v1/sessions/a/b/messages",
    "/v1/sessions/a/b/messages/receive",
    "/v1/sessions/a/b/messages/x/acknowledge",
    "/v1/sessions/a/b/effects/x/begin",
    "/v1/sessions/a/b/effects/x/finish",
    "/v1/sessions/a/b/effects/x/resolve",
    "/v1/sessions/a/b/metrics",
    "/v1/sessions/a/b/blobs",
    "/v1/sessions/a/b/fork",
    "/v1/sessions/a/b/rewind",
    "/v1/sessions/a/b/pause",
    "/v1/sessions/a/b/resume",
    "/v1/sessions/a/b/checkpoints",
];

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    match input.byte() {
        // A query string.
        kind @ 250.. => {
            let text = String::from_utf8_lossy(input.0);
            let table = ["records", "state", "diff", "memory", "tasks", "messages"][usize::from(kind - 250)];
            ask("GET", &format!("/v1/sessions/a/b/{table}?{text}"), "", b"");
        }
        245..250 => ask("GET", &String::from_utf8_lossy(input.0), "", b""),
        235..245 => ask("PUT", "/v1/sessions/a/b/memory/shared/x", "application/json", input.0),
        kind => ask("POST", POSTS[usize::from(kind) % POSTS.len()], "application/json", input.0),
    }
});
