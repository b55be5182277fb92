//! What the tests of whole clusters share: the binary, clusters that show their logs when a test fails, tools of others.
//!
//! The tests run real processes on loopback; one cluster at a time in each test binary, because timers and pauses are
//! measured.

mod blocks;
pub mod browser;
pub mod guest;
pub mod machine;
pub mod manual;
pub mod netns;
pub mod prometheus;
pub mod scrape;
pub mod terminal;

pub use blocks::Blocks;

use holdfast_agent::admin::pb;
use holdfast_cli::harness::{Build, Cluster, ClusterOptions};
use holdfast_cli::workload::{Progress, Workload};
use std::ffi::OsStr;
use std::fs;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tempfile::TempDir;

/// No wait of a test is longer.
pub const PATIENCE: Duration = Duration::from_secs(120);

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A cluster in a directory of its own. If the test panics, the ends of the agents' logs are printed and the directory
/// stays.
pub struct TestCluster {
    cluster: Option<Cluster>,
    dir: Option<TempDir>,
    _turn: MutexGuard<'static, ()>,
}

impl TestCluster {
    /// Three nodes, all up.
    ///
    /// # Panics
    /// They did not come up.
    pub async fn start() -> TestCluster {
        TestCluster::start_with("").await
    }

    /// The same, with more TOML in each configuration.
    ///
    /// # Panics
    /// They did not come up.
    pub async fn start_with(extra: &str) -> TestCluster {
        TestCluster::start_of(3, extra).await
    }

    /// So many nodes.
    ///
    /// # Panics
    /// They did not come up.
    pub async fn start_of(nodes: usize, extra: &str) -> TestCluster {
        TestCluster::start_as(nodes, extra, false, |_| ()).await.0
    }

    /// Two nodes that hold copies, `n1` and `n2`, and a witness.
    ///
    /// # Panics
    /// They did not come up.
    pub async fn start_pair(extra: &str) -> TestCluster {
        let set = |options: &mut ClusterOptions| {
            extra.clone_into(&mut options.extra);
            options.witness = true;
        };
        TestCluster::start_with_options(3, set, |_| ()).await.0
    }

    /// Three nodes that serve their metrics.
    ///
    /// # Panics
    /// They did not come up.
    pub async fn start_observed(extra: &str) -> TestCluster {
        TestCluster::start_as(3, extra, true, |_| ()).await.0
    }

    /// Three nodes on devices that `prepare` makes below the cluster's directory: node `n1` keeps its data in `n1/data`.
    /// What it returns is to be dropped before the cluster if it is mounted there.
    ///
    /// # Panics
    /// They did not come up.
    pub async fn start_on<D>(extra: &str, prepare: impl FnOnce(&Path) -> D) -> (TestCluster, D) {
        TestCluster::start_as(3, extra, false, prepare).await
    }

    /// The same, with metrics.
    ///
    /// # Panics
    /// They did not come up.
    pub async fn start_observed_on<D>(extra: &str, prepare: impl FnOnce(&Path) -> D) -> (TestCluster, D) {
        TestCluster::start_as(3, extra, true, prepare).await
    }

    /// A node on each host of a network, which is to be dropped after the cluster.
    ///
    /// # Panics
    /// They did not come up.
    pub async fn start_in(lan: &netns::Lan) -> TestCluster {
        TestCluster::start_in_with(lan, "").await
    }

    /// The same, with more TOML in each configuration, from its `[listen]` on.
    ///
    /// # Panics
    /// They did not come up.
    pub async fn start_in_with(lan: &netns::Lan, extra: &str) -> TestCluster {
        let hosts = lan.hosts();
        let set = |options: &mut ClusterOptions| {
            options.hosts = hosts.to_vec();
            extra.clone_into(&mut options.extra);
        };
        TestCluster::start_with_options(hosts.len(), set, |_| ()).await.0
    }

    /// A node for each of these builds.
    ///
    /// # Panics
    /// They did not come up.
    pub async fn start_builds(builds: &[Build], extra: &str) -> TestCluster {
        let set = |options: &mut ClusterOptions| {
            builds.clone_into(&mut options.builds);
            extra.clone_into(&mut options.extra);
        };
        TestCluster::start_with_options(builds.len(), set, |_| ()).await.0
    }

    async fn start_as<D>(
        nodes: usize,
        extra: &str,
        metrics: bool,
        prepare: impl FnOnce(&Path) -> D,
    ) -> (TestCluster, D) {
        let set = |options: &mut ClusterOptions| {
            extra.clone_into(&mut options.extra);
            options.metrics = metrics;
        };
        TestCluster::start_with_options(nodes, set, prepare).await
    }

    async fn start_with_options<D>(
        nodes: usize,
        set: impl FnOnce(&mut ClusterOptions),
        prepare: impl FnOnce(&Path) -> D,
    ) -> (TestCluster, D) {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = scratch();
        let device = prepare(dir.path());
        let mut options = ClusterOptions::new(binary().to_path_buf(), dir.path().to_path_buf());
        set(&mut options);
        options.nodes = nodes;
        let mut test = TestCluster { cluster: None, dir: Some(dir), _turn: turn };
        match Cluster::start(options).await {
            Ok(cluster) => test.cluster = Some(cluster),
            Err(e) => panic!("{e}\n{}", e.tails()),
        }
        (test, device)
    }

    /// Creates a volume with three copies and waits until it is healthy.
    ///
    /// # Panics
    /// It was refused, or did not become healthy.
    pub async fn volume(&self, name: &str, size_bytes: u64) -> pb::Volume {
        let request = pb::VolumeCreateRequest { name: name.to_owned(), size_bytes, ..Default::default() };
        self.create_volume(request, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"))
    }

    /// The primary of a volume that is healthy, by number.
    ///
    /// # Panics
    /// It did not become healthy.
    pub async fn primary(&self, name: &str) -> usize {
        let volume = self.wait_healthy(name, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
        self.index_of(&volume.primary).unwrap_or_else(|| panic!("the primary {:?} is a node", volume.primary))
    }

    /// The binary with these arguments, at a node's admin socket, ended after 90 seconds.
    #[must_use]
    pub fn command(&self, node: usize, args: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.arg("90").arg(binary()).arg("--socket").arg(self.nodes()[node].admin()).args(["--timeout", "60s"]);
        command.args(args).stdin(Stdio::null());
        command
    }

    /// Runs [`TestCluster::command`] to its end, beside everything else.
    ///
    /// # Panics
    /// It could not be run.
    pub async fn run(&self, node: usize, args: &[&str]) -> Output {
        let mut command = self.command(node, args);
        tokio::task::spawn_blocking(move || command.output()).await.expect("the task ends").expect("timeout is there")
    }

    /// Runs `holdfast` with these arguments against a node's admin socket, its answer in JSON.
    ///
    /// # Panics
    /// It could not be run.
    #[must_use]
    pub fn ask(&self, node: usize, args: &[&str]) -> Output {
        let socket = self.nodes()[node].admin().display().to_string();
        let mut command = Command::new(binary());
        command.args(args).args(["--socket", &socket, "--output", "json"]).output().expect("the binary can be run")
    }

    /// What the binary says on one node, to stdout and then to stderr.
    ///
    /// # Panics
    /// It fails.
    pub async fn succeeds(&self, node: usize, args: &[&str]) -> String {
        let output = self.run(node, args).await;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{args:?}\nstdout: {out}\nstderr: {err}");
        format!("{out}{err}")
    }

    /// On the first node the binary ends with this status, and says why.
    ///
    /// # Panics
    /// It does something else.
    pub async fn fails(&self, args: &[&str], status: i32, why: &str) {
        let output = self.run(0, args).await;
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{args:?}: {err}");
        assert!(err.contains(why), "{args:?}: expected {why:?} in {err}");
    }

    /// Makes a volume on these nodes, and waits until it serves.
    ///
    /// # Panics
    /// It does not come to that.
    pub async fn volume_on(&self, name: &str, size_bytes: u64, on: &[&str], primary: &str) -> pb::Volume {
        let request = pb::VolumeCreateRequest {
            name: name.to_owned(),
            size_bytes,
            on: on.iter().map(|n| (*n).to_owned()).collect(),
            primary: primary.to_owned(),
            ..Default::default()
        };
        self.create_volume(request, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"))
    }

    /// Waits for so many more acknowledged writes.
    ///
    /// # Panics
    /// They do not come in time.
    pub async fn acknowledges(&self, workload: &Workload, more: u64) {
        let before = workload.progress().acknowledged;
        let what = format!("{more} more writes to be acknowledged");
        let done = self.wait_for(&what, PATIENCE, async |_| {
            let now = workload.progress();
            if now.acknowledged >= before + more { Ok(()) } else { Err(format!("{} since {before}", now.acknowledged)) }
        });
        done.await.unwrap_or_else(|e| panic!("{e}"));
    }

    /// The volumes that the cluster knows.
    ///
    /// # Panics
    /// It gave no answer.
    pub async fn volume_names(&self) -> Vec<String> {
        let status = self.status(0).await.unwrap_or_else(|e| panic!("{e}"));
        status.volumes.into_iter().map(|volume| volume.name).collect()
    }

    /// `nbd+unix:///…` of a volume on one node.
    #[must_use]
    pub fn uri(&self, node: usize, volume: &str) -> String {
        format!("nbd+unix:///{volume}?socket={}", self.nodes()[node].socket(volume).display())
    }
}

impl Deref for TestCluster {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        self.cluster.as_ref().expect("a test cluster runs until it is dropped")
    }
}

impl DerefMut for TestCluster {
    fn deref_mut(&mut self) -> &mut Cluster {
        self.cluster.as_mut().expect("a test cluster runs until it is dropped")
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        if let Some(cluster) = &self.cluster {
            eprintln!("{}", cluster.log_tails());
        }
        if let Some(dir) = self.dir.take() {
            eprintln!("kept {}", dir.keep().display());
        }
    }
}

/// A short directory of its own: the paths of Unix sockets are short.
///
/// # Panics
/// It could not be made.
#[must_use]
pub fn scratch() -> TempDir {
    tempfile::Builder::new().prefix("hf-").tempdir().expect("the temporary directory is writable")
}

/// The `holdfast` binary beside this test's executable, built if it is missing or older than its sources.
///
/// # Panics
/// It could not be built.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| built("holdfast"))
}

/// The same of another program of the workspace.
///
/// # Panics
/// It could not be built.
#[must_use]
pub fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    let profile_dir = test.ancestors().nth(2).expect("tests lie in target/PROFILE/deps");
    let binary = profile_dir.join(name);
    if is_stale(&binary, &manifests(&workspace())) {
        build(profile_dir, name);
    }
    assert!(binary.exists(), "expected cargo to build {}, found nothing there", binary.display());
    binary
}

/// As part of the workspace, and with what its tests need: with fewer features all that it is made of would be built once more, which takes
/// minutes, in the middle of whichever test comes first.
fn build(profile_dir: &Path, name: &str) {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(workspace());
    cargo.args(["build", "--quiet", "--workspace", "--bin", name, "--test", "workload"]);
    cargo.arg("--target-dir").arg(profile_dir.parent().expect("a profile's directory lies in the target directory"));
    if profile_dir.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.status().expect("cargo can be run");
    assert!(status.success(), "expected `cargo build --workspace --bin {name}` to succeed, see above");
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What says how it is built, and of what that others wrote: cargo lists only sources beside it. Those of its crates, not of tests.
fn manifests(workspace: &Path) -> Vec<PathBuf> {
    let crates = fs::read_dir(workspace.join("crates")).into_iter().flatten().flatten();
    let of_crates = crates.map(|entry| entry.path().join("Cargo.toml")).filter(|path| path.exists());
    of_crates.chain(["Cargo.toml", "Cargo.lock"].map(|name| workspace.join(name))).collect()
}

/// Whether a file that it is made of, as cargo lists them beside it, or a manifest is newer or gone. What else lies in the repository does not
/// matter: a test that was edited makes no other binary.
fn is_stale(binary: &Path, manifests: &[PathBuf]) -> bool {
    let modified = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified());
    let Ok(built) = modified(binary) else { return true };
    let Ok(list) = fs::read_to_string(binary.with_extension("d")) else { return true };
    let sources = sources(&list);
    sources.is_empty() || sources.iter().chain(manifests).any(|file| modified(file).map_or(true, |at| at > built))
}

/// `binary: source source…`, where a blank within a path has a backslash before it.
fn sources(list: &str) -> Vec<PathBuf> {
    let Some((_, sources)) = list.trim_end().split_once(": ") else { return Vec::new() };
    let whole = sources.replace("\\ ", "\0");
    whole.split(' ').map(|path| PathBuf::from(path.replace('\0', " "))).collect()
}

#[test]
fn a_binary_is_stale_once_one_of_its_sources_is_newer() {
    let dir = scratch();
    let at = |name: &str| dir.path().join(name);
    let (binary, source, other) = (at("holdfast"), at("a b.rs"), at("c.rs"));
    let set = |path: &Path, seconds: u64| {
        let file = fs::File::create(path).expect("a file of our own");
        file.set_modified(std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).expect("a file of our own");
    };
    [(&binary, 20), (&source, 10), (&other, 30)].into_iter().for_each(|(path, seconds)| set(path, seconds));
    let is_stale = |binary: &Path| is_stale(binary, &manifests(dir.path()));
    fs::create_dir_all(at("crates/one")).expect("a directory of our own");
    let manifests = ["Cargo.toml", "Cargo.lock", "crates/one/Cargo.toml"];
    manifests.into_iter().for_each(|name| set(&at(name), 10));
    assert!(is_stale(&binary), "nobody knows what it is made of");
    let list = |paths: &str| fs::write(at("holdfast.d"), paths).expect("a file of our own");
    let escaped = source.display().to_string().replace(' ', "\\ ");
    list(&format!("{}: {escaped}\n", binary.display()));
    assert!(!is_stale(&binary), "c.rs is none of it");
    for name in manifests {
        set(&at(name), 30);
        assert!(is_stale(&binary), "{name} says how it is built");
        set(&at(name), 10);
    }
    assert!(!is_stale(&binary));
    list(&format!("{}: {escaped} {}\n", binary.display(), other.display()));
    assert!(is_stale(&binary));
    list(&format!("{}: {}\n", binary.display(), at("gone.rs").display()));
    assert!(is_stale(&binary));
}

/// Runs a tool of others to its end.
///
/// # Panics
/// It is not installed.
#[must_use]
pub fn try_tool<S: AsRef<OsStr>>(name: &str, args: impl IntoIterator<Item = S>) -> Output {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/local/sbin:/usr/sbin:/sbin";
    let output = Command::new(name).args(args).env("PATH", path).output();
    output.unwrap_or_else(|e| panic!("expected the tool {name}, found: {e}; run scripts/setup"))
}

/// Ends a load that must have gone well: nothing acknowledged was lost, nothing read was wrong, and it came to its end.
///
/// # Panics
/// It did not.
pub async fn finish(workload: Workload) -> Progress {
    let progress = workload.finish(PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    assert!(progress.violations.is_empty() && progress.failure.is_none(), "{progress:#?}");
    progress
}

/// Runs a tool of others that must succeed, and returns what it printed.
///
/// # Panics
/// It is not installed, or it failed.
pub fn tool<S: AsRef<OsStr>>(name: &str, args: impl IntoIterator<Item = S>) -> String {
    let output = try_tool(name, args);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name} failed with {}:\n{out}{err}", output.status);
    out.into_owned()
}

/// The Debian package of the binary under test, made in this directory.
///
/// # Panics
/// It can't be made.
#[must_use]
pub fn package_in(dir: &Path) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/package");
    let args = ["--binary".as_ref(), binary().as_os_str(), "--out".as_ref(), dir.as_os_str()];
    tool(script.to_str().expect("the repository's path is text"), args);
    let files = fs::read_dir(dir).expect("scripts/package made it").flatten().map(|entry| entry.path());
    let package = files.into_iter().find(|path| path.extension() == Some("deb".as_ref()));
    package.expect("scripts/package leaves a package")
}

/// Where a node's control plane listens, by its configuration. Its shard is one port above.
///
/// # Panics
/// The file can't be read, or does not say.
#[must_use]
pub fn peer_address(config: &Path) -> SocketAddr {
    let text = fs::read_to_string(config).unwrap_or_else(|e| panic!("{}: {e}", config.display()));
    let line = text.lines().find_map(|line| line.strip_prefix("peer = \"")).expect("every node listens");
    line.trim_end_matches('"').parse().expect("an address")
}

/// The number of a group of this host.
///
/// # Panics
/// There is none of this name.
#[must_use]
pub fn group(name: &str) -> String {
    let output = try_tool("getent", ["group", name]);
    let line = String::from_utf8_lossy(&output.stdout).into_owned();
    line.split(':').nth(2).unwrap_or_else(|| panic!("expected the group {name}, found {line:?}")).to_owned()
}

/// A whole number from the environment.
///
/// # Panics
/// It is set and no number.
#[must_use]
pub fn number_from_env(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("expected {name} as a whole number, found {text:?}")),
        Err(_) => default,
    }
}
