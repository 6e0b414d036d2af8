//! Environment files: `NAME=value` lines, as many tools write them.
//!
//! Knows the lines; unaware of tasks and of where the files are.

/// Largest environment file, in bytes.
pub(crate) const MAX_BYTES: usize = 1 << 20;

/// The variables of a file, in its order, or the line (from 1) that is none and why.
pub(crate) fn parse(text: &str) -> Result<Vec<(String, String)>, (usize, &'static str)> {
    let mut out = vec![];
    for (number, line) in text.lines().enumerate() {
        let bad = |why| (number + 1, why);
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").map_or(line, str::trim_start);
        let (name, value) = line.split_once('=').ok_or(bad("has no `=`"))?;
        let name = name.trim_end();
        let is_name = name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_' || c == b'.' || c == b'-');
        if name.is_empty() || !is_name || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(bad("has no name of a variable before its `=`"));
        }
        if value.contains('\0') {
            return Err(bad("has a NUL character"));
        }
        out.push((name.to_owned(), value_of(value.trim_start()).map_err(bad)?));
    }
    Ok(out)
}

/// Where the line stands that gives a name its value: the last of several, without the blanks around it.
pub(crate) fn find(text: &str, name: &str) -> Option<(usize, usize)> {
    let mut at = 0;
    let mut found = None;
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim();
        let assigned = trimmed.strip_prefix("export ").unwrap_or(trimmed).split_once('=');
        if assigned.is_some_and(|(n, _)| n.trim() == name) {
            let start = at + line.len() - line.trim_start().len();
            found = Some((start, start + trimmed.len()));
        }
        at += line.len();
    }
    found
}

/// A value: in single quotes as it is, in double ones with escapes, and else up to ` #`.
fn value_of(text: &str) -> Result<String, &'static str> {
    let mut chars = text.chars();
    let (value, rest) = match chars.next() {
        Some('\'') => {
            let (value, rest) = chars.as_str().split_once('\'').ok_or("has a `'` that is never closed")?;
            (value.to_owned(), rest)
        }
        Some('"') => {
            let mut value = String::new();
            loop {
                match chars.next().ok_or("has a `\"` that is never closed")? {
                    '"' => break,
                    '\\' => match chars.next() {
                        Some('n') => value.push('\n'),
                        Some('t') => value.push('\t'),
                        Some('r') => value.push('\r'),
                        Some(c) => value.push(c),
                        None => return Err("has a `\"` that is never closed"),
                    },
                    c => value.push(c),
                }
            }
            (value, chars.as_str())
        }
        _ => {
            let end = text.find(" #").or_else(|| text.find("\t#")).unwrap_or(text.len());
            return Ok(text[..end].trim_end().to_owned());
        }
    };
    let rest = rest.trim_start();
    if rest.is_empty() || rest.starts_with('#') { Ok(value) } else { Err("has something after its closing quote") }
}

#[cfg(test)]
mod tests {
    use super::{find, parse};

    #[test]
    fn lines_are_variables() {
        let text = "# c\n\nA=1\nexport B = two words # not this\nC='$x # y' # z\nD=\"a\\tb\\\"\\\\\"\nE=\nF=a#b\r\n";
        let found = parse(text).expect("is well");
        let found: Vec<String> = found.into_iter().map(|(k, v)| format!("{k}=<{v}>")).collect();
        assert_eq!(found, ["A=<1>", "B=<two words>", "C=<$x # y>", "D=<a\tb\"\\>", "E=<>", "F=<a#b>"]);
    }

    #[test]
    fn the_last_line_of_a_name_is_found() {
        let text = "# A=0\nA=1\n  export A = 2 # c\nB=A=3\n";
        let found = |name| find(text, name).map(|(start, end)| &text[start..end]);
        assert_eq!((found("A"), found("B"), found("C")), (Some("export A = 2 # c"), Some("B=A=3"), None));
    }

    #[test]
    fn what_is_no_variable_is_said_with_its_line() {
        for (text, line, why) in [
            ("A=1\nB", 2, "has no `=`"),
            ("1A=1", 1, "has no name of a variable before its `=`"),
            ("=1", 1, "has no name of a variable before its `=`"),
            ("A='x", 1, "has a `'` that is never closed"),
            ("A=\"x\\", 1, "has a `\"` that is never closed"),
            ("A='x' y", 1, "has something after its closing quote"),
            ("A=a\0", 1, "has a NUL character"),
        ] {
            assert_eq!(parse(text), Err((line, why)), "{text}");
        }
    }
}
