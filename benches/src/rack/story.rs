//! What happens from here, in its order, and the end that always comes.

use super::host::PREFIX;
use super::report::{self, Trip};
use super::ssh::Ssh;
use super::station::Station;
use super::{RunArgs, Sentence, facts};
use crate::table::{self, Failure, Measured, Pace, Place, Spent};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Copies of a volume: fewer hosts hold no table.
const HOSTS: usize = 3;
const STEP: Duration = Duration::from_secs(30);
/// Agents that are to find each other.
const GATHER: Duration = Duration::from_secs(90);
/// The longest of all steps; a host that dies meanwhile is noticed by other means.
const LONG: Duration = Duration::from_secs(4 * 3600);

impl RunArgs {
    pub(super) fn pace(&self) -> Pace {
        let round = if self.rehearsal { Duration::from_millis(100) } else { Duration::from_secs(self.seconds.into()) };
        Pace { rounds: self.rounds, round, rehearsal: self.rehearsal }
    }
}

fn say(text: &str) {
    eprintln!("== {text}");
}

/// From the hosts' names to the table, or to what is wrong; and then nothing is left on the hosts.
pub(super) async fn run(args: &RunArgs) -> Result<(), Sentence> {
    let on = |kind| signal(kind).map_err(|e| format!("could not listen to signals: {e}"));
    let (mut interrupt, mut terminate, mut hangup) =
        (on(SignalKind::interrupt())?, on(SignalKind::terminate())?, on(SignalKind::hangup())?);
    let (trouble, mut troubles) = mpsc::unbounded_channel();
    let mut stations = Vec::new();
    let measured = tokio::select! {
        measured = story(args, &mut stations, trouble) => measured,
        Some(trouble) = troubles.recv() => Err(trouble),
        _ = interrupt.recv() => Err("interrupted".to_owned()),
        _ = terminate.recv() => Err("told to end".to_owned()),
        _ = hangup.recv() => Err("the terminal is gone".to_owned()),
    };
    if stations.is_empty() {
        return measured;
    }
    say("ending the agents, and removing what was made on the hosts");
    // A signal that comes now is not heard: this takes a minute at most, and is what it would ask for.
    let ended = on_all(&stations, |station| async move { station.end().await }).await;
    match (measured, ended) {
        (Ok(()), Ok(_)) => Ok(()),
        (Err(sentence), Ok(_)) => Err(format!("{sentence}\nnothing is left on the hosts")),
        (Ok(()), Err(left)) => Err(left),
        (Err(sentence), Err(left)) => Err(format!("{sentence}\n{left}")),
    }
}

async fn story(
    args: &RunArgs,
    stations: &mut Vec<Arc<Station>>,
    trouble: mpsc::UnboundedSender<Sentence>,
) -> Result<(), Sentence> {
    refuse(args)?;
    say("looking at the hosts");
    let nonce = format!("{:08x}", RandomState::new().hash_one(SystemTime::now()) >> 32);
    *stations = look(args, &nonce, &trouble).await?;
    let program = args.binaries.join("rack");
    on_all(stations, |station| {
        let program = program.clone();
        async move {
            station.begin(&program).await?;
            station.ask(json!({"do": "check"}), STEP).await.map(drop)
        }
    })
    .await?;
    say(&format!("trying UDP ports {} and {} between the hosts", args.port, args.port + 1));
    let trips = network(args, stations, &nonce).await?;
    say("starting a cluster");
    found(args, stations).await?;
    let pace = args.pace();
    say(&format!(
        "measuring on {}: {} rounds of {:?} of each workload, each beside a raw file",
        stations[0].host(),
        pace.rounds,
        pace.round
    ));
    let mut rack = Rack { stations };
    let (table, done) = table::measure(&mut rack, &pace).await.map_err(|e| e.to_string())?;
    let text = report::text(args, &args.date, stations, &trips, &table, &done);
    print!("{text}");
    store(args, &text, &done)
}

/// What can be seen without a host.
fn refuse(args: &RunArgs) -> Result<(), Sentence> {
    let names: BTreeSet<&str> = args.hosts.iter().map(|host| host.name.as_str()).collect();
    if names.len() < HOSTS || names.len() < args.hosts.len() {
        return Err(format!(
            "expected {HOSTS} different hosts or more, found {}",
            args.hosts.iter().map(|h| h.name.as_str()).collect::<Vec<_>>().join(" ")
        ));
    }
    for name in ["holdfast", "rack"] {
        let path = args.binaries.join(name);
        if !path.is_file() {
            return Err(format!("expected the program {}, found none; build it", path.display()));
        }
    }
    // Now, not after half an hour.
    let out = std::fs::OpenOptions::new().create_new(true).write(true).open(&args.out);
    out.map_err(|e| format!("could not make {}: {e}; name a new file with --out", args.out.display()))?;
    std::fs::remove_file(&args.out).map_err(|e| format!("could not remove {} again: {e}", args.out.display()))
}

/// All hosts at once; nothing is changed on them.
async fn look(
    args: &RunArgs,
    nonce: &str,
    trouble: &mpsc::UnboundedSender<Sentence>,
) -> Result<Vec<Arc<Station>>, Sentence> {
    let ways: Vec<Arc<Ssh>> = args.hosts.iter().map(|host| Arc::new(Ssh::new(&host.name, &args.ssh))).collect();
    let script = facts::script(&args.dir);
    let said = on_all(&ways, |ssh| {
        let script = script.clone();
        async move {
            let said = ssh.run(&script, STEP).await?;
            Ok((said, SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs())))
        }
    })
    .await?;
    let (mut stations, mut wrong, mut places) = (Vec::new(), Vec::new(), BTreeMap::new());
    for (at, (target, (said, now))) in (1..).zip(args.hosts.iter().zip(said)) {
        match facts::judge(&said, target, args, now) {
            Ok(facts) => {
                if let Some(other) = places.insert(facts.address, &target.name) {
                    let (name, address) = (&target.name, facts.address);
                    wrong.push(format!(
                        "expected an address for each host, found {other} and {name} at {address}; name the right ones: HOST=ADDRESS"
                    ));
                }
                let node = format!("n{at}");
                let dir = format!("{}/{PREFIX}{nonce}-{node}", facts.path.trim_end_matches('/'));
                let ssh = Ssh::new(&target.name, &args.ssh);
                stations.push(Arc::new(Station::new(ssh, node, facts, dir, trouble.clone())));
            }
            Err(sentence) => wrong.push(sentence),
        }
    }
    if wrong.is_empty() { Ok(stations) } else { Err(wrong.join("\n")) }
}

/// Both ports of each host hear each other host; how long it takes.
async fn network(args: &RunArgs, stations: &[Arc<Station>], nonce: &str) -> Result<Vec<Trip>, Sentence> {
    let (port, nonce) = (args.port, nonce.to_owned());
    on_all(stations, |station| {
        let request =
            json!({"do": "bind", "address": station.facts.address, "port": port, "name": station.node, "nonce": nonce});
        async move { station.ask(request, STEP).await }
    })
    .await?;
    on_all(stations, |station| {
        let peers: Vec<Value> = stations
            .iter()
            .filter(|other| other.node != station.node)
            .map(|other| json!({"address": other.facts.address}))
            .collect();
        async move { station.ask(json!({"do": "call", "peers": peers}), STEP).await }
    })
    .await?;
    let heard = on_all(stations, |station| async move { station.ask(json!({"do": "heard"}), STEP).await }).await?;
    let names: Vec<(&str, &str, String)> =
        stations.iter().map(|s| (s.node.as_str(), s.host(), s.facts.address.to_string())).collect();
    let blocked = blocked(&names, port, &heard);
    if !blocked.is_empty() {
        return Err(blocked.join("\n"));
    }
    let mut trips = Vec::new();
    for (at, from) in stations.iter().enumerate() {
        for to in &stations[at + 1..] {
            let trip = from.ask(json!({"do": "trips", "address": to.facts.address}), 2 * STEP).await?;
            let (p50, p99, lost) = (trip["p50"].as_f64(), trip["p99"].as_f64(), trip["lost"].as_u64().unwrap_or(0));
            trips.push(Trip { from: from.host().to_owned(), to: to.host().to_owned(), p50, p99, lost });
        }
    }
    on_all(stations, |station| async move { station.ask(json!({"do": "close"}), STEP).await }).await?;
    Ok(trips)
}

/// A sentence for each way that no datagram took. Hosts by their node, name and address; what each heard, on each port.
pub(super) fn blocked(hosts: &[(&str, &str, String)], port: u16, heard: &[Value]) -> Vec<Sentence> {
    let mut sentences = Vec::new();
    for ((node, host, address), heard) in hosts.iter().zip(heard) {
        for (sender, from, source) in hosts.iter().filter(|(other, ..)| other != node) {
            for (at, port) in [port, port.saturating_add(1)].into_iter().enumerate() {
                if heard[at].as_array().is_some_and(|names| names.iter().any(|name| name == sender)) {
                    continue;
                }
                sentences.push(format!(
                    "UDP port {port} is blocked from {from} ({source}) to {host} ({address}): of 8 datagrams none arrived; open it in the \
                     firewalls between them, or name other addresses: HOST=ADDRESS"
                ));
            }
        }
    }
    sentences
}

/// Agents on all hosts that are one cluster, with the volumes of all workloads.
async fn found(args: &RunArgs, stations: &[Arc<Station>]) -> Result<(), Sentence> {
    let program = args.binaries.join("holdfast");
    on_all(stations, |station| {
        let program = program.clone();
        async move { station.copy(&program, "holdfast").await }
    })
    .await?;
    let start = |station: &Station| json!({"do": "start", "name": station.node, "address": station.facts.address, "port": args.port});
    let first = &stations[0];
    first.ask(start(first), GATHER).await?;
    for station in &stations[1..] {
        let token = first.ask(json!({"do": "token"}), STEP).await?;
        let mut request = start(station);
        request["token"] = token["token"].clone();
        request["at"] = token["at"].clone();
        station.ask(request, GATHER).await?;
    }
    let nodes = stations.len();
    on_all(stations, |station| async move { station.ask(json!({"do": "gather", "nodes": nodes}), GATHER).await })
        .await?;
    first.ask(json!({"do": "volumes", "rehearsal": args.rehearsal}), LONG).await.map(drop)
}

/// The cluster, seen from here.
struct Rack<'a> {
    stations: &'a [Arc<Station>],
}

impl Place for Rack<'_> {
    async fn bench(&mut self, args: Vec<String>) -> Result<Measured, Failure> {
        let before = self.spent(&args[0]).await?;
        let value = self.stations[0].ask(json!({"do": "bench", "args": args}), LONG).await?;
        let after = self.spent(&args[0]).await?;
        let spent = before.iter().zip(&after).map(|(before, after)| between(before, after)).collect();
        Ok(Measured { args, value, spent })
    }
}

impl Rack<'_> {
    async fn spent(&self, volume: &str) -> Result<Vec<Value>, Sentence> {
        let request = json!({"do": "spent", "volume": volume});
        on_all(self.stations, |station| {
            let request = request.clone();
            async move { station.ask(request, STEP).await }
        })
        .await
    }
}

/// For each record of a copy, of which a guest's 4 KiB write is one.
fn between(before: &Value, after: &Value) -> Spent {
    let number = |value: &Value, key: &str| value[key].as_f64().unwrap_or(0.0);
    let more = |key: &str| number(after, key) - number(before, key);
    let records = more("lsn");
    let each = |key: &str| if records > 0.0 { more(key) / records } else { 0.0 };
    Spent { cpu_us: each("cpu_us"), written: each("written") / 4096.0, memory: number(after, "memory") }
}

fn store(args: &RunArgs, text: &str, done: &[Measured]) -> Result<(), Sentence> {
    let failed =
        |path: &PathBuf, e: std::io::Error| format!("could not write {}: {e}; the table is above", path.display());
    let all: Vec<&Value> = done.iter().map(|measured| &measured.value).collect();
    let figures = args.out.with_extension("json");
    std::fs::write(&args.out, text).map_err(|e| failed(&args.out, e))?;
    std::fs::write(&figures, format!("{:#}\n", json!(all))).map_err(|e| failed(&figures, e))?;
    say(&format!("in {}; all figures are in {}", args.out.display(), figures.display()));
    Ok(())
}

/// The same with each, at the same time: what each said, in their order, or all that went wrong.
async fn on_all<S, T, F>(all: &[Arc<S>], with: impl Fn(Arc<S>) -> F) -> Result<Vec<T>, Sentence>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Sentence>> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for (at, one) in all.iter().enumerate() {
        let task = with(one.clone());
        tasks.spawn(async move { (at, task.await) });
    }
    let mut done: Vec<(usize, Result<T, Sentence>)> = tasks.join_all().await;
    done.sort_by_key(|(at, _)| *at);
    let (mut good, mut wrong) = (Vec::new(), Vec::new());
    for (_, result) in done {
        match result {
            Ok(value) => good.push(value),
            Err(sentence) => wrong.push(sentence),
        }
    }
    if wrong.is_empty() { Ok(good) } else { Err(wrong.join("\n")) }
}
