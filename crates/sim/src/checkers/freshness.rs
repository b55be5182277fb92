//! S13: a primary that has been superseded serves no read that was invoked after its successor's activation.

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
