//! Versions and requirements, as advisories write them.

/// `1.2.3`, and whether it is a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version {
    numbers: [u64; 3],
    /// Releases come after everything that has a `-` behind its numbers.
    release: bool,
}

impl Version {
    /// Numbers that are left out are 0.
    ///
    /// # Errors
    /// A sentence, if it is no version.
    pub(super) fn parse(text: &str) -> Result<Version, String> {
        Version::with_parts(text).map(|(version, _)| version)
    }

    /// How many numbers were given, too.
    fn with_parts(text: &str) -> Result<(Version, usize), String> {
        let no_build = text.split('+').next().unwrap_or_default();
        let (numbers, pre) = no_build.split_once('-').map_or((no_build, None), |(n, pre)| (n, Some(pre)));
        let wrong = || format!("expected a version such as 1.2.3, found {text:?}");
        let mut version = Version { numbers: [0; 3], release: pre.is_none() };
        let parts: Vec<&str> = numbers.split('.').collect();
        if parts.len() > 3 {
            return Err(wrong());
        }
        for (number, part) in version.numbers.iter_mut().zip(&parts) {
            *number = part.parse().map_err(|_| wrong())?;
        }
        Ok((version, parts.len()))
    }
}

/// Whether a version meets a requirement: comparators with commas between them, all of which must hold.
///
/// # Errors
/// A sentence, if it is no requirement.
pub(super) fn matches(requirement: &str, version: Version) -> Result<bool, String> {
    for comparator in requirement.split(',').map(str::trim).filter(|c| *c != "*") {
        if !holds(comparator, version)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn holds(comparator: &str, version: Version) -> Result<bool, String> {
    let at =
        comparator.find(|c: char| c.is_ascii_digit()).ok_or_else(|| format!("expected a version in {comparator:?}"))?;
    let (sign, bound) = comparator.split_at(at);
    let (bound, parts) = Version::with_parts(bound.trim())?;
    let below = |at: usize| {
        let mut end = Version { numbers: [0; 3], ..bound };
        end.numbers[..=at].copy_from_slice(&bound.numbers[..=at]);
        end.numbers[at] += 1;
        version >= bound && version.numbers < end.numbers
    };
    match sign.trim() {
        ">=" => Ok(version >= bound),
        ">" => Ok(version > bound),
        "<=" => Ok(version <= bound),
        "<" => Ok(version < bound),
        "=" => Ok(version == bound),
        "~" => Ok(below(parts.min(2) - 1)),
        // The first number that is not 0 stays.
        "" | "^" => Ok(below(bound.numbers.iter().take(parts).position(|n| *n != 0).unwrap_or(parts - 1))),
        other => Err(format!("expected one of >= > <= < = ^ ~, found {other:?} in {comparator:?}")),
    }
}
