//! `swarmkeep mcp proxy --listen`: the proxy for clients that speak HTTP.

use std::{
    fs::{self, File, TryLockError},
    io::{Read as _, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde_json::json;
use swarmkeep_mcp::{
    front::{self, Terms},
    transport::Recipe,
    wire::Ask,
};
use tokio::{net::TcpListener, sync::mpsc};

use super::proxy::dial;
use crate::{
    context::Context,
    failure::Failure,
    place::{make_private, shown},
    say::say,
    verb::serve::Signals,
};

/// In the environment: what clients have to show, where no file is named.
const TOKEN: &str = "SWARMKEEP_MCP_TOKEN";

pub(super) async fn run(
    context: &Context,
    ask: Ask,
    address: SocketAddr,
    token_file: Option<PathBuf>,
    origins: Vec<String>,
) -> Result<(), Failure> {
    let token = token(token_file.as_deref())?;
    if token.is_none() && !address.ip().is_loopback() {
        return Err(Failure::usage(
            format!("{address} is reached from other machines, and no token is asked for"),
            format!("give --token-file FILE, or {TOKEN} in the environment; or listen on 127.0.0.1"),
        ));
    }
    context.place.make()?;
    let folder = folder(&context.place.dir, &ask)?;
    let mut alone = alone(&folder)?;
    let signals = Signals::listen(false)?;
    let refused = |error: std::io::Error| {
        Failure::unavailable(format!("cannot listen on {address}: {error}"), "name another address, or port 0")
    };
    let listener = TcpListener::bind(address).await.map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    let url = format!("http://{address}/mcp");
    // For whoever is refused: without it he is told less.
    let _ = alone.set_len(0).and_then(|()| alone.write_all(format!("{} {url}\n", std::process::id()).as_bytes()));
    if context.json {
        say!("{}", json!({ "url": url }));
    } else {
        say!("{url}");
    }
    let (dials, mut asked) = mpsc::channel(64);
    let mut ends = signals.seen;
    let until = async move {
        // Its sender lives as long as the program.
        let _ = ends.wait_for(|seen| *seen > 0).await;
    };
    let terms = Terms { ask, folder: folder.clone(), token, origins };
    let serving = front::serve(listener, terms, dials, until);
    let mut serving = std::pin::pin!(serving);
    loop {
        tokio::select! {
            served = &mut serving => {
                return served.map_err(|error| {
                    let what = format!("clients cannot be answered: {error}; their sessions are in {}", shown(&folder));
                    Failure::unavailable(what, "is the folder there, and writable?")
                });
            }
            Some(answer) = asked.recv() => {
                // Whoever asked may be gone.
                let _ = answer.send(dial(context).await);
            }
        }
    }
}

fn token(file: Option<&Path>) -> Result<Option<String>, Failure> {
    let token = match file {
        Some(path) => Some(fs::read_to_string(path).map_err(|error| {
            Failure::usage(format!("the token cannot be read from {}: {error}", shown(path)), "name a file that has it")
        })?),
        None => std::env::var(TOKEN).ok(),
    };
    let Some(token) = token.map(|token| token.trim().to_owned()) else { return Ok(None) };
    if token.is_empty() {
        return Err(Failure::usage("the token is empty", "put a long random word there"));
    }
    Ok(Some(token))
}

/// Where the sessions of clients of this server are kept: another server's clients are others.
fn folder(store: &Path, ask: &Ask) -> Result<PathBuf, Failure> {
    // Its environment, or a header, may be another one at the next start.
    let server = match &ask.recipe {
        Recipe::Stdio(program) => json!([program.program, program.arguments, program.folder]),
        Recipe::Http(site) | Recipe::Sse(site) | Recipe::WebSocket(site) => json!(site.url),
        other => json!(other.without_secrets()),
    };
    let which = json!([server, ask.session, ask.upstream, ask.folder]);
    let hash = blake3::hash(which.to_string().as_bytes()).to_hex();
    let folder = store.join("mcp").join(hash.get(..16).unwrap_or_default());
    make_private(&folder)?;
    Ok(folder)
}

/// One process at a time answers the clients of a server: they would share their sessions. Who it is, and where, is in the file.
fn alone(folder: &Path) -> Result<File, Failure> {
    let cannot = |error: &dyn std::fmt::Display| {
        Failure::unavailable(format!("{}: {error}", shown(folder)), "is the folder there, and writable?")
    };
    let mut open = File::options();
    let open = open.read(true).write(true).create(true).truncate(false);
    let mut file = open.open(folder.join("lock")).map_err(|error| cannot(&error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let mut said = String::new();
            let _ = file.read_to_string(&mut said);
            let what = match said.trim().split_once(' ') {
                Some((pid, url)) => format!("process {pid} answers clients of this server already, at {url}"),
                None => "another process answers clients of this server already".to_owned(),
            };
            Err(Failure::unavailable(what, "use that one, or end it; or give this one another --session"))
        }
        Err(TryLockError::Error(error)) => Err(cannot(&error)),
    }
}
