//! docs/JSON.md, held against what the commands print: every command, every field, every type, in both directions.

mod examples;

use crate::args::Cli;
use clap::{Command, CommandFactory};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Commands without an answer in JSON.
const SILENT: [&str; 1] = ["agent"];

/// What the file says.
struct Documented {
    /// What each command prints.
    commands: BTreeMap<String, String>,
    /// Fields of each object, with their types.
    objects: BTreeMap<String, BTreeMap<String, String>>,
}

impl Documented {
    fn read(text: &str) -> Documented {
        let mut found = Documented { commands: BTreeMap::new(), objects: BTreeMap::new() };
        let mut object: Option<String> = None;
        for line in text.lines() {
            if let Some(title) = line.strip_prefix("### ") {
                object = Some(title.to_owned());
                assert!(
                    found.objects.insert(title.to_owned(), BTreeMap::new()).is_none(),
                    "{title} stands there twice"
                );
            } else if let Some(base) = line.strip_prefix("Every field of ") {
                let base = found.objects[base.trim_end_matches(", and")].clone();
                found.objects.insert(object.clone().expect("it is about an object"), base);
            } else if let Some(row) = line.strip_prefix("| `") {
                let (name, rest) = row.split_once("` | ").unwrap_or_else(|| panic!("{line}"));
                let kind = rest.split(" |").next().unwrap_or_default().to_owned();
                let table = object
                    .as_ref()
                    .map_or(&mut found.commands, |o| found.objects.get_mut(o).expect("its title was read"));
                assert!(table.insert(name.to_owned(), kind).is_none(), "{name} stands there twice");
            }
        }
        found
    }

    /// Panics unless the value is what is documented; notes which fields were there and had a value.
    fn check(&self, at: &str, value: &Value, kind: &str, seen: &mut BTreeSet<(String, String)>) {
        let kind = match kind.strip_suffix(" or null") {
            Some(_) if value.is_null() => return,
            Some(kind) => kind,
            None => kind,
        };
        let inner = |open, close| kind.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
        if let Some(kind) = inner('[', ']') {
            let items = value.as_array().unwrap_or_else(|| panic!("{at}: expected a list, found {value}"));
            items.iter().for_each(|item| self.check(&format!("{at}[]"), item, kind, seen));
        } else if let Some(kind) = inner('{', '}') {
            let fields = value.as_object().unwrap_or_else(|| panic!("{at}: expected an object, found {value}"));
            fields.iter().for_each(|(key, item)| self.check(&format!("{at}.{key}"), item, kind, seen));
        } else if let Some(fields) = self.objects.get(kind) {
            let found = value.as_object().unwrap_or_else(|| panic!("{at}: expected {kind}, found {value}"));
            for name in found.keys() {
                assert!(fields.contains_key(name), "{at}.{name} is not in docs/JSON.md, {kind}");
            }
            for (name, kind_of_it) in fields {
                let item = found.get(name).unwrap_or_else(|| panic!("{at}: expected {name} of {kind}, found {value}"));
                self.check(&format!("{at}.{name}"), item, kind_of_it, seen);
                if !item.is_null() {
                    seen.insert((kind.to_owned(), name.clone()));
                }
            }
        } else {
            let fits = match kind {
                "string" => value.is_string(),
                "boolean" => value.is_boolean(),
                "integer" => value.is_u64(),
                "number" => value.is_number(),
                other => panic!("{at}: docs/JSON.md names a type {other}, which is not in it"),
            };
            assert!(fits, "{at}: expected {kind}, found {value}");
        }
    }
}

/// `volume create`: the commands that have no others below them.
fn leaves(command: &Command, name: &str, found: &mut BTreeSet<String>) {
    let below: Vec<&Command> =
        command.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help").collect();
    // `sim` does something by itself, too.
    if !name.is_empty() && (below.is_empty() || !command.is_subcommand_required_set()) {
        found.insert(name.to_owned());
    }
    for subcommand in below {
        leaves(subcommand, format!("{name} {}", subcommand.get_name()).trim_start(), found);
    }
}

#[test]
fn every_field_of_every_command_is_documented() {
    let documented = Documented::read(include_str!("../../../../docs/JSON.md"));
    let mut commands = BTreeSet::new();
    leaves(&Cli::command(), "", &mut commands);
    SILENT.iter().for_each(|silent| assert!(commands.remove(*silent), "{silent}"));
    let of = |row: &str| row.split(" --").next().unwrap_or_default().to_owned();
    assert_eq!(documented.commands.keys().map(|row| of(row)).collect::<BTreeSet<_>>(), commands, "what prints JSON");
    let (mut seen, mut shown) = (BTreeSet::new(), BTreeSet::new());
    for (command, value) in examples::all() {
        let kind = documented.commands.get(command).unwrap_or_else(|| panic!("{command} is not in docs/JSON.md"));
        documented.check(command, &value, kind, &mut seen);
        shown.insert(command.to_owned());
    }
    assert_eq!(shown, documented.commands.keys().cloned().collect(), "each has an example");
    // Only a seed that fails has it, and a test of its own in `simulate`.
    seen.insert(("Simulated".to_owned(), "shrunk".to_owned()));
    let told = documented.objects.iter().flat_map(|(o, fields)| fields.keys().map(|f| (o.clone(), f.clone())));
    let rotten: Vec<_> = told.filter(|field| !seen.contains(field)).collect();
    assert!(rotten.is_empty(), "no command prints these: {rotten:?}");
}

#[test]
fn what_is_missing_or_wrong_is_found() {
    let documented = Documented::read("| `a` | A |\n### A\n| `x` | integer | |\n| `y` | [string] or null | |\n");
    let finds = |value: Value| {
        let check = || documented.check("a", &value, "A", &mut BTreeSet::new());
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(check)).is_err()
    };
    use serde_json::json;
    assert!(!finds(json!({ "x": 1, "y": null })) && !finds(json!({ "x": 1, "y": ["text"] })));
    for wrong in [
        json!({ "x": 1 }),
        json!({ "x": 1, "y": null, "z": 2 }),
        json!({ "x": "1", "y": null }),
        json!({ "x": null, "y": null }),
        json!({ "x": 1, "y": [1] }),
        json!([]),
    ] {
        assert!(finds(wrong.clone()), "{wrong}");
    }
}

/// Rows of tables begin with a blank, the lines around them are drawn; everything else is a sentence.
#[test]
fn tables_fit_80_columns_whatever_the_names() {
    for (command, text) in examples::tables() {
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with([' ', '─', '═'])).collect();
        assert!(rows.len() >= 4, "{command} prints a table:\n{text}");
        for row in rows {
            assert!(row.chars().count() <= super::screen::COLUMNS, "{command}: {row}");
        }
        assert!(text.contains('…') && !text.contains('\x1b'), "{command}:\n{text}");
    }
}
