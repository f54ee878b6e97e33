//! The peer over a socket: Redis, started for the measurement, every write synced (`appendfsync always`).

use std::{net::SocketAddr, path::Path, process::Stdio, time::Duration};

use tokio::{
    net::TcpStream,
    process::{Child, Command},
    time::sleep,
};

use super::scratch::system;
use crate::failure::Failure;

/// A Redis server; killed when dropped.
pub(super) struct Redis {
    pub(super) address: SocketAddr,
    _child: Child,
}

/// What is said where there is none.
pub(super) const ABSENT: &str = "redis-server is not installed here: no comparison with it";

impl Redis {
    /// `None`: it is not installed.
    pub(super) async fn start(folder: &Path) -> Result<Option<Self>, Failure> {
        std::fs::create_dir_all(folder).map_err(system("a folder for Redis"))?;
        // A port that is free now; whoever takes it in between makes the start fail, and the measurement with it.
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|free| free.local_addr())
            .map_err(system("a port for Redis"))?
            .port();
        let spawned = Command::new("redis-server")
            .args([
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
                "--appendonly",
                "yes",
                "--appendfsync",
                "always",
                "--save",
                "",
                "--dir",
            ])
            .arg(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let child = match spawned {
            Ok(child) => child,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(system("redis-server")(error)),
        };
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        for _ in 0..500 {
            if TcpStream::connect(address).await.is_ok() {
                return Ok(Some(Self { address, _child: child }));
            }
            sleep(Duration::from_millis(10)).await;
        }
        Err(Failure::unavailable("redis-server does not answer", "start it by hand to see why"))
    }
}

/// One write of 200 bytes.
pub(super) fn write(connection: usize, number: u64) -> Vec<u8> {
    let key = format!("s-{}", (connection as u64 * 31 + number) % 1_000);
    let field = number.to_string();
    let payload = super::payload(number);
    format!(
        "*4\r\n$4\r\nHSET\r\n${}\r\n{key}\r\n${}\r\n{field}\r\n${}\r\n{payload}\r\n",
        key.len(),
        field.len(),
        payload.len()
    )
    .into_bytes()
}
