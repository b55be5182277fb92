//! A year of a cluster, composed of measured episodes.
//!
//! A year is too long to be simulated message by message. The times between a failure and service come from the simulator,
//! where the code of the daemon decides; when hosts and racks fail, and for how long they are away, is drawn. Failures are
//! independent of each other and of the time of the year; times away are exponential.
//!
//! Left out: what a copy that returns must still fetch, planned work, a failure within the seconds of another one.

use crate::options::index;
use holdfast_types::Rng;
use std::time::Duration;

/// A cluster, its load in bytes, and what fails how often.
#[derive(Clone, Debug)]
pub struct YearPlan {
    /// Racks; the copies of a volume are in different ones.
    pub racks: u64,
    /// Hosts in each.
    pub nodes_per_rack: u64,
    /// Volumes.
    pub volumes: u64,
    /// Copies of each.
    pub copies: u64,
    /// Copies that hold a write before it is acknowledged.
    pub write_quorum: u64,
    /// Bytes of each volume.
    pub volume_bytes: u64,
    /// Failures of a host in a year.
    pub failures_per_node_year: f64,
    /// Failures of a rack in a year.
    pub failures_per_rack_year: f64,
    /// Mean time until what failed is there again, in hours.
    pub repair_hours: f64,
}

/// Times from a failure to service, by kind; none of those that can come is empty.
#[derive(Clone, Debug, Default)]
pub struct Episodes {
    /// The primary's host failed.
    pub host: Vec<Duration>,
    /// The primary's rack failed.
    pub rack: Vec<Duration>,
    /// Too few copies were there, and enough are there again.
    pub copies_return: Vec<Duration>,
}

/// What a year came to, summed over all volumes; times are in seconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Year {
    /// Primaries that failed and were replaced at once.
    pub failovers: u64,
    /// I/O stood still until another copy took over from a failed host.
    pub stalled_host: f64,
    /// The same after the failure of a rack.
    pub stalled_rack: f64,
    /// I/O stood still because too few copies, or too few voters, were there.
    pub stalled_copies: f64,
    /// The stall of the volume that stood still the longest.
    pub worst_volume: f64,
    /// Volumes whose I/O never stood still.
    pub undisturbed: u64,
    /// Time below the promised number of copies.
    pub below_copies: f64,
    /// The same, each second counted with the bytes of the volume.
    pub exposed_byte_seconds: f64,
}

impl YearPlan {
    /// Copies that a new primary needs: its write quorum, and enough to meet every one of the old primary.
    #[must_use]
    pub const fn needed(&self) -> u64 {
        let meets = self.copies - self.write_quorum + 1;
        if self.write_quorum > meets { self.write_quorum } else { meets }
    }
}

impl Year {
    /// I/O stood still, for whatever reason.
    #[must_use]
    pub const fn stalled(&self) -> f64 {
        self.stalled_host + self.stalled_rack + self.stalled_copies
    }
}

const YEAR: f64 = 365.25 * 86_400.0;

/// Draws one year.
#[must_use]
pub fn year(plan: &YearPlan, episodes: &Episodes, rng: &mut Rng) -> Year {
    let nodes = index(plan.racks * plan.nodes_per_rack);
    let mut hosts = Hosts { down: vec![0; nodes] };
    let mut volumes: Vec<Volume> = (0..plan.volumes).map(|_| Volume::draw(plan, rng)).collect();
    let mut sums = Year::default();
    let mut last = 0.0;
    for change in changes(plan, rng) {
        let passed = change.at - last;
        last = change.at;
        sums.below_copies += passed * below(&volumes, &hosts);
        hosts.apply(&change);
        for volume in &mut volumes {
            volume.turn(plan, &hosts, &change, episodes, rng, &mut sums);
        }
    }
    sums.below_copies += (YEAR - last) * below(&volumes, &hosts);
    for volume in &mut volumes {
        if let Some(since) = volume.stalled_since {
            sums.stalled_copies += YEAR - since;
            volume.stalled += YEAR - since;
        }
    }
    sums.worst_volume = volumes.iter().map(|v| v.stalled).fold(0.0, f64::max);
    sums.undisturbed = volumes.iter().filter(|v| v.stalled == 0.0).count() as u64;
    sums.exposed_byte_seconds = sums.below_copies * real(plan.volume_bytes);
    sums
}

/// Volumes with fewer copies than promised.
fn below(volumes: &[Volume], hosts: &Hosts) -> f64 {
    real(volumes.iter().filter(|v| v.up(hosts) < v.members.len()).count() as u64)
}

/// Hosts fail or return.
#[derive(Debug)]
struct Change {
    at: f64,
    nodes: Vec<usize>,
    fails: bool,
    whole_rack: bool,
}

fn changes(plan: &YearPlan, rng: &mut Rng) -> Vec<Change> {
    let mut changes = Vec::new();
    let (racks, per_rack) = (index(plan.racks), index(plan.nodes_per_rack));
    for node in 0..racks * per_rack {
        outages(plan.failures_per_node_year, plan, &[node], false, rng, &mut changes);
    }
    for rack in 0..racks {
        let nodes: Vec<usize> = (0..per_rack).map(|i| rack + i * racks).collect();
        outages(plan.failures_per_rack_year, plan, &nodes, true, rng, &mut changes);
    }
    changes.sort_by(|a, b| a.at.total_cmp(&b.at));
    changes
}

fn outages(rate: f64, plan: &YearPlan, nodes: &[usize], whole_rack: bool, rng: &mut Rng, out: &mut Vec<Change>) {
    if rate <= 0.0 {
        return;
    }
    let mut at = 0.0;
    loop {
        at += exponential(YEAR / rate, rng);
        let back = at + exponential(plan.repair_hours * 3600.0, rng);
        for (at, fails) in [(at, true), (back, false)] {
            if at < YEAR {
                out.push(Change { at, nodes: nodes.to_vec(), fails, whole_rack });
            }
        }
        at = back;
        if at >= YEAR {
            return;
        }
    }
}

fn exponential(mean: f64, rng: &mut Rng) -> f64 {
    // Above 0, so that its logarithm is a number.
    let uniform = real((rng.next_u64() >> 11) + 1) / real(1 << 53);
    -mean * uniform.ln()
}

#[expect(clippy::cast_precision_loss, reason = "statistics")]
const fn real(n: u64) -> f64 {
    n as f64
}

#[derive(Debug)]
struct Hosts {
    /// Reasons for which each is down: its own, and its rack's.
    down: Vec<u32>,
}

impl Hosts {
    fn apply(&mut self, change: &Change) {
        for node in &change.nodes {
            let down = &mut self.down[*node];
            *down = if change.fails { *down + 1 } else { down.saturating_sub(1) };
        }
    }

    fn is_up(&self, node: usize) -> bool {
        self.down[node] == 0
    }

    /// Whether the control plane, in which all hosts vote, can decide.
    fn majority(&self) -> bool {
        2 * self.down.iter().filter(|d| **d == 0).count() > self.down.len()
    }
}

#[derive(Debug)]
struct Volume {
    members: Vec<usize>,
    primary: usize,
    stalled: f64,
    stalled_since: Option<f64>,
}

impl Volume {
    /// Copies in different racks: node `i` is in rack `i % racks`.
    fn draw(plan: &YearPlan, rng: &mut Rng) -> Volume {
        let mut racks: Vec<u64> = (0..plan.racks).collect();
        let mut members = Vec::new();
        for _ in 0..plan.copies {
            let rack = racks.swap_remove(index(rng.below(racks.len() as u64)));
            members.push(index(rack + plan.racks * rng.below(plan.nodes_per_rack)));
        }
        Volume { primary: members[0], members, stalled: 0.0, stalled_since: None }
    }

    fn up(&self, hosts: &Hosts) -> usize {
        self.members.iter().filter(|m| hosts.is_up(**m)).count()
    }

    fn turn(
        &mut self,
        plan: &YearPlan,
        hosts: &Hosts,
        change: &Change,
        episodes: &Episodes,
        rng: &mut Rng,
        sums: &mut Year,
    ) {
        let lost = !hosts.is_up(self.primary);
        let enough = if lost { plan.needed() } else { plan.write_quorum };
        let able = self.up(hosts) as u64 >= enough && (!lost || hosts.majority());
        if !able {
            self.stalled_since.get_or_insert(change.at);
            return;
        }
        if let Some(since) = self.stalled_since.take() {
            let time = change.at - since + sample(&episodes.copies_return, rng);
            self.stalled += time;
            sums.stalled_copies += time;
        } else if lost {
            let kind = if change.whole_rack { &episodes.rack } else { &episodes.host };
            let time = sample(kind, rng);
            self.stalled += time;
            *(if change.whole_rack { &mut sums.stalled_rack } else { &mut sums.stalled_host }) += time;
            sums.failovers += 1;
        }
        if lost {
            let able = self.members.iter().copied().find(|m| hosts.is_up(*m));
            self.primary = able.expect("enough copies are there");
        }
    }
}

fn sample(times: &[Duration], rng: &mut Rng) -> f64 {
    assert!(!times.is_empty(), "every kind of episode was measured");
    times[index(rng.below(times.len() as u64))].as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> YearPlan {
        YearPlan {
            racks: 5,
            nodes_per_rack: 3,
            volumes: 10,
            copies: 3,
            write_quorum: 2,
            volume_bytes: 1 << 30,
            failures_per_node_year: 0.0,
            failures_per_rack_year: 0.0,
            repair_hours: 4.0,
        }
    }

    fn episodes() -> Episodes {
        let seconds = |s| vec![Duration::from_secs(s)];
        Episodes { host: seconds(2), rack: seconds(3), copies_return: seconds(1) }
    }

    /// The mean of many years.
    fn mean(plan: &YearPlan, what: fn(&Year) -> f64) -> f64 {
        let mut rng = Rng::new(1);
        (0..400).map(|_| what(&year(plan, &episodes(), &mut rng))).sum::<f64>() / 400.0
    }

    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < expected * 0.1, "expected about {expected}, found {found}");
    }

    #[test]
    fn without_failures_nothing_happens() {
        let year = year(&plan(), &episodes(), &mut Rng::new(1));
        assert_eq!(year, Year { undisturbed: 10, ..Year::default() });
    }

    #[test]
    fn host_failures_cost_what_arithmetic_says() {
        let plan = YearPlan { failures_per_node_year: 2.0, ..plan() };
        // Each of 10 volumes loses its primary's host twice a year, for 2 s, and each of its 3 copies for 4 h.
        near(mean(&plan, |y| y.stalled_host), 10.0 * 2.0 * 2.0);
        near(mean(&plan, |y| y.below_copies), 10.0 * 3.0 * 2.0 * 4.0 * 3600.0);
        near(mean(&plan, |y| y.exposed_byte_seconds), 10.0 * 3.0 * 2.0 * 4.0 * 3600.0 * real(1 << 30));
        assert_eq!(mean(&plan, |y| y.stalled_rack), 0.0);
    }

    #[test]
    fn rack_failures_cost_what_arithmetic_says() {
        let plan = YearPlan { failures_per_rack_year: 2.0, ..plan() };
        near(mean(&plan, |y| y.stalled_rack), 10.0 * 2.0 * 3.0);
        assert_eq!(mean(&plan, |y| y.stalled_host), 0.0);
    }

    #[test]
    fn a_quorum_of_all_stands_still_while_any_copy_is_away() {
        let plan = YearPlan { failures_per_node_year: 1.0, write_quorum: 3, ..plan() };
        near(mean(&plan, |y| y.stalled_copies), 10.0 * 3.0 * 4.0 * 3600.0);
    }
}
