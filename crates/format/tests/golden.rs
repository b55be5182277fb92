//! The bytes of every format, frozen. A change of a golden file is a change of the format: it needs a new version.
//!
//! `HOLDFAST_BLESS=1 cargo test -p holdfast-format --test golden` writes the files, and the fuzzers' first inputs with them.
#![allow(missing_docs)]

mod common;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

fn hex(bytes: &[u8]) -> String {
    let line = |chunk: &[u8]| {
        chunk.iter().fold(String::new(), |mut line, byte| {
            write!(line, "{byte:02x}").expect("a string takes everything");
            line
        })
    };
    bytes.chunks(32).map(|chunk| line(chunk) + "\n").collect()
}

#[test]
fn encodings_are_those_of_the_golden_files() {
    let bless = std::env::var_os("HOLDFAST_BLESS").is_some();
    for (decoder, name, bytes) in common::encodings() {
        let path = root().join("golden").join(format!("{}-{name}.hex", decoder.replace('_', "-")));
        if bless {
            fs::write(&path, hex(&bytes)).expect("the golden file is writable");
            let corpus = root().join("../../fuzz/corpus").join(decoder);
            fs::create_dir_all(&corpus).expect("the corpus is writable");
            fs::write(corpus.join(name), &bytes).expect("the corpus is writable");
        }
        let golden = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(hex(&bytes), golden, "{} differs from what is encoded now", path.display());
    }
}
