//! `data_dir/audit.log`: who asked for what, and what came of it. One JSON object on each line, on stable storage before the
//! call goes on; a call has two lines with the same `id`: one with the outcome `asked` before anything is done, and one after.
//!
//! A line is bounded ([`TEXT_BYTES`], [`LIST_ITEMS`]): whoever is refused could otherwise push out with a few long arguments what
//! others did. What was cut says how much.
//!
//! At [`ROTATE_AT`] the file is renamed to `audit.log.1`, that to `audit.log.2`, and so on; [`KEPT`] of them stay.
//!
//! A line that can't be written goes to the agent's log, and the call goes on: a full disk must not keep an operator from
//! making room.

use crate::random;
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes after which a new file is begun.
const ROTATE_AT: u64 = 16 << 20;
/// Older files.
const KEPT: u32 = 4;

/// What is kept of a text, and of a list.
const TEXT_BYTES: usize = 256;
const LIST_ITEMS: usize = 16;

/// Appends to the log; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Audit {
    log: Arc<Mutex<Log>>,
}

#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: Option<File>,
    bytes: u64,
    rotate_at: u64,
}

/// Who asked, and for what.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) id: u64,
    pub(crate) uid: u32,
    pub(crate) user: String,
    pub(crate) pid: Option<i32>,
    pub(crate) command: String,
    pub(crate) arguments: Value,
}

impl Audit {
    /// In `path`, which is made when the first line is written.
    pub(crate) fn new(path: PathBuf) -> Audit {
        Audit { log: Arc::new(Mutex::new(Log { path, file: None, bytes: 0, rotate_at: ROTATE_AT })) }
    }

    /// Returns when the line is on stable storage, or has gone to the agent's log instead. In a thread that may wait.
    pub(crate) async fn write(&self, entry: &Entry, outcome: &str) {
        let unix_ms = random::unix_ms();
        let line = json!({
            "time": utc(unix_ms),
            "unix_ms": unix_ms,
            "id": format!("{:016x}", entry.id),
            "uid": entry.uid,
            "user": entry.user,
            "pid": entry.pid,
            "command": cut_text(&entry.command),
            "arguments": cut(&entry.arguments),
            "outcome": cut_text(outcome),
        });
        let line = format!("{line}\n");
        let log = Arc::clone(&self.log);
        let append = move || {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = log.append(line.as_bytes()) {
                // Whatever half of a line is there: the next one begins a file anew, or at its end.
                log.file = None;
                tracing::error!(path = %log.path.display(), %error, line = line.trim_end(), "the audit log can't be written");
            }
        };
        // The runtime is going down: nobody is answered any more.
        let _ = tokio::task::spawn_blocking(append).await;
    }
}

impl Log {
    fn append(&mut self, line: &[u8]) -> std::io::Result<()> {
        if self.file.is_some() && self.bytes >= self.rotate_at {
            self.file = None;
            rotate(&self.path)?;
        }
        if self.file.is_none() {
            let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
            self.bytes = file.metadata()?.len();
            sync_directory(&self.path)?;
            self.file = Some(file);
        }
        let file = self.file.as_mut().expect("it was opened above");
        file.write_all(line)?;
        file.sync_data()?;
        self.bytes += line.len() as u64;
        Ok(())
    }
}

fn rotate(path: &Path) -> std::io::Result<()> {
    let older = |n: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{n}"));
        PathBuf::from(name)
    };
    for n in (1..KEPT).rev().filter(|n| older(*n).exists()) {
        std::fs::rename(older(n), older(n + 1))?;
    }
    std::fs::rename(path, older(1))?;
    sync_directory(path)
}

fn sync_directory(path: &Path) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

fn cut(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(cut_text(text)),
        Value::Array(items) => {
            let mut kept: Vec<Value> = items.iter().take(LIST_ITEMS).map(cut).collect();
            if items.len() > LIST_ITEMS {
                kept.push(Value::String(format!("[{} more were cut]", items.len() - LIST_ITEMS)));
            }
            Value::Array(kept)
        }
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), cut(value))).collect(),
        other => other.clone(),
    }
}

pub(crate) fn cut_text(text: &str) -> String {
    if text.len() <= TEXT_BYTES {
        return text.to_owned();
    }
    let kept = text.floor_char_boundary(TEXT_BYTES);
    format!("{}[{} bytes were cut]", &text[..kept], text.len() - kept)
}

/// `2026-11-29T22:10:04.123Z`.
pub(crate) fn utc(unix_ms: u64) -> String {
    let (days, ms) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    let (seconds, ms) = (ms / 1000, ms % 1000);
    // Days are counted from March of the year 0 on, so that the leap day is a year's last.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = year_of_era + era * 400 + next;
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{ms:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_what_they_are_called() {
        assert_eq!(utc(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(utc(951_827_696_789), "2000-02-29T12:34:56.789Z");
        assert_eq!(utc(1_772_323_199_000), "2026-02-28T23:59:59.000Z");
        assert_eq!(utc(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
    }

    #[test]
    fn what_is_long_is_cut_and_says_so() {
        let fits = json!({ "name": "x".repeat(TEXT_BYTES), "force": true, "on": vec!["n1"; LIST_ITEMS] });
        assert_eq!(cut(&fits), fits);
        // Cut between characters.
        let long = json!({ "name": format!("{}é{}", "x".repeat(TEXT_BYTES - 1), "y".repeat(1 << 20)), "on": vec!["n"; 100_000] });
        let cut = cut(&long);
        let name = format!("{}[{} bytes were cut]", "x".repeat(TEXT_BYTES - 1), (1 << 20) + 2);
        assert_eq!(cut["name"], name);
        assert_eq!(cut["on"].as_array().map(Vec::len), Some(LIST_ITEMS + 1));
        assert_eq!(cut["on"][LIST_ITEMS], format!("[{} more were cut]", 100_000 - LIST_ITEMS));
    }

    #[tokio::test]
    async fn lines_are_whole_and_old_ones_rotate_away() {
        let dir = tempfile::tempdir().expect("the temporary directory is writable");
        let path = dir.path().join("audit.log");
        let audit = Audit::new(path.clone());
        audit.log.lock().expect("nobody panicked").rotate_at = 1000;
        let entry = Entry {
            id: 7,
            uid: 1000,
            user: "ann \"o\"".to_owned(),
            pid: Some(9),
            command: "VolumeDelete".to_owned(),
            arguments: json!({ "name": "vm\n1" }),
        };
        for n in 0..60 {
            audit.write(&entry, &format!("{n}")).await;
        }
        let mut seen = Vec::new();
        for name in ["audit.log.4", "audit.log.3", "audit.log.2", "audit.log.1", "audit.log"] {
            let text = std::fs::read_to_string(dir.path().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert!(text.len() <= 1500 && text.ends_with('\n'), "{name}");
            for line in text.lines() {
                let line: Value = serde_json::from_str(line).expect("each line is JSON");
                assert_eq!((&line["user"], &line["arguments"]["name"]), (&json!("ann \"o\""), &json!("vm\n1")));
                seen.push(line["outcome"].as_str().and_then(|n| n.parse::<u32>().ok()).expect("a number"));
            }
        }
        let last: Vec<u32> = (60 - u32::try_from(seen.len()).expect("few")..60).collect();
        assert_eq!(seen, last, "none is missing between the oldest that is kept and the last");
        assert!(!dir.path().join("audit.log.5").exists());
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).expect("it is there").permissions());
        assert_eq!(mode & 0o777, 0o600);
    }
}
