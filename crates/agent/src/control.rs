//! The control thread's loop: carries what the world does to [`holdfast_node::control::Control`], and what it wants to the
//! world. The admin API reaches it through a channel, so that every question is answered from one state.

use crate::ending::{Ending, How, Stop};
use crate::error::AgentError;
use crate::found::FOUNDER;
use crate::hooks::Hooks;
use crate::identity::Identity;
use crate::join::{self, Asked, JoinAnswer, JoinRequest, RenewRequest};
use crate::metrics::ShardSample;
use crate::paths::Paths;
use crate::raft_store::{Write, Written};
use crate::random;
use crate::regime;
use crate::renewal::Certificate;
use crate::shard::shard_address;
use crate::shard_link::{FromShard, ShardHandle, ShardPeer, ToShard};
use crate::sparing::{Sparing, others};
use crate::status;
use crate::token::{hex, unhex};
use crate::versions;
use bytes::Bytes;
use holdfast_cluster::{Command, Outcome, Recovery};
use holdfast_node::control::{Control, EventKind, Failure, Input, Output};
use holdfast_node::{LocalView, Upkeep};
use holdfast_transport::{Endpoint, Event, Events, Identity as TlsIdentity, JoinReply, Lane, join_client, pki};
use holdfast_types::{ClusterId, ClusterVersion, Epoch, NodeId, Speaks, Time, VolumeId};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, oneshot};

/// How long the founder gets to answer a join that is passed on to it: less than the joining node waits.
const RELAY_TIMEOUT: Duration = Duration::from_secs(12);
/// Refusals of joins, and of peers, are so many events at once, and then so far apart: they must not push out what matters more.
const REFUSALS_AT_ONCE: u32 = 4;
const REFUSALS_APART: Duration = Duration::from_secs(600);
/// Events kept for `holdfast events`.
const KEPT_EVENTS: usize = 1000;

/// Something that happened, with the number that this life of the agent gave it.
#[derive(Clone, Debug)]
pub(crate) struct Happened {
    pub(crate) seq: u64,
    pub(crate) unix_ms: u64,
    pub(crate) kind: &'static str,
    pub(crate) volume: Option<String>,
    pub(crate) message: String,
}

/// What the admin API asks of the loop.
pub(crate) enum Ask {
    /// Looks at everything, synchronously.
    Look(Box<dyn FnOnce(&View<'_>) + Send>),
    /// Proposes a command.
    Propose(Command, oneshot::Sender<Result<Outcome, Failure>>),
    /// An operator's wish for a copy of a node.
    Upkeep(NodeId, Upkeep),
    /// End, for a supervisor to start the agent anew; what is led here waits for it, at most as long as the answer says.
    Restart(oneshot::Sender<Duration>),
    /// So many bytes are free on the file system of this node's copies, and so long may a file be there, if that is known.
    Space(u64, Option<u64>),
    /// Something happened beside the loop: kind, to which volume, what.
    Happened(&'static str, Option<String>, String),
    /// This node's certificate was renewed: it is used from now on, unless it can't be.
    Identity(Box<TlsIdentity>, oneshot::Sender<Result<(), String>>),
    /// How the shard is.
    Measure(oneshot::Sender<ShardSample>),
    /// What happened so far, and a subscription to what will.
    Events(oneshot::Sender<(Vec<Happened>, broadcast::Receiver<Happened>)>),
}

/// Everything that a question may look at.
pub(crate) struct View<'a> {
    pub(crate) control: &'a Control,
    pub(crate) me: NodeId,
    pub(crate) now: Time,
    pub(crate) nbd_dir: &'a std::path::Path,
    pub(crate) data_dir: &'a std::path::Path,
    pub(crate) ca_pem: &'a str,
    pub(crate) certificate: Certificate,
    pub(crate) address: SocketAddr,
    pub(crate) endpoint: &'a Endpoint,
    /// Active epoch of each of them, and how often it changed while this agent ran.
    pub(crate) epoch_changes: &'a BTreeMap<VolumeId, (Epoch, u64)>,
    pub(crate) event_counts: &'a BTreeMap<&'static str, u64>,
}

/// Who waits for the outcome of a proposal.
enum Waiting {
    Admin(oneshot::Sender<Result<Outcome, Failure>>),
    Join { reply: JoinReply, csr_pem: String },
}

/// What is to be done about a node that wants to join, with its request for a certificate.
enum Check {
    Admit(Box<Command>, String),
    Admitted(NodeId, String),
}

/// Where things come from, beside the shard.
pub(crate) struct Arrivals {
    pub(crate) events: Events,
    pub(crate) written: mpsc::Receiver<Written>,
    pub(crate) asks: mpsc::Receiver<Ask>,
    pub(crate) stop: Stop,
}

/// What one turn of the loop came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Went,
    /// A signal.
    Stop,
    /// What the loop lives of has ended.
    Over,
}

/// The loop's own state, beside what it was made of.
pub(crate) struct ControlLoop {
    pub(crate) parts: Parts,
    sessions: BTreeMap<NodeId, u64>,
    waiting: BTreeMap<u64, Waiting>,
    next_token: u64,
    events: VecDeque<Happened>,
    next_event: u64,
    news: broadcast::Sender<Happened>,
    local: LocalView,
    epoch_changes: BTreeMap<VolumeId, (Epoch, u64)>,
    event_counts: BTreeMap<&'static str, u64>,
    /// The newest view did not fit into the link; it is offered again.
    unsent_view: bool,
    /// The same for the peers.
    unsent_peers: Option<BTreeMap<NodeId, ShardPeer>>,
    /// The same for a renewed certificate.
    unsent_identity: Option<Box<TlsIdentity>>,
    /// It ends to be restarted: machines of this host wait for its next life.
    pub(crate) stays: bool,
    /// The shard was not told yet that it is to retire.
    pub(crate) unsent_retire: bool,
    /// The shard said that it has.
    pub(crate) retired: bool,
    /// By an operator.
    asked_to_end: Option<How>,
    refused_joins: Sparing,
    refused_peers: Sparing,
    peers: BTreeMap<NodeId, String>,
    out: Vec<Output>,
    fatal: Option<AgentError>,
    pub(crate) hooks: Hooks,
}

/// What the loop is made of.
pub(crate) struct Parts {
    pub(crate) me: NodeId,
    pub(crate) cluster: ClusterId,
    pub(crate) control: Control,
    pub(crate) endpoint: Endpoint,
    pub(crate) writes: mpsc::Sender<Write>,
    pub(crate) shard: ShardHandle,
    pub(crate) nbd_dir: PathBuf,
    pub(crate) data_dir: PathBuf,
    pub(crate) paths: Paths,
    pub(crate) ca: Option<pki::CaMaterial>,
    pub(crate) ca_pem: String,
    pub(crate) certificate: Certificate,
    pub(crate) address: SocketAddr,
    pub(crate) ending: Ending,
}

impl ControlLoop {
    pub(crate) fn new(parts: Parts, hooks: Hooks) -> ControlLoop {
        ControlLoop {
            parts,
            sessions: BTreeMap::new(),
            waiting: BTreeMap::new(),
            next_token: 0,
            events: VecDeque::new(),
            next_event: 0,
            news: broadcast::channel(KEPT_EVENTS).0,
            local: LocalView::default(),
            epoch_changes: BTreeMap::new(),
            event_counts: BTreeMap::new(),
            unsent_view: false,
            unsent_peers: None,
            unsent_identity: None,
            stays: false,
            unsent_retire: false,
            retired: false,
            asked_to_end: None,
            refused_joins: Sparing::new(REFUSALS_AT_ONCE, REFUSALS_APART),
            refused_peers: Sparing::new(REFUSALS_AT_ONCE, REFUSALS_APART),
            peers: BTreeMap::new(),
            out: Vec::new(),
            fatal: None,
            hooks,
        }
    }

    /// Runs until it is told to end, or something can't go on.
    pub(crate) async fn run(mut self, mut from: Arrivals) -> Result<(), AgentError> {
        let ended = self.live(&mut from).await;
        if let Err(AgentError::Removed { .. } | AgentError::Superseded { .. }) = ended {
            self.end_roles(&mut from).await;
        }
        ended?;
        self.parts.endpoint.shutdown().await;
        Ok(())
    }

    async fn live(&mut self, from: &mut Arrivals) -> Result<(), AgentError> {
        self.feed(Input::Tick).await;
        let how = loop {
            if let Some(how) = self.asked_to_end {
                break Some(how);
            }
            match self.turn(from, None).await? {
                Turn::Went => {}
                Turn::Stop => break Some(self.parts.ending.on_term),
                Turn::Over => break None,
            }
        };
        match how {
            Some(how) => self.end(from, how).await,
            None => Ok(()),
        }
    }

    /// Waits for anything and takes care of it, until the next timer or `until` at the latest.
    pub(crate) async fn turn(&mut self, from: &mut Arrivals, until: Option<Time>) -> Result<Turn, AgentError> {
        if let Some(fatal) = self.fatal.take() {
            return Err(fatal);
        }
        let next = self.parts.control.next_timeout();
        let sleep = until.map_or(next, |until| until.min(next)).since(random::now());
        tokio::select! {
            () = from.stop.wanted() => return Ok(Turn::Stop),
            event = from.events.recv() => match event { Some(e) => self.on_event(e).await, None => return Ok(Turn::Over) },
            done = from.written.recv() => match done {
                Some(Written::Batch(batch)) => self.feed(Input::Persisted { batch }).await,
                Some(Written::Failed(error)) => return Err(error),
                None => return Ok(Turn::Over),
            },
            message = self.parts.shard.from.recv() => match message {
                Some(message) => self.on_shard(message).await,
                None => return Err(AgentError::Shard { reason: "its thread ended".to_owned() }),
            },
            ask = from.asks.recv() => if let Some(ask) = ask { self.on_ask(ask).await },
            () = tokio::time::sleep(sleep) => self.feed(Input::Tick).await,
        }
        self.offer_again();
        Ok(Turn::Went)
    }

    pub(crate) async fn feed(&mut self, input: Input) {
        let mut out = std::mem::take(&mut self.out);
        self.parts.control.handle(input, random::now(), &mut out);
        for output in out.drain(..) {
            self.carry(output).await;
        }
        self.out = out;
    }

    async fn carry(&mut self, output: Output) {
        match output {
            Output::Send { to, bytes } => {
                if let Some(session) = self.sessions.get(&to)
                    && let Err(error) = self.parts.endpoint.send(to, Lane::Control, *session, vec![bytes])
                {
                    // Raft repeats what is lost.
                    tracing::debug!(peer = %to, %error, "a message of the control plane was dropped");
                }
            }
            Output::Persist(batch) => self.write(Write::Batch(batch)).await,
            Output::Compact { first_index, snapshot } => self.write(Write::Compact { first_index, snapshot }).await,
            Output::Version(version) if version > ClusterVersion::FIRST => {
                if let Err(error) = versions::note(&self.parts.paths, version) {
                    self.fatal.get_or_insert(error);
                }
            }
            Output::Version(_) => {}
            Output::Local(local) => {
                self.local = local;
                self.count_epochs();
                self.end_left_behind();
                self.send_view();
            }
            Output::Peers(peers) => self.on_peers(peers),
            Output::Upkeep(wish) => {
                if self.parts.shard.to.try_send(ToShard::Upkeep(wish)).is_err() {
                    // Whoever wants it sees that nothing happens, and asks again.
                    tracing::debug!(volume = %wish.volume, "the shard takes no wish now");
                }
            }
            Output::Done { token, result } => self.done(token, result),
            Output::Event(e) => {
                if e.kind == EventKind::Defect {
                    tracing::error!("{}", e.message);
                }
                self.happened(e.kind.name(), e.volume, e.message);
            }
            Output::Adopt { batch, recovery } => {
                self.hooks.doubt();
                if let Err(error) = self.remember_peers() {
                    self.fatal.get_or_insert(error);
                }
                self.write(Write::Adopt { batch, recovery }).await;
            }
            Output::Superseded(recovery) => self.superseded(&recovery),
            Output::Removed => self.removed(),
            // The first one is the cause of the others.
            Output::Fatal(reason) => drop(self.fatal.get_or_insert(AgentError::Control { reason })),
        }
    }

    /// Before the log that names them is set aside.
    fn remember_peers(&self) -> Result<(), AgentError> {
        let paths = &self.parts.paths;
        let data_dir = self.parts.data_dir.clone();
        let identity = Identity::find(&paths.identity())?.ok_or(AgentError::NotMember { data_dir })?;
        identity.remember(paths, &self.peers)
    }

    /// Guests are cut off here as well: whoever gave this node up may have given its copies up, too.
    fn superseded(&mut self, recovery: &Recovery) {
        let paths = &self.parts.paths;
        let noted = regime::note(paths, recovery);
        let why = noted.err().unwrap_or_else(|| regime::superseded(paths, self.parts.control.generation(), recovery));
        self.fatal.get_or_insert(why);
    }

    fn removed(&mut self) {
        let cluster = self.parts.cluster.to_string();
        self.fatal.get_or_insert_with(|| AgentError::Removed { cluster, data_dir: self.parts.data_dir.clone() });
    }

    async fn write(&mut self, write: Write) {
        // A full queue means a stuck disk: the loop waits for it, bounded by the writer's failure.
        if self.parts.writes.send(write).await.is_err() {
            tracing::debug!("the writer of the control plane's log has ended");
        }
    }

    fn count_epochs(&mut self) {
        let views = &self.local.views;
        self.epoch_changes.retain(|volume, _| views.iter().any(|view| view.volume == *volume));
        for view in views {
            let epoch = view.active.epoch;
            let (known, changes) = self.epoch_changes.entry(view.volume).or_insert((epoch, 0));
            *changes += u64::from(*known != epoch);
            *known = epoch;
        }
    }

    fn send_view(&mut self) {
        let state = self.parts.control.state();
        let name = |v: &VolumeId| Some((*v, state?.volumes.get(v)?.name.clone()));
        let names = self.local.views.iter().filter_map(|view| name(&view.volume)).collect();
        let view = ToShard::View { view: self.local.clone(), names };
        self.unsent_view = self.parts.shard.to.try_send(view).is_err();
    }

    fn on_peers(&mut self, peers: BTreeMap<NodeId, String>) {
        let mut control = BTreeMap::new();
        let mut shards = BTreeMap::new();
        for (node, text) in &peers {
            let Ok(address) = text.parse::<SocketAddr>() else {
                tracing::error!(peer = %node, address = text, "the peer's address is none: expected IP:PORT");
                continue;
            };
            let name = name_of(&self.parts.control, *node);
            shards.insert(*node, ShardPeer { name, address: shard_address(address) });
            if *node != self.parts.me {
                control.insert(*node, address);
            }
        }
        let all = self.parts.control.state().map(|s| s.nodes.values()).into_iter().flatten();
        self.parts.endpoint.set_removed(all.filter(|n| n.removed).map(|n| n.id).collect());
        self.parts.endpoint.set_peers(&control);
        for node in control.keys() {
            self.parts.endpoint.open(*node, Lane::Control);
        }
        self.unsent_peers = Some(shards);
        self.peers = peers;
        self.offer_again();
    }

    /// What did not fit into the link to the shard; only the newest of each counts.
    pub(crate) fn offer_again(&mut self) {
        self.unsent_retire = self.unsent_retire && self.parts.shard.to.try_send(ToShard::Retire).is_err();
        if let Some(peers) = self.unsent_peers.take()
            && let Err(mpsc::error::TrySendError::Full(ToShard::Peers(peers))) =
                self.parts.shard.to.try_send(ToShard::Peers(peers))
        {
            self.unsent_peers = Some(peers);
        }
        if let Some(identity) = self.unsent_identity.take()
            && let Err(mpsc::error::TrySendError::Full(ToShard::Identity(identity))) =
                self.parts.shard.to.try_send(ToShard::Identity(identity))
        {
            self.unsent_identity = Some(identity);
        }
        if self.unsent_view {
            self.send_view();
        }
    }

    /// Both endpoints prove themselves with it from now on.
    fn renewed(&mut self, identity: TlsIdentity) -> Result<(), String> {
        self.parts.endpoint.set_identity(&identity).map_err(|e| e.to_string())?;
        let lifetime = self.parts.certificate.lifetime;
        self.parts.certificate = Certificate::of(&identity, lifetime).map_err(|e| e.to_string())?;
        // What the control thread's endpoint took is good for the shard's, too.
        self.unsent_identity = Some(Box::new(identity));
        Ok(())
    }

    async fn on_event(&mut self, event: Event) {
        match event {
            Event::LaneUp { peer, session, .. } => {
                self.sessions.insert(peer, session);
                self.feed(Input::PeerUp(peer)).await;
            }
            Event::LaneDown { peer, .. } => {
                self.sessions.remove(&peer);
                self.feed(Input::PeerDown(peer)).await;
            }
            Event::Message { peer, lane: Lane::Control, bytes, .. } => {
                self.feed(Input::Message { from: peer, bytes }).await;
            }
            Event::Removed { by } => {
                tracing::warn!(peer = %by, "a peer says that this node was removed from the cluster");
                self.removed();
            }
            Event::Join { request, reply, .. } => self.on_join(&request, reply).await,
            Event::Refused { what } => self.peer_refused(&what),
            Event::Message { .. } | Event::Incoming { .. } | Event::IncomingClosed { .. } => {}
        }
    }

    async fn on_shard(&mut self, message: FromShard) {
        match message {
            FromShard::Request(request) => self.feed(Input::Request(request)).await,
            FromShard::CopyCreated { volume, incarnation } => {
                self.feed(Input::CopyCreated { volume, incarnation }).await
            }
            FromShard::CopyDeleted { volume } => self.feed(Input::CopyDeleted { volume }).await,
            FromShard::Serving { volume, serving, epoch } => self.role_changed(volume, serving, epoch),
            FromShard::Reports(reports) => {
                self.end_left_behind();
                self.roles_go_on(&reports);
                self.feed(Input::Reports(reports)).await;
            }
            FromShard::Event { volume, message } => {
                let name = volume.and_then(|v| Some(self.parts.control.state()?.volumes.get(&v)?.name.clone()));
                self.happened("shard", name, message);
            }
            FromShard::PeerRefused(what) => self.peer_refused(&what),
            FromShard::Retired => self.retired = true,
            FromShard::Fatal(reason) => self.fatal = Some(AgentError::Shard { reason }),
        }
    }

    pub(crate) async fn on_ask(&mut self, ask: Ask) {
        match ask {
            Ask::Look(look) => look(&View {
                control: &self.parts.control,
                me: self.parts.me,
                now: random::now(),
                nbd_dir: &self.parts.nbd_dir,
                data_dir: &self.parts.data_dir,
                ca_pem: &self.parts.ca_pem,
                certificate: self.parts.certificate,
                address: self.parts.address,
                endpoint: &self.parts.endpoint,
                epoch_changes: &self.epoch_changes,
                event_counts: &self.event_counts,
            }),
            Ask::Restart(answer) => {
                self.asked_to_end = Some(How::Stay);
                // Whoever asked has gone.
                let _ = answer.send(self.parts.ending.restart_window);
            }
            Ask::Space(free_bytes, longest_file) => self.feed(Input::Space { free_bytes, longest_file }).await,
            Ask::Happened(kind, volume, message) => self.happened(kind, volume, message),
            Ask::Identity(identity, answer) => {
                // Whoever asked has gone.
                let _ = answer.send(self.renewed(*identity));
            }
            Ask::Measure(answer) => {
                // One that does not fit is dropped: whoever asked sees that the shard does not answer.
                let _ = self.parts.shard.to.try_send(ToShard::Measure(answer));
            }
            Ask::Upkeep(node, wish) => self.feed(Input::Upkeep { node, wish }).await,
            Ask::Propose(command, answer) => self.propose(command, Waiting::Admin(answer)).await,
            Ask::Events(answer) => {
                // Whoever asked has gone.
                let _ = answer.send((self.events.iter().cloned().collect(), self.news.subscribe()));
            }
        }
    }

    async fn propose(&mut self, command: Command, waiting: Waiting) {
        self.next_token += 1;
        let token = self.next_token;
        self.waiting.insert(token, waiting);
        self.feed(Input::Propose { token, command }).await;
    }

    fn done(&mut self, token: u64, result: Result<Outcome, Failure>) {
        match self.waiting.remove(&token) {
            Some(Waiting::Admin(answer)) => drop(answer.send(result)),
            Some(Waiting::Join { reply, csr_pem }) => {
                let answer = match result {
                    Ok(Outcome::Node(node)) => self.welcome(node, &csr_pem),
                    Ok(other) => Err(format!("the control plane answered {other:?} to a new node")),
                    Err(failure) => Err(failure.to_string()),
                };
                send_join(reply, answer);
            }
            None => {}
        }
    }

    async fn on_join(&mut self, request: &Bytes, reply: JoinReply) {
        if self.parts.ca.is_none() {
            return self.relay_join(request.clone(), reply);
        }
        match self.check_join(request) {
            Ok(Check::Admit(command, csr_pem)) => self.propose(*command, Waiting::Join { reply, csr_pem }).await,
            Ok(Check::Admitted(node, csr_pem)) => send_join(reply, self.welcome(node, &csr_pem)),
            Err(reason) => {
                self.join_refused(&reason);
                send_join(reply, Err(reason));
            }
        }
    }

    /// Told at once, and then counted for a while: strangers can cause it.
    fn join_refused(&mut self, reason: &str) {
        let Some(untold) = self.refused_joins.tell(random::now()) else { return };
        let told =
            format!("a node that wanted to join, or another certificate, was refused: {reason}{}", others(untold));
        self.happened("join_refused", None, told);
    }

    /// The same of whoever wanted to be a peer: the port is open to a network.
    fn peer_refused(&mut self, what: &str) {
        let Some(untold) = self.refused_peers.tell(random::now()) else { return };
        // The endpoints themselves tell of a few each second alone.
        let more = if untold == 0 {
            ""
        } else {
            "; so were others since the last time, holdfast_refused_connections_total has how many"
        };
        self.happened("peer_refused", None, format!("a peer was refused: {what}{more}"));
    }

    /// Only the founder holds the CA's key; every other node passes the conversation on to it.
    fn relay_join(&self, request: Bytes, reply: JoinReply) {
        let founder = self.parts.control.state().and_then(|s| s.node(FOUNDER));
        let address = founder.and_then(|n| n.address.parse::<SocketAddr>().ok());
        let name = founder.map_or_else(|| FOUNDER.to_string(), |n| n.name.clone());
        let (Some(address), Ok(fingerprint)) = (address, pki::fingerprint(&self.parts.ca_pem)) else {
            return send_join(
                reply,
                Err(format!(
                    "node {name}, which holds the key of the cluster's CA, is not known here yet; join through it"
                )),
            );
        };
        tokio::spawn(async move {
            let asked = tokio::time::timeout(RELAY_TIMEOUT, join_client(address, &fingerprint, request)).await;
            let why = match asked {
                Ok(Ok(answer)) => {
                    if !reply.send(answer) {
                        tracing::warn!("a joining node left before it was answered");
                    }
                    return;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("{address} did not answer"),
            };
            send_join(
                reply,
                Err(format!(
                    "only node {name} holds the key of the cluster's CA, and it was not reached; start it and try again ({why})"
                )),
            );
        });
    }

    /// The certificate of the node that joined with this very request, and that nobody has removed.
    fn check_renewal(&self, request: RenewRequest) -> Result<Check, String> {
        let state = self.parts.control.state().ok_or("this node has not heard from its cluster yet")?;
        let fingerprint = hex(&random::sha256(request.renew.as_bytes()));
        let known = state.nodes().find(|n| n.fingerprint == fingerprint);
        let node = known.ok_or("no node of this cluster joined with that request, or it was removed")?;
        Ok(Check::Admitted(node.id, request.renew))
    }

    fn check_join(&self, request: &Bytes) -> Result<Check, String> {
        let request = match Asked::parse(request)? {
            Asked::Renew(renewal) => return self.check_renewal(renewal),
            Asked::Join(request) => request,
        };
        let state = self.parts.control.state().ok_or("this node has not heard from its cluster yet")?;
        self.may_join(&request, state.version)?;
        let secret = unhex(&request.secret).ok_or("the token's secret is not hexadecimal")?;
        let hash = hex(&random::sha256(&secret));
        let fingerprint = hex(&random::sha256(request.csr_pem.as_bytes()));
        // The answer to an earlier try was lost: the same key with the same token is the same node.
        let used_by = state.tokens.values().find(|t| t.hash == hash).and_then(|t| state.node(t.used_by?));
        if let Some(node) = used_by.filter(|n| n.fingerprint == fingerprint) {
            return Ok(Check::Admitted(node.id, request.csr_pem));
        }
        let token = state.usable_token(&hash, random::unix_ms() / 1000).map_err(|refusal| refusal.to_string())?;
        let command = Command::AddNode {
            name: request.name,
            address: request.address,
            failure_domain: request.failure_domain,
            voter: request.voter,
            witness: request.witness,
            fingerprint,
            token_id: Some(token),
        };
        Ok(Check::Admit(Box::new(command), request.csr_pem))
    }

    /// Whether the joining agent speaks what the cluster speaks.
    fn may_join(&self, request: &JoinRequest, version: ClusterVersion) -> Result<(), String> {
        if request.speaks.is_some() && !self.parts.control.speaks().tells() {
            // As an agent says that knows the first version alone.
            return Err(format!("the request can't be read: {}", join::UNKNOWN_FIELD));
        }
        let speaks = request.speaks.map_or(Some(Speaks::UNTOLD), |(a, b)| Speaks::new(a, b));
        let speaks = speaks
            .ok_or("expected the versions that the joining agent speaks, found none; install another build on it")?;
        match speaks.refusal(version) {
            None => Ok(()),
            Some(found) => Err(format!("expected a cluster of a version that the joining agent speaks, found {found}")),
        }
    }

    fn welcome(&self, node: NodeId, csr_pem: &str) -> Result<JoinAnswer, String> {
        let ca = self.parts.ca.as_ref().ok_or("this node no longer holds the CA's key")?;
        let until = Some(random::unix_ms() / 1000 + self.parts.certificate.lifetime.as_secs());
        let cert_pem = pki::sign_csr(ca, self.parts.cluster, node, csr_pem, until).map_err(|e| e.to_string())?;
        let peers = self.peers.iter().filter(|(n, _)| **n != node).map(|(n, a)| (n.0, a.clone())).collect();
        Ok(JoinAnswer::Welcome { node: node.0, ca_pem: self.parts.ca_pem.clone(), cert_pem, peers })
    }

    /// A volume's active epoch, and the last committed record of the copy here as it was last reported.
    fn position(&self, volume: &str) -> (Option<u64>, Option<u64>) {
        let control = &self.parts.control;
        let Some((state, id)) = control.state().and_then(|s| Some((s, s.volume_by_name(volume)?))) else {
            return (None, None);
        };
        let report = control.detector().report(self.parts.me, id);
        (state.view(id).map(|view| view.active.epoch.0), report.map(|r| r.committed.0))
    }

    fn happened(&mut self, kind: &'static str, volume: Option<String>, message: String) {
        self.next_event += 1;
        *self.event_counts.entry(kind).or_default() += 1;
        let happened = Happened { seq: self.next_event, unix_ms: random::unix_ms(), kind, volume, message };
        let (epoch, lsn) = happened.volume.as_deref().map_or((None, None), |name| self.position(name));
        tracing::info!(kind, volume = happened.volume, epoch, lsn, "{}", happened.message);
        if self.events.len() >= KEPT_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(happened.clone());
        // Nobody follows.
        let _ = self.news.send(happened);
    }
}

fn send_join(reply: JoinReply, answer: Result<JoinAnswer, String>) {
    let answer = answer.unwrap_or_else(|reason| JoinAnswer::Refused { reason });
    let bytes = serde_json::to_vec(&answer).expect("text and numbers are always JSON");
    if !reply.send(Bytes::from(bytes)) {
        tracing::warn!("a joining node left before it was answered");
    }
}

impl View<'_> {
    /// Whether a node answers, this one included.
    pub(crate) fn alive(&self, node: NodeId) -> bool {
        node == self.me || self.control.detector().alive(node, self.now)
    }

    /// What people call a node.
    pub(crate) fn name(&self, node: NodeId) -> String {
        name_of(self.control, node)
    }

    /// The cluster, or one volume, in the admin API's words.
    pub(crate) fn status(&self) -> Result<crate::admin::pb::StatusResponse, tonic::Status> {
        status::status(self)
    }
}

/// What people call a node; its id before this node has heard of it.
pub(crate) fn name_of(control: &Control, node: NodeId) -> String {
    control.state().and_then(|s| s.node(node)).map_or_else(|| node.to_string(), |n| n.name.clone())
}
