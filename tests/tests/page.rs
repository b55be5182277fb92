//! The status page: what it is made of, what it tells, and that a real browser shows it.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_cli::workload::{Plan, Workload};
use holdfast_tests::browser::Browser;
use holdfast_tests::scrape::get;
use holdfast_tests::{PATIENCE, TestCluster, finish, peer_address, scratch, try_tool};
use serde_json::Value;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

const VOLUME: &str = "vm1";
const SIZE: u64 = 32 << 20;

fn address(cluster: &TestCluster, at: usize) -> SocketAddr {
    cluster.nodes()[at].metrics().unwrap()
}

fn json(address: SocketAddr, path: &str) -> Result<Value, String> {
    match get(address, path)? {
        (200, body) => serde_json::from_str(&body).map_err(|e| format!("{e}: {body}")),
        (status, body) => Err(format!("{status}: {body}")),
    }
}

/// The page as a browser has it once its script has run, and a picture of it.
fn browse(address: SocketAddr, dir: &Path, picture: &str, flags: &[&str]) -> String {
    let profile = format!("--user-data-dir={}", dir.join("profile").display());
    let shot = format!("--screenshot={}", dir.join(picture).display());
    let url = format!("http://{address}/");
    // Root has no sandbox of the browser's; it sees nothing but this page.
    let common = [
        "--no-sandbox",
        "--disable-gpu",
        "--window-size=1200,1500",
        "--virtual-time-budget=4000",
        "--timeout=30000",
        &profile,
    ];
    let run = |last: &str| {
        let args = common.iter().chain(flags).copied().chain([last, url.as_str()]);
        let output = try_tool("timeout", ["60", "chromium-headless-shell"].into_iter().chain(args));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    run(&shot);
    run("--dump-dom")
}

#[tokio::test]
async fn a_browser_shows_the_cluster_as_it_is() {
    let mut cluster = TestCluster::start_observed("").await;
    cluster.volume(VOLUME, SIZE).await;
    let primary = cluster.primary(VOLUME).await;
    let here = address(&cluster, primary);
    let mut plan = Plan::new(cluster.sockets(VOLUME), VOLUME, 0..SIZE, 31);
    plan.depth = 2;
    let workload = Workload::start(plan).unwrap();
    for (path, holds) in
        [("/", "<h1>Holdfast"), ("/page.css", "prefers-color-scheme: dark"), ("/page.js", "/status.json")]
    {
        let (status, body) = get(here, path).unwrap();
        assert!(status == 200 && body.contains(holds), "{path}: {status} {body}");
    }
    assert_eq!(get(here, "/page.html").unwrap().0, 404);
    let status = json(here, "/status.json").unwrap();
    let names: Vec<&str> = status["nodes"].as_array().unwrap().iter().map(|n| n["name"].as_str().unwrap()).collect();
    assert_eq!((names.as_slice(), &status["volumes"][0]["name"]), (["n1", "n2", "n3"].as_slice(), &VOLUME.into()));
    assert!(
        status["events"].as_array().unwrap().iter().any(|e| e["kind"] == "epoch" && e["volume"] == VOLUME),
        "{status}"
    );
    // Two points, ten seconds apart, and one more.
    let drawn = cluster.wait_for("rates of the last seconds", PATIENCE, async |_| {
        let history = json(here, "/history.json")?;
        let writes = history["volumes"][VOLUME]["writes"].as_array().cloned().unwrap_or_default();
        let busy = writes.iter().filter_map(Value::as_f64).filter(|n| *n > 1.0).count();
        if busy >= 2 { Ok(()) } else { Err(history.to_string()) }
    });
    drawn.await.unwrap_or_else(|e| panic!("{e}"));
    let history = json(here, "/history.json").unwrap();
    let of = |name: &str| history["volumes"][VOLUME][name].as_array().unwrap().len() as u64;
    for list in ["read", "written", "reads", "writes", "read_ms", "write_ms"] {
        assert_eq!(Some(of(list)), history["points"].as_u64(), "{list}");
    }

    let dir = scratch();
    let dom = browse(here, dir.path(), "light.png", &[]);
    for text in [
        "3 nodes: 3 up. 1 volume: 1 healthy.",
        "leads the control plane",
        ">vm1</option>",
        "Throughput in the last hour. written: ",
    ] {
        assert!(dom.contains(text), "expected {text:?} in\n{dom}");
    }
    let row = dom.split("<tbody id=\"volume-rows\">").nth(1).unwrap().split("</tbody>").next().unwrap();
    for text in ["scope=\"row\">vm1</th>", "healthy", "n1: ", "n2: ", "n3: ", "primary, ", "32 MiB"] {
        assert!(row.contains(text), "expected {text:?} in\n{row}");
    }
    assert!(
        dom.matches("<svg").count() == 3
            && dom.matches("role=\"img\"").count() == 3
            && dom.contains("class=\"line one\""),
        "{dom}"
    );
    assert!(dom.contains("the volume opens for the first time"), "the timeline");

    // A node dies: the page says so, and what is unsafe.
    let dead = (primary + 1) % 3;
    let name = cluster.nodes()[dead].name().to_owned();
    cluster.kill(dead);
    cluster.acknowledges(&workload, 20).await;
    let told = cluster.wait_for("the agent to miss it", PATIENCE, async |_| {
        let status = json(here, "/status.json")?;
        // The event comes a moment after the state, which is made when it is asked for.
        let told = status.to_string().contains(&format!("node {name} is silent"));
        if told && status["volumes"][0]["state"] == "degraded" { Ok(()) } else { Err(status.to_string()) }
    });
    told.await.unwrap_or_else(|e| panic!("{e}"));
    let dom = browse(here, dir.path(), "dark.png", &["--blink-settings=preferredColorScheme=0"]);
    for text in ["2 up, 1 down", "1 volume: 1 degraded", &format!("node {name} is silent"), "nodes that do not answer"]
    {
        assert!(dom.contains(text), "expected {text:?} in\n{dom}");
    }
    for picture in ["light.png", "dark.png"] {
        let bytes = fs::read(dir.path().join(picture)).unwrap();
        assert!(bytes.starts_with(b"\x89PNG") && bytes.len() > 20_000, "{picture}: {} bytes", bytes.len());
        // For people: where to put them.
        if let Ok(to) = std::env::var("HOLDFAST_SCREENSHOTS") {
            fs::copy(dir.path().join(picture), Path::new(&to).join(picture)).unwrap();
        }
    }
    cluster.launch(dead).unwrap();
    cluster.wait_healthy(VOLUME, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    finish(workload).await;
}

/// What the focus is on, as somebody would call it; null on nothing.
const FOCUSED: &str = "(() => { const e = document.activeElement; return !e || e === document.body ? null : \
    e.tagName + ' ' + (e.id || e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.textContent.trim()); })()";
/// Everything that a mouse could use, in the order of the page.
const USABLE: &str = "[...document.querySelectorAll('a[href], button, select, input, summary, [tabindex=\"0\"]')]\
    .filter((e) => e.checkVisibility()).map((e) => e.tagName + ' ' + (e.id || e.getAttribute('aria-label') || \
    e.getAttribute('aria-labelledby') || e.textContent.trim()))";

#[tokio::test]
async fn a_keyboard_and_a_screen_reader_are_enough() {
    let cluster = TestCluster::start_observed("").await;
    let names = ["n1", "n2", "n3"];
    cluster.volume_on(VOLUME, SIZE, &names, "n1").await;
    cluster.volume_on("vm2", SIZE, &names, "n1").await;
    let here = address(&cluster, 0);
    let drawn = cluster.wait_for("both volumes to have a chart", PATIENCE, async |_| {
        let history = json(here, "/history.json")?;
        if history["volumes"].as_object().is_some_and(|v| v.len() == 2) { Ok(()) } else { Err(history.to_string()) }
    });
    drawn.await.unwrap_or_else(|e| panic!("{e}"));
    let dir = scratch();
    let mut page = Browser::open(&format!("http://{here}/"), dir.path());
    page.wait_until(
        "document.querySelectorAll('#volume-rows tr').length === 2 && document.querySelectorAll('svg').length === 3",
    );

    // Tab reaches everything, in the order in which it stands there, and it is seen where one is.
    let usable: Vec<String> = serde_json::from_value(page.value(USABLE)).unwrap();
    assert!(usable.len() >= 6 && usable[0].starts_with("A Skip"), "{usable:#?}");
    let mut reached = Vec::new();
    for _ in 0..usable.len() {
        page.press("Tab", 9, "");
        let focused = page.value(FOCUSED);
        reached.push(focused.as_str().unwrap_or("nothing").to_owned());
        let outline = page.value("getComputedStyle(document.activeElement).outlineStyle");
        assert_eq!(outline, "solid", "the focus is seen on {focused}");
    }
    assert_eq!(reached, usable, "the order of the focus");
    let handlers = "[...document.querySelectorAll('*')].filter((e) => [...e.attributes].some((a) => a.name.startsWith('on') || \
                    (a.name === 'tabindex' && Number(a.value) > 0))).length";
    assert_eq!(page.value(handlers), 0, "nothing is for a mouse alone, and nothing jumps the queue");

    // The skip link, the list, and what folds do what they are for.
    page.value("document.activeElement.blur(); document.querySelector('.skip').focus()");
    page.press("Enter", 13, "\r");
    page.wait_until("location.hash === '#volumes' && document.activeElement.id === 'volumes'");
    page.value("document.getElementById('chosen').focus()");
    page.press("ArrowDown", 40, "");
    page.wait_until("document.getElementById('chosen').value === 'vm2'");
    page.value("document.querySelector('summary').focus()");
    page.press("Enter", 13, "\r");
    page.wait_until("document.querySelector('details').open");
    // Looking again must not take the place away from whoever is there.
    page.value("document.querySelector('#volumes .scroll').focus()");
    std::thread::sleep(std::time::Duration::from_secs(6));
    assert_eq!(page.value(FOCUSED), "DIV volumes-title", "the focus stays where it was");
    assert_eq!(page.value("document.getElementById('chosen').value"), "vm2", "and what was chosen");

    // What is read out.
    let spoken = page.spoken();
    let has = |role: &str, words: &str| {
        let found = spoken.iter().any(|(r, name)| r == role && name.contains(words));
        assert!(found, "expected {role} {words:?} in {spoken:#?}");
    };
    for (role, words) in [
        ("RootWebArea", "Holdfast"),
        ("banner", ""),
        ("main", ""),
        ("contentinfo", ""),
        ("status", ""),
        ("heading", "Cluster"),
        ("heading", "Volumes"),
        ("heading", "Failovers"),
        ("columnheader", "Primary"),
        ("rowheader", VOLUME),
        ("cell", "healthy"),
        ("link", "Skip to the volumes"),
        ("combobox", "Volume led by this node"),
        ("DisclosureTriangle", "The same in numbers"),
        ("region", "Means of five minutes"),
        ("image", "Throughput in the last hour. written: "),
    ] {
        has(role, words);
    }
    let needs_a_name =
        ["link", "button", "combobox", "image", "region", "heading", "DisclosureTriangle", "columnheader", "rowheader"];
    let nameless: Vec<_> =
        spoken.iter().filter(|(role, name)| needs_a_name.contains(&role.as_str()) && name.is_empty()).collect();
    assert!(nameless.is_empty(), "{nameless:?}");
    let levels = "[...document.querySelectorAll('h1, h2, h3')].filter((e) => e.checkVisibility()).map((e) => Number(e.tagName[1]))";
    let levels: Vec<i64> = serde_json::from_value(page.value(levels)).unwrap();
    assert!(
        levels[0] == 1 && levels.windows(2).all(|w| w[1] <= w[0] + 1),
        "no level of headings is left out: {levels:?}"
    );
    for sign in ["\u{25cf}", "\u{25d0}", "\u{25cb}"] {
        assert!(spoken.iter().all(|(_, name)| !name.contains(sign)), "signs are for eyes");
    }
    contrasts(&mut page);
    drop(page);
    a_node_that_leads_nothing_says_where_the_charts_are(&cluster, dir.path());
}

/// n1 leads both volumes, so n2 has nothing to draw.
fn a_node_that_leads_nothing_says_where_the_charts_are(cluster: &TestCluster, dir: &Path) {
    let mut page = Browser::open(&format!("http://{}/", address(cluster, 1)), dir);
    page.wait_until("document.querySelectorAll('#elsewhere-list li').length === 1");
    let shown = page.value("document.querySelector('[aria-labelledby=\"charts-title\"]').innerText");
    let shown = shown.as_str().unwrap();
    let peers = peer_address(cluster.nodes()[0].config());
    for text in [
        "n2 leads no volume and has led none in the last hour, so it draws no charts.",
        "the status page of the node that leads it, at that node's listen.metrics address, which this one does not know",
        &format!("n1 (its peers reach it at {peers}): vm1, vm2"),
    ] {
        assert!(shown.contains(text), "expected {text:?} in {shown}");
    }
    for text in ["Throughput", "Volume led by this node", "The same in numbers"] {
        assert!(!shown.contains(text), "nothing is empty: {text:?} in {shown}");
    }
    let spoken = page.spoken();
    for (role, words) in [("link", "Where the nodes are"), ("list", "Volumes with charts elsewhere")] {
        assert!(spoken.iter().any(|(r, name)| r == role && name == words), "expected {role} {words:?} in {spoken:#?}");
    }
    assert!(spoken.iter().any(|(_, name)| name.contains("vm1, vm2")), "it is read out: {spoken:#?}");
    let link = "A Where the nodes are";
    let usable: Vec<String> = serde_json::from_value(page.value(USABLE)).unwrap();
    for _ in usable.iter().take_while(|at| *at != link).chain([&link.to_owned()]) {
        page.press("Tab", 9, "");
    }
    assert_eq!(page.value(FOCUSED), link, "{usable:?}");
    page.press("Enter", 13, "\r");
    page.wait_until("location.hash === '#map' && document.activeElement.id === 'map'");
}

/// Every colour of text against what it stands on, in both palettes: 4.5 to 1 is what people with weak eyes need (WCAG AA).
fn contrasts(page: &mut Browser) {
    for scheme in ["light", "dark"] {
        let feature = serde_json::json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        page.ask("Emulation.setEmulatedMedia", &feature);
        let colours = "Object.fromEntries(['back', 'card', 'text', 'soft', 'good', 'warn', 'bad', 'one', 'two'].map((name) => \
                       [name, getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim()]))";
        let colours = page.value(colours);
        let light = |name: &str| luminance(colours[name].as_str().unwrap());
        for on in ["back", "card"] {
            for text in ["text", "soft", "good", "warn", "bad", "one", "two"] {
                let (a, b) = (light(on), light(text));
                let contrast = (a.max(b) + 0.05) / (a.min(b) + 0.05);
                assert!(contrast >= 4.5, "{scheme}: {text} on {on} has {contrast:.2} to 1, {colours}");
            }
        }
    }
}

/// Relative luminance of `#rrggbb`, as WCAG defines it.
fn luminance(colour: &str) -> f64 {
    let part = |at: usize| {
        let value = f64::from(u8::from_str_radix(&colour[at..at + 2], 16).unwrap()) / 255.0;
        if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
    };
    0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5)
}
