//! A task's own directory on the store's file system: places for inputs when it starts, outputs when it ends.
//!
//! Knows what was put there before the task ran; unaware of mounts.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use quipu_store::Store;
use quipu_store::fenced::{Bare, Fenced};

use super::view::View;
use crate::exec::capture::ScratchDir;

/// Directories that tasks have left, to be used again. Making and deleting directories is what disks are slow at.
pub(super) struct Rooms {
    store: Store,
    idle: Mutex<Vec<Room>>,
}

impl Rooms {
    /// None yet.
    pub(super) fn new(store: &Store) -> Arc<Self> {
        Arc::new(Self { store: store.clone(), idle: Mutex::default() })
    }

    /// One in which there is nothing but some or all of the directories `wanted`.
    pub(super) fn take(&self, wanted: &BTreeSet<String>) -> io::Result<Room> {
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(mut room) = idle else { return Ok(Room { once: false, ..self.fresh()? }) };
            if room.cleared && room.dirs.is_subset(wanted) {
                return Ok(room);
            }
            room.dirs.retain(|dir| wanted.contains(dir));
            // One that cannot be emptied is not used again.
            if room.clear() {
                return Ok(room);
            }
        }
    }

    /// A new one, which is not given back.
    pub(super) fn fresh(&self) -> io::Result<Room> {
        let scratch = ScratchDir::new(&self.store)?;
        // Nobody else on this machine has any business with what tasks write, above all not while they do.
        fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o700))?;
        let ws = ws(&scratch);
        fs::create_dir(&ws)?;
        fs::set_permissions(&ws, fs::Permissions::from_mode(0o755))?;
        let new = Fenced::open(&ws)?.bare()?;
        Ok(Room { scratch, new, dirs: BTreeSet::new(), cleared: true, once: true })
    }

    /// Takes one back in which no outputs wait.
    pub(super) fn give_back(&self, mut room: Room) {
        if !room.once && room.clear() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(room);
        }
    }
}

/// The directory of one task.
pub(super) struct Room {
    scratch: ScratchDir,
    /// How directories in it look that are new.
    new: Bare,
    /// Directories that were made in it.
    dirs: BTreeSet<String>,
    /// Whether there is nothing else in it.
    cleared: bool,
    /// For one task only.
    once: bool,
}

fn ws(scratch: &ScratchDir) -> PathBuf {
    scratch.path().join("ws")
}

impl Room {
    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        self.scratch.path()
    }

    /// What stands for the workspace in it.
    pub(super) fn ws(&self) -> PathBuf {
        ws(&self.scratch)
    }

    /// Removes what is in it but for directories on which no task has left anything; says whether it can be used again.
    fn clear(&mut self) -> bool {
        let renewed = Fenced::open(&self.ws()).and_then(|ws| ws.renew(&self.dirs, &self.new));
        let kept = renewed.unwrap_or(None);
        self.cleared = kept.is_some();
        self.dirs = kept.unwrap_or_default();
        self.cleared
    }

    /// Makes what a task is to find in it.
    pub(super) fn furnish(&mut self, view: &View, empty: &Path) -> io::Result<()> {
        self.cleared = false;
        view.make(&self.ws(), empty, &self.dirs)?;
        self.dirs = view.dirs_on_disk();
        Ok(())
    }
}

/// A room that a task has left and in which its outputs wait. It is used again when this is dropped.
pub(crate) struct Left {
    room: Option<Room>,
    rooms: Arc<Rooms>,
}

impl Left {
    pub(super) fn new(room: Room, rooms: &Arc<Rooms>) -> Self {
        Self { room: Some(room), rooms: Arc::clone(rooms) }
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        // Whoever takes it clears it: who places outputs has others to see to.
        if let Some(room) = self.room.take().filter(|room| !room.once) {
            self.rooms.idle.lock().unwrap_or_else(PoisonError::into_inner).push(room);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, chown, symlink};

    use quipu_store::sign::Signer;
    use quipu_store::{Options, SignerSource};

    use super::*;

    fn names(dirs: &[&str]) -> BTreeSet<String> {
        dirs.iter().map(|dir| (*dir).to_owned()).collect()
    }

    fn taken(rooms: &Rooms, dirs: &[&str]) -> Room {
        let disk = dirs.iter().map(|dir| (*dir).to_owned()).collect();
        let view = View { disk, ..View::default() };
        let mut room = rooms.take(&view.dirs_on_disk()).expect("is taken");
        room.furnish(&view, Path::new("/nothing")).expect("is made");
        room
    }

    /// What a task sees of a directory, but for its times.
    fn seen(dir: &Path) -> (u32, u32, u32, u64, usize, usize) {
        let meta = dir.symlink_metadata().expect("is there");
        let attributes = rustix::fs::listxattr(dir, &mut [0_u8; 4096]).unwrap_or(0);
        let entries = fs::read_dir(dir).expect("is listed").count();
        (meta.mode(), meta.uid(), meta.gid(), meta.size(), attributes, entries)
    }

    #[test]
    fn what_a_task_leaves_on_a_directory_is_not_there_for_the_next_one() {
        type Spoil = fn(&Path) -> io::Result<()>;
        let spoils: [(&str, Spoil); 8] = [
            ("nothing", |_| Ok(())),
            ("files", |out| {
                fs::create_dir_all(out.join("deep/er"))?;
                fs::write(out.join("deep/er/f"), "")?;
                fs::set_permissions(out.join("deep"), fs::Permissions::from_mode(0o500))
            }),
            ("rights", |out| fs::set_permissions(out, fs::Permissions::from_mode(0o711))),
            ("no rights", |out| fs::set_permissions(out, fs::Permissions::from_mode(0o000))),
            ("an attribute", |out| {
                match rustix::fs::setxattr(out, "user.mark", b"x", rustix::fs::XattrFlags::empty()) {
                    Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
                    other => Ok(other?),
                }
            }),
            ("its size", |out| (0..3000).try_for_each(|n| fs::write(out.join(format!("{n:0>100}")), ""))),
            ("a link", |out| fs::remove_dir(out).and_then(|()| symlink("/", out))),
            (
                "an owner",
                |out| if rustix::process::geteuid().is_root() { chown(out, Some(1234), None) } else { Ok(()) },
            ),
        ];
        let store = Store::memory(Options::new(SignerSource::Fixed(Signer::from_secret(&[7; 32]))));
        for is_left in [false, true] {
            for (what, spoil) in spoils {
                let rooms = Rooms::new(&store);
                let room = taken(&rooms, &["out", "a/b"]);
                let out = room.ws().join("out");
                let (new, ino) = (seen(&out), out.symlink_metadata().expect("is there").ino());
                spoil(&out).expect("spoiled");
                if is_left {
                    drop(Left::new(room, &rooms));
                } else {
                    rooms.give_back(room);
                }
                let again = taken(&rooms, &["out", "a/b"]);
                assert_eq!(again.ws().join("out"), out, "{what}: rooms are used again");
                assert_eq!(seen(&out), new, "{what}");
                if matches!(what, "nothing" | "files") {
                    assert_eq!(out.symlink_metadata().expect("is there").ino(), ino, "{what}: and directories in them");
                }
                rooms.give_back(again);
                let other = taken(&rooms, &["a/c"]);
                assert_eq!(other.dirs, names(&["a", "a/c"]));
                let there = fs::read_dir(other.ws()).expect("is listed").flatten().map(|entry| entry.file_name());
                assert_eq!(there.collect::<Vec<_>>(), ["a"], "{what}: what another does not want is not there for it");
                assert_eq!(seen(&other.ws().join("a")).5, 1, "{what}");
            }
        }
        // What is done to the top is seen by nobody either.
        let rooms = Rooms::new(&store);
        let room = taken(&rooms, &["out"]);
        let top = room.ws();
        fs::set_permissions(&top, fs::Permissions::from_mode(0o700)).expect("set");
        rooms.give_back(room);
        assert_ne!(taken(&rooms, &["out"]).ws(), top);
    }
}
