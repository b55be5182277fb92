//! Giving the volume the size that the control plane wants, as a record of its log.
//!
//! The size changes where the record stands in the order of writes, on every copy, also on one that was down, and under every
//! later primary. Requests with a lower LSN found the old size. What is not committed is smaller than it may become: guests are bound
//! by the smaller of the size that is committed and the one at the log's end, so that nobody has used a size that a takeover
//! takes back.
//!
//! The record names the decision that it follows, and decisions are counted. So a primary that learns late of what the control plane
//! decides never goes back to a size that its log is beyond. Decisions are carried out one after another, also those that are
//! outdated: what a smaller size cuts off is gone, whatever comes next.

use crate::api::Output;
use crate::replica::{Replica, Role};
use holdfast_format::{Draft, Record, RecordKind};
use holdfast_types::BlockRange;

impl Replica {
    /// Appends the record, if the log is behind what is wanted. One at a time: the next one waits until this one is committed.
    pub(crate) fn step_resize(&mut self, out: &mut Vec<Output>) {
        let Role::Reign(r) = &self.role else { return };
        let last = self.log.sizes.last();
        if !r.active || r.draining || r.is_pausing() || last.lsn > self.log.positions.committed {
            return;
        }
        let wanted = self.view.resizes.iter().copied().find(|(decision, _)| *decision > last.decision);
        let Some((decision, size)) = wanted else { return };
        let (old, new) = (last.size.blocks().0, size.blocks().0);
        let record = Record::seal(Draft {
            volume: self.view.volume,
            epoch: r.epoch(),
            lsn: self.log.last().next(),
            prev_hash: self.log.last_hash(),
            committed: self.log.positions.committed,
            kind: RecordKind::Resize,
            head: false,
            tail: false,
            range: BlockRange::new(new, old.saturating_sub(new)),
            body: Record::resize_body(decision),
        });
        let (lsn, size) = (record.lsn(), size.bytes());
        out.push(Output::Event(format!(
            "the volume has {size} bytes from record {lsn} on, instead of {}",
            last.size.bytes()
        )));
        self.append(record, out);
    }
}
