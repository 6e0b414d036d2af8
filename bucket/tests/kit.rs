//! What tests of buckets begin with: a server with one bucket, machines that have it as a remote, and somebody who may
//! write to it and has no key that anybody trusts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use quipu_bucket::{BucketRemote, Config};
use quipu_store::remote::Remote;

pub(crate) use crate::machine::*;
use crate::program::Program;

pub(crate) const BUCKET: &str = "team-cache";

impl Description for Config {
    fn remote(&self, name: &str) -> Arc<dyn Remote> {
        Arc::new(open(name, self))
    }
}

/// The environment of these tests says who we are.
pub(crate) fn open(name: &str, config: &Config) -> BucketRemote {
    let env = |name: &str| match name {
        "AWS_ACCESS_KEY_ID" => Some("somebody".to_owned()),
        "AWS_SECRET_ACCESS_KEY" => Some("secret".to_owned()),
        _ => None,
    };
    BucketRemote::new(name, config, &env).expect("a good description")
}

/// A bucket that is read and written, with results of any isolation.
pub(crate) fn config(port: u16) -> Config {
    let mut config = Config::new(format!("s3://{BUCKET}/work"));
    config.endpoint = Some(format!("http://127.0.0.1:{port}"));
    config.push = true;
    config.share.push("native".to_owned());
    config
}

/// A running server with an empty bucket; says why where there is none to be had.
pub(crate) fn server() -> Option<Program> {
    let server = Program::start("moto", None, |port| {
        let asked = agent().get(format!("http://127.0.0.1:{port}/")).call();
        asked.map(drop).map_err(|e| e.to_string())
    })?;
    Writer::of(&server).make_bucket();
    Some(server)
}

/// Certificates of other tests.
pub(crate) fn certificate(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../remote/tests/tls").join(name)
}

/// One that is spoken with over TLS.
pub(crate) fn secure_server() -> Option<Program> {
    let tls = certificate("").display().to_string();
    let server = Program::start("moto", Some(&tls), |port| {
        let asked = std::net::TcpStream::connect(("127.0.0.1", port));
        asked.map(drop).map_err(|e| e.to_string())
    })?;
    let ca =
        ureq::tls::Certificate::from_pem(&std::fs::read(certificate("ca.pem")).expect("is there")).expect("is one");
    let tls = ureq::tls::TlsConfig::builder()
        .root_certs(ureq::tls::RootCerts::new_with_certs(&[ca]))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build();
    let agent: ureq::Agent = ureq::Agent::config_builder().proxy(None).tls_config(tls).build().into();
    let made = agent.put(format!("https://localhost:{}/{BUCKET}", server.port)).send_empty();
    made.expect("it makes buckets for anybody");
    Some(server)
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().proxy(None).build().into()
}

/// Somebody who may write to a bucket.
pub(crate) struct Writer(String);

impl Writer {
    pub(crate) fn of(server: &Program) -> Self {
        Self(format!("http://127.0.0.1:{}/{BUCKET}", server.port))
    }

    fn ask(&self, method: &str, rest: &str, body: &[u8]) -> Vec<u8> {
        // This server wants to be told who asks, and believes it.
        let who =
            "AWS4-HMAC-SHA256 Credential=mallory/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=x";
        let request = hyper::Request::builder()
            .method(method)
            .uri(format!("{}{rest}", self.0))
            .header("Authorization", who)
            .header("Content-Type", "application/octet-stream")
            .body(body)
            .expect("a good request");
        let mut answer = agent().run(request).expect("it lets anybody");
        answer.body_mut().with_config().limit(1 << 30).read_to_vec().expect("readable")
    }

    fn make_bucket(&self) {
        self.ask("PUT", "", b"");
    }

    /// Every key in the bucket that has this in it.
    pub(crate) fn keys(&self, part: &str) -> Vec<String> {
        let text = String::from_utf8(self.ask("GET", "?list-type=2&max-keys=1000", b"")).expect("text");
        let keys = text.split("<Key>").skip(1).filter_map(|rest| rest.split_once("</Key>"));
        keys.map(|(key, _)| key.to_owned()).filter(|key| key.contains(part)).collect()
    }

    pub(crate) fn get(&self, key: &str) -> Vec<u8> {
        self.ask("GET", &format!("/{key}"), b"")
    }

    pub(crate) fn put(&self, key: &str, bytes: &[u8]) {
        self.ask("PUT", &format!("/{key}"), bytes);
    }

    pub(crate) fn delete(&self, key: &str) {
        self.ask("DELETE", &format!("/{key}"), b"");
    }
}
