//! The places of the admin socket, on a real agent: who takes them all, who gets in all the same, and when they come back.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_tests::scrape::Scrape;
use holdfast_tests::{PATIENCE, TestCluster, group};
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How a client of HTTP/2 begins, with settings that are empty.
const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// In which an open connection shows that it is none.
const LOOK: Duration = Duration::from_millis(500);

/// Connections of this user and group that greet and then never say a word, of `count` those that got a place.
fn silent(socket: &Path, user: u32, group: libc::gid_t, count: usize) -> Vec<UnixStream> {
    let socket = socket.to_owned();
    let connects = move || -> io::Result<Vec<UnixStream>> {
        become_user(user, group)?;
        let greeted = (0..count).filter_map(|_| {
            let mut stream = UnixStream::connect(&socket).ok()?;
            stream.write_all(GREETING).ok()?;
            Some(stream)
        });
        let mut greeted: Vec<_> = greeted.collect();
        greeted.retain_mut(is_open);
        Ok(greeted)
    };
    // Of this thread alone the system calls change the user: another one would be it for good.
    std::thread::spawn(connects).join().unwrap().unwrap()
}

/// The C library would do it for all threads.
fn become_user(user: u32, group: libc::gid_t) -> io::Result<()> {
    let done = |result: libc::c_long| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    // SAFETY: the kernel reads one group, which outlives the call.
    done(unsafe { libc::syscall(libc::SYS_setgroups, 1, &raw const group) })?;
    // SAFETY: it changes numbers of this thread and touches no memory.
    done(unsafe { libc::syscall(libc::SYS_setresgid, user, user, user) })?;
    // SAFETY: as above.
    done(unsafe { libc::syscall(libc::SYS_setresuid, user, user, user) })
}

/// The other end has greeted, too, and has not hung up.
fn is_open(stream: &mut UnixStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut heard = [0; 4096];
    if !stream.read(&mut heard).is_ok_and(|len| len > 0) {
        return false;
    }
    stream.set_read_timeout(Some(LOOK / 100)).unwrap();
    loop {
        match stream.read(&mut heard) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(e) => return e.kind() == io::ErrorKind::WouldBlock,
        }
    }
}

#[tokio::test]
async fn the_owner_of_the_machine_is_not_locked_out() {
    // SAFETY: it gives a number.
    assert_eq!(unsafe { libc::geteuid() }, 0, "this test becomes other users: run it as root");
    // Groups that every Debian has and nobody is in.
    let extra = "admin_group = \"games\"\nviewer_group = \"users\"\n";
    let cluster = TestCluster::start_observed(extra).await;
    let admin = cluster.nodes()[0].admin().to_owned();
    for dir in admin.ancestors().skip(1).take(2) {
        let mode = fs::metadata(dir).unwrap().permissions().mode() | 0o711;
        fs::set_permissions(dir, fs::Permissions::from_mode(mode)).unwrap();
    }
    let [games, users] = ["games", "users"].map(|name| group(name).parse::<libc::gid_t>().unwrap());
    let taken: Vec<Vec<UnixStream>> = (64_201..64_204).map(|user| silent(&admin, user, games, 200)).collect();
    let viewers = silent(&admin, 64_211, users, 20);
    let counts: Vec<usize> = taken.iter().map(Vec::len).collect();
    assert_eq!((counts.as_slice(), viewers.len()), (&[192, 32, 0][..], 16), "all places but root's");
    assert_eq!(silent(&admin, 64_204, games, 1).len() + silent(&admin, 64_211, users, 1).len(), 0);
    // This test is root's.
    let status = cluster.succeeds(0, &["status"]).await;
    assert!(status.contains("leader n"), "{status}");
    let scrape = Scrape::take(cluster.nodes()[0].metrics().unwrap()).unwrap();
    let refused = scrape.get("holdfast_admin_refused_total{role=\"operator\",what=\"connection\"}").unwrap();
    assert!(refused >= 300.0, "{refused}");

    // None of them ever answers a ping: they lose their places, although they are still there.
    let back = cluster.wait_for("the places to come back", PATIENCE, async |_| {
        let (operators, viewers) = (silent(&admin, 64_204, games, 1).len(), silent(&admin, 64_211, users, 1).len());
        if operators + viewers == 2 {
            Ok(())
        } else {
            Err(format!("{operators} of an operator, {viewers} of a viewer"))
        }
    });
    back.await.unwrap_or_else(|e| panic!("{e}"));
    let lost = taken.into_iter().flatten().chain(viewers).map(|mut stream| {
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).is_ok()
    });
    assert_eq!(lost.filter(|lost| *lost).count(), 240, "each of them was hung up on");
}
