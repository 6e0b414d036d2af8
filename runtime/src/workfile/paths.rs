//! Paths of a workfile: from text, relative to its folder, to the one spelling a workspace path has.
//!
//! Lexical only; unaware of disks and of symbolic links. Normative text: `docs/formats/workfile.md`.

use super::globs::{self, Comp, GlobError, MAX_COMPONENTS, Pattern};
use crate::value::Text;

/// Longest name in a path, in bytes.
const MAX_NAME_BYTES: usize = 255;

/// Why a text is no path in the workspace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum PathError {
    /// Nothing.
    #[error("is empty")]
    Empty,
    /// Starts with `/`.
    #[error("is absolute")]
    Absolute,
    /// More `..` than there are folders.
    #[error("leads out of the workspace")]
    Outside,
    /// Cannot be a name on every system, or would confuse a terminal.
    #[error("has a control character in it")]
    Control,
    /// A name the store cannot hold.
    #[error("has a name of more than {MAX_NAME_BYTES} bytes")]
    LongName,
    /// Nested more than a tree may be.
    #[error("has more than {MAX_COMPONENTS} components")]
    TooDeep,
    /// `..` after a wildcard.
    #[error("has `..` after a wildcard")]
    Up,
    /// Not a glob.
    #[error("cannot be read: {0}")]
    Glob(#[from] GlobError),
}

/// What a path text means.
#[derive(Debug, Clone)]
pub(crate) enum Spot {
    /// One path; empty for the workspace root.
    Literal {
        /// Relative to the workspace root, normalised.
        path: Text,
        /// Whether it was written as a folder, with a slash at the end.
        folder: bool,
    },
    /// Every path of a form.
    Pattern {
        /// Relative to the workspace root.
        pattern: Pattern,
        /// Whether it was written with a slash at the end.
        folder: bool,
    },
}

/// What `text`, written in the folder `base`, means; several where it has braces.
pub(crate) fn read(base: &str, text: &str, out: &mut Vec<Spot>) -> Result<(), PathError> {
    if !globs::is_special(text) {
        let folder = folder(text);
        let path = if base.is_empty() && is_normal(text) { text.into() } else { normalise(base, text)?.into() };
        out.push(Spot::Literal { path, folder });
        return Ok(());
    }
    for one in globs::alternatives(text)? {
        if let Some(literal) = globs::literal(&one)? {
            out.push(Spot::Literal { path: normalise(base, &literal)?.into(), folder: folder(&literal) });
            continue;
        }
        check(&one)?;
        let mut comps: Vec<Comp> = base.split('/').filter(|n| !n.is_empty()).map(|n| Comp::Literal(n.into())).collect();
        for name in one.split('/') {
            match name {
                "" | "." => {}
                ".." => match comps.pop() {
                    None => return Err(PathError::Outside),
                    Some(Comp::Literal(_)) => {}
                    Some(_) => return Err(PathError::Up),
                },
                _ if name.len() > MAX_NAME_BYTES => return Err(PathError::LongName),
                // Two in a row mean the same as one.
                "**" if comps.last() == Some(&Comp::Deep) => {}
                _ => comps.push(Comp::read(name)?),
            }
        }
        out.push(Spot::Pattern { pattern: Pattern::new(comps)?, folder: folder(&one) });
    }
    Ok(())
}

/// The workspace path of `text`, written in the folder `base` and taken without wildcards.
pub(crate) fn normalise(base: &str, text: &str) -> Result<String, PathError> {
    check(text)?;
    let mut out = String::with_capacity(base.len() + text.len() + 1);
    out.push_str(base);
    for name in text.split('/') {
        match name {
            "" | "." => {}
            ".." if out.is_empty() => return Err(PathError::Outside),
            ".." => out.truncate(out.rfind('/').unwrap_or(0)),
            _ if name.len() > MAX_NAME_BYTES => return Err(PathError::LongName),
            _ => {
                if !out.is_empty() {
                    out.push('/');
                }
                out.push_str(name);
            }
        }
    }
    if out.bytes().filter(|b| *b == b'/').count() >= MAX_COMPONENTS {
        return Err(PathError::TooDeep);
    }
    Ok(out)
}

fn check(text: &str) -> Result<(), PathError> {
    match text {
        "" => Err(PathError::Empty),
        _ if text.starts_with('/') => Err(PathError::Absolute),
        _ if text.chars().any(char::is_control) => Err(PathError::Control),
        _ => Ok(()),
    }
}

/// Whether a text surely is what it would be normalised to; says no where finding out would take long.
fn is_normal(text: &str) -> bool {
    let mut before = b'/';
    for b in text.bytes() {
        // A slash or a dot after a slash, a control character.
        if (before == b'/' && matches!(b, b'/' | b'.')) || b < b' ' || !b.is_ascii() || b == 0x7f {
            return false;
        }
        before = b;
    }
    before != b'/' && text.len() <= MAX_NAME_BYTES && text.split('/').count() <= MAX_COMPONENTS
}

fn folder(text: &str) -> bool {
    text.ends_with('/') || matches!(text, "." | "..") || text.ends_with("/.") || text.ends_with("/..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(base: &str, text: &str) -> String {
        let mut out = vec![];
        match read(base, text, &mut out) {
            Err(error) => format!("! {error}"),
            Ok(()) => {
                let show = |spot: &Spot| match spot {
                    Spot::Literal { path, folder } => format!("{path}{}", if *folder { "/" } else { "" }),
                    Spot::Pattern { pattern, folder } => {
                        format!("~{}{}", pattern.text(), if *folder { "/" } else { "" })
                    }
                };
                out.iter().map(show).collect::<Vec<_>>().join(" ")
            }
        }
    }

    #[test]
    fn one_path_has_one_spelling() {
        for (base, text, expected) in [
            ("", "a/b", "a/b"),
            ("", "./a//b/", "a/b/"),
            ("", "a/../b", "b"),
            ("", ".", "/"),
            ("lib", "a", "lib/a"),
            ("lib", "../a", "a"),
            ("lib/x", "../..", "/"),
            ("lib", "../../a", "! leads out of the workspace"),
            ("", "a/../../b", "! leads out of the workspace"),
            ("", "/etc", "! is absolute"),
            ("", "", "! is empty"),
            ("", "a\nb", "! has a control character in it"),
            ("", "*.c", "~*.c"),
            ("lib", "../src/**/**/*.c", "~src/**/*.c"),
            ("lib", "src/*/", "~lib/src/*/"),
            ("", "*/../a", "! has `..` after a wildcard"),
            ("", "a/{b,c*}", "a/b ~a/c*"),
            ("", "pages/\\[id\\].tsx", "pages/[id].tsx"),
            ("[x]", "*", "~\\[x\\]/*"),
            ("", "[a", "! cannot be read: `[` is never closed"),
        ] {
            assert_eq!(shown(base, text), expected, "{text:?} in {base:?}");
        }
        assert_eq!(shown("", &"x".repeat(256)), "! has a name of more than 255 bytes");
        assert_eq!(shown("", &"x/".repeat(65)), "! has more than 64 components");
    }

    proptest::proptest! {
        #[test]
        fn what_is_normalised_stays_and_never_leaves(base in "([a-c](/[a-c]){0,2})?", text in "[a-c./]{0,12}") {
            if let Ok(path) = normalise(&base, &text) {
                proptest::prop_assert!(path.is_empty() || normalise("", &path).as_deref() == Ok(&path));
                proptest::prop_assert!(!is_normal(&text) || !base.is_empty() || path == text);
                proptest::prop_assert!(path.split('/').all(|n| n != ".." && n != "."));
            }
        }
    }
}
