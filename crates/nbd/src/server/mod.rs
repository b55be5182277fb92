//! One client connection, as a state machine.
//!
//! ```text
//! Negotiation ──(GO, EXPORT_NAME granted)──> Transmission ──(DISC, shutdown: last answer given)──> Closed
//!      └──(ABORT, violation, refusal by name)──────┴──────────(violation, close)──────────────────────^
//! ```
//!
//! Flow of a shell:
//! 1. while [`Connection::wants_input`], read from the socket into [`Connection::room`] (or hand bytes to
//!    [`Connection::receive`]);
//! 2. take events until [`Connection::next_event`] gives none; answer them now or later, in any order;
//! 3. write what [`Connection::take_output`] gives; after each answer and each write go to 2, because both make room for
//!    requests that wait in the input;
//! 4. when [`Connection::is_closed`] and the output is written, close the socket.
//!
//! Invariants: every request is answered exactly once, with the cookie it came with; a reply to READ carries exactly
//! the bytes asked for or an error; requests in flight, their bytes and unsent output are bounded by
//! [`ServerConfig`], whatever the client does.

mod negotiation;
mod reply;
mod transmission;
mod types;

use bytes::{Bytes, BytesMut};

use self::negotiation::{Answered, Negotiation, Step};
use self::transmission::Transmission;
pub use self::types::{
    CloseReason, Command, Completion, Event, Export, Extent, OpenPurpose, Refusal, RefusalKind, Request, RequestKey,
    ServerConfig, ShutdownMode,
};
use crate::input::Input;
use crate::output::Output;

/// The id under which `base:allocation` is selected.
const ALLOCATION_CONTEXT: u32 = 1;

/// One client connection. See the module's documentation for how to drive it.
#[derive(Debug)]
pub struct Connection {
    config: ServerConfig,
    input: Input,
    output: Output,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Negotiation(Negotiation),
    Transmission(Transmission),
    Closed(CloseReason),
}

impl Connection {
    /// A connection that has just been accepted; its greeting is ready to be sent.
    pub fn new(mut config: ServerConfig) -> Self {
        // A limit of zero would wait for itself for ever.
        config.max_requests = config.max_requests.max(1);
        config.max_bytes = config.max_bytes.max(1);
        let mut output = Output::default();
        let negotiation = Negotiation::new(&mut output);
        Self { config, input: Input::default(), output, phase: Phase::Negotiation(negotiation) }
    }

    /// Whether the shell should read from the socket. False is back-pressure: too much is unanswered or unsent.
    pub fn wants_input(&self) -> bool {
        let wants = match &self.phase {
            Phase::Negotiation(negotiation) => !negotiation.awaits_answer() && !self.output_is_full(),
            Phase::Transmission(transmission) => transmission.wants_input(self.output.len(), &self.config),
            Phase::Closed(_) => false,
        };
        wants && !self.input.is_full()
    }

    /// The receive buffer, with room for at least the rest of the message that is being received. The shell appends what
    /// it reads, once, up to the buffer's capacity. A payload read here becomes the request's data without a copy.
    pub fn room(&mut self) -> &mut BytesMut {
        self.input.room()
    }

    /// Copies received bytes in, as many as the limits allow, and returns how many. The rest is offered again after
    /// events were taken and answered. A closed connection swallows everything.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        if matches!(self.phase, Phase::Closed(_)) { bytes.len() } else { self.input.receive(bytes) }
    }

    /// The next thing to do, if the input holds one.
    pub fn next_event(&mut self) -> Option<Event> {
        loop {
            let full = self.output_is_full();
            let step = match &mut self.phase {
                Phase::Negotiation(_) if full => return None,
                Phase::Negotiation(negotiation) => negotiation.step(&mut self.input, &mut self.output),
                Phase::Transmission(transmission) => transmission.step(&mut self.input, &mut self.output, &self.config),
                Phase::Closed(_) => return None,
            };
            match step {
                Step::Again => {}
                Step::Blocked => return None,
                Step::Event(event) => {
                    self.close_if_finished();
                    return Some(event);
                }
                Step::Close(reason) => self.enter_closed(reason),
            }
        }
    }

    /// Answers [`Event::Open`]. Ignored when the connection no longer waits for it.
    pub fn answer_open(&mut self, answer: Result<Export, Refusal>) {
        let Phase::Negotiation(negotiation) = &mut self.phase else { return };
        match negotiation.answer_open(answer, &mut self.output) {
            Answered::Stay => {}
            Answered::Transmit(export, session) => {
                self.phase = Phase::Transmission(Transmission::new(export, session));
            }
            Answered::Close(reason) => self.enter_closed(reason),
        }
    }

    /// Answers [`Event::List`]. Ignored when the connection no longer waits for it.
    pub fn answer_list(&mut self, answer: Result<Vec<String>, Refusal>) {
        if let Phase::Negotiation(negotiation) = &mut self.phase {
            negotiation.answer_list(answer, &mut self.output);
        }
    }

    /// Answers [`Event::Request`]. False when nothing waits for this key: answered before, or the connection closed.
    pub fn complete(&mut self, key: RequestKey, completion: Completion) -> bool {
        let Phase::Transmission(transmission) = &mut self.phase else { return false };
        let known = transmission.complete(key, completion, &mut self.output);
        self.close_if_finished();
        known
    }

    /// What to write to the socket, in order. The memory bound counts bytes until they are taken: a shell takes the next
    /// output when it has written the last.
    pub fn take_output(&mut self) -> Vec<Bytes> {
        self.output.take()
    }

    /// Bytes that [`Connection::take_output`] would give.
    pub fn output_len(&self) -> usize {
        self.output.len()
    }

    /// Bytes of replies: of every read from when it is taken, whole, until [`Connection::take_output`] gives its reply.
    pub fn reply_bytes(&self) -> usize {
        let reads = if let Phase::Transmission(transmission) = &self.phase { transmission.reads() } else { 0 };
        reads + self.output.len()
    }

    /// Whether a request was handed out in part: the rest must follow, or it is never answered.
    pub fn is_within_request(&self) -> bool {
        matches!(&self.phase, Phase::Transmission(transmission) if transmission.is_within_request())
    }

    /// Requests handed out and not yet answered to the client.
    pub fn in_flight(&self) -> usize {
        match &self.phase {
            Phase::Transmission(transmission) => transmission.in_flight(),
            _ => 0,
        }
    }

    /// Bytes of memory held for received data that is not yet part of an event.
    pub fn input_capacity(&self) -> usize {
        self.input.capacity()
    }

    /// Starts winding down.
    pub fn shutdown(&mut self, mode: ShutdownMode) {
        match (&mut self.phase, mode) {
            (Phase::Negotiation(negotiation), _) => {
                if let Some(reason) = negotiation.refuse(&mut self.output) {
                    self.enter_closed(reason);
                }
            }
            (Phase::Transmission(transmission), ShutdownMode::Reconnect) => transmission.stop(CloseReason::Server),
            (Phase::Transmission(transmission), ShutdownMode::Refuse) => transmission.refuse(),
            (Phase::Closed(_), _) => {}
        }
        self.close_if_finished();
    }

    /// Closes at once. Requests in flight stay unanswered; their completions are ignored.
    pub fn close(&mut self) {
        if !self.is_closed() {
            self.enter_closed(CloseReason::Server);
        }
    }

    /// Whether the socket can be closed as soon as the output is written.
    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed(_))
    }

    /// Why the connection is closed, once it is.
    pub fn close_reason(&self) -> Option<CloseReason> {
        match self.phase {
            Phase::Closed(reason) => Some(reason),
            _ => None,
        }
    }

    fn output_is_full(&self) -> bool {
        self.output.len() >= self.config.max_bytes
    }

    fn close_if_finished(&mut self) {
        if let Phase::Transmission(transmission) = &self.phase
            && let Some(reason) = transmission.finished()
        {
            self.enter_closed(reason);
        }
    }

    fn enter_closed(&mut self, reason: CloseReason) {
        self.phase = Phase::Closed(reason);
        self.input.clear();
    }
}
