//! How far something long is: a bar on the terminal behind stderr, nothing anywhere else.
//!
//! In no colour, so that NO_COLOR has nothing to ask for. Whoever also tells sentences where there is no terminal asks
//! [`Progress::is_shown`].

use crate::units;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::{Duration, Instant};

/// What has an end.
const BAR: &str = "{bar:20} {percent:>3} % {msg}";
/// What nobody knows the end of.
const SPINNER: &str = "{spinner} {msg}";
/// Between two looks of the bar at its own clock, so that it is seen to live while nothing is told.
const TICK: Duration = Duration::from_millis(200);
/// Lines below a bar; the rest is counted.
const NOTES: usize = 8;

/// One moment of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) done: u64,
    /// 0: nobody knows.
    pub(crate) all: u64,
    /// Beside the bar.
    pub(crate) text: String,
    /// A line each, below it.
    pub(crate) notes: Vec<String>,
}

impl Step {
    /// Nobody knows how long it takes.
    pub(crate) fn waiting(text: impl Into<String>) -> Step {
        Step { text: text.into(), ..Step::default() }
    }

    /// Everything but the bar.
    fn lines(&self) -> String {
        let mut lines = self.text.clone();
        for note in self.notes.iter().take(NOTES) {
            lines += &format!("\n  {note}");
        }
        match self.notes.len().saturating_sub(NOTES) {
            0 => lines,
            more => lines + &format!("\n  and {more} more"),
        }
    }
}

/// Cleared when it is dropped.
pub(crate) struct Progress {
    bar: ProgressBar,
    start: Instant,
    has_end: Option<bool>,
}

impl Progress {
    pub(crate) fn new() -> Progress {
        Progress::on(ProgressDrawTarget::stderr())
    }

    fn on(target: ProgressDrawTarget) -> Progress {
        let bar = ProgressBar::with_draw_target(None, target);
        Progress { bar, start: Instant::now(), has_end: None }
    }

    /// Whether anybody sees it.
    pub(crate) fn is_shown(&self) -> bool {
        !self.bar.is_hidden()
    }

    pub(crate) fn show(&mut self, step: impl FnOnce() -> Step) {
        if !self.is_shown() {
            return;
        }
        let step = step();
        let has_end = step.all > 0;
        let had_end = self.has_end.replace(has_end);
        if had_end.is_none() {
            self.look_like(has_end);
            self.bar.enable_steady_tick(TICK);
        }
        // Each of these may draw: the old text never stands beside a bar.
        self.bar.set_message(step.lines());
        if has_end {
            self.bar.set_length(step.all);
            self.bar.set_position(step.done.min(step.all));
        }
        if had_end == Some(!has_end) {
            self.look_like(has_end);
        }
    }

    fn look_like(&self, has_end: bool) {
        let template = if has_end { BAR } else { SPINNER };
        self.bar.set_style(ProgressStyle::with_template(template).expect("the template is right"));
    }

    /// What takes as long for the rest as for what is done.
    pub(crate) fn reach(&mut self, what: &str, done: u64, all: u64) {
        let elapsed = self.start.elapsed();
        self.show(|| {
            let left = left_text(units::left(done, all, elapsed));
            Step { done, all, text: format!("{what}{left}"), notes: Vec::new() }
        });
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// `, 12.0 s left`, in whole seconds; empty: nobody knows.
pub(crate) fn left_text(left: Option<Duration>) -> String {
    left.map_or_else(String::new, |left| {
        format!(", {} left", units::duration(Duration::from_secs(left.as_secs().max(1))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::TermLike;
    use std::io;
    use std::sync::{Arc, Mutex};

    /// Keeps what is written, whatever the cursor does.
    #[derive(Clone, Debug, Default)]
    struct Recorder(Arc<Mutex<String>>);

    impl Recorder {
        fn take(&self) -> String {
            std::mem::take(&mut *self.0.lock().expect("nobody panics with it"))
        }
    }

    impl TermLike for Recorder {
        fn width(&self) -> u16 {
            80
        }
        fn height(&self) -> u16 {
            24
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, line: &str) -> io::Result<()> {
            self.write_str(&format!("{line}\n"))
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            *self.0.lock().expect("nobody panics with it") += text;
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_bar_has_an_end_and_what_is_waited_for_has_none() {
        let term = Recorder::default();
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(term.clone()), 255);
        let mut progress = Progress::on(target);
        progress.show(|| Step::waiting("its file is being created"));
        progress.bar.force_draw();
        let shown = term.take();
        assert!(shown.contains(" its file is being created") && !shown.contains('%'), "{shown:?}");
        let notes = (0..NOTES + 2).map(|n| format!("vm{n}")).collect();
        progress.show(|| Step { done: 1, all: 4, text: "1 of 4 copies moved".to_owned(), notes });
        term.take();
        progress.bar.force_draw();
        let shown = term.take();
        assert!(shown.contains("█████░") && shown.contains("  25 % 1 of 4 copies moved"), "{shown:?}");
        assert!(shown.contains("  vm7") && !shown.contains("vm8") && shown.contains("and 2 more"), "{shown:?}");
        assert!(!shown.contains('\x1b'), "no colour: {shown:?}");
    }

    #[test]
    fn nobody_is_asked_for_what_nobody_sees() {
        let mut progress = Progress::on(ProgressDrawTarget::hidden());
        assert!(!progress.is_shown());
        progress.show(|| unreachable!("it is not shown"));
    }

    #[test]
    fn what_is_left_is_told_in_whole_seconds() {
        assert_eq!(left_text(None), "");
        assert_eq!(left_text(Some(Duration::from_millis(1900))), ", 1.0 s left");
        assert_eq!(left_text(Some(Duration::from_millis(9))), ", 1.0 s left");
        assert_eq!(left_text(Some(Duration::from_secs(125))), ", 2 min 5 s left");
    }
}
