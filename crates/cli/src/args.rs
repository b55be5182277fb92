//! The command line. What a command does and what it promises stands in its help.

mod offline;

pub(crate) use offline::{
    ControlCommand, ControlRecoverArgs, ControlRejoinArgs, ExportArgs, FsckArgs, SupportArgs, UptoArg,
};

use crate::bench::Pattern;
use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Keeps the disk of a virtual machine alive when the host under it dies.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Exit status: 0 done, 1 failed, 2 wrong usage, 3 refused because it would be unsafe.\n\
    What can't be undone asks first; without a terminal and without --yes it is refused (3).\n\
    Try it on one machine: holdfast demo")]
pub(crate) struct Cli {
    /// Admin socket of the agent to ask
    #[arg(long, global = true, value_name = "PATH", default_value = "/run/holdfast/admin.sock")]
    pub(crate) socket: PathBuf,
    /// Tables for people, JSON for programs (alone on stdout)
    #[arg(long, global = true, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    /// How long to wait for the agent's answer, and for what `volume create`, `volume resize`, `failover`, `node` and `copy` wait for [default: 15s, and
    /// 60s for those, 1h for `copy`, 24h for `node drain`]
    #[arg(long, global = true, value_name = "DURATION")]
    pub(crate) timeout: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Found a cluster: its authority, this node's certificate, the first voter
    Init(ConfigArgs),
    /// Join tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// Join a cluster as a new node
    Join(JoinArgs),
    /// Run the daemon in the foreground
    #[command(long_about = "Run the daemon in the foreground.\n\n\
        Exit status: 0 it was told to end, 1 it failed and may be started anew, 2 wrong usage, 4 this node was removed from its cluster: \
        a supervisor need not start it again.")]
    Agent(ConfigArgs),
    /// Show the cluster, or one volume, with what is unsafe and why
    Status {
        /// Only this volume
        volume: Option<String>,
    },
    /// Watch nodes and volumes as they go: rates, latencies, lags, what is unsafe, events
    #[command(long_about = "Watch nodes and volumes as they go: rates, latencies, lags, what is unsafe, events.\n\n\
        On a terminal until q or Ctrl-C; volumes that need somebody come first, then the busiest. Elsewhere one sample is printed. With --output \
        json each sample is one object on a line, until the command is ended, or one alone with --once. Rates, latencies and lags in bytes are those \
        of the volumes that the node which answers leads; percentiles are as exact as the buckets of its histograms.")]
    Top(TopArgs),
    /// Explain a volume in sentences: what state, why, what is unsafe, what happens by itself, what you could do
    Explain {
        /// The volume
        volume: String,
    },
    /// Nodes of the cluster
    #[command(subcommand)]
    Node(NodeCommand),
    /// Volumes
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Make another copy of a volume the primary
    #[command(long_about = "Make another copy of a volume the primary.\n\n\
        While the primary is alive this is a switchover: it drains, hands over, loses nothing, and I/O pauses for \
        milliseconds. With --force nobody waits for it: use that when the primary is alive but must not go on. \
        Acknowledged writes are never lost either way.\n\n\
        --force --accept-loss is for the day when too many copies are gone for ever. The command first says which copies answer, up \
        to which record they hold the log, and what may be lost; then it asks. The copies that don't answer are given up: when they come \
        back they count for nothing, and are kept as evidence. What was lost stands in a loss receipt (`holdfast volume show`). Refused \
        (exit status 3) while enough copies answer to go on without losing anything.")]
    Failover(FailoverArgs),
    /// Read a volume's copies and verify every block against its checksum; repair what is rotten from other copies
    #[command(
        long_about = "Read a volume's copies and verify every block against its checksum; repair what is rotten from other copies.\n\n\
        Clients go on reading and writing. Without --no-wait the command shows the progress and ends with what was found; if it is \
        interrupted the copies are read to their end all the same. Exit status 1: blocks were found that no copy can \
        supply, or a copy was not read."
    )]
    Scrub(ScrubArgs),
    /// Compare a volume's copies with each other
    #[command(long_about = "Compare a volume's copies with each other.\n\n\
        All copies are compared as they are after one and the same write, while clients go on writing. What is compared are the \
        checksums of all blocks; that the blocks are what their checksums say is for `scrub` to find out. Exit status 0: all copies are equal. \
        1: some differ, or could not be compared.")]
    Verify {
        /// The volume
        volume: String,
    },
    /// Copies of a volume: add one, remove one, replace one, while the VM runs
    #[command(subcommand)]
    Copy(CopyCommand),
    /// Records that were cut from copies and kept: unacknowledged writes of deposed primaries
    #[command(subcommand)]
    Orphan(OrphanCommand),
    /// Show what happened, when, why, and to which volume
    Events {
        /// Keep showing what happens
        #[arg(long, short)]
        follow: bool,
        /// Only about this volume
        #[arg(long, value_name = "NAME")]
        volume: Option<String>,
    },
    /// Put into one file what somebody needs who is to help: status, events, logs, metrics, configuration; no secrets
    #[command(
        long_about = "Put into one file what somebody needs who is to help: status, events, logs, metrics, configuration; no secrets.\n\n\
        A .tar.gz of text that you can read first. Keys, tokens, passwords and guests' data are not in it; names of nodes and volumes, addresses and \
        paths are. What can't be had is named in it: the agent may be down, and then its data directory is checked as by `fsck`, which reads every \
        block."
    )]
    SupportBundle(SupportArgs),
    /// Check the data directory of a stopped agent, changing nothing
    #[command(long_about = "Check the data directory of a stopped agent, changing nothing.\n\n\
        Runs the recovery that the agent would run, over a memory of its own, and reads every block: superblocks, journal, \
        tables, image, orphans, the control plane's log. Exit status: 0 clean, 1 damaged, 2 wrong usage, 3 an agent runs there.")]
    Fsck(FsckArgs),
    /// Get a volume's data out of the data directory of a stopped agent
    #[command(long_about = "Get a volume's data out of the data directory of a stopped agent.\n\n\
        The journal's tail is included, every block is verified, and the directory is not changed. What can't be verified is \
        refused, unless --skip-bad puts zeros there, and reads around what of the journal the device can't read. Exit status: 0 complete, 1 failed or not complete, 2 wrong usage, 3 an agent \
        runs there.")]
    Export(ExportArgs),
    /// The control plane after a majority of its voters is gone for ever: on a host whose agent is stopped
    #[command(subcommand)]
    Control(ControlCommand),
    /// The whole story on one machine: agents, a disk image, load, a switchover, a kill, the proof
    Demo(DemoArgs),
    /// Measure latency, throughput and processor time of volumes, or of any NBD export
    #[command(long_about = "Measure latency, throughput and processor time of volumes, or of any NBD export.\n\n\
        With --raw the same requests go, in alternation, to a new file of the file system that you name (O_DIRECT, durable), \
        and every figure is also told as a ratio to it: machines differ, and one machine differs from minute to minute. \
        Volumes are measured on their primary's node. Patterns that write overwrite what is there.")]
    Bench(BenchArgs),
    /// Run the deterministic simulator of whole clusters
    #[command(long_about = "Run the deterministic simulator of whole clusters.\n\n\
        Each seed is one cluster with its own sizes, timers and faults; every promise is checked. Without --seed and --seeds \
        it runs 500 seeds, about a minute of two cores, and ends with a summary; the first broken promise ends it with the \
        seed that replays it.")]
    Sim(Box<SimArgs>),
    /// Write man pages and shell completions, for packages
    #[command(hide = true)]
    Manual {
        /// Where; it is made
        dir: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Time that a sample is about: 250ms to 1h
    #[arg(long, value_name = "DURATION", default_value = "2s")]
    pub(crate) interval: String,
    /// One sample, also on a terminal and in JSON
    #[arg(long)]
    pub(crate) once: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token that lets one node join, once, until it expires
    Create {
        /// How long it may be used
        #[arg(long, value_name = "DURATION", default_value = "1h")]
        valid: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct JoinArgs {
    /// listen.peer of a node of the cluster, as `token create` names it
    pub(crate) address: String,
    /// File that holds the token, as `token create` prints it; `-`: standard input
    #[arg(long, value_name = "FILE", conflicts_with = "token", required_unless_present = "token")]
    pub(crate) token_file: Option<PathBuf>,
    /// The token itself. Every user of this host can see it in the list of processes, and the shell keeps it: prefer --token-file
    #[arg(long)]
    pub(crate) token: Option<String>,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// List the nodes
    List,
    /// End the agent of this node, for its supervisor to start it anew, without a failover
    #[command(long_about = "End the agent of this node, for its supervisor to start it anew, without a failover.\n\n\
        For another version of it, or another configuration, under running VMs. The agent answers what is in flight, makes its \
        checkpoints and ends with status 0; the other nodes wait cluster.restart_window (30s) for it before somebody else leads what it \
        led. VMs that are attached with a reconnect-delay above that see a pause. Returns once the agent has agreed.")]
    Restart,
    /// Move everything away from a node, while the VMs run
    #[command(long_about = "Move everything away from a node, while the VMs run.\n\n\
        The node gets no new copies, its primaries hand over, and its copies are replaced on other nodes one by one: an old copy stays \
        until the new one counts. The node may be down. A copy that no other node can take stays, and `status` says why. The command \
        shows the progress and waits; if it is interrupted the drain goes on, until `undrain`.")]
    Drain {
        /// The node
        node: String,
        #[command(flatten)]
        wait: NodeWait,
    },
    /// Put a node back into service; what moves away and does not count elsewhere yet stays
    Undrain {
        /// The node
        node: String,
    },
    /// Take a node out of the cluster for ever
    #[command(long_about = "Take a node out of the cluster for ever.\n\n\
        Refused (exit status 3) while copies on it count: drain it first, also if it is dead. It loses its vote in the control plane, its \
        certificate counts no more, and its agent ends as soon as it hears of that. A new node may have its name.")]
    Remove {
        /// The node
        node: String,
        /// Also if it alone holds the key with which nodes join
        #[arg(long)]
        force: bool,
        /// Don't ask; needed where nobody can be asked
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        wait: NodeWait,
    },
}

#[derive(Debug, Args)]
pub(crate) struct NodeWait {
    /// Return once the cluster has agreed to it, not only when it is done
    #[arg(long)]
    pub(crate) no_wait: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    /// Create a volume
    Create(CreateArgs),
    /// List the volumes
    List,
    /// Show one volume with its copies
    Show {
        /// Its name
        name: String,
    },
    /// Give a volume another size, while it is in use
    #[command(long_about = "Give a volume another size, while it is in use.\n\n\
        Every copy changes its size at the same place of the log, also one that is down now. A client that is attached goes on with the \
        size that it was told; one that attaches later sees the new one. A smaller size is refused (exit status 3) without --shrink: \
        what lies behind it is gone for good, on every copy, also if the volume grows again. With it the command asks.")]
    Resize {
        /// Its name
        name: String,
        /// Size that the VM is to see, such as 64GiB: a multiple of 4KiB, at most 64TiB
        #[arg(long, value_name = "SIZE")]
        size: String,
        /// A smaller size is meant: discard what lies behind it
        #[arg(long)]
        shrink: bool,
        /// Don't ask; needed with --shrink where nobody can be asked
        #[arg(long)]
        yes: bool,
        /// Return once the cluster has agreed to it, not only when it is done
        #[arg(long)]
        no_wait: bool,
    },
    /// Limit how much the VM may ask of a volume, while it is in use
    #[command(long_about = "Limit how much the VM may ask of a volume, while it is in use.\n\n\
        What is given replaces what was set before, whole: without --iops requests are not limited, without --bandwidth bytes are not. A request \
        beyond the limit waits for its turn, in order, at the primary; nothing fails. Reads, writes, discards and writes of zeros count as \
        requests, the data of reads and writes as bytes; flushes are free. --none lifts all limits.")]
    Limit {
        /// Its name
        name: String,
        #[command(flatten)]
        limits: LimitArgs,
        /// No limits
        #[arg(long, conflicts_with_all = ["iops", "bandwidth", "burst"])]
        none: bool,
    },
    /// Say who may open a volume's socket, while it is in use
    #[command(long_about = "Say who may open a volume's socket, while it is in use.\n\n\
        What is given replaces what was set before, whole. Users and groups are those of the primary's node, whichever that is; they are let in by an \
        access control list, beside root and the agent's own user. Who is attached stays so. A name that the node does not know closes the \
        socket to all but the agent's user, and is an event.")]
    Socket {
        /// Its name
        name: String,
        /// User who may open it, by name or number
        #[arg(long, value_name = "USER")]
        owner: Option<String>,
        /// Group whose users may open it, by name or number
        #[arg(long, value_name = "GROUP")]
        group: Option<String>,
        /// What owner, group and everybody else may do, such as 0660: read and write bits; a client needs both
        #[arg(long, value_name = "MODE")]
        mode: Option<String>,
        /// The agent's own user and group, as in the beginning
        #[arg(long, conflicts_with_all = ["owner", "group", "mode"])]
        default: bool,
    },
    /// Delete a volume and all its copies, for ever
    Delete {
        /// Its name
        name: String,
        /// Delete it although a client is attached
        #[arg(long)]
        force: bool,
        /// Don't ask; needed where nobody can be asked
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Name: lower-case letters, digits, `.`, `_`, `-`; a letter or digit first
    pub(crate) name: String,
    /// Size that the VM sees, such as 10GiB; at most 64TiB
    #[arg(long, value_name = "SIZE")]
    pub(crate) size: String,
    /// Copies, each on another node [default: 3, or as many as there are nodes]
    #[arg(long, value_name = "N")]
    pub(crate) copies: Option<u32>,
    /// Copies that must hold a write before it is acknowledged [default: a majority]
    #[arg(long, value_name = "W")]
    pub(crate) quorum: Option<u32>,
    /// When a write counts as durable
    #[arg(long, value_enum, default_value_t = DurabilityArg::Sync)]
    pub(crate) durability: DurabilityArg,
    /// With two copies: what becomes of writes while one of them is gone
    #[arg(long, value_enum)]
    pub(crate) degraded: Option<DegradedArg>,
    /// Nodes that hold the copies [default: the cluster places them]
    #[arg(long, value_name = "NODES", value_delimiter = ',')]
    pub(crate) on: Vec<String>,
    /// Node of the first primary [default: the cluster chooses]
    #[arg(long, value_name = "NODE")]
    pub(crate) primary: Option<String>,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    /// User of the primary's node who may open the volume's socket, by name or number [default: nobody but the agent's user]
    #[arg(long, value_name = "USER")]
    pub(crate) socket_owner: Option<String>,
    /// Group whose users may open it [default: the agent's group, if neither an owner nor a group is named]
    #[arg(long, value_name = "GROUP")]
    pub(crate) socket_group: Option<String>,
    /// What owner, group and everybody else may do, such as 0660: read and write bits; a client needs both
    #[arg(long, value_name = "MODE")]
    pub(crate) socket_mode: Option<String>,
    /// Return once the cluster has agreed to it, not only when the volume can be attached
    #[arg(long)]
    pub(crate) no_wait: bool,
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct LimitArgs {
    /// Requests per second that the VM may make [default: as many as it likes]
    #[arg(long, value_name = "N")]
    pub(crate) iops: Option<u64>,
    /// Bytes per second that it may read and write, such as 100MiB/s [default: as many as it likes]
    #[arg(long, value_name = "RATE")]
    pub(crate) bandwidth: Option<String>,
    /// How long's worth of unused allowance is kept, and may be used at once [default: 1s]
    #[arg(long, value_name = "DURATION")]
    pub(crate) burst: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DurabilityArg {
    /// On stable storage of the quorum
    Sync,
    /// In memory of the quorum; flush and FUA on stable storage of the quorum: safe against the loss of a host, and after a
    /// power cut of all hosts every flushed write is there
    Flush,
    /// On stable storage of the primary; other copies follow, and none takes over without the primary
    Async,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DegradedArg {
    /// The copy that is left goes on alone once a majority of the voters has agreed: what is acknowledged then is on one disk only, and
    /// lost with it
    Allow,
    /// Writes wait until the other copy is back or replaced: what is acknowledged is on both disks, always
    Stall,
}

impl DegradedArg {
    pub(crate) fn name(self) -> &'static str {
        match self {
            DegradedArg::Allow => "allow",
            DegradedArg::Stall => "stall",
        }
    }
}

impl DurabilityArg {
    pub(crate) fn name(self) -> &'static str {
        match self {
            DurabilityArg::Sync => "sync",
            DurabilityArg::Flush => "flush",
            DurabilityArg::Async => "async",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct FailoverArgs {
    /// The volume
    pub(crate) volume: String,
    /// The next primary [default: the best copy that is not primary]
    #[arg(long, value_name = "NODE")]
    pub(crate) to: Option<String>,
    /// Never wait for the present primary
    #[arg(long)]
    pub(crate) force: bool,
    /// With --force: go on with the copies that answer although too few do, and give the others up for ever
    #[arg(long, requires = "force")]
    pub(crate) accept_loss: bool,
    /// With --accept-loss: don't ask; needed where nobody can be asked
    #[arg(long, requires = "accept_loss")]
    pub(crate) yes: bool,
    /// Return once the cluster has agreed to it, not only when the new primary serves
    #[arg(long)]
    pub(crate) no_wait: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OrphanCommand {
    /// List orphans
    #[command(long_about = "List orphans.\n\n\
        An orphan is the end of a copy's log that another primary's log replaced: records that were never committed. What its records are is \
        told by its node alone; ask the agent there for the rest of the columns.")]
    List {
        /// Only of this volume
        volume: Option<String>,
        /// Only on this node
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
    },
    /// Show one orphan, and which bytes of the volume its records change
    Show {
        /// VOLUME/NODE/EPOCH
        id: String,
    },
    /// Write an orphan's data to a file
    #[command(long_about = "Write an orphan's data to a file.\n\n\
        FILE is a sparse raw file in which every byte that a record of the orphan writes stands at its offset of the volume; everything else \
        is a hole. FILE.records lists the records in the order of the log: LSN, epoch, kind, offset, length. Exit status 1: what could be verified was \
        written, and the rest of the orphan is damaged.")]
    Export {
        /// VOLUME/NODE/EPOCH
        id: String,
        /// A file that is not there yet
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
    },
    /// Delete an orphan
    Delete {
        /// VOLUME/NODE/EPOCH
        id: String,
        /// Don't ask; needed where nobody can be asked
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum CopyCommand {
    /// Give a volume one more copy
    #[command(long_about = "Give a volume one more copy.\n\n\
        The new copy receives the log, counts for nothing, and becomes a member when it holds everything and its content was \
        compared. Where the journals do not reach back to the volume's first record, it is filled from another copy's image first.")]
    Add {
        /// The volume
        volume: String,
        /// Node that is to hold it
        node: String,
        #[command(flatten)]
        wait: CopyWait,
    },
    /// Remove a copy and delete its data
    #[command(long_about = "Remove a copy and delete its data.\n\n\
        Refused (exit status 3) if fewer good copies than a write needs would remain, or only one, or none that counts. The data on a \
        node that is down goes when that returns.")]
    Remove {
        /// The volume
        volume: String,
        /// Node that holds it
        node: String,
        /// Don't ask; needed where nobody can be asked
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        wait: CopyWait,
    },
    /// Put a copy on one node in place of the one on another
    #[command(long_about = "Put a copy on one node in place of the one on another.\n\n\
        The old copy stays until the new one counts, so there are never fewer than before. The old node may be down. The same node \
        twice: its copy is thrown away and made anew, while at least two others hold everything; that is asked about.")]
    Replace {
        /// The volume
        volume: String,
        /// Node that holds it now
        old: String,
        /// Node that is to hold it
        new: String,
        /// Don't ask; needed for the same node twice where nobody can be asked
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        wait: CopyWait,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CopyWait {
    /// Return once the cluster has agreed to it, not only when it is done
    #[arg(long)]
    pub(crate) no_wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ScrubArgs {
    /// The volume
    pub(crate) volume: String,
    /// Only the copy on this node [default: all copies]
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<String>,
    /// At most so fast, for each copy
    #[arg(long, value_name = "RATE", default_value = "100MiB/s")]
    pub(crate) rate: String,
    /// Return once the nodes were told
    #[arg(long)]
    pub(crate) no_wait: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct DemoArgs {
    /// Agents to start
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=7))]
    pub(crate) nodes: u8,
    /// How long the load runs, waits for failover and repair not counted
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(3..=86_400))]
    pub(crate) seconds: u64,
    /// Disk image to keep alive, raw or qcow2 [default: an ext4 file system made for the occasion]
    #[arg(long, value_name = "FILE")]
    pub(crate) image: Option<PathBuf>,
    /// Empty directory for the agents' data [default: a new one below the temporary directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Keep the directory, and say how to look at it
    #[arg(long)]
    pub(crate) keep: bool,
    /// Seed of the load [default: drawn]
    #[arg(long, value_name = "S")]
    pub(crate) seed: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Volumes, all at the same time
    pub(crate) volumes: Vec<String>,
    /// Exports of any NBD server: nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH
    #[arg(long, value_name = "URI")]
    pub(crate) nbd: Vec<String>,
    /// What is asked for
    #[arg(long, value_enum, default_value_t = Pattern::Randwrite)]
    pub(crate) pattern: Pattern,
    /// Bytes of each request
    #[arg(long, value_name = "SIZE", default_value = "4KiB")]
    pub(crate) block_size: String,
    /// Requests in flight on each connection
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) depth: u16,
    /// Connections to each volume
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) connections: u16,
    /// Each write is answered only when it is on stable storage, whatever the volume's durability
    #[arg(long)]
    pub(crate) fua: bool,
    /// A flush after so many writes; 0: none
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) flush_every: u64,
    /// Not measured, at the start of each round
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    pub(crate) warm_up: String,
    /// Of each round
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    pub(crate) duration: String,
    /// How often everything is measured; figures are medians
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Bytes of each volume that are used, from its start [default: 1GiB, or all of the smallest one]
    #[arg(long, value_name = "SIZE")]
    pub(crate) region: Option<String>,
    /// Write the region first, so that reads find data
    #[arg(long)]
    pub(crate) fill: bool,
    /// A file that does not exist yet: the same requests go to it without anything in between; it is deleted at the end
    #[arg(long, value_name = "FILE")]
    pub(crate) raw: Option<PathBuf>,
    /// With --raw, also so many files at once (FILE.1, FILE.2, …), as many copies on one disk would write them
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub(crate) raw_streams: u32,
    /// Requests in flight on each raw file [default: --depth]
    #[arg(long, value_name = "N", requires = "raw", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) raw_depth: Option<u16>,
    /// Draw latency percentiles as SVG
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,
    /// Of the places that requests go to
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Don't ask before volumes are overwritten; needed where nobody can be asked
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SimCommand {
    /// How long I/O stands still, and how much is exposed, in a year of a cluster
    #[command(long_about = "How long I/O stands still, and how much is exposed, in a year of a cluster.\n\n\
        A year is too long to be simulated message by message. So the simulator measures how long a volume is not served \
        after a failure, with the code of the daemon and the timers given, and years are drawn and composed of these times. \
        The answer says what it does not count.")]
    WhatIf(WhatIfArgs),
}

#[derive(Debug, Args)]
pub(crate) struct WhatIfArgs {
    /// Racks; the copies of a volume are in different ones
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(2..=15))]
    pub(crate) racks: u64,
    /// Hosts in each rack
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub(crate) nodes_per_rack: u64,
    /// Volumes
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) volumes: u64,
    /// Copies of each volume
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(2..=7))]
    pub(crate) copies: u64,
    /// Copies that must hold a write before it is acknowledged [default: a majority]
    #[arg(long, value_name = "W")]
    pub(crate) write_quorum: Option<u64>,
    /// Size of each volume
    #[arg(long, value_name = "SIZE", default_value = "100GiB")]
    pub(crate) size: String,
    /// Failures of one host in a year
    #[arg(long, value_name = "X", default_value_t = 2.0)]
    pub(crate) failures_per_node_year: f64,
    /// Failures of one rack in a year
    #[arg(long, value_name = "Y", default_value_t = 0.2)]
    pub(crate) rack_failures_per_year: f64,
    /// Mean time until what failed is there again
    #[arg(long, value_name = "Z", default_value_t = 4.0)]
    pub(crate) repair_hours: f64,
    /// Timers, such as lease=2s,heartbeat=200ms,failure_timeout=1s [default: the daemon's]
    #[arg(long, value_name = "LIST")]
    pub(crate) timers: Option<String>,
    /// Failures of each kind to simulate
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) samples: u64,
    /// Years to draw
    #[arg(long, value_name = "K", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) years: u64,
    /// Worlds at a time [default: one for each processor]
    #[arg(long, value_name = "J", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) jobs: Option<u16>,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct SimArgs {
    #[command(subcommand)]
    pub(crate) command: Option<SimCommand>,
    /// How many seeds to run [default: 500]
    #[arg(long, value_name = "N")]
    pub(crate) seeds: Option<u64>,
    /// The first of them
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) from: u64,
    /// Worlds at a time; what comes out does not depend on it [default: one for each processor]
    #[arg(long, value_name = "J", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) jobs: Option<u16>,
    /// Run all seeds, and count the failures
    #[arg(long)]
    pub(crate) keep_going: bool,
    /// How long to look for the least of the first failure; 0 is not at all
    #[arg(long, value_name = "N", default_value_t = 60)]
    pub(crate) shrink_seconds: u64,
    /// Which faults [default: default]
    #[arg(long, value_name = "NAME", value_parser = profiles())]
    pub(crate) profile: Option<String>,
    /// A cluster of this shape (TOML: `nodes = 5`, and `[[volumes]]` with `copies`, `write_quorum`)
    #[arg(long, value_name = "FILE")]
    pub(crate) topology: Option<PathBuf>,
    /// These timers, such as lease=2s,heartbeat=200ms,failure_timeout=1s; one that is not given is the daemon's default
    #[arg(long, value_name = "LIST")]
    pub(crate) timers: Option<String>,
    /// One seed alone
    #[arg(long, value_name = "S", conflicts_with_all = ["seeds", "from", "jobs", "keep_going"])]
    pub(crate) seed: Option<u64>,
    /// What remains of the seed, as the report of a failure names it
    #[arg(long, value_name = "KEY", requires = "seed")]
    pub(crate) shrink: Option<String>,
    /// Print each event of the seed
    #[arg(long, alias = "verbose", requires = "seed")]
    pub(crate) trace: bool,
    /// Only events of this volume, such as v1
    #[arg(long, value_name = "V", requires = "trace")]
    pub(crate) volume: Option<String>,
    /// Only events of this node, such as n1
    #[arg(long, value_name = "N", requires = "trace")]
    pub(crate) node: Option<String>,
    /// Print the hash of all events alone
    #[arg(long, conflicts_with = "trace")]
    pub(crate) hash: bool,
}

fn profiles() -> PossibleValuesParser {
    holdfast_sim::PROFILES.iter().map(|p| PossibleValue::new(p.name).help(p.about)).collect::<Vec<_>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_token_is_given_in_one_way() {
        for ways in [&[][..], &["--token", "T", "--token-file", "F"]] {
            let line = ["holdfast", "join", "10.0.0.1:7400", "--config", "F"];
            let error = Cli::try_parse_from(line.iter().chain(ways)).expect_err("none, or two").to_string();
            assert!(error.contains("--token-file <FILE>"), "{error}");
        }
    }

    #[test]
    fn the_operators_contract_parses() {
        for line in [
            "holdfast init --config F",
            "holdfast token create",
            "holdfast join 10.0.0.1:7400 --token T --config F",
            "holdfast join 10.0.0.1:7400 --token-file - --config F",
            "holdfast agent --config F",
            "holdfast status --output json",
            "holdfast status vm1 --socket /tmp/a.sock",
            "holdfast explain vm1 --output json",
            "holdfast top --interval 500ms --once --output json",
            "holdfast node list",
            "holdfast node restart",
            "holdfast volume create vm1 --size 10GiB --copies 3 --quorum 2 --durability sync --on n1,n2,n3 --primary n1",
            "holdfast volume list",
            "holdfast volume show vm1",
            "holdfast volume resize vm1 --size 64GiB",
            "holdfast volume resize vm1 --size 1GiB --shrink --no-wait --yes",
            "holdfast copy replace vm1 n1 n1 --yes",
            "holdfast volume delete vm1 --force --yes",
            "holdfast copy remove vm1 n1 --yes",
            "holdfast volume create vm1 --size 1GiB --no-wait --timeout 5s",
            "holdfast failover vm1 --no-wait",
            "holdfast failover vm1 --to n2 --force",
            "holdfast events --follow",
            "holdfast demo --nodes 3 --seconds 20 --image F --dir D --keep --output json",
            "holdfast bench vm1 --pattern mixed --block-size 128KiB --depth 8 --fua --raw F --raw-streams 3 --plot P --yes",
            "holdfast bench --nbd nbd+unix:///vm1?socket=/run/vm1.sock --pattern verify --connections 2 --fill",
            "holdfast fsck DIR --output json",
            "holdfast fsck DIR --repair --yes",
            "holdfast export DIR --volume vm1 --to FILE.qcow2 --upto committed --skip-bad",
            "holdfast control recover DIR --lost n1,n2 --other n4=5/12 --accept-loss --yes",
            "holdfast control rejoin DIR --yes",
            "holdfast sim --seeds 5000",
            "holdfast sim --seeds 20 --from 7 --jobs 2 --profile disks --topology F --timers lease=1s --keep-going",
            "holdfast sim --seeds 20 --hash",
            "holdfast sim what-if --racks 5 --nodes-per-rack 3 --volumes 9 --failures-per-node-year 2 \
             --rack-failures-per-year 0.1 --repair-hours 4 --timers lease=1s --output json",
            "holdfast manual DIR",
            "holdfast sim --seed 3 --hash",
            "holdfast sim --seed 3 --shrink faults=1+4 --trace --volume v1 --node n2",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
    }
}
