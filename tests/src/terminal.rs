//! Commands on a terminal of their own.

use std::io::{Read, Write};
use std::process::{Command, ExitStatus, Stdio};

/// A shell's line on a terminal of its own (script(1)), with keys pressed once what it has shown is `ready`; how it ended, and what it
/// has shown.
///
/// # Panics
/// script(1) could not be run, or is deaf.
pub fn on_a_terminal(line: &str, keys: &str, no_color: bool, ready: impl Fn(&str) -> bool) -> (ExitStatus, String) {
    let mut script = Command::new("timeout");
    // Longer than any wait of whoever looks at what the command waits for.
    script.args(["360", "script", "--quiet", "--return", "--command", line, "/dev/null"]);
    script.env("TERM", "xterm-256color").env_remove("NO_COLOR");
    if no_color {
        script.env("NO_COLOR", "1");
    }
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("script(1) is there");
    let (mut stdin, mut stdout) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
    let (mut shown, mut chunk) = (Vec::new(), [0; 4096]);
    let mut pressed = false;
    loop {
        let count = stdout.read(&mut chunk).expect("it is a pipe");
        shown.extend_from_slice(&chunk[..count]);
        if count == 0 {
            break;
        }
        if !pressed && ready(&String::from_utf8_lossy(&shown)) {
            stdin.write_all(keys.as_bytes()).expect("it is heard");
            pressed = true;
        }
    }
    (child.wait().expect("it is ours"), String::from_utf8_lossy(&shown).into_owned())
}

/// How many codes for colours (SGR) stand in what a terminal was shown.
#[must_use]
pub fn colours(shown: &str) -> usize {
    let codes = shown.split("\x1b[").skip(1);
    codes
        .filter(|rest| rest.find(|c: char| c.is_ascii_alphabetic()).is_some_and(|at| rest[at..].starts_with('m')))
        .count()
}

#[test]
fn colours_are_told_from_movements() {
    assert_eq!(colours("\x1b[2K\x1b[1A plain m \x1b[?1049h"), 0);
    assert_eq!(colours("\x1b[31mred\x1b[0m"), 2);
}
