//! Where a server is reached that is no child: over TCP or TLS.

use std::{io, sync::Arc, time::Duration};

use hyper::{
    Uri,
    header::{HeaderName, HeaderValue},
};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::Site;

/// A peer that does not acknowledge what was sent to it is given up after this long; a silent one is probed after the first of
/// [`KEEPALIVE`], then every second of it, as often as its third says.
const USER_TIMEOUT_MS: u32 = 15_000;
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(10), Duration::from_secs(5), 3);

/// Bytes both ways.
pub(super) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// See the module.
pub(super) struct Peer {
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    schemes: Schemes,
}

/// How a URL may begin: without TLS, or with it.
pub(super) type Schemes = [&'static str; 2];
pub(super) const HTTP: Schemes = ["http", "https"];
pub(super) const WEB_SOCKET: Schemes = ["ws", "wss"];

/// What a URL says, as far as it is seen without going there.
struct Place {
    host: String,
    port: u16,
    /// Its name in a certificate, with TLS.
    name: Option<ServerName<'static>>,
}

impl Place {
    fn of(uri: &Uri, [plain, secure]: Schemes, site: &Site) -> io::Result<Self> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("`{}`: {what}", site.shown()));
        let scheme = uri.scheme_str();
        let is_secure = scheme == Some(secure);
        if !is_secure && scheme != Some(plain) {
            return Err(invalid(&format!("it begins with neither {plain}:// nor {secure}://")));
        }
        let host = uri.host().ok_or_else(|| invalid("no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
        let name = match is_secure {
            true => Some(ServerName::try_from(host.clone()).map_err(|_| invalid("its host is no name for TLS"))?),
            false => None,
        };
        Ok(Self { host, port, name })
    }
}

/// Whether a server could be there at all. A mistake in a URL or a header stays one, however often it is tried.
pub(super) fn check(site: &Site, schemes: Schemes) -> io::Result<()> {
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidInput, what);
    let uri: Uri = site.url.parse().map_err(|error| invalid(format!("`{}` is no URL: {error}", site.shown())))?;
    Place::of(&uri, schemes, site)?;
    for (name, value) in &site.headers {
        name.parse::<HeaderName>().map_err(|_| invalid(format!("`{name}` is no header's name")))?;
        value.parse::<HeaderValue>().map_err(|_| invalid(format!("the value of header `{name}` cannot be sent")))?;
    }
    Ok(())
}

impl Peer {
    /// Of a URL that begins with one of two schemes: without TLS, or with it. Touches no network.
    pub(super) fn of(uri: &Uri, schemes: Schemes, site: &Site) -> io::Result<Self> {
        let Place { host, port, name } = Place::of(uri, schemes, site)?;
        let tls = match name {
            Some(name) => Some((connector()?, name)),
            None => None,
        };
        Ok(Self { host, port, tls, schemes })
    }

    /// Connects. One that is gone without a word is noticed by the system.
    pub(super) async fn connect(&self) -> io::Result<Box<dyn Wire>> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        watch(&stream);
        match &self.tls {
            None => Ok(Box::new(stream)),
            Some((connector, name)) => match connector.connect(name.clone(), stream).await {
                Ok(stream) => Ok(Box::new(stream)),
                Err(error) => Err(self.no_tls(error)),
            },
        }
    }
}

impl Peer {
    /// Whoever answers in plain text speaks no TLS: that is told in words that lead on.
    fn no_tls(&self, error: io::Error) -> io::Error {
        let is_plain = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
        let [plain, secure] = self.schemes;
        match is_plain {
            Some(rustls::Error::InvalidMessage(_)) => {
                let what = format!("what answers there speaks no TLS ({error}): is it {secure}, and not {plain}?");
                io::Error::new(error.kind(), what)
            }
            _ => error,
        }
    }
}

fn watch(stream: &TcpStream) {
    use rustix::net::sockopt;
    // What a system does not have is left away: probes notice it, later.
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, KEEPALIVE.0);
    let _ = sockopt::set_tcp_keepintvl(stream, KEEPALIVE.1);
    let _ = sockopt::set_tcp_keepcnt(stream, KEEPALIVE.2);
    #[cfg(target_os = "linux")]
    let _ = sockopt::set_tcp_user_timeout(stream, USER_TIMEOUT_MS);
}

fn connector() -> io::Result<TlsConnector> {
    let mut roots = rustls::RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(io::Error::other(
            "this machine has no certificates to check a server by (install ca-certificates)",
        ));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
