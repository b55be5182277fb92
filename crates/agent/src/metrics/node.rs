//! Metrics of the node: its threads, its journal and disk, its connections.

use super::Answers;
use super::shard::{DiskClass, ShardSample};
use super::text::{Kind, Nanos, Page};
use crate::refusals::RefusalCounts;
use holdfast_transport::PeerStats;
use holdfast_types::NodeId;

pub(super) fn write_threads(page: &mut Page, answers: &Answers) {
    let help = "Whether a thread of the agent answered this scrape within two seconds.";
    page.family("holdfast_thread_answers", Kind::Gauge, help)
        .sample(&[("thread", "control")], u8::from(answers.control.is_some()))
        .sample(&[("thread", "shard")], u8::from(answers.shard.is_some()));
}

pub(super) fn write_shard(page: &mut Page, shard: &ShardSample) {
    let flag = u64::from;
    for (name, help, value) in [
        ("holdfast_journal_used_bytes", "Bytes of segment files that are part of the journal.", shard.journal_bytes),
        ("holdfast_journal_bound_bytes", "Bytes that the journal does not grow beyond.", shard.journal_bound),
        ("holdfast_journal_full", "Whether writes wait for room in the journal.", flag(shard.journal_full)),
        ("holdfast_staged_bytes", "Bytes of records that wait for a frame of the journal.", shard.staged_bytes),
        ("holdfast_unapplied_bytes", "Bytes of committed records that are in no image yet.", shard.unapplied_bytes),
        ("holdfast_table_cache_bytes", "Memory taken by pages of the tables of checksums.", shard.table_bytes as u64),
        ("holdfast_disk_operations_in_flight", "Disk operations given out and not ended.", shard.disk.in_flight as u64),
        (
            "holdfast_disk_short_of_space",
            "Whether an operation found no space and waits for it.",
            flag(shard.short_of_space),
        ),
        ("holdfast_disk_hung", "Whether the device has not answered something for too long.", flag(shard.hung)),
    ] {
        page.family(name, Kind::Gauge, help).sample(&[], value);
    }
    let help = "Records that were durable in the journal and could not be read.";
    page.family("holdfast_journal_lost_records_total", Kind::Counter, help).sample(&[], shard.journal_lost);
    let oldest = u64::try_from(shard.disk.oldest.as_nanos()).unwrap_or(u64::MAX);
    let help = "How long the oldest disk operation that has not ended has been waiting.";
    page.family("holdfast_disk_oldest_operation_seconds", Kind::Gauge, help).sample(&[], Nanos(oldest));
    let help = "Time from giving a disk operation out to seeing its end, by what it is.";
    page.family("holdfast_disk_operation_duration_seconds", Kind::Histogram, help);
    for class in DiskClass::ALL {
        page.histogram(&[("operation", class.name())], &shard.disk.took[class as usize]);
    }
    let help = "Disk operations that ended with an error, lack of space included.";
    page.family("holdfast_disk_errors_total", Kind::Counter, help).sample(&[], shard.disk.failed);
    let w = &shard.written;
    page.family("holdfast_disk_written_bytes_total", Kind::Counter, "Bytes written, by what they were written for.");
    for (what, bytes) in [
        ("journal", w.journal),
        ("image", w.image),
        ("tables", w.tables),
        ("superblocks", w.superblocks),
        ("orphans", w.orphans),
        ("resync", w.side),
        ("journal_preparation", w.prepared),
    ] {
        page.sample(&[("for", what)], bytes);
    }
    let help = "Bytes of records that were appended: what guests, or other primaries, handed over.";
    page.family("holdfast_appended_bytes_total", Kind::Counter, help).sample(&[], w.guest);
}

/// At the admin socket.
pub(super) fn write_refusals(page: &mut Page, refused: &RefusalCounts) {
    let help = "Connections and calls that were refused at the admin socket, by what the user may do.";
    page.family("holdfast_admin_refused_total", Kind::Counter, help);
    for (role, what, count) in refused.all() {
        page.sample(&[("role", role), ("what", what)], count);
    }
}

/// Of both endpoints: the control thread's and the shard's.
pub(super) fn write_connections(page: &mut Page, answers: &Answers) {
    let name = |node: NodeId| answers.control.as_ref().map_or_else(|| node.to_string(), |c| c.name(node));
    let control = answers.control.iter().flat_map(|c| &c.peers).map(|(node, stats)| ("control", name(*node), stats));
    let shard = answers.shard.iter().flat_map(|s| &s.peers).map(|(node, stats)| ("shard", name(*node), stats));
    let all: Vec<(&str, String, &PeerStats)> = control.chain(shard).collect();
    let help =
        "Connections and joins that were turned away: failed, late or too many handshakes, and whoever is no peer.";
    page.family("holdfast_refused_connections_total", Kind::Counter, help);
    let (control, shard) = (answers.control.as_ref(), answers.shard.as_ref());
    let planes = [("control", control.map(|c| c.turned_away)), ("shard", shard.map(|s| s.turned_away))];
    let planes: Vec<_> = planes.into_iter().filter_map(|(plane, found)| Some((plane, found?))).collect();
    for (plane, found) in &planes {
        page.sample(&[("plane", plane)], found.all);
    }
    let help =
        "Of those, handshakes that were too many at once or in a second, from addresses of members and from others.";
    page.family("holdfast_refused_handshakes_total", Kind::Counter, help);
    for (plane, found) in &planes {
        page.sample(&[("plane", plane), ("of", "member")], found.members);
        page.sample(&[("plane", plane), ("of", "stranger")], found.strangers);
    }
    let help = "Of the connections, handshakes that the other side gave up or did not end in time: whoever looks for open ports, or lost packets.";
    page.family("holdfast_abandoned_handshakes_total", Kind::Counter, help);
    for (plane, found) in &planes {
        page.sample(&[("plane", plane)], found.abandoned);
    }
    if let Some(shard) = shard {
        let help = "Messages of nodes about volumes that were not taken: of no member, or not readable.";
        page.family("holdfast_refused_messages_total", Kind::Counter, help);
        page.sample(&[], shard.refused_messages);
    }
    let mut family = |metric, kind, help, value: &dyn Fn(&PeerStats) -> String| {
        page.family(metric, kind, help);
        for (plane, peer, stats) in &all {
            page.sample(&[("plane", plane), ("node", peer)], value(stats));
        }
    };
    let help = "Round trip to a node, smoothed, on the connection dialled from here.";
    family("holdfast_connection_rtt_seconds", Kind::Gauge, help, &|s| {
        Nanos(u64::try_from(s.rtt.as_nanos()).unwrap_or(u64::MAX)).to_string()
    });
    let help = "Bytes of UDP payload sent on the present connection.";
    family("holdfast_connection_sent_bytes_total", Kind::Counter, help, &|s| s.sent_bytes.to_string());
    let help = "Bytes of UDP payload received on the present connection.";
    family("holdfast_connection_received_bytes_total", Kind::Counter, help, &|s| s.received_bytes.to_string());
    let help = "QUIC packets sent on the present connection.";
    family("holdfast_connection_sent_packets_total", Kind::Counter, help, &|s| s.sent_packets.to_string());
    let help = "QUIC packets that count as lost.";
    family("holdfast_connection_lost_packets_total", Kind::Counter, help, &|s| s.lost_packets.to_string());
    let help = "How often the congestion window was cut.";
    family("holdfast_connection_congestion_events_total", Kind::Counter, help, &|s| s.congestion_events.to_string());
    let help = "Bytes that may be in flight to a node.";
    family("holdfast_connection_congestion_window_bytes", Kind::Gauge, help, &|s| s.congestion_window.to_string());
}
