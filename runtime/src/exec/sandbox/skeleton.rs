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
/// What is copied of this machine's `/etc`: how programs find libraries, each other, certificates and fonts. Nothing in it
/// names the machine or its people.
const ETC: [&str; 26] = [
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
    "pki/tls",
    "protocols",
    "python3",
    "services",
    "sgml",
    "ssl",
    "texmf",
    "xml",
];
/// Versions stand in the names of these.
const ETC_PREFIXES: [&str; 3] = ["java-", "python3.", "php"];
/// Copies of `/etc` end here: what is larger is no configuration.
const ETC_LIMIT_BYTES: u64 = 16 << 20;

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

/// A root directory, and what has to be bound into it.
pub(super) struct Skeleton {
    pub(super) root: PathBuf,
    /// From a path of this machine to a path relative to the root; directories with all below them.
    pub(super) binds: Vec<(PathBuf, PathBuf)>,
}

impl Skeleton {
    /// Makes one at `root`, which is not there yet.
    pub(super) fn create(root: PathBuf) -> io::Result<Self> {
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
        etc(&root.join("etc"))?;
        Ok(Self { root, binds })
    }
}

fn etc(etc: &Path) -> io::Result<()> {
    let mut left_bytes = ETC_LIMIT_BYTES;
    let host = Path::new("/etc");
    for name in ETC {
        if let Some(parent) = Path::new(name).parent() {
            fs::create_dir_all(etc.join(parent))?;
        }
        copy(&host.join(name), &etc.join(name), &mut left_bytes);
    }
    for entry in fs::read_dir(host).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if ETC_PREFIXES.iter().any(|p| name.to_string_lossy().starts_with(p)) && !ETC.iter().any(|n| name == *n) {
            copy(&entry.path(), &etc.join(&name), &mut left_bytes);
        }
    }
    symlink("/proc/self/mounts", etc.join("mtab"))?;
    fs::write(etc.join("resolv.conf"), "")?;
    for (name, text) in MADE_UP {
        fs::write(etc.join(name), text)?;
    }
    Ok(())
}

/// Copies what everybody may read, links as links. What cannot be copied is left out: tasks that need it fail by its name.
fn copy(from: &Path, to: &Path, left_bytes: &mut u64) {
    let Ok(found) = fs::symlink_metadata(from) else { return };
    if found.is_symlink() {
        if let Ok(target) = fs::read_link(from) {
            // A link out of what is shown leads nowhere in the sandbox: the file itself is copied.
            let shown = SYSTEM
                .iter()
                .any(|s| from.parent().is_some_and(|p| p.join(&target).starts_with(Path::new("/").join(s))));
            let inside = target.is_relative() || target.starts_with("/etc");
            if shown || inside {
                let _ = symlink(&target, to);
            } else if let Ok(real) = fs::canonicalize(from) {
                copy(&real, to, left_bytes);
            }
        }
        return;
    }
    let everybody = found.permissions().mode() & 0o4 != 0;
    if found.is_dir() && everybody {
        if DirBuilder::new().mode(0o755).create(to).is_ok() {
            for entry in fs::read_dir(from).into_iter().flatten().flatten() {
                copy(&entry.path(), &to.join(entry.file_name()), left_bytes);
            }
        }
    } else if found.is_file() && everybody && found.len() <= *left_bytes {
        *left_bytes -= found.len();
        let _ = fs::copy(from, to);
    }
}
