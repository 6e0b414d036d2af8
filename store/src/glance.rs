//! Glances: what a run that found nothing to do had looked at, in one file, so that the next run can look at all of it
//! again before it does anything else.
//!
//! Knows paths, stamps and one flat file; unaware of why something was looked at, and of what is in the index. Every
//! doubt reads as "look for yourself": a file that is missing, damaged or another's, a path that looks different, one
//! that was too young to be relied on.

mod flat;
mod sight;

use std::ffi::CStr;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::beneath::{self, SEARCH};
use crate::local::Layout;
use crate::parallel;
use crate::stamp::{self, FileKind, Stamp};
use flat::Reader;
pub use sight::Sight;

/// What makes two runs ask for the same in the same surroundings, hashed.
pub type Key = [u8; 32];

const MAGIC: &[u8; 8] = b"qglance2";
/// The parts of a question, hashed one by one.
#[derive(Debug, Default)]
pub struct Question(blake3::Hasher);

impl Question {
    /// Without parts.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more part; what it is called is its place.
    pub fn add(&mut self, part: &[u8]) {
        self.0.update(&(part.len() as u64).to_le_bytes());
        self.0.update(part);
    }

    /// What stands for the question.
    pub fn key(&self) -> Key {
        *self.0.finalize().as_bytes()
    }
}

/// Magic, digest of what follows, key.
const HEAD_BYTES: usize = 8 + 32 + 32;
/// Largest file that is read back.
const MAX_BYTES: u64 = 1 << 30;
/// Looking at fewer entries takes less time than starting a thread saves.
const MANY: usize = 3000;
/// More threads than this only wait for each other in the kernel.
const MAX_THREADS: usize = 8;
/// The bytes of a stamp: device, inode, size, times, mode.
const LOOKS_BYTES: usize = 5 * 8 + 4;

/// Of an entry: links are followed, only the kind counts, there was something, only which file it is counts.
const FOLLOW: u8 = 1;
const KIND: u8 = 2;
const THERE: u8 = 4;
const IDENTITY: u8 = 8;

/// What of a path counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// What is there, be it a link.
    Itself,
    /// What is there behind any links.
    Target,
    /// What is there, be it a link, and that no link leads there. For paths below the workspace.
    Real,
    /// Whether there is a file, a directory or nothing, behind any links.
    Kind,
    /// Which file it is, whatever is in it, behind any links.
    Identity,
}

/// Which commits to the store, by whomever, make a glance void.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VoidBy {
    /// All.
    AnyCommit,
    /// Those that do more than add: a task that was settled by a receipt is still settled by it after all others.
    Rewriting,
}

/// The clock of files, now: what changes from here on looks younger than this, but for the clock's grain.
pub fn now_ns() -> i64 {
    stamp::now_ns()
}

/// What was to be answered, if everything that a run looked at looks as it did then.
pub fn look_again(dir: &Path, key: &Key) -> Option<Vec<u8>> {
    let layout = Layout::new(dir);
    let bytes = read(&file(&layout, key)).ok()?;
    let (head, body) = bytes.split_at_checked(HEAD_BYTES)?;
    let (magic, head) = head.split_at(MAGIC.len());
    let (sum, found_key) = head.split_at(32);
    if magic != MAGIC || found_key != key || digest(key, body).as_bytes() != sum {
        return None;
    }
    let mut reader = Reader(body);
    let answer = reader.bytes()?;
    let base = Path::new(std::ffi::OsStr::from_bytes(reader.text()?.to_bytes()));
    let base = beneath::open_root(base).ok()?;
    let mut groups = Vec::new();
    while !reader.0.is_empty() {
        groups.push(Group {
            real: reader.number(1)? != 0,
            count: usize::try_from(reader.number(4)?).ok()?,
            dir: reader.text()?.to_bytes(),
            entries: reader.bytes()?,
        });
    }
    // Something may have been left in a workspace that the next run tidies up.
    (all_same(base.as_fd(), &groups) && !crate::local::is_marked(&layout)).then(|| answer.to_vec())
}

struct Group<'b> {
    real: bool,
    count: usize,
    dir: &'b [u8],
    entries: &'b [u8],
}

fn all_same(base: BorrowedFd<'_>, groups: &[Group<'_>]) -> bool {
    let many = groups.iter().map(|group| group.count).sum::<usize>() > MANY;
    let threads = if many { parallel::cores().min(MAX_THREADS).min(groups.len()) } else { 1 };
    let (next, differs) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = || {
        while !differs.load(Ordering::Relaxed)
            && let Some(group) = groups.get(next.fetch_add(1, Ordering::Relaxed))
        {
            if group.is_same(base).is_none() {
                differs.store(true, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // Without the thread it takes longer.
            let _ = std::thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
    !differs.load(Ordering::Relaxed)
}

impl Group<'_> {
    fn is_same(&self, base: BorrowedFd<'_>) -> Option<()> {
        let at = open(base, self.real, self.dir);
        let mut reader = Reader(self.entries);
        for _ in 0..self.count {
            let flags = *reader.take(1)?.first()?;
            let known = if flags & THERE != 0 { Some(reader.take(LOOKS_BYTES)?) } else { None };
            let found = look(&at, reader.text()?, flags).ok()?.map(|stat| looks(&stat, flags));
            if found.as_ref().map(|looks| &looks[..]) != known {
                return None;
            }
        }
        reader.0.is_empty().then_some(())
    }
}

/// The directory that names are looked up in. Relative ones are below `base`.
fn open(base: BorrowedFd<'_>, real: bool, dir: &[u8]) -> Result<OwnedFd, Errno> {
    let path = if dir.is_empty() { b"." } else { dir };
    if real {
        return beneath::open_dir(base, std::str::from_utf8(path).map_err(|_| Errno::ILSEQ)?, SEARCH);
    }
    rustix::fs::openat(if dir.starts_with(b"/") { CWD } else { base }, path, SEARCH | OFlags::CLOEXEC, Mode::empty())
}

fn look(at: &Result<OwnedFd, Errno>, name: &CStr, flags: u8) -> Result<Option<rustix::fs::Stat>, Errno> {
    let flags = if flags & FOLLOW != 0 { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
    match at.as_ref().map_err(|error| *error).and_then(|at| rustix::fs::statat(at, name, flags)) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error),
    }
}

/// How something looks, as bytes.
#[allow(clippy::useless_conversion, reason = "not useless on every system")]
fn looks(stat: &rustix::fs::Stat, flags: u8) -> [u8; LOOKS_BYTES] {
    let mode = u32::from(stat.st_mode);
    let stamp = Stamp::of(stat);
    let mut out = [0; LOOKS_BYTES];
    if flags & KIND != 0 {
        out[40..].copy_from_slice(&(mode & 0o170_000).to_le_bytes());
        return out;
    }
    // What a directory's size says, its times say too, and some file systems never make it smaller.
    let size = if stamp.kind == FileKind::Dir { 0 } else { stamp.size };
    let numbers = [stamp.dev, stamp.ino, size, stamp.mtime_ns.cast_unsigned(), stamp.ctime_ns.cast_unsigned()];
    let counted = if flags & IDENTITY != 0 { 2 } else { numbers.len() };
    for (slot, number) in out.chunks_exact_mut(8).zip(&numbers[..counted]) {
        slot.copy_from_slice(&number.to_le_bytes());
    }
    out[40..].copy_from_slice(&mode.to_le_bytes());
    out
}

fn digest(key: &Key, body: &[u8]) -> blake3::Hash {
    blake3::keyed_hash(key, body)
}

fn file(layout: &Layout, key: &Key) -> PathBuf {
    layout.glances().join(&blake3::Hash::from_bytes(*key).to_hex()[..32])
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = fs::File::open(path)?;
    let size = file.metadata()?.len().min(MAX_BYTES);
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::sight::MAX_FILES;
    use super::*;
    use crate::test_dirs::age;

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
        sight.saw_all_below(How::Real, Path::new("out")).expect("is listed");
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
        assert!(
            !around.keep(&store, &KEY, now_ns(), b"", VoidBy::AnyCommit).expect("nothing fails"),
            "it came and went"
        );
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
            assert!(
                Sight::new(&ws).keep(&store, &[n as u8; 32], now_ns(), b"", VoidBy::AnyCommit).expect("is written")
            );
        }
        assert_eq!(fs::read_dir(store.join("glances")).expect("is listed").count(), MAX_FILES);
    }
}
