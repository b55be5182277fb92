//! Versions of what the agents of a cluster say to each other and agree upon.
//!
//! ```text
//!   an agent speaks      oldest ..= newest          compiled in
//!   a cluster's version  active                     agreed upon, in the replicated state; only rises
//!   oldest ≤ active ≤ newest                        for every agent that takes part
//! ```
//! The list of versions, and what each brought, is in docs/FORMAT.md.

use std::fmt;

/// One version of a cluster's formats and commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterVersion(pub u32);

impl ClusterVersion {
    /// Of clusters that were founded before versions were told.
    pub const FIRST: ClusterVersion = ClusterVersion(1);
    /// Versions are told, and raised by the leader. Nodes report copies that are slow. Superblocks keep what a scrub found.
    pub const TOLD: ClusterVersion = ClusterVersion(2);
}

impl Default for ClusterVersion {
    /// What everybody understands.
    fn default() -> ClusterVersion {
        ClusterVersion::FIRST
    }
}

impl fmt::Display for ClusterVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The versions that an agent can take part in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Speaks {
    oldest: ClusterVersion,
    newest: ClusterVersion,
}

impl Speaks {
    /// What this build speaks.
    pub const THIS: Speaks = Speaks { oldest: ClusterVersion::FIRST, newest: ClusterVersion::TOLD };
    /// What an agent speaks that does not tell.
    pub const UNTOLD: Speaks = Speaks { oldest: ClusterVersion::FIRST, newest: ClusterVersion::FIRST };

    /// A range; `None`: an empty one, or one with a version that there is not.
    #[must_use]
    pub const fn new(oldest: u32, newest: u32) -> Option<Speaks> {
        if oldest >= ClusterVersion::FIRST.0 && oldest <= newest {
            Some(Speaks { oldest: ClusterVersion(oldest), newest: ClusterVersion(newest) })
        } else {
            None
        }
    }

    /// The oldest one.
    #[must_use]
    pub const fn oldest(self) -> ClusterVersion {
        self.oldest
    }

    /// The newest one.
    #[must_use]
    pub const fn newest(self) -> ClusterVersion {
        self.newest
    }

    /// Whether an agent that speaks this can take part in a cluster of that version.
    #[must_use]
    pub fn contains(self, version: ClusterVersion) -> bool {
        (self.oldest..=self.newest).contains(&version)
    }

    /// Whether the agent tells its versions, and understands others that do.
    #[must_use]
    pub fn tells(self) -> bool {
        self.newest >= ClusterVersion::TOLD
    }

    /// Why an agent that speaks this can't take part in a cluster of that version, if it can't: what was found, and what to do.
    #[must_use]
    pub fn refusal(self, version: ClusterVersion) -> Option<String> {
        if version > self.newest {
            return Some(format!(
                "version {version}, and this agent speaks {self}: the cluster was raised by agents that are newer; install one of them \
                 here, there is no way back to an older one"
            ));
        }
        (version < self.oldest).then(|| {
            format!(
                "version {version}, and this agent speaks {self}: it is too new; run a release that speaks {version} and {} on every \
                 node first, until `holdfast status` says that the cluster was raised",
                self.oldest
            )
        })
    }
}

impl fmt::Display for Speaks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.oldest == self.newest {
            write!(f, "{} alone", self.newest)
        } else {
            write!(f, "{} to {}", self.oldest, self.newest)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_names_what_it_lacks() {
        let of = |a, b| Speaks::new(a, b).unwrap();
        assert_eq!(Speaks::new(0, 1), None);
        assert_eq!(Speaks::new(3, 2), None);
        assert!(of(1, 2).contains(ClusterVersion(2)) && !of(1, 2).contains(ClusterVersion(3)));
        assert_eq!(of(1, 2).refusal(ClusterVersion(1)), None);
        assert!(of(1, 1).refusal(ClusterVersion(2)).unwrap().contains("no way back"));
        assert!(of(3, 4).refusal(ClusterVersion(2)).unwrap().contains("too new"));
        assert!(Speaks::THIS.contains(ClusterVersion::FIRST), "a rolling upgrade begins at the version before");
        assert_eq!((of(1, 1).to_string().as_str(), of(1, 2).to_string().as_str()), ("1 alone", "1 to 2"));
    }
}
