//! Which copies something happened to, and when the others want to be called: one write does not make a shard look at each of a
//! hundred idle volumes.

use holdfast_types::{Time, VolumeId};
use std::collections::{BTreeMap, BTreeSet};

/// What is to be looked at, and when. A touched copy has no time here: it may have another one by now.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    touched: BTreeSet<VolumeId>,
    times: BTreeMap<VolumeId, Time>,
    due: BTreeSet<(Time, VolumeId)>,
    /// Copies that led when they were looked at last.
    leading: BTreeSet<VolumeId>,
}

impl Agenda {
    /// Something happened to the copy.
    pub(super) fn touch(&mut self, volume: VolumeId) {
        if self.touched.insert(volume) {
            self.unset(volume);
        }
    }

    /// The copy has no replica any more.
    pub(super) fn forget(&mut self, volume: VolumeId) {
        self.touched.remove(&volume);
        self.leading.remove(&volume);
        self.unset(volume);
    }

    pub(super) const fn touched(&self) -> &BTreeSet<VolumeId> {
        &self.touched
    }

    /// What was touched; the caller looks at it now.
    pub(super) fn take(&mut self) -> BTreeSet<VolumeId> {
        std::mem::take(&mut self.touched)
    }

    /// When a copy that was looked at wants to be called, and whether it leads; one that was touched meanwhile is asked later.
    pub(super) fn set(&mut self, volume: VolumeId, at: Option<Time>, leads: bool) {
        if leads {
            self.leading.insert(volume)
        } else {
            self.leading.remove(&volume)
        };
        if self.touched.contains(&volume) {
            return;
        }
        self.unset(volume);
        if let Some(at) = at {
            self.times.insert(volume, at);
            self.due.insert((at, volume));
        }
    }

    /// The earliest time of any copy that was not touched.
    pub(super) fn next(&self) -> Option<Time> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Whether any copy led when it was looked at last.
    pub(super) fn leads(&self) -> bool {
        !self.leading.is_empty()
    }

    /// Copies to call now: those whose time has come, and the touched ones.
    pub(super) fn due(&self, now: Time) -> BTreeSet<VolumeId> {
        let times = self.due.iter().take_while(|(at, _)| *at <= now).map(|(_, volume)| *volume);
        times.chain(self.touched.iter().copied()).collect()
    }

    fn unset(&mut self, volume: VolumeId) {
        if let Some(at) = self.times.remove(&volume) {
            self.due.remove(&(at, volume));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: VolumeId = VolumeId(1);
    const B: VolumeId = VolumeId(2);

    #[test]
    fn a_touched_copy_is_asked_anew() {
        let mut agenda = Agenda::default();
        agenda.set(A, Some(Time(5)), true);
        agenda.set(B, Some(Time(9)), false);
        assert_eq!((agenda.next(), agenda.due(Time(5))), (Some(Time(5)), BTreeSet::from([A])));
        agenda.touch(A);
        assert_eq!((agenda.next(), agenda.due(Time(4))), (Some(Time(9)), BTreeSet::from([A])));
        agenda.set(A, Some(Time(7)), true);
        assert_eq!(agenda.next(), Some(Time(9)), "not before it was looked at");
        assert_eq!(agenda.take(), BTreeSet::from([A]));
        agenda.set(A, Some(Time(7)), true);
        assert_eq!(agenda.next(), Some(Time(7)));
        assert!(agenda.leads());
        agenda.forget(A);
        agenda.set(B, None, true);
        agenda.forget(B);
        assert!(!agenda.leads());
        assert_eq!((agenda.next(), agenda.due(Time(99))), (None, BTreeSet::new()));
    }
}
