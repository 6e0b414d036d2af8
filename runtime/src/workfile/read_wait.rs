//! `wait` and `service`: what is looked at until it is there.
//!
//! Knows the keys of both; unaware of how one looks.

use super::errors::ErrorKind;
use super::model::{Wait, WaitOn};
use super::reader::{Owner, Reader, Value};

/// Keys of `wait` and of `service`.
const WAIT_KEYS: [&str; 6] = ["tcp", "http", "file", "command", "code", "interval"];

impl Reader {
    /// What is waited for, and how often one looks.
    pub(super) fn wait<'a>(&mut self, owner: Owner<'_>, key: &str, value: Value<'a>) -> Option<Wait<'a>> {
        let place = self.place(value.span());
        let part = |name: &str| format!("{key}.{name}");
        let (mut on, mut code, mut every, errors) = (vec![], None, None, self.errors.len());
        for (name, value) in self.table(owner, key, value)? {
            let name = self.key(name);
            match &*name.text {
                "tcp" => on.extend(self.text(owner, &part("tcp"), value).map(WaitOn::Tcp)),
                "http" => on.extend(self.text(owner, &part("http"), value).map(|url| WaitOn::Http(url, 200))),
                "file" => on.extend(self.text(owner, &part("file"), value).map(WaitOn::File)),
                "command" => on.extend(self.run(owner, &part("command"), value).map(WaitOn::Command)),
                "code" => code = self.int(owner, &part("code"), &value, 100..=599).map(|n| (n as u16, name.place)),
                "interval" => every = self.duration(owner, &part("interval"), value),
                _ => self.unknown(owner, &name, &WAIT_KEYS),
            }
        }
        if on.len() != 1 && self.errors.len() == errors {
            let message = format!("`{key}` of {owner} is for {} things", on.len());
            let error = self.error(ErrorKind::BadValue, place, message);
            error.hints.push(format!(
                "one of `tcp`, `http`, `file` and `command`{}",
                if key == "wait" { "; a task each for more" } else { "" }
            ));
        }
        let mut on = on.pop()?;
        match (&mut on, code) {
            (WaitOn::Http(_, wanted), Some((code, _))) => *wanted = code,
            (_, Some((_, place))) => {
                let message = format!("`{key}` of {owner} has a `code`, and no `http`");
                self.error(ErrorKind::BadValue, place, message);
            }
            _ => {}
        }
        Some(Wait { on, every })
    }
}
