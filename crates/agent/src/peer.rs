//! Who is at the other end of the admin socket, as the kernel says: SO_PEERCRED and SO_PEERGROUPS, taken when the connection is
//! accepted, which is as the process was when it connected.

use holdfast_cluster::Operator;
use std::ffi::CString;
use std::os::fd::AsRawFd;
use tokio::net::UnixStream;

/// Groups of a process that are looked at.
const GROUPS: usize = 65_536;

/// Longest name of a user or host that is taken over.
const NAME_BYTES: usize = 256;

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

impl Peer {
    /// What the kernel says of the other end, and its groups. What it does not say is nobody.
    pub(crate) fn of(stream: &UnixStream) -> (u32, Option<i32>, Vec<u32>) {
        let (uid, pid, gid) = match stream.peer_cred() {
            Ok(cred) => (cred.uid(), cred.pid(), Some(cred.gid())),
            Err(_) => (u32::MAX, None, None),
        };
        let mut groups = peer_groups(stream);
        groups.extend(gid);
        (uid, pid, groups)
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

/// Whose process this is.
pub(crate) fn own_uid() -> u32 {
    // SAFETY: geteuid always succeeds and touches no memory.
    unsafe { libc::geteuid() }
}

/// A user of this host as one who orders something.
pub(crate) fn operator(uid: Option<u32>) -> Operator {
    let user = uid.map(user_name).unwrap_or_default();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Operator { uid, user: cut(&user), host: cut(host.trim()) }
}

fn cut(text: &str) -> String {
    text.char_indices().take_while(|(at, c)| at + c.len_utf8() <= NAME_BYTES).map(|(_, c)| c).collect()
}

/// The number of a user.
pub(crate) fn uid_of(user: &str) -> Option<u32> {
    let name = CString::new(user).ok()?;
    let mut buffer: Vec<libc::c_char> = vec![0; 1 << 16];
    // SAFETY: `passwd` is plain data, for which zeros are valid; getpwnam_r fills it, with pointers into `buffer`.
    let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
    let mut found = std::ptr::null_mut();
    // SAFETY: all pointers are valid through the call, `buffer` for as many bytes as are named.
    let result =
        unsafe { libc::getpwnam_r(name.as_ptr(), &raw mut entry, buffer.as_mut_ptr(), buffer.len(), &raw mut found) };
    (result == 0 && !found.is_null()).then_some(entry.pw_uid)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_looked_up() {
        assert_eq!((uid_of("root"), uid_of("no such user"), uid_of("a\0b")), (Some(0), None, None));
        assert_eq!((gid_of("root"), gid_of("no such group"), gid_of("a\0b")), (Some(0), None, None));
        assert_eq!((user_name(0).as_str(), user_name(4_000_000_123).as_str()), ("root", "4000000123"));
    }
}
