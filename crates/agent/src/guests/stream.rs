//! What a connection does with its socket and with one request: says what may be said, notices that its client is gone, knows what
//! a request costs.

use super::Shared;
use crate::random;
use bytes::{Buf, Bytes};
use holdfast_nbd as nbd;
use holdfast_node::Cost;
use holdfast_types::{Time, VolumeId};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::task::Poll;
use tokio::io::AsyncWrite;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;

/// A request that was taken off the socket and is not handed over yet.
pub(super) struct Parked {
    pub(super) request: nbd::Request,
    /// Bytes of its reply, if it is a read and the first piece of it: a read is charged whole with that, and the other pieces
    /// follow whatever happens.
    pub(super) reply: usize,
    /// The volume's limits let it go.
    pub(super) paid: bool,
    /// When it began to wait for that.
    pub(super) since: Option<Time>,
}

/// What a request takes of the volume's allowance; `None`: nothing, it moves no data.
pub(super) fn cost(request: &nbd::Request) -> Option<Cost> {
    let bytes = match request.command {
        nbd::Command::Read | nbd::Command::Write => u64::from(request.len),
        nbd::Command::Trim | nbd::Command::WriteZeroes => 0,
        nbd::Command::Flush | nbd::Command::BlockStatus | nbd::Command::Cache => return None,
    };
    Some(Cost { requests: u64::from(request.key.is_first()), bytes })
}

/// Writes to a guest of `volume` what was decided, as soon as it may be said. After a gap the shard's loop has its turn
/// first, and answers wait until it knows whether this node still reigns.
pub(super) async fn say(
    shared: &Shared,
    volume: Option<VolumeId>,
    writer: &mut OwnedWriteHalf,
    slices: &[IoSlice<'_>],
) -> io::Result<usize> {
    poll_fn(|cx| {
        if let Some(volume) = volume {
            let registry = shared.borrow();
            if registry.stands_still() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if registry.is_mute(volume) {
                // `resumed` wakes this task.
                return Poll::Pending;
            }
        }
        Pin::new(&mut *writer).poll_write_vectored(cx, slices)
    })
    .await
}

/// Waits until then; for ever if it is never.
pub(super) async fn come(at: Option<Time>) {
    match at {
        Some(at) => tokio::time::sleep(at.since(random::now())).await,
        None => std::future::pending().await,
    }
}

/// Whether the client has given the connection up. What it sent before can still be read, but it may have sent it again over
/// another connection since: taken now, it would undo what was answered there (S12). A client that has not hung up by now
/// sends again later than this, and finds these requests taken.
pub(super) fn has_hung_up(stream: &UnixStream) -> bool {
    let mut asked = libc::pollfd { fd: stream.as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: one pollfd that lives through the call; its descriptor is open as long as `stream`.
    let found = unsafe { libc::poll(&raw mut asked, 1, 0) };
    found == 1 && asked.revents & libc::POLLHUP != 0
}

/// Drops what was written from the front.
pub(super) fn advance(unsent: &mut VecDeque<Bytes>, mut written: usize) {
    while written > 0 {
        let front = unsent.front_mut().expect("no more is written than was offered");
        let taken = written.min(front.len());
        front.advance(taken);
        written -= taken;
        if front.is_empty() {
            unsent.pop_front();
        }
    }
}
