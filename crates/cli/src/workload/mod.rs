//! Verified load on a volume, over NBD: writes that name themselves, reads that an oracle judges.
//!
//! Flow: [`Workload::start`] attaches to whichever of the sockets serves the volume and keeps `depth` operations in
//! flight from a thread of its own. When the connection breaks, or is silent while another node serves, it attaches
//! there and sends again what was unanswered, as a guest's disk does; some writes it abandons instead, and the first
//! read afterwards must fix their fate. [`Workload::finish`] reads the whole region once more.
//!
//! Invariants: no two changes in flight overlap, so that the oracle knows one order per sector. A connection that was
//! left because it was silent is kept and asked once more: a deposed primary must answer neither write nor read.
//!
//! Deliberately absent: knowledge of agents and clusters; any NBD server will do.

mod connection;
mod operation;
mod oracle;
mod pattern;
mod progress;
mod runner;
mod transfer;
mod violations;
mod zombie;

pub use connection::ConnectionError;
pub use progress::{Attachment, Phase, Progress};
pub use transfer::{Mismatch, Transfer};
pub use violations::{Violation, Violations, Wrong};

use progress::Board;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The volume's socket on each node.
    pub sockets: Vec<PathBuf>,
    /// Its name.
    pub volume: String,
    /// Bytes to work on; they read as zeroes.
    pub region: Range<u64>,
    /// Operations in flight.
    pub depth: usize,
    /// The same seed draws the same operations.
    pub seed: u64,
    /// Silence after which the other nodes are asked.
    pub stall: Duration,
    /// How long no node may serve the volume.
    pub patience: Duration,
    /// Of the writes unanswered at a failover, this share is not sent again, in percent.
    pub abandon: u64,
    /// A read that overlaps a write in flight returns each sector before or after it. A promise of Holdfast; a server that
    /// reads a file while it writes it returns mixtures.
    pub atomic_reads: bool,
}

impl Plan {
    /// Depth 16; asks elsewhere after half a second of silence; gives up after a minute.
    #[must_use]
    pub fn new(sockets: Vec<PathBuf>, volume: &str, region: Range<u64>, seed: u64) -> Plan {
        Plan {
            sockets,
            volume: volume.to_owned(),
            region,
            depth: 16,
            seed,
            stall: Duration::from_millis(500),
            patience: Duration::from_secs(60),
            abandon: 25,
            atomic_reads: true,
        }
    }
}

/// Why a workload could not go on.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// The connection to the volume.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The region does not fit.
    #[error(
        "expected a region of at least 1 MiB, a multiple of 512 bytes, within the volume's {size} bytes, found {region:?}"
    )]
    Region {
        /// Asked for.
        region: Range<u64>,
        /// Of the volume.
        size: u64,
    },
    /// Too many I/O errors.
    #[error("expected a disk that stalls rather than fails, found {0} I/O errors in a row; see the agents' logs")]
    Errors(u32),
    /// The workload did not answer.
    #[error("expected the workload to {what} within {waited:?}, it did not; see `holdfast status`")]
    Late {
        /// What was waited for.
        what: &'static str,
        /// How long.
        waited: Duration,
    },
    /// The workload ended before.
    #[error("the workload ended early: {0}")]
    Ended(String),
}

enum Order {
    Hold(oneshot::Sender<()>),
    Resume,
    Finish(oneshot::Sender<()>),
}

/// A running workload. Dropping it stops it.
#[derive(Debug)]
pub struct Workload {
    orders: mpsc::UnboundedSender<Order>,
    board: Board,
}

impl Workload {
    /// Attaches and starts.
    ///
    /// # Errors
    /// No thread could be started. Whatever goes wrong later is in [`Progress::failure`].
    pub fn start(plan: Plan) -> std::io::Result<Workload> {
        let (orders, inbox) = mpsc::unbounded_channel();
        let board = Board::new();
        let theirs = board.clone();
        std::thread::Builder::new().name("workload".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let result = match runtime {
                Ok(runtime) => runtime.block_on(runner::run(plan, &theirs, inbox)),
                Err(e) => Err(WorkloadError::Connection(e.into())),
            };
            if let Err(e) = result {
                theirs.update(|progress| progress.failure = Some(e.to_string()));
            }
        })?;
        Ok(Workload { orders, board })
    }

    /// A new phase begins: pauses are counted anew.
    pub fn phase(&self, name: &str) {
        self.board.phase(name);
    }

    /// What happened so far.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.board.read()
    }

    /// Issues nothing more, and returns when everything is answered.
    ///
    /// # Errors
    /// Not in time, or the workload has ended.
    pub async fn hold(&self, limit: Duration) -> Result<(), WorkloadError> {
        self.ask(Order::Hold, "get all answers", limit).await
    }

    /// Goes on after [`Workload::hold`].
    pub fn resume(&self) {
        // A workload that has ended says so in its progress.
        let _ = self.orders.send(Order::Resume);
    }

    /// Waits for all answers, reads the whole region, and ends.
    ///
    /// # Errors
    /// Not in time, or the workload had ended before.
    pub async fn finish(self, limit: Duration) -> Result<Progress, WorkloadError> {
        self.ask(Order::Finish, "read everything back", limit).await?;
        Ok(self.progress())
    }

    async fn ask(
        &self,
        order: impl FnOnce(oneshot::Sender<()>) -> Order,
        what: &'static str,
        waited: Duration,
    ) -> Result<(), WorkloadError> {
        let (done, answer) = oneshot::channel();
        // If the workload has ended, the answer's channel is closed, which is found next.
        let _ = self.orders.send(order(done));
        match timeout(waited, answer).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => {
                let why = self.progress().failure.unwrap_or_else(|| "it was stopped".to_owned());
                Err(WorkloadError::Ended(why))
            }
            Err(_) => Err(WorkloadError::Late { what, waited }),
        }
    }
}
