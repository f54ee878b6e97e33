//! WebSocket: text frames of one message each, subprotocol `mcp`. In no revision of the protocol; some servers have it.

use std::{io, time::Duration};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, stream::SplitSink, stream::SplitStream};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        Error, Message,
        client::IntoClientRequest,
        http::{HeaderName, HeaderValue, header::SEC_WEBSOCKET_PROTOCOL},
        protocol::WebSocketConfig,
    },
};

use super::{
    Bounds, Connection, Ending, Inbound, Outbound, Site,
    peer::{self, Peer, Wire},
    too_long_breach,
};
use crate::{envelope::Envelope, reply::Failure};

/// Connecting takes no longer than this, handshake included.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// The close of a connection is said for so long.
const CLOSE_TIME: Duration = Duration::from_secs(2);

type Socket = WebSocketStream<Box<dyn Wire>>;

/// Connects.
///
/// # Errors
/// When nobody is there, or what is there speaks no WebSocket.
pub async fn open(site: &Site, bounds: &Bounds) -> io::Result<Connection> {
    let socket =
        timeout(CONNECT_TIME, connect(site, bounds)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let (sink, stream) = socket.split();
    let (outbox, mut from_owner) = mpsc::channel(bounds.queue);
    let (to, inbox) = mpsc::channel(bounds.queue);
    let (close, mut closing) = mpsc::channel(1);
    let (ended, over) = oneshot::channel();
    let (pong, pongs) = mpsc::channel(4);
    tokio::spawn(async move {
        let why = tokio::select! {
            why = read(stream, &to, pong) => why,
            () = write(sink, &mut from_owner, pongs, &to) => "it was closed".to_owned(),
            _ = closing.recv() => "it was closed".to_owned(),
        };
        // Whoever waited may be gone.
        let _ = ended.send(());
        super::say_over(from_owner, &to, why).await;
    });
    Ok(Connection { outbox, inbox, ending: Ending::new(close, over), resumable: super::Resumable::default() })
}

async fn connect(site: &Site, bounds: &Bounds) -> io::Result<Socket> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("`{}`: {what}", site.shown()));
    let mut request = site.url.as_str().into_client_request().map_err(|_| invalid("no URL"))?;
    let peer = Peer::of(request.uri(), peer::WEB_SOCKET, site)?;
    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("mcp"));
    for (name, value) in &site.headers {
        let name: HeaderName = name.parse().map_err(|_| invalid("a header's name cannot be sent"))?;
        request.headers_mut().insert(name, value.parse().map_err(|_| invalid("a header's value cannot be sent"))?);
    }
    let mut config = WebSocketConfig::default();
    config.max_message_size = Some(bounds.line_bytes);
    config.max_frame_size = Some(bounds.line_bytes);
    let (socket, _) =
        client_async_with_config(request, peer.connect().await?, Some(config)).await.map_err(io::Error::other)?;
    Ok(socket)
}

async fn read(mut stream: SplitStream<Socket>, to: &mpsc::Sender<Inbound>, pong: mpsc::Sender<Bytes>) -> String {
    loop {
        let inbound = match stream.next().await {
            Some(Ok(Message::Text(text))) => Inbound::Line(Envelope::line(Bytes::from(text))),
            Some(Ok(Message::Binary(bytes))) => Inbound::Line(Envelope::line(bytes)),
            Some(Ok(Message::Ping(payload))) => {
                // A peer that pings faster than it reads gets fewer answers.
                let _ = pong.try_send(payload);
                Inbound::Heard
            }
            Some(Ok(Message::Close(_))) | None => return "the server has closed the connection".to_owned(),
            Some(Ok(_)) => Inbound::Heard,
            Some(Err(error)) => {
                if matches!(error, Error::Capacity(_)) {
                    // Nobody listens any more: then nobody misses it.
                    let _ = to.send(too_long_breach(&error, b"")).await;
                }
                return format!("the connection broke: {error}");
            }
        };
        if to.send(inbound).await.is_err() {
            return "nobody listens".to_owned();
        }
    }
}

async fn write(
    mut sink: SplitSink<Socket, Message>,
    from_owner: &mut mpsc::Receiver<Outbound>,
    mut pongs: mpsc::Receiver<Bytes>,
    to: &mpsc::Sender<Inbound>,
) {
    let mut is_broken = false;
    loop {
        tokio::select! {
            Some(payload) = pongs.recv() => is_broken |= sink.send(Message::Pong(payload)).await.is_err(),
            next = from_owner.recv() => {
                let Some(Outbound { wire, line }) = next else { break };
                let Ok(text) = String::from_utf8(line.to_vec()) else { continue };
                let failure = if is_broken {
                    Some(Failure::NothingWritten)
                } else {
                    // How much of a frame went out is not known.
                    sink.send(Message::text(text)).await.err().map(|_| Failure::Broken)
                };
                if let Some(failure) = failure {
                    is_broken = true;
                    // Nobody listens any more: then nobody misses it.
                    let _ = to.send(Inbound::Failed { wire, failure }).await;
                }
            }
        }
    }
    // A peer that does not answer is gone all the same.
    let _ = timeout(CLOSE_TIME, sink.close()).await;
}
