//! Conditions: `os == 'linux' && !(level in ['0', '1'])` to true or false, with what was looked at.
//!
//! Knows the little language, in which a word that starts with a digit is a text like one in quotes; unaware of where names come from. Both sides of `&&` and `||` are read, but only
//! what decides is told.

use std::cell::RefCell;

/// Longest condition, in bytes.
const MAX_BYTES: usize = 4096;
/// Deepest nesting of parentheses and `!`.
const MAX_DEPTH: usize = 64;

/// Why a text is no condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConditionError {
    /// Where in the text, in bytes.
    pub(crate) at: usize,
    /// What is wrong.
    pub(crate) why: String,
    /// The name that means nothing, when that is why.
    pub(crate) unknown: Option<String>,
}

/// What a condition came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) holds: bool,
    /// The names it looked at, with their values, each once.
    pub(crate) saw: Vec<(String, String)>,
}

/// Whether a condition holds, where `look` knows the values of names.
pub(crate) fn evaluate(text: &str, look: &dyn Fn(&str) -> Option<String>) -> Result<Outcome, ConditionError> {
    let mut reader = Reader { text, at: 0, depth: 0, look, saw: RefCell::default() };
    if text.len() > MAX_BYTES {
        return Err(reader.error("is too long"));
    }
    let holds = reader.any()?;
    reader.blanks();
    if reader.at < text.len() {
        return Err(reader.error("has something after its end"));
    }
    Ok(Outcome { holds, saw: reader.saw.into_inner() })
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
    depth: usize,
    look: &'t dyn Fn(&str) -> Option<String>,
    saw: RefCell<Vec<(String, String)>>,
}

impl Reader<'_> {
    fn error(&self, why: impl Into<String>) -> ConditionError {
        ConditionError { at: self.at, why: why.into(), unknown: None }
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn blanks(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn take(&mut self, token: &str) -> bool {
        self.blanks();
        let is_word = token.ends_with(|c: char| c.is_ascii_alphabetic());
        let found = self.rest().strip_prefix(token).is_some_and(|rest| !(is_word && rest.starts_with(is_name_char)));
        self.at += if found { token.len() } else { 0 };
        found
    }

    fn any(&mut self) -> Result<bool, ConditionError> {
        let mut holds = self.all()?;
        while self.take("||") {
            holds |= self.all()?;
        }
        Ok(holds)
    }

    fn all(&mut self) -> Result<bool, ConditionError> {
        let mut holds = self.one()?;
        while self.take("&&") {
            holds &= self.one()?;
        }
        Ok(holds)
    }

    fn one(&mut self) -> Result<bool, ConditionError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error("is nested too deep"));
        }
        self.blanks();
        let holds = if !self.rest().starts_with("!=") && self.take("!") {
            !self.one()?
        } else if self.take("(") {
            let holds = self.any()?;
            if !self.take(")") {
                return Err(self.error("has a `(` that is never closed"));
            }
            holds
        } else {
            self.comparison()?
        };
        self.depth -= 1;
        Ok(holds)
    }

    fn comparison(&mut self) -> Result<bool, ConditionError> {
        let left = self.value()?;
        for (sign, is) in [
            ("==", (|a, b| a == b) as fn(&str, &str) -> bool),
            ("!=", |a, b| a != b),
            ("<=", |a, b| order(a, b).is_le()),
            (">=", |a, b| order(a, b).is_ge()),
            ("<", |a, b| order(a, b).is_lt()),
            (">", |a, b| order(a, b).is_gt()),
        ] {
            if self.take(sign) {
                let right = self.value()?;
                return Ok(is(&left, &right));
            }
        }
        if !self.take("in") {
            return Ok(!matches!(&*left, "" | "false" | "0"));
        }
        if !self.take("[") {
            return Err(self.error("has no list in `[` and `]` after `in`"));
        }
        let mut found = false;
        while !self.take("]") {
            found |= self.value()? == left;
            if !self.take(",") && !self.text[self.at..].trim_start().starts_with(']') {
                return Err(self.error("has a `[` that is never closed"));
            }
        }
        Ok(found)
    }

    fn value(&mut self) -> Result<String, ConditionError> {
        self.blanks();
        let rest = self.rest();
        if let Some(quote) = rest.chars().next().filter(|c| matches!(c, '\'' | '"')) {
            let Some((text, _)) = rest[1..].split_once(quote) else {
                return Err(self.error(format!("has a `{quote}` that is never closed")));
            };
            let text = text.to_owned();
            self.at += text.len() + 2;
            return Ok(text);
        }
        let end = rest.find(|c| !is_name_char(c)).unwrap_or(rest.len());
        let name = rest[..end].to_owned();
        if name.is_empty() {
            let why = if rest.is_empty() { "ends where a value should be" } else { "has no value here" };
            return Err(self.error(why));
        }
        let start = self.at;
        self.at += end;
        if matches!(&*name, "true" | "false") || name.starts_with(|c: char| c.is_ascii_digit() || c == '-') {
            return Ok(name);
        }
        let Some(value) = (self.look)(&name) else {
            let why = format!("looks at `{name}`, which is not defined");
            return Err(ConditionError { at: start, why, unknown: Some(name) });
        };
        let mut saw = self.saw.borrow_mut();
        if !saw.iter().any(|(n, _)| *n == name) {
            saw.push((name, value.clone()));
        }
        Ok(value)
    }
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}

/// Versions and numbers by their parts: `3.9` comes before `3.10`.
fn order(a: &str, b: &str) -> std::cmp::Ordering {
    let (mut left, mut right) = (a.split(['.', '-', '_', '+']), b.split(['.', '-', '_', '+']));
    loop {
        let ordering = match (left.next(), right.next()) {
            (None, None) => return std::cmp::Ordering::Equal,
            (a, b) => match (a.and_then(|a| a.parse::<i128>().ok()), b.and_then(|b| b.parse::<i128>().ok())) {
                (Some(a), Some(b)) => a.cmp(&b),
                _ => a.cmp(&b),
            },
        };
        if ordering.is_ne() {
            return ordering;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(text: &str) -> Result<bool, String> {
        let look = |name: &str| match name {
            "os" | "platform.os" => Some("linux".to_owned()),
            "version" => Some("3.10.1".to_owned()),
            "level" => Some("2".to_owned()),
            "fast" => Some("true".to_owned()),
            "none" => Some(String::new()),
            _ => None,
        };
        evaluate(text, &look).map(|o| o.holds).map_err(|e| format!("{}: {}", e.at, e.why))
    }

    #[test]
    fn conditions_hold_or_not() {
        for (text, holds) in [
            ("os == 'linux'", true),
            ("platform.os != \"linux\"", false),
            ("fast", true),
            ("none", false),
            ("!none && fast", true),
            ("os == 'mac' || level >= 2 && level < 10", true),
            ("(os == 'mac' || level >= 2) && !fast", false),
            ("version < 3.9", false),
            ("version >= '3.9' && version < '3.11'", true),
            ("os in ['mac', 'linux',]", true),
            ("os in []", false),
            ("!(level in [1, 3])", true),
            ("true", true),
            ("1 == 01", false),
        ] {
            assert_eq!(is(text), Ok(holds), "{text}");
        }
    }

    #[test]
    fn what_is_no_condition_says_where_and_why() {
        for (text, error) in [
            ("", "0: ends where a value should be"),
            ("os ==", "5: ends where a value should be"),
            ("os = 'x'", "3: has something after its end"),
            ("(os", "3: has a `(` that is never closed"),
            ("os == 'x", "6: has a `'` that is never closed"),
            ("os && sys", "6: looks at `sys`, which is not defined"),
            ("os in 'x'", "6: has no list in `[` and `]` after `in`"),
            ("os in ['x' 'y'", "11: has a `[` that is never closed"),
            ("&& os", "0: has no value here"),
        ] {
            assert_eq!(is(text), Err(error.into()), "{text}");
        }
        assert!(is(&"!".repeat(5000)).is_err() && is(&"(".repeat(1000)).is_err());
    }
}
