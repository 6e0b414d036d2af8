//! Power cuts: a file system in a file, copied in an instant while a store on it is being written; the copy is what the
//! medium would hold. It is mounted, and must hold everything that was acknowledged before the copy.
//!
//! Needs root, loop devices and `mkfs.xfs` (its reflinks make the instant copies), and the `mkfs` of what is tested. Copies
//! keep the order in which blocks were written; they do not tear sectors. `QUIPU_CAMPAIGN=powercut` takes
//! `QUIPU_CAMPAIGN_POINTS` images (500), a third each of ext4, XFS and btrfs.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use quipu_store::cid::Codec;
use quipu_store::{Finding, Store, VerifyOptions};

use super::child;
use super::kill_matrix::Dice;

const MIB: u64 = 1 << 20;
/// Images taken of one life of a file system.
const IMAGES_EACH: u64 = 8;

fn done(command: &str, args: &[&str]) -> bool {
    let command = Command::new(command).args(args).stdout(Stdio::null()).stderr(Stdio::null()).status();
    command.is_ok_and(|status| status.success())
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary directories have plain names")
}

/// A directory that something is mounted on until it is dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(image: &Path, at: PathBuf, options: &str) -> Option<Self> {
        fs::create_dir_all(&at).expect("is made");
        done("mount", &["-o", options, text(image), text(&at)]).then_some(Self(at))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let end = Instant::now() + Duration::from_secs(10);
        while !done("umount", &[text(&self.0)]) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn image(path: &Path, bytes: u64, mkfs: &[&str]) -> bool {
    let made = File::create(path).and_then(|file| file.set_len(bytes));
    made.is_ok() && done(mkfs[0], &[&mkfs[1..], &[text(path)]].concat())
}

/// What came of the images of one kind.
#[derive(Debug, Default)]
struct Tally {
    images: u64,
    receipts: u64,
    acknowledged: u64,
    /// Images with something wrong, and the first few things.
    bad: u64,
    examples: Vec<String>,
}

/// Where everything is: a file system whose files can be copied in an instant.
struct Yard {
    // Unmounted before its directory goes.
    host: Mounted,
    _temp: tempfile::TempDir,
}

impl Yard {
    /// `None` where this machine has not what it takes.
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let temp = tempfile::tempdir().expect("a temporary directory");
        let host = temp.path().join("host.img");
        if !image(&host, 6 << 30, &["mkfs.xfs", "-q", "-f", "-m", "reflink=1"]) {
            return None;
        }
        let host = Mounted::new(&host, temp.path().join("host"), "loop")?;
        Some(Self { host, _temp: temp })
    }

    /// One life of a file system of a kind: a store is written on it, and images are taken at moments nobody chose.
    fn life(&self, kind: &str, breaks: Option<&str>, images: u64, dice: &mut Dice, tally: &mut Tally) -> Option<()> {
        let mkfs: &[&str] = match kind {
            "ext4" => &["mkfs.ext4", "-q", "-F"],
            "xfs" => &["mkfs.xfs", "-q", "-f"],
            _ => &["mkfs.btrfs", "-q", "-f"],
        };
        let at = |name: &str| self.host.0.join(name);
        if !image(&at("guest.img"), 512 * MIB, mkfs) {
            return None;
        }
        let guest = Mounted::new(&at("guest.img"), at("guest"), "loop")?;
        let (mut writer, said) = write(&guest.0.join("store"), breaks);
        let mut acknowledged = Vec::new();
        let mut taken = Vec::new();
        for n in 0..images {
            std::thread::sleep(Duration::from_millis(50 + dice.below(550)));
            acknowledged.extend(said.try_iter());
            let copy = at(&format!("copy{n}.img"));
            let (from, to) = (File::open(at("guest.img")).expect("is there"), File::create(&copy).expect("is made"));
            rustix::fs::ioctl_ficlone(&to, &from).expect("the host can");
            taken.push((copy, acknowledged.len()));
        }
        assert!(writer.try_wait().expect("is ours").is_none(), "the writer ended by itself");
        writer.kill().expect("is ours");
        writer.wait().expect("is ours");
        drop(guest);
        for (copy, count) in taken {
            let options = if kind == "xfs" { "loop,nouuid" } else { "loop" };
            let wrong = match Mounted::new(&copy, at("copy"), options) {
                Some(mounted) => check(&mounted.0.join("store"), &acknowledged[..count], tally),
                None => vec!["the image cannot be mounted".to_owned()],
            };
            fs::remove_file(copy).expect("is removed");
            tally.images += 1;
            tally.acknowledged += count as u64;
            tally.bad += u64::from(!wrong.is_empty());
            tally.examples.extend(wrong.into_iter().take(3));
            tally.examples.truncate(12);
        }
        Some(())
    }
}

fn write(store: &Path, breaks: Option<&str>) -> (Child, mpsc::Receiver<u64>) {
    let mut command = child::command("churn", store);
    command.env("QUIPU_TEST_BREAK", breaks.unwrap_or_default());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("starts");
    let (out, (tell, said)) = (child.stdout.take().expect("piped"), mpsc::channel());
    std::thread::spawn(move || {
        let numbers = BufReader::new(out).lines().map_while(Result::ok);
        let mut numbers = numbers.filter_map(|line| line.strip_prefix("acknowledged ")?.parse().ok());
        numbers.try_for_each(|n| tell.send(n))
    });
    (child, said)
}

/// What is wrong with a store after a power cut.
fn check(dir: &Path, acknowledged: &[u64], tally: &mut Tally) -> Vec<String> {
    if !dir.exists() {
        return if acknowledged.is_empty() { vec![] } else { vec!["the store is gone".to_owned()] };
    }
    let store = match Store::open(dir, child::options()) {
        Ok(store) => store,
        Err(e) => return vec![format!("does not open: {e}")],
    };
    let mut wrong = Vec::new();
    match store.verify(&VerifyOptions { repair: false, rehash: true }) {
        Ok(report) => {
            tally.receipts += report.receipts;
            // The journal is not synced by itself; the index is what was promised.
            let excused = |f: &Finding| matches!(f, Finding::NotInJournal { .. } | Finding::BadSegment { .. });
            let bad = |f: &&Finding| f.is_damage() && !excused(f) || matches!(f, Finding::Hollow { .. });
            wrong.extend(report.findings.iter().filter(bad).map(ToString::to_string));
        }
        Err(e) => wrong.push(format!("cannot be verified: {e}")),
    }
    for n in acknowledged {
        let found = store.find_tasks(&[child::churned(*n)]).map(|mut found| found.remove(0).receipts);
        match found {
            Ok(found) if found.is_empty() => wrong.push(format!("acknowledged and gone: {n}")),
            Ok(_) => {
                for part in 0..3 {
                    let bytes = child::content(*n, part);
                    let link = quipu_store::cid::Link::of(Codec::Raw, &bytes);
                    if !store.get(link, 1 << 20).is_ok_and(|got| got == Some(bytes)) {
                        wrong.push(format!("part {part} of {n} was acknowledged and is gone"));
                    }
                }
            }
            Err(e) => wrong.push(format!("cannot be read: {e}")),
        }
    }
    wrong
}

#[test]
fn after_a_power_cut_all_that_was_acknowledged_is_there() {
    if std::env::var("QUIPU_CAMPAIGN").as_deref() != Ok("powercut") {
        return;
    }
    let yard = Yard::new().expect("needs root, loop devices and mkfs.xfs");
    let images: u64 = std::env::var("QUIPU_CAMPAIGN_POINTS").ok().and_then(|n| n.parse().ok()).unwrap_or(500);
    let mut dice = Dice(std::env::var("QUIPU_CAMPAIGN_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(1));
    let mut bad = 0;
    for (kind, share) in [("ext4", images.div_ceil(3)), ("xfs", images / 3), ("btrfs", images / 3)] {
        let (mut tally, begun) = (Tally::default(), Instant::now());
        while tally.images < share {
            let more = IMAGES_EACH.min(share - tally.images);
            if yard.life(kind, None, more, &mut dice, &mut tally).is_none() {
                eprintln!("{kind}: cannot be made here");
                break;
            }
        }
        eprintln!("{kind} in {:.0?}: {tally:#?}", begun.elapsed());
        bad += tally.bad;
    }
    assert_eq!(bad, 0);
}

/// A few images suffice for a broken discipline, where it can be tried at all.
#[test]
fn a_store_that_does_not_sync_blobs_or_names_them_too_soon_is_caught() {
    if std::env::var("QUIPU_CAMPAIGN").as_deref() != Ok("powercut") {
        return;
    }
    let yard = Yard::new().expect("needs root, loop devices and mkfs.xfs");
    for (breaks, kind) in [("blob-sync", "ext4"), ("blobs-first", "ext4"), ("blob-sync", "btrfs"), ("blob-sync", "xfs")]
    {
        let mut tally = Tally::default();
        let mut dice = Dice(7);
        for _ in 0..3 {
            if tally.bad == 0 && yard.life(kind, Some(breaks), 6, &mut dice, &mut tally).is_none() {
                eprintln!("{kind}: cannot be made here");
            }
        }
        eprintln!(
            "{kind} without {breaks}: {} of {} images are bad: {:?}",
            tally.bad,
            tally.images,
            tally.examples.first()
        );
        assert!(tally.bad > 0 || tally.images == 0, "{breaks} on {kind} was not caught");
    }
}
