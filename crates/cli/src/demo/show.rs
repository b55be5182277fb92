//! The timeline as it happens, with a progress bar below it on a terminal.

use crate::args::Output;
use crate::units;
use crate::workload::Progress;
use holdfast_agent::may_colour;
use indicatif::{ProgressBar, ProgressStyle};
use std::time::{Duration, Instant};

/// Acts of the story, for the bar.
pub(super) const ACTS: u64 = 10;
const TICK: Duration = Duration::from_millis(120);

/// Where the story is told.
#[derive(Debug)]
pub(super) struct Show {
    started: Instant,
    bar: ProgressBar,
    /// Stdout belongs to JSON.
    to_stderr: bool,
    colour: bool,
}

impl Show {
    pub(super) fn new(output: Output) -> Show {
        let bar = ProgressBar::new(ACTS);
        let template = "{spinner:.cyan} [{bar:30.cyan/dim}] {msg}";
        bar.set_style(
            ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("━╸─"),
        );
        bar.enable_steady_tick(TICK);
        let to_stderr = output == Output::Json;
        let colour = if to_stderr { may_colour(&std::io::stderr()) } else { may_colour(&std::io::stdout()) };
        Show { started: Instant::now(), bar, to_stderr, colour }
    }

    /// Something is going on.
    pub(super) fn doing(&self, what: &str) {
        self.bar.set_message(what.to_owned());
    }

    /// Something is going on under load.
    pub(super) fn load(&self, what: &str, progress: &Progress) {
        let writes = units::count(progress.acknowledged);
        self.bar.set_message(format!(
            "{what} · {writes} writes acknowledged, {} reads checked",
            units::count(progress.reads)
        ));
    }

    /// Something happened: an act is over.
    pub(super) fn happened(&self, headline: &str, details: &str) {
        self.bar.inc(1);
        let at = self.started.elapsed();
        let time = format!("{:>4}.{} s", at.as_secs(), at.subsec_millis() / 100);
        let (dim, bold, end) = if self.colour { ("\x1b[2m", "\x1b[1m", "\x1b[0m") } else { ("", "", "") };
        self.note(&format!("{dim}{time}{end}  {bold}{headline}{end}"));
        for line in details.lines() {
            self.note(&format!("          {line}"));
        }
    }

    /// A line without a time.
    pub(super) fn note(&self, line: &str) {
        self.bar.suspend(|| if self.to_stderr { eprintln!("{line}") } else { println!("{line}") });
    }

    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}
