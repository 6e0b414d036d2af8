//! A task's own directory on the store's file system: places for inputs when it starts, outputs when it ends.
//!
//! Knows what was put there before the task ran; unaware of mounts.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use quipu_store::Store;

use crate::exec::capture::ScratchDir;
use crate::exec::workspace::remove_dir;

/// Directories that tasks have left, empty again. Making and deleting directories is what disks are slow at.
pub(super) struct Rooms {
    store: Store,
    idle: Mutex<Vec<ScratchDir>>,
}

impl Rooms {
    /// None yet.
    pub(super) fn new(store: &Store) -> Self {
        Self { store: store.clone(), idle: Mutex::default() }
    }

    /// An empty one.
    pub(super) fn take(&self) -> io::Result<Room> {
        if let Some(scratch) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Ok(Room { scratch, once: false });
        }
        Ok(Room { once: false, ..self.fresh()? })
    }

    /// A new one, which is not given back.
    pub(super) fn fresh(&self) -> io::Result<Room> {
        let room = Room { scratch: ScratchDir::new(&self.store)?, once: true };
        // Nobody else on this machine has any business with what tasks write, above all not while they do.
        fs::set_permissions(room.scratch.path(), fs::Permissions::from_mode(0o700))?;
        fs::create_dir(room.ws())?;
        Ok(room)
    }

    /// Empties one for the next task. One that cannot be emptied is not used again.
    pub(super) fn give_back(&self, room: Room) {
        if !room.once && room.clear().is_ok() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(room.scratch);
        }
    }
}

/// The directory of one task.
pub(super) struct Room {
    scratch: ScratchDir,
    /// For one task only.
    once: bool,
}

impl Room {
    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        self.scratch.path()
    }

    /// What stands for the workspace in it.
    pub(super) fn ws(&self) -> PathBuf {
        self.scratch.path().join("ws")
    }

    fn clear(&self) -> io::Result<()> {
        // The task may have changed what may be done with it.
        fs::set_permissions(self.ws(), fs::Permissions::from_mode(0o755))?;
        for entry in fs::read_dir(self.ws())? {
            let entry = entry?;
            if entry.file_type()?.is_dir() { remove_dir(&entry.path()) } else { fs::remove_file(entry.path()) }?;
        }
        Ok(())
    }
}
