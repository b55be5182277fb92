//! The thread of a workload: one connection, `depth` operations in flight, and the moves from node to node.
//!
//! ```text
//!            ┌──(refused, closed)──> reattach: ask all, again and again ──┐
//! attached ──┤                                                            ├──> attached, unanswered operations sent again
//!            └──(silent)──> probe the others meanwhile ──(one serves)─────┘
//! ```

use super::connection::{Connection, ConnectionError, attach};
use super::operation::{Kind, LARGEST, Mix, Operation};
use super::oracle::{Change, Oracle};
use super::progress::Board;
use super::violations::{Violation, Wrong};
use super::zombie::{self, Late};
use super::{Order, Plan, WorkloadError};
use holdfast_nbd::{ClientEvent, Cookie, ErrorCode, NbdError, ReplyData};
use holdfast_types::{Rng, SECTOR_SIZE};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, sleep_until};

/// I/O errors without a success between them, after which it makes no sense to go on.
const MAX_ERRORS: u32 = 100;
/// Sectors at the region's end that only canaries touch.
const CANARY_SECTORS: u64 = 8;
const SECTOR_BYTES: u64 = SECTOR_SIZE as u64;

type Probe = JoinHandle<Result<(usize, Connection), ConnectionError>>;

/// Where operations come from.
enum Source {
    Mix,
    Nothing,
    /// Reads of everything from here on.
    Sweep(u64),
}

struct Runner<'a> {
    plan: Plan,
    board: &'a Board,
    oracle: Oracle,
    mix: Mix,
    rng: Rng,
    source: Source,
    waiting: Option<oneshot::Sender<()>>,
    connection: Connection,
    node: usize,
    in_flight: BTreeMap<Cookie, Operation>,
    again: VecDeque<Operation>,
    next_request: u64,
    last_reply: Instant,
    errors: u32,
    probe: Option<Probe>,
    late: mpsc::UnboundedSender<Late>,
    zombies: Vec<(usize, AbortHandle)>,
}

/// Runs until it is told to finish, or dropped.
pub(super) async fn run(
    plan: Plan,
    board: &Board,
    mut orders: mpsc::UnboundedReceiver<Order>,
) -> Result<(), WorkloadError> {
    let (node, connection) = attach(&plan.sockets, &plan.volume, plan.patience).await?;
    board.update(|progress| progress.node = node);
    board.hold(false);
    let sectors = region(&plan, connection.size())?;
    let mut rng = Rng::new(plan.seed);
    let run = rng.next_u64();
    let (late, mut late_inbox) = mpsc::unbounded_channel();
    let mut runner = Runner {
        board,
        oracle: Oracle::new(run, sectors.clone()),
        mix: Mix::new(rng.fork(), sectors, plan.atomic_reads),
        rng,
        source: Source::Mix,
        waiting: None,
        connection,
        node,
        in_flight: BTreeMap::new(),
        again: VecDeque::new(),
        next_request: 1,
        last_reply: Instant::now(),
        errors: 0,
        probe: None,
        late,
        zombies: Vec::new(),
        plan,
    };
    let result = runner.work(&mut orders, &mut late_inbox).await;
    runner.publish();
    runner.connection.goodbye();
    result
}

/// The sectors that the oracle watches.
fn region(plan: &Plan, size: u64) -> Result<Range<u64>, WorkloadError> {
    let Range { start, end } = plan.region;
    let fits = start.is_multiple_of(SECTOR_BYTES) && end.is_multiple_of(SECTOR_BYTES) && end <= size;
    if !fits || end.saturating_sub(start) < 1 << 20 {
        return Err(WorkloadError::Region { region: plan.region.clone(), size });
    }
    Ok(start / SECTOR_BYTES..end / SECTOR_BYTES - CANARY_SECTORS)
}

impl Runner<'_> {
    async fn work(
        &mut self,
        orders: &mut mpsc::UnboundedReceiver<Order>,
        late: &mut mpsc::UnboundedReceiver<Late>,
    ) -> Result<(), WorkloadError> {
        loop {
            self.fill()?;
            if self.in_flight.is_empty() && self.drained() {
                return Ok(());
            }
            let silent = self.probe.is_none() && !self.in_flight.is_empty();
            tokio::select! {
                event = self.connection.event() => self.handle(event).await?,
                order = orders.recv() => match order {
                    Some(order) => self.obey(order),
                    None => return Ok(()),
                },
                Some(late) = late.recv() => self.listen(late),
                () = sleep_until(self.last_reply + self.plan.stall), if silent => self.ask_others(),
                found = probed(&mut self.probe) => {
                    self.probe = None;
                    // If nobody else took it in all that time, the present connection is as good as any.
                    if let Some((node, connection)) = found { self.desert(node, connection) }
                }
            }
        }
    }

    /// Everything asked for is done: says so, and whether it was the last.
    fn drained(&mut self) -> bool {
        let last = match self.source {
            Source::Mix => return false,
            Source::Nothing => false,
            Source::Sweep(next) if next < self.oracle.region().end => return false,
            Source::Sweep(_) => true,
        };
        if let Some(waiting) = self.waiting.take() {
            self.publish();
            // Whoever asked may have stopped waiting.
            let _ = waiting.send(());
        }
        last
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Hold(done) => {
                self.source = Source::Nothing;
                self.waiting = Some(done);
                self.board.hold(true);
            }
            Order::Resume => {
                self.source = Source::Mix;
                self.board.hold(false);
            }
            Order::Finish(done) => {
                self.source = Source::Sweep(self.oracle.region().start);
                self.waiting = Some(done);
                self.board.hold(true);
            }
        }
    }

    fn fill(&mut self) -> Result<(), WorkloadError> {
        while self.in_flight.len() < self.plan.depth {
            let Some(mut operation) = self.again.pop_front().or_else(|| self.draw()) else { break };
            if self.in_flight.is_empty() {
                self.last_reply = Instant::now();
            }
            let request = operation.invoke(&mut self.oracle);
            let cookie = self.connection.request(request)?;
            self.in_flight.insert(cookie, operation);
        }
        Ok(())
    }

    fn draw(&mut self) -> Option<Operation> {
        let (kind, sectors) = match &mut self.source {
            Source::Nothing => return None,
            Source::Mix => {
                let pending = || self.in_flight.values().chain(&self.again);
                let atomic = self.plan.atomic_reads;
                self.mix.next(|sectors| pending().any(|operation| operation.occupies(sectors, atomic)))
            }
            Source::Sweep(next) => {
                let start = *next;
                let end = self.oracle.region().end.min(start + LARGEST);
                *next = end;
                if start == end {
                    return None;
                }
                (Kind::Read, start..end)
            }
        };
        let request = self.next_request;
        self.next_request += 1;
        Some(Operation::new(kind, sectors, request, &mut self.oracle))
    }

    async fn handle(&mut self, event: Result<ClientEvent, ConnectionError>) -> Result<(), WorkloadError> {
        match event {
            Ok(ClientEvent::Reply { cookie, result }) => {
                let Some(operation) = self.in_flight.remove(&cookie) else { return Ok(()) };
                self.last_reply = Instant::now();
                if let Some(probe) = self.probe.take() {
                    probe.abort();
                }
                match result {
                    Ok(data) => self.complete(operation, &data),
                    Err(error) => self.fail(operation, &error)?,
                }
                Ok(())
            }
            Ok(ClientEvent::Ready(_)) => Ok(()),
            Ok(ClientEvent::Failed(_)) | Err(_) => self.reattach().await,
        }
    }

    fn complete(&mut self, operation: Operation, data: &ReplyData) {
        let Operation { kind, sectors, request, floors, invoked, .. } = operation;
        self.errors = 0;
        let bytes = (sectors.end - sectors.start) * SECTOR_BYTES;
        match (kind.change(), data) {
            (Some(change), _) => {
                self.oracle.acknowledge(sectors, change, request);
                match change {
                    Change::Discard => self.board.update(|progress| progress.others += 1),
                    Change::Data | Change::Zeroes => self.board.acknowledged(invoked, bytes),
                }
            }
            (None, ReplyData::Data(data)) => {
                self.oracle.check(sectors, &floors, data);
                self.board.update(|progress| progress.reads += 1);
            }
            (None, _) => self.board.update(|progress| progress.others += 1),
        }
        self.publish_violations();
    }

    /// A guest would see this error. The operation is sent again: what it left behind is not known.
    fn fail(&mut self, operation: Operation, error: &NbdError) -> Result<(), WorkloadError> {
        if error.code != ErrorCode::Shutdown {
            self.errors += 1;
            let sentence =
                format!("expected success of {:?} at sectors {:?}, found {error}", operation.kind, operation.sectors);
            self.oracle.violate(Violation { wrong: Wrong::GuestError, request: operation.request, sentence });
            self.publish_violations();
        }
        self.again.push_back(operation);
        if self.errors >= MAX_ERRORS { Err(WorkloadError::Errors(self.errors)) } else { Ok(()) }
    }

    async fn reattach(&mut self) -> Result<(), WorkloadError> {
        if let Some(probe) = self.probe.take() {
            probe.abort();
        }
        let (node, connection) = attach(&self.plan.sockets, &self.plan.volume, self.plan.patience).await?;
        self.move_to(node, connection);
        Ok(())
    }

    fn ask_others(&mut self) {
        let here = self.node;
        let others: Vec<_> = self.plan.sockets.iter().enumerate().filter(|(at, _)| *at != here).collect();
        let (numbers, sockets): (Vec<usize>, Vec<_>) =
            others.into_iter().map(|(at, socket)| (at, socket.clone())).unzip();
        let (volume, patience) = (self.plan.volume.clone(), self.plan.patience);
        self.probe = Some(tokio::spawn(async move {
            let (at, connection) = attach(&sockets, &volume, patience).await?;
            Ok((numbers[at], connection))
        }));
    }

    /// Another node serves while this one is silent.
    fn desert(&mut self, node: usize, connection: Connection) {
        let (old_node, in_flight) = (self.node, self.in_flight.clone());
        let old = self.move_to(node, connection);
        let end = self.oracle.region().end;
        let task = tokio::spawn(zombie::listen(old, in_flight, end..end + 1, self.late.clone()));
        self.zombies.push((old_node, task.abort_handle()));
    }

    /// Goes on at another connection, and returns the old one.
    fn move_to(&mut self, node: usize, connection: Connection) -> Connection {
        let another_life = node != self.node || connection.pid() != self.connection.pid();
        let unanswered = std::mem::take(&mut self.in_flight);
        let (mut reissued, mut abandoned) = (0, 0);
        for operation in unanswered.into_values() {
            let is_write = operation.kind.change() == Some(Change::Data);
            // In the same life of the server the old request may still be under way: no read would fix its fate.
            if is_write && another_life && self.rng.below(100) < self.plan.abandon {
                self.oracle.abandon(operation.sectors, operation.request);
                abandoned += 1;
            } else {
                self.again.push_back(operation);
                reissued += 1;
            }
        }
        self.zombies.retain(|(at, task)| {
            if *at == node {
                task.abort();
            }
            *at != node
        });
        self.node = node;
        self.last_reply = Instant::now();
        self.board.attached(node, reissued, abandoned);
        std::mem::replace(&mut self.connection, connection)
    }

    fn listen(&mut self, late: Late) {
        self.board.update(|progress| progress.late += 1);
        match late {
            Late::Answer { operation, data } => match data {
                ReplyData::Data(data) => self.oracle.check_late(operation.sectors, &operation.floors, &data),
                _ if operation.kind.change() == Some(Change::Data) => {
                    self.oracle.late_acknowledgement(operation.request);
                }
                _ => {}
            },
            Late::Deposed { what } => {
                let sentence = format!("a deposed primary answered a {what} that was sent after its successor served");
                self.oracle.violate(Violation { wrong: Wrong::Deposed, request: 0, sentence });
            }
        }
        self.publish_violations();
    }

    fn publish_violations(&self) {
        if !self.oracle.violations().is_empty() {
            self.publish();
        }
    }

    fn publish(&self) {
        let violations = self.oracle.violations().clone();
        self.board.update(|progress| progress.violations = violations);
    }
}

/// Who else serves, once that is known.
async fn probed(probe: &mut Option<Probe>) -> Option<(usize, Connection)> {
    match probe {
        Some(probe) => probe.await.ok().and_then(Result::ok),
        None => std::future::pending().await,
    }
}
