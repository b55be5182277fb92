//! The admin service: checks what a person asks, proposes it, and puts the outcome into words.

mod copies;
mod nodes;
mod orphans;
mod recovery;

use crate::admin::pb::{self, admin_server::Admin};
use crate::control::{Ask, Happened, View};
use crate::random;
use crate::token::{Token, hex, unhex};
use crate::upkeep;
use holdfast_cluster::{Command, Outcome, Refusal, RefusalKind, placement};
use holdfast_node::control::Failure;
use holdfast_transport::pki;
use holdfast_types::{Durability, NodeId, VolumeId, VolumeSize};
use std::fs::File;
use std::path::Path;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::BroadcastStream;
use tonic::{Request, Response, Status};

/// How long a join token may be used unless the operator says otherwise, in seconds.
const TOKEN_SECONDS: u64 = 3600;

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

pub(crate) fn volume_named(view: &View<'_>, name: &str) -> Result<VolumeId, Status> {
    view.control.state().and_then(|s| s.volume_by_name(name)).ok_or_else(|| no_volume(name))
}

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
    let nodes = if r.on.is_empty() {
        placement(state, copies, alive)
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
            "expected {copies} nodes in service that answer for {copies} copies, found {}; start or join more nodes, or ask for another \
             --copies",
            nodes.len()
        )));
    }
    let primary = if r.primary.is_empty() { None } else { Some(node_named(view, &r.primary)?) };
    let usual = if durability == Durability::Async { 1 } else { nodes.len() / 2 + 1 };
    let quorum = if r.quorum == 0 { u32::try_from(usual).unwrap_or(u32::MAX) } else { r.quorum };
    let write_quorum =
        u8::try_from(quorum).map_err(|_| invalid(format!("expected a quorum of at most 7, found {quorum}")))?;
    Ok(Command::CreateVolume { name: r.name.clone(), size: r.size_bytes, durability, write_quorum, nodes, primary })
}

/// Refuses a size that no file can have here: every copy would fail when its image is to become that long. The file systems of
/// the other nodes are taken to be of the same kind.
fn fits(data_dir: &Path, size: u64) -> Result<(), Status> {
    let path = data_dir.join("length-probe");
    let made = File::create(&path).and_then(|file| file.set_len(size));
    // A leftover is empty space, and the next probe replaces it.
    let _ = std::fs::remove_file(&path);
    made.map_err(|e| {
        Status::failed_precondition(format!(
            "expected the file system of {} to take a file of {size} bytes, found: {e}; xfs does, ext4 ends at 16 TiB",
            data_dir.display()
        ))
    })
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
    let lost = |n: NodeId| primary.and_then(|p| p.lost.iter().find(|l| l.node == n));
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
    if active.primary == Some(to) {
        return Err(Status::failed_precondition(format!("{} is the primary of {} already", r.to, r.volume)));
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
            r.volume, lost.reason
        )));
    }
    let planned = !r.force && active.primary.is_some_and(alive);
    let name = |n: NodeId| state.node(n).map_or_else(String::new, |n| n.name.clone());
    let command = Command::Nominate { volume, node: to, base: active.epoch, planned };
    let from = active.primary.map(name).unwrap_or_default();
    Ok((command, pb::FailoverResponse { epoch: active.epoch.0, from, to: name(to), planned }))
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
        let mut status = self.look(|view| view.status()).await?;
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
        let volume = one_volume(self.look(|view| view.status()).await?, &name)?;
        Ok(Response::new(pb::VolumeCreateResponse { volume: Some(volume) }))
    }

    async fn volume_list(&self, _: Request<pb::VolumeListRequest>) -> Answer<pb::VolumeListResponse> {
        let volumes = self.look(|view| view.status()).await?.volumes;
        Ok(Response::new(pb::VolumeListResponse { volumes }))
    }

    async fn volume_show(&self, request: Request<pb::VolumeShowRequest>) -> Answer<pb::VolumeShowResponse> {
        let name = request.into_inner().name;
        let volume = one_volume(self.look(|view| view.status()).await?, &name)?;
        Ok(Response::new(pb::VolumeShowResponse { volume: Some(volume) }))
    }

    async fn volume_resize(&self, request: Request<pb::VolumeResizeRequest>) -> Answer<pb::VolumeResizeResponse> {
        let pb::VolumeResizeRequest { name, size_bytes: size, shrink } = request.into_inner();
        let named = name.clone();
        let look = move |view: &View<'_>| {
            let volume = volume_named(view, &named)?;
            let known = view.control.state().and_then(|s| s.volumes.get(&volume));
            if known.is_some_and(|v| size > v.size.bytes()) {
                fits(view.data_dir, size)?;
            }
            Ok((volume, known.and_then(|v| v.resizes.last()).map_or(0, |r| r.0)))
        };
        let (volume, after) = self.look(look).await?;
        self.propose(Command::ResizeVolume { volume, after, size, shrink }).await?;
        let volume = one_volume(self.look(|view| view.status()).await?, &name)?;
        Ok(Response::new(pb::VolumeResizeResponse { volume: Some(volume) }))
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
        let by = recovery::operator(&request);
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

    async fn events(&self, request: Request<pb::EventsRequest>) -> Answer<Self::EventsStream> {
        let request = request.into_inner();
        let name = request.volume.clone();
        let look = move |view: &View<'_>| Ok((view.name(view.me), volume_named(view, &name).is_ok()));
        let (node, exists) = self.look(look).await?;
        let (answer, answered) = oneshot::channel();
        self.asks.send(Ask::Events(answer)).await.map_err(|_| stopping())?;
        let (past, news): (Vec<Happened>, broadcast::Receiver<Happened>) = answered.await.map_err(|_| stopping())?;
        let about = |h: &Happened, volume: &str| volume.is_empty() || h.volume.as_deref() == Some(volume);
        if !request.volume.is_empty() && !exists && !past.iter().any(|h| about(h, &request.volume)) {
            return Err(no_volume(&request.volume));
        }
        let past = tokio_stream::iter(past);
        let stream: std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Happened> + Send>> = if request.follow {
            // A follower that lags loses the oldest ones; their numbers show the gap.
            Box::pin(past.chain(BroadcastStream::new(news).filter_map(Result::ok)))
        } else {
            Box::pin(past)
        };
        Ok(Response::new(Box::pin(stream.filter(move |h| about(h, &request.volume)).map(move |h| Ok(event(&node, h))))))
    }
}
