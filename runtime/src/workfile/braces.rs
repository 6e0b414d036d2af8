//! Words as bash reads them: blanks part them, braces make several of one, quotes and backslashes protect.
//!
//! Follows bash 5 in what is a brace expression and what is not. Unaware of variables, commands and files:
//! `$`, backquotes and globs mean nothing here.

use std::borrow::Cow;

/// Longest word with braces in it, in bytes.
const MAX_WORD_BYTES: usize = 4096;
/// Deepest nesting of braces.
const MAX_DEPTH: usize = 64;
/// Bytes that all words of one text may have.
const MAX_BYTES: usize = 16 << 20;

/// Why a text makes no words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BraceError {
    /// More words than are wanted.
    #[error("makes more than {0} values")]
    TooMany(usize),
    /// A word that is too long, words that are too long together, or braces too deep in one another.
    #[error("has more in its braces than can be expanded")]
    TooLarge,
    /// A quote without its partner.
    #[error("has a `{0}` that is never closed")]
    OpenQuote(char),
}

/// The words that bash would hand to a command for `text`, at most `max`.
pub(crate) fn words(text: &str, max: usize) -> Result<Vec<String>, BraceError> {
    let mut out = vec![];
    for word in split(text)? {
        expand_word(word, max, &mut out)?;
    }
    Ok(out)
}

/// The same for a text that is one word, blanks included.
pub(crate) fn word(text: &str, max: usize) -> Result<Vec<String>, BraceError> {
    let mut out = vec![];
    check_quotes(text)?;
    expand_word(text, max, &mut out)?;
    Ok(out)
}

fn expand_word(word: &str, max: usize, out: &mut Vec<String>) -> Result<(), BraceError> {
    let expanded = if word.contains('{') { braces(word, max, 0)? } else { vec![Cow::Borrowed(word)] };
    for word in expanded {
        // What is empty and was never in quotes is no word.
        if !word.is_empty() {
            out.push(unquote(&word));
        }
        if out.len() > max {
            return Err(BraceError::TooMany(max));
        }
    }
    Ok(())
}

/// Where the word that starts at `from` ends, and whether all its quotes are closed there.
fn word_end(text: &[u8], from: usize) -> Result<usize, BraceError> {
    let mut i = from;
    let mut quoted = 0;
    while let Some(&c) = text.get(i) {
        match c {
            b'\\' if quoted != b'\'' => i += 1,
            b'\'' | b'"' if quoted == 0 => quoted = c,
            c if c == quoted => quoted = 0,
            b' ' | b'\t' | b'\n' | b'\r' if quoted == 0 => break,
            _ => {}
        }
        i += 1;
    }
    if quoted == 0 { Ok(i.min(text.len())) } else { Err(BraceError::OpenQuote(char::from(quoted))) }
}

fn split(text: &str) -> Result<Vec<&str>, BraceError> {
    let (mut out, mut at) = (vec![], 0);
    loop {
        at += text[at..].len() - text[at..].trim_start_matches([' ', '\t', '\n', '\r']).len();
        if at == text.len() {
            return Ok(out);
        }
        let end = word_end(text.as_bytes(), at)?;
        out.push(&text[at..end]);
        at = end;
    }
}

fn check_quotes(text: &str) -> Result<(), BraceError> {
    let mut at = 0;
    while at < text.len() {
        at = word_end(text.as_bytes(), at)? + 1;
    }
    Ok(())
}

/// Takes quotes and backslashes away.
fn unquote(word: &str) -> String {
    let mut out = String::with_capacity(word.len());
    let mut quoted = None;
    let mut chars = word.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, quoted) {
            ('\'' | '"', None) => quoted = Some(c),
            (c, Some(q)) if c == q => quoted = None,
            ('\\', None) => match chars.next() {
                None | Some('\n') => {}
                Some(c) => out.push(c),
            },
            ('\\', Some('"')) => match chars.peek() {
                Some('\n') => drop(chars.next()),
                Some('$' | '`' | '"' | '\\') => out.extend(chars.next()),
                _ => out.push(c),
            },
            (c, _) => out.push(c),
        }
    }
    out
}

/// The words of one word, quotes still in them.
fn braces(text: &str, max: usize, depth: usize) -> Result<Vec<Cow<'_, str>>, BraceError> {
    if depth > MAX_DEPTH || text.len() > MAX_WORD_BYTES {
        return Err(BraceError::TooLarge);
    }
    let mut out: Vec<Cow<'_, str>> = vec![Cow::Borrowed("")];
    let mut rest = text;
    while !rest.is_empty() {
        let Some((open, close)) = expression(rest) else {
            out = product(out, &[Cow::Borrowed(rest)], max)?;
            break;
        };
        let inner = &rest[open + 1..close];
        out = product(out, &[Cow::Borrowed(&rest[..open])], max)?;
        let made = if has_comma(inner) {
            alternatives(inner, max, depth)?
        } else {
            match sequence(inner, max)? {
                Some(made) => made.into_iter().map(Cow::Owned).collect(),
                None => vec![Cow::Borrowed(&rest[open..=close])],
            }
        };
        out = product(out, &made, max)?;
        rest = &rest[close + 1..];
    }
    Ok(out)
}

fn product<'t>(left: Vec<Cow<'t, str>>, right: &[Cow<'t, str>], max: usize) -> Result<Vec<Cow<'t, str>>, BraceError> {
    if let ([one], [other]) = (&left[..], right)
        && one.is_empty()
    {
        return Ok(vec![other.clone()]);
    }
    if left.len().saturating_mul(right.len()) > max {
        return Err(BraceError::TooMany(max));
    }
    let bytes = |row: &[Cow<'t, str>]| row.iter().map(|w| w.len()).sum::<usize>();
    if bytes(&left) * right.len() + bytes(right) * left.len() > MAX_BYTES {
        return Err(BraceError::TooLarge);
    }
    Ok(left.iter().flat_map(|l| right.iter().map(move |r| Cow::Owned(format!("{l}{r}")))).collect())
}

/// The first pair of braces that is an expression.
fn expression(text: &str) -> Option<(usize, usize)> {
    let mut from = 0;
    loop {
        let open = gobble(text.as_bytes(), from, b'{')?;
        if let Some(close) = gobble(text.as_bytes(), open + 1, b'}') {
            return Some((open, close));
        }
        from = open + 1;
    }
}

/// Whether a comma stands in it that no backslash protects, however deep.
fn has_comma(text: &str) -> bool {
    let mut bytes = text.bytes();
    while let Some(c) = bytes.next() {
        match c {
            b'\\' => drop(bytes.next()),
            b',' => return true,
            _ => {}
        }
    }
    false
}

fn alternatives(text: &str, max: usize, depth: usize) -> Result<Vec<Cow<'_, str>>, BraceError> {
    let (mut out, mut start) = (vec![], 0);
    loop {
        let end = gobble(text.as_bytes(), start, b',');
        out.extend(braces(&text[start..end.unwrap_or(text.len())], max, depth + 1)?);
        if out.len() > max {
            return Err(BraceError::TooMany(max));
        }
        match end {
            Some(end) => start = end + 1,
            None => return Ok(out),
        }
    }
}

/// Where `wanted` stands next, outside quotes and inner braces. A closing brace counts only after a comma or
/// two dots, an opening one not where nothing or only a closing one follows it.
fn gobble(text: &[u8], from: usize, wanted: u8) -> Option<usize> {
    let at = |i: usize| text.get(i).copied().unwrap_or(0);
    let blank = |c: u8| matches!(c, 0 | b' ' | b'\t' | b'\n');
    let (mut quoted, mut level) = (0, 0_usize);
    let mut parted = wanted != b'}';
    let mut i = from;
    while i < text.len() {
        let c = text[i];
        if c == b'\\' && quoted != b'\'' {
            i += 2;
            continue;
        }
        if c == b'$' && at(i + 1) == b'{' && quoted != b'\'' {
            level += usize::from(quoted == 0);
            i += 2;
            continue;
        }
        if quoted != 0 {
            if c == quoted {
                quoted = 0;
            }
            i += 1;
            continue;
        }
        if c == b'"' || c == b'\'' {
            quoted = c;
            i += 1;
            continue;
        }
        if c == wanted && level == 0 && parted {
            let lonely = (i == 0 || blank(at(i - 1))) && (blank(at(i + 1)) || at(i + 1) == b'}');
            if c != b'{' || !lonely {
                return Some(i);
            }
            i += 1;
            continue;
        }
        match c {
            b'{' => level += 1,
            b'}' => level = level.saturating_sub(1),
            b',' if level == 0 => parted = true,
            b'.' if level == 0 && at(i + 1) == b'.' && at(i + 2) != wanted => parted = true,
            _ => {}
        }
        i += 1;
    }
    None
}

/// `1..9`, `a..z`, `01..10..2`: the numbers or letters from the first to the second; `None` when it is none.
fn sequence(text: &str, max: usize) -> Result<Option<Vec<String>>, BraceError> {
    let Some((left, right)) = text.split_once("..") else { return Ok(None) };
    let (right, step) = right.split_once("..").map_or((right, None), |(right, step)| (right, Some(step)));
    let step = match step.map(str::parse::<i64>) {
        None => 1,
        Some(Ok(step)) => i128::from(step),
        Some(Err(_)) => return Ok(None),
    };
    let letter = |text: &str| match text.as_bytes() {
        [c] if c.is_ascii_alphabetic() => Some(i128::from(*c)),
        _ => None,
    };
    let (from, to, is_letters) = match (letter(left), letter(right)) {
        (Some(from), Some(to)) => (from, to, true),
        _ => match (left.parse::<i64>(), right.parse::<i64>()) {
            (Ok(from), Ok(to)) => (i128::from(from), i128::from(to), false),
            _ => return Ok(None),
        },
    };
    let padded = |text: &str| {
        let digits = text.strip_prefix('-').unwrap_or(text);
        digits.len() > 1 && digits.starts_with('0')
    };
    let width = if padded(left) || padded(right) { left.len().max(right.len()) } else { 0 };
    let step = step.abs().max(1);
    let count = (from - to).abs() / step + 1;
    if count > max as i128 {
        return Err(BraceError::TooMany(max));
    }
    let sign = if to < from { -1 } else { 1 };
    let made = (0..count).map(|n| {
        let n = from + sign * step * n;
        match u8::try_from(n) {
            Ok(byte) if is_letters => char::from(byte).to_string(),
            _ => format!("{n:0width$}"),
        }
    });
    Ok(Some(made.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        assert_eq!(words(text, 1000).expect(text), expected, "{text}");
    }

    #[test]
    fn braces_make_several_words_of_one() {
        check("{a,b}{1..3}", &["a1", "a2", "a3", "b1", "b2", "b3"]);
        check("x{a,{b,c}d,}y", &["xay", "xbdy", "xcdy", "xy"]);
        check(
            "{08..11} {5..1..2} {-1..1} {a..e..2}",
            &["08", "09", "10", "11", "5", "3", "1", "-1", "0", "1", "a", "c", "e"],
        );
        check("{a} {} {a,b {1..} a,b}", &["{a}", "{}", "{a,b", "{1..}", "a,b}"]);
        check(r#"'{a,b}' "x y"{1,2} \{a,b} {a,''} {a,}"#, &["{a,b}", "x y1", "x y2", "{a,b}", "a", "", "a"]);
        assert_eq!(words("3.9.{0..21}", 1000).expect("is bounded").len(), 22);
    }

    #[test]
    fn what_would_be_too_much_is_refused_before_it_is_made() {
        assert_eq!(words("{0..1000000000}", 1000), Err(BraceError::TooMany(1000)));
        assert_eq!(words("{-9223372036854775808..9223372036854775807..3}", 1000), Err(BraceError::TooMany(1000)));
        assert_eq!(words(&"{1..10}".repeat(500), 1000), Err(BraceError::TooMany(1000)));
        assert_eq!(words(&"{a,".repeat(2000), 1000), Err(BraceError::TooLarge));
        assert_eq!(words(&format!("{}{}", "{a,".repeat(100), "}".repeat(100)), 1000), Err(BraceError::TooLarge));
        assert_eq!(words(&"{1..9} ".repeat(200), 1000), Err(BraceError::TooMany(1000)));
        assert_eq!(words("it's", 10), Err(BraceError::OpenQuote('\'')));
    }
}
