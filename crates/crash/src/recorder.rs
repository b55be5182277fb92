//! What a real device was asked to do, as it was asked: from it the directory can be rebuilt as a power cut may leave it.

use crate::cache::Cache;
use crate::medium::{Cut, Effect};
use holdfast_store::io::FileId;
use std::collections::BTreeMap;

/// A call that was given to the kernel.
#[derive(Clone, Debug)]
pub enum Issued {
    /// A change; true if it is on stable storage when it ends well.
    Change(Effect, bool),
    /// What ended before is on stable storage when this ends well.
    Sync,
}

/// The calls of a device, and what is certain by them.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    cache: Cache,
    flying: BTreeMap<u64, (FileId, Issued, u64)>,
    /// Calls that were issued.
    pub calls: u64,
}

impl Recorder {
    /// A call was given out; `ticket` names it until it ends.
    pub fn issued(&mut self, ticket: u64, file: FileId, call: Issued) {
        self.calls += 1;
        let before = self.flying.insert(ticket, (file, call, self.cache.clock()));
        assert!(before.is_none(), "a ticket names one call at a time");
    }

    /// A call ended. What it has not done entirely it may have done in part, for ever.
    pub fn ended(&mut self, ticket: u64, well: bool) {
        let (file, call, issued) = self.flying.remove(&ticket).expect("a call that ends was issued");
        match call {
            Issued::Change(effect, durable) => self.cache.happen(file, effect, durable && well),
            Issued::Sync => self.cache.sync(file, issued, !well),
        }
    }

    /// A power cut now.
    #[must_use]
    pub fn cut(&self) -> Cut {
        self.cache.cut(self.flying.values().filter_map(|(file, call, _)| match call {
            Issued::Change(effect, _) => Some((*file, effect.clone())),
            Issued::Sync => None,
        }))
    }
}
