//! The terminal while `holdfast top` has it: a screen of its own, and keys that come at once and are not shown.

use crate::terminal::Terminal;
use std::io::Write;

/// Given back when this is dropped.
pub(super) struct Keys {
    /// If stdin is one.
    terminal: Option<Terminal>,
}

impl Keys {
    pub(super) fn take() -> std::io::Result<Keys> {
        let terminal = Terminal::set(|state| {
            state.c_lflag &= !(libc::ICANON | libc::ECHO);
            // A read returns at once, with what there is; nobody stops us in the middle of a screen that is not the shell's.
            (state.c_cc[libc::VMIN], state.c_cc[libc::VTIME], state.c_cc[libc::VSUSP]) = (0, 0, 0);
        })?;
        let keys = Keys { terminal };
        let mut out = std::io::stdout().lock();
        out.write_all(b"\x1b[?1049h\x1b[?25l\x1b[2J")?;
        out.flush()?;
        Ok(keys)
    }

    /// Whether one of the keys that end it was pressed.
    pub(super) fn quit(&mut self) -> bool {
        if self.terminal.is_none() {
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
    }
}
