//! What is typed at a prompt that asks for a secret.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use holdfast_tests::terminal::on_a_terminal;
use holdfast_tests::{binary, scratch};
use std::fs;

/// Wrong, so that the command ends without a cluster.
const TOKEN: &str = "hf1-00c0ffee";

#[test]
fn a_token_that_is_typed_is_not_shown() {
    let dir = scratch();
    let config = dir.path().join("n.toml");
    let data = dir.path().join("data");
    fs::write(&config, format!("[node]\nname = \"n\"\ndata_dir = {data:?}\n[listen]\npeer = \"127.0.0.1:17431\"\n"))
        .unwrap();
    let join = format!("{} join 127.0.0.1:17433 --token-file - --config {}", binary().display(), config.display());
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
