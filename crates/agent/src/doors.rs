//! The doors of the admin socket: who is let in, as what, and how many at once.
//!
//! Each role has places of its own, and no user gets all of a role's: whoever may only look can't keep an operator out, nor can one
//! script that went wrong. A place is taken from the moment a connection is accepted, so whoever has one must begin to speak
//! ([`GREETING`] bytes) before the deadline.

use crate::peer::{Peer, Role, own_uid};
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::{Sleep, sleep};
use tonic::transport::server::Connected;

/// Connections at once of a role, and of one of its users.
const OPERATORS: (usize, usize) = (256, 192);
const VIEWERS: (usize, usize) = (64, 16);
const STRANGERS: (usize, usize) = (8, 4);
/// The shortest beginning of HTTP/2: its 24 bytes, and the head of the settings.
const GREETING: usize = 33;
/// For the greeting to arrive.
const GREETING_DEADLINE: Duration = Duration::from_secs(5);

/// Decides who may do what, and how many at once.
#[derive(Clone, Debug)]
pub(crate) struct Doors {
    admin_gid: Option<u32>,
    viewer_gid: Option<u32>,
    operators: Places,
    viewers: Places,
    strangers: Places,
    deadline: Duration,
}

impl Doors {
    pub(crate) fn new(admin_gid: Option<u32>, viewer_gid: Option<u32>) -> Doors {
        let [operators, viewers, strangers] = [OPERATORS, VIEWERS, STRANGERS].map(Places::new);
        Doors { admin_gid, viewer_gid, operators, viewers, strangers, deadline: GREETING_DEADLINE }
    }

    /// The connection with its peer.
    ///
    /// # Errors
    /// There are too many of its role or of its user already, and it is closed: whose it was.
    pub(crate) fn admit(&self, stream: UnixStream) -> Result<AdminStream, Peer> {
        let (uid, pid, groups) = Peer::of(&stream);
        let role = self.role(uid, &groups);
        let places = match role {
            Role::Operator => &self.operators,
            Role::Viewer => &self.viewers,
            Role::Stranger => &self.strangers,
        };
        let peer = Peer { uid, pid, role };
        let place = places.take(uid).ok_or(peer)?;
        let greeting = Some(Greeting { missing: GREETING, until: Box::pin(sleep(self.deadline)) });
        Ok(AdminStream { stream, peer, greeting, _place: place })
    }

    fn role(&self, uid: u32, groups: &[u32]) -> Role {
        let me = own_uid();
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

/// The places of one role, and who has them.
#[derive(Clone, Debug)]
struct Places {
    most: usize,
    most_of_user: usize,
    taken: Arc<Mutex<BTreeMap<u32, usize>>>,
}

impl Places {
    fn new((most, most_of_user): (usize, usize)) -> Places {
        Places { most, most_of_user, taken: Arc::default() }
    }

    fn take(&self, uid: u32) -> Option<Place> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let of_user = taken.get(&uid).copied().unwrap_or(0);
        if of_user >= self.most_of_user || taken.values().sum::<usize>() >= self.most {
            return None;
        }
        taken.insert(uid, of_user + 1);
        Some(Place { uid, taken: Arc::clone(&self.taken) })
    }
}

/// Free again when it is dropped.
#[derive(Debug)]
struct Place {
    uid: u32,
    taken: Arc<Mutex<BTreeMap<u32, usize>>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let left = taken.get(&self.uid).map_or(0, |n| n.saturating_sub(1));
        if left == 0 {
            taken.remove(&self.uid);
        } else {
            taken.insert(self.uid, left);
        }
    }
}

/// A connection that knows who is at its other end.
#[derive(Debug)]
pub(crate) struct AdminStream {
    stream: UnixStream,
    peer: Peer,
    /// Until it has been heard.
    greeting: Option<Greeting>,
    _place: Place,
}

#[derive(Debug)]
struct Greeting {
    missing: usize,
    until: Pin<Box<Sleep>>,
}

impl Connected for AdminStream {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer
    }
}

impl AsyncRead for AdminStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let Some(greeting) = &mut self.greeting else { return read };
        greeting.missing = greeting.missing.saturating_sub(buffer.filled().len() - before);
        if greeting.missing == 0 {
            self.greeting = None;
        } else if read.is_pending() && greeting.until.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for AdminStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

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

    #[tokio::test]
    async fn a_connection_knows_its_peer_and_one_user_gets_not_all_places() {
        let connect = || UnixStream::pair().expect("a pair of sockets").0;
        let doors = Doors::new(None, None);
        let admitted = doors.admit(connect()).expect("there is room");
        assert_eq!((admitted.peer.uid, admitted.peer.role), (own_uid(), Role::Operator));
        assert_eq!(admitted.peer.pid, i32::try_from(std::process::id()).ok());
        drop(admitted);
        let places: Vec<_> = (0..300).map_while(|_| doors.admit(connect()).ok()).collect();
        assert_eq!(places.len(), OPERATORS.1);
        assert_eq!(doors.admit(connect()).expect_err("all places are taken").role, Role::Operator);
        drop(places);
        assert!(doors.admit(connect()).is_ok());
    }

    #[test]
    fn whoever_may_only_look_keeps_no_operator_out() {
        let doors = Doors::new(None, None);
        let of = |places: &Places, uid: u32| (0..500).map_while(|_| places.take(uid)).collect::<Vec<_>>();
        let viewers: Vec<_> = (0..100).flat_map(|uid| of(&doors.viewers, 1000 + uid)).collect();
        assert_eq!(viewers.len(), VIEWERS.0);
        let strangers: Vec<_> = (0..100).flat_map(|uid| of(&doors.strangers, 2000 + uid)).collect();
        assert_eq!(strangers.len(), STRANGERS.0);
        // Neither do operators keep root out.
        let script = of(&doors.operators, 3000);
        assert_eq!((script.len(), of(&doors.operators, 0).len()), (OPERATORS.1, OPERATORS.0 - OPERATORS.1));
        // One viewer leaves places to others, and what is given back can be had again.
        drop(viewers);
        let one = of(&doors.viewers, 1000);
        assert_eq!((one.len(), of(&doors.viewers, 1001).len()), (VIEWERS.1, VIEWERS.1));
        assert_eq!(doors.viewers.taken.lock().expect("nobody panicked").len(), 1);
    }

    #[tokio::test]
    async fn whoever_does_not_greet_loses_the_place() {
        let doors = Doors { deadline: Duration::from_millis(20), ..Doors::new(None, None) };
        let (silent, mut mouth) = UnixStream::pair().expect("a pair of sockets");
        let mut admitted = doors.admit(silent).expect("there is room");
        mouth.write_all(&[7; GREETING - 1]).await.expect("it fits");
        let mut heard = [0; 100];
        assert_eq!(admitted.read(&mut heard).await.expect("something was said"), GREETING - 1);
        let late = admitted.read(&mut heard).await.expect_err("the rest never comes");
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        // One that has greeted may be silent for as long as it likes.
        let (silent, mut mouth) = UnixStream::pair().expect("a pair of sockets");
        let mut admitted = doors.admit(silent).expect("there is room");
        mouth.write_all(&[7; GREETING]).await.expect("it fits");
        assert_eq!(admitted.read(&mut heard).await.expect("something was said"), GREETING);
        assert!(tokio::time::timeout(5 * doors.deadline, admitted.read(&mut heard)).await.is_err());
    }
}
