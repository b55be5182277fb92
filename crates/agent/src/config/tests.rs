use super::*;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("/etc/holdfast.toml")).map_err(|e| e.to_string())
}

const LEAST: &str = "[node]\nname = \"n1\"\ndata_dir = \"/tmp/holdfast\"\n[listen]\npeer = \"127.0.0.1:7400\"\n";

#[test]
fn the_least_configuration_has_the_defaults_of_the_design() {
    let config = parse(LEAST).unwrap();
    assert_eq!(config.node.failure_domain, "n1");
    assert_eq!(config.cluster.heartbeat, Duration::from_millis(200));
    assert_eq!(config.cluster.lease, Duration::from_secs(2));
    assert_eq!(config.limits.journal_segment, 16 << 20);
    assert_eq!(config.advertised().to_string(), "127.0.0.1:7400");
}

#[test]
fn an_unknown_key_is_named_with_the_closest_known_one() {
    let error = parse(&format!("{LEAST}[cluster]\nheartbeet = \"1s\"\n")).unwrap_err();
    assert!(error.contains("`cluster.heartbeet`") && error.contains("did you mean `cluster.heartbeat`?"), "{error}");
    let error = parse(&format!("{LEAST}[cluter]\n")).unwrap_err();
    assert!(error.contains("did you mean `cluster`?"), "{error}");
    let error = parse(&format!("{LEAST}[limits]\nlease = \"1s\"\n")).unwrap_err();
    assert!(error.contains("`lease` belongs to [cluster]"), "{error}");
    let error = parse(&format!("{LEAST}[limits]\ntable_cache = \"1MiB\"\n")).unwrap_err();
    assert!(error.contains("limits.table_cache") && error.contains("64MiB"), "{error}");
    let error = parse(&format!("{LEAST}[limits]\ncolour = 1\n")).unwrap_err();
    assert!(error.contains("the keys here are limits.journal_segment"), "{error}");
}

#[test]
fn values_that_make_no_sense_are_refused_with_a_sentence() {
    for (extra, words) in [
        ("[cluster]\nfailure_timeout = \"500ms\"\n", "cluster.failure_timeout: expected 600ms or more"),
        ("[cluster]\nlease = \"2 parsecs\"\n", "expected a duration such as \"200ms\""),
        ("[limits]\njournal_segment = \"5000\"\n", "limits.journal_segment: expected 4MiB to 1GiB"),
        ("[limits]\njournal_max = \"32MiB\"\n", "limits.journal_max: expected 67108864 bytes or more"),
        ("[limits]\njournal_max = \"10GiB\"\n", "1509949440 bytes or less: 90 segments of 16777216 bytes"),
        ("[limits]\njournal_max = \"10GiB\"\n", "set journal_segment = \"114MiB\" or more, found 10737418240"),
        ("[limits]\nreplay_target = \"500ms\"\n", "limits.replay_target: expected 1s to 5m"),
        ("[limits]\ndisk_backend = \"floppy\"\n", "io_uring"),
    ] {
        let error = parse(&format!("{LEAST}{extra}")).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
    let error = parse("[node]\nname = \"n1\"\ndata_dir = \"/nowhere/at/all\"\n").unwrap_err();
    assert!(error.contains("parent /nowhere/at exists"), "{error}");
    let error = parse("[node]\nname = \"n1\"\ndata_dir = \"/tmp/x\"\n").unwrap_err();
    assert!(error.contains("listen.advertise"), "{error}");
    let error = parse("[node]\nname = \"../n1\"\ndata_dir = \"/tmp/x\"\n").unwrap_err();
    assert!(error.contains("node.name"), "{error}");
}

/// The file that the package installs.
const PACKAGED: &str = include_str!("../../../../packaging/holdfast.toml");

/// Its keys, uncommented: `#key = value`, while a sentence begins with `# `.
fn uncommented() -> String {
    let is_key = |rest: &str| rest.starts_with(|c: char| c.is_ascii_lowercase()) && rest.contains(" = ");
    let line = |line: &str| line.strip_prefix('#').filter(|rest| is_key(rest)).unwrap_or(line).to_owned();
    PACKAGED.lines().map(|l| line(l) + "\n").collect()
}

#[test]
fn the_packaged_file_shows_every_key_with_its_default() {
    let shown: toml::Table = toml::from_str(&uncommented()).expect("it is TOML");
    for (section, keys) in super::keys::SECTIONS {
        let table = shown[section].as_table().expect("a section is a table");
        let missing: Vec<&&str> = keys.iter().filter(|key| !table.contains_key(**key)).collect();
        assert!(missing.is_empty(), "packaging/holdfast.toml does not show {missing:?} of [{section}]");
    }
    let found = Config::parse(&uncommented(), Path::new("packaged")).expect("uncommented, it can be used");
    // What has no default is an example.
    let mut expected = found.clone();
    expected.listen = ListenConfig {
        peer: found.listen.peer,
        advertise: found.listen.advertise,
        metrics: found.listen.metrics,
        admin_group: found.listen.admin_group.clone(),
        viewer_group: found.listen.viewer_group.clone(),
        ..ListenConfig::default()
    };
    expected.cluster = ClusterConfig::default();
    expected.limits = LimitsConfig::default();
    expected.hooks = HooksConfig { dir: found.hooks.dir.clone(), ..HooksConfig::default() };
    assert_eq!(found, expected);
    assert_eq!(found.node.data_dir, Path::new("/var/lib/holdfast"));
    assert_eq!(found.listen.advertise, Some(found.listen.peer), "as if it were left out");
}

#[test]
fn the_packaged_file_alone_asks_for_what_must_be_set() {
    let sections_only: Vec<&str> = PACKAGED.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).collect();
    assert_eq!(
        sections_only,
        ["[node]", "data_dir = \"/var/lib/holdfast\"", "[listen]", "[cluster]", "[limits]", "[hooks]", "[failover]"]
    );
    let error = Config::parse(PACKAGED, Path::new("packaged")).expect_err("it names no node");
    assert!(error.to_string().contains("name"), "{error}");
}

/// Bytes of the packaged file changed, cut and doubled: it is read, or refused with one sentence that is not longer than a screen.
#[test]
fn whatever_is_in_the_file_it_is_read_or_refused_with_a_sentence() {
    let file = uncommented();
    let mut rng = holdfast_types::Rng::new(9);
    let mut below = |most: usize| usize::try_from(rng.below(most.max(1) as u64)).expect("it is below a usize");
    let pieces: [&[u8]; 12] =
        [b"\"", b"[", b"]", b"=", b"\n", b"\0", b"[node]\n", b"99999999999999999999", b"-1", b"TiB", b"ms", b"\xff"];
    let (mut read, mut refused) = (0, 0);
    for _ in 0..3000 {
        let mut bytes = file.clone().into_bytes();
        for _ in 0..=below(4) {
            let (at, piece) = (below(bytes.len()), pieces[below(pieces.len())]);
            match below(4) {
                0 => drop(bytes.splice(at..at, piece.iter().copied())),
                1 => drop(bytes.drain(at..(at + below(60)).min(bytes.len()))),
                2 => bytes[at] = piece[0],
                _ => bytes.truncate(at),
            }
        }
        match parse(&String::from_utf8_lossy(&bytes)) {
            Ok(_) => read += 1,
            Err(why) => {
                refused += 1;
                assert!(!why.contains('\n') && (10..2000).contains(&why.len()), "{why:?}");
            }
        }
    }
    assert!(read > 10 && refused > 1000, "{read} were read, {refused} refused");
}
