//! One task per peer: keeps an outgoing connection and the wanted lanes on it.
//!
//! ```text
//! idle ──address──▶ dialling ──welcome──▶ connected ──lost──▶ pause (100 ms, doubling to 1 s) ──▶ dialling
//! ```
//! A change of address, or its removal, leads back to the start from everywhere. The task ends with the endpoint.

use crate::config::Lane;
use crate::endpoint::{REMOVED, Shared};
use crate::events::Event;
use crate::header::WELCOME;
use crate::outgoing::Writer;
use crate::pki;
use holdfast_types::NodeId;
use quinn::ConnectionError;
use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

pub(crate) struct Dialler {
    pub(crate) shared: Arc<Shared>,
    pub(crate) peer: NodeId,
    pub(crate) address: watch::Receiver<Option<SocketAddr>>,
    /// The wanted lanes have changed.
    pub(crate) changed: Arc<Notify>,
}

/// The endpoint is gone.
struct Ended;

impl Dialler {
    pub(crate) async fn run(mut self) {
        // The only way out is the end of the endpoint.
        let Err(Ended) = self.keep_connected().await;
    }

    async fn keep_connected(&mut self) -> Result<std::convert::Infallible, Ended> {
        let mut pause = FIRST_PAUSE;
        let mut told = false;
        loop {
            let target = *self.address.borrow_and_update();
            let Some(address) = target else {
                self.address.changed().await.map_err(|_| Ended)?;
                continue;
            };
            let shared = Arc::clone(&self.shared);
            let dialled = tokio::select! {
                changed = self.address.changed() => { changed.map_err(|_| Ended)?; continue }
                dialled = dial(&shared, self.peer, address) => dialled,
            };
            match dialled {
                Ok(connection) => {
                    tracing::info!(peer = %self.peer, %address, "connected");
                    let begun = Instant::now();
                    shared.set_dialled(self.peer, Some(&connection));
                    let ended = self.serve(&connection).await;
                    shared.set_dialled(self.peer, None);
                    if let Some(reason) = connection.close_reason() {
                        self.look_whether_removed(&reason).await;
                        tracing::info!(peer = %self.peer, %address, %reason, "disconnected");
                    }
                    ended?;
                    told = false;
                    if begun.elapsed() > LONGEST_PAUSE {
                        pause = FIRST_PAUSE;
                    }
                }
                Err(error) if is_farewell(error.downcast_ref()) => {
                    tracing::warn!(peer = %self.peer, %address, error, "this node was removed from the cluster");
                    self.tell_removed().await;
                }
                // Once per outage: a dead peer must not fill the log.
                Err(error) if !told => {
                    tracing::warn!(peer = %self.peer, %address, error, "cannot connect; trying on until it answers");
                    told = true;
                }
                Err(error) => tracing::debug!(peer = %self.peer, %address, error, "still cannot connect"),
            }
            tokio::select! {
                changed = self.address.changed() => { changed.map_err(|_| Ended)?; pause = FIRST_PAUSE }
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
            }
        }
    }

    /// The handshake has proven who says so.
    async fn look_whether_removed(&self, reason: &ConnectionError) {
        if is_farewell(Some(reason)) {
            self.tell_removed().await;
        }
    }

    async fn tell_removed(&self) {
        // Without an owner nobody is left to be told.
        let _ = self.shared.events.send(true, Event::Removed { by: self.peer }).await;
    }

    /// Until the connection is lost or not wanted any more.
    async fn serve(&mut self, connection: &quinn::Connection) -> Result<(), Ended> {
        let mut writers: BTreeMap<Lane, Writer> = BTreeMap::new();
        let result = loop {
            self.reconcile(connection, &mut writers).await;
            tokio::select! {
                _ = connection.closed() => break Ok(()),
                changed = self.address.changed() => {
                    connection.close(0u32.into(), b"this peer is not wanted any more, or has another address");
                    break changed.map_err(|_| Ended);
                }
                () = self.changed.notified() => {}
            }
        };
        for (_, writer) in writers {
            writer.stop().await;
        }
        result
    }

    /// Starts and stops writers so that they are the wanted lanes.
    async fn reconcile(&self, connection: &quinn::Connection, writers: &mut BTreeMap<Lane, Writer>) {
        let wanted = self.shared.wanted(self.peer);
        let stale = |key: &Lane, writer: &Writer| wanted.get(key).is_none_or(|lane| !Arc::ptr_eq(lane, &writer.lane));
        let stopping: Vec<Lane> = writers.iter().filter(|(k, w)| stale(k, w)).map(|(&k, _)| k).collect();
        for key in stopping {
            if let Some(writer) = writers.remove(&key) {
                writer.stop().await;
            }
        }
        for (key, lane) in wanted {
            writers
                .entry(key)
                .or_insert_with(|| Writer::start(Arc::clone(&self.shared), connection.clone(), self.peer, key, lane));
        }
    }
}

/// Whether the peer closed the connection because this node was removed.
fn is_farewell(reason: Option<&ConnectionError>) -> bool {
    let Some(ConnectionError::ApplicationClosed(close)) = reason else { return false };
    close.error_code == quinn::VarInt::from_u32(REMOVED)
}

type Cause = Box<dyn Error + Send + Sync>;

/// Connects and waits for the welcome: before it, the peer may still refuse us.
async fn dial(shared: &Shared, peer: NodeId, address: SocketAddr) -> Result<quinn::Connection, Cause> {
    let name = pki::node_name(shared.cluster, peer);
    let connecting = shared.quinn.connect_with(shared.client(), address, &name)?;
    let welcomed = async {
        // The handshake succeeds only with a server whose certificate carries `name`.
        let connection = connecting.await?;
        let mut welcome = [0; WELCOME.len()];
        let mut stream = connection.accept_uni().await?;
        stream.read_exact(&mut welcome).await.map_err(|e| lost(&connection, e.into()))?;
        if welcome != WELCOME {
            connection.close(0u32.into(), b"expected a welcome of version 1");
            return Err("the peer speaks another version; upgrade the older of the two agents".into());
        }
        Ok(connection)
    };
    tokio::time::timeout(shared.config.handshake_timeout, welcomed).await.map_err(|_| "no answer in time")?
}

/// Why the connection was lost, if that is why a stream of it failed.
fn lost(connection: &quinn::Connection, error: Cause) -> Cause {
    connection.close_reason().map_or(error, Into::into)
}
