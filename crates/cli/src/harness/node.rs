//! One agent process, its files, and its signals.

use super::{ClusterOptions, HarnessError, Host};
use std::fs::{self, OpenOptions};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// Longest path of a Unix socket, in bytes.
const MAX_SOCKET_PATH: usize = 107;
/// Lines of a log that are shown when something goes wrong.
const TAIL: usize = 15;

/// What a node runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// The `holdfast` binary.
    pub binary: PathBuf,
    /// Set in the environment of each of its processes.
    pub env: Vec<(String, String)>,
}

/// A node of the cluster.
#[derive(Debug)]
pub struct Node {
    name: String,
    dir: PathBuf,
    config: PathBuf,
    admin: PathBuf,
    log: PathBuf,
    host: Option<Host>,
    metrics: Option<SocketAddr>,
    build: Build,
    child: Option<Child>,
}

impl Node {
    /// Makes the directories and the configuration of node number `at`.
    pub(super) fn prepare(options: &ClusterOptions, at: usize) -> Result<Node, HarnessError> {
        let port = free_ports().map_err(|e| io_error("find two free UDP ports", e))?;
        let host = options.hosts.get(at - 1);
        let address = host.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |host| host.address);
        Node::prepare_as(options, at, format!("n{at}"), SocketAddr::new(address, port))
    }

    /// The same, with this name, and where the others find it.
    pub(super) fn prepare_as(
        options: &ClusterOptions,
        at: usize,
        name: String,
        peer: SocketAddr,
    ) -> Result<Node, HarnessError> {
        let dir = options.dir.join(&name);
        let node = Node {
            config: dir.join("config.toml"),
            admin: dir.join("admin.sock"),
            log: dir.join("log"),
            host: options.hosts.get(at - 1).cloned(),
            metrics: options.metrics.then(free_tcp).transpose().map_err(|e| io_error("find a free TCP port", e))?,
            build: options
                .builds
                .get(at - 1)
                .cloned()
                .unwrap_or_else(|| Build { binary: options.binary.clone(), env: Vec::new() }),
            child: None,
            name,
            dir,
        };
        let nbd_dir = node.nbd_dir();
        let path = node.socket(&"v".repeat(16));
        if path.as_os_str().len() > MAX_SOCKET_PATH {
            return Err(HarnessError::Path { path });
        }
        fs::create_dir_all(&nbd_dir).map_err(|e| io_error(format!("create {}", nbd_dir.display()), e))?;
        let text = node.config_text(peer, options.witness && at == options.nodes, &options.extra);
        fs::write(&node.config, text).map_err(|e| io_error(format!("write {}", node.config.display()), e))?;
        Ok(node)
    }

    fn config_text(&self, peer: SocketAddr, witness: bool, extra: &str) -> String {
        let path = |path: &Path| toml_string(&path.display().to_string());
        let metrics = self.metrics.map_or_else(String::new, |address| format!("metrics = \"{address}\"\n"));
        format!(
            "[node]\nname = {}\ndata_dir = {}\nwitness = {witness}\n\n[listen]\npeer = \"{peer}\"\nadmin = {}\nnbd_dir = {}\n{metrics}\n{extra}\n",
            toml_string(&self.name),
            path(&self.data_dir()),
            path(&self.admin),
            path(&self.nbd_dir()),
        )
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its configuration file.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Its admin socket.
    #[must_use]
    pub fn admin(&self) -> &Path {
        &self.admin
    }

    /// Its data.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Where it serves its metrics, if it does.
    #[must_use]
    pub fn metrics(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// Where a volume is attached on this node.
    #[must_use]
    pub fn socket(&self, volume: &str) -> PathBuf {
        self.nbd_dir().join(format!("{volume}.sock"))
    }

    fn nbd_dir(&self) -> PathBuf {
        self.dir.join("nbd")
    }

    /// The agent's process, while there is one.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// It was launched and not killed.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// How the agent ended, if it did so without having been killed by us.
    #[must_use]
    pub fn ended(&self) -> Option<String> {
        let pid = self.pid()?;
        // SAFETY: siginfo_t is plain data, for which all zeroes is valid; waitid fills it.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        // SAFETY: `info` is valid for writes; WNOWAIT leaves the child to be waited for by its owner.
        let result = unsafe { libc::waitid(libc::P_PID, pid, &raw mut info, flags) };
        // SAFETY: waitid filled the fields of SIGCHLD, or left zeroes.
        let (ended, status) = unsafe { (info.si_pid() != 0, info.si_status()) };
        if result != 0 || !ended {
            return None;
        }
        Some(if info.si_code == libc::CLD_EXITED {
            format!("with status {status}")
        } else {
            format!("by signal {status}")
        })
    }

    pub(super) fn install(&mut self, build: Build) {
        self.build = build;
    }

    /// What this node runs, to be run where it is.
    pub(super) fn command(&self) -> Command {
        let mut command = self.command_of(&self.build.binary);
        command.envs(self.build.env.iter().map(|(name, value)| (name, value)));
        command
    }

    fn command_of(&self, binary: &Path) -> Command {
        let Some(host) = &self.host else { return Command::new(binary) };
        // It replaces itself by the program: the process that is started is the agent.
        let mut command = Command::new("ip");
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
        command.env("PATH", path).args(["netns", "exec", &host.namespace]).arg(binary);
        command
    }

    pub(super) fn launch(&mut self) -> Result<(), HarnessError> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.map_err(|e| io_error(format!("open {}", self.log.display()), e))?;
        let twin = log.try_clone().map_err(|e| io_error("share a log", e))?;
        let mut command = self.command();
        command.arg("agent").arg("--config").arg(&self.config);
        // A log file is no terminal, whatever the agent takes it for.
        command.stdin(Stdio::null()).stdout(log).stderr(twin).env("NO_COLOR", "1");
        // SAFETY: between fork and exec only the async-signal-safe prctl is called, and no memory is touched.
        unsafe { command.pre_exec(die_with_parent) };
        let child = command.spawn().map_err(|e| io_error(format!("start {}", self.build.binary.display()), e))?;
        self.child = Some(child);
        Ok(())
    }

    pub(super) fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // Both fail only for a process that has ended already, which is what is wanted.
        let _ = child.kill();
        let _ = child.wait();
    }

    /// How it ended, if it has; it can be launched again then.
    pub(super) fn reap(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        Some(status)
    }

    pub(super) fn signal(&self, signal: i32) {
        let Some(pid) = self.pid().and_then(|pid| libc::pid_t::try_from(pid).ok()) else { return };
        // SAFETY: kill touches no memory; the child was not waited for, so the pid is still its own.
        unsafe { libc::kill(pid, signal) };
    }

    pub(super) fn log_tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        // The frames of a backtrace would push the panic itself out of the tail.
        let lines: Vec<&str> = text.lines().filter(|line| !is_frame(line)).collect();
        let tail = &lines[lines.len().saturating_sub(TAIL)..];
        let body: String = tail.iter().map(|line| format!("  {line}\n")).collect();
        format!("--- the last lines of {} ---\n{body}", self.log.display())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// `  12: function` or `      at file:line`.
fn is_frame(line: &str) -> bool {
    let text = line.trim_start();
    let number = text.trim_start_matches(|c: char| c.is_ascii_digit());
    text.len() < line.len() && (text.starts_with("at ") || (number.len() < text.len() && number.starts_with(": ")))
}

/// The kernel kills the agent if the thread that started it ends: no agent is left behind, whatever happens to us.
fn die_with_parent() -> io::Result<()> {
    // SAFETY: PR_SET_PDEATHSIG takes a signal number and touches no memory.
    let result = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The first of two neighbouring UDP ports of the loopback that nobody uses now: one for the control plane, the next for the shard.
///
/// # Errors
/// The system gives none away, or none that has a free neighbour.
pub fn free_ports() -> io::Result<u16> {
    let mut last = io::Error::other("no attempt was made");
    for _ in 0..100 {
        let first = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = first.local_addr()?.port();
        let Some(next) = port.checked_add(1) else { continue };
        match UdpSocket::bind((Ipv4Addr::LOCALHOST, next)) {
            Ok(_) => return Ok(port),
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// A TCP port of the loopback that nobody uses now.
fn free_tcp() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

fn toml_string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn io_error(what: impl Into<String>, source: io::Error) -> HarnessError {
    HarnessError::Io { what: what.into(), source }
}
