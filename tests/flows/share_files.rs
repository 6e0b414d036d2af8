//! Finished work from one machine to another in a CAR file: two stores and two configurations, nothing in common.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use crate::cli::independent;
use crate::kit::{TestSpace, copy, needs_ns, wait_until};

const TASKS: &str = r#"
[task.gen]
run = "mkdir -p gen/deep && cat in > gen/deep/a && echo -n x > gen/b && ln -s deep/a gen/l && echo gen $((6*7)) ran"
inputs = ["in"]
outputs = ["gen/"]
sandbox = "none"
[task.sum]
run = "cat gen/deep/a gen/b > sum.txt && head -c 100000 /dev/zero >> sum.txt"
inputs = []
needs = ["gen"]
outputs = ["sum.txt"]
sandbox = "none"
"#;

/// A machine with key `number`.
fn machine(number: u8) -> TestSpace {
    let space = TestSpace::new(TASKS);
    space.use_key(number);
    space.write("in", "text\n");
    space
}

fn did(space: &TestSpace) -> String {
    space.ok(&["key", "show"]).stdout.trim().to_owned()
}

/// Machine 1 has done all and exported it to `x.car` beside its workspace.
fn exported() -> TestSpace {
    let space = machine(1);
    space.build_twice(&[]);
    space.ok(&["export", "--all", "-o", "../x.car"]);
    space
}

fn file(from: &TestSpace) -> String {
    from.beside("x.car").to_str().expect("text").to_owned()
}

#[test]
fn files_are_named_from_where_the_command_works() {
    let one = machine(1);
    one.build_twice(&[]);
    fs::create_dir(one.path("sub")).expect("is made");
    one.ok(&["-C", "sub", "export", "--all", "-o", "x.car"]);
    assert!(one.exists("sub/x.car") && !one.exists("x.car"));
    one.ok(&["-C", "sub", "import", "x.car"]);
    let output = one.run(&["import", "x.car"]);
    assert_eq!(output.status, 2, "{}", output.shown());
}

#[test]
fn a_second_store_with_the_file_and_the_key_runs_nothing_and_has_the_outputs() {
    let one = exported();
    let two = machine(2);
    two.ok(&["trust", "add", "one", &did(&one)]);
    let imported = two.ok(&["import", &file(&one)]);
    assert!(imported.stdout.starts_with("imported 2 receipts, "), "{}", imported.shown());
    assert_eq!(imported.stderr, "");
    let ran = two.build(&[]);
    assert_eq!((ran.output.status, ran.ran().as_str()), (0, ""), "{}", ran.output.stderr);
    assert_eq!(ran.warnings(), [] as [&str; 0]);
    assert_eq!(two.read("sum.txt"), one.read("sum.txt"));
    assert_eq!(two.read("gen/l"), "text\n");
    assert!(two.path("gen/l").is_symlink());
    two.nothing_to_do(&[]);
    // A change is work for here, and the rest still comes from there.
    two.write("in", "other\n");
    assert_eq!(two.build(&[]).ran(), "gen sum");
    two.write("in", "text\n");
    assert_eq!(two.build(&[]).ran(), "");
    // Importing again is nothing new, and writes nothing.
    let before = two.listing();
    let again = two.ok(&["import", &file(&one)]);
    assert_eq!(again.stdout, "imported 0 receipts (2 were here already), 0 blocks, 0 B\n");
    let blobs = |listing: crate::kit::Listing| {
        listing
            .into_iter()
            .filter(|(path, _)| path.is_file() && !path.to_string_lossy().contains("locks"))
            .collect::<Vec<_>>()
    };
    assert_eq!(blobs(two.listing()), blobs(before));
}

#[test]
fn without_the_key_the_file_is_as_if_absent_and_trust_may_come_later_and_go_again() {
    let one = exported();
    let two = machine(2);
    let imported = two.ok(&["import", &file(&one)]);
    assert!(imported.stderr.contains("2 receipts by did:key:z6Mk"), "{}", imported.stderr);
    assert!(imported.stderr.contains("help: `quipu trust add NAME did:key:z6Mk"), "{}", imported.stderr);
    let ran = two.build(&[]);
    assert_eq!(ran.ran(), "gen sum");
    assert_eq!(ran.warnings().len(), 1, "one warning for all: {:?}", ran.warnings());

    let three = machine(3);
    three.ok(&["import", &file(&one)]);
    three.ok(&["trust", "add", "one", &did(&one)]);
    assert_eq!(three.build(&[]).ran(), "");
    three.ok(&["trust", "remove", "one"]);
    assert_eq!(three.build(&[]).ran(), "gen sum", "what was accepted goes with the trust");
    three.nothing_to_do(&["--quiet"]);
}

#[test]
fn any_is_warned_of_and_agreement_wants_two_keys() {
    let (one, other) = (exported(), machine(4));
    other.build_twice(&[]);
    other.ok(&["export", "--all", "-o", "../x.car"]);
    let trusting = |policy: &str, keys: &[&TestSpace], files: &[&TestSpace]| {
        let space = machine(2);
        let mut text = "[keys]\n".to_owned();
        for (n, key) in keys.iter().enumerate() {
            let _ = writeln!(text, "k{n} = \"{}\"", did(key));
        }
        let _ = writeln!(text, "[policy]\nfiles = \"{policy}\"");
        fs::write(space.beside("config/trust.toml"), text).expect("is written");
        for from in files {
            space.ok(&["import", &file(from)]);
        }
        let ran = space.build(&[]);
        (ran.ran(), ran.warnings().join("\n"))
    };
    let (ran, warned) = trusting("any", &[], &[&one]);
    assert!(ran.is_empty() && warned.contains("(`any`)"), "{ran} {warned}");
    let (ran, warned) = trusting("2-of-n", &[&one, &other], &[&one]);
    assert!(ran == "gen sum" && warned.contains("too few"), "{ran} {warned}");
    let (ran, warned) = trusting("2-of-n", &[&one, &other], &[&one, &other]);
    assert_eq!((ran.as_str(), warned.as_str()), ("", ""));
    let (ran, _) = trusting("2-of-n", &[&one], &[&one, &other]);
    assert_eq!(ran, "gen sum", "the second is not trusted");
}

#[test]
fn what_ran_without_a_sandbox_is_exported_only_when_asked_for() {
    let space = machine(1);
    space.build_twice(&[]);
    let refused = space.run(&["export", "-o", "../x.car"]);
    assert_eq!(refused.status, 1);
    assert!(refused.stderr.contains("`--all` exports that too"), "{}", refused.stderr);
    assert!(!space.beside("x.car").exists());
    let empty = machine(2).run(&["export", "--all", "-o", "../y.car"]);
    assert!(empty.status == 1 && empty.stderr.contains("`quipu run` first"), "{}", empty.stderr);
}

#[test]
fn what_used_a_secret_is_exported_only_when_asked_for_and_the_secret_never() {
    const CANARY: &str = "c4n4ry-5e1f-not-to-be-seen";
    if !needs_ns() {
        return;
    }
    let space = TestSpace::new(
        r#"
[task.closed]
run = "echo a > a"
inputs = []
outputs = ["a"]
[task.secret]
run = "echo $TOKEN; echo $TOKEN >&2; echo c > c"
inputs = []
outputs = ["c"]
secret-env = ["TOKEN"]
"#,
    );
    let ran = space.finish(space.command(&["run"]).env("TOKEN", CANARY));
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let closed = space.ok(&["export", "-o", "../closed.car"]);
    assert!(closed.stdout.starts_with("exported 1 receipt, "), "{}", closed.shown());
    assert!(closed.stderr.contains("1 task left out"), "{}", closed.stderr);
    let all = space.ok(&["export", "--all", "--logs", "--sources", "-o", "../all.car"]);
    assert!(all.stdout.starts_with("exported 2 receipts, "), "{}", all.shown());
    let bytes = fs::read(space.beside("all.car")).expect("read");
    let holds = |part: &str| bytes.windows(part.len()).any(|w| w == part.as_bytes());
    assert!(holds("***") && !holds(CANARY));
}

#[test]
fn attack_21_what_may_use_the_network_is_exported_only_when_asked_for() {
    if !needs_ns() {
        return;
    }
    let task = |name: &str, more: &str| {
        format!("[task.{name}]\nrun = \"echo {name} > {name}\"\ninputs = []\noutputs = [\"{name}\"]\n{more}")
    };
    let space = TestSpace::new(&format!("[workspace]\n{}{}", task("open", "network = true\n"), task("closed", "")));
    space.build_twice(&[]);
    let closed = space.ok(&["export", "-o", "../closed.car"]);
    assert!(closed.stdout.starts_with("exported 1 receipt, "), "{}", closed.shown());
    assert!(closed.stderr.contains("1 task left out"), "{}", closed.stderr);
    let holds = |name: &str, part: &[u8]| {
        fs::read(space.beside(name)).expect("read").windows(part.len()).any(|window| window == part)
    };
    assert!(holds("closed.car", b"closed\n") && !holds("closed.car", b"open\n"));
    let all = space.ok(&["export", "--all", "-o", "../all.car"]);
    assert!(all.stdout.starts_with("exported 2 receipts, "), "{}", all.shown());
    assert!(holds("all.car", b"open\n"));
}

#[test]
fn receipts_that_came_without_logs_are_not_called_hollow() {
    let (one, two) = (exported(), machine(2));
    two.ok(&["trust", "add", "one", &did(&one)]);
    two.ok(&["import", &file(&one)]);
    let told = two.ok(&["verify"]).stdout;
    assert!(told.starts_with("1 receipt made elsewhere came without logs, bafyr4i"), "{told}");
    assert!(told.ends_with(": sound\n") && told.lines().count() == 2, "{told}");
    // What is no log is missed.
    let large = two.store_files("blobs");
    assert_eq!(large.len(), 1);
    fs::remove_file(&large[0]).expect("is removed");
    two.ok(&["verify", "--repair"]);
    let told = two.ok(&["verify"]).stdout;
    assert!(told.contains(" is hollow: block "), "{told}");
    // Nor is what this store printed itself a thing that was left out.
    one.edit("quipu.toml", "echo gen $((6*7)) ran", "head -c 50000 /dev/zero");
    one.ok(&["run", "gen"]);
    let before: Vec<_> = one.store_files("blobs");
    one.ok(&["run"]);
    before.iter().for_each(|file| fs::remove_file(file).expect("is removed"));
    one.ok(&["verify", "--repair"]);
    assert!(!one.ok(&["verify"]).stdout.contains("without logs"));
}

#[test]
fn single_receipts_go_by_id_and_logs_and_sources_by_choice() {
    let space = machine(1);
    space.build_twice(&[]);
    let plan = space.json(&["plan", "--json"]);
    let sum = plan["tasks"].as_array().expect("list").iter().find(|t| t["name"] == "sum").expect("there");
    let id = sum["receipt"].as_str().expect("settled");
    let by_id = space.ok(&["export", id, "-o", "../id.car"]);
    assert!(by_id.stdout.starts_with("exported 2 receipts, "), "with that of its input: {}", by_id.stdout);
    space.ok(&["export", "--all", "-o", "../x.car"]);
    assert_eq!(fs::read(space.beside("id.car")).expect("read"), fs::read(space.beside("x.car")).expect("read"));
    let holds =
        |name: &str, bytes: &[u8]| fs::read(space.beside(name)).expect("read").windows(bytes.len()).any(|w| w == bytes);
    assert!(!holds("x.car", b"gen 42 ran"));
    space.ok(&["export", "--all", "--logs", "-o", "../logs.car"]);
    assert!(holds("logs.car", b"gen 42 ran"));
    space.write("in", "never built\n");
    space.ok(&["export", "--all", "--sources", "-o", "../changed.car", id]);
    assert!(!holds("changed.car", b"never built"), "only what the receipts were made from");
    assert_eq!(space.run(&["export", "nonsense", "-o", "../no.car"]).status, 2);
    assert_eq!(space.run(&["export", "bafyr4iaaaaaaaaaaa", "-o", "../no.car"]).status, 2);
}

#[test]
fn a_bad_file_is_refused_and_leaves_the_store_as_it_was() {
    let one = exported();
    let two = machine(2);
    two.ok(&["trust", "add", "one", &did(&one)]);
    let good = fs::read(one.beside("x.car")).expect("read");
    let visible = |space: &TestSpace| space.store_files("blobs");
    for (name, bytes) in [
        ("flipped", {
            let mut bad = good.clone();
            bad[good.len() - 5] ^= 1;
            bad
        }),
        ("cut", good[..good.len() - 1].to_vec()),
        ("longer", [&good[..], b"\x25"].concat()),
        ("empty", vec![]),
        ("text", b"this is no CAR file".to_vec()),
    ] {
        fs::write(two.beside("bad.car"), bytes).expect("is written");
        let refused = two.run(&["import", "../bad.car"]);
        assert_eq!(refused.status, 5, "{name}: {}", refused.stderr);
        assert!(refused.stderr.contains("is refused, and nothing of it is kept"), "{name}: {}", refused.stderr);
        assert_eq!(visible(&two), [] as [std::path::PathBuf; 0], "{name}");
    }
    let over = two.run(&["import", "--max-bytes", "1K", &file(&one)]);
    assert!(over.status == 5 && over.stderr.contains("1024 bytes allowed"), "{}", over.stderr);
    assert_eq!(two.run(&["import", "../nowhere.car"]).status, 2);
    assert_eq!(two.build(&[]).ran(), "gen sum", "nothing of them counts");
}

#[test]
fn a_killed_import_leaves_nothing_to_be_found_and_the_next_does_it_all() {
    let one = exported();
    let two = machine(2);
    two.ok(&["trust", "add", "one", &did(&one)]);
    let good = fs::read(one.beside("x.car")).expect("read");
    let mut child = two.command(&["import", "-"]).stdin(Stdio::piped()).spawn().expect("starts");
    let mut pipe = child.stdin.take().expect("is piped");
    pipe.write_all(&good[..good.len() - 10]).expect("is read");
    // It has staged the large block by the time that is there.
    wait_until("the import stages", || !two.store_files("scratch").is_empty());
    child.kill().expect("is there");
    child.wait().expect("ends");
    drop(pipe);
    assert_eq!(two.build(&[]).ran(), "gen sum");

    let three = machine(3);
    three.ok(&["trust", "add", "one", &did(&one)]);
    let mut child =
        three.command(&["import", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("starts");
    child.stdin.take().expect("is piped").write_all(&good).expect("is read");
    assert!(child.wait().expect("ends").success());
    assert_eq!(three.build(&[]).ran(), "");
}

#[test]
fn an_output_missing_from_the_file_is_made_again_where_it_is_needed() {
    let one = machine(1);
    one.build_twice(&[]);
    // The large output is damaged at home: its receipt goes without it.
    let large = one.store_files("blobs");
    assert_eq!(large.len(), 1);
    fs::remove_file(&large[0]).expect("own file");
    let exported = one.ok(&["export", "--all", "-o", "../x.car"]);
    assert!(exported.stderr.contains("1 part of outputs not in this store"), "{}", exported.stderr);
    let two = machine(2);
    two.ok(&["trust", "add", "one", &did(&one)]);
    let imported = two.ok(&["import", &file(&one)]);
    assert!(imported.stderr.contains("1 receipt without all outputs"), "{}", imported.stderr);
    let ran = two.build(&[]);
    assert_eq!((ran.output.status, ran.ran().as_str()), (0, "sum"), "{}", ran.output.stderr);
    assert_eq!(two.read("sum.txt"), one.read("sum.txt"));
}

#[test]
fn node_reads_ours_and_ours_reads_what_node_makes() {
    let Some(dir) = independent::prepared_or_skip() else { return };
    let one = exported();
    let node = |args: &[&str]| {
        let args = [&["share.mjs"][..], args].concat();
        let args: Vec<&std::ffi::OsStr> = args.iter().map(|a| a.as_ref()).collect();
        let output = independent::run(&dir, "node", &args).expect("node was there a moment ago");
        assert!(output.status.success(), "{}", independent::shown(&output));
        String::from_utf8(output.stdout).expect("text")
    };
    let vectors = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/cars.json");
    assert_eq!(node(&["vectors", vectors]), "{\"accepted\":2}\n");
    let read: serde_json::Value = serde_json::from_str(&node(&["read", &file(&one)])).expect("JSON");
    let receipts = read["receipts"].as_array().expect("list");
    assert_eq!(receipts.len(), 2);
    assert!(receipts.iter().all(|r| r["issuer"] == did(&one) && r["invocation"] == true), "{read}");

    // The same blocks in another order, by @ipld/car.
    let rewritten = one.beside("rewritten.car");
    node(&["rewrite", &file(&one), rewritten.to_str().expect("text")]);
    let two = machine(2);
    two.ok(&["trust", "add", "one", &did(&one)]);
    two.ok(&["import", rewritten.to_str().expect("text")]);
    assert_eq!(two.build(&[]).ran(), "");
    assert_eq!(two.read("sum.txt"), one.read("sum.txt"));

    // The same claims in receipts that @ipld/dag-cbor and @noble/curves have made, by key 9.
    let reissued = one.beside("reissued.car");
    node(&["reissue", &file(&one), reissued.to_str().expect("text"), &"09".repeat(32)]);
    let nine = machine(9);
    let three = machine(3);
    three.ok(&["trust", "add", "nine", &did(&nine)]);
    three.ok(&["import", reissued.to_str().expect("text")]);
    assert_eq!(three.build(&[]).ran(), "");
    // And ours out of the second store, as signed by the first: byte for byte what came in.
    two.ok(&["export", "--all", "-o", "../again.car"]);
    assert_eq!(fs::read(two.beside("again.car")).expect("read"), fs::read(one.beside("x.car")).expect("read"));
}

#[test]
fn a_workspace_that_brings_its_own_trust_is_not_believed() {
    let one = exported();
    let two = machine(2);
    let text = format!("[keys]\none = \"{}\"\n", did(&one));
    for place in ["trust.toml", ".config/quipu/trust.toml", "config/trust.toml", ".quipu/trust.toml"] {
        two.write(place, &text);
    }
    two.ok(&["import", &file(&one)]);
    assert_eq!(two.build(&[]).ran(), "gen sum");
    let copied = machine(3);
    copy(&two.path(""), &copied.path(""));
    assert_eq!(copied.ok(&["trust", "list"]).stdout, "");
}
