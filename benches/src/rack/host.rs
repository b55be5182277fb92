//! The end on a host: does what the line says, and leaves nothing behind when the line ends.

use super::udp::Ports;
use super::{SILENCE, Sentence};
use crate::table::{self, Pace};
use holdfast_agent::admin::{connect, pb};
use holdfast_cli::harness::{Cluster, ClusterOptions, HarnessError};
use holdfast_cli::processes;
use holdfast_disk::raw::{RawOptions, RawStream};
use serde_json::{Value, json};
use std::io::{BufRead, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, sleep, sleep_until};

/// Between two looks at whether the agent lives.
const LOOK: Duration = Duration::from_millis(200);
/// Directories with other names are never removed.
pub(super) const PREFIX: &str = "holdfast-rack-";

struct Host {
    dir: PathBuf,
    ports: Option<Ports>,
    cluster: Option<Cluster>,
}

/// Why it is over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Asked,
    /// Nobody is there any more, or this process was told to end.
    Alone,
}

/// What comes from the other end.
struct Line {
    lines: mpsc::UnboundedReceiver<String>,
    heard: Instant,
    signals: [Signal; 3],
}

/// Serves until the end, and removes `dir`.
pub(super) async fn serve(dir: &Path) -> Result<(), Sentence> {
    let ours = dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
    if !ours || !dir.is_absolute() {
        return Err(format!("expected the path of a directory {PREFIX}..., found {}", dir.display()));
    }
    let mut line = Line::open()?;
    let mut host = Host { dir: dir.to_owned(), ports: None, cluster: None };
    say(&json!({"ok": "ready"}));
    let end = host.listen(&mut line).await;
    let removed = host.remove();
    if end == End::Asked {
        say(&match &removed {
            Ok(()) => json!({"ok": "removed"}),
            Err(sentence) => json!({"error": sentence}),
        });
    }
    removed
}

/// Nobody may be there to hear it.
fn say(value: &Value) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{value}").and_then(|()| out.flush());
}

impl Line {
    fn open() -> Result<Line, Sentence> {
        let (sender, lines) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines() {
                let Ok(line) = line else { return };
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let on = |kind| signal(kind).map_err(|e| format!("could not listen to signals: {e}"));
        let signals = [on(SignalKind::terminate())?, on(SignalKind::hangup())?, on(SignalKind::interrupt())?];
        Ok(Line { lines, heard: Instant::now(), signals })
    }

    /// The next request; signs of life are none.
    async fn next(&mut self) -> Result<Value, End> {
        loop {
            let [terminate, hangup, interrupt] = &mut self.signals;
            let line = tokio::select! {
                line = self.lines.recv() => line.ok_or(End::Alone)?,
                () = sleep_until(self.heard + SILENCE) => return Err(End::Alone),
                _ = terminate.recv() => return Err(End::Alone),
                _ = hangup.recv() => return Err(End::Alone),
                _ = interrupt.recv() => return Err(End::Alone),
            };
            self.heard = Instant::now();
            let request: Value = serde_json::from_str(&line).unwrap_or_default();
            match request["do"].as_str() {
                Some("live") => {}
                Some("end") => return Err(End::Asked),
                _ => return Ok(request),
            }
        }
    }
}

impl Host {
    async fn listen(&mut self, line: &mut Line) -> End {
        let mut looks = interval(LOOK);
        let mut told = false;
        loop {
            let request = tokio::select! {
                request = line.next() => request,
                _ = looks.tick() => {
                    if let Some(how) = self.ended().filter(|_| !told) {
                        told = true;
                        say(&json!({"died": how}));
                    }
                    continue;
                }
            };
            let request = match request {
                Ok(request) => request,
                Err(end) => return end,
            };
            let answer = tokio::select! {
                answer = self.answer(&request) => answer,
                // Nothing is asked before the last answer: this can only be the end.
                end = line.next() => return end.err().unwrap_or(End::Alone),
            };
            say(&answer.map_or_else(|error| json!({"error": error}), |value| json!({"ok": value})));
        }
    }

    /// How the agent ended, if it did.
    fn ended(&self) -> Option<Sentence> {
        let cluster = self.cluster.as_ref()?;
        let how = cluster.nodes()[0].ended()?;
        Some(format!("its agent ended {how} before the measurement did\n{}", cluster.log_tails().trim_end()))
    }

    async fn answer(&mut self, request: &Value) -> Result<Value, Sentence> {
        let text = |key: &str| request[key].as_str().unwrap_or_default();
        let port = u16::try_from(request["port"].as_u64().unwrap_or(0)).unwrap_or(0);
        match text("do") {
            "check" => check(&self.dir),
            "bind" => {
                self.ports = Some(Ports::bind(address(request)?, port, text("name"), text("nonce")).await?);
                Ok(Value::Null)
            }
            "call" => {
                let peers = request["peers"].as_array().into_iter().flatten().map(address);
                let peers: Vec<IpAddr> = peers.collect::<Result<_, Sentence>>()?;
                self.ports()?.call(&peers).await;
                Ok(Value::Null)
            }
            "heard" => Ok(self.ports()?.heard()),
            "trips" => Ok(self.ports()?.trips(address(request)?).await),
            "close" => {
                if let Some(ports) = self.ports.take() {
                    ports.close().await;
                }
                Ok(Value::Null)
            }
            "start" => {
                let peer = SocketAddr::new(address(request)?, port);
                let options = ClusterOptions::new(self.dir.join("holdfast"), self.dir.clone());
                let cluster = Cluster::alone(&options, text("name"), peer).map_err(|e| told(&e))?;
                let cluster = self.cluster.insert(cluster);
                let started = match request["token"].as_str() {
                    None => cluster.found().await,
                    Some(token) => cluster.join(0, text("at"), token).await,
                };
                started.map(|()| Value::Null).map_err(|e| told(&e))
            }
            "token" => {
                let token = self.cluster()?.token().await.map_err(|e| told(&e))?;
                Ok(json!({"at": token.address, "token": token.token}))
            }
            "gather" => {
                let nodes = usize::try_from(request["nodes"].as_u64().unwrap_or(0)).unwrap_or(0);
                self.cluster()?.wait_gathered(nodes).await.map(|()| Value::Null).map_err(|e| told(&e))
            }
            "volumes" => {
                let pace = Pace { rounds: 1, round: LOOK, rehearsal: request["rehearsal"] == true };
                let made = table::create_volumes(self.cluster()?, &pace).await;
                made.map(|()| Value::Null).map_err(|e| told(&e))
            }
            "bench" => self.bench(&request["args"]).await,
            "spent" => self.spent(text("volume")).await,
            other => Err(format!("expected a request, found {other:?}")),
        }
    }

    fn ports(&mut self) -> Result<&mut Ports, Sentence> {
        self.ports.as_mut().ok_or_else(|| "expected that ports were bound, found none".to_owned())
    }

    fn cluster(&self) -> Result<&Cluster, Sentence> {
        self.cluster.as_ref().ok_or_else(|| "expected an agent, found none".to_owned())
    }

    /// One row, unless the agent ends meanwhile.
    async fn bench(&self, args: &Value) -> Result<Value, Sentence> {
        let args: Vec<String> =
            args.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        let cluster = self.cluster()?;
        let (binary, raw) = (self.dir.join("holdfast"), self.dir.join("raw"));
        let ended = async {
            loop {
                if let Some(how) = self.ended() {
                    return how;
                }
                sleep(LOOK).await;
            }
        };
        tokio::select! {
            value = table::bench(&binary, cluster.nodes()[0].admin(), &raw, &args) => value.map_err(|e| e.to_string().trim().to_owned()),
            how = ended => Err(how),
        }
    }

    /// What this agent has spent so far, and up to which record its copy of a volume is durable; 0 if it has none.
    async fn spent(&self, volume: &str) -> Result<Value, Sentence> {
        let node = &self.cluster()?.nodes()[0];
        let pid = node.pid().ok_or("expected an agent, found none")?;
        let mut client = connect(node.admin()).await.map_err(|e| e.to_string())?;
        let shown = client.volume_show(pb::VolumeShowRequest { name: volume.to_owned() }).await;
        let shown = shown.map_err(|e| e.message().to_owned())?.into_inner().volume.unwrap_or_default();
        let copy = shown.copies.iter().find(|copy| copy.node == node.name());
        Ok(json!({
            "cpu_us": processes::cpu(pid).map(|cpu| cpu.as_secs_f64() * 1e6),
            "written": processes::written(pid),
            "memory": processes::peak(pid),
            "lsn": copy.and_then(|copy| copy.durable_lsn).unwrap_or(0),
        }))
    }

    /// Ends the agent, and removes all that there was.
    fn remove(&mut self) -> Result<(), Sentence> {
        drop(self.cluster.take());
        let mut removed = std::fs::remove_dir_all(&self.dir);
        for _ in 0..10 {
            if removed.is_ok() {
                break;
            }
            // A measurement that was stopped may have made a file just now.
            std::thread::sleep(LOOK);
            removed = std::fs::remove_dir_all(&self.dir);
        }
        removed.map_err(|e| format!("could not remove {}: {e}", self.dir.display()))
    }
}

fn address(value: &Value) -> Result<IpAddr, Sentence> {
    let text = value["address"].as_str().unwrap_or_default();
    text.parse().map_err(|_| format!("expected an address, found {text:?}"))
}

fn told(e: &HarnessError) -> Sentence {
    format!("{e}\n{}", e.tails()).trim_end().to_owned()
}

/// Durable direct writes through io_uring, as the agent will make them, in the directory that it will use.
fn check(dir: &Path) -> Result<Value, Sentence> {
    let options = RawOptions { size: 1 << 20, block: 4096, depth: 1 };
    let made = RawStream::create(&dir.join("check"), options).and_then(|mut stream| {
        let mut done = Vec::new();
        stream.queue(0, 0, true);
        stream.wait(&mut done)?;
        done.into_iter().try_for_each(|done| done.result)
    });
    made.map(|()| Value::Null).map_err(|e| {
        let dir = dir.display();
        format!("expected durable direct writes through io_uring to work in {dir}, found: {e}; name another directory with --dir")
    })
}
