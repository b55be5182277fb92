//! Starts the shard's thread with what the configuration says.

use crate::config::{Config, DiskBackend, MAX_SEGMENTS};
use crate::error::AgentError;
use crate::paths::{Paths, create_dir};
use crate::random;
use crate::runner::{self, RunnerOptions};
use crate::shard_link::{FromShard, ShardPort};
use holdfast_disk::{Backend, DiskConfig};
use holdfast_node::shard::ShardConfig;
use holdfast_replication::{Limits, Timers};
use holdfast_store::StoreConfig;
use holdfast_transport::{Identity, TransportConfig};
use holdfast_types::Life;
use std::net::SocketAddr;
use std::path::Path;
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// Where the shard of the node whose control plane listens on `control` listens: the next port.
pub(crate) fn shard_address(control: SocketAddr) -> SocketAddr {
    SocketAddr::new(control.ip(), control.port().saturating_add(1))
}

/// The thread, and the word that the shard has its directory, its port and its sockets; that word is dropped if it has not.
pub(crate) type Started = (JoinHandle<()>, oneshot::Receiver<()>);

/// Starts the thread. It ends after `ToShard::Shutdown`, or when the other end of the link is gone.
///
/// # Errors
/// The thread could not be started. What keeps the shard from starting, or is found later, comes as `FromShard::Fatal`.
pub(crate) fn spawn(config: &Config, identity: &Identity, life: Life, port: ShardPort) -> Result<Started, AgentError> {
    let dir = Paths::new(&config.node.data_dir).shard();
    create_dir(&dir)?;
    let options = options(config, identity.clone(), life);
    let (ready, started) = oneshot::channel();
    let body = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime of one thread needs two file descriptors");
        let fatal = port.to_control.clone();
        let local = tokio::task::LocalSet::new();
        // A task of its own: each wake-up of the future that the runtime blocks on costs two system calls more.
        let shard = local.spawn_local(runner::run(options, port, ready));
        if let Err(reason) = local.block_on(&runtime, shard).expect("a panic of any thread ends the process") {
            // The control thread is gone first: then the process ends anyway.
            let _ = fatal.blocking_send(FromShard::Fatal(reason));
        }
    };
    let thread = std::thread::Builder::new().name("shard-0".to_owned()).spawn(body);
    Ok((thread.map_err(|e| AgentError::io("start the thread of", Path::new("shard-0"), e))?, started))
}

fn options(config: &Config, identity: Identity, life: Life) -> RunnerOptions {
    let segments = config.limits.journal_max / config.limits.journal_segment;
    assert!((4..=MAX_SEGMENTS).contains(&segments), "the configuration was checked: {segments} segments");
    let store = StoreConfig {
        segment_bytes: config.limits.journal_segment,
        max_segments: u32::try_from(segments).expect("at most 90"),
        replay_target: config.limits.replay_target,
        table_bytes: usize::try_from(config.limits.table_cache).unwrap_or(usize::MAX),
        ..StoreConfig::default()
    };
    let mut disk = DiskConfig::new(Paths::new(&config.node.data_dir).shard());
    disk.backend = match config.limits.disk_backend {
        DiskBackend::IoUring => Backend::IoUring,
        DiskBackend::Pread => Backend::Pread,
    };
    let mut transport = TransportConfig::new(shard_address(config.listen.peer));
    transport.max_message_bytes = 8 << 20;
    if config.limits.mtu > 0 {
        transport.mtu_max = config.limits.mtu;
    }
    RunnerOptions {
        shard: ShardConfig {
            me: identity.node,
            life,
            timers: Timers {
                lease: config.cluster.lease,
                scrub_period: config.limits.scrub_period,
                unix_ms_at_zero: random::unix_ms().saturating_sub(random::now().0 / 1_000_000),
                slow_latency: config.failover.slow_latency,
                ..Timers::default()
            },
            // Four chances per lease to renew it.
            beat: (config.cluster.lease / 4).max(config.cluster.heartbeat),
            limits: Limits { resync_bandwidth: config.limits.resync_bandwidth, ..Limits::default() },
            resyncs: usize::try_from(config.limits.resyncs).expect("a 32-bit number of copies"),
            store,
            seed: random::id(),
            place: Paths::new(&config.node.data_dir).shard().display().to_string(),
        },
        disk,
        transport,
        identity,
        nbd_dir: config.listen.nbd_dir.clone(),
        max_requests: usize::try_from(config.limits.max_inflight).expect("a 32-bit number of requests"),
    }
}
