//! Stores that are damaged, read-only, somebody else's, or full: the run gives the right result, or says what is wrong.
//!
//! Each case is an action on the files of a store that a run has made; what is in rows of the index is damaged in
//! `store/tests/damage.rs`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::space::{Files, Said, Space, panic_in, temp};

fn made(dir: &Path) -> (Space, Files) {
    let space = Space::new(dir);
    space.run().expect("runs");
    let files = space.files();
    (space, files)
}

fn below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("is listed") {
        let path = entry.expect("is listed").path();
        if path.is_dir() { found.extend(below(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Takes every output away, so that its bytes are asked for.
fn clear(space: &Space) {
    for path in ["gen", "dist"] {
        let _ = fs::remove_dir_all(space.work().join(path));
    }
    for path in ["big.bin", "flat.txt", "after.txt", "sum.txt"] {
        let _ = fs::remove_file(space.work().join(path));
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Something done to a file.
type Action = fn(&Path);

fn overwrite(path: &Path, bytes: &[u8]) {
    fs::remove_file(path).and_then(|()| fs::write(path, bytes)).expect("is damaged");
}

const ACTIONS: [(&str, Action); 8] = [
    ("missing", |path| fs::remove_file(path).expect("is lost")),
    ("empty", |path| overwrite(path, b"")),
    ("truncated", |path| {
        overwrite(path, fs::read(path).expect("is read").split_last().expect("has bytes").1);
    }),
    ("torn", |path| {
        let mut bytes = fs::read(path).expect("is read");
        let half = bytes.len() / 2;
        bytes[half..].fill(0);
        overwrite(path, &bytes);
    }),
    ("flipped", |path| {
        let mut bytes = fs::read(path).expect("is read");
        let last = bytes.len() - 1;
        bytes[last] ^= 0x40;
        overwrite(path, &bytes);
    }),
    ("longer", |path| overwrite(path, &[fs::read(path).expect("is read"), b"x".to_vec()].concat())),
    ("a directory", |path| fs::remove_file(path).and_then(|()| fs::create_dir(path)).expect("is damaged")),
    ("a link to nowhere", |path| fs::remove_file(path).and_then(|()| symlink("/nowhere", path)).expect("is damaged")),
];

#[test]
fn a_damaged_blob_is_made_again_in_the_same_run() {
    let temp = temp();
    let (space, expected) = made(&temp.path().join("space"));
    space.save_as(&temp.path().join("template"));
    let blobs = below(&space.store_dir().join("blobs"));
    assert!(blobs.len() >= 2, "{blobs:?}");
    let check = |what: &str| {
        clear(&space);
        let first = space.run().unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(space.files() == expected, "{what}: {}", super::space::difference(&space.files(), &expected));
        assert!(!first.started.is_empty(), "{what}: something had to run");
        let again = space.run().unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(again.started, Vec::<String>::new(), "{what}");
    };
    for blob in &blobs {
        for (name, action) in ACTIONS {
            space.become_copy_of(&temp.path().join("template"));
            action(blob);
            check(&format!("{} is {name}", blob.display()));
        }
    }
    space.become_copy_of(&temp.path().join("template"));
    let (one, two) = (fs::read(&blobs[0]).expect("is read"), fs::read(&blobs[1]).expect("is read"));
    overwrite(&blobs[0], &two);
    overwrite(&blobs[1], &one);
    check("two are swapped");
    space.become_copy_of(&temp.path().join("template"));
    fs::remove_dir_all(space.store_dir().join("blobs")).expect("is lost");
    check("all are lost");
}

#[test]
fn a_damaged_index_is_told_and_rebuilt_and_nothing_runs_again() {
    let temp = temp();
    let (space, expected) = made(&temp.path().join("space"));
    space.save_as(&temp.path().join("template"));
    let index = space.store_dir().join("index.redb");
    let size = fs::read(&index).expect("is read").len();
    let mut told = 0;
    for n in 0..24 {
        space.become_copy_of(&temp.path().join("template"));
        let mut bytes = fs::read(&index).expect("is read");
        match n {
            0 => bytes.clear(),
            1 => bytes.truncate(size / 2),
            2 => bytes.fill(0xff),
            3 => bytes[..4096].fill(0),
            // A sector here and there.
            _ => {
                let at = (n * 7919 * 512) % (size - 512);
                bytes[at..at + 512].iter_mut().for_each(|b| *b ^= 0x55);
            }
        }
        overwrite(&index, &bytes);
        clear(&space);
        let output = space.run_command().output().expect("runs");
        let text = said(&output);
        assert!(panic_in(&text).is_none(), "{n}: {text}");
        match output.status.code() {
            Some(0) => assert!(space.files() == expected, "{n}: ended well, and outputs are wrong"),
            Some(3) => {
                told += 1;
                assert!(text.contains("verify"), "{n}: says what to do: {text}");
                let rebuilt = space.tool("rebuild").output().expect("runs");
                assert!(rebuilt.status.success(), "{n}: {}", said(&rebuilt));
                let run = space.run().unwrap_or_else(|e| panic!("{n}: {e}"));
                assert_eq!(run.started, Vec::<String>::new(), "{n}: the journal has it all");
                assert!(space.files() == expected, "{n}");
                assert_eq!(space.unsound(), Vec::<String>::new(), "{n}");
            }
            // A task that could not be recorded is a failure of this run.
            Some(1) => {}
            other => panic!("{n}: {other:?} {text}"),
        }
    }
    assert!(told >= 3, "some of it cannot be overlooked");
}

#[test]
fn a_damaged_journal_is_mended_while_the_index_is_good() {
    let temp = temp();
    let (space, _) = made(&temp.path().join("space"));
    space.save_as(&temp.path().join("template"));
    for (name, action) in &ACTIONS[..6] {
        space.become_copy_of(&temp.path().join("template"));
        let segments = below(&space.store_dir().join("receipts"));
        segments.iter().for_each(|s| action(s));
        assert_eq!(space.run().expect("runs").started, Vec::<String>::new(), "{name}: a run needs no journal");
        assert!(space.tool("repair").output().expect("runs").status.success());
        assert_eq!(space.unsound(), Vec::<String>::new(), "{name}");
    }
}

/// The binary as somebody without rights, where this process may do that.
fn as_nobody(mut command: Command) -> Option<Command> {
    if !rustix::process::geteuid().is_root() {
        return Some(command);
    }
    // The binary may be where nobody may go.
    let there = Command::new(command.get_program()).arg("--version").uid(65534).gid(65534).output();
    if !there.is_ok_and(|out| out.status.success()) {
        return None;
    }
    command.uid(65534).gid(65534);
    Some(command)
}

fn for_all(dir: &Path, mode: impl Fn(bool) -> u32 + Copy) {
    for entry in fs::read_dir(dir).expect("is listed") {
        let path = entry.expect("is listed").path();
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if meta.is_dir() {
            for_all(&path, mode);
        }
        if !meta.is_symlink() {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode(meta.is_dir()))).expect("is set");
        }
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(mode(true))).expect("is set");
}

#[test]
fn a_store_that_cannot_be_written_serves_what_it_has() {
    let temp = temp();
    fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o755)).expect("is set");
    let (space, expected) = made(&temp.path().join("space"));
    clear(&space);
    // Anybody may write the workspace, and nobody the store.
    for_all(&space.dir, |is_dir| if is_dir { 0o777 } else { 0o666 });
    for_all(&space.store_dir(), |is_dir| if is_dir { 0o555 } else { 0o444 });
    let Some(mut command) = as_nobody(space.run_command()) else {
        eprintln!("skipped: nobody else may start the binary");
        return;
    };
    let output = command.output().expect("runs");
    let text = said(&output);
    let found: Files = space.files().into_iter().filter(|(name, _)| !name.starts_with("quipu.toml")).collect();
    let contents =
        |files: &Files| files.iter().map(|(n, f)| format!("{n} {f:?}").replace("true", "false")).collect::<Vec<_>>();
    let expected: Files = expected.into_iter().filter(|(name, _)| !name.starts_with("quipu.toml")).collect();
    assert_eq!(Said::read(&text).started, Vec::<String>::new(), "{text}");
    assert!(
        contents(&found) == contents(&expected),
        "all is placed: {} {text}",
        super::space::difference(&found, &expected)
    );
    assert!(panic_in(&text).is_none(), "{text}");
    assert_eq!(output.status.code(), Some(0), "{text}");
    // What has to run cannot be recorded; that is said.
    space.edit();
    let output = as_nobody(space.run_command()).expect("as before").output().expect("runs");
    let text = said(&output);
    assert!(matches!(output.status.code(), Some(1 | 3)), "{:?} {text}", output.status);
    assert!(text.contains("ermission denied") || text.contains("ead-only"), "{text}");
    assert!(panic_in(&text).is_none(), "{text}");
    for_all(&space.dir, |is_dir| if is_dir { 0o777 } else { 0o666 });
}

#[test]
fn a_store_of_somebody_else_is_refused_with_its_name() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let temp = temp();
    fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o755)).expect("is set");
    let (space, _) = made(&temp.path().join("space"));
    for_all(&space.work(), |is_dir| if is_dir { 0o777 } else { 0o666 });
    fs::set_permissions(space.store_dir(), fs::Permissions::from_mode(0o700)).expect("is set");
    let Some(mut command) = as_nobody(space.run_command()) else { return };
    let output = command.output().expect("runs");
    let text = said(&output);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains(&*space.store_dir().to_string_lossy()) && text.contains("ermission denied"), "{text}");
}

/// Runs with the store on a file system of so much room, then with more; what both said. `None` where that cannot be made.
fn cramped(space: &Space, room: &str) -> Option<(Option<i32>, String, Option<i32>)> {
    fs::create_dir_all(space.store_dir()).expect("is made");
    let run = space.run_command();
    let quoted = |text: &std::ffi::OsStr| format!("'{}'", text.to_string_lossy());
    let line: Vec<String> = [run.get_program()].into_iter().chain(run.get_args()).map(quoted).collect();
    let (line, store) = (line.join(" "), space.store_dir().display().to_string());
    let script = format!(
        "mount -t tmpfs -o {room} none {store} || exit 99; {line} > ../first 2>&1; echo $? > ../code; \
         mount -o remount,size=64m,nr_inodes=100000 {store} || exit 99; {line} > ../second 2>&1"
    );
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", &script]).current_dir(space.work()).env_clear();
    command.env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin");
    run.get_envs().filter(|(name, _)| *name != "PATH").for_each(|(name, value)| {
        value.map(|value| command.env(name, value));
    });
    let status = command.status().ok()?;
    let text = |name: &str| fs::read_to_string(space.dir.join(name)).unwrap_or_default();
    let first = text("code").trim().parse().ok()?;
    (status.code() != Some(99)).then(|| (Some(first), text("first") + &text("second"), status.code()))
}

#[test]
fn a_full_disk_is_told_and_once_there_is_room_all_is_well() {
    let mut told = 0;
    for room in [
        "size=8k",
        "size=64k",
        "size=160k",
        "size=220k",
        "size=300k",
        "nr_inodes=5",
        "nr_inodes=12",
        "nr_inodes=18",
        "nr_inodes=25",
    ] {
        let temp = temp();
        let space = Space::new(&temp.path().join("space"));
        let Some((first, text, second)) = cramped(&space, room) else {
            eprintln!("skipped: no file systems of one's own here");
            return;
        };
        assert!(panic_in(&text).is_none(), "{room}: {text}");
        assert!(matches!(first, Some(0 | 1 | 3)), "{room}: {first:?} {text}");
        if first != Some(0) {
            told += 1;
            assert!(text.contains("No space left") || text.contains("space"), "{room}: {text}");
        }
        assert_eq!(second, Some(0), "{room}: {text}");
    }
    assert!(told >= 4, "some of it was too small");
}
