//! Glances against directories of real files.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::sight::MAX_FILES;
use super::*;
use crate::test_dirs::age;

/// The answer, when nothing looks different.
fn look_again(dir: &Path, key: &Key) -> Option<Vec<u8>> {
    super::look_again(dir, key).filter(|again| again.changed.is_empty()).map(|again| again.answer)
}

const KEY: Key = [7; 32];

/// What is done to a workspace, in words and in deeds.
type Change = (&'static str, fn(&Path));

/// A store's directory with what a glance asks of it, and a workspace; both old enough.
fn places() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (store, ws) = (dir.path().join("store"), dir.path().join("ws"));
    for made in ["store/locks", "store/tmp", "ws/src/deep", "ws/out"] {
        fs::create_dir_all(dir.path().join(made)).expect("is made");
    }
    for file in ["store/version", "store/index.redb", "ws/src/a", "ws/src/b", "ws/src/deep/c", "ws/out/o", "far"] {
        fs::write(dir.path().join(file), file).expect("is written");
    }
    symlink("../far", ws.join("link")).expect("is made");
    symlink("src", ws.join("to-src")).expect("is made");
    age(&ws.join("to-src"));
    (dir, store, ws)
}

fn stamp(path: &Path) -> Stamp {
    crate::beneath::lstat(CWD, path).expect("is looked at").expect("is there")
}

fn sight(ws: &Path) -> Sight {
    let mut sight = Sight::new(ws);
    for path in ["src/a", "src/b", "src/deep/c", "src", "", "link", "to-src/a"] {
        sight.saw(How::Itself, path);
    }
    sight.saw(How::Target, "link");
    sight.saw(How::Target, ws.join("../far"));
    sight.looked_for(How::Itself, "src/none");
    sight.looked_for(How::Target, ws.join("../none"));
    sight.looked_for(How::Kind, "src");
    sight.made_all_below(Path::new("out")).expect("is listed");
    sight
}

fn keep(store: &Path, ws: &Path) -> bool {
    sight(ws).keep(store, &KEY, now_ns(), b"answer", VoidBy::AnyCommit).expect("is written")
}

#[test]
fn what_looks_as_it_did_has_its_answer_and_any_change_takes_it_away() {
    let changes: [Change; 17] = [
        ("content", |ws| fs::write(ws.join("src/a"), "new/a").expect("is written")),
        ("time", |ws| {
            let file = fs::File::options().write(true).open(ws.join("src/b")).expect("is there");
            file.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("is set");
        }),
        ("gone", |ws| fs::remove_file(ws.join("src/deep/c")).expect("is removed")),
        ("new name in a listed directory", |ws| fs::write(ws.join("src/new"), "").expect("is written")),
        ("what was not there", |ws| fs::write(ws.join("src/none"), "").expect("is written")),
        ("what was not there, far away", |ws| fs::write(ws.join("../none"), "").expect("is written")),
        ("rights", |ws| {
            fs::set_permissions(ws.join("src/a"), fs::Permissions::from_mode(0o755)).expect("is set");
        }),
        ("behind a link", |ws| fs::write(ws.join("../far"), "f").expect("is written")),
        ("a link leads elsewhere", |ws| {
            fs::remove_file(ws.join("link")).expect("is removed");
            symlink("src/a", ws.join("link")).expect("is made");
        }),
        ("output", |ws| fs::write(ws.join("out/o"), "changed").expect("is written")),
        ("more outputs", |ws| fs::write(ws.join("out/p"), "").expect("is written")),
        ("a link leads to the outputs", |ws| {
            fs::rename(ws.join("out"), ws.join("../moved")).expect("is moved");
            symlink("../moved", ws.join("out")).expect("is made");
        }),
        ("another workspace", |ws| {
            fs::rename(ws, ws.join("../old")).expect("is moved");
            fs::create_dir(ws).expect("is made");
        }),
        ("the index", |ws| fs::write(ws.join("../store/index.redb"), "x").expect("is written")),
        ("the version", |ws| fs::write(ws.join("../store/version"), "x").expect("is written")),
        ("something to tidy", |ws| fs::write(ws.join("../store/locks/placing-1-0"), "").expect("is written")),
        ("the glances", |ws| fs::remove_dir_all(ws.join("../store/glances")).expect("is removed")),
    ];
    for (what, change) in changes {
        let (_dir, store, ws) = places();
        assert_eq!(look_again(&store, &KEY), None, "{what}");
        assert!(keep(&store, &ws), "{what}");
        for _ in 0..2 {
            assert_eq!(look_again(&store, &KEY).as_deref(), Some(&b"answer"[..]), "{what}");
        }
        change(&ws);
        assert_eq!(look_again(&store, &KEY), None, "{what}");
    }
}

#[test]
fn a_link_on_the_way_counts_only_where_it_is_said() {
    let (_dir, store, ws) = places();
    assert!(keep(&store, &ws));
    fs::rename(ws.join("src/deep"), ws.join("src/other")).expect("is moved");
    symlink("other", ws.join("src/deep")).expect("is made");
    let mut sight = Sight::new(&ws);
    sight.saw(How::Itself, "src/deep/c");
    assert!(sight.keep(&store, &KEY, now_ns(), b"", VoidBy::AnyCommit).expect("is written"));
    let mut sight = Sight::new(&ws);
    sight.saw(How::Real, "src/deep/c");
    assert!(!sight.keep(&store, &KEY, now_ns(), b"", VoidBy::AnyCommit).expect("nothing fails"));
}

#[test]
fn nothing_young_and_nothing_missing_is_relied_on() {
    let (_dir, store, ws) = places();
    let began_ns = now_ns();
    fs::write(ws.join("src/a"), "young").expect("is written");
    assert!(!sight(&ws).keep(&store, &KEY, began_ns, b"", VoidBy::AnyCommit).expect("nothing fails"));
    age(&ws.join("src/a"));
    assert!(
        !sight(&ws).keep(&store, &KEY, began_ns, b"", VoidBy::AnyCommit).expect("nothing fails"),
        "by when the run began"
    );
    assert!(keep(&store, &ws));
    fs::write(ws.join("src/new"), "").expect("is written");
    fs::remove_file(ws.join("src/new")).expect("is removed");
    let mut around = Sight::new(&ws);
    around.looked_for(How::Itself, "src/new");
    assert!(!around.keep(&store, &KEY, now_ns(), b"", VoidBy::AnyCommit).expect("nothing fails"), "it came and went");
    let mut gone = Sight::new(&ws);
    gone.saw(How::Itself, "src/gone");
    assert!(!gone.keep(&store, &KEY, now_ns(), b"", VoidBy::AnyCommit).expect("nothing fails"));
}

#[test]
fn a_commit_that_only_adds_changes_nothing_where_that_was_said() {
    let (_dir, store, ws) = places();
    let keep = || sight(&ws).keep(&store, &KEY, now_ns(), b"", VoidBy::Rewriting).expect("is written");
    assert!(keep());
    fs::write(store.join("index.redb"), "more").expect("is written");
    assert!(look_again(&store, &KEY).is_some(), "added to");
    fs::write(store.join("rewritten"), "").expect("is written");
    assert_eq!(look_again(&store, &KEY), None, "rewritten");
    assert!(!keep(), "just now");
    age(&store.join("rewritten"));
    assert!(keep());
    fs::write(store.join("other"), "").expect("is written");
    fs::rename(store.join("other"), store.join("rewritten")).expect("is moved");
    assert_eq!(look_again(&store, &KEY), None, "rewritten once more");
    age(&store.join("rewritten"));
    assert!(keep());
    fs::write(store.join("other"), "").expect("is written");
    fs::rename(store.join("other"), store.join("index.redb")).expect("is moved");
    assert_eq!(look_again(&store, &KEY), None, "another index");
}

#[test]
fn what_is_damaged_or_anothers_does_not_count() {
    let (_dir, store, ws) = places();
    assert!(keep(&store, &ws));
    let path = file(&Layout::new(&store), &KEY);
    let bytes = fs::read(&path).expect("is read");
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        fs::write(&path, &damaged).expect("is written");
        assert_eq!(look_again(&store, &KEY), None, "byte {at}");
        fs::write(&path, &bytes[..at]).expect("is written");
        assert_eq!(look_again(&store, &KEY), None, "cut off at {at}");
    }
    fs::write(&path, &bytes).expect("is written");
    assert!(look_again(&store, &KEY).is_some());
    fs::rename(&path, file(&Layout::new(&store), &[8; 32])).expect("is moved");
    assert_eq!(look_again(&store, &[8; 32]), None);
}

#[test]
fn any_of_many_entries_counts_and_old_glances_go() {
    let (_dir, store, ws) = places();
    let names: Vec<String> = (0..3 * MANY).map(|n| format!("many/{}/{n:05}", n % 5)).collect();
    for name in &names {
        let path = ws.join(name);
        fs::create_dir_all(path.parent().expect("has one")).expect("is made");
        fs::write(path, "").expect("is written");
    }
    age(&ws.join(names.last().expect("some")));
    let mut sight = Sight::new(&ws);
    names.iter().for_each(|name| sight.saw(How::Itself, name));
    assert!(sight.keep(&store, &KEY, now_ns(), b"", VoidBy::AnyCommit).expect("is written"));
    assert!(look_again(&store, &KEY).is_some());
    fs::write(ws.join(&names[names.len() / 2]), "x").expect("is written");
    assert!(look_again(&store, &KEY).is_none());
    for n in 0..MAX_FILES {
        assert!(Sight::new(&ws).keep(&store, &[n as u8; 32], now_ns(), b"", VoidBy::AnyCommit).expect("is written"));
    }
    assert_eq!(fs::read_dir(store.join("glances")).expect("is listed").count(), MAX_FILES);
}

#[test]
fn what_tasks_read_and_made_is_named_when_it_changed_and_what_else_counts_is_not() {
    let (_dir, store, ws) = places();
    let mut sight = Sight::new(&ws);
    for path in ["src/a", "src/b", "src/deep/c"] {
        sight.saw_of_task(path, stamp(&ws.join(path)));
    }
    // It says something beside what is in it.
    sight.looked_for(How::Itself, "src/b");
    sight.made_all_below(Path::new("out")).expect("is listed");
    let parts = vec![b"one".to_vec(), b"two".to_vec()];
    let answer = || (b"answer".to_vec(), parts.clone());
    assert!(sight.keep_with(&store, &KEY, now_ns(), VoidBy::AnyCommit, answer).expect("is written"));
    let changed = || {
        let mut again = super::look_again(&store, &KEY)?;
        assert_eq!(&again.answer[..6], b"answer");
        let digest = again.answer[6..].try_into().expect("a digest");
        let parts = super::parts(&store, &KEY, digest).expect("are there");
        assert_eq!((parts.part(1).as_deref(), parts.part(2)), (Some(&b"two"[..]), None));
        assert_eq!(again.workspace, ws);
        again.changed.sort_unstable();
        Some(again.changed)
    };
    assert_eq!(changed(), Some(vec![]));
    fs::write(ws.join("src/a"), "other").expect("is written");
    assert_eq!(changed(), Some(vec!["src/a".into()]));
    fs::write(ws.join("out/o"), "other").expect("is written");
    fs::remove_file(ws.join("src/deep/c")).expect("is removed");
    assert_eq!(changed(), Some(vec!["out/o".into(), "src/a".into(), "src/deep/c".into()]));
    fs::write(ws.join("out/more"), "more").expect("is written");
    assert_eq!(changed(), Some(vec!["out".into(), "out/o".into(), "src/a".into(), "src/deep/c".into()]));
    fs::write(ws.join("src/b"), "other").expect("is written");
    assert_eq!(changed(), None);
}

#[test]
fn where_very_much_changed_everything_is_looked_at() {
    let (_dir, store, ws) = places();
    let names: Vec<String> = (0..=MAX_CHANGED).map(|n| format!("many-{n}")).collect();
    let mut sight = Sight::new(&ws);
    for name in &names {
        fs::write(ws.join(name), "").expect("is written");
    }
    age(&ws.join(names.last().expect("some")));
    names.iter().for_each(|name| sight.saw_of_task(name, stamp(&ws.join(name))));
    assert!(sight.keep(&store, &KEY, now_ns(), b"", VoidBy::AnyCommit).expect("is written"));
    let change = |names: &[String]| names.iter().for_each(|name| fs::write(ws.join(name), "x").expect("is written"));
    change(&names[1..]);
    assert_eq!(super::look_again(&store, &KEY).map(|again| again.changed.len()), Some(MAX_CHANGED));
    change(&names[..1]);
    assert!(super::look_again(&store, &KEY).is_none());
}

#[test]
fn what_was_edited_after_it_was_read_looks_different_to_the_next() {
    let (_dir, store, ws) = places();
    let edits: [fn(&Path); 4] = [
        |path| fs::write(path, "src/b").expect("is written"),
        |path| fs::set_permissions(path, PermissionsExt::from_mode(0o640)).expect("is set"),
        |path| fs::rename(path.with_file_name("a"), path).expect("is moved"),
        |path| fs::remove_file(path).expect("is removed"),
    ];
    for (n, edit) in edits.into_iter().enumerate() {
        while !stamp(&ws.join("src/b")).is_settled(now_ns()) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let (mut sight, began_ns) = (Sight::new(&ws), now_ns());
        sight.saw_of_task("src/b", stamp(&ws.join("src/b")));
        // While the run is still under way.
        edit(&ws.join("src/b"));
        assert!(sight.keep(&store, &KEY, began_ns, b"", VoidBy::AnyCommit).expect("is written"), "{n}");
        let again = super::look_again(&store, &KEY).expect("nothing else looks different");
        assert_eq!(again.changed, [PathBuf::from("src/b")], "{n}");
    }
}

#[test]
fn what_was_too_young_when_it_was_read_is_not_relied_on() {
    let (_dir, store, ws) = places();
    fs::write(ws.join("src/b"), "young").expect("is written");
    let (seen, began_ns) = (stamp(&ws.join("src/b")), now_ns());
    let keep = |began_ns| {
        let mut sight = Sight::new(&ws);
        sight.saw_of_task("src/b", seen);
        sight.keep(&store, &KEY, began_ns, b"", VoidBy::AnyCommit).expect("is written")
    };
    assert!(!keep(began_ns), "it may be written to within the grain of the clock");
    age(&ws.join("src/b"));
    assert!(!keep(began_ns), "that it rests by now says nothing of then");
    assert!(keep(now_ns()));
}
