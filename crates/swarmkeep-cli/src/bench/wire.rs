//! A client that costs next to nothing: bytes made beforehand, answers only counted. What is measured is the server.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::Instant,
};

use super::{
    figure::Latencies,
    scratch::{broke_off, system},
};
use crate::failure::Failure;

/// How an answer ends.
#[derive(Debug, Clone, Copy)]
pub(super) enum Answers {
    /// HTTP, with a Content-Length or chunked.
    Http,
    /// So many Redis replies of one line.
    Redis(usize),
}

/// Calls per second, `at_once` connections that each wait for an answer before the next call.
pub(super) async fn hammer(
    address: SocketAddr,
    at_once: usize,
    run_ms: u64,
    answers: Answers,
    call: impl Fn(usize, u64) -> Vec<u8> + Send + Clone + 'static,
) -> Result<(f64, Latencies), Failure> {
    let began = Instant::now();
    let end = began + Duration::from_millis(run_ms);
    let mut connections = JoinSet::new();
    for connection in 0..at_once {
        let call = call.clone();
        connections.spawn(async move {
            let mut stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let (mut latencies, mut buffer, mut number) = (Latencies::default(), Vec::with_capacity(64 * 1024), 0u64);
            while Instant::now() < end {
                number += 1;
                let bytes = call(connection, number);
                let since = Instant::now();
                stream.write_all(&bytes).await?;
                buffer.clear();
                loop {
                    if stream.read_buf(&mut buffer).await? == 0 {
                        return Err(std::io::ErrorKind::UnexpectedEof.into());
                    }
                    match ended(answers, &buffer) {
                        Some(true) => break,
                        Some(false) => {
                            let said: String = String::from_utf8_lossy(&buffer).chars().take(300).collect();
                            return Err(std::io::Error::other(format!("refused: {said}")));
                        }
                        None => {}
                    }
                }
                latencies.add(since);
            }
            Ok::<_, std::io::Error>(latencies)
        });
    }
    let mut all = Latencies::default();
    while let Some(ended) = connections.join_next().await {
        all.join(ended.map_err(broke_off)?.map_err(system("a connection"))?);
    }
    Ok((all.len() as f64 / began.elapsed().as_secs_f64(), all))
}

/// Whether the answer is whole, and whether it is a good one.
fn ended(answers: Answers, buffer: &[u8]) -> Option<bool> {
    match answers {
        Answers::Redis(replies) => {
            let count = buffer.iter().filter(|byte| **byte == b'\n').count();
            (count >= replies).then(|| !buffer.starts_with(b"-"))
        }
        Answers::Http => {
            let head = buffer.windows(4).position(|window| window == b"\r\n\r\n")?;
            let text = std::str::from_utf8(buffer.get(..head)?).ok()?;
            let good = text.starts_with("HTTP/1.1 2");
            let header = |name: &str| {
                text.lines().find_map(|line| {
                    let (key, value) = line.split_once(':')?;
                    key.eq_ignore_ascii_case(name).then(|| value.trim())
                })
            };
            match header("content-length").and_then(|length| length.parse::<usize>().ok()) {
                Some(length) => (buffer.len() >= head + 4 + length).then_some(good),
                None => buffer.ends_with(b"0\r\n\r\n").then_some(good),
            }
        }
    }
}

/// A POST with a body of JSON.
pub(super) fn post(address: SocketAddr, path: &str, kind: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// A GET.
pub(super) fn get(address: SocketAddr, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n").into_bytes()
}
