//! Provenance for tools that know nothing of quipu.

use crate::cli::independent;
use crate::kit::TestSpace;

const TASKS: &str = r#"
[task.app]
run = "mkdir -p dist/doc && echo program > dist/app && head -c 70000 /dev/zero > dist/doc/large && echo x > one"
inputs = []
outputs = ["dist/", "one"]
sandbox = "none"
[task.check]
run = "true"
inputs = []
sandbox = "none"
"#;

#[test]
fn an_attestation_is_verified_by_others() {
    let space = TestSpace::new(TASKS);
    let none = space.run(&["attest", "app"]);
    assert!(none.status == 1 && none.stderr.contains("`app` has no receipt here"), "{}", none.stderr);
    space.build_twice(&[]);
    let attested = space.ok(&["attest"]);
    assert_eq!(attested.stdout.lines().count(), 1);
    assert!(attested.stderr.contains("`check` makes no files"), "{}", attested.stderr);
    let did = space.ok(&["key", "show"]).stdout.trim().to_owned();

    let Some(dir) = independent::prepared_or_skip() else { return };
    let node = |text: &str| {
        let file = space.beside("statements");
        std::fs::write(&file, text).expect("is written");
        let workspace = space.path("");
        let args: [&std::ffi::OsStr; 5] =
            ["share.mjs".as_ref(), "attested".as_ref(), file.as_ref(), did.as_ref(), workspace.as_ref()];
        independent::run(&dir, "node", &args).expect("node was there a moment ago")
    };
    let verified = node(&attested.stdout);
    assert!(verified.status.success(), "{}", independent::shown(&verified));
    let subjects: serde_json::Value = serde_json::from_slice(&verified.stdout).expect("JSON");
    assert_eq!(subjects["subjects"], serde_json::json!(["dist/app", "dist/doc/large", "one"]));
    // It would have noticed: another payload under the signature, and another file under the digest.
    let mut changed: serde_json::Value = serde_json::from_str(&attested.stdout).expect("JSON");
    let payload = changed["payload"].as_str().expect("text").replacen("ey", "ez", 1);
    changed["payload"] = payload.into();
    assert!(independent::shown(&node(&changed.to_string())).contains("the signature is bad"));
    space.write("one", "y\n");
    assert!(independent::shown(&node(&attested.stdout)).contains("one has another SHA-256"));
}
