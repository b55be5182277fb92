//! `holdfast explain`: a volume's state in sentences, from what `status` says and nothing else.
//!
//! [`explain`] is a pure function, so that every state can be put before it. It promises nothing that the rules of docs/PROTOCOL.md do
//! not: what happens by itself stands under `next`, what needs a person under `could`.

use holdfast_agent::admin::pb;
use serde_json::{Value, json};
use std::fmt::Write;

/// What there is to say about a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Explanation {
    /// What it is and does now.
    pub(crate) state: String,
    /// Why it is not better; what makes it good.
    pub(crate) why: Vec<String>,
    /// What one more fault would mean.
    pub(crate) dangers: Vec<String>,
    /// What happens without anybody's help.
    pub(crate) next: Vec<String>,
    /// What an operator could do.
    pub(crate) could: Vec<String>,
}

impl Explanation {
    pub(crate) fn json(&self, volume: &str) -> Value {
        json!({
            "volume": volume,
            "state": self.state,
            "why": self.why,
            "unsafe": self.dangers,
            "next": self.next,
            "could": self.could,
        })
    }

    pub(crate) fn text(&self) -> String {
        let mut out = format!("{}.\n", self.state);
        let parts = [
            ("Why", &self.why),
            ("What is unsafe", &self.dangers),
            ("What happens by itself", &self.next),
            ("What you could do", &self.could),
        ];
        for (title, sentences) in parts {
            let _ = writeln!(out, "\n{title}:");
            for sentence in sentences {
                let _ = writeln!(out, "  {sentence}.");
            }
            if sentences.is_empty() {
                out.push_str("  Nothing.\n");
            }
        }
        out
    }
}

/// Explains one volume of a cluster.
pub(crate) fn explain(status: &pb::StatusResponse, volume: &pb::Volume) -> Explanation {
    let look = Look { status, volume };
    let mut e = Explanation { state: look.state(), ..Explanation::default() };
    look.whole(&mut e);
    for copy in &volume.copies {
        look.copy(copy, &mut e);
        look.integrity(copy, &mut e);
    }
    look.control_plane(&mut e);
    e
}

struct Look<'a> {
    status: &'a pb::StatusResponse,
    volume: &'a pb::Volume,
}

impl Look<'_> {
    fn name(&self) -> &str {
        &self.volume.name
    }

    /// Copies that count and hold everything.
    fn good(&self) -> usize {
        let counts = |c: &&pb::Copy| c.state == "healthy" && (c.role == "primary" || c.role == "secondary");
        self.volume.copies.iter().filter(counts).count()
    }

    fn node_state(&self, name: &str) -> &str {
        self.status.nodes.iter().find(|n| n.name == name).map_or("unknown", |n| &n.state)
    }

    fn state(&self) -> String {
        let v = self.volume;
        let (name, wanted, good) = (&v.name, v.copies_wanted, self.good());
        let serves = format!("served by {} in epoch {}", v.primary, v.epoch);
        match v.state.as_str() {
            "healthy" => {
                format!("{name} is healthy: {serves}, and all {wanted} copies hold everything that was acknowledged")
            }
            "degraded" => format!(
                "{name} is degraded: {serves}, and {good} of {wanted} copies hold everything that was acknowledged"
            ),
            "stalled" if v.primary.is_empty() => format!("{name} is stalled: nobody serves it, requests wait"),
            "stalled" => format!("{name} is stalled: requests wait, {} was its last primary", v.primary),
            "opening" if v.epoch == 0 => format!("{name} is being created"),
            "opening" if v.pending_primary.is_empty() => format!("{name} is between two primaries: requests wait"),
            "opening" => format!(
                "{name} is between two primaries: {} opens epoch {}, requests wait",
                v.pending_primary, v.pending_epoch
            ),
            "failed" => format!("{name} has failed: too few of its copies are sound to know what was acknowledged"),
            other => format!("{name} is {other}"),
        }
    }

    fn whole(&self, e: &mut Explanation) {
        let v = self.volume;
        let (good, quorum) = (self.good(), usize::try_from(v.quorum).unwrap_or(usize::MAX));
        if v.state == "healthy" && v.r#unsafe.is_empty() {
            e.why.push("nothing is wrong".to_owned());
        }
        e.why.extend(v.r#unsafe.iter().cloned());
        match v.state.as_str() {
            "healthy" | "degraded" => self.serving(good, quorum, e),
            "stalled" => self.stalled(quorum, e),
            "opening" if v.epoch == 0 => e.next.push("it opens as soon as every node has created its copy".to_owned()),
            "opening" => e.next.push(
                "the new primary opens with everything that was acknowledged, and requests that wait are answered then"
                    .to_owned(),
            ),
            "failed" => {
                e.dangers
                    .push("to open it with what is left could lose acknowledged writes, so it stays closed".to_owned());
                e.next.push("nothing, until enough of the copies that failed are back".to_owned());
                e.could.push(
                    "bring back the nodes and devices of the copies that failed as they were, delete nothing, and restart their agents"
                        .to_owned(),
                );
            }
            _ => {}
        }
        if let Some(size) = v.size_wanted {
            e.next.push(format!("its size becomes {size} bytes as soon as its primary has logged that"));
        }
        if let Some(bytes) = v.exposed_bytes.filter(|b| *b > 0) {
            let seconds = v.exposed_seconds.unwrap_or(0);
            e.dangers.push(format!(
                "{bytes} bytes that were acknowledged have fewer copies than promised, for {seconds} s now"
            ));
        }
    }

    /// What the next fault means for a volume that serves.
    fn serving(&self, good: usize, quorum: usize, e: &mut Explanation) {
        let v = self.volume;
        if v.durability == "async" {
            e.dangers.push(format!(
                "durability async: {} alone is sure to hold what was acknowledged, and nobody takes over without it",
                v.primary
            ));
        } else if v.single_copy {
            e.next.push("the copy that is gone counts again by itself once it is back and holds everything; until then a write needs one copy".to_owned());
        } else if good <= quorum {
            e.dangers.push(format!(
                "a write needs {quorum} copies and {good} are good: if one more fails or is cut off, requests wait until one is back"
            ));
        }
        if v.durability != "async" && quorum < 2 {
            e.dangers.push(
                "what is written now is on one copy alone: if its disk is lost, so are acknowledged writes".to_owned(),
            );
        }
        if v.durability == "flush" {
            let memories = "durability flush: writes that were not flushed are lost if so many hosts lose power at once that fewer than a \
                            quorum remembers them";
            e.dangers.push(memories.to_owned());
        }
        if v.state == "healthy" && good > quorum {
            let spare = good - quorum;
            e.next.push(format!(
                "if {} dies, the best of the other copies takes over with every acknowledged write; {spare} of the copies can be away while \
                 writes go on",
                v.primary
            ));
        }
    }

    fn stalled(&self, quorum: usize, e: &mut Explanation) {
        let v = self.volume;
        e.dangers.push(
            "nothing is lost, and the guest sees a slow disk, as long as its client waits (reconnect-delay under QEMU)"
                .to_owned(),
        );
        if self.node_state(&v.primary) == "restarting" {
            e.next.push(format!("the agent of {} is being restarted and goes on where it was; if it stays away, another copy takes over", v.primary));
        } else {
            e.next.push(format!(
                "requests go on by themselves, each answered once, when {quorum} sound copies reach each other again"
            ));
        }
    }

    fn copy(&self, copy: &pb::Copy, e: &mut Explanation) {
        let (node, volume) = (&copy.node, self.name());
        if let Some(slow) = &copy.slow {
            self.slow(copy, slow, e);
        }
        match copy.state.as_str() {
            "catching_up" => {
                let lag = copy.lag_lsn.map_or_else(String::new, |lag| format!(" the {lag} records that it lacks"));
                e.next.push(format!("the copy on {node} gets{lag} from the primary's journal, in write order"));
            }
            "resyncing" => self.resyncing(copy, e),
            "joining" => e.next.push(format!(
                "the copy on {node} is being filled and counts once it equals the primary's: {}",
                copy.note
            )),
            "creating" => e.next.push(format!("{node} creates its copy as soon as it answers")),
            "leaving" => e.next.push(format!("the copy on {node} goes: {}", copy.note)),
            "deleting" => {
                e.next.push(format!("the data of the former copy on {node} is deleted as soon as that node answers"))
            }
            "unreachable" if self.node_state(node) == "restarting" => {
                e.next.push(format!("the agent of {node} is being restarted; its copy catches up when it is back"));
            }
            "unreachable" => {
                e.next.push(format!(
                    "when {node} is back, its copy catches up from a journal, or by regions where no journal reaches"
                ));
                e.could.push(format!(
                    "start {node} or its agent, or mend its network; if it is gone for good: holdfast copy replace {volume} {node} NODE"
                ));
            }
            "hung" => {
                e.next.push(format!(
                    "the copy on {node} takes part again when its device answers; it leads nothing until then"
                ));
                e.could.push(format!(
                    "look at the device of {node} (dmesg there), and restart its agent if it does not come back"
                ));
            }
            "failed" => {
                e.next.push(format!("nothing with the copy on {node}: a device that failed is not trusted again in this life of its agent"));
                e.could.push(format!(
                    "check the device of {node}, then restart its agent; or make the copy anew: holdfast copy replace {volume} {node} NODE"
                ));
            }
            "lost" => {
                e.next.push(format!(
                    "nothing with the copy on {node}: it took back what it had acknowledged, or its image differs"
                ));
                e.could.push(format!(
                    "make the copy anew: holdfast copy replace {volume} {node} {node}, or another node in place of it"
                ));
            }
            _ => {}
        }
    }

    fn slow(&self, copy: &pb::Copy, slow: &pb::Slow, e: &mut Explanation) {
        let (node, volume) = (&copy.node, self.name());
        let (latency, others) = (slow.latency_us / 1000, slow.others_us / 1000);
        if copy.node == self.volume.primary {
            let what = if slow.link { "its way to the other copies" } else { "its copy" };
            e.dangers.push(format!(
                "{node}, the primary, is slow: {what} takes {latency} ms for a write, the rest {others} ms"
            ));
            e.next.push(format!(
                "{volume} stays on {node}, unless failover.slow_primary is \"switch\" and all copies are in sync"
            ));
            e.could.push(format!("move the primary: holdfast failover {volume}"));
        } else {
            e.dangers.push(format!("the copy on {node} is slow: {latency} ms for a write, the others {others} ms; if a quorum needs it, guests wait for it"));
            e.next.push(format!(
                "writes are acknowledged by the other copies, as long as {} of them answer",
                self.volume.quorum
            ));
        }
        e.could.push(format!("look at the device of {node} (dmesg, iostat there) and at its network"));
    }

    fn resyncing(&self, copy: &pb::Copy, e: &mut Explanation) {
        let node = &copy.node;
        let Some(resync) = &copy.resync else {
            e.next.push(format!(
                "the copy on {node} fetches the regions that changed from another copy; no journal reaches it any more"
            ));
            return;
        };
        let (done, total) = (resync.done_bytes >> 20, resync.total_bytes >> 20);
        let left = resync.eta_seconds.map_or_else(String::new, |s| format!(", {s} s to go at this rate"));
        e.next.push(format!(
            "the copy on {node} fetches the regions that changed: {done} of {total} MiB are there{left}"
        ));
        if !resync.paused.is_empty() {
            e.could.push(format!("mend what the resync of {node} waits for: it {}", resync.paused));
        }
    }

    fn integrity(&self, copy: &pb::Copy, e: &mut Explanation) {
        let Some(found) = &copy.integrity else { return };
        let volume = self.name();
        if !found.unrepairable.is_empty() {
            e.dangers.push(format!(
                "reads of the rotten ranges of the copy on {} fail while it is the primary's",
                copy.node
            ));
            e.could.push(format!("bring all copies back, then: holdfast scrub {volume}"));
        }
        if copy.role == "primary" && !found.differs.is_empty() {
            e.dangers.push("copies differ, and no checksum says which one is right".to_owned());
            e.could.push(format!("see where they differ: holdfast verify {volume}"));
        }
    }

    fn control_plane(&self, e: &mut Explanation) {
        if self.status.leader.is_empty() {
            e.dangers.push("the control plane has no leader: nobody takes over if the primary dies now".to_owned());
            e.could.push("start nodes that vote until a majority of them runs: holdfast node list".to_owned());
        }
    }
}

#[cfg(test)]
mod tests;
