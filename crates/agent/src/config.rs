//! The configuration file: TOML, every key checked, every mistake answered with a sentence.
//!
//! Unknown keys are errors: a mistyped limit that is silently ignored is found on the day it was needed.

mod keys;
mod quantity;

use holdfast_cluster::REPLACE_AFTER;
use serde::Deserialize;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use quantity::{parse_duration, parse_size};

/// Whether there is a key of that name: what else stands in a file is none of ours.
#[must_use]
pub fn is_key(section: &str, key: &str) -> bool {
    keys::is_key(section, key)
}

/// What an agent runs with.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Config {
    /// Who this node is.
    pub node: NodeConfig,
    /// Where it listens.
    #[serde(default)]
    pub listen: ListenConfig,
    /// How it takes part in the cluster.
    #[serde(default)]
    pub cluster: ClusterConfig,
    /// What it may use.
    #[serde(default)]
    pub limits: LimitsConfig,
    /// Programs that are told of changes.
    #[serde(default)]
    pub hooks: HooksConfig,
    /// What counts as slow, and what is done about it.
    #[serde(default)]
    pub failover: FailoverConfig,
}

/// `[node]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct NodeConfig {
    /// Unique in the cluster.
    pub name: String,
    /// Everything the agent keeps lies below it.
    pub data_dir: PathBuf,
    /// Copies of a volume are placed in different ones. Empty: the node is its own.
    #[serde(default)]
    pub failure_domain: String,
    /// It votes and never holds copies.
    #[serde(default)]
    pub witness: bool,
    /// What SIGTERM means for the volumes whose primary is here.
    #[serde(default)]
    pub on_term: OnTerm,
}

/// What becomes of the primaries of an agent that is told to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnTerm {
    /// Other nodes take them: the host goes away.
    #[default]
    HandOver,
    /// They wait for this node's agent to start again: its guests run on.
    Stay,
}

/// `[listen]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ListenConfig {
    /// UDP: the control plane. The shard uses the next port.
    pub peer: SocketAddr,
    /// Where the peers reach `peer`, if not at that very address.
    pub advertise: Option<SocketAddr>,
    /// HTTP: metrics and health. Unset: none.
    pub metrics: Option<SocketAddr>,
    /// The admin socket.
    pub admin: PathBuf,
    /// Users of this group may do everything there. Unset: root and the agent's own user alone.
    pub admin_group: Option<String>,
    /// Users of this group may look.
    pub viewer_group: Option<String>,
    /// Holds one socket for each volume.
    pub nbd_dir: PathBuf,
}

impl Default for ListenConfig {
    fn default() -> Self {
        ListenConfig {
            peer: SocketAddr::from(([0, 0, 0, 0], 7400)),
            advertise: None,
            metrics: None,
            admin: PathBuf::from("/run/holdfast/admin.sock"),
            admin_group: None,
            viewer_group: None,
            nbd_dir: PathBuf::from("/run/holdfast/nbd"),
        }
    }
}

/// `[cluster]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ClusterConfig {
    /// Whether the node takes part in Raft.
    pub voter: bool,
    /// How often nodes tell each other that they live.
    #[serde(deserialize_with = "quantity::duration")]
    pub heartbeat: Duration,
    /// Silence after which a node counts as down.
    #[serde(deserialize_with = "quantity::duration")]
    pub failure_timeout: Duration,
    /// How long a primary may serve reads without hearing from a quorum.
    #[serde(deserialize_with = "quantity::duration")]
    pub lease: Duration,
    /// How long the others wait for an agent that ends to be restarted, before somebody else leads what it led.
    #[serde(deserialize_with = "quantity::duration")]
    pub restart_window: Duration,
    /// A copy that is gone for so long is replaced on another node; `0s`: never.
    #[serde(deserialize_with = "quantity::duration")]
    pub replace_after: Duration,
    /// How long a node's certificate holds; it is renewed when half of that is left.
    #[serde(deserialize_with = "quantity::duration")]
    pub certificate_lifetime: Duration,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        ClusterConfig {
            voter: true,
            heartbeat: Duration::from_millis(200),
            failure_timeout: Duration::from_secs(1),
            lease: Duration::from_secs(2),
            restart_window: Duration::from_secs(30),
            replace_after: REPLACE_AFTER,
            certificate_lifetime: Duration::from_hours(24 * 365),
        }
    }
}

/// How the shard talks to its disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskBackend {
    /// io_uring, registered buffers and files.
    #[default]
    IoUring,
    /// A thread that calls pread and pwrite: for kernels and containers without io_uring.
    Pread,
}

/// `[hooks]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct HooksConfig {
    /// Each executable in it is called when a volume's role changes here. Unset: none.
    pub dir: Option<PathBuf>,
    /// What each of them gets.
    #[serde(deserialize_with = "quantity::duration")]
    pub timeout: Duration,
}

impl Default for HooksConfig {
    fn default() -> Self {
        HooksConfig { dir: None, timeout: Duration::from_secs(30) }
    }
}

/// `[failover]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct FailoverConfig {
    /// A copy that takes longer to make writes durable, and five times as long as the others, is called slow; `0s`: never.
    #[serde(deserialize_with = "quantity::duration")]
    pub slow_latency: Duration,
    /// What is done about a primary that is slow.
    pub slow_primary: SlowPrimary,
}

/// What becomes of a primary that is slow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlowPrimary {
    /// People are told.
    #[default]
    Report,
    /// It hands over to a copy that is not slow, while all copies are in sync.
    Switch,
}

impl Default for FailoverConfig {
    fn default() -> Self {
        FailoverConfig { slow_latency: Duration::from_millis(50), slow_primary: SlowPrimary::Report }
    }
}

/// `[limits]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct LimitsConfig {
    /// Bytes of one journal segment file.
    #[serde(deserialize_with = "quantity::size")]
    pub journal_segment: u64,
    /// Bytes of all segment files of a shard.
    #[serde(deserialize_with = "quantity::size")]
    pub journal_max: u64,
    /// What a start has to replay is kept below this, as far as the disk's speed is known.
    #[serde(deserialize_with = "quantity::duration")]
    pub replay_target: Duration,
    /// Memory for pages of tables, for all volumes of a shard.
    #[serde(deserialize_with = "quantity::size")]
    pub table_cache: u64,
    /// How the shard talks to its disk.
    pub disk_backend: DiskBackend,
    /// Requests of one volume in flight at once.
    pub max_inflight: u32,
    /// Largest UDP payload between nodes; 0: probe up to what the interface carries.
    pub mtu: u16,
    /// Every copy is read and verified once in this time; `0s`: never.
    #[serde(deserialize_with = "quantity::duration")]
    pub scrub_period: Duration,
    /// Bytes per second that a copy fetches which the log no longer reaches.
    #[serde(deserialize_with = "quantity::size")]
    pub resync_bandwidth: u64,
    /// Copies of this node that do so at a time.
    pub resyncs: u32,
    /// How long handing over all primaries may take when the agent ends.
    #[serde(deserialize_with = "quantity::duration")]
    pub handover_timeout: Duration,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        LimitsConfig {
            journal_segment: 16 << 20,
            journal_max: 1 << 30,
            replay_target: Duration::from_secs(5),
            table_cache: 128 << 20,
            disk_backend: DiskBackend::IoUring,
            max_inflight: 256,
            mtu: 0,
            scrub_period: Duration::from_hours(24 * 30),
            resync_bandwidth: 64 << 20,
            resyncs: 2,
            handover_timeout: Duration::from_secs(10),
        }
    }
}

/// Files of a journal at most; the format's list holds 120, and a full journal still needs some for the starts of new lives.
pub(crate) const MAX_SEGMENTS: u64 = 90;

/// Why a configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("expected the configuration in {}, but could not read it: {source}; write one, see docs/OPERATIONS.md", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// It is not TOML, or a value has the wrong type.
    #[error("expected a configuration in TOML in {}, found: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, key, and what was expected there.
        message: String,
    },
    /// A key that nobody reads.
    #[error("expected a known key, found `{key}` in {}; {hint}", path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// Section and key.
        key: String,
        /// The closest known one, or all of them.
        hint: String,
    },
    /// A value that makes no sense, alone or with another.
    #[error("{key}: expected {expected}, found {found}")]
    Value {
        /// Section and key.
        key: &'static str,
        /// What would make sense.
        expected: String,
        /// What is there.
        found: String,
    },
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// Unreadable, no TOML, an unknown key, or a value that makes no sense.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_path_buf(), source })?;
        Config::parse(&text, path)
    }

    /// Checks the text of a file; `path` is for messages.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
        let parse = |e: toml::de::Error| ConfigError::Parse {
            path: path.to_path_buf(),
            // The sentence goes on one line; toml's own message draws the place over several.
            message: e.to_string().split_whitespace().collect::<Vec<_>>().join(" "),
        };
        let table: toml::Table = toml::from_str(text).map_err(parse)?;
        if let Some((key, hint)) = keys::unknown(&table) {
            return Err(ConfigError::UnknownKey { path: path.to_path_buf(), key, hint });
        }
        let mut config: Config = toml::from_str(text).map_err(parse)?;
        if config.node.failure_domain.is_empty() {
            config.node.failure_domain.clone_from(&config.node.name);
        }
        config.check()?;
        Ok(config)
    }

    /// Where the peers reach this node.
    #[must_use]
    pub fn advertised(&self) -> SocketAddr {
        self.listen.advertise.unwrap_or(self.listen.peer)
    }

    fn check(&self) -> Result<(), ConfigError> {
        self.check_node()?;
        self.check_listen()?;
        self.check_cluster()?;
        self.check_hooks()?;
        self.check_failover()?;
        self.check_limits()
    }

    fn check_node(&self) -> Result<(), ConfigError> {
        for (key, name) in [("node.name", &self.node.name), ("node.failure_domain", &self.node.failure_domain)] {
            ensure(is_name(name), key, "1 to 64 of the characters a-z 0-9 . _ -, a letter or digit first", || {
                format!("{name:?}")
            })?;
        }
        let votes = !self.node.witness || self.cluster.voter;
        ensure(
            votes,
            "node.witness",
            "a node with a vote (cluster.voter = true): a witness is good for nothing else",
            || "cluster.voter = false".to_owned(),
        )?;
        let dir = &self.node.data_dir;
        ensure(dir.is_absolute(), "node.data_dir", "an absolute path", || dir.display().to_string())?;
        let parent = dir.parent().unwrap_or(dir);
        let what =
            format!("a directory whose parent {} exists; create it or mount the disk that holds it", parent.display());
        ensure(parent.is_dir(), "node.data_dir", &what, || dir.display().to_string())
    }

    fn check_listen(&self) -> Result<(), ConfigError> {
        let peer = self.listen.peer;
        ensure(
            (1..u16::MAX).contains(&peer.port()),
            "listen.peer",
            "a port from 1 to 65534: the shard uses the next one",
            || peer.to_string(),
        )?;
        let reachable = |ip: IpAddr| !ip.is_unspecified();
        if let Some(advertise) = self.listen.advertise {
            ensure(
                reachable(advertise.ip()) && (1..u16::MAX).contains(&advertise.port()),
                "listen.advertise",
                "an address and a port that the peers can reach",
                || advertise.to_string(),
            )
        } else {
            ensure(
                reachable(peer.ip()),
                "listen.advertise",
                "the address at which the peers reach this node, because listen.peer names every interface",
                || "nothing".to_owned(),
            )
        }
    }

    fn check_cluster(&self) -> Result<(), ConfigError> {
        let c = &self.cluster;
        let show = |d: Duration| format!("{d:?}");
        ensure(
            (Duration::from_millis(10)..=Duration::from_secs(10)).contains(&c.heartbeat),
            "cluster.heartbeat",
            "10ms to 10s",
            || show(c.heartbeat),
        )?;
        let least = c.heartbeat * 3;
        let what = format!("{least:?} or more: three heartbeats, so that one lost packet is no failure");
        ensure(c.failure_timeout >= least, "cluster.failure_timeout", &what, || show(c.failure_timeout))?;
        let least = c.heartbeat * 2;
        let what = format!("{least:?} to 60s: two heartbeats or more");
        ensure((least..=Duration::from_secs(60)).contains(&c.lease), "cluster.lease", &what, || show(c.lease))?;
        let window = Duration::from_secs(1)..=Duration::from_mins(10);
        ensure(window.contains(&c.restart_window), "cluster.restart_window", "1s to 10m", || show(c.restart_window))?;
        let lifetimes = Duration::from_secs(10)..=Duration::from_hours(24 * 3650);
        ensure(lifetimes.contains(&c.certificate_lifetime), "cluster.certificate_lifetime", "10s to 87600h", || {
            show(c.certificate_lifetime)
        })?;
        let least = c.failure_timeout * 2;
        let what = format!("{least:?} or more: two failure timeouts, or 0s for never");
        ensure(c.replace_after.is_zero() || c.replace_after >= least, "cluster.replace_after", &what, || {
            show(c.replace_after)
        })
    }

    fn check_hooks(&self) -> Result<(), ConfigError> {
        let h = &self.hooks;
        if let Some(dir) = &h.dir {
            ensure(dir.is_absolute(), "hooks.dir", "an absolute path", || dir.display().to_string())?;
        }
        let bounds = Duration::from_secs(1)..=Duration::from_mins(10);
        ensure(bounds.contains(&h.timeout), "hooks.timeout", "1s to 10m", || format!("{:?}", h.timeout))
    }

    fn check_failover(&self) -> Result<(), ConfigError> {
        let slow = self.failover.slow_latency;
        let sound = slow.is_zero() || (Duration::from_millis(1)..=Duration::from_secs(10)).contains(&slow);
        ensure(sound, "failover.slow_latency", "1ms to 10s, or 0s for never", || format!("{slow:?}"))
    }

    fn check_limits(&self) -> Result<(), ConfigError> {
        let l = &self.limits;
        ensure(
            l.journal_segment.is_multiple_of(4096) && ((4 << 20)..=(1 << 30)).contains(&l.journal_segment),
            "limits.journal_segment",
            "4MiB to 1GiB, a multiple of 4KiB",
            || l.journal_segment.to_string(),
        )?;
        let least = l.journal_segment.saturating_mul(4);
        let what = format!("{least} bytes or more: four segments");
        ensure(l.journal_max >= least, "limits.journal_max", &what, || l.journal_max.to_string())?;
        let most = l.journal_segment.saturating_mul(MAX_SEGMENTS);
        let larger = l.journal_max.div_ceil(MAX_SEGMENTS).next_multiple_of(1 << 20);
        let way = if larger <= 1 << 30 {
            format!("; for a longer journal set journal_segment = \"{}MiB\" or more", larger >> 20)
        } else {
            String::new()
        };
        let what = format!("{most} bytes or less: {MAX_SEGMENTS} segments of {} bytes{way}", l.journal_segment);
        ensure(l.journal_max <= most, "limits.journal_max", &what, || l.journal_max.to_string())?;
        let replay = Duration::from_secs(1)..=Duration::from_mins(5);
        ensure(replay.contains(&l.replay_target), "limits.replay_target", "1s to 5m", || {
            format!("{:?}", l.replay_target)
        })?;
        // What one batch may change fits (docs/FORMAT.md, "Tables").
        ensure(l.table_cache >= 64 << 20, "limits.table_cache", "64MiB or more", || l.table_cache.to_string())?;
        ensure((1..=65_536).contains(&l.max_inflight), "limits.max_inflight", "1 to 65536", || {
            l.max_inflight.to_string()
        })?;
        let slow = l.resync_bandwidth;
        ensure(slow >= 1 << 20, "limits.resync_bandwidth", "1MiB or more", || format!("{slow} bytes per second"))?;
        ensure(l.resyncs >= 1, "limits.resyncs", "1 or more", || l.resyncs.to_string())?;
        let handover = l.handover_timeout;
        ensure(handover <= Duration::from_mins(10), "limits.handover_timeout", "0s to 10m", || {
            format!("{handover:?}")
        })?;
        let period = l.scrub_period;
        let sound = period.is_zero() || period >= Duration::from_hours(1);
        ensure(sound, "limits.scrub_period", "1h or more, or 0s for never", || format!("{period:?}"))?;
        ensure(l.mtu == 0 || (1200..=9000).contains(&l.mtu), "limits.mtu", "0 to probe, or 1200 to 9000", || {
            l.mtu.to_string()
        })
    }
}

/// Whether `name` can name a node or a volume: it becomes part of paths and of certificates.
#[must_use]
pub fn is_name(name: &str) -> bool {
    name.len() <= holdfast_types::MAX_NAME_BYTES
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-'))
}

fn ensure(ok: bool, key: &'static str, expected: &str, found: impl FnOnce() -> String) -> Result<(), ConfigError> {
    if ok { Ok(()) } else { Err(ConfigError::Value { key, expected: expected.to_owned(), found: found() }) }
}

#[cfg(test)]
mod tests;
