//! What is typed at a prompt: a secret, and an answer that takes its time.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use holdfast_cli::harness::free_ports;
use holdfast_tests::terminal::on_a_terminal;
use holdfast_tests::{PATIENCE, TestCluster, binary, scratch};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Wrong, so that the command ends without a cluster.
const TOKEN: &str = "hf1-00c0ffee";

#[test]
fn a_token_that_is_typed_is_not_shown() {
    let dir = scratch();
    let config = dir.path().join("n.toml");
    let data = dir.path().join("data");
    let (own, nobodys) = (free_ports().unwrap(), free_ports().unwrap());
    fs::write(&config, format!("[node]\nname = \"n\"\ndata_dir = {data:?}\n[listen]\npeer = \"127.0.0.1:{own}\"\n"))
        .unwrap();
    let join = format!("{} join 127.0.0.1:{nobodys} --token-file - --config {}", binary().display(), config.display());
    // The shell stays, and asks the terminal how it was left; without the trap a Ctrl-C would end it, too.
    let line = format!("trap : INT; {join}; echo \"ended with $?\"; stty -a");
    let asked = |shown: &str| shown.contains("token: ");
    let echoes = |shown: &str| shown.split_whitespace().any(|word| word == "echo") && shown.contains(" icanon");
    let (status, shown) = on_a_terminal(&line, &format!("{TOKEN}\n"), false, asked);
    assert!(status.success() && !shown.contains("c0ffee"), "{status}: {shown}");
    assert!(shown.contains("expected a join token") && shown.contains("ended with 2"), "it was read: {shown}");
    assert!(echoes(&shown), "as it was before: {shown}");
    // Not even in part, when somebody thinks better of it.
    let (status, shown) = on_a_terminal(&line, &format!("{TOKEN}\x03"), false, asked);
    assert!(status.success() && !shown.contains("c0ffee"), "{status}: {shown}");
    assert!(shown.contains("ended with 130") && echoes(&shown), "{shown}");
}

/// An agent hangs up on whoever has not answered its pings for 30 s: a question may be thought about for longer, and who follows events may
/// be stopped for longer.
#[tokio::test]
async fn somebody_may_be_silent_for_longer_than_a_silent_connection_lives() {
    let cluster = TestCluster::start().await;
    cluster.volume("vm1", 32 << 20).await;
    let socket = cluster.nodes()[0].admin().display().to_string();
    let dir = scratch();
    let mut follower = Follower::start(&socket, &dir.path().join("events"));
    follower.tells(|events| events.contains("volume_created")).await;
    follower.signal(libc::SIGSTOP);
    let line = format!("exec {} --socket {socket} volume delete vm1", binary().display());
    let thinks = |shown: &str| {
        let asked = shown.contains("to go on: ");
        if asked {
            std::thread::sleep(Duration::from_secs(40));
        }
        asked
    };
    let (status, shown) = on_a_terminal(&line, "yes\n", false, thinks);
    assert!(status.success(), "{status}: {shown}");

    // What happened meanwhile is told, and nothing twice.
    assert!(!follower.told().contains("volume_deleted"), "it stands still");
    follower.signal(libc::SIGCONT);
    let told = follower.tells(|events| events.contains("volume_deleted")).await;
    assert_eq!(told.matches("volume_created").count(), 1, "{told}");
    assert!(!told.contains("missing"), "{told}");
}

/// `events --follow`, into a file.
struct Follower {
    child: Child,
    file: PathBuf,
}

impl Follower {
    fn start(socket: &str, file: &Path) -> Follower {
        let into = File::create(file).unwrap();
        let mut command = Command::new(binary());
        command.args(["--socket", socket, "events", "--follow"]).stdin(Stdio::null());
        let child = command.stderr(into.try_clone().unwrap()).stdout(into).spawn().unwrap();
        Follower { child, file: file.to_owned() }
    }

    fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).unwrap();
        // SAFETY: kill touches no memory, and the child is ours and not waited for.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    fn told(&self) -> String {
        fs::read_to_string(&self.file).unwrap()
    }

    async fn tells(&mut self, what: impl Fn(&str) -> bool) -> String {
        let start = Instant::now();
        loop {
            let told = self.told();
            if what(&told) {
                return told;
            }
            assert!(self.child.try_wait().unwrap().is_none() && start.elapsed() < PATIENCE, "{told}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
