//! What a support bundle holds, and above all what it does not.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_tests::{TestCluster, scratch, tool};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const VOLUME: &str = "vm1";
const SIZE: u64 = 16 << 20;
const PASSWORD: &str = "planted-hunter2";
const GUEST: &str = "planted-guest-data";

/// Unpacks a bundle; its files by name.
fn unpack(bundle: &Path, into: &Path) -> Vec<(String, String)> {
    fs::create_dir(into).unwrap();
    tool("tar", ["-xzf".as_ref(), bundle.as_os_str(), "-C".as_ref(), into.as_os_str()]);
    let top = fs::read_dir(into).unwrap().next().expect("one directory").unwrap().path();
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let files = fs::read_dir(top).unwrap().map(|entry| entry.unwrap().path());
    files.map(|path| (name(&path), fs::read_to_string(&path).unwrap())).collect()
}

/// The lines between those of a key's PEM text.
fn body(key: &Path) -> Vec<String> {
    let text = fs::read_to_string(key).unwrap();
    let lines: Vec<String> =
        text.lines().filter(|l| !l.starts_with("-----") && !l.is_empty()).map(str::to_owned).collect();
    assert!(!lines.is_empty(), "{} is a key", key.display());
    lines
}

/// In every other file that the bundle reads, and in what the agent tells: names of files, and what people typed where it does not belong.
async fn plant_everywhere(cluster: &TestCluster, token: &str) {
    let data = cluster.nodes()[0].data_dir();
    let ca_key = fs::read_to_string(data.join("cluster/ca.key")).unwrap();
    // A key without its first line, as after a cut, and in one piece.
    let bare: String = body(&data.join("cluster/ca.key")).concat();
    let headless = ca_key.split_once('\n').unwrap().1;
    let upper = token.to_ascii_uppercase();
    for file in [data.join("audit.log"), cluster.nodes()[0].log().to_owned()] {
        let mut file = OpenOptions::new().append(true).open(&file).unwrap();
        write!(file, "psk={PASSWORD}\n: PSK \"{PASSWORD}\"\n{upper}\nkey: {bare}\n{headless}").unwrap();
    }
    fs::write(data.join(format!("{token}.txt")), "").unwrap();
    fs::write(data.join(format!("notes password={PASSWORD}")), "").unwrap();
    // What an operator pasted into the wrong place: the audit log has it.
    let refused = cluster.run(0, &["volume", "delete", token, "--yes"]).await;
    assert!(!refused.status.success());
    let refused = cluster.run(0, &["volume", "delete", &format!("psk={PASSWORD}"), "--yes"]).await;
    assert!(!refused.status.success());
    let audit = fs::read_to_string(data.join("audit.log")).unwrap();
    assert!(audit.contains(token) && audit.contains(PASSWORD), "{audit}");
}

fn of<'a>(files: &'a [(String, String)], name: &str) -> &'a str {
    let found = files.iter().find(|(file, _)| file == name);
    &found.unwrap_or_else(|| panic!("expected {name} among {:?}", files.iter().map(|f| &f.0).collect::<Vec<_>>())).1
}

#[tokio::test]
async fn a_bundle_tells_what_is_needed_and_no_secret() {
    let mut cluster = TestCluster::start_observed("").await;
    cluster.volume(VOLUME, SIZE).await;
    let primary = cluster.primary(VOLUME).await;
    // What must not be in it: a guest's data, keys, a token that is good, and what people leave in files.
    let dir = scratch();
    let image = dir.path().join("image");
    fs::write(&image, GUEST.repeat(200_000)).unwrap();
    tool("nbdcopy", [image.to_str().unwrap(), &cluster.uri(primary, VOLUME)]);
    let said = cluster.ask(0, &["token", "create"]);
    let said: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    let token = said["token"].as_str().unwrap().to_owned();
    let data = cluster.nodes()[0].data_dir();
    // A token is in no way told by its secret in the middle, either.
    let mut secrets = vec![PASSWORD.to_owned(), GUEST.to_owned(), token.clone(), token[100..160].to_owned()];
    secrets.push(token.to_ascii_uppercase());
    // The founder holds the authority's key, too.
    for key in ["node.key", "ca.key"] {
        secrets.extend(body(&data.join("cluster").join(key)));
    }
    let key = fs::read_to_string(data.join("cluster/node.key")).unwrap();
    let config = cluster.nodes()[0].config().to_owned();
    let comment: String = key.lines().map(|line| format!("# {line}\n")).collect();
    let mut file = OpenOptions::new().append(true).open(&config).unwrap();
    write!(file, "\n# password = {PASSWORD}\n{comment}").unwrap();
    let log = cluster.nodes()[0].log().to_owned();
    let mut file = OpenOptions::new().append(true).open(&log).unwrap();
    write!(file, "somebody ran: holdfast join a:1 --token {token}\nexport API_KEY={PASSWORD}\n{key}the end\n").unwrap();
    plant_everywhere(&cluster, &token).await;

    let bundle = |name: &str| dir.path().join(name).with_extension("tar.gz");
    let args = |to: &Path| {
        let text = |path: &Path| path.display().to_string();
        let flags = ["support-bundle".to_owned(), "--config".to_owned(), text(&config), "--log".to_owned(), text(&log)];
        flags.into_iter().chain(["--to".to_owned(), text(to)]).collect::<Vec<_>>()
    };
    let make = async |cluster: &TestCluster, name: &str| {
        let to = bundle(name);
        let args = args(&to);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let said = cluster.succeeds(0, &args).await;
        assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o600);
        let files = unpack(&to, &dir.path().join(name));
        for (file, text) in &files {
            for secret in &secrets {
                assert!(!text.contains(secret.as_str()), "{file} of {name} holds {secret}");
            }
        }
        (said, files)
    };

    let (said, files) = make(&cluster, "alive").await;
    assert!(said.contains("look before you send it") && !said.contains("without"), "{said}");
    let status: serde_json::Value = serde_json::from_str(of(&files, "status.json")).unwrap();
    assert_eq!(status["volumes"][0]["name"], VOLUME);
    assert!(of(&files, "events.jsonl").lines().any(|line| line.contains("volume_created")));
    assert!(of(&files, "metrics.txt").contains("holdfast_volume_state{volume=\"vm1\",state=\"healthy\"} 1"));
    assert!(of(&files, "config.toml").contains("data_dir"));
    assert!(of(&files, "audit.log").contains("TokenCreate"));
    let taken = of(&files, "agent.log");
    assert!(taken.contains("the agent runs") && taken.contains("the end") && taken.contains("[removed]"), "{taken}");
    assert!(of(&files, "files.txt").contains("cluster/node.key  mode 100600"));
    assert!(of(&files, "versions.txt").starts_with(&format!("holdfast {}", env!("CARGO_PKG_VERSION"))));
    assert!(of(&files, "host.txt").contains("MemTotal") && of(&files, "README.txt").contains("status.json: "));
    // It never writes over anything.
    let again: Vec<String> = args(&bundle("alive"));
    let again: Vec<&str> = again.iter().map(String::as_str).collect();
    cluster.fails(&again, 1, "File exists").await;

    // The agent is down: what is on its disk is told, and what it would have said is missed.
    cluster.kill(0);
    let (said, files) = make(&cluster, "dead").await;
    assert!(said.contains("without status.json, events.jsonl, orphans.json: "), "{said}");
    let report: serde_json::Value = serde_json::from_str(of(&files, "fsck.json")).unwrap();
    assert!(report["volumes"].as_array().is_some_and(|volumes| !volumes.is_empty()), "{report}");
    assert!(of(&files, "README.txt").contains("without metrics.txt: "));

    // A configuration that can't be read is no reason to have nothing.
    fs::write(&config, format!("[node\npassword = {PASSWORD}")).unwrap();
    let to: PathBuf = bundle("broken");
    let args = args(&to);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let said = cluster.succeeds(0, &args).await;
    assert!(said.contains("without config.toml: ") && !said.contains(PASSWORD), "{said}");
    let files = unpack(&to, &dir.path().join("broken"));
    assert!(files.iter().all(|(_, text)| !text.contains(PASSWORD)), "{files:?}");
}
