//! The terminal while `holdfast top` has it: a screen of its own, and keys that come at once and are not shown.

use std::io::{IsTerminal, Write};
use std::mem::MaybeUninit;

/// Given back when this is dropped.
pub(super) struct Keys {
    /// How stdin was, if it is a terminal.
    before: Option<libc::termios>,
}

impl Keys {
    pub(super) fn take() -> std::io::Result<Keys> {
        let keys = Keys { before: read_state() };
        if let Some(mut state) = keys.before {
            state.c_lflag &= !(libc::ICANON | libc::ECHO);
            // A read returns at once, with what there is; nobody stops us in the middle of a screen that is not the shell's.
            (state.c_cc[libc::VMIN], state.c_cc[libc::VTIME], state.c_cc[libc::VSUSP]) = (0, 0, 0);
            set_state(&state)?;
        }
        let mut out = std::io::stdout().lock();
        out.write_all(b"\x1b[?1049h\x1b[?25l\x1b[2J")?;
        out.flush()?;
        Ok(keys)
    }

    /// Whether one of the keys that end it was pressed.
    pub(super) fn quit(&mut self) -> bool {
        if self.before.is_none() {
            return false;
        }
        let mut pressed = [0_u8; 64];
        // SAFETY: the buffer is as long as is said, and outlives the call.
        let read = unsafe { libc::read(libc::STDIN_FILENO, pressed.as_mut_ptr().cast(), pressed.len()) };
        let read = usize::try_from(read).unwrap_or(0);
        pressed[..read].iter().any(|key| matches!(key, b'q' | b'Q' | 0x03))
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        let mut out = std::io::stdout().lock();
        // A terminal that takes nothing any more needs nothing.
        let _ = out.write_all(b"\x1b[?25h\x1b[?1049l").and_then(|()| out.flush());
        if let Some(state) = &self.before {
            let _ = set_state(state);
        }
    }
}

fn read_state() -> Option<libc::termios> {
    if !std::io::stdin().is_terminal() {
        return None;
    }
    let mut state = MaybeUninit::uninit();
    // SAFETY: tcgetattr writes one termios, which is there for it.
    let read = unsafe { libc::tcgetattr(libc::STDIN_FILENO, state.as_mut_ptr()) };
    // SAFETY: it was written if the call says so.
    (read == 0).then(|| unsafe { state.assume_init() })
}

fn set_state(state: &libc::termios) -> std::io::Result<()> {
    // SAFETY: tcsetattr reads one termios, which outlives the call.
    match unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, state) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
