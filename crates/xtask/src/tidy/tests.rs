//! Each check is able to fail, and stays silent where it should.

use super::size::{Ratchet, measure};
use super::source::{Source, find_word, test_modules};
use super::{Finding, bans, direction, size, text};

fn sentences(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(ToString::to_string).collect()
}

fn banned(path: &str, code: &str) -> Vec<String> {
    sentences(&bans::check(&Source::parse(path, code)))
}

const PURE: &str = "crates/store/src/lib.rs";

#[test]
fn a_finding_names_path_line_and_what_to_do() {
    let found = banned(PURE, "fn f() {\n    let t = Instant::now();\n}\n");
    assert_eq!(
        found,
        ["crates/store/src/lib.rs:2: a pure crate has no `Instant::now`: time comes in as the parameter `now`"]
    );
}

#[test]
fn every_banned_call_is_found_in_a_pure_crate_alone() {
    let calls = [
        "Instant::now()",
        "SystemTime::UNIX_EPOCH",
        "std::thread::sleep(d)",
        "thread::spawn(f)",
        "std::fs::read(p)",
        "std::net::TcpStream::connect(a)",
        "std::env::args()",
        "HashMap::new()",
        "HashSet::new()",
        "thread_rng()",
        "rand::random()",
        "f().await",
        "println!()",
        "eprintln!()",
        "print!()",
    ];
    for call in calls {
        let code = format!("fn f() {{ {call}; }}\n");
        assert!(!banned(PURE, &code).is_empty(), "{call} in a pure crate");
        assert!(banned("crates/agent/src/lib.rs", &code).is_empty(), "{call} in a shell");
        assert!(banned("crates/store/tests/disk.rs", &code).is_empty(), "{call} in a test");
        assert!(banned("crates/store/src/journal/tests.rs", &code).is_empty(), "{call} in a test");
    }
    assert_eq!(banned(PURE, "async fn f() {}\n").len(), 1);
}

#[test]
fn only_mutants_are_told_from_outside() {
    let code = "fn f() { std::env::var(x); std::fs::read(p); }\n";
    assert_eq!((banned(PURE, code).len(), banned("crates/types/src/mutant.rs", code).len()), (2, 1));
}

#[test]
fn names_that_only_contain_a_banned_one_are_free() {
    assert!(banned(PURE, "fn f() { operand::g(); MyHashMapper::new(); sprint!(); brand::x(); }\n").is_empty());
}

#[test]
fn grouped_imports_are_seen() {
    assert_eq!(banned(PURE, "use std::{collections::BTreeMap, fs};\n").len(), 1);
    assert_eq!(banned(PURE, "use std::{\n    env,\n    thread::sleep,\n};\n").len(), 2);
    assert!(banned(PURE, "use std::{fmt, collections::{fs, env}};\n").is_empty());
    assert!(banned(PURE, "#[cfg(test)]\nmod tests {\n    use std::{fs, env};\n}\n").is_empty());
}

#[test]
fn comments_and_literals_are_no_code() {
    let code = r##"
// std::fs::read
/* HashMap /* nested */ HashSet */
/// println!("x")
const A: &str = "SystemTime \" HashMap";
const B: &str = r#"thread_rng " HashMap"#;
const C: char = '"'; // '
const D: char = '\''; const E: char = 'ß';
fn f<'a>(x: &'a str) -> &'a str { x } // .unwrap()
"##;
    assert_eq!(banned(PURE, code), Vec::<String>::new());
    // And the lexer is in step afterwards.
    assert_eq!(banned(PURE, &format!("{code}fn g() {{ HashMap::new(); }}\n")).len(), 1);
}

#[test]
fn proofs_are_made_by_their_makers() {
    assert_eq!(banned("crates/node/src/lib.rs", "fn f() { Durable::attest(x) }\n").len(), 1);
    assert_eq!(banned("crates/agent/src/lib.rs", "fn f() { Quorum::attest(x) }\n").len(), 1);
    assert_eq!(banned("crates/store/src/lib.rs", "fn f() { Quorum::attest(x) }\n").len(), 1);
    assert_eq!(banned("crates/node/src/lib.rs", "fn f() { Answerable::attest(x) }\n").len(), 1);
    assert!(banned("crates/store/src/lib.rs", "fn f() { Durable::attest(x) }\n").is_empty());
    assert!(banned("crates/replication/src/lib.rs", "fn f() { Quorum::attest(x) }\n").is_empty());
}

#[test]
fn unwrap_is_for_tests() {
    let code = "fn f() { x.unwrap(); }\n";
    assert_eq!(banned("crates/cli/src/main.rs", code).len(), 1);
    assert!(banned("tests/src/lib.rs", code).is_empty());
    assert!(banned("crates/cli/src/main.rs", "fn f() { x.unwrap_or(1); }\n").is_empty());
    let tested = "fn f() {}\n#[cfg(test)]\nmod tests {\n    fn g() { x.unwrap(); }\n}\nfn h() { y.unwrap(); }\n";
    let found = banned("crates/cli/src/main.rs", tested);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("main.rs:6:"), "code behind a test module is code: {found:?}");
}

#[test]
fn leftovers_are_found_in_tests_too() {
    for word in [concat!("dbg", "!(x)"), concat!("todo", "!()")] {
        assert_eq!(banned("tests/src/lib.rs", &format!("fn f() {{ {word} }}\n")).len(), 1, "{word}");
    }
    for mark in [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")] {
        assert_eq!(text::check("docs/A.md", &format!("a line\nsome {mark}: do it\n")).len(), 1, "{mark}");
    }
    assert!(text::check("scripts/a", "mktemp -d /tmp/a.XXXXXX\n").is_empty());
}

#[test]
fn whitespace() {
    assert_eq!(sentences(&text::check("a.md", "good\nbad \n")), ["a.md:2: the line ends in whitespace; remove it"]);
    assert_eq!(text::check("a.rs", "\tlet x = 1;\n").len(), 1);
    assert!(text::check("Makefile", "\tcc\n").is_empty());
}

#[test]
fn files_of_test_modules_are_tests() {
    let parent = "mod a;\n#[cfg(test)]\nmod golden;\n#[cfg(test)]\npub(crate) mod kit;\n#[cfg(test)]\nmod here { }\n";
    let of = |path| test_modules(&Source::parse(path, parent));
    assert_eq!(of("crates/format/src/lib.rs"), ["crates/format/src/golden", "crates/format/src/kit"]);
    assert_eq!(
        of("crates/format/src/message.rs"),
        ["crates/format/src/message/golden", "crates/format/src/message/kit"]
    );
    let mut golden = Source::parse("crates/format/src/golden.rs", "fn f() { std::fs::read(p).unwrap(); }\n");
    assert_eq!(bans::check(&golden).len(), 2);
    golden.belong_to_tests();
    assert!(bans::check(&golden).is_empty());
}

fn manifest(dependencies: &str) -> String {
    format!("[package]\nname = \"x\"\n\n{dependencies}\n")
}

fn directed(path: &str, dependencies: &str) -> Vec<String> {
    sentences(&direction::check(path, &manifest(dependencies)).expect("the manifest is TOML"))
}

#[test]
fn crates_point_one_way() {
    let store = "crates/store/Cargo.toml";
    assert!(directed(store, "[dependencies]\nholdfast-types.workspace = true\nbytes = \"1\"").is_empty());
    let found = directed(store, "[dependencies]\nholdfast-replication.workspace = true");
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("crates/store/Cargo.toml:5: crate store must not depend on replication"), "{found:?}");
    assert_eq!(
        directed("crates/types/Cargo.toml", "[dependencies]\nholdfast-format = { path = \"../format\" }").len(),
        1
    );
    assert_eq!(directed("crates/node/Cargo.toml", "[dependencies]\nholdfast-agent.workspace = true").len(), 1);
    assert_eq!(directed("crates/agent/Cargo.toml", "[build-dependencies]\nholdfast-cli.workspace = true").len(), 1);
    assert!(directed(store, "[dev-dependencies]\nholdfast-sim.workspace = true").is_empty());
    assert!(directed("tests/Cargo.toml", "[dependencies]\nholdfast-agent.workspace = true").is_empty());
    assert_eq!(directed("crates/cellar/Cargo.toml", "").len(), 1);
}

#[test]
fn foreign_crates_have_owners() {
    for (foreign, owner, other) in [
        ("quinn", "transport", "agent"),
        ("io-uring", "disk", "store"),
        ("memmap2", "disk", "store"),
        ("raft", "consensus", "cluster"),
        ("raft-prost", "consensus", "node"),
        ("slog", "consensus", "agent"),
        ("tokio", "agent", "node"),
        ("redb", "agent", "consensus"),
        ("rcgen", "transport", "cli"),
    ] {
        let line = format!("[dependencies]\n{foreign}.workspace = true");
        assert!(directed(&format!("crates/{owner}/Cargo.toml"), &line).is_empty(), "{foreign} in {owner}");
        assert_eq!(directed(&format!("crates/{other}/Cargo.toml"), &line).len(), 1, "{foreign} in {other}");
    }
    assert_eq!(directed("crates/sim/Cargo.toml", "[dev-dependencies]\ntokio = \"1\"").len(), 1);
    assert_eq!(
        directed("crates/sim/Cargo.toml", "[target.'cfg(unix)'.dependencies]\nq = { package = \"quinn\" }").len(),
        1
    );
}

fn sized(path: &str, code: &str, ratchet: &str) -> Vec<String> {
    let ratchet = Ratchet::parse(ratchet).expect("the ratchet is TOML");
    sentences(&size::check(&measure(&Source::parse(path, code)), &ratchet))
}

fn function(lines: usize) -> String {
    format!("fn long(a: [u8; 2]) {{\n{}}}\n", "    a;\n".repeat(lines - 2))
}

#[test]
fn files_have_a_limit_without_their_tests() {
    let lines = |n: usize| "const A: u8 = 0;\n".repeat(n);
    let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", lines(900));
    assert!(sized("a.rs", &(lines(800) + &tests), "").is_empty());
    assert_eq!(sized("a.rs", &lines(801), "").len(), 1);
    assert!(sized("crates/a/src/tests.rs", &lines(900), "").is_empty());
}

#[test]
fn functions_have_a_limit() {
    assert!(sized("a.rs", &function(70), "").is_empty());
    let found = sized("a.rs", &format!("\n{}", function(71)), "");
    assert_eq!(found, ["a.rs:2: function `long` has at most 70 lines, found 71; split it by role"]);
    assert!(sized("a.rs", "trait T {\n    fn f(&self);\n    fn g(x: fn(u8) -> u8);\n}\n", "").is_empty());
}

#[test]
fn the_ratchet_only_shrinks() {
    let entry = |n: usize| format!("[functions]\n\"a.rs::long\" = {n}\n");
    assert!(sized("a.rs", &function(90), &entry(90)).is_empty());
    assert!(sized("a.rs", &function(91), &entry(90))[0].contains("may only shrink"));
    assert!(sized("a.rs", &function(89), &entry(90))[0].contains("lower its entry"));
    assert!(sized("a.rs", &function(60), &entry(90))[0].contains("remove its entry"));
    assert!(sized("a.rs", "", &entry(90))[0].contains("does not exist"));
    assert!(Ratchet::parse("[misspelt]\n").is_err());
}

#[test]
fn words_have_ends() {
    assert_eq!(find_word("operand::x rand::y", "rand::"), Some(11));
    assert_eq!(find_word("fnord fn f", "fn"), Some(6));
}

/// The tool on the repository that it is for: whatever it says, it says it without an error of its own.
#[test]
fn the_repository_can_be_looked_at() {
    super::check(&crate::root()).expect("tidy reads the repository");
}
