//! What may happen on a day.

/// What the operator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Delete,
    Grow,
    Shrink,
    CopyAdd,
    CopyRemove,
    CopyReplace,
    Drain,
    Undrain,
    Switchover,
    Failover,
    Scrub,
    Verify,
    /// `node restart`: what the agent leads waits for it.
    Restart,
    /// SIGTERM: the agent hands over what it leads.
    Terminate,
}

/// What breaks meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Nothing,
    /// SIGKILL of any agent.
    Kill,
    /// Of the one that leads most.
    KillPrimary,
    KillAll,
    /// SIGSTOP for longer than the lease.
    Stop,
    /// Its cable is pulled.
    Cut,
    /// Packets are dropped in one direction.
    Deaf,
    Mute,
    /// The disk of a node loses all copies; the operator has them made anew.
    Wipe,
}

pub(crate) const OPERATIONS: [Operation; 15] = [
    Operation::Create,
    Operation::Delete,
    Operation::Grow,
    Operation::Shrink,
    Operation::CopyAdd,
    Operation::CopyRemove,
    Operation::CopyReplace,
    Operation::Drain,
    Operation::Undrain,
    Operation::Switchover,
    Operation::Failover,
    Operation::Scrub,
    Operation::Verify,
    Operation::Restart,
    Operation::Terminate,
];

pub(crate) const FAULTS: [Fault; 9] = [
    Fault::Nothing,
    Fault::Kill,
    Fault::KillPrimary,
    Fault::KillAll,
    Fault::Stop,
    Fault::Cut,
    Fault::Deaf,
    Fault::Mute,
    Fault::Wipe,
];

impl Operation {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Operation::Create => "create",
            Operation::Delete => "delete",
            Operation::Grow => "grow",
            Operation::Shrink => "shrink",
            Operation::CopyAdd => "copy-add",
            Operation::CopyRemove => "copy-remove",
            Operation::CopyReplace => "copy-replace",
            Operation::Drain => "drain",
            Operation::Undrain => "undrain",
            Operation::Switchover => "switchover",
            Operation::Failover => "failover",
            Operation::Scrub => "scrub",
            Operation::Verify => "verify",
            Operation::Restart => "restart",
            Operation::Terminate => "terminate",
        }
    }
}

impl Fault {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Fault::Nothing => "nothing",
            Fault::Kill => "kill",
            Fault::KillPrimary => "kill-primary",
            Fault::KillAll => "kill-all",
            Fault::Stop => "stop",
            Fault::Cut => "cut",
            Fault::Deaf => "deaf",
            Fault::Mute => "mute",
            Fault::Wipe => "wipe",
        }
    }
}

/// The names of all of them.
pub(crate) fn all() -> impl Iterator<Item = &'static str> {
    OPERATIONS.iter().map(|o| o.name()).chain(FAULTS.iter().map(|f| f.name()))
}
