//! The directory that the demo works in.

use super::show::Show;
use crate::error::CliError;
use std::fs;
use std::path::{Path, PathBuf};

/// Removed when dropped, unless it is to be kept.
#[derive(Debug)]
pub(super) struct Place {
    dir: PathBuf,
    keep: bool,
    /// Made by us, so ours to remove whole.
    ours: bool,
}

impl Place {
    pub(super) fn new(dir: Option<&Path>, keep: bool) -> Result<Place, CliError> {
        let ours = dir.is_none_or(|dir| !dir.exists());
        let dir = dir
            .map_or_else(|| std::env::temp_dir().join(format!("holdfast-{}", std::process::id())), Path::to_path_buf);
        fs::create_dir_all(&dir).map_err(CliError::io(format!("create {}", dir.display())))?;
        let dir = dir.canonicalize().map_err(CliError::io(format!("find {}", dir.display())))?;
        let mut entries = fs::read_dir(&dir).map_err(CliError::io(format!("read {}", dir.display())))?;
        if let Some(Ok(entry)) = entries.next() {
            let (dir, name) = (dir.display(), entry.file_name());
            let found = format!(
                "expected an empty directory for the demo, found {} in {dir}; name another with --dir",
                name.display()
            );
            return Err(CliError::Usage(found));
        }
        Ok(Place { dir, keep, ours })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn keep(&mut self) {
        self.keep = true;
    }

    pub(super) fn explain(&self, show: &Show) {
        if !self.keep {
            return;
        }
        let dir = self.dir.display();
        show.note(&format!(
            "\nKept in {dir}:\n  \
             {dir}/n1/log                      what an agent logged\n  \
             holdfast agent --config {dir}/n1/config.toml &   (and n2, n3: the cluster lives again)\n  \
             holdfast --socket {dir}/n1/admin.sock status\n  \
             rm -r {dir}                       when you are done"
        ));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if self.ours {
            // What can't be removed stays in the temporary directory.
            let _ = fs::remove_dir_all(&self.dir);
            return;
        }
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
    }
}
