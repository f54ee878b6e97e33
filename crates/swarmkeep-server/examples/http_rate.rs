//! How fast the HTTP surface is: 64 keep-alive connections on the route that does nothing, one append a request on the same
//! connections, and a bulk stream. Client and server share this process and its cores.
//!
//! `cargo run --release -p swarmkeep-server --example http_rate [SECONDS]`
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a measurement"
)]

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use swarmkeep::Swarmkeep;
use swarmkeep_server::{Server, ServerSettings};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const CONNECTIONS: usize = 64;
const SESSIONS: usize = 1_000;
static ROUNDS: AtomicUsize = AtomicUsize::new(0);

#[tokio::main]
async fn main() {
    let seconds = std::env::args().nth(1).map_or(3, |text| text.parse().unwrap());
    let folder = tempfile::TempDir::new_in(".").unwrap();
    let keep = Swarmkeep::open(folder.path().join("store").to_str().unwrap()).await.unwrap();
    let server = Server::bind(keep.clone(), ServerSettings::listen("127.0.0.1:0".parse().unwrap())).await.unwrap();
    let address = server.addresses()[0];
    tokio::spawn(server.run(std::future::pending()));
    for n in 0..SESSIONS {
        keep.open_session(&format!("bench/s{n}")).await.unwrap();
    }
    let nothing = format!("GET /health/live HTTP/1.1\r\nhost: {address}\r\n\r\n").into_bytes();
    for _ in 0..3 {
        let request = nothing.clone();
        rate("no-op", address, seconds, move |_, _| request.clone()).await;
        rate("append", address, seconds, move |connection, n| {
            let body = command(&format!("\"request_id\":\"c{connection}:{n}\","), "");
            let session = (connection * 7919 + n) % SESSIONS;
            format!(
                "POST /v1/sessions/bench/s{session}/commands HTTP/1.1\r\nhost: {address}\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            )
            .into_bytes()
        })
        .await;
        bulk(address).await;
    }
    println!("load {}", std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim());
}

fn command(before: &str, session: &str) -> String {
    format!(
        "{{{session}{before}\"commands\":[{{\"record\":{{\"kind\":\"note\",\"payload\":\"{}\"}}}}]}}",
        "x".repeat(200)
    )
}

async fn rate(
    name: &str,
    address: SocketAddr,
    seconds: u64,
    request: impl Fn(usize, usize) -> Vec<u8> + Clone + Send + 'static,
) {
    // Counters differ between runs of this function, so that no request repeats an earlier one.
    let first = ROUNDS.fetch_add(1, Ordering::Relaxed) * 100_000_000;
    let until = Instant::now() + Duration::from_secs(seconds);
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|connection| {
            let request = request.clone();
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.set_nodelay(true).unwrap();
                let mut took: Vec<u32> = Vec::new();
                let mut buffer = vec![0; 8192];
                let mut n = first;
                while Instant::now() < until {
                    n += 1;
                    let began = Instant::now();
                    stream.write_all(&request(connection, n)).await.unwrap();
                    let mut have = 0;
                    while !is_whole(&buffer[..have]) {
                        let more = stream.read(&mut buffer[have..]).await.unwrap();
                        assert!(more > 0, "{}", String::from_utf8_lossy(&buffer[..have]));
                        have += more;
                    }
                    assert!(buffer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer[..have]));
                    took.push(u32::try_from(began.elapsed().as_micros()).unwrap());
                }
                took
            })
        })
        .collect();
    let began = Instant::now();
    let mut took = Vec::new();
    for client in clients {
        took.extend(client.await.unwrap());
    }
    let rate = took.len() as f64 / began.elapsed().as_secs_f64();
    took.sort_unstable();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
    println!("{name:<7} {rate:>8.0}/s  p50 {} µs  p99 {} µs  p99.9 {} µs", at(0.5), at(0.99), at(0.999));
}

fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { return false };
    let head = std::str::from_utf8(&answer[..end]).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse::<usize>().unwrap();
    answer.len() >= end + 4 + length
}

async fn bulk(address: SocketAddr) {
    const LINES: usize = 200_000;
    let lines: String =
        (0..LINES).map(|n| command("", &format!("\"session\":\"bench/s{}\",", n % SESSIONS)) + "\n").collect();
    let began = Instant::now();
    let (mut read, mut write) = TcpStream::connect(address).await.unwrap().into_split();
    let head = format!(
        "POST /v1/bulk HTTP/1.1\r\nhost: {address}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        lines.len()
    );
    let writing = tokio::spawn(async move {
        write.write_all(head.as_bytes()).await.unwrap();
        write.write_all(lines.as_bytes()).await.unwrap();
        write
    });
    let mut answers = 0;
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let have = read.read(&mut buffer).await.unwrap();
        if have == 0 {
            break;
        }
        answers += buffer[..have].windows(8).filter(|window| *window == b"{\"line\":").count();
    }
    drop(writing.await.unwrap());
    println!("bulk    {:>8.0}/s  ({answers} answers seen of {LINES})", LINES as f64 / began.elapsed().as_secs_f64());
}
