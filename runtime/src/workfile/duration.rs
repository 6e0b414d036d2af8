//! Durations as people write them.
//!
//! Unaware of what they are for.

use std::time::Duration;

const MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// Reads `90s`, `1h30m`, `250ms`: whole numbers, each with a unit of ms, s, m, h or d. Zero is none.
pub(super) fn parse(text: &str) -> Result<Duration, &'static str> {
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err("it is empty");
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        if rest.starts_with('-') {
            return Err("it is negative");
        }
        let (number, tail) = rest.split_at(digits);
        if number.is_empty() {
            return Err("a number is missing");
        }
        let unit = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let millis: u64 = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "" => return Err("a unit is missing"),
            _ => return Err("its units are ms, s, m, h and d"),
        };
        let part = number.parse::<u64>().ok().and_then(|n| n.checked_mul(millis)).map(Duration::from_millis);
        total =
            part.and_then(|part| total.checked_add(part)).filter(|t| *t <= MAX).ok_or("it is longer than a year")?;
        rest = tail;
    }
    if total.is_zero() { Err("it is zero") } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_units_add_up() {
        for (text, millis) in
            [("10s", 10_000), ("5m", 300_000), ("1h30m", 5_400_000), ("250ms", 250), ("1d", 86_400_000)]
        {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "10", "s", "1x", "-1s", "0s", "1.5s", "99999999999999999999s", "400d", "1s 1s", "\u{661}s"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
