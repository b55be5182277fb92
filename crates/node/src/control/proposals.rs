//! This node's proposals that are not answered yet.
//!
//! A proposal is sent to whoever leads, again after each change of leader and after a silence, until it is applied
//! here or its time is up. Sending it twice is harmless: see [`super::applied`].

use super::wire::Envelope;
use bytes::Bytes;
use holdfast_types::{Life, NodeId, Time};
use std::collections::BTreeMap;
use std::time::Duration;

/// Proposals of one node that may wait at once.
const MAX_PENDING: usize = 256;

pub(super) struct Proposals {
    me: NodeId,
    life: Life,
    next_id: u64,
    pending: BTreeMap<u64, Pending>,
}

pub(super) struct Pending {
    /// Who waits for the outcome; `None`: nobody, the cause is looked at again later.
    pub(super) token: Option<u64>,
    pub(super) since: Time,
    command: Bytes,
    deadline: Time,
    sent: Option<Time>,
}

impl Proposals {
    pub(super) fn new(me: NodeId, life: Life) -> Proposals {
        Proposals { me, life, next_id: 1, pending: BTreeMap::new() }
    }

    /// Whether it could be added.
    pub(super) fn add(&mut self, token: Option<u64>, command: Bytes, now: Time, patience: Duration) -> bool {
        if self.pending.len() >= MAX_PENDING {
            return false;
        }
        let pending = Pending { token, since: now, command, deadline: now + patience, sent: None };
        self.pending.insert(self.next_id, pending);
        self.next_id += 1;
        true
    }

    /// Whether the same command is on its way already.
    pub(super) fn contains(&self, command: &Bytes) -> bool {
        self.pending.values().any(|p| p.command == *command)
    }

    /// What is to be sent now, as `(id, envelope)`; counts as sent afterwards.
    pub(super) fn due(&mut self, now: Time, resend_after: Duration) -> Vec<(u64, Bytes)> {
        let oldest = self.pending.keys().next().copied().unwrap_or(self.next_id);
        let (node, life) = (self.me, self.life);
        let due = self.pending.iter_mut().filter(|(_, p)| p.sent.is_none_or(|sent| now.since(sent) >= resend_after));
        due.map(|(id, p)| {
            p.sent = Some(now);
            (*id, Envelope { node, life, id: *id, oldest, command: p.command.clone() }.encode())
        })
        .collect()
    }

    /// The leader changed, or refused: send everything again.
    pub(super) fn forget_sent(&mut self) {
        self.pending.values_mut().for_each(|p| p.sent = None);
    }

    /// The proposal that was applied, if it is of this life and still waited for.
    pub(super) fn applied(&mut self, envelope: &Envelope) -> Option<Pending> {
        if envelope.node != self.me || envelope.life != self.life {
            return None;
        }
        self.pending.remove(&envelope.id)
    }

    /// Takes out what `gone` says was applied unseen.
    pub(super) fn take(&mut self, gone: impl Fn(u64) -> bool) -> Vec<Pending> {
        self.pending.extract_if(.., |id, _| gone(*id)).map(|(_, p)| p).collect()
    }

    /// Takes out those whose time is up.
    pub(super) fn expired(&mut self, now: Time) -> Vec<Pending> {
        self.pending.extract_if(.., |_, p| p.deadline <= now).map(|(_, p)| p).collect()
    }
}
