//! The data plane of one node: the store, and the replicas whose copies it holds.
//!
//! Flow: inputs of a wake-up are handed to [`Shard::handle`] one by one, then [`Shard::maintain`] runs once, so that
//! everything that arrived together shares one journal frame and one message per member.
//!
//! Invariants: store commands of a copy reach the store in the order the replica gave them; a copy whose incarnation is
//! not the registered one never gets a replica (S20).
//!
//! Deliberately absent: I/O, sockets, connections; what the control plane decides.

use crate::local::LocalView;
use crate::upkeep::{Task, Upkeep};
use agenda::Agenda;
use bytes::Bytes;
use holdfast_format::message::{BeatVolume, Message, ShardMessage};
use holdfast_replication as replication;
use holdfast_replication::{GuestError, Limits, LogEnd, Replica, Request, RequestKey, Timers};
use holdfast_store as store;
use holdfast_store::io::{DiskDone, DiskOp};
use holdfast_store::{Space, Store, StoreConfig};
use holdfast_types::{
    BlockRange, ClusterVersion, ControlRequest, Epoch, Incarnation, Life, Lsn, Mutant, NodeId, OpenedCopy, Rng,
    ScrubKept, SessionId, Time, VolumeId, VolumeSize, VolumeView, mutated,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

mod agenda;
mod aside;
mod device;
mod follow;
mod queue;
mod resyncs;
mod retire;
mod rows;
mod space;

pub use rows::CopyRow;

/// How a shard behaves.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// This node.
    pub me: NodeId,
    /// This life of the process.
    pub life: Life,
    /// Durations of the protocol.
    pub timers: Timers,
    /// Interval of heartbeats to members of volumes led from here.
    pub beat: Duration,
    /// Bounds on memory.
    pub limits: Limits,
    /// Copies of this node that are resynced by regions at a time.
    pub resyncs: usize,
    /// The store.
    pub store: StoreConfig,
    /// Source of incarnations; random in production.
    pub seed: u64,
    /// Where its files are, for people.
    pub place: String,
}

/// Into a shard.
#[derive(Debug)]
pub enum Input {
    /// First of all.
    Start,
    /// A disk operation ended.
    Disk(DiskDone),
    /// The control plane's state for this node's copies.
    Local(LocalView),
    /// The outgoing lane of a volume to a peer is open.
    PeerUp {
        /// The peer.
        peer: NodeId,
        /// The volume.
        volume: VolumeId,
    },
    /// That lane has ended.
    PeerDown {
        /// The peer.
        peer: NodeId,
        /// The volume.
        volume: VolumeId,
    },
    /// From a peer, on a volume's lane.
    Message {
        /// The peer.
        from: NodeId,
        /// The volume.
        volume: VolumeId,
        /// What it says.
        message: Message,
    },
    /// From a peer, on the heartbeat lane.
    Beat {
        /// The peer.
        from: NodeId,
        /// What it says.
        message: ShardMessage,
    },
    /// An operator wants what is stored here verified.
    Upkeep(Upkeep),
    /// A guest wants something of a volume that is served here.
    Request {
        /// The volume.
        volume: VolumeId,
        /// What.
        request: Request,
    },
    /// A guest asks which parts of a range are holes. Answered with `Output::Extents`.
    Extents {
        /// The volume.
        volume: VolumeId,
        /// Copied to the answer.
        tag: u64,
        /// What is asked about.
        range: BlockRange,
    },
    /// A guest's connection ended.
    SessionClosed {
        /// The volume.
        volume: VolumeId,
        /// The connection.
        session: SessionId,
    },
    /// The process is about to end, see [`Shard::is_retired`].
    Retire,
    /// A time named by `next_timeout` has come.
    Tick,
}

/// Out of a shard.
#[derive(Debug)]
pub enum Output {
    /// To the disk.
    Disk(DiskOp),
    /// To a peer, on the volume's lane.
    Send {
        /// The peer.
        to: NodeId,
        /// The volume.
        volume: VolumeId,
        /// What to say.
        message: Message,
    },
    /// To a peer, on the heartbeat lane.
    SendBeat {
        /// The peer.
        to: NodeId,
        /// What to say.
        message: ShardMessage,
    },
    /// To a guest.
    Reply {
        /// The volume.
        volume: VolumeId,
        /// Which request.
        key: RequestKey,
        /// How it went.
        result: Result<Vec<Bytes>, GuestError>,
    },
    /// Which parts of a range are holes (true) or data, from its start on; it may end early. Empty where that is not known, as
    /// without a lease: then everything counts as data, which is never wrong.
    Extents {
        /// The volume.
        volume: VolumeId,
        /// Copied from the question.
        tag: u64,
        /// Runs of blocks.
        extents: Vec<(BlockRange, bool)>,
    },
    /// To the control plane.
    Control(ControlRequest),
    /// To the control plane: the copy is there.
    CopyCreated {
        /// The volume.
        volume: VolumeId,
        /// Its on-disk state.
        incarnation: Incarnation,
    },
    /// To the control plane: the copy is gone.
    CopyDeleted {
        /// The volume.
        volume: VolumeId,
    },
    /// Guests of the volume may attach, or are to be disconnected.
    Serving {
        /// The volume.
        volume: VolumeId,
        /// Which.
        serving: bool,
    },
    /// A lane of this volume to this peer is wanted from now on.
    OpenLane {
        /// The peer.
        peer: NodeId,
        /// The volume.
        volume: VolumeId,
    },
    /// The lane is not wanted any more.
    CloseLane {
        /// The peer.
        peer: NodeId,
        /// The volume.
        volume: VolumeId,
    },
    /// For people.
    Event {
        /// Which volume it concerns; `None`: all of the shard.
        volume: Option<VolumeId>,
        /// What happened.
        text: String,
    },
    /// As [`replication::Output::Refused`]: whose message, about which volume, and why.
    Refused(NodeId, VolumeId, String),
}

/// One copy.
#[derive(Debug)]
struct Copy {
    opened: OpenedCopy,
    replica: Option<Replica>,
    applied: Lsn,
    digest: u64,
    failed: Option<String>,
    lanes: BTreeSet<NodeId>,
    /// Given up: where its log ended.
    aside: Option<LogEnd>,
    /// What was never committed there is being made an orphan, or is one.
    sealed: bool,
}

/// A heartbeat that was sent and may be answered.
#[derive(Debug)]
struct SentBeat {
    seq: u64,
    at: Time,
    volumes: Vec<(VolumeId, Epoch)>,
}

/// All copies of one node.
#[derive(Debug)]
pub struct Shard {
    config: ShardConfig,
    store: Store,
    rng: Rng,
    local: LocalView,
    copies: BTreeMap<VolumeId, Copy>,
    /// Made on request of the control plane, not yet shown as registered.
    creating: BTreeSet<VolumeId>,
    deleting: BTreeSet<VolumeId>,
    /// Copies that lie on the disk and could not be opened, or made, and why: until they are deleted nothing takes their place.
    broken: BTreeMap<VolumeId, String>,
    /// Copies that were found, and that the store has not opened yet.
    opening: BTreeSet<VolumeId>,
    started: bool,
    /// Of this life: durable once, and unreadable.
    lost_records: u64,
    shard_failed: Option<String>,
    /// Lanes that are up; replicas made later are told.
    up: BTreeSet<(VolumeId, NodeId)>,
    beats: BTreeMap<NodeId, Vec<SentBeat>>,
    beat_seq: u64,
    beat_at: Time,
    last_seen: Time,
    /// People were told that space is missing.
    short_of_space: bool,
    /// People were told that the device does not answer.
    hung: bool,
    /// When the loop was to come back at the latest.
    awaited: Time,
    replica_out: Vec<replication::Output>,
    /// What the store said and nobody has heard yet; while it is carried on, more may come.
    store_out: VecDeque<store::Output>,
    carrying: bool,
    agenda: Agenda,
    retiring: retire::Retiring,
    /// Copies that the last `maintain` looked at.
    maintained: BTreeSet<VolumeId>,
    resyncs: resyncs::Resyncs,
}

/// Heartbeats to one peer that are remembered until they are answered.
const REMEMBERED_BEATS: usize = 32;

impl Shard {
    /// A shard that has done nothing yet.
    #[must_use]
    pub fn new(config: ShardConfig, now: Time) -> Shard {
        let mut rng = Rng::new(config.seed);
        Shard {
            store: Store::new(config.store.clone(), rng.next_u64()),
            rng,
            config,
            local: LocalView::default(),
            copies: BTreeMap::new(),
            creating: BTreeSet::new(),
            deleting: BTreeSet::new(),
            broken: BTreeMap::new(),
            lost_records: 0,
            opening: BTreeSet::new(),
            started: false,
            shard_failed: None,
            up: BTreeSet::new(),
            beats: BTreeMap::new(),
            beat_seq: 0,
            beat_at: now,
            last_seen: now,
            short_of_space: false,
            hung: false,
            awaited: now,
            replica_out: Vec::new(),
            store_out: VecDeque::new(),
            carrying: false,
            agenda: Agenda::default(),
            retiring: retire::Retiring::No,
            maintained: BTreeSet::new(),
            resyncs: resyncs::Resyncs::default(),
        }
    }

    /// Takes one input; pushes what follows from it.
    pub fn handle(&mut self, input: Input, now: Time, out: &mut Vec<Output>) {
        self.notice_gap(now, out);
        match input {
            Input::Start => self.store(store::Input::Start, now, out),
            Input::Disk(done) => self.store(store::Input::Done(done), now, out),
            Input::Local(local) => self.on_local(local, now, out),
            Input::PeerUp { peer, volume } => {
                self.up.insert((volume, peer));
                self.replica(volume, replication::Input::PeerUp(peer), now, out);
            }
            Input::PeerDown { peer, volume } => {
                self.up.remove(&(volume, peer));
                self.replica(volume, replication::Input::PeerDown(peer), now, out);
            }
            Input::Message { from, volume, message } => {
                self.replica(volume, replication::Input::Message { from, message }, now, out);
            }
            Input::Beat { from, message } => self.on_beat(from, message, now, out),
            Input::Request { volume, request } => self.replica(volume, replication::Input::Request(request), now, out),
            Input::Upkeep(Upkeep { volume, run, task }) => {
                let input = match task {
                    Task::DeleteOrphan { epoch } => {
                        return self.store(store::Input::DeleteOrphan { volume, epoch }, now, out);
                    }
                    Task::Scrub { bytes_per_second } => replication::Input::Scrub { run, bytes_per_second },
                    Task::Verify => replication::Input::Verify { run },
                };
                self.replica(volume, input, now, out);
            }
            Input::Extents { volume, tag, range } => self.store(store::Input::Extents { volume, tag, range }, now, out),
            Input::SessionClosed { volume, session } => {
                self.replica(volume, replication::Input::SessionClosed(session), now, out);
            }
            Input::Retire => self.retire(now, out),
            Input::Tick => self.on_tick(now, out),
        }
    }

    /// The block of work after every batch of inputs.
    pub fn maintain(&mut self, now: Time, out: &mut Vec<Output>) {
        let maintained = self.agenda.take();
        for volume in maintained.iter().copied() {
            let mut buffer = std::mem::take(&mut self.replica_out);
            if let Some(replica) = self.copies.get_mut(&volume).and_then(|c| c.replica.as_mut()) {
                replica.maintain(now, &mut buffer);
            }
            self.carry(volume, &mut buffer, now, out);
            self.replica_out = buffer;
        }
        if now >= self.beat_at {
            self.send_beats(now, out);
        }
        self.allow_resyncs(&maintained, now, out);
        self.step_retire(now, out);
        self.tell_of_space(out);
        self.tell_of_device(now, out);
        for volume in &maintained {
            let replica = self.copies.get(volume).and_then(|c| c.replica.as_ref());
            self.agenda.set(*volume, replica.and_then(Replica::next_timeout), replica.is_some_and(Replica::is_serving));
        }
        self.maintained = maintained;
        self.awaited = self.next_timeout().unwrap_or(now);
    }

    /// When `Input::Tick` is due at the latest. `None`: nothing to do until something arrives.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Time> {
        let touched = || self.agenda.touched().iter().filter_map(|v| self.copies.get(v)?.replica.as_ref());
        let leads = self.agenda.leads() || touched().any(Replica::is_serving);
        let replicas = touched().filter_map(Replica::next_timeout).chain(self.agenda.next()).min();
        [self.store.next_timeout(), replicas, leads.then_some(self.beat_at)].into_iter().flatten().min()
    }

    /// Copies that the last [`Shard::maintain`] looked at: what is said of any other one holds as before.
    #[must_use]
    pub const fn maintained(&self) -> &BTreeSet<VolumeId> {
        &self.maintained
    }

    /// Whether guests may hand over more at all.
    #[must_use]
    pub fn admits(&self) -> bool {
        self.store.admits()
    }

    /// Whether guests of `volume` may hand over more.
    #[must_use]
    pub fn accepts(&self, volume: VolumeId) -> bool {
        let share = self.share();
        let replica = self.copies.get(&volume).and_then(|c| c.replica.as_ref());
        self.store.admits() && replica.is_some_and(|r| r.accepts(share)) && !self.store.outstays(volume)
    }

    /// Whether guests of `volume` are served here.
    #[must_use]
    pub fn is_serving(&self, volume: VolumeId) -> bool {
        self.copies.get(&volume).and_then(|c| c.replica.as_ref()).is_some_and(Replica::is_serving)
    }

    /// Bytes of `volume` that guests may use, as far as the copy here knows.
    #[must_use]
    pub fn size(&self, volume: VolumeId) -> Option<VolumeSize> {
        self.copies.get(&volume).and_then(|c| c.replica.as_ref()).map(Replica::size)
    }

    /// Whether guests of `volume` must not be told anything, not even what was decided before.
    #[must_use]
    pub fn is_in_doubt(&self, volume: VolumeId) -> bool {
        self.copies.get(&volume).and_then(|c| c.replica.as_ref()).is_some_and(Replica::is_in_doubt)
    }

    /// When the loop must be back: later by a quarter of a lease is a gap.
    #[must_use]
    pub fn awaited(&self) -> Time {
        self.last_seen.max(self.awaited)
    }

    /// What the control plane last said of `volume`.
    #[must_use]
    pub fn view(&self, volume: VolumeId) -> Option<&VolumeView> {
        self.local.view(volume)
    }

    /// Records that were durable in the journal here and can't be read, since the start of this process.
    #[must_use]
    pub const fn lost_records(&self) -> u64 {
        self.lost_records
    }

    /// The store, for checkers and metrics.
    #[must_use]
    pub fn storage(&self) -> &Store {
        &self.store
    }

    fn replicas(&self) -> impl Iterator<Item = (VolumeId, &Replica)> {
        self.copies.iter().filter_map(|(v, c)| Some((*v, c.replica.as_ref()?)))
    }

    /// Trap 6: an event loop that stood still may not trust what it measured.
    fn notice_gap(&mut self, now: Time, out: &mut Vec<Output>) {
        let gap = now.since(self.awaited());
        self.last_seen = now;
        if gap > self.config.timers.lease / 4 && self.replicas().any(|(_, r)| r.is_serving()) {
            let text = format!(
                "the event loop stood still for {} ms: guests are answered again when a quorum has confirmed this primary",
                gap.as_millis()
            );
            out.push(Output::Event { volume: None, text });
            let volumes: Vec<VolumeId> = self.copies.keys().copied().collect();
            for volume in volumes {
                self.with_replica(volume, now, out, |r, buffer| r.drop_lease(now, buffer));
            }
        }
    }

    fn create(&mut self, volume: VolumeId, size: VolumeSize, now: Time, out: &mut Vec<Output>) {
        if let Some(copy) = self.copies.get(&volume) {
            // Made in an earlier life that ended before it was registered; nothing was ever written to it.
            out.push(Output::CopyCreated { volume, incarnation: copy.opened.incarnation });
        } else if !self.is_found(volume) && self.creating.insert(volume) {
            let known = self.local.registered.get(&volume).filter(|_| mutated(Mutant::BlankDiskKeepsIdentity));
            let incarnation = known.copied().unwrap_or(Incarnation(self.rng.next_u64()));
            self.store(store::Input::Create { volume, incarnation, size }, now, out);
        }
    }

    fn delete(&mut self, volume: VolumeId, now: Time, out: &mut Vec<Output>) {
        // One whose creation is under way has files already, or will have: gone is gone only after the store says so.
        let here = self.copies.contains_key(&volume) || self.is_found(volume);
        if !here && !self.creating.contains(&volume) {
            out.push(Output::CopyDeleted { volume });
            return;
        }
        if !self.deleting.insert(volume) {
            return;
        }
        self.end_replica(volume, out);
        self.store(store::Input::Delete { volume }, now, out);
    }

    /// Whether there is a copy that did not open, or not yet.
    fn is_found(&self, volume: VolumeId) -> bool {
        self.broken.contains_key(&volume) || self.opening.contains(&volume)
    }

    fn on_tick(&mut self, now: Time, out: &mut Vec<Output>) {
        self.store(store::Input::Tick, now, out);
        for volume in self.agenda.due(now) {
            self.replica(volume, replication::Input::Tick, now, out);
        }
    }

    fn send_beats(&mut self, now: Time, out: &mut Vec<Output>) {
        self.beat_at = now + self.config.beat;
        let mut beats: BTreeMap<NodeId, Vec<BeatVolume>> = BTreeMap::new();
        for (_, replica) in self.replicas() {
            for (peer, beat) in replica.beats() {
                beats.entry(peer).or_default().push(beat);
            }
        }
        for (to, volumes) in beats {
            self.beat_seq += 1;
            let sent = self.beats.entry(to).or_default();
            if sent.len() >= REMEMBERED_BEATS {
                sent.remove(0);
            }
            let named = volumes.iter().map(|v| (v.volume, v.epoch)).collect();
            sent.push(SentBeat { seq: self.beat_seq, at: now, volumes: named });
            out.push(Output::SendBeat { to, message: ShardMessage::Beat { seq: self.beat_seq, volumes } });
        }
    }

    fn on_beat(&mut self, from: NodeId, message: ShardMessage, now: Time, out: &mut Vec<Output>) {
        match message {
            ShardMessage::Beat { seq, volumes } => {
                let mut refused = Vec::new();
                for beat in volumes {
                    let mut granted = false;
                    self.with_replica(beat.volume, now, out, |r, buffer| granted = r.beaten(from, &beat, now, buffer));
                    if !granted {
                        refused.push(beat.volume);
                    }
                }
                out.push(Output::SendBeat { to: from, message: ShardMessage::BeatAck { seq, refused } });
            }
            ShardMessage::BeatAck { seq, refused } => {
                let Some(sent) = self.beats.get_mut(&from) else { return };
                let Some(at) = sent.iter().position(|b| b.seq == seq) else { return };
                let beat = sent.remove(at);
                let granted = |v: &VolumeId| !refused.contains(v) || mutated(Mutant::RefusalGrants);
                for (volume, epoch) in beat.volumes.iter().filter(|(v, _)| granted(v)) {
                    self.with_replica(*volume, now, out, |r, buffer| {
                        r.lease_granted(from, *epoch, beat.at, now, buffer)
                    });
                }
            }
        }
    }

    fn replica(&mut self, volume: VolumeId, input: replication::Input, now: Time, out: &mut Vec<Output>) {
        self.with_replica(volume, now, out, |r, buffer| r.handle(input, now, buffer));
    }

    /// Carries a replica's outputs to where they belong, in order.
    fn carry(&mut self, volume: VolumeId, buffer: &mut Vec<replication::Output>, now: Time, out: &mut Vec<Output>) {
        use replication::Output as R;
        for output in buffer.drain(..) {
            match output {
                R::Send { to, message } => out.push(Output::Send { to, volume, message }),
                R::Append(records) => self.store(store::Input::Append { volume, records }, now, out),
                R::Promise(epoch) => self.store(store::Input::Promise { volume, epoch }, now, out),
                R::Adopt { epoch, table, cut_after } => {
                    self.store(store::Input::Adopt { volume, epoch, table, cut_after }, now, out);
                }
                R::DigestAt(at) => self.store(store::Input::DigestAt { volume, at }, now, out),
                R::Commit(upto) => self.store(store::Input::Commit { volume, upto }, now, out),
                R::Trim(upto) => self.store(store::Input::Trim { volume, upto }, now, out),
                R::Read { tag, range } => self.store(store::Input::Read { volume, tag, range }, now, out),
                R::Scrub { tag, range } => self.store(store::Input::Scrub { volume, tag, range }, now, out),
                R::Hold(at) => self.store(store::Input::Hold { volume, at }, now, out),
                R::GoOn => self.store(store::Input::GoOn { volume }, now, out),
                R::Sums(node) => self.store(store::Input::Sums { volume, node }, now, out),
                R::Scrubbed { mut kept, at_once } => {
                    if self.local.version < ClusterVersion::TOLD {
                        // An agent of the first version refuses a superblock that holds more.
                        kept = ScrubKept { next: kept.next, ..ScrubKept::default() };
                    }
                    self.store(store::Input::Scrubbed { volume, kept, at_once }, now, out);
                }
                R::Repair { block, data } => self.store(store::Input::Repair { volume, block, data }, now, out),
                R::ReadLog { tag, from, max_bytes } => {
                    self.store(store::Input::ReadLog { volume, tag, from, max_bytes }, now, out);
                }
                R::Reply { key, result } => out.push(Output::Reply { volume, key, result }),
                R::Control(request) => out.push(Output::Control(request)),
                R::Serving(serving) => out.push(Output::Serving { volume, serving }),
                R::BeatNow => self.beat_at = now,
                R::Refused { from, why } => out.push(Output::Refused(from, volume, why)),
                R::Event(text) => out.push(Output::Event { volume: Some(volume), text }),
                R::Fail(why) => self.copy_failed(volume, &why, out),
                other => self.resync_asks(volume, other, now, out),
            }
        }
    }

    fn copy_failed(&mut self, volume: VolumeId, why: &str, out: &mut Vec<Output>) {
        self.opening.remove(&volume);
        match self.copies.get_mut(&volume) {
            Some(copy) => copy.failed.get_or_insert_with(|| why.to_owned()),
            None => self.broken.entry(volume).or_insert_with(|| why.to_owned()),
        };
        out.push(Output::Event { volume: Some(volume), text: format!("the copy here takes no part any more: {why}") });
    }

    fn on_store(&mut self, output: store::Output, now: Time, out: &mut Vec<Output>) {
        use replication::Input as R;
        use store::Output as S;
        match output {
            S::Disk(op) => out.push(Output::Disk(op)),
            S::Started { opening } => {
                (self.started, self.opening) = (true, opening);
                self.follow_local(&LocalView::default(), now, out);
            }
            S::Opened { volume, copy } => self.on_opened(volume, copy, now, out),
            S::Deleted { volume } => {
                self.copies.remove(&volume);
                self.opening.remove(&volume);
                self.agenda.forget(volume);
                self.resyncs.forget(volume);
                self.broken.remove(&volume);
                self.creating.remove(&volume);
                self.deleting.remove(&volume);
                out.push(Output::CopyDeleted { volume });
            }
            S::Durable { volume, upto } => self.replica(volume, R::Durable(upto), now, out),
            S::Promised { volume, epoch } => self.replica(volume, R::Promised(epoch), now, out),
            S::Adopted { volume, epoch, last, last_hash } => {
                self.replica(volume, R::Adopted { epoch, last, last_hash }, now, out);
            }
            S::RecordsLost { volume, first, last } => {
                self.lost_records += last.0.saturating_sub(first.0) + 1;
                let text = format!(
                    "records {first} to {last} at most were durable here and can't be read from the journal; other copies have what was \
                     acknowledged of them, and this device should be watched, or replaced"
                );
                out.push(Output::Event { volume: Some(volume), text });
            }
            S::Orphan { volume, epoch, news } => out.push(aside::orphan_event(volume, epoch, news)),
            S::Mended { volume, file } => out.push(aside::mended_event(volume, file)),
            S::Applied { volume, upto, digest } => {
                if let Some(copy) = self.copies.get_mut(&volume) {
                    (copy.applied, copy.digest) = (upto, digest);
                }
                self.replica(volume, R::Applied(upto, digest), now, out);
            }
            S::Checkpointed { volume, upto } => self.replica(volume, R::Checkpointed(upto), now, out),
            S::ReadDone { volume, tag, result } => self.replica(volume, R::ReadDone { tag, result }, now, out),
            S::Held { volume, at, digest } => self.replica(volume, R::Held { at, found: Ok(digest) }, now, out),
            S::LetGo { volume, at, why } => self.replica(volume, R::Held { at, found: Err(why) }, now, out),
            S::Sums { volume, node, sums } => self.replica(volume, R::Sums { node, sums }, now, out),
            S::Repaired { volume, block, right } => self.replica(volume, R::Repaired { block, right }, now, out),
            S::Extents { volume, tag, extents } => {
                // After the fetch, as with a read.
                let replica = self.copies.get(&volume).and_then(|c| c.replica.as_ref());
                let holds = replica.is_some_and(|r| r.holds_lease(now));
                out.push(Output::Extents { volume, tag, extents: if holds { extents } else { Vec::new() } });
            }
            S::LogRead { volume, tag, result } => {
                self.replica(volume, R::LogRead { tag, records: result.ok() }, now, out)
            }
            S::Failed { volume: Some(volume), reason } => {
                let reason = self.placed(&reason);
                self.replica(volume, R::Failed(reason.clone()), now, out);
                self.copy_failed(volume, &reason, out);
            }
            S::Failed { volume: None, reason } => self.all_failed(&self.placed(&reason), now, out),
            other => self.resync_says(other, now, out),
        }
    }

    fn all_failed(&mut self, reason: &str, now: Time, out: &mut Vec<Output>) {
        // A journal that is refused at the start: nothing is made or deleted beside it, the files are evidence. The node stays up,
        // says so, and keeps its vote.
        let place = &self.config.place;
        let hint = || {
            format!(
                "check the device (dmesg) if it can't be read; put the original files back if there are any, or move {place} away as \
                 a whole and replace this node's copies; then restart the agent"
            )
        };
        let reason = if self.started { reason.to_owned() } else { format!("{reason}; {}", hint()) };
        self.shard_failed = Some(reason.clone());
        let volumes: Vec<VolumeId> = self.copies.keys().copied().collect();
        for volume in volumes {
            self.replica(volume, replication::Input::Failed(reason.clone()), now, out);
        }
        out.push(Output::Event {
            volume: None,
            text: format!("the journal failed, and with it every copy here: {reason}"),
        });
    }

    fn on_opened(&mut self, volume: VolumeId, opened: OpenedCopy, now: Time, out: &mut Vec<Output>) {
        let incarnation = opened.incarnation;
        let (applied, digest) = (opened.applied, opened.digest);
        let (replica, failed, aside, lanes) = (None, None, None, BTreeSet::new());
        let copy = Copy { opened, replica, applied, digest, failed, lanes, aside, sealed: false };
        self.copies.insert(volume, copy);
        let found = self.opening.remove(&volume);
        if self.creating.remove(&volume) || found && self.local.create.iter().any(|(wanted, _)| *wanted == volume) {
            out.push(Output::CopyCreated { volume, incarnation });
        }
        if self.started {
            self.set_aside(volume, now, out);
        }
        if self.started
            && let Some(view) = self.view(volume).cloned()
        {
            self.make_replica(&view, now, out);
            self.replica(volume, replication::Input::View(view), now, out);
            self.follow_lanes(volume, out);
        }
    }
}
