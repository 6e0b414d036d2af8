//! What is left of tasks, whatever they do, and that keepers serve one after the other.

use std::fs::File;
use std::path::Path;

use super::*;

fn start(keepers: &Arc<Keepers>, script: &str) -> io::Result<(Pid, Kept)> {
    let argv = ["sh", "-c", script].map(str::to_owned);
    let env = [("PATH".to_owned(), "/usr/bin:/bin".to_owned())];
    let program = if script.is_empty() { Path::new("/no/such/program") } else { Path::new("/bin/sh") };
    let what = Launch::simple(program, &argv, &env);
    let null = File::options().read(true).write(true).open("/dev/null")?;
    keepers.start(&what, [null.as_fd(); 3])
}

fn run(script: &str) -> io::Result<(Pid, Kept)> {
    start(&Arc::default(), script)
}

/// The idle ones, each by where it has what it needs.
fn idle(keepers: &Keepers) -> Vec<*const Context> {
    keepers.idle().iter().map(|keeper| Arc::as_ptr(&keeper.context)).collect()
}

fn is_alive(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z ") && !s.contains(") X "))
}

/// The numbers that a script wrote down, once there are so many.
fn numbers(path: &Path, count: usize) -> Vec<String> {
    loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if text.lines().count() == count && text.ends_with('\n') {
            return text.lines().map(str::to_owned).collect();
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

#[test]
fn what_a_task_abandons_is_ended_with_it_in_whatever_session() {
    let dir = tempfile::tempdir().expect("space left");
    let list = dir.path().join("list");
    let note = format!("echo $$ >> {}", list.display());
    // Sessions of their own, twice removed, and one that starts others when it is ended.
    let script = format!(
        "for i in 1 2 3; do (setsid sh -c '{note}; (setsid sh -c \"{}; exec sleep 300\" &) ; exec sleep 300' &); done; \
         while test $(wc -l < {}) -lt 6; do sleep 0.01; done; exit 7",
        note.replace("$$", "\\$\\$"),
        list.display()
    );
    std::fs::write(&list, "").expect("written");
    let (_, keeper) = run(&script).expect("it starts");
    let left = numbers(&list, 6);
    let (status, usage) = keeper.finish().expect("it was looked after");
    assert_eq!(status, Status::Exit(7));
    assert!(usage.rss_bytes > 100_000, "{usage:?}");
    assert_eq!(left.iter().filter(|pid| is_alive(pid)).count(), 0, "{left:?}");
}

#[test]
fn a_task_whose_keeper_is_dropped_is_ended() {
    let dir = tempfile::tempdir().expect("space left");
    let list = dir.path().join("list");
    let script = format!("echo $$ > {0}; setsid sh -c 'echo $$ >> {0}; sleep 300' & sleep 300", list.display());
    let (_, keeper) = run(&script).expect("it starts");
    let all = numbers(&list, 2);
    drop(keeper);
    assert_eq!(all.iter().filter(|pid| is_alive(pid)).count(), 0, "{all:?}");
}

#[test]
fn what_cannot_be_started_says_why_and_its_keeper_is_there_for_the_next() {
    let keepers = Arc::default();
    let error = start(&keepers, "").map(drop).expect_err("there is no such program");
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    let before = idle(&keepers);
    assert_eq!(before.len(), 1);
    for code in [0, 3] {
        let (_, kept) = start(&keepers, &format!("exit {code}")).expect("it starts");
        assert_eq!(idle(&keepers), []);
        assert_eq!(kept.finish().expect("it was looked after").0, Status::Exit(code));
        assert_eq!(idle(&keepers), before);
    }
}

#[test]
fn tasks_at_once_have_a_keeper_each_and_none_of_anothers_descriptors() {
    let keepers = Arc::default();
    let (first, second) = (start(&keepers, "exec sleep 300").expect("starts"), start(&keepers, "exec sleep 300"));
    let (_, second) = second.expect("starts");
    // Its own three, and those of the task that was there before are not among them.
    let open = std::fs::read_dir(format!("/proc/{}/fd", first.0.as_raw_nonzero())).expect("is there").count();
    assert_eq!(open, 3);
    drop((first, second));
    assert_eq!(idle(&keepers).len(), 2);
}

#[test]
fn what_is_said_of_a_task_that_has_ended_is_not_heard_by_the_next() {
    let keepers = Arc::default();
    for _ in 0..50 {
        let (_, kept) = start(&keepers, "exit 4").expect("it starts");
        let mut fds = [PollFd::from_borrowed_fd(kept.over(), PollFlags::IN)];
        poll(&mut fds, None).expect("it ends");
        kept.kill();
        kept.ask();
        assert_eq!(kept.finish().expect("it was looked after").0, Status::Exit(4));
    }
    assert_eq!(idle(&keepers).len(), 1);
}

#[test]
fn signals_have_their_first_meanings_in_a_task() {
    let dir = tempfile::tempdir().expect("space left");
    let list = dir.path().join("list");
    let script = format!("grep -E '^Sig(Blk|Ign)' /proc/self/status > {}", list.display());
    let (_, kept) = run(&script).expect("it starts");
    assert_eq!(kept.finish().expect("it was looked after").0, Status::Exit(0));
    let text = std::fs::read_to_string(&list).expect("written");
    let sets = text.lines().filter_map(|line| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok());
    // The C library gives no meaning to those it needs itself.
    let sets: Vec<u64> = sets.map(|set| set & !(0b11 << 31)).collect();
    assert_eq!(sets, [0, 0], "this program ignores SIGPIPE, and a keeper blocks all");
}

#[test]
fn a_keeper_that_is_ended_from_outside_is_noticed() {
    let dir = tempfile::tempdir().expect("space left");
    let go = dir.path().join("go");
    let keepers = Arc::default();
    let script = format!("until test -e {}; do sleep 0.01; done; kill -9 $PPID", go.display());
    let (_, kept) = start(&keepers, &script).expect("it starts");
    // Not before it is known that the task has started.
    std::fs::write(&go, "").expect("written");
    let error = kept.finish().map(drop).expect_err("nobody knows how it ended");
    assert!(error.to_string().contains("ended from outside"), "{error}");
    assert_eq!(idle(&keepers), []);
}
