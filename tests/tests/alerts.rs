//! The alert rules and the dashboard against a real Prometheus that scrapes real agents.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_tests::prometheus::{Prometheus, Setup, ops};
use holdfast_tests::scrape::Scrape;
use holdfast_tests::{PATIENCE, TestCluster, scratch, tool, try_tool};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

const VOLUME: &str = "vm1";

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
    let prometheus = Prometheus::start(dir.path(), &targets, Setup::default());
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
