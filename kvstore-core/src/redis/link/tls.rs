//! TLS to the servers, where the feature `redis-tls` is on.

#[cfg(feature = "redis-tls")]
pub(crate) use on::{certificates, check, client, cluster};
#[cfg(feature = "redis-tls")]
pub(crate) use redis::TlsCertificates as Certificates;

#[cfg(not(feature = "redis-tls"))]
pub(crate) use off::{Certificates, certificates, check, client, cluster};

use redis::RedisError;

use crate::error::Error;

/// Returns the error for a certificate or key that cannot be used.
pub(crate) fn refused(error: RedisError) -> Error {
    Error::Config(format!(
        "the certificates of its parameters (ca_file, cert_file, key_file) cannot be used: {error}"
    ))
}

#[cfg(feature = "redis-tls")]
mod on {
    use redis::cluster::ClusterClientBuilder;
    use redis::{Client, ClientTlsConfig, ConnectionInfo, RedisResult, TlsCertificates};
    use rustls::crypto::{CryptoProvider, ring};

    use crate::error::Result;
    use crate::redis::address::Address;
    use crate::redis::options::Options;

    pub(crate) fn check() -> Result<()> {
        Ok(())
    }

    /// Returns the certificates for `address`; `None` without TLS.
    pub(crate) fn certificates(address: &Address, options: &Options) -> Option<TlsCertificates> {
        if !address.is_tls() {
            return None;
        }
        if CryptoProvider::get_default().is_none() {
            // Another thread may install one first; then that one is used.
            let _ = ring::default_provider().install_default();
        }
        let client = options.client_certificate.as_ref();
        Some(TlsCertificates {
            client_tls: client.map(|client| ClientTlsConfig {
                client_cert: client.chain.clone(),
                client_key: client.key.clone(),
            }),
            root_cert: options.ca.clone(),
        })
    }

    pub(crate) fn client(
        node: ConnectionInfo,
        certificates: Option<&TlsCertificates>,
    ) -> RedisResult<Client> {
        match certificates {
            Some(certificates) => Client::build_with_tls(node, certificates.clone()),
            None => Client::open(node),
        }
    }

    pub(crate) fn cluster(
        builder: ClusterClientBuilder,
        certificates: Option<&TlsCertificates>,
    ) -> ClusterClientBuilder {
        match certificates {
            Some(certificates) => builder.certs(certificates.clone()),
            None => builder,
        }
    }
}

#[cfg(not(feature = "redis-tls"))]
mod off {
    use redis::cluster::ClusterClientBuilder;
    use redis::{Client, ConnectionInfo, RedisResult};

    use crate::error::{Error, Result};
    use crate::redis::address::Address;
    use crate::redis::options::Options;

    pub(crate) enum Certificates {}

    pub(crate) fn check() -> Result<()> {
        Err(Error::Config(
            "this program was built without TLS to Redis: build it with the feature redis-tls of kvstore-core".to_owned(),
        ))
    }

    pub(crate) fn certificates(_: &Address, _: &Options) -> Option<Certificates> {
        None
    }

    pub(crate) fn client(node: ConnectionInfo, _: Option<&Certificates>) -> RedisResult<Client> {
        Client::open(node)
    }

    pub(crate) fn cluster(
        builder: ClusterClientBuilder,
        _: Option<&Certificates>,
    ) -> ClusterClientBuilder {
        builder
    }
}
