//! Finished work by way of a real server, and work done there: the walk-through of `docs/sharing-servers.md` as it is
//! written, and what must not get there.

use std::fs;
use std::path::Path;

use super::share_walk::{blocks, shell};
use crate::kit::server::Server;
use crate::kit::{TestSpace, needs_ns, needs_programs};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn configure(space: &TestSpace, text: &str) {
    fs::write(space.beside("config/config.toml"), text).expect("is written");
}

#[test]
fn the_walk_through_of_the_page_does_what_it_says() {
    if !needs_ns() {
        return;
    }
    let Some(server) = Server::start(true) else { return };
    let page = fs::read_to_string(Path::new(ROOT).join("docs/sharing-servers.md")).expect("the page is there");
    let here = format!("grpc://127.0.0.1:{}", server.port);
    let page = page.replace("grpcs://cache.example.com:443", &here).replace("grpc://farm.example.com:8980", &here);
    let blocks = blocks(&page);
    let workfile = blocks.iter().find(|(head, _)| head == "toml quipu.toml").expect("has a workfile").1.clone();
    let person = || {
        let space = TestSpace::new(&workfile);
        fs::remove_file(space.beside("config/key")).expect("is there");
        space.write("text", "what one has done another need not do again\n");
        space
    };
    let (ci, laptop) = (person(), person());
    let mut said = vec![];
    for (head, script) in &blocks {
        let space = match head.rsplit_once(' ') {
            Some((_, "ci")) => &ci,
            Some((_, "laptop")) => &laptop,
            _ => continue,
        };
        if head.starts_with("toml ") {
            configure(space, script);
            continue;
        }
        if ci.exists("ci.key") {
            fs::copy(ci.path("ci.key"), laptop.path("ci.key")).expect("is handed over");
        }
        let output = shell(space, script);
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}\n{text}");
        said.push(text);
    }
    let all = said.join("\n---\n");
    assert_eq!(said.len(), 6, "{all}");
    assert!(said[1].contains("2 ran"), "{all}");
    assert!(!said[2].contains(" ran"), "{all}");
    assert!(said[4].contains("2 ran"), "{all}");
    if said[4].contains("runs here") {
        // The server has bubblewrap, and may not use it.
        crate::kit::say(&format!("skipped: the server executes nothing here\n{}", said[4]));
        assert!(std::env::var_os("QUIPU_REQUIRE_SERVERS").is_none(), "a server that executes was asked for");
    } else {
        assert!(said[5].contains("host        farm") && said[5].contains("isolation   remote"), "{all}");
    }
    assert_eq!(laptop.read("report"), "there are 11 words\n", "{all}");
}

#[test]
fn a_second_store_with_nothing_in_common_but_the_server_builds_a_program_without_running_anything() {
    if !needs_ns() || !needs_programs(&["cc", "ar", "awk"]) {
        return;
    }
    let Some(server) = Server::start(false) else { return };
    let remote = format!("[remote.cache]\nurl = 'grpc://127.0.0.1:{}'\n", server.port);
    let (first, second) = (TestSpace::example("tour"), TestSpace::example("tour"));
    configure(&first, &(remote.clone() + "push = true\n"));
    configure(&second, &remote);
    let made = first.build_twice(&[]);
    assert!(made.count("ran") > 5 && made.warnings().is_empty(), "{}", made.output.stderr);
    let fetched = second.build(&[]);
    assert_eq!((fetched.count("ran"), fetched.warnings()), (0, vec![]), "{}", fetched.output.stderr);
    assert!(fetched.count("fetched") > 0);
    assert_eq!(fs::read(second.path("bin/reckon")).expect("placed"), fs::read(first.path("bin/reckon")).expect("made"));
    second.nothing_to_do(&[]);
    // What a change needs is fetched, and only what depends on it runs.
    second.edit("src/main.c", "int main", "/* changed */ int main");
    let changed = second.build(&[]);
    assert_eq!(changed.warnings(), [] as [&str; 0]);
    assert!(changed.count("ran") < made.count("ran"), "{}", changed.output.stderr);
}

#[test]
fn a_secret_gets_to_no_server() {
    if !needs_ns() {
        return;
    }
    let Some(server) = Server::start(false) else { return };
    let workfile = "[task.plain]\nrun = \"echo canary-plain > plain\"\ninputs = []\noutputs = [\"plain\"]\n\
                    [task.login]\nrun = \"test $TOKEN = canary-secret && echo canary-product > login\"\n\
                    inputs = []\noutputs = [\"login\"]\nsecret-env = [\"TOKEN\"]\n";
    let space = TestSpace::new(workfile);
    configure(&space, &format!("[remote.cache]\nurl = 'grpc://127.0.0.1:{}'\npush = true\n", server.port));
    let mut command = space.command(&["run"]);
    let output = space.finish(command.env("TOKEN", "canary-secret"));
    assert_eq!((output.status, space.read("login").as_str()), (0, "canary-product\n"), "{}", output.stderr);
    assert!(!server.holding(b"canary-plain\n").is_empty(), "what may be sent was sent");
    for never in ["canary-secret", "canary-product"] {
        assert_eq!(server.holding(never.as_bytes()), Vec::<std::path::PathBuf>::new(), "{never}");
    }
}

#[test]
fn what_a_name_space_makes_gets_to_no_server_and_what_is_there_it_finds() {
    if !needs_ns() {
        return;
    }
    let Some(server) = Server::start(false) else { return };
    let workfile = "[task.a]\nrun = \"echo canary-a > a.out\"\ninputs = []\noutputs = [\"a.out\"]\n";
    let remote = format!("[remote.cache]\nurl = 'grpc://127.0.0.1:{}'\npush = true\n", server.port);
    let (first, second) = (TestSpace::new(workfile), TestSpace::new(workfile));
    let one = &["--namespace", "one"];
    for space in [&first, &second] {
        configure(space, &remote);
    }
    assert_eq!(first.build_twice(one).ran(), "a");
    assert!(server.holding(b"canary-a\n").is_empty());
    assert_eq!(first.build_twice(&[]).ran(), "a");
    assert!(!server.holding(b"canary-a\n").is_empty());
    let found = second.build(one);
    assert_eq!((found.ran().as_str(), found.warnings()), ("", vec![]), "{}", found.output.stderr);
    second.nothing_to_do(one);
    let alone = &["--namespace", "two", "--only-namespace"];
    assert_eq!(second.build_twice(alone).ran(), "a");
}

/// A bucket in place of the server, with the same steps.
#[test]
#[cfg(feature = "bucket")]
fn the_walk_through_with_a_bucket_does_what_it_says() {
    use std::io::{Read, Write};
    if !needs_ns() {
        return;
    }
    let Some(server) = Server::start_storage() else { return };
    let here = format!("http://127.0.0.1:{}", server.port);
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", server.port)).expect("it is there");
    let head = "PUT /team-cache HTTP/1.1\r\nHost: here\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("it listens");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    assert!(answer.contains(" 200 "), "{answer}");
    let page = fs::read_to_string(Path::new(ROOT).join("docs/sharing-servers.md")).expect("the page is there");
    let blocks = blocks(&page.replace("https://objects.example.com", &here));
    let block = |head: &str| blocks.iter().find(|(h, _)| h == head).unwrap_or_else(|| panic!("has `{head}`")).1.clone();
    let person = |number: u8, config: &str| {
        let space = TestSpace::new(&block("toml quipu.toml"));
        space.use_key(number);
        space.write("text", "what one has done another need not do again\n");
        configure(&space, &block(config));
        space
    };
    let run = |space: &TestSpace| {
        let mut command = space.command(&["run", "--json"]);
        command.env("AWS_ACCESS_KEY_ID", "somebody").env("AWS_SECRET_ACCESS_KEY", "secret");
        let output = space.finish(&mut command);
        assert_eq!(output.status, 0, "{}", output.stderr);
        output.stdout.lines().last().expect("a summary").to_owned()
    };
    let (ci, laptop) = (person(1, "toml ci-bucket"), person(2, "toml laptop-bucket"));
    assert!(run(&ci).contains("\"ran\":2"));
    laptop.ok(&["trust", "add", "ci", ci.ok(&["key", "show"]).stdout.trim()]);
    let said = run(&laptop);
    assert!(said.contains("\"ran\":0") && said.contains("\"fetched\":2"), "{said}");
    assert_eq!(laptop.read("report"), "there are 9 words\n");
    // From then on all is here.
    laptop.nothing_to_do(&["--offline"]);
}
