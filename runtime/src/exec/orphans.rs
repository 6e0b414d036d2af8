//! What a run that was killed left running in the workspace: found and ended before anything new runs there.
//!
//! A sandboxed process dies with the run that started it. One that runs in the workspace itself does not, and would
//! go on writing to files that the next run makes anew: neither's output would be what its receipt says. Each run
//! therefore writes down its process groups while they run. Unaware of tasks.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use quipu_store::Store;
use quipu_store::cid::BlobId;
use rustix::process::{Pid, Signal, kill_process_group};

use super::sys;

/// How long what was killed may take to be gone.
const PATIENCE: Duration = Duration::from_secs(2);
/// Length of an entry: two numbers in decimal, filled up, and the end of the line.
const ENTRY_BYTES: usize = 48;

/// How many this process has opened: each has a file of its own.
static OPENED: AtomicU32 = AtomicU32::new(0);

/// The process groups of this run in one workspace, as a file that outlives it.
pub(crate) struct Orphans {
    file: Option<Registry>,
}

struct Registry {
    file: File,
    path: PathBuf,
    used: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    next: u64,
    free: Vec<u64>,
}

/// A time as the kernel tells when a process began: in ticks since the machine started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticks(u64);

impl Ticks {
    /// Now.
    pub(crate) fn now() -> Self {
        // What programs see of it, `USER_HZ`, is a hundred in a second on all machines.
        Self(u64::try_from(sys::since_boot().as_millis() / 10).unwrap_or(u64::MAX))
    }
}

/// A group that is written down until this is dropped.
pub(crate) struct Noted<'a> {
    registry: Option<(&'a Registry, u64)>,
}

impl Orphans {
    /// Ends what dead runs left in the workspace at `root`, and begins to write down what this one starts. Where
    /// that cannot be written, nothing is: a run is not stopped by it.
    pub(crate) fn open(store: &Store, root: &Path) -> Self {
        let Some(dir) = store.runs_dir() else { return Self { file: None } };
        let digest = BlobId::of(root.as_os_str().as_bytes());
        let hash: String = digest.digest()[..8].iter().map(|b| format!("{b:02x}")).collect();
        let prefix = format!("groups-{hash}-");
        let mut groups = BTreeMap::new();
        for path in fs::read_dir(&dir).into_iter().flatten().flatten().map(|entry| entry.path()) {
            let is_one = path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(&prefix));
            if is_one && let Some(left) = left_by_dead(&path) {
                groups.extend(left);
                let _ = fs::remove_file(&path);
            }
        }
        end(&groups, root);
        let number = OPENED.fetch_add(1, Relaxed);
        Self { file: Registry::create(dir.join(format!("{prefix}{}-{number}", std::process::id()))).ok() }
    }

    /// Writes down a group whose leader was started `since` then.
    pub(crate) fn note(&self, group: Pid, since: Ticks) -> Noted<'_> {
        let Some(registry) = &self.file else { return Noted { registry: None } };
        let slot = registry.take_slot();
        // Most often it began within one tick of the clock.
        let began = match Ticks::now() {
            now if now == since => since.0,
            _ => Stat::of(group.as_raw_nonzero().get()).map_or(0, |stat| stat.began),
        };
        let entry = format!("{:>20} {began:>26}\n", group.as_raw_nonzero());
        let _ = registry.file.write_all_at(entry.as_bytes(), slot * ENTRY_BYTES as u64);
        Noted { registry: Some((registry, slot)) }
    }
}

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        if let Some((registry, slot)) = self.registry {
            let empty = format!("{:>47}\n", "");
            let _ = registry.file.write_all_at(empty.as_bytes(), slot * ENTRY_BYTES as u64);
            registry.used.lock().unwrap_or_else(PoisonError::into_inner).free.push(slot);
        }
    }
}

impl Registry {
    fn create(path: PathBuf) -> io::Result<Self> {
        // A number of a process comes back; a file that another left under it was dealt with above.
        let file = File::options().write(true).create(true).truncate(true).open(&path)?;
        file.lock()?;
        Ok(Self { file, path, used: Mutex::default() })
    }

    fn take_slot(&self) -> u64 {
        let mut slots = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = slots.next;
        slots.free.pop().unwrap_or_else(|| {
            slots.next += 1;
            fresh
        })
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// The groups that stand in the file of a process that is gone, each with when its leader began; `None` while the
/// process lives.
fn left_by_dead(path: &Path) -> Option<BTreeMap<i32, u64>> {
    let mut file = File::options().read(true).write(true).open(path).ok()?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock | TryLockError::Error(_)) => return None,
    }
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    let entries = text.lines().filter_map(|line| {
        let (group, began) = line.trim().split_once(' ')?;
        Some((group.parse::<i32>().ok().filter(|g| *g > 1)?, began.trim().parse().ok()?))
    });
    Some(entries.collect())
}

/// What is known of a process.
struct Stat {
    state: u8,
    group: i32,
    /// When it began, in the kernel's ticks since the machine started: with its number, unlike any other's.
    began: u64,
}

impl Stat {
    fn of(pid: i32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything; what follows the last one is numbers.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let state = *fields.first()?.as_bytes().first()?;
        Some(Self { state, group: fields.get(2)?.parse().ok()?, began: fields.get(19)?.parse().ok()? })
    }

    fn is_alive(&self) -> bool {
        !matches!(self.state, b'Z' | b'X')
    }
}

/// Ends those of the groups that are still the ones written down, and waits until they are gone.
fn end(groups: &BTreeMap<i32, u64>, root: &Path) {
    let mut left: Vec<i32> =
        groups.iter().filter(|(group, began)| is_ours(**group, **began, root)).map(|(g, _)| *g).collect();
    for group in &left {
        if let Some(pid) = Pid::from_raw(*group) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
    let until = Instant::now() + PATIENCE;
    loop {
        left.retain(|group| members(*group).next().is_some());
        if left.is_empty() || Instant::now() >= until {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether a group is the one that was written down: its leader began when it says, or is gone and others of the
/// group are at work in the workspace. A number that has come to mean something else is left alone.
fn is_ours(group: i32, began: u64, root: &Path) -> bool {
    match Stat::of(group) {
        Some(leader) => leader.began == began && leader.group == group,
        None => {
            members(group).any(|pid| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|dir| dir.starts_with(root)))
        }
    }
}

/// Living processes of a group.
fn members(group: i32) -> impl Iterator<Item = i32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(move |pid| Stat::of(*pid).is_some_and(|stat| stat.group == group && stat.is_alive()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command};

    use quipu_store::{Options, SignerSource};

    use super::*;

    fn store(dir: &Path) -> Store {
        let signer = quipu_store::sign::Signer::from_secret(&[7; 32]);
        Store::open(&dir.join("store"), Options::new(SignerSource::Fixed(signer))).expect("opens")
    }

    fn sleeper(dir: &Path) -> (Child, Pid) {
        let child = Command::new("sleep").arg("600").current_dir(dir).process_group(0).spawn().expect("starts");
        let pid = Pid::from_child(&child);
        (child, pid)
    }

    /// What is left of a run that was killed: its file, and nobody who holds it.
    fn kill(orphans: &Orphans, noted: Noted<'_>) -> Vec<u8> {
        std::mem::forget(noted);
        fs::read(&orphans.file.as_ref().expect("is written").path).expect("is there")
    }

    fn is_running(child: &mut Child) -> bool {
        child.try_wait().expect("is a child").is_none()
    }

    #[test]
    fn what_a_dead_run_left_is_ended_and_what_a_living_one_runs_is_not() {
        let dir = tempfile::tempdir().expect("temp");
        let (store, root) = (store(dir.path()), dir.path());
        let (mut child, group) = sleeper(root);
        let living = Orphans::open(&store, root);
        let long_ago = Ticks(0);
        let noted = living.note(group, long_ago);
        // This process holds the file: nothing is ended.
        drop(Orphans::open(&store, root));
        assert!(is_running(&mut child));
        let text = kill(&living, noted);
        drop(living);
        assert!(is_running(&mut child));

        let runs = store.runs_dir().expect("is there");
        let hash = BlobId::of(root.as_os_str().as_bytes());
        let hash: String = hash.digest()[..8].iter().map(|b| format!("{b:02x}")).collect();
        let other = runs.join("groups-0000000000000000-1");
        fs::write(&other, &text).expect("is written");
        drop(Orphans::open(&store, root));
        assert!(is_running(&mut child) && other.exists(), "another workspace's");
        let file = runs.join(format!("groups-{hash}-1"));
        fs::write(&file, &text).expect("is written");
        drop(Orphans::open(&store, root));
        assert!(!is_running(&mut child) && !file.exists());
        assert_eq!(fs::read_dir(&runs).expect("is there").count(), 1, "a run that ended leaves no file");
    }

    #[test]
    fn ticks_are_those_in_which_the_kernel_tells_when_a_process_began() {
        let dir = tempfile::tempdir().expect("temp");
        let before = Ticks::now();
        let (mut child, pid) = sleeper(dir.path());
        let after = Ticks::now();
        let began = Stat::of(pid.as_raw_nonzero().get()).expect("it runs").began;
        assert!((before.0..=after.0).contains(&began), "{before:?} {began} {after:?}");
        child.kill().expect("is ours");
        child.wait().expect("ends");
    }

    #[test]
    fn a_number_that_means_another_process_now_is_left_alone() {
        let dir = tempfile::tempdir().expect("temp");
        let (mut child, group) = sleeper(dir.path());
        let groups = BTreeMap::from([(group.as_raw_nonzero().get(), 1)]);
        end(&groups, dir.path());
        assert!(is_running(&mut child));
        child.kill().expect("is ours");
        child.wait().expect("ends");
    }

    #[test]
    fn what_ended_is_crossed_out_and_its_place_used_again() {
        let dir = tempfile::tempdir().expect("temp");
        let store = store(dir.path());
        let orphans = Orphans::open(&store, dir.path());
        let group = Pid::from_raw(4_000_000).expect("is one");
        drop(orphans.note(group, Ticks::now()));
        let (first, _second) = (orphans.note(group, Ticks::now()), orphans.note(group, Ticks::now()));
        let path = &orphans.file.as_ref().expect("is written").path;
        assert_eq!(fs::metadata(path).expect("is there").len(), 2 * ENTRY_BYTES as u64);
        drop(first);
        let text = fs::read_to_string(path).expect("is there");
        assert_eq!(text.lines().filter(|line| !line.trim().is_empty()).count(), 1);
    }
}
