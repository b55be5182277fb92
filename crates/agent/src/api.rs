//! The admin service: checks what a person asks, proposes it, and puts the outcome into words.

mod copies;
mod grants;
mod nodes;
mod orphans;
mod recovery;

use crate::admin::pb::{self, admin_server::Admin};
use crate::control::{Ask, Happened, View};
use crate::metrics::{PATIENCE, Vitals};
use crate::random;
use crate::token::{Token, hex, unhex};
use crate::upkeep;
use holdfast_cluster::{
    self as cluster, Command, CopyReport, CopyState, Degraded, Outcome, Refusal, RefusalKind, VolumeState,
    VolumeStatus, placement,
};
use holdfast_node::control::Failure;
use holdfast_transport::pki;
use holdfast_types::{Durability, NodeId, VolumeId, VolumeSize, VolumeView};
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tonic::{Request, Response, Status};

/// How long a join token may be used unless the operator says otherwise, in seconds.
const TOKEN_SECONDS: u64 = 3600;
/// A month: who finds a forgotten one later finds nothing.
const MOST_TOKEN_SECONDS: u64 = 30 * 24 * 3600;

/// How long `status` waits for lags: it is to say within a second why I/O waits.
const LAGS: Duration = Duration::from_millis(300);

/// Answers the admin socket; every question goes through the control thread's loop.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) asks: mpsc::Sender<Ask>,
}

type Answer<T> = Result<Response<T>, Status>;

impl Service {
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&View<'_>) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let (answer, answered) = oneshot::channel();
        // Whoever asked may have gone meanwhile.
        let ask = Ask::Look(Box::new(move |view| drop(answer.send(look(view)))));
        self.asks.send(ask).await.map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())?
    }

    /// What `status` shows. A shard that does not answer at once keeps nobody from the rest: lags stay unknown.
    async fn status_here(&self) -> Result<pb::StatusResponse, Status> {
        let mut status = self.look(|view| view.status()).await?;
        if status.volumes.iter().any(|v| v.primary == status.answered_by) {
            Vitals { asks: self.asks.clone() }.take(LAGS).await.add_lags(&mut status.volumes);
        }
        Ok(status)
    }

    /// The volume as `status` shows it.
    async fn shown(&self, name: &str) -> Result<pb::Volume, Status> {
        one_volume(self.status_here().await?, name)
    }

    async fn wish(&self, wishes: upkeep::Wishes) -> Result<(), Status> {
        for (node, wish) in wishes {
            self.asks.send(Ask::Upkeep(node, wish)).await.map_err(|_| stopping())?;
        }
        Ok(())
    }

    async fn propose(&self, command: Command) -> Result<Outcome, Status> {
        let (answer, answered) = oneshot::channel();
        self.asks.send(Ask::Propose(command, answer)).await.map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())?.map_err(|failure| refusal(&failure))
    }
}

fn stopping() -> Status {
    Status::unavailable("the agent is stopping; try again when it runs")
}

fn refusal(failure: &Failure) -> Status {
    match failure {
        Failure::Refused(refused) => refused_as(refused),
        Failure::Busy | Failure::Unknown | Failure::NoLeader { .. } => Status::unavailable(failure.to_string()),
    }
}

pub(crate) fn refused_as(refused: &Refusal) -> Status {
    let text = refused.to_string();
    match refused.kind {
        RefusalKind::Invalid => Status::invalid_argument(text),
        RefusalKind::NotFound => Status::not_found(text),
        RefusalKind::Exists => Status::already_exists(text),
        RefusalKind::Unsafe => Status::failed_precondition(text),
        RefusalKind::Stale => Status::aborted(text),
        RefusalKind::Broken => Status::internal(text),
    }
}

pub(crate) fn no_volume(name: &str) -> Status {
    Status::not_found(format!(
        "expected the name of a volume, found {name:?}, which there is not; see `holdfast volume list`"
    ))
}

fn one_volume(status: pb::StatusResponse, name: &str) -> Result<pb::Volume, Status> {
    status.volumes.into_iter().find(|v| v.name == name).ok_or_else(|| no_volume(name))
}

pub(crate) fn node_named(view: &View<'_>, name: &str) -> Result<NodeId, Status> {
    let state =
        view.control.state().ok_or_else(|| Status::unavailable("this node has not heard from its cluster yet"))?;
    let unknown = || {
        Status::not_found(format!(
            "expected the name of a node, found {name:?}, which there is not; see `holdfast node list`"
        ))
    };
    state.node_by_name(name).ok_or_else(unknown)
}

/// What a volume's log has, in bytes and by which decision, where that may be more than is known of: in a control plane that was
/// recovered. A resize that goes by less would cut what has grown.
fn size_in_log(view: &View<'_>, volume: VolumeId) -> Result<Option<(u64, u64)>, Status> {
    let state = view.control.state().filter(|s| !s.recoveries.is_empty());
    let Some(active) = state.and_then(|s| s.view(volume)).map(|v| v.active) else { return Ok(None) };
    let leads = |report: &&CopyReport| report.state == CopyState::Serving;
    let report = active.primary.and_then(|node| view.control.detector().report(node, volume));
    let size = report.filter(leads).and_then(|r| r.size);
    size.map(Some).ok_or_else(|| {
        Status::failed_precondition(
            "the control plane was recovered once, and what size the volume's log has is not known before its primary serves: see `holdfast \
             status`, and ask again then",
        )
    })
}

pub(crate) fn volume_named(view: &View<'_>, name: &str) -> Result<VolumeId, Status> {
    view.control.state().and_then(|s| s.volume_by_name(name)).ok_or_else(|| no_volume(name))
}

/// Both choices, and what each promises.
pub const TWO_COPIES: &str = "expected --degraded stall or --degraded allow with two copies, found neither: stall means that every acknowledged write is on both \
    disks, always, and that writes wait while one copy is gone, until it is back or replaced; allow means that the copy which is left goes on alone once a \
    majority of the voters has agreed, and that what is acknowledged meanwhile is on one disk only and is lost with it";

fn creation(view: &View<'_>, r: &pb::VolumeCreateRequest) -> Result<Command, Status> {
    let invalid = |text: String| Status::invalid_argument(text);
    let state =
        view.control.state().ok_or_else(|| Status::unavailable("this node has not heard from its cluster yet"))?;
    VolumeSize::new(r.size_bytes).map_err(|e| invalid(e.to_string()))?;
    let durability = match r.durability.as_str() {
        "" | "sync" => Durability::Sync,
        "flush" => Durability::Flush,
        "async" => Durability::Async,
        other => return Err(invalid(format!("expected --durability sync, flush or async, found {other:?}"))),
    };
    let alive = |n: NodeId| view.alive(n);
    let present = state.nodes().filter(|n| n.takes_copies()).count();
    let copies = if r.copies == 0 { present.min(3) } else { usize::try_from(r.copies).unwrap_or(usize::MAX) };
    let takes = |n: NodeId| view.control.detector().takes_length(n, r.size_bytes).is_ok();
    let nodes = if r.on.is_empty() {
        let works = |n: NodeId| alive(n) && !view.control.detector().has_failed(n);
        let nodes = placement(state, copies, |n| works(n) && takes(n));
        if nodes.len() < copies {
            let others: Vec<NodeId> = state.nodes().map(|n| n.id).filter(|n| works(*n) && !nodes.contains(n)).collect();
            takes_length(view, &others, r.size_bytes)?;
        }
        nodes
    } else {
        r.on.iter().map(|name| node_named(view, name)).collect::<Result<Vec<_>, _>>()?
    };
    // Never fewer than asked for, nor fewer than usual because a node happens to be down.
    if r.copies != 0 && !r.on.is_empty() && nodes.len() != copies {
        return Err(invalid(format!(
            "expected the names of {copies} nodes for {copies} copies, found {}",
            nodes.len()
        )));
    }
    if r.on.is_empty() && nodes.len() != copies {
        return Err(Status::unavailable(format!(
            "expected {copies} nodes in service that answer, and whose copies have not all failed, for {copies} copies, found {}; start, \
             mend or join more nodes, or ask for another --copies",
            nodes.len()
        )));
    }
    takes_length(view, &nodes, r.size_bytes)?;
    let primary = if r.primary.is_empty() { None } else { Some(node_named(view, &r.primary)?) };
    let usual = if durability == Durability::Async { 1 } else { nodes.len() / 2 + 1 };
    let quorum = if r.quorum == 0 { u32::try_from(usual).unwrap_or(u32::MAX) } else { r.quorum };
    let write_quorum =
        u8::try_from(quorum).map_err(|_| invalid(format!("expected a quorum of at most 7, found {quorum}")))?;
    let degraded = chosen(&r.degraded, nodes.len(), durability)?;
    let limits = grants::limits(r.iops, r.bytes_per_second, r.burst_ms)?;
    let socket = grants::access(&r.socket_owner, &r.socket_group, r.socket_mode)?;
    let (name, size) = (r.name.clone(), r.size_bytes);
    Ok(Command::CreateVolume { name, size, durability, write_quorum, nodes, primary, degraded, limits, socket })
}

/// What is to become of writes while one of two copies is gone. Nobody can choose that for the operator.
fn chosen(degraded: &str, copies: usize, durability: Durability) -> Result<Option<Degraded>, Status> {
    let pair = copies == 2 && durability != Durability::Async;
    match degraded {
        "" if pair => Err(Status::invalid_argument(TWO_COPIES)),
        "" => Ok(None),
        "allow" => Ok(Some(Degraded::Allow)),
        "stall" => Ok(Some(Degraded::Stall)),
        other => Err(Status::invalid_argument(format!("expected --degraded allow or stall, found {other:?}"))),
    }
}

/// Refuses a size that no file can have on one of these nodes, as far as they have told: a copy there could not be made, and one
/// whose image is to become that long fails for good.
pub(crate) fn takes_length(view: &View<'_>, nodes: &[NodeId], size: u64) -> Result<(), Status> {
    let detector = view.control.detector();
    let refuses = |n: &NodeId| Some(format!("{} {}", view.name(*n), detector.takes_length(*n, size).err()?));
    let refusing: Vec<String> = nodes.iter().filter_map(refuses).collect();
    if refusing.is_empty() {
        return Ok(());
    }
    Err(Status::out_of_range(format!(
        "expected file systems that take a file of {size} bytes, found that {}; xfs does, ext4 ends at 16 TiB: choose a smaller size, or other \
         nodes",
        refusing.join(", ")
    )))
}

/// What deletes a volume, and the nodes that will not hear of it yet.
fn deletion(view: &View<'_>, r: &pb::VolumeDeleteRequest) -> Result<(Command, pb::VolumeDeleteResponse), Status> {
    let volume = volume_named(view, &r.name)?;
    let state = view.control.state().expect("it named the volume");
    let holders = state.volumes.get(&volume).map(holdfast_cluster::Volume::holders).unwrap_or_default();
    let detector = view.control.detector();
    let (answering, silent): (Vec<NodeId>, Vec<NodeId>) = holders.into_iter().partition(|n| view.alive(*n));
    let attached = |n: &NodeId| detector.report(*n, volume).map_or(0, |report| report.clients);
    let busy = answering.iter().find(|n| attached(n) > 0).filter(|_| !r.force);
    if let Some(node) = busy {
        return Err(Status::failed_precondition(format!(
            "expected no client attached to {}, found {} on {}; stop the VM first, or delete it under its feet with --force",
            r.name,
            attached(node),
            view.name(*node)
        )));
    }
    let silent = silent.into_iter().map(|n| view.name(n)).collect();
    Ok((Command::DeleteVolume { volume }, pb::VolumeDeleteResponse { silent }))
}

/// The wish of a failover, and what the operator is told about it.
fn nomination(view: &View<'_>, r: &pb::FailoverRequest) -> Result<(Command, pb::FailoverResponse), Status> {
    let volume = volume_named(view, &r.volume)?;
    let state = view.control.state().expect("it named the volume");
    let known = state
        .view(volume)
        .ok_or_else(|| Status::failed_precondition(format!("{} is not open yet: wait until it is", r.volume)))?;
    let active = &known.active;
    let detector = view.control.detector();
    let alive = |n: NodeId| view.alive(n);
    let primary = active.primary.and_then(|p| detector.report(p, volume));
    // By the primary's word, or by its own, whichever was heard first.
    let fetches = |n: NodeId| detector.report(n, volume).is_some_and(|r| r.state == CopyState::Resyncing);
    let lost = |n: NodeId| {
        let known = primary.and_then(|p| p.lost.iter().find(|l| l.node == n)).map(|l| l.reason.clone());
        known.or_else(|| fetches(n).then(|| "it is being resynced by regions".to_owned()))
    };
    let to = if r.to.is_empty() {
        let fit = |n: &NodeId| Some(*n) != active.primary && alive(*n) && lost(*n).is_none();
        let candidates = active.members.iter().map(|m| m.node).filter(fit);
        let stays = |n: NodeId| state.node(n).is_some_and(holdfast_cluster::Node::takes_copies);
        let best = candidates.max_by_key(|n| (stays(*n), detector.report(*n, volume).map(|c| (c.epoch, c.durable))));
        best.ok_or_else(|| {
            Status::failed_precondition("no other node with a copy answers: there is nobody to fail over to")
        })?
    } else {
        node_named(view, &r.to)?
    };
    let name = |n: NodeId| state.node(n).map_or_else(String::new, |n| n.name.clone());
    if active.primary == Some(to) && alive(to) {
        let status = cluster::volume_status(state, detector, view.now, volume);
        stays(&known, to, &status.ok_or_else(|| no_volume(&r.volume))?, &name)?;
        // Changes nothing but a wish of this moment, and is refused by a cluster that is in another epoch by now: this node may be cut off.
        let command = Command::ClearNominee { volume, base: active.epoch };
        let (epoch, leads) = (active.epoch.0, name(to));
        return Ok((command, pb::FailoverResponse { epoch, from: leads.clone(), to: leads, planned: false }));
    }
    if active.member(to).is_none() {
        return Err(Status::failed_precondition(format!("{} holds no copy of {} that counts", r.to, r.volume)));
    }
    if !alive(to) {
        return Err(Status::failed_precondition(format!("{} does not answer: it can't become primary", r.to)));
    }
    if let Some(lost) = lost(to).filter(|_| !r.force) {
        let name = view.name(to);
        return Err(Status::failed_precondition(format!(
            "expected a copy that the log of {} reaches, found that {}: {name} could serve only after it has fetched \
             everything from another copy; choose another node with --to, or --force it",
            r.volume, lost
        )));
    }
    let planned = !r.force && active.primary.is_some_and(alive);
    let command = Command::Nominate { volume, node: to, base: active.epoch, planned };
    let from = active.primary.map(name).unwrap_or_default();
    Ok((command, pb::FailoverResponse { epoch: active.epoch.0, from, to: name(to), planned }))
}

/// Refuses to call a failover done to the node that leads already, while it will not lead for long or can't serve.
fn stays(
    known: &VolumeView,
    primary: NodeId,
    status: &VolumeStatus,
    name: &dyn Fn(NodeId) -> String,
) -> Result<(), Status> {
    let others = [known.pending.as_ref().and_then(|p| p.configuration.primary), known.nominee.map(|n| n.node)];
    if let Some(next) = others.into_iter().flatten().find(|next| *next != primary) {
        return Err(Status::failed_precondition(format!(
            "expected no failover of {} under way, found that {} is taking over from {}: wait until it leads, then ask again",
            status.name,
            name(next),
            name(primary)
        )));
    }
    match status.state {
        VolumeState::Healthy | VolumeState::Degraded | VolumeState::Opening => Ok(()),
        VolumeState::Stalled | VolumeState::Failed => Err(Status::failed_precondition(format!(
            "expected {}, which is the primary of {} already, to serve it, found that it waits: {}",
            name(primary),
            status.name,
            status.reasons.join("; ")
        ))),
    }
}

/// In place of the events that a follower was too slow for: whoever reads what it gets must not take it for all that happened.
fn missed(lagged: &BroadcastStreamRecvError) -> Happened {
    let BroadcastStreamRecvError::Lagged(count) = lagged;
    let message = format!("{count} events are missing here, of any volume: they came faster than they were read");
    Happened { seq: 0, unix_ms: random::unix_ms(), kind: "events_missing", volume: None, message }
}

fn event(node: &str, h: Happened) -> pb::Event {
    pb::Event {
        seq: h.seq,
        unix_ms: h.unix_ms,
        node: node.to_owned(),
        kind: h.kind.to_owned(),
        volume: h.volume.unwrap_or_default(),
        message: h.message,
    }
}

#[tonic::async_trait]
impl Admin for Service {
    type OrphanExportStream =
        std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<pb::OrphanPiece, Status>> + Send>>;
    type EventsStream = std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<pb::Event, Status>> + Send>>;

    async fn status(&self, request: Request<pb::StatusRequest>) -> Answer<pb::StatusResponse> {
        let name = request.into_inner().volume;
        let mut status = self.status_here().await?;
        if !name.is_empty() {
            status.volumes.retain(|v| v.name == name);
            if status.volumes.is_empty() {
                return Err(no_volume(&name));
            }
        }
        Ok(Response::new(status))
    }

    async fn node_list(&self, _: Request<pb::NodeListRequest>) -> Answer<pb::NodeListResponse> {
        let nodes = self.look(|view| view.status()).await?.nodes;
        Ok(Response::new(pb::NodeListResponse { nodes }))
    }

    async fn node_restart(&self, _: Request<pb::NodeRestartRequest>) -> Answer<pb::NodeRestartResponse> {
        let look = |view: &View<'_>| Ok((view.name(view.me), view.control.led()));
        let (node, led) = self.look(look).await?;
        let (answer, answered) = oneshot::channel();
        self.asks.send(Ask::Restart(answer)).await.map_err(|_| stopping())?;
        let within_seconds = answered.await.map_err(|_| stopping())?.as_secs();
        let primaries = u32::try_from(led).unwrap_or(u32::MAX);
        Ok(Response::new(pb::NodeRestartResponse { node, primaries, within_seconds }))
    }

    async fn node_drain(&self, request: Request<pb::NodeDrainRequest>) -> Answer<pb::NodeDrainResponse> {
        let name = request.into_inner().node;
        let command = self.look(move |view| nodes::drain(view, &name)).await?;
        self.propose(command).await?;
        Ok(Response::new(pb::NodeDrainResponse {}))
    }

    async fn node_undrain(&self, request: Request<pb::NodeUndrainRequest>) -> Answer<pb::NodeUndrainResponse> {
        let name = request.into_inner().node;
        let command = self.look(move |view| nodes::undrain(view, &name)).await?;
        self.propose(command).await?;
        Ok(Response::new(pb::NodeUndrainResponse {}))
    }

    async fn node_remove(&self, request: Request<pb::NodeRemoveRequest>) -> Answer<pb::NodeRemoveResponse> {
        let request = request.into_inner();
        if let Some(command) = self.look(move |view| nodes::removal(view, &request)).await? {
            self.propose(command).await?;
        }
        Ok(Response::new(pb::NodeRemoveResponse {}))
    }

    async fn token_create(&self, request: Request<pb::TokenCreateRequest>) -> Answer<pb::TokenCreateResponse> {
        let valid = match request.into_inner().valid_seconds {
            0 => TOKEN_SECONDS,
            n if n > MOST_TOKEN_SECONDS => {
                let found =
                    format!("--valid: expected at most 720h, found {n} s; a token that nobody uses up must end");
                return Err(Status::invalid_argument(found));
            }
            n => n,
        };
        let expires = (random::unix_ms() / 1000).saturating_add(valid);
        let make = move |view: &View<'_>| {
            let state = view
                .control
                .state()
                .ok_or_else(|| Status::unavailable("this node has not heard from its cluster yet"))?;
            let fingerprint = pki::fingerprint(view.ca_pem).map_err(|e| Status::internal(e.to_string()))?;
            let ca_fingerprint = unhex(&fingerprint).and_then(|f| f.try_into().ok());
            let ca_fingerprint = ca_fingerprint.ok_or_else(|| Status::internal("a fingerprint has 32 bytes"))?;
            let token =
                Token { cluster: state.cluster, ca_fingerprint, id: random::id(), secret: random::bytes(), expires };
            Ok((token, view.address))
        };
        let (token, address) = self.look(make).await?;
        self.propose(Command::AddToken { id: token.id, hash: hex(&token.secret_hash()), expires }).await?;
        let expires_unix_ms = expires.saturating_mul(1000);
        Ok(Response::new(pb::TokenCreateResponse {
            token: token.to_string(),
            expires_unix_ms,
            address: address.to_string(),
        }))
    }

    async fn volume_create(&self, request: Request<pb::VolumeCreateRequest>) -> Answer<pb::VolumeCreateResponse> {
        let request = request.into_inner();
        let name = request.name.clone();
        let command = self.look(move |view| creation(view, &request)).await?;
        self.propose(command).await?;
        let volume = self.shown(&name).await?;
        Ok(Response::new(pb::VolumeCreateResponse { volume: Some(volume) }))
    }

    async fn volume_list(&self, _: Request<pb::VolumeListRequest>) -> Answer<pb::VolumeListResponse> {
        let volumes = self.status_here().await?.volumes;
        Ok(Response::new(pb::VolumeListResponse { volumes }))
    }

    async fn volume_show(&self, request: Request<pb::VolumeShowRequest>) -> Answer<pb::VolumeShowResponse> {
        let name = request.into_inner().name;
        let volume = self.shown(&name).await?;
        Ok(Response::new(pb::VolumeShowResponse { volume: Some(volume) }))
    }

    async fn volume_resize(&self, request: Request<pb::VolumeResizeRequest>) -> Answer<pb::VolumeResizeResponse> {
        let pb::VolumeResizeRequest { name, size_bytes: size, shrink } = request.into_inner();
        let named = name.clone();
        let look = move |view: &View<'_>| {
            let volume = volume_named(view, &named)?;
            let known = view.control.state().and_then(|s| s.volumes.get(&volume));
            if known.is_some_and(|v| size > v.size.bytes()) {
                takes_length(view, &known.map(holdfast_cluster::Volume::holders).unwrap_or_default(), size)?;
            }
            let after = known.and_then(|v| v.resizes.last()).map_or(0, |r| r.0);
            let found = size_in_log(view, volume)?.filter(|(_, decision)| *decision > after);
            Ok(Command::ResizeVolume { volume, after, size, shrink, found })
        };
        let command = self.look(look).await?;
        self.propose(command).await?;
        let volume = self.shown(&name).await?;
        Ok(Response::new(pb::VolumeResizeResponse { volume: Some(volume) }))
    }

    async fn volume_limit(&self, request: Request<pb::VolumeLimitRequest>) -> Answer<pb::VolumeLimitResponse> {
        let request = request.into_inner();
        let name = request.name.clone();
        let command = self.look(move |view| grants::limit(view, &request)).await?;
        self.propose(command).await?;
        let volume = self.shown(&name).await?;
        Ok(Response::new(pb::VolumeLimitResponse { volume: Some(volume) }))
    }

    async fn volume_socket(&self, request: Request<pb::VolumeSocketRequest>) -> Answer<pb::VolumeSocketResponse> {
        let request = request.into_inner();
        let name = request.name.clone();
        let command = self.look(move |view| grants::share(view, &request)).await?;
        self.propose(command).await?;
        let volume = self.shown(&name).await?;
        Ok(Response::new(pb::VolumeSocketResponse { volume: Some(volume) }))
    }

    async fn volume_delete(&self, request: Request<pb::VolumeDeleteRequest>) -> Answer<pb::VolumeDeleteResponse> {
        let request = request.into_inner();
        let (command, answer) = self.look(move |view| deletion(view, &request)).await?;
        self.propose(command).await?;
        Ok(Response::new(answer))
    }

    async fn failover(&self, request: Request<pb::FailoverRequest>) -> Answer<pb::FailoverResponse> {
        let request = request.into_inner();
        let (command, answer) = self.look(move |view| nomination(view, &request)).await?;
        self.propose(command).await?;
        Ok(Response::new(answer))
    }

    async fn scrub(&self, request: Request<pb::ScrubRequest>) -> Answer<pb::ScrubResponse> {
        let request = request.into_inner();
        let (wishes, answer) = self.look(move |view| upkeep::scrub(view, &request)).await?;
        self.wish(wishes).await?;
        Ok(Response::new(answer))
    }

    async fn verify(&self, request: Request<pb::VerifyRequest>) -> Answer<pb::VerifyResponse> {
        let request = request.into_inner();
        let (wishes, answer) = self.look(move |view| upkeep::verify(view, &request)).await?;
        self.wish(wishes).await?;
        Ok(Response::new(answer))
    }

    async fn copy_add(&self, request: Request<pb::CopyAddRequest>) -> Answer<pb::CopyAddResponse> {
        let request = request.into_inner();
        let command = self.look(move |view| copies::addition(view, &request)).await?;
        self.propose(command).await?;
        Ok(Response::new(pb::CopyAddResponse {}))
    }

    async fn copy_remove(&self, request: Request<pb::CopyRemoveRequest>) -> Answer<pb::CopyRemoveResponse> {
        let request = request.into_inner();
        let command = self.look(move |view| copies::removal(view, &request)).await?;
        self.propose(command).await?;
        Ok(Response::new(pb::CopyRemoveResponse {}))
    }

    async fn copy_replace(&self, request: Request<pb::CopyReplaceRequest>) -> Answer<pb::CopyReplaceResponse> {
        let request = request.into_inner();
        let command = self.look(move |view| copies::replacement(view, &request)).await?;
        self.propose(command).await?;
        Ok(Response::new(pb::CopyReplaceResponse {}))
    }

    async fn recovery_plan(&self, request: Request<pb::RecoveryPlanRequest>) -> Answer<pb::RecoveryPlanResponse> {
        let request = request.into_inner();
        Ok(Response::new(self.look(move |view| recovery::plan(view, &request)).await?))
    }

    async fn recover(&self, request: Request<pb::RecoverRequest>) -> Answer<pb::RecoverResponse> {
        let by = recovery::operator_of(&request);
        let request = request.into_inner();
        let command = self.look(move |view| recovery::order(view, &request, by)).await?;
        match self.propose(command).await? {
            Outcome::Epoch(epoch) => Ok(Response::new(pb::RecoverResponse { epoch: epoch.0 })),
            other => Err(Status::internal(format!("the control plane answered {other:?} to a forced recovery"))),
        }
    }

    async fn orphan_list(&self, request: Request<pb::OrphanListRequest>) -> Answer<pb::OrphanListResponse> {
        let request = request.into_inner();
        let rows = self.look(move |view| orphans::list(view, &request)).await?;
        let orphans =
            orphans::in_background(move || Ok(rows.into_iter().map(orphans::Row::described).collect())).await?;
        Ok(Response::new(pb::OrphanListResponse { orphans }))
    }

    async fn orphan_show(&self, request: Request<pb::OrphanRequest>) -> Answer<pb::OrphanShowResponse> {
        let id = request.into_inner().id;
        let row = self.look(move |view| orphans::here(view, &id)).await?;
        Ok(Response::new(orphans::in_background(move || row.shown()).await?))
    }

    async fn orphan_export(&self, request: Request<pb::OrphanRequest>) -> Answer<Self::OrphanExportStream> {
        let id = request.into_inner().id;
        let row = self.look(move |view| orphans::here(view, &id)).await?;
        Ok(Response::new(Box::pin(row.pieces())))
    }

    async fn orphan_delete(&self, request: Request<pb::OrphanRequest>) -> Answer<pb::OrphanDeleteResponse> {
        let id = request.into_inner().id;
        let wishes = self.look(move |view| orphans::deletion(view, &id)).await?;
        self.wish(wishes).await?;
        Ok(Response::new(pb::OrphanDeleteResponse {}))
    }

    async fn counters(&self, _: Request<pb::CountersRequest>) -> Answer<pb::CountersResponse> {
        let answers = Vitals { asks: self.asks.clone() }.take(PATIENCE).await;
        answers.counters().map(Response::new).map_err(Status::unavailable)
    }

    async fn events(&self, request: Request<pb::EventsRequest>) -> Answer<Self::EventsStream> {
        let request = request.into_inner();
        let name = request.volume.clone();
        let look = move |view: &View<'_>| Ok((view.name(view.me), volume_named(view, &name).is_ok()));
        let (node, exists) = self.look(look).await?;
        let (answer, answered) = oneshot::channel();
        self.asks.send(Ask::Events(answer)).await.map_err(|_| stopping())?;
        let (past, news): (Vec<Happened>, broadcast::Receiver<Happened>) = answered.await.map_err(|_| stopping())?;
        let about = |h: &Happened, volume: &str| volume.is_empty() || h.seq == 0 || h.volume.as_deref() == Some(volume);
        if !request.volume.is_empty() && !exists && !past.iter().any(|h| about(h, &request.volume)) {
            return Err(no_volume(&request.volume));
        }
        let past = tokio_stream::iter(past);
        let stream: std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Happened> + Send>> = if request.follow {
            Box::pin(past.chain(BroadcastStream::new(news).map(|next| next.unwrap_or_else(|lagged| missed(&lagged)))))
        } else {
            Box::pin(past)
        };
        Ok(Response::new(Box::pin(stream.filter(move |h| about(h, &request.volume)).map(move |h| Ok(event(&node, h))))))
    }
}

#[cfg(test)]
mod tests;
