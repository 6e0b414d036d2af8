//! How a user describes a bucket: `[remote.NAME]` with an `s3://` address, in their own configuration.
//!
//! Knows what may be said and what it means when nothing is said; connects to nobody.

use std::path::PathBuf;
use std::time::Duration;

use quipu_store::remote::{self, RemotePolicy};
use serde::Deserialize;

/// A bucket, as its user describes it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Config {
    /// `s3://BUCKET`, or `s3://BUCKET/PREFIX` for a part of it.
    pub url: String,
    /// Where the service is, when it is not Amazon's: `http://host:port`, or `https://`.
    pub endpoint: Option<String>,
    /// The region, when the environment does not say it.
    pub region: Option<String>,
    /// Whether requests go without a signature: buckets that anybody may read.
    pub anonymous: bool,
    /// Command that prints credentials as JSON, as `aws configure export-credentials` does.
    pub credentials_command: Option<Vec<String>>,
    /// Whether results are looked for there.
    pub read: bool,
    /// Whether results made here are sent there.
    pub push: bool,
    /// How isolated a task must have been for its result to be sent.
    pub share: Vec<String>,
    /// Whether what tasks printed on standard error is sent, too.
    pub logs: bool,
    /// How long one answer may take, in seconds; large blobs get more by their size.
    pub timeout: f64,
    /// How long a run may wait at its end for what is still to be sent, in seconds.
    pub push_wait: f64,
    /// File with the certificates to trust in place of the system's (PEM).
    pub ca: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        let policy = RemotePolicy::default();
        Self {
            url: String::new(),
            endpoint: None,
            region: None,
            anonymous: false,
            credentials_command: None,
            read: policy.read,
            push: policy.write,
            share: policy.tiers,
            logs: false,
            timeout: 10.0,
            push_wait: policy.push_wait.as_secs_f64(),
            ca: None,
        }
    }
}

/// Why a description is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not an address of a bucket.
    #[error("`{0}` is not of the form `s3://bucket` or `s3://bucket/prefix`")]
    Url(String),
    /// Not an address of a service.
    #[error("`endpoint` is of the form `http://host:port` or `https://host:port`, not `{0}`")]
    Endpoint(String),
    /// Nobody says who we are.
    #[error("{0}")]
    Credentials(String),
    /// Two ways to say who we are, or none beside one.
    #[error("`anonymous` and `credentials-command` do not go together")]
    Both,
    /// Certificates that cannot be read.
    #[error("`{}`: {why}", .path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A number out of range.
    #[error("`{0}` is out of range")]
    Range(&'static str),
    /// What the protocol's client says.
    #[error("{0}")]
    Other(String),
}

/// Who we are to the service.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Credentials {
    pub(crate) access_key_id: String,
    pub(crate) secret_access_key: String,
    pub(crate) session_token: Option<String>,
}

impl std::fmt::Debug for Credentials {
    /// Without what is secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}

impl Config {
    /// A bucket, everything else as when nothing is said.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), ..Self::default() }
    }

    /// What the remote may be used for.
    pub(crate) fn policy(&self) -> Result<RemotePolicy, ConfigError> {
        let push_wait = duration(self.push_wait).ok_or(ConfigError::Range("push-wait"))?;
        Ok(RemotePolicy { read: self.read, write: self.push, tiers: self.share.clone(), push_wait })
    }

    pub(crate) fn deadline(&self) -> Result<Duration, ConfigError> {
        duration(self.timeout).filter(|d| !d.is_zero()).ok_or(ConfigError::Range("timeout"))
    }

    /// The bucket, and what stands before every key in it.
    pub(crate) fn bucket(&self) -> Result<(String, String), ConfigError> {
        let bad = || ConfigError::Url(self.url.clone());
        let rest = self.url.strip_prefix("s3://").ok_or_else(bad)?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/');
        let name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-');
        let part = |p: &str| !p.is_empty() && p != "." && p != ".." && p.bytes().all(is_plain);
        let good = (3..=63).contains(&bucket.len()) && bucket.bytes().all(name);
        if good && prefix.len() <= 512 && (prefix.is_empty() || prefix.split('/').all(part)) {
            Ok((bucket.to_owned(), prefix.to_owned()))
        } else {
            Err(bad())
        }
    }

    /// Where the service is, unless it is Amazon's. `env` looks a variable up.
    pub(crate) fn endpoint(&self, env: &dyn Fn(&str) -> Option<String>) -> Result<Option<String>, ConfigError> {
        let said = self.endpoint.clone().or_else(|| first(env, &["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]));
        let Some(endpoint) = said else { return Ok(None) };
        let bad = || ConfigError::Endpoint(endpoint.clone());
        let uri: hyper::Uri = endpoint.parse().map_err(|_| bad())?;
        let host = uri.authority().is_some_and(|a| !a.host().is_empty() && !a.as_str().contains('@'));
        let plain = uri.query().is_none() && !endpoint.contains('#');
        match uri.scheme_str() {
            Some("http" | "https") if host && plain => Ok(Some(endpoint.trim_end_matches('/').to_owned())),
            _ => Err(bad()),
        }
    }

    /// The region; services other than Amazon's mostly do not mind which.
    pub(crate) fn region(&self, env: &dyn Fn(&str) -> Option<String>) -> String {
        let said = self.region.clone().or_else(|| first(env, &["AWS_REGION", "AWS_DEFAULT_REGION"]));
        said.unwrap_or_else(|| "us-east-1".to_owned())
    }

    /// Who we are: what a command prints, or the environment says. `None` where nobody asks.
    pub(crate) fn credentials(&self, env: &dyn Fn(&str) -> Option<String>) -> Result<Option<Credentials>, ConfigError> {
        let wrong = |why: String| ConfigError::Credentials(why);
        match (&self.credentials_command, self.anonymous) {
            (Some(_), true) => return Err(ConfigError::Both),
            (None, true) => return Ok(None),
            (Some(command), false) => {
                let printed = remote::token(None, Some(command), env).map_err(wrong)?;
                let said: Credentials = serde_json::from_str(&printed.unwrap_or_default()).map_err(|_| {
                    wrong("`credentials-command` prints no JSON with `AccessKeyId` and `SecretAccessKey`".to_owned())
                })?;
                return usable(said).map(Some);
            }
            (None, false) => {}
        }
        let get = |name: &str| env(name).filter(|value| !value.is_empty());
        let missing = |name: &str| {
            wrong(format!("environment variable `{name}` is not set (nor is there a `credentials-command`)"))
        };
        usable(Credentials {
            access_key_id: get("AWS_ACCESS_KEY_ID").ok_or_else(|| missing("AWS_ACCESS_KEY_ID"))?,
            secret_access_key: get("AWS_SECRET_ACCESS_KEY").ok_or_else(|| missing("AWS_SECRET_ACCESS_KEY"))?,
            session_token: get("AWS_SESSION_TOKEN"),
        })
        .map(Some)
    }
}

/// What goes into a header has to be such that it does.
fn usable(said: Credentials) -> Result<Credentials, ConfigError> {
    let all = [Some(&said.access_key_id), Some(&said.secret_access_key), said.session_token.as_ref()];
    if all.into_iter().flatten().all(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())) {
        Ok(said)
    } else {
        Err(ConfigError::Credentials("the credentials have characters no header takes".to_owned()))
    }
}

/// Characters that mean the same in a key, an address and a signature.
fn is_plain(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')
}

fn first(env: &dyn Fn(&str) -> Option<String>, names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| env(name).filter(|value| !value.is_empty()))
}

/// Up to a day, in seconds.
fn duration(seconds: f64) -> Option<Duration> {
    (0.0..=86_400.0).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn what_is_not_said_is_the_safe_thing() {
        let config: Config = toml::from_str("url = 's3://team-cache'").expect("enough");
        let policy = config.policy().expect("in range");
        assert_eq!(policy, RemotePolicy::default());
        assert!(!policy.write && !config.logs && !config.anonymous);
        assert_eq!(config.region(&nothing), "us-east-1");
        assert!(config.endpoint(&nothing).expect("none").is_none());
        for bad in ["url = 's3://abc'\ntoken-env = 'X'", "url = 1", "url = 's3://abc'\npush = 'yes'"] {
            assert!(toml::from_str::<Config>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_name_a_bucket_and_what_stands_before_its_keys() {
        for (url, bucket, prefix) in [
            ("s3://team-cache", "team-cache", ""),
            ("s3://team.cache/", "team.cache", ""),
            ("s3://abc/quipu/main/", "abc", "quipu/main"),
        ] {
            assert_eq!(Config::new(url).bucket().expect("is good"), (bucket.to_owned(), prefix.to_owned()));
        }
        for bad in ["", "s3://", "s3://ab", "http://abc", "s3://Abc", "s3://abc//x", "s3://abc/../x", "s3://abc/a b"] {
            assert!(matches!(Config::new(bad).bucket(), Err(ConfigError::Url(_))), "{bad}");
        }
        for (endpoint, good) in [
            ("http://127.0.0.1:9000/", true),
            ("https://objects.example.com", true),
            ("127.0.0.1:9000", false),
            ("ftp://a", false),
            ("http://me:pw@a", false),
            ("http://a?x", false),
        ] {
            let config = Config { endpoint: Some(endpoint.into()), ..Config::new("s3://abc") };
            assert_eq!(config.endpoint(&nothing).is_ok(), good, "{endpoint}");
        }
        for seconds in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e9] {
            let config = Config { timeout: seconds, ..Config::new("s3://abc") };
            assert!(matches!(config.deadline(), Err(ConfigError::Range("timeout"))), "{seconds}");
        }
    }

    #[test]
    fn who_we_are_comes_from_the_environment_or_a_command_and_is_not_shown() {
        let mut config = Config::new("s3://abc");
        assert!(matches!(config.credentials(&nothing), Err(ConfigError::Credentials(_))));
        let env = |name: &str| match name {
            "AWS_ACCESS_KEY_ID" => Some("id".to_owned()),
            "AWS_SECRET_ACCESS_KEY" => Some("s3cret".to_owned()),
            "AWS_REGION" => Some("eu-west-3".to_owned()),
            _ => None,
        };
        let said = config.credentials(&env).expect("is said").expect("somebody");
        assert_eq!((said.access_key_id.as_str(), said.secret_access_key.as_str()), ("id", "s3cret"));
        assert!(!format!("{said:?}").contains("s3cret"));
        assert_eq!(config.region(&env), "eu-west-3");
        assert!(config.credentials(&|name| env(name).map(|v| v + "\n")).is_err());
        let print = |text: &str| Some(vec!["printf".to_owned(), "%s".to_owned(), text.to_owned()]);
        config.credentials_command =
            print(r#"{"Version":1,"AccessKeyId":"a","SecretAccessKey":"b","SessionToken":"c","Expiration":"x"}"#);
        let said = config.credentials(&nothing).expect("is said").expect("somebody");
        assert_eq!((said.access_key_id.as_str(), said.session_token.as_deref()), ("a", Some("c")));
        config.credentials_command = print("what?");
        assert!(matches!(config.credentials(&nothing), Err(ConfigError::Credentials(_))));
        config.anonymous = true;
        assert!(matches!(config.credentials(&nothing), Err(ConfigError::Both)));
        config.credentials_command = None;
        assert_eq!(config.credentials(&env).expect("nobody asks"), None);
    }
}
