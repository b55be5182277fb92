//! Whoever was refused at the admin socket: counted for the metrics, and told in the audit log and as an event, each kind of people
//! [`AT_ONCE`] times and then every [`APART`]. So the log can't be made to rotate what others did away, nor can it be kept from
//! telling of one kind by a flood of the other.

use crate::audit::{Audit, Entry, cut_text};
use crate::control::Ask;
use crate::peer::{Peer, Role, user_name};
use crate::random;
use crate::sparing::{Sparing, others};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

/// Told at once, of each role.
const AT_ONCE: u32 = 32;
/// A flood is told of so often: some MiB of the audit log in a week.
const APART: Duration = Duration::from_secs(30);

/// Events of each role: the list keeps the last thousand of all kinds.
const EVENTS_AT_ONCE: u32 = 4;
const EVENTS_APART: Duration = Duration::from_secs(600);

/// What was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// There was no place.
    Connection,
    /// The user may not.
    Call,
}

impl What {
    const ALL: [(What, &'static str); 2] = [(What::Connection, "connection"), (What::Call, "call")];
}

const ROLES: [(Role, &str); 3] = [(Role::Operator, "operator"), (Role::Viewer, "viewer"), (Role::Stranger, "stranger")];

/// How often something was refused to whom; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct RefusalCounts(Arc<[[AtomicU64; What::ALL.len()]; ROLES.len()]>);

impl RefusalCounts {
    fn add(&self, role: Role, what: What) {
        self.0[role as usize][what as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Role, what, how often.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> + '_ {
        ROLES.iter().flat_map(move |(role, role_name)| {
            What::ALL.iter().map(move |(what, name)| {
                (*role_name, *name, self.0[*role as usize][*what as usize].load(Ordering::Relaxed))
            })
        })
    }
}

/// Takes note of refusals; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Refusals {
    counts: RefusalCounts,
    audit: Audit,
    /// Where events go.
    asks: mpsc::Sender<Ask>,
    sparing: Arc<Mutex<[Sparing; ROLES.len()]>>,
    events: Arc<Mutex<[Sparing; ROLES.len()]>>,
}

impl Refusals {
    pub(crate) fn new(counts: RefusalCounts, audit: Audit, asks: mpsc::Sender<Ask>) -> Refusals {
        let sparing = |at_once, apart| Arc::new(Mutex::new(std::array::from_fn(|_| Sparing::new(at_once, apart))));
        Refusals {
            counts,
            audit,
            asks,
            sparing: sparing(AT_ONCE, APART),
            events: sparing(EVENTS_AT_ONCE, EVENTS_APART),
        }
    }

    /// A call, with what is known of its arguments: `why` is the outcome.
    pub(crate) async fn call(&self, peer: Peer, command: String, arguments: Value, why: &str) {
        let Some(untold) = self.count(peer, What::Call) else { return };
        let user = user_name(peer.uid);
        let told = format!("{why}{}", others(untold));
        let called = cut_text(&command);
        self.happened(peer.role, format!("{called} of user {user} was refused at the admin socket: {told}"));
        let entry = Entry { id: random::id(), uid: peer.uid, user, pid: peer.pid, command, arguments };
        self.audit.write(&entry, &format!("refused: {told}")).await;
    }

    /// A connection that was closed at once.
    pub(crate) async fn connection(&self, peer: Peer) {
        let Some(untold) = self.count(peer, What::Connection) else { return };
        let user = user_name(peer.uid);
        let role = ROLES.iter().find(|(role, _)| *role == peer.role).map_or("", |(_, name)| name);
        let told = format!("too many of this user or of all {role}s are open{}", others(untold));
        self.happened(peer.role, format!("a connection of user {user} was refused at the admin socket: {told}"));
        let (command, arguments) = ("(connect)".to_owned(), json!({}));
        let entry = Entry { id: random::id(), uid: peer.uid, user, pid: peer.pid, command, arguments };
        self.audit.write(&entry, &format!("refused: {told}")).await;
    }

    /// How many of this role went untold, if this one is told.
    fn count(&self, peer: Peer, what: What) -> Option<u64> {
        self.counts.add(peer.role, what);
        let mut sparing = self.sparing.lock().unwrap_or_else(PoisonError::into_inner);
        sparing[peer.role as usize].tell(random::now())
    }

    fn happened(&self, role: Role, message: String) {
        tracing::warn!("{message}");
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        if events[role as usize].tell(random::now()).is_none() {
            return;
        }
        // The loop has more to do than it can: the audit log has it.
        let _ = self.asks.try_send(Ask::Happened("admin_refused", None, message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[tokio::test]
    async fn a_flood_of_refusals_leaves_the_log_to_others() {
        let dir = tempfile::tempdir().expect("the temporary directory is writable");
        let path = dir.path().join("audit.log");
        let (asks, mut asked) = mpsc::channel(1000);
        let counts = RefusalCounts::default();
        let refusals = Refusals::new(counts.clone(), Audit::new(path.clone()), asks);
        let peer = |uid, role| Peer { uid, pid: None, role };
        let huge = json!({ "name": "x".repeat(1 << 20) });
        for _ in 0..200 {
            refusals
                .call(peer(4_000_000_001, Role::Stranger), "VolumeDelete".to_owned(), huge.clone(), "no right")
                .await;
            refusals.connection(peer(4_000_000_001, Role::Stranger)).await;
        }
        // Another kind of people is told all the same.
        refusals.call(peer(4_000_000_002, Role::Viewer), "Failover".to_owned(), huge, "may only look").await;
        let text = fs::read_to_string(&path).expect("it was written");
        let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).expect("each line is JSON")).collect();
        let of = |uid: u32| lines.iter().filter(|l| l["uid"] == uid).count();
        assert_eq!((of(4_000_000_001), of(4_000_000_002)), (AT_ONCE as usize, 1), "{lines:?}");
        assert!(text.len() < 1024 * lines.len(), "{} bytes in {} lines", text.len(), lines.len());
        let told: Vec<_> = std::iter::from_fn(|| asked.try_recv().ok()).collect();
        assert_eq!(told.len(), EVENTS_AT_ONCE as usize + 1, "the list of events is not theirs either");
        assert!(matches!(&told[0], Ask::Happened("admin_refused", None, text) if text.contains("4000000001")));
        let counted: Vec<_> = counts.all().filter(|(_, _, n)| *n > 0).collect();
        let expected = [("viewer", "call", 1), ("stranger", "connection", 200), ("stranger", "call", 200)];
        assert_eq!(counted, expected);
        // What went untold is said by the next one that is told.
        let mut sparing = refusals.sparing.lock().expect("nobody panicked");
        let next = sparing[Role::Stranger as usize].tell(random::now() + APART);
        assert_eq!(next, Some(400 - u64::from(AT_ONCE)));
    }
}
