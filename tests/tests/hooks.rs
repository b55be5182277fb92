//! Programs that are told who is primary: called by real agents, and the shipped ones by hand.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_tests::{PATIENCE, TestCluster, scratch};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

const VOLUME: &str = "vm1";

fn script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn the_new_primarys_node_is_told_and_says_how_it_went() {
    let dir = scratch();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let hooks = dir.path().join("hooks.d");
    fs::create_dir(&hooks).unwrap();
    fs::set_permissions(&hooks, fs::Permissions::from_mode(0o755)).unwrap();
    let log = dir.path().join("log");
    let line = "$HOLDFAST_NODE $HOLDFAST_ROLE $HOLDFAST_VOLUME $HOLDFAST_EPOCH";
    script(&hooks.join("10-log"), &format!("echo {line} >> {}\n[ -S \"$HOLDFAST_SOCKET\" ]", log.display()));
    script(&hooks.join("20-fails"), "echo the hypervisor is on fire >&2; exit 7");
    let mut cluster = TestCluster::start_with(&format!("[hooks]\ndir = {hooks:?}\n")).await;
    cluster.volume(VOLUME, 64 << 20).await;
    let old = cluster.primary(VOLUME).await;
    let epoch = (*cluster).volume(VOLUME).await.unwrap().epoch;
    let said = async |expected: String| {
        let waits = cluster.wait_for(&expected, PATIENCE, async |_| {
            let text = fs::read_to_string(&log).unwrap_or_default();
            if text.lines().any(|line| line == expected) { Ok(()) } else { Err(text) }
        });
        waits.await.unwrap_or_else(|e| panic!("{e}"));
    };
    let name = |at: usize| cluster.nodes()[at].name().to_owned();
    said(format!("{} primary {VOLUME} {epoch}", name(old))).await;

    let new = (old + 1) % 3;
    let output = cluster.run(old, &["failover", VOLUME, "--to", &name(new)]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let epoch = (*cluster).volume(VOLUME).await.unwrap().epoch;
    said(format!("{} primary {VOLUME} {epoch}", name(new))).await;
    let told = cluster.wait_for("the events of both hooks", PATIENCE, async |cluster| {
        let socket = cluster.nodes()[new].admin().display().to_string();
        let output = cluster.holdfast(["--socket", &socket, "events"]).await.map_err(|e| e.to_string())?;
        let well = format!("hook 10-log (primary, epoch {epoch}) ended well");
        let failed = format!("hook 20-fails (primary, epoch {epoch}) failed with status 7: the hypervisor is on fire");
        if output.contains(&well) && output.contains(&failed) { Ok(()) } else { Err(output) }
    });
    told.await.unwrap_or_else(|e| panic!("{e}"));
    // The old one's node is told, too.
    let lines = fs::read_to_string(&log).unwrap();
    assert!(lines.contains(&format!("{} secondary {VOLUME}", name(old))), "{lines}");

    // And after a death.
    let dead = name(new);
    cluster.kill(new);
    let healthy = cluster.wait_for("another primary", PATIENCE, async |cluster| {
        let volume = cluster.volume(VOLUME).await?;
        let other = volume.primary != dead && matches!(volume.state.as_str(), "degraded" | "healthy");
        if other { Ok(()) } else { Err(format!("{} {}", volume.primary, volume.state)) }
    });
    healthy.await.unwrap_or_else(|e| panic!("{e}"));
    let volume = (*cluster).volume(VOLUME).await.unwrap();
    let expected = format!("{} primary {VOLUME} {}", volume.primary, volume.epoch);
    let told = cluster.wait_for(&expected, PATIENCE, async |_| {
        let text = fs::read_to_string(&log).unwrap_or_default();
        if text.lines().any(|line| line == expected) { Ok(()) } else { Err(text) }
    });
    told.await.unwrap_or_else(|e| panic!("{e}"));
}

/// What is told when the volumes are handed over belongs to the end of the agent: a supervisor kills what is left.
#[tokio::test]
async fn an_agent_that_ends_waits_for_its_hooks() {
    let dir = scratch();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (began, ended) = (dir.path().join("began"), dir.path().join("ended"));
    let text = format!(
        "[ $HOLDFAST_ROLE = secondary ] || exit 0\necho $HOLDFAST_NODE >> {}\nsleep 3\necho $HOLDFAST_NODE >> {}",
        began.display(),
        ended.display()
    );
    script(&dir.path().join("10-stops-a-vm"), &text);
    let mut cluster = TestCluster::start_with(&format!("[hooks]\ndir = {:?}\n", dir.path())).await;
    cluster.volume(VOLUME, 64 << 20).await;
    let primary = cluster.primary(VOLUME).await;
    cluster.terminate(primary);
    let status = cluster.ended(primary, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(status.code(), Some(0), "{}", cluster.log_tails());
    let name = format!("{}\n", cluster.nodes()[primary].name());
    for path in [began, ended] {
        assert_eq!(fs::read_to_string(&path).unwrap_or_default(), name, "{}\n{}", path.display(), cluster.log_tails());
    }
}

/// Runs a shipped hook with tools that only write down what they were asked.
fn shipped(hook: &str, role: &str, domain: &str) -> (bool, String) {
    let dir = scratch();
    let log = dir.path().join("log");
    script(&dir.path().join("systemctl"), &format!("echo systemctl \"$@\" >> {}", log.display()));
    // `domstate` answers with what the test wants, and fails if there is no such domain.
    let state = format!("case \"$*\" in *domstate*) [ -n \"{domain}\" ] && echo \"{domain}\"; exit $?;; esac");
    script(&dir.path().join("virsh"), &format!("{state}\necho virsh \"$@\" >> {}", log.display()));
    fs::write(dir.path().join(format!("{VOLUME}.env")), "").unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/hooks").join(hook);
    let tools = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    let mut command = Command::new(path);
    command.env("PATH", tools).env("HOLDFAST_VM_DIR", dir.path());
    command.env("HOLDFAST_VOLUME", VOLUME).env("HOLDFAST_ROLE", role).env("HOLDFAST_EPOCH", "3");
    let output = command.output().unwrap();
    (output.status.success(), fs::read_to_string(log).unwrap_or_default().trim().to_owned())
}

#[test]
fn the_shipped_hooks_start_and_stop_machines() {
    let unit = |role| shipped("restart-qemu-unit", role, "");
    assert_eq!(unit("primary"), (true, "systemctl --no-ask-password start holdfast-vm@vm1.service".to_owned()));
    assert_eq!(
        unit("secondary"),
        (true, "systemctl --no-ask-password --no-block stop holdfast-vm@vm1.service".to_owned())
    );
    let virsh = |words: &str| (true, format!("virsh --quiet --connect qemu:///system {words}"));
    let nothing = (true, String::new());
    let domain = |role, state| shipped("restart-libvirt-domain", role, state);
    assert_eq!(domain("primary", "shut off"), virsh("start vm1"));
    assert_eq!(domain("primary", "crashed"), virsh("start vm1"));
    assert_eq!(domain("primary", "paused"), virsh("resume vm1"));
    assert_eq!(domain("primary", "running"), nothing);
    assert_eq!(domain("secondary", "running"), virsh("destroy vm1"));
    assert_eq!(domain("secondary", "shut off"), nothing);
    assert_eq!(domain("primary", ""), nothing, "there is no such domain");
}
