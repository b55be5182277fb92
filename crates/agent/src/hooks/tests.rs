//! Programs that do as they are told, and others.

use super::*;
use std::fs;

fn change(epoch: u64, primary: bool) -> RoleChange {
    let text = str::to_owned;
    RoleChange {
        volume: text("vm1"),
        node: text("n1"),
        id: VolumeId(1),
        epoch: Epoch(epoch),
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

struct Heard {
    told: mpsc::Receiver<Ask>,
    /// Stays as long.
    _notes: Option<tempfile::TempDir>,
}

impl Heard {
    async fn next(&mut self) -> String {
        let next = timeout(Duration::from_secs(20), self.told.recv()).await;
        match next.expect("something is told in time") {
            Some(Ask::Happened("hook", Some(volume), message)) if volume == "vm1" => message,
            _ => panic!("expected an event of a hook"),
        }
    }
}

fn hooks(dir: &tempfile::TempDir, limit: Duration) -> (Hooks, Heard) {
    let notes = tempfile::tempdir().expect("the temporary directory is writable");
    let (hooks, heard) = hooks_of(dir, limit, notes.path());
    (hooks, Heard { _notes: Some(notes), ..heard })
}

/// One life of an agent that notes here what it has begun.
fn hooks_of(dir: &tempfile::TempDir, limit: Duration, notes: &Path) -> (Hooks, Heard) {
    let (asks, asked) = mpsc::channel(16);
    let config = HooksConfig { dir: Some(dir.path().to_owned()), timeout: limit };
    (Hooks::new(config, asks, notes).expect("the directory can be read"), Heard { told: asked, _notes: None })
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
    hooks.changed(change(1, true));
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
    // A volume that is no more is told until what was begun has ended.
    hooks.changed(change(3, true));
    hooks.keep(|_| false);
    assert_eq!(hooks.busy(), ["vm1"]);
    hooks.changed(change(4, false));
    while !hooks.volumes.is_empty() {
        hooks.keep(|_| false);
        tokio::time::sleep(Duration::from_millis(10)).await;
        while heard.told.try_recv().is_ok() {}
    }
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
    hooks.changed(change(2, true));
    assert!(heard.next().await.contains("could not be read"), "a directory that is gone");
}

#[tokio::test]
async fn a_flood_of_words_is_no_reason_to_wait() {
    let dir = scripts(&[("a", "i=0; while [ $i -lt 20000 ]; do echo flood of words $i >&2; i=$((i+1)); done")]);
    let (mut hooks, mut heard) = hooks(&dir, LONG);
    hooks.changed(change(1, false));
    assert_eq!(heard.next().await, "hook a (secondary, epoch 1) ended well: flood of words 19999");
}

/// A machine that could not be stopped goes on, whatever the next role is.
#[tokio::test]
async fn what_could_not_be_ended_is_told_again_and_nothing_is_begun_before() {
    let out = tempfile::tempdir().expect("the temporary directory is writable");
    let stuck = out.path().join("stuck");
    fs::write(&stuck, "").expect("it is writable");
    let dir = scripts(&[("a", &format!("[ $HOLDFAST_ROLE = primary ] || ! [ -e {} ]", stuck.display()))]);
    let (mut hooks, mut heard) = hooks(&dir, LONG);
    hooks.changed(change(1, true));
    assert_eq!(heard.next().await, "hook a (primary, epoch 1) ended well");
    hooks.changed(change(2, false));
    let failed =
        "hook a (secondary, epoch 2) failed with status 1; told again until it succeeds, and `primary` not before";
    assert_eq!(heard.next().await, failed);
    hooks.changed(change(3, true));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(heard.told.try_recv().is_err(), "the same outcome is told once, and nothing is begun");
    assert_eq!(hooks.busy(), ["vm1"]);
    fs::remove_file(&stuck).expect("it is there");
    assert_eq!(heard.next().await, "hook a (secondary, epoch 2) ended well");
    assert_eq!(heard.next().await, "hook a (primary, epoch 3) ended well");
}

#[tokio::test]
async fn what_was_begun_is_known_to_the_next_life() {
    let dir = scripts(&[("a", "true")]);
    let notes = tempfile::tempdir().expect("the temporary directory is writable");
    let (mut before, mut heard) = hooks_of(&dir, LONG, notes.path());
    assert!(before.left_behind().is_empty());
    before.changed(change(7, true));
    assert_eq!(heard.next().await, "hook a (primary, epoch 7) ended well");
    drop(before);
    fs::write(notes.path().join("torn.json"), "{").expect("it is writable");
    let (mut after, mut heard) = hooks_of(&dir, LONG, notes.path());
    let left = after.left_behind();
    let names: Vec<&str> = left.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names, ["torn", "vm1"], "what can't be read may run as well");
    assert_eq!((left[1].1, left[1].2), (Mark::new(VolumeId(1), Epoch(7)), false));
    after.changed(change(9, false));
    assert_eq!(heard.next().await, "hook a (secondary, epoch 9) ended well");
    // The file goes after the last event.
    for _ in 0..1000 {
        if after.busy().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (again, _heard) = hooks_of(&dir, LONG, notes.path());
    assert_eq!(again.left_behind().len(), 1, "only what can't be read");
}

#[tokio::test]
async fn a_volume_of_the_same_name_waits_for_the_end_of_the_older_one() {
    let dir = scripts(&[("a", "true")]);
    let (mut hooks, mut heard) = hooks(&dir, LONG);
    hooks.changed(change(7, true));
    assert_eq!(heard.next().await, "hook a (primary, epoch 7) ended well");
    hooks.changed(RoleChange { id: VolumeId(2), ..change(1, true) });
    assert_eq!(heard.next().await, "hook a (secondary, epoch 7) ended well");
    assert_eq!(heard.next().await, "hook a (primary, epoch 1) ended well");
}

#[tokio::test]
async fn a_role_that_goes_on_in_another_epoch_is_noted_and_nobody_is_called() {
    let dir = scripts(&[("a", "true")]);
    let notes = tempfile::tempdir().expect("the temporary directory is writable");
    let (mut hooks, mut heard) = hooks_of(&dir, LONG, notes.path());
    hooks.renews("vm1", Epoch(2));
    hooks.changed(change(3, true));
    assert_eq!(heard.next().await, "hook a (primary, epoch 3) ended well");
    hooks.renews("vm1", Epoch(2));
    hooks.renews("vm1", Epoch(5));
    while hooks.marks.get("vm1") != Some(Mark::new(VolumeId(1), Epoch(5))) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(heard.told.try_recv().is_err(), "nobody was called");
    hooks.changed(change(6, false));
    assert_eq!(heard.next().await, "hook a (secondary, epoch 6) ended well");
    hooks.renews("vm1", Epoch(7));
    hooks.changed(change(8, true));
    assert_eq!(heard.next().await, "hook a (primary, epoch 8) ended well");
}

/// While it can't be noted nothing is begun, and afterwards it is.
#[tokio::test]
async fn what_can_not_be_noted_is_begun_once_it_can() {
    let dir = scripts(&[("a", "true")]);
    let notes = tempfile::tempdir().expect("the temporary directory is writable");
    let (mut hooks, mut heard) = hooks_of(&dir, LONG, notes.path());
    fs::remove_dir(notes.path()).expect("it is empty");
    hooks.changed(change(3, true));
    assert!(heard.next().await.starts_with("no hook is run before this can be noted: "));
    fs::create_dir(notes.path()).expect("it is gone");
    assert_eq!(heard.next().await, "hook a (primary, epoch 3) ended well");
}
