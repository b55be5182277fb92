//! How the agent ends when it is told to.
//!
//! ```text
//! SIGTERM ─► hand over: every primary gets a successor ──┐
//!            or stay: the others wait for the next life ─┴─► drain, checkpoint ─► step down as leader of Raft ─► hooks ─► status 0
//! ```
//! Each step has a limit, and what is not done by then is left to what follows a crash. A second signal ends everything at once.
//!
//! Invariants: nothing is answered that a quorum does not hold, however urgent the end; requests that can't be answered in time are
//! not answered at all, and clients send them again.

use crate::control::{Arrivals, ControlLoop, Turn};
use crate::error::AgentError;
use crate::notify::Notifier;
use crate::random;
use crate::shard_link::ToShard;
use holdfast_node::control::Input;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How long requests in flight and checkpoints may take. A quorum that is gone answers nothing, however long one waits.
const DRAIN: Duration = Duration::from_secs(10);
/// How long the leader of Raft waits for its successor.
const STEP_DOWN: Duration = Duration::from_secs(1);

/// How long programs that were told of a role may still run: what they do (a VM that is to be stopped) belongs to the handover. With
/// the other steps it is less than the unit's TimeoutStopSec.
const HOOKS: Duration = Duration::from_secs(5);

/// What becomes of the primaries here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// Others take them.
    HandOver,
    /// They wait for this node's next life.
    Stay,
}

/// What the configuration says about the end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ending {
    /// What a signal means.
    pub(crate) on_term: How,
    /// How long handing over may take, for all volumes together.
    pub(crate) handover: Duration,
    /// How long the others wait for the next life.
    pub(crate) restart_window: Duration,
}

/// SIGTERM and SIGINT.
pub(crate) struct Stop {
    terminate: Signal,
    interrupt: Signal,
    supervisor: Notifier,
}

impl Stop {
    pub(crate) fn new(supervisor: Notifier) -> std::io::Result<Stop> {
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Stop { terminate, interrupt, supervisor })
    }

    /// The next one. The supervisor is told.
    pub(crate) async fn wanted(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        self.supervisor.stopping();
    }
}

impl ControlLoop {
    /// Walks through the end, while everything that arrives is still taken care of.
    pub(crate) async fn end(&mut self, from: &mut Arrivals, how: How) -> Result<(), AgentError> {
        let Ending { handover, restart_window, .. } = self.parts.ending;
        let led = self.parts.control.led();
        match how {
            How::HandOver => {
                tracing::info!(volumes = led, "the agent ends: what it leads is handed over");
                self.feed(Input::HandOver).await;
                self.turns_until(from, handover, |me| me.parts.control.to_hand_over(random::now()) == 0).await?;
                let left = self.parts.control.led();
                if left > 0 {
                    tracing::warn!(
                        volumes = left,
                        "nobody took over what is still led here: no other copy follows, or not in time"
                    );
                }
            }
            How::Stay => {
                tracing::info!(volumes = led, within = ?restart_window, "the agent ends to be restarted: what it leads waits for it");
                self.stays = true;
                self.feed(Input::Restarts { within: restart_window }).await;
            }
        }
        self.unsent_retire = true;
        self.offer_again();
        if !self.turns_until(from, DRAIN, |me| me.retired).await? {
            tracing::warn!(
                "requests or checkpoints are left: no quorum or no device answers; the next start replays more"
            );
        }
        self.feed(Input::StepDown).await;
        let alone = self.parts.control.raft_status().voters.len() < 2;
        let stepped_down = |me: &ControlLoop| alone || !me.parts.control.raft_status().is_leader;
        self.turns_until(from, STEP_DOWN, stepped_down).await?;
        if !self.turns_until(from, HOOKS, |me| me.hooks.busy().is_empty()).await? {
            let volumes = self.hooks.busy().join(", ");
            tracing::warn!(volumes, "hooks have not ended in time; nobody waits for them any more");
        }
        // The shard ends by itself when its end of the link closes.
        let _ = self.parts.shard.to.try_send(ToShard::Shutdown);
        tracing::info!("the agent has ended");
        Ok(())
    }

    /// Goes on until something is so, which it says, or the time is up.
    async fn turns_until(
        &mut self,
        from: &mut Arrivals,
        limit: Duration,
        is_so: impl Fn(&ControlLoop) -> bool,
    ) -> Result<bool, AgentError> {
        let until = random::now() + limit;
        while !is_so(self) {
            if random::now() >= until {
                return Ok(false);
            }
            match self.turn(from, Some(until)).await? {
                Turn::Went => {}
                Turn::Over => return Ok(false),
                Turn::Stop => return Err(AgentError::Interrupted),
            }
        }
        Ok(true)
    }
}
