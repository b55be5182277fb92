//! A connection that was left because it was silent. Its process may only have been stopped: what it says when it runs
//! again must not be wrong, and whatever it is asked now it must not answer.

use super::connection::Connection;
use super::operation::{Kind, Operation, request_for};
use bytes::Bytes;
use holdfast_nbd::{ClientEvent, Cookie, ReplyData};
use holdfast_types::SECTOR_SIZE;
use std::collections::BTreeMap;
use std::ops::Range;
use tokio::sync::mpsc::UnboundedSender;

/// What a connection said after it was left.
pub(super) enum Late {
    /// A success, to an operation that was invoked before.
    Answer { operation: Operation, data: ReplyData },
    /// A success, to a request that was made after.
    Deposed { what: &'static str },
}

/// Listens until the connection ends. `canary` is a sector that the workload does not use.
pub(super) async fn listen(
    mut connection: Connection,
    mut in_flight: BTreeMap<Cookie, Operation>,
    canary: Range<u64>,
    told: UnboundedSender<Late>,
) {
    let content = Bytes::from(vec![0xCA; SECTOR_SIZE]);
    let fresh = [("write", Kind::Write { fua: false }), ("read", Kind::Read)];
    let mut canaries = BTreeMap::new();
    for (what, kind) in fresh {
        if let Ok(cookie) = connection.request(request_for(kind, &canary, content.clone())) {
            canaries.insert(cookie, what);
        }
    }
    while let Ok(ClientEvent::Reply { cookie, result }) = connection.event().await {
        let Ok(data) = result else { continue };
        let late = if let Some(what) = canaries.remove(&cookie) {
            Late::Deposed { what }
        } else if let Some(operation) = in_flight.remove(&cookie) {
            Late::Answer { operation, data }
        } else {
            continue;
        };
        if told.send(late).is_err() {
            return;
        }
    }
}
