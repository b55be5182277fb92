//! The operator wants volumes of other sizes, while all else goes on.

use super::World;
use super::admin::Wish;
use crate::checkers::Violation;
use crate::options::index;
use holdfast_cluster::Command;
use holdfast_types::{BlockCount, VolumeId, VolumeSize};

impl World {
    /// Up to as large as the volume was planned: guests go on asking for all of that.
    pub(super) fn start_resize(&mut self) -> Result<(), Violation> {
        let plan = self.options.volumes[index(self.rngs.faults.below(self.options.volumes.len() as u64))].clone();
        let most = plan.size.blocks();
        let rng = &mut self.rngs.faults;
        let blocks = if rng.chance(400_000) { most.0 } else { rng.range(1, most.0 + 1) };
        let Some(view) = self.checkers.control.view(plan.id) else { return Ok(()) };
        let size = VolumeSize::new(BlockCount(blocks).bytes()).expect("no larger than the volume");
        if size == view.size {
            return Ok(());
        }
        let after = view.resizes.last().map_or(0, |r| r.0);
        self.counters.next_op += 1;
        let (change, now, end) = (self.counters.next_op, self.now, most.bytes() / holdfast_types::SECTOR_SIZE as u64);
        self.checkers.volume(plan.id).wished(after + 1, size, change, end, now);
        let command = Command::ResizeVolume { volume: plan.id, after, size: size.bytes(), shrink: true, found: None };
        self.propose(Wish::Resize, command)
    }

    /// A decision that is not in the committed log yet.
    pub(super) fn size_sickness(&mut self, id: VolumeId) -> Option<String> {
        let decided = self.checkers.control.view(id)?.resizes.last().map_or(0, |r| r.0);
        let done = self.checkers.volume(id).committed.size();
        (done.decision != decided).then(|| format!("{id} is to have its size by decision {decided}, and has {done:?}"))
    }
}
