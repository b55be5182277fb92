//! Who is at the other end of the admin socket, as the kernel says: SO_PEERCRED and SO_PEERGROUPS, taken when the connection is
//! accepted, which is as the process was when it connected.

use std::ffi::CString;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::transport::server::Connected;

/// Connections at once; those of people who may do nothing get only few of them.
const CONNECTIONS: usize = 256;
const STRANGERS: usize = 8;
/// Groups of a process that are looked at.
const GROUPS: usize = 65_536;

/// What somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Everything.
    Operator,
    /// Look.
    Viewer,
    /// Nothing.
    Stranger,
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) uid: u32,
    pub(crate) pid: Option<i32>,
    pub(crate) role: Role,
}

/// Decides who may do what, and how many at once.
#[derive(Clone, Debug)]
pub(crate) struct Doors {
    admin_gid: Option<u32>,
    viewer_gid: Option<u32>,
    places: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
}

impl Doors {
    pub(crate) fn new(admin_gid: Option<u32>, viewer_gid: Option<u32>) -> Doors {
        let semaphore = |n| Arc::new(Semaphore::new(n));
        Doors { admin_gid, viewer_gid, places: semaphore(CONNECTIONS), strangers: semaphore(STRANGERS) }
    }

    /// The connection with its peer; `None`: there are too many already, and it is closed.
    pub(crate) fn admit(&self, stream: UnixStream) -> Option<AdminStream> {
        // What the kernel does not say is nobody.
        let (uid, pid, gid) = match stream.peer_cred() {
            Ok(cred) => (cred.uid(), cred.pid(), Some(cred.gid())),
            Err(_) => (u32::MAX, None, None),
        };
        let mut groups = peer_groups(&stream);
        groups.extend(gid);
        let role = self.role(uid, &groups);
        let places = if role == Role::Stranger { &self.strangers } else { &self.places };
        let place = Arc::clone(places).try_acquire_owned().ok()?;
        Some(AdminStream { stream, peer: Peer { uid, pid, role }, _place: place })
    }

    fn role(&self, uid: u32, groups: &[u32]) -> Role {
        // SAFETY: geteuid always succeeds and touches no memory.
        let me = unsafe { libc::geteuid() };
        let is_in = |gid: Option<u32>| gid.is_some_and(|gid| groups.contains(&gid));
        if uid == 0 || uid == me || is_in(self.admin_gid) {
            Role::Operator
        } else if is_in(self.viewer_gid) {
            Role::Viewer
        } else {
            Role::Stranger
        }
    }
}

/// Supplementary groups of the peer. None if the kernel does not say (before 4.13).
fn peer_groups(stream: &UnixStream) -> Vec<u32> {
    let size = std::mem::size_of::<libc::gid_t>();
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut bytes = libc::socklen_t::try_from(groups.len() * size).expect("at most 256 KiB");
        // SAFETY: `groups` is valid for `bytes` bytes, which the kernel does not go beyond; `bytes` lives through the call.
        let result = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        let needed = usize::try_from(bytes).expect("32 bits fit") / size;
        if result == 0 {
            groups.truncate(needed);
            return groups;
        }
        let short = std::io::Error::last_os_error().raw_os_error() == Some(libc::ERANGE);
        if !short || needed <= groups.len() || needed > GROUPS {
            return Vec::new();
        }
        groups.resize(needed, 0);
    }
}

/// The number of a group.
pub(crate) fn gid_of(group: &str) -> Option<u32> {
    let name = CString::new(group).ok()?;
    let mut buffer: Vec<libc::c_char> = vec![0; 1 << 16];
    // SAFETY: `group` is plain data, for which zeros are valid; getgrnam_r fills it, with pointers into `buffer`.
    let mut entry: libc::group = unsafe { std::mem::zeroed() };
    let mut found = std::ptr::null_mut();
    // SAFETY: all pointers are valid through the call, `buffer` for as many bytes as are named.
    let result =
        unsafe { libc::getgrnam_r(name.as_ptr(), &raw mut entry, buffer.as_mut_ptr(), buffer.len(), &raw mut found) };
    (result == 0 && !found.is_null()).then_some(entry.gr_gid)
}

/// What people call a user; the number if nobody knows.
pub(crate) fn user_name(uid: u32) -> String {
    let mut buffer: Vec<libc::c_char> = vec![0; 1 << 16];
    // SAFETY: `passwd` is plain data, for which zeros are valid; getpwuid_r fills it, with pointers into `buffer`.
    let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
    let mut found = std::ptr::null_mut();
    // SAFETY: all pointers are valid through the call, `buffer` for as many bytes as are named.
    let result = unsafe { libc::getpwuid_r(uid, &raw mut entry, buffer.as_mut_ptr(), buffer.len(), &raw mut found) };
    if result != 0 || found.is_null() {
        return uid.to_string();
    }
    // SAFETY: getpwuid_r succeeded: the name is a C string in `buffer`, which is alive.
    unsafe { std::ffi::CStr::from_ptr(entry.pw_name) }.to_string_lossy().into_owned()
}

/// A connection that knows who is at its other end.
#[derive(Debug)]
pub(crate) struct AdminStream {
    stream: UnixStream,
    peer: Peer,
    _place: OwnedSemaphorePermit,
}

impl Connected for AdminStream {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer
    }
}

impl AsyncRead for AdminStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for AdminStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_come_from_groups() {
        let doors = Doors::new(Some(70), Some(71));
        let stranger = u32::MAX - 7;
        for (uid, groups, role) in [
            (0, vec![], Role::Operator),
            (stranger, vec![5, 70], Role::Operator),
            (stranger, vec![71, 70], Role::Operator),
            (stranger, vec![5, 71], Role::Viewer),
            (stranger, vec![5], Role::Stranger),
            (stranger, vec![], Role::Stranger),
        ] {
            assert_eq!(doors.role(uid, &groups), role, "{uid} {groups:?}");
        }
        assert_eq!(Doors::new(None, None).role(stranger, &[0, 70]), Role::Stranger, "no group, no right");
    }

    #[test]
    fn names_are_looked_up() {
        assert_eq!((gid_of("root"), gid_of("no such group"), gid_of("a\0b")), (Some(0), None, None));
        assert_eq!((user_name(0).as_str(), user_name(4_000_000_123).as_str()), ("root", "4000000123"));
    }

    #[tokio::test]
    async fn a_connection_knows_its_peer_and_strangers_get_few_places() {
        let (here, _there) = UnixStream::pair().expect("a pair of sockets");
        let admitted = Doors::new(None, None).admit(here).expect("there is room");
        // SAFETY: geteuid always succeeds and touches no memory.
        let me = unsafe { libc::geteuid() };
        assert_eq!((admitted.peer.uid, admitted.peer.role), (me, Role::Operator));
        assert_eq!(admitted.peer.pid, i32::try_from(std::process::id()).ok());
        let doors = Doors::new(None, None);
        let places: Vec<_> =
            (0..CONNECTIONS).map_while(|_| doors.admit(UnixStream::pair().expect("a pair").0)).collect();
        assert_eq!(places.len(), CONNECTIONS);
        assert!(doors.admit(UnixStream::pair().expect("a pair").0).is_none(), "all places are taken");
        drop(places);
        assert!(doors.admit(UnixStream::pair().expect("a pair").0).is_some());
    }
}
