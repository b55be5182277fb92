//! Which keys exist, and which one was probably meant.

pub(super) const SECTIONS: [(&str, &[&str]); 6] = [
    ("node", &["name", "data_dir", "failure_domain", "witness", "on_term"]),
    ("listen", &["peer", "advertise", "metrics", "admin", "admin_group", "viewer_group", "nbd_dir"]),
    (
        "cluster",
        &["voter", "heartbeat", "failure_timeout", "lease", "replace_after", "restart_window", "certificate_lifetime"],
    ),
    (
        "limits",
        &[
            "journal_segment",
            "journal_max",
            "replay_target",
            "table_cache",
            "disk_backend",
            "max_inflight",
            "mtu",
            "scrub_period",
            "resync_bandwidth",
            "resyncs",
            "handover_timeout",
        ],
    ),
    ("hooks", &["dir", "timeout"]),
    ("failover", &["slow_latency", "slow_primary"]),
];

/// Whether there is such a key.
pub(super) fn is_key(section: &str, key: &str) -> bool {
    SECTIONS.iter().any(|(name, keys)| *name == section && keys.contains(&key))
}

/// The first key that nobody reads, and what to do about it.
pub(super) fn unknown(table: &toml::Table) -> Option<(String, String)> {
    for (section, value) in table {
        let Some((_, known)) = SECTIONS.iter().find(|(name, _)| name == section) else {
            let names: Vec<String> = SECTIONS.iter().map(|(name, _)| (*name).to_owned()).collect();
            return Some((section.clone(), hint(section, &names, "sections")));
        };
        let Some(entries) = value.as_table() else { continue };
        if let Some(key) = entries.keys().find(|key| !known.contains(&key.as_str())) {
            // A known key in the wrong section is likelier than a slip of the pen.
            let home = SECTIONS.iter().find(|(_, keys)| keys.contains(&key.as_str()));
            let hint = match home {
                Some((home, _)) => format!("`{key}` belongs to [{home}]"),
                None => hint(key, &known.iter().map(|k| format!("{section}.{k}")).collect::<Vec<_>>(), "keys"),
            };
            return Some((format!("{section}.{key}"), hint));
        }
    }
    None
}

fn hint(found: &str, known: &[String], what: &str) -> String {
    let name = |k: &String| k.rsplit('.').next().map_or(0, |last| distance(found, last));
    match known.iter().min_by_key(|k| name(k)) {
        Some(closest) if name(closest) <= 1 + found.len() / 3 => format!("did you mean `{closest}`?"),
        _ => format!("the {what} here are {}", known.join(", ")),
    }
}

/// Levenshtein's distance, by characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
