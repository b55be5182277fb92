//! A volume's socket as a file: made for the agent alone, and then opened to whom the operator named.
//!
//! Users and groups are let in by an access control list: the agent owns the file and needs no privilege for that, where
//! giving it away would take one. Names are looked up by the host, which may take long: in a thread that may wait.

use crate::peer::{gid_of, uid_of};
use holdfast_types::SocketAccess;
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use tokio::net::{UnixListener, UnixSocket};

/// Clients that wait to be accepted.
const BACKLOG: u32 = 128;
/// Read and write, as a class of a file's mode.
const RW: u16 = 6;

// The form of `system.posix_acl_access`: linux/posix_acl_xattr.h.
const ACL_VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
const NOBODY: u32 = u32::MAX;

/// A socket that nobody but the agent's user can open, in the place of one that a former agent left.
pub(super) fn bind(path: &Path) -> io::Result<UnixListener> {
    if path.exists() {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            let text = format!("another process answers on {}; stop it, or choose another nbd_dir", path.display());
            return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
        }
        std::fs::remove_file(path)?;
    }
    let socket = UnixSocket::new_stream()?;
    // The file gets the mode of the socket that it is made for: there is no moment at which it is open to more.
    // SAFETY: the descriptor is open as long as `socket`; no memory is touched.
    if unsafe { libc::fchmod(socket.as_raw_fd(), 0o600) } != 0 {
        return Err(io::Error::last_os_error());
    }
    socket.bind(path)?;
    socket.listen(BACKLOG)
}

/// The file itself, whatever becomes of its name.
pub(super) fn file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path)
}

/// Lets those in whom `access` names, and nobody else beside the agent's user and root. May wait for the host's directory
/// of users.
///
/// # Errors
/// Why. The socket is open to the agent's user alone then: whoever was let in before may be whom the change was to keep out.
pub(super) fn open_to(file: &File, access: &SocketAccess) -> Result<(), String> {
    try_open_to(file, access).map_err(|why| match close(file) {
        Ok(()) => format!("{why}; until it can be, only the agent's user may open it"),
        Err(e) => format!("{why}; nor could it be closed, so it is as it was before: {e}"),
    })
}

/// With a list, the mode's bits of the group mask what it says.
fn close(file: &File) -> io::Result<()> {
    std::fs::set_permissions(path(file), std::os::unix::fs::PermissionsExt::from_mode(0o600))
}

fn path(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn try_open_to(file: &File, access: &SocketAccess) -> Result<(), String> {
    let owner = id(&access.owner, "user", uid_of)?;
    let group = id(&access.group, "group", gid_of)?;
    let path = path(file);
    match set_list(&path, &list(access, owner, group)) {
        Ok(()) => Ok(()),
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) && owner.is_none() && group.is_none() => {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600 | access.bits());
            std::fs::set_permissions(&path, mode).map_err(|e| format!("its mode can't be set: {e}"))
        }
        Err(e) => {
            Err(format!("its access control list can't be set: {e}; nbd_dir must be on a file system with such lists"))
        }
    }
}

fn id(name: &str, what: &str, look_up: impl Fn(&str) -> Option<u32>) -> Result<Option<u32>, String> {
    if name.is_empty() {
        return Ok(None);
    }
    let found = name.parse().ok().or_else(|| look_up(name));
    found.map(Some).ok_or_else(|| format!("expected a {what} of this host, found {name:?}, which there is not"))
}

/// Who may do what, sorted as the kernel wants it. Where nobody is named, the bits are those of the agent's own group.
fn list(access: &SocketAccess, owner: Option<u32>, group: Option<u32>) -> Vec<(u16, u16, u32)> {
    let class = |shift: u32| u16::try_from(access.bits() >> shift & 7).expect("three bits") & RW;
    let named = owner.is_some() || group.is_some();
    let mut list = vec![(USER_OBJ, RW, NOBODY)];
    list.extend(owner.map(|uid| (USER, class(6), uid)));
    list.push((GROUP_OBJ, if named { 0 } else { class(3) }, NOBODY));
    list.extend(group.map(|gid| (GROUP, class(3), gid)));
    if named {
        list.push((MASK, RW, NOBODY));
    }
    list.push((OTHER, class(0), NOBODY));
    list
}

fn set_list(path: &str, list: &[(u16, u16, u32)]) -> io::Result<()> {
    let mut value = ACL_VERSION.to_le_bytes().to_vec();
    for (tag, bits, id) in list {
        value.extend(tag.to_le_bytes().into_iter().chain(bits.to_le_bytes()).chain(id.to_le_bytes()));
    }
    let path = CString::new(path).expect("a number and slashes");
    let name = c"system.posix_acl_access";
    // SAFETY: both names end with a zero byte, and `value` has as many bytes as is said.
    let answer = unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn access(owner: &str, group: &str, mode: u32) -> SocketAccess {
        SocketAccess { owner: owner.to_owned(), group: group.to_owned(), mode }
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn a_socket_is_closed_until_it_is_opened_to_somebody() {
        let dir = tempfile::tempdir().expect("the temporary directory is writable");
        let path = dir.path().join("v.sock");
        let _listener = bind(&path).expect("a socket");
        assert_eq!(mode(&path), 0o600, "whatever the umask");
        let socket = file(&path).expect("it is there");
        open_to(&socket, &SocketAccess::default()).expect("the usual");
        assert_eq!(mode(&path), 0o660);
        open_to(&socket, &access("", "", 0o606)).expect("only a mode");
        assert_eq!(mode(&path), 0o606);
        // With a list the group's bits of the mode are the mask of all who are named.
        open_to(&socket, &access("64001", "", 0o600)).expect("a user");
        assert_eq!(mode(&path), 0o660);
        let unknown = open_to(&socket, &access("no such user", "", 0)).expect_err("nobody of that name");
        assert!(unknown.contains("no such user"), "{unknown}");
        assert_eq!(mode(&path), 0o600, "whoever was let in before may be whom it is to keep out");
        open_to(&socket, &SocketAccess::default()).expect("the usual again");
        std::fs::remove_file(&path).expect("it was there");
        open_to(&socket, &access("", "", 0o600)).expect("the file is there without its name");
    }

    #[test]
    fn the_list_is_what_was_asked_for() {
        let named = list(&access("a", "b", 0o640), Some(7), Some(8));
        let expected = [(USER_OBJ, 6, NOBODY), (USER, 6, 7), (GROUP_OBJ, 0, NOBODY), (GROUP, 4, 8), (MASK, 6, NOBODY)];
        assert_eq!(named[..5], expected);
        assert_eq!(named[5..], [(OTHER, 0, NOBODY)]);
        assert!(named.is_sorted_by_key(|(tag, ..)| *tag), "the kernel refuses another order");
        assert_eq!(
            list(&access("", "", 0), None, None),
            [(USER_OBJ, 6, NOBODY), (GROUP_OBJ, 6, NOBODY), (OTHER, 0, NOBODY)]
        );
        assert_eq!(id("12", "user", |_| None), Ok(Some(12)));
        assert_eq!(id("root", "user", uid_of), Ok(Some(0)));
        assert_eq!(id("", "user", |_| None), Ok(None));
    }
}
