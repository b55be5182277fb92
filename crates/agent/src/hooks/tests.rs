//! Programs that do as they are told, and others.

use super::*;
use std::fs;

fn change(epoch: u64, primary: bool) -> RoleChange {
    let text = str::to_owned;
    RoleChange {
        volume: text("vm1"),
        node: text("n1"),
        epoch,
        primary,
        socket: PathBuf::from("/run/vm1.sock"),
        number: 0,
    }
}

/// A directory with these scripts.
fn scripts(scripts: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("the temporary directory is writable");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    for (name, text) in scripts {
        let path = dir.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("it is writable");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
    }
    dir
}

struct Heard(mpsc::Receiver<Ask>);

impl Heard {
    async fn next(&mut self) -> String {
        let next = timeout(Duration::from_secs(20), self.0.recv()).await;
        match next.expect("something is told in time") {
            Some(Ask::Happened("hook", Some(volume), message)) if volume == "vm1" => message,
            _ => panic!("expected an event of a hook"),
        }
    }
}

fn hooks(dir: &tempfile::TempDir, limit: Duration) -> (Hooks, Heard) {
    let (asks, asked) = mpsc::channel(16);
    let config = HooksConfig { dir: Some(dir.path().to_owned()), timeout: limit };
    (Hooks::new(config, asks), Heard(asked))
}

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn programs_are_called_by_name_and_told_everything() {
    let out = tempfile::NamedTempFile::new().expect("the temporary directory is writable");
    let log = out.path().display();
    let dir = scripts(&[
        ("20-second", &format!("echo second >> {log}; echo no good >&2; exit 3")),
        (
            "10-first",
            &format!("echo $HOLDFAST_VOLUME $HOLDFAST_EPOCH $HOLDFAST_ROLE $HOLDFAST_NODE $HOLDFAST_SOCKET > {log}"),
        ),
        (".hidden", "exit 9"),
    ]);
    fs::write(dir.path().join("README"), "no program").expect("it is writable");
    let (mut hooks, mut heard) = hooks(&dir, LONG);
    hooks.changed(change(7, true));
    assert_eq!(heard.next().await, "hook 10-first (primary, epoch 7) ended well");
    assert_eq!(heard.next().await, "hook 20-second (primary, epoch 7) failed with status 3: no good");
    let said = fs::read_to_string(out.path()).expect("it was written");
    assert_eq!(said, "vm1 7 primary n1 /run/vm1.sock\nsecond\n");
}

#[tokio::test]
async fn one_that_does_not_end_is_killed_with_what_it_started() {
    let out = tempfile::NamedTempFile::new().expect("the temporary directory is writable");
    let dir = scripts(&[("hangs", &format!("sleep 1000 & echo $! > {}; wait", out.path().display()))]);
    let (mut hooks, mut heard) = hooks(&dir, Duration::from_secs(1));
    hooks.changed(change(1, true));
    assert_eq!(heard.next().await, "hook hangs (primary, epoch 1) was killed after 1s");
    let pid: libc::pid_t = fs::read_to_string(out.path()).expect("it was written").trim().parse().expect("a number");
    for _ in 0..1000 {
        // A zombie has no command line.
        if fs::read(format!("/proc/{pid}/cmdline")).map_or(true, |line| line.is_empty()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("process {pid} lives");
}

#[tokio::test]
async fn only_the_newest_role_is_told() {
    let dir = scripts(&[("a", "sleep 0.3")]);
    let (mut hooks, mut heard) = hooks(&dir, LONG);
    hooks.changed(change(1, true));
    tokio::time::sleep(Duration::from_millis(100)).await;
    for epoch in 2..9 {
        hooks.changed(change(epoch, epoch % 2 == 0));
    }
    assert_eq!(heard.next().await, "hook a (primary, epoch 1) ended well");
    assert_eq!(heard.next().await, "hook a (secondary, epoch 7) ended well");
    assert_eq!(heard.next().await, "hook a (primary, epoch 8) ended well");
    hooks.changed(change(9, false));
    assert_eq!(heard.next().await, "hook a (secondary, epoch 9) ended well");
    hooks.changed(change(10, true));
    assert_eq!(heard.next().await, "hook a (primary, epoch 10) ended well");
}

/// While others may lead the volume, a machine that went on here would remember what is true no more.
#[tokio::test]
async fn an_end_is_told_to_all_before_the_next_beginning() {
    let dir = scripts(&[("a", "sleep 0.3"), ("b", "true")]);
    let (mut hooks, mut heard) = hooks(&dir, LONG);
    assert!(!hooks.knows("vm1"));
    hooks.changed(change(1, true));
    assert!(hooks.knows("vm1") && !hooks.knows("vm2"));
    assert_eq!(heard.next().await, "hook a (primary, epoch 1) ended well");
    assert_eq!(heard.next().await, "hook b (primary, epoch 1) ended well");
    hooks.changed(change(1, false));
    tokio::time::sleep(Duration::from_millis(100)).await;
    // In the middle of the first of them.
    hooks.changed(change(3, true));
    for expected in ["a (secondary, epoch 1)", "b (secondary, epoch 1)", "a (primary, epoch 3)", "b (primary, epoch 3)"]
    {
        assert_eq!(heard.next().await, format!("hook {expected} ended well"));
    }
}

/// An agent that ends waits for exactly these.
#[tokio::test]
async fn a_volume_is_busy_until_the_programs_of_its_newest_role_have_ended() {
    let dir = scripts(&[("a", "sleep 0.2"), ("b", "sleep 0.2")]);
    let (mut hooks, mut heard) = hooks(&dir, LONG);
    assert!(hooks.busy().is_empty());
    hooks.changed(change(1, true));
    assert_eq!(hooks.busy(), ["vm1"]);
    assert!(heard.next().await.starts_with("hook a"));
    assert_eq!(hooks.busy(), ["vm1"], "b has not ended");
    // In its place a newer role: what was left of the older one is not waited for.
    hooks.changed(change(2, false));
    assert_eq!(heard.next().await, "hook b (primary, epoch 1) ended well");
    for program in ["a", "b"] {
        assert_eq!(hooks.busy(), ["vm1"]);
        assert_eq!(heard.next().await, format!("hook {program} (secondary, epoch 2) ended well"));
    }
    // What is told comes first.
    while !hooks.busy().is_empty() {
        tokio::task::yield_now().await;
    }
    // Nor is a volume that is no more.
    hooks.changed(change(3, true));
    hooks.keep(|_| false);
    assert!(hooks.busy().is_empty());
}

#[tokio::test]
async fn what_others_may_write_is_not_run() {
    let dir = scripts(&[("a", "true")]);
    let (mut hooks, mut heard) = hooks(&dir, LONG);
    for path in [dir.path().join("a"), dir.path().to_owned()] {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("it is ours");
        hooks.changed(change(1, true));
        let said = heard.next().await;
        assert!(said.starts_with("no hook was run: expected ") && said.contains("found mode 777"), "{said}");
    }
    fs::remove_dir_all(dir.path()).expect("it is ours");
    hooks.changed(change(1, true));
    assert!(heard.next().await.contains("could not be read"), "a directory that is gone");
}

#[tokio::test]
async fn a_flood_of_words_is_no_reason_to_wait() {
    let dir = scripts(&[("a", "i=0; while [ $i -lt 20000 ]; do echo flood of words $i >&2; i=$((i+1)); done")]);
    let (mut hooks, mut heard) = hooks(&dir, LONG);
    hooks.changed(change(1, false));
    assert_eq!(heard.next().await, "hook a (secondary, epoch 1) ended well: flood of words 19999");
}
