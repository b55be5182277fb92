//! From the command line to the command, and from its outcome to an exit status.

use crate::args::{Cli, Command};
use crate::error::CliError;
use crate::{bench, commands, daemon, demo, manual, offline, simulate};
use clap::Parser;
use clap::error::ErrorKind;
use std::ffi::OsString;
use std::mem::MaybeUninit;
use std::process::ExitCode;

/// The whole process.
#[must_use]
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    match parse(&args).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("holdfast: {error}");
            error.exit().into()
        }
    }
}

/// People get what clap has to say, with hints and a usage; a program gets one sentence on one line, as for every other mistake.
fn parse(args: &[OsString]) -> Result<Cli, CliError> {
    Cli::try_parse_from(args).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => error.exit(),
        _ if !wants_json(args) => error.exit(),
        _ => CliError::Usage(in_one_line(&error)),
    })
}

/// What was wanted stands in arguments that could not be read.
fn wants_json(args: &[OsString]) -> bool {
    args.iter().any(|arg| arg == "--output=json")
        || args.windows(2).any(|pair| pair[0] == "--output" && pair[1] == "json")
}

fn in_one_line(error: &clap::Error) -> String {
    let help = "see `holdfast help`";
    if matches!(error.kind(), ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand) {
        return format!("expected a command, found none; {help}");
    }
    let text = error.to_string();
    let lines =
        text.lines().take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"));
    let mut sentence = String::new();
    for line in lines.map(str::trim).filter(|line| !line.is_empty()) {
        let (line, before) = match line.strip_prefix("tip: ") {
            Some(tip) => (tip, "; "),
            None => (line, " "),
        };
        sentence += if sentence.is_empty() { "" } else { before };
        sentence += line.strip_prefix("error: ").unwrap_or(line);
    }
    format!("{sentence}; {help}")
}

fn run(cli: Cli) -> Result<(), CliError> {
    let Cli { socket, output, timeout, command } = cli;
    match command {
        Command::Init(args) => daemon::init(&args.config, output),
        Command::Join(args) => daemon::join(&args, output),
        Command::Agent(args) => daemon::agent(&args.config),
        Command::Demo(args) => runtime()?.block_on(demo::run(args, output)),
        Command::Sim(args) => {
            die_of_broken_pipes();
            simulate::run(&args, output)
        }
        Command::Manual { dir } => manual::write(&dir),
        Command::Bench(args) => {
            let timeout = timeout.as_deref().map(commands::parse_timeout).transpose()?;
            bench::run(&socket, output, timeout, &args)
        }
        Command::SupportBundle(args) => {
            let timeout = timeout.as_deref().map(commands::parse_timeout).transpose()?;
            runtime()?.block_on(commands::support::run(&socket, output, timeout, &args))
        }
        Command::Fsck(args) => {
            die_of_broken_pipes();
            offline::fsck(&args, output)
        }
        Command::Control(command) => {
            die_of_broken_pipes();
            offline::control(&command, output)
        }
        Command::Export(args) => {
            die_of_broken_pipes();
            offline::export(&args, output)
        }
        command => {
            die_of_broken_pipes();
            let timeout = timeout.as_deref().map(commands::parse_timeout).transpose()?;
            attended(commands::run(&socket, output, timeout, command))?
        }
    }
}

/// One thread: the commands wait more than they work.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CliError::io("start the runtime"))
}

/// Runs a command that talks to an agent. A thread of its own answers the agent's pings meanwhile: the command itself may stand still for long,
/// while somebody reads a question, or a pager takes no more, and would lose its connection.
fn attended<T>(command: impl Future<Output = T>) -> Result<T, CliError> {
    let runtime = runtime()?;
    let handle = runtime.handle().clone();
    let attends = move || {
        outlive_broken_connections();
        runtime.block_on(std::future::pending::<()>());
    };
    std::thread::Builder::new().name("connection".to_owned()).spawn(attends).map_err(CliError::io("start a thread"))?;
    Ok(handle.block_on(command))
}

/// `holdfast events --follow | head` ends quietly instead of panicking in `println!`. Only for commands that print and end:
/// an agent must survive a guest that closes its socket, and a measurement tells that its server did.
fn die_of_broken_pipes() {
    // SAFETY: no other thread runs yet; SIG_DFL is a valid disposition for SIGPIPE.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// An agent that hangs up on this thread is an error, which a command can tell, or get over; without this it would end the process without
/// a word, as a closed pipe does.
fn outlive_broken_connections() {
    let mut signals = MaybeUninit::uninit();
    // SAFETY: the first call makes the set that the others read, and the signal is a valid one; a write raises it in its own thread alone.
    let blocked = unsafe {
        libc::sigemptyset(signals.as_mut_ptr());
        libc::sigaddset(signals.as_mut_ptr(), libc::SIGPIPE);
        libc::pthread_sigmask(libc::SIG_BLOCK, signals.as_ptr(), std::ptr::null_mut())
    };
    assert_eq!(blocked, 0, "a valid signal can be blocked");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_told_of_a_wrong_command_line_in_one_line() {
        for (line, words) in [
            ("holdfast --output json", "expected a command, found none"),
            (
                "holdfast --output json stauts",
                "unrecognized subcommand 'stauts'; a similar subcommand exists: 'status'",
            ),
            ("holdfast volume create v --output=json", "were not provided: --size <SIZE>"),
            ("holdfast volume create v --sise 1GiB --output json", "unexpected argument '--sise' found; a similar"),
            (
                "holdfast volume create v --size 1GiB --durability no --output json",
                "[possible values: sync, flush, async]",
            ),
            ("holdfast volume resize v --output json --size", "a value is required for '--size <SIZE>'"),
        ] {
            let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let error = parse(&args).expect_err("no such command line");
            let said = error.to_string();
            assert!(said.contains(words) && said.lines().count() == 1, "{line}: {said:?}");
            assert!(said.ends_with("; see `holdfast help`"), "{line}: {said:?}");
            assert_eq!(error.exit(), crate::Exit::Usage);
        }
    }
}
