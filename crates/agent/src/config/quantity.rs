//! Durations and sizes as people write them: `200ms`, `16MiB`.

use serde::{Deserialize, Deserializer, de::Error};
use std::time::Duration;

/// `200ms`, `1s`, `5min`, `2h`: a whole number and a unit.
///
/// # Errors
/// A sentence that says what was expected.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let expected = || format!("expected a duration such as \"200ms\", \"1s\" or \"5min\", found {text:?}");
    let (number, unit) = split(text).ok_or_else(expected)?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "min" | "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(expected()),
    };
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(expected)
}

/// `4096`, `64KiB`, `16MiB`, `10GiB`, `1TiB`, and `MB` and the like for powers of ten: a whole number and a unit.
///
/// # Errors
/// A sentence that says what was expected.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let expected = || format!("expected a size such as \"16MiB\" or \"10GiB\", found {text:?}");
    let (number, unit) = split(text).ok_or_else(expected)?;
    let bytes = match unit {
        "" | "B" => 1,
        "KiB" | "K" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        "TiB" | "T" => 1 << 40,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(expected()),
    };
    number.checked_mul(bytes).ok_or_else(expected)
}

fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim()))
}

pub(super) fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    parse_duration(&String::deserialize(from)?).map_err(D::Error::custom)
}

pub(super) fn size<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    parse_size(&String::deserialize(from)?).map_err(D::Error::custom)
}
