//! The MCP server: sessions as tools, resources and prompts, on `rmcp`.
//!
//! It knows no engine and no HTTP server. What it stands on is the HTTP API as a service ([`axum::Router`]): every tool is one
//! of the API's operations, its schemas are made from the API's own document, and its answer is the API's answer. So there
//! is one vocabulary, and a tool cannot do what the API would not.
//!
//! | module | holds |
//! |---|---|
//! | `api` | the HTTP API, asked from within |
//! | `document` | its operations and schemas, read from its OpenAPI document |
//! | `tool`, `tools` | a tool as a line of a table: which operation, what it is called, what is true of it; the tables |
//! | `call` | arguments put where the operation takes them; answers and problems as results |
//! | `words` | what the API says of routes and headers, said of tools and arguments |
//! | `resource`, `prompt`, `completion` | state and history to read; how things stand, told to whoever resumes; names that may be meant |
//! | `long` | work that takes long, as MCP tasks kept in a session |
//! | `drawn` | ids that nobody guesses, times as text |
//! | `ruv` | the tools of `ruv-swarm`, over a session |
//! | `surface` | all of it as `rmcp` asks for it |
//! | `stream` | JSON-RPC lines over an upgraded connection, for the relay on stdio |

mod api;
mod call;
mod completion;
mod document;
mod drawn;
mod long;
mod prompt;
mod resource;
mod ruv;
mod stream;
mod surface;
mod tool;
mod tools;
mod words;

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Path, Query},
    http::Request,
    response::Response,
    routing,
};
use rmcp::{
    ServerHandler,
    transport::{
        StreamableHttpServerConfig, StreamableHttpService, streamable_http_server::session::never::NeverSessionManager,
    },
};
use serde::Deserialize;

use self::{api::Api, ruv::Ruv, stream::Streams, surface::Surface};

/// Largest body of one message over HTTP: a group of records may be half of it, escapes double it.
const BODY_BYTES: usize = 4 << 20;

/// The routes. `api` answers as the HTTP API does, for callers that were let in already; when `closing` resolves, streams
/// end. Needs a runtime around it.
///
/// | route | what |
/// |---|---|
/// | `/mcp` | Streamable HTTP, every revision, no protocol session |
/// | `/mcp/stream` | the same as lines, over a connection that is upgraded to `mcp-lines` |
/// | `/mcp/ruv-swarm/NAMESPACE/NAME`, and `/stream` below it | the tools of `ruv-swarm` over that session |
///
/// Nothing is kept between two requests over HTTP: sessions are named in arguments, so a client goes on after a restart of
/// the server as if nothing had been.
pub fn router(api: Router, closing: impl Future<Output = ()> + Send + 'static) -> Router {
    let api = Api::new(api);
    let surface = Surface::new(api.clone());
    let streams = Streams::new(closing);
    let (lines, ruv_lines) = (streams.clone(), streams);
    let (line_surface, ruv_api) = (surface.clone(), api.clone());
    let session_of = |Named { namespace, name }: Named| format!("{namespace}/{name}");
    Router::new()
        .route_service("/mcp", over_http(surface))
        .route("/mcp/stream", routing::get(move |request| lines.open(line_surface, request)))
        .route(
            "/mcp/ruv-swarm/{namespace}/{name}",
            routing::any(move |Path(named): Path<Named>, request: Request<Body>| async move {
                let server = Ruv::new(ruv_api, session_of(named), None);
                let response: Response = over_http(server).handle(request).await.map(Body::new);
                response
            }),
        )
        .route(
            "/mcp/ruv-swarm/{namespace}/{name}/stream",
            routing::get(move |Path(named): Path<Named>, Query(who): Query<Who>, request: Request<Body>| {
                ruv_lines.open(Ruv::new(api, session_of(named), who.client), request)
            }),
        )
}

/// A session in a path.
#[derive(Deserialize)]
struct Named {
    namespace: String,
    name: String,
}

/// Whose stream it is: the same name again, and a request that comes again is known.
#[derive(Deserialize)]
struct Who {
    client: Option<String>,
}

/// A server over HTTP, without anything that lasts from one request to the next.
fn over_http<S: ServerHandler + Clone>(server: S) -> StreamableHttpService<S, NeverSessionManager> {
    StreamableHttpService::new(
        move || Ok(server.clone()),
        Arc::new(NeverSessionManager::default()),
        // Host and Origin are checked by whoever lets callers in.
        StreamableHttpServerConfig::default()
            .disable_allowed_hosts()
            .with_legacy_session_mode(false)
            .with_json_response(true)
            .with_max_request_body_bytes(BODY_BYTES),
    )
}
