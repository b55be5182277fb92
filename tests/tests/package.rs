//! The Debian package, from this build of the binary: what is in it, and that its unit's command runs.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_cli::harness::free_ports;
use holdfast_tests::{PATIENCE, package_in, scratch, tool, try_tool};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Silence after which the watchdog of the test barks.
const WATCHDOG: Duration = Duration::from_secs(4);

struct Package {
    _dir: TempDir,
    file: PathBuf,
    /// Where it is unpacked.
    root: PathBuf,
}

/// Built once.
fn package() -> &'static Package {
    static PACKAGE: OnceLock<Package> = OnceLock::new();
    PACKAGE.get_or_init(|| {
        let dir = scratch();
        let file = package_in(dir.path());
        let root = dir.path().join("root");
        tool("dpkg-deb", ["-x".as_ref(), file.as_os_str(), root.as_os_str()]);
        Package { _dir: dir, file, root }
    })
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).permissions().mode() & 0o7777
}

#[test]
fn the_package_holds_what_it_should() {
    let Package { file, root, .. } = package();
    for (path, expected) in [
        ("usr/bin/holdfast", 0o755),
        ("etc/holdfast/holdfast.toml", 0o644),
        ("lib/systemd/system/holdfast.service", 0o644),
        ("lib/systemd/system/holdfast-vm@.service", 0o644),
        ("usr/lib/sysusers.d/holdfast.conf", 0o644),
        ("usr/lib/tmpfiles.d/holdfast.conf", 0o644),
        ("usr/share/man/man1/holdfast.1.gz", 0o644),
        ("usr/share/man/man1/holdfast-volume-create.1.gz", 0o644),
        ("usr/share/bash-completion/completions/holdfast", 0o644),
        ("usr/share/zsh/vendor-completions/_holdfast", 0o644),
        ("usr/share/fish/vendor_completions.d/holdfast.fish", 0o644),
        ("usr/share/doc/holdfast/OPERATIONS.md", 0o644),
        ("usr/share/doc/holdfast/copyright", 0o644),
        ("usr/share/doc/holdfast/examples/alerts.yml", 0o644),
        ("usr/share/doc/holdfast/examples/hooks.d/restart-qemu-unit", 0o755),
        ("usr/share/doc/holdfast/examples/hooks.d/restart-libvirt-domain", 0o755),
    ] {
        assert_eq!(mode(&root.join(path)), expected, "{path}");
    }
    let field = |name: &str| tool("dpkg-deb", ["-f".as_ref(), file.as_os_str(), name.as_ref()]).trim().to_owned();
    assert_eq!((field("Package").as_str(), field("Version").as_str()), ("holdfast", env!("CARGO_PKG_VERSION")));
    assert!(field("Depends").contains("libc6 (>= ") && !field("Depends").contains('@'), "{}", field("Depends"));
    // All files belong to root, and the configuration is the administrator's.
    let listing = tool("dpkg-deb", ["-c".as_ref(), file.as_os_str()]);
    assert!(listing.lines().all(|line| line.contains(" root/root ")), "{listing}");
    let control = scratch();
    tool("dpkg-deb", ["-e".as_ref(), file.as_os_str(), control.path().as_os_str()]);
    assert_eq!(fs::read_to_string(control.path().join("conffiles")).unwrap(), "/etc/holdfast/holdfast.toml\n");
    for script in ["postinst", "prerm", "postrm"] {
        tool("sh", ["-n".as_ref(), control.path().join(script).as_os_str()]);
    }
    // What an agent ends with that was removed from its cluster: tests/nodes.rs sees it do so.
    let unit = fs::read_to_string(root.join("lib/systemd/system/holdfast.service")).unwrap();
    for line in ["Restart=always", "RestartPreventExitStatus=4"] {
        assert!(unit.lines().any(|found| found == line), "expected {line} in\n{unit}");
    }
    let said = tool(root.join("usr/bin/holdfast").to_str().unwrap(), ["--version"]);
    assert_eq!(said.trim(), format!("holdfast {}", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_same_files_give_the_same_package() {
    let dir = scratch();
    let again = package_in(dir.path());
    assert_eq!(again.file_name(), package().file.file_name());
    assert!(fs::read(again).unwrap() == fs::read(&package().file).unwrap(), "two runs differ");
}

#[test]
fn dpkg_unpacks_it_into_a_clean_root() {
    let dir = scratch();
    let root = dir.path().join("root");
    for sub in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers", "var/log"] {
        fs::create_dir_all(root.join(sub)).unwrap();
    }
    fs::write(root.join("var/lib/dpkg/status"), "").unwrap();
    let flag = format!("--root={}", root.display());
    let args = [flag.as_str(), "--force-not-root", "--force-script-chrootless", "--log=/dev/null", "--unpack"];
    let output = try_tool("dpkg", args.into_iter().map(AsRef::as_ref).chain([package().file.as_os_str()]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let listed = tool("dpkg", [flag.as_str(), "--listfiles", "holdfast"]);
    assert!(listed.lines().any(|line| line == "/usr/bin/holdfast"), "{listed}");
    let wrong = tool("dpkg", [flag.as_str(), "--verify", "holdfast"]);
    // A configuration gets its name when the package is configured, after a look at the one that is there.
    assert_eq!(wrong, "missing   c /etc/holdfast/holdfast.toml\n", "everything else is what the package says");
    assert!(root.join("etc/holdfast/holdfast.toml.dpkg-new").is_file());
}

#[test]
fn systemd_has_nothing_against_the_units() {
    let root = &package().root;
    // What they stand on in a real system; here only names.
    let units = root.join("lib/systemd/system");
    for unit in ["network-online.target", "multi-user.target", "sysinit.target", "basic.target", "shutdown.target"] {
        fs::write(units.join(unit), "[Unit]\nDescription=for a test\n").unwrap();
    }
    let qemu = root.join("usr/bin/qemu-system-x86_64");
    fs::write(&qemu, "").unwrap();
    fs::set_permissions(&qemu, fs::Permissions::from_mode(0o755)).unwrap();
    let flag = format!("--root={}", root.display());
    let output =
        try_tool("systemd-analyze", ["verify", "--man=no", &flag, "holdfast.service", "holdfast-vm@vm1.service"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("holdfast")).collect();
    assert!(ours.is_empty(), "{ours:?}");
    // 0 is safe, 100 is not; what stays are the network, and a home of its own.
    let args = ["security", "--offline=true", "--threshold=20", &flag, "holdfast.service"];
    let output = try_tool("systemd-analyze", args);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
}

/// The agent as the unit starts it, with the supervisor's socket.
struct Agent {
    child: Child,
    supervisor: UnixDatagram,
}

impl Agent {
    /// ExecStart of the unit, below `root`.
    fn start(root: &Path, config: &Path, notify: &Path) -> Agent {
        let unit = fs::read_to_string(root.join("lib/systemd/system/holdfast.service")).unwrap();
        assert!(unit.lines().any(|line| line == "Type=notify"));
        let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
        let mut words = line.split(' ');
        let program = root.join(words.next().unwrap().trim_start_matches('/'));
        let place =
            |word: &str| if word == "/etc/holdfast/holdfast.toml" { config.into() } else { PathBuf::from(word) };
        let supervisor = UnixDatagram::bind(notify).unwrap();
        supervisor.set_read_timeout(Some(WATCHDOG)).unwrap();
        let mut command = Command::new(program);
        command.args(words.map(place)).env("NOTIFY_SOCKET", notify);
        command.env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
        let log = fs::File::create(root.join("agent.log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        // SAFETY: between fork and exec only prctl is called, which is async-signal-safe and touches no memory.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        Agent { child: command.spawn().unwrap(), supervisor }
    }

    /// What the supervisor hears next, unless it is silent for longer than the watchdog allows.
    fn hears(&self) -> Option<String> {
        let mut buffer = [0; 256];
        let len = self.supervisor.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..len]).into_owned())
    }

    fn signal(&self, signal: i32) {
        let pid = libc::pid_t::try_from(self.child.id()).unwrap();
        // SAFETY: kill touches no memory; the child was not waited for.
        unsafe { libc::kill(pid, signal) };
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_units_command_runs_and_feeds_its_watchdog() {
    let root = &package().root;
    let dir = scratch();
    let at = |name: &str| dir.path().join(name);
    let port = free_ports().unwrap();
    // The packaged file, with what it asks for, and everything below this test's directory.
    let shown = fs::read_to_string(root.join("etc/holdfast/holdfast.toml")).unwrap();
    let set = |text: String, key: &str, value: String| {
        let line = text
            .lines()
            .find(|l| l.trim_start_matches('#').starts_with(&format!("{key} = ")))
            .unwrap_or_else(|| panic!("{key}"))
            .to_owned();
        text.replacen(&line, &format!("{key} = {value:?}"), 1)
    };
    let path = |name: &str| at(name).display().to_string();
    let mut config = set(shown, "name", "n1".to_owned());
    for (key, value) in [
        ("data_dir", path("data")),
        ("peer", format!("127.0.0.1:{port}")),
        ("admin", path("admin.sock")),
        ("nbd_dir", path("nbd")),
    ] {
        config = set(config, key, value);
    }
    fs::write(at("holdfast.toml"), config).unwrap();
    let holdfast = root.join("usr/bin/holdfast");
    tool(holdfast.to_str().unwrap(), ["init".as_ref(), "--config".as_ref(), at("holdfast.toml").as_os_str()]);
    let mut agent = Agent::start(root, &at("holdfast.toml"), &at("notify"));
    let log = || fs::read_to_string(root.join("agent.log")).unwrap_or_default();
    let first = agent.hears().unwrap_or_else(|| panic!("the agent says nothing\n{}", log()));
    let mut early = vec![first];
    while !early.last().unwrap().starts_with("READY=1") {
        early.push(agent.hears().unwrap_or_else(|| panic!("{early:?}, and no READY\n{}", log())));
    }
    tool(holdfast.to_str().unwrap(), ["--socket".as_ref(), at("admin.sock").as_os_str(), "status".as_ref()]);
    for _ in 0..3 {
        let fed = agent.hears();
        assert_eq!(fed.as_deref(), Some("WATCHDOG=1"), "{}", log());
    }
    // One that stands still does not feed it.
    agent.signal(libc::SIGSTOP);
    let stopped = Instant::now();
    while agent.hears().is_some() {
        assert!(stopped.elapsed() < PATIENCE, "a process that stands still says something");
    }
    agent.signal(libc::SIGCONT);
    agent.signal(libc::SIGTERM);
    let ended = loop {
        let heard = agent.hears().unwrap_or_else(|| panic!("expected STOPPING=1\n{}", log()));
        if heard.starts_with("STOPPING=1") {
            break agent.child.wait().unwrap();
        }
    };
    assert!(ended.success(), "{ended}\n{}", log());
}
