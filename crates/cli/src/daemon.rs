//! The commands that are the daemon's own: they run in this process and need no admin socket.

use crate::args::{JoinArgs, Output};
use crate::error::CliError;
use crate::run::runtime;
use holdfast_agent::config::Config;
use serde_json::json;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;

pub(crate) fn init(config: &Path, output: Output) -> Result<(), CliError> {
    let config = Config::load(config)?;
    runtime()?.block_on(holdfast_agent::found(&config))?;
    settled(&config, output, "founded a cluster");
    Ok(())
}

pub(crate) fn join(args: &JoinArgs, output: Output) -> Result<(), CliError> {
    let config = Config::load(&args.config.config)?;
    let address = resolve(&args.address)?;
    runtime()?.block_on(holdfast_agent::join(&config, address, &args.token))?;
    settled(&config, output, "joined the cluster");
    Ok(())
}

pub(crate) fn agent(config: &Path) -> Result<(), CliError> {
    let config = Config::load(config)?;
    runtime()?.block_on(holdfast_agent::run(config))?;
    Ok(())
}

fn settled(config: &Config, output: Output, what: &str) {
    let (name, dir) = (&config.node.name, config.node.data_dir.display());
    match output {
        Output::Json => println!("{}", json!({ "node": name, "data_dir": dir.to_string() })),
        Output::Table => {
            println!("node {name} {what}; its identity lies in {dir}. Start it: holdfast agent --config FILE")
        }
    }
}

/// One address of a `HOST:PORT`.
fn resolve(address: &str) -> Result<SocketAddr, CliError> {
    let wrong = |found: String| CliError::Usage(format!("expected ADDRESS as HOST:PORT, found {address:?} ({found})"));
    let mut found = address.to_socket_addrs().map_err(|e| wrong(e.to_string()))?;
    found.next().ok_or_else(|| wrong("the name has no address".to_owned()))
}
