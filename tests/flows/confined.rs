//! What a task may leave behind and may ask the system for: each refusal through the command, by its kind.

use serde_json::Value as Json;

use crate::kit::{TestSpace, needs_ns, needs_programs};

/// A task called `t` with this script.
fn space(script: &str, outputs: &str) -> TestSpace {
    let space = TestSpace::new(&format!(
        "[workspace]\nsandbox = \"ns\"\n[task.t]\nrun = '''{script}'''\ninputs = [\"in\"]\noutputs = [{outputs}]\n"
    ));
    space.write("in", "text\n");
    space
}

/// How it failed, by the word of the event, and why; nothing of it is in the workspace afterwards.
fn failed(script: &str, outputs: &str) -> (String, String) {
    let space = space(script, outputs);
    let ran = space.build(&[]);
    let ended = ran.events.iter().find(|e| e["event"] == "task-ended").unwrap_or(&Json::Null);
    let text = |key: &str| ended[key].as_str().unwrap_or_default().to_owned();
    assert_eq!((ran.output.status, text("end")), (1, "failed".to_owned()), "{script}: {}", ran.output.stderr);
    let left: Vec<String> = std::fs::read_dir(space.path(""))
        .expect("is there")
        .map(|entry| entry.expect("is listed").file_name().to_string_lossy().into_owned())
        .filter(|name| name != "in" && name != "quipu.toml")
        .collect();
    assert!(left.is_empty(), "{script}: {left:?}");
    // A failure satisfies nobody: the next run tries again.
    assert_eq!(space.build(&[]).count("failed"), 1, "{script}");
    (text("failure"), text("reason"))
}

#[test]
fn only_files_directories_and_links_that_stay_inside_come_out() {
    if !needs_ns() || !needs_programs(&["python3"]) {
        return;
    }
    let socket = "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"o\")'";
    for (script, outputs, kind, why) in [
        ("mkfifo o", "\"o\"", "bad-output", "named pipe"),
        ("mkdir o; mkfifo o/p", "\"o/\"", "bad-output", "named pipe"),
        (socket, "\"o\"", "bad-output", "socket"),
        ("ln -s /etc/passwd o", "\"o\"", "bad-output", "/etc/passwd"),
        ("mkdir -p o/deep; ln -s ../../../x o/deep/l", "\"o/\"", "bad-output", "../../../x"),
        ("mkdir o", "\"o\"", "bad-output", "directory"),
        ("true", "\"o\"", "missing-output", "`o`"),
        ("echo > o; echo > other", "\"o\"", "undeclared-output", "`other`"),
        ("echo > o; mkfifo pipe", "\"o\"", "undeclared-output", "`pipe`"),
        // Refused when it is tried.
        ("echo > o; chmod u+s o", "\"o\"", "exit", "exit code 1"),
        ("mknod o c 1 3", "\"o\"", "exit", "exit code 1"),
        ("echo more >> in; echo > o", "\"o\"", "exit", "exit code"),
    ] {
        let (found, said) = failed(script, outputs);
        assert!(found == kind && said.contains(why), "{script}: {found}: {said}");
    }
}

#[test]
fn of_what_comes_out_the_bit_for_programs_stays_and_nothing_else_of_the_mode() {
    if !needs_ns() {
        return;
    }
    let script = "mkdir out; echo 1 > out/a; chmod 606 out/a; echo 2 > out/b; chmod 0711 out/b; ln -s a out/l";
    let space = space(script, "\"out/\"");
    space.build_twice(&[]);
    space.remove("out");
    assert_eq!(space.build(&[]).ran(), "", "it comes from the store");
    use std::os::unix::fs::PermissionsExt;
    let exec = |path: &str| space.path(path).metadata().expect("is there").permissions().mode() & 0o111 != 0;
    assert_eq!((exec("out/a"), exec("out/b"), space.read("out/l").as_str()), (false, true, "1\n"));
}

#[test]
fn what_the_system_is_not_asked_for() {
    if !needs_ns() || !needs_programs(&["python3"]) {
        return;
    }
    // `io_uring_setup` has this number on every architecture; what uses it falls back on "no such call".
    let ring = "python3 -c 'import ctypes; l = ctypes.CDLL(None, use_errno=True); print(l.syscall(425, 1, None), ctypes.get_errno())'";
    let asked = space(
        &format!(
            "{ring}; echo $SOURCE_DATE_EPOCH $TZ $LC_ALL; grep -c . /proc/self/mounts > /dev/null; cat /proc/self/setgroups"
        ),
        "",
    );
    asked.build_twice(&[]);
    let said = asked.ok(&["log", "t"]).stdout;
    assert_eq!(said, "-1 38\n315532800 UTC C.UTF-8\ndeny\n");
}

/// Without the filter it would be told its number: a call by the old entry of 32-bit programs.
#[cfg(target_arch = "x86_64")]
#[test]
fn a_call_of_another_architecture_ends_the_process() {
    if !needs_ns() || !needs_programs(&["python3"]) {
        return;
    }
    let script = "python3 -c 'import ctypes, mmap\nm = mmap.mmap(-1, 4096, prot=7)\n\
                  m.write(bytes([0xb8, 20, 0, 0, 0, 0xcd, 0x80, 0xc3]))\n\
                  print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))(), flush=True)'";
    let (kind, why) = failed(script, "");
    // 31 is the filter's; a kernel without that entry has nothing to be filtered.
    assert!(kind == "exit" && (why.contains("159") || why.contains("139")), "{kind}: {why}");
}
