//! A store on a file system that somebody else answers for: FUSE, served by this test out of a directory.
//!
//! Needs root and `/dev/fuse`; skipped where one of them is missing.
#![expect(clippy::host_endian_bytes, reason = "kernel and server are one machine, and speak in its order")]

use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use rustix::fs::{CWD, OFlags, RenameFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::kit::TestSpace;

/// Largest write that is taken at once.
const MAX_WRITE: u32 = 128 << 10;

/// A mounted file system; it is taken down when this is dropped.
struct Mounted {
    at: PathBuf,
    server: Option<JoinHandle<()>>,
}

impl Mounted {
    /// Serves `root` at `at`. `None` where that cannot be.
    fn new(root: &Path, at: &Path) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let device = File::options().read(true).write(true).open("/dev/fuse").ok()?;
        let data = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
        let data = CString::new(data).expect("no NUL");
        mount("quipu-test", at, "fuse", MountFlags::NOSUID | MountFlags::NODEV, &*data).ok()?;
        let mut server = Server { device, nodes: vec![root.to_owned()], files: HashMap::new(), last: 0 };
        Some(Self { at: at.to_owned(), server: Some(std::thread::spawn(move || server.serve())) })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(&self.at, UnmountFlags::DETACH).expect("it was mounted");
        self.server.take().map(JoinHandle::join);
    }
}

/// What stands for numbers that the kernel hands back. Nodes are numbered from 1, the root.
struct Server {
    device: File,
    nodes: Vec<PathBuf>,
    files: HashMap<u64, File>,
    last: u64,
}

type Reply = Result<Vec<u8>, Errno>;

/// Numbers of a request, in order.
struct Body<'a>(&'a [u8]);

impl Body<'_> {
    fn u32(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.0[at..at + 4].try_into().expect("four"))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_ne_bytes(self.0[at..at + 8].try_into().expect("eight"))
    }

    /// The names that begin at a place.
    fn names(&self, at: usize) -> Vec<&OsStr> {
        self.0[at..].split(|byte| *byte == 0).map(OsStr::from_bytes).collect()
    }
}

impl Server {
    fn serve(&mut self) {
        let mut request = vec![0; MAX_WRITE as usize + 4096];
        while let Ok(len) = self.device.read(&mut request) {
            let head = Body(&request[..40]);
            let (code, unique, node) = (head.u32(4), head.u64(8), head.u64(16));
            // Forgetting and interrupting are not answered.
            if matches!(code, 2 | 36 | 42) {
                continue;
            }
            let (error, body) = match self.answer(code, node, &Body(&request[40..len])) {
                Ok(body) => (0, body),
                Err(errno) => (-errno.raw_os_error(), vec![]),
            };
            let mut reply = Vec::with_capacity(16 + body.len());
            reply.extend((16 + body.len() as u32).to_ne_bytes());
            reply.extend(error.to_ne_bytes());
            reply.extend(unique.to_ne_bytes());
            reply.extend(body);
            // Whoever asked may be gone.
            let _ = self.device.write(&reply);
        }
    }

    fn path(&self, node: u64) -> PathBuf {
        self.nodes[node as usize - 1].clone()
    }

    fn answer(&mut self, code: u32, node: u64, body: &Body<'_>) -> Reply {
        let below = |server: &Self, at: usize| server.path(node).join(body.names(at)[0]);
        match code {
            1 => self.entry(&below(self, 0)),
            3 if body.u32(0) & 1 != 0 => self.attributes(&self.files[&body.u64(8)].metadata().map_err(told)?),
            3 => self.attributes(&fs::symlink_metadata(self.path(node)).map_err(told)?),
            4 => self.set_attributes(node, body),
            5 => Ok(fs::read_link(self.path(node)).map_err(told)?.as_os_str().as_bytes().to_vec()),
            6 => {
                let names = body.names(0);
                let path = self.path(node).join(names[0]);
                symlink(names[1], &path).map_err(told)?;
                self.entry(&path)
            }
            9 => {
                let path = below(self, 8);
                fs::create_dir(&path).map_err(told)?;
                self.entry(&path)
            }
            10 => fs::remove_file(below(self, 0)).map(|()| vec![]).map_err(told),
            11 => fs::remove_dir(below(self, 0)).map(|()| vec![]).map_err(told),
            12 => self.rename(node, body, 8, RenameFlags::empty()),
            45 => self.rename(node, body, 16, RenameFlags::from_bits_retain(body.u32(8))),
            13 => {
                let path = below(self, 8);
                fs::hard_link(self.path(body.u64(0)), &path).map_err(told)?;
                self.entry(&path)
            }
            14 => {
                let flags = OFlags::from_bits_retain(body.u32(0)) & OFlags::ACCMODE;
                let file = rustix::fs::open(self.path(node), flags, 0.into())?;
                Ok(self.opened(file.into()))
            }
            35 => {
                let path = below(self, 16);
                let flags = OFlags::CREATE | OFlags::RDWR | (OFlags::from_bits_retain(body.u32(0)) & OFlags::EXCL);
                let file = rustix::fs::open(&path, flags, rustix::fs::Mode::from_raw_mode(body.u32(4) & 0o7777))?;
                let mut reply = self.entry(&path)?;
                reply.extend(self.opened(file.into()));
                Ok(reply)
            }
            15 => {
                let mut bytes = vec![0; body.u32(16) as usize];
                let file = &self.files[&body.u64(0)];
                let read = file.read_at(&mut bytes, body.u64(8)).map_err(told)?;
                bytes.truncate(read);
                Ok(bytes)
            }
            16 => {
                let size = body.u32(16);
                let bytes = &body.0[40..40 + size as usize];
                self.files[&body.u64(0)].write_all_at(bytes, body.u64(8)).map_err(told)?;
                Ok([size.to_ne_bytes(), [0; 4]].concat())
            }
            17 => {
                let mut reply = [1_u64 << 20, 1 << 19, 1 << 19, 1 << 20, 1 << 19].map(u64::to_ne_bytes).concat();
                reply.extend([4096_u32, 255, 4096, 0, 0, 0, 0, 0, 0, 0].map(u32::to_ne_bytes).concat());
                Ok(reply)
            }
            18 => {
                self.files.remove(&body.u64(0));
                Ok(vec![])
            }
            20 => self.files[&body.u64(0)].sync_data().map(|()| vec![]).map_err(told),
            26 => {
                let mut reply = [7_u32, 31, 0, 0, 0, MAX_WRITE, 1].map(u32::to_ne_bytes).concat();
                reply.resize(64, 0);
                Ok(reply)
            }
            27 => Ok(vec![0; 16]),
            28 => self.list(node, body),
            // Flush, close of a directory, its sync, access, the end.
            25 | 29 | 30 | 34 | 38 => Ok(vec![]),
            _ => Err(Errno::NOSYS),
        }
    }

    fn opened(&mut self, file: File) -> Vec<u8> {
        self.last += 1;
        self.files.insert(self.last, file);
        [self.last.to_ne_bytes(), [0; 8]].concat()
    }

    fn entry(&mut self, path: &Path) -> Reply {
        let meta = fs::symlink_metadata(path).map_err(told)?;
        let known = self.nodes.iter().position(|node| node == path);
        let node = known.unwrap_or_else(|| {
            self.nodes.push(path.to_owned());
            self.nodes.len() - 1
        });
        // Nothing is remembered: each look is asked for.
        let mut reply = [node as u64 + 1, 0, 0, 0, 0].map(u64::to_ne_bytes).concat();
        reply.extend(self.numbers(&meta));
        Ok(reply)
    }

    fn attributes(&self, meta: &Metadata) -> Reply {
        Ok([&[0; 16][..], &self.numbers(meta)].concat())
    }

    fn numbers(&self, meta: &Metadata) -> Vec<u8> {
        let times = [meta.atime(), meta.mtime(), meta.ctime()].map(|time| time as u64);
        let mut out = [[meta.ino(), meta.size(), meta.blocks()], times].concat();
        let nanos = [meta.atime_nsec(), meta.mtime_nsec(), meta.ctime_nsec()].map(|nanos| nanos as u32);
        let rest = [meta.mode(), meta.nlink() as u32, meta.uid(), meta.gid(), 0, 4096, 0];
        let mut bytes: Vec<u8> = out.drain(..).flat_map(u64::to_ne_bytes).collect();
        bytes.extend([&nanos[..], &rest].concat().into_iter().flat_map(u32::to_ne_bytes));
        bytes
    }

    fn set_attributes(&self, node: u64, body: &Body<'_>) -> Reply {
        let (valid, path) = (body.u32(0), self.path(node));
        if valid & 1 != 0 {
            fs::set_permissions(&path, fs::Permissions::from_mode(body.u32(68))).map_err(told)?;
        }
        if valid & 8 != 0 {
            let held = if valid & 64 != 0 { self.files.get(&body.u64(8)) } else { None };
            match held {
                Some(file) => file.set_len(body.u64(16)),
                None => File::options().write(true).open(&path).and_then(|file| file.set_len(body.u64(16))),
            }
            .map_err(told)?;
        }
        if valid & 32 != 0 {
            let now = (valid & 256 != 0).then(std::time::SystemTime::now);
            let nanos = std::time::Duration::new(body.u64(40), body.u32(60));
            let time = now.unwrap_or(std::time::UNIX_EPOCH + nanos);
            File::open(&path).and_then(|file| file.set_modified(time)).map_err(told)?;
        }
        self.attributes(&fs::symlink_metadata(&path).map_err(told)?)
    }

    fn rename(&mut self, node: u64, body: &Body<'_>, names_at: usize, flags: RenameFlags) -> Reply {
        let names = body.names(names_at);
        let (from, to) = (self.path(node).join(names[0]), self.path(body.u64(0)).join(names[1]));
        rustix::fs::renameat_with(CWD, &from, CWD, &to, flags)?;
        let exchanged = flags.contains(RenameFlags::EXCHANGE);
        for path in &mut self.nodes {
            let moved = |path: &Path, a: &Path, b: &Path| {
                path.strip_prefix(a).ok().map(|rest| if rest == Path::new("") { b.to_owned() } else { b.join(rest) })
            };
            if let Some(new) = moved(path, &from, &to) {
                *path = new;
            } else if let Some(new) = moved(path, &to, &from).filter(|_| exchanged) {
                *path = new;
            } else if path == &to {
                // What was there is nowhere now.
                *path = PathBuf::from("/nowhere");
            }
        }
        Ok(vec![])
    }

    fn list(&self, node: u64, body: &Body<'_>) -> Reply {
        let (offset, size) = (body.u64(8), body.u32(16) as usize);
        let mut entries: Vec<_> = fs::read_dir(self.path(node)).map_err(told)?.flatten().collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        let mut reply = vec![];
        for (n, entry) in (1_u64..).zip(entries).skip(offset as usize) {
            let (name, kind) = (entry.file_name(), entry.file_type().map_err(told)?);
            let padded = (24 + name.len()).next_multiple_of(8);
            if reply.len() + padded > size {
                break;
            }
            let kind: u32 = if kind.is_dir() {
                4
            } else if kind.is_symlink() {
                10
            } else {
                8 + u32::from(kind.is_fifo())
            };
            let end = reply.len() + padded;
            reply.extend([1, n].map(u64::to_ne_bytes).concat());
            reply.extend([name.len() as u32, kind].map(u32::to_ne_bytes).concat());
            reply.extend(name.as_bytes());
            reply.resize(end, 0);
        }
        Ok(reply)
    }
}

fn told(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

#[test]
fn attack_29_a_store_on_a_file_system_that_others_answer_for_works_and_is_warned_of_in_each_run() {
    let space = TestSpace::new(
        r#"
        [workspace]
        sandbox = "none"
        [task.t]
        run = "cat in > out; head -c 50000 /dev/zero >> out"
        inputs = ["in"]
        outputs = ["out"]
        "#,
    );
    space.write("in", "1");
    let (behind, at) = (space.beside("behind"), space.beside("mounted"));
    for dir in [&behind, &at] {
        fs::create_dir(dir).expect("is made");
    }
    let Some(mounted) = Mounted::new(&behind, &at) else {
        crate::kit::say("skipped: nothing can be mounted with FUSE here");
        return;
    };
    let run = |args: &[&str]| space.finish(space.command(args).env("QUIPU_STORE", at.join("store")));
    for (edit, said) in [("1", "1 ran"), ("1", "nothing to do"), ("1", "nothing to do"), ("2", "1 ran")] {
        space.write("in", edit);
        let ran = run(&["run"]);
        assert_eq!(ran.status, 0, "{}", ran.shown());
        assert!(ran.stderr.contains("is on a network file system (FUSE)"), "{}", ran.stderr);
        assert!(ran.stderr.contains(said), "{}", ran.stderr);
        assert_eq!((&space.read("out")[..1], space.read("out").len()), (edit, 50_001));
    }
    assert!(run(&["verify"]).stdout.contains("sound"));
    fs::remove_file(space.path("out")).expect("is removed");
    assert!(run(&["run"]).stderr.contains("nothing to do"), "it is placed from there");
    assert!(space.exists("out"));
    drop(mounted);
}
