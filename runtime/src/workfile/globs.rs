//! Globs: what a pattern means, whether it matches a path, and whether two patterns can match the same path.
//!
//! Knows texts only; unaware of disks (see `sources`) and of outputs (see `outputs`).
//! Of our own making because the meaning enters ids: it must not change with a library. Normative text:
//! `docs/formats/workfile.md`.

use std::sync::Arc;

use super::wild::{Wild, class_end};
use crate::value::Text;

/// Most patterns one text may expand to by its braces.
pub const MAX_ALTERNATIVES: usize = 1000;
/// Most bytes that these patterns may have together.
const MAX_ALTERNATIVES_BYTES: usize = 1 << 20;
/// Most pairs of braces, one after the other or nested.
const MAX_BRACES: usize = 64;
/// Most components of a path.
pub const MAX_COMPONENTS: usize = 64;

/// Why a text is no glob.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GlobError {
    /// `[` without its `]`.
    #[error("`[` is never closed")]
    Class,
    /// A range from a greater to a smaller character.
    #[error("the range `{0}-{1}` is empty")]
    Range(char, char),
    /// `{` without its `}`, or the other way round.
    #[error("`{{` and `}}` do not match")]
    Brace,
    /// A backslash at the end.
    #[error("it ends in a backslash that escapes nothing")]
    Escape,
    /// `**` with something beside it.
    #[error("`**` must stand alone between slashes")]
    Deep,
    /// Braces that multiply too much.
    #[error("its braces make more than {MAX_ALTERNATIVES} patterns")]
    Alternatives,
    /// More components than a path has.
    #[error("it has more than {MAX_COMPONENTS} components")]
    Long,
}

/// A glob without braces, as normalised components.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: Text,
    comps: Arc<[Comp]>,
}

impl PartialEq for Pattern {
    /// The text says it all.
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

/// One component of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Comp {
    /// That name.
    Literal(Text),
    /// Any name of that form.
    Wild(Wild),
    /// Any number of components, none included.
    Deep,
}

/// One component of what is looked up among outputs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step<'s> {
    /// That name.
    Name(&'s str),
    /// Any name of that form.
    Form(&'s Wild),
    /// Any number of components.
    Deep,
}

/// The components of a normalised path.
pub(crate) fn steps(path: &str) -> Vec<Step<'_>> {
    path.split('/').filter(|name| !name.is_empty()).map(Step::Name).collect()
}

/// Positions in a pattern after some components of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct States(u128);

impl States {
    /// Whether nothing can match any more.
    pub(crate) fn dead(self) -> bool {
        self.0 == 0
    }
}

/// Whether a text has a character in it that globs give a meaning.
pub(crate) fn is_special(text: &str) -> bool {
    text.bytes().any(|b| matches!(b, b'*' | b'?' | b'[' | b'{' | b'}' | b'\\'))
}

/// A text's alternatives by its braces, which may be nested: `a{b,c}` is `ab` and `ac`. Escapes stay.
pub(crate) fn alternatives(text: &str) -> Result<Vec<String>, GlobError> {
    expand(text, 0)
}

fn expand(text: &str, braces: usize) -> Result<Vec<String>, GlobError> {
    let Some((open, parts, close)) = first_brace(text)? else { return Ok(vec![text.to_owned()]) };
    if braces == MAX_BRACES {
        return Err(GlobError::Alternatives);
    }
    let (mut out, mut bytes) = (vec![], 0);
    let tails = expand(&text[close + 1..], braces + 1)?;
    for part in parts {
        for middle in expand(&text[part.0..part.1], braces + 1)? {
            for tail in &tails {
                let one = format!("{}{middle}{tail}", &text[..open]);
                bytes += one.len();
                if out.len() == MAX_ALTERNATIVES || bytes > MAX_ALTERNATIVES_BYTES {
                    return Err(GlobError::Alternatives);
                }
                out.push(one);
            }
        }
    }
    Ok(out)
}

type Brace = (usize, Vec<(usize, usize)>, usize);

/// Where the first outermost brace opens, its parts, and where it closes.
fn first_brace(text: &str) -> Result<Option<Brace>, GlobError> {
    let (mut open, mut depth, mut part, mut parts) = (0, 0_usize, 0, vec![]);
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            '[' if closes_class(&text[at + 1..]) => {
                let end = at + 1 + class_end(&text[at + 1..]).ok_or(GlobError::Class)?;
                while chars.as_str().len() > text.len() - end - 1 {
                    chars.next();
                }
            }
            '{' => {
                if depth == 0 {
                    (open, part) = (at, at + 1);
                }
                depth += 1;
                if depth > 16 {
                    return Err(GlobError::Alternatives);
                }
            }
            ',' if depth == 1 => {
                parts.push((part, at));
                part = at + 1;
            }
            '}' => {
                depth = depth.checked_sub(1).ok_or(GlobError::Brace)?;
                if depth == 0 {
                    parts.push((part, at));
                    return Ok(Some((open, parts, at)));
                }
            }
            _ => {}
        }
    }
    if depth > 0 { Err(GlobError::Brace) } else { Ok(None) }
}

fn closes_class(rest: &str) -> bool {
    class_end(rest).is_some()
}

/// A literal text without its escapes, `None` when it has wildcards.
pub(crate) fn literal(text: &str) -> Result<Option<String>, GlobError> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.push(chars.next().ok_or(GlobError::Escape)?),
            '*' | '?' | '[' => return Ok(None),
            _ => out.push(c),
        }
    }
    Ok(Some(out))
}

/// A name written so that a pattern takes it as it is.
fn escaped(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        if is_special(c.encode_utf8(&mut [0; 4])) || c == ']' {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

impl Comp {
    /// Reads one component of a pattern.
    pub(crate) fn read(text: &str) -> Result<Self, GlobError> {
        if text == "**" {
            return Ok(Self::Deep);
        }
        if text.contains("**") && !text.contains('\\') && !text.contains('[') {
            return Err(GlobError::Deep);
        }
        Ok(match literal(text)? {
            Some(name) => Self::Literal(name.into()),
            None => Self::Wild(Wild::new(text)?),
        })
    }

    /// `*`.
    pub(crate) fn any() -> Self {
        Self::Wild(Wild::simple("*"))
    }

    fn step(&self) -> Step<'_> {
        match self {
            Self::Literal(name) => Step::Name(name),
            Self::Wild(wild) => Step::Form(wild),
            Self::Deep => Step::Deep,
        }
    }

    /// Whether a name matches.
    pub(crate) fn takes(&self, name: &str) -> bool {
        match self {
            Self::Literal(text) => **text == *name,
            Self::Wild(wild) => wild.matches(name),
            Self::Deep => true,
        }
    }
}

impl Pattern {
    /// A pattern of these components.
    pub(crate) fn new(comps: Vec<Comp>) -> Result<Self, GlobError> {
        if comps.len() > MAX_COMPONENTS {
            return Err(GlobError::Long);
        }
        let texts = comps.iter().map(|c| match c {
            Comp::Literal(name) => escaped(name),
            Comp::Wild(wild) => wild.text().to_string(),
            Comp::Deep => "**".to_owned(),
        });
        Ok(Self { text: texts.collect::<Vec<_>>().join("/").into(), comps: comps.into() })
    }

    /// The pattern that matches a normalised path and nothing else.
    pub(crate) fn path(path: &str) -> Self {
        let comps = path.split('/').filter(|name| !name.is_empty()).map(|name| Comp::Literal(name.into()));
        Self::new(comps.collect()).expect("a normalised path has no more components than a pattern")
    }

    /// Reads a normalised pattern without braces, as it stands in an output of kind glob.
    pub fn read(text: &str) -> Result<Self, GlobError> {
        Self::new(text.split('/').map(Comp::read).collect::<Result<_, _>>()?)
    }

    /// As it is written in ids.
    pub fn text(&self) -> &Text {
        &self.text
    }

    pub(crate) fn comps(&self) -> &[Comp] {
        &self.comps
    }

    /// Its components, to be looked up among outputs.
    pub(crate) fn steps(&self) -> Vec<Step<'_>> {
        self.comps.iter().map(Comp::step).collect()
    }

    /// The folder every match lies in: the components before the first wildcard.
    pub fn prefix(&self) -> String {
        let literal = self.comps[..self.comps.len().saturating_sub(1)].iter();
        let names = literal.map_while(|c| if let Comp::Literal(name) = c { Some(&**name) } else { None });
        names.collect::<Vec<_>>().join("/")
    }

    /// Whether a path relative to the workspace root matches.
    pub fn matches(&self, path: &str) -> bool {
        let mut states = self.start();
        for name in path.split('/') {
            states = self.step(states, name);
        }
        self.accepts(states)
    }

    /// Whether a path matches or lies below a folder that does.
    pub fn covers(&self, path: &str) -> bool {
        let mut states = self.start();
        path.split('/').any(|name| {
            states = self.step(states, name);
            self.accepts(states)
        })
    }

    /// Where matching starts.
    pub(crate) fn start(&self) -> States {
        States(self.closure(0))
    }

    /// After one more component.
    pub(crate) fn step(&self, states: States, name: &str) -> States {
        let (mut left, mut next) = (states.0, 0);
        while left != 0 {
            let i = left.trailing_zeros() as usize;
            left &= left - 1;
            match self.comps.get(i) {
                Some(Comp::Deep) => next |= self.closure(i),
                Some(comp) if comp.takes(name) => next |= self.closure(i + 1),
                _ => {}
            }
        }
        States(next)
    }

    /// Whether what was seen so far is a match.
    pub(crate) fn accepts(&self, states: States) -> bool {
        states.0 >> self.comps.len() & 1 == 1
    }

    /// Position `i` and those after the `**` that stand there.
    fn closure(&self, mut i: usize) -> u128 {
        let mut out = 1 << i;
        while matches!(self.comps.get(i), Some(Comp::Deep)) {
            i += 1;
            out |= 1 << i;
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::read(text).expect(text)
    }

    #[test]
    fn what_matches() {
        for (glob, yes, no) in [
            ("a", &["a"][..], &["b", "a/b", "A"][..]),
            ("*", &["a", ".hidden", ""], &["a/b"]),
            ("*.c", &["a.c", ".c", "a.b.c"], &["a.h", "d/a.c", "a.cc"]),
            ("a?c", &["abc", "a\u{e9}c"], &["ac", "abbc", "a/c"]),
            ("**", &["a", "a/b/c"], &[]),
            ("**/*.c", &["a.c", "d/a.c", "d/e/a.c"], &["a.h"]),
            ("src/**/t/*", &["src/t/a", "src/x/y/t/a"], &["src/a", "t/a", "src/t", "src/t/a/b"]),
            ("src/**", &["src/a", "src/a/b", "src"], &["srca", "a/src"]),
            ("[a-c]x", &["ax", "cx"], &["dx", "x", "[a-c]x"]),
            ("[!a-c]x", &["dx", "\u{e9}x"], &["ax", "x"]),
            ("[]x]", &["]", "x"], &["[]x]"]),
            ("[a\\]-]", &["a", "]", "-"], &["b", "\\"]),
            ("\\[id\\].*", &["[id].tsx"], &["i.tsx"]),
            ("a*b*c", &["abc", "axbxbxc", "abcbc"], &["ab", "abcx"]),
            ("*a?", &["xab", "aaa"], &["a", "xa"]),
        ] {
            let p = pattern(glob);
            for path in yes {
                assert!(p.matches(path), "{glob} takes {path}");
            }
            for path in no {
                assert!(!p.matches(path), "{glob} does not take {path}");
            }
            assert_eq!(Pattern::read(p.text()).as_ref(), Ok(&p), "{glob} reads back");
        }
    }

    #[test]
    fn braces_expand_as_in_shells() {
        for (text, expected) in [
            ("a", &["a"][..]),
            ("{a,b}", &["a", "b"]),
            ("x{a,b}y{c,d}", &["xayc", "xayd", "xbyc", "xbyd"]),
            ("{a,b{c,d}}", &["a", "bc", "bd"]),
            ("{,x}a", &["a", "xa"]),
            ("\\{a,b\\}", &["\\{a,b\\}"]),
            ("[{]{a,b}", &["[{]a", "[{]b"]),
            ("{src,t/u}/*.c", &["src/*.c", "t/u/*.c"]),
        ] {
            assert_eq!(alternatives(text).expect(text), expected, "{text}");
        }
        let many = "{a,b}".repeat(10);
        let long = "{a}".repeat(300_000);
        let wide = format!("{{a,b}}{}", "x".repeat(1 << 20));
        for (text, error) in [
            ("{a", GlobError::Brace),
            ("a}", GlobError::Brace),
            (&*many, GlobError::Alternatives),
            (&*long, GlobError::Alternatives),
            (&*wide, GlobError::Alternatives),
        ] {
            assert_eq!(alternatives(text), Err(error), "{text}");
        }
    }

    #[test]
    fn what_is_no_glob() {
        for (text, error) in [
            ("[a", GlobError::Class),
            ("[]", GlobError::Class),
            ("[c-a]", GlobError::Range('c', 'a')),
            ("a**", GlobError::Deep),
            ("a*\\", GlobError::Escape),
        ] {
            assert_eq!(Pattern::read(text), Err(error), "{text}");
        }
        assert_eq!(Pattern::read(&"a/".repeat(80)), Err(GlobError::Long));
    }

    #[test]
    fn prefix_is_the_folder_all_matches_lie_in() {
        for (glob, prefix) in [("a/b/*.c", "a/b"), ("*.c", ""), ("a/*/b/c", "a"), ("a/b", "a"), ("a", "")] {
            assert_eq!(pattern(glob).prefix(), prefix);
        }
    }

    proptest::proptest! {
        #[test]
        fn reading_never_panics(text in ".{0,40}") {
            if let Ok(all) = alternatives(&text) {
                for one in all {
                    if let Ok(p) = Pattern::read(&one) {
                        p.matches(&text);
                    }
                }
            }
        }

        #[test]
        fn an_escaped_name_matches_itself(name in "[^/\0]{1,20}") {
            proptest::prop_assert!(pattern(&escaped(&name)).matches(&name));
        }
    }
}
