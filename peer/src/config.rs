//! How a user describes a peer: `[remote.NAME]` with an `http://` address, in their own configuration.
//!
//! Knows what may be said and what it means when nothing is said; connects to nobody.

use std::time::Duration;

use quipu_store::remote;
use serde::Deserialize;

/// A peer, as its user describes it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// `http://host:port`, with what stands before `/ipfs/` there, if anything does.
    pub url: String,
    /// Whether results are looked for there.
    #[serde(default = "yes")]
    pub read: bool,
    /// How long one answer may take, in seconds; large blobs get more by their size.
    #[serde(default = "ten")]
    pub timeout: f64,
    /// Environment variable that holds the token.
    pub token_env: Option<String>,
    /// Command that prints the token.
    pub token_command: Option<Vec<String>>,
}

fn yes() -> bool {
    true
}

fn ten() -> f64 {
    10.0
}

/// Why a description is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not an address.
    #[error("`{0}` is not of the form `http://host:port`")]
    Url(String),
    /// Not an address yet.
    #[error("`{0}`: peers are read over `http://` alone; an ssh tunnel or a private network hides what is said")]
    Https(String),
    /// No token where one should be.
    #[error("{0}")]
    Token(String),
    /// A number out of range.
    #[error("`{0}` is out of range")]
    Range(&'static str),
}

impl Config {
    /// A peer at `url`, everything else as when nothing is said.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), read: true, timeout: ten(), token_env: None, token_command: None }
    }

    /// The address without a slash at its end.
    pub(crate) fn base(&self) -> Result<String, ConfigError> {
        let bad = || ConfigError::Url(self.url.clone());
        if self.url.starts_with("https://") {
            return Err(ConfigError::Https(self.url.clone()));
        }
        let uri: hyper::Uri = self.url.parse().map_err(|_| bad())?;
        let authority = uri.authority().filter(|a| !a.host().is_empty() && !a.as_str().contains('@'));
        let plain = uri.query().is_none() && !self.url.contains('#');
        match (uri.scheme_str(), authority) {
            (Some("http"), Some(_)) if plain => Ok(self.url.trim_end_matches('/').to_owned()),
            _ => Err(bad()),
        }
    }

    pub(crate) fn deadline(&self) -> Result<Duration, ConfigError> {
        let good = self.timeout > 0.0 && self.timeout <= 86_400.0;
        if good { Ok(Duration::from_secs_f64(self.timeout)) } else { Err(ConfigError::Range("timeout")) }
    }

    /// What is shown to the peer. `env` looks a variable up.
    pub(crate) fn token(&self, env: &dyn Fn(&str) -> Option<String>) -> Result<Option<String>, ConfigError> {
        let token = remote::token(self.token_env.as_deref(), self.token_command.as_deref(), env);
        match token.map_err(ConfigError::Token)? {
            Some(token) if !token.bytes().all(|b| b.is_ascii_graphic()) => {
                Err(ConfigError::Token("the token has characters no header takes".to_owned()))
            }
            token => Ok(token),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_plain_and_numbers_in_range() {
        for (url, base) in [
            ("http://127.0.0.1:4610", "http://127.0.0.1:4610"),
            ("http://[::1]:4610/", "http://[::1]:4610"),
            ("http://host/below/", "http://host/below"),
        ] {
            assert_eq!(Config::new(url).base().expect("is good"), base);
        }
        for bad in [
            "",
            "host:1",
            "http://",
            "ftp://host",
            "http://me:pw@host",
            "http://host?x",
            "http://host/#x",
            "http://a b",
        ] {
            assert!(matches!(Config::new(bad).base(), Err(ConfigError::Url(_))), "{bad}");
        }
        assert!(matches!(Config::new("https://host").base(), Err(ConfigError::Https(_))));
        for seconds in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e9] {
            let config = Config { timeout: seconds, ..Config::new("http://host") };
            assert!(matches!(config.deadline(), Err(ConfigError::Range("timeout"))), "{seconds}");
        }
    }

    #[test]
    fn a_token_that_is_not_there_or_no_header_takes_is_an_error() {
        let config = Config { token_env: Some("TOKEN".into()), ..Config::new("http://host") };
        assert!(matches!(config.token(&|_| None), Err(ConfigError::Token(_))));
        assert!(matches!(config.token(&|_| Some("a\nb".into())), Err(ConfigError::Token(_))));
        assert_eq!(config.token(&|_| Some("abc".into())).expect("is good"), Some("abc".into()));
        assert_eq!(Config::new("http://host").token(&|_| None).expect("none is asked for"), None);
    }
}
