//! TLS to the server: rustls with ring, and the certificate authorities of the machine or of a
//! file.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use kvstore_core::{Error, Result};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Makes TLS connections to one host.
pub(super) struct TlsClient {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl TlsClient {
    pub(super) fn new(host: &str, ca_file: Option<&Path>) -> Result<Self> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| {
            Error::Config(format!("{host:?} is not a valid name for a certificate"))
        })?;
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has the suites of these versions")
            .with_root_certificates(authorities(ca_file)?)
            .with_no_client_auth();
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            name,
        })
    }

    pub(super) async fn connect(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        self.connector.connect(self.name.clone(), stream).await
    }
}

fn authorities(ca_file: Option<&Path>) -> Result<RootCertStore> {
    let mut authorities = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            let refused = |error: &dyn fmt::Display| {
                Error::Config(format!(
                    "the certificates of {} cannot be used: {error}",
                    path.display()
                ))
            };
            let certificates =
                CertificateDer::pem_file_iter(path).map_err(|error| refused(&error))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|error| refused(&error))?;
                authorities
                    .add(certificate)
                    .map_err(|error| refused(&error))?;
            }
            if authorities.is_empty() {
                return Err(refused(&"the file contains none"));
            }
        }
        None => {
            // An unreadable certificate does not keep the others from being used.
            let native = rustls_native_certs::load_native_certs();
            authorities.add_parsable_certificates(native.certs);
            if authorities.is_empty() {
                return Err(Error::Config(
                    "this machine has no certificate authorities: install ca-certificates, or name a ca_file"
                        .to_owned(),
                ));
            }
        }
    }
    Ok(authorities)
}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
