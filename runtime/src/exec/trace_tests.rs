//! Tests of what a trace tells of real programs in a sandbox. Each says so and checks nothing where sandboxes do not work.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;

use super::Done;
use super::test_place::{Place, Task, has_ns};
use super::tests::runtime;
use super::trace::Traced;
use crate::process::{OutputKind, Tier};

fn traced(place: &Place, task: &Task) -> (Done, Traced) {
    let (job, _stop) = place.job(task);
    let (done, traced) = runtime().block_on(place.executor.trace(job));
    (done, traced.expect("nothing broke off"))
}

fn set(paths: &[&str]) -> BTreeSet<String> {
    paths.iter().map(|p| (*p).to_owned()).collect()
}

#[test]
fn what_a_script_touches_is_told() {
    if !has_ns() {
        return;
    }
    let place = Place::new();
    for path in ["src/a", "src/b", "data/one", "data/two", "gen.sh", "undeclared/dir/file"] {
        place.write(path, "#!/bin/sh\necho generated\n");
    }
    std::fs::set_permissions(place.path("gen.sh"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
    symlink("src/a", place.path("alias")).expect("linked");
    let script = "cat alias > out/copy; test -e src/b; ls data > /dev/null; cat none 2>/dev/null || true; \
                  test -e undeclared/dir || true; ./gen.sh > tmp; mv tmp out/gen; cd src; cat ../data/one >> ../out/copy";
    let sources = ["src/a", "src/b", "data/one", "data/two", "gen.sh", "alias"];
    let task = Task::new(Tier::Ns, script).sources(&sources).output(OutputKind::Dir, "out");
    let task = task.step(&["/bin/cat", "out/gen"]);
    let mut plain = task.clone();
    plain.spec.steps.insert(0, ["mkdir", "-p", "out"].map(Into::into).to_vec());
    let (done, all) = traced(&place, &plain);
    let output = done.result.expect("it succeeds");
    assert_eq!(place.text(output.stdout), "generated\n");
    assert_eq!(all.reads, set(&["alias", "data/one", "gen.sh", "src/a"]));
    assert_eq!(all.looks, set(&["src/b"]));
    assert_eq!(all.lists, set(&["data"]));
    assert_eq!(all.misses, set(&["none", "undeclared/dir"]));
    assert_eq!(all.undeclared(place.workspace.root()), ["undeclared/dir"]);
    assert_eq!(all.writes, set(&["out", "out/copy", "out/gen", "tmp"]));
    assert_eq!(all.changes, set(&[]));
    for program in ["cat", "ls", "mv", "sh"] {
        assert!(all.execs.iter().any(|path| path.ends_with(&format!("/{program}"))), "{program}: {:?}", all.execs);
    }
    // Tracing changes nothing for the next task.
    assert_eq!(place.ok(&plain).artifacts, output.artifacts);
}

#[test]
fn a_task_over_the_whole_workspace_sees_all_of_it_and_changes_none_of_it() {
    if !has_ns() {
        return;
    }
    let place = Place::new();
    for path in ["src/a", "src/undeclared", "out/left", "out/old", "db"] {
        place.write(path, "old\n");
    }
    symlink("src/a", place.path("alias")).expect("linked");
    let made_elsewhere = place.file("made\n", false);
    let script = "cat src/undeclared gen/deep/made alias; test ! -e out/old; mkdir -p new/dir; echo 1 > new/dir/one; \
                  echo 2 > out/made; ln -s made out/link; echo more >> db; rm out/left; echo x > tmp; rm tmp";
    let task = Task::new(Tier::None, script).sources(&["src/a"]).input("gen/deep/made", &made_elsewhere);
    let (job, _stop) = place.job(&task.file("out/old"));
    let learned = runtime().block_on(place.executor.learn(job));
    let output = learned.done.result.expect("it succeeds");
    assert_eq!(place.text(output.stdout), "old\nmade\nold\n");
    let traced = learned.traced.expect("nothing broke off");
    assert_eq!(traced.reads, set(&["alias", "db", "gen/deep/made", "src/a", "src/undeclared"]));
    assert_eq!(traced.changes, set(&["db", "out/left"]));
    let made: Vec<&str> = learned.made.keys().map(|path| &**path).collect();
    assert_eq!(made, ["db", "new/dir/one", "out/link", "out/made"]);
    assert_eq!(place.read(&learned.made["db"]), "old\nmore\n");
    // All of that happened elsewhere.
    for path in ["src/a", "src/undeclared", "out/left", "out/old", "db"] {
        assert_eq!(std::fs::read_to_string(place.path(path)).expect("still there"), "old\n");
    }
    for path in ["new", "out/made", "gen", "tmp"] {
        assert!(!place.path(path).exists(), "{path}");
    }
    let scratch = std::fs::read_dir(place.store.scratch_dir().expect("made").parent().expect("in one")).expect("there");
    let left = scratch.flatten().filter(|entry| entry.path().join("work").exists()).count();
    assert_eq!(left, 0);
}

#[test]
fn many_processes_at_once_are_traced_and_a_failure_is_as_it_was() {
    if !has_ns() {
        return;
    }
    let place = Place::new();
    let paths: Vec<String> = (0..60).map(|i| format!("in/{i}")).collect();
    paths.iter().for_each(|path| place.write(path, path));
    let leaked: Vec<&'static str> = paths.iter().map(|p| &*p.clone().leak()).collect();
    let task =
        Task::new(Tier::Ns, "for i in $(seq 0 59); do cat in/$i > /dev/null & done; wait; exit 3").sources(&leaked);
    let (done, all) = traced(&place, &task);
    assert_eq!(done.result.map_err(|f| f.kind), Err(quipu_store::receipt::FailureKind::Exit { code: 3 }));
    assert_eq!(all.reads, paths.into_iter().collect());
    // One that cannot be started ends the trace, too.
    let mut task = Task::new(Tier::Ns, "");
    task.spec.steps = vec![vec!["no-such-program".into()]];
    assert!(traced(&place, &task).0.result.is_err());
}

#[test]
fn rings_and_calls_that_are_too_new_are_refused() {
    if !has_ns() || std::process::Command::new("python3").arg("--version").output().is_err() {
        return;
    }
    let place = Place::new();
    let python = "python3 -c 'import ctypes\n\
                  libc=ctypes.CDLL(None,use_errno=True)\n\
                  print([(libc.syscall(n,0,0,0,0), ctypes.get_errno()) for n in (425,437,428,500)])'";
    let (done, _) = traced(&place, &Task::new(Tier::Ns, python));
    let output = done.result.expect("it succeeds");
    assert_eq!(place.text(output.stdout), "[(-1, 38), (-1, 38), (-1, 38), (-1, 38)]\n");
}

#[test]
fn of_a_compilation_the_trace_knows_what_the_compiler_says_it_read() {
    if !has_ns() || std::process::Command::new("gcc").arg("--version").output().is_err() {
        return;
    }
    let place = Place::new();
    let mut main = vec![];
    let mut sources: Vec<&'static str> = vec!["src/main.c"];
    for i in 0..200 {
        let path: &'static str = format!("include/h{}/x{i}.h", i % 7).leak();
        place.write(path, &format!("#define N{i} {i}\n"));
        main.push(format!("#include \"h{}/x{i}.h\"\n", i % 7));
        sources.push(path);
    }
    for i in 200..220 {
        let path: &'static str = format!("include/h0/x{i}.h").leak();
        place.write(path, "#error not to be read\n");
        sources.push(path);
    }
    place.write("src/main.c", &(main.concat() + "int main(void) { return N0; }\n"));
    let task = Task::new(Tier::Ns, "gcc -Imissing -Iinclude -c src/main.c -o main.o -MD -MF main.d; cat main.d");
    let (done, all) = traced(&place, &task.sources(&sources).file("main.o").file("main.d"));
    let said = place.text(done.result.expect("it compiles").stdout);
    let said: BTreeSet<String> = said
        .split_whitespace()
        .filter(|w| !w.ends_with(':') && *w != "\\" && !w.starts_with('/'))
        .map(str::to_owned)
        .collect();
    assert_eq!(said.len(), 201);
    assert_eq!(all.reads, said);
    assert!(all.misses.contains("missing"), "{:?}", all.misses);
}
