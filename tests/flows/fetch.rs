//! Fetching: once per content, whoever wants it; verified; nothing left behind by what goes wrong.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::process::Signal;
use sha2::{Digest, Sha256};

use crate::kit::TestSpace;
use crate::kit::web::{Page, Web};

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn task(name: &str, url: &str, content: &[u8]) -> String {
    format!("[task.{name}]\nfetch = {{ url = '{url}', sha256 = '{}' }}\noutputs = ['{name}.in']\n", sha256(content))
}

/// Content that the store keeps as a file.
fn large(seed: u8) -> Vec<u8> {
    (0..200_000_u32).map(|i| (i % 251) as u8 ^ seed).collect()
}

/// What failed, and why.
fn why(ran: &crate::kit::Ran) -> String {
    let failed = ran.events.iter().find(|e| e["end"] == "failed").expect("one failed");
    failed["reason"].as_str().expect("says why").to_owned()
}

#[test]
fn ten_components_fetch_once_and_another_workspace_not_at_all() {
    let web = Web::start([("/lib", Page::new(large(1)))]);
    let mut text = String::new();
    for n in 0..10 {
        // Half of them know it by its other hash, and one by an address that is no use.
        let blake3 = quipu_store::cid::BlobId::of(&large(1));
        let url = if n == 3 { web.url("/none") } else { web.url("/lib") };
        let sum = if n % 2 == 0 { format!("sha256 = '{}'", sha256(&large(1))) } else { format!("blake3 = '{blake3}'") };
        let two = format!(
            "[task.lib{n}]\nfetch = {{ url = ['{url}', '{}'], {sum} }}\noutputs = ['c{n}/lib']\n\
             [task.use{n}]\nrun = 'wc -c < c{n}/lib > c{n}/size'\ninputs = ['c{n}/lib']\noutputs = ['c{n}/size']\n",
            web.url("/lib")
        );
        text.push_str(&two);
    }
    let space = TestSpace::new(&text);
    let ran = space.build_twice(&["-j8"]);
    assert_eq!(ran.count("ran"), 20);
    assert_eq!(space.read("c7/size").trim(), "200000");
    let fetched = web.asked().iter().filter(|path| **path == "/lib").count();
    assert!(fetched <= 2, "once for each hash: {:?}", web.asked());

    let before = web.asked().len();
    space.write("other/quipu.toml", &task("again", &web.url("/lib"), &large(1)));
    space.ok(&["-C", "other", "run"]);
    assert_eq!(fs::read(space.path("other/again.in")).expect("is there"), large(1));
    assert_eq!(web.asked().len(), before, "what is in the store is asked for nowhere");
}

#[test]
fn fetches_overlap_with_each_other_and_with_work_and_only_for_tasks_that_run() {
    let page = |seed| Page { open: 6, ..Page::new(large(seed)) };
    let web = Web::start([
        ("/0", page(0)),
        ("/1", page(1)),
        ("/2", page(2)),
        ("/3", page(3)),
        ("/4", page(4)),
        ("/5", page(5)),
        ("/unneeded", Page::new("x")),
    ]);
    let mut text = task("unneeded", &web.url("/unneeded"), b"x");
    // It ends only when all six requests are open; and none is answered before.
    text.push_str(
        "[task.work]\nrun = 'until test -e ../go; do sleep 0.02; done; echo > work.out'\ninputs = []\n\
         outputs = ['work.out']\nsandbox = 'none'\n\
         [task.all]\nrun = 'cat *.in | wc -c > all.out'\ninputs = ['work.out', '?.in']\noutputs = ['all.out']\n",
    );
    for n in 0..6 {
        text.push_str(&task(&n.to_string(), &web.url(&format!("/{n}")), &large(n)));
    }
    let space = TestSpace::new(&text);
    let mut running = space.start(&["-j1", "all"]);
    running.wait_for("task-started", "work");
    crate::kit::wait_until("six requests are open", || web.most_open() == 6);
    fs::write(space.beside("go"), "").expect("is written");
    let ran = running.end();
    assert_eq!(ran.output.status, 0, "{}", ran.output.stderr);
    assert_eq!(space.read("all.out").trim(), "1200000");
    let asked = |path: &str| web.asked().iter().filter(|asked| asked.starts_with(path)).count();
    assert_eq!((asked("/unneeded"), web.asked().len()), (0, 6));

    // All is gone but the receipts: what is settled needs no bytes, what runs again gets those it reads.
    for file in space.store_files("blobs") {
        fs::remove_file(file).expect("is removed");
    }
    space.nothing_to_do(&["all"]);
    assert_eq!(web.asked().len(), 6);
    let text = text.replace("wc -c > all.out", "wc -l > all.out").replace("'?.in'", "'3.in'");
    space.write("quipu.toml", &text.replace("cat *.in", "cat 3.in"));
    assert_eq!(space.build(&["all"]).ran(), "3 all");
    assert_eq!((asked("/3"), web.asked().len()), (2, 7));
}

#[test]
fn other_content_than_was_asked_for_is_refused_and_the_next_place_asked() {
    let web = Web::start([("/bad", Page::new("other")), ("/good", Page::new("content"))]);
    let space = TestSpace::new(&task("a", &web.url("/bad"), b"content"));
    let ran = space.build(&[]);
    assert_eq!(ran.output.status, 1);
    let expected = format!(
        "`{}`: its content is sha256:{}, and sha256:{} was expected",
        web.url("/bad"),
        sha256(b"other"),
        sha256(b"content")
    );
    assert_eq!(why(&ran), expected);
    assert!(!space.exists("a.in"));
    assert_eq!(web.asked(), ["/bad"], "it will be no other the next time");
    assert!(space.store_files("scratch").is_empty(), "nothing of it is kept");

    let both = format!("['{}', '{}', '{}']", web.url("/none"), web.url("/bad"), web.url("/good"));
    space.edit("quipu.toml", &format!("'{}'", web.url("/bad")), &both);
    space.build_twice(&[]);
    assert_eq!(space.read("a.in"), "content");
    // Where it is from is no part of what it is.
    space.edit("quipu.toml", &web.url("/none"), "https://mirror.invalid/");
    space.nothing_to_do(&[]);
}

#[test]
fn what_is_cut_off_goes_on_where_it_was_and_what_is_busy_is_asked_again() {
    let page = Page { cuts: 1, failures: (1, 503), ..Page::new(large(9)) };
    let web = Web::start([("/a", page)]);
    let space = TestSpace::new(&task("a", &web.url("/a"), &large(9)));
    let ran = space.build_twice(&[]);
    assert_eq!(ran.output.status, 0, "{}", ran.output.stderr);
    assert_eq!(web.asked(), ["/a", "/a", "/a bytes=100000-"]);
    assert_eq!(fs::read(space.path("a.in")).expect("is there"), large(9));
}

#[test]
fn a_run_that_is_killed_leaves_no_lock_and_nothing_on_its_way() {
    let web = Web::start([("/a", Page { held: true, ..Page::new(large(1)) })]);
    let space = TestSpace::new(&task("a", &web.url("/a"), &large(1)));
    let running = space.start(&[]);
    crate::kit::wait_until("it was asked", || web.asked().len() == 1);
    running.signal(Signal::KILL);
    running.end();
    web.release();
    space.build_twice(&[]);
    assert_eq!(web.asked().len(), 2);
    assert!(space.store_files("scratch").is_empty());
}

#[test]
fn two_processes_fetch_once() {
    let web = Web::start([("/a", Page { held: true, ..Page::new(large(1)) })]);
    let space = TestSpace::new(&task("a", &web.url("/a"), &large(1)));
    // Not the same work, but the same content.
    space.write("other/quipu.toml", &task("b", &web.url("/a"), &large(1)));
    let mut first = space.start(&[]);
    first.wait_for("task-started", "a");
    crate::kit::wait_until("it was asked", || web.asked().len() == 1);
    let mut second = space.start(&["-C", "other"]);
    second.wait_for("task-started", "b");
    web.release();
    assert_eq!((first.end().output.status, second.end().output.status), (0, 0));
    assert_eq!(web.asked().len(), 1);
    assert_eq!(fs::read(space.path("other/b.in")).expect("is there"), large(1));
}

#[test]
fn a_remote_workfile_is_fetched_once_and_is_what_its_hash_says() {
    let text = "[task.hello]\nrun = 'echo hello > hello'\ninputs = []\noutputs = ['hello']\n";
    let web = Web::start([("/ci.toml", Page::new(text))]);
    let include = |content: &str| {
        let id = quipu_store::cid::BlobId::of(content.as_bytes());
        format!("include = [{{ url = '{}', name = 'ci', blake3 = '{id}' }}]\n", web.url("/ci.toml"))
    };
    let space = TestSpace::new(&include(text));
    assert_eq!(space.build_twice(&["ci:hello"]).ran(), "ci:hello");
    assert_eq!(web.asked(), ["/ci.toml"]);
    space.write("quipu.toml", &include("something else"));
    let output = space.run(&["run"]);
    assert_eq!(output.status, 2);
    assert!(output.stderr.contains("not what `blake3` says"), "{}", output.stderr);
    space.write("quipu.toml", &include(text));
    space.ok(&["--offline", "run"]);
}

/// An archive of these files.
fn packed(files: &[(&str, &str)], space: &TestSpace, name: &str) -> Vec<u8> {
    let from = space.beside("packing");
    for (path, text) in files {
        let path = from.join(path);
        fs::create_dir_all(path.parent().expect("has one")).expect("is made");
        fs::write(path, text).expect("is written");
    }
    let status =
        std::process::Command::new("tar").arg("-czf").arg(space.path(name)).arg("-C").arg(&from).arg(".").status();
    assert!(status.expect("tar is there").success());
    fs::remove_dir_all(from).expect("is removed");
    fs::read(space.path(name)).expect("is there")
}

#[test]
fn an_archive_is_unpacked_and_who_reads_one_file_depends_on_that_file() {
    let space = TestSpace::new("");
    let write = |archive: &[u8], strip: &str| {
        space.write(
            "quipu.toml",
            &format!(
                "[task.lib]\nfetch = {{ url = 'file:mirror/lib.tgz', sha256 = '{}', unpack = 'tar.gz'{strip} }}\n\
                 outputs = ['vendor/lib/']\n\
                 [task.one]\nrun = 'cat vendor/lib/one.h > one'\ninputs = ['vendor/lib/one.h']\noutputs = ['one']\n\
                 [task.all]\nrun = 'cat vendor/lib/*.h > all'\ninputs = ['vendor/lib/']\noutputs = ['all']\n",
                sha256(archive)
            ),
        );
    };
    fs::create_dir(space.path("mirror")).expect("is made");
    let archive = packed(&[("lib-1/one.h", "1\n"), ("lib-1/two.h", "2\n")], &space, "mirror/lib.tgz");
    write(&archive, ", strip = 1");
    assert_eq!(space.build_twice(&[]).ran(), "all lib one");
    assert_eq!((space.read("one").as_str(), space.read("all").as_str()), ("1\n", "1\n2\n"));

    let archive = packed(&[("lib-2/one.h", "1\n"), ("lib-2/two.h", "3\n")], &space, "mirror/lib.tgz");
    write(&archive, ", strip = 1");
    let ran = space.build_twice(&[]);
    assert_eq!((ran.ran().as_str(), ran.count("cut_off")), ("all lib", 1), "`one` reads what did not change");

    write(&archive, ", strip = 9");
    let ran = space.build(&["lib"]);
    assert!(why(&ran).ends_with("nothing is left of the archive when 9 folders are stripped"), "{}", why(&ran));
    fs::remove_file(space.path("mirror/lib.tgz")).expect("is removed");
    write(&archive, "");
    assert_eq!(space.build(&["lib"]).ran(), "lib", "unpacked otherwise, it is not fetched again");
    assert_eq!(space.read("vendor/lib/lib-2/two.h"), "3\n");
    assert!(!space.exists("vendor/lib/two.h"), "what was there before is gone");
}

#[test]
fn archives_of_the_usual_tools_are_unpacked_alike() {
    if !crate::kit::needs_programs(&["tar", "gzip", "bzip2", "xz", "zstd", "zip"]) {
        return;
    }
    let space = TestSpace::new("");
    space.write("../from/p/bin/tool", "#!/bin/sh\necho it runs\n");
    space.write("../from/p/lib/a.h", "a\n");
    space.write("../from/p/words", &"word\n".repeat(50_000));
    fs::create_dir(space.beside("from/p/empty")).expect("is made");
    std::os::unix::fs::symlink("../lib/a.h", space.beside("from/p/bin/a.h")).expect("is made");
    fs::set_permissions(space.beside("from/p/bin/tool"), fs::Permissions::from_mode(0o755)).expect("is set");
    let mut text = String::new();
    for (name, how, pack) in [
        ("plain", "tar", "tar cf"),
        ("gzip", "tar.gz", "tar czf"),
        ("bzip2", "tar.bz2", "tar cjf"),
        ("xz", "tar.xz", "tar cJf"),
        ("zstd", "tar.zst", "tar --zstd -cf"),
        ("zip", "zip", "zip -qry"),
    ] {
        let to = space.path(name);
        let packed = std::process::Command::new("sh")
            .args(["-c", &format!("{pack} {} p", to.display())])
            .current_dir(space.beside("from"))
            .status();
        assert!(packed.expect("starts").success(), "{pack}");
        // What some tools put a name to of their own accord.
        let file = if to.exists() { name.to_owned() } else { format!("{name}.zip") };
        let sum = sha256(&fs::read(space.path(&file)).expect("is there"));
        let task = format!(
            "[task.{name}]\nfetch = {{ url = 'file:{file}', sha256 = '{sum}', unpack = '{how}', strip = 1 }}\n\
             outputs = ['out/{name}/']\n"
        );
        text.push_str(&task);
    }
    space.write("quipu.toml", &text);
    assert_eq!(space.build_twice(&[]).ran(), "bzip2 gzip plain xz zip zstd");
    for name in ["plain", "gzip", "bzip2", "xz", "zstd", "zip"] {
        let mut diff = std::process::Command::new("diff");
        let same =
            diff.args(["-r", "--no-dereference", "from/p", &format!("ws/out/{name}")]).current_dir(space.beside(""));
        assert!(same.status().expect("starts").success(), "{name}");
        let said = std::process::Command::new(space.path(&format!("out/{name}/bin/tool"))).output().expect("starts");
        assert_eq!(said.stdout, b"it runs\n", "{name}");
        assert_eq!(space.read(&format!("out/{name}/bin/a.h")), "a\n");
        assert!(space.exists(&format!("out/{name}/empty")));
    }
}

#[cfg(feature = "https")]
#[test]
fn who_is_asked_over_tls_says_who_it_is_or_is_not_asked_again() {
    use crate::kit::web::certificate;

    let space = TestSpace::new("");
    let run = |believed: Option<&str>, args: &[&str]| {
        let mut command = space.command(&[&["run"], args].concat());
        space.finish(command.envs(believed.map(|name| ("SSL_CERT_FILE", certificate(name)))))
    };
    // Of somebody nobody knows, of another name, of another time, of another authority.
    for (server, believed) in [
        ("server", None),
        ("elsewhere", Some("ca")),
        ("expired", Some("ca")),
        ("future", Some("ca")),
        ("server", Some("stranger")),
    ] {
        let web = Web::secure(server, [("/a", Page::new("content"))]);
        let url = web.url("/a").replace("http://127.0.0.1", "https://localhost");
        space.write("quipu.toml", &task("a", &url, b"content"));
        let refused = run(believed, &[]);
        assert_eq!(refused.status, 1, "{server}");
        assert!(refused.stderr.contains(&format!("`{url}`: its certificate is refused: ")), "{}", refused.stderr);
        assert!(refused.stderr.contains("`SSL_CERT_FILE` names a file of those to believe"), "{}", refused.stderr);
        assert!(!refused.stderr.contains("it is tried again"), "{}", refused.stderr);
        assert_eq!(web.asked(), Vec::<String>::new(), "nothing was said to it");
        assert!(!space.exists("a.in") && space.store_files("scratch").is_empty());
    }
    let workfile = "[task.all]\nrun = 'echo included > said'\ninputs = []\noutputs = ['said']\n";
    let page = Page { cuts: 1, ..Page::new(large(3)) };
    let web = Web::secure("server", [("/a", page), ("/ci.toml", Page::new(workfile))]);
    let url = |path: &str| web.url(path).replace("http://", "https://");
    let id = quipu_store::cid::BlobId::of(workfile.as_bytes());
    let include = format!("include = [{{ url = '{}', name = 'ci', blake3 = '{id}' }}]\n", url("/ci.toml"));
    space.write("quipu.toml", &(include + &task("a", &url("/a"), &large(3))));
    let done = run(Some("ca"), &[]);
    assert_eq!(done.status, 0, "{}", done.stderr);
    assert_eq!(fs::read(space.path("a.in")).expect("is there"), large(3));
    assert_eq!(space.read("said"), "included\n");
    assert_eq!(web.asked(), ["/ci.toml", "/a", "/a bytes=100000-"]);
    space.nothing_to_do(&[]);
}

#[test]
fn a_tool_that_is_fetched_can_be_run() {
    let space = TestSpace::new("");
    space.write("mirror/tool", "#!/bin/sh\necho it runs\n");
    space.write(
        "quipu.toml",
        &format!(
            "[task.tool]\nfetch = {{ url = 'file:mirror/tool', sha256 = '{}', executable = true }}\n\
             outputs = ['bin/tool']\n\
             [task.use]\nrun = 'bin/tool > said'\ninputs = ['bin/tool']\noutputs = ['said']\n",
            sha256(space.read("mirror/tool").as_bytes())
        ),
    );
    space.build_twice(&[]);
    assert_eq!(space.read("said"), "it runs\n");
}

#[test]
fn offline_asks_nobody() {
    let web = Web::start([("/a", Page::new("x"))]);
    let space = TestSpace::new(&task("a", &web.url("/a"), b"x"));
    let ran = space.build(&["--offline"]);
    assert!(why(&ran).ends_with("it is not asked, because of `--offline`"), "{}", why(&ran));
    assert!(web.asked().is_empty());
    space.build_twice(&[]);
    space.remove("a.in");
    assert_eq!(space.build(&["--offline"]).output.status, 0, "what is here is here");
}

#[test]
fn what_cannot_be_fetched_is_an_error_before_anything_runs() {
    let sum = sha256(b"");
    let space = TestSpace::new("");
    let fetch = |n: char, table: &str, rest: &str| {
        format!("[task.{n}]\nfetch = {{ {} }}\n{rest}\n", table.replace("SUM", &format!("sha256 = '{sum}'")))
    };
    let out = "outputs = ['x']";
    let mut text = String::new();
    for (n, table, rest) in [
        ('a', "url = 'ftp://x/y', SUM", "outputs = ['a']"),
        ('b', "url = 'http://me:secret@x/y', SUM", "outputs = ['b']"),
        ('c', "url = 'http://x/y', sha256 = '12'", "outputs = ['c']"),
        ('d', "url = 'http://x/y', SUM, unpack = 'rar'", "outputs = ['d/']"),
        ('e', "url = 'http://x/y', SUM, unpack = 'tar'", "outputs = ['e']"),
        ('f', "url = 'http://x/y', SUM, strip = 1", "outputs = ['f']"),
        ('g', "url = 'http://x/y', SUM", "outputs = ['g', 'g2']"),
        ('h', "url = 'http://x/y', SUM", "outputs = ['h']\nrun = 'x'"),
        ('i', "SUM", out),
        ('j', "url = 'http://x/y'", out),
        ('k', "url = 'http://x/y', SUM, blake3 = 'x'", out),
        ('l', "url = 'file:../y', SUM", "outputs = ['l']"),
        ('m', "url = 'http://x/y', SUM, executable = true, unpack = 'tar'", "outputs = ['m/']"),
    ] {
        text.push_str(&fetch(n, table, rest));
    }
    space.write("quipu.toml", &text);
    let output = space.run(&["plan"]);
    for message in [
        "url `ftp://x/y` of task `a` starts with none of `https://`, `http://`, `file:`",
        "url `http://me:secret@x/y` of task `b` has a name or a password in it, which everybody would see",
        "`12` is no hash of what task `c` fetches",
        "`fetch.unpack` of task `d` is `rar`",
        "task `e` fetches, and has not one output for it",
        "`fetch` of task `f` has `strip`, and no `unpack`",
        "task `g` fetches, and has not one output for it",
        "task `h` has `fetch`, and `run` beside it",
        "`fetch` of task `i` has no `url`",
        "`fetch` of task `j` has 0 hashes",
        "`fetch` of task `k` has 2 hashes",
        "url `../y` of task `l`",
        "`fetch` of task `m` has `executable`, and `unpack`",
    ] {
        assert!(output.stderr.contains(message), "{message} in {}", output.stderr);
    }
    assert!(Path::new(&space.path("quipu.toml")).exists() && !space.store().exists(), "nothing was begun");
}
