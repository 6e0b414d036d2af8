//! Where setting a sandbox up may fail, and with what.
//!
//! Knows names only; unaware of what is done there.

/// A step of the set-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Descriptors are put in their places.
    Descriptors,
    /// The user is mapped into its namespace.
    UserMap,
    /// The network that a company has of its own is put into use.
    Loopback,
    /// The host gets its name.
    HostName,
    /// A directory becomes a mount that can be the root.
    Root,
    /// Something is bound; the index says what.
    Bind,
    /// A place for an input is made; the index says which.
    Make,
    /// `/proc` is mounted.
    Proc,
    /// Mounts are made read-only.
    ReadOnly,
    /// An empty file system in memory is mounted.
    Memory,
    /// A file system over the workspace is mounted.
    Layers,
    /// The root is changed.
    Pivot,
    /// A namespace is entered, or made for the task alone.
    Enter,
    /// Privileges are given up.
    Privileges,
    /// The filter of system calls is put in force.
    Filter,
    /// The filter that tells of system calls is put in force.
    Trace,
    /// A process is made.
    Fork,
    /// The working directory is entered.
    Dir,
    /// The program is started.
    Exec,
}

/// What failed: where, at which item, and what the kernel said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failed {
    pub(super) stage: Stage,
    pub(super) index: usize,
    pub(super) errno: i32,
}

/// For `map_err` after calls of `rustix`.
pub(super) fn at(stage: Stage, index: usize) -> impl Fn(rustix::io::Errno) -> Failed {
    move |errno| Failed { stage, index, errno: errno.raw_os_error() }
}

/// For `map_err` after calls that give a plain number.
pub(super) fn at_raw(stage: Stage, index: usize) -> impl Fn(i32) -> Failed {
    move |errno| Failed { stage, index, errno }
}

impl Failed {
    /// The form in which it goes over a socket.
    pub(super) fn encode(self) -> [u8; 9] {
        let mut bytes = [0; 9];
        bytes[0] = self.stage as u8;
        let index = u32::try_from(self.index).unwrap_or(u32::MAX);
        let rest = index.to_le_bytes().into_iter().chain(self.errno.to_le_bytes());
        bytes.iter_mut().skip(1).zip(rest).for_each(|(to, from)| *to = from);
        bytes
    }

    /// Reads it back.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let stage = Self::STAGES.into_iter().find(|s| bytes.first() == Some(&(*s as u8)))?;
        let index = u32::from_le_bytes(bytes.get(1..5)?.try_into().ok()?) as usize;
        Some(Self { stage, index, errno: i32::from_le_bytes(bytes.get(5..9)?.try_into().ok()?) })
    }

    /// Those that happen where the answer goes over a socket.
    const STAGES: [Stage; 10] = [
        Stage::Descriptors,
        Stage::UserMap,
        Stage::Loopback,
        Stage::HostName,
        Stage::Root,
        Stage::Bind,
        Stage::Proc,
        Stage::ReadOnly,
        Stage::Memory,
        Stage::Pivot,
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_arrive_as_they_were_sent() {
        for stage in Failed::STAGES {
            let failed = Failed { stage, index: 70_000, errno: 13 };
            assert_eq!(Failed::decode(&failed.encode()), Some(failed));
        }
        assert_eq!(Failed::decode(&[0; 8]), None);
        assert_eq!(Failed::decode(&[200; 9]), None);
    }
}
