//! The admin socket: made with the right mode, each connection with its peer, each service behind the guard.

use crate::admin::{DESCRIPTOR_SET, pb::admin_server::AdminServer};
use crate::api::Service;
use crate::audit::Audit;
use crate::config::ListenConfig;
use crate::doors::Doors;
use crate::error::AgentError;
use crate::guard::Guard;
use crate::paths::Paths;
use crate::peer::gid_of;
use crate::refusals::{RefusalCounts, Refusals};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnixListenerStream;

/// Calls of one connection at once.
const STREAMS: u32 = 64;

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
        let at_the_door = refusals.clone();
        let connections = UnixListenerStream::new(listener).filter_map(move |accepted| {
            let stream = match accepted {
                Ok(stream) => doors.admit(stream),
                Err(error) => return Some(Err(error)),
            };
            let told = |peer| {
                let refusals = at_the_door.clone();
                tokio::spawn(async move { refusals.connection(peer).await });
            };
            stream.map_err(told).ok().map(Ok)
        });
        let server = tonic::transport::Server::builder()
            .max_concurrent_streams(STREAMS)
            .add_service(Guard::new(reflection, audit.clone(), refusals.clone()))
            .add_service(Guard::new(health_service, audit.clone(), refusals.clone()))
            .add_service(Guard::new(AdminServer::new(service), audit, refusals));
        // An error is what it is told by.
        let closed = async { drop(closed.await) };
        if let Err(error) = server.serve_with_incoming_shutdown(connections, closed).await {
            tracing::error!(%error, "the admin socket stopped answering");
        }
    }
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
