//! What lies between a store and stable storage: which changes are certain, and which a power cut may take.

use crate::medium::{Changes, Cut, Effect, Medium};
use holdfast_store::io::FileId;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
struct Late {
    at: u64,
    effect: Effect,
    certain: bool,
    /// A sync failed on it.
    dropped: bool,
}

/// Stable storage, and what was changed since.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cache {
    medium: Medium,
    visible: Medium,
    late: BTreeMap<FileId, Vec<Late>>,
    clock: u64,
}

impl Cache {
    pub(crate) fn on(medium: Medium) -> Cache {
        Cache { visible: medium.clone(), medium, ..Cache::default() }
    }

    /// What reads see.
    pub(crate) const fn visible(&self) -> &Medium {
        &self.visible
    }

    /// Counts changes: a sync covers those up to its issue.
    pub(crate) const fn clock(&self) -> u64 {
        self.clock
    }

    /// A change has happened; `certain` if it is on stable storage.
    pub(crate) fn happen(&mut self, file: FileId, effect: Effect, certain: bool) {
        self.clock += 1;
        self.visible.apply(file, &effect, None);
        if matches!(effect, Effect::Create(_) | Effect::Delete) {
            self.late.remove(&file);
            return self.medium.apply(file, &effect, None);
        }
        if self.visible.0.contains_key(&file) {
            self.late.entry(file).or_default().push(Late { at: self.clock, effect, certain, dropped: false });
            self.settle(file);
        }
    }

    /// What is certain and lies below everything uncertain goes to the medium.
    fn settle(&mut self, file: FileId) {
        let Some(late) = self.late.get_mut(&file) else { return };
        let n = late.iter().position(|l| !l.certain).unwrap_or(late.len());
        for l in late.drain(..n) {
            self.medium.apply(file, &l.effect, None);
        }
        if late.is_empty() {
            self.late.remove(&file);
        }
    }

    /// A sync ended that was given out at `issued`; one that failed has dropped what it was to bring.
    pub(crate) fn sync(&mut self, file: FileId, issued: u64, failed: bool) {
        let late = self.late.get_mut(&file).into_iter().flatten().filter(|l| l.at <= issued && !l.dropped);
        late.for_each(|l| (l.certain, l.dropped) = (!failed, failed));
        self.settle(file);
    }

    /// What a failed sync dropped is gone: the next life reads what the device has.
    pub(crate) fn forget_dropped(&mut self) {
        for (file, late) in &mut self.late {
            if late.iter().any(|l| l.dropped) {
                late.retain(|l| !l.dropped);
                let content = self.medium.0.get(file).expect("a file with late writes is there").clone();
                self.visible.0.insert(*file, content);
                late.iter().for_each(|l| self.visible.apply(*file, &l.effect, None));
            }
        }
        self.late.retain(|_, late| !late.is_empty());
    }

    /// A power cut now, with these changes under way.
    pub(crate) fn cut(&self, flying: impl Iterator<Item = (FileId, Effect)>) -> Cut {
        let mut changes = Changes::new();
        for (file, late) in &self.late {
            changes.extend(late.iter().map(|l| (*file, l.effect.clone(), l.certain)));
        }
        changes.extend(flying.map(|(file, effect)| (file, effect, false)));
        Cut { medium: self.medium.clone(), changes }
    }
}
