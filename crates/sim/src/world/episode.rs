//! Episodes: one failure in an otherwise calm world, and the time until the volume is served again.

use super::{Event, World};
use crate::checkers::Violation;
use crate::log::{Nanos, SECOND};
use crate::setup::Episode;
use holdfast_types::{Epoch, NodeId, VolumeId};

/// When it strikes, at the earliest, and within which time after that.
const EARLIEST: Nanos = 3 * SECOND;
const SPREAD: Nanos = 3 * SECOND;
/// How long too few copies are there, in an episode of that kind: every lease and every detection is over by then.
const AWAY: Nanos = 20 * SECOND;
/// The world heals only if nothing was served for this long: a stall that long is shown as it is.
pub(crate) const GIVE_UP: Nanos = 600 * SECOND;

/// What an episode has measured.
#[derive(Debug, Default)]
pub(super) struct Measure {
    /// The failure, or the return of the copy that was missing.
    since: Option<Nanos>,
    /// From then until it was served again.
    pub(super) stall: Option<Nanos>,
}

impl World {
    pub(super) fn plan_episode(&mut self) {
        if self.options.episode.is_some() {
            let at = EARLIEST + self.rngs.storm.below(SPREAD);
            self.at(at, Event::Strike);
        }
    }

    /// The failure comes, once the volume is served.
    pub(super) fn strike(&mut self) -> Result<(), Violation> {
        let volume = self.options.volumes[0].clone();
        let Some(primary) = self.primary_of(volume.id) else {
            let at = self.now + SECOND;
            self.at(at, Event::Strike);
            return Ok(());
        };
        let victims = match self.options.episode {
            Some(Episode::PrimaryHost) | None => vec![primary],
            Some(Episode::PrimaryRack { racks }) => {
                self.options.nodes.iter().copied().filter(|n| n.0 % racks == primary.0 % racks).collect()
            }
            Some(Episode::CopiesReturn) => {
                let (n, w) = (volume.members.len(), usize::from(volume.write_quorum));
                let others = volume.members.iter().copied().filter(|m| *m != primary);
                [primary].into_iter().chain(others).take(n - w.max(n - w + 1) + 1).collect()
            }
        };
        self.note("strike", &[primary.0, victims.len() as u64], || format!("{victims:?} fail"));
        for node in &victims {
            self.crash(*node)?;
        }
        if self.options.episode == Some(Episode::CopiesReturn) {
            let back = victims[0];
            let at = self.now + AWAY;
            self.at(at, Event::Return(back));
        } else {
            self.measure.since = Some(self.now);
        }
        Ok(())
    }

    /// So many copies are there again that the volume can be served.
    pub(super) fn return_of(&mut self, node: NodeId) -> Result<(), Violation> {
        self.measure.since = Some(self.now);
        self.start_node(node)
    }

    /// A volume is served: if it was waited for, the episode is over.
    pub(super) fn measure_service(&mut self, volume: VolumeId) {
        if let Some(since) = self.measure.since
            && volume == self.options.volumes[0].id
            && self.measure.stall.is_none()
        {
            self.measure.stall = Some(self.now - since);
        }
    }

    fn primary_of(&self, volume: VolumeId) -> Option<NodeId> {
        let reigns = self.nodes.values().filter_map(|n| Some((*n.serving.get(&volume)?, n.id)));
        reigns.max_by_key(|(epoch, _): &(Epoch, NodeId)| *epoch).map(|(_, node)| node)
    }
}
