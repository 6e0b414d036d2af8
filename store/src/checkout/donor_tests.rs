//! Donors: what is moved, and what is written all the same because something of it does not hold.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use proptest::prelude::*;
use rustix::fs::{IFlags, XattrFlags};

use super::tests::temp;
use super::*;
use crate::Take;
use crate::test_dirs::{Shape, make, memory, read, shapes};

/// A directory with files in it, taken into a store, and a workspace beside it.
struct Given {
    store: Store,
    all: tempfile::TempDir,
}

impl Given {
    fn new() -> Self {
        let all = temp();
        ["from", "to"].iter().for_each(|dir| fs::create_dir(all.path().join(dir)).expect("made"));
        Self { store: memory(), all }
    }

    fn from(&self, rel: &str) -> PathBuf {
        self.all.path().join("from").join(rel)
    }

    fn to(&self, rel: &str) -> PathBuf {
        self.all.path().join("to").join(rel)
    }

    /// Takes what is at `rel`, to be moved from there.
    fn take(&self, rel: &str) -> (Entry, Arc<Donor>) {
        let options = IngestOptions { take: Take::Move, links: Links::Any, ..IngestOptions::default() };
        let taken = ingest_at(&self.store, &self.from(""), rel, &options).expect("kept").expect("there");
        (taken.entry.clone(), Arc::new(Donor::new(&self.from(""), [taken])))
    }

    fn place(&self, rel: &str, entry: &Entry, donor: &Arc<Donor>) -> Placed {
        let limits = Limits { links: Links::Any, ..Limits::default() };
        let in_the_way = InTheWay::Keep(Ours::default());
        let options = CheckoutOptions { limits, in_the_way, donor: Some(Arc::clone(donor)) };
        checkout_with(&self.store, entry, &self.to(""), rel, &options).expect("placed")
    }
}

fn ino(path: PathBuf) -> u64 {
    path.symlink_metadata().expect("there").ino()
}

fn mode(path: PathBuf) -> u32 {
    path.symlink_metadata().expect("there").mode() & 0o7777
}

fn set_mode(path: PathBuf, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
}

#[test]
fn a_file_that_was_just_taken_is_moved_and_looks_as_if_it_had_been_written() {
    let given = Given::new();
    for (name, made, placed) in [("plain", 0o644, 0o644), ("tight", 0o600, 0o644), ("tool", 0o770, 0o755)] {
        fs::write(given.from(name), name).expect("written");
        set_mode(given.from(name), made);
        let before = ino(given.from(name));
        let (entry, donor) = given.take(name);
        let done = given.place(name, &entry, &donor);
        assert_eq!((ino(given.to(name)), mode(given.to(name))), (before, placed), "{name}");
        assert!(!given.from(name).exists());
        let root = beneath::open_root(&given.to("")).expect("opens");
        let stamp = beneath::lstat(root, name).expect("looks").expect("there");
        assert_eq!(done.files, [(name.to_owned(), entry.clone(), stamp)]);
        assert!(done.settled && stamp.mtime_ns % 1000 != 0, "its time is between two ticks");
        assert_eq!(fs::read_to_string(given.to(name)).expect("read"), name);
        // It is had once: the second time it is written.
        fs::remove_file(given.to(name)).expect("removed");
        fs::write(given.to("stays"), "so that the number is not used again").expect("written");
        given.place(name, &entry, &donor);
        assert_eq!(fs::read_to_string(given.to(name)).expect("read"), name);
        assert_eq!(mode(given.to(name)), placed, "as what is written has");
    }
}

#[test]
fn what_does_not_hold_of_a_file_has_it_written_instead() {
    type Spoil = fn(&Given) -> std::io::Result<()>;
    let f = |given: &Given| given.from("f");
    let before: [(&str, Spoil); 5] = [
        ("another name", |given| fs::hard_link(given.from("f"), given.from("other"))),
        ("an attribute", |given| Ok(rustix::fs::setxattr(given.from("f"), "user.mark", b"x", XattrFlags::empty())?)),
        ("setgid", |given| fs::set_permissions(given.from("f"), fs::Permissions::from_mode(0o2755))),
        ("a flag", |given| {
            let file = File::open(given.from("f"))?;
            let flags = rustix::fs::ioctl_getflags(&file)?;
            Ok(rustix::fs::ioctl_setflags(&file, flags | IFlags::NODUMP)?)
        }),
        ("more room than it fills", |given| {
            let file = File::options().write(true).open(given.from("f"))?;
            Ok(rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, 1 << 20)?)
        }),
    ];
    let after: [(&str, Spoil); 4] = [
        ("other bytes", |given| fs::write(given.from("f"), "bytes")),
        ("another time", |given| {
            File::options().write(true).open(given.from("f"))?.set_modified(std::time::UNIX_EPOCH)
        }),
        ("another file", |given| {
            fs::rename(given.from("f"), given.from("old"))?;
            fs::write(given.from("new"), "there")?;
            fs::rename(given.from("new"), given.from("f"))
        }),
        ("a link", |given| {
            fs::rename(given.from("f"), given.from("there"))?;
            std::os::unix::fs::symlink("there", given.from("f"))
        }),
    ];
    let owner: [(&str, Spoil); 1] =
        [("an owner", |given| std::os::unix::fs::chown(given.from("f"), Some(12345), None))];
    let is_root = rustix::process::geteuid().is_root();
    let before = before.into_iter().chain(owner.into_iter().filter(|_| is_root)).map(|spoil| (spoil, true));
    let mut spoiled = 0;
    for ((what, spoil), early) in before.chain(after.into_iter().map(|spoil| (spoil, false))) {
        let given = Given::new();
        fs::write(f(&given), "there").expect("written");
        if early && let Err(error) = spoil(&given) {
            // Not every file system has flags and attributes.
            assert_eq!(error.raw_os_error(), Some(Errno::OPNOTSUPP.raw_os_error()), "{what}: {error}");
            continue;
        }
        let was = ino(f(&given));
        let (entry, donor) = given.take("f");
        if !early {
            spoil(&given).expect("spoiled");
        }
        let done = given.place("f", &entry, &donor);
        assert_ne!(ino(given.to("f")), was, "{what}");
        assert_eq!(fs::read_to_string(given.to("f")).expect("read"), "there", "{what}");
        let meta = given.to("f").metadata().expect("there");
        assert_eq!((meta.nlink(), meta.uid()), (1, rustix::process::geteuid().as_raw()), "{what}");
        assert_eq!(rustix::fs::listxattr(given.to("f"), &mut [0_u8; 64]).unwrap_or(0), 0, "{what}");
        assert!(done.settled && meta.mode() & 0o7000 == 0 && meta.blocks() < 1000, "{what}");
        assert!(given.from("f").symlink_metadata().is_ok(), "{what}: what was not taken is left alone");
        spoiled += 1;
    }
    assert!(spoiled >= 7, "{spoiled}");
}

#[test]
fn a_directory_that_gives_something_to_what_is_made_in_it_has_files_written() {
    // An access list of the form the kernel takes: version 2; owner, group and others.
    let mut list = vec![2, 0, 0, 0];
    for (tag, rights) in [(1_u8, 7_u8), (4, 7), (0x20, 0)] {
        list.extend([tag, 0, rights, 0, 0xff, 0xff, 0xff, 0xff]);
    }
    for what in ["group", "list"] {
        let given = Given::new();
        fs::write(given.from("f"), "").expect("written");
        let was = ino(given.from("f"));
        match what {
            "group" => set_mode(given.to(""), 0o2755),
            _ => {
                let set = rustix::fs::setxattr(given.to(""), "system.posix_acl_default", &list, XattrFlags::empty());
                if set == Err(Errno::OPNOTSUPP) {
                    continue;
                }
                set.expect("set");
            }
        }
        let (entry, donor) = given.take("f");
        given.place("f", &entry, &donor);
        assert_ne!(ino(given.to("f")), was, "{what}");
        if what == "list" {
            assert_eq!(mode(given.to("f")), 0o640, "as the list has it");
        }
    }
}

#[test]
fn of_a_directory_each_file_is_moved_that_can_be() {
    let given = Given::new();
    fs::create_dir_all(given.from("d/deep")).expect("made");
    // Many, so that several threads are at it.
    for n in 0..200 {
        fs::write(given.from(&format!("d/deep/{n}")), format!("{}", n / 2)).expect("written");
    }
    fs::write(given.from("d/large"), vec![7; 100_000]).expect("written");
    fs::hard_link(given.from("d/deep/0"), given.from("d/linked")).expect("linked");
    set_mode(given.from("d/deep"), 0o700);
    let inos: Vec<u64> = (0..200).map(|n| ino(given.from(&format!("d/deep/{n}")))).collect();
    let (entry, donor) = given.take("d");
    assert_eq!(donor.len(), 201, "all but the large one, which the store has");
    let done = given.place("d", &entry, &donor);
    let moved = (0..200).filter(|n| ino(given.to(&format!("d/deep/{n}"))) == inos[*n]).count();
    assert_eq!(moved, 199, "all but the one that has another name");
    assert_eq!((mode(given.to("d")), mode(given.to("d/deep"))), (0o755, 0o755));
    assert_eq!(done.files.len(), 202);
    assert!(done.settled);
    let root = beneath::open_root(&given.to("")).expect("opens");
    for (path, _, stamp) in &done.files {
        assert_eq!(beneath::lstat(&root, path.as_str()), Ok(Some(*stamp)), "{path}");
    }
    let again = ingest_at(&given.store, &given.to(""), "d", &IngestOptions::default()).expect("kept").expect("there");
    assert_eq!(again.entry, entry);
}

#[test]
fn what_is_a_persons_is_kept_whatever_is_moved_in_its_place() {
    let given = Given::new();
    fs::write(given.from("f"), "made").expect("written");
    fs::write(given.to("f"), "a person's").expect("written");
    let was = ino(given.from("f"));
    let (entry, donor) = given.take("f");
    let done = given.place("f", &entry, &donor);
    assert_eq!((ino(given.to("f")), done.kept.len()), (was, 1));
    let Entry::File { blob, .. } = done.kept[0].1 else { panic!("a file") };
    assert_eq!(given.store.get(blob.link(), 100).expect("read").as_deref(), Some(&b"a person's"[..]));
    assert_eq!(super::tests::names(&given.to("")), ["f"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn what_is_moved_is_what_would_have_been_written(old in shapes(), new in shapes()) {
        let given = Given::new();
        let new = Shape::Dir(new);
        make(&given.from("at"), &new);
        make(&given.to("at"), &Shape::Dir(old));
        let (entry, donor) = given.take("at");
        let done = given.place("at", &entry, &donor);
        prop_assert_eq!(read(&given.to("at")), new);
        prop_assert!(done.settled);
        let root = beneath::open_root(&given.to("")).expect("opens");
        for (path, _, stamp) in &done.files {
            prop_assert_eq!(beneath::lstat(&root, path.as_str()), Ok(Some(*stamp)));
        }
    }
}
