//! Commands that ask a running agent.

use crate::args::{Command, CreateArgs, FailoverArgs, NodeCommand, Output, TokenCommand, VolumeCommand};
use crate::error::CliError;
use crate::output;
use holdfast_agent::admin::{AdminClient, connect, pb};
use holdfast_agent::config::{parse_duration, parse_size};
use std::path::Path;
use tonic::transport::Channel;

type Client = AdminClient<Channel>;

pub(crate) async fn run(socket: &Path, output: Output, command: Command) -> Result<(), CliError> {
    let command = check(command)?;
    let mut client = connect(socket).await?;
    match command {
        Command::Status { volume } => status(&mut client, output, volume).await,
        Command::Node(NodeCommand::List) => {
            let nodes = client.node_list(pb::NodeListRequest {}).await?.into_inner().nodes;
            output::print(output, || output::nodes_json(&nodes), || output::nodes_table(&nodes));
            Ok(())
        }
        Command::Token(TokenCommand::Create { valid }) => token_create(&mut client, output, &valid).await,
        Command::Volume(command) => volume(&mut client, output, command).await,
        Command::Failover(args) => failover(&mut client, output, args).await,
        Command::Events { follow, volume } => events(&mut client, output, follow, volume).await,
        Command::Init(_) | Command::Join(_) | Command::Agent(_) | Command::Demo(_) | Command::Sim(_) => Ok(()),
    }
}

/// What can be refused without asking anybody.
fn check(command: Command) -> Result<Command, CliError> {
    match &command {
        Command::Volume(VolumeCommand::Create(args)) => drop(size_of(args)?),
        Command::Token(TokenCommand::Create { valid }) => drop(parse_duration(valid).map_err(CliError::Usage)?),
        _ => {}
    }
    Ok(command)
}

fn size_of(args: &CreateArgs) -> Result<u64, CliError> {
    parse_size(&args.size).map_err(|e| CliError::Usage(format!("--size: {e}")))
}

async fn status(client: &mut Client, output: Output, volume: Option<String>) -> Result<(), CliError> {
    let request = pb::StatusRequest { volume: volume.unwrap_or_default() };
    let status = client.status(request).await?.into_inner();
    output::print(output, || output::status_json(&status), || output::status_text(&status));
    Ok(())
}

async fn token_create(client: &mut Client, output: Output, valid: &str) -> Result<(), CliError> {
    let valid_seconds = parse_duration(valid).map_err(CliError::Usage)?.as_secs();
    if valid_seconds == 0 {
        return Err(CliError::Usage(format!("--valid: expected a second or more, found {valid:?}")));
    }
    let token = client.token_create(pb::TokenCreateRequest { valid_seconds }).await?.into_inner();
    output::print(output, || output::token_json(&token), || output::token_text(&token));
    Ok(())
}

async fn volume(client: &mut Client, output: Output, command: VolumeCommand) -> Result<(), CliError> {
    match command {
        VolumeCommand::Create(args) => {
            let request = pb::VolumeCreateRequest {
                size_bytes: size_of(&args)?,
                name: args.name,
                copies: args.copies.unwrap_or(0),
                quorum: args.quorum.unwrap_or(0),
                durability: args.durability.name().to_owned(),
                on: args.on,
                primary: args.primary.unwrap_or_default(),
            };
            let volume = client.volume_create(request).await?.into_inner().volume.unwrap_or_default();
            output::print(output, || output::volume_json(&volume), || output::volume_text(&volume));
        }
        VolumeCommand::List => {
            let volumes = client.volume_list(pb::VolumeListRequest {}).await?.into_inner().volumes;
            output::print(output, || output::volumes_json(&volumes), || output::volumes_table(&volumes));
        }
        VolumeCommand::Show { name } => {
            let volume =
                client.volume_show(pb::VolumeShowRequest { name }).await?.into_inner().volume.unwrap_or_default();
            output::print(output, || output::volume_json(&volume), || output::volume_text(&volume));
        }
        VolumeCommand::Delete { name } => {
            client.volume_delete(pb::VolumeDeleteRequest { name: name.clone() }).await?;
            let json = || serde_json::json!({ "deleted": name });
            output::print(output, json, || format!("volume {name} is deleted"));
        }
    }
    Ok(())
}

async fn failover(client: &mut Client, output: Output, args: FailoverArgs) -> Result<(), CliError> {
    let volume = args.volume.clone();
    let request = pb::FailoverRequest { volume: args.volume, to: args.to.unwrap_or_default(), force: args.force };
    let answer = client.failover(request).await?.into_inner();
    output::print(output, || output::failover_json(&volume, &answer), || output::failover_text(&volume, &answer));
    Ok(())
}

async fn events(client: &mut Client, output: Output, follow: bool, volume: Option<String>) -> Result<(), CliError> {
    let request = pb::EventsRequest { follow, volume: volume.unwrap_or_default() };
    let mut stream = client.events(request).await?.into_inner();
    // One line per event in both forms, so that `--follow` can be piped.
    while let Some(event) = stream.message().await? {
        match output {
            Output::Json => println!("{}", output::event_json(&event)),
            Output::Table => println!("{}", output::event_line(&event)),
        }
    }
    Ok(())
}
