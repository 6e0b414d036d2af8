//! Where a path leads, as the task sees it: from the directory it is relative to, through links, to a place.
//!
//! Knows `/proc` and the task's root; unaware of calls and of what is done with paths. What the task does meanwhile may
//! make an answer wrong, never unsafe: nothing is opened but scripts, and nothing is written.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use rustc_hash::FxHashSet;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};

use super::{Found, Place};
use crate::path::is_within;

/// As many as the kernel follows.
const MAX_LINKS: usize = 40;
/// Where a task sees its workspace.
const WORKSPACE: &str = "/ws";
/// Where links may lead into the workspace: what the task cannot write to has no such links.
const WRITABLE: [&str; 3] = [WORKSPACE, "/tmp", "/home"];
/// Directories that are remembered to be no links.
const MAX_DIRS: usize = 100_000;

/// A path followed to its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Followed {
    /// Links it came through, in the workspace.
    pub(super) links: Vec<String>,
    /// Where it leads.
    pub(super) place: Place,
    /// What is there.
    pub(super) found: Found,
}

/// The task's root directory.
pub(super) struct Root {
    dir: OwnedFd,
    /// What the kernel puts before paths of the task.
    prefix: String,
    /// Directories that were seen to be no links.
    dirs: FxHashSet<String>,
}

impl Root {
    /// The root of the process that `thread` belongs to.
    pub(super) fn of(thread: u32) -> io::Result<Self> {
        let link = format!("/proc/{thread}/root");
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(&link, flags, Mode::empty())?;
        let prefix = fs::read_link(&link)?.into_os_string().into_string();
        let prefix = prefix.map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        Ok(Self { dir, prefix: prefix.trim_end_matches('/').to_owned(), dirs: FxHashSet::default() })
    }

    /// The path that a descriptor of `thread`, or its working directory, was opened by; none where there is no such
    /// thing, or it is no path.
    pub(super) fn path_of(&self, thread: u32, fd: i32) -> Option<String> {
        let link = match fd {
            libc::AT_FDCWD => format!("/proc/{thread}/cwd"),
            fd if fd >= 0 => format!("/proc/{thread}/fd/{fd}"),
            _ => return None,
        };
        let path = fs::read_link(link).ok()?.into_os_string().into_string().ok()?;
        let path = path.strip_prefix(&self.prefix)?;
        let path = path.strip_suffix(" (deleted)").unwrap_or(path);
        match path {
            "" => Some("/".to_owned()),
            path => path.starts_with('/').then(|| path.to_owned()),
        }
    }

    /// Where `path` leads that is relative to `from`.
    pub(super) fn follow(&mut self, from: &str, path: &str, follow_last: bool) -> Followed {
        let follow_last = follow_last || path.ends_with('/');
        let mut left: VecDeque<String> = components(path);
        let mut at: Vec<String> = if path.starts_with('/') { vec![] } else { components(from).into() };
        let mut links = Vec::new();
        let mut followed = 0;
        let mut found = Found::Dir;
        while let Some(name) = left.pop_front() {
            if name == ".." {
                at.pop();
                found = Found::Dir;
                continue;
            }
            at.push(name);
            let here = joined(&at);
            let is_last = left.is_empty();
            if self.dirs.contains(&here) {
                found = Found::Dir;
                continue;
            }
            // Of the rest of the machine it is enough to know what programs there are.
            if !is_last && !is_of_interest(&here) {
                continue;
            }
            let Ok(stat) = rustix::fs::statat(&self.dir, &here[1..], AtFlags::SYMLINK_NOFOLLOW) else {
                at.extend(left.drain(..).filter(|name| name != ".."));
                found = Found::Nothing;
                break;
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    if self.dirs.len() < MAX_DIRS && is_of_interest(&here) {
                        self.dirs.insert(here);
                    }
                    found = Found::Dir;
                }
                FileType::Symlink if is_last && !follow_last => found = Found::File,
                FileType::Symlink => {
                    if let Place::Inside(link) = place(&here) {
                        links.push(link);
                    }
                    followed += 1;
                    let target = rustix::fs::readlinkat(&self.dir, &here[1..], Vec::new());
                    let Some(target) = target.ok().and_then(|t| t.into_string().ok()).filter(|_| followed <= MAX_LINKS)
                    else {
                        found = Found::Nothing;
                        break;
                    };
                    if target.starts_with('/') {
                        at.clear();
                    } else {
                        at.pop();
                    }
                    for name in components(&target).into_iter().rev() {
                        left.push_front(name);
                    }
                    found = Found::Dir;
                }
                _ if is_last => found = Found::File,
                // A file in the place of a directory.
                _ => {
                    at.extend(left.drain(..));
                    found = Found::Nothing;
                    break;
                }
            }
        }
        Followed { links, place: place(&joined(&at)), found }
    }

    /// The program that runs the script at `path`, if that is one.
    pub(super) fn interpreter(&self, path: &str) -> Option<String> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = rustix::fs::openat2(&self.dir, path, flags, Mode::empty(), ResolveFlags::IN_ROOT);
        let file = fs::File::from(file.ok()?);
        let mut start = Vec::new();
        file.metadata().ok().filter(fs::Metadata::is_file)?;
        file.take(256).read_to_end(&mut start).ok()?;
        let line = start.strip_prefix(b"#!")?.split(|b| *b == b'\n').next()?;
        let line = std::str::from_utf8(line).ok()?;
        line.split_whitespace().next().filter(|name| name.starts_with('/')).map(str::to_owned)
    }
}

fn components(path: &str) -> VecDeque<String> {
    path.split('/').filter(|name| !name.is_empty() && *name != ".").map(str::to_owned).collect()
}

fn joined(at: &[String]) -> String {
    if at.is_empty() { "/".to_owned() } else { at.iter().flat_map(|name| ["/", name]).collect() }
}

/// Whether links at or below `path` may lead into the workspace.
pub(super) fn is_of_interest(path: &str) -> bool {
    WRITABLE.iter().any(|dir| is_within(path, dir))
}

/// What `path`, in which no links are left, is to the task.
fn place(path: &str) -> Place {
    match path.strip_prefix(WORKSPACE) {
        Some("") => Place::Inside(String::new()),
        Some(rest) if rest.starts_with('/') => Place::Inside(rest[1..].to_owned()),
        _ => Place::Outside(path.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn paths_are_followed_as_the_task_sees_them() {
        let dir = tempfile::tempdir().expect("space left");
        let top = dir.path();
        fs::create_dir_all(top.join("ws/src/deep")).expect("made");
        fs::create_dir_all(top.join("tmp")).expect("made");
        fs::write(top.join("ws/src/a.c"), "").expect("written");
        symlink("src/../src", top.join("ws/alias")).expect("linked");
        symlink("/ws/src/a.c", top.join("tmp/far")).expect("linked");
        symlink("loop", top.join("ws/loop")).expect("linked");
        symlink("nowhere/x", top.join("ws/dangling")).expect("linked");
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let root = rustix::fs::open(top, flags, Mode::empty()).expect("opened");
        let mut root = Root { dir: root, prefix: String::new(), dirs: FxHashSet::default() };
        let mut check = |from: &str, path: &str, follow: bool, links: &[&str], at: &str, found: Found| {
            let place =
                at.strip_prefix('/').map_or_else(|| Place::Inside(at.to_owned()), |_| Place::Outside(at.to_owned()));
            let links = links.iter().map(|l| (*l).to_owned()).collect();
            assert_eq!(root.follow(from, path, follow), Followed { links, place, found }, "{path}");
        };
        check("/ws", "src/a.c", true, &[], "src/a.c", Found::File);
        check("/ws/src/deep", "../a.c", true, &[], "src/a.c", Found::File);
        check("/ws", ".", true, &[], "", Found::Dir);
        check("/ws", "alias/a.c", true, &["alias"], "src/a.c", Found::File);
        check("/ws", "alias", false, &[], "alias", Found::File);
        check("/ws", "alias/", false, &["alias"], "src", Found::Dir);
        check("/", "/tmp/far", true, &[], "src/a.c", Found::File);
        check("/ws", "src/none/x.h", true, &[], "src/none/x.h", Found::Nothing);
        check("/ws", "src/a.c/x", true, &[], "src/a.c/x", Found::Nothing);
        check("/ws", "dangling", true, &["dangling"], "nowhere/x", Found::Nothing);
        check("/ws", "../../etc/x", true, &[], "/etc/x", Found::Nothing);
        let looped = root.follow("/ws", "loop", true);
        assert_eq!((looped.found, looped.links.len()), (Found::Nothing, MAX_LINKS + 1));
    }

    #[test]
    fn scripts_name_their_interpreters() {
        let dir = tempfile::tempdir().expect("space left");
        let root = rustix::fs::open(dir.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).expect("opened");
        let root = Root { dir: root, prefix: String::new(), dirs: FxHashSet::default() };
        for (text, expect) in [
            ("#!/bin/sh\n", Some("/bin/sh")),
            ("#! /usr/bin/env python3\n", Some("/usr/bin/env")),
            ("\x7fELF", None),
            ("#!sh", None),
        ] {
            fs::write(dir.path().join("script"), text).expect("written");
            assert_eq!(root.interpreter("/script").as_deref(), expect);
        }
        assert_eq!(root.interpreter("/none"), None);
    }
}
