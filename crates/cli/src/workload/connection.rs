//! One NBD connection over a Unix socket, and the search for the node that takes it.

use bytes::{Buf, Bytes};
use holdfast_nbd::{Client, ClientConfig, ClientError, ClientEvent, ClientRequest, Cookie, ExportInfo};
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// A stopped process takes connections into its backlog and never greets.
const GREETING_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two attempts at one socket.
pub(crate) const RETRY: Duration = Duration::from_millis(5);

/// Why a connection was not made, or broke.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The socket.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The server refused the export, or broke the protocol.
    #[error("{0}")]
    Client(ClientError),
    /// No greeting in time.
    #[error("nobody greeted within {GREETING_TIMEOUT:?}")]
    Silent,
    /// The other side closed it.
    #[error("the connection was closed")]
    Closed,
    /// No node took the connection.
    #[error("expected a node to serve volume {volume} within {waited:?}, none did; last answers: {answers}")]
    Nobody {
        /// The volume.
        volume: String,
        /// How long all were asked.
        waited: Duration,
        /// What each said last.
        answers: String,
    },
}

/// An established connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    client: Client,
    unsent: VecDeque<Bytes>,
    info: ExportInfo,
    /// The process at the other end: another one is another life.
    pid: Option<i32>,
}

impl Connection {
    /// Connects and negotiates, once.
    pub(crate) async fn open(socket: &Path, export: &str) -> Result<Connection, ConnectionError> {
        let negotiation = async {
            let stream = UnixStream::connect(socket).await?;
            let pid = stream.peer_cred()?.pid();
            let info = ExportInfo { size: 0, flags: 0, structured: false, block_status: false, block_sizes: None };
            let client = Client::new(ClientConfig::new(export));
            let mut connection = Connection { stream, client, unsent: VecDeque::new(), info, pid };
            match connection.event().await? {
                ClientEvent::Ready(info) => connection.info = info,
                ClientEvent::Failed(error) => return Err(ConnectionError::Client(error)),
                ClientEvent::Reply { .. } => return Err(ConnectionError::Closed),
            }
            Ok(connection)
        };
        timeout(GREETING_TIMEOUT, negotiation).await.unwrap_or(Err(ConnectionError::Silent))
    }

    pub(crate) fn pid(&self) -> Option<i32> {
        self.pid
    }

    pub(crate) fn size(&self) -> u64 {
        self.info.size
    }

    /// Queues a request; it leaves with the next [`Connection::event`].
    pub(crate) fn request(&mut self, request: ClientRequest) -> Result<Cookie, ConnectionError> {
        self.client.request(request).map_err(|e| ConnectionError::Io(io::Error::other(e)))
    }

    /// The next thing that happens. Dropping the future loses nothing.
    pub(crate) async fn event(&mut self) -> Result<ClientEvent, ConnectionError> {
        loop {
            if let Some(event) = self.client.next_event() {
                return Ok(event);
            }
            self.unsent.extend(self.client.take_output());
            let interest =
                if self.unsent.is_empty() { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
            let ready = self.stream.ready(interest).await?;
            if ready.is_writable() {
                self.send()?;
            }
            if ready.is_readable() {
                self.receive()?;
            }
        }
    }

    /// Tells the server that no more will come.
    pub(crate) fn goodbye(mut self) {
        self.client.disconnect();
        self.unsent.extend(self.client.take_output());
        // Nobody waits for the answer: a server that is gone has nothing to be told.
        let _ = self.send();
    }

    fn send(&mut self) -> Result<(), ConnectionError> {
        while let Some(first) = self.unsent.front_mut() {
            match self.stream.try_write(first) {
                Ok(written) => first.advance(written),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e.into()),
            }
            if self.unsent.front().is_some_and(Bytes::is_empty) {
                self.unsent.pop_front();
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<(), ConnectionError> {
        match self.stream.try_read_buf(self.client.room()) {
            Ok(0) => Err(ConnectionError::Closed),
            Ok(_) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

/// Asks all sockets, each again and again, until one takes the connection. Returns which.
pub(crate) async fn attach(
    sockets: &[PathBuf],
    export: &str,
    limit: Duration,
) -> Result<(usize, Connection), ConnectionError> {
    let (told, mut heard) = tokio::sync::mpsc::channel::<(usize, String)>(64);
    let mut attempts = JoinSet::new();
    for (at, socket) in sockets.iter().cloned().enumerate() {
        let (told, export) = (told.clone(), export.to_owned());
        attempts.spawn(async move {
            loop {
                match Connection::open(&socket, &export).await {
                    Ok(connection) => return (at, connection),
                    // Only for the message: whoever listens may have missed some.
                    Err(e) => _ = told.try_send((at, e.to_string())),
                }
                sleep(RETRY).await;
            }
        });
    }
    let mut answers = vec!["nothing".to_owned(); sockets.len()];
    let found = timeout(limit, async {
        loop {
            tokio::select! {
                Some(Ok(found)) = attempts.join_next() => return found,
                Some((at, answer)) = heard.recv() => answers[at] = answer,
            }
        }
    });
    found.await.map_err(|_| ConnectionError::Nobody {
        volume: export.to_owned(),
        waited: limit,
        answers: sockets
            .iter()
            .zip(&answers)
            .map(|(s, a)| format!("{}: {a}", s.display()))
            .collect::<Vec<_>>()
            .join("; "),
    })
}
