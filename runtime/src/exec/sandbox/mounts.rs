//! What is mounted where, in order: for all tasks of a cell, and for one task.
//!
//! Knows paths on this machine, in the cells and in what tasks see; unaware of processes.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustc_hash::FxHashSet;

use super::EnterError;
use super::cell::{Bind, Template};
use super::child::Op;
use super::skeleton::{self, Skeleton};
use super::view::{self, Ground, Seen, View};
use crate::path::parent;

/// Paths of this machine as they are in a template, where tasks cannot see them.
pub(super) struct Hidden(pub(super) Vec<(PathBuf, &'static str)>);

impl Hidden {
    /// Where `host` is; nowhere when none of the directories that are bound holds it.
    pub(super) fn path(&self, host: &Path) -> Option<PathBuf> {
        self.0.iter().find_map(|(base, name)| Some(Path::new("q").join(name).join(host.strip_prefix(base).ok()?)))
    }

    /// What `hidden` is on this machine.
    pub(super) fn host(&self, hidden: &Path) -> PathBuf {
        let found = self
            .0
            .iter()
            .find_map(|(base, name)| Some(base.join(hidden.strip_prefix(Path::new("q").join(name)).ok()?)));
        found.unwrap_or_else(|| hidden.to_owned())
    }
}

pub(super) fn c_string(bytes: impl AsRef<[u8]>) -> Result<CString, EnterError> {
    CString::new(bytes.as_ref()).map_err(|e| EnterError::Nul(String::from_utf8_lossy(&e.into_vec()).into_owned()))
}

pub(super) fn c_path(path: &Path) -> Result<CString, EnterError> {
    c_string(path.as_os_str().as_bytes())
}

pub(super) fn bind(from: &Path, to: &Path, recursive: bool) -> Result<Bind, EnterError> {
    Ok(Bind { from: c_path(from)?, to: c_path(to)?, recursive })
}

/// What the mounts of all tasks have in common. `bases` are bound where tasks cannot see them.
pub(super) fn template(
    root: &Path,
    skeleton: &Skeleton,
    bases: &[(PathBuf, &str)],
    network: bool,
) -> Result<Template, EnterError> {
    let mut binds = Vec::new();
    // First, while little is mounted: these may hold the root itself. Other mounts below the workspace are shown with it.
    let mut writable = Vec::new();
    for (host, name) in bases {
        let to = Path::new("q").join(name);
        binds.push(bind(host, &to, *name == "ws")?);
        if *name == "scratch" {
            writable.push(c_path(&to)?);
        }
    }
    // A mount of its own, so that its attributes are its own.
    binds.push(bind(Path::new("root"), Path::new("root"), false)?);
    for (from, to) in &skeleton.binds {
        binds.push(bind(from, &Path::new("root").join(to), !to.starts_with("dev"))?);
    }
    if network {
        for name in ["etc/resolv.conf", "etc/hosts"] {
            // Often a link to where the sandbox shows nothing.
            if let Ok(real) = std::fs::canonicalize(Path::new("/").join(name)) {
                binds.push(bind(&real, &Path::new("root").join(name), false)?);
            }
        }
    }
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    Ok(Template {
        uid_map: format!("{} {uid} 1", skeleton::UID).into_bytes(),
        gid_map: format!("{} {gid} 1", skeleton::UID).into_bytes(),
        root: c_path(root)?,
        binds,
        writable,
    })
}

/// What is mounted for the task alone, in order. `room` is where outputs are written, when there are any.
pub(super) fn ops(shown: &Hidden, view: &View, room: Option<&Path>) -> Result<Vec<Op>, EnterError> {
    let hidden = |host: &Path| {
        let not_shown =
            || EnterError::Refused(format!("sandbox: `{}` lies outside of workspace and store", host.display()));
        shown.path(host).ok_or_else(not_shown)
    };
    let (memory, ws) = (Path::new("q/in"), Path::new("root/ws"));
    let mut ops = vec![Op::Memory(c_path(memory)?)];
    for name in ["tmp", "home", "ws"] {
        ops.push(Op::Dir(c_path(&memory.join(name))?));
    }
    let whole = room.filter(|_| view.disk.contains(""));
    let top = whole.map_or_else(|| Ok(memory.join("ws")), &hidden)?;
    ops.push(Op::Bind(bind(&top, ws, false)?));
    let mut made = FxHashSet::default();
    let mut make = |ops: &mut Vec<Op>, path| {
        // What is on disk is there already.
        for dir in view::new_dirs(path, &mut made).into_iter().filter(|dir| view.ground(parent(dir)) != Ground::Disk) {
            ops.push(Op::Dir(c_path(&ws.join(dir))?));
        }
        Ok::<_, EnterError>(())
    };
    // Before what lies in them.
    for dir in view.disk.iter().filter(|dir| !dir.is_empty()) {
        make(&mut ops, dir)?;
        let room = room.expect("there is one where there are directories on disk");
        ops.push(Op::Bind(bind(&hidden(&room.join(dir))?, &ws.join(dir), false)?));
    }
    for (index, dir) in view.still.iter().enumerate() {
        make(&mut ops, dir)?;
        let place = if view.ground(parent(dir)) == Ground::Disk {
            let place = memory.join(index.to_string());
            ops.push(Op::Dir(c_path(&place)?));
            place
        } else {
            ws.join(dir)
        };
        ops.push(Op::Bind(bind(&place, &ws.join(dir), false)?));
    }
    for dir in view.dirs.iter().filter(|dir| view.holder(dir).is_none()) {
        make(&mut ops, dir)?;
    }
    for (path, seen) in &view.seen {
        let to = ws.join(path);
        let on_disk = view.ground(parent(path)) == Ground::Disk;
        make(&mut ops, if matches!(seen, Seen::Dir(_)) { path } else { parent(path) })?;
        match seen {
            Seen::File(host) => {
                if !on_disk {
                    ops.push(Op::File(c_path(&to)?));
                }
                ops.push(Op::Bind(bind(&hidden(host)?, &to, false)?));
            }
            Seen::Dir(host) => ops.push(Op::Bind(bind(&hidden(host)?, &to, true)?)),
            Seen::Link(target) if !on_disk => ops.push(Op::Link { target: c_path(target)?, path: c_path(&to)? }),
            Seen::Link(_) => {}
        }
    }
    ops.push(Op::ReadOnly(c"root".to_owned()));
    ops.push(Op::Writable(c_path(ws)?));
    for dir in view.disk.iter().filter(|dir| !dir.is_empty()) {
        ops.push(Op::Writable(c_path(&ws.join(dir))?));
    }
    for name in ["tmp", "home"] {
        ops.push(Op::Bind(bind(&memory.join(name), &Path::new("root").join(name), false)?));
    }
    Ok(ops)
}
