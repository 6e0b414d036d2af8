//! The HTTP client, with patience for each step and none without end.
//!
//! Proxies are those of the environment, and certificates those of the machine, or those that `SSL_CERT_FILE` and
//! `SSL_CERT_DIR` name. Unaware of what is asked for.

use std::time::Duration;

use ureq::Agent;

const CONNECT: Duration = Duration::from_secs(15);
const ANSWER: Duration = Duration::from_secs(60);
/// Nothing came for this long: it is given up, and what did come is kept for the next attempt.
const SILENCE: Duration = Duration::from_secs(30);
const MAX_HEAD_BYTES: usize = 64 << 10;
const MAX_REDIRECTS: u32 = 10;

/// A client, with nothing asked yet.
pub(crate) fn agent() -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(MAX_REDIRECTS)
        .max_response_header_size(MAX_HEAD_BYTES)
        .timeout_connect(Some(CONNECT))
        .timeout_recv_response(Some(ANSWER))
        .timeout_per_read(Some(SILENCE))
        .user_agent(concat!("quipu/", env!("CARGO_PKG_VERSION")));
    #[cfg(feature = "tls")]
    let config = config.tls_config(tls());
    config.build().into()
}

/// Why a server was not believed to be who it should be, if that is what went wrong.
#[cfg(feature = "tls")]
pub(crate) fn refused_certificate(error: &ureq::Error) -> Option<String> {
    let found = match error {
        ureq::Error::Rustls(found) => found,
        ureq::Error::Io(error) => error.get_ref()?.downcast_ref::<rustls::Error>()?,
        _ => return None,
    };
    matches!(found, rustls::Error::InvalidCertificate(_)).then(|| found.to_string())
}

/// Nobody says who they are.
#[cfg(not(feature = "tls"))]
pub(crate) fn refused_certificate(_: &ureq::Error) -> Option<String> {
    None
}

#[cfg(feature = "tls")]
fn tls() -> ureq::tls::TlsConfig {
    use std::sync::Arc;
    use ureq::tls::{Certificate, RootCerts, TlsConfig};

    // Without any, every server is refused, and says so.
    let found = rustls_native_certs::load_native_certs().certs;
    let roots: Vec<_> = found.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
    TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&roots))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build()
}
