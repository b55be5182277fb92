//! How far copies are that are being filled, as their nodes report: by regions, or by the log.

use crate::progress::{Step, left_text};
use crate::units;
use holdfast_agent::admin::pb;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// Of a part that has no other unit.
const WHOLE: u64 = 1000;

/// One copy. Each of the two ways is measured from where it began.
#[derive(Debug, Default)]
pub(super) struct Filling {
    /// What it held when records began to be counted, and when.
    first: Option<(u64, Instant)>,
}

impl Filling {
    /// `None`: it lacks nothing that anybody knows of.
    pub(super) fn step(&mut self, copy: &pb::Copy, volume: &pb::Volume, now: Instant) -> Option<Step> {
        if let Some(resync) = copy.resync.as_ref().filter(|r| r.total_bytes > 0) {
            self.first = None;
            return Some(fetched(resync));
        }
        let end = volume.copies.iter().filter_map(|c| c.durable_lsn).max()?;
        let held = copy.durable_lsn?.min(end);
        let (first, since) = *self.first.get_or_insert((held, now));
        let (done, all) = (held.saturating_sub(first), end.saturating_sub(first));
        if done >= all {
            return None;
        }
        let bytes = copy.lag_bytes.filter(|bytes| *bytes > 0);
        let bytes = bytes.map_or_else(String::new, |bytes| format!(" ({})", units::bytes(bytes)));
        let left = left_text(units::left(done, all, now.duration_since(since)));
        Some(Step {
            done,
            all,
            text: format!("{} records to go{bytes}{left}", units::count(all - done)),
            notes: Vec::new(),
        })
    }
}

fn fetched(r: &pb::Resync) -> Step {
    let (done, all) = (r.done_bytes.min(r.total_bytes), r.total_bytes);
    let of = format!("{} of {}", units::bytes(done), units::bytes(all));
    let text = if r.paused.is_empty() {
        let left = left_text(r.eta_seconds.map(Duration::from_secs));
        format!("{of} at {}/s{left}", units::bytes(r.bytes_per_second))
    } else {
        format!("{of}; it {}", r.paused)
    };
    Step { done, all, text, notes: Vec::new() }
}

/// All copies of one node, which are to move to others.
pub(super) struct Moving {
    start: Instant,
    /// Copies that were to move.
    most: u64,
    /// How each is filled, and the greatest part of it so far: what comes by the log begins anew after the regions.
    filling: BTreeMap<String, (Filling, u64)>,
}

impl Moving {
    pub(super) fn new(now: Instant) -> Moving {
        Moving { start: now, most: 0, filling: BTreeMap::new() }
    }

    /// How many there were to move when most were left, and how many of them have moved.
    pub(super) fn moved(&mut self, left: u32) -> (u64, u64) {
        self.most = self.most.max(left.into());
        (self.most - u64::from(left), self.most)
    }

    /// A copy that is being filled in place of one of these counts by how far it is.
    pub(super) fn step(&mut self, node: &pb::Node, volumes: &[pb::Volume], now: Instant) -> Step {
        let (moved, most) = self.moved(node.copies_left);
        if most == 0 {
            return Step::waiting(format!("{} is to be {}", node.name, node.wanted));
        }
        let (mut parts, mut bytes) = (moved * WHOLE, (0, 0));
        for volume in volumes.iter().filter(|v| v.copies.iter().any(|c| c.node == node.name && c.state == "leaving")) {
            let Some(new) = volume.copies.iter().find(|c| c.role == "learner") else { continue };
            let (filling, furthest) = self.filling.entry(volume.name.clone()).or_default();
            let step = filling.step(new, volume, now);
            // Until it counts something is left to do.
            let reached = step.as_ref().map_or(0, |step| part(step.done, step.all).min(WHOLE - 1));
            *furthest = reached.max(*furthest);
            parts += *furthest;
            let Some(step) = step else { continue };
            if new.resync.is_some() {
                bytes = (bytes.0 + step.done, bytes.1 + step.all);
            }
        }
        let all = most * WHOLE;
        let fetched = match bytes {
            (_, 0) => String::new(),
            (done, of) => format!(", {} of {} of the next", units::bytes(done), units::bytes(of)),
        };
        let left = left_text(units::left(parts, all, now.duration_since(self.start)));
        let what = if most == 1 { "copy" } else { "copies" };
        let text = format!("{moved} of {most} {what} moved{fetched}{left}");
        Step { done: parts.min(all), all, text, notes: node.notes.clone() }
    }
}

fn part(done: u64, all: u64) -> u64 {
    let part = (u128::from(done) * u128::from(WHOLE)).checked_div(u128::from(all)).unwrap_or(0);
    u64::try_from(part).unwrap_or(WHOLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(node: &str, role: &str, state: &str, durable: u64) -> pb::Copy {
        let text = str::to_owned;
        pb::Copy {
            node: text(node),
            role: text(role),
            state: text(state),
            durable_lsn: Some(durable),
            ..Default::default()
        }
    }

    fn volume(name: &str, copies: &[pb::Copy]) -> pb::Volume {
        pb::Volume { name: name.to_owned(), copies: copies.to_vec(), ..Default::default() }
    }

    fn resync(done: u64, total: u64) -> pb::Resync {
        pb::Resync {
            done_bytes: done << 20,
            total_bytes: total << 20,
            bytes_per_second: 8 << 20,
            eta_seconds: Some((total - done) / 8),
            ..Default::default()
        }
    }

    #[test]
    fn a_copy_is_filled_by_regions_and_then_by_the_log() {
        let (mut filling, start) = (Filling::default(), Instant::now());
        let mut new = copy("n4", "learner", "joining", 0);
        let old = copy("n1", "primary", "healthy", 3000);
        let step = |new: &pb::Copy, filling: &mut Filling, seconds| {
            filling.step(new, &volume("v", &[old.clone(), new.clone()]), start + Duration::from_secs(seconds))
        };
        new.resync = Some(resync(16, 64));
        let shown = step(&new, &mut filling, 1).expect("it lacks data");
        assert_eq!((shown.done, shown.all), (16 << 20, 64 << 20));
        assert_eq!(shown.text, "16 MiB of 64 MiB at 8 MiB/s, 6.0 s left");
        new.resync = Some(pb::Resync { paused: "waits for guests".to_owned(), ..resync(16, 64) });
        assert_eq!(step(&new, &mut filling, 2).expect("it lacks data").text, "16 MiB of 64 MiB; it waits for guests");
        (new.resync, new.durable_lsn) = (None, Some(1000));
        let shown = step(&new, &mut filling, 10).expect("it lacks records");
        assert_eq!((shown.done, shown.all, shown.text.as_str()), (0, 2000, "2\u{202f}000 records to go"));
        (new.durable_lsn, new.lag_bytes) = (Some(2000), Some(4 << 20));
        let shown = step(&new, &mut filling, 15).expect("it lacks records");
        assert_eq!((shown.done, shown.text.as_str()), (1000, "1\u{202f}000 records to go (4 MiB), 5.0 s left"));
        new.durable_lsn = Some(3000);
        assert_eq!(step(&new, &mut filling, 20), None);
        new.durable_lsn = None;
        assert_eq!(step(&new, &mut filling, 21), None, "nobody knows");
    }

    #[test]
    fn a_drain_is_as_far_as_its_copies() {
        let start = Instant::now();
        let mut moving = Moving::new(start);
        let node = |copies_left| pb::Node {
            name: "n3".to_owned(),
            wanted: "drained".to_owned(),
            copies_left,
            notes: vec!["vm1: it goes once enough others count".to_owned()],
            ..Default::default()
        };
        let mut new = copy("n4", "learner", "joining", 0);
        new.resync = Some(resync(16, 64));
        let goes = copy("n3", "secondary", "leaving", 9);
        let volumes = [
            volume("vm1", &[copy("n1", "primary", "healthy", 9), goes.clone(), new]),
            volume("vm2", &[copy("n1", "primary", "healthy", 9), goes]),
            volume("vm3", &[copy("n1", "primary", "healthy", 9)]),
        ];
        let shown = moving.step(&node(4), &[], start);
        assert_eq!((shown.done, shown.all, shown.text.as_str()), (0, 4000, "0 of 4 copies moved"));
        let shown = moving.step(&node(2), &volumes, start + Duration::from_secs(9));
        assert_eq!((shown.done, shown.all), (2250, 4000), "two, and a quarter of the next");
        assert_eq!(shown.text, "2 of 4 copies moved, 16 MiB of 64 MiB of the next, 7.0 s left");
        assert_eq!(shown.notes, ["vm1: it goes once enough others count"]);
        let mut nothing = Moving::new(start);
        assert_eq!(nothing.step(&node(0), &[], start), Step::waiting("n3 is to be drained"));
    }
}
