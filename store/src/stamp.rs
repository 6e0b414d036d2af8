//! What `lstat` says of a path, and when it can be relied on to tell that a file has changed.
//!
//! Knows the clock of files and its grain; unaware of content and of where stamps are kept.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FileType, Stat};

/// How much older than the look at it a file's times must be before an equal stamp means an equal file.
///
/// The kernel stamps files from a clock that moves once per timer tick: at most 10 ms (`HZ` = 100). A write that
/// follows our look within one tick can therefore leave the times as they are. Two ticks leave room for a look
/// that was itself delayed. Kernels with multigrain timestamps (6.13) do not need it, and cannot be told apart.
pub const MARGIN_NS: i64 = 20_000_000;

/// The margin where times look as if the file system rounds them: FAT keeps two seconds, ext3 and HFS+ one.
pub const COARSE_MARGIN_NS: i64 = 2_100_000_000;

/// Times that are both multiples of this are taken to be rounded (exFAT keeps 10 ms); by chance, one in 10^14.
const COARSE_GRAIN_NS: i64 = 10_000_000;

/// What kind of thing a path holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A block or character device.
    Device,
    /// Anything else the system may know.
    Unknown,
}

impl std::fmt::Display for FileKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::File => "a file",
            Self::Dir => "a directory",
            Self::Symlink => "a symbolic link",
            Self::Fifo => "a named pipe",
            Self::Socket => "a socket",
            Self::Device => "a device",
            Self::Unknown => "of an unknown kind",
        })
    }
}

/// Everything that changes when a file does, as far as `lstat` can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// Device the file is on.
    pub dev: u64,
    /// Its inode.
    pub ino: u64,
    /// Its length in bytes.
    pub size: u64,
    /// When its content was last written, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// When anything of it was last changed; programs cannot set this one.
    pub ctime_ns: i64,
    /// Whether its owner may execute it.
    pub mode_exec: bool,
    /// What it is.
    pub kind: FileKind,
}

impl Stamp {
    /// Takes what is of interest from a `stat`.
    // The fields' types differ between architectures.
    #[allow(clippy::unnecessary_cast, clippy::cast_lossless, reason = "not unnecessary everywhere")]
    pub fn of(stat: &Stat) -> Self {
        let kind = match FileType::from_raw_mode(stat.st_mode as _) {
            FileType::RegularFile => FileKind::File,
            FileType::Directory => FileKind::Dir,
            FileType::Symlink => FileKind::Symlink,
            FileType::Fifo => FileKind::Fifo,
            FileType::Socket => FileKind::Socket,
            FileType::BlockDevice | FileType::CharacterDevice => FileKind::Device,
            FileType::Unknown => FileKind::Unknown,
        };
        Self {
            dev: stat.st_dev as u64,
            ino: stat.st_ino as u64,
            size: stat.st_size as u64,
            mtime_ns: nanoseconds(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            ctime_ns: nanoseconds(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
            mode_exec: kind == FileKind::File && stat.st_mode & 0o100 != 0,
            kind,
        }
    }

    /// Whether every change after `looked_ns` is sure to change this stamp, which was taken after `looked_ns`.
    ///
    /// This is git's rule for "racily clean" entries: what was changed close to, or after, the moment it was looked
    /// at is not to be trusted. Times in the future never are.
    pub fn is_settled(&self, looked_ns: i64) -> bool {
        let coarse = self.mtime_ns % COARSE_GRAIN_NS == 0 && self.ctime_ns % COARSE_GRAIN_NS == 0;
        let margin_ns = if coarse { COARSE_MARGIN_NS } else { MARGIN_NS };
        self.mtime_ns.max(self.ctime_ns) < looked_ns.saturating_sub(margin_ns)
    }
}

fn nanoseconds(seconds: i64, rest: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

/// The clock that file times are taken from.
pub fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(mtime_ns: i64, ctime_ns: i64) -> Stamp {
        Stamp { dev: 1, ino: 2, size: 3, mtime_ns, ctime_ns, mode_exec: false, kind: FileKind::File }
    }

    #[test]
    fn only_what_is_older_than_the_margin_is_settled() {
        let at = 5_000_000_123;
        for (mtime, ctime, settled) in [
            (at, at, true),
            (at + MARGIN_NS, at, false),
            (at, at + MARGIN_NS, false),
            (i64::MAX, at, false),
            (at, i64::MAX, false),
            (-1, at, true),
        ] {
            assert_eq!(stamp(mtime, ctime).is_settled(at + MARGIN_NS + 1), settled, "{mtime} {ctime}");
        }
        assert!(!stamp(i64::MIN, i64::MIN).is_settled(i64::MIN), "bounds do not overflow");
    }

    #[test]
    fn rounded_times_need_the_wider_margin() {
        let at = 5_000_000_000;
        assert!(!stamp(at, at).is_settled(at + COARSE_MARGIN_NS));
        assert!(stamp(at, at).is_settled(at + COARSE_MARGIN_NS + 1));
        assert!(stamp(at, at + 1).is_settled(at + MARGIN_NS + 2));
    }
}
