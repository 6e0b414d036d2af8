//! One component of a glob: which names are of its form, and whether two forms share a name.
//!
//! Knows characters; unaware of paths (see [`super::globs`]).

use super::globs::GlobError;
use crate::value::Text;

/// A component with wildcards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wild {
    /// As written.
    text: Text,
    pieces: Box<[Piece]>,
    /// What every match starts and ends with.
    prefix: Box<str>,
    suffix: Box<str>,
    /// Whether it is nothing but prefix, `*` and suffix.
    plain: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Char(char),
    One,
    Many,
    Class { negated: bool, ranges: Box<[(char, char)]> },
}

/// Where the `]` of a class stands in what follows its `[`. A `]` right at the start is a member.
pub(super) fn class_end(rest: &str) -> Option<usize> {
    let skip = rest.starts_with(['!', '^']) as usize;
    let mut chars = rest.char_indices().skip(skip);
    let mut first = true;
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            ']' if !first => return Some(at),
            '/' => return None,
            _ => {}
        }
        first = false;
    }
    None
}

impl Wild {
    /// Reads a component that has wildcards.
    pub(crate) fn new(text: &str) -> Result<Self, GlobError> {
        let mut pieces = vec![];
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            rest = &rest[c.len_utf8()..];
            match c {
                '*' if pieces.last() == Some(&Piece::Many) => {}
                '*' => pieces.push(Piece::Many),
                '?' => pieces.push(Piece::One),
                '[' => {
                    let end = class_end(rest).ok_or(GlobError::Class)?;
                    pieces.push(class(&rest[..end])?);
                    rest = &rest[end + 1..];
                }
                '\\' => {
                    let c = rest.chars().next().ok_or(GlobError::Escape)?;
                    rest = &rest[c.len_utf8()..];
                    pieces.push(Piece::Char(c));
                }
                _ => pieces.push(Piece::Char(c)),
            }
        }
        Ok(Self::of(text, pieces))
    }

    /// A text in which only `*` and `?` mean something, as in selectors.
    pub(crate) fn simple(text: &str) -> Self {
        let pieces = text.chars().map(|c| match c {
            '*' => Piece::Many,
            '?' => Piece::One,
            _ => Piece::Char(c),
        });
        Self::of(text, pieces.collect())
    }

    fn of(text: &str, pieces: Vec<Piece>) -> Self {
        let char_of = |p: &Piece| if let Piece::Char(c) = p { Some(*c) } else { None };
        let prefix: String = pieces.iter().map_while(char_of).collect();
        let suffix: String = pieces.iter().rev().map_while(char_of).collect::<Vec<_>>().into_iter().rev().collect();
        let plain =
            prefix.chars().count() + suffix.chars().count() + 1 == pieces.len() && pieces.contains(&Piece::Many);
        let (prefix, suffix) = (prefix.into(), suffix.into());
        Self { text: text.into(), pieces: pieces.into(), prefix, suffix, plain }
    }

    pub(crate) fn text(&self) -> &Text {
        &self.text
    }

    /// What every match starts with.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// What every match ends with.
    pub(crate) fn suffix(&self) -> &str {
        &self.suffix
    }

    /// Whether a name is of this form.
    pub(crate) fn matches(&self, name: &str) -> bool {
        let fits = name.starts_with(&*self.prefix) && name.ends_with(&*self.suffix);
        if !fits || self.plain {
            return fits && name.len() >= self.prefix.len() + self.suffix.len();
        }
        // On a mismatch the last `*` takes one character more.
        let (mut piece, mut rest, mut retry) = (0, name, None);
        loop {
            let next = rest.chars().next();
            match (self.pieces.get(piece), next) {
                (Some(Piece::Many), _) => {
                    piece += 1;
                    retry = Some((piece, rest));
                    continue;
                }
                (None, None) => return true,
                (Some(p), Some(c)) if p.takes(c) => {
                    piece += 1;
                    rest = &rest[c.len_utf8()..];
                    continue;
                }
                _ => {}
            }
            let Some((at, from)) = retry else { return false };
            let Some(c) = from.chars().next() else { return false };
            (piece, rest) = (at, &from[c.len_utf8()..]);
            retry = Some((at, rest));
        }
    }

    /// Whether some name is of both forms.
    pub(crate) fn meets(&self, other: &Self) -> bool {
        let (a, b) = (&self.pieces, &other.pieces);
        let ends = |x: &str, y: &str| x.ends_with(y) || y.ends_with(x);
        let starts = self.prefix.starts_with(&*other.prefix) || other.prefix.starts_with(&*self.prefix);
        if !starts || !ends(&self.suffix, &other.suffix) {
            return false;
        }
        // Row `i`, column `j`: whether what is left of both from there can be the same text.
        let mut below = vec![false; b.len() + 1];
        for i in (0..=a.len()).rev() {
            let mut row = vec![false; b.len() + 1];
            for j in (0..=b.len()).rev() {
                row[j] = match (a.get(i), b.get(j)) {
                    (None, None) => true,
                    (Some(Piece::Many), y) => below[j] || (y.is_some() && row[j + 1]),
                    (x, Some(Piece::Many)) => row[j + 1] || (x.is_some() && below[j]),
                    (Some(x), Some(y)) => x.meets(y) && below[j + 1],
                    _ => false,
                };
            }
            below = row;
        }
        below[0]
    }
}

impl Piece {
    fn takes(&self, c: char) -> bool {
        match self {
            Self::Char(own) => *own == c,
            Self::One => true,
            Self::Many => false,
            Self::Class { negated, ranges } => ranges.iter().any(|r| r.0 <= c && c <= r.1) != *negated,
        }
    }

    /// Whether some character is of both; says yes where finding out would take long.
    fn meets(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Char(c), o) | (o, Self::Char(c)) => o.takes(*c),
            (Self::Class { negated: false, ranges: a }, Self::Class { negated: false, ranges: b }) => {
                a.iter().any(|x| b.iter().any(|y| x.0 <= y.1 && y.0 <= x.1))
            }
            (Self::Class { negated: false, ranges: a }, Self::Class { ranges: no, .. })
            | (Self::Class { ranges: no, .. }, Self::Class { negated: false, ranges: a }) => {
                a.iter().any(|x| !no.iter().any(|y| y.0 <= x.0 && x.1 <= y.1))
            }
            _ => true,
        }
    }
}

fn class(inner: &str) -> Result<Piece, GlobError> {
    let (negated, inner) = inner.strip_prefix(['!', '^']).map_or((false, inner), |rest| (true, rest));
    let mut chars = inner.chars().peekable();
    let mut ranges = vec![];
    let read = |c: char, chars: &mut std::iter::Peekable<std::str::Chars<'_>>| {
        if c == '\\' { chars.next().ok_or(GlobError::Escape) } else { Ok(c) }
    };
    while let Some(c) = chars.next() {
        let low = read(c, &mut chars)?;
        let mut ahead = chars.clone();
        let high = match (ahead.next(), ahead.next()) {
            (Some('-'), Some(end)) => {
                chars = ahead;
                read(end, &mut chars)?
            }
            _ => low,
        };
        if high < low {
            return Err(GlobError::Range(low, high));
        }
        ranges.push((low, high));
    }
    if ranges.is_empty() {
        return Err(GlobError::Class);
    }
    Ok(Piece::Class { negated, ranges: ranges.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn two_forms_meet_when_a_name_is_of_both(a in "[ab*?]{0,6}", b in "[ab*?]{0,6}", name in "[ab]{0,6}") {
            let (a, b) = (Wild::simple(&a), Wild::simple(&b));
            proptest::prop_assert_eq!(a.meets(&b), b.meets(&a));
            if a.matches(&name) && b.matches(&name) {
                proptest::prop_assert!(a.meets(&b));
            }
        }

        #[test]
        fn forms_that_meet_have_a_name_in_common(a in "[ab*]{0,4}", b in "[ab*]{0,4}") {
            let (a, b) = (Wild::simple(&a), Wild::simple(&b));
            let names = (0..=8_u32).flat_map(|len| (0..1_u32 << len).map(move |bits| {
                (0..len).map(|i| if bits >> i & 1 == 1 { 'a' } else { 'b' }).collect::<String>()
            }));
            let common = names.into_iter().any(|n| a.matches(&n) && b.matches(&n));
            proptest::prop_assert_eq!(a.meets(&b), common);
        }

    }
}
