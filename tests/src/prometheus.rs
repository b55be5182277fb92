//! A real Prometheus, Debian's, with the rules of `ops/alerts.yml`.

use crate::{scrape, try_tool};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// How long a condition must last before an alert of [`Rules::AtOnce`] fires: two looks.
const AT_ONCE: &str = "2s";

/// A file of `ops`.
#[must_use]
pub fn ops(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../ops").join(file)
}

/// How long a condition must last before somebody is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// As the rules say.
    AsShipped,
    /// Two seconds, for each rule that waits: expressions are as they are. How long they wait is for the rules' own tests.
    AtOnce,
}

/// How it is set up.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// Which rules.
    pub rules: Rules,
    /// It looks every so many seconds, and waits as long for an answer.
    pub seconds: u32,
    /// The network namespace in which it runs.
    pub namespace: Option<&'a str>,
}

impl Default for Setup<'_> {
    /// The shipped rules, and a look each second.
    fn default() -> Self {
        Setup { rules: Rules::AsShipped, seconds: 1, namespace: None }
    }
}

impl Rules {
    fn text(self) -> String {
        let shipped = fs::read_to_string(ops("alerts.yml")).expect("the rules are in the repository");
        let line = |line: &str| match line.split_once("for: ") {
            Some((indent, _)) if self == Rules::AtOnce && indent.trim().is_empty() => {
                format!("{indent}for: {AT_ONCE}\n")
            }
            _ => format!("{line}\n"),
        };
        shipped.lines().map(line).collect()
    }
}

/// It runs in a directory of its own, and is killed when this is dropped.
pub struct Prometheus {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
    namespace: Option<String>,
}

impl Prometheus {
    /// Starts one that scrapes these.
    ///
    /// # Panics
    /// It is not installed.
    #[must_use]
    pub fn start(dir: &Path, targets: &[SocketAddr], setup: Setup) -> Prometheus {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
        let address = free.expect("there is a free port on the loopback");
        let targets: Vec<String> = targets.iter().map(|t| format!("'{t}'")).collect();
        let config = format!(
            "global:\n  scrape_interval: {seconds}s\n  scrape_timeout: {seconds}s\n  evaluation_interval: 1s\nrule_files: [alerts.yml]\nscrape_configs:\n\
             - job_name: holdfast\n  static_configs:\n  - targets: [{}]\n",
            targets.join(", "),
            seconds = setup.seconds
        );
        let log = dir.join("prometheus.log");
        let written = fs::write(dir.join("alerts.yml"), setup.rules.text())
            .and_then(|()| fs::write(dir.join("prometheus.yml"), config))
            .and_then(|()| fs::File::create(&log));
        let file = written.expect("the directory is writable");
        let mut command = match setup.namespace {
            None => Command::new("prometheus"),
            Some(namespace) => {
                // It replaces itself by the program.
                let mut command = Command::new("ip");
                command.env("PATH", std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin");
                command.args(["netns", "exec", namespace, "prometheus"]);
                command
            }
        };
        command.current_dir(dir).args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"]);
        command.arg(format!("--web.listen-address={address}"));
        let twin = file.try_clone().expect("a file has two names");
        command.stdin(Stdio::null()).stdout(twin).stderr(file);
        // SAFETY: between fork and exec only prctl is called, which is async-signal-safe and touches no memory.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        let child =
            command.spawn().unwrap_or_else(|e| panic!("expected the tool prometheus, found: {e}; run scripts/setup"));
        Prometheus { child, address, log, namespace: setup.namespace.map(str::to_owned) }
    }

    fn get(&self, path: &str) -> Result<String, String> {
        let Some(namespace) = &self.namespace else { return Ok(scrape::get(self.address, path)?.1) };
        let url = format!("http://{}{path}", self.address);
        let output =
            try_tool("ip", ["netns", "exec", namespace, "curl", "--silent", "--show-error", "--max-time", "10", &url]);
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(said(&output.stdout)) } else { Err(said(&output.stderr)) }
    }

    /// What its interface answers at this path.
    ///
    /// # Errors
    /// No answer, and the log until then; or one that is none.
    pub fn ask(&self, path: &str) -> Result<Value, String> {
        let tail = || fs::read_to_string(&self.log).unwrap_or_default();
        let body = self.get(path).map_err(|e| format!("{e}\n{}", tail()))?;
        let answer: Value = serde_json::from_str(&body).map_err(|e| format!("{e}: {body}"))?;
        if answer["status"] == "success" { Ok(answer["data"].clone()) } else { Err(answer.to_string()) }
    }

    /// Alerts by name and state.
    ///
    /// # Errors
    /// No answer.
    pub fn alerts(&self) -> Result<BTreeMap<(String, String), Value>, String> {
        let data = self.ask("/api/v1/alerts")?;
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let alerts = data["alerts"].as_array().cloned().unwrap_or_default();
        Ok(alerts.into_iter().map(|a| ((text(&a["labels"]["alertname"]), text(&a["state"])), a)).collect())
    }

    /// The names of the alerts that fire, each with the volume that it is about; empty: it is about none.
    ///
    /// # Errors
    /// No answer.
    pub fn firing(&self) -> Result<BTreeSet<(String, String)>, String> {
        let data = self.ask("/api/v1/alerts")?;
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let fires = data["alerts"].as_array().into_iter().flatten().filter(|a| a["state"] == "firing");
        Ok(fires.map(|a| (text(&a["labels"]["alertname"]), text(&a["labels"]["volume"]))).collect())
    }

    /// How many agents answered when they were last scraped.
    ///
    /// # Errors
    /// No answer.
    pub fn targets_up(&self) -> Result<usize, String> {
        let data = self.ask("/api/v1/targets?state=active")?;
        let targets = data["activeTargets"].as_array().cloned().unwrap_or_default();
        Ok(targets.iter().filter(|t| t["health"] == "up").count())
    }

    /// Rules that it could not evaluate.
    ///
    /// # Errors
    /// No answer.
    pub fn broken_rules(&self) -> Result<Vec<Value>, String> {
        let data = self.ask("/api/v1/rules")?;
        let rules = data["groups"][0]["rules"].as_array().cloned().unwrap_or_default();
        Ok(rules.into_iter().filter(|rule| rule["health"] != "ok").collect())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // Both fail only if it has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
