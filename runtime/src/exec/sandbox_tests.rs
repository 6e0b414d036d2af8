//! Tests of what a sandboxed task sees, may do and leaves behind. Each says so and checks nothing where sandboxes do not
//! work; `QUIPU_TEST_NEEDS_NS` makes that a failure.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use quipu_store::receipt::FailureKind;
use quipu_store::tree::Entry;

use super::Executor;
use super::test_place::{Place, Task, has_landlock, has_ns, text};
use super::tests::runtime;
use crate::process::{OutputKind, Tier};
use crate::value::Value;

fn sh(script: &str) -> Task {
    Task::new(Tier::Ns, script)
}

/// What the script prints, run in a sandbox over these sources.
fn said(place: &Place, script: &str, sources: &[&'static str]) -> String {
    let output = place.ok(&sh(script).sources(sources));
    place.text(output.stdout)
}

#[test]
fn what_is_not_declared_is_not_there() {
    if !has_ns() {
        return;
    }
    let place = Place::new();
    for path in ["src/a.c", "src/secret.c", "src/deep/b.c", "whole/c.c", "whole/deep/d.c", "top", "hidden"] {
        place.write(path, path);
    }
    let sources = &["src/a.c", "src/deep/b.c", "whole/c.c", "whole/deep/d.c", "top"];
    let found = said(&place, "find . -type f | sort; cat top; cat src/secret.c hidden 2>&1 || true", sources);
    let missing = "cat: src/secret.c: No such file or directory\ncat: hidden: No such file or directory\n";
    assert_eq!(found, format!("./src/a.c\n./src/deep/b.c\n./top\n./whole/c.c\n./whole/deep/d.c\ntop{missing}"));
    // Neither is what is outside of the workspace, nor who the person is.
    let store = place.dir.path().display().to_string();
    let script = format!(
        "test ! -e {store}; ls -A /home /tmp /root /sys /run /var 2>/dev/null || true; ls /; id -u; hostname; pwd; echo $$"
    );
    let listing = said(&place, &script, &[]);
    let root: BTreeSet<&str> = listing.lines().collect();
    assert!(
        root.is_superset(
            &["bin", "dev", "etc", "home", "proc", "tmp", "usr", "ws", "1000", "quipu", "/ws", "2"].into()
        ),
        "{root:?}"
    );
    for hidden in ["q", "in", "root", "sys", "run", "var", "work"] {
        assert!(!root.contains(hidden), "{hidden}");
    }
    // A second task in the same cell looks the same, down to the numbers of processes.
    assert_eq!(said(&place, &script, &[]), listing);
    assert_eq!(said(&place, "ls -A /etc/shadow /etc/ssl/private /etc/hostname 2>/dev/null || true", &[]), "");
    assert_eq!(said(&place, "wc -l < /proc/net/dev; ls /sys/class/net 2>/dev/null || echo none", &[]), "3\nnone\n");
}

#[test]
fn inputs_and_the_system_cannot_be_written_to_and_the_rest_of_the_workspace_can() {
    if !has_ns() {
        return;
    }
    let place = Place::new();
    for path in ["a", "whole/b", "part/c", "part/other", "cwd/d", "cwd/other"] {
        place.write(path, "old");
    }
    let script = "for f in ../a ../whole/b ../part/c d ../whole/new ../part/new /new /usr/new /etc/new /dev/new /proc/sys/kernel/hostname; do \
                  if echo new 2>/dev/null > $f; then echo wrote $f; fi; \
                  if rm -f $f 2>/dev/null && test $f = d; then echo removed $f; fi; done; \
                  mv ../whole ../x 2>/dev/null && echo moved; chmod +x ../a 2>/dev/null && echo changed; \
                  echo x > scratch; echo x > ../scratch; echo x > /tmp/scratch; echo x > /home/scratch; echo x > /dev/shm/scratch; \
                  rm scratch ../scratch; mkdir ../new; echo x > ../new/f; rm -r ../new; umount /proc 2>/dev/null && echo unmounted; echo done";
    let mut task = sh(script).sources(&["a", "whole/b", "part/c", "cwd/d"]);
    task.spec.dir = "cwd".into();
    let output = place.ok(&task);
    assert_eq!(place.text(output.stdout), "done\n");
    for path in ["a", "whole/b", "part/c", "cwd/d"] {
        assert_eq!(fs::read_to_string(place.path(path)).expect("still there"), "old");
    }
}

#[test]
fn inputs_may_lie_below_the_directory_of_an_output() {
    if !has_ns() {
        return;
    }
    let place = Place::new();
    for path in ["a/in", "work/years/1", "work/years/2", "work/years/undeclared", "work/one", "work/deep/er/3"] {
        place.write(path, path);
    }
    let sources = &["a/in", "work/years/1", "work/years/2", "work/one", "work/deep/er/3"];
    let task = sh("cat a/in work/years/* work/one work/deep/*/3 > work/out; ! echo 2>/dev/null > work/years/new");
    let output = place.ok(&task.sources(sources).file("work/out"));
    assert_eq!(place.read(&output.artifacts["work/out"]), "a/inwork/years/1work/years/2work/onework/deep/er/3");
}

#[test]
fn what_is_left_undeclared_is_named_wherever_it_is() {
    if !has_ns() {
        return;
    }
    let place = Place::new();
    place.write("src/a", "");
    place.write("link-target", "");
    std::os::unix::fs::symlink("link-target", place.path("link")).expect("linked");
    let undeclared = |script: &str, outputs: &[(OutputKind, &str)]| {
        let task = sh(script).sources(&["src/a", "link"]);
        let task = outputs.iter().fold(task, |task, (kind, path)| task.output(*kind, path));
        match place.failed(&task) {
            FailureKind::UndeclaredOutput { path } => path,
            other => panic!("{script}: {other:?}"),
        }
    };
    assert_eq!(undeclared("touch stray", &[]), "stray");
    assert_eq!(undeclared("touch out stray", &[(OutputKind::File, "out")]), "stray");
    assert_eq!(undeclared("touch build/out stray", &[(OutputKind::File, "build/out")]), "stray");
    assert_eq!(
        undeclared("touch build/out build/b build/a", &[(OutputKind::File, "build/out")]),
        "build/a (and 1 more)"
    );
    assert_eq!(undeclared("mkdir -p d/e; touch d/f d/e/g", &[(OutputKind::Dir, "d/e")]), "d/f");
    assert_eq!(undeclared("touch o/a.o o/a.c", &[(OutputKind::Glob, "o/*.o")]), "o/a.c");
    assert_eq!(undeclared("rm link; echo > link", &[]), "link");
    assert_eq!(undeclared("mkfifo pipe", &[]), "pipe");
}

#[test]
fn an_output_in_the_place_of_an_input_is_refused_before_anything_runs() {
    if !has_ns() {
        return;
    }
    let place = Place::new();
    place.write("dir/in", "");
    for (kind, path) in [(OutputKind::File, "dir/in"), (OutputKind::Dir, "dir"), (OutputKind::File, "dir/in/below")] {
        let failed = place.failed(&sh("true").sources(&["dir/in"]).output(kind, path));
        assert!(matches!(&failed, FailureKind::BadOutput { path: found, .. } if found == path), "{failed:?}");
    }
}

#[test]
fn a_task_cannot_be_outlived_by_what_it_starts() {
    if !has_ns() {
        return;
    }
    let place = Place::new();
    let unique = format!("{}", 86_400 + std::process::id());
    // Out of the session, out of the group, reparented: and it would write an output afterwards.
    let task = sh(&format!("(setsid sh -c 'sleep {unique}; echo late > out/late' &) ; mkdir -p out; echo a > out/a"));
    let output = place.ok(&task.output(OutputKind::Dir, "out"));
    assert!(matches!(output.artifacts["out"], Entry::Dir { .. }));
    assert_eq!(processes_with(&unique), 0);
    // The cell it was in is empty again.
    assert_eq!(
        said(&place, "ls /proc | grep -c '^[0-9]'; ls -A /tmp", &[])
            .lines()
            .next()
            .map(|n| n.parse::<u32>().expect("a number") <= 5),
        Some(true)
    );
    // Time being up, and a wish to stop, reach it too.
    let mut late = sh(&format!("setsid sleep {unique} & sleep {unique}"));
    late.timeout = Some(Duration::from_millis(50));
    assert_eq!(place.failed(&late), FailureKind::Timeout { limit_ms: 50 });
    assert_eq!(processes_with(&unique), 0);
}

fn processes_with(argument: &str) -> usize {
    let listing = fs::read_dir("/proc").expect("there is one").flatten();
    listing.filter(|e| fs::read_to_string(e.path().join("cmdline")).is_ok_and(|c| c.contains(argument))).count()
}

#[test]
fn steps_share_their_sandbox_and_tasks_do_not() {
    if !has_ns() {
        return;
    }
    let place = Place::new();
    let task = sh("echo kept > /tmp/note; ipcmk -Q > /dev/null; sleep 300 &").step(&[
        "sh",
        "-c",
        "cat /tmp/note; ipcs -q | grep -c 0x; ls /proc | grep -c '^[0-9]*$'",
    ]);
    let lines = place.text(place.ok(&task).stdout);
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines[..2], ["kept", "1"]);
    assert_eq!(said(&place, "ls -A /tmp /home /dev/shm; ipcs -q | grep -c 0x || true", &[]).lines().last(), Some("0"));

    // Two at once: neither sees the other's files or processes.
    let task = sh(
        "echo mine > /tmp/mine; echo mine > file; sleep 0.2; cat /tmp/mine; rm file; ls /proc | grep '^[0-9]*$' | wc -l",
    );
    runtime().block_on(async {
        let (one, _a) = place.job(&task);
        let (two, _b) = place.job(&task);
        let (one, two) = tokio::join!(place.executor.execute(one), place.executor.execute(two));
        for done in [one, two] {
            let stdout = place.text(done.result.expect("both succeed").stdout);
            assert!(stdout.starts_with("mine\n"), "{stdout}");
        }
    });
}

#[test]
fn privileges_cannot_be_had_or_handed_out() {
    if !has_ns() {
        return;
    }
    let place = Place::new();
    let status = said(&place, "grep -E '^(Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs|Seccomp):' /proc/self/status", &[]);
    for line in status.lines() {
        let value = line.split_whitespace().nth(1).expect("a value");
        assert!(["0000000000000000", "1", "2"].contains(&value), "{line}");
    }
    let script = "echo x > t; for mode in 4755 2755 u+s; do chmod $mode t 2>/dev/null && echo set $mode; done; \
                  ls /proc/1/root /proc/1/fd >/dev/null 2>&1 && echo looked; cat /proc/1/mem >/dev/null 2>&1 && echo read; \
                  unshare -r true 2>/dev/null && echo nested; mknod n c 1 3 2>/dev/null && echo device; rm t; echo done";
    assert_eq!(said(&place, script, &[]), "done\n");
    // With which the mode is kept from the first moment on, and rings are not to be had.
    let python = "python3 -c 'import os,ctypes\n\
                  try: os.open(\"t\", os.O_CREAT|os.O_WRONLY, 0o4755); print(\"made\")\n\
                  except PermissionError: print(\"refused\")\n\
                  os.umask(0); os.close(os.open(\"u\", os.O_CREAT|os.O_WRONLY, 0o755)); os.unlink(\"u\")\n\
                  libc=ctypes.CDLL(None,use_errno=True); print(libc.syscall(425,1,None), ctypes.get_errno())'";
    assert_eq!(said(&place, python, &[]), "refused\n-1 38\n");
    // This process's own memory is as readable as before for those who may.
    assert_eq!(rustix::process::dumpable_behavior(), Ok(rustix::process::DumpableBehavior::Dumpable));
}

#[test]
fn what_is_read_from_standard_input_cannot_be_changed_through_it() {
    if !has_ns() {
        return;
    }
    let place = Place::new();
    place.write("in", "source");
    let large = "x".repeat(40_000);
    let (Entry::File { blob: large_blob, .. }, Entry::File { blob: small_blob, .. }) =
        (place.file(&large, false), place.file("small", false))
    else {
        panic!("files")
    };
    let script = "for f in /proc/self/fd/0 /dev/stdin; do (echo y > $f) 2>/dev/null && echo wrote; done; \
                  chmod 666 /proc/self/fd/0 2>/dev/null && (echo y > /proc/self/fd/0) 2>/dev/null && echo changed; head -c 5";
    for (stdin, said) in
        [(Value::from("in"), "sourc"), (large_blob.link().into(), "xxxxx"), (small_blob.link().into(), "small")]
    {
        let mut task = sh(script).sources(&["in"]).step(&["head", "-c", "3"]);
        task.spec.stdin = Some(stdin);
        assert_eq!(place.text(place.ok(&task).stdout), format!("{said}{}", &said[..3]));
    }
    assert_eq!(fs::read_to_string(place.path("in")).expect("still there"), "source");
    assert_eq!(place.text(Some(large_blob)), large);
}

#[test]
fn the_same_task_gives_the_same_bytes_in_any_checkout() {
    if !has_ns() || std::process::Command::new("gcc").arg("--version").output().is_err() {
        return;
    }
    let object = || {
        let place = Place::new();
        place.write("src/main.c", "#include \"inc.h\"\nint main(void) { return sizeof __FILE__ + N; }\n");
        place.write("src/inc.h", "#define N 1\n");
        let task = sh("gcc -g -c \"$PWD/src/main.c\" -o out/main.o").sources(&["src/main.c", "src/inc.h"]);
        place.ok(&task.file("out/main.o")).artifacts["out/main.o"].clone()
    };
    assert_eq!(object(), object());
}

#[test]
fn failures_to_start_say_what_was_looked_for() {
    if !has_ns() {
        return;
    }
    let place = Place::new();
    let tool = place.dir.path().join("tool");
    fs::copy("/bin/true", &tool).expect("copied");
    let mut task = sh("");
    task.spec.steps = vec![vec!["tool".into()]];
    task.spec.env.insert(text("PATH"), place.dir.path().display().to_string().as_str().into());
    let FailureKind::Spawn { why } = place.failed(&task) else { panic!("it is not there") };
    assert!(why.contains("not found in PATH") && why.contains(&tool.display().to_string()), "{why}");
    let mut task = sh("true");
    task.spec.dir = "../up".into();
    assert!(matches!(place.failed(&task), FailureKind::Spawn { why } if why.contains("no path inside")));
}

#[test]
fn nothing_is_left_of_two_hundred_tasks() {
    if !has_ns() {
        return;
    }
    let mounts = || fs::read_to_string("/proc/self/mountinfo").expect("readable").lines().count();
    let descriptors = || fs::read_dir("/proc/self/fd").expect("readable").count();
    let place = Place::new();
    place.write("src/a", "");
    place.write("src/b", "");
    let task = sh("(setsid sleep 300 &); echo > out/file").sources(&["src/a"]).file("out/file");
    // What was made waits to be placed until it is made anew, in another room.
    place.ok(&task);
    place.ok(&task);
    let (mounted, open, scratch) = (mounts(), descriptors(), entries(&place));
    for _ in 0..200 {
        place.ok(&task);
    }
    assert_eq!(mounts(), mounted);
    assert_eq!(entries(&place), scratch);
    // Other tests of this process open and close descriptors meanwhile.
    let settled = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(5));
        descriptors() <= open + 20
    });
    assert!(settled, "{} descriptors, before there were {open}", descriptors());
    // With the executor its cells go.
    let started = Instant::now();
    drop(place);
    assert!(started.elapsed() < Duration::from_secs(30));
}

/// Files and directories of scratch.
fn entries(place: &Place) -> usize {
    let mut count = 0;
    let mut left = vec![place.dir.path().join("store/scratch")];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).expect("readable").flatten() {
            count += 1;
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                left.push(entry.path());
            }
        }
    }
    count
}

#[test]
fn under_landlock_what_is_not_declared_is_refused() {
    if !has_landlock() {
        return;
    }
    // In a directory that tasks may write to as a rule, and in one that they may read.
    for parent in ["/tmp", "/dev/shm", "/usr/local"] {
        let Ok(dir) = tempfile::tempdir_in(parent) else { continue };
        let place = Place::at(dir);
        for path in ["src/a", "src/undeclared", "whole/b"] {
            place.write(path, path);
        }
        fs::write(place.dir.path().join("beside"), "").expect("written");
        let script = "cat src/a whole/b; cat src/undeclared && echo read; echo x > src/a && echo wrote; echo x > new && echo made; \
                      echo x > $TMPDIR/short; ls /root && echo listed; echo x > /tmp/new && echo left; \
                      mkdir out/d; echo x > out/f; mv out/f out/d; chmod 4755 out/d && echo set; echo; echo done; echo $TMPDIR";
        let mut task =
            Task::new(Tier::Landlock, script).sources(&["src/a", "whole/b"]).output(OutputKind::Dir, "out/d");
        task.spec.steps[0][1] = "-c".into();
        task.spec.env.insert(text("TMPDIR"), "/tmp".into());
        let done = place.run(&task);
        assert_eq!(done.tier, "landlock");
        let output = done.result.expect("it succeeds");
        let stdout = place.text(output.stdout);
        let (said, scratch) = stdout.trim_end().rsplit_once('\n').expect("two lines at least");
        assert_eq!(said, "src/awhole/b\ndone", "{parent}");
        assert!(!std::path::Path::new(scratch).exists(), "{scratch} is gone with the task");
        let complaints = place.text(output.stderr);
        assert_eq!(complaints.matches("ermission denied").count(), 5, "{complaints}");
        assert_eq!(fs::read_to_string(place.path("src/a")).expect("still there"), "src/a");
        assert!(!place.path("new").exists());
    }
}

#[test]
fn under_landlock_the_network_is_there_for_those_who_declare_it() {
    if !has_landlock() || !has_python() {
        return;
    }
    let place = Place::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let script = format!(
        "import socket\n\
         for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):\n  \
         try: s = socket.socket(socket.AF_INET, kind); s.connect((\"127.0.0.1\", {port})); print(\"out\")\n  \
         except PermissionError: print(\"refused\")\n\
         socket.socketpair(); print(\"local\")"
    );
    let said = |network| {
        let mut task = Task::new(Tier::Landlock, "");
        task.spec.steps = vec![["python3", "-c", &script].map(Value::from).to_vec()];
        task.spec.network = network;
        place.text(place.ok(&task).stdout)
    };
    assert_eq!(said(false), "refused\nrefused\nlocal\n");
    assert_eq!(said(true), "out\nout\nlocal\n");
}

fn has_python() -> bool {
    let has = std::process::Command::new("python3").arg("--version").output().is_ok();
    if !has {
        let _ = std::io::Write::write_all(&mut std::io::stderr(), b"skipped: no `python3` here\n");
    }
    has
}
