//! Commands and operations of a resync by regions, on their way to the copy that they are for.

use super::Store;
use crate::api::{Input, Output};
use crate::io::DiskReply;
use crate::ops::{CopyTag, Cx};
use crate::replica::Replica;
use holdfast_types::{ReadFault, Time, VolumeId};

impl Store {
    /// What a resync by regions needs, of either end.
    pub(super) fn resync(&mut self, command: Input, now: Time, out: &mut Vec<Output>) {
        match command {
            Input::ReadRegions { volume, tag, query, max_bytes } => {
                let Store { ops, config, replicas, touched, .. } = self;
                match replicas.open_mut(volume) {
                    Some(replica) => {
                        touched.insert(volume);
                        replica.read_regions(&mut Cx { ops, out, now, config }, tag, query, max_bytes);
                    }
                    None => out.push(Output::RegionsRead { volume, tag, result: Err(ReadFault::CopyFailed) }),
                }
            }
            Input::OpenSide { volume, size } => {
                self.with_copy(volume, now, out, |replica, cx| replica.open_side(cx, size));
            }
            Input::LetGoRegions { volume } => {
                self.with_copy(volume, now, out, |replica, _| replica.region_reads.let_go());
            }
            Input::DropSide { volume } => self.with_copy(volume, now, out, Replica::drop_side),
            Input::HeldInSide { volume, from, max } => {
                self.with_copy(volume, now, out, |replica, cx| replica.held_in_side(cx, from, max));
            }
            Input::WriteSide { volume, regions } => {
                self.with_copy(volume, now, out, |replica, cx| replica.write_side(cx, regions));
            }
            Input::ProveSide { volume, cut } => {
                self.with_copy(volume, now, out, |replica, cx| replica.prove_side(cx, cut));
            }
            _ => unreachable!("handled before"),
        }
    }

    fn with_copy(
        &mut self,
        volume: VolumeId,
        now: Time,
        out: &mut Vec<Output>,
        act: impl FnOnce(&mut Replica, &mut Cx<'_>),
    ) {
        self.touched.insert(volume);
        let Store { ops, config, replicas, .. } = self;
        if let Some(replica) = replicas.open_mut(volume) {
            act(replica, &mut Cx { ops, out, now, config });
        }
    }

    /// The same for what a resync by regions needs.
    pub(super) fn resync_done(replica: &mut Replica, cx: &mut Cx<'_>, tag: CopyTag, reply: DiskReply) {
        match (tag, reply) {
            (CopyTag::Region(first, attempt), DiskReply::Data(data)) => {
                replica.region_part(cx, first, attempt, &data);
            }
            (CopyTag::Side, _) => replica.side_done(cx),
            (CopyTag::SideRead(first), DiskReply::Data(data)) => replica.side_read(cx, first, &data),
            (CopyTag::SideSums(offset), DiskReply::Data(data)) => replica.side_sums(cx, offset, &data),
            (CopyTag::Weave, _) => replica.weave_written(cx),
            (CopyTag::MergeRead(first), DiskReply::Data(data)) => replica.merge_read(cx, first, &data),
            (CopyTag::Merge, _) => replica.merge_done(),
            (CopyTag::MergeSize, _) => replica.merge_sized(cx),
            (tag, reply) => unreachable!("{tag:?} is not answered by {reply:?}"),
        }
    }
}
