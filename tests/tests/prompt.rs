//! What is typed at a prompt: a secret, and an answer that takes its time.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use holdfast_cli::harness::free_ports;
use holdfast_tests::terminal::on_a_terminal;
use holdfast_tests::{TestCluster, binary, scratch};
use std::fs;
use std::time::Duration;

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

/// An agent hangs up on whoever has not answered its pings for 30 s.
#[tokio::test]
async fn a_question_may_be_thought_about_for_longer_than_a_silent_connection_lives() {
    let cluster = TestCluster::start().await;
    cluster.volume("vm1", 32 << 20).await;
    let socket = cluster.nodes()[0].admin().display().to_string();
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
}
