//! Where a program is: the search of a task's own PATH.
//!
//! Knows names and directories; unaware of how programs are started.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The files that `program` may mean, in order. A name with a slash means itself.
pub(crate) fn candidates(program: &str, path: &str) -> Vec<PathBuf> {
    if program.contains('/') {
        return vec![program.into()];
    }
    // An empty part means the working directory, as it always has; a program called nothing is nowhere.
    let dirs = path.split(':').map(|dir| if dir.is_empty() { "." } else { dir });
    dirs.filter(|_| !program.is_empty()).map(|dir| Path::new(dir).join(program)).collect()
}

/// Finds `program` for a task that runs in `dir` on this machine.
pub(crate) fn find(program: &str, path: &str, dir: &Path) -> Result<PathBuf, String> {
    let mut refused = None;
    for candidate in candidates(program, path) {
        let file = dir.join(candidate);
        match std::fs::metadata(&file) {
            Ok(found) if found.is_file() && found.permissions().mode() & 0o111 != 0 => return Ok(file),
            Ok(_) => refused = Some(file),
            Err(_) => {}
        }
    }
    Err(match refused {
        Some(file) => format!("`{}` is not an executable file", file.display()),
        None => not_found(program, path),
    })
}

/// What to say of a program that is not there.
pub(crate) fn not_found(program: &str, path: &str) -> String {
    if program.contains('/') {
        format!("program `{program}` is not there")
    } else if path.is_empty() {
        format!("program `{program}` not found: the task has no PATH")
    } else {
        format!("program `{program}` not found in PATH `{path}`")
    }
}

/// What to say of a program that is there and could not be started.
pub(crate) fn not_started(program: &str, file: &Path, error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOEXEC) => {
            format!(
                "program `{program}`: `{}` is neither a binary of this machine nor a script that begins with `#!`",
                file.display()
            )
        }
        Some(libc::ENOENT | libc::ENOTDIR) => match interpreter(file) {
            Some(name) => format!("program `{program}`: its interpreter `{name}` is not there"),
            None => format!("program `{program}`: `{}`, or the loader it needs, is not there", file.display()),
        },
        Some(libc::E2BIG) => format!("program `{program}`: arguments and environment are too long for the system"),
        _ => format!("program `{program}`: {error}"),
    }
}

/// What a script says it is to be run with.
fn interpreter(file: &Path) -> Option<String> {
    use std::io::Read;
    let mut start = Vec::new();
    std::fs::File::open(file).ok()?.take(256).read_to_end(&mut start).ok()?;
    let line = start.strip_prefix(b"#!")?.split(|&b| b == b'\n').next()?;
    String::from_utf8_lossy(line).split_whitespace().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_looked_for_in_the_path_given_and_what_is_wrong_is_said() {
        let dir = tempfile::tempdir().expect("space left");
        let root = dir.path();
        std::fs::create_dir(root.join("bin")).expect("made");
        std::fs::write(root.join("bin/tool"), "#!/no/such/shell\n").expect("written");
        let path = format!("/nowhere:{}", root.join("bin").display());
        assert_eq!(
            find("tool", &path, root),
            Err(format!("`{}` is not an executable file", root.join("bin/tool").display()))
        );
        std::fs::set_permissions(root.join("bin/tool"), std::fs::Permissions::from_mode(0o755)).expect("set");
        assert_eq!(find("tool", &path, root), Ok(root.join("bin/tool")));
        assert_eq!(find("bin/tool", "", root), Ok(root.join("bin/tool")));
        assert_eq!(find("tool", ":", &root.join("bin")), Ok(root.join("bin/./tool")));
        assert_eq!(find("none", "/a:/b", root), Err("program `none` not found in PATH `/a:/b`".into()));
        assert_eq!(find("./none", "/a:/b", root), Err("program `./none` is not there".into()));
        assert!(find("", "/bin", root).is_err());
        let error = io::Error::from_raw_os_error(libc::ENOENT);
        let said = not_started("tool", &root.join("bin/tool"), &error);
        assert_eq!(said, "program `tool`: its interpreter `/no/such/shell` is not there");
    }
}
