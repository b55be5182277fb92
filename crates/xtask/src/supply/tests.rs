//! Each check finds what it is for.

use super::version::{Version, matches};
use super::*;

const RULES: &str = r#"
[bans]
deny = [{ crate = "openssl-sys", reason = "one TLS is enough" }]
[advisories]
ignore = [{ id = "RUSTSEC-1", reason = "a test" }]
"#;

fn packages(list: &[(&str, &str)]) -> BTreeSet<Locked> {
    let of = |(name, version): &(&str, &str)| Locked {
        name: (*name).to_owned(),
        version: (*version).to_owned(),
        source: Some(REGISTRY.to_owned()),
        checksum: true,
    };
    list.iter().map(of).collect()
}

fn meets(requirement: &str, version: &str) -> bool {
    matches(requirement, Version::parse(version).expect("a version")).expect("a requirement")
}

#[test]
fn versions_meet_requirements_as_semver_says() {
    for (requirement, inside, outside) in [
        (">= 1.2.3", "1.2.3", "1.2.2"),
        ("> 1.2", "1.2.1", "1.2.0"),
        ("< 1.0.0", "0.9.9", "1.0.0"),
        ("<= 0.5", "0.5.0", "0.5.1"),
        ("= 1.0.0", "1.0.0", "1.0.1"),
        ("^1.2", "1.9.0", "2.0.0"),
        ("^0.3.24", "0.3.26", "0.4.0"),
        ("^0.0.3", "0.0.3", "0.0.4"),
        ("~1.2", "1.2.9", "1.3.0"),
        ("1.4", "1.5.0", "2.0.0"),
        (">= 0.3.24, < 0.4", "0.3.30", "0.4.1"),
        (">= 1.0.0", "1.0.0+build", "1.0.0-rc.1"),
    ] {
        assert!(meets(requirement, inside), "{inside} meets {requirement}");
        assert!(!meets(requirement, outside), "{outside} does not meet {requirement}");
    }
    assert!(meets("*", "0.1.0"));
    assert!(matches("newest", Version::parse("1.0.0").expect("a version")).is_err() && Version::parse("1.x").is_err());
}

#[test]
fn licences_are_expressions() {
    let allowed: BTreeSet<&str> = ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"].into();
    let allows = |text: &str| licence::allows(text, &allowed);
    for good in [
        "MIT",
        "GPL-3.0 OR MIT",
        "MIT/GPL-3.0",
        "MIT AND ISC",
        "(GPL-3.0 OR ISC) AND MIT",
        "Apache-2.0 WITH LLVM-exception",
    ] {
        assert_eq!(allows(good), Ok(true), "{good}");
    }
    for bad in ["GPL-3.0", "MIT AND GPL-3.0", "(MIT AND GPL-3.0) OR GPL-2.0", "Apache-2.0", "MIT WITH LLVM-exception"] {
        assert_eq!(allows(bad), Ok(false), "{bad}");
    }
    for wrong in ["", "MIT OR", "(MIT", "MIT ISC", "AND MIT"] {
        assert!(allows(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn other_sources_and_banned_crates_are_found() {
    let lock = r#"
[[package]]
name = "ours"
version = "0.1.0"

[[package]]
name = "forked"
version = "1.0.0"
source = "git+https://example.org/forked#0123"

[[package]]
name = "openssl-sys"
version = "0.9.0"
source = "registry+https://github.com/rust-lang/crates.io-index"
"#;
    let locked = locked(lock).expect("a lock file");
    let found = sources("Cargo.lock", &locked);
    assert!(found.len() == 2 && found[0].contains("forked") && found[1].contains("checksum"), "{found:?}");
    let rules = RULES.parse().expect("TOML");
    let found = banned("Cargo.lock", &locked, &rules).expect("good rules");
    assert!(found.len() == 1 && found[0].contains("one TLS is enough"), "{found:?}");
}

#[test]
fn known_flaws_are_found_and_exceptions_must_be_of_use() {
    let file = "```toml\n[advisory]\nid = \"RUSTSEC-2\"\npackage = \"a\"\ndate = \"2026-01-01\"\n\n[versions]\npatched = [\">= 1.2.0\"]\n\
                unaffected = [\"< 1.0.0\"]\n```\n\n# It reads too far\n\nText.\n";
    let entry = advisories::entry_of(file).expect("it was not withdrawn");
    assert!(advisories::entry_of(&file.replace("date =", "withdrawn =")).is_none());
    let snapshot: Table = format!("covers = [\"a\", \"b\"]\n{entry}").parse().expect("TOML");
    let rules: Table = RULES.parse().expect("TOML");
    let check = |list: &[(&str, &str)], rules: &Table| {
        advisories::check(&packages(list), &snapshot, rules).expect("good rules")
    };
    let unused = "deny.toml ignores RUSTSEC-1, which concerns nothing here; take it out";
    for (version, flawed) in [("1.1.9", true), ("1.2.0", false), ("0.9.0", false)] {
        let found = check(&[("a", version), ("b", "1.0.0")], &rules);
        assert_eq!(
            found.iter().any(|s| s.contains("RUSTSEC-2") && s.contains("It reads too far")),
            flawed,
            "{found:?}"
        );
        assert!(found.iter().any(|s| s == unused), "{found:?}");
    }
    let excused: Table = RULES.replace("RUSTSEC-1", "RUSTSEC-2").parse().expect("TOML");
    assert!(check(&[("a", "1.1.9")], &excused).is_empty());
    assert!(check(&[("new", "1.0.0")], &excused)[0].contains("newer than the snapshot"));
}
