//! Tasks that wait until something outside is ready: the typed form of the arguments of `/quipu/wait`, both ways.
//!
//! Knows what can be waited for; unaware of how one looks.

use std::time::Duration;

use crate::value::{Text, Value};

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitFor {
    /// A server that takes connections, as `host:port`.
    Tcp(Text),
    /// An answer to a request, with this status code.
    Http {
        /// `http://host:port/path`.
        url: Text,
        /// The code.
        code: u16,
    },
    /// A file, relative to the workspace's root.
    File(Text),
    /// A command that succeeds, run in the workspace's root.
    Command(Vec<Text>),
}

/// The arguments of a task that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitSpec {
    /// What for.
    pub what: WaitFor,
    /// How long from one look to the next.
    pub every: Duration,
}

impl WaitSpec {
    /// The arguments as a value.
    pub fn to_args(&self) -> Value {
        let text = |text: &Text| Value::Text(text.clone());
        let what = match &self.what {
            WaitFor::Tcp(address) => ("tcp", text(address)),
            WaitFor::Http { url, code } => {
                let pairs = [("url", text(url)), ("code", Value::Int((*code).into()))];
                ("http", Value::map(pairs).expect("fixed keys are distinct"))
            }
            WaitFor::File(path) => ("file", text(path)),
            WaitFor::Command(argv) => ("command", Value::list(argv.iter().map(text))),
        };
        let every_ms = i64::try_from(self.every.as_millis()).unwrap_or(i64::MAX);
        Value::map([what, ("every_ms", Value::Int(every_ms))]).expect("fixed keys are distinct")
    }

    /// Reads arguments back; nothing when they are none of these.
    pub fn from_args(args: &Value) -> Option<Self> {
        let text = |key| args.get(key).and_then(Value::as_text).map(Text::from);
        let what = if let Some(address) = text("tcp") {
            WaitFor::Tcp(address)
        } else if let Some(path) = text("file") {
            WaitFor::File(path)
        } else if let Some(http) = args.get("http") {
            let Some(Value::Int(code)) = http.get("code") else { return None };
            WaitFor::Http { url: http.get("url")?.as_text()?.into(), code: u16::try_from(*code).ok()? }
        } else {
            let Some(Value::List(argv)) = args.get("command") else { return None };
            let argv: Vec<Text> = argv.iter().map(|v| v.as_text().map(Text::from)).collect::<Option<_>>()?;
            WaitFor::Command(Some(argv).filter(|argv| !argv.is_empty())?)
        };
        let Some(Value::Int(every_ms)) = args.get("every_ms") else { return None };
        Some(Self { what, every: Duration::from_millis(u64::try_from(*every_ms).ok()?) })
    }
}

/// Host, port and path of a plain HTTP address.
pub fn http_parts(url: &str) -> Option<(&str, u16, &str)> {
    let rest = url.strip_prefix("http://")?;
    let at = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(at);
    let (host, port) = match authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
        Some((host, port)) => (host, port.parse().ok()?),
        None => (authority, 80),
    };
    let is_plain = |c: char| c.is_ascii_graphic();
    let good = !host.is_empty() && !host.contains('@') && url.chars().all(is_plain);
    good.then_some((host, port, if path.is_empty() { "/" } else { path }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_read_back() {
        let all = [
            WaitFor::Tcp("localhost:80".into()),
            WaitFor::Http { url: "http://localhost/ready".into(), code: 204 },
            WaitFor::File("out/ready".into()),
            WaitFor::Command(vec!["test".into(), "-e".into(), "x".into()]),
        ];
        for what in all {
            let spec = WaitSpec { what, every: Duration::from_millis(250) };
            assert_eq!(WaitSpec::from_args(&spec.to_args()), Some(spec));
        }
        for args in [Value::Null, Value::map([("tcp", "x".into())]).expect("map")] {
            assert_eq!(WaitSpec::from_args(&args), None);
        }
    }

    #[test]
    fn addresses_have_a_host_a_port_and_a_path() {
        assert_eq!(http_parts("http://localhost:8080/a?b"), Some(("localhost", 8080, "/a?b")));
        assert_eq!(http_parts("http://[::1]:81"), Some(("[::1]", 81, "/")));
        assert_eq!(http_parts("http://h"), Some(("h", 80, "/")));
        for bad in ["https://h/", "http://", "http://h:x/", "http://u@h/", "http://h/ x", "http://h/\r\nx: y"] {
            assert_eq!(http_parts(bad), None, "{bad:?}");
        }
    }
}
