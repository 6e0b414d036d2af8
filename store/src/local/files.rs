//! Large blocks as files: written beside, then renamed; read back at their size; set aside when damaged.
//!
//! Knows paths and bytes; unaware of the index, of commits and of what the content means.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::broken::is_broken;
use super::fault::Faults;
use super::layout::Layout;
use crate::cid::{BlobId, Link};
use crate::terms::Take;

const CHUNK_BYTES: usize = 128 << 10;

/// The files of a store.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) layout: Layout,
    faults: Faults,
    made: AtomicU64,
}

/// A file in `tmp/` on its way into `blobs/`, deleted unless it gets there.
#[derive(Debug)]
pub(crate) struct Staged<'a> {
    files: &'a Files,
    path: PathBuf,
    pub(crate) id: BlobId,
    pub(crate) size: u64,
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Files {
    pub(crate) fn new(layout: Layout, faults: Faults) -> Self {
        Self { layout, faults, made: AtomicU64::new(0) }
    }

    fn temp(&self) -> PathBuf {
        let n = self.made.fetch_add(1, Relaxed);
        // The address tells apart two stores open in one process.
        self.layout.tmp().join(format!("{}-{:x}-{n}", std::process::id(), std::ptr::from_ref(self).addr()))
    }

    /// Writes bytes whose id the caller computed.
    pub(crate) fn write(&self, link: Link, bytes: &[u8]) -> io::Result<()> {
        let temp = self.temp();
        let staged = Staged { files: self, path: temp, id: BlobId::from_digest(link.digest), size: bytes.len() as u64 };
        self.faults.check("open")?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o444).open(&staged.path)?;
        let (first, second) = bytes.split_at(bytes.len() / 2);
        for part in [first, second] {
            self.faults.check("write")?;
            file.write_all(part)?;
        }
        staged.place(link)
    }

    /// Takes a file into `tmp/` and computes its id from what arrived there.
    pub(crate) fn stage(&self, path: &Path, source: &File, take: Take) -> io::Result<Staged<'_>> {
        let mut staged = Staged { files: self, path: self.temp(), id: BlobId::from_digest([0; 32]), size: 0 };
        if take == Take::Move && source.metadata()?.nlink() == 1 {
            self.faults.check("rename")?;
            match fs::rename(path, &staged.path) {
                Ok(()) => {
                    fs::set_permissions(&staged.path, fs::Permissions::from_mode(0o444))?;
                    (staged.id, staged.size) = hash(&mut File::open(&staged.path)?)?;
                    return Ok(staged);
                }
                Err(e) if e.kind() == io::ErrorKind::CrossesDevices => {}
                Err(e) => return Err(e),
            }
        }
        self.faults.check("open")?;
        let mut file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o444).open(&staged.path)?;
        self.faults.check("write")?;
        if rustix::fs::ioctl_ficlone(&file, source).is_ok() {
            (staged.id, staged.size) = hash(&mut file)?;
        } else {
            (staged.id, staged.size) = copy(source, &mut file)?;
        }
        Ok(staged)
    }

    /// Size of a block's file; `None` when it is gone.
    pub(crate) fn size(&self, link: Link) -> io::Result<Option<u64>> {
        match fs::symlink_metadata(self.layout.blob(link)) {
            Ok(meta) if meta.is_file() => Ok(Some(meta.len())),
            Ok(_) => Ok(None),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// At most so many bytes of a block's file.
    pub(crate) fn read(&self, link: Link, limit_bytes: u64) -> io::Result<Option<Vec<u8>>> {
        let file = match File::open(self.layout.blob(link)) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut bytes = Vec::with_capacity(usize::try_from(limit_bytes.min(1 << 30)).unwrap_or(0));
        match file.take(limit_bytes).read_to_end(&mut bytes) {
            Ok(_) => Ok(Some(bytes)),
            // A medium that fails to read it back: the same as other bytes, to be made again.
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => Ok(Some(bytes)),
            Err(e) => Err(e),
        }
    }

    /// Whether a block's file holds what its id says.
    pub(crate) fn matches(&self, link: Link) -> io::Result<bool> {
        Ok(hash(&mut File::open(self.layout.blob(link))?)?.0.digest() == &link.digest)
    }

    /// Moves a file out of use, for a person to look at.
    pub(crate) fn quarantine(&self, path: &Path) -> io::Result<Option<PathBuf>> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let to = (0_u32..).map(|n| self.layout.quarantine().join(format!("{name}.{n}"))).find(|p| !p.exists());
        let to = to.expect("there are more numbers than files");
        self.faults.check("rename")?;
        match fs::rename(path, &to) {
            Ok(()) => Ok(Some(to)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Deletes a file that nothing names any more; one that is gone already is no error.
    pub(crate) fn delete(&self, path: &Path) -> io::Result<()> {
        self.faults.check("delete")?;
        match fs::remove_file(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Every file in `blobs/` with its metadata, and its id where the name is one.
    pub(crate) fn list(&self) -> io::Result<Vec<(PathBuf, Option<Link>, fs::Metadata)>> {
        let mut found = Vec::new();
        let top = match fs::read_dir(self.layout.blobs()) {
            Ok(top) => top,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(found),
            Err(e) => return Err(e),
        };
        for dir in top {
            let dir = dir?;
            if !dir.file_type()?.is_dir() {
                found.push((dir.path(), None, dir.metadata()?));
                continue;
            }
            for entry in fs::read_dir(dir.path())? {
                let entry = entry?;
                let link = entry.file_name().to_str().and_then(|n| n.parse::<Link>().ok());
                let link = link.filter(|l| self.layout.blob(*l) == entry.path());
                match entry.metadata() {
                    Ok(meta) => found.push((entry.path(), link, meta)),
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(found)
    }
}

impl Staged<'_> {
    /// Puts the file where its id says. One that is there already is replaced: it may be torn, and nobody
    /// who reads it now minds.
    pub(crate) fn place(self, link: Link) -> io::Result<()> {
        let to = self.files.layout.blob(link);
        self.files.faults.check("rename")?;
        if is_broken("blobs-first") {
            return late(self, to);
        }
        match fs::rename(&self.path, &to) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(to.parent().expect("blobs are two levels down"))?;
                fs::rename(&self.path, &to)
            }
            // Nothing of ours, and in the way.
            Err(e) if matches!(e.kind(), io::ErrorKind::IsADirectory | io::ErrorKind::DirectoryNotEmpty) => {
                self.files.quarantine(&to)?;
                fs::rename(&self.path, &to)
            }
            other => other,
        }
    }
}

/// The name appears some time after the row that says it is there.
fn late(staged: Staged<'_>, to: PathBuf) -> io::Result<()> {
    let from = staged.path.clone();
    std::mem::forget(staged);
    std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        fs::create_dir_all(to.parent().expect("blobs are two levels down"))?;
        fs::rename(from, to)
    });
    Ok(())
}

/// Id and length of what is left of a file.
pub(crate) fn hash(file: &mut File) -> io::Result<(BlobId, u64)> {
    copy_into(file, |_| Ok(()))
}

fn copy(source: &File, target: &mut File) -> io::Result<(BlobId, u64)> {
    copy_into(source, |bytes| target.write_all(bytes))
}

fn copy_into(mut source: &File, mut sink: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<(BlobId, u64)> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0_u8; CHUNK_BYTES];
    let mut size = 0;
    loop {
        let n = match source.read(&mut buffer) {
            Ok(0) => return Ok((BlobId::from_digest(*hasher.finalize().as_bytes()), size)),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        hasher.update(&buffer[..n]);
        sink(&buffer[..n])?;
        size += n as u64;
    }
}
