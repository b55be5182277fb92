//! Starts the agent's threads, and ends them in order.

use crate::admin_socket::AdminSocket;
use crate::api::Service;
use crate::config::{Config, OnTerm};
use crate::control::{Arrivals, Ask, ControlLoop, Parts};
use crate::ending::{Ending, How, Stop};
use crate::error::AgentError;
use crate::found::credentials;
use crate::hooks::Hooks;
use crate::identity::Identity;
use crate::metrics::{self, Vitals};
use crate::notify::Notifier;
use crate::paths::{self, Paths};
use crate::raft_store::{self, RaftStore};
use crate::shard_link::{self, FromShard, ShardHandle};
use crate::{random, shard};
use holdfast_node::control::{Control, ControlConfig};
use holdfast_transport::{Endpoint, TransportConfig, pki};
use holdfast_types::Life;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tracing_subscriber::EnvFilter;

/// Questions of the admin API that wait for the loop.
const ASKS: usize = 256;
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
    let identity = Identity::load(&config)?;
    let paths = Paths::new(&config.node.data_dir);
    let _lock = paths.lock()?;
    let life = Life(random::id());
    let admin = AdminSocket::bind(&config.listen, &paths)?;
    let scraped = config.listen.metrics.map(metrics::listen).transpose()?;
    let credentials = credentials(&paths, &identity)?;
    if !paths.raft().exists() {
        return Err(AgentError::RaftMissing { path: paths.raft() });
    }
    let store = RaftStore::open(&paths.raft(), &identity.owner())?;
    let stored = store.load()?;
    let (writes, written, _writer) = store.spawn()?;
    let control = Control::new(control_config(&config, &identity, life), stored, random::now())?;
    let bound = Endpoint::bind(transport(&config), &credentials).await;
    let failed = |e: holdfast_transport::TransportError| AgentError::Endpoint {
        address: config.listen.peer,
        reason: e.to_string(),
    };
    let (endpoint, events) = bound.map_err(failed)?;
    let (mut handle, port) = shard_link::link();
    let (shard, ready) = shard::spawn(&config, &credentials, life, port)?;
    shard_starts(ready, &mut handle).await?;
    let (asks, asked) = mpsc::channel(ASKS);
    let space = tokio::spawn(tell_space(config.node.data_dir.clone(), asks.clone()));
    if let Some(listener) = scraped {
        metrics::spawn(listener, Vitals { asks: asks.clone() })?;
    }
    let hooks = Hooks::new(config.hooks.clone(), asks.clone());
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
        ca: authority(&paths)?,
        ca_pem: credentials.ca_pem.clone(),
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
    // The socket is this process's own while it holds the lock of its directory.
    let _ = std::fs::remove_file(&config.listen.admin);
    last_words(&paths, ended, shard).await
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

fn control_config(config: &Config, identity: &Identity, life: Life) -> ControlConfig {
    ControlConfig {
        peers: identity.peers.clone(),
        // As few as give an election its spread: each is a wake-up of an idle node.
        tick: config.cluster.failure_timeout / 5,
        heartbeat: config.cluster.heartbeat,
        failure_timeout: config.cluster.failure_timeout,
        replace_after: config.cluster.replace_after,
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

/// Tells the control plane how much room the copies' file system has. A disk that does not answer holds up nobody else.
async fn tell_space(data_dir: PathBuf, asks: mpsc::Sender<Ask>) {
    loop {
        let dir = data_dir.clone();
        if let Ok(Some(free)) = tokio::task::spawn_blocking(move || paths::free_bytes(&dir)).await
            && asks.send(Ask::Space(free)).await.is_err()
        {
            return;
        }
        tokio::time::sleep(SPACE_INTERVAL).await;
    }
}

/// A snapshot of the whole state travels as one message.
fn transport(config: &Config) -> TransportConfig {
    let mut transport = TransportConfig::new(config.listen.peer);
    transport.ack_at_once = true;
    transport.max_message_bytes = MAX_CONTROL_MESSAGE;
    transport.queue_bytes = transport.queue_bytes.max(2 * MAX_CONTROL_MESSAGE);
    transport.receive_bytes = transport.receive_bytes.max(2 * MAX_CONTROL_MESSAGE);
    if config.limits.mtu > 0 {
        transport.mtu_max = config.limits.mtu;
    }
    transport
}

fn authority(paths: &Paths) -> Result<Option<pki::CaMaterial>, AgentError> {
    if !paths.ca_key().exists() {
        return Ok(None);
    }
    let text = |bytes: Vec<u8>, path| {
        String::from_utf8(bytes).map_err(|_| AgentError::Damaged {
            what: "PEM text",
            path,
            found: "other bytes".to_owned(),
        })
    };
    let key_pem = text(paths::read_private(&paths.ca_key())?, paths.ca_key())?;
    Ok(Some(pki::CaMaterial { cert_pem: text(paths::read(&paths.ca_pem())?, paths.ca_pem())?, key_pem }))
}

fn start_log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
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
