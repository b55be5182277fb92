//! The verified workload against a foreign NBD server that loses nothing when it is killed, and against one that is made
//! to lose something: a checker that never fails proves nothing.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_cli::workload::{Plan, Workload};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const SIZE: u64 = 8 << 20;
const LIMIT: Duration = Duration::from_secs(30);

struct Server(Child);

impl Server {
    fn start(file: &Path, socket: &Path) -> Server {
        let _ = std::fs::remove_file(socket);
        let mut command = Command::new("qemu-nbd");
        command.args(["--persistent", "--shared=8", "--format=raw", "--discard=unmap", "-x", "vol", "-k"]);
        command.arg(socket).arg(file).stdin(Stdio::null());
        Server(command.spawn().expect("qemu-nbd starts; run scripts/setup"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn start(sockets: Vec<PathBuf>, region: Range<u64>, seed: u64) -> Workload {
    let plan = Plan { atomic_reads: false, ..Plan::new(sockets, "vol", region, seed) };
    Workload::start(plan).unwrap()
}

fn disk(dir: &Path) -> (PathBuf, PathBuf, PathBuf) {
    let file = dir.join("disk");
    std::fs::File::create(&file).unwrap().set_len(SIZE).unwrap();
    (file, dir.join("a.sock"), dir.join("b.sock"))
}

#[tokio::test]
async fn nothing_is_lost_when_the_server_is_killed_again_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let (file, first, second) = disk(dir.path());
    let mut server = Server::start(&file, &first);
    let workload = start(vec![first.clone(), second.clone()], 1 << 20..SIZE, 7);
    for round in 0..4 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        workload.phase(&format!("kill {round}"));
        drop(server);
        server = Server::start(&file, if round % 2 == 0 { &second } else { &first });
    }
    tokio::time::sleep(Duration::from_millis(400)).await;
    workload.hold(LIMIT).await.unwrap();
    workload.resume();
    let progress = workload.finish(LIMIT).await.unwrap();
    drop(server);
    assert!(progress.violations.is_empty(), "{:#?}", progress.violations);
    assert!(progress.acknowledged > 100 && progress.reads > 100, "{progress:?}");
    assert_eq!(progress.attachments.len(), 4, "{progress:?}");
    assert!(progress.attachments.iter().any(|a| a.reissued > 0), "{progress:?}");
}

#[tokio::test]
async fn what_is_lost_behind_its_back_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let (file, socket, _) = disk(dir.path());
    let server = Server::start(&file, &socket);
    let workload = start(vec![socket], 0..SIZE, 9);
    tokio::time::sleep(Duration::from_secs(1)).await;
    workload.hold(LIMIT).await.unwrap();
    assert!(workload.progress().violations.is_empty(), "{:#?}", workload.progress().violations);
    // The hot part of the region was written many times by now.
    let behind = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
    behind.write_all_at(&vec![0; 256 << 10], 0).unwrap();
    let progress = workload.finish(LIMIT).await.unwrap();
    drop(server);
    assert!(progress.violations.lost() > 0, "{:?}", progress.violations);
}

#[tokio::test]
async fn a_stopped_server_is_left_and_its_answers_count_as_those_of_a_deposed_primary() {
    let dir = tempfile::tempdir().unwrap();
    let (file, first, second) = disk(dir.path());
    let old = Server::start(&file, &first);
    let workload = start(vec![first, second.clone()], 0..SIZE, 11);
    tokio::time::sleep(Duration::from_millis(500)).await;
    signal(&old, "STOP");
    let new = Server::start(&file, &second);
    for _ in 0..500 {
        if !workload.progress().attachments.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(workload.progress().node, 1, "{:?}", workload.progress());
    assert_eq!(workload.progress().node, 1, "{:?}", workload.progress());
    assert!(workload.progress().violations.is_empty(), "{:#?}", workload.progress().violations);
    signal(&old, "CONT");
    tokio::time::sleep(Duration::from_millis(500)).await;
    // Both servers write to one file, as if nobody had fenced the first: it answers the canaries, which must be noticed.
    assert!(workload.progress().violations.other() >= 1, "{:?}", workload.progress().violations);
    drop((workload, old, new));
}

fn signal(server: &Server, name: &str) {
    let status = Command::new("kill").arg(format!("-{name}")).arg(server.0.id().to_string()).status().unwrap();
    assert!(status.success());
}
