//! What was looked at in a workspace to find out which files there are: all that may change that answer.
//!
//! Plain values but for the files that tell what git ignores; unaware of what was found.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ignore::gitignore::gitconfig_excludes_path;

use crate::value::Text;

/// What the answer to "which files are there" depends on, beside the files found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Looked {
    /// Folders whose names were read, relative to the workspace root; some were not there.
    pub folders: BTreeSet<Text>,
    /// Paths that were looked for, relative to the workspace root, and are no source.
    pub paths: BTreeSet<Text>,
    /// Of `folders`, those in which git's rules were asked for.
    pub git: BTreeSet<Text>,
}

/// Of git, what decides which files count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GitRules {
    /// Files whose content counts, or would if they were there.
    pub files: Vec<PathBuf>,
    /// Paths of which only counts whether they are there, and whether they are folders.
    pub repositories: Vec<PathBuf>,
}

impl Looked {
    /// What says which files git ignores in this workspace. `env` tells where git's own settings are.
    pub fn git_rules(&self, root: &Path, env: impl Fn(&str) -> Option<PathBuf>) -> GitRules {
        let mut rules = GitRules::default();
        if self.git.is_empty() {
            return rules;
        }
        let inside: BTreeSet<PathBuf> = self.git.iter().map(|dir| root.join(&**dir)).collect();
        let mut above = BTreeSet::new();
        for dir in &inside {
            let new = |dir: &&Path| inside.contains(*dir) || above.insert((*dir).to_owned());
            dir.ancestors().skip(1).take_while(new).for_each(drop);
        }
        for dir in inside.iter().chain(&above) {
            let (ignore, git) = (dir.join(".gitignore"), dir.join(".git"));
            // What is not there in a folder whose names were read cannot come without changing that folder.
            let there = |path: &Path| above.contains(dir) || path.symlink_metadata().is_ok();
            if there(&ignore) {
                rules.files.push(ignore);
            }
            if there(&git) {
                excludes(&git, &mut rules.files);
                rules.repositories.push(git);
            }
        }
        let home = env("HOME");
        let settings = env("XDG_CONFIG_HOME").or_else(|| home.as_ref().map(|home| home.join(".config")));
        rules.files.extend(env("GIT_CONFIG_GLOBAL"));
        rules.files.push(env("GIT_CONFIG_SYSTEM").unwrap_or_else(|| "/etc/gitconfig".into()));
        rules.files.extend(home.map(|home| home.join(".gitconfig")));
        rules.files.extend(settings.into_iter().flat_map(|dir| [dir.join("git/config"), dir.join("git/ignore")]));
        rules.files.extend(gitconfig_excludes_path());
        rules
    }
}

/// Where a repository keeps rules of its own; a worktree's `.git` says where its repository is.
fn excludes(git: &Path, files: &mut Vec<PathBuf>) {
    let line = |path: &Path| Some(std::fs::read_to_string(path).ok()?.lines().next()?.to_owned());
    if let Some(dir) = line(git).and_then(|line| Some(PathBuf::from(line.strip_prefix("gitdir: ")?))) {
        let common = dir.join("commondir");
        files.extend(line(&common).map(|to| dir.join(to).join("info/exclude")));
        files.extend([git.to_owned(), common]);
    } else {
        files.push(git.join("info/exclude"));
    }
}
