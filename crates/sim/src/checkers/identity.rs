//! S20: a node whose disk was wiped never again speaks for the copy that it had.

use super::Violation;
use holdfast_format::message::Message;
use holdfast_types::{NodeId, VolumeId};
use std::collections::BTreeSet;

#[derive(Debug, Default)]
pub(crate) struct Identity {
    wiped: BTreeSet<NodeId>,
    /// Copies that were made after that, under a name of their own.
    renewed: BTreeSet<(NodeId, VolumeId)>,
}

impl Identity {
    pub(crate) fn wiped(&mut self, node: NodeId) {
        self.wiped.insert(node);
        self.renewed.retain(|(n, _)| *n != node);
    }

    /// The control plane knows another copy there.
    pub(crate) fn renewed(&mut self, node: NodeId, volume: VolumeId) {
        self.renewed.insert((node, volume));
    }

    pub(crate) fn sent(&self, node: NodeId, volume: VolumeId, message: &Message) -> Result<(), Violation> {
        let counts = matches!(message, Message::Tail { .. } | Message::AppendAck { .. } | Message::Append { .. });
        if counts && self.wiped.contains(&node) && !self.renewed.contains(&(node, volume)) {
            let text = format!("{node} lost its disk and still speaks for its copy of {volume}: {message:?}");
            return Err(Violation::new("S20", text));
        }
        Ok(())
    }
}
