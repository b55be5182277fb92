//! What a host is, found out without changing anything there, and whether it will do.

use super::{RunArgs, Sentence, Target};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// What the agent's ring needs: registered file tables that are sparse.
const KERNEL: (u32, u32) = (5, 19);
/// More between a host's clock and ours is refused: certificates are made on one host and judged on others.
const CLOCK_SECONDS: u64 = 3600;

/// Prints `key=value` lines; `$d` is the directory.
const SCRIPT: &str = r#"
say() { printf "%s=%s\n" "$1" "$2"; }
say arch "$(uname -m)"
say kernel "$(uname -r)"
say now "$(date +%s)"
say uid "$(id -u)"
say uring "$(cat /proc/sys/kernel/io_uring_disabled 2>/dev/null || echo 0)"
say pinned "$(ulimit -l)"
set -- $SSH_CONNECTION
say address "$3"
say processors "$(getconf _NPROCESSORS_ONLN)"
say model "$(sed -n "s/^model name[^:]*: //p" /proc/cpuinfo | head -n 1)"
if [ -d "$d" ] && [ -w "$d" ] && cd "$d"; then
  say path "$(pwd -P)"
  set -- $(df -Pk . | tail -n 1)
  say device "$1"
  say space "$4"
  say filesystem "$(stat -f -c %T .)"
  say disk "$(lsblk -dno SIZE,MODEL "$1" 2>/dev/null | tr -s " ")"
fi
"#;

/// A host that will do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) address: IpAddr,
    pub(super) processors: String,
    pub(super) kernel: String,
    pub(super) device: String,
    pub(super) filesystem: String,
    /// The directory, without links.
    pub(super) path: String,
    /// Seconds that its clock is ahead of ours, or behind.
    pub(super) clock: i64,
    /// What makes figures worse than they would be.
    pub(super) note: Option<Sentence>,
}

/// Asks a host.
pub(super) fn script(dir: &str) -> String {
    format!("d={}{SCRIPT}", super::ssh::quote(dir))
}

/// What a host said, at our second `now`: what it is, or everything that is wrong with it.
pub(super) fn judge(said: &str, target: &Target, args: &RunArgs, now: u64) -> Result<Facts, Sentence> {
    let facts: BTreeMap<&str, &str> = said.lines().filter_map(|line| line.split_once('=')).collect();
    let get = |key: &str| facts.get(key).map_or("", |value| value.trim());
    let mut wrong: Vec<Sentence> = Vec::new();
    let (arch, kernel) = (get("arch"), get("kernel"));
    if arch != std::env::consts::ARCH {
        wrong.push(format!(
            "expected an {} processor as here, found {arch:?}; run this on a machine of the hosts' kind",
            std::env::consts::ARCH
        ));
    }
    if version(kernel).is_none_or(|version| version < KERNEL) {
        wrong.push(format!(
            "expected Linux {}.{} or newer, whose io_uring the agent needs, found {kernel:?}",
            KERNEL.0, KERNEL.1
        ));
    }
    if get("uring") == "2" || get("uring") == "1" && get("uid") != "0" {
        wrong.push(format!(
            "expected io_uring to be allowed, found kernel.io_uring_disabled = {}; set it to 0 with sysctl",
            get("uring")
        ));
    }
    let there = get("now").parse::<u64>().unwrap_or(0);
    if there.abs_diff(now) > CLOCK_SECONDS {
        wrong.push(format!(
            "expected its clock to agree with the one here, found {} s between them; set it",
            there.abs_diff(now)
        ));
    }
    wrong.extend(unfit(&get, args));
    let address = address(get("address"), target).map_err(|sentence| wrong.push(sentence)).ok();
    let (Some(address), true) = (address, wrong.is_empty()) else {
        return Err(wrong
            .into_iter()
            .map(|sentence| format!("{}: {sentence}", target.name))
            .collect::<Vec<_>>()
            .join("\n"));
    };
    let note = (get("uid") != "0" && get("pinned") != "unlimited").then(|| {
        let (host, pinned) = (&target.name, get("pinned"));
        format!(
            "{host} may pin {pinned} KiB of memory only: if that is too little, writes cost more CPU than installed"
        )
    });
    Ok(Facts {
        address,
        processors: format!("{} × {}", get("processors"), if get("model").is_empty() { arch } else { get("model") }),
        kernel: kernel.to_owned(),
        device: format!("{} {}", get("device"), get("disk")).trim().to_owned(),
        filesystem: get("filesystem").to_owned(),
        path: get("path").to_owned(),
        clock: i64::try_from(there).unwrap_or(0) - i64::try_from(now).unwrap_or(0),
        note,
    })
}

/// What is wrong with the directory.
fn unfit<'a>(get: &impl Fn(&str) -> &'a str, args: &RunArgs) -> Option<Sentence> {
    let (path, dir) = (get("path"), &args.dir);
    let space = get("space").parse::<u64>().map_or(0, |kib| kib.saturating_mul(1024));
    let needed = args.pace().space();
    let mib = |bytes: u64| bytes >> 20;
    if path.is_empty() {
        let user = user(get("uid"));
        return Some(format!(
            "expected a directory {dir} that {user} may write to, found none; name another with --dir"
        ));
    }
    if !path.starts_with('/') || path.contains(['\'', '"', '\\']) {
        return Some(format!("expected a directory without quotes in its path, found {path}; name another with --dir"));
    }
    (space < needed).then(|| {
        let (needed, space) = (mib(needed), mib(space));
        format!("expected {needed} MiB of free space in {dir}, found {space}; name another directory with --dir")
    })
}

fn user(uid: &str) -> String {
    if uid == "0" { "root".to_owned() } else { format!("the user that ssh logs in as ({uid})") }
}

/// Where the other hosts find it.
fn address(found: &str, target: &Target) -> Result<IpAddr, Sentence> {
    if let Some(address) = target.address {
        return Ok(address);
    }
    let name = &target.name;
    let address: IpAddr = found.parse().map_err(|_| {
        format!("expected sshd to say at which address it was reached, found {found:?}; name it: {name}=ADDRESS")
    })?;
    if address.is_loopback() {
        return Err(format!(
            "expected an address that the other hosts reach it at, found {address}; name it: {name}=ADDRESS"
        ));
    }
    Ok(address)
}

fn version(kernel: &str) -> Option<(u32, u32)> {
    let mut numbers = kernel.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}
