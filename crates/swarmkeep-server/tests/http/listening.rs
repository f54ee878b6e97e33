//! Where it listens, and how it ends.

use std::{os::unix::fs::PermissionsExt, path::Path};

use axum::http::Request;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use swarmkeep::{ErrorKind, Swarmkeep};
use swarmkeep_server::{Secret, Server, ServerSettings, Tls};
use tokio::{
    io::AsyncWriteExt,
    net::{UnixListener, UnixStream},
};

use crate::daemon::Daemon;

async fn over_socket(path: &Path, method: &str, target: &str, body: &str) -> (u16, Value) {
    let stream = UnixStream::connect(path).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    // No Host that would pass over TCP, and an Origin that would not: whoever opens the socket is trusted.
    let request = Request::builder().method(method).uri(target).header("host", "whatever").header("origin", "null");
    let response = sender.send_request(request.body(Full::new(Bytes::from(body.to_owned()))).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap())
}

#[tokio::test]
async fn the_control_socket_is_for_its_owner_and_goes_with_the_server() {
    let mut daemon = Daemon::start_with(|settings, folder| {
        settings.control_socket = Some(folder.path().join("control.sock"));
        settings.token = Some(Secret::new("0123456789abcdef").unwrap());
    })
    .await;
    let path = daemon.folder.path().join("control.sock");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let (status, reply) = over_socket(&path, "POST", "/v1/sessions", r#"{"name":"a/b"}"#).await;
    assert_eq!((status, &reply["head"]["seq"]), (201, &json!(1)));
    let refused = daemon.send("POST", "/v1/stop", &[("authorization", "Bearer 0123456789abcdef")], "").await;
    refused.problem(403, "forbidden");
    daemon.get("/health/live").await.expect(200);
    let (status, stopping) = over_socket(&path, "POST", "/v1/stop", "").await;
    assert_eq!((status, &stopping["stopping"]), (200, &json!(true)));
    daemon.ended().await;
    assert!(!path.exists());
    assert!(tokio::net::TcpStream::connect(daemon.address).await.is_err());
    // The store is still its owner's.
    assert!(daemon.keep.get_session("a/b").await.unwrap().is_some());
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("control.sock");
    let keep = Swarmkeep::open("ephemeral:").await.unwrap();
    let settings = ServerSettings { control_socket: Some(path.clone()), ..ServerSettings::default() };
    let live = UnixListener::bind(&path).unwrap();
    let answering = tokio::spawn(async move {
        while let Ok((mut stream, _)) = live.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        }
    });
    let error = Server::bind(keep.clone(), settings.clone()).await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.message.contains("answers"), "{error}");
    answering.abort();
    assert!(answering.await.is_err());
    let server = Server::bind(keep.clone(), settings.clone()).await.unwrap();
    drop(server);
    std::fs::remove_file(&path).unwrap();
    // Of a process that is stopped: connections are made, and nobody answers.
    let silent = UnixListener::bind(&path).unwrap();
    drop(Server::bind(keep.clone(), settings.clone()).await.unwrap());
    drop(silent);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "not a socket").unwrap();
    let error = Server::bind(keep, settings).await.err().unwrap();
    assert!(error.message.contains("not a socket"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "not a socket");
}

#[tokio::test]
async fn what_is_not_allowed_or_taken_is_said_before_anything_is_served() {
    let keep = Swarmkeep::open("ephemeral:").await.unwrap();
    let refused = async |settings: ServerSettings| Server::bind(keep.clone(), settings).await.err().unwrap();
    let error = refused(ServerSettings::listen("0.0.0.0:0".parse().unwrap())).await;
    assert!(error.message.contains("TLS and a token"), "{error}");
    let error = refused(ServerSettings::default()).await;
    assert_eq!(error.kind, ErrorKind::Invalid);
    let tls = Some(Tls { certificate: "c".into(), key: "k".into() });
    let error = refused(ServerSettings { tls, ..ServerSettings::listen("127.0.0.1:0".parse().unwrap()) }).await;
    assert!(error.message.contains("`tls_certificate`: c"), "{error}");
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let error = refused(ServerSettings::listen(taken.local_addr().unwrap())).await;
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.hint.unwrap().contains("another program"));
}

#[tokio::test]
async fn a_request_in_flight_is_answered_before_the_end() {
    let mut daemon = Daemon::start().await;
    let s = daemon.session("a/b").await;
    // A body that ends only after the shutdown began.
    let stream = tokio::net::TcpStream::connect(daemon.address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let (feed, body) = tokio::sync::mpsc::channel::<Result<hyper::body::Frame<Bytes>, std::convert::Infallible>>(4);
    let body = http_body_util::StreamBody::new(futures_util::stream::unfold(body, async |mut body| {
        body.recv().await.map(|frame| (frame, body))
    }));
    let request =
        Request::builder().method("POST").uri(format!("{s}/tasks")).header("host", daemon.address.to_string());
    let answering = tokio::spawn(sender.send_request(request.body(body).unwrap()));
    feed.send(Ok(hyper::body::Frame::data(Bytes::from_static(b"{\"title\":")))).await.unwrap();
    // Another request, answered: the first one has reached the server by now, or is in the accept queue's connection.
    daemon.get(&s).await.expect(200);
    let keep = daemon.keep.clone();
    let (_, answer) = tokio::join!(daemon.stop(), async {
        feed.send(Ok(hyper::body::Frame::data(Bytes::from_static(b"\"x\"}")))).await.unwrap();
        drop(feed);
        answering.await.unwrap().unwrap()
    });
    assert_eq!(answer.status(), 200);
    assert_eq!(keep.get_session("a/b").await.unwrap().unwrap().state().await.unwrap().tasks.len(), 1);
}

/// A certificate for `localhost` that vouches for itself, in two files.
fn certificate(folder: &Path) -> (Tls, rustls::pki_types::CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let tls = Tls { certificate: folder.join("chain.pem"), key: folder.join("key.pem") };
    std::fs::write(&tls.certificate, made.cert.pem()).unwrap();
    std::fs::write(&tls.key, made.signing_key.serialize_pem()).unwrap();
    (tls, made.cert.der().clone())
}

async fn over_tls(
    address: std::net::SocketAddr,
    trusted: rustls::pki_types::CertificateDer<'static>,
    token: Option<&str>,
) -> std::io::Result<u16> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(address).await?;
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let stream = connector.connect("localhost".try_into().unwrap(), stream).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::builder().uri("/v1/sessions").header("host", format!("localhost:{}", address.port()));
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    Ok(sender.send_request(request.body(Full::new(Bytes::new())).unwrap()).await.unwrap().status().as_u16())
}

#[tokio::test]
async fn other_machines_come_in_over_tls_with_the_token_only() {
    const TOKEN: &str = "0123456789abcdef";
    let files = tempfile::TempDir::new().unwrap();
    let (tls, trusted) = certificate(files.path());
    let others = tempfile::TempDir::new().unwrap();
    let (_, foreign) = certificate(others.path());
    let mut daemon = Daemon::start_with(|settings, _| {
        settings.listen = vec!["0.0.0.0:0".parse().unwrap()];
        settings.token = Some(Secret::new(TOKEN).unwrap());
        settings.tls = Some(tls);
        settings.hosts = vec!["localhost".into()];
    })
    .await;
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], daemon.address.port()));
    // Somebody who never speaks holds nobody up.
    let silent = tokio::net::TcpStream::connect(address).await.unwrap();
    assert_eq!(over_tls(address, trusted.clone(), Some(TOKEN)).await.unwrap(), 200);
    assert_eq!(over_tls(address, trusted, None).await.unwrap(), 401);
    assert!(over_tls(address, foreign, Some(TOKEN)).await.is_err(), "another certificate must not be believed");
    // Plain HTTP gets no answer of ours.
    let plain = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(plain)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::builder().uri("/health/live").header("host", "localhost").body(Full::new(Bytes::new()));
    assert!(sender.send_request(request.unwrap()).await.is_err());
    daemon.stop().await;
    drop(silent);
}

#[tokio::test]
async fn a_key_of_another_certificate_is_refused() {
    let (one, other) = (tempfile::TempDir::new().unwrap(), tempfile::TempDir::new().unwrap());
    let (mut tls, _) = certificate(one.path());
    tls.key = certificate(other.path()).0.key;
    let keep = Swarmkeep::open("ephemeral:").await.unwrap();
    let settings = ServerSettings { tls: Some(tls), ..ServerSettings::listen("127.0.0.1:0".parse().unwrap()) };
    let error = Server::bind(keep, settings).await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert!(error.message.contains("tls_key"), "{error}");
}
