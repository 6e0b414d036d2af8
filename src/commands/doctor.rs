//! `quipu doctor`: what this machine lets tasks do, what the store is on, and what to do about what does not work.
//!
//! Changes nothing: what it tries it takes away again.

use std::fmt::Write as _;
use std::path::Path;

use quipu_runtime::exec::sandbox;
use quipu_runtime::workfile::DEFAULT_PATH;
use quipu_store::medium::{self, Medium};
use serde::Serialize;

use super::{Context, print, print_json};
use crate::cli::DoctorArgs;
use crate::diagnose::Diagnosis;
use crate::exit::Exit;
use crate::quantity::size;
use crate::settings;

/// How wide lines are at most.
const WIDTH: usize = 80;
/// Where what is said of a finding begins.
const INDENT: usize = 22;
/// Less than this is worth a word.
const FEW_BYTES: u64 = 1 << 30;
/// Programs that many tasks are made of.
const PROGRAMS: [&str; 8] = ["sh", "cc", "make", "git", "python3", "node", "tar", "curl"];

/// Whether something is as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// It works.
    Ok,
    /// Worth knowing.
    Note,
    /// It does not work.
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    area: &'static str,
    name: String,
    state: State,
    detail: String,
    /// What can be done about it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    help: Vec<String>,
}

impl Finding {
    fn new(area: &'static str, name: &str, state: State, detail: impl Into<String>) -> Self {
        Self { area, name: name.to_owned(), state, detail: detail.into(), help: vec![] }
    }
}

/// Looks, and tells.
pub(super) fn doctor(context: &Context, args: &DoctorArgs) -> Result<Exit, Diagnosis> {
    let settings = context.settings()?;
    let mut findings = isolation()?;
    findings.extend(store(&settings.store));
    findings.extend(machine());
    let exit = if findings.iter().any(|f| f.state == State::Bad) { Exit::Findings } else { Exit::Ok };
    if args.json {
        let report = serde_json::json!({ "ok": exit == Exit::Ok, "findings": findings });
        return print_json(&report).map(|_| exit);
    }
    print(&text(&findings)).map(|()| exit)
}

fn isolation() -> Result<Vec<Finding>, Diagnosis> {
    const AREA: &str = "isolation";
    let mut findings = vec![];
    let (ns, landlock) = (sandbox::ns(), sandbox::landlock());
    let chosen = settings::isolation()?;
    let needed = |tier: &str| if chosen.name() == tier { State::Bad } else { State::Note };
    findings.push(match &ns {
        Ok(()) => Finding::new(AREA, "ns", State::Ok, "works: what a task does not declare is not there"),
        Err(why) => {
            let mut finding = Finding::new(AREA, "ns", needed("ns"), format!("does not work: {why}"));
            finding.help.extend(sandbox::remedy().map(str::to_owned));
            finding
        }
    });
    // Which of them it is only matters where it is one of them.
    for (name, made) in sandbox::namespaces().into_iter().filter(|_| ns.is_err()) {
        findings.push(match made {
            Ok(()) => Finding::new(AREA, name, State::Ok, "namespaces of this kind can be made"),
            Err(error) => Finding::new(AREA, name, State::Note, format!("no namespaces of this kind: {error}")),
        });
    }
    findings.push(match landlock {
        Ok(version) => {
            let gap = if version < 4 { ", without rules for TCP: the filter of system calls refuses it" } else { "" };
            let detail = format!("works, version {version}: what is not declared is refused, not hidden{gap}");
            Finding::new(AREA, "landlock", State::Ok, detail)
        }
        Err(why) => Finding::new(AREA, "landlock", needed("landlock"), format!("does not work: {why}")),
    });
    findings.push(Finding::new(AREA, "none", State::Ok, "works everywhere: nothing is isolated"));
    let actions = std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    findings.push(match (actions.contains("errno"), actions.contains("user_notif")) {
        (true, true) => Finding::new(AREA, "seccomp", State::Ok, "filters, and notification of another process"),
        (true, false) => Finding::new(AREA, "seccomp", State::Note, "filters; no notification of another process"),
        _ => {
            Finding::new(AREA, "seccomp", State::Note, "nothing is known of it: /proc/sys/kernel/seccomp is not there")
        }
    });
    if ns.is_err() {
        let choice =
            format!("tasks that do not say are in the tier `{}`; QUIPU_SANDBOX chooses another", chosen.name());
        findings.push(Finding::new(AREA, "chosen", State::Note, choice));
    }
    Ok(findings)
}

fn store(dir: &Path) -> Vec<Finding> {
    const AREA: &str = "store";
    let place = Finding::new(AREA, "directory", State::Ok, dir.display().to_string());
    let Medium { kind, network, free_bytes, reflink, grain, .. } = match medium::look(dir) {
        Ok(found) => found,
        Err(error) => {
            let mut finding = Finding::new(AREA, "writing", State::Bad, format!("does not work: {error}"));
            finding.help.push("name another directory with --store or QUIPU_STORE".into());
            return vec![place, finding];
        }
    };
    let mut findings = vec![place];
    findings.push(match network {
        None => Finding::new(AREA, "file system", State::Ok, kind),
        Some(network) => {
            let detail = format!("{network}, over a network: locks and syncing may not hold what they promise");
            let mut finding = Finding::new(AREA, "file system", State::Note, detail);
            finding.help.push("put the store on a disk of this machine with QUIPU_STORE".into());
            finding
        }
    });
    findings.push(match reflink {
        Ok(()) => Finding::new(AREA, "reflinks", State::Ok, "outputs take no room twice"),
        Err(_) => Finding::new(AREA, "reflinks", State::Ok, "none: outputs in the workspace are copies"),
    });
    let free = format!("{} free", size(free_bytes));
    findings.push(if free_bytes < FEW_BYTES {
        let mut finding = Finding::new(AREA, "space", State::Note, free);
        finding.help.push("`quipu gc` deletes what has not been used for long".into());
        finding
    } else {
        Finding::new(AREA, "space", State::Ok, free)
    });
    findings.push(match grain {
        Some(grain) if grain.as_millis() < 100 => {
            Finding::new(AREA, "file times", State::Ok, format!("tell changes {} us apart", grain.as_micros().max(1)))
        }
        _ => Finding::new(AREA, "file times", State::Note, "coarse: files that were just written are read again"),
    });
    findings
}

fn machine() -> Vec<Finding> {
    const AREA: &str = "machine";
    let system = rustix::system::uname();
    let said = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    let kernel = format!("{} {} on {}", said(system.sysname()), said(system.release()), said(system.machine()));
    let who = if rustix::process::geteuid().is_root() {
        "root: tasks run without its capabilities, and cannot read what only others may"
    } else {
        "an ordinary user"
    };
    let mut findings = vec![
        Finding::new(AREA, "system", State::Ok, kernel),
        Finding::new(AREA, "user", State::Ok, who),
        Finding::new(AREA, "processors", State::Ok, settings::default_jobs().to_string()),
    ];
    let is_there = |name: &&&str| DEFAULT_PATH.split(':').any(|dir| Path::new(dir).join(name).is_file());
    let (found, missing): (Vec<&str>, Vec<&str>) = PROGRAMS.iter().partition(|name| is_there(name));
    let state = if missing.contains(&"sh") { State::Bad } else { State::Ok };
    findings.push(Finding::new(AREA, "programs", state, found.join(", ")));
    if !missing.is_empty() {
        let detail = format!("not where tasks look for them: {}", missing.join(", "));
        findings.push(Finding::new(AREA, "", if state == State::Bad { state } else { State::Note }, detail));
    }
    findings
}

fn text(findings: &[Finding]) -> String {
    let mut out = String::new();
    let mut area = "";
    for finding in findings {
        if finding.area != area {
            area = finding.area;
            let _ = writeln!(out, "{area}");
        }
        let mark = match finding.state {
            State::Ok => "ok",
            State::Note => "note",
            State::Bad => "bad",
        };
        let start = format!("  {mark:<5} {:<13} ", finding.name);
        wrap(&mut out, &start, &finding.detail);
        for help in &finding.help {
            wrap(&mut out, &format!("{:INDENT$}help: ", ""), help);
        }
    }
    out
}

/// Writes `start` and then the words of `text`, further lines below the first word as far as that is within the width.
fn wrap(out: &mut String, start: &str, text: &str) {
    let mut line = start.to_owned();
    let mut is_empty = true;
    for word in text.split(' ') {
        if !is_empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            let _ = writeln!(out, "{line}");
            line = " ".repeat(INDENT);
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
        is_empty = false;
    }
    let _ = writeln!(out, "{}", line.trim_end());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_between_words_and_help_stands_below() {
        let mut finding =
            Finding::new("isolation", "ns", State::Bad, "does not work: ".to_owned() + &"word ".repeat(20));
        finding.help.push("do something about it".into());
        let shown = text(&[finding, Finding::new("store", "space", State::Ok, "1 GB free")]);
        assert!(shown.lines().all(|line| line.chars().count() <= WIDTH && line == line.trim_end()), "{shown}");
        assert!(shown.starts_with("isolation\n  bad   ns            does not work: word"), "{shown}");
        let rest = format!("{0:INDENT$}help: do something about it\nstore\n  ok    space         1 GB free\n", "");
        assert!(shown.ends_with(&rest), "{shown}");
    }
}
