//! The admin socket: made with the right mode, each connection with its peer, each service behind the guard.
//!
//! A connection has a place (`doors`), so one whose peer does not answer a ping in time ends. Deliberately absent: an end for those
//! that are idle, or old. Whoever answers is there, and a client in the middle of a long call would have its next one refused.

use crate::admin::{DESCRIPTOR_SET, pb::admin_server::AdminServer};
use crate::api::Service;
use crate::audit::Audit;
use crate::config::ListenConfig;
use crate::doors::{AdminStream, Doors};
use crate::error::AgentError;
use crate::guard::Guard;
use crate::paths::Paths;
use crate::peer::gid_of;
use crate::refusals::{RefusalCounts, Refusals};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::Server;

/// Calls of one connection at once.
const STREAMS: u32 = 64;
/// After an error of accept, as when there are no more files: it would be the same at once.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a connection lives whose peer is silent.
#[derive(Clone, Copy, Debug)]
struct Keep {
    /// Silence after which the peer is asked whether it is there.
    ask: Duration,
    /// For its answer.
    answer: Duration,
}

const KEEP: Keep = Keep { ask: Duration::from_secs(10), answer: Duration::from_secs(20) };

/// Bound, and not served yet.
#[derive(Debug)]
pub(crate) struct AdminSocket {
    listener: UnixListener,
    doors: Doors,
    audit: Audit,
    refused: RefusalCounts,
}

impl AdminSocket {
    /// Only the agent's own user and root can connect, unless groups are named: then everybody can, and each call is
    /// answered by what its user may do.
    ///
    /// # Errors
    /// There is no such group, or the socket can't be made.
    pub(crate) fn bind(config: &ListenConfig, paths: &Paths) -> Result<AdminSocket, AgentError> {
        let gid = |key, group: &Option<String>| match group {
            None => Ok(None),
            Some(group) => gid_of(group).map(Some).ok_or_else(|| AgentError::Group { key, group: group.clone() }),
        };
        let admin_gid = gid("listen.admin_group", &config.admin_group)?;
        let viewer_gid = gid("listen.viewer_group", &config.viewer_group)?;
        let mask = if admin_gid.is_some() || viewer_gid.is_some() { 0o111 } else { 0o177 };
        let listener = listen(&config.admin, mask)?;
        let (doors, audit) = (Doors::new(admin_gid, viewer_gid), Audit::new(paths.audit()));
        Ok(AdminSocket { listener, doors, audit, refused: RefusalCounts::default() })
    }

    /// How often somebody was refused.
    pub(crate) fn refused(&self) -> RefusalCounts {
        self.refused.clone()
    }

    /// Answers until the other end of `closed` is dropped and the answers that are under way have been given.
    pub(crate) async fn serve(self, service: Service, closed: oneshot::Receiver<()>) {
        let AdminSocket { listener, doors, audit, refused } = self;
        let refusals = Refusals::new(refused, audit.clone(), service.asks.clone());
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1();
        let reflection = reflection.expect("the descriptor sets were built with this binary");
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<AdminServer<Service>>().await;
        let server = server(KEEP)
            .add_service(Guard::new(reflection, audit.clone(), refusals.clone()))
            .add_service(Guard::new(health_service, audit.clone(), refusals.clone()))
            .add_service(Guard::new(AdminServer::new(service), audit, refusals.clone()));
        // An error is what it is told by.
        let closed = async { drop(closed.await) };
        if let Err(error) = server.serve_with_incoming_shutdown(connections(listener, doors, refusals), closed).await {
            tracing::error!(%error, "the admin socket stopped answering");
        }
    }
}

fn server(keep: Keep) -> Server {
    Server::builder()
        .max_concurrent_streams(STREAMS)
        .http2_keepalive_interval(Some(keep.ask))
        .http2_keepalive_timeout(Some(keep.answer))
}

/// Those that get a place.
fn connections(
    listener: UnixListener,
    doors: Doors,
    refusals: Refusals,
) -> impl Stream<Item = io::Result<AdminStream>> {
    let admitted = UnixListenerStream::new(listener).filter_map(move |accepted| {
        let stream = match accepted {
            Ok(stream) => doors.admit(stream),
            Err(error) => return Some(Err(error)),
        };
        let told = |peer| {
            let refusals = refusals.clone();
            tokio::spawn(async move { refusals.connection(peer).await });
        };
        stream.map_err(told).ok().map(Ok)
    });
    admitted.then(async |admitted| {
        if admitted.is_err() {
            tokio::time::sleep(PAUSE).await;
        }
        admitted
    })
}

fn listen(path: &Path, mask: libc::mode_t) -> Result<UnixListener, AgentError> {
    let failed = |e| AgentError::io("listen on", path, e);
    if let Ok(found) = std::fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            return Err(AgentError::NotSocket { path: path.to_owned() });
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(AgentError::SocketInUse { path: path.to_owned() });
        }
        std::fs::remove_file(path).map_err(failed)?;
    }
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(|e| AgentError::io("create the directory", parent, e))?;
    }
    // Between bind and chmod another user could connect: it is born with the right mode. No other thread runs yet whose
    // files this could touch.
    // SAFETY: umask changes a number of this process and can't fail.
    let before = unsafe { libc::umask(mask) };
    let bound = UnixListener::bind(path);
    // SAFETY: as above.
    unsafe { libc::umask(before) };
    bound.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;
    use tokio::time::{Instant, timeout};
    use tonic::transport::{Channel, Endpoint};
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

    /// How a client of HTTP/2 begins, with settings that are empty.
    const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    const LONG: Duration = Duration::from_secs(60);

    /// The socket with a service that anybody may ask, on real connections.
    async fn served(keep: Keep) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().expect("the temporary directory is writable");
        let path = dir.path().join("admin.sock");
        let listener = UnixListener::bind(&path).expect("nobody is there");
        let (asks, _) = tokio::sync::mpsc::channel(1);
        let refusals = Refusals::new(RefusalCounts::default(), Audit::new(dir.path().join("audit.log")), asks);
        let (health, service) = tonic_health::server::health_reporter();
        health.set_service_status("", tonic_health::ServingStatus::Serving).await;
        let connections = connections(listener, Doors::new(None, None), refusals);
        tokio::spawn(async move {
            // Whoever reports lives as long as what is reported.
            let _health = health;
            server(keep).add_service(service).serve_with_incoming(connections).await
        });
        (dir, path)
    }

    async fn client(path: &Path) -> HealthClient<Channel> {
        let endpoint = Endpoint::from_shared(format!("unix://{}", path.display())).expect("a path is a URI");
        HealthClient::new(endpoint.connect().await.expect("somebody is there"))
    }

    /// Whether the other end is still there after that time.
    async fn stays(stream: &mut UnixStream, time: Duration) -> bool {
        let ends = async { while stream.read(&mut [0; 4096]).await.is_ok_and(|len| len > 0) {} };
        timeout(time, ends).await.is_err()
    }

    #[tokio::test]
    async fn whoever_stops_to_answer_loses_the_place() {
        let keep = Keep { ask: Duration::from_millis(200), answer: Duration::from_millis(300) };
        let (_dir, path) = served(keep).await;
        let mut present = client(&path).await;
        let watched = present.watch(HealthCheckRequest::default()).await.expect("anybody may");
        let mut watched = watched.into_inner();
        assert!(watched.message().await.is_ok_and(|first| first.is_some()));
        let mut stopped = UnixStream::connect(&path).await.expect("somebody is there");
        stopped.write_all(GREETING).await.expect("it fits");
        let begun = Instant::now();
        assert!(!stays(&mut stopped, LONG).await, "nobody answers there");
        let took = begun.elapsed();
        assert!(took >= keep.ask + keep.answer, "it was given its time, not {took:?}");
        // One that answers keeps place and call, although it has nothing to say.
        assert!(timeout(4 * (keep.ask + keep.answer), watched.message()).await.is_err(), "the call goes on");
        assert!(present.check(HealthCheckRequest::default()).await.is_ok());
    }
}
