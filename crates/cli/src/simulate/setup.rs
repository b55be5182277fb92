//! From arguments to what the simulator is to run.

use crate::args::SimArgs;
use crate::error::CliError;
use holdfast_agent::config::{ClusterConfig, parse_duration};
use holdfast_sim::{Profile, Setup, Timing, Topology, VolumeShape};
use holdfast_types::{NodeId, VolumeId};
use serde::Deserialize;
use std::path::Path;

/// What was chosen on the command line.
pub(super) fn chosen(args: &SimArgs) -> Result<Setup, CliError> {
    let default = Setup::default();
    Ok(Setup {
        profile: args.profile.as_deref().and_then(Profile::find).unwrap_or(default.profile),
        topology: args.topology.as_deref().map(read_topology).transpose()?,
        timing: args.timers.as_deref().map(parse_timers).transpose().map_err(CliError::Usage)?,
        cuts: args.shrink.as_deref().unwrap_or_default().parse().map_err(usage)?,
        ..default
    })
}

pub(super) fn volume(args: &SimArgs) -> Result<Option<VolumeId>, CliError> {
    args.volume.as_deref().map(|text| number(text, 'v').map(VolumeId)).transpose()
}

pub(super) fn node(args: &SimArgs) -> Result<Option<NodeId>, CliError> {
    args.node.as_deref().map(|text| number(text, 'n').map(NodeId)).transpose()
}

fn usage(error: impl std::error::Error) -> CliError {
    CliError::Usage(error.to_string())
}

/// `v3` or `3`.
fn number(text: &str, prefix: char) -> Result<u64, CliError> {
    let wrong = || CliError::Usage(format!("expected a name such as {prefix}1, as the trace shows it, found {text}"));
    text.strip_prefix(prefix).unwrap_or(text).parse().map_err(|_| wrong())
}

pub(super) fn parse_timers(list: &str) -> Result<Timing, String> {
    let mut cluster = ClusterConfig::default();
    for part in list.split(',').filter(|p| !p.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let place = match name {
            "lease" => &mut cluster.lease,
            "heartbeat" => &mut cluster.heartbeat,
            "failure_timeout" => &mut cluster.failure_timeout,
            _ => {
                return Err(format!(
                    "expected --timers of lease, heartbeat and failure_timeout, such as lease=2s, found `{part}`"
                ));
            }
        };
        *place = parse_duration(value).map_err(|e| format!("--timers {name}: {e}"))?;
    }
    let ClusterConfig { lease, heartbeat, failure_timeout, .. } = cluster;
    Timing::new(lease, heartbeat, failure_timeout).map_err(|e| format!("--timers: {e}"))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    nodes: u64,
    volumes: Vec<Volume>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Volume {
    copies: u64,
    write_quorum: Option<u64>,
}

fn read_topology(path: &Path) -> Result<Topology, CliError> {
    let text = std::fs::read_to_string(path).map_err(CliError::io(format!("read {}", path.display())))?;
    parse_topology(&text).map_err(|e| CliError::Usage(format!("{}: {e}", path.display())))
}

fn parse_topology(text: &str) -> Result<Topology, String> {
    let file: File = toml::from_str(text).map_err(|e| e.to_string())?;
    let shapes = file.volumes.into_iter().map(|v| VolumeShape { copies: v.copies, write_quorum: v.write_quorum });
    Topology::new(file.nodes, shapes.collect()).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn timers_that_are_not_given_are_the_daemons() {
        let ms = Duration::from_millis;
        assert_eq!(parse_timers("lease=900ms"), Ok(Timing::new(ms(900), ms(200), ms(1000)).unwrap()));
        let all = "lease=3s,heartbeat=100ms,failure_timeout=600ms";
        assert_eq!(parse_timers(all), Ok(Timing::new(ms(3000), ms(100), ms(600)).unwrap()));
    }

    #[test]
    fn bad_timers_are_refused() {
        for (list, sentence) in [
            (
                "leese=1s",
                "expected --timers of lease, heartbeat and failure_timeout, such as lease=2s, found `leese=1s`",
            ),
            ("lease", "--timers lease: expected a duration"),
            ("heartbeat=500ms", "expected failure_timeout of 1.5s to 60s, found 1s"),
        ] {
            let error = parse_timers(list).unwrap_err();
            assert!(error.contains(sentence), "{error}");
        }
    }

    #[test]
    fn a_topology_is_read() {
        let text = "nodes = 5\n[[volumes]]\ncopies = 3\n[[volumes]]\ncopies = 5\nwrite_quorum = 4\n";
        let shapes = [(3, None), (5, Some(4))].map(|(copies, write_quorum)| VolumeShape { copies, write_quorum });
        assert_eq!(parse_topology(text), Ok(Topology::new(5, shapes.to_vec()).unwrap()));
        assert!(parse_topology("nodes = 5\nvolumes = []\n").unwrap_err().contains("1 to 16 volumes, found 0"));
        assert!(parse_topology("nodes = 5\nracks = 2\nvolumes = []\n").unwrap_err().contains("unknown field `racks`"));
    }

    #[test]
    fn volumes_and_nodes_have_the_names_of_the_trace() {
        assert_eq!(number("v3", 'v').unwrap(), 3);
        assert_eq!(number("12", 'n').unwrap(), 12);
        assert!(number("n3", 'v').unwrap_err().to_string().contains("such as v1"));
    }
}
