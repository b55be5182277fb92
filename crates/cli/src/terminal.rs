//! The terminal on standard input, changed for a while: for keys that come at once, and for what nobody is to see.

use std::io::{self, BufRead, IsTerminal, Read};
use std::mem::MaybeUninit;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// Longest line that is read.
const LINE_BYTES: u64 = 4 << 10;

/// Given back as it was when this is dropped.
pub(crate) struct Terminal {
    before: libc::termios,
}

impl Terminal {
    /// `None`: standard input is no terminal, and nothing was changed.
    ///
    /// # Errors
    /// It does not take the change.
    pub(crate) fn set(change: impl FnOnce(&mut libc::termios)) -> io::Result<Option<Terminal>> {
        let Some(before) = read_state() else { return Ok(None) };
        let mut state = before;
        change(&mut state);
        set_state(&state)?;
        Ok(Some(Terminal { before }))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A terminal that takes nothing any more needs nothing.
        let _ = set_state(&self.before);
    }
}

fn read_state() -> Option<libc::termios> {
    if !io::stdin().is_terminal() {
        return None;
    }
    let mut state = MaybeUninit::uninit();
    // SAFETY: tcgetattr writes one termios, which is there for it.
    let read = unsafe { libc::tcgetattr(libc::STDIN_FILENO, state.as_mut_ptr()) };
    // SAFETY: it was written if the call says so.
    (read == 0).then(|| unsafe { state.assume_init() })
}

fn set_state(state: &libc::termios) -> io::Result<()> {
    // SAFETY: tcsetattr reads one termios, which outlives the call.
    match unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, state) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The signals by which somebody ends what has the terminal: without these it would be left changed.
pub(crate) struct Ends([(SignalKind, Signal); 3]);

impl Ends {
    /// # Errors
    /// The system does not deliver them.
    pub(crate) fn listen() -> io::Result<Ends> {
        let of = |kind| Ok::<_, io::Error>((kind, signal(kind)?));
        Ok(Ends([of(SignalKind::interrupt())?, of(SignalKind::terminate())?, of(SignalKind::hangup())?]))
    }

    /// From now on they end the process again, as what follows does not listen for them; for this process, once for all.
    fn forget(self) {
        for (kind, _) in self.0 {
            // SAFETY: the default disposition is valid for every signal.
            unsafe { libc::signal(kind.as_raw_value(), libc::SIG_DFL) };
        }
    }

    /// The first of them that comes.
    pub(crate) async fn any(&mut self) -> SignalKind {
        let [(interrupted, interrupt), (terminated, terminate), (hung_up, hangup)] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => *interrupted,
            _ = terminate.recv() => *terminated,
            _ = hangup.recv() => *hung_up,
        }
    }
}

/// A line typed at the terminal, which does not show it. A signal ends the process as it would have, once the terminal is as it was.
///
/// # Errors
/// The terminal can't be read, or changed.
pub(crate) async fn hidden_line(prompt: &str) -> io::Result<String> {
    let mut ends = Ends::listen()?;
    let hidden = Terminal::set(|state| {
        state.c_lflag = state.c_lflag & !libc::ECHO | libc::ICANON | libc::ECHONL;
        // Nobody stops us while the terminal is not the shell's.
        (state.c_cc[libc::VSUSP], state.c_cc[libc::VQUIT]) = (0, 0);
    })?;
    eprint!("{prompt}");
    let (sender, line) = oneshot::channel();
    // A thread of its own: a runtime would wait for it after a signal, and it waits for a line.
    std::thread::spawn(move || {
        let mut text = String::new();
        let read = io::stdin().lock().take(LINE_BYTES).read_line(&mut text);
        // Nobody waits any more: the process ends.
        let _ = sender.send(read.map(|_| text));
    });
    let ended = tokio::select! {
        line = line => {
            drop(hidden);
            ends.forget();
            return line.map_err(|_| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        }
        ended = ends.any() => ended,
    };
    drop(hidden);
    eprintln!();
    die_of(ended)
}

/// So that whoever waits for this process learns why it ended.
fn die_of(kind: SignalKind) -> ! {
    let number = kind.as_raw_value();
    // SAFETY: the default disposition is valid for every signal, and raise touches no memory.
    unsafe {
        libc::signal(number, libc::SIG_DFL);
        libc::raise(number);
    }
    // Where the signal is blocked.
    std::process::exit(128 + number)
}
