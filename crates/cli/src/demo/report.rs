//! The figures at the end.

use super::image::Verdict;
use crate::args::Output;
use crate::error::CliError;
use crate::output::Rows;
use crate::units;
use serde_json::{Value, json};
use std::time::Duration;

#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) seed: u64,
    pub(super) acknowledged: u64,
    pub(super) reads: u64,
    pub(super) lost: u64,
    pub(super) corrupt: u64,
    /// Other broken promises: I/O errors, answers of a deposed primary.
    pub(super) other: u64,
    /// The first broken promises, in words.
    pub(super) findings: Vec<String>,
    pub(super) switchover_pause: Duration,
    pub(super) failover: Duration,
    pub(super) catch_up: Duration,
    pub(super) digests_equal: bool,
    pub(super) image_identical: bool,
    pub(super) file_system: Verdict,
}

impl Report {
    pub(super) fn print(&self, output: Output) {
        match output {
            Output::Json => println!("{}", self.json()),
            Output::Table => println!("\n{}", self.table()),
        }
        for finding in &self.findings {
            eprintln!("BROKEN {finding}");
        }
    }

    fn json(&self) -> Value {
        json!({
            "acknowledged": self.acknowledged,
            "lost": self.lost,
            "corrupt": self.corrupt,
            "other": self.other,
            "reads_checked": self.reads,
            "switchover_pause_ms": millis(self.switchover_pause),
            "failover_ms": millis(self.failover),
            "catch_up_ms": millis(self.catch_up),
            "digests_equal": self.digests_equal,
            "image_identical": self.image_identical,
            "e2fsck": self.file_system.name(),
            "seed": self.seed,
        })
    }

    fn table(&self) -> Rows {
        let yes_no = |yes: bool| if yes { "yes" } else { "NO" }.to_owned();
        let mut table = Rows::new(&["what was promised", "what was found"]);
        for (what, found) in [
            ("writes acknowledged", units::count(self.acknowledged)),
            ("of these lost", units::count(self.lost)),
            ("sectors corrupt", units::count(self.corrupt)),
            ("reads checked on the way", units::count(self.reads)),
            ("longest pause of the switchover", units::duration(self.switchover_pause)),
            ("from SIGKILL to the next acknowledgement", units::duration(self.failover)),
            ("until the dead node had caught up", units::duration(self.catch_up)),
            ("digests of all copies equal", yes_no(self.digests_equal)),
            ("image identical", yes_no(self.image_identical)),
            ("e2fsck -fn", self.file_system.name().to_owned()),
        ] {
            table.add([what.to_owned(), found]);
        }
        table
    }

    /// What the exit status says.
    pub(super) fn verdict(&self) -> Result<(), CliError> {
        let mut broken = Vec::new();
        let mut expect = |ok: bool, sentence: String| {
            if !ok {
                broken.push(sentence)
            }
        };
        expect(self.lost == 0, format!("{} writes lost", self.lost));
        expect(self.corrupt == 0, format!("{} sectors corrupt", self.corrupt));
        expect(self.other == 0, format!("{} I/O errors or answers of a deposed primary", self.other));
        expect(self.digests_equal, "copies differ".to_owned());
        expect(self.image_identical, "the image differs from its source".to_owned());
        expect(self.file_system != Verdict::Damaged, "e2fsck finds damage".to_owned());
        if broken.is_empty() {
            Ok(())
        } else {
            Err(CliError::Broken(format!("{} (--seed {})", broken.join(", "), self.seed)))
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
fn sound() -> Report {
    Report {
        seed: 7,
        acknowledged: 1000,
        reads: 10,
        lost: 0,
        corrupt: 0,
        other: 0,
        findings: Vec::new(),
        switchover_pause: Duration::from_millis(40),
        failover: Duration::from_millis(1900),
        catch_up: Duration::from_millis(300),
        digests_equal: true,
        image_identical: true,
        file_system: Verdict::Clean,
    }
}

#[cfg(test)]
pub(crate) fn example() -> Value {
    sound().json()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    #[test]
    fn what_is_broken_is_in_the_figures_and_in_the_exit_status() {
        assert!(sound().verdict().is_ok());
        for (broken, key, found) in [
            (Report { digests_equal: false, ..sound() }, "digests_equal", Value::from(false)),
            (Report { lost: 3, ..sound() }, "lost", Value::from(3)),
            (Report { corrupt: 2, ..sound() }, "corrupt", Value::from(2)),
            (Report { image_identical: false, ..sound() }, "image_identical", Value::from(false)),
        ] {
            assert_eq!(broken.json()[key], found);
            assert_eq!(broken.verdict().unwrap_err().exit(), Exit::Failed, "{key}");
        }
    }
}
