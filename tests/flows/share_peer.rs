//! One store as another's remote, over HTTP: nothing runs twice, and a peer that is no use costs a warning.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use super::share_serve::Serving;
use crate::kit::TestSpace;

const TASKS: &str = r#"
[task.gen]
run = "mkdir -p gen/deep && cat in > gen/deep/a && head -c 2000000 /dev/zero > gen/b && ln -s deep/a gen/l"
inputs = ["in"]
outputs = ["gen/"]
sandbox = "none"
[task.sum]
run = "cat gen/deep/a > sum.txt && wc -c < gen/b >> sum.txt"
inputs = []
needs = ["gen"]
outputs = ["sum.txt"]
sandbox = "none"
"#;
const SUM: &str = "text\n2000000\n";

fn machine(number: u8) -> TestSpace {
    let space = TestSpace::new(TASKS);
    space.use_key(number);
    space.write("in", "text\n");
    space
}

/// Machine 1, which has done all.
fn done() -> TestSpace {
    let space = machine(1);
    space.build_twice(&[]);
    space
}

/// Machine 2, which trusts machine 1 and asks who is at `url`.
fn asking(url: &str, one: &TestSpace) -> TestSpace {
    let space = machine(2);
    space.ok(&["trust", "add", "one", one.ok(&["key", "show"]).stdout.trim()]);
    configure(&space, url, "");
    space
}

fn configure(space: &TestSpace, url: &str, more: &str) {
    fs::write(space.beside("config/config.toml"), format!("[remote.one]\nurl = \"{url}\"\n{more}"))
        .expect("is written");
}

#[test]
fn what_one_has_done_another_does_not_and_fetches_only_what_it_needs() {
    let one = done();
    let serving = Serving::start(&one, &["--all"]);
    let two = asking(&serving.url, &one);
    // A plan says so, and writes nothing.
    let before = two.listing();
    let plan = two.json(&["plan", "--json"]);
    assert!(plan["tasks"].as_array().expect("list").iter().all(|t| t["status"] == "cached"), "{plan}");
    assert_eq!(two.listing(), before);
    // For `sum` alone nothing of `gen` is needed but its receipt.
    let ran = two.build(&["sum"]);
    assert_eq!((ran.output.status, ran.ran().as_str(), ran.count("fetched")), (0, "", 1), "{}", ran.output.stderr);
    assert_eq!(ran.warnings(), [] as [&str; 0]);
    assert_eq!(two.read("sum.txt"), SUM);
    assert!(!two.exists("gen"));
    // Two directories, two files.
    let ran = two.build(&[]);
    assert_eq!((ran.ran().as_str(), ran.count("fetched")), ("", 4), "{}", ran.output.stderr);
    assert_eq!(
        (two.read("gen/l"), fs::metadata(two.path("gen/b")).expect("is placed").len()),
        ("text\n".into(), 2_000_000)
    );
    // From then on all is here.
    drop(serving);
    two.nothing_to_do(&[]);
    two.nothing_to_do(&["--offline"]);
    assert!(two.ok(&["verify"]).stderr.is_empty());
}

#[test]
fn what_the_other_does_later_is_found_too_and_what_only_this_one_has_stays_here() {
    let one = done();
    let serving = Serving::start(&one, &["--all"]);
    let two = asking(&serving.url, &one);
    two.write("in", "mine\n");
    assert_eq!(two.build(&[]).ran(), "gen sum");
    one.write("in", "theirs\n");
    assert_eq!(one.build(&[]).ran(), "gen sum");
    two.write("in", "theirs\n");
    assert_eq!(two.build(&[]).ran(), "");
    assert_eq!(two.read("sum.txt"), "theirs\n2000000\n");
    one.write("in", "mine\n");
    assert_eq!(one.build(&[]).ran(), "gen sum", "nothing is sent to a peer");
}

#[test]
fn receipts_of_a_key_that_is_not_trusted_are_as_if_absent_with_one_warning() {
    let one = done();
    let serving = Serving::start(&one, &["--all"]);
    let two = asking(&serving.url, &one);
    two.ok(&["trust", "remove", "one"]);
    let ran = two.build(&[]);
    assert_eq!(
        (ran.ran().as_str(), ran.count("fetched"), ran.warnings().len()),
        ("gen sum", 0, 1),
        "{:?}",
        ran.warnings()
    );
    assert!(ran.warnings()[0].contains("that key is not trusted"), "{:?}", ran.warnings());
    // Where this peer is asked for nothing but its word it counts, and that is said.
    let three = machine(3);
    configure(&three, &serving.url, "");
    fs::write(three.beside("config/trust.toml"), "[policy]\none = \"any\"\n").expect("is written");
    let ran = three.build(&[]);
    assert_eq!((ran.ran().as_str(), ran.warnings().len()), ("", 1), "{:?}", ran.warnings());
    assert!(ran.warnings()[0].contains("(`any`)"), "{:?}", ran.warnings());
}

#[test]
fn a_token_is_shown_and_a_wrong_one_costs_a_warning() {
    let one = done();
    let serving = Serving::start(&one, &["--all", "--token-file", "../token"]);
    let token = fs::read_to_string(one.beside("token")).expect("is made");
    let two = asking(&serving.url, &one);
    let ran = two.build(&[]);
    assert_eq!((ran.ran().as_str(), ran.warnings().len()), ("gen sum", 1), "{:?}", ran.warnings());
    assert!(ran.warnings()[0].contains("asks for a token (401"), "{:?}", ran.warnings());

    let three = asking(&serving.url, &one);
    configure(&three, &serving.url, "token-env = \"ONE_TOKEN\"\n");
    let run = |token: Option<&str>| {
        let mut command = three.command(&["run"]);
        command.envs(token.map(|token| ("ONE_TOKEN", token.trim())));
        let output = command.output().expect("starts");
        assert!(output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = run(Some(&token));
    assert!(said.contains("0 ran") || !said.contains(" ran"), "{said}");
    assert_eq!(three.read("sum.txt"), SUM);
    three.write("in", "other\n");
    let said = run(None);
    assert!(said.contains("remote `one` is left out") && said.contains("2 ran"), "{said}");
    three.write("in", "another\n");
    let said = run(Some("not-the-token-at-all"));
    assert!(said.contains("does not take our token") && !said.contains("not-the-token"), "{said}");

    for (text, expected) in [
        ("url = \"https://a\"", "an ssh tunnel"),
        ("url = \"http://\"", "is not of the form"),
        ("url = \"http://a\"\npush = true", "unknown field `push`"),
        ("url = \"http://a\"\ntimeout = 0", "`timeout` is out of range"),
    ] {
        fs::write(two.beside("config/config.toml"), format!("[remote.one]\n{text}\n")).expect("is written");
        let refused = two.run(&["run"]);
        assert!(refused.status == 2 && refused.stderr.contains(expected), "{}", refused.stderr);
    }
}

/// What stands between a machine and its peer: asks the peer what it was asked, and hands on what `does` makes of it.
fn between(
    url: &str,
    does: impl Fn(&str, Vec<u8>) -> Option<Vec<u8>> + Send + Sync + 'static,
) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("has one");
    let (to, does, asked) =
        (url.trim_start_matches("http://").to_owned(), Arc::new(does), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&asked);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            counted.fetch_add(1, Ordering::SeqCst);
            let (to, does) = (to.clone(), Arc::clone(&does));
            std::thread::spawn(move || {
                let request = request(&mut stream);
                let line = request.lines().next().unwrap_or_default().to_owned();
                let mut answer = vec![];
                let mut peer = TcpStream::connect(&to).expect("listens");
                // Of version 1.0: one answer a connection, and nothing in chunks.
                let mut lines: Vec<String> = request.split("\r\n").map(str::to_owned).collect();
                lines[0] = lines[0].replace("HTTP/1.1", "HTTP/1.0");
                peer.write_all(lines.join("\r\n").as_bytes()).expect("is taken");
                peer.read_to_end(&mut answer).expect("is answered");
                if let Some(bytes) = does(&line, answer) {
                    let _ = stream.write_all(&bytes);
                }
            });
        }
    });
    (format!("http://{address}"), asked)
}

/// A request with its body.
fn request(stream: &mut TcpStream) -> String {
    let mut bytes = vec![];
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
        bytes.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&bytes).to_lowercase();
    let len = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok()).unwrap_or(0);
    let mut body = vec![0; len];
    stream.read_exact(&mut body).expect("is sent");
    bytes.extend(body);
    String::from_utf8(bytes).expect("is text")
}

/// What becomes of a run whose peer is no use: the outputs, what ran, the warnings.
fn outcome(url: &str, one: &TestSpace) -> (String, Vec<String>) {
    let two = asking(url, one);
    configure(&two, url, "timeout = 0.5\n");
    let ran = two.build(&[]);
    assert_eq!(ran.output.status, 0, "{}", ran.output.stderr);
    assert_eq!((two.read("sum.txt"), two.read("gen/l")), (SUM.to_owned(), "text\n".to_owned()));
    assert_eq!(two.ok(&["verify"]).status, 0);
    let (names, warnings) = (ran.ran(), ran.warnings().into_iter().map(str::to_owned).collect());
    // With the remote left alone, as it was: what came from it before it went wrong is whole.
    two.nothing_to_do(&["--offline"]);
    (names, warnings)
}

#[test]
fn a_peer_that_is_gone_or_says_nothing_costs_one_warning() {
    let one = done();
    let gone = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port was free");
    let (ran, warnings) = outcome(&format!("http://{gone}"), &one);
    assert_eq!((ran.as_str(), warnings.len()), ("gen sum", 1), "{warnings:?}");
    assert!(warnings[0].contains("cannot be reached"), "{warnings:?}");

    let silent = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("http://{}", silent.local_addr().expect("has one"));
    let asked = Arc::new(Mutex::new(vec![]));
    let kept = Arc::clone(&asked);
    std::thread::spawn(move || silent.incoming().flatten().for_each(|s| kept.lock().expect("no panics").push(s)));
    let (ran, warnings) = outcome(&url, &one);
    assert_eq!((ran.as_str(), warnings.len()), ("gen sum", 1), "{warnings:?}");
    assert!(warnings[0].contains("no answer within 0.5 s"), "{warnings:?}");
    assert_eq!(asked.lock().expect("no panics").len(), 1, "one deadline, and it is given up");
}

#[test]
fn a_peer_that_lies_changes_nothing_but_who_does_the_work() {
    let one = done();
    let serving = Serving::start(&one, &["--all"]);
    // Other content under each id; one byte of each receipt; receipts of something else.
    let (lies, _) = between(&serving.url, |line, mut answer| {
        if line.contains("/ipfs/") {
            *answer.last_mut().expect("has a head") ^= 1;
        }
        Some(answer)
    });
    let (ran, warnings) = outcome(&lies, &one);
    assert_eq!((ran.as_str(), warnings.len()), ("gen sum", 1), "{warnings:?}");
    assert!(warnings[0].contains("not what its id says"), "{warnings:?}");

    let (forges, _) = between(&serving.url, |line, mut answer| {
        if line.contains("/quipu/") {
            let at = answer.windows(4).position(|w| w == b"iss\x78").expect("a receipt has an issuer");
            answer[at + 40] ^= 1;
        }
        Some(answer)
    });
    let (ran, warnings) = outcome(&forges, &one);
    assert_eq!((ran.as_str(), warnings.len()), ("gen sum", 1), "{warnings:?}");

    // Whatever is asked for, the first answer.
    let first = Mutex::new(None::<Vec<u8>>);
    one.write("in", "something else\n");
    one.build(&[]);
    let elsewhere = machine(4);
    elsewhere.write("in", "something else\n");
    let (replays, _) = between(&serving.url, move |line, answer| {
        if !line.contains("/quipu/") {
            return Some(answer);
        }
        Some(first.lock().expect("no panics").get_or_insert(answer).clone())
    });
    elsewhere.ok(&["trust", "add", "one", one.ok(&["key", "show"]).stdout.trim()]);
    configure(&elsewhere, &replays, "");
    assert_eq!(elsewhere.build(&[]).ran(), "");
    let (ran, warnings) = outcome(&replays, &one);
    assert_eq!((ran.as_str(), warnings), ("gen sum", vec![]), "receipts of other tasks are no receipts");
}

#[test]
fn a_peer_that_goes_away_in_the_middle_is_given_up_with_one_warning() {
    let one = done();
    let serving = Serving::start(&one, &["--all"]);
    // It stops in the middle of the large blob.
    let (cuts, _) = between(&serving.url, |_, mut answer| {
        answer.truncate(answer.len().min(1_000_000));
        Some(answer)
    });
    let (ran, warnings) = outcome(&cuts, &one);
    assert_eq!((ran.as_str(), warnings.len()), ("gen", 1), "{warnings:?}");
    assert!(warnings[0].contains("breaks off") || warnings[0].contains("cannot be reached"), "{warnings:?}");

    // It answers about receipts, and never about content.
    let (hold, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let (stalls, asked) = between(&serving.url, move |line, answer| {
        if line.contains("/ipfs/") {
            let _ = held.lock().map(|held| held.recv());
            return None;
        }
        Some(answer)
    });
    let (ran, warnings) = outcome(&stalls, &one);
    assert_eq!((ran.as_str(), warnings.len()), ("gen sum", 1), "{warnings:?}");
    assert!(warnings[0].contains("no answer within"), "{warnings:?}");
    assert!(asked.load(Ordering::SeqCst) < 10, "it is given up: {asked:?}");
    drop(hold);
}
