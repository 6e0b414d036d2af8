//! The root directory that tasks see: what of this machine is shown, and the little that is made up.
//!
//! Knows system directories and a handful of files of `/etc`; unaware of tasks. What is there and why:
//! `docs/design/sandbox.md`, "What a task sees".

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Shown as they are, read-only: symbolic links as links, directories bound.
const SYSTEM: [&str; 10] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "opt", "nix/store", "gnu/store"];
/// Devices, bound one by one.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// Links in `/dev`. Shared memory is where other files of short life are.
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("shm", "/tmp"),
];
/// What is shown of this machine's `/etc`: how programs find libraries, each other, certificates and fonts. Nothing in it
/// names the machine or its people, or is theirs alone.
const ETC: [&str; 28] = [
    "alternatives",
    "ca-certificates",
    "crypto-policies",
    "debian_version",
    "fonts",
    "java",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "lsb-release",
    "magic",
    "mime.types",
    "nix",
    "openssl",
    "os-release",
    "perl",
    "pki/ca-trust",
    "pki/tls/certs",
    "pki/tls/openssl.cnf",
    "protocols",
    "python3",
    "services",
    "sgml",
    "ssl/certs",
    "ssl/openssl.cnf",
    "texmf",
    "xml",
];
/// Versions stand in the names of these.
const ETC_PREFIXES: [&str; 3] = ["java-", "python3.", "php"];
/// A directory with more files than this is bound; copying fewer costs less than one more mount for each task.
const COPIED_FILES: usize = 12;
/// Larger files are no configuration.
const COPIED_BYTES: u64 = 4 << 20;

/// Who a task is, whoever runs quipu.
pub(super) const UID: u32 = 1000;

/// The same for everybody.
const MADE_UP: [(&str, &str); 4] = [
    (
        "passwd",
        "root:x:0:0:root:/:/bin/sh\nquipu:x:1000:1000:quipu:/home:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    ),
    ("group", "root:x:0:\nquipu:x:1000:\nnogroup:x:65534:\n"),
    ("hosts", "127.0.0.1 localhost quipu\n::1 localhost quipu\n"),
    ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\nprotocols: files\nservices: files\n"),
];

/// What has to be bound into a root directory.
pub(super) struct Skeleton {
    /// From a path of this machine to a path relative to the root; directories with all below them.
    pub(super) binds: Vec<(PathBuf, PathBuf)>,
}

impl Skeleton {
    /// Makes a template's root at `top`, which is not there yet; what tasks will see as their root is `root` in it.
    pub(super) fn create(top: &Path) -> io::Result<Self> {
        fs::create_dir(top)?;
        let root = &top.join("root");
        for dir in ["", "dev", "etc", "home", "proc", "tmp", "ws"] {
            fs::create_dir(root.join(dir))?;
        }
        let mut binds = Vec::new();
        for name in SYSTEM {
            let (host, here) = (Path::new("/").join(name), root.join(name));
            match fs::symlink_metadata(&host) {
                Ok(found) if found.is_symlink() => symlink(fs::read_link(&host)?, &here)?,
                Ok(found) if found.is_dir() => {
                    fs::create_dir_all(&here)?;
                    binds.push((host, name.into()));
                }
                _ => {}
            }
        }
        for name in DEVICES {
            let path = Path::new("dev").join(name);
            if Path::new("/").join(&path).exists() {
                fs::write(root.join(&path), "")?;
                binds.push((Path::new("/").join(&path), path));
            }
        }
        for (name, target) in DEVICE_LINKS {
            symlink(target, root.join("dev").join(name))?;
        }
        etc(&root.join("etc"), &mut binds)?;
        Ok(Self { binds })
    }
}

fn etc(etc: &Path, binds: &mut Vec<(PathBuf, PathBuf)>) -> io::Result<()> {
    let host = Path::new("/etc");
    let listing = fs::read_dir(host).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let versioned = listing.filter(|name| ETC_PREFIXES.iter().any(|p| name.to_string_lossy().starts_with(p)));
    for name in ETC.into_iter().map(PathBuf::from).chain(versioned.map(PathBuf::from)) {
        let (from, to) = (host.join(&name), etc.join(&name));
        if fs::symlink_metadata(&to).is_ok() || fs::symlink_metadata(&from).is_err() {
            continue;
        }
        fs::create_dir_all(to.parent().expect("below /etc"))?;
        if fs::symlink_metadata(&from)?.is_dir() && files_in(&from, COPIED_FILES + 1) > COPIED_FILES {
            fs::create_dir(&to)?;
            binds.push((from, Path::new("etc").join(&name)));
        } else {
            copy(&from, &to);
        }
    }
    symlink("/proc/self/mounts", etc.join("mtab"))?;
    fs::write(etc.join("resolv.conf"), "")?;
    for (name, text) in MADE_UP {
        fs::write(etc.join(name), text)?;
    }
    Ok(())
}

/// How many files and links there are, as far as that is below `enough`.
fn files_in(dir: &Path, enough: usize) -> usize {
    let mut count = 0;
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        count += if entry.file_type().is_ok_and(|t| t.is_dir()) { files_in(&entry.path(), enough) } else { 1 };
        if count >= enough {
            break;
        }
    }
    count
}

/// Copies what everybody may read, links as links. What cannot be copied is left out: tasks that need it fail by its name.
fn copy(from: &Path, to: &Path) {
    let Ok(found) = fs::symlink_metadata(from) else { return };
    let everybody = found.permissions().mode() & 0o4 != 0;
    if found.is_symlink() {
        let Ok(target) = fs::read_link(from) else { return };
        let target = from.parent().unwrap_or(from).join(target);
        // A link out of what is shown leads nowhere in the sandbox: the file itself is copied.
        if SYSTEM.iter().any(|s| target.starts_with(Path::new("/").join(s))) || target.starts_with("/etc") {
            let _ = symlink(target, to);
        } else if let Ok(real) = fs::canonicalize(from) {
            copy(&real, to);
        }
    } else if found.is_dir() && everybody {
        if DirBuilder::new().mode(0o755).create(to).is_ok() {
            for entry in fs::read_dir(from).into_iter().flatten().flatten() {
                copy(&entry.path(), &to.join(entry.file_name()));
            }
        }
    } else if found.is_file() && everybody && found.len() <= COPIED_BYTES {
        let _ = fs::copy(from, to);
    }
}
