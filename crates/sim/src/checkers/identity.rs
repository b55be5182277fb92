//! S20: a node whose disk was wiped never again speaks for the copy that it had.

use super::Violation;
use holdfast_format::message::Message;
use holdfast_types::{NodeId, VolumeId};
use std::collections::BTreeSet;

#[derive(Debug, Default)]
pub(crate) struct Identity {
    wiped: BTreeSet<NodeId>,
}

impl Identity {
    pub(crate) fn wiped(&mut self, node: NodeId) {
        self.wiped.insert(node);
    }

    pub(crate) fn sent(&self, node: NodeId, volume: VolumeId, message: &Message) -> Result<(), Violation> {
        let counts = matches!(message, Message::Tail { .. } | Message::AppendAck { .. } | Message::Append { .. });
        if counts && self.wiped.contains(&node) {
            let text = format!("{node} lost its disk and still speaks for its copy of {volume}: {message:?}");
            return Err(Violation::new("S20", text));
        }
        Ok(())
    }
}
