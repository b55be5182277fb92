//! `volume limit` and `volume socket`, and what `volume create` says of both.

use super::{Agent, Output};
use crate::args::{CreateArgs, LimitArgs};
use crate::error::CliError;
use crate::output;
use holdfast_agent::admin::pb;
use holdfast_agent::config::{parse_duration, parse_size};
use holdfast_types::{DEFAULT_BURST_MS, GuestLimits, SocketAccess};

/// The limits that are asked for.
pub(super) fn limits_of(args: &LimitArgs) -> Result<GuestLimits, CliError> {
    let usage = |flag: &str, e: &str| CliError::Usage(format!("{flag}: {e}"));
    let zero = "expected 1 or more, found 0; leave it out for no limit";
    if args.iops == Some(0) {
        return Err(usage("--iops", zero));
    }
    let bandwidth = match &args.bandwidth {
        None => 0,
        Some(text) => {
            let size = text.strip_suffix("/s").unwrap_or(text);
            parse_size(size).map_err(|e| usage("--bandwidth", &format!("{e}, with or without /s behind it")))?
        }
    };
    if args.bandwidth.is_some() && bandwidth == 0 {
        return Err(usage("--bandwidth", zero));
    }
    let burst_ms = match &args.burst {
        None => DEFAULT_BURST_MS,
        Some(text) => {
            let burst = parse_duration(text).map_err(|e| usage("--burst", &e))?;
            u64::try_from(burst.as_millis()).unwrap_or(u64::MAX)
        }
    };
    let limits = GuestLimits { iops: args.iops.unwrap_or(0), bandwidth, burst_ms };
    limits.check().map_err(CliError::Usage)?;
    if limits.is_none() && args.burst.is_some() {
        return Err(usage(
            "--burst",
            "expected --iops or --bandwidth with it, found neither: there is nothing to save up",
        ));
    }
    Ok(limits)
}

/// The access that is asked for, with the names of the flags for the complaint.
fn access_of(
    owner: Option<&str>,
    group: Option<&str>,
    mode: Option<&str>,
    flag: &str,
) -> Result<SocketAccess, CliError> {
    let bits = match mode {
        None => 0,
        Some(text) => match u32::from_str_radix(text, 8) {
            Ok(bits) if bits != 0 => bits,
            _ => {
                let complaint = format!("{flag}: expected octal read and write bits such as 0660, found {text:?}");
                return Err(CliError::Usage(complaint));
            }
        },
    };
    let text = |name: Option<&str>| name.unwrap_or_default().to_owned();
    let access = SocketAccess { owner: text(owner), group: text(group), mode: bits };
    access.check().map_err(CliError::Usage)?;
    Ok(access)
}

pub(super) fn created_access(args: &CreateArgs) -> Result<SocketAccess, CliError> {
    let (owner, group) = (args.socket_owner.as_deref(), args.socket_group.as_deref());
    access_of(owner, group, args.socket_mode.as_deref(), "--socket-mode")
}

/// `volume limit`.
pub(super) fn checked_limits(args: &LimitArgs, none: bool) -> Result<GuestLimits, CliError> {
    let limits = limits_of(args)?;
    if limits.is_none() && !none {
        return Err(CliError::Usage("expected --iops, --bandwidth or --none, found none of them".to_owned()));
    }
    Ok(limits)
}

/// `volume socket`.
pub(super) fn checked_access(
    owner: Option<&str>,
    group: Option<&str>,
    mode: Option<&str>,
    default: bool,
) -> Result<SocketAccess, CliError> {
    let access = access_of(owner, group, mode, "--mode")?;
    if access.is_default() && !default {
        return Err(CliError::Usage("expected --owner, --group, --mode or --default, found none of them".to_owned()));
    }
    Ok(access)
}

pub(super) async fn limit(
    agent: &mut Agent<'_>,
    output: Output,
    name: String,
    limits: GuestLimits,
) -> Result<(), CliError> {
    let request = pb::VolumeLimitRequest {
        name,
        iops: limits.iops,
        bytes_per_second: limits.bandwidth,
        burst_ms: limits.burst_ms,
    };
    let volume = agent.ask(async |c| c.volume_limit(request).await).await?.volume.unwrap_or_default();
    output::print(output, || output::volume_json(&volume), || output::volume_text(&volume));
    Ok(())
}

pub(super) async fn share(
    agent: &mut Agent<'_>,
    output: Output,
    name: String,
    access: SocketAccess,
) -> Result<(), CliError> {
    let request = pb::VolumeSocketRequest { name, owner: access.owner, group: access.group, mode: access.mode };
    let volume = agent.ask(async |c| c.volume_socket(request).await).await?.volume.unwrap_or_default();
    output::print(output, || output::volume_json(&volume), || output::volume_text(&volume));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(iops: Option<u64>, bandwidth: Option<&str>, burst: Option<&str>) -> Result<GuestLimits, String> {
        let text = |t: &str| t.to_owned();
        limits_of(&LimitArgs { iops, bandwidth: bandwidth.map(text), burst: burst.map(text) })
            .map_err(|e| e.to_string())
    }

    #[test]
    fn limits_are_read_and_checked_before_anybody_is_asked() {
        let of = |iops, bandwidth, burst_ms| Ok(GuestLimits { iops, bandwidth, burst_ms });
        assert_eq!(limits(Some(500), Some("100MiB/s"), Some("2s")), of(500, 100 << 20, 2000));
        assert_eq!(limits(None, Some("1MiB"), None), of(0, 1 << 20, 1000));
        assert_eq!(limits(None, None, None), of(0, 0, 1000));
        for (iops, bandwidth, burst) in [
            (Some(0), None, None),
            (None, Some("0"), None),
            (None, Some("fast"), None),
            (None, Some("1KiB/s"), None),
            (Some(1), None, Some("1ms")),
            (None, None, Some("1s")),
        ] {
            assert!(limits(iops, bandwidth, burst).is_err(), "{iops:?} {bandwidth:?} {burst:?}");
        }
        assert!(checked_limits(&LimitArgs::default(), false).is_err());
        assert!(checked_limits(&LimitArgs::default(), true).is_ok_and(|l| l.is_none()));
    }

    #[test]
    fn access_is_read_and_checked() {
        let of =
            |owner, mode| access_of(owner, None, mode, "--mode").map(|a| (a.owner, a.mode)).map_err(|e| e.to_string());
        assert_eq!(of(Some("vm1"), Some("600")), Ok(("vm1".to_owned(), 0o600)));
        assert_eq!(of(None, Some("0666")), Ok((String::new(), 0o666)));
        for (owner, mode) in [(None, Some("0777")), (None, Some("rw")), (None, Some("0")), (Some("a b"), None)] {
            assert!(of(owner, mode).is_err(), "{owner:?} {mode:?}");
        }
        assert!(checked_access(None, None, None, false).is_err());
        assert!(checked_access(None, None, None, true).is_ok_and(|a| a.is_default()));
    }
}
