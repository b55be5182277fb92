//! What an operator grants the guests of a volume: how much they may ask for, and who may open its socket.

use std::fmt;

/// Unused allowance that is kept unless the operator says otherwise, in milliseconds.
pub const DEFAULT_BURST_MS: u64 = 1000;
/// Least and most of it. Below a few milliseconds the grain of timers would cost a guest part of its rate.
pub const BURST_MS: std::ops::RangeInclusive<u64> = 10..=3_600_000;
/// Most requests per second that can be granted; above that nothing is to be limited.
pub const MAX_IOPS: u64 = 100_000_000;
/// Least and most bytes per second that can be granted.
pub const BANDWIDTH: std::ops::RangeInclusive<u64> = 4096..=1 << 40;
/// Longest name of a user or group.
const MAX_ACCOUNT_BYTES: usize = 32;

/// How much the guests of a volume may ask for, all together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestLimits {
    /// Reads, writes, discards and writes of zeros in a second; 0: as many as they like.
    pub iops: u64,
    /// Bytes read and written in a second; 0: as many as they like.
    pub bandwidth: u64,
    /// Allowance that is kept while it is not used, in milliseconds of it.
    pub burst_ms: u64,
}

impl Default for GuestLimits {
    fn default() -> GuestLimits {
        GuestLimits { iops: 0, bandwidth: 0, burst_ms: DEFAULT_BURST_MS }
    }
}

impl GuestLimits {
    /// Whether nothing is limited.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.iops == 0 && self.bandwidth == 0
    }

    /// The same, in the one form that it has: a burst of nothing is none.
    #[must_use]
    pub fn settled(self) -> GuestLimits {
        if self.is_none() { GuestLimits::default() } else { self }
    }

    /// What is wrong with them, if anything.
    ///
    /// # Errors
    /// A number out of range, in a sentence.
    pub fn check(&self) -> Result<(), String> {
        if self.iops > MAX_IOPS {
            return Err(format!("expected at most {MAX_IOPS} IOPS, found {}; leave it out for no limit", self.iops));
        }
        if self.bandwidth != 0 && !BANDWIDTH.contains(&self.bandwidth) {
            let (least, most) = (BANDWIDTH.start(), BANDWIDTH.end());
            return Err(format!(
                "expected a bandwidth of {least} to {most} bytes per second, found {}",
                self.bandwidth
            ));
        }
        if !BURST_MS.contains(&self.burst_ms) {
            let (least, most) = (BURST_MS.start(), BURST_MS.end());
            return Err(format!("expected a burst of {least} to {most} ms, found {}", self.burst_ms));
        }
        Ok(())
    }
}

impl fmt::Display for GuestLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let GuestLimits { iops, bandwidth, burst_ms } = self;
        match (iops, bandwidth) {
            (0, 0) => return f.write_str("as much as they like"),
            (_, 0) => write!(f, "{iops} requests per second")?,
            (0, _) => write!(f, "{bandwidth} bytes per second")?,
            (_, _) => write!(f, "{iops} requests and {bandwidth} bytes per second")?,
        }
        write!(f, ", {burst_ms} ms of that at once")
    }
}

/// Who may open a volume's socket on the node of its primary, beside the agent's own user and root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketAccess {
    /// Name or number of a user; empty: none.
    pub owner: String,
    /// Name or number of a group; empty: none.
    pub group: String,
    /// Bits of a file: what the owner, the group and everybody else may do; 0: read and write for owner and group.
    pub mode: u32,
}

impl SocketAccess {
    /// Of a socket whose access names somebody or something, and no mode.
    pub const USUAL_MODE: u32 = 0o660;

    /// Whether nothing is said: then the agent's own group may open it.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == SocketAccess::default()
    }

    /// The bits that hold.
    #[must_use]
    pub const fn bits(&self) -> u32 {
        if self.mode == 0 { SocketAccess::USUAL_MODE } else { self.mode }
    }

    /// What is wrong with it, if anything.
    ///
    /// # Errors
    /// No name, or bits that a socket has no use for, in a sentence.
    pub fn check(&self) -> Result<(), String> {
        for (what, name) in [("user", &self.owner), ("group", &self.group)] {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-$".contains(&b);
            let sound = name.len() <= MAX_ACCOUNT_BYTES && name.bytes().all(plain) && !name.starts_with('-');
            if !sound {
                let shown: String = name.chars().take(MAX_ACCOUNT_BYTES).collect();
                return Err(format!("expected the name or number of a {what}, found {shown:?}"));
            }
        }
        if self.mode & !0o666 != 0 {
            return Err(format!("expected a mode of read and write bits such as 0660, found {:04o}", self.mode));
        }
        Ok(())
    }
}

impl fmt::Display for SocketAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_default() {
            return f.write_str("the agent's own user and group");
        }
        let name = |name: &str| if name.is_empty() { "-".to_owned() } else { name.to_owned() };
        write!(f, "owner {}, group {}, mode {:04o}", name(&self.owner), name(&self.group), self.bits())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_bounds() {
        let of = |iops, bandwidth, burst_ms| GuestLimits { iops, bandwidth, burst_ms }.check().is_ok();
        assert!(of(0, 0, DEFAULT_BURST_MS) && of(1, 4096, 10) && of(MAX_IOPS, 1 << 40, 3_600_000));
        assert!(!of(MAX_IOPS + 1, 0, 1000) && !of(0, 4095, 1000) && !of(0, (1 << 40) + 1, 1000));
        assert!(!of(1, 0, 9) && !of(1, 0, 3_600_001) && !of(1, 0, 0));
        assert!(GuestLimits::default().is_none() && !GuestLimits { iops: 1, ..GuestLimits::default() }.is_none());
    }

    #[test]
    fn names_and_modes_are_plain() {
        let of = |owner: &str, mode| SocketAccess { owner: owner.to_owned(), group: String::new(), mode }.check();
        assert!(of("", 0).is_ok() && of("tenant-1", 0o600).is_ok() && of("64055", 0o666).is_ok());
        assert!(
            of("a b", 0).is_err() && of("-x", 0).is_err() && of("a\n", 0).is_err() && of(&"x".repeat(33), 0).is_err()
        );
        assert!(of("a", 0o777).is_err() && of("a", 0o1660).is_err());
        assert_eq!(of("a", 0o777).unwrap_err(), "expected a mode of read and write bits such as 0660, found 0777");
        let access = SocketAccess { owner: "vm1".to_owned(), ..SocketAccess::default() };
        assert_eq!(access.to_string(), "owner vm1, group -, mode 0660");
    }
}
