//! `holdfast support-bundle`: what somebody needs who is to help, in one file, without secrets.
//!
//! Each part is taken apart from the others, and what can't be had is named in the bundle: the agent may be down, which is when
//! bundles are made. Everything goes through [`redact`], and the files that are read are named here, one by one: neither keys nor
//! anything below `shard-0` is among them.

use super::Agent;
use crate::args::{Output, SupportArgs};
use crate::error::CliError;
use crate::output;
use crate::redact::redact;
use crate::units;
use flate2::{Compression, write::GzEncoder};
use holdfast_agent::admin::pb;
use holdfast_agent::config::{self, Config};
use holdfast_agent::offline::{self, Place};
use serde_json::json;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Of a log only its end is taken.
const LOG_BYTES: u64 = 16 << 20;
/// How long the metrics may take: longer than an agent waits for its own threads.
const METRICS: Duration = Duration::from_secs(10);
/// How long journalctl may take, in seconds.
const JOURNAL: &str = "60";
/// Entries of the data directory that are listed.
const LISTED: usize = 10_000;

/// Parts of the bundle, in memory: each is bounded, and few are large.
#[derive(Debug, Default)]
struct Parts {
    files: Vec<(String, String)>,
    missing: Vec<(String, String)>,
}

impl Parts {
    fn take(&mut self, name: &str, found: Result<String, String>) {
        match found {
            Ok(text) => self.files.push((name.to_owned(), redact(&text))),
            Err(why) => self.missing.push((name.to_owned(), redact(&why))),
        }
    }
}

/// Makes the bundle.
pub(crate) async fn run(
    socket: &Path,
    output: Output,
    limit: Option<Duration>,
    args: &SupportArgs,
) -> Result<(), CliError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let config = Config::load(&args.config).map_err(|e| e.to_string());
    let node = config.as_ref().map_or_else(|_| "unknown".to_owned(), |c| c.node.name.clone());
    let stamp = units::time(u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
    let stamp: String = stamp.split('.').next().unwrap_or_default().replace([' ', ':'], "-");
    let name = format!("holdfast-support-{node}-{stamp}");
    let path = args.to.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz")));
    // Before the work, so that nobody waits for nothing.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let file = file.map_err(CliError::io(format!("create {}", path.display())))?;
    let mut parts = Parts::default();
    let answers = ask(socket, limit, &mut parts).await;
    parts.take("config.toml", shown_config(&args.config));
    parts.take("versions.txt", Ok(versions()));
    parts.take("host.txt", Ok(host()));
    parts.take("agent.log", log(args));
    if let Ok(config) = &config {
        let metrics = config.listen.metrics.ok_or_else(|| "listen.metrics is not set".to_owned());
        parts.take("metrics.txt", metrics.and_then(metrics_of));
        let dir = &config.node.data_dir;
        parts.take("audit.log", tail(&dir.join("audit.log")));
        parts.take("files.txt", listing(dir));
        if !answers && !args.no_fsck {
            parts.take("fsck.json", fsck(dir));
        }
    } else if let Err(why) = config {
        parts.missing.push(("metrics.txt, audit.log, files.txt, fsck.json".to_owned(), redact(&why)));
    }
    let readme = readme(&name, &parts);
    parts.files.insert(0, ("README.txt".to_owned(), readme));
    // Half a bundle is none.
    let written = pack(file, &name, &parts, now.as_secs()).inspect_err(|_| drop(fs::remove_file(&path)));
    let written = written.map_err(CliError::io(format!("write {}", path.display())))?;
    output::print(output, || json_of(&path, written, &parts), || text_of(&path, written, &parts));
    Ok(())
}

fn json_of(path: &Path, bytes: u64, parts: &Parts) -> serde_json::Value {
    let files: Vec<&str> = parts.files.iter().map(|(name, _)| name.as_str()).collect();
    let missing: Vec<_> = parts.missing.iter().map(|(what, why)| json!({ "what": what, "why": why })).collect();
    json!({ "file": path.display().to_string(), "bytes": bytes, "files": files, "missing": missing })
}

fn text_of(path: &Path, bytes: u64, parts: &Parts) -> String {
    let (path, size, count) = (path.display(), units::bytes(bytes), parts.files.len());
    let mut out =
        format!("{path}: {count} files, {size}. Names, addresses and paths are in it; look before you send it.\n");
    for (what, why) in &parts.missing {
        let _ = writeln!(out, "without {what}: {why}");
    }
    out
}

/// What the agent says. Whether it said anything.
async fn ask(socket: &Path, limit: Option<Duration>, parts: &mut Parts) -> bool {
    let mut agent = match Agent::connect(socket, limit).await {
        Ok(agent) => agent,
        Err(e) => {
            parts.missing.push(("status.json, events.jsonl, orphans.json".to_owned(), redact(&e.to_string())));
            return false;
        }
    };
    let status = agent.ask(async |c| c.status(pb::StatusRequest::default()).await).await;
    let answers = status.is_ok();
    let pretty = |value: serde_json::Value| serde_json::to_string_pretty(&value).unwrap_or_default() + "\n";
    parts.take("status.json", status.map(|s| pretty(output::status_json(&s))).map_err(|e| e.to_string()));
    let events = agent.past_events(usize::MAX).await;
    let lines = |events: Vec<pb::Event>| events.iter().map(|e| format!("{}\n", output::event_json(e))).collect();
    parts.take("events.jsonl", events.map(lines).map_err(|e| e.to_string()));
    let orphans = agent.ask(async |c| c.orphan_list(pb::OrphanListRequest::default()).await).await;
    let orphans = orphans.map(|o| pretty(output::orphans_json(&o.orphans)));
    parts.take("orphans.json", orphans.map_err(|e| e.to_string()));
    answers
}

/// What is set, without comments; what is no key of ours is not shown.
fn shown_config(path: &Path) -> Result<String, String> {
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let table: toml::Table =
        text.parse().map_err(|e: toml::de::Error| format!("{}: {}", path.display(), e.message()))?;
    let mut shown = toml::Table::new();
    for (section, value) in table {
        let Some(keys) = value.as_table() else {
            shown.insert(section, toml::Value::from("[removed: no section]"));
            continue;
        };
        let shown_key = |(key, value): (&String, &toml::Value)| {
            let known = config::is_key(&section, key);
            (key.clone(), if known { value.clone() } else { toml::Value::from("[removed: no key of Holdfast]") })
        };
        let keys: toml::Table = keys.iter().map(shown_key).collect();
        shown.insert(section, toml::Value::Table(keys));
    }
    toml::to_string(&shown).map_err(|e| e.to_string())
}

fn versions() -> String {
    let mut out = format!("holdfast {}\n", env!("CARGO_PKG_VERSION"));
    for file in ["/proc/version", "/etc/os-release"] {
        let _ = writeln!(out, "\n{file}\n{}", fs::read_to_string(file).unwrap_or_else(|e| e.to_string()));
    }
    out
}

fn host() -> String {
    let files =
        ["/proc/uptime", "/proc/loadavg", "/proc/meminfo", "/proc/mounts", "/proc/pressure/io", "/proc/net/snmp"];
    let text = |file: &str| fs::read_to_string(file).unwrap_or_else(|e| e.to_string());
    files.iter().map(|file| format!("{file}\n{}\n", text(file))).collect()
}

/// The agent's log: the file that was named, or what the journal has of its unit.
fn log(args: &SupportArgs) -> Result<String, String> {
    if let Some(path) = &args.log {
        return tail(path);
    }
    let mut journal = Command::new("timeout");
    let since = format!("--since=-{}", args.since);
    journal.args([JOURNAL, "journalctl", "--unit", &args.unit, &since, "--output", "short-iso", "--no-pager"]);
    let output = journal.stdin(Stdio::null()).output().map_err(|e| format!("journalctl: {e}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("journalctl ended with {}: {}", output.status, said.trim()));
    }
    let from = output.stdout.len().saturating_sub(usize::try_from(LOG_BYTES).unwrap_or(usize::MAX));
    Ok(whole_lines(&output.stdout[from..], from > 0))
}

/// Without the first line if it is only the end of one: what it names can't be told from it, a secret for example.
fn whole_lines(text: &[u8], cut: bool) -> String {
    let first = text.iter().position(|b| *b == b'\n').map_or(text.len(), |at| at + 1);
    String::from_utf8_lossy(&text[if cut { first } else { 0 }..]).into_owned()
}

/// The end of a file.
fn tail(path: &Path) -> Result<String, String> {
    let read = || {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        let from = len.saturating_sub(LOG_BYTES);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(LOG_BYTES).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(whole_lines(&bytes, from > 0))
    };
    read().map_err(|e| format!("{}: {e}", path.display()))
}

fn metrics_of(address: SocketAddr) -> Result<String, String> {
    let read = || {
        let mut stream = TcpStream::connect_timeout(&address, METRICS)?;
        stream.set_read_timeout(Some(METRICS))?;
        stream.write_all(format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.take(LOG_BYTES).read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = read().map_err(|e| format!("{address}: {e}"))?;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).ok_or_else(|| format!("{address}: no HTTP"))
}

/// Names, sizes and owners of what lies in the data directory; nothing of what is in it.
fn listing(dir: &Path) -> Result<String, String> {
    let mut found = Vec::new();
    list(dir, dir, 0, &mut found).map_err(|e| format!("{}: {e}", dir.display()))?;
    found.sort();
    Ok(found.concat())
}

fn list(root: &Path, dir: &Path, depth: usize, found: &mut Vec<String>) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        let path = entry.path();
        let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        if found.len() < LISTED {
            let (mode, uid, len, held) = (meta.mode(), meta.uid(), meta.len(), meta.blocks() * 512);
            found.push(format!("{name}  mode {mode:o}  uid {uid}  {len} bytes, {held} held\n"));
        }
        if meta.is_dir() && depth < 4 {
            list(root, &path, depth + 1, found)?;
        }
    }
    Ok(())
}

/// Of an agent that is not there.
fn fsck(dir: &Path) -> Result<String, String> {
    eprintln!("the agent does not answer: reading every block of {}; --no-fsck leaves that out", dir.display());
    offline::hush_caught_panics();
    let place = Place::find(dir).map_err(|e| e.to_string())?;
    let report = offline::check(&place, &mut |_, _| ()).map_err(|e| e.to_string())?;
    serde_json::to_string_pretty(&report).map(|text| text + "\n").map_err(|e| e.to_string())
}

fn readme(name: &str, parts: &Parts) -> String {
    let mut out = format!("{name}\n\nMade by `holdfast support-bundle`, version {}.\n\n", env!("CARGO_PKG_VERSION"));
    out += "Keys, join tokens, passwords and guests' data are not in it; what looked like one of them reads [removed].\n\
            Names of nodes and volumes, addresses and paths are.\n\n";
    for (file, text) in &parts.files {
        let _ = writeln!(out, "{file}: {} bytes", text.len());
    }
    for (what, why) in &parts.missing {
        let _ = writeln!(out, "without {what}: {why}");
    }
    out
}

/// Bytes written.
fn pack(file: File, name: &str, parts: &Parts, unix_s: u64) -> std::io::Result<u64> {
    let mut tar = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    for (file, text) in &parts.files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(unix_s);
        tar.append_data(&mut header, format!("{name}/{file}"), text.as_bytes())?;
    }
    let file = tar.into_inner()?.finish()?;
    file.sync_all()?;
    Ok(file.metadata()?.len())
}

#[cfg(test)]
pub(crate) fn example() -> serde_json::Value {
    let one = || vec![("status.json".to_owned(), "a sentence".to_owned())];
    json_of(Path::new("bundle.tar.gz"), 1, &Parts { files: one(), missing: one() })
}
