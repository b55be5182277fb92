//! What guests do, and what they are told.

use super::{Event, World};
use crate::checkers::{Answered, OpKind, Violation};
use crate::faults::{Declared, FaultKind};
use crate::guest::{Pending, Session, request};
use crate::log::MS;
use crate::options::{Mutant, index};
use bytes::Bytes;
use holdfast_node::shard::Input;
use holdfast_replication::{GuestError, RequestKey};
use holdfast_types::{BLOCK_SIZE, Epoch, NodeId, RequestId, SECTOR_SIZE, SessionId, VolumeId};
use std::collections::BTreeMap;

impl World {
    pub(super) fn step_client(&mut self, at: usize) {
        let think = self.options.think;
        let client = &mut self.clients[at];
        let pause = if client.wants() { client.rng().below(2 * think) + 1 } else { 20 * MS };
        let next = self.now + pause;
        self.at(next, Event::Client(at));
        if !self.clients[at].wants() {
            return;
        }
        match self.clients[at].session.as_ref().map(|s| (s.node, s.pending.len())) {
            None => self.attach(at),
            Some((node, pending)) => {
                let volume = self.clients[at].volume;
                let room = pending < self.options.depth;
                if room && self.nodes[&node].shard.as_ref().is_some_and(|s| s.accepts(volume)) {
                    self.ask(at, node);
                }
            }
        }
    }

    /// Attaches to one of those who call themselves primary: a superseded one may still do so.
    fn attach(&mut self, at: usize) {
        let volume = self.clients[at].volume;
        let serving: Vec<(NodeId, Epoch)> =
            self.nodes.values().filter_map(|n| Some((n.id, *n.serving.get(&volume)?))).collect();
        if serving.is_empty() {
            return;
        }
        let (node, epoch) = serving[index(self.clients[at].rng().below(serving.len() as u64))];
        self.counters.next_session += 1;
        let id = SessionId(self.counters.next_session);
        self.note("attach", &[node.0, id.0], || format!("client {at} to {volume} at {node} in {epoch} as {id}"));
        self.clients[at].session = Some(Session { id, node, epoch, pending: BTreeMap::new() });
    }

    fn ask(&mut self, at: usize, node: NodeId) {
        self.counters.next_op += 1;
        let id = self.counters.next_op;
        let now = self.now;
        let client = &mut self.clients[at];
        let volume = client.volume;
        let wish = client.wish();
        client.left = client.left.saturating_sub(1);
        let Some(session) = client.session.as_mut() else { return };
        let key = RequestKey { session: session.id, request: RequestId(id) };
        let pending =
            Pending { id, kind: wish.kind, first: wish.first, count: wish.count, invoked: now, fua: wish.fua };
        session.pending.insert(key.request, pending);
        let epoch = session.epoch;
        self.checkers.volume(volume).register.invoked(id, wish.kind, wish.first, wish.count, epoch, now);
        let (op, first, count) = (wish.op, wish.first, wish.count);
        self.note("ask", &[node.0, id, first, count], || {
            format!("{node} {volume} {id}: {op:?} sectors {first}+{count}")
        });
        self.give(node, Input::Request { volume, request: request(&wish, id, key) });
    }

    /// A guest closes its connection; requests under way have no known end.
    pub(super) fn detach(&mut self, at: usize) -> bool {
        let client = &mut self.clients[at];
        let Some(session) = client.session.take_if(|s| !s.pending.is_empty()) else { return false };
        let (volume, id, node) = (client.volume, session.id, session.node);
        client.closing.push(session);
        self.note("detach", &[node.0, id.0], || format!("client {at} closes {id} at {node}"));
        self.give(node, Input::SessionClosed { volume, session: id });
        true
    }

    /// A node has taken note that a guest closed its session: what has no record by now gets none (S12).
    pub(super) fn session_closed_at_node(&mut self, id: SessionId) {
        for at in 0..self.clients.len() {
            let closed: Vec<Session> = self.clients[at].closing.extract_if(.., |s| s.id == id).collect();
            closed.iter().for_each(|s| self.end_session(at, s, true));
        }
    }

    fn end_session(&mut self, at: usize, session: &Session, by_guest: bool) {
        let now = self.now;
        let register = &mut self.checkers.volume(self.clients[at].volume).register;
        for p in session.pending.values() {
            match p.kind {
                OpKind::Read => register.read_dropped(p.id, p.invoked),
                _ => register.closed(p.id, by_guest, now),
            }
        }
    }

    /// All sessions of a volume (or of all) at a node are over.
    pub(super) fn end_sessions(&mut self, node: NodeId, volume: Option<VolumeId>) {
        for at in 0..self.clients.len() {
            let client = &mut self.clients[at];
            if volume.is_some_and(|v| v != client.volume) {
                continue;
            }
            let mut over: Vec<Session> = client.closing.extract_if(.., |s| s.node == node).collect();
            over.extend(client.session.take_if(|s| s.node == node));
            over.iter().for_each(|s| self.end_session(at, s, false));
        }
    }

    pub(super) fn serving(&mut self, id: NodeId, volume: VolumeId, epoch: Epoch, serving: bool) {
        self.note("serving", &[id.0, volume.0, epoch.0, u64::from(serving)], || {
            format!("{id} {volume} {epoch}: {serving}")
        });
        if serving {
            self.node(id).serving.insert(volume, epoch);
            self.node(id).led.insert(volume);
            self.measure_service(volume);
        } else {
            self.node(id).serving.remove(&volume);
            self.end_sessions(id, Some(volume));
        }
    }

    pub(super) fn reply(
        &mut self,
        node: NodeId,
        volume: VolumeId,
        key: RequestKey,
        result: Result<Vec<Bytes>, GuestError>,
    ) -> Result<(), Violation> {
        let holder = self.clients.iter_mut().filter_map(|c| c.session.as_mut()).find(|s| s.id == key.session);
        let Some(session) = holder else { return Ok(()) };
        let epoch = session.epoch;
        let Some(pending) = session.pending.remove(&key.request) else {
            let text = format!("{node} answered {} of {} which does not wait for an answer", key.request, key.session);
            return Err(Violation::new("answers", text));
        };
        let now = self.now;
        self.checkers.volume(volume).sizes_settle(volume, now)?;
        if let Some(resumed) = self.nodes[&node].resumed {
            self.checkers.volume(volume).freshness.answered(node, epoch, resumed)?;
        }
        let ok = result.is_ok();
        self.note("reply", &[node.0, pending.id, u64::from(ok)], || {
            format!("{node} {volume} {}: {:?}", pending.id, result.as_ref().err())
        });
        match (pending.kind, result) {
            (OpKind::Read, Ok(pieces)) => self.read_answered(node, volume, epoch, pending, &pieces),
            (OpKind::Read, Err(error)) => {
                let v = self.checkers.volume(volume);
                v.register.read_dropped(pending.id, pending.invoked);
                self.error_is_covered(node, (volume, epoch), pending, error)
            }
            (OpKind::Flush, _) => {
                let v = self.checkers.volume(volume);
                v.observed(epoch, None, pending.invoked)?;
                v.flushes.flushed(pending.invoked, &v.committed)
            }
            (_, Ok(_)) if self.options.mutant == Some(Mutant::FalseErrors) => {
                self.checkers.volume(volume).register.errored(pending.id, self.now);
                Ok(())
            }
            (_, Ok(_)) => self.change_answered(node, volume, epoch, pending),
            (_, Err(error)) => {
                self.checkers.volume(volume).register.errored(pending.id, self.now);
                self.error_is_covered(node, (volume, epoch), pending, error)
            }
        }
    }

    /// A guest may see an error only if this node's disk gave one, or if one of the very blocks is damaged there; or if the volume
    /// may be smaller than it thinks.
    fn error_is_covered(
        &mut self,
        node: NodeId,
        (volume, epoch): (VolumeId, Epoch),
        pending: Pending,
        error: GuestError,
    ) -> Result<(), Violation> {
        if let GuestError::BeyondEnd(_) = error {
            let view = self.checkers.control.view(volume).cloned();
            let end = pending.first + pending.count;
            return self.checkers.volume(volume).end_is_covered((node, volume), epoch, end, view.as_ref());
        }
        let per_block = (BLOCK_SIZE / SECTOR_SIZE) as u64;
        let (first, end) = (pending.first / per_block, (pending.first + pending.count).div_ceil(per_block));
        if self.nodes[&node].disk_failed || self.nodes[&node].disk.damage().covers(volume, first, end) {
            return Ok(());
        }
        Err(Violation::new("S18", format!("{node} answered {} with {error:?}, but its disk never failed", pending.id)))
    }

    fn change_answered(
        &mut self,
        node: NodeId,
        volume: VolumeId,
        epoch: Epoch,
        pending: Pending,
    ) -> Result<(), Violation> {
        let now = self.now;
        self.counters.acked += 1;
        let v = self.checkers.volume(volume);
        let mut record = None;
        if pending.kind == OpKind::Write {
            let Some((lsn, of)) = v.committed.record_of(pending.id) else {
                let text = format!("{node} answered change {} that it never sent to another copy", pending.id);
                return Err(Violation::new("S1", text));
            };
            v.epochs.answered(lsn, of, node, epoch)?;
            record = Some((lsn, of));
        }
        let Pending { id, first, count, invoked, fua, .. } = pending;
        v.answered(&Answered { id, first, count, invoked, epoch, fua }, record, now)
    }

    fn read_answered(
        &mut self,
        node: NodeId,
        volume: VolumeId,
        epoch: Epoch,
        pending: Pending,
        pieces: &[Bytes],
    ) -> Result<(), Violation> {
        self.counters.reads += 1;
        let data: Vec<u8> = pieces.iter().flat_map(|p| p.iter().copied()).collect();
        if data.len() != index(pending.count) * SECTOR_SIZE {
            let text = format!("{node} answered a read of {} sectors with {} bytes", pending.count, data.len());
            return Err(Violation::new("S18", text));
        }
        let mut found = Vec::new();
        for (sector, content) in (pending.first..).zip(data.chunks_exact(SECTOR_SIZE)) {
            let Some(change) = crate::checkers::change_in(content, sector) else {
                let text = format!("{node} answered a read of sector {sector} with bytes that nobody wrote there");
                return Err(Violation::new("S18", text));
            };
            found.push(self.misread(volume, sector, change));
        }
        let now = self.now;
        let clocks = self.options.declared == Declared::Clocks;
        let v = self.checkers.volume(volume);
        match v.freshness.read(node, epoch, pending.invoked) {
            // Stale by a clock that nobody promised anything about: neither S13 nor any other property speaks of it.
            Err(_) if clocks => {
                v.register.read_dropped(pending.id, pending.invoked);
                return Ok(());
            }
            fresh => fresh?,
        }
        v.observed(epoch, Some((pending.first, pending.count)), pending.invoked)?;
        v.register.read(pending.id, node, pending.first, pending.invoked, &found, now)
    }

    /// What a mutant world makes of what was read.
    fn misread(&mut self, volume: VolumeId, sector: u64, change: u64) -> u64 {
        let Some(mutant) = self.options.mutant else { return change };
        let old = self.stale.get(&(volume, sector)).copied();
        match mutant {
            Mutant::StaleReads => {
                self.stale.entry((volume, sector)).or_insert(change);
                old.unwrap_or(change)
            }
            Mutant::LostZeroes if change == 0 => old.unwrap_or(0),
            Mutant::LostZeroes => {
                self.stale.insert((volume, sector), change);
                change
            }
            _ => change,
        }
    }

    /// Mutant: requests are answered when they are asked.
    pub(super) fn answer_early(&mut self) -> Result<(), Violation> {
        if self.options.mutant != Some(Mutant::EarlyAnswers) {
            return Ok(());
        }
        let waiting: Vec<(NodeId, VolumeId, RequestKey)> = self
            .clients
            .iter()
            .filter_map(|c| Some((c, c.session.as_ref()?)))
            .flat_map(|(c, s)| {
                s.pending
                    .values()
                    .filter(|p| p.kind == OpKind::Write)
                    .map(move |p| (s.node, c.volume, RequestKey { session: s.id, request: RequestId(p.id) }))
            })
            .collect();
        waiting.into_iter().try_for_each(|(node, volume, key)| self.reply(node, volume, key, Ok(Vec::new())))
    }

    /// Some guest with requests under way leaves.
    pub(super) fn detach_somebody(&mut self) {
        let first = index(self.rngs.faults.below(self.clients.len() as u64));
        let count = self.clients.len();
        if (0..count).any(|i| self.detach((first + i) % count)) {
            self.fired(FaultKind::Detach);
        }
    }
}
