//! The shard's thread: carries what the world does to [`node::shard::Shard`], and what it wants to the world.
//!
//! One current-thread runtime, one ring, one QUIC endpoint, and the guests' connections: the hot path has no lock and no hop
//! between threads. Each wake-up takes everything that has arrived, in one batch; what it appends shares one journal frame
//! and one message per member.

use crate::guests::{self, FromGuest, Shared, ToGuest};
use crate::lanes::{Change, Lanes};
use crate::metrics::{DiskMeter, History, ShardSample, VolumeSample};
use crate::random;
use crate::shard_link::{FromShard, ShardPeer, ShardPort, ToShard};
use crate::sparing::{Sparing, others};
use bytes::Bytes;
use holdfast_cluster::{CopyReport, CopyRole};
use holdfast_disk::{Disk, DiskConfig};
use holdfast_format::message::{Message, ShardMessage};
use holdfast_node::shard::{Input, Output, Shard, ShardConfig};
use holdfast_node::{Grant, LocalView, copy_reports};
use holdfast_replication::RequestKey;
use holdfast_store::io::{DiskDone, DiskOp};
use holdfast_transport::{Endpoint, Event, Identity, Lane, TransportConfig};
use holdfast_types::{BlockRange, ByteOffset, Epoch, NodeId, Time, VolumeId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Inputs of one kind that are taken in one wake-up; the rest waits for the next, so that no source starves another.
const BATCH: usize = 512;
/// A client that waits for its volume asks again within this time: QEMU after 16 s at most.
const ASKS_AGAIN: Duration = Duration::from_secs(60);
/// How often the control plane is told how the copies are, if that changed.
const REPORT_INTERVAL: Duration = Duration::from_millis(100);
/// The thread looks around once in so long, whatever it waits for.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// What a shard's thread needs.
#[derive(Debug)]
pub(crate) struct RunnerOptions {
    pub(crate) shard: ShardConfig,
    pub(crate) disk: DiskConfig,
    pub(crate) transport: TransportConfig,
    pub(crate) identity: Identity,
    pub(crate) nbd_dir: PathBuf,
    pub(crate) max_requests: usize,
}

struct Runner {
    shard: Shard,
    disk: Disk,
    endpoint: Endpoint,
    lanes: Lanes,
    guests: Shared,
    to_control: mpsc::Sender<FromShard>,
    me: NodeId,
    /// A loop that is so late has stood still.
    gap: Duration,
    local: LocalView,
    names: BTreeMap<VolumeId, String>,
    peers: BTreeMap<NodeId, ShardPeer>,
    out: Vec<Output>,
    ops: Vec<DiskOp>,
    done: Vec<DiskDone>,
    report_at: Time,
    /// Something happened since the last report that may have changed the copies.
    stirred: bool,
    reported: Vec<CopyReport>,
    /// What the wall clock said when the clock of this process said 0. Taken once, so that reports don't change by themselves.
    unix_ms_at_zero: u64,
    questions: BTreeMap<u64, Question>,
    next_question: u64,
    meter: DiskMeter,
    /// Of the volumes that are led from here.
    histories: BTreeMap<VolumeId, History>,
    /// Whether the shard takes more from guests, as all connections were told. `None`: some were told nothing yet.
    admitted: Option<(bool, bool)>,
    /// Messages of peers that were not taken, and those of them that are told.
    refused: (u64, Sparing),
    /// The control thread waits for the word that nothing is led here any more.
    retiring: bool,
    /// What the control thread was not told yet, for lack of room.
    roles: VecDeque<FromShard>,
}

/// Messages that were refused are told of so often at once, and then so far apart.
const REFUSALS_AT_ONCE: u32 = 4;
const REFUSALS_APART: Duration = Duration::from_secs(30);

const PORT_NEEDED: &str = "the shard uses the port after that of listen.peer, which must be free too";

fn no_sockets(dir: &Path, why: &str) -> String {
    let dir = dir.display();
    format!("expected to hold the volumes' sockets in {dir}: {why}; create it, or set [listen] nbd_dir")
}

/// Runs until the control plane says stop or is gone. `ready` is told once the shard has everything that it needs to start.
///
/// # Errors
/// What keeps the shard from starting: its directory, its port, its sockets.
pub(crate) async fn run(options: RunnerOptions, port: ShardPort, ready: oneshot::Sender<()>) -> Result<(), String> {
    let ShardPort { mut from_control, to_control } = port;
    let (me, timers) = (options.shard.me, options.shard.timers);
    let disk = Disk::open(&options.disk).map_err(|e| e.to_string())?;
    let bound = Endpoint::bind(options.transport, &options.identity).await;
    let (endpoint, mut events) = bound.map_err(|e| format!("{e}; {PORT_NEEDED}"))?;
    let registry = guests::registry(&options.nbd_dir, options.max_requests);
    let (guests, mut from_guests) = registry.map_err(|e| no_sockets(&options.nbd_dir, &e.to_string()))?;
    // Whoever started this has gone: then the link is closed, too.
    let _ = ready.send(());
    let now = random::now();
    let mut r = Runner {
        shard: Shard::new(options.shard, now),
        disk,
        endpoint,
        lanes: Lanes::default(),
        guests,
        to_control,
        me,
        gap: timers.lease / 4,
        local: LocalView::default(),
        names: BTreeMap::new(),
        peers: BTreeMap::new(),
        out: Vec::new(),
        ops: Vec::new(),
        done: Vec::new(),
        report_at: now,
        stirred: true,
        reported: Vec::new(),
        unix_ms_at_zero: timers.unix_ms_at_zero,
        questions: BTreeMap::new(),
        next_question: 0,
        meter: DiskMeter::default(),
        histories: BTreeMap::new(),
        admitted: None,
        refused: (0, Sparing::new(REFUSALS_AT_ONCE, REFUSALS_APART)),
        retiring: false,
        roles: VecDeque::new(),
    };
    r.shard.handle(Input::Start, now, &mut r.out);
    r.finish(now);
    loop {
        let sleep = r.idle_time();
        let mut woken = None;
        tokio::select! {
            () = r.disk.wait() => {}
            event = events.recv() => match event { Some(e) => woken = Some(Woken::Event(e)), None => return Ok(()) },
            guest = from_guests.recv() => woken = guest.map(Woken::Guest),
            command = from_control.recv() => match command { Some(c) => woken = Some(Woken::Control(c)), None => return Ok(()) },
            () = tokio::time::sleep(sleep) => {}
        }
        let now = random::now();
        match woken {
            Some(Woken::Event(event)) => r.on_event(event, now),
            Some(Woken::Guest(guest)) => r.on_guest(guest, now),
            Some(Woken::Control(ToShard::Shutdown)) => return Ok(()),
            Some(Woken::Control(command)) => r.on_control(command, now),
            None => {}
        }
        for _ in 0..BATCH {
            let Some(event) = events.try_recv() else { break };
            r.on_event(event, now);
        }
        for _ in 0..BATCH {
            let Ok(guest) = from_guests.try_recv() else { break };
            r.on_guest(guest, now);
        }
        r.finish(now);
    }
}

enum Woken {
    Event(Event),
    Guest(FromGuest),
    Control(ToShard),
}

impl Runner {
    /// How long nothing has to be done unless something arrives.
    fn idle_time(&self) -> Duration {
        let report = self.stirred.then_some(self.report_at);
        let wake_at = [self.shard.next_timeout(), report].into_iter().flatten().min();
        wake_at.map_or(LONGEST_SLEEP, |at| at.since(random::now())).min(LONGEST_SLEEP)
    }

    /// The block of work after every batch: completions, timers, one round of maintenance, then everything goes out.
    fn finish(&mut self, now: Time) {
        let mut done = std::mem::take(&mut self.done);
        self.disk.completed(&mut done);
        self.stirred |= !done.is_empty();
        for d in done.drain(..) {
            self.meter.ended(&d, now);
            self.shard.handle(Input::Disk(d), now, &mut self.out);
        }
        self.done = done;
        if self.shard.next_timeout().is_some_and(|at| at <= now) {
            self.shard.handle(Input::Tick, now, &mut self.out);
        }
        let hung = self.shard.is_hung();
        self.shard.maintain(now, &mut self.out);
        self.stirred |= hung != self.shard.is_hung();
        self.deliver(now);
        self.tell_guests();
        // Told until there is room for them.
        self.tell_roles();
        if now >= self.report_at {
            self.report(now);
        }
        // As is this.
        if self.retiring && self.shard.is_retired() {
            self.retiring = self.to_control.try_send(FromShard::Retired).is_err();
        }
    }

    /// Connections learn whether they may take and say more.
    fn tell_guests(&mut self) {
        let mut guests = self.guests.borrow_mut();
        let (shard, admits) = (&self.shard, (self.shard.admits(), self.shard.is_crowded()));
        let mut tell = |volume: VolumeId| {
            guests.set_accepts(volume, shard.accepts(volume));
            guests.set_mute(volume, shard.is_in_doubt(volume));
            if let Some(size) = shard.size(volume) {
                guests.set_size(volume, size.bytes());
            }
        };
        if self.admitted.replace(admits) != Some(admits) {
            self.local.views.iter().for_each(|view| tell(view.volume));
        } else {
            shard.maintained().iter().copied().for_each(tell);
        }
        guests.loop_runs_until(shard.awaited() + self.gap);
    }

    fn deliver(&mut self, now: Time) {
        let mut out = std::mem::take(&mut self.out);
        for output in out.drain(..) {
            match output {
                Output::Disk(op) => self.ops.push(op),
                Output::Send { to, volume, message } => self.send(to, Lane::Volume(volume), message.encode()),
                Output::SendBeat { to, message } => self.send(to, Lane::Beat, vec![message.encode()]),
                Output::Reply { volume, key, result } => {
                    let reply = ToGuest::Reply { request: key.request, result };
                    self.guests.borrow().send(volume, key.session, reply);
                }
                Output::Extents { volume, tag, extents } => self.answer_extents(volume, tag, extents),
                Output::Control(request) => self.tell(FromShard::Request(request)),
                Output::CopyCreated { volume, incarnation } => {
                    self.tell(FromShard::CopyCreated { volume, incarnation })
                }
                Output::CopyDeleted { volume } => {
                    self.guests.borrow_mut().withdraw(volume);
                    self.tell(FromShard::CopyDeleted { volume });
                }
                Output::Serving { volume, serving } => {
                    let refusal = self.refusal(volume);
                    self.guests.borrow_mut().set_serving(volume, serving, &refusal);
                    let epoch = self.shard.view(volume).map_or(Epoch::ZERO, |view| view.active.epoch);
                    self.roles.push_back(FromShard::Serving { volume, serving, epoch });
                    self.tell_roles();
                    self.report_at = now;
                }
                Output::OpenLane { peer, volume } => {
                    self.endpoint.open(peer, Lane::Beat);
                    self.endpoint.open(peer, Lane::Volume(volume));
                }
                Output::CloseLane { peer, volume } => self.endpoint.close(peer, Lane::Volume(volume)),
                Output::Refused(from, volume, why) => self.message_refused(from, Some(volume), &why),
                Output::Event { volume, text } => {
                    let (name, epoch, lsn) = self.position(volume);
                    tracing::info!(volume = name, epoch, lsn, "{text}");
                    self.tell(FromShard::Event { volume, message: text });
                }
            }
        }
        self.out = out;
        let meter = &mut self.meter;
        self.disk.submit(self.ops.drain(..).inspect(|op| meter.begins(op, now)));
    }

    fn answer_extents(&mut self, volume: VolumeId, tag: u64, mut extents: Vec<(BlockRange, bool)>) {
        let Question { key, range, offset, len } = self.questions.remove(&tag).expect("each question is answered once");
        if extents.is_empty() {
            extents.push((range, false));
        }
        let extents = clip(&extents, offset, len);
        self.guests.borrow().send(volume, key.session, ToGuest::Extents { request: key.request, extents });
    }

    /// Sends on a lane that is up. If its queue is full the stream is given up: the peer is greeted anew when it comes back,
    /// and catches up from the log.
    fn send(&mut self, to: NodeId, lane: Lane, message: Vec<Bytes>) {
        let Some(session) = self.lanes.session(to, lane) else { return };
        if self.endpoint.send(to, lane, session, message).is_err() {
            tracing::debug!(peer = %to, ?lane, "a message found no way: the lane is closed or its queue is full");
            self.endpoint.close(to, lane);
            self.endpoint.open(to, lane);
        }
    }

    /// Each of them, in order: hooks act on them, and nobody asks again.
    fn tell_roles(&mut self) {
        while let Some(role) = self.roles.pop_front() {
            if let Err(mpsc::error::TrySendError::Full(role)) = self.to_control.try_send(role) {
                self.roles.push_front(role);
                return;
            }
        }
    }

    /// Never waits: requests are repeated by their replica, reports and created copies are told again.
    fn tell(&self, message: FromShard) {
        if let Err(error) = self.to_control.try_send(message) {
            tracing::warn!(%error, "the control thread lags behind the shard");
        }
    }

    fn on_event(&mut self, event: Event, now: Time) {
        match event {
            Event::LaneUp { peer, lane, session } => {
                let change = self.lanes.outgoing(peer, lane, Some(session));
                self.lane_changed(peer, lane, change, now);
            }
            Event::LaneDown { peer, lane, .. } => {
                let change = self.lanes.outgoing(peer, lane, None);
                self.lane_changed(peer, lane, change, now);
            }
            Event::Incoming { peer, lane, session } => {
                // A newer stream replaces an older one: the peer goes down first.
                let replaced = self.lanes.is_up_with_other(peer, lane, session);
                if replaced {
                    self.lane_changed(peer, lane, Change::Down, now);
                }
                let change = self.lanes.incoming(peer, lane, session);
                self.lane_changed(peer, lane, if replaced { Change::Up } else { change }, now);
            }
            Event::IncomingClosed { peer, lane, session } => {
                let change = self.lanes.incoming_closed(peer, lane, session);
                self.lane_changed(peer, lane, change, now);
            }
            Event::Message { peer, lane, session, bytes } => {
                if self.lanes.is_current(peer, lane, session) {
                    self.on_message(peer, lane, bytes, now);
                }
            }
            Event::Refused { what } => self.tell(FromShard::PeerRefused(what)),
            Event::Join { .. } | Event::Removed { .. } => {}
        }
    }

    fn lane_changed(&mut self, peer: NodeId, lane: Lane, change: Change, now: Time) {
        let Lane::Volume(volume) = lane else { return };
        self.stirred = true;
        let input = match change {
            Change::None => return,
            Change::Up => Input::PeerUp { peer, volume },
            Change::Down => Input::PeerDown { peer, volume },
        };
        self.shard.handle(input, now, &mut self.out);
    }

    fn on_message(&mut self, from: NodeId, lane: Lane, bytes: Bytes, now: Time) {
        let input = match lane {
            Lane::Beat => ShardMessage::decode(&bytes).map(|message| Input::Beat { from, message }),
            Lane::Volume(volume) => {
                self.stirred = true;
                Message::decode(bytes).map(|message| Input::Message { from, volume, message })
            }
            Lane::Control => return,
        };
        match input {
            Ok(input) => self.shard.handle(input, now, &mut self.out),
            Err(error) => {
                // Damaged between the peer's checksum and ours: nothing of it may be used, and the order is broken.
                self.message_refused(from, None, &format!("{error} (lane {lane}; it is opened anew)"));
                self.endpoint.close(from, lane);
                self.endpoint.open(from, lane);
            }
        }
    }

    /// A peer can repeat itself without end: it is told now and then.
    fn message_refused(&mut self, from: NodeId, volume: Option<VolumeId>, why: &str) {
        self.refused.0 += 1;
        let Some(untold) = self.refused.1.tell(random::now()) else { return };
        let name = self.position(volume).0;
        let what = format!("a message of {from}: {why}{}", others(untold));
        tracing::warn!(peer = %from, volume = name, "refused {what}");
        self.tell(FromShard::PeerRefused(what));
    }

    /// For the log: a volume's name, its active epoch, and the last committed record of the copy here as it was last reported.
    fn position(&self, volume: Option<VolumeId>) -> (Option<String>, Option<u64>, Option<u64>) {
        let Some(volume) = volume else { return (None, None, None) };
        let name = self.names.get(&volume).cloned().unwrap_or_else(|| volume.to_string());
        let report = self.reported.iter().find(|report| report.volume == volume);
        (Some(name), self.shard.view(volume).map(|view| view.active.epoch.0), report.map(|r| r.committed.0))
    }

    fn on_guest(&mut self, guest: FromGuest, now: Time) {
        self.stirred = true;
        match guest {
            FromGuest::Request { volume, request } => {
                self.shard.handle(Input::Request { volume, request }, now, &mut self.out)
            }
            // What is reported has changed.
            FromGuest::Attached => {}
            FromGuest::Trouble { volume, text } => {
                let (name, epoch, lsn) = self.position(Some(volume));
                tracing::error!(volume = name, epoch, lsn, "{text}");
                self.tell(FromShard::Event { volume: Some(volume), message: text });
            }
            FromGuest::Closed { volume, session } => {
                self.shard.handle(Input::SessionClosed { volume, session }, now, &mut self.out);
            }
            FromGuest::Extents { volume, key, offset, len } => {
                let range = BlockRange::covering(ByteOffset(offset), len);
                let tag = self.next_question;
                self.next_question += 1;
                self.questions.insert(tag, Question { key, range, offset, len });
                self.shard.handle(Input::Extents { volume, tag, range }, now, &mut self.out);
            }
        }
    }

    fn on_control(&mut self, command: ToShard, now: Time) {
        self.stirred = true;
        match command {
            ToShard::View { view, names } => {
                (self.local, self.names) = (view.clone(), names);
                self.shard.handle(Input::Local(view), now, &mut self.out);
                self.follow_views();
            }
            ToShard::Peers(peers) => {
                let addresses = peers.iter().filter(|(n, _)| **n != self.me).map(|(n, p)| (*n, p.address)).collect();
                self.endpoint.set_peers(&addresses);
                self.peers = peers;
                self.follow_views();
            }
            ToShard::Measure(answer) => {
                // Whoever asked waited too long.
                let _ = answer.send(self.sample(now));
            }
            ToShard::Upkeep(wish) => self.shard.handle(Input::Upkeep(wish), now, &mut self.out),
            ToShard::Retire => {
                self.retiring = true;
                self.shard.handle(Input::Retire, now, &mut self.out);
            }
            ToShard::Identity(identity) => {
                if let Err(error) = self.endpoint.set_identity(&identity) {
                    tracing::error!(%error, "a renewed certificate could not be used");
                }
            }
            ToShard::Shutdown => {}
        }
    }

    /// Every volume with a copy here has a socket; who may not attach is told who is primary.
    fn follow_views(&mut self) {
        self.admitted = None;
        for view in &self.local.views {
            let Some(name) = self.names.get(&view.volume) else { continue };
            let size = self.shard.size(view.volume).unwrap_or(view.size);
            if let Err(error) = guests::export(&self.guests, view.volume, name, size.bytes()) {
                tracing::error!(volume = name, %error, "the volume's socket could not be opened");
            }
            let usual = Grant::default();
            let grant = self.local.grants.get(&view.volume).unwrap_or(&usual);
            self.guests.borrow_mut().set_grant(view.volume, grant);
            if !self.shard.is_serving(view.volume) {
                let refusal = self.refusal(view.volume);
                self.guests.borrow_mut().set_refusal(view.volume, refusal);
            }
        }
        let wanted: BTreeSet<VolumeId> = self.local.views.iter().map(|v| v.volume).collect();
        let gone: Vec<VolumeId> = self.guests.borrow().volumes().into_iter().filter(|v| !wanted.contains(v)).collect();
        for volume in gone {
            self.guests.borrow_mut().withdraw(volume);
        }
    }

    fn refusal(&self, volume: VolumeId) -> String {
        let name = self.names.get(&volume).cloned().unwrap_or_else(|| volume.to_string());
        match self.local.view(volume).and_then(|v| v.active.primary) {
            Some(primary) if primary != self.me => {
                let node = self.peers.get(&primary).map_or_else(|| primary.to_string(), |p| p.name.clone());
                format!("{name} is served by its primary on node {node}: attach there")
            }
            Some(_) => format!("{name} is being opened here: try again"),
            None => format!("{name} is not open yet: try again"),
        }
    }

    fn report(&mut self, now: Time) {
        self.report_at = now + REPORT_INTERVAL;
        if !self.roles.is_empty() {
            // A role is never told after what was so later.
            return;
        }
        self.stirred = false;
        let mut reports = copy_reports(&self.shard.rows());
        self.mark_histories(&reports, now);
        for report in &mut reports {
            let guests = self.guests.borrow();
            report.clients = guests.clients(report.volume);
            // Refused because another node leads, not because nobody does yet.
            let elsewhere = report.role == CopyRole::Secondary;
            report.asked_for = elsewhere && guests.was_asked_for(report.volume, ASKS_AGAIN, now);
            drop(guests);
            let integrity = &mut report.integrity;
            if let Some(started) = &mut integrity.scrub.started_ms {
                *started += self.unix_ms_at_zero;
            }
            if let Some(verdict) = &mut integrity.verdict {
                verdict.ended_ms += self.unix_ms_at_zero;
            }
        }
        if reports != self.reported {
            self.reported.clone_from(&reports);
            self.tell(FromShard::Reports(reports));
        }
    }
}

/// What a scrape is told.
impl Runner {
    fn mark_histories(&mut self, reports: &[CopyReport], now: Time) {
        let guests = self.guests.borrow();
        let leads = |r: &&CopyReport| r.role == CopyRole::Primary;
        let led: BTreeSet<VolumeId> = reports.iter().filter(leads).map(|r| r.volume).collect();
        self.histories.retain(|volume, _| led.contains(volume));
        for report in reports.iter().filter(leads) {
            let bytes = guests.counters(report.volume).map_or(0, |c| c.writes.bytes);
            self.histories.entry(report.volume).or_default().mark(report.received, now, bytes);
        }
    }

    fn sample(&self, now: Time) -> ShardSample {
        let guests = self.guests.borrow();
        let volume = |volume: VolumeId| {
            let counters = guests.counters(volume)?.clone();
            let history = self.histories.get(&volume).cloned();
            Some(VolumeSample { volume, guests: counters, clients: guests.clients(volume), history })
        };
        let store = self.shard.storage();
        ShardSample {
            at: now,
            volumes: guests.volumes().into_iter().filter_map(volume).collect(),
            disk: self.meter.sample(now),
            journal_bytes: store.journal_bytes(),
            journal_bound: store.journal_bound(),
            journal_full: store.is_journal_full(),
            journal_lost: self.shard.lost_records(),
            staged_bytes: store.staged_bytes(),
            unapplied_bytes: store.debt_bytes(),
            table_bytes: store.table_memory(),
            written: store.written(),
            short_of_space: store.is_short_of_space(),
            hung: store.is_hung(),
            peers: self.endpoint.peer_stats(),
            turned_away: self.endpoint.turned_away(),
            refused_messages: self.refused.0,
        }
    }
}

/// What a guest asked about, while the store looks: as many as the connections' bound on requests allows.
struct Question {
    key: RequestKey,
    range: BlockRange,
    offset: u64,
    len: u64,
}

/// Extents of whole blocks, cut down to the bytes asked for. Each is at most 1 GiB long.
fn clip(extents: &[(BlockRange, bool)], offset: u64, len: u64) -> Vec<(u64, bool)> {
    let end = offset + len;
    let ranges = extents.iter().map(|(r, hole)| (r.start.offset().0.max(offset), r.end().offset().0.min(end), *hole));
    ranges.filter(|(from, to, _)| from < to).map(|(from, to, hole)| (to - from, hole)).collect()
}
