//! `scripts/rack-bench` against three hosts with an sshd of their own: that the table is whole, that what is wrong is said, and that nothing
//! is left on the hosts, however it ends.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_tests::netns::Lan;
use holdfast_tests::{PATIENCE, binary, built, scratch, tool, try_tool};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
const PORT: u16 = 7460;
/// In which a process that was killed is gone.
const MOMENT: Duration = Duration::from_secs(10);
/// How long a host takes to notice by itself that nobody is there any more.
const SILENCE: Duration = Duration::from_secs(30);

/// Hosts `h1` to `h3`, and a fourth one to measure them from.
struct Rack {
    lan: Lan,
    sshds: Vec<Child>,
    dir: TempDir,
    _turn: MutexGuard<'static, ()>,
}

/// The programs without what only debuggers read: they are copied to each host each time.
fn binaries() -> &'static Path {
    static MADE: OnceLock<()> = OnceLock::new();
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    MADE.get_or_init(|| {
        for program in [binary().to_path_buf(), built("rack")] {
            let to = dir.join(program.file_name().unwrap());
            tool("strip", ["--strip-debug".as_ref(), "-o".as_ref(), to.as_os_str(), program.as_os_str()]);
        }
    });
    dir
}

impl Rack {
    fn new() -> Rack {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let (lan, dir) = (Lan::new(4), scratch());
        let at = |name: &str| dir.path().join(name);
        for key in ["host_key", "user_key"] {
            tool("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", at(key).to_str().unwrap()]);
        }
        fs::create_dir(at("data")).unwrap();
        let path = |name: &str| at(name).display().to_string();
        let mut config = format!(
            "IdentityFile {}\nIdentitiesOnly yes\nUserKnownHostsFile {}\nGlobalKnownHostsFile /dev/null\n\
             StrictHostKeyChecking accept-new\nLogLevel ERROR\n",
            path("user_key"),
            path("known_hosts")
        );
        let mut rack = Rack { lan, sshds: Vec::new(), dir, _turn: turn };
        for (name, host) in ["h1", "h2", "h3"].into_iter().zip(rack.lan.hosts().to_vec()) {
            config += &format!("Host {name}\n  HostName {}\n  User root\n", host.address);
            let sshd = rack.dir.path().join(format!("sshd-{name}"));
            let keys = [rack.dir.path().join("host_key"), rack.dir.path().join("user_key.pub")];
            let text = format!(
                "ListenAddress {}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\nStrictModes no\n\
                 PasswordAuthentication no\nPermitRootLogin yes\nUseDNS no\nMaxStartups 100\n",
                host.address,
                keys[0].display(),
                keys[1].display()
            );
            fs::write(&sshd, text).unwrap();
            // Its directory below /run is seen by this sshd alone: a namespace's mounts are its own.
            let script = format!(
                "mount -t tmpfs run /run && mkdir -m 755 /run/sshd && exec /usr/sbin/sshd -D -e -f {}",
                sshd.display()
            );
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL", "ip", "netns", "exec", &host.namespace, "sh", "-c", &script]);
            rack.sshds.push(
                command
                    .stdin(Stdio::null())
                    .stderr(fs::File::create(sshd.with_extension("log")).unwrap())
                    .spawn()
                    .unwrap(),
            );
        }
        fs::write(rack.dir.path().join("ssh_config"), config).unwrap();
        rack.wait_for_sshds();
        rack
    }

    fn wait_for_sshds(&self) {
        for (at, host) in self.lan.hosts()[..3].iter().enumerate() {
            within(PATIENCE, || {
                let listening = tool("ip", ["netns", "exec", &host.namespace, "ss", "-Hltn"]);
                let log = self.dir.path().join(format!("sshd-h{}.log", at + 1));
                if listening.contains(":22 ") {
                    None
                } else {
                    Some(format!("no sshd: {}", fs::read_to_string(log).unwrap()))
                }
            });
        }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn report(&self) -> PathBuf {
        self.dir.path().join("report.md")
    }

    fn start(&self, hosts: &[&str]) -> Run {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/rack-bench");
        let ssh = format!(
            "ssh -F {} -o ConnectTimeout=3 -o ServerAliveInterval=1 -o ServerAliveCountMax=3",
            self.dir.path().join("ssh_config").display()
        );
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "ip", "netns", "exec", &self.lan.hosts()[3].namespace]).arg(script);
        command.args(["--rounds", "1", "--seconds", "1", "--port", &PORT.to_string()]);
        command.arg("--dir").arg(self.data()).arg("--out").arg(self.report()).args(hosts);
        command
            .env("HOLDFAST_RACK_BINARIES", binaries())
            .env("HOLDFAST_RACK_SSH", ssh)
            .env("HOLDFAST_RACK_REHEARSAL", "1");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Run { child, stderr, said: String::new() }
    }

    /// Processes whose command line has the directory and all of these words.
    fn processes(&self, words: &[&str]) -> Vec<(u32, String)> {
        let data = self.data().display().to_string();
        let all = fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
        let line =
            |pid: u32| fs::read(format!("/proc/{pid}/cmdline")).map(|l| String::from_utf8_lossy(&l).replace('\0', " "));
        let lines = all.filter_map(|pid: u32| Some((pid, line(pid).ok()?)));
        lines.filter(|(_, line)| line.contains(&data) && words.iter().all(|word| line.contains(word))).collect()
    }

    fn kill_one(&self, words: &[&str]) {
        let found = self.processes(words);
        assert_eq!(found.len(), 1, "{words:?} in {found:?}");
        tool("kill", ["-9", &found[0].0.to_string()]);
    }

    /// Waits until no process, directory or port of ours is left on a host.
    fn nothing_is_left(&self, limit: Duration) {
        within(limit, || {
            let files: Vec<_> = fs::read_dir(self.data()).unwrap().flatten().map(|e| e.path()).collect();
            let processes = self.processes(&[]);
            let ports: String =
                self.lan.hosts().iter().map(|h| tool("ip", ["netns", "exec", &h.namespace, "ss", "-Hanu"])).collect();
            if files.is_empty() && processes.is_empty() && ports.is_empty() {
                return None;
            }
            Some(format!("{files:?}\n{processes:?}\n{ports}"))
        });
    }
}

impl Drop for Rack {
    fn drop(&mut self) {
        for sshd in &mut self.sshds {
            // Both fail only if it has ended.
            let _ = sshd.kill();
            let _ = sshd.wait();
        }
    }
}

/// `found` says what is wrong, and at last nothing.
fn within(limit: Duration, mut found: impl FnMut() -> Option<String>) {
    let began = Instant::now();
    while let Some(wrong) = found() {
        assert!(began.elapsed() < limit, "after {limit:?}: {wrong}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The script while it runs.
struct Run {
    child: Child,
    stderr: BufReader<std::process::ChildStderr>,
    said: String,
}

impl Run {
    /// Reads what it says until this comes.
    fn until(&mut self, text: &str) {
        while !self.said.contains(text) {
            let read = self.stderr.read_line(&mut self.said).unwrap();
            assert!(read > 0, "expected {text:?} in\n{}", self.said);
        }
    }

    /// Its table, if it had one, and all that it said.
    fn end(mut self) -> (bool, String, String) {
        self.stderr.read_to_string(&mut self.said).unwrap();
        let mut table = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut table).unwrap();
        (self.child.wait().unwrap().success(), table, self.said)
    }

    fn fails_with(self, sentences: &[&str]) -> String {
        let (success, _, said) = self.end();
        assert!(!success, "{said}");
        for sentence in sentences {
            assert!(said.contains(sentence), "expected {sentence:?} in\n{said}");
        }
        said
    }
}

const LEAVES_NOTHING: &str = "nothing is left on the hosts";

#[test]
fn the_table_is_whole_and_nothing_is_left() {
    let rack = Rack::new();
    let (success, table, said) = rack.start(&["h1", "root@h2", "h3=10.0.0.3"]).end();
    assert!(success, "{said}");
    assert_eq!(
        fs::read_to_string(rack.report()).unwrap(),
        table.split_once("# ").map(|(_, t)| format!("# {t}")).unwrap()
    );
    // The rows are those that this repository's own measurements have.
    let known = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/PERFORMANCE.md")).unwrap();
    let head = "| workload | figure | measured | must | moonshot |\n";
    let rows = |text: &str| -> Vec<String> {
        let table = text.split(head).nth(1).unwrap_or_else(|| panic!("no table in {text}"));
        let rows = table.lines().skip(1).take_while(|line| line.starts_with('|'));
        rows.map(|line| line.splitn(4, '|').take(3).collect::<Vec<_>>().join("|")).collect()
    };
    assert_eq!(rows(&table), rows(&known));
    for line in [
        "A rehearsal",
        "| h1 (n1) | 10.0.0.1 |",
        "| root@h2 (n2) | 10.0.0.2 |",
        "| h1 – root@h2 | ",
        "| root@h2 – h3 | ",
    ] {
        assert!(table.contains(line), "expected {line:?} in\n{table}");
    }
    // Each agent took every record, and spent something on it.
    let agents = table.split("| agent of |").nth(1).unwrap();
    for host in ["| h1 (n1) |", "| root@h2 (n2) |", "| h3 (n3) |"] {
        let row = agents.lines().find(|line| line.starts_with(host)).unwrap_or_else(|| panic!("{host} in {agents}"));
        let figures: Vec<f64> = row.split('|').skip(2).filter_map(|figure| figure.trim().parse().ok()).collect();
        assert!(figures.len() == 3 && figures[0] > 0.0 && figures[1] > 1.0, "{row}");
    }
    assert!(rack.report().with_extension("json").exists());
    rack.nothing_is_left(MOMENT);
}

#[test]
fn a_blocked_port_is_told_with_its_direction() {
    let rack = Rack::new();
    let namespace = &rack.lan.hosts()[1].namespace;
    let rule =
        "table inet cut { chain from { type filter hook input priority 0; ip saddr 10.0.0.1 udp dport 7461 drop; }; }";
    tool("ip", ["netns", "exec", namespace, "nft", rule]);
    let said = rack
        .start(&["h1", "h2", "h3"])
        .fails_with(&["UDP port 7461 is blocked from h1 (10.0.0.1) to h2 (10.0.0.2)", LEAVES_NOTHING]);
    assert_eq!(said.matches("is blocked").count(), 1, "{said}");
    rack.nothing_is_left(MOMENT);
}

#[test]
fn hosts_that_will_not_do_are_refused_before_anything_is_changed() {
    let rack = Rack::new();
    rack.start(&["h1", "h2"]).fails_with(&["expected three hosts or more, found 2"]);
    rack.start(&["h1", "h2", "h2"]).fails_with(&["expected 3 different hosts or more"]);
    rack.start(&["h1=127.0.0.1", "h2", "h3=127.0.0.1"]).fails_with(&["found h1 and h3 at 127.0.0.1"]);
    rack.lan.cable(2, false);
    let said = rack.start(&["h1", "h2", "h3"]).fails_with(&["h3: expected to reach it by ssh without a password"]);
    assert!(!said.contains("removing"), "there is nothing to remove\n{said}");
    rack.nothing_is_left(MOMENT);
}

#[test]
fn whatever_ends_early_is_told_and_leaves_nothing() {
    let rack = Rack::new();
    let start = || {
        let mut run = rack.start(&["h1", "h2", "h3"]);
        run.until("measuring on h1");
        run
    };
    let run = start();
    rack.kill_one(&["holdfast agent ", "-n3/"]);
    run.fails_with(&["h3: its agent ended by signal 9", LEAVES_NOTHING]);
    rack.nothing_is_left(MOMENT);

    let run = start();
    tool("kill", ["-INT", &run.child.id().to_string()]);
    run.fails_with(&["interrupted", LEAVES_NOTHING]);
    rack.nothing_is_left(MOMENT);

    // Nobody is there to clean up: the hosts do it themselves.
    let mut run = start();
    run.child.kill().unwrap();
    run.child.wait().unwrap();
    rack.nothing_is_left(2 * MOMENT);
}

#[test]
fn a_host_that_is_cut_off_is_told_and_cleans_up_by_itself() {
    let rack = Rack::new();
    let mut run = rack.start(&["h1", "h2", "h3"]);
    run.until("measuring on h1");
    rack.lan.cable(2, false);
    let said =
        run.fails_with(&["h3: the ssh connection was lost", "could not see to it that ", "-n3 on h3 is removed"]);
    assert!(!said.contains(LEAVES_NOTHING), "{said}");
    let left = try_tool("ls", [rack.data()]);
    assert!(!String::from_utf8_lossy(&left.stdout).contains("-n1"), "the others are clean");
    rack.nothing_is_left(SILENCE + Duration::from_secs(15));
}
