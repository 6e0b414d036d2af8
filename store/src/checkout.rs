//! Entries of a store put at paths of a workspace: whole or not at all, and nothing of a person's is lost.
//!
//! What is to stand at a path is made beside it under another name and renamed there in one step; what stood there
//! comes out under that other name, and is looked at before it is deleted. Unaware of tasks and receipts.

use std::ffi::CString;
use std::os::fd::AsFd;
use std::path::Path;

use rustc_hash::FxHashMap;
use rustix::io::Errno;

use crate::beneath::{self, LIST, SEARCH};
use crate::cid::Link;
use crate::error::CommitError;
use crate::ingest::{IngestError, IngestOptions, Links, ingest_at};
use crate::materialise::{Maker, plan, within};
use crate::stamp::Stamp;
use crate::stat_index::{Known, StatIndex};
use crate::swap::{Place, temp_name};
use crate::tree::Entry;
use crate::{Store, StoreError};

/// What the names begin with under which things are made, and old ones put aside: seen only after a kill.
pub const TEMP_PREFIX: &str = ".quipu-tmp-";

/// What may be expanded.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most files, links and directories.
    pub max_files: u64,
    /// Most bytes, all files together.
    pub max_bytes: u64,
    /// Which symbolic links a directory may have.
    pub links: Links,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_files: 1 << 20, max_bytes: 1 << 40, links: Links::Inside }
    }
}

/// What quipu put at and below a path, by path.
pub type Ours = FxHashMap<String, Known>;

/// What becomes of something that stands where an entry is to go.
#[derive(Debug, Clone, Default)]
pub enum InTheWay {
    /// It is deleted. For directories in which there is nothing of a person's.
    #[default]
    Replace,
    /// What is not as quipu put it there (see [`StatIndex::ours`]) is first kept in the store.
    Keep(Ours),
}

/// How a checkout is done.
#[derive(Debug, Clone, Default)]
pub struct CheckoutOptions {
    /// What may be expanded.
    pub limits: Limits,
    /// What becomes of what stands in the way.
    pub in_the_way: InTheWay,
}

/// What a checkout did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placed {
    /// Every file and link that was put there, by path from the root, and how it looked then.
    pub files: Vec<(String, Entry, Stamp)>,
    /// Whether the stamps can be relied on at once: any later change is sure to show in them.
    pub settled: bool,
    /// What stood in the way and was not quipu's, by path, now in the store: the caller's to tell and to hold on to.
    pub kept: Vec<(String, Entry)>,
    /// Paths under which something old was left because it could not be deleted.
    pub left_behind: Vec<String>,
}

/// Why an entry was not put in its place. Nothing is there then that was not there before, except perhaps directories.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckoutError {
    /// Not a relative path of plain components.
    #[error("`{path}` is not a relative path without `.` and `..`")]
    Path {
        /// The path.
        path: String,
    },
    /// The way there leads over a symbolic link, or something that is no directory.
    #[error("a directory on the way to `{path}` is a symbolic link or not a directory")]
    Way {
        /// The path.
        path: String,
    },
    /// Not in the store.
    #[error("`{path}`: {link} is not in the store")]
    Missing {
        /// The path it was needed for.
        path: String,
        /// What is missing.
        link: Link,
    },
    /// In the store with other bytes than its id says. It was taken out of use.
    #[error("{0} is damaged in the store")]
    Corrupt(Link),
    /// The tree says another size than the content has.
    #[error("`{path}`: {link} has {found_bytes} bytes, its directory says {expected_bytes}")]
    Size {
        /// The path.
        path: String,
        /// The content.
        link: Link,
        /// What the directory says.
        expected_bytes: u64,
        /// What it has.
        found_bytes: u64,
    },
    /// Beyond the limits.
    #[error("`{path}` would have more than {max_files} files or {max_bytes} bytes")]
    TooLarge {
        /// The path.
        path: String,
        /// Most files.
        max_files: u64,
        /// Most bytes.
        max_bytes: u64,
    },
    /// Nested too deeply.
    #[error("`{path}` is nested more than {} directories deep", crate::tree::MAX_DEPTH)]
    Depth {
        /// The path.
        path: String,
    },
    /// A link of a tree that may lead out of it.
    #[error("`{path}` is a symbolic link to `{target}`, which may lead outside")]
    Link {
        /// The path.
        path: String,
        /// Its target.
        target: Box<str>,
    },
    /// What stands in the way is not quipu's and cannot be kept.
    #[error("`{path}` is in the way and cannot be kept: {source}")]
    InTheWay {
        /// The path that was to be placed.
        path: String,
        /// Why it cannot be kept. Its path is the one it had for the moment.
        source: Box<IngestError>,
    },
    /// What stood in the way could not be made durable in the store.
    #[error("`{path}` is in the way and cannot be kept: {source}")]
    NotKept {
        /// The path that was to be placed.
        path: String,
        /// Why.
        source: CommitError,
    },
    /// What stood in the way could be neither kept nor put back; it is beside its place.
    #[error("what was at `{path}` is at `{aside}` now, and could not be put back: {source}")]
    LeftAside {
        /// The path that was to be placed.
        path: String,
        /// Where the old one is.
        aside: String,
        /// Why it could not be kept.
        source: Box<Self>,
    },
    /// The file system said no.
    #[error("`{path}`: {source}")]
    Io {
        /// The path.
        path: String,
        /// What it said.
        source: std::io::Error,
    },
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl CheckoutError {
    pub(crate) fn io(path: &str, error: Errno) -> Self {
        Self::Io { path: path.to_owned(), source: error.into() }
    }

    pub(crate) fn missing(link: Link, path: &str) -> Self {
        Self::Missing { path: path.to_owned(), link }
    }
}

/// Puts `entry` at `rel` below `root`, in place of whatever is there.
pub fn checkout(store: &Store, entry: &Entry, root: &Path, rel: &str) -> Result<Placed, CheckoutError> {
    checkout_with(store, entry, root, rel, &CheckoutOptions::default())
}

/// Puts `entry` at `rel` below `root`.
///
/// No symbolic link below `root` is followed; what is made shares nothing with the store that a write to it could change.
pub fn checkout_with(
    store: &Store,
    entry: &Entry,
    root: &Path,
    rel: &str,
    options: &CheckoutOptions,
) -> Result<Placed, CheckoutError> {
    if !beneath::is_plain(rel) {
        return Err(CheckoutError::Path { path: rel.to_owned() });
    }
    let plan = match entry {
        Entry::Dir { tree } => Some(plan(store, *tree, rel, &options.limits)?),
        Entry::File { size, .. } => within(&options.limits, rel, 1, *size).map(|()| None)?,
        Entry::Symlink { .. } => within(&options.limits, rel, 1, 0).map(|()| None)?,
    };
    let (dir, name) = beneath::split(rel);
    let fd = beneath::open_root(root).map_err(|error| CheckoutError::io(&root.to_string_lossy(), error))?;
    let parent = beneath::make_dirs(fd.as_fd(), dir).map_err(|error| match error {
        Errno::LOOP | Errno::NOTDIR => CheckoutError::Way { path: rel.to_owned() },
        error => CheckoutError::io(rel, error),
    })?;
    store.placing(&std::path::absolute(root).unwrap_or_else(|_| root.to_owned()).join(dir));
    let temp = temp_name(parent.as_fd()).map_err(|error| CheckoutError::io(rel, error))?;
    let place = Place { store, root, rel, dir, name, parent: parent.as_fd(), options };
    let maker = Maker::new(store);
    let made = match &plan {
        Some(plan) => maker.directory(place.parent, &temp, rel, plan),
        None => maker.leaf(place.parent, &temp, rel, entry),
    };
    let done = made.and_then(|made| place.swap_in(&temp, made, plan.is_none()));
    let left = match &done {
        Ok(placed) => !placed.left_behind.is_empty(),
        // It may be a person's.
        Err(CheckoutError::LeftAside { .. }) => true,
        // Whether it can be deleted or not, the first error is the one to tell.
        Err(_) => place.remove(&temp).is_err(),
    };
    if left {
        store.unplaced();
    }
    done
}

/// Deletes what checkouts that were killed, or could not clean up, left under names of the moment. Its content is kept in the store
/// first: it may be what stood in the way. Says under which paths there was something that the store did not have.
pub fn tidy(store: &Store) -> Vec<(String, Entry)> {
    let mut kept = Vec::new();
    store.abandoned(&mut |pid, dir| {
        let Ok(fd) = beneath::open_root(dir).and_then(|fd| beneath::open_dir(&fd, "", LIST)) else { return true };
        let (prefix, mut names) = (format!("{TEMP_PREFIX}{pid}-"), Vec::new());
        let listed = beneath::for_each_name::<Errno>(&fd, |name| {
            names.extend(name.to_str().ok().filter(|name| name.starts_with(&prefix)).map(str::to_owned));
            Ok(())
        });
        let options = IngestOptions { links: Links::Any, ..IngestOptions::default() };
        listed.is_ok()
            && names.iter().all(|name| {
                let before = store.counters().puts;
                let Ok(Some(found)) = ingest_at(store, dir, name, &options) else { return false };
                if store.flush().is_err() {
                    return false;
                }
                if store.counters().puts != before {
                    kept.push((dir.join(name).to_string_lossy().into_owned(), found.entry));
                }
                let name = CString::new(name.as_str()).expect("names of files have no NUL");
                beneath::remove_all(fd.as_fd(), &name, 0).is_ok()
            })
    });
    kept
}

/// Sees to it that `rel` holds `entry`: does nothing when it does; otherwise keeps what is not quipu's, puts `entry` there,
/// and notes in the index what was put.
pub fn place(index: &mut StatIndex, entry: &Entry, rel: &str, limits: &Limits) -> Result<Placed, CheckoutError> {
    if is_placed(index, entry, rel) {
        return Ok(Placed { settled: true, ..Placed::default() });
    }
    let ours = index.ours(rel);
    let old: Vec<String> = ours.keys().cloned().collect();
    let options = CheckoutOptions { limits: *limits, in_the_way: InTheWay::Keep(ours) };
    let placed = checkout_with(index.store(), entry, index.root(), rel, &options)?;
    old.iter().for_each(|path| index.forget(path));
    index.note_placed(&placed);
    Ok(placed)
}

/// Whether `rel` holds exactly `entry`, by the index where it can be relied on and by reading where not: every file as it
/// should be, and for a directory nothing beside them. Whoever put it there.
pub fn is_placed(index: &mut StatIndex, entry: &Entry, rel: &str) -> bool {
    let dir_is_real =
        |index: &StatIndex, dir: &str, flags| index.root_fd().and_then(|fd| beneath::open_dir(fd, dir, flags)).ok();
    if !beneath::is_plain(rel) || dir_is_real(index, beneath::split(rel).0, SEARCH).is_none() {
        return false;
    }
    let Entry::Dir { tree } = entry else { return index.all_hold(&[(rel, entry)]) };
    let limits = Limits { max_bytes: u64::MAX, links: Links::Any, ..Limits::default() };
    let Ok(plan) = plan(index.store(), *tree, rel, &limits) else {
        return false;
    };
    for (dir, count) in plan.dirs.iter().zip(&plan.counts) {
        let Some(fd) = dir_is_real(index, &beneath::join(rel, dir), LIST) else { return false };
        let mut left = *count;
        let listed = beneath::for_each_name::<Errno>(&fd, |_| {
            left = left.checked_sub(1).ok_or(Errno::TOOBIG)?;
            Ok(())
        });
        // Fewer are found missing below.
        if listed.is_err() {
            return false;
        }
    }
    let wanted: Vec<_> = plan.leaves.iter().map(|leaf| (leaf.path.as_str(), &leaf.entry)).collect();
    index.all_hold(&wanted)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::sync::atomic::{AtomicBool, Ordering};

    use proptest::prelude::*;

    use super::*;
    use crate::Take;
    use crate::cid::{BlobId, Codec};
    use crate::ingest::{ingest_dir, ingest_path};
    use crate::test_dirs::{Shape, make, memory, read, shapes};
    use crate::tree::{Name, Tree};

    fn temp() -> tempfile::TempDir {
        tempfile::tempdir().expect("temporary directory")
    }

    fn file(store: &Store, bytes: &[u8]) -> Entry {
        store.put(Codec::Raw, bytes.to_vec()).expect("put");
        Entry::File { blob: BlobId::of(bytes), size: bytes.len() as u64, exec: false }
    }

    fn dir(store: &Store, entries: &[(&str, Entry)]) -> Entry {
        let entries = entries.iter().map(|(name, entry)| (Name::new(name).expect("valid"), entry.clone()));
        let tree = Tree::new(entries.collect()).expect("valid");
        Entry::Dir { tree: store.put_tree(&tree).expect("put") }
    }

    /// All names in a directory, hidden ones too.
    fn names(path: &Path) -> Vec<String> {
        let names = std::fs::read_dir(path)
            .expect("listed")
            .map(|e| e.expect("listed").file_name().into_string().expect("text"));
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    fn files(pairs: &[(&str, &str)]) -> Shape {
        let pairs = pairs.iter().map(|(name, text)| ((*name).to_owned(), Shape::File(text.as_bytes().to_vec(), false)));
        Shape::Dir(pairs.collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn what_is_ingested_is_what_is_checked_out(old in shapes(), new in shapes()) {
            let (store, root) = (memory(), temp());
            let (top, at) = (root.path().join("top"), root.path().join("out/at"));
            let new = Shape::Dir(new);
            make(&top, &new);
            make(&at, &Shape::Dir(old));
            let any = IngestOptions { links: Links::Any, ..IngestOptions::default() };
            let entry = ingest_at(&store, root.path(), "top", &any).expect("kept").expect("there").entry;
            let limits = Limits { links: Links::Any, ..Limits::default() };
            let mut index = StatIndex::open(&store, root.path());
            let placed = place(&mut index, &entry, "out/at", &limits).expect("placed");
            prop_assert_eq!(read(&at), new);
            prop_assert_eq!(names(&root.path().join("out")), ["at"]);
            let again = ingest_at(&store, root.path(), "out/at", &any).expect("kept").expect("there").entry;
            prop_assert_eq!(&again, &entry);
            prop_assert!(placed.settled && placed.left_behind.is_empty());
            index.save().expect("saved");

            let mut index = StatIndex::open(&store, root.path());
            let again = place(&mut index, &entry, "out/at", &limits).expect("placed");
            prop_assert_eq!(again, Placed { settled: true, ..Placed::default() }, "nothing is done twice");
            prop_assert_eq!(index.counts(), Default::default(), "nor read");
        }

        // Names that can be decoded at all are checked ones; links are all that can lead out.
        #[test]
        fn nothing_is_made_outside_the_root(
            rounds in prop::collection::vec((shapes(), prop::collection::vec("[a-c]", 1..4), 0..6_usize, "[a-c]{1,2}"), 1..5)
        ) {
            let (store, jail) = (memory(), temp());
            let (root, outside) = (jail.path().join("root"), jail.path().join("outside"));
            make(&root, &files(&[]));
            make(&outside, &files(&[("keep", "x")]));
            let targets = ["/", "..", "../outside", "../../outside", outside.to_str().expect("text"), "a"];
            for (mut shape, at, target, name) in rounds {
                shape.insert(name, Shape::Link(targets[target].to_owned()));
                let source = temp();
                make(&source.path().join("d"), &Shape::Dir(shape));
                let any = IngestOptions { links: Links::Any, ..IngestOptions::default() };
                let entry = ingest_at(&store, source.path(), "d", &any).expect("kept").expect("there").entry;
                let limits = Limits { links: Links::Any, ..Limits::default() };
                // It may be refused: what was placed before may be in the way.
                let _ = checkout_with(&store, &entry, &root, &at.join("/"), &CheckoutOptions { limits, ..Default::default() });
                prop_assert_eq!(names(jail.path()), ["outside", "root"]);
                prop_assert_eq!(read(&outside), files(&[("keep", "x")]));
            }
        }
    }

    #[test]
    fn links_that_may_lead_out_of_a_tree_are_refused() {
        let (store, root) = (memory(), temp());
        for (target, good) in [("x", true), ("../x", true), ("../../x", false), ("/x", false), ("y/../../x", false)] {
            let link = Entry::Symlink { target: target.into() };
            let entry = dir(&store, &[("d", dir(&store, &[("l", link)]))]);
            let done = checkout(&store, &entry, root.path(), "out");
            assert_eq!(done.is_ok(), good, "{target}");
            assert!(good || matches!(done, Err(CheckoutError::Link { path, .. }) if path == "out/d/l"));
        }
    }

    #[test]
    fn what_is_placed_first_cannot_lead_the_second_outside() {
        let (store, root, outside) = (memory(), temp(), temp());
        let link = Entry::Symlink { target: outside.path().to_str().expect("text").into() };
        let content = file(&store, b"evil");
        checkout(&store, &link, root.path(), "a").expect("a link by itself is made");
        for rel in ["a/x", "a/b/x"] {
            assert!(matches!(checkout(&store, &content, root.path(), rel), Err(CheckoutError::Way { .. })));
        }
        for rel in ["../x", "/x", "", "a//x", "a/./x", "b/../../x", "a\0"] {
            assert!(matches!(checkout(&store, &content, root.path(), rel), Err(CheckoutError::Path { .. })), "{rel:?}");
        }
        std::fs::write(outside.path().join("target"), "x").expect("written");
        symlink(outside.path().join("target"), root.path().join("l")).expect("made");
        checkout(&store, &content, root.path(), "l").expect("the link itself is replaced");
        assert_eq!(read(outside.path()), files(&[("target", "x")]));
        assert_eq!(names(root.path()), ["a", "l"]);
    }

    #[test]
    fn a_directory_swapped_for_a_link_meanwhile_leads_nowhere() {
        let (store, jail) = (memory(), temp());
        let (root, outside) = (jail.path().join("root"), jail.path().join("outside"));
        make(&root, &files(&[]));
        make(&outside, &files(&[]));
        let leaves: Vec<_> = (0..8).map(|n| file(&store, &[n; 9])).collect();
        let named: Vec<(String, Entry)> =
            leaves.iter().enumerate().map(|(n, leaf)| (format!("f{n}"), leaf.clone())).collect();
        let named: Vec<(&str, Entry)> = named.iter().map(|(name, leaf)| (name.as_str(), leaf.clone())).collect();
        let tree = dir(&store, &[("s", dir(&store, &named)), ("t", dir(&store, &[("s", dir(&store, &named))]))]);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Errors are the other side getting there first.
                while !stop.load(Ordering::Relaxed) {
                    let _ = std::fs::rename(root.join("d"), root.join("aside"));
                    let _ = symlink(&outside, root.join("d"));
                    std::thread::yield_now();
                    let _ = std::fs::remove_file(root.join("d"));
                    let _ = std::fs::rename(root.join("aside"), root.join("d"));
                    for entry in std::fs::read_dir(&root).into_iter().flatten().flatten() {
                        if entry.file_name().to_str().is_some_and(|name| name.starts_with(TEMP_PREFIX)) {
                            let _ = std::fs::rename(entry.path().join("s"), entry.path().join("aside"));
                            let _ = symlink(&outside, entry.path().join("s"));
                        }
                    }
                }
            });
            let mut done = 0;
            for round in 0..600 {
                done += usize::from(checkout(&store, &leaves[round % 8], &root, "d/f").is_ok());
                done += usize::from(checkout(&store, &tree, &root, "tree").is_ok());
            }
            stop.store(true, Ordering::Relaxed);
            assert!(done > 0, "some got through");
        });
        assert!(names(&outside).is_empty(), "{:?}", names(&outside));
        assert_eq!(names(jail.path()), ["outside", "root"]);
    }

    #[test]
    fn kinds_replace_one_another_and_nothing_is_left_over() {
        let (store, root) = (memory(), temp());
        let big: Vec<(String, Entry)> = (0..200_u8).map(|n| (format!("{n}"), file(&store, &[n]))).collect();
        let big: Vec<(&str, Entry)> = big.iter().map(|(name, entry)| (name.as_str(), entry.clone())).collect();
        let entries = [
            file(&store, b"one"),
            dir(&store, &big),
            Entry::Symlink { target: "x".into() },
            dir(&store, &[("d", dir(&store, &[])), ("f", file(&store, b"two"))]),
            file(&store, b""),
        ];
        for entry in entries.iter().chain(entries.iter().rev()) {
            let placed = checkout(&store, entry, root.path(), "new/dir/at").expect("placed");
            assert_eq!(
                ingest_path(&store, &root.path().join("new/dir/at"), Take::Copy).expect("kept").as_ref(),
                Some(entry)
            );
            assert_eq!(names(&root.path().join("new/dir")), ["at"]);
            for (path, _, stamp) in &placed.files {
                let found = beneath::lstat(beneath::open_root(root.path()).expect("opens"), path.as_str());
                assert_eq!(found, Ok(Some(*stamp)), "{path}");
                assert!(!placed.settled || stamp.mtime_ns % 1000 != 0, "between two ticks: {path}");
                assert_eq!(root.path().join(path).symlink_metadata().expect("there").nlink(), 1);
            }
        }
    }

    #[test]
    fn on_an_error_everything_is_as_it_was() {
        let (store, root) = (memory(), temp());
        make(&root.path().join("at"), &files(&[("old", "x")]));
        let gone = Entry::File { blob: BlobId::of(b"gone"), size: 4, exec: false };
        let wrong = Entry::File { blob: BlobId::of(b"good"), size: 5, exec: false };
        let good = file(&store, b"good");
        for bad in [
            gone.clone(),
            wrong.clone(),
            dir(&store, &[("a", good.clone()), ("b", gone)]),
            dir(&store, &[("b", wrong)]),
        ] {
            assert!(checkout(&store, &bad, root.path(), "at").is_err());
            assert_eq!(names(root.path()), ["at"]);
            assert_eq!(read(&root.path().join("at")), files(&[("old", "x")]));
        }
        std::fs::write(root.path().join("plain"), "").expect("written");
        assert!(matches!(checkout(&store, &good, root.path(), "plain/x"), Err(CheckoutError::Way { .. })));
    }

    #[test]
    fn what_is_not_quipu_s_is_kept_and_told() {
        let (store, root) = (memory(), temp());
        let at = |rel: &str| root.path().join(rel);
        let mut index = StatIndex::open(&store, root.path());
        let limits = Limits::default();
        let (one, two) = (file(&store, b"one"), file(&store, b"two"));
        let mut put = |entry: &Entry, rel: &str| place(&mut index, entry, rel, &limits).expect("placed").kept;

        std::fs::write(at("f"), "mine").expect("written");
        let mine = Entry::File { blob: BlobId::of(b"mine"), size: 4, exec: false };
        assert_eq!(put(&one, "f"), [("f".to_owned(), mine.clone())]);
        assert!(store.complete(&mine).expect("readable"));
        assert_eq!(put(&two, "f"), [], "what quipu put there is not kept");
        std::fs::write(at("f"), "mine").expect("written");
        assert_eq!(put(&one, "f"), [("f".to_owned(), mine.clone())], "what was changed since is");
        std::fs::write(at("f"), "one").expect("written");
        assert_eq!(put(&two, "f"), [], "the same content again is nobody's loss");

        let tree = |files: &[(&str, Entry)]| dir(&store, &[("sub", dir(&store, files)), ("z", one.clone())]);
        assert_eq!(put(&tree(&[("a", one.clone()), ("b", two.clone())]), "d"), []);
        std::fs::write(at("d/sub/a"), "mine").expect("written");
        std::fs::write(at("d/new"), "new").expect("written");
        symlink("/etc", at("d/sub/link")).expect("made");
        let new = Entry::File { blob: BlobId::of(b"new"), size: 3, exec: false };
        let mut kept = put(&tree(&[("b", two.clone())]), "d");
        kept.sort_by(|a, b| a.0.cmp(&b.0));
        let link = Entry::Symlink { target: "/etc".into() };
        assert_eq!(kept, [("d/new", new), ("d/sub/a", mine), ("d/sub/link", link)].map(|(p, e)| (p.to_owned(), e)));
        assert_eq!(names(&at("d/sub")), ["b"]);
        assert_eq!(put(&one, "d"), [], "all of it was quipu's");
        assert_eq!(names(root.path()), ["d", "f"]);
    }

    #[test]
    fn what_is_quipu_s_is_not_read_to_be_replaced() {
        let (store, root) = (memory(), temp());
        let mut index = StatIndex::open(&store, root.path());
        let (one, two) = (file(&store, b"one"), file(&store, b"two"));
        let mut asked = Vec::new();
        for (entry, rel) in [(&one, "a"), (&two, "a"), (&one, "b"), (&two, "b")] {
            let before = store.counters().has;
            place(&mut index, entry, rel, &Limits::default()).expect("placed");
            asked.push(store.counters().has - before);
        }
        assert_eq!(asked, [asked[0]; 4], "the new content, and never the old");
    }

    #[test]
    fn content_damaged_in_the_store_is_never_placed() {
        let (dirs, root) = (temp(), temp());
        let signer = crate::SignerSource::Fixed(crate::sign::Signer::from_secret(&[7; 32]));
        let store = Store::open(dirs.path(), crate::Options::new(signer)).expect("opens");
        let bytes = vec![1; 100_000];
        std::fs::write(root.path().join("f"), &bytes).expect("written");
        let large = ingest_path(&store, &root.path().join("f"), Take::Move).expect("kept").expect("there");
        let Entry::File { blob, .. } = large else { panic!("a file") };
        let Ok(Some(crate::Blob::File { path, .. })) = store.blob(blob) else { panic!("in a file of its own") };
        let entry = dir(&store, &[("a", file(&store, b"small")), ("b", large.clone())]);
        for entry in [&large, &entry] {
            checkout(&store, entry, root.path(), "at").expect("placed");
            std::fs::remove_file(root.path().join("at"))
                .or_else(|_| std::fs::remove_dir_all(root.path().join("at")))
                .expect("removed");
        }
        let mut bad = bytes.clone();
        bad[50_000] ^= 1;
        // The store's own may not be writable.
        std::fs::remove_file(&path).expect("removed");
        std::fs::write(&path, &bad).expect("written");
        let done = checkout(&store, &entry, root.path(), "at");
        assert!(matches!(done, Err(CheckoutError::Corrupt(link)) if link == blob.link()), "{done:?}");
        assert!(names(root.path()).is_empty());
        assert!(
            matches!(checkout(&store, &large, root.path(), "at"), Err(CheckoutError::Missing { .. })),
            "it is out of use"
        );
    }

    #[test]
    fn what_cannot_be_kept_stays_where_it_is() {
        let (store, root) = (memory(), temp());
        make(&root.path().join("d"), &files(&[("mine", "x")]));
        let fd = beneath::open_root(&root.path().join("d")).expect("opens");
        rustix::fs::mknodat(&fd, "fifo", rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).expect("made");
        let mut index = StatIndex::open(&store, root.path());
        let entry = file(&store, b"one");
        let done = place(&mut index, &entry, "d", &Limits::default());
        assert!(matches!(done, Err(CheckoutError::InTheWay { .. })), "{done:?}");
        assert_eq!(names(root.path()), ["d"]);
        assert_eq!(names(&root.path().join("d")), ["fifo", "mine"]);
    }

    #[test]
    fn a_directory_is_placed_only_if_nothing_is_beside_it() {
        let (store, root) = (memory(), temp());
        let at = |rel: &str| root.path().join(rel);
        let mut index = StatIndex::open(&store, root.path());
        let entry = dir(&store, &[("f", file(&store, b"x")), ("d", dir(&store, &[]))]);
        assert!(!is_placed(&mut index, &entry, "a/at"));
        place(&mut index, &entry, "a/at", &Limits::default()).expect("placed");
        assert!(is_placed(&mut index, &entry, "a/at"));
        type Change<'a> = &'a dyn Fn();
        let changes: [(Change<'_>, Change<'_>); 5] = [
            (&|| std::fs::write(at("a/at/d/new"), "").expect("written"), &|| {
                std::fs::remove_file(at("a/at/d/new")).expect("removed");
            }),
            (&|| std::fs::remove_dir(at("a/at/d")).expect("removed"), &|| {
                std::fs::create_dir(at("a/at/d")).expect("made");
            }),
            (&|| std::fs::write(at("a/at/f"), "y").expect("written"), &|| {
                std::fs::write(at("a/at/f"), "x").expect("written");
            }),
            (&|| std::fs::write(at("a/at/f"), "longer").expect("written"), &|| {
                std::fs::write(at("a/at/f"), "x").expect("written");
            }),
            (
                &|| {
                    std::fs::rename(at("a"), at("b")).expect("renamed");
                    symlink("b", at("a")).expect("made");
                },
                &|| {
                    std::fs::remove_file(at("a")).expect("removed");
                    std::fs::rename(at("b"), at("a")).expect("renamed");
                },
            ),
        ];
        for (n, (change, undo)) in changes.iter().enumerate() {
            change();
            assert!(!is_placed(&mut index, &entry, "a/at"), "{n}");
            undo();
            assert!(is_placed(&mut index, &entry, "a/at"), "{n} undone");
        }
        assert!(!is_placed(&mut index, &file(&store, b"x"), "a/at"));
        assert!(!is_placed(&mut index, &entry, "a/at/f"));
        assert!(is_placed(&mut index, &file(&store, b"x"), "a/at/f"));
    }

    #[test]
    fn a_large_directory_is_as_one_made_of_parts() {
        let (store, source, root) = (memory(), temp(), temp());
        let below: BTreeMap<_, _> =
            (0..5000).map(|n| (format!("{n}"), Shape::File(vec![n as u8], n % 2 == 0))).collect();
        let shape = Shape::Dir(below);
        make(source.path(), &shape);
        let entry = ingest_dir(&store, source.path(), Take::Move).expect("kept");
        checkout(&store, &entry, root.path(), "at").expect("placed");
        assert_eq!(read(&root.path().join("at")), shape);
    }
}
