//! Man pages and shell completions, out of the command line itself.

use crate::args::Cli;
use crate::error::CliError;
use clap::{Command, CommandFactory};
use clap_complete::{Shell, generate_to};
use std::path::Path;

/// `DIR/man/holdfast*.1`, one for each command, and `DIR/completions`.
pub(crate) fn write(dir: &Path) -> Result<(), CliError> {
    let (man, completions) = (dir.join("man"), dir.join("completions"));
    for dir in [&man, &completions] {
        std::fs::create_dir_all(dir).map_err(CliError::io("create the directory"))?;
    }
    let mut command = Cli::command();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut command, "holdfast", &completions).map_err(CliError::io("write completions"))?;
    }
    command.build();
    pages(&command, "holdfast", &man)
}

/// The page of a command, and those of its subcommands: `holdfast-volume-create.1`.
fn pages(command: &Command, name: &str, dir: &Path) -> Result<(), CliError> {
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut text).map_err(CliError::io("write a man page"))?;
    std::fs::write(dir.join(format!("{name}.1")), text).map_err(CliError::io("write a man page"))?;
    for subcommand in command.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help") {
        pages(subcommand, &format!("{name}-{}", subcommand.get_name()), dir)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_and_every_shell_completes() {
        let dir = tempfile::tempdir().expect("the temporary directory is writable");
        write(dir.path()).expect("it is written");
        let read =
            |file: &str| std::fs::read_to_string(dir.path().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        for page in
            ["holdfast", "holdfast-agent", "holdfast-volume-create", "holdfast-copy-replace", "holdfast-sim-what-if"]
        {
            let text = read(&format!("man/{page}.1"));
            assert!(text.contains(&format!(".TH {page} 1")) && text.contains("SYNOPSIS"), "{page}:\n{text}");
        }
        assert!(read("man/holdfast-volume-create.1").contains("holdfast volume create"));
        assert!(!dir.path().join("man/holdfast-manual.1").exists(), "what is hidden has none");
        for (file, word) in
            [("holdfast.bash", "_holdfast"), ("_holdfast", "#compdef holdfast"), ("holdfast.fish", "failover")]
        {
            assert!(read(&format!("completions/{file}")).contains(word), "{file}");
        }
    }
}
