//! Cuts: what is left out of a seed, so that a failure is shown by as little as possible.
//!
//! Each fault event of a storm has a number and draws from a generator of its own: leaving one out changes none of the
//! others. A key such as `storm=4000,faults=2+5-7,volumes=1` says the same in words, and replays exactly.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// What is left of a seed; the default leaves everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cuts {
    /// The storm ends at this time, in milliseconds, if it does not end before.
    pub storm_ms: Option<u64>,
    /// Numbers of the fault events that remain.
    pub faults: Option<BTreeSet<u64>>,
    /// Numbers of the volumes that remain.
    pub volumes: Option<BTreeSet<u64>>,
    /// Nodes with a higher number are not there, as far as three remain.
    pub nodes: Option<u64>,
    /// Guests of a volume, at most.
    pub clients: Option<u64>,
    /// Guests' requests of a volume, at most.
    pub requests: Option<u64>,
    /// Other latencies and a disk's other luck, with the same faults.
    pub order: Option<u64>,
}

/// A key that says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected what remains of a seed, such as storm=4000,faults=2+5-7,volumes=1,nodes=3,clients=1,requests=50,order=1, \
     found `{0}`; take the key from the report of the failure"
)]
pub struct BadCuts(String);

impl fmt::Display for Cuts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |name: &str, n: Option<u64>| n.map(|n| format!("{name}={n}"));
        let numbers = |name: &str, set: &Option<BTreeSet<u64>>| set.as_ref().map(|s| format!("{name}={}", list(s)));
        let parts = [
            number("storm", self.storm_ms),
            numbers("faults", &self.faults),
            numbers("volumes", &self.volumes),
            number("nodes", self.nodes),
            number("clients", self.clients),
            number("requests", self.requests),
            number("order", self.order),
        ];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(","))
    }
}

impl FromStr for Cuts {
    type Err = BadCuts;

    fn from_str(key: &str) -> Result<Cuts, BadCuts> {
        let bad = || BadCuts(key.to_owned());
        let mut cuts = Cuts::default();
        for part in key.split(',').filter(|p| !p.is_empty()) {
            let (name, value) = part.split_once('=').ok_or_else(bad)?;
            let number = || value.parse::<u64>().map(Some).map_err(|_| bad());
            match name {
                "storm" => cuts.storm_ms = number()?,
                "faults" => cuts.faults = Some(parse_list(value).ok_or_else(bad)?),
                "volumes" => cuts.volumes = Some(parse_list(value).ok_or_else(bad)?),
                "nodes" => cuts.nodes = number()?,
                "clients" => cuts.clients = number()?,
                "requests" => cuts.requests = number()?,
                "order" => cuts.order = number()?,
                _ => return Err(bad()),
            }
        }
        Ok(cuts)
    }
}

/// `1+4-6`; `none` if there is nothing.
fn list(numbers: &BTreeSet<u64>) -> String {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for n in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *n => *last = *n,
            _ => runs.push((*n, *n)),
        }
    }
    if runs.is_empty() {
        return "none".to_owned();
    }
    let words = runs.into_iter().map(|(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") });
    words.collect::<Vec<_>>().join("+")
}

/// Longest run of numbers that a key may name: a seed has some hundred fault events.
const MOST: u64 = 1 << 16;

fn parse_list(text: &str) -> Option<BTreeSet<u64>> {
    let mut numbers = BTreeSet::new();
    for word in text.split('+').filter(|_| text != "none") {
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        if last < first || last - first > MOST {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_says_what_the_cuts_are() {
        let cuts = Cuts {
            storm_ms: Some(4000),
            faults: Some([2, 5, 6, 7].into()),
            volumes: Some([2].into()),
            nodes: Some(3),
            clients: Some(1),
            requests: Some(50),
            order: Some(1),
        };
        let key = "storm=4000,faults=2+5-7,volumes=2,nodes=3,clients=1,requests=50,order=1";
        assert_eq!(cuts.to_string(), key);
        assert_eq!(key.parse(), Ok(cuts));
        assert_eq!("".parse(), Ok(Cuts::default()));
        let no_fault = Cuts { faults: Some(BTreeSet::new()), ..Cuts::default() };
        assert_eq!(no_fault.to_string(), "faults=none");
        assert_eq!("faults=none".parse(), Ok(no_fault));
    }

    #[test]
    fn a_bad_key_is_refused() {
        for key in ["storm", "storm=x", "faults=", "faults=3-1", "faults=0-99999999999", "colour=1"] {
            let error = key.parse::<Cuts>().unwrap_err().to_string();
            assert!(error.contains(&format!("found `{key}`")), "{error}");
        }
    }
}
