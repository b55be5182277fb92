//! What stands behind stdout: how wide it is, and whether it shows colours.
//!
//! Nothing but text goes to what is no terminal, and no colours to one where NO_COLOR is set (no-color.org).

use std::io::IsTerminal;
use std::os::fd::AsRawFd;

/// What every table fits into.
pub(crate) const COLUMNS: usize = 80;
/// No table gets narrower.
const LEAST: usize = 40;
/// Rows of a terminal that does not tell.
const ROWS: usize = 24;

/// How good a state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Good,
    Warn,
    Bad,
    /// Not a state, or none that is better or worse than others.
    Plain,
}

impl Tone {
    /// Of a word for the state of a node, a volume or a copy, with whatever follows a comma behind it.
    pub(crate) fn of(state: &str) -> Tone {
        match state.split(',').next().unwrap_or_default() {
            "up" | "healthy" => Tone::Good,
            "restarting" | "degraded" | "opening" | "catching_up" | "resyncing" | "joining" | "leaving"
            | "creating" | "deleting" | "aside" => Tone::Warn,
            "down" | "stalled" | "failed" | "lost" | "hung" | "unreachable" => Tone::Bad,
            _ => Tone::Plain,
        }
    }
}

/// Whether colours may go to stdout.
pub(crate) fn colour() -> bool {
    !cfg!(test) && holdfast_agent::may_colour(&std::io::stdout())
}

/// The text in the colour of its tone, where there are colours.
pub(crate) fn paint(text: &str, tone: Tone) -> String {
    let code = match tone {
        Tone::Good => "32",
        Tone::Warn => "33",
        Tone::Bad => "1;31",
        Tone::Plain => return text.to_owned(),
    };
    if colour() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// Columns that a table may take: those of the terminal; without one those that `COLUMNS` says, or 80.
pub(crate) fn columns() -> usize {
    if cfg!(test) {
        return COLUMNS;
    }
    let told = || std::env::var("COLUMNS").ok()?.parse().ok();
    size().map(|(columns, _)| columns).or_else(told).unwrap_or(COLUMNS).max(LEAST)
}

/// Rows of the terminal.
pub(crate) fn rows() -> usize {
    size().map_or(ROWS, |(_, rows)| rows)
}

/// Columns and rows of the terminal on stdout, if it is one that tells.
fn size() -> Option<(usize, usize)> {
    if !std::io::stdout().is_terminal() {
        return None;
    }
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one winsize, which outlives the call, and nothing else.
    let asked = unsafe { libc::ioctl(std::io::stdout().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    let known = asked == 0 && size.ws_col > 0 && size.ws_row > 0;
    known.then(|| (usize::from(size.ws_col), usize::from(size.ws_row)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_the_tone_of_their_first_word() {
        assert_eq!(Tone::of("up, draining"), Tone::Good);
        assert_eq!((Tone::of("degraded"), Tone::of("unreachable")), (Tone::Warn, Tone::Bad));
        assert_eq!((Tone::of("-"), Tone::of("a state of a later agent")), (Tone::Plain, Tone::Plain));
        assert_eq!(paint("text", Tone::Bad), "text", "tests compare text");
    }
}
