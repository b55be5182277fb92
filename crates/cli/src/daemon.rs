//! The commands that are the daemon's own: they run in this process and need no admin socket.

use crate::args::{JoinArgs, Output};
use crate::error::CliError;
use crate::output;
use crate::run::runtime;
use crate::terminal::hidden_line;
use holdfast_agent::config::Config;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{IsTerminal, Read};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;

/// Read of a token's file: many times a token.
const TOKEN_BYTES: u64 = 4 << 10;

pub(crate) fn init(config: &Path, output: Output) -> Result<(), CliError> {
    let config = Config::load(config)?;
    runtime()?.block_on(holdfast_agent::found(&config))?;
    settled(&config, output, "founded a cluster");
    Ok(())
}

pub(crate) fn join(args: &JoinArgs, output: Output) -> Result<(), CliError> {
    let config = Config::load(&args.config.config)?;
    let address = resolve(&args.address)?;
    let token = match (&args.token, &args.token_file) {
        (Some(token), _) => token.clone(),
        (None, Some(file)) => read_token(file)?,
        (None, None) => return Err(CliError::Usage("expected --token-file, found no token".to_owned())),
    };
    runtime()?.block_on(holdfast_agent::join(&config, address, &token))?;
    settled(&config, output, "joined the cluster");
    Ok(())
}

/// The first line. From a terminal it is asked for, and not shown: it ends with Enter, and nobody has to know how to end a file.
fn read_token(file: &Path) -> Result<String, CliError> {
    let stdin = file == Path::new("-");
    let what =
        if stdin { "the token from standard input".to_owned() } else { format!("the token in {}", file.display()) };
    let mut text = String::new();
    let read = if stdin && std::io::stdin().is_terminal() {
        runtime()?.block_on(hidden_line("token: ")).map(|line| text = line)
    } else if stdin {
        std::io::stdin().take(TOKEN_BYTES).read_to_string(&mut text).map(drop)
    } else {
        File::open(file).and_then(|file| file.take(TOKEN_BYTES).read_to_string(&mut text)).map(drop)
    };
    read.map_err(CliError::io(format!("read {what}")))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

pub(crate) fn agent(config: &Path) -> Result<(), CliError> {
    let config = Config::load(config)?;
    runtime()?.block_on(holdfast_agent::run(config))?;
    Ok(())
}

fn settled(config: &Config, output: Output, what: &str) {
    let (name, dir) = (&config.node.name, &config.node.data_dir);
    let text = || {
        format!("node {name} {what}; its identity lies in {}. Start it: holdfast agent --config FILE", dir.display())
    };
    output::print(output, || settled_json(name, dir), text);
}

pub(crate) fn settled_json(node: &str, data_dir: &Path) -> Value {
    json!({ "node": node, "data_dir": data_dir.display().to_string() })
}

/// One address of a `HOST:PORT`.
fn resolve(address: &str) -> Result<SocketAddr, CliError> {
    let wrong = |found: String| CliError::Usage(format!("expected ADDRESS as HOST:PORT, found {address:?} ({found})"));
    let mut found = address.to_socket_addrs().map_err(|e| wrong(e.to_string()))?;
    found.next().ok_or_else(|| wrong("the name has no address".to_owned()))
}
