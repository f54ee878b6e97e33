//! A server to test, and a client to test it with.

use std::{net::SocketAddr, sync::Mutex};

use axum::http::{HeaderMap, Method, Request, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;
use swarmkeep::Swarmkeep;
use swarmkeep_server::{Server, ServerSettings};
use tempfile::TempDir;
use tokio::{sync::oneshot, task::JoinHandle};

pub(crate) struct Daemon {
    pub(crate) address: SocketAddr,
    pub(crate) keep: Swarmkeep,
    pub(crate) folder: TempDir,
    client: Client<HttpConnector, Full<Bytes>>,
    stop: Option<oneshot::Sender<()>>,
    running: Option<JoinHandle<()>>,
    /// Every call made: method and path.
    pub(crate) calls: Mutex<Vec<(Method, String)>>,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.status, String::from_utf8_lossy(&self.body)))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The JSON of an answer that must have this status.
    pub(crate) fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", String::from_utf8_lossy(&self.body));
        self.json()
    }

    /// A problem of this status and code.
    pub(crate) fn problem(&self, status: u16, code: &str) -> Value {
        let problem = self.expect(status);
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["status"], status, "{problem}");
        assert_eq!(problem["type"], format!("urn:swarmkeep:problem:{code}"));
        assert!(problem["detail"].as_str().unwrap().len() > 5, "{problem}");
        problem
    }
}

impl Daemon {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_, _| {}).await
    }

    pub(crate) async fn start_with(settle: impl FnOnce(&mut ServerSettings, &TempDir)) -> Self {
        let folder = TempDir::new().unwrap();
        let keep = Swarmkeep::open(folder.path().join("store").to_str().unwrap()).await.unwrap();
        let mut settings = ServerSettings::listen("127.0.0.1:0".parse().unwrap());
        settle(&mut settings, &folder);
        let server = Server::bind(keep.clone(), settings).await.unwrap();
        let address = server.addresses()[0];
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(server.run(async {
            let _ = stopped.await;
        }));
        Self {
            address,
            keep,
            folder,
            client: Client::builder(TokioExecutor::new()).build_http(),
            stop: Some(stop),
            running: Some(running),
            calls: Mutex::default(),
        }
    }

    /// Shuts the server down and waits for its end; the store stays open.
    pub(crate) async fn stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
        self.ended().await;
    }

    /// Waits for the server's end.
    pub(crate) async fn ended(&mut self) {
        self.running.take().unwrap().await.unwrap();
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        self.calls.lock().unwrap().push((request.method().clone(), path.split('?').next().unwrap().to_owned()));
        let response = self.client.request(request).await.unwrap_or_else(|error| panic!("{method} {path}: {error:?}"));
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], Bytes::new()).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", path, &[], body.to_string()).await
    }

    /// Makes a session and gives its path.
    pub(crate) async fn session(&self, name: &str) -> String {
        self.post("/v1/sessions", serde_json::json!({ "name": name })).await.expect(201);
        format!("/v1/sessions/{name}")
    }
}
