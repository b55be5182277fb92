//! Follows one volume or one node through a log of events.

use holdfast_types::{NodeId, VolumeId};
use std::collections::BTreeSet;

/// What happens to everybody: shown whoever is followed.
const FRAME: [&str; 3] = ["storm", "settle", "violation"];
/// What happens to a node, and so to all its volumes.
const NODES: [&str; 6] = ["start", "crash", "wipe", "pause", "partition", "diskfault"];

/// Which events are shown; the default shows all.
#[derive(Clone, Debug, Default)]
pub struct Follow {
    volume: Option<String>,
    node: Option<String>,
    /// Disk operations that were shown: their ends are shown as well.
    under_way: BTreeSet<String>,
}

impl Follow {
    /// Events of this volume, and of this node.
    #[must_use]
    pub fn new(volume: Option<VolumeId>, node: Option<NodeId>) -> Follow {
        Follow { volume: volume.map(|v| v.to_string()), node: node.map(|n| n.to_string()), under_way: BTreeSet::new() }
    }

    /// Whether an event, as the log tells it, is to be shown. To be asked about each, in order.
    pub fn shows(&mut self, line: &str) -> bool {
        let mut words = line.split_whitespace().skip(1);
        let kind = words.next().unwrap_or_default();
        let operation: Vec<&str> = words.take(3).collect();
        let operation = operation.join(" ");
        if FRAME.contains(&kind) {
            return true;
        }
        let node_fits = self.node.as_ref().is_none_or(|n| mentions(line, n));
        let ends = kind == "done" && self.under_way.remove(&operation);
        let whole_node = self.volume.is_some() && NODES.contains(&kind);
        let volume_fits = whole_node || ends || self.volume.as_ref().is_none_or(|v| mentions(line, v));
        let shown = node_fits && volume_fits;
        if shown && kind == "disk" {
            self.under_way.insert(operation);
        }
        shown
    }
}

/// Whether a text has this word.
fn mentions(text: &str, word: &str) -> bool {
    text.split(|c: char| !c.is_ascii_alphanumeric()).any(|w| w == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: [&str; 9] = [
        "  0.500000 storm     fault 0: Crash",
        "  0.500000 crash     n1",
        "  0.600000 send      n2 to n3 v1: append",
        "  0.600000 send      n2 to n3 v11: append",
        "  0.600000 disk      n2 op 7 Image(v1) write 0+512 durable=true",
        "  0.600000 disk      n2 op 8 Image(v2) write 0+512 durable=true",
        "  0.700000 done      n2 op 8 None",
        "  0.700000 done      n2 op 7 None",
        "  0.800000 settle    everything heals",
    ];

    fn shown(mut follow: Follow) -> Vec<usize> {
        (0..LOG.len()).filter(|i| follow.shows(LOG[*i])).collect()
    }

    #[test]
    fn a_volume_or_a_node_can_be_followed() {
        assert_eq!(shown(Follow::default()), (0..LOG.len()).collect::<Vec<_>>());
        assert_eq!(shown(Follow::new(Some(VolumeId(1)), None)), [0, 1, 2, 4, 7, 8]);
        assert_eq!(shown(Follow::new(None, Some(NodeId(1)))), [0, 1, 8]);
        assert_eq!(shown(Follow::new(Some(VolumeId(2)), Some(NodeId(2)))), [0, 5, 6, 8]);
    }
}
