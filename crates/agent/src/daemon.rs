//! Starts the agent's threads, and ends them in order.

use crate::admin_socket::AdminSocket;
use crate::api::Service;
use crate::config::{Config, OnTerm, SlowPrimary};
use crate::control::{Arrivals, Ask, ControlLoop, Parts};
use crate::ending::{Ending, How, Stop};
use crate::error::AgentError;
use crate::found::{authority, credentials};
use crate::hooks::Hooks;
use crate::identity::Identity;
use crate::metrics::{self, Vitals};
use crate::notify::Notifier;
use crate::paths::{self, Paths};
use crate::raft_store::{self, RaftStore};
use crate::renewal::{Certificate, Renewal};
use crate::shard_link::{self, FromShard, ShardHandle};
use crate::{random, regime, shard, versions};
use holdfast_node::control::{Control, ControlConfig};
use holdfast_transport::{Endpoint, TransportConfig};
use holdfast_types::{Life, Speaks};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tracing_subscriber::EnvFilter;

/// Questions of the admin API that wait for the loop.
const ASKS: usize = 256;
/// What hundreds of volumes and their guests take: each copy has up to eight descriptors, each connection one.
const OPEN_FILES: u64 = 16_384;
/// Largest message of the control plane: the state of ten thousand volumes, and room.
const MAX_CONTROL_MESSAGE: usize = 64 << 20;
/// Between two looks at the free space.
const SPACE_INTERVAL: Duration = Duration::from_secs(10);
/// What the shard logs as it ends should stand before the sentence that says why the agent ends. A shard that hangs (a dead
/// disk) must not keep it from ending.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long answers of the admin socket that are under way may take when the agent ends.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// Runs the agent until SIGTERM or SIGINT, or until an operator has it restarted.
///
/// # Errors
/// What keeps it from starting or from going on.
pub async fn run(config: Config) -> Result<(), AgentError> {
    start_log();
    die_of_any_panic();
    raise_open_files();
    let identity = Identity::load(&config)?;
    let paths = Paths::new(&config.node.data_dir);
    let _lock = paths.lock()?;
    let speaks = speaks_here(&paths)?;
    let life = Life(random::id());
    let admin = AdminSocket::bind(&config.listen, &paths)?;
    let scraped = config.listen.metrics.map(metrics::listen).transpose()?;
    let credentials = credentials(&paths, &identity)?;
    if !paths.raft().exists() {
        return Err(AgentError::RaftMissing { path: paths.raft() });
    }
    let store = RaftStore::open(&paths.raft(), &identity.owner())?;
    let (stored, recovery) = (store.load()?, store.recovery()?);
    regime::check(&paths, recovery.as_ref())?;
    let (writes, written, _writer) = store.spawn()?;
    let control = ControlConfig { recovery, ..control_config(&config, &identity, (life, speaks)) };
    let control = Control::new(control, stored, random::now())?;
    let bound = Endpoint::bind(transport(&config), &credentials).await;
    let address = config.listen.peer;
    let (endpoint, events) = bound.map_err(|e| AgentError::Endpoint { address, reason: e.to_string() })?;
    let (mut handle, port) = shard_link::link();
    let (shard, ready) = shard::spawn(&config, &credentials, life, port)?;
    shard_starts(ready, &mut handle).await?;
    let (asks, asked) = mpsc::channel(ASKS);
    let space = tokio::spawn(tell_space(config.node.data_dir.clone(), asks.clone()));
    if let Some(listener) = scraped {
        metrics::spawn(listener, Vitals { asks: asks.clone() }, admin.refused())?;
    }
    let hooks = Hooks::new(config.hooks.clone(), asks.clone(), &paths.hooks())?;
    let renewal = tokio::spawn(Renewal::new(&config, credentials.clone(), asks.clone()).keep());
    let (close, closed) = oneshot::channel::<()>();
    let parts = Parts {
        me: identity.node,
        cluster: identity.cluster,
        control,
        endpoint,
        writes,
        shard: handle,
        nbd_dir: config.listen.nbd_dir.clone(),
        data_dir: config.node.data_dir.clone(),
        paths: paths.clone(),
        ca: authority(&paths)?,
        ca_pem: credentials.ca_pem.clone(),
        certificate: Certificate::of(&credentials, config.cluster.certificate_lifetime)?,
        address: config.advertised(),
        ending: ending(&config),
    };
    tracing::info!(node = config.node.name, id = %identity.node, cluster = %identity.cluster, peer = %config.listen.peer, "the agent runs");
    let (mut server, stop) = announce(asks, admin, closed)?;
    // A task of its own: each wake-up of the future that the runtime blocks on costs two system calls more.
    let arrivals = Arrivals { events, written, asks: asked, stop };
    let ended = tokio::spawn(ControlLoop::new(parts, hooks).run(arrivals)).await;
    let ended = ended.expect("a panic of any thread ends the process");
    drop(close);
    // Answers that are on their way get there; a stream of events has no end.
    let _ = tokio::time::timeout(LAST_ANSWERS, &mut server).await;
    server.abort();
    space.abort();
    renewal.abort();
    // The socket is this process's own while it holds the lock of its directory.
    let _ = std::fs::remove_file(&config.listen.admin);
    last_words(&paths, ended, shard).await
}

fn raise_open_files() {
    match holdfast_disk::limits::raise_open_files() {
        Ok(limit) if limit < OPEN_FILES => tracing::warn!(
            limit,
            "expected to be allowed {OPEN_FILES} open files or more: with many volumes and guests this agent may run short; raise LimitNOFILE"
        ),
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "the limit of open files could not be raised"),
    }
}

/// What this process speaks, in a directory that it may touch.
fn speaks_here(paths: &Paths) -> Result<Speaks, AgentError> {
    let speaks = versions::speaks()?;
    if speaks != Speaks::THIS {
        tracing::warn!(%speaks, "this agent speaks less than it could, as {} says: for tests", versions::SPEAKS_VARIABLE);
    }
    versions::check(paths, speaks)?;
    Ok(speaks)
}

/// What is left to do when the control thread has ended.
async fn last_words(paths: &Paths, ended: Result<(), AgentError>, shard: JoinHandle<()>) -> Result<(), AgentError> {
    if let Err(AgentError::Removed { cluster, .. }) = &ended {
        // The others will not talk to it again; a start that finds none of them shall say why.
        paths::write_durable(&paths.removed(), cluster.as_bytes(), 0o644)?;
    }
    if ended.is_err() {
        let _ = tokio::time::timeout(LAST_WORDS, finished(&shard)).await;
    } else if shard.join().is_err() {
        return Err(AgentError::Shard { reason: "its thread panicked".to_owned() });
    }
    ended
}

const fn ending(config: &Config) -> Ending {
    Ending {
        on_term: match config.node.on_term {
            OnTerm::HandOver => How::HandOver,
            OnTerm::Stay => How::Stay,
        },
        handover: config.limits.handover_timeout,
        restart_window: config.cluster.restart_window,
    }
}

fn control_config(config: &Config, identity: &Identity, (life, speaks): (Life, Speaks)) -> ControlConfig {
    ControlConfig {
        peers: identity.peers.clone(),
        // As few as give an election its spread: each is a wake-up of an idle node.
        tick: config.cluster.failure_timeout / 5,
        heartbeat: config.cluster.heartbeat,
        failure_timeout: config.cluster.failure_timeout,
        replace_after: config.cluster.replace_after,
        speaks,
        move_slow_primary: config.failover.slow_primary == SlowPrimary::Switch,
        build: versions::BUILD.to_owned(),
        ..ControlConfig::new(identity.cluster, identity.node, life, random::id())
    }
}

/// Serves the admin socket until the other end of `closed` is dropped, tells the supervisor that the agent runs, and what ends it.
fn announce(
    asks: mpsc::Sender<Ask>,
    admin: AdminSocket,
    closed: oneshot::Receiver<()>,
) -> Result<(tokio::task::JoinHandle<()>, Stop), AgentError> {
    let notifier = Notifier::from_env();
    let stop = Stop::new(notifier.clone());
    let stop = stop.map_err(|e| AgentError::io("listen for signals as", Path::new("SIGTERM"), e))?;
    tokio::spawn(notifier.clone().feed_watchdog(Vitals { asks: asks.clone() }));
    let server = tokio::spawn(admin.serve(Service { asks }, closed));
    notifier.ready();
    Ok((server, stop))
}

/// Waits until the shard has its directory, its port and its sockets.
async fn shard_starts(ready: oneshot::Receiver<()>, handle: &mut ShardHandle) -> Result<(), AgentError> {
    if ready.await.is_ok() {
        return Ok(());
    }
    let reason = match handle.from.recv().await {
        Some(FromShard::Fatal(reason)) => reason,
        _ => "its thread ended".to_owned(),
    };
    Err(AgentError::Shard { reason })
}

async fn finished(thread: &JoinHandle<()>) {
    while !thread.is_finished() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Tells the control plane how much room the copies' file system has, and how long a file may be. A disk that does not answer holds
/// up nobody else.
async fn tell_space(data_dir: PathBuf, asks: mpsc::Sender<Ask>) {
    let mut longest = None;
    loop {
        let (dir, known) = (data_dir.clone(), longest);
        // The length does not change while the file system is mounted.
        let look = move || (paths::free_bytes(&dir), known.or_else(|| paths::longest_file(&dir)));
        if let Ok((free, found)) = tokio::task::spawn_blocking(look).await {
            longest = found;
            if let Some(free) = free
                && asks.send(Ask::Space(free, longest)).await.is_err()
            {
                return;
            }
        }
        tokio::time::sleep(SPACE_INTERVAL).await;
    }
}

/// A snapshot of the whole state travels as one message.
fn transport(config: &Config) -> TransportConfig {
    let mut transport = TransportConfig::new(config.listen.peer);
    // No volumes here.
    transport.max_lanes = 8;
    transport.ack_at_once = true;
    transport.max_message_bytes = MAX_CONTROL_MESSAGE;
    transport.queue_bytes = transport.queue_bytes.max(2 * MAX_CONTROL_MESSAGE);
    transport.receive_bytes = transport.receive_bytes.max(2 * MAX_CONTROL_MESSAGE);
    if config.limits.mtu > 0 {
        transport.mtu_max = config.limits.mtu;
    }
    transport
}

fn start_log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(crate::may_colour(&std::io::stderr()));
    // A second subscriber in one process (tests) keeps the first.
    let _ = if std::env::var_os("JOURNAL_STREAM").is_some() { log.json().try_init() } else { log.try_init() };
}

/// A thread that panicked has broken an invariant: the process ends, and the supervisor starts it anew with what is on disk.
fn die_of_any_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !raft_store::panic_is_guarded() {
            report(info);
            std::process::exit(101);
        }
    }));
}
