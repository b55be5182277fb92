//! Commands that look at files of this host: they need no agent.

use clap::{Args, Subcommand, ValueEnum};
use holdfast_agent::offline::OtherLog;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct SupportArgs {
    /// Configuration file of this node
    #[arg(long, value_name = "FILE", default_value = "/etc/holdfast/holdfast.toml")]
    pub(crate) config: PathBuf,
    /// New file [default: holdfast-support-NODE-TIME.tar.gz, here]
    #[arg(long, value_name = "FILE")]
    pub(crate) to: Option<PathBuf>,
    /// The agent's log, if it is not in the system's journal
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// Unit whose log is taken from the journal
    #[arg(long, value_name = "UNIT", default_value = "holdfast.service")]
    pub(crate) unit: String,
    /// How far back
    #[arg(long, value_name = "DURATION", default_value = "24h")]
    pub(crate) since: String,
    /// Do not check the data directory of an agent that does not answer
    #[arg(long)]
    pub(crate) no_fsck: bool,
}

#[derive(Debug, Args)]
pub(crate) struct FsckArgs {
    /// node.data_dir, its shard-0, or one copy: shard-0/copies/ID
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Write copies of headers that can't be read from those that can; nothing else is ever repaired without another copy
    #[arg(long)]
    pub(crate) repair: bool,
    /// Don't ask; needed where nobody can be asked
    #[arg(long, requires = "repair")]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// node.data_dir, its shard-0, or one copy: shard-0/copies/ID
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// The volume [default: the only one]
    #[arg(long, value_name = "NAME-OR-ID")]
    pub(crate) volume: Option<String>,
    /// New file; its ending says the format
    #[arg(long, value_name = "FILE.raw|FILE.qcow2")]
    pub(crate) to: PathBuf,
    /// How much of the journal's tail to include
    #[arg(long, value_enum, default_value_t = UptoArg::Durable)]
    pub(crate) upto: UptoArg,
    /// Zeros for blocks that can't be verified, and what can be read of a journal, instead of refusing; lists what is missing and ends
    /// with status 1
    #[arg(long)]
    pub(crate) skip_bad: bool,
    /// Without the journal, for a copy that does not open: what was in the image at its last checkpoint
    #[arg(long, conflicts_with = "upto")]
    pub(crate) at_checkpoint: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum UptoArg {
    /// What this copy knows to be committed
    Committed,
    /// All that is on this disk; the end of it may not have been acknowledged
    Durable,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ControlCommand {
    /// Go on with this voter alone when a majority of the voters is gone for ever
    #[command(long_about = "Go on with this voter alone when a majority of the voters is gone for ever.\n\n\
        For the day when too many hosts that vote are lost and will never come back: no leader can be elected, so nothing is agreed on, no volume \
        fails over, and `holdfast failover --force --accept-loss` is of no use either. Run it on a voter that is left, with its agent stopped. \
        Without --accept-loss it changes nothing: it says which voters would be given up, where the log of the control plane ends here, what \
        may be missing, and what becomes of each volume. If several voters are left, look at each of them: recover on the one whose log is \
        longest, on one node alone, and let the others start after it.\n\n\
        What is agreed on afterwards belongs to a later generation. Whoever has met it takes no word of the lost majority any more; a node that \
        was given up and comes back is told so, ends, and needs `holdfast control rejoin`. Exit status: 0 done, or shown, 2 wrong usage, 3 \
        refused.")]
    Recover(ControlRecoverArgs),
    /// Let a node that was given up take part again
    #[command(long_about = "Let a node that was given up take part again.\n\n\
        For a node that comes back after the control plane was recovered without it, and ended saying so. Its log of the control plane is set \
        aside; its copies stay, and count for what they are. Start its agent afterwards: it listens to the new regime, and gets a vote when one \
        is needed.")]
    Rejoin(ControlRejoinArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ControlRecoverArgs {
    /// node.data_dir of the voter that is left
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Voters that are gone for ever
    #[arg(long, value_name = "NODE", value_delimiter = ',')]
    pub(crate) lost: Vec<String>,
    /// Where the log of another voter that is left ends, as this command shows it there
    #[arg(long, value_name = "NODE=TERM/INDEX", value_parser = other_log)]
    pub(crate) other: Vec<OtherLog>,
    /// Do it, after asking
    #[arg(long, requires = "lost")]
    pub(crate) accept_loss: bool,
    /// With --accept-loss: do not ask
    #[arg(long, requires = "accept_loss")]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ControlRejoinArgs {
    /// node.data_dir of the node that was given up
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

fn other_log(text: &str) -> Result<OtherLog, String> {
    let parts = text.split_once('=').and_then(|(node, end)| Some((node, end.split_once('/')?)));
    let parsed = parts.and_then(|(node, (term, index))| {
        Some(OtherLog { node: node.to_owned(), term: term.parse().ok()?, index: index.parse().ok()? })
    });
    parsed.ok_or_else(|| "expected NODE=TERM/INDEX, such as n2=5/1234".to_owned())
}
