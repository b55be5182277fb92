//! The alert rules and the dashboard against a real Prometheus that scrapes real agents.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_tests::scrape::{self, Scrape};
use holdfast_tests::{PATIENCE, TestCluster, scratch, tool, try_tool};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const VOLUME: &str = "vm1";
/// With two copies.
const PAIR: &str = "vm2";

fn ops(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../ops").join(file)
}

fn read(file: &str) -> String {
    fs::read_to_string(ops(file)).unwrap()
}

/// Names behind `key:` in YAML that nobody but us writes.
fn named(text: &str, key: &str) -> Vec<String> {
    let lines = text.lines().map(|line| line.trim().trim_start_matches("- "));
    lines.filter_map(|line| Some(line.strip_prefix(key)?.strip_prefix(": ")?.to_owned())).collect()
}

#[test]
fn every_rule_is_sound_tested_and_says_what_to_do() {
    tool("promtool", ["check".as_ref(), "rules".as_ref(), ops("alerts.yml").as_os_str()]);
    tool("promtool", ["test".as_ref(), "rules".as_ref(), ops("alerts.test.yml").as_os_str()]);
    let (rules, tests) = (read("alerts.yml"), read("alerts.test.yml"));
    let alerts = named(&rules, "alert");
    assert!(alerts.len() > 20, "{alerts:?}");
    // A test of an alert begins with its name, and ends with what fires.
    let fires = |alert: &String| {
        let test = tests.split("  - name: ").find(|test| test.lines().next() == Some(alert));
        test.is_some_and(|test| test.contains(&format!("alertname: {alert}")) && test.contains("exp_labels"))
    };
    let untested: Vec<&String> = alerts.iter().filter(|alert| !fires(alert)).collect();
    assert!(untested.is_empty(), "no test lets these fire: {untested:?}");
    for rule in rules.split("      - alert: ").skip(1) {
        for part in ["expr: '", "severity: ", "summary: '", "description: '", "action: '"] {
            assert!(rule.contains(part), "expected {part} in\n{rule}");
        }
    }
}

/// Metrics of ours, and of the process, that an expression names.
fn metrics_in(expression: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = expression.split(|c| !is_name(c));
    words.filter(|w| w.starts_with("holdfast_") || w.starts_with("process_")).map(str::to_owned).collect()
}

/// Every expression of the dashboard, with where it stands.
fn expressions(dashboard: &Value) -> Vec<(String, String)> {
    let text = |v: &Value| v.as_str().unwrap_or_else(|| panic!("expected text, found {v}")).to_owned();
    let mut all = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            all.push((text(&panel["title"]), text(&target["expr"])));
        }
    }
    for annotation in dashboard["annotations"]["list"].as_array().unwrap() {
        all.push((text(&annotation["name"]), text(&annotation["expr"])));
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if variable["type"] == "query" {
            let query = text(&variable["query"]);
            let inner = query.strip_prefix("label_values(").and_then(|q| q.split(',').next());
            all.push((text(&variable["name"]), inner.expect("a variable asks for the values of a label").to_owned()));
        }
    }
    all
}

/// What Grafana needs of each panel: it shows an empty page for a mistake here.
fn check_panels(dashboard: &Value) {
    let mut ids = BTreeSet::new();
    let mut taken: BTreeSet<(u64, u64)> = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        let number = |v: &Value| v.as_u64().unwrap_or_else(|| panic!("{title}: expected a number, found {v}"));
        assert!(!title.is_empty() && ids.insert(number(&panel["id"])), "{title}: a title, and an id of its own");
        let place = &panel["gridPos"];
        let (x, y, w, h) = (number(&place["x"]), number(&place["y"]), number(&place["w"]), number(&place["h"]));
        assert!(w > 0 && h > 0 && x + w <= 24, "{title}: it lies on the grid");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(cell), "{title}: it lies on another panel");
        }
        let kind = panel["type"].as_str().unwrap();
        assert!(["row", "stat", "timeseries"].contains(&kind), "{title}: {kind}");
        let targets = panel["targets"].as_array();
        assert_eq!(kind == "row", targets.is_none_or(Vec::is_empty), "{title}: it asks for something");
        let refs: BTreeSet<&str> = targets.into_iter().flatten().map(|t| t["refId"].as_str().unwrap()).collect();
        assert_eq!(refs.len(), targets.map_or(0, Vec::len), "{title}: each expression has a letter of its own");
        for target in targets.into_iter().flatten() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}: the source is chosen by who looks");
        }
    }
    assert!(dashboard["schemaVersion"].as_u64().unwrap() >= 36 && dashboard["uid"] == "holdfast");
    let variables: Vec<&Value> =
        dashboard["templating"]["list"].as_array().unwrap().iter().map(|v| &v["name"]).collect();
    assert_eq!(variables, ["datasource", "instance", "volume"]);
}

/// Prometheus itself is asked whether the expressions are any: as recording rules.
fn check_expressions(expressions: &[(String, String)], dir: &Path) {
    let mut rules = "groups:\n- name: dashboard\n  rules:\n".to_owned();
    for (at, (_, expression)) in expressions.iter().enumerate() {
        let filled = expression.replace("$__rate_interval", "5m").replace("$volume", ".*").replace("$instance", ".*");
        assert!(!filled.contains('$'), "{filled}: every variable is known");
        rules += &format!("  - record: dashboard:{at}\n    expr: '{}'\n", filled.replace('\'', "''"));
    }
    let file = dir.join("dashboard.yml");
    fs::write(&file, rules).unwrap();
    let output = try_tool("promtool", ["check".as_ref(), "rules".as_ref(), file.as_os_str()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A Prometheus in a directory of its own, killed when this is dropped.
struct Prometheus {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

impl Prometheus {
    fn start(dir: &Path, targets: &[SocketAddr]) -> Prometheus {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let targets: Vec<String> = targets.iter().map(|t| format!("'{t}'")).collect();
        fs::copy(ops("alerts.yml"), dir.join("alerts.yml")).unwrap();
        let config = format!(
            "global:\n  scrape_interval: 1s\n  evaluation_interval: 1s\nrule_files: [alerts.yml]\nscrape_configs:\n\
             - job_name: holdfast\n  static_configs:\n  - targets: [{}]\n",
            targets.join(", ")
        );
        fs::write(dir.join("prometheus.yml"), config).unwrap();
        let log = dir.join("prometheus.log");
        let file = fs::File::create(&log).unwrap();
        let mut command = Command::new("prometheus");
        command.current_dir(dir).args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"]);
        command.arg(format!("--web.listen-address={address}"));
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        // SAFETY: between fork and exec only prctl is called, which is async-signal-safe and touches no memory.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        let child =
            command.spawn().unwrap_or_else(|e| panic!("expected the tool prometheus, found: {e}; run scripts/setup"));
        Prometheus { child, address, log }
    }

    fn ask(&self, path: &str) -> Result<Value, String> {
        let tail = || fs::read_to_string(&self.log).unwrap_or_default();
        let (status, body) = scrape::get(self.address, path).map_err(|e| format!("{e}\n{}", tail()))?;
        let answer: Value = serde_json::from_str(&body).map_err(|e| format!("{status} {e}: {body}"))?;
        if answer["status"] == "success" { Ok(answer["data"].clone()) } else { Err(answer.to_string()) }
    }

    /// Alerts by name and state.
    fn alerts(&self) -> Result<BTreeMap<(String, String), Value>, String> {
        let data = self.ask("/api/v1/alerts")?;
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let alerts = data["alerts"].as_array().cloned().unwrap_or_default();
        Ok(alerts.into_iter().map(|a| ((text(&a["labels"]["alertname"]), text(&a["state"])), a)).collect())
    }

    fn targets_up(&self) -> Result<usize, String> {
        let data = self.ask("/api/v1/targets?state=active")?;
        let targets = data["activeTargets"].as_array().cloned().unwrap_or_default();
        Ok(targets.iter().filter(|t| t["health"] == "up").count())
    }

    /// Rules that Prometheus could not evaluate.
    fn broken_rules(&self) -> Result<Vec<Value>, String> {
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

#[tokio::test]
async fn a_killed_node_lets_alerts_fire_that_end_when_it_is_back() {
    let mut cluster = TestCluster::start_observed("").await;
    cluster.volume(VOLUME, 64 << 20).await;
    let primary = cluster.primary(VOLUME).await;

    // What rules and dashboard ask for is what agents tell.
    let scraped = Scrape::take(cluster.nodes()[primary].metrics().unwrap()).unwrap();
    let told: BTreeSet<&str> = scraped.families().collect();
    let dashboard: Value = serde_json::from_str(&read("dashboard.json")).unwrap();
    check_panels(&dashboard);
    let mut asked = expressions(&dashboard);
    let dir = scratch();
    check_expressions(&asked, dir.path());
    let alerts = read("alerts.yml");
    asked.extend(named(&alerts, "alert").into_iter().zip(named(&alerts, "expr")));
    for (place, expression) in &asked {
        for metric in metrics_in(expression) {
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|s| metric.strip_suffix(s)).unwrap_or(&metric);
            assert!(told.contains(family), "{place}: no agent tells {metric}");
        }
    }

    let targets: Vec<SocketAddr> = cluster.nodes().iter().map(|node| node.metrics().unwrap()).collect();
    let prometheus = Prometheus::start(dir.path(), &targets);
    let scraped =
        cluster.wait_for("Prometheus to scrape three agents, and to find nothing wrong", PATIENCE, async |_| {
            let (up, broken, alerts) = (prometheus.targets_up()?, prometheus.broken_rules()?, prometheus.alerts()?);
            if up == 3 && broken.is_empty() && alerts.is_empty() {
                Ok(())
            } else {
                Err(format!("{up} up, broken {broken:?}, {alerts:?}"))
            }
        });
    scraped.await.unwrap_or_else(|e| panic!("{e}"));

    cluster.kill((primary + 1) % 3);
    let gone = cluster.nodes()[(primary + 1) % 3].name().to_owned();
    let fires = |alert: &str, state: &str| (alert.to_owned(), state.to_owned());
    let fired = cluster.wait_for("the dead node to be told of", 2 * PATIENCE, async |_| {
        let alerts = prometheus.alerts()?;
        let found = alerts.get(&fires("HoldfastNodeUnreachable", "firing"));
        let known = alerts.contains_key(&fires("HoldfastAgentDown", "firing"))
            && alerts.contains_key(&fires("HoldfastVolumeDegraded", "pending"))
            && found.is_some_and(|a| a["labels"]["node"] == gone.as_str() && a["annotations"]["action"] != Value::Null);
        if known { Ok(()) } else { Err(format!("{:?}", alerts.keys())) }
    });
    fired.await.unwrap_or_else(|e| panic!("{e}"));

    cluster.launch((primary + 1) % 3).unwrap();
    let quiet = cluster.wait_for("the alerts to end", PATIENCE, async |_| {
        let alerts = prometheus.alerts()?;
        if alerts.is_empty() { Ok(()) } else { Err(format!("{:?}", alerts.keys())) }
    });
    quiet.await.unwrap_or_else(|e| panic!("{e}"));
    assert!(prometheus.broken_rules().unwrap().is_empty());
}

/// Waits until all of these are told: their cause is there. How long it must last before somebody is woken is the rules' own test.
async fn told(cluster: &TestCluster, prometheus: &Prometheus, cause: &str, expected: &[&str]) {
    let what = format!("{expected:?} after {cause}");
    let waits = cluster.wait_for(&what, 2 * PATIENCE, async |_| {
        let alerts = prometheus.alerts()?;
        let missing: Vec<&&str> =
            expected.iter().filter(|name| !alerts.keys().any(|(alert, _)| alert == **name)).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?} not among {:?}", alerts.keys())) }
    });
    waits.await.unwrap_or_else(|e| panic!("{e}"));
}

/// Scraped anew, as they are now.
async fn scraped(cluster: &TestCluster, prometheus: &Prometheus) {
    let waits = cluster.wait_for("three agents to be scraped", PATIENCE, async |_| match prometheus.targets_up()? {
        3 => Ok(()),
        up => Err(format!("{up} up")),
    });
    waits.await.unwrap_or_else(|e| panic!("{e}"));
    // Twice more: what counts is seen as it was before the next cause.
    tokio::time::sleep(Duration::from_millis(2500)).await;
}

/// Flips a bit of the sixth block of the first volume's copy.
fn rot(cluster: &TestCluster, node: usize) {
    let image = cluster.nodes()[node].data_dir().join("shard-0/copies/1/image.raw");
    let file = fs::OpenOptions::new().read(true).write(true).open(image).unwrap();
    let (mut byte, at) = ([0], 5 * 4096 + 77);
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
    file.sync_all().unwrap();
}

/// What the rules are for, done to real agents: each is told by the real Prometheus.
#[tokio::test]
async fn real_causes_are_told() {
    let mut cluster = TestCluster::start_observed("\n[cluster]\ncertificate_lifetime = \"24h\"\n").await;
    cluster.volume(VOLUME, 16 << 20).await;
    let pair = ["volume", "create", PAIR, "--size", "16MiB", "--on", "n1,n2", "--degraded", "allow"];
    cluster.succeeds(0, &pair).await;
    let write = |cluster: &TestCluster, at: usize| {
        let write = ["-f", "raw", "-c", "write -P 0x5a 0 4M", "-c", "flush", &cluster.uri(at, VOLUME)];
        tool("qemu-io", write);
    };
    write(&cluster, cluster.primary(VOLUME).await);
    cluster.succeeds(0, &["verify", VOLUME]).await;
    let dir = scratch();
    let targets: Vec<SocketAddr> = cluster.nodes().iter().map(|node| node.metrics().unwrap()).collect();
    let prometheus = Prometheus::start(dir.path(), &targets);
    scraped(&cluster, &prometheus).await;
    let certificates = ["HoldfastCertificateNotRenewed", "HoldfastCertificateEnds"];
    told(&cluster, &prometheus, "certificates of a day", &certificates).await;

    let from = cluster.primary(VOLUME).await;
    for turn in 1..=6 {
        let to = cluster.nodes()[(from + turn) % 3].name().to_owned();
        cluster.succeeds(0, &["failover", VOLUME, "--to", &to]).await;
        cluster.wait_healthy(VOLUME, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    }
    told(&cluster, &prometheus, "six switchovers", &["HoldfastEpochFlapping"]).await;

    // Longer than until the next checkpoint: what a start replays it writes again, and heals it.
    tokio::time::sleep(Duration::from_secs(8)).await;
    for node in 0..3 {
        cluster.kill(node);
        rot(&cluster, node);
    }
    (0..3).for_each(|node| cluster.launch(node).unwrap());
    scraped(&cluster, &prometheus).await;
    cluster.wait_healthy(VOLUME, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    let primary = cluster.primary(VOLUME).await;
    let scrubbed = cluster.ask(primary, &["scrub", VOLUME, "--rate", "1GiB/s"]);
    assert_eq!(scrubbed.status.code(), Some(1), "{scrubbed:?}");
    let read = try_tool("qemu-io", ["-f", "raw", "-c", "read 20k 4k", &cluster.uri(primary, VOLUME)]);
    let said = String::from_utf8_lossy(&read.stdout).into_owned() + &String::from_utf8_lossy(&read.stderr);
    assert!(said.contains("Input/output error"), "{said}");
    let rotten = ["HoldfastBitRot", "HoldfastBlocksUnrepairable", "HoldfastGuestErrors"];
    told(&cluster, &prometheus, "a block that every copy lost", &rotten).await;

    for _ in 0..2 {
        cluster.kill(1);
        cluster.launch(1).unwrap();
        scraped(&cluster, &prometheus).await;
    }
    told(&cluster, &prometheus, "three starts of an agent", &["HoldfastRestarts"]).await;
    cluster.wait_healthy(PAIR, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));

    cluster.kill(1);
    let serves = cluster.wait_for("another primary", PATIENCE, async |cluster| {
        let volume = cluster.volume(VOLUME).await?;
        let serves = volume.primary != "n2" && volume.state == "degraded";
        if serves { Ok(volume.primary) } else { Err(format!("{} {}", volume.primary, volume.state)) }
    });
    let primary = serves.await.unwrap_or_else(|e| panic!("{e}"));
    write(&cluster, cluster.index_of(&primary).unwrap());
    let gone = [
        "HoldfastAgentDown",
        "HoldfastNodeUnreachable",
        "HoldfastVolumeDegraded",
        "HoldfastVolumeSingleCopy",
        "HoldfastCopyBehind",
    ];
    told(&cluster, &prometheus, "the death of a node", &gone).await;

    cluster.kill(2);
    told(&cluster, &prometheus, "the death of the majority", &["HoldfastNoLeader"]).await;
    assert!(prometheus.broken_rules().unwrap().is_empty());
}
