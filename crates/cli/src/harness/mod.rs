//! A cluster of real agent processes on this machine: for `holdfast demo`, and for the tests of whole clusters.
//!
//! Flow: [`Cluster::start`] writes a configuration per node, founds the cluster, lets the other nodes join through the
//! same binary, and waits until all see each other. Then nodes are killed, stopped, restarted and asked.
//!
//! Invariants: every wait has a limit and says what it waited for and what it found last; no agent outlives its cluster,
//! whether that is dropped, or this process panics or is killed.
//!
//! A cluster over several machines has one of these on each, with one node ([`Cluster::alone`]), and somebody who carries the token around.
//!
//! Deliberately absent: ways to other machines, network faults (see `tests/`).

mod error;
mod node;
mod sync;

pub use error::HarnessError;
pub use node::{Build, Node, free_ports};
pub use sync::InSync;

use holdfast_agent::admin::{AdminClient, connect, pb};
use std::ffi::OsStr;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;

/// Between two looks at something that is waited for.
const LOOK: Duration = Duration::from_millis(20);
/// How long one command or one question may take.
const COMMAND: Duration = Duration::from_secs(30);
const QUESTION: Duration = Duration::from_secs(5);
/// How long the nodes may take to find each other.
const GATHER: Duration = Duration::from_secs(60);

/// How the cluster is made.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// The `holdfast` binary.
    pub binary: PathBuf,
    /// An existing directory that is theirs alone.
    pub dir: PathBuf,
    /// How many.
    pub nodes: usize,
    /// TOML appended to each configuration: sections `[cluster]` and `[limits]` are free.
    pub extra: String,
    /// Each node serves its metrics on a port of its own.
    pub metrics: bool,
    /// The last node votes and never holds copies.
    pub witness: bool,
    /// Where each node runs; empty: all of them on loopback.
    pub hosts: Vec<Host>,
    /// What each node runs at first, by its place; where there is none, `binary`.
    pub builds: Vec<Build>,
}

/// A network namespace that exists, for one node.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its name, as `ip netns` knows it.
    pub namespace: String,
    /// Where the others reach it.
    pub address: IpAddr,
}

impl ClusterOptions {
    /// Three nodes with default timers.
    #[must_use]
    pub fn new(binary: PathBuf, dir: PathBuf) -> ClusterOptions {
        ClusterOptions {
            binary,
            dir,
            nodes: 3,
            extra: String::new(),
            metrics: false,
            witness: false,
            hosts: Vec::new(),
            builds: Vec::new(),
        }
    }
}

/// Running agents, killed when this is dropped.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
}

impl Cluster {
    /// Founds a cluster, lets all nodes join, and waits until each counts as up and as many vote as are to: before that the loss
    /// of one node could be the loss of half of the voters.
    ///
    /// # Errors
    /// A sentence about the step that failed.
    pub async fn start(options: ClusterOptions) -> Result<Cluster, HarnessError> {
        let nodes = (1..=options.nodes).map(|at| Node::prepare(&options, at)).collect::<Result<Vec<_>, _>>()?;
        let mut cluster = Cluster { nodes };
        match cluster.gather().await {
            Ok(()) => Ok(cluster),
            Err(e) => {
                let source = Box::new(cluster.died("the agents to run").unwrap_or(e));
                Err(HarnessError::Start { source, tails: cluster.log_tails() })
            }
        }
    }

    /// One node, called `name`, that others find at `peer`: the only one of its cluster on this machine. Nothing runs yet.
    ///
    /// # Errors
    /// Its files can't be made.
    pub fn alone(options: &ClusterOptions, name: &str, peer: SocketAddr) -> Result<Cluster, HarnessError> {
        Ok(Cluster { nodes: vec![Node::prepare_as(options, 1, name.to_owned(), peer)?] })
    }

    async fn gather(&mut self) -> Result<(), HarnessError> {
        self.found().await?;
        for at in 1..self.nodes.len() {
            let pb::TokenCreateResponse { address, token, .. } = self.token().await?;
            self.join(at, &address, &token).await?;
        }
        self.wait_gathered(self.nodes.len()).await
    }

    /// Founds the cluster on the first node, and waits until that leads it.
    ///
    /// # Errors
    /// It was refused, or leads nothing.
    pub async fn found(&mut self) -> Result<(), HarnessError> {
        let config = self.nodes[0].config().to_owned();
        self.holdfast([OsStr::new("init"), "--config".as_ref(), config.as_os_str()]).await?;
        self.launch(0)?;
        self.wait_for("the first node to lead the cluster", GATHER, async |cluster| {
            let status = cluster.status(0).await?;
            if status.leader.is_empty() { Err("no leader".to_owned()) } else { Ok(()) }
        })
        .await
    }

    /// Waits until each node sees so many up, and as many of them vote as are to.
    ///
    /// # Errors
    /// Not in time.
    pub async fn wait_gathered(&self, nodes: usize) -> Result<(), HarnessError> {
        self.wait_for("every node to see all nodes up, and enough of them vote", GATHER, async |cluster| {
            for at in 0..cluster.nodes.len() {
                cluster.sees_all(at, nodes).await?;
            }
            Ok(())
        })
        .await
    }

    async fn sees_all(&self, at: usize, nodes: usize) -> Result<(), String> {
        let status = self.status(at).await?;
        let up = status.nodes.iter().filter(|node| node.state == "up").count();
        let voters = status.nodes.iter().filter(|node| node.voter).count();
        if up == nodes && voters == wanted_voters(up) {
            return Ok(());
        }
        let state =
            |node: &pb::Node| format!("{} {}{}", node.name, node.state, if node.voter { ", votes" } else { "" });
        let states: Vec<_> = status.nodes.iter().map(state).collect();
        Err(format!("{} sees {}", self.nodes[at].name(), states.join("; ")))
    }

    /// What another node needs to join.
    ///
    /// # Errors
    /// Refused, or no answer.
    pub async fn token(&self) -> Result<pb::TokenCreateResponse, HarnessError> {
        let token =
            self.ask(0, async |mut client| client.token_create(pb::TokenCreateRequest { valid_seconds: 60 }).await);
        token.await.map_err(|found| HarnessError::Refused { what: "create a token".to_owned(), found })
    }

    /// Lets a node join, and starts it.
    ///
    /// # Errors
    /// It was refused.
    pub async fn join(&mut self, at: usize, address: &str, token: &str) -> Result<(), HarnessError> {
        let config = self.nodes[at].config().to_owned();
        let args = ["join", address, "--token", token, "--config"].map(OsStr::new);
        self.holdfast_at(at, args.into_iter().chain([config.as_os_str()])).await?;
        self.launch(at)
    }

    /// The nodes.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node of this name.
    #[must_use]
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.name() == name)
    }

    /// Where a volume is attached, on each node.
    #[must_use]
    pub fn sockets(&self, volume: &str) -> Vec<PathBuf> {
        self.nodes.iter().map(|node| node.socket(volume)).collect()
    }

    /// Starts the agent of a node that is not running.
    ///
    /// # Errors
    /// The process could not be started.
    pub fn launch(&mut self, at: usize) -> Result<(), HarnessError> {
        self.nodes[at].launch()
    }

    /// From its next start on a node runs this.
    pub fn install(&mut self, at: usize, build: Build) {
        self.nodes[at].install(build);
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self, at: usize) {
        self.nodes[at].kill();
    }

    /// SIGTERM. The process is to end by itself, see [`Cluster::ended`].
    pub fn terminate(&mut self, at: usize) {
        self.nodes[at].signal(libc::SIGTERM);
    }

    /// Waits until the process of a node that was told to end has ended.
    ///
    /// # Errors
    /// Not in time, or there is none.
    pub async fn ended(&mut self, at: usize, limit: Duration) -> Result<std::process::ExitStatus, HarnessError> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.nodes[at].reap() {
                return Ok(status);
            }
            if start.elapsed() > limit {
                let (what, found) = (format!("the agent of {} to end", self.nodes[at].name()), "it runs".to_owned());
                return Err(HarnessError::Timeout { what, waited: limit, found, tails: self.log_tails() });
            }
            sleep(LOOK).await;
        }
    }

    /// SIGSTOP: the process stands still and its sockets stay open.
    pub fn stop(&mut self, at: usize) {
        self.nodes[at].signal(libc::SIGSTOP);
    }

    /// SIGCONT.
    pub fn go_on(&mut self, at: usize) {
        self.nodes[at].signal(libc::SIGCONT);
    }

    /// What a node says about the cluster.
    ///
    /// # Errors
    /// Why it gave no answer.
    pub async fn status(&self, at: usize) -> Result<pb::StatusResponse, String> {
        self.ask(at, async |mut client| client.status(pb::StatusRequest::default()).await).await
    }

    /// What the primary's node says about a volume; any other node's word if there is no primary.
    ///
    /// # Errors
    /// Why there was no answer.
    pub async fn volume(&self, name: &str) -> Result<pb::Volume, String> {
        let mut last = "no node is running".to_owned();
        let mut best: Option<pb::Volume> = None;
        for at in (0..self.nodes.len()).filter(|at| self.nodes[*at].is_running()) {
            let request = pb::VolumeShowRequest { name: name.to_owned() };
            match self.ask(at, async |mut client| client.volume_show(request.clone()).await).await {
                Ok(pb::VolumeShowResponse { volume: Some(volume) }) => {
                    let epoch = best.as_ref().map_or(0, |best| best.epoch);
                    if volume.primary == self.nodes[at].name() && volume.epoch >= epoch {
                        return Ok(volume);
                    }
                    if best.is_none() || volume.epoch > epoch {
                        best = Some(volume);
                    }
                }
                Ok(_) => last = format!("{} answered without a volume", self.nodes[at].name()),
                Err(e) => last = format!("{}: {e}", self.nodes[at].name()),
            }
        }
        best.ok_or(last)
    }

    /// Creates a volume on all nodes, and waits until it serves with every copy.
    ///
    /// # Errors
    /// Refused, or not healthy in time.
    pub async fn create_volume(
        &self,
        request: pb::VolumeCreateRequest,
        limit: Duration,
    ) -> Result<pb::Volume, HarnessError> {
        let name = request.name.clone();
        let created = self.ask(0, async |mut client| client.volume_create(request.clone()).await).await;
        created.map_err(|found| HarnessError::Refused { what: format!("create volume {name}"), found })?;
        self.wait_healthy(&name, limit).await
    }

    /// Waits until a volume serves with every copy that it was promised.
    ///
    /// # Errors
    /// Not in time.
    pub async fn wait_healthy(&self, name: &str, limit: Duration) -> Result<pb::Volume, HarnessError> {
        self.wait_for(&format!("volume {name} to be healthy"), limit, async |cluster| {
            let volume = cluster.volume(name).await?;
            if volume.state == "healthy" { Ok(volume) } else { Err(sync::describe(&volume)) }
        })
        .await
    }

    /// Asks for another primary.
    ///
    /// # Errors
    /// Refused, or no answer.
    pub async fn failover(&self, volume: &str, to: &str, force: bool) -> Result<pb::FailoverResponse, HarnessError> {
        let request = pb::FailoverRequest { volume: volume.to_owned(), to: to.to_owned(), force };
        let what = format!("fail over {volume} to {to}");
        let Some(at) = self.nodes.iter().position(Node::is_running) else {
            return Err(HarnessError::Refused { what, found: "no node is running".to_owned() });
        };
        let answer = self.ask(at, async |mut client| client.failover(request.clone()).await).await;
        answer.map_err(|found| HarnessError::Refused { what, found })
    }

    /// Looks at something again and again until it is as it should be.
    ///
    /// # Errors
    /// Not in time: what was waited for, and what was found last.
    pub async fn wait_for<T>(
        &self,
        what: &str,
        limit: Duration,
        mut look: impl AsyncFnMut(&Cluster) -> Result<T, String>,
    ) -> Result<T, HarnessError> {
        let start = Instant::now();
        loop {
            let found = match look(self).await {
                Ok(value) => return Ok(value),
                Err(found) => found,
            };
            if let Some(died) = self.died(what) {
                return Err(died);
            }
            if start.elapsed() > limit {
                let (what, tails) = (what.to_owned(), self.log_tails());
                return Err(HarnessError::Timeout { what, waited: limit, found, tails });
            }
            sleep(LOOK).await;
        }
    }

    /// An agent that ended though nobody killed it: nothing that is waited for will come.
    fn died(&self, what: &str) -> Option<HarnessError> {
        let (node, how) = self.nodes.iter().find_map(|node| Some((node.name().to_owned(), node.ended()?)))?;
        Some(HarnessError::Died { what: what.to_owned(), node, how, tails: self.log_tails() })
    }

    /// Runs a command of the binary, and returns what it printed.
    ///
    /// # Errors
    /// It could not be run, took too long, or failed.
    pub async fn holdfast(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<String, HarnessError> {
        self.holdfast_at(0, args).await
    }

    /// The same on the host of a node.
    async fn holdfast_at(
        &self,
        at: usize,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<String, HarnessError> {
        let args: Vec<_> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        let what = format!("run `holdfast {}`", args.first().map(|arg| arg.to_string_lossy()).unwrap_or_default());
        let output = command(&mut self.nodes[at].command().into(), &args)
            .await
            .map_err(|source| HarnessError::Io { what: what.clone(), source })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(HarnessError::Refused { what, found: String::from_utf8_lossy(&output.stderr).trim().to_owned() })
    }

    /// The last lines that each agent logged.
    #[must_use]
    pub fn log_tails(&self) -> String {
        self.nodes.iter().map(Node::log_tail).collect()
    }

    async fn ask<T>(
        &self,
        at: usize,
        question: impl AsyncFnOnce(AdminClient<Channel>) -> Result<tonic::Response<T>, tonic::Status>,
    ) -> Result<T, String> {
        let answer = async {
            let client = connect(self.nodes[at].admin()).await.map_err(|e| e.to_string())?;
            question(client).await.map(tonic::Response::into_inner).map_err(|e| e.message().to_owned())
        };
        timeout(QUESTION, answer).await.unwrap_or_else(|_| Err(format!("no answer within {QUESTION:?}")))
    }
}

/// How many of so many nodes vote in the end, as docs/OPERATIONS.md says.
fn wanted_voters(nodes: usize) -> usize {
    match nodes {
        0..=2 => nodes,
        3 | 4 => 3,
        _ => 5,
    }
}

/// Runs a program to its end, or kills it.
async fn command(command: &mut tokio::process::Command, args: &[std::ffi::OsString]) -> std::io::Result<Output> {
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    let late = |_| Err(std::io::Error::new(std::io::ErrorKind::TimedOut, format!("it took longer than {COMMAND:?}")));
    timeout(COMMAND, command.output()).await.unwrap_or_else(late)
}
