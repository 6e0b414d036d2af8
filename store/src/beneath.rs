//! Files and directories below an open directory, without ever following a symbolic link out of it.
//!
//! Knows system calls; unaware of trees and stores.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawDir, ResolveFlags};
use rustix::io::Errno;

use crate::stamp::{FileKind, Stamp};

/// Enough to look up names below, on any directory one may search.
pub(crate) const SEARCH: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// Enough to list a directory.
pub(crate) const LIST: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC);
/// For content: never waits for the other end of a pipe that took a file's place.
pub(crate) const READ: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// Longest path given to the kernel at once, which takes 4096 bytes with the NUL.
const STEP_BYTES: usize = 4000;

/// Deepest nesting that is removed: each level holds a descriptor open.
const MAX_REMOVE_DEPTH: usize = 512;

/// Opens a directory by a path that is followed as usual.
pub(crate) fn open_root(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(CWD, path, SEARCH, Mode::empty())
}

/// Opens the directory at `rel` (checked components, or empty for `root` itself) with `flags`.
pub(crate) fn open_dir(root: impl AsFd, rel: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut rest = if rel.is_empty() { "." } else { rel };
    let mut at: Option<OwnedFd> = None;
    loop {
        let from = at.as_ref().map_or(root.as_fd(), AsFd::as_fd);
        if rest.len() <= STEP_BYTES {
            return open_step(from, rest, flags);
        }
        let mut cut = STEP_BYTES;
        while !rest.is_char_boundary(cut) {
            cut -= 1;
        }
        let (step, _) = rest[..cut].rsplit_once('/').ok_or(Errno::NAMETOOLONG)?;
        let next = open_step(from, step, SEARCH)?;
        rest = &rest[step.len() + 1..];
        at = Some(next);
    }
}

/// Opens `rel`, of at most [`STEP_BYTES`], below `from`.
fn open_step(from: BorrowedFd<'_>, rel: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    // EAGAIN: something was renamed meanwhile, and the kernel could not tell whether `..` escaped.
    for _ in 0..16 {
        match rustix::fs::openat2(from, rel, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Kernels before 5.6, and filters that do not know the call.
            Err(Errno::NOSYS | Errno::PERM) => return open_by_component(from, rel, flags),
            other => return other,
        }
    }
    open_by_component(from, rel, flags)
}

/// Opens the file at `rel` for reading; a link in its place is [`Errno::LOOP`].
pub(crate) fn open_file(root: BorrowedFd<'_>, rel: &str) -> Result<OwnedFd, Errno> {
    if rel.len() <= STEP_BYTES {
        return open_step(root, rel, READ);
    }
    let (dir, name) = split(rel);
    open_step(open_dir(root, dir, SEARCH)?.as_fd(), name, READ)
}

fn open_by_component(from: BorrowedFd<'_>, rel: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut at: Option<OwnedFd> = None;
    let mut names = rel.split('/').peekable();
    while let Some(name) = names.next() {
        let flags = if names.peek().is_none() { flags } else { SEARCH };
        let from = at.as_ref().map_or(from, AsFd::as_fd);
        at = Some(rustix::fs::openat(from, name, flags | OFlags::NOFOLLOW, Mode::empty())?);
    }
    at.ok_or(Errno::NOENT)
}

/// Opens the directory at `rel`, making what is missing of it.
pub(crate) fn make_dirs(root: BorrowedFd<'_>, rel: &str) -> Result<OwnedFd, Errno> {
    match open_dir(root, rel, SEARCH) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let mut at: Option<OwnedFd> = None;
    for name in rel.split('/') {
        let from = at.as_ref().map_or(root, AsFd::as_fd);
        match rustix::fs::mkdirat(from, name, DIR_MODE) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        at = Some(open_step(from, name, SEARCH)?);
    }
    at.ok_or(Errno::NOENT)
}

/// What directories are made with; the process's umask takes away from it.
pub(crate) const DIR_MODE: Mode = Mode::from_raw_mode(0o755);

/// Looks at `name` without following it; `None` when it is not there.
pub(crate) fn lstat<P: rustix::path::Arg>(dir: impl AsFd, name: P) -> Result<Option<Stamp>, Errno> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(Stamp::of(&stat))),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Calls `each` with every name of a directory opened with [`LIST`], in no order; stops when it says so.
pub(crate) fn for_each_name<E: From<Errno>>(
    dir: impl AsFd,
    mut each: impl FnMut(&CStr) -> Result<(), E>,
) -> Result<(), E> {
    let mut buffer = [const { MaybeUninit::<u8>::uninit() }; 16 << 10];
    let mut names = RawDir::new(dir, &mut buffer);
    while let Some(entry) = names.next() {
        let entry = entry?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            each(name)?;
        }
    }
    Ok(())
}

/// Removes `name` and everything below it, following nothing. What is not there is removed.
pub(crate) fn remove_all(dir: BorrowedFd<'_>, name: &CStr, depth: usize) -> Result<(), Errno> {
    if depth > MAX_REMOVE_DEPTH {
        return Err(Errno::NAMETOOLONG);
    }
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // Linux says ISDIR, others PERM. A missing right shows again below.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error),
    }
    let open = || rustix::fs::openat(dir, name, LIST | OFlags::NOFOLLOW, Mode::empty());
    // Tasks leave directories that they made read-only.
    let below = match open() {
        Err(Errno::ACCESS) => unlock(dir, name).and_then(|()| open()),
        other => other,
    };
    let below = match below {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let mut names: Vec<CString> = Vec::new();
    for_each_name::<Errno>(&below, |name| {
        names.push(name.to_owned());
        Ok(())
    })?;
    let mut writable = false;
    for name in &names {
        match remove_all(below.as_fd(), name, depth + 1) {
            Err(Errno::ACCESS) if !writable => {
                writable = true;
                rustix::fs::fchmod(&below, Mode::RWXU)?;
                remove_all(below.as_fd(), name, depth + 1)?;
            }
            other => other?,
        }
    }
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Lets its owner do anything with the directory `name`, and with nothing that a link in its place leads to.
fn unlock(dir: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let fd = rustix::fs::openat(dir, name, SEARCH | OFlags::NOFOLLOW, Mode::empty())?;
    // A descriptor that only stands for a path is refused by `fchmod`.
    rustix::fs::chmod(format!("/proc/self/fd/{}", fd.as_raw_fd()), Mode::RWXU)
}

/// Whether `path` is a relative path of plain components.
pub(crate) fn is_plain(path: &str) -> bool {
    !path.contains('\0') && path.split('/').all(|name| !matches!(name, "" | "." | ".."))
}

/// A path's directory (empty for none) and last component.
pub(crate) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// A directory and a path below it as one.
pub(crate) fn join(dir: &str, rel: &str) -> String {
    match (dir, rel) {
        ("", path) | (path, "") => path.to_owned(),
        _ => [dir, "/", rel].concat(),
    }
}

/// Whether a link at `depth` directories below a root leads to a place inside it, whatever other such links there are.
///
/// `..` may only stand at its beginning: there the directories it leaves are real ones. After a name, which may
/// be a link itself, `..` leads to where that link's target is, which text does not say.
pub fn stays_inside(target: &str, depth: usize) -> bool {
    let mut names = target.split('/').filter(|name| !matches!(*name, "" | ".")).peekable();
    let mut up = 0;
    while names.next_if_eq(&"..").is_some() {
        up += 1;
    }
    !target.starts_with('/') && !target.is_empty() && up <= depth && names.all(|name| name != "..")
}

/// Reads a link's target; `None` when it is not text.
pub(crate) fn read_link<P: rustix::path::Arg>(dir: impl AsFd, name: P) -> Result<Option<Box<str>>, Errno> {
    let target = rustix::fs::readlinkat(dir, name, Vec::new())?;
    Ok(target.into_string().ok().map(String::into_boxed_str))
}

/// Whether content of this kind can be kept.
pub(crate) fn is_content(kind: FileKind) -> bool {
    matches!(kind, FileKind::File | FileKind::Symlink)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn links_are_judged_by_where_they_can_lead() {
        for (target, depth, inside) in [
            ("a", 0, true),
            ("./a/b", 0, true),
            ("..", 0, false),
            ("..", 1, true),
            ("../../x", 1, false),
            (".././x", 1, true),
            ("a/../b", 5, false),
            ("../a/..", 5, false),
            ("/", 5, false),
            ("/etc/passwd", 5, false),
            ("", 5, false),
            ("..a", 0, true),
        ] {
            assert_eq!(stays_inside(target, depth), inside, "{target:?} at {depth}");
        }
    }

    #[test]
    fn no_link_is_followed_on_the_way_down() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let outside = tempfile::tempdir().expect("temporary directory");
        std::fs::create_dir_all(dir.path().join("a/b")).expect("made");
        symlink(outside.path(), dir.path().join("a/out")).expect("made");
        symlink("b", dir.path().join("a/in")).expect("made");
        let root = open_root(dir.path()).expect("opens");
        type Open = fn(BorrowedFd<'_>, &str, OFlags) -> Result<OwnedFd, Errno>;
        for open in [|r, p, f| open_dir(r, p, f), open_by_component] as [Open; 2] {
            assert!(open(root.as_fd(), "a/b", SEARCH).is_ok());
            for bad in ["a/out", "a/in", "a/out/x"] {
                let found = open(root.as_fd(), bad, SEARCH).map(drop);
                assert!(matches!(found, Err(Errno::LOOP | Errno::NOTDIR)), "{bad}: {found:?}");
            }
        }
        assert!(make_dirs(root.as_fd(), "a/out/new").is_err());
        assert!(make_dirs(root.as_fd(), "x/y/z").is_ok());
        assert!(std::fs::read_dir(outside.path()).expect("lists").next().is_none(), "nothing was made outside");
    }

    #[test]
    fn paths_longer_than_the_kernel_takes_are_opened() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = open_root(dir.path()).expect("opens");
        let name = "é".repeat(120);
        let long = vec![name.as_str(); 40].join("/");
        assert!(long.len() > 9000);
        assert!(matches!(make_dirs(root.as_fd(), &long), Ok(_) | Err(Errno::NAMETOOLONG)));
        assert!(open_dir(&root, &long, SEARCH).is_ok());
        remove_all(root.as_fd(), &CString::new(name).expect("no NUL"), 0).expect("removed");
        assert!(std::fs::read_dir(dir.path()).expect("lists").next().is_none());
    }

    #[test]
    fn read_only_directories_are_removed_and_links_are_not_followed() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let outside = tempfile::tempdir().expect("temporary directory");
        std::fs::write(outside.path().join("keep"), "").expect("written");
        let old = dir.path().join("old/sub");
        std::fs::create_dir_all(&old).expect("made");
        std::fs::write(old.join("f"), "").expect("written");
        symlink(outside.path(), old.join("link")).expect("made");
        std::fs::set_permissions(&old, std::fs::Permissions::from_mode(0o555)).expect("set");
        let root = open_root(dir.path()).expect("opens");
        remove_all(root.as_fd(), c"old", 0).expect("removed");
        remove_all(root.as_fd(), c"old", 0).expect("what is not there is removed");
        assert!(!dir.path().join("old").exists() && outside.path().join("keep").exists());
    }
}
