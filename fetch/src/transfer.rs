//! From an address to a file: several attempts at several places, going on where the last one was cut off.
//!
//! Content is known by its hash, so that its parts may come from different places. Unaware of the store.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use quipu_runtime::fetch::Sum;
use ureq::Agent;
use ureq::http::header::{CONTENT_RANGE, RANGE};

use crate::error::{FetchError, Problem};
use crate::sum::Hasher;

const BUFFER_BYTES: usize = 128 << 10;
/// How often all places that may still give it are asked.
const ROUNDS: u32 = 4;
/// How often somebody who is waited for no more finds out.
const TICK: Duration = Duration::from_millis(20);

/// What is asked for, and how.
pub(crate) struct Asked<'a> {
    pub(crate) sum: &'a Sum,
    pub(crate) urls: &'a [&'a str],
    /// What `file:` addresses without a slash are relative to.
    pub(crate) root: &'a Path,
    pub(crate) offline: bool,
    pub(crate) max_bytes: u64,
    /// Before the second round; doubled each time.
    pub(crate) pause: Duration,
    /// Set when nobody waits any more.
    pub(crate) stop: &'a AtomicBool,
    /// Told of what did not go well and is tried again.
    pub(crate) tell: &'a dyn Fn(&str),
}

/// What has come so far.
struct Partial<'a> {
    sum: &'a Sum,
    file: File,
    hasher: Hasher,
    bytes: u64,
    /// It was put together from several answers.
    pieced: bool,
}

impl Partial<'_> {
    fn start_over(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.hasher = Hasher::of(self.sum);
        (self.bytes, self.pieced) = (0, false);
        Ok(())
    }
}

/// Brings content into the new file `into`. When this is an error, nothing of use is in it.
pub(crate) fn transfer(agent: &Agent, asked: &Asked<'_>, into: &Path) -> Result<(), FetchError> {
    if asked.urls.is_empty() {
        return Err(FetchError::Nowhere(*asked.sum));
    }
    let file = File::create_new(into)?;
    let mut partial = Partial { sum: asked.sum, file, hasher: Hasher::of(asked.sum), bytes: 0, pieced: false };
    let mut problems: Vec<Option<Problem>> = asked.urls.iter().map(|_| None).collect();
    for round in 0..ROUNDS {
        if round > 0 {
            wait(asked, asked.pause.saturating_mul(1 << (round - 1)))?;
        }
        for (url, problem) in asked.urls.iter().zip(&mut problems) {
            if problem.as_ref().is_some_and(|p| !p.may_pass()) {
                continue;
            }
            let found = match attempt(agent, asked, url, &mut partial)? {
                // It may be that parts of different content were put together.
                Some(Problem::Wrong { .. }) if partial.pieced => {
                    partial.start_over()?;
                    attempt(agent, asked, url, &mut partial)?
                }
                found => found,
            };
            let Some(found) = found else {
                partial.file.flush()?;
                return Ok(());
            };
            if matches!(found, Problem::Wrong { .. } | Problem::TooLarge(_)) {
                partial.start_over()?;
            }
            *problem = Some(found);
        }
        if problems.iter().flatten().all(|p| !p.may_pass()) {
            break;
        }
        if round + 1 < ROUNDS {
            let mut passing = asked.urls.iter().zip(problems.iter().flatten()).filter(|(_, p)| p.may_pass());
            if let Some((url, problem)) = passing.next() {
                (asked.tell)(&format!("`{url}`: {problem}; it is tried again\n"));
            }
        }
    }
    let urls = asked.urls.iter().map(|url| (*url).to_owned());
    Err(FetchError::Failed(urls.zip(problems).filter_map(|(url, p)| Some((url, p?))).collect()))
}

fn wait(asked: &Asked<'_>, pause: Duration) -> Result<(), FetchError> {
    let begun = Instant::now();
    while begun.elapsed() < pause {
        if asked.stop.load(Ordering::Relaxed) {
            return Err(FetchError::Stopped);
        }
        std::thread::sleep(TICK.min(pause));
    }
    Ok(())
}

/// One attempt at one place; `None` when all is there and is what was asked for.
fn attempt(
    agent: &Agent,
    asked: &Asked<'_>,
    url: &str,
    partial: &mut Partial<'_>,
) -> Result<Option<Problem>, FetchError> {
    let mut from: Box<dyn Read> = match open(agent, asked.root, asked.offline, url, partial.bytes) {
        Ok((from, resumed)) => {
            if resumed {
                partial.pieced = true;
            } else if partial.bytes > 0 {
                partial.start_over()?;
            }
            from
        }
        Err(problem) => return Ok(Some(problem)),
    };
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        if asked.stop.load(Ordering::Relaxed) {
            return Err(FetchError::Stopped);
        }
        let read = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Ok(Some(Problem::Cut(error))),
        };
        partial.bytes += read as u64;
        if partial.bytes > asked.max_bytes {
            return Ok(Some(Problem::TooLarge(asked.max_bytes)));
        }
        partial.hasher.update(&buffer[..read]);
        partial.file.write_all(&buffer[..read])?;
    }
    let got = partial.hasher.sum();
    Ok((got != *asked.sum).then_some(Problem::Wrong { expected: *asked.sum, got }))
}

/// What is at an address, from `at` on if that can be had; whether it is.
fn open(agent: &Agent, root: &Path, offline: bool, url: &str, at: u64) -> Result<(Box<dyn Read>, bool), Problem> {
    if let Some(path) = file_path(root, url)? {
        let file = File::open(path).map_err(Problem::File)?;
        if !file.metadata().map_err(Problem::File)?.is_file() {
            return Err(Problem::Address("it is no file"));
        }
        return Ok((Box::new(file), false));
    }
    if offline {
        return Err(Problem::Address("it is not asked, because of `--offline`"));
    }
    if cfg!(not(feature = "tls")) && url.starts_with("https:") {
        return Err(Problem::Address("this quipu was built without `https`"));
    }
    let mut asking = agent.get(url);
    if at > 0 {
        asking = asking.header(RANGE, format!("bytes={at}-"));
    }
    let answer = asking.call().map_err(|error| match error {
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => Problem::Address("it is no address"),
        error => match crate::agent::refused_certificate(&error) {
            Some(why) => Problem::Certificate(why),
            None => Problem::Http(error.to_string()),
        },
    })?;
    let status = answer.status().as_u16();
    let begins = |range: &str| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok();
    let resumed = match status {
        200 => false,
        206 if at > 0 => {
            let range = answer.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
            if range.and_then(begins) != Some(at) {
                return Err(Problem::Http("it answers with another part than was asked for".to_owned()));
            }
            true
        }
        // There is no such part: what came before was something else.
        416 if at > 0 => return open(agent, root, offline, url, 0),
        status => return Err(Problem::Status(status)),
    };
    Ok((Box::new(answer.into_body().into_reader()), resumed))
}

/// The file that a `file:` address means; `None` when it is an address of the network.
fn file_path(root: &Path, url: &str) -> Result<Option<PathBuf>, Problem> {
    if url.starts_with("http://") || url.starts_with("https://") {
        return Ok(None);
    }
    let Some(path) = url.strip_prefix("file:") else {
        return Err(Problem::Address("it starts with none of `https://`, `http://`, `file:`"));
    };
    match path.strip_prefix("//") {
        Some(path) => {
            let path = path.strip_prefix("localhost").unwrap_or(path);
            if !path.starts_with('/') {
                return Err(Problem::Address("it is a file of another machine"));
            }
            Ok(Some(PathBuf::from(path)))
        }
        None => Ok(Some(root.join(path))),
    }
}

/// What is at an address, in memory, and not checked: for what is small and has its hash looked at by who asks.
pub fn read(url: &str, root: &Path, offline: bool, max_bytes: u64) -> Result<Vec<u8>, Problem> {
    let (from, _) = open(&crate::agent::agent(), root, offline, url, 0)?;
    let mut bytes = vec![];
    from.take(max_bytes + 1).read_to_end(&mut bytes).map_err(Problem::Cut)?;
    if bytes.len() as u64 > max_bytes { Err(Problem::TooLarge(max_bytes)) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_files_are_absolute_or_of_the_workspace() {
        let of = |url: &str| file_path(Path::new("/ws"), url).map_err(|p| p.to_string());
        assert_eq!(of("file:///a/b"), Ok(Some("/a/b".into())));
        assert_eq!(of("file://localhost/a"), Ok(Some("/a".into())));
        assert_eq!(of("file:a/b"), Ok(Some("/ws/a/b".into())));
        assert_eq!(of("http://x/"), Ok(None));
        for bad in ["file://host/a", "ftp://x/", "/etc/passwd", ""] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
