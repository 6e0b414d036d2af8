//! What a directory is on: which file system, whether over a network, and what it can do.
//!
//! Tries things out beside the directory and takes them away again. Unaware of stores and of what is done about it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long file times are watched at most.
const PATIENCE: Duration = Duration::from_millis(60);

/// Numbers of `statfs` and what they are called.
const NETWORK: [(u64, &str); 12] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xfe53_4d42, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0x0102_1997, "9P"),
    (0x6573_5546, "FUSE"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
    (0x00c3_6400, "Ceph"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x7375_7245, "Coda"),
];

/// The kind of network file system that `dir`, or what is to hold it, is on.
pub(crate) fn network(dir: &Path) -> Option<&'static str> {
    let found = dir.ancestors().find_map(|dir| rustix::fs::statfs(dir).ok())?;
    // Signed and of different widths on different machines: the lower half has it all.
    kind(found.f_type as u64 & 0xffff_ffff)
}

fn kind(number: u64) -> Option<&'static str> {
    NETWORK.iter().find(|(known, _)| *known == number).map(|(_, name)| *name)
}

/// What is known of it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Medium {
    /// The file system's name, as far as it can be told.
    pub kind: String,
    /// The kind of network it answers over.
    pub network: Option<&'static str>,
    /// What may still be written.
    pub free_bytes: u64,
    /// Whether files can share what they hold.
    pub reflink: io::Result<()>,
    /// The smallest difference that was seen between times of files.
    pub grain: Option<Duration>,
}

/// Looks at what `dir` is on, or will be when it is made. An error says that nothing can be written there.
pub fn look(dir: &Path) -> io::Result<Medium> {
    let dir = dir.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("/"));
    let (from, to) = (Probe::new(dir, "a")?, Probe::new(dir, "b")?);
    let space = rustix::fs::statvfs(dir)?;
    // Long enough for file systems that keep short files elsewhere.
    (&from.file).write_all(&[7; 1 << 16])?;
    let reflink = rustix::fs::ioctl_ficlone(&to.file, &from.file).map_err(io::Error::from);
    Ok(Medium {
        kind: name(dir).unwrap_or_else(|| "unknown".to_owned()),
        network: network(dir),
        free_bytes: space.f_bavail.saturating_mul(space.f_frsize),
        reflink,
        grain: grain(&from.file)?,
    })
}

/// A file that is gone when this is dropped.
struct Probe {
    path: PathBuf,
    file: File,
}

impl Probe {
    fn new(dir: &Path, name: &str) -> io::Result<Self> {
        let path = dir.join(format!(".quipu-probe-{}-{name}", std::process::id()));
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
        Ok(Self { path, file })
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// The name of the file system that `dir` is on, from the list of mounts.
fn name(dir: &Path) -> Option<String> {
    let dir = dir.canonicalize().ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mounts = mounts.lines().filter_map(|line| {
        let (place, rest) = (line.split(' ').nth(4)?, line.split_once(" - ")?.1);
        dir.starts_with(place).then(|| (place.len(), rest.split(' ').next().unwrap_or_default().to_owned()))
    });
    // Of several at one place the last one is seen.
    mounts.max_by_key(|(len, _)| *len).map(|(_, name)| name)
}

fn grain(file: &File) -> io::Result<Option<Duration>> {
    let time = || file.metadata().map(|m| Duration::new(m.mtime().unsigned_abs(), m.mtime_nsec() as u32));
    let begun = Instant::now();
    let (mut least, mut before) = (None::<Duration>, time()?);
    while begun.elapsed() < PATIENCE {
        (&mut &*file).write_all(b"x")?;
        let now = time()?;
        if now > before {
            least = Some(least.map_or(now - before, |least| least.min(now - before)));
            before = now;
        }
    }
    Ok(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_are_known_by_number() {
        assert_eq!(kind(0x6969), Some("NFS"));
        assert_eq!(kind(0xff53_4d42), Some("CIFS"));
        // ext4, XFS, btrfs, tmpfs, overlay.
        for local in [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630] {
            assert_eq!(kind(local), None);
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(network(&dir.path().join("not/there/yet")), network(dir.path()));
    }

    #[test]
    fn what_was_tried_is_gone_and_what_is_not_there_is_looked_at_where_it_will_be() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let found = look(&dir.path().join("not/there/yet")).expect("is writable");
        assert!(found.free_bytes > 0 && !found.kind.is_empty(), "{found:?}");
        assert_eq!(fs::read_dir(dir.path()).expect("is listed").count(), 0);
        assert!(look(Path::new("/proc/self")).is_err(), "nothing can be written there");
    }
}
