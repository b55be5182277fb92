//! From the command line to the command, and from its outcome to an exit status.

use crate::args::{Cli, Command};
use crate::error::CliError;
use crate::{bench, commands, daemon, demo, manual, offline, simulate};
use clap::Parser;
use std::process::ExitCode;

/// The whole process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("holdfast: {error}");
            error.exit().into()
        }
    }
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
            die_of_broken_pipes();
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
    let attends = move || runtime.block_on(std::future::pending::<()>());
    std::thread::Builder::new().name("connection".to_owned()).spawn(attends).map_err(CliError::io("start a thread"))?;
    Ok(handle.block_on(command))
}

/// `holdfast events --follow | head` ends quietly instead of panicking in `println!`. Only for commands that print and end:
/// an agent must survive a guest that closes its socket.
fn die_of_broken_pipes() {
    // SAFETY: no other thread runs yet; SIG_DFL is a valid disposition for SIGPIPE.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}
