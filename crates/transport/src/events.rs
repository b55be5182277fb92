//! What the endpoint tells its owner, in two bounded queues: urgent lanes never wait behind bulk.

use crate::config::Lane;
use crate::join::JoinReply;
use bytes::Bytes;
use holdfast_types::NodeId;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};

/// Events that wait in one queue, beside the limit in bytes.
const MAX_EVENTS: usize = 4096;

/// Something happened. Sessions are numbers of this process, never used twice.
#[derive(Debug)]
pub enum Event {
    /// An outgoing lane is open: the peer has accepted us, and takes messages of this session.
    LaneUp {
        /// To whom.
        peer: NodeId,
        /// Which lane.
        lane: Lane,
        /// Names this stream in `send`.
        session: u64,
    },
    /// An outgoing session is over; what was sent may or may not have arrived, as a prefix.
    LaneDown {
        /// To whom.
        peer: NodeId,
        /// Which lane.
        lane: Lane,
        /// The session of the `LaneUp`.
        session: u64,
    },
    /// A peer has opened a lane to us.
    Incoming {
        /// Who.
        peer: NodeId,
        /// Which lane.
        lane: Lane,
        /// Names this stream.
        session: u64,
    },
    /// An incoming session is over: none of its messages follows.
    IncomingClosed {
        /// Who.
        peer: NodeId,
        /// Which lane.
        lane: Lane,
        /// The session of the `Incoming`.
        session: u64,
    },
    /// A message, in the order of its lane.
    Message {
        /// Who sent it.
        peer: NodeId,
        /// On which lane.
        lane: Lane,
        /// The session of the `Incoming`.
        session: u64,
        /// What was sent, in one piece.
        bytes: Bytes,
    },
    /// A peer says, and proves to be one, that this node was removed from the cluster.
    Removed {
        /// Who.
        by: NodeId,
    },
    /// Somebody was refused. Told a few times per second at most, and not while the queue is full.
    Refused {
        /// From where, and why.
        what: String,
    },
    /// A node without a certificate asks to become a member. Nothing about it is verified.
    Join {
        /// Where it asks from.
        remote: SocketAddr,
        /// What it asks, as it sent it.
        request: Bytes,
        /// Takes the answer; dropping it refuses.
        reply: JoinReply,
    },
}

impl Event {
    fn bytes(&self) -> usize {
        match self {
            Event::Message { bytes, .. } => bytes.len(),
            _ => 0,
        }
    }
}

/// The owner's end.
pub struct Events {
    urgent: mpsc::Receiver<Event>,
    bulk: mpsc::Receiver<Event>,
    budgets: Budgets,
}

/// Where tasks put events.
#[derive(Clone)]
pub(crate) struct EventSender {
    urgent: mpsc::Sender<Event>,
    bulk: mpsc::Sender<Event>,
    budgets: Budgets,
}

#[derive(Clone)]
struct Budgets {
    urgent: Arc<Semaphore>,
    bulk: Arc<Semaphore>,
    /// Never has a permit; closed with the endpoint, so that no task waits for an owner that has left.
    closing: Arc<Semaphore>,
}

/// The owner is gone.
pub(crate) struct Gone;

pub(crate) fn channel(receive_bytes: usize) -> (EventSender, Events) {
    let (urgent_tx, urgent) = mpsc::channel(MAX_EVENTS);
    let (bulk_tx, bulk) = mpsc::channel(MAX_EVENTS);
    let permits = receive_bytes.min(Semaphore::MAX_PERMITS);
    let [urgent_bytes, bulk_bytes, closing] = [permits, permits, 0].map(|n| Arc::new(Semaphore::new(n)));
    let budgets = Budgets { urgent: urgent_bytes, bulk: bulk_bytes, closing };
    let sender = EventSender { urgent: urgent_tx, bulk: bulk_tx, budgets: budgets.clone() };
    (sender, Events { urgent, bulk, budgets })
}

impl Events {
    /// The next event, urgent lanes first; `None` when the endpoint is gone. Dropping the future loses nothing.
    pub async fn recv(&mut self) -> Option<Event> {
        tokio::select! {
            biased;
            Some(event) = self.urgent.recv() => Some(release(&self.budgets.urgent, event)),
            Some(event) = self.bulk.recv() => Some(release(&self.budgets.bulk, event)),
            else => None,
        }
    }

    /// The next event if there is one now.
    pub fn try_recv(&mut self) -> Option<Event> {
        if let Ok(event) = self.urgent.try_recv() {
            return Some(release(&self.budgets.urgent, event));
        }
        self.bulk.try_recv().ok().map(|event| release(&self.budgets.bulk, event))
    }
}

fn release(budget: &Semaphore, event: Event) -> Event {
    budget.add_permits(event.bytes());
    event
}

impl EventSender {
    /// Ends every wait for room: the endpoint is going.
    pub(crate) fn close(&self) {
        self.budgets.closing.close();
    }

    /// Waits until the owner has room. Dropping the future loses the event and nothing else.
    pub(crate) async fn send(&self, urgent: bool, event: Event) -> Result<(), Gone> {
        tokio::select! {
            biased;
            sent = self.send_in_time(urgent, event) => sent,
            _ = self.budgets.closing.acquire() => Err(Gone),
        }
    }

    /// Lets go of an event for which there is no room: somebody else than the owner causes it.
    pub(crate) fn offer(&self, event: Event) {
        debug_assert_eq!(event.bytes(), 0, "only what is free of the budget may be dropped");
        // The queue is full, or the owner is gone.
        let _ = self.bulk.try_send(event);
    }

    async fn send_in_time(&self, urgent: bool, event: Event) -> Result<(), Gone> {
        let (queue, budget) =
            if urgent { (&self.urgent, &self.budgets.urgent) } else { (&self.bulk, &self.budgets.bulk) };
        let cost = u32::try_from(event.bytes()).expect("messages are at most 4 GiB long");
        let permit = budget.acquire_many(cost).await.map_err(|_| Gone)?;
        let place = queue.reserve().await.map_err(|_| Gone)?;
        // Given back by the owner when it takes the event.
        permit.forget();
        place.send(event);
        Ok(())
    }
}
