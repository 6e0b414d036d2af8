//! Who a server is, who we are, and which of its name spaces is meant.

use std::path::PathBuf;

use bazel_remote_apis::build::bazel::remote::execution::v2::digest_function::Value;
use quipu_remote::Config;
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

use crate::double::{Double, Setup};
use crate::kit::{self, Machine, alone, workflow};

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
}

fn pem(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).expect("it is part of the repository")
}

fn with_certificate(name: &str) -> ServerTlsConfig {
    ServerTlsConfig::new().identity(Identity::from_pem(pem(name), pem("key.pem")))
}

fn secure(port: u16) -> Config {
    let mut config = kit::config(port);
    config.url = format!("grpcs://localhost:{port}");
    config.ca = Some(path("ca.pem"));
    config
}

#[test]
fn a_server_with_a_good_certificate_is_used_and_knows_us_by_ours() {
    let tls = with_certificate("server.pem").client_ca_root(Certificate::from_pem(pem("ca.pem")));
    let double = Double::start(Setup { tls: Some(tls), ..Setup::default() });
    let mut config = secure(double.port);
    config.client_cert = Some(path("client.pem"));
    config.client_key = Some(path("key.pem"));
    let wanted = workflow("mutual");
    let first = Machine::new(1, &[], &[&config]).run(&wanted);
    assert_eq!((first.ran.len(), first.warnings), (4, vec![]));
    let second = Machine::new(2, &[1], &[&config]).run(&wanted);
    assert_eq!((second.ran.len(), second.warnings, &second.placed), (0, vec![], &first.placed));
    // Without our certificate it does not speak with us.
    (config.client_cert, config.client_key) = (None, None);
    let third = Machine::new(3, &[1], &[&config]).run(&wanted);
    assert_eq!((third.ran.len(), third.warnings.len(), &third.placed), (4, 1, &first.placed), "{:?}", third.warnings);
}

#[test]
fn a_server_that_cannot_say_who_it_is_is_not_used() {
    let wanted = workflow("certificates");
    let right = alone(&wanted);
    for (certificate, ca) in [
        ("expired.pem", Some("ca.pem")),
        ("future.pem", Some("ca.pem")),
        ("elsewhere.pem", Some("ca.pem")),
        ("server.pem", Some("stranger.pem")),
        ("server.pem", None),
    ] {
        let double = Double::start(Setup { tls: Some(with_certificate(certificate)), ..Setup::default() });
        let mut config = secure(double.port);
        config.ca = ca.map(path);
        let outcome = Machine::new(1, &[], &[&config]).run(&wanted);
        assert_eq!((outcome.ran.len(), &outcome.placed), (4, &right.placed), "{certificate}");
        assert_eq!(outcome.warnings.len(), 1, "{certificate}: {:?}", outcome.warnings);
        assert_eq!(double.calls("GetCapabilities"), 0, "{certificate}: nothing was said to it");
    }
    // One that does not encrypt, asked to; one that does, asked not to.
    let double = Double::start(Setup::default());
    let mut configs = vec![secure(double.port)];
    let tls = Double::start(Setup { tls: Some(with_certificate("server.pem")), ..Setup::default() });
    configs.push(kit::config(tls.port));
    for config in configs {
        let outcome = Machine::new(1, &[], &[&config]).run(&wanted);
        assert_eq!((outcome.ran.len(), outcome.warnings.len()), (4, 1), "{:?}", outcome.warnings);
    }
}

#[test]
fn tokens_headers_instances_and_digests_are_the_servers() {
    for functions in [vec![Value::Sha256], vec![Value::Blake3]] {
        let double = Double::start(Setup {
            token: Some("s3cret".to_owned()),
            header: Some(("x-team", "blue")),
            instance: "team/main".to_owned(),
            batch_bytes: 65_536,
            functions: functions.clone(),
            ..Setup::default()
        });
        let mut config = kit::config(double.port);
        config.token_command = Some(vec!["printf".into(), "s3cret".into()]);
        config.instance = "team/main".to_owned();
        config.headers.insert("X-Team".to_owned(), "blue".to_owned());
        let wanted = workflow("token");
        let first = Machine::new(1, &[], &[&config]).run(&wanted);
        assert_eq!((first.ran.len(), &first.warnings), (4, &vec![]), "{functions:?}");
        let second = Machine::new(2, &[1], &[&config]).run(&wanted);
        assert_eq!((second.ran.len(), &second.warnings), (0, &vec![]), "{functions:?}");
        assert_eq!(second.placed, first.placed);
        let mut other = config.clone();
        other.instance = "team/other".to_owned();
        let mut stranger = config.clone();
        stranger.token_command = Some(vec!["printf".into(), "guess".into()]);
        let mut bare = config.clone();
        bare.headers.clear();
        for config in [other, stranger, bare] {
            let outcome = Machine::new(3, &[1], &[&config]).run(&wanted);
            assert_eq!((outcome.ran.len(), outcome.warnings.len()), (4, 1), "{:?}", outcome.warnings);
            assert!(!outcome.warnings[0].contains("s3cret") && !outcome.warnings[0].contains("guess"));
        }
    }
}
