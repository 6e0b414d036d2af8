//! What the store's directory is on: file systems that answer over a network are known by their numbers.
//!
//! Unaware of what is done about it.

use std::path::Path;

/// Numbers of `statfs` and what they are called.
const NETWORK: [(u64, &str); 12] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xfe53_4d42, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0x0102_1997, "9P"),
    (0x6573_5546, "FUSE"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
    (0x00c3_6400, "Ceph"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x7375_7245, "Coda"),
];

/// The kind of network file system that `dir`, or what is to hold it, is on.
pub(crate) fn network(dir: &Path) -> Option<&'static str> {
    let found = dir.ancestors().find_map(|dir| rustix::fs::statfs(dir).ok())?;
    // Signed and of different widths on different machines: the lower half has it all.
    kind(found.f_type as u64 & 0xffff_ffff)
}

fn kind(number: u64) -> Option<&'static str> {
    NETWORK.iter().find(|(known, _)| *known == number).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_are_known_by_number() {
        assert_eq!(kind(0x6969), Some("NFS"));
        assert_eq!(kind(0xff53_4d42), Some("CIFS"));
        // ext4, XFS, btrfs, tmpfs, overlay.
        for local in [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630] {
            assert_eq!(kind(local), None);
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(network(&dir.path().join("not/there/yet")), network(dir.path()));
    }
}
