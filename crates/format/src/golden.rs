//! Golden bytes: a format never changes by accident. Files hold hex, 32 bytes a line, runs of equal lines folded.

use std::fmt::Write;
use std::path::Path;

/// Panics unless `bytes` are those of `golden/NAME.hex`. With `HOLDFAST_BLESS=1` in the environment writes the file.
pub(crate) fn check(name: &str, bytes: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(format!("{name}.hex"));
    let text = dump(bytes);
    if std::env::var_os("HOLDFAST_BLESS").is_some() {
        std::fs::write(&path, &text).expect("the golden directory is writable");
    }
    let golden = std::fs::read_to_string(&path).expect("the golden file exists");
    assert_eq!(text, golden, "the bytes of {name} changed: a new format needs a new version and its own golden file");
}

fn dump(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut last: &[u8] = &[];
    for (i, line) in bytes.chunks(32).enumerate() {
        let end = (i + 1) * 32 >= bytes.len();
        if line != last || end {
            let hex = line.iter().fold(String::new(), |mut hex, b| {
                write!(hex, "{b:02x}").expect("writing to a string succeeds");
                hex
            });
            writeln!(text, "{:06x} {hex}", i * 32).expect("writing to a string succeeds");
        }
        last = line;
    }
    text
}
