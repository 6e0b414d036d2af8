//! Requests and answers, one JSON document a line each, as Bazel's persistent workers have them.
//!
//! Waits no longer than the task may take, and reads no more than an answer is worth. Unaware of files.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use quipu_store::receipt::FailureKind;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::super::super::Stop;
use super::super::super::Stream;
use super::super::super::capture::Streams;
use super::super::super::spawn::{Forced, pump, wait};
use super::super::{Ends, executor_failed};

/// Longest answer, in bytes.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// The ends of a worker's pipes that are ours.
pub(super) struct Talk {
    pub(super) pidfd: OwnedFd,
    requests: OwnedFd,
    answers: Option<OwnedFd>,
    complaints: Option<OwnedFd>,
    /// Of an answer that has not ended.
    begun: Vec<u8>,
    asked: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    arguments: &'a [String],
    inputs: Vec<Input<'a>>,
    request_id: u64,
}

#[derive(Serialize)]
struct Input<'a> {
    path: &'a str,
    digest: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    #[serde(default)]
    exit_code: i32,
    #[serde(default)]
    output: String,
    #[serde(default)]
    request_id: u64,
}

/// What came of a request.
pub(super) enum Answer {
    /// It was answered.
    Said {
        /// What would be an exit code.
        code: i32,
    },
    /// It was not waited for.
    Forced(Forced),
}

fn rubbish(why: &str) -> FailureKind {
    FailureKind::Executor { why: format!("its worker {why}") }
}

impl Talk {
    pub(super) fn new(
        pidfd: OwnedFd,
        requests: OwnedFd,
        answers: OwnedFd,
        complaints: Option<OwnedFd>,
    ) -> io::Result<Self> {
        for pipe in [Some(&requests), Some(&answers), complaints.as_ref()].into_iter().flatten() {
            rustix::io::ioctl_fionbio(pipe, true)?;
        }
        Ok(Self { pidfd, requests, answers: Some(answers), complaints, begun: vec![], asked: 0 })
    }

    /// Puts a request and waits for its answer. After an error, or when it was not waited for, the worker is of no use.
    pub(super) fn ask(
        &mut self,
        arguments: &[String],
        inputs: &[(String, String)],
        ends: Ends<'_>,
        streams: &mut Streams,
    ) -> Result<Answer, FailureKind> {
        self.asked += 1;
        let inputs = inputs.iter().map(|(path, digest)| Input { path, digest }).collect();
        let request = Request { arguments, inputs, request_id: self.asked };
        let mut line = serde_json::to_vec(&request).expect("texts and numbers have a JSON form");
        line.push(b'\n');
        if !self.begun.is_empty() {
            return Err(rubbish("says something although it was asked nothing"));
        }
        let mut left = &line[..];
        let mut buffer = vec![0; 64 << 10];
        loop {
            if let Some(forced) = forced(ends) {
                return Ok(Answer::Forced(forced));
            }
            if !left.is_empty() {
                match rustix::io::write(&self.requests, left) {
                    Ok(written) => left = &left[written..],
                    // Others may hold the pipe it read from.
                    Err(Errno::AGAIN) if self.has_ended_instead_of_reading(ends)? => left = &[],
                    Err(Errno::AGAIN) => {}
                    Err(Errno::INTR) => {}
                    // How it ended is told below.
                    Err(_) => left = &[],
                }
                self.hear(streams, &mut buffer)?;
                if !left.is_empty() {
                    continue;
                }
            }
            if let Some(end) = self.begun.iter().position(|byte| *byte == b'\n') {
                return self.answer(end, streams);
            }
            let ready = wait(
                Some(self.pidfd.as_fd()),
                self.answers.as_ref(),
                self.complaints.as_ref(),
                Some(ends.stop),
                ends.deadline,
            )
            .map_err(executor_failed("waiting for its worker"))?;
            if ready.stop {
                ends.stop.heard();
            }
            self.hear(streams, &mut buffer)?;
            if (ready.ended || self.answers.is_none()) && !self.begun.contains(&b'\n') {
                return Err(rubbish("ended before it answered"));
            }
        }
    }

    /// Takes what it says, as far as it has said it.
    fn hear(&mut self, streams: &mut Streams, buffer: &mut [u8]) -> Result<(), FailureKind> {
        let failed = executor_failed("reading from its worker");
        pump(&mut self.complaints, Stream::Stderr, buffer, streams, 16).map_err(&failed)?;
        while let Some(open) = &self.answers {
            match rustix::io::read(open, &mut *buffer) {
                Ok(0) => self.answers = None,
                Ok(read) => self.begun.extend_from_slice(&buffer[..read]),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(failed(error.into())),
            }
            if self.begun.len() > MAX_ANSWER_BYTES {
                return Err(rubbish("answers with more than 64 MiB"));
            }
        }
        Ok(())
    }

    /// Waits until it takes more of a request, says something, or has ended; whether it has.
    fn has_ended_instead_of_reading(&self, ends: Ends<'_>) -> Result<bool, FailureKind> {
        let mut fds = vec![
            PollFd::new(&self.requests, PollFlags::OUT),
            PollFd::new(&self.pidfd, PollFlags::IN),
            PollFd::from_borrowed_fd(ends.stop.event(), PollFlags::IN),
        ];
        let said = [&self.answers, &self.complaints];
        fds.extend(said.into_iter().flatten().map(|pipe| PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN)));
        let left = ends.deadline.map(|t| t.saturating_duration_since(std::time::Instant::now()));
        let left = left.map(|t| t.try_into().expect("no deadline is hundreds of years away"));
        match poll(&mut fds, left.as_ref()) {
            Ok(_) => Ok(fds[1].revents().contains(PollFlags::IN)),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(executor_failed("waiting for its worker")(error.into())),
        }
    }

    fn answer(&mut self, end: usize, streams: &mut Streams) -> Result<Answer, FailureKind> {
        let line: Vec<u8> = self.begun.drain(..=end).collect();
        let response: Response = serde_json::from_slice(&line).map_err(|error| {
            let shown: String = String::from_utf8_lossy(&line).trim_end().chars().take(80).collect();
            rubbish(&format!("answers `{shown}`, which is no answer: {error}"))
        })?;
        if response.request_id != self.asked {
            let why = format!("answers request {}, and was asked {}", response.request_id, self.asked);
            return Err(rubbish(&why));
        }
        streams.take(Stream::Stdout, response.output.as_bytes()).map_err(executor_failed("what its worker says"))?;
        Ok(Answer::Said { code: response.exit_code })
    }
}

/// Whether the task is not to be waited for any longer.
fn forced(ends: Ends<'_>) -> Option<Forced> {
    if ends.stop.level() != Stop::No {
        return Some(Forced::Cancelled);
    }
    ends.deadline.is_some_and(|t| t <= std::time::Instant::now()).then_some(Forced::Timeout)
}
