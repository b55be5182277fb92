//! Proof that copies are equal, all the time (P11): digests at the same record are compared.
//!
//! A secondary tells its primary which digest its image has at some records: at multiples of [`PROOF_RECORDS`], where every copy's
//! batches end, and where its image came to rest. The primary remembers its own digests there, and compares once it has the same
//! record. Nothing follows from a difference but that people are told and the status shows it: which copy is right no digest
//! says, and `verify` names the regions.
//!
//! Cost: one small message for each second in which something was applied; none for an idle volume.

use crate::api::Output;
use crate::replica::{Replica, Role};
use holdfast_format::message::Message;
use holdfast_types::{Epoch, Lsn, NodeId, PROOF_RECORDS, Time};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// At most one proof in this time.
const PAUSE: Duration = Duration::from_secs(1);
/// Digests of the own image that are remembered.
const OWN: usize = 64;
/// Proofs of a member that are ahead of the own image.
const THEIRS: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Proofs {
    /// Digests of this copy, oldest first; the last one is that of the image now.
    own: VecDeque<(Lsn, u64)>,
    theirs: BTreeMap<NodeId, VecDeque<(Lsn, u64)>>,
    /// Members that differed when they were last compared, and where.
    pub(crate) differs: BTreeMap<NodeId, Lsn>,
    /// Digests of members that were compared.
    pub(crate) compared: u64,
    /// What a secondary told last.
    told: Lsn,
    next_at: Time,
    /// When the image will have come to rest.
    rest_at: Option<Time>,
}

impl Proofs {
    pub(crate) fn new(applied: Lsn, digest: u64) -> Proofs {
        Proofs { own: VecDeque::from([(applied, digest)]), ..Proofs::default() }
    }

    pub(crate) fn next_timeout(&self) -> Option<Time> {
        self.rest_at
    }

    /// Another reign: what was said in the one before is compared no more.
    pub(crate) fn forget(&mut self) {
        self.theirs.clear();
        self.differs.clear();
    }

    fn own_at(&self, lsn: Lsn) -> Option<u64> {
        self.own.iter().find(|(at, _)| *at == lsn).map(|(_, digest)| *digest)
    }

    fn note_own(&mut self, lsn: Lsn, digest: u64) {
        // A record that is no meeting point was only the end of the image.
        if self.own.back().is_some_and(|(at, _)| !at.0.is_multiple_of(PROOF_RECORDS)) {
            self.own.pop_back();
        }
        if self.own.len() >= OWN {
            self.own.pop_front();
        }
        self.own.push_back((lsn, digest));
    }
}

impl Replica {
    /// The image holds everything up to `lsn`.
    pub(crate) fn on_applied(&mut self, lsn: Lsn, digest: u64, now: Time, out: &mut Vec<Output>) {
        self.log.note_applied(lsn, digest);
        self.proofs.note_own(lsn, digest);
        self.compare_learners(lsn, digest, out);
        if matches!(self.role, Role::Reign(_)) {
            let members: Vec<NodeId> = self.proofs.theirs.keys().copied().collect();
            members.into_iter().for_each(|member| self.compare_proofs(member, out));
            return;
        }
        if lsn.0.is_multiple_of(PROOF_RECORDS) && now >= self.proofs.next_at {
            self.prove(now, out);
        }
        self.proofs.rest_at = Some(now + PAUSE);
    }

    /// The image has come to rest: its digest is one that the primary will know, too.
    pub(crate) fn step_proofs(&mut self, now: Time, out: &mut Vec<Output>) {
        if self.proofs.rest_at.is_some_and(|at| now >= at) {
            self.proofs.rest_at = None;
            self.prove(now, out);
        }
    }

    fn prove(&mut self, now: Time, out: &mut Vec<Output>) {
        let Some((applied, digest)) = self.proofs.own.back().copied() else { return };
        let Some((leader, epoch)) = self.leader.filter(|(_, epoch)| *epoch == self.log.adopted) else { return };
        if applied > self.proofs.told {
            self.proofs.told = applied;
            self.proofs.next_at = now + PAUSE;
            self.send(leader, Message::Proof { epoch, applied, digest }, out);
        }
    }

    /// A member says what its image is.
    pub(crate) fn on_proof(&mut self, from: NodeId, epoch: Epoch, lsn: Lsn, digest: u64, out: &mut Vec<Output>) {
        let Role::Reign(r) = &self.role else { return };
        if r.epoch() != epoch {
            return;
        }
        let theirs = self.proofs.theirs.entry(from).or_default();
        if theirs.len() >= THEIRS {
            theirs.pop_front();
        }
        theirs.push_back((lsn, digest));
        self.compare_proofs(from, out);
    }

    /// Compares what can be compared; what was passed without a digest of this copy can't be any more.
    fn compare_proofs(&mut self, member: NodeId, out: &mut Vec<Output>) {
        let applied = self.proofs.own.back().map_or(Lsn::ZERO, |own| own.0);
        loop {
            let theirs = self.proofs.theirs.entry(member).or_default();
            let Some((lsn, digest)) = theirs.front().copied().filter(|(lsn, _)| *lsn <= applied) else { return };
            theirs.pop_front();
            if let Some(own) = self.proofs.own_at(lsn) {
                self.compared(member, lsn, own == digest, out);
            }
        }
    }

    /// The images of this copy and a member's were compared at one record.
    pub(crate) fn compared(&mut self, member: NodeId, lsn: Lsn, equal: bool, out: &mut Vec<Output>) {
        self.proofs.compared += 1;
        if equal {
            if self.proofs.differs.remove(&member).is_some() {
                out.push(Output::Event(format!("the copies here and on {member} are equal again at record {lsn}")));
            }
        } else if self.proofs.differs.insert(member, lsn).is_none() {
            out.push(Output::Event(format!(
                "the copies here and on {member} differ at record {lsn}: `holdfast verify` names the regions; scrub both \
                 copies, then replace the one that is wrong"
            )));
        }
    }
}
