//! What the agents of this machine spend.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

/// Agents on this machine: those that serve the connections, and every other `holdfast agent` that runs the same program, if the kernel lets
/// us see which. One that is installed here and has no part in what is measured is none of them.
#[derive(Clone, Debug)]
pub(crate) struct Processes {
    agents: BTreeSet<u32>,
}

impl Processes {
    /// The given ones and what /proc shows.
    pub(crate) fn find(servers: &[u32]) -> Processes {
        let mut agents: BTreeSet<u32> = servers.iter().copied().collect();
        let programs: BTreeSet<_> = servers.iter().filter_map(|pid| program(*pid)).collect();
        let ours =
            |pid: &u32| is_agent(*pid) && (servers.is_empty() || program(*pid).is_some_and(|p| programs.contains(&p)));
        let all = fs::read_dir("/proc").into_iter().flatten().flatten();
        agents.extend(all.filter_map(|e| e.file_name().to_str()?.parse().ok()).filter(ours));
        Processes { agents }
    }

    pub(crate) fn count(&self) -> usize {
        self.agents.len()
    }

    /// Time on processors so far, of the agents and of this process. `None` if one of them is gone.
    pub(crate) fn cpu(&self) -> Option<Duration> {
        self.agents.iter().chain(&[std::process::id()]).map(|pid| cpu(*pid)).sum()
    }

    /// Bytes that the agents have sent to block devices so far. `None` if one of them is gone.
    pub(crate) fn written(&self) -> Option<u64> {
        self.agents.iter().map(|pid| written(*pid)).sum()
    }

    /// Largest resident memory of an agent so far, in bytes.
    pub(crate) fn peak_memory(&self) -> Option<u64> {
        self.agents.iter().filter_map(|pid| peak(*pid)).max()
    }
}

fn is_agent(pid: u32) -> bool {
    let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let mut words = line.split(|b| *b == 0);
    let program = words.next().unwrap_or_default();
    program.rsplit(|b| *b == b'/').next() == Some(b"holdfast") && words.any(|word| word == b"agent")
}

/// Device and inode of what it runs, also after that was replaced by an upgrade.
fn program(pid: u32) -> Option<(u64, u64)> {
    let meta = fs::metadata(format!("/proc/{pid}/exe")).ok()?;
    Some((meta.dev(), meta.ino()))
}

/// User and system time of all threads, also of those that have ended.
pub fn cpu(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program, in brackets, may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    // SAFETY: no argument but a constant.
    let per_second = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).ok().filter(|t| *t > 0)?;
    Some(Duration::from_nanos(ticks.saturating_mul(1_000_000_000 / per_second)))
}

/// Bytes that it has sent to block devices so far.
#[must_use]
pub fn written(pid: u32) -> Option<u64> {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    io.lines().find_map(|line| line.strip_prefix("write_bytes: "))?.trim().parse().ok()
}

/// Largest resident memory so far, in bytes.
#[must_use]
pub fn peak(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}
