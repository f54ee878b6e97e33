//! Where the server listens and whom it answers: plain data.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use swarmkeep::{Error, ErrorKind};

/// Where people expect it.
pub const DEFAULT_PORT: u16 = 7420;

/// How a server is reached. The default listens nowhere; [`ServerSettings::listen`] is the usual one.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// TCP addresses; port 0 takes a free one. Anything but loopback needs [`ServerSettings::token`] and
    /// [`ServerSettings::tls`].
    pub listen: Vec<SocketAddr>,
    /// A unix socket, made with mode 0600. Whoever may open it is trusted: no token, no Host or Origin check.
    pub control_socket: Option<PathBuf>,
    /// Names, besides loopback's, that a request may give as its `Host`, without port. Compared without case.
    pub hosts: Vec<String>,
    /// Web origins (`https://example.org`) whose pages may call. None by default.
    pub origins: Vec<String>,
    /// Every request over TCP must show it as `Authorization: Bearer …`, but for `/health/live` and `/health/ready`.
    pub token: Option<Secret>,
    /// Certificate and key.
    pub tls: Option<Tls>,
    /// Connections at once, over all listeners; more wait to be accepted. Default 1,024.
    pub connections: usize,
    /// Feeds (SSE and WebSocket) at once; more are refused with `limit`. Default 512.
    pub feeds: usize,
    /// How long a shutdown waits for requests in flight. Default 5 s.
    pub drain: Duration,
    /// A connection whose peer has read nothing for this long, while there was something to write, is dropped. Default 30 s.
    pub write_stall: Duration,
}

/// Files of a certificate chain and its private key, PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// The key.
    pub key: PathBuf,
}

/// Text that never shows up in logs, and is compared in a time that tells nothing about it.
#[derive(Clone)]
pub struct Secret {
    hash: blake3::Hash,
}

impl Secret {
    /// Keeps the text's hash.
    ///
    /// # Errors
    /// `invalid` below 16 bytes: such a token can be guessed.
    pub fn new(text: &str) -> Result<Self, Error> {
        if text.len() < 16 || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Error::new(ErrorKind::Invalid, "a token is 16 or more visible ASCII characters")
                .hint("make one with: openssl rand -hex 32"));
        }
        Ok(Self { hash: blake3::hash(text.as_bytes()) })
    }

    pub(crate) fn is(&self, shown: &[u8]) -> bool {
        // blake3::Hash compares in constant time.
        blake3::hash(shown) == self.hash
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            control_socket: None,
            hosts: Vec::new(),
            origins: Vec::new(),
            token: None,
            tls: None,
            connections: 1_024,
            feeds: 512,
            drain: Duration::from_secs(5),
            write_stall: Duration::from_secs(30),
        }
    }
}

impl ServerSettings {
    /// Listens on one address.
    #[must_use]
    pub fn listen(address: SocketAddr) -> Self {
        Self { listen: vec![address], ..Self::default() }
    }

    /// Whether a server may listen on `address`: on loopback always, elsewhere only with TLS and a token.
    ///
    /// # Errors
    /// `invalid`, with a sentence that says what is missing.
    pub fn check(address: SocketAddr, tls: bool, token: bool) -> Result<(), Error> {
        if address.ip().to_canonical().is_loopback() {
            return Ok(());
        }
        let missing = match (tls, token) {
            (true, true) => return Ok(()),
            (false, false) => "TLS and a token",
            (false, true) => "TLS",
            (true, false) => "a token",
        };
        Err(Error::new(
            ErrorKind::Invalid,
            format!("{address} can be reached from other machines: {missing} must be set for that"),
        )
        .hint(format!(
            "set token, tls_certificate and tls_key (docs/operations.md, Security); or listen on 127.0.0.1:{}, with a TLS \
             proxy of this machine in front of it",
            address.port()
        )))
    }

    /// Checks every address.
    ///
    /// # Errors
    /// `invalid`: the first that is not allowed, or nothing to listen on, or a limit of 0.
    pub fn check_all(&self) -> Result<(), Error> {
        for address in &self.listen {
            Self::check(*address, self.tls.is_some(), self.token.is_some())?;
        }
        if self.listen.is_empty() && self.control_socket.is_none() {
            return Err(Error::new(
                ErrorKind::Invalid,
                "the server has neither an address nor a control socket to listen on",
            ));
        }
        if self.connections == 0 {
            return Err(Error::new(ErrorKind::Invalid, "setting `connections` is 0").hint("allowed: 1 or more"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_goes_without_tls_and_token() {
        for loopback in ["127.0.0.1:1", "127.8.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(ServerSettings::check(loopback.parse().unwrap(), false, false).is_ok(), "{loopback}");
        }
        for open in ["0.0.0.0:1", "[::]:1", "192.168.0.4:1", "[::ffff:10.0.0.1]:1"] {
            let open = open.parse().unwrap();
            for (tls, token, missing) in
                [(false, false, "TLS and a token"), (true, false, "a token"), (false, true, "TLS")]
            {
                let error = ServerSettings::check(open, tls, token).unwrap_err();
                assert!(error.message.contains(missing), "{error}");
            }
            assert!(ServerSettings::check(open, true, true).is_ok());
        }
    }

    #[test]
    fn a_token_is_long_enough_and_never_shown() {
        assert!(Secret::new("short").is_err());
        let secret = Secret::new("0123456789abcdef").unwrap();
        assert!(secret.is(b"0123456789abcdef") && !secret.is(b"0123456789abcdeF"));
        assert!(!format!("{secret:?}").contains("0123"));
    }
}
