//! What differs from run to run, taken out of texts: ids, durations, moments, ids of runs.

/// Replaces each by its kind in brackets.
pub(crate) fn redact(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let fresh = !out.chars().next_back().is_some_and(|c| c.is_ascii_alphanumeric() || c == '.');
        let found = if fresh {
            id(rest).or_else(|| run(rest)).or_else(|| moment(rest)).or_else(|| duration(rest))
        } else {
            None
        };
        match found {
            Some((len, name)) => {
                out.push_str(name);
                rest = &rest[len..];
            }
            None => {
                out.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    out
}

fn count(text: &str, good: impl Fn(u8) -> bool) -> usize {
    text.bytes().take_while(|b| good(*b)).count()
}

fn id(text: &str) -> Option<(usize, &'static str)> {
    let starts = text.starts_with("bafkr4i") || text.starts_with("bafyr4i");
    let len = count(text, |b| b.is_ascii_lowercase() || (b'2'..=b'7').contains(&b));
    if starts && len == 59 {
        return Some((len, "[id]"));
    }
    let key = count(text.strip_prefix("did:key:z")?, |b| b.is_ascii_alphanumeric());
    Some(("did:key:z".len() + key, "[key]"))
}

fn run(text: &str) -> Option<(usize, &'static str)> {
    let digits = count(text, |b| b.is_ascii_digit());
    let rest = text.get(digits..)?.strip_prefix('-')?;
    (digits == 13 && count(rest, |b| b.is_ascii_hexdigit()) == 8).then_some((22, "[run]"))
}

fn moment(text: &str) -> Option<(usize, &'static str)> {
    let shape = "dddd-dd-dd dd:dd:ddZ";
    let found = text.as_bytes().get(..shape.len())?;
    let fits = shape.bytes().zip(found).all(|(s, b)| if s == b'd' { b.is_ascii_digit() } else { s == *b });
    fits.then_some((shape.len(), "[moment]"))
}

fn duration(text: &str) -> Option<(usize, &'static str)> {
    let number = count(text, |b| b.is_ascii_digit() || b == b'.');
    let rest = text.get(number..)?;
    let unit = [" ms", " s"].into_iter().find(|unit| {
        let after = rest.strip_prefix(unit);
        after.is_some_and(|after| !after.starts_with(|c: char| c.is_ascii_alphanumeric()))
    })?;
    (number > 0).then_some((number + unit.len(), "[time]"))
}

#[test]
fn what_differs_is_taken_out_and_nothing_else() {
    let id = "bafyr4idlig3jvnphnu2p2vvft2wocy6k4m3bv6tnc7ybnpelhtgpv57oc4";
    let text =
        format!("a ({id}) took 1.5 s, b 12 ms; 1795335380851-91daa595 at 2026-11-22 08:13:37Z: 3 skipped, bafyr4i");
    assert_eq!(redact(&text), "a ([id]) took [time], b [time]; [run] at [moment]: 3 skipped, bafyr4i");
}
