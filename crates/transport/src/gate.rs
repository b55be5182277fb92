//! Who may begin a handshake. Each costs signatures and memory before anybody is known, so it is bounded, at once and per second.
//!
//! Members have a share of their own: whoever comes from the very address and port from which one of them listens, or came last, as
//! nodes dial from where they listen. So a flood of strangers keeps no member from coming back. Addresses can be made up; with a part
//! of a share used up, a caller must prove first that it is where it says (QUIC's retry, which costs neither a signature nor memory),
//! and what is left of the share is for those who did.
//!
//! Deliberately absent: a limit for each address of strangers. One of them can use their whole share up, and joins have to wait then.

use crate::limiter::Limiter;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Handshakes of a share at once.
const AT_ONCE: usize = 64;
/// Of those, by callers who may have made their address up.
const UNPROVEN: usize = 16;
/// Handshakes of members per second: a cluster that comes back from a partition is quicker by waiting a moment.
const MEMBERS_PER_SECOND: u32 = 256;

/// The shares of an endpoint.
pub(crate) struct Gate {
    members: Share,
    strangers: Share,
}

struct Share {
    at_once: Arc<Semaphore>,
    rate: Limiter,
}

/// What is to be done about a caller.
pub(crate) enum Entry {
    /// Let it in, for as long as the permit is held.
    Begin(OwnedSemaphorePermit),
    /// It must prove its address, and may come back.
    Prove,
    /// Too many.
    Refuse,
}

impl Gate {
    pub(crate) fn new(strangers_per_second: u32) -> Gate {
        Gate { members: Share::new(MEMBERS_PER_SECOND), strangers: Share::new(strangers_per_second) }
    }

    /// `can_prove`: the caller's address is not proven, and could be.
    pub(crate) fn ask(&self, member: bool, can_prove: bool) -> Entry {
        if member { self.members.ask(can_prove) } else { self.strangers.ask(can_prove) }
    }
}

impl Share {
    fn new(per_second: u32) -> Share {
        Share { at_once: Arc::new(Semaphore::new(AT_ONCE)), rate: Limiter::new(per_second) }
    }

    fn ask(&self, can_prove: bool) -> Entry {
        let Ok(permit) = Arc::clone(&self.at_once).try_acquire_owned() else { return Entry::Refuse };
        let unproven = AT_ONCE - self.at_once.available_permits() <= UNPROVEN && !self.rate.is_half_spent();
        if can_prove && !unproven {
            return Entry::Prove;
        }
        if self.rate.allows() { Entry::Begin(permit) } else { Entry::Refuse }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(gate: &Gate, member: bool, can_prove: bool) -> Vec<OwnedSemaphorePermit> {
        let begins = |entry| if let Entry::Begin(permit) = entry { Some(permit) } else { None };
        (0..1000).filter_map(|_| begins(gate.ask(member, can_prove))).collect()
    }

    #[test]
    fn strangers_take_nothing_from_members_nor_made_up_addresses_from_proven_ones() {
        let gate = Gate::new(1000);
        let made_up = begun(&gate, false, true);
        assert_eq!(made_up.len(), UNPROVEN);
        assert!(matches!(gate.ask(false, true), Entry::Prove), "it may come back");
        let proven = begun(&gate, false, false);
        assert_eq!(proven.len(), AT_ONCE - UNPROVEN);
        assert!(matches!(gate.ask(false, false), Entry::Refuse));
        assert!(matches!(gate.ask(false, true), Entry::Refuse), "there is no place that it could prove itself for");
        let (at_once, later) = (begun(&gate, true, true), begun(&gate, true, false));
        assert_eq!((at_once.len(), later.len()), (UNPROVEN, AT_ONCE - UNPROVEN));
        drop(proven);
        assert_eq!(begun(&gate, false, false).len(), AT_ONCE - UNPROVEN, "places come back");
    }

    #[test]
    fn there_are_so_many_in_a_second() {
        let gate = Gate::new(10);
        // Those that end at once hold no place, and count all the same.
        let quick = |can_prove| (0..1000).filter(|_| matches!(gate.ask(false, can_prove), Entry::Begin(_))).count();
        // Each tenth of a second that this takes earns one more.
        assert!((5..8).contains(&quick(true)), "half of them without a proof");
        assert!((5..8).contains(&quick(false)));
        assert!((0..100).any(|_| matches!(gate.ask(false, false), Entry::Refuse)));
        assert!(matches!(gate.ask(false, true), Entry::Prove), "a caller who waits for the proof may find room");
        assert!(matches!(gate.ask(true, true), Entry::Begin(_)));
    }
}
