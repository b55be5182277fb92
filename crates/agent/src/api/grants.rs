//! What guests of a volume are granted: how much, and who.

use super::volume_named;
use crate::admin::pb;
use crate::control::View;
use holdfast_cluster::Command;
use holdfast_types::{DEFAULT_BURST_MS, GuestLimits, SocketAccess};
use tonic::Status;

/// Limits as they are asked for.
pub(super) fn limits(iops: u64, bandwidth: u64, burst_ms: u64) -> Result<GuestLimits, Status> {
    let burst_ms = if burst_ms == 0 { DEFAULT_BURST_MS } else { burst_ms };
    let limits = GuestLimits { iops, bandwidth, burst_ms };
    limits.check().map_err(Status::invalid_argument)?;
    Ok(limits)
}

/// Access as it is asked for. Whether there are such people is for each node to find out.
pub(super) fn access(owner: &str, group: &str, mode: u32) -> Result<SocketAccess, Status> {
    let access = SocketAccess { owner: owner.to_owned(), group: group.to_owned(), mode };
    access.check().map_err(Status::invalid_argument)?;
    Ok(access)
}

pub(super) fn limit(view: &View<'_>, r: &pb::VolumeLimitRequest) -> Result<Command, Status> {
    let volume = volume_named(view, &r.name)?;
    Ok(Command::LimitVolume { volume, limits: limits(r.iops, r.bytes_per_second, r.burst_ms)? })
}

pub(super) fn share(view: &View<'_>, r: &pb::VolumeSocketRequest) -> Result<Command, Status> {
    let volume = volume_named(view, &r.name)?;
    Ok(Command::ShareVolume { volume, socket: access(&r.owner, &r.group, r.mode)? })
}
