//! The daemon's surface: sessions over HTTP, the same over TCP and over a socket in the store's folder.
//!
//! Translation only. What a call means is the engine's business ([`swarmkeep`]); what it looks like on the wire is here and
//! nowhere else. This crate never sees how the engine keeps its data.
//!
//! | module | holds |
//! |---|---|
//! | [`settings`] | where to listen and whom to answer |
//! | `serve` | listeners, connections, the end |
//! | `stall`, `unread` | a peer that reads nothing; a body that nobody read |
//! | `guard` | Host, Origin and token |
//! | `api`, `openapi` | the table of routes, and the document made from it |
//! | `wire` | requests read, replies written |
//! | [`problem`] | what is answered when it was not done |
//! | `beside` | another surface, behind the same guard |
//! | `sessions`, `records`, `agents`, `tasks`, `messages`, `memory`, `effects`, `metrics`, `blobs` | one resource each |
//! | `bulk`, `feed` | streams in and out |
//! | `query`, `store`, `health`, [`report`] | across sessions; the store itself; the morning report |
//! | [`reading`] | its documents, read without their types |

mod agents;
mod api;
mod app;
mod beside;
mod blobs;
mod bulk;
mod effects;
mod feed;
mod guard;
mod health;
mod left;
mod listing;
mod memory;
mod messages;
mod metrics;
mod openapi;
pub mod problem;
mod query;
pub mod reading;
mod records;
mod recoveries;
pub mod report;
mod serve;
mod sessions;
pub mod settings;
mod stall;
mod store;
mod tasks;
mod tls;
mod unread;
mod wire;

use std::any::Any;

use axum::{
    Extension, Router,
    body::Body,
    http::{Method, Uri},
    response::{IntoResponse, Response},
};
use swarmkeep::Swarmkeep;
use tower::{Layer, ServiceExt};
use tower_http::catch_panic::CatchPanicLayer;

pub use self::{
    beside::{Beside, Ground},
    problem::Problem,
    serve::{Server, serve},
    settings::{DEFAULT_PORT, Secret, ServerSettings, Tls},
};
use crate::{
    api::Api,
    app::{App, Via},
};

/// The whole HTTP API, to be served by a program of one's own, with the settings' Host, Origin and token rules in front of
/// it. The Host's port is not compared: only who listens knows it.
pub fn router(keep: Swarmkeep, settings: ServerSettings) -> Router {
    router_with(keep, settings, None)
}

/// The same, with another surface [`Beside`] the API.
pub fn router_with(keep: Swarmkeep, settings: ServerSettings, beside: Option<Beside>) -> Router {
    let guard = guard::Guard::new(&settings, None);
    let (_, api) = build(keep, settings, beside);
    Router::new().fallback_service(guard.layer(api).map_request(unread::watch::<Body>))
}

/// The API without a guard, and what it shares.
fn build(keep: Swarmkeep, settings: ServerSettings, beside: Option<Beside>) -> (App, Router) {
    let api = routes();
    let app = App::new(keep, settings, openapi::document(&api.operations).into());
    let marked = axum::middleware::from_fn_with_state(app.clone(), left::say);
    let router = api.router.layer(marked).fallback(no_route).method_not_allowed_fallback(no_method);
    let mut router = router.with_state::<()>(app.clone());
    if let Some(Beside { caller, mount }) = beside {
        let closing = app.clone();
        let ground = Ground {
            api: router.clone().layer(Extension(Via(caller))),
            closing: Box::pin(async move { closing.closing().await }),
        };
        router = router.merge(mount(ground));
    }
    (app, router.layer(CatchPanicLayer::custom(panicked)))
}

fn routes() -> Api {
    let api = Api::new();
    let api = sessions::routes(api);
    let api = records::routes(api);
    let api = agents::routes(api);
    let api = tasks::routes(api);
    let api = messages::routes(api);
    let api = memory::routes(api);
    let api = effects::routes(api);
    let api = metrics::routes(api);
    let api = blobs::routes(api);
    let api = feed::routes(api);
    let api = bulk::routes(api);
    let api = query::routes(api);
    let api = store::routes(api);
    let api = recoveries::routes(api);
    let api = report::routes(api);
    let api = health::routes(api);
    openapi::routes(api)
}

async fn no_route(uri: Uri) -> Problem {
    let path: String = uri.path().chars().take(200).collect();
    Problem::not_found(format!("there is no route `{path}`")).hint("every route is in /openapi.json")
}

async fn no_method(method: Method, uri: Uri) -> Problem {
    let path: String = uri.path().chars().take(200).collect();
    Problem::new(
        "method_not_allowed",
        format!("`{path}` does not take {method}; the header `allow` says what it takes"),
    )
}

fn panicked(_: Box<dyn Any + Send>) -> Response {
    tracing::error!("a handler panicked; its request was not answered as it should have been");
    Problem::new(
        "internal",
        "a fault in the server: this request was broken off; a write may or may not have been done",
    )
    .hint("repeat a write with the same request id; the daemon's log has the place")
    .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_documented_once() {
        let operations = routes().operations;
        let mut ids: Vec<&str> = operations.iter().map(|(.., op)| op.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), operations.len(), "operation ids are unique");
    }
}
