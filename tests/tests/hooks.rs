//! Programs that are told who is primary: called by real agents, and the shipped ones by hand.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_cli::harness::Cluster;
use holdfast_tests::manual::block;
use holdfast_tests::{PATIENCE, TestCluster, scratch, try_tool};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

const VOLUME: &str = "vm1";
/// The agent's next life is waited for however slowly this machine starts it.
const PATIENT: &str = "\n[cluster]\nrestart_window = \"60s\"\n";

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
    // What is begun may fail once; an end would be told again.
    let end = "[ $HOLDFAST_ROLE = secondary ] && exit";
    script(&hooks.join("10-log"), &format!("echo {line} >> {}\n{end}\n[ -S \"$HOLDFAST_SOCKET\" ]", log.display()));
    script(&hooks.join("20-fails"), &format!("{end}\necho the hypervisor is on fire >&2; exit 7"));
    let mut cluster = TestCluster::start_with(&format!("{PATIENT}[hooks]\ndir = {hooks:?}\n")).await;
    cluster.volume(VOLUME, 64 << 20).await;
    let old = cluster.primary(VOLUME).await;
    let epoch = (*cluster).volume(VOLUME).await.unwrap().epoch;
    // In this epoch or a later one: a claim may be made anew.
    let is_told = async |cluster: &Cluster, node: &str, role: &str, epoch: u64| {
        let expected = format!("{node} {role} {VOLUME} ");
        let fits = |line: &str| line.strip_prefix(&expected).is_some_and(|e| e.parse::<u64>().unwrap() >= epoch);
        let what = format!("{expected}{epoch}");
        let told = cluster.wait_for(&what, PATIENCE, async |_| {
            let text = fs::read_to_string(&log).unwrap_or_default();
            if text.lines().any(fits) { Ok(()) } else { Err(text) }
        });
        told.await.unwrap_or_else(|e| panic!("{e}"));
    };
    let names: Vec<String> = cluster.nodes().iter().map(|node| node.name().to_owned()).collect();
    let name = |at: usize| names[at].clone();
    is_told(&cluster, &name(old), "primary", epoch).await;

    // Served without a break, in other epochs.
    let third = name((old + 2) % 3);
    cluster.succeeds(old, &["copy", "remove", VOLUME, &third, "--yes"]).await;
    cluster.succeeds(old, &["copy", "add", VOLUME, &third]).await;
    let epoch = (*cluster).volume(VOLUME).await.unwrap().epoch;
    let noted = cluster.nodes()[old].data_dir().join(format!("hooks/{VOLUME}.json"));
    let expected = format!("\"epoch\":{epoch}}}");
    let note = cluster.wait_for(&expected, PATIENCE, async |_| {
        let text = fs::read_to_string(&noted).unwrap_or_default();
        if text.ends_with(&expected) { Ok(()) } else { Err(text) }
    });
    note.await.unwrap_or_else(|e| panic!("{e}"));

    // One that is restarted is told that it begins, and not that it ended: a machine waits for its disk meanwhile.
    assert!(cluster.run(old, &["node", "restart"]).await.status.success());
    cluster.ended(old, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    cluster.launch(old).unwrap();
    is_told(&cluster, &name(old), "primary", epoch + 1).await;
    let lines = fs::read_to_string(&log).unwrap();
    assert!(!lines.contains(&format!("{} secondary", name(old))), "{lines}");

    let new = (old + 1) % 3;
    let output = cluster.run(old, &["failover", VOLUME, "--to", &name(new)]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let epoch = (*cluster).volume(VOLUME).await.unwrap().epoch;
    is_told(&cluster, &name(new), "primary", epoch).await;
    let told = cluster.wait_for("the events of both hooks", PATIENCE, async |cluster| {
        let socket = cluster.nodes()[new].admin().display().to_string();
        let output = cluster.holdfast(["--socket", &socket, "events"]).await.map_err(|e| e.to_string())?;
        let well = format!("hook 10-log (primary, epoch {epoch}) ended well");
        let failed = format!("hook 20-fails (primary, epoch {epoch}) failed with status 7: the hypervisor is on fire");
        if output.contains(&well) && output.contains(&failed) { Ok(()) } else { Err(output) }
    });
    told.await.unwrap_or_else(|e| panic!("{e}"));
    // The old one's node is told, too.
    is_told(&cluster, &name(old), "secondary", 0).await;

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
    is_told(&cluster, &volume.primary, "primary", volume.epoch).await;
    // An agent that was killed said nothing to whom it had told to begin: its next life does, also where no copy is left.
    let removed = cluster.run(old, &["copy", "remove", VOLUME, &dead, "--yes"]).await;
    assert!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
    cluster.launch(new).unwrap();
    is_told(&cluster, &dead, "secondary", volume.epoch).await;
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
fn shipped(hook: &str, role: &str, domain: &str, env: bool) -> (bool, String) {
    let dir = scratch();
    let log = dir.path().join("log");
    script(&dir.path().join("systemctl"), &format!("echo systemctl \"$@\" >> {}", log.display()));
    // Answers with what the test wants.
    let listed = match domain {
        "" => "echo vm11".to_owned(),
        "no answer" => "exit 1".to_owned(),
        _ => format!("printf '%s\\n' vm11 {VOLUME}"),
    };
    let state = format!("case \"$*\" in *list*) {listed}; exit 0;; *domstate*) echo \"{domain}\"; exit 0;; esac");
    let state = format!("[ \"$LC_ALL\" = C ] || exit 99\n{state}");
    script(&dir.path().join("virsh"), &format!("{state}\necho virsh \"$@\" >> {}", log.display()));
    if env {
        fs::write(dir.path().join(format!("{VOLUME}.env")), "").unwrap();
    }
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
    let unit = |role, env| shipped("restart-qemu-unit", role, "", env);
    let systemctl = |words: &str| (true, format!("systemctl --no-ask-password {words} holdfast-vm@vm1.service"));
    let nothing = (true, String::new());
    assert_eq!(unit("primary", true), systemctl("start"));
    assert_eq!(unit("primary", false), nothing, "somebody else's");
    assert_eq!(unit("secondary", true), systemctl("stop"));
    assert_eq!(unit("secondary", false), systemctl("stop"), "it may run although it is to run here no more");
    let virsh = |words: &str| (true, format!("virsh --quiet --connect qemu:///system {words}"));
    let domain = |role, state| shipped("restart-libvirt-domain", role, state, false);
    assert_eq!(domain("primary", "shut off"), virsh("start --force-boot vm1"));
    assert_eq!(domain("primary", "crashed"), virsh("start --force-boot vm1"));
    assert_eq!(domain("primary", "paused"), virsh("resume vm1"));
    assert_eq!(domain("primary", "running"), nothing);
    assert_eq!(domain("secondary", "running"), virsh("destroy vm1"));
    assert_eq!(domain("secondary", "shut off"), nothing);
    assert_eq!(domain("primary", ""), nothing, "there is no such domain");
    let failed = (false, String::new());
    assert_eq!(domain("secondary", "no answer"), failed, "it may run");
    assert_eq!(shipped("restart-libvirt-domain", "primary", "shut off", true), failed, "two machines on one volume");
}

/// The driver of libvirt that simulates a hypervisor knows one domain, in this state.
fn simulated(role: &str, state: &str) -> (bool, String) {
    let dir = scratch();
    let runstate = match state {
        "running" => 1,
        "paused" => 3,
        "shut off" => 5,
        _ => panic!("no state {state}"),
    };
    let words = "xmlns:test='http://libvirt.org/schemas/domain/test/1.0'";
    let domain = format!(
        "<node><domain type='test' {words}><name>{VOLUME}</name><memory>65536</memory><os><type>hvm</type></os>\
         <test:runstate>{runstate}</test:runstate></domain></node>"
    );
    fs::write(dir.path().join("node.xml"), domain).unwrap();
    // What is simulated ends with each process.
    let log = dir.path().join("log");
    script(&dir.path().join("virsh"), &format!("echo $4 >> {}\nexec /usr/bin/virsh \"$@\"", log.display()));
    let mut command =
        Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/hooks/restart-libvirt-domain"));
    command.env("PATH", format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap()));
    command.env("LIBVIRT_URI", format!("test://{}", dir.path().join("node.xml").display()));
    command.env("HOLDFAST_VOLUME", VOLUME).env("HOLDFAST_ROLE", role).env("HOLDFAST_EPOCH", "3");
    let output = command.output().unwrap();
    let asked = fs::read_to_string(log).unwrap_or_default().trim().replace('\n', " ");
    (output.status.success(), asked)
}

/// A real virsh understands the hook, and says what it expects.
#[test]
fn libvirt_starts_and_ends_domains() {
    let done = |words: &str| (true, words.to_owned());
    assert_eq!(simulated("primary", "shut off"), done("list domstate start"));
    assert_eq!(simulated("primary", "paused"), done("list domstate resume"));
    assert_eq!(simulated("primary", "running"), done("list domstate"));
    assert_eq!(simulated("secondary", "running"), done("list domstate destroy"));
    assert_eq!(simulated("secondary", "paused"), done("list domstate destroy"));
    assert_eq!(simulated("secondary", "shut off"), done("list domstate"));
}

#[test]
fn libvirts_schema_has_nothing_against_the_documented_domain() {
    let dir = scratch();
    let judge = |text: &str| {
        let file = dir.path().join("vm1.xml");
        fs::write(&file, text).unwrap();
        let output = try_tool("virt-xml-validate", [file.as_os_str(), "domain".as_ref()]);
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let documented = block("Hooks", "xml");
    let (good, said) = judge(&documented);
    assert!(good, "{said}");
    let (good, _) = judge(&documented.replace("<vcpu>", "<vcpu minimum='1'>"));
    assert!(!good, "what the schema does not know is refused");
    // Its disk is the unit's.
    let unit =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/systemd/holdfast-vm@.service"));
    let unit = unit.unwrap().replace("%i", "vm1").replace("=disk", "=holdfast");
    let words: Vec<&str> = unit.split_whitespace().collect();
    for arg in documented.lines().filter_map(|line| line.trim().strip_prefix("<qemu:arg value='")?.strip_suffix("'/>"))
    {
        // Where libvirt itself puts nothing.
        let arg = arg.strip_suffix(",addr=0x10").unwrap_or(arg);
        assert!(words.contains(&arg), "expected {arg} in {unit}");
    }
}
