//! Exit codes, each documented: scripts rely on them.

/// What the process ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All that was asked for is so.
    Ok = 0,
    /// Some task failed.
    Failed = 1,
    /// The command line or the workfile is wrong; nothing ran.
    Usage = 2,
    /// The store, or the machine, did not do its part.
    System = 3,
    /// Nothing failed, but some goal needs a task that the workflow names and does not have.
    Blocked = 4,
    /// `verify` found damage that is still there, `audit`, `check` or `learn` a difference, `import` a bad file, `doctor` something that does not work; or two outcomes of one
    /// task stopped the run.
    Findings = 5,
    /// Nothing failed, but some goal waits for what is done elsewhere: it was not delivered, or done by another workspace.
    Suspended = 6,
    /// Ended on request (Ctrl-C or SIGTERM).
    Interrupted = 130,
    /// Whoever read the results closed the pipe.
    ClosedPipe = 141,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
