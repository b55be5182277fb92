//! A new user: three hosts with a systemd of their own, the package, and the commands of docs/OPERATIONS.md as they stand there, from
//! the installation to a volume, and a virtual machine on it, that outlive their host, and to the alert that says so: Debian's Prometheus
//! runs on a fourth host with the documented configuration and the rules of the package. What the unit forbids itself (system calls, files, capabilities) is really forbidden.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_tests::guest::{Reports, kernel};
use holdfast_tests::machine::Machine;
use holdfast_tests::netns::Lan;
use holdfast_tests::{PATIENCE, package_in, scratch, tool};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

const NAMES: [&str; 3] = ["n1", "n2", "n3"];
/// The volume of a virtual machine.
const DISK: &str = "vm2";

fn chapter(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/OPERATIONS.md");
    let text = fs::read_to_string(path).unwrap();
    let chapter = text.split(&format!("\n## {name}\n")).nth(1).unwrap_or_else(|| panic!("no chapter {name}"));
    chapter.split("\n## ").next().unwrap().to_owned()
}

/// The commands of a chapter, each with whom it is for: `("n1", "holdfast token create")`. Comments and continued lines as a shell has them.
fn commands(name: &str) -> Vec<(String, String)> {
    let chapter = chapter(name).replace("\\\n", " ");
    let mut found = Vec::new();
    for line in chapter.lines() {
        let prompt = ["host", "n1", "n2"].into_iter().find(|who| line.starts_with(&format!("{who}# ")));
        if let Some(who) = prompt {
            let command = line[who.len() + 2..].split("  #").next().unwrap().trim();
            found.push((who.to_owned(), command.to_owned()));
        }
    }
    found
}

/// Those that begin so; there must be one.
fn command(chapter: &str, who: &str, begins: &str) -> String {
    let all = commands(chapter);
    let found = all.iter().find(|(of, line)| of == who && line.starts_with(begins));
    found.unwrap_or_else(|| panic!("expected {who}# {begins} in {chapter}, found {all:#?}")).1.clone()
}

/// Looks again and again until a line prints this.
fn wait_for(machine: &Machine, line: &str, words: &str) -> String {
    let start = Instant::now();
    loop {
        let output = machine.try_sh(line);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() && said.contains(words) {
            return said;
        }
        let why = String::from_utf8_lossy(&output.stderr);
        assert!(start.elapsed() < PATIENCE, "expected {words:?} of {line}, found {said}{why}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// `apt-get install`, the configuration, `init` or `join`, `systemctl`: "Install".
fn install(machines: &[Machine; 3], package: &Path) {
    let documented = command("Install", "host", "apt-get install");
    let version = format!("./holdfast_{}_", env!("CARGO_PKG_VERSION"));
    assert!(documented.contains(&version), "{documented} is not of this version");
    let name = package.file_name().unwrap().to_str().unwrap();
    assert!(command("Install", "host", "editor").ends_with("/etc/holdfast/holdfast.toml"));
    for (at, machine) in machines.iter().enumerate() {
        machine.put(package, &format!("/root/{name}"));
        let said = machine.sh(&format!("apt-get install --yes ./{name} 2>&1"));
        assert!(said.contains("set node.name and listen.peer"), "{said}");
        // What somebody types into the editor.
        let (node, address) = (NAMES[at], format!("10.0.0.{}:7400", at + 1));
        let edit = format!("sed -i -e 's/^#name = .*/name = \"{node}\"/' -e 's/^#peer = .*/peer = \"{address}\"/'");
        let edit = format!("{edit} -e 's/^#metrics = .*/metrics = \"10.0.0.{}:7480\"/'", at + 1);
        let _ = machine.sh(&format!("{edit} /etc/holdfast/holdfast.toml"));
    }
    let _ = machines[0].sh(&command("Install", "n1", "runuser"));
    let _ = machines[0].sh(&command("Install", "n1", "systemctl"));
    for machine in &machines[1..] {
        let said = machines[0].sh(&command("Install", "n1", "holdfast token create"));
        let token = said.split_whitespace().find(|word| word.starts_with("hf1-")).unwrap_or_else(|| panic!("{said}"));
        let _ = machine.sh(&format!("echo {token} | {}", command("Install", "n2", "runuser")));
        let _ = machine.sh(&command("Install", "n2", "systemctl"));
    }
}

/// The unit runs as it is written, and not only as root in a test.
fn is_supervised(machine: &Machine) {
    let show = |what: &str| machine.sh(&format!("systemctl show holdfast --value --property {what}")).trim().to_owned();
    assert_eq!((show("ActiveState").as_str(), show("SubState").as_str()), ("active", "running"));
    let pid = show("MainPID");
    let status = machine.sh(&format!("cat /proc/{pid}/status"));
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default().trim().to_owned();
    assert_eq!((field("NoNewPrivs:").as_str(), field("Seccomp:").as_str()), ("1", "2"), "{status}");
    assert_eq!((field("CapBnd:").as_str(), field("CapEff:").as_str()), ("0000000000000000", "0000000000000000"));
    assert_ne!(field("Uid:").split_whitespace().next(), Some("0"), "{status}");
    let log = machine.sh("journalctl --unit holdfast --no-pager --output cat");
    // It may warn of peers that do not run yet, and of LimitMEMLOCK where this machine lets nobody raise it.
    let trouble = |line: &&str| ["\"ERROR\"", "not permitted"].iter().any(|word| line.contains(word));
    let log: Vec<&str> = log.lines().filter(trouble).collect();
    assert!(log.is_empty(), "{log:#?}");
}

/// "Watch": Debian's Prometheus in its own unit, with the configuration as it is documented and the rules of the package.
fn watch(watcher: &Machine, node: &Machine, dir: &Path) {
    let chapter = chapter("Watch");
    let config = chapter.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let rules = node.sh("cat /usr/share/doc/holdfast/examples/alerts.yml");
    for (name, text) in [("prometheus.yml", config), ("alerts.yml", &rules)] {
        fs::write(dir.join(name), text).unwrap();
        watcher.put(&dir.join(name), &format!("/etc/prometheus/{name}"));
    }
    let _ = watcher.sh("promtool check config /etc/prometheus/prometheus.yml");
    // A machine of ours masks what it does not need.
    let _ = watcher.sh("rm /etc/systemd/system/prometheus.service && systemctl daemon-reload");
    let _ = watcher.sh("systemctl start prometheus");
    let up = "promtool query instant http://localhost:9090 'sum(up{job=\"holdfast\"})'";
    wait_for(watcher, up, "=> 3 ");
}

/// Waits until these alerts fire, and no other; what they say is to be done.
fn fire(watcher: &Machine, expected: &[&str]) -> String {
    let start = Instant::now();
    loop {
        let said = watcher.sh("curl --silent --show-error http://localhost:9090/api/v1/alerts");
        let answer: serde_json::Value = serde_json::from_str(&said).unwrap();
        let alerts = answer["data"]["alerts"].as_array().cloned().unwrap_or_default();
        let firing: Vec<_> = alerts.iter().filter(|alert| alert["state"] == "firing").collect();
        let mut names: Vec<&str> = firing.iter().filter_map(|alert| alert["labels"]["alertname"].as_str()).collect();
        names.sort_unstable();
        if names == expected {
            return firing.iter().map(|alert| alert["annotations"].to_string()).collect();
        }
        assert!(start.elapsed() < 2 * PATIENCE, "expected {expected:?} to fire, found {said}");
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// A virtual machine in the package's unit, which boots from this machine's kernel.
fn prepare_guest(machines: &[Machine; 3], dir: &Path) {
    let made = machines[0].sh(&format!("holdfast volume create {DISK} --size 32MiB --primary n2"));
    assert!(made.contains(&format!("volume {DISK}: healthy")), "{made}");
    let image = dir.join("ext4");
    fs::File::create(&image).and_then(|file| file.set_len(32 << 20)).unwrap();
    let _ = tool("mkfs.ext4", ["-q".as_ref(), "-F".as_ref(), image.as_os_str()]);
    machines[1].put(&image, "/root/ext4");
    let convert = "qemu-img convert -n -f raw -O raw ext4 'nbd+unix:///vm2?socket=/run/holdfast/nbd/vm2.sock'";
    let _ = machines[1].sh(convert);
    let kernel = kernel();
    let boot = "-kernel /etc/holdfast/vm/kernel -initrd /etc/holdfast/vm/initrd -append panic=-1";
    let port = "-serial null -chardev stdio,id=port,signal=off -serial chardev:port";
    fs::write(dir.join("env"), format!("MEMORY=192\nEXTRA={boot} {port}\n")).unwrap();
    for machine in machines {
        // udev brings the group on a real host.
        let _ = machine.sh("mkdir -p /etc/holdfast/vm && (getent group kvm || groupadd --system kvm)");
        machine.put(&kernel.image, "/etc/holdfast/vm/kernel");
        machine.put(&kernel.initrd, "/etc/holdfast/vm/initrd");
        machine.put(&dir.join("env"), &format!("/etc/holdfast/vm/{DISK}.env"));
        let _ = machine.sh("chmod 644 /etc/holdfast/vm/*");
    }
}

/// Waits until the guest on this host has reported that.
fn reports(machine: &Machine, what: &str, is_so: impl Fn(&Reports) -> bool) -> Reports {
    let start = Instant::now();
    loop {
        let text = machine.sh(&format!("journalctl --unit holdfast-vm@{DISK} --no-pager --output cat"));
        let reports = Reports::read(&text);
        assert!(reports.errors.is_empty(), "{text}");
        if is_so(&reports) {
            return reports;
        }
        // Emulated on a busy machine, it takes its time to boot.
        assert!(start.elapsed() < 2 * PATIENCE, "expected {what}, found {reports:?}: {text}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn from_bare_hosts_to_a_volume_that_outlives_its_host() {
    let dir = scratch();
    let package = package_in(dir.path());
    let lan = Lan::new(4);
    let boot = |at: usize| Machine::boot(NAMES[at], &lan.hosts()[at], &dir.path().join(NAMES[at]));
    let mut machines = [boot(0), boot(1), boot(2)];
    let watcher = Machine::boot("watch", &lan.hosts()[3], &dir.path().join("watch"));
    install(&machines, &package);
    let ready = "holdfast status | grep -c ' up '";
    assert_eq!(wait_for(&machines[2], ready, "3").trim(), "3");
    machines.iter().for_each(is_supervised);
    watch(&watcher, &machines[0], dir.path());

    // "A volume", and what is written into it with the tools named there.
    let said = machines[0].sh(&command("A volume", "n1", "holdfast volume create vm1"));
    let attach = "attach on n1 at nbd+unix:///vm1?socket=/run/holdfast/nbd/vm1.sock";
    assert!(said.contains("volume vm1: healthy, 10 GiB, sync") && said.contains(attach), "{said}");
    let info = machines[0].sh(&command("A volume", "n1", "nbdinfo"));
    assert!(info.contains("10737418240"), "{info}");
    let disk = dir.path().join("disk.raw");
    fs::write(&disk, b"what a guest wrote\n".repeat(100_000)).unwrap();
    let qcow2 = dir.path().join("disk.qcow2");
    let convert = ["convert", "-f", "raw", "-O", "qcow2"].map(AsRef::as_ref);
    let _ = tool("qemu-img", convert.into_iter().chain([disk.as_os_str(), qcow2.as_os_str()]));
    machines[0].put(&qcow2, "/root/disk.qcow2");
    let _ = machines[0].sh(&command("A volume", "n1", "qemu-img convert"));
    let digest = |machine: &Machine| {
        let read = "nbdcopy 'nbd+unix:///vm1?socket=/run/holdfast/nbd/vm1.sock' - | head -c 1900000 | sha256sum";
        machine.sh(read).split_whitespace().next().unwrap().to_owned()
    };
    let written = digest(&machines[0]);
    assert!(tool("sha256sum", [disk.as_os_str()]).starts_with(&written), "what was put in is what is there");

    // The agent alone is exchanged: systemd starts it anew, and nobody takes over.
    let before = machines[0].sh("systemctl show holdfast --value --property MainPID");
    let _ = machines[0].sh(&command("Stopping and restarting an agent", "n1", "holdfast node restart"));
    let after = || machines[0].sh("systemctl show holdfast --value --property MainPID");
    let start = Instant::now();
    while after() == before || after().trim() == "0" {
        assert!(start.elapsed() < PATIENCE, "systemd starts the agent anew");
        std::thread::sleep(Duration::from_millis(200));
    }
    // Each life of an agent has an epoch of its own. A start that took longer than others wait for it left the volume to them.
    let said = wait_for(&machines[1], "holdfast status vm1", "volume vm1: healthy, 10 GiB, sync, epoch ");
    assert!(!said.contains("sync, epoch 1,"), "{said}");
    if !said.contains("attach on n1") {
        let _ = machines[0].sh("holdfast failover vm1 --to n1");
    }

    // "Failover": planned, and then the host of the primary dies.
    let said = machines[0].sh(&command("Failover", "n1", "holdfast failover"));
    assert!(said.contains("vm1: n2 is primary in epoch ") && said.contains(", it was n1 in epoch "), "{said}");
    assert_eq!(digest(&machines[1]), written);
    prepare_guest(&machines, dir.path());
    let _ = machines[1].sh(&format!("systemctl start holdfast-vm@{DISK}"));
    let written_by_guest = reports(&machines[1], "twenty records", |reports| reports.last >= 20).last;
    let _ = fire(&watcher, &[]);
    machines[1].power_off();
    let said = wait_for(&machines[0], "holdfast status vm1 | grep 'attach on n[13]'", "attach on n");
    let leads = if said.contains("attach on n1") { 0 } else { 2 };
    assert_eq!(digest(&machines[leads]), written);
    let said = wait_for(&machines[0], "holdfast status vm1", "volume vm1: degraded");
    assert!(said.contains("UNSAFE") && said.contains("n2"), "{said}");

    // The virtual machine starts where its volume is now, and finds what it had been told was written.
    let said = wait_for(&machines[0], "holdfast status vm2 | grep 'attach on n[13]'", "attach on n");
    let leads = if said.contains("attach on n1") { 0 } else { 2 };
    let _ = machines[leads].sh(&format!("systemctl start holdfast-vm@{DISK}"));
    let found = reports(&machines[leads], "the guest to boot", |reports| reports.booted_with.is_some());
    assert!(found.booted_with >= Some(written_by_guest), "{written_by_guest} records were synced, found {found:?}");
    // And somebody is woken, and told what to do.
    let advice = fire(&watcher, &["HoldfastAgentDown", "HoldfastNodeUnreachable"]);
    assert!(advice.contains("Node n2 does not answer") && advice.contains("10.0.0.2:7480"), "{advice}");
    assert!(advice.contains("start the agent"), "{advice}");
    let _ = machines[leads].sh(&format!("systemctl stop holdfast-vm@{DISK}"));

    // It boots again, with what was on its disk; the package is installed again, as its layer was in memory.
    let back = boot(1);
    let name = package.file_name().unwrap().to_str().unwrap();
    back.put(&package, &format!("/root/{name}"));
    let _ = back.sh(&format!("apt-get install --yes ./{name} 2>&1"));
    let _ = back.sh("sed -i -e 's/^#name = .*/name = \"n2\"/' -e 's/^#peer = .*/peer = \"10.0.0.2:7400\"/' -e 's/^#metrics = .*/metrics = \"10.0.0.2:7480\"/' /etc/holdfast/holdfast.toml");
    let _ = back.sh("systemctl enable --now holdfast");
    wait_for(&back, "holdfast status vm1", "volume vm1: healthy");
    is_supervised(&back);
    let _ = fire(&watcher, &[]);

    // A node that is removed is not started again, and what the package leaves is the data alone.
    let _ = machines[0].sh("holdfast volume delete vm1 --yes && holdfast volume delete vm2 --yes");
    let _ = machines[0].sh("holdfast node drain n3 && holdfast node remove n3 --yes");
    wait_for(&machines[2], "systemctl show holdfast --value --property ExecMainStatus --property ActiveState", "4");
    let state = machines[2].sh("sleep 3; systemctl show holdfast --value --property ActiveState");
    assert_ne!(state.trim(), "active", "RestartPreventExitStatus=4");
    let said =
        back.sh("apt-get remove --yes holdfast 2>&1 && ls /var/lib/holdfast && (command -v holdfast || echo gone)");
    assert!(said.contains("cluster") && said.contains("control") && said.trim_end().ends_with("gone"), "{said}");
    drop((machines, back, watcher));
}
