//! A sandbox over all of the workspace: everything in it can be read, and what is written lands elsewhere.
//!
//! For learning what a task touches, never for results. Knows what to mount; unaware of tracing.

use std::fs;
use std::path::Path;

use rustc_hash::FxHashSet;

use super::child::Op;
use super::mounts::{bind, c_path, c_string};
use super::view::{Seen, View, new_dirs};
use super::{Enter, EnterError, Entered, Sandbox, io_at};
use crate::path::parent;

impl Sandbox {
    /// Makes a place ready in which a task sees the workspace as it is on disk, with what other tasks made over it.
    pub(crate) fn enter_over<'a>(&'a self, task: &Enter<'a>) -> Result<Entered<'a>, EnterError> {
        let artifacts = task.artifacts.iter().map(|(path, entry)| Ok((*path, self.input(path, entry)?)));
        let artifacts = artifacts.collect::<Result<Vec<_>, EnterError>>()?;
        // Not one of those that are used again: what is in it is not for other tasks.
        let room = self.rooms.fresh().map_err(io_at("scratch directory"))?;
        let work = room.path().join("work");
        fs::create_dir(&work).map_err(io_at("scratch directory"))?;
        let hidden = |host: &Path| {
            let path = self.hidden.path(host);
            path.ok_or_else(|| EnterError::Refused(format!("sandbox: `{}` is not shown in it", host.display())))
        };
        let layers = |upper: &Path, work: &Path| {
            let (upper, work) = (upper.display(), work.display());
            c_string(format!("lowerdir=q/ws,upperdir={upper},workdir={work},userxattr"))
        };
        let (memory, ws) = (Path::new("q/in"), Path::new("root/ws"));
        let mut ops = vec![Op::Memory(c_path(memory)?)];
        for name in ["tmp", "home", "upper", "work"] {
            ops.push(Op::Dir(c_path(&memory.join(name))?));
        }
        // Not every file system can be written to in this manner; memory always can.
        let on_disk = layers(&hidden(&room.ws())?, &hidden(&work)?)?;
        let in_memory = layers(&memory.join("upper"), &memory.join("work"))?;
        ops.push(Op::Layers { ways: vec![on_disk, in_memory], path: c_path(ws)? });
        let mut made = FxHashSet::default();
        for (path, seen) in &artifacts {
            place(task.workspace, path, seen, &mut made, &mut ops)?;
            match seen {
                Seen::File(host) => ops.push(Op::Bind(bind(&hidden(host)?, &ws.join(path), false)?)),
                Seen::Dir(host) => ops.push(Op::Bind(bind(&hidden(host)?, &ws.join(path), true)?)),
                Seen::Link(_) => {}
            }
        }
        ops.push(Op::ReadOnly(c"root".to_owned()));
        ops.push(Op::Writable(c_path(ws)?));
        for name in ["tmp", "home"] {
            ops.push(Op::Bind(bind(&memory.join(name), &Path::new("root").join(name), false)?));
        }
        self.entered(task, View::default(), Some(room), ops)
    }
}

/// Makes a place for something that other tasks made, unless the workspace has one.
fn place<'p>(
    workspace: &Path,
    path: &'p str,
    seen: &Seen,
    made: &mut FxHashSet<&'p str>,
    ops: &mut Vec<Op>,
) -> Result<(), EnterError> {
    let ws = Path::new("root/ws");
    for dir in new_dirs(parent(path), made) {
        if fs::symlink_metadata(workspace.join(dir)).is_err() {
            ops.push(Op::Dir(c_path(&ws.join(dir))?));
        }
    }
    let there = fs::symlink_metadata(workspace.join(path)).map(|found| found.file_type());
    let in_the_way = || EnterError::Refused(format!("`{path}` in the workspace is not what another task makes there"));
    match (seen, there) {
        (Seen::File(_), Ok(found)) if found.is_file() => {}
        (Seen::Dir(_), Ok(found)) if found.is_dir() => {}
        (Seen::Link(target), Ok(found)) if found.is_symlink() => {
            if fs::read_link(workspace.join(path)).ok().as_ref() != Some(target) {
                return Err(in_the_way());
            }
        }
        (_, Ok(_)) => return Err(in_the_way()),
        (Seen::File(_), Err(_)) => ops.push(Op::File(c_path(&ws.join(path))?)),
        (Seen::Dir(_), Err(_)) => {
            made.insert(path);
            ops.push(Op::Dir(c_path(&ws.join(path))?));
        }
        (Seen::Link(target), Err(_)) => {
            ops.push(Op::Link { target: c_path(target)?, path: c_path(&ws.join(path))? });
        }
    }
    Ok(())
}
