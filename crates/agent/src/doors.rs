//! The doors of the admin socket: who is let in, as what, and how many at once.
//!
//! Each role has places of its own, and no user gets all of a role's: whoever may only look can't keep an operator out, nor can one
//! script that went wrong. Some of the operators' are root's alone: nobody locks the owner of the machine out.
//!
//! A place is taken from the moment a connection is accepted, so whoever has one must begin to speak ([`GREETING`] bytes) before the
//! deadline, and take what is written to it. That it answers later, too, is what the pings of HTTP/2 are for (`admin_socket`): one
//! that reads nothing would outlast even those, because their end is to be written as well.

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
/// Of the operators', those that only root gets.
const OF_ROOT: usize = 32;
const ROOT: u32 = 0;
/// The shortest beginning of HTTP/2: its 24 bytes, and the head of the settings.
const GREETING: usize = 33;
/// For the greeting to arrive.
const GREETING_DEADLINE: Duration = Duration::from_secs(5);
/// For a byte of what is written to be taken.
const UNREAD_DEADLINE: Duration = Duration::from_secs(20);

/// How long is waited for the other end.
#[derive(Clone, Copy, Debug)]
struct Deadlines {
    greeting: Duration,
    unread: Duration,
}

/// Decides who may do what, and how many at once.
#[derive(Clone, Debug)]
pub(crate) struct Doors {
    admin_gid: Option<u32>,
    viewer_gid: Option<u32>,
    operators: Places,
    viewers: Places,
    strangers: Places,
    deadlines: Deadlines,
}

impl Doors {
    pub(crate) fn new(admin_gid: Option<u32>, viewer_gid: Option<u32>) -> Doors {
        let operators = Places::new(OPERATORS, OF_ROOT);
        let [viewers, strangers] = [VIEWERS, STRANGERS].map(|places| Places::new(places, 0));
        let deadlines = Deadlines { greeting: GREETING_DEADLINE, unread: UNREAD_DEADLINE };
        Doors { admin_gid, viewer_gid, operators, viewers, strangers, deadlines }
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
        let greeting = Some(Greeting { missing: GREETING, until: Box::pin(sleep(self.deadlines.greeting)) });
        Ok(AdminStream { stream, peer, greeting, patience: self.deadlines.unread, unread: None, _place: place })
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
    of_root: usize,
    taken: Arc<Mutex<BTreeMap<u32, usize>>>,
}

impl Places {
    fn new((most, most_of_user): (usize, usize), of_root: usize) -> Places {
        Places { most, most_of_user, of_root, taken: Arc::default() }
    }

    fn take(&self, uid: u32) -> Option<Place> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let of_user = taken.get(&uid).copied().unwrap_or(0);
        let of_all: usize = taken.values().sum();
        let of_others = of_all - taken.get(&ROOT).copied().unwrap_or(0);
        let roots = uid != ROOT && of_others >= self.most - self.of_root;
        if of_user >= self.most_of_user || of_all >= self.most || roots {
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
    patience: Duration,
    /// While something waits to be taken: until when.
    unread: Option<Pin<Box<Sleep>>>,
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
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if written.is_ready() {
            self.unread = None;
            return written;
        }
        let patience = self.patience;
        let until = self.unread.get_or_insert_with(|| Box::pin(sleep(patience)));
        if until.as_mut().poll(cx).is_ready() { Poll::Ready(Err(io::ErrorKind::TimedOut.into())) } else { written }
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
        // Neither do operators keep root out, nor root them.
        let scripts: Vec<_> = (0..10).flat_map(|uid| of(&doors.operators, 3000 + uid)).collect();
        assert_eq!((scripts.len(), of(&doors.operators, ROOT).len()), (OPERATORS.0 - OF_ROOT, OF_ROOT));
        drop(scripts);
        let roots = of(&doors.operators, ROOT);
        assert_eq!((roots.len(), of(&doors.operators, 3000).len()), (OPERATORS.1, OPERATORS.0 - OPERATORS.1));
        drop(roots);
        // One viewer leaves places to others, and what is given back can be had again.
        drop(viewers);
        let one = of(&doors.viewers, 1000);
        assert_eq!((one.len(), of(&doors.viewers, 1001).len()), (VIEWERS.1, VIEWERS.1));
        assert_eq!(doors.viewers.taken.lock().expect("nobody panicked").len(), 1);
    }

    #[tokio::test]
    async fn whoever_does_not_greet_loses_the_place() {
        let doors = hasty();
        let (silent, mut mouth) = UnixStream::pair().expect("a pair of sockets");
        let mut admitted = doors.admit(silent).expect("there is room");
        mouth.write_all(&[7; GREETING - 1]).await.expect("it fits");
        let mut heard = [0; 100];
        assert_eq!(admitted.read(&mut heard).await.expect("something was said"), GREETING - 1);
        let late = admitted.read(&mut heard).await.expect_err("the rest never comes");
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        // One that has greeted may be silent here: it is pinged.
        let (silent, mut mouth) = UnixStream::pair().expect("a pair of sockets");
        let mut admitted = doors.admit(silent).expect("there is room");
        mouth.write_all(&[7; GREETING]).await.expect("it fits");
        assert_eq!(admitted.read(&mut heard).await.expect("something was said"), GREETING);
        assert!(tokio::time::timeout(5 * doors.deadlines.greeting, admitted.read(&mut heard)).await.is_err());
    }

    #[tokio::test]
    async fn whoever_takes_nothing_loses_the_place() {
        let doors = hasty();
        let fill = async |doors: &Doors, stream: UnixStream| {
            let mut admitted = doors.admit(stream).expect("there is room");
            while admitted.write_all(&[7; 4096]).await.is_ok() {}
            admitted.write_all(&[7]).await.expect_err("it is over").kind()
        };
        let (stream, _mouth) = UnixStream::pair().expect("a pair of sockets");
        let ended = tokio::time::timeout(Duration::from_secs(60), fill(&doors, stream)).await;
        assert_eq!(ended, Ok(io::ErrorKind::TimedOut));
        // One that takes something now and then is slow, not gone. Patience enough for a test that stands still for a while.
        let unread = Duration::from_secs(2);
        let doors = Doors { deadlines: Deadlines { unread, ..doors.deadlines }, ..Doors::new(None, None) };
        let (stream, mut mouth) = UnixStream::pair().expect("a pair of sockets");
        let mut taken = vec![0; 256 << 10];
        let reads = async {
            for _ in 0..10 {
                tokio::time::sleep(unread / 4).await;
                mouth.read_exact(&mut taken).await.expect("it is still written to");
            }
        };
        tokio::select! {
            kind = fill(&doors, stream) => panic!("it ended with {kind}"),
            read = tokio::time::timeout(Duration::from_secs(60), reads) => read.expect("in time"),
        }
    }

    /// Doors that wait for nobody.
    fn hasty() -> Doors {
        let deadlines = Deadlines { greeting: Duration::from_millis(20), unread: Duration::from_millis(200) };
        Doors { deadlines, ..Doors::new(None, None) }
    }
}
