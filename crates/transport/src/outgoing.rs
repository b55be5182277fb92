//! One outgoing lane: a queue bounded in bytes, and the task that moves it to a stream.
//!
//! ```text
//! down ──stream open, header written──▶ up(session) ──stream or connection lost, lane closed──▶ down
//! ```
//! Only between `LaneUp` and `LaneDown` does the queue take messages, and only of that session; what it holds when the
//! session ends is dropped. So messages of one session arrive as a prefix of what was sent.

use crate::config::Lane;
use crate::endpoint::Shared;
use crate::error::SendError;
use crate::events::{Event, Gone};
use crate::header::Header;
use bytes::{BufMut, Bytes, BytesMut};
use holdfast_types::NodeId;
use quinn::{SendStream, WriteError};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

/// Bytes moved to the stream in one go: enough to fill packets, little enough that a queue drains smoothly.
const BATCH_BYTES: usize = 256 << 10;
/// Messages moved in one go.
const BATCH_MESSAGES: usize = 256;
/// Pause before a lane that broke alone, on a living connection, is opened again.
const REOPEN: Duration = Duration::from_millis(100);

/// A lane that somebody wants open.
pub(crate) struct OutLane {
    queue: Mutex<Queue>,
    ready: Notify,
}

#[derive(Default)]
struct Queue {
    session: Option<u64>,
    messages: VecDeque<(usize, Vec<Bytes>)>,
    /// Of the messages, and of what is being written to the stream.
    bytes: usize,
}

struct Batch {
    chunks: Vec<Bytes>,
    bytes: usize,
}

impl OutLane {
    pub(crate) fn new() -> Arc<OutLane> {
        Arc::new(OutLane { queue: Mutex::default(), ready: Notify::new() })
    }

    /// Takes a message of `len` bytes, or says why not.
    pub(crate) fn push(&self, session: u64, len: usize, message: Vec<Bytes>, limit: usize) -> Result<(), SendError> {
        let mut queue = self.lock();
        if queue.session != Some(session) {
            return Err(SendError::Down);
        }
        if queue.bytes + len > limit {
            return Err(SendError::Full);
        }
        queue.bytes += len;
        queue.messages.push_back((len, message));
        drop(queue);
        self.ready.notify_one();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn up(&self, session: u64) {
        let mut queue = self.lock();
        assert!(queue.session.is_none() && queue.messages.is_empty(), "a lane has one session at a time");
        queue.session = Some(session);
    }

    fn down(&self) {
        *self.lock() = Queue::default();
    }

    /// Frames of what waits, as they go out.
    fn take(&self) -> Batch {
        let mut queue = self.lock();
        let count = queue.messages.len().min(BATCH_MESSAGES);
        let mut lengths = BytesMut::with_capacity(count * 4);
        let mut batch = Batch { chunks: Vec::with_capacity(count * 3), bytes: 0 };
        for _ in 0..count {
            let Some((len, message)) = queue.messages.pop_front() else { break };
            lengths.put_u32_le(u32::try_from(len).expect("messages are at most 4 GiB long"));
            batch.chunks.push(lengths.split().freeze());
            batch.chunks.extend(message.into_iter().filter(|piece| !piece.is_empty()));
            batch.bytes += len;
            if batch.bytes >= BATCH_BYTES {
                break;
            }
        }
        batch
    }

    fn written(&self, bytes: usize) {
        self.lock().bytes -= bytes;
    }
}

/// A running writer; dropping it stops the lane.
pub(crate) struct Writer {
    pub(crate) lane: Arc<OutLane>,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Writer {
    pub(crate) fn start(
        shared: Arc<Shared>,
        connection: quinn::Connection,
        peer: NodeId,
        key: Lane,
        lane: Arc<OutLane>,
    ) -> Writer {
        let (stop, stopped) = oneshot::channel();
        let context = Context { shared, connection, peer, key, lane: Arc::clone(&lane) };
        Writer { lane, stop, task: tokio::spawn(context.run(stopped)) }
    }

    /// Ends the session, and waits until the owner has been told.
    pub(crate) async fn stop(self) {
        drop(self.stop);
        // A writer that panicked has told why.
        let _ = self.task.await;
    }
}

struct Context {
    shared: Arc<Shared>,
    connection: quinn::Connection,
    peer: NodeId,
    key: Lane,
    lane: Arc<OutLane>,
}

impl Context {
    /// Sessions, one after the other, until the connection is lost or somebody stops us.
    async fn run(self, mut stopped: oneshot::Receiver<()>) {
        loop {
            let stop = tokio::select! {
                biased;
                _ = &mut stopped => true,
                opened = self.open_stream() => match opened {
                    Ok((stream, session)) => self.session(stream, session, &mut stopped).await.unwrap_or(true),
                    Err(error) => {
                        tracing::debug!(peer = %self.peer, lane = %self.key, %error, "cannot open the lane for now");
                        false
                    }
                }
            };
            if stop || self.connection.close_reason().is_some() {
                return;
            }
            tokio::select! {
                _ = &mut stopped => return,
                _ = self.connection.closed() => return,
                () = tokio::time::sleep(REOPEN) => {}
            }
        }
    }

    async fn open_stream(&self) -> Result<(SendStream, u64), WriteError> {
        let mut stream = self.connection.open_uni().await?;
        let session = self.shared.next_session();
        // Fails only on a finished stream.
        let _ = stream.set_priority(self.key.priority());
        let (cluster, life) = (self.shared.cluster, self.shared.life);
        stream.write_all(&Header { cluster, lane: self.key, life, session }.encode()).await?;
        Ok((stream, session))
    }

    /// One session. `Ok(true)`: stopped by us.
    async fn session(
        &self,
        mut stream: SendStream,
        session: u64,
        stopped: &mut oneshot::Receiver<()>,
    ) -> Result<bool, Gone> {
        let (peer, lane) = (self.peer, self.key);
        self.lane.up(session);
        let announced = self.shared.events.send(lane.is_urgent(), Event::LaneUp { peer, lane, session }).await;
        let stop = match &announced {
            Err(Gone) => true,
            Ok(()) => tokio::select! {
                biased;
                _ = stopped => true,
                error = self.pump(&mut stream) => {
                    tracing::debug!(%peer, %lane, session, %error, "the lane's session is over");
                    false
                }
            },
        };
        self.lane.down();
        // What is written already may arrive; the reader drops a message that is cut off.
        let _ = stream.finish();
        announced?;
        self.shared.events.send(lane.is_urgent(), Event::LaneDown { peer, lane, session }).await?;
        Ok(stop)
    }

    /// Moves messages until the stream fails.
    async fn pump(&self, stream: &mut SendStream) -> WriteError {
        let ended = stream.stopped();
        tokio::pin!(ended);
        loop {
            let mut batch = self.lane.take();
            if batch.chunks.is_empty() {
                tokio::select! {
                    () = self.lane.ready.notified() => continue,
                    end = &mut ended => return match end {
                        Ok(code) => WriteError::Stopped(code.unwrap_or_default()),
                        Err(quinn::StoppedError::ConnectionLost(error)) => WriteError::ConnectionLost(error),
                        Err(quinn::StoppedError::ZeroRttRejected) => WriteError::ZeroRttRejected,
                    },
                }
            }
            if let Err(error) = stream.write_all_chunks(&mut batch.chunks).await {
                return error;
            }
            self.lane.written(batch.bytes);
        }
    }
}
