//! How a user describes a server: `[remote.NAME]` of their own configuration, never of a workspace's.
//!
//! Knows what may be said and what it means when nothing is said; connects to nobody.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use quipu_store::remote::{self, CLOSED_TIERS, RemotePolicy};
use serde::Deserialize;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

/// A server, as its user describes it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// `grpc://host:port`, or `grpcs://` for TLS.
    pub url: String,
    /// Name of the server's instance; its name space.
    #[serde(default)]
    pub instance: String,
    /// Whether results are looked for there.
    #[serde(default = "yes")]
    pub read: bool,
    /// Whether results made here are sent there.
    #[serde(default)]
    pub push: bool,
    /// How isolated a task must have been for its result to be sent.
    #[serde(default = "isolated")]
    pub share: Vec<String>,
    /// Whether what tasks printed on standard error is sent, too.
    #[serde(default)]
    pub logs: bool,
    /// How long one answer may take, in seconds; large blobs get more by their size.
    #[serde(default = "ten")]
    pub timeout: f64,
    /// How long a run may wait at its end for what is still to be sent, in seconds.
    #[serde(default = "thirty")]
    pub push_wait: f64,
    /// File with the certificates to trust in place of the system's (PEM).
    pub ca: Option<PathBuf>,
    /// File with the certificate to show the server (PEM).
    pub client_cert: Option<PathBuf>,
    /// File with the key of that certificate (PEM).
    pub client_key: Option<PathBuf>,
    /// Environment variable that holds a bearer token.
    pub token_env: Option<String>,
    /// Command that prints a bearer token.
    pub token_command: Option<Vec<String>>,
    /// Further headers.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// `sha256` where BLAKE3 is not to be used although the server has it.
    pub digest: Option<String>,
    /// What workers are asked for, by property.
    #[serde(default)]
    pub platform: BTreeMap<String, String>,
    /// How many tasks run there at once.
    #[serde(default = "slots")]
    pub slots: u32,
    /// Whether workers have the tools that tasks name, as this machine has them.
    #[serde(default)]
    pub same_tools: bool,
    /// Whether tasks that cannot run there, or fail there through no fault of their own, run here.
    #[serde(default = "yes")]
    pub fallback: bool,
}

fn yes() -> bool {
    true
}

fn ten() -> f64 {
    10.0
}

fn thirty() -> f64 {
    30.0
}

fn slots() -> u32 {
    8
}

fn isolated() -> Vec<String> {
    CLOSED_TIERS.map(str::to_owned).to_vec()
}

/// Why a description is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not an address.
    #[error("`{0}` is not of the form `grpc://host:port` or `grpcs://host:port`")]
    Url(String),
    /// A file that cannot be read.
    #[error("`{}`: {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A certificate without its key, or the other way round.
    #[error("`client-cert` and `client-key` go together")]
    Identity,
    /// TLS options without TLS.
    #[error("certificates have no use with `grpc://`; write `grpcs://`")]
    PlainText,
    /// No token where one should be.
    #[error("{0}")]
    Token(String),
    /// A header that cannot be sent.
    #[error("header `{0}` cannot be sent")]
    Header(String),
    /// A number out of range.
    #[error("`{0}` is out of range")]
    Range(&'static str),
    /// An unknown digest function.
    #[error("`digest` is `sha256` or not given, not `{0}`")]
    Digest(String),
}

impl Config {
    /// A server at `url`, read only, everything else as when nothing is said.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            instance: String::new(),
            read: true,
            push: false,
            share: isolated(),
            logs: false,
            timeout: ten(),
            push_wait: thirty(),
            ca: None,
            client_cert: None,
            client_key: None,
            token_env: None,
            token_command: None,
            headers: BTreeMap::new(),
            digest: None,
            platform: BTreeMap::new(),
            slots: slots(),
            same_tools: false,
            fallback: true,
        }
    }

    /// What the remote may be used for.
    pub(crate) fn policy(&self) -> Result<RemotePolicy, ConfigError> {
        let push_wait = duration(self.push_wait).ok_or(ConfigError::Range("push-wait"))?;
        Ok(RemotePolicy { read: self.read, write: self.push, tiers: self.share.clone(), push_wait })
    }

    pub(crate) fn deadline(&self) -> Result<Duration, ConfigError> {
        duration(self.timeout).filter(|d| !d.is_zero()).ok_or(ConfigError::Range("timeout"))
    }

    /// Whether BLAKE3 may be used.
    pub(crate) fn allows_blake3(&self) -> Result<bool, ConfigError> {
        match self.digest.as_deref() {
            None => Ok(true),
            Some("sha256") => Ok(false),
            Some(other) => Err(ConfigError::Digest(other.to_owned())),
        }
    }

    /// The address, with all that a connection needs.
    pub(crate) fn endpoint(&self) -> Result<Endpoint, ConfigError> {
        let bad = || ConfigError::Url(self.url.clone());
        let (address, tls) = match self.url.split_once("://").ok_or_else(bad)? {
            ("grpc", rest) => (format!("http://{rest}"), false),
            ("grpcs", rest) => (format!("https://{rest}"), true),
            _ => return Err(bad()),
        };
        let deadline = self.deadline()?;
        let endpoint = Endpoint::from_shared(address).map_err(|_| bad())?;
        if endpoint.uri().host().is_none_or(str::is_empty) {
            return Err(bad());
        }
        // No pings: servers with the protocol's defaults end connections that ping more than once in five minutes.
        let endpoint = endpoint
            .connect_timeout(deadline)
            .tcp_nodelay(true)
            .tcp_keepalive(Some(Duration::from_secs(30)))
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(8 << 20);
        let certificates = self.ca.is_some() || self.client_cert.is_some() || self.client_key.is_some();
        match (tls, certificates) {
            (true, _) => endpoint.tls_config(self.tls()?).map_err(|_| bad()),
            (false, true) => Err(ConfigError::PlainText),
            (false, false) => Ok(endpoint),
        }
    }

    fn tls(&self) -> Result<ClientTlsConfig, ConfigError> {
        let read =
            |path: &PathBuf| std::fs::read(path).map_err(|source| ConfigError::File { path: path.clone(), source });
        let mut tls = match &self.ca {
            Some(path) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(path)?)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        match (&self.client_cert, &self.client_key) {
            (Some(cert), Some(key)) => tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?)),
            (None, None) => {}
            _ => return Err(ConfigError::Identity),
        }
        Ok(tls)
    }

    /// What every request carries. `env` looks a variable up.
    pub(crate) fn metadata(&self, env: &dyn Fn(&str) -> Option<String>) -> Result<MetadataMap, ConfigError> {
        let mut map = MetadataMap::new();
        for (name, value) in &self.headers {
            let bad = || ConfigError::Header(name.clone());
            let key: AsciiMetadataKey = name.to_lowercase().parse().map_err(|_| bad())?;
            map.insert(key, value.parse().map_err(|_| bad())?);
        }
        if let Some(token) = self.token(env)? {
            let value: Result<AsciiMetadataValue, _> = format!("Bearer {token}").parse();
            let mut value = value.map_err(|_| ConfigError::Token("the token has characters no header takes".into()))?;
            value.set_sensitive(true);
            map.insert("authorization", value);
        }
        Ok(map)
    }

    fn token(&self, env: &dyn Fn(&str) -> Option<String>) -> Result<Option<String>, ConfigError> {
        let token = remote::token(self.token_env.as_deref(), self.token_command.as_deref(), env);
        token.map_err(ConfigError::Token)
    }
}

/// Up to a day, in seconds.
fn duration(seconds: f64) -> Option<Duration> {
    (0.0..=86_400.0).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        toml::from_str(text).map_err(|e| e.to_string())
    }

    #[test]
    fn what_is_not_said_is_the_safe_thing() {
        let config = parse("url = 'grpc://127.0.0.1:1'").expect("enough");
        let policy = config.policy().expect("in range");
        assert!(policy.read && !policy.write && !config.logs && config.fallback && !config.same_tools);
        assert!(!policy.tiers.iter().any(|t| t == "none"));
        assert!(config.endpoint().is_ok());
        let by_code = Config::new("grpc://127.0.0.1:1");
        assert_eq!(format!("{config:?}"), format!("{by_code:?}"));
    }

    #[test]
    fn mistakes_are_refused() {
        for bad in ["", "url = 1", "url = 'grpc://a'\ntrust = ['x']", "url = 'grpc://a'\npush = 'yes'"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        for bad in ["http://a:1", "grpc://", "a:1", "grpc:// a"] {
            assert!(matches!(Config::new(bad).endpoint(), Err(ConfigError::Url(_))), "{bad}");
        }
        let mut config = Config::new("grpc://a:1");
        config.ca = Some("/nowhere".into());
        assert!(matches!(config.endpoint(), Err(ConfigError::PlainText)));
        config.url = "grpcs://a:1".into();
        assert!(matches!(config.endpoint(), Err(ConfigError::File { .. })));
        config.ca = None;
        config.client_key = Some("/nowhere".into());
        assert!(matches!(config.endpoint(), Err(ConfigError::Identity)));
        for seconds in [-1.0, f64::NAN, f64::INFINITY, 0.0] {
            config.timeout = seconds;
            assert!(matches!(config.deadline(), Err(ConfigError::Range("timeout"))), "{seconds}");
        }
        config.digest = Some("md5".into());
        assert!(config.allows_blake3().is_err());
    }

    #[test]
    fn a_token_comes_from_where_it_should_and_is_not_shown() {
        let mut config = Config::new("grpc://a:1");
        config.token_env = Some("TOKEN".into());
        assert!(config.metadata(&|_| None).is_err());
        let map = config.metadata(&|name| (name == "TOKEN").then(|| "s3cret".to_owned())).expect("a token");
        assert_eq!(map.get("authorization").map(|v| v.as_bytes()), Some(&b"Bearer s3cret"[..]));
        assert!(!format!("{map:?}").contains("s3cret"));
        config.token_env = None;
        config.token_command = Some(vec!["printf".into(), "abc\\n".into()]);
        let map = config.metadata(&|_| None).expect("a token");
        assert_eq!(map.get("authorization").map(|v| v.as_bytes()), Some(&b"Bearer abc"[..]));
        config.token_command = Some(vec!["false".into()]);
        assert!(config.metadata(&|_| None).is_err());
        config.token_command = None;
        config.headers.insert("X-Key".into(), "a\nb".into());
        assert!(matches!(config.metadata(&|_| None), Err(ConfigError::Header(_))));
    }
}
