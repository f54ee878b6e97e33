//! What the targets share: checksums made right, so that what lies behind them is reached, and a server to ask.
//!
//! A checksum that is wrong ends every parser at once, and no fuzzer guesses BLAKE3. So the targets take the bytes as they
//! come, and, the other half of the time, with their checksums put right: an attacker who may write files can do that too.

use std::cell::RefCell;

use axum::{Router, body::Body, http::Request};
use http_body_util::BodyExt;
use swarmkeep::{Swarmkeep, journal::segment};
use swarmkeep_core::{Hash, log::Position};
use swarmkeep_server::ServerSettings;
use tower::ServiceExt;

/// Numbers from the front of an input.
#[derive(Debug)]
pub struct Input<'a>(pub &'a [u8]);

impl Input<'_> {
    /// The next byte; 0 at the end.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// A number, most often a small one.
    pub fn number(&mut self) -> u64 {
        match self.byte() {
            255 => u64::MAX - u64::from(self.byte()),
            254 => u64::from_le_bytes(std::array::from_fn(|_| self.byte())),
            200..=253 => u64::from(self.byte()) * 512,
            small => u64::from(small),
        }
    }

    /// So many bytes, or what is left.
    pub fn take(&mut self, most: usize) -> Vec<u8> {
        let (taken, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        taken.to_vec()
    }
}

/// The header of a segment.
pub fn segment_header(number: u64, input: &mut Input<'_>) -> segment::Header {
    segment::Header {
        store: swarmkeep::journal::StoreId([1; 16]),
        number,
        incarnation: 1 + u64::from(input.byte() % 3),
        nonce: [7; 32],
        first_position: Position(input.number()),
        previous_hash: Hash([input.byte(); 32]),
        previous_number: input.number(),
        previous_end: input.number(),
        data_position: Position(input.number()),
        data_hash: Hash([input.byte(); 32]),
        records_position: Position(input.number()),
        records_hash: Hash([input.byte(); 32]),
        recycled: input.byte() & 1 == 1,
        carried: input.byte() & 1 == 1,
        size: input.number(),
        time_ms: 0,
    }
}

fn put(bytes: &mut [u8], at: usize, with: &[u8]) {
    if let Some(field) = bytes.get_mut(at..at + with.len()) {
        field.copy_from_slice(with);
    }
}

fn length(bytes: &[u8], at: usize) -> usize {
    bytes.get(at..at + 4).map_or(0, |four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]) as usize)
}

/// Makes a frame's place and checksums right, and leaves the rest of it as it came.
pub fn seal_frame(frame: &mut [u8], header: &segment::Header, offset: u64) {
    const HEADER: usize = 144;
    if frame.len() < 512 {
        return;
    }
    let crc = |bytes: &[u8]| crc32c::crc32c_append(crc32c::crc32c(&header.nonce), bytes).to_le_bytes();
    put(frame, 0, b"SKFR");
    put(frame, 9, &[0; 3]);
    put(frame, 40, &header.incarnation.to_le_bytes());
    put(frame, 56, &header.number.to_le_bytes());
    put(frame, 64, &offset.to_le_bytes());
    // A length that fits, of two that are not there yet.
    let directory = length(frame, 16) % frame.len();
    let body = length(frame, 28) % frame.len();
    put(frame, 16, &(directory as u32).to_le_bytes());
    put(frame, 28, &(body as u32).to_le_bytes());
    let whole = (HEADER + directory + body + 32).next_multiple_of(512);
    put(frame, 12, &(whole as u32).to_le_bytes());
    if let Some(bytes) = frame.get(HEADER..HEADER + directory) {
        let sum = crc(bytes);
        put(frame, 20, &sum);
    }
    if let Some(content) = frame.get(HEADER..HEADER + directory + body) {
        let mut hasher = blake3::Hasher::new_keyed(&header.nonce);
        hasher.update(&frame[8..112]).update(content);
        let hash = hasher.finalize();
        put(frame, 112, hash.as_bytes());
    }
    let sum = crc(&frame[8..HEADER]);
    put(frame, 4, &sum);
}

/// Requests to a server over a store in RAM; a new one after so many.
pub struct Asked {
    runtime: tokio::runtime::Runtime,
    server: Option<(Router, u32)>,
}

const REQUESTS: u32 = 2_000;

impl Asked {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { runtime, server: None }
    }

    fn ask(&mut self, method: &str, path: &str, content: &str, body: &[u8]) -> u16 {
        let Self { runtime, server } = self;
        runtime.block_on(async {
            if server.as_ref().is_none_or(|(_, asked)| *asked > REQUESTS) {
                let router =
                    swarmkeep_server::router(Swarmkeep::open("ephemeral:").await.unwrap(), ServerSettings::default());
                send(&router, "POST", "/v1/sessions", "application/json", br#"{"name":"a/b"}"#).await;
                *server = Some((router, 0));
            }
            let Some((router, asked)) = server else { return 0 };
            *asked += 1;
            send(router, method, path, content, body).await
        })
    }
}

async fn send(router: &Router, method: &str, path: &str, content: &str, body: &[u8]) -> u16 {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .header("content-type", content)
        .header("content-length", body.len())
        .body(Body::from(body.to_vec()));
    let Ok(request) = request else { return 0 };
    let response = router.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
    let status = response.status().as_u16();
    let _ = response.into_body().collect().await;
    status
}

/// Sends it, and asserts that nothing went wrong inside.
pub fn ask(method: &str, path: &str, content: &str, body: &[u8]) {
    thread_local!(static ASKED: RefCell<Asked> = RefCell::new(Asked::new()));
    let status = ASKED.with(|asked| asked.borrow_mut().ask(method, path, content, body));
    assert_ne!(status, 500, "{method} {path}");
}
