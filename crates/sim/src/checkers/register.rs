//! S1, S2, S4, S7, S8, S9, S10 and S12 as a guest sees them: every sector is a linearizable register.
//!
//! Each write has its own number, in every sector that it writes, so a read tells which writes it saw. A write takes effect
//! at one point between its invocation and its `upper` bound, or (unanswered) never: the bound is its answer, the end of
//! its session, or the activation of an epoch after its own, whichever came first. What was certainly overwritten, or
//! certainly absent when a read looked, is dead: a read invoked later may not return it. Every rule here follows from
//! linearizability, so a history that is linearizable never fails.

use super::Violation;
use crate::log::Nanos;
use crate::options::index;
use holdfast_types::{Epoch, NodeId, SECTOR_SIZE, VolumeSize};
use std::collections::{BTreeMap, BTreeSet};

/// What a request does to sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpKind {
    Read,
    Write,
    /// Write zeroes, or discard.
    Zero,
    Flush,
}

/// A change of sectors.
#[derive(Clone, Debug)]
struct Change {
    zero: bool,
    first: u64,
    count: u64,
    invoked: Nanos,
    epoch: Epoch,
    answered: Option<Nanos>,
    /// When its session ended; true: the guest closed it.
    closed: Option<(Nanos, bool)>,
    errored: bool,
    observed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    change: u64,
    /// Reads invoked after this may not return it.
    dead_since: Option<Nanos>,
    /// Who overwrote it, as far as is known: number of the change, or of the read that did not see it.
    killer: u64,
}

/// One volume's sectors.
#[derive(Debug)]
pub(crate) struct Register {
    changes: BTreeMap<u64, Change>,
    sectors: Vec<Vec<Entry>>,
    activations: BTreeMap<Epoch, Nanos>,
    /// Reads under way, oldest invocation first.
    reads: BTreeSet<(Nanos, u64)>,
}

/// Dead entries are kept for the message of a violation until a sector has more than this many.
const KEPT: usize = 24;

impl Register {
    pub(crate) fn new(size: VolumeSize) -> Register {
        let initial = Change {
            zero: true,
            first: 0,
            count: 0,
            invoked: 0,
            epoch: Epoch::ZERO,
            answered: Some(0),
            closed: None,
            errored: false,
            observed: true,
        };
        // A volume may grow to whole blocks.
        let sectors = index(size.blocks().bytes()) / SECTOR_SIZE;
        Register {
            changes: BTreeMap::from([(0, initial)]),
            sectors: vec![vec![Entry { change: 0, dead_since: None, killer: 0 }]; sectors],
            activations: BTreeMap::new(),
            reads: BTreeSet::new(),
        }
    }

    pub(crate) fn activated(&mut self, epoch: Epoch, now: Nanos) {
        self.activations.insert(epoch, now);
    }

    pub(crate) fn invoked(&mut self, id: u64, kind: OpKind, first: u64, count: u64, epoch: Epoch, now: Nanos) {
        match kind {
            OpKind::Flush => {}
            OpKind::Read => {
                self.reads.insert((now, id));
            }
            OpKind::Write | OpKind::Zero => {
                let zero = kind == OpKind::Zero;
                let change = Change {
                    zero,
                    first,
                    count,
                    invoked: now,
                    epoch,
                    answered: None,
                    closed: None,
                    errored: false,
                    observed: false,
                };
                self.changes.insert(id, change);
                for sector in &mut self.sectors[index(first)..index(first + count)] {
                    sector.push(Entry { change: id, dead_since: None, killer: 0 });
                }
            }
        }
    }

    /// A change was answered: whatever certainly came before it is overwritten.
    pub(crate) fn answered(&mut self, id: u64, now: Nanos) {
        let Some(change) = self.changes.get_mut(&id) else { return };
        change.answered = Some(now);
        let (first, count, invoked) = (change.first, change.count, change.invoked);
        for sector in first..first + count {
            self.kill_before(sector, invoked, id, id, now);
        }
        self.prune(first, count);
    }

    /// A change was answered with an error: it may never be seen (S10).
    pub(crate) fn errored(&mut self, id: u64, now: Nanos) {
        let Some(change) = self.changes.get_mut(&id) else { return };
        change.errored = true;
        change.answered = Some(now);
        for sector in &mut self.sectors[index(change.first)..index(change.first + change.count)] {
            sector.iter_mut().filter(|e| e.change == id).for_each(|e| e.dead_since = Some(now));
        }
    }

    /// The session of an unanswered change ended.
    pub(crate) fn closed(&mut self, id: u64, by_guest: bool, now: Nanos) {
        if let Some(change) = self.changes.get_mut(&id) {
            change.closed.get_or_insert((now, by_guest));
        }
    }

    /// Whether the guest was told that a change is done.
    pub(crate) fn was_answered(&self, change: u64) -> bool {
        self.changes.get(&change).is_some_and(|c| c.answered.is_some() && !c.errored)
    }

    /// An operator gave up a part of the log: what each sector holds is what the rest of the log says, whatever was answered.
    pub(crate) fn roll_back(&mut self, now: Nanos, held: impl Fn(u64) -> u64) {
        for (sector, entries) in (0..).zip(&mut self.sectors) {
            let survivor = held(sector);
            for e in entries.iter_mut() {
                e.dead_since = Some(e.dead_since.unwrap_or(now).min(now));
            }
            entries.retain(|e| e.change != survivor);
            entries.push(Entry { change: survivor, dead_since: None, killer: 0 });
        }
    }

    /// A read will never be answered.
    pub(crate) fn read_dropped(&mut self, id: u64, invoked: Nanos) {
        self.reads.remove(&(invoked, id));
    }

    /// A read found these changes in its sectors; 0 stands for zeros.
    pub(crate) fn read(
        &mut self,
        id: u64,
        node: NodeId,
        first: u64,
        invoked: Nanos,
        found: &[u64],
        now: Nanos,
    ) -> Result<(), Violation> {
        self.reads.remove(&(invoked, id));
        for (sector, value) in (first..).zip(found) {
            self.judge(node, sector, *value, invoked)?;
            if let Some(change) = self.changes.get_mut(value) {
                change.observed = true;
            }
            self.kill_before(sector, invoked, *value, id, now);
        }
        self.prune(first, found.len() as u64);
        Ok(())
    }

    fn judge(&self, node: NodeId, sector: u64, value: u64, invoked: Nanos) -> Result<(), Violation> {
        let entries = &self.sectors[index(sector)];
        let matches = |e: &&Entry| if value == 0 { self.changes[&e.change].zero } else { e.change == value };
        let alive = entries.iter().filter(matches).any(|e| e.dead_since.is_none_or(|d| d >= invoked));
        if alive {
            return Ok(());
        }
        let dead = entries.iter().rfind(matches).copied();
        let property = dead.map_or("S4", |e| self.blame(&e, value));
        let found =
            if value == 0 { "zeros".to_owned() } else { format!("change {value} ({:?})", self.changes.get(&value)) };
        let newest = entries
            .iter()
            .rev()
            .take(4)
            .map(|e| format!("{}: {:?}", e.change, self.changes[&e.change]))
            .collect::<Vec<_>>();
        Err(Violation::new(
            property,
            format!(
                "a read at {node} invoked at {invoked} ns found {found} in sector {sector}, which was dead since {:?} (killer {:?}); \
                 newest changes there: {}",
                dead.and_then(|e| e.dead_since),
                dead.map(|e| e.killer),
                newest.join("; ")
            ),
        ))
    }

    /// Which property a read of a dead change breaks.
    fn blame(&self, dead: &Entry, value: u64) -> &'static str {
        let this = &self.changes[&dead.change];
        if this.errored {
            return "S10";
        }
        match self.changes.get(&dead.killer) {
            Some(k) if k.zero => "S7",
            Some(_) if value != 0 && this.closed.is_some_and(|(_, by_guest)| by_guest) => "S12",
            Some(_) => "S1",
            None if value == 0 || this.observed || this.answered.is_some() => "S9",
            None => "S8",
        }
    }

    /// Everything in `sector` that certainly took effect before `moment`, or never, is dead from `now` on, but `survivor`.
    fn kill_before(&mut self, sector: u64, moment: Nanos, survivor: u64, killer: u64, now: Nanos) {
        let (changes, activations) = (&self.changes, &self.activations);
        for e in &mut self.sectors[index(sector)] {
            let change = &changes[&e.change];
            // Zeros are the same whoever wrote them: a read of zeros may have seen any of them.
            let same = e.change == survivor || (survivor == 0 && change.zero);
            if e.dead_since.is_none() && !same && upper(change, activations).is_some_and(|u| u < moment) {
                (e.dead_since, e.killer) = (Some(now), killer);
            }
        }
    }

    fn prune(&mut self, first: u64, count: u64) {
        let oldest = self.reads.first().map_or(Nanos::MAX, |r| r.0);
        for sector in &mut self.sectors[index(first)..index(first + count)] {
            if sector.len() > KEPT {
                sector.retain(|e| e.dead_since.is_none_or(|d| d >= oldest));
            }
        }
    }
}

/// The change took effect before this, or never. `None`: not known yet.
fn upper(change: &Change, activations: &BTreeMap<Epoch, Nanos>) -> Option<Nanos> {
    let superseded = activations.range(change.epoch.next()..).next().map(|(_, at)| *at);
    [change.answered, change.closed.map(|c| c.0), superseded].into_iter().flatten().min()
}

fn seal_of(change: u64, sector: u64) -> u64 {
    holdfast_types::Rng::new(change.rotate_left(32) ^ sector).next_u64()
}

/// What change `change` writes to `sector`.
pub(crate) fn sector_content(change: u64, sector: u64) -> [u8; SECTOR_SIZE] {
    let mut content = [0; SECTOR_SIZE];
    let seal = seal_of(change, sector);
    content[..8].copy_from_slice(&change.to_le_bytes());
    content[8..16].copy_from_slice(&sector.to_le_bytes());
    for (i, word) in (0u64..).zip(content[16..].chunks_exact_mut(8)) {
        word.copy_from_slice(&seal.wrapping_add(i).to_le_bytes());
    }
    content
}

/// Which change wrote this content of `sector`: 0 for zeros, `None` for bytes that nobody wrote there.
pub(crate) fn change_in(content: &[u8], sector: u64) -> Option<u64> {
    let change = u64::from_le_bytes(content[..8].try_into().expect("eight bytes"));
    if change == 0 {
        return content.iter().all(|b| *b == 0).then_some(0);
    }
    (content == sector_content(change, sector)).then_some(change)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn register() -> Register {
        Register::new(VolumeSize::new(8 * 512).unwrap())
    }

    fn write(r: &mut Register, id: u64, invoked: Nanos, answered: Option<Nanos>) {
        r.invoked(id, OpKind::Write, 0, 1, Epoch(1), invoked);
        if let Some(at) = answered {
            r.answered(id, at);
        }
    }

    fn read(r: &mut Register, from: Nanos, to: Nanos, found: u64) -> Result<(), &'static str> {
        r.invoked(1_000 + to, OpKind::Read, 0, 1, Epoch(1), from);
        r.read(1_000 + to, NodeId(1), 0, from, &[found], to).map_err(|v| v.property)
    }

    #[test]
    fn an_answered_write_is_seen() {
        let mut r = register();
        write(&mut r, 1, 10, Some(20));
        assert_eq!(read(&mut r, 30, 40, 1), Ok(()));
        assert_eq!(read(&mut r, 50, 60, 0), Err("S1"));
    }

    #[test]
    fn a_concurrent_write_may_be_seen_or_not() {
        let mut r = register();
        write(&mut r, 1, 10, Some(20));
        r.invoked(2, OpKind::Write, 0, 1, Epoch(1), 30);
        assert_eq!(read(&mut r, 40, 50, 1), Ok(()));
        assert_eq!(read(&mut r, 60, 70, 2), Ok(()));
        assert_eq!(read(&mut r, 80, 90, 1), Err("S9"), "what was seen stays");
    }

    #[test]
    fn the_first_read_of_a_new_epoch_fixes_fates() {
        let mut r = register();
        write(&mut r, 1, 10, Some(20));
        r.invoked(2, OpKind::Write, 0, 1, Epoch(1), 30);
        r.activated(Epoch(2), 100);
        assert_eq!(read(&mut r, 110, 120, 1), Ok(()), "absent: so it stays absent");
        assert_eq!(read(&mut r, 130, 140, 2), Err("S8"));
    }

    #[test]
    fn zeros_are_zeros_whoever_wrote_them() {
        let mut r = register();
        write(&mut r, 1, 10, Some(20));
        r.invoked(2, OpKind::Zero, 0, 1, Epoch(1), 30);
        r.answered(2, 40);
        assert_eq!(read(&mut r, 50, 60, 0), Ok(()));
        assert_eq!(read(&mut r, 70, 80, 1), Err("S7"));
    }

    #[test]
    fn an_error_is_final() {
        let mut r = register();
        r.invoked(1, OpKind::Write, 0, 1, Epoch(1), 10);
        r.errored(1, 20);
        assert_eq!(read(&mut r, 30, 40, 1), Err("S10"));
    }

    #[test]
    fn a_closed_session_can_not_overwrite_a_newer_one() {
        let mut r = register();
        r.invoked(1, OpKind::Write, 0, 1, Epoch(1), 10);
        r.closed(1, true, 20);
        write(&mut r, 2, 30, Some(40));
        assert_eq!(read(&mut r, 50, 60, 1), Err("S12"));
    }

    #[test]
    fn content_names_its_change_and_its_place() {
        assert_eq!(change_in(&sector_content(7, 3), 3), Some(7));
        assert_eq!(change_in(&sector_content(7, 3), 4), None);
        assert_eq!(change_in(&[0; 512], 4), Some(0));
    }
}
