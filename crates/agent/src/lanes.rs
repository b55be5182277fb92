//! Which peers can be talked to, in both directions.
//!
//! A question sent on a lane that is up would be lost for good if its answer found no lane back. So a peer counts as up on
//! a lane only while both the stream to it and the stream from it are open; when either is replaced, the peer goes down
//! and up again, and the replica greets it anew.

use holdfast_transport::Lane;
use holdfast_types::NodeId;
use std::collections::BTreeMap;

/// What changed for a peer on a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing that the replica needs to know.
    None,
    /// Up now.
    Up,
    /// Down now.
    Down,
}

#[derive(Clone, Copy, Debug, Default)]
struct Streams {
    outgoing: Option<u64>,
    incoming: Option<u64>,
}

impl Streams {
    fn is_up(self) -> bool {
        self.outgoing.is_some() && self.incoming.is_some()
    }
}

/// The streams of all peers and lanes.
#[derive(Debug, Default)]
pub(crate) struct Lanes(BTreeMap<(NodeId, Lane), Streams>);

impl Lanes {
    /// The stream to a peer opened or ended.
    pub(crate) fn outgoing(&mut self, peer: NodeId, lane: Lane, session: Option<u64>) -> Change {
        self.change(peer, lane, |s| s.outgoing = session)
    }

    /// The stream from a peer opened.
    pub(crate) fn incoming(&mut self, peer: NodeId, lane: Lane, session: u64) -> Change {
        self.change(peer, lane, |s| s.incoming = Some(session))
    }

    /// A stream from a peer ended; an older one than the present one changes nothing.
    pub(crate) fn incoming_closed(&mut self, peer: NodeId, lane: Lane, session: u64) -> Change {
        self.change(peer, lane, |s| {
            if s.incoming == Some(session) {
                s.incoming = None;
            }
        })
    }

    /// The session under which messages may be sent to a peer, while it is up.
    pub(crate) fn session(&self, peer: NodeId, lane: Lane) -> Option<u64> {
        self.0.get(&(peer, lane)).filter(|s| s.is_up()).and_then(|s| s.outgoing)
    }

    /// Whether a message that arrived under `session` belongs to the present stream.
    pub(crate) fn is_current(&self, peer: NodeId, lane: Lane, session: u64) -> bool {
        self.0.get(&(peer, lane)).is_some_and(|s| s.incoming == Some(session))
    }

    /// Whether the peer is up on the lane with another incoming stream than `session`.
    pub(crate) fn is_up_with_other(&self, peer: NodeId, lane: Lane, session: u64) -> bool {
        self.0.get(&(peer, lane)).is_some_and(|s| s.is_up() && s.incoming != Some(session))
    }

    fn change(&mut self, peer: NodeId, lane: Lane, act: impl FnOnce(&mut Streams)) -> Change {
        let streams = self.0.entry((peer, lane)).or_default();
        let was = streams.is_up();
        act(streams);
        match (was, streams.is_up()) {
            (false, true) => Change::Up,
            (true, false) => Change::Down,
            _ => Change::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId(2);

    #[test]
    fn up_takes_both_directions() {
        let mut lanes = Lanes::default();
        assert_eq!(lanes.outgoing(PEER, Lane::Beat, Some(1)), Change::None);
        assert_eq!(lanes.session(PEER, Lane::Beat), None);
        assert_eq!(lanes.incoming(PEER, Lane::Beat, 7), Change::Up);
        assert_eq!(lanes.session(PEER, Lane::Beat), Some(1));
        assert_eq!(lanes.incoming_closed(PEER, Lane::Beat, 6), Change::None, "an older stream");
        assert_eq!(lanes.incoming_closed(PEER, Lane::Beat, 7), Change::Down);
        assert!(!lanes.is_current(PEER, Lane::Beat, 7));
    }
}
