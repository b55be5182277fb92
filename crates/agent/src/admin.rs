//! The admin API: gRPC over a Unix socket. Generated types in [`pb`]; [`connect`] is for the command line.

use std::path::{Path, PathBuf};
use tonic::transport::{Channel, Endpoint};

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
#[allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::needless_pass_by_value)]
/// Generated from `proto/admin.proto`.
pub mod pb {
    tonic::include_proto!("holdfast.admin.v1");
}

/// The descriptor set of the admin API, for gRPC reflection.
pub(crate) const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/admin_descriptor.bin"));

pub use pb::admin_client::AdminClient;

/// The admin socket did not take the connection.
#[derive(Debug, thiserror::Error)]
#[error(
    "expected a running agent on {socket}, but could not connect: {cause}; {cure}, or name its socket with --socket"
)]
pub struct ConnectError {
    socket: String,
    cause: String,
    cure: &'static str,
    #[source]
    source: tonic::transport::Error,
}

/// Connects to the agent that listens on `socket`.
///
/// # Errors
/// Nobody listens there, or this user may not connect.
pub async fn connect(socket: &Path) -> Result<AdminClient<Channel>, ConnectError> {
    let failed = |source: tonic::transport::Error| ConnectError {
        socket: socket.display().to_string(),
        cause: innermost(&source).to_string(),
        cure: match innermost(&source).downcast_ref::<std::io::Error>().map(std::io::Error::kind) {
            Some(std::io::ErrorKind::PermissionDenied) => {
                "ask as root or as the agent's user, or have listen.admin_group or listen.viewer_group set to a group of yours"
            }
            _ => "start it with `holdfast agent --config FILE`",
        },
        source,
    };
    let absolute = std::path::absolute(socket).unwrap_or_else(|_| PathBuf::from(socket));
    let endpoint = Endpoint::from_shared(format!("unix://{}", absolute.display())).map_err(failed)?;
    Ok(AdminClient::new(endpoint.connect().await.map_err(failed)?))
}

/// The layers above only say that the transport failed; the system's word is at the bottom.
fn innermost<'a>(error: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause
}
