//! A server that has everything the conformance suites ask a server for: their tools, resources and prompts, in every
//! revision. The suites give one result against it directly, and have to give the same through the proxy
//! (`cargo xtask peers conformance`).
//!
//! ```text
//! cargo run -p swarmkeep-mcp --example conformance_peer                       on stdin and stdout
//! cargo run -p swarmkeep-mcp --example conformance_peer -- --http 127.0.0.1:0 over Streamable HTTP; says where
//! ```
//!
//! | module | holds |
//! |---|---|
//! | `peer` | all of it as `rmcp` asks for it |
//! | `tools` | the tools, as lines of a table, and what they do |
//! | `resources`, `prompts` | what is read, and what is got |
//! | `question` | what a client is asked: a form, a sample, its roots |
//! | `rounds` | calls that are answered with questions until all is known, without anything kept in between |
//! | `jobs` | work that takes long, as tasks |
//! | `change` | lists and resources that change, and who is told |
//! | `hang_up` | an answer's stream that ends before the answer |
//! | `sample` | a picture and a sound |

mod change;
mod hang_up;
mod jobs;
mod peer;
mod prompts;
mod question;
mod resources;
mod rounds;
mod sample;
mod tools;

use std::{error::Error, io::Write as _, sync::Arc};

use axum::{Router, middleware};
use rmcp::{
    ServiceExt as _,
    transport::{
        StreamableHttpServerConfig, StreamableHttpService, streamable_http_server::session::local::LocalSessionManager,
    },
};
use tokio::net::TcpListener;

use self::{change::World, hang_up::Returned, peer::Peer};

/// Sessions that may come back before one that is waited for.
const SESSIONS: usize = 64;

const USAGE: &str = "usage: conformance_peer [--http ADDRESS]";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let world = Arc::new(World::new()?);
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => {
            let lines = (tokio::io::stdin(), tokio::io::stdout());
            Peer::new(world).serve(lines).await?.waiting().await?;
            Ok(())
        }
        ["--http", address] => over_http(world, address).await,
        _ => Err(USAGE.into()),
    }
}

/// Every session has a peer of its own; what changes, changes for all.
async fn over_http(world: Arc<World>, address: &str) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind(address).await?;
    let mut out = std::io::stdout();
    writeln!(out, "http://{}/mcp", listener.local_addr()?)?;
    out.flush()?;
    let service = StreamableHttpService::new(
        move || Ok(Peer::new(world.clone())),
        Arc::new(LocalSessionManager::default()),
        StreamableHttpServerConfig::default(),
    );
    let routes = Router::new()
        .route_service("/mcp", service)
        .layer(middleware::from_fn_with_state(Returned::new(SESSIONS), hang_up::able));
    axum::serve(listener, routes).await?;
    Ok(())
}
