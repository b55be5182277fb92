//! Commands that ask a running agent.

mod copies;
mod events;
mod filling;
mod grants;
mod nodes;
mod orphans;
mod recovery;
pub(crate) mod support;
mod upkeep;

pub(crate) use copies::Wish;
pub(crate) use nodes::Duty;

use crate::args::{Command, CreateArgs, DegradedArg, DurabilityArg, FailoverArgs, Output, TokenCommand, VolumeCommand};
use crate::error::CliError;
use crate::explain::explain;
use crate::{output, top};
use holdfast_agent::admin::{AdminClient, connect, pb};
use holdfast_agent::config::{parse_duration, parse_size};
use holdfast_types::{BLOCK_SIZE, VolumeSize};
use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;
use tonic::{Response, Status};

type Client = AdminClient<Channel>;

/// How long an answer may take, unless the operator says otherwise.
const ANSWER: Duration = Duration::from_secs(15);
/// How long a volume may take to open.
const OPENING: Duration = Duration::from_secs(60);
/// How long the copies of a new volume get to report, before it counts as degraded.
const SETTLING: Duration = Duration::from_secs(3);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(100);

pub(crate) async fn run(
    socket: &Path,
    output: Output,
    limit: Option<Duration>,
    command: Command,
) -> Result<(), CliError> {
    let command = check(command)?;
    let mut agent = Agent::connect(socket, limit).await?;
    match command {
        Command::Status { volume } => status(&mut agent, output, volume).await,
        Command::Top(args) => top::run(&mut agent, output, &args).await,
        Command::Explain { volume } => explained(&mut agent, output, volume).await,
        Command::Node(command) => nodes::run(&mut agent, output, command).await,
        Command::Token(TokenCommand::Create { valid }) => token_create(&mut agent, output, &valid).await,
        Command::Volume(command) => volume(&mut agent, output, command).await,
        Command::Failover(args) if args.accept_loss => recovery::run(&mut agent, output, args).await,
        Command::Failover(args) => failover(&mut agent, output, args).await,
        Command::Orphan(command) => orphans::run(&mut agent, output, command).await,
        Command::Scrub(args) => upkeep::scrub(&mut agent, output, args).await,
        Command::Verify { volume } => upkeep::verify(&mut agent, output, volume).await,
        Command::Copy(command) => copies::run(&mut agent, output, command).await,
        Command::Events { follow, volume } => events::run(&mut agent, output, follow, volume).await,
        Command::Init(_)
        | Command::Join(_)
        | Command::Agent(_)
        | Command::Bench(_)
        | Command::Control(_)
        | Command::Demo(_)
        | Command::Export(_)
        | Command::Fsck(_)
        | Command::Manual { .. }
        | Command::Sim(_)
        | Command::SupportBundle(_) => Ok(()),
    }
}

/// Volumes as the agent shows them.
pub(crate) async fn show_volumes(
    socket: &Path,
    limit: Option<Duration>,
    names: &[String],
) -> Result<Vec<pb::Volume>, CliError> {
    let mut agent = Agent::connect(socket, limit).await?;
    let mut volumes = Vec::new();
    for name in names {
        volumes.push(agent.volume(name).await?);
    }
    Ok(volumes)
}

pub(crate) fn parse_timeout(text: &str) -> Result<Duration, CliError> {
    let limit = parse_duration(text).map_err(|e| CliError::Usage(format!("--timeout: {e}")))?;
    if limit.is_zero() {
        return Err(CliError::Usage("--timeout: expected 1ms or more, found 0".to_owned()));
    }
    Ok(limit)
}

/// What can be refused without asking anybody.
fn check(command: Command) -> Result<Command, CliError> {
    match &command {
        Command::Volume(VolumeCommand::Create(args)) => check_create(args)?,
        Command::Volume(VolumeCommand::Resize { size, .. }) => drop(new_size(size)?),
        Command::Volume(VolumeCommand::Limit { limits, none, .. }) => drop(grants::checked_limits(limits, *none)?),
        Command::Volume(VolumeCommand::Socket { owner, group, mode, default, .. }) => {
            grants::checked_access(owner.as_deref(), group.as_deref(), mode.as_deref(), *default)?;
        }
        Command::Top(args) => drop(top::interval(args)?),
        Command::Scrub(args) => drop(upkeep::parse_rate(&args.rate)?),
        Command::Token(TokenCommand::Create { valid }) => drop(parse_duration(valid).map_err(CliError::Usage)?),
        _ => {}
    }
    Ok(command)
}

fn check_create(args: &CreateArgs) -> Result<(), CliError> {
    size_of(args)?;
    grants::limits_of(&args.limits)?;
    grants::created_access(args)?;
    for (flag, number) in [("--copies", args.copies), ("--quorum", args.quorum)] {
        if number == Some(0) {
            return Err(CliError::Usage(format!("{flag}: expected 1 or more, found 0; leave it out for the default")));
        }
    }
    let named = args.on.len();
    if let Some(copies) = args.copies.filter(|c| named > 0 && usize::try_from(*c) != Ok(named)) {
        let found =
            format!("expected --on to name {copies} nodes for --copies {copies}, found {named}; leave one of them out");
        return Err(CliError::Usage(found));
    }
    let copies = args.copies.map(|c| usize::try_from(c).unwrap_or(usize::MAX)).or((named > 0).then_some(named));
    let asynchronous = args.durability == DurabilityArg::Async;
    if copies == Some(2) && !asynchronous && args.degraded.is_none() {
        return Err(CliError::Usage(holdfast_agent::TWO_COPIES.to_owned()));
    }
    let fits = copies.is_none_or(|n| n == 2) && !asynchronous;
    if args.degraded.is_some() && !fits {
        let found = "--degraded: expected two copies that must both hold a write (--copies 2, durability sync or flush), found others; leave it out";
        return Err(CliError::Usage(found.to_owned()));
    }
    Ok(())
}

fn size_of(args: &CreateArgs) -> Result<u64, CliError> {
    let bytes = parse_size(&args.size).map_err(|e| CliError::Usage(format!("--size: {e}")))?;
    VolumeSize::new(bytes).map_err(|e| CliError::Usage(format!("--size: {e}")))?;
    Ok(bytes)
}

/// A size to be had by a resize: whole blocks.
fn new_size(text: &str) -> Result<u64, CliError> {
    let usage = |e: String| CliError::Usage(format!("--size: {e}"));
    let bytes = parse_size(text).map_err(usage)?;
    let block = u64::try_from(BLOCK_SIZE).expect("4096");
    if !bytes.is_multiple_of(block) {
        let rounded = bytes.checked_next_multiple_of(block).filter(|size| VolumeSize::new(*size).is_ok());
        let rounded = rounded.map_or_else(String::new, |size| format!("; round it to {size}"));
        return Err(usage(format!("expected a multiple of 4KiB and at most 64 TiB, found {bytes}{rounded}")));
    }
    if bytes == 0 {
        return Err(usage("expected 4KiB or more, found 0".to_owned()));
    }
    VolumeSize::new(bytes).map_err(|e| usage(e.to_string()))?;
    Ok(bytes)
}

/// The agent that is asked. No question waits for ever: an agent that stands still keeps its socket open.
pub(crate) struct Agent<'a> {
    client: Client,
    socket: &'a Path,
    /// What the operator said.
    limit: Option<Duration>,
}

impl Agent<'_> {
    async fn connect(socket: &Path, limit: Option<Duration>) -> Result<Agent<'_>, CliError> {
        let client = in_time(socket, limit.unwrap_or(ANSWER), async { Ok(connect(socket).await?) }).await?;
        Ok(Agent { client, socket, limit })
    }

    pub(crate) async fn ask<T>(
        &mut self,
        question: impl AsyncFnOnce(&mut Client) -> Result<Response<T>, Status>,
    ) -> Result<T, CliError> {
        let answer = async { Ok(question(&mut self.client).await?.into_inner()) };
        in_time(self.socket, self.limit.unwrap_or(ANSWER), answer).await
    }

    /// The newest of what the agent saw happen, oldest first.
    pub(crate) async fn past_events(&mut self, newest: usize) -> Result<Vec<pb::Event>, CliError> {
        let mut stream = self.ask(async |c| c.events(pb::EventsRequest::default()).await).await?;
        let all = async {
            let mut events = VecDeque::new();
            while let Some(event) = stream.message().await? {
                events.push_back(event);
                if events.len() > newest {
                    events.pop_front();
                }
            }
            Ok(events.into())
        };
        in_time(self.socket, self.limit.unwrap_or(ANSWER), all).await
    }

    async fn volumes(&mut self) -> Result<Vec<pb::Volume>, CliError> {
        Ok(self.ask(async |c| c.volume_list(pb::VolumeListRequest {}).await).await?.volumes)
    }

    async fn volume(&mut self, name: &str) -> Result<pb::Volume, CliError> {
        let request = pb::VolumeShowRequest { name: name.to_owned() };
        Ok(self.ask(async |c| c.volume_show(request).await).await?.volume.unwrap_or_default())
    }

    /// Looks at a volume until it serves as it is to be led; with fewer copies than it should only after `settle`.
    async fn wait_open(
        &mut self,
        name: &str,
        is_led: impl Fn(&pb::Volume) -> bool,
        settle: Duration,
        what: &str,
    ) -> Result<pb::Volume, CliError> {
        let limit = self.limit.unwrap_or(OPENING);
        let start = Instant::now();
        loop {
            let volume = self.volume(name).await?;
            let (healthy, degraded) = (volume.state == "healthy", volume.state == "degraded");
            if is_led(&volume) && (healthy || degraded && start.elapsed() >= settle) {
                return Ok(volume);
            }
            if start.elapsed() >= limit {
                let primary = if volume.primary.is_empty() { "no primary" } else { &volume.primary };
                let found =
                    format!("{}, epoch {}, {primary}: {}", volume.state, volume.epoch, volume.r#unsafe.join("; "));
                return Err(CliError::Unfinished { what: what.to_owned(), limit, found, volume: name.to_owned() });
            }
            sleep(LOOK).await;
        }
    }
}

async fn in_time<T>(
    socket: &Path,
    limit: Duration,
    answer: impl Future<Output = Result<T, CliError>>,
) -> Result<T, CliError> {
    let late = |_| Err(CliError::Late { socket: socket.display().to_string(), limit });
    timeout(limit, answer).await.unwrap_or_else(late)
}

async fn status(agent: &mut Agent<'_>, output: Output, volume: Option<String>) -> Result<(), CliError> {
    let request = pb::StatusRequest { volume: volume.unwrap_or_default() };
    let status = agent.ask(async |c| c.status(request).await).await?;
    output::print(output, || output::status_json(&status), || output::status_text(&status));
    Ok(())
}

async fn explained(agent: &mut Agent<'_>, output: Output, volume: String) -> Result<(), CliError> {
    let status = agent.ask(async |c| c.status(pb::StatusRequest { volume: volume.clone() }).await).await?;
    let found = status.volumes.first().map(|found| explain(&status, found)).unwrap_or_default();
    output::print(output, || found.json(&volume), || found.text());
    Ok(())
}

async fn token_create(agent: &mut Agent<'_>, output: Output, valid: &str) -> Result<(), CliError> {
    let valid_seconds = parse_duration(valid).map_err(CliError::Usage)?.as_secs();
    if valid_seconds == 0 {
        return Err(CliError::Usage(format!("--valid: expected a second or more, found {valid:?}")));
    }
    let token = agent.ask(async |c| c.token_create(pb::TokenCreateRequest { valid_seconds }).await).await?;
    output::print(output, || output::token_json(&token), || output::token_text(&token));
    Ok(())
}

async fn volume(agent: &mut Agent<'_>, output: Output, command: VolumeCommand) -> Result<(), CliError> {
    match command {
        VolumeCommand::Create(args) => {
            let volume = create(agent, args).await?;
            output::print(output, || output::volume_json(&volume), || output::volume_text(&volume));
        }
        VolumeCommand::List => {
            let volumes = agent.volumes().await?;
            output::print(output, || output::volumes_json(&volumes), || output::volumes_table(&volumes));
        }
        VolumeCommand::Show { name } => {
            let volume = agent.volume(&name).await?;
            output::print(output, || output::volume_json(&volume), || output::volume_text(&volume));
        }
        VolumeCommand::Resize { name, size, shrink, yes, no_wait } => {
            let bytes = new_size(&size)?;
            if shrink {
                let what =
                    format!("this discards what lies behind the first {size} of {name}, on every copy, for ever");
                output::confirm(&what, "yes", yes)?;
            }
            let volume = resize(agent, name, bytes, shrink, !no_wait).await?;
            output::print(output, || output::volume_json(&volume), || output::volume_text(&volume));
        }
        VolumeCommand::Limit { name, limits, none } => {
            grants::limit(agent, output, name, grants::checked_limits(&limits, none)?).await?;
        }
        VolumeCommand::Socket { name, owner, group, mode, default } => {
            let access = grants::checked_access(owner.as_deref(), group.as_deref(), mode.as_deref(), default)?;
            grants::share(agent, output, name, access).await?;
        }
        VolumeCommand::Delete { name, force, yes } => {
            output::confirm(&format!("this deletes volume {name} and all its copies, for ever"), "yes", yes)?;
            let request = pb::VolumeDeleteRequest { name: name.clone(), force };
            let silent = agent.ask(async |c| c.volume_delete(request).await).await?.silent;
            output::print(output, || output::deleted_json(&name, &silent), || output::deleted_text(&name, &silent));
        }
    }
    Ok(())
}

async fn create(agent: &mut Agent<'_>, args: CreateArgs) -> Result<pb::Volume, CliError> {
    let (name, waits) = (args.name.clone(), !args.no_wait);
    let (limits, access) = (grants::limits_of(&args.limits)?, grants::created_access(&args)?);
    let request = pb::VolumeCreateRequest {
        size_bytes: size_of(&args)?,
        iops: limits.iops,
        bytes_per_second: limits.bandwidth,
        burst_ms: limits.burst_ms,
        socket_owner: access.owner,
        socket_group: access.group,
        socket_mode: access.mode,
        name: args.name,
        copies: args.copies.unwrap_or(0),
        quorum: args.quorum.unwrap_or(0),
        durability: args.durability.name().to_owned(),
        degraded: args.degraded.map_or("", DegradedArg::name).to_owned(),
        on: args.on,
        primary: args.primary.unwrap_or_default(),
    };
    let created = agent.ask(async |c| c.volume_create(request).await).await?.volume.unwrap_or_default();
    if !waits {
        return Ok(created);
    }
    agent.wait_open(&name, |v| v.epoch > 0, SETTLING, &format!("volume {name} is created, expected it to open")).await
}

/// Asks for another size, and looks at the volume until its primary has it.
async fn resize(
    agent: &mut Agent<'_>,
    name: String,
    size_bytes: u64,
    shrink: bool,
    waits: bool,
) -> Result<pb::Volume, CliError> {
    let request = pb::VolumeResizeRequest { name: name.clone(), size_bytes, shrink };
    let mut volume = agent.ask(async |c| c.volume_resize(request).await).await?.volume.unwrap_or_default();
    let (limit, start) = (agent.limit.unwrap_or(OPENING), Instant::now());
    // Until the primary has told of it, the agent may still show what it heard before.
    while waits && (volume.size != size_bytes || volume.size_wanted.is_some()) {
        if start.elapsed() >= limit {
            let what =
                format!("volume {name} is to have {size_bytes} bytes, expected its primary to give it that size");
            let found = format!("{} bytes, {}: {}", volume.size, volume.state, volume.r#unsafe.join("; "));
            return Err(CliError::Unfinished { what, limit, found, volume: name });
        }
        sleep(LOOK).await;
        volume = agent.volume(&name).await?;
    }
    Ok(volume)
}

async fn failover(agent: &mut Agent<'_>, output: Output, args: FailoverArgs) -> Result<(), CliError> {
    let name = args.volume.clone();
    let chosen = args.to.is_some();
    let request = pb::FailoverRequest { volume: args.volume, to: args.to.unwrap_or_default(), force: args.force };
    let answer = agent.ask(async |c| c.failover(request).await).await?;
    let reached = if args.no_wait {
        None
    } else {
        let what = format!("{} is to lead {name}, expected it to serve", answer.to);
        let (epoch, leads) = (answer.epoch, answer.from == answer.to);
        // Members change in epochs of the old primary, which may serve in one more before it hands over.
        let is_led = |v: &pb::Volume| {
            (leads || v.epoch > epoch) && if chosen { v.primary == answer.to } else { v.primary != answer.from }
        };
        Some(agent.wait_open(&name, is_led, Duration::ZERO, &what).await?)
    };
    let reached = reached.as_ref();
    output::print(
        output,
        || output::failover_json(&name, &answer, reached),
        || output::failover_text(&name, &answer, reached),
    );
    Ok(())
}
