//! S13: a primary that has been superseded serves no read that was invoked after its successor's activation. P5: one that
//! was stopped meanwhile answers nothing at all.

use super::Violation;
use crate::log::Nanos;
use holdfast_types::{Epoch, NodeId};
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(crate) struct Freshness {
    activations: BTreeMap<Epoch, Nanos>,
}

impl Freshness {
    pub(crate) fn activated(&mut self, epoch: Epoch, now: Nanos) {
        self.activations.insert(epoch, now);
    }

    /// A process that was stopped for longer than the lease runs again since `resumed`: if it was deposed by then, it must
    /// answer nothing, not even what a quorum held before.
    pub(crate) fn answered(&self, node: NodeId, epoch: Epoch, resumed: Nanos) -> Result<(), Violation> {
        match self.activations.range(epoch.next()..).next() {
            Some((newer, at)) if *at < resumed => {
                let text = format!("{node} was stopped, deposed by {newer}, and answered a request of {epoch}");
                Err(Violation::new("P5", text))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn read(&self, node: NodeId, epoch: Epoch, invoked: Nanos) -> Result<(), Violation> {
        match self.activations.range(epoch.next()..).next() {
            Some((newer, at)) if *at < invoked => {
                let text = format!(
                    "{node} served a read in {epoch} that was invoked {} us after {newer} was active",
                    (invoked - at) / 1000
                );
                Err(Violation::new("S13", text))
            }
            _ => Ok(()),
        }
    }
}
