//! Carrying: what a shard puts out goes to disk, network, its node's control plane and guests, and what they bring goes in.

use super::{Event, World};
use crate::checkers::{Shown, Violation};
use crate::disk::{Disk, records_of};
use crate::faults::FaultKind;
use crate::log::{MS, US};
use crate::net::{Lane, LaneNotice, Packet, Plane};
use crate::options::Mutant;
use bytes::Bytes;
use holdfast_format::message::{Message, ShardMessage};
use holdfast_node::control;
use holdfast_node::shard::{CopyRow, Input, Output};
use holdfast_replication::RoleName;
use holdfast_types::{Epoch, Life, NodeId, Time, VolumeId};

impl World {
    pub(super) fn wake(&mut self, id: NodeId, life: u64) -> Result<(), Violation> {
        let now = self.now;
        let node = self.node(id);
        if node.life != life || node.wake_at != Some(now) {
            return Ok(());
        }
        node.wake_at = None;
        if !node.responsive() {
            return Ok(());
        }
        node.inbox.push_back(Input::Tick);
        self.run_node(id, life)
    }

    /// One turn of a node's loop.
    pub(super) fn run_node(&mut self, id: NodeId, life: u64) -> Result<(), Violation> {
        let now = self.now;
        let node = self.node(id);
        if node.life != life {
            return Ok(());
        }
        node.run_scheduled = false;
        if !node.responsive() {
            return Ok(());
        }
        let local = node.clock.reads(now);
        let inputs: Vec<Input> = node.inbox.drain(..).collect();
        self.checkers.takes(id, &inputs);
        let node = self.node(id);
        let Some(shard) = node.shard.as_mut() else { return Ok(()) };
        let mut out = Vec::new();
        let count = inputs.len() as u64;
        let mut closed = Vec::new();
        for input in inputs {
            if let Input::SessionClosed { session, .. } = &input {
                closed.push(*session);
            }
            shard.handle(input, local, &mut out);
        }
        shard.maintain(local, &mut out);
        let rows = shard.rows();
        for (volume, reign) in rows.iter().filter_map(|r| Some((r.volume, r.status.as_ref()?.reign?))) {
            // It goes on in another epoch with the same guests.
            node.serving.entry(volume).and_modify(|epoch| *epoch = reign);
        }
        self.note("run", &[id.0, count, out.len() as u64], || {
            format!("{id} takes {count} inputs, gives {} outputs", out.len())
        });
        closed.into_iter().for_each(|s| self.session_closed_at_node(s));
        let life = Life(life << 16 | id.0);
        self.show((id, life, local), &out, &rows)?;
        let urgent = out.iter().any(|o| matches!(o, Output::Serving { .. }));
        for output in out {
            self.carry(id, output, &rows)?;
        }
        self.schedule_report(id, urgent);
        self.schedule_wake(id);
        Ok(())
    }

    pub(super) fn schedule_wake(&mut self, id: NodeId) {
        let late = self.rngs.schedule.below(200 * US);
        let now = self.now;
        let node = self.node(id);
        let Some(due) = node.shard.as_ref().and_then(|s| s.next_timeout()) else { return };
        let at = node.clock.true_time(due).max(now + US) + late;
        if node.wake_at.is_none_or(|w| at < w || w <= now) {
            node.wake_at = Some(at);
            let life = node.life;
            self.at(at, Event::Wake(id, life));
        }
    }

    /// The checkers see everything before anything is carried out.
    fn show(
        &mut self,
        (id, life, at): (NodeId, Life, Time),
        out: &[Output],
        rows: &[CopyRow],
    ) -> Result<(), Violation> {
        for output in out {
            match output {
                Output::Send { to, volume, message } => {
                    self.checkers.sent(id, life, *volume, message)?;
                    self.checkers.bounds.sent((id, *to, *volume), message, &self.options.limits)?;
                }
                Output::SendBeat { message: ShardMessage::Beat { volumes, .. }, .. } => {
                    volumes.iter().try_for_each(|beat| self.checkers.beat(beat))?;
                }
                Output::CopyCreated { volume, .. } => self.checkers.made(id, *volume),
                Output::Disk(op) if self.checkers.is_alone(id) => self.checkers.journals(id, &records_of(op))?,
                _ => {}
            }
        }
        self.checkers.bounds.journal(self.nodes[&id].disk.journal_bytes());
        let led = self.nodes[&id].led.clone();
        let excused = self.nodes[&id].wiped || self.nodes[&id].disk_failed || self.atlas.is_hurt(id);
        for row in rows {
            if let Some(why) = row.failed.as_ref().filter(|_| !excused) {
                let text = format!("the copy of {} at {id} gave up although its disk never failed: {why}", row.volume);
                return Err(Violation::new("gave up", text));
            }
            let Some(status) = &row.status else { continue };
            // It may have let go in this very turn, after it had committed something.
            let reign = self.nodes[&id].serving.get(&row.volume).copied();
            let reign = status.reign.or(reign).or((status.role == RoleName::Primary).then_some(status.promised));
            let v = self.checkers.volume(row.volume);
            if let Some(epoch) = reign {
                v.commit(epoch, status.positions.committed)?;
            }
            let given_up = self.lost.given_up.contains_key(&id);
            let believed = !given_up && !self.nodes[&id].disk.damage().digest_may_differ(row.volume);
            let v = self.checkers.volume(row.volume);
            if status.role != RoleName::Failed && believed {
                v.committed.image_at(id, led.contains(&row.volume), status.positions.applied, row.digest)?;
            }
            let said: Vec<(NodeId, &Message)> = out
                .iter()
                .filter_map(|o| match o {
                    Output::Send { to, volume, message } if *volume == row.volume => Some((*to, message)),
                    _ => None,
                })
                .collect();
            self.checkers.metered(row.volume, &Shown { node: id, life, at, status, said: &said })?;
            self.check_upkeep(row)?;
        }
        Ok(())
    }

    fn carry(&mut self, id: NodeId, output: Output, rows: &[CopyRow]) -> Result<(), Violation> {
        match output {
            Output::Disk(op) => {
                let now = self.now;
                let text = if self.log.recording() { Disk::describe(&op) } else { String::new() };
                let node = self.node(id);
                let life = node.life;
                let (ticket, at) = node.disk.submit(op, now);
                self.note("disk", &[id.0, ticket, at], || format!("{id} {text}"));
                self.at(at, Event::DiskDone(id, life, ticket));
            }
            Output::Send { to, volume, message } => self.send(id, to, volume, &message),
            Output::SendBeat { to, message } => self.transmit(id, to, Lane::Beat, message.encode()),
            Output::Reply { volume, key, result } => return self.reply(id, volume, key, result),
            // Its guests don't ask.
            Output::Extents { .. } => {}
            Output::Control(request) => self.ask_control(id, request),
            Output::CopyCreated { volume, incarnation } => {
                self.shard_says(id, control::Input::CopyCreated { volume, incarnation });
            }
            Output::CopyDeleted { volume } => self.shard_says(id, control::Input::CopyDeleted { volume }),
            Output::Serving { volume, serving } => {
                let epoch = rows
                    .iter()
                    .find(|r| r.volume == volume)
                    .and_then(|r| r.status.as_ref())
                    .map_or(Epoch::ZERO, |s| s.promised);
                self.serving(id, volume, epoch, serving);
            }
            Output::OpenLane { peer, volume } => self.open_lane(id, peer, Lane::Volume(volume)),
            Output::CloseLane { peer, volume } => {
                if self.net.close(id, peer, Lane::Volume(volume)) {
                    self.lane_changed(id, peer, Lane::Volume(volume), false)?;
                }
            }
            Output::Refused(from, volume, why) => {
                self.note("says", &[id.0], || format!("{id} {volume}: ignored a message of {from}: {why}"));
            }
            Output::Event { volume, text } => self.note("says", &[id.0], || {
                let of = volume.map(|v| format!(" {v}")).unwrap_or_default();
                format!("{id}{of}: {text}")
            }),
        }
        Ok(())
    }

    pub(super) fn open_lane(&mut self, id: NodeId, peer: NodeId, lane: Lane) {
        let now = self.now;
        let notices = self.net(lane.plane()).open(id, peer, lane, now);
        notices.into_iter().for_each(|n| self.at(n.at, Event::LaneUp(n)));
    }

    fn send(&mut self, from: NodeId, to: NodeId, volume: VolumeId, message: &Message) {
        let bytes: Bytes = match message.encode().as_slice() {
            [one] => one.clone(),
            pieces => pieces.iter().flat_map(|p| p.iter().copied()).collect(),
        };
        self.note("send", &[from.0, to.0, bytes.len() as u64], || {
            format!("{from} to {to} {volume}: {}", brief(message))
        });
        if self.options.mutant == Some(Mutant::ForgedAcks) {
            self.forge_ack(from, to, volume, message);
        }
        self.transmit(from, to, Lane::Volume(volume), bytes);
    }

    fn forge_ack(&mut self, from: NodeId, to: NodeId, volume: VolumeId, message: &Message) {
        if let Message::Append { epoch, records, .. } = message
            && let Some(last) = records.last()
        {
            let ack = Message::AppendAck {
                epoch: *epoch,
                received: last.lsn(),
                durable: last.lsn(),
                checkpoint: holdfast_types::Lsn::ZERO,
            };
            let input = Input::Message { from: to, volume, message: ack };
            self.give(from, input);
        }
    }

    pub(super) fn transmit(&mut self, from: NodeId, to: NodeId, lane: Lane, bytes: Bytes) {
        let corrupting = self.net.corrupt_next == Some(from);
        let now = self.now;
        let net = self.net(lane.plane());
        let sent = net.send(from, to, lane, bytes, now);
        if net.take_overtaken() > 0 {
            self.fired(FaultKind::RaftReorder);
        }
        if corrupting && self.net.corrupt_next.is_none() {
            self.fired(FaultKind::CorruptFrame);
        }
        if let Some((packet, at)) = sent {
            self.at(at, Event::Deliver(packet));
        }
    }

    pub(super) fn deliver(&mut self, packet: &Packet) -> Result<(), Violation> {
        if !self.net(packet.lane.plane()).arrives(packet) {
            return Ok(());
        }
        let (from, to) = (packet.from, packet.to);
        self.note("arrive", &[from.0, to.0, packet.bytes.len() as u64], || {
            format!("{} bytes from {from} at {to} on {:?}", packet.bytes.len(), packet.lane)
        });
        let input = match packet.lane {
            Lane::Volume(volume) => {
                Message::decode(packet.bytes.clone()).ok().map(|message| Input::Message { from, volume, message })
            }
            Lane::Control => {
                return self.feed_control(to, control::Input::Message { from, bytes: packet.bytes.clone() });
            }
            Lane::Beat => ShardMessage::decode(&packet.bytes).ok().map(|message| Input::Beat { from, message }),
        };
        match input {
            Some(_) if packet.corrupted => {
                let text = format!("a message from {from} to {to} with a flipped bit was decoded: {:?}", packet.bytes);
                Err(Violation::new("S18", text))
            }
            Some(input) => {
                self.give(to, input);
                Ok(())
            }
            None if packet.corrupted => {
                self.break_connection(Plane::Shard, from, to, true);
                Ok(())
            }
            None => Err(Violation::new("format", format!("a message from {from} to {to} can't be decoded"))),
        }
    }

    pub(super) fn disk_done(&mut self, id: NodeId, life: u64, ticket: u64) {
        let node = self.node(id);
        if node.life != life || !node.alive() {
            return;
        }
        let Some(completed) = node.disk.complete(ticket) else { return };
        if completed.fault.is_some_and(|f| f != FaultKind::NoSpace) {
            node.disk_failed = true;
        }
        self.count_damage(id);
        if let Some(fault) = completed.fault {
            self.fired(fault);
            self.note("fault", &[id.0, ticket], || format!("{id}: {fault:?}"));
        }
        self.checkers.durable(id, &completed.durable);
        self.note("done", &[id.0, ticket], || {
            format!("{id} op {} {:?}", completed.done.id.0, completed.done.result.as_ref().err())
        });
        self.give(id, Input::Disk(completed.done));
    }

    pub(super) fn lane_up(&mut self, notice: &LaneNotice) -> Result<(), Violation> {
        if self.node(notice.node).alive() && self.net(notice.lane.plane()).told(notice) {
            return self.lane_changed(notice.node, notice.peer, notice.lane, true);
        }
        Ok(())
    }

    fn lane_changed(&mut self, node: NodeId, peer: NodeId, lane: Lane, up: bool) -> Result<(), Violation> {
        self.note("lane", &[node.0, peer.0, u64::from(up)], || {
            format!("{node}: lane to {peer} of {lane:?} is {}", if up { "up" } else { "down" })
        });
        match lane {
            Lane::Volume(volume) if up => self.give(node, Input::PeerUp { peer, volume }),
            Lane::Volume(volume) => self.give(node, Input::PeerDown { peer, volume }),
            Lane::Control if up => return self.feed_control(node, control::Input::PeerUp(peer)),
            Lane::Control => return self.feed_control(node, control::Input::PeerDown(peer)),
            Lane::Beat => {}
        }
        Ok(())
    }

    /// A connection ends now; its ends notice soon (`at_once`) or when they have waited long enough.
    pub(super) fn break_connection(&mut self, plane: Plane, a: NodeId, b: NodeId, at_once: bool) {
        if !self.net(plane).is_up(a, b) {
            return;
        }
        let generation = self.net(plane).generation(a, b);
        self.net(plane).drop_connection(a, b);
        self.note("break", &[a.0, b.0], || format!("{plane:?} connection {a} - {b}"));
        for (node, peer) in [(a, b), (b, a)] {
            let at = self.now + self.net(plane).notice_delay(at_once);
            self.at(at, Event::ConnectionLost(plane, node, peer, generation));
        }
        let at = self.now + self.rngs.schedule.range(MS, 100 * MS);
        self.at(at, Event::Connect(plane, a, b));
    }

    pub(super) fn connection_lost(
        &mut self,
        plane: Plane,
        node: NodeId,
        peer: NodeId,
        generation: u64,
    ) -> Result<(), Violation> {
        let stands = self.net(plane).generation(node, peer) == generation;
        if stands { self.tell_down(plane, node, peer) } else { Ok(()) }
    }

    fn tell_down(&mut self, plane: Plane, node: NodeId, peer: NodeId) -> Result<(), Violation> {
        let lanes = self.net(plane).notice_down(node, peer);
        lanes.into_iter().try_for_each(|lane| self.lane_changed(node, peer, lane, false))
    }

    pub(super) fn connection_check(&mut self, plane: Plane, a: NodeId, b: NodeId, generation: u64) {
        let stands = self.net(plane).is_up(a, b) && self.net(plane).generation(a, b) == generation;
        if stands && !self.can_talk(plane, a, b) {
            self.break_connection(plane, a, b, true);
        }
    }

    fn can_talk(&mut self, plane: Plane, a: NodeId, b: NodeId) -> bool {
        self.net(plane).reaches(a, b) && self.nodes[&a].responsive() && self.nodes[&b].responsive()
    }

    pub(super) fn connect(&mut self, plane: Plane, a: NodeId, b: NodeId) -> Result<(), Violation> {
        if self.net(plane).is_up(a, b) {
            return Ok(());
        }
        if !self.can_talk(plane, a, b) {
            let at = self.now + self.rngs.schedule.range(20 * MS, 150 * MS);
            self.at(at, Event::Connect(plane, a, b));
            return Ok(());
        }
        // An end that did not notice the end of the old connection learns of it from the new one.
        self.tell_down(plane, a, b)?;
        self.tell_down(plane, b, a)?;
        let now = self.now;
        let notices = self.net(plane).connect(a, b, now);
        self.note("connect", &[a.0, b.0], || format!("{plane:?} connection {a} - {b}"));
        notices.into_iter().for_each(|n| self.at(n.at, Event::LaneUp(n)));
        Ok(())
    }
}

/// A message in a line.
fn brief(message: &Message) -> String {
    let span = |records: &[holdfast_format::Record]| match (records.first(), records.last()) {
        (Some(a), Some(b)) => format!("{} {} to {} {}", a.epoch(), a.lsn(), b.epoch(), b.lsn()),
        _ => "nothing".to_owned(),
    };
    match message {
        Message::Append { epoch, committed, records } => {
            format!("Append {epoch} committed {committed}: {}", span(records))
        }
        Message::LogPart { epoch, from, records } => format!("LogPart {epoch} from {from}: {}", span(records)),
        Message::Block { block, data } => match data {
            Some(data) => format!("Block {block:?}: {} bytes", data.len()),
            None => format!("Block {block:?}: refused"),
        },
        other => format!("{other:?}"),
    }
}
