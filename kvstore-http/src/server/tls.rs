//! TLS for TCP listeners: a certificate and its key in PEM files, which can be replaced while the
//! server runs.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use tokio::net::TcpStream;
use tokio_rustls::{Accept, TlsAcceptor};

/// A server's certificate. New connections use the one that was read last.
#[derive(Debug)]
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    config: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads the certificate chain in the PEM file `certificate`, the server's own certificate
    /// first, and its private key in the PEM file `key`.
    ///
    /// # Errors
    /// Names the unreadable file, or both files if they do not match.
    pub fn read(certificate: PathBuf, key: PathBuf) -> Result<Self, String> {
        let config = RwLock::new(config(&certificate, &key)?);
        Ok(Self {
            certificate,
            key,
            config,
        })
    }

    /// Returns the paths of the certificate and the key.
    pub fn files(&self) -> [&Path; 2] {
        [&self.certificate, &self.key]
    }

    /// Reads both files again, for new connections.
    ///
    /// # Errors
    /// Those of [`Tls::read`]; the old certificate remains in use.
    pub fn read_again(&self) -> Result<(), String> {
        let config = config(&self.certificate, &self.key)?;
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// Starts the handshake of a connection.
    pub(super) fn accept(&self, stream: TcpStream) -> Accept<TcpStream> {
        let config = self.config.read().unwrap_or_else(PoisonError::into_inner);
        TlsAcceptor::from(Arc::clone(&config)).accept(stream)
    }
}

fn config(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, String> {
    let unreadable = |path: &Path, error| format!("{}: {error}", path.display());
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(certificate, error))?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, error))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .and_then(|builder| {
            builder
                .with_no_client_auth()
                .with_single_cert(chain, secret)
        });
    let mut config = config
        .map_err(|error| format!("{} and {}: {error}", certificate.display(), key.display()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
