//! TLS for listeners that other machines reach: rustls, TLS 1.2 and 1.3, a certificate chain and a key from PEM files.
//!
//! Read once, when the server starts to listen: a renewed certificate is taken up by a restart, which sessions survive.

use std::{io, path::Path, sync::Arc, time::Duration};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use swarmkeep::{Error, ErrorKind};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::settings::Tls;

/// A client that has not finished its handshake by then is let go.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// Speaks TLS over connections that were accepted.
#[derive(Clone)]
pub(crate) struct Secure(TlsAcceptor);

impl Secure {
    /// Reads both files.
    ///
    /// # Errors
    /// `invalid`, naming the file: not there, not PEM, nothing of that kind in it, or a key that is not the certificate's.
    pub(crate) fn read(tls: &Tls) -> Result<Self, Error> {
        let chain = CertificateDer::pem_file_iter(&tls.certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| unfit("tls_certificate", &tls.certificate, &error.to_string()))?;
        if chain.is_empty() {
            return Err(unfit("tls_certificate", &tls.certificate, "there is no certificate in it"));
        }
        let key =
            PrivateKeyDer::from_pem_file(&tls.key).map_err(|error| unfit("tls_key", &tls.key, &error.to_string()))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .map_err(|error| unfit("tls_key", &tls.key, &error.to_string()))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    /// The handshake, within its bound.
    pub(crate) async fn open(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let slow = || io::Error::new(io::ErrorKind::TimedOut, "no TLS handshake within 10 s");
        tokio::time::timeout(HANDSHAKE_TIME, self.0.accept(stream)).await.map_err(|_| slow())?
    }
}

fn unfit(setting: &str, path: &Path, what: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("setting `{setting}`: {}: {what}", path.display()))
        .hint("give a PEM file; the certificate's chain leaf first, and the private key that belongs to it")
}
