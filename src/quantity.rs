//! Ages and sizes as people write and read them, and moments.
//!
//! Unaware of what is measured.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const UNITS: [(&str, u64); 5] = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400), ("w", 7 * 86_400)];
const SIZES: [(&str, u64); 5] = [("B", 1), ("K", 1 << 10), ("M", 1 << 20), ("G", 1 << 30), ("T", 1 << 40)];

/// The time, in seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// `90s`, `30m`, `12h`, `30d` or `8w`.
pub(crate) fn parse_age(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let unit = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, seconds)| *seconds);
    let seconds = number.zip(unit).and_then(|(n, unit)| n.checked_mul(unit));
    seconds
        .map(Duration::from_secs)
        .ok_or_else(|| "an age is a whole number with s, m, h, d or w behind it: `30d`".into())
}

/// `500M`, `20G`, `20GB` or `20GiB`, all in powers of 1024; without a unit, bytes.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let upper = unit.to_ascii_uppercase();
    let short = match upper.as_str() {
        "" => "B",
        "B" | "K" | "M" | "G" | "T" => &upper,
        long => long.strip_suffix("IB").or_else(|| long.strip_suffix('B')).unwrap_or("?"),
    };
    let unit = SIZES.iter().find(|(name, _)| *name == short).map(|(_, bytes)| *bytes);
    let bytes = number.zip(unit).and_then(|(n, unit)| n.checked_mul(unit));
    bytes.ok_or_else(|| "a size is a whole number with K, M, G or T behind it: `20G`".into())
}

/// `5%` or `0.05`, from nothing to all.
pub(crate) fn parse_share(text: &str) -> Result<f64, String> {
    let share = match text.strip_suffix('%') {
        Some(percent) => percent.parse::<f64>().map(|p| p / 100.0),
        None => text.parse::<f64>(),
    };
    let share = share.ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "a share is from 0% to 100%, or from 0 to 1".into())
}

fn split(text: &str) -> (Option<u64>, &str) {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    (text[..digits].parse().ok(), text[digits..].trim_start())
}

/// `17 B`, `1.4 MB`.
pub(crate) fn size(bytes: u64) -> String {
    let (name, unit) = SIZES.into_iter().rev().find(|(_, unit)| bytes >= *unit).unwrap_or(SIZES[0]);
    if unit == 1 {
        return format!("{bytes} B");
    }
    // In tenths, without leaving whole numbers.
    let tenths = u128::from(bytes) * 10 / u128::from(unit);
    format!("{}.{} {name}B", tenths / 10, tenths % 10)
}

/// A moment, given in seconds since 1970: `2026-11-22 08:13:37Z`.
pub(crate) fn moment(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Years counted from the first of March, in cycles of 400 years, so that the odd day comes last.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + carry;
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}Z", rest / 3600, rest % 3600 / 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_sizes_are_read_or_refused() {
        for (text, seconds) in
            [("0s", 0), ("90s", 90), ("30m", 1800), ("12h", 43_200), ("30d", 2_592_000), ("8w", 4_838_400)]
        {
            assert_eq!(parse_age(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "d", "30", "30x", "-1d", "1.5d", "99999999999999999999d", "18446744073709551615w", "3 0d"] {
            assert!(parse_age(text).is_err(), "{text}");
        }
        for (text, bytes) in
            [("0", 0), ("17", 17), ("17B", 17), ("1k", 1024), ("2MB", 2 << 20), ("3GiB", 3 << 30), ("1 T", 1 << 40)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "G", "1X", "1GG", "-1", "1.5G", "99999999999T", "1iB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn shares_are_read_or_refused() {
        for (text, share) in [("0", 0.0), ("5%", 0.05), ("0.25", 0.25), ("1", 1.0), ("100%", 1.0)] {
            assert_eq!(parse_share(text), Ok(share), "{text}");
        }
        for text in ["", "%", "2", "101%", "-0.1", "NaN", "inf", "a"] {
            assert!(parse_share(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_and_moments_are_written_as_people_read_them() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KB"), (1_500_000, "1.4 MB"), (u64::MAX, "16777215.9 TB")]
        {
            assert_eq!(size(bytes), text);
        }
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00Z"),
            (951_782_399, "2000-02-28 23:59:59Z"),
            (951_782_400, "2000-02-29 00:00:00Z"),
            (1_795_335_217, "2026-11-22 08:13:37Z"),
            (4_107_542_400, "2100-03-01 00:00:00Z"),
        ] {
            assert_eq!(moment(seconds), text);
        }
    }
}
