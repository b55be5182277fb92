//! Option haggling: from the greeting to the choice of an export.
//!
//! ```text
//! ClientFlags ──> Header ──> Data ──> Header …            one option after the other
//!                   │          └────> Question ──> Header   INFO, LIST, a refused GO
//!                   └─ Skip ──> Header          └─> transmission: GO or EXPORT_NAME granted
//! ```
//!
//! Invariants: an option's data is read whole or skipped whole before it is answered; while a question to the shell is open
//! nothing is decoded; a client sends at most [`MAX_OPTIONS`] options.
//!
//! Deliberately absent: TLS. Sockets are local and guarded by their directory's permissions.

use bytes::{Buf, BufMut, Bytes};

use super::types::{CloseReason, Event, Export, OpenPurpose, Refusal};
use crate::error::bounded;
use crate::input::Input;
use crate::limits::{MAX_LISTED, MAX_OPTION, MAX_OPTION_DRAIN, MAX_OPTIONS, MAX_PAYLOAD, MAX_STRING, PREFERRED_BLOCK};
use crate::output::Output;
use crate::wire::{self, export_flag, info, narrow, opt, rep, wide};

/// What a step of the negotiation led to.
pub(super) enum Step {
    Again,
    Blocked,
    Event(Event),
    Close(CloseReason),
}

/// What the shell's answer led to.
pub(super) enum Answered {
    Stay,
    Transmit(Export, Session),
    Close(CloseReason),
}

/// What was agreed for the transmission.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Session {
    pub(super) structured: bool,
    /// `base:allocation` was selected for the export in use.
    pub(super) allocation: bool,
}

#[derive(Debug)]
pub(super) struct Negotiation {
    state: State,
    fixed: bool,
    no_zeroes: bool,
    structured: bool,
    /// The export for which `base:allocation` was selected last.
    allocation: Option<String>,
    options: u32,
    refusing: bool,
}

#[derive(Debug)]
enum State {
    ClientFlags,
    Header,
    Data { option: u32, length: u32 },
    Skip { option: u32, remaining: u32 },
    Question(Question),
}

#[derive(Debug)]
enum Question {
    List,
    Open { option: u32, name: String, items: Items },
}

/// Information items that a client asked for.
#[derive(Clone, Copy, Debug, Default)]
struct Items {
    name: bool,
    description: bool,
    block_size: bool,
}

impl Negotiation {
    /// Starts with the server's greeting.
    pub(super) fn new(output: &mut Output) -> Self {
        let head = output.head();
        head.put_u64(wire::INIT_MAGIC);
        head.put_u64(wire::OPTION_MAGIC);
        head.put_u16(wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES);
        Self {
            state: State::ClientFlags,
            fixed: false,
            no_zeroes: false,
            structured: false,
            allocation: None,
            options: 0,
            refusing: false,
        }
    }

    pub(super) fn awaits_answer(&self) -> bool {
        matches!(self.state, State::Question(_))
    }

    pub(super) fn step(&mut self, input: &mut Input, output: &mut Output) -> Step {
        match self.state {
            State::ClientFlags => self.client_flags(input),
            State::Header => self.header(input),
            State::Data { option, length } => match input.take(wide(length)) {
                Some(data) => {
                    self.state = State::Header;
                    self.option(option, data, output)
                }
                None => Step::Blocked,
            },
            State::Skip { option, remaining } => self.skip(option, remaining, input, output),
            State::Question(_) => Step::Blocked,
        }
    }

    /// From now on every option but ABORT is refused, the open question included.
    pub(super) fn refuse(&mut self, output: &mut Output) -> Option<CloseReason> {
        self.refusing = true;
        let State::Question(question) = &self.state else { return None };
        let option = match question {
            Question::List => opt::LIST,
            Question::Open { option: opt::EXPORT_NAME, .. } => return Some(CloseReason::Server),
            Question::Open { option, .. } => *option,
        };
        self.state = State::Header;
        reply_error(output, option, rep::ERR_SHUTDOWN, SHUTTING_DOWN);
        None
    }

    fn client_flags(&mut self, input: &mut Input) -> Step {
        let Some(flags) = input.array::<{ wire::CLIENT_FLAGS_BYTES }>().map(u32::from_be_bytes) else {
            return Step::Blocked;
        };
        let (fixed, no_zeroes) = (u32::from(wire::FLAG_FIXED_NEWSTYLE), u32::from(wire::FLAG_NO_ZEROES));
        if flags & !(fixed | no_zeroes) != 0 {
            return Step::Close(CloseReason::Violation("unknown client flags"));
        }
        self.fixed = flags & fixed != 0;
        self.no_zeroes = flags & no_zeroes != 0;
        self.state = State::Header;
        Step::Again
    }

    fn header(&mut self, input: &mut Input) -> Step {
        let Some(header) = input.array::<{ wire::OPTION_HEADER_BYTES }>() else { return Step::Blocked };
        let mut header = header.as_slice();
        let (magic, option, length) = (header.get_u64(), header.get_u32(), header.get_u32());
        if magic != wire::OPTION_MAGIC {
            return Step::Close(CloseReason::Violation("wrong magic of an option"));
        }
        self.options += 1;
        if self.options > MAX_OPTIONS {
            return Step::Close(CloseReason::Violation("too many options"));
        }
        if !self.fixed && option != opt::EXPORT_NAME {
            return Step::Close(CloseReason::Violation("an option that needs fixed newstyle"));
        }
        self.state = match length {
            0..=MAX_OPTION => State::Data { option, length },
            // A refusal of EXPORT_NAME can't be sent, so there is nothing to stay for.
            _ if length > MAX_OPTION_DRAIN || option == opt::EXPORT_NAME => {
                return Step::Close(CloseReason::Violation("an option's data is too long"));
            }
            _ => State::Skip { option, remaining: length },
        };
        Step::Again
    }

    fn skip(&mut self, option: u32, remaining: u32, input: &mut Input, output: &mut Output) -> Step {
        let remaining = remaining - input.skip(remaining);
        if remaining > 0 {
            self.state = State::Skip { option, remaining };
            return Step::Blocked;
        }
        self.state = State::Header;
        if option == opt::ABORT {
            return self.abort(output);
        }
        reply_error(output, option, rep::ERR_TOO_BIG, "the option's data is too long");
        Step::Again
    }

    fn option(&mut self, option: u32, data: Bytes, output: &mut Output) -> Step {
        match option {
            opt::ABORT => self.abort(output),
            opt::EXPORT_NAME => self.export_name(&data),
            _ if self.refusing => refused(output, option, rep::ERR_SHUTDOWN, SHUTTING_DOWN),
            opt::LIST | opt::STARTTLS | opt::STRUCTURED_REPLY if !data.is_empty() => {
                refused(output, option, rep::ERR_INVALID, "this option takes no data")
            }
            opt::LIST => {
                self.state = State::Question(Question::List);
                Step::Event(Event::List)
            }
            opt::STARTTLS => refused(output, option, rep::ERR_UNSUP, "this server does not support TLS"),
            opt::STRUCTURED_REPLY => {
                self.structured = true;
                acknowledged(output, option)
            }
            opt::INFO | opt::GO => self.open(option, data, output),
            opt::LIST_META_CONTEXT | opt::SET_META_CONTEXT => {
                self.meta_context(option, data, output);
                Step::Again
            }
            _ => refused(output, option, rep::ERR_UNSUP, "unknown option"),
        }
    }

    fn abort(&mut self, output: &mut Output) -> Step {
        reply(output, opt::ABORT, rep::ACK, &[]);
        Step::Close(CloseReason::Abort)
    }

    fn export_name(&mut self, data: &[u8]) -> Step {
        if self.refusing {
            return Step::Close(CloseReason::Server);
        }
        let Ok(name) = string(data) else {
            return Step::Close(CloseReason::Violation("an export name that is no string"));
        };
        self.ask(opt::EXPORT_NAME, name, Items::default())
    }

    fn open(&mut self, option: u32, data: Bytes, output: &mut Output) -> Step {
        match parse_open(data) {
            Ok((name, items)) => self.ask(option, name, items),
            Err(invalid) => refused(output, option, invalid.reply, invalid.message),
        }
    }

    fn ask(&mut self, option: u32, name: String, items: Items) -> Step {
        let purpose = match option {
            opt::INFO => OpenPurpose::Inspect,
            opt::GO => OpenPurpose::Use,
            _ => OpenPurpose::UseByName,
        };
        self.state = State::Question(Question::Open { option, name: name.clone(), items });
        Step::Event(Event::Open { name, purpose })
    }

    /// Contexts belong to the protocol, not to an export: the shell is not asked, and an unknown name fails at GO.
    fn meta_context(&mut self, option: u32, data: Bytes, output: &mut Output) {
        let selecting = option == opt::SET_META_CONTEXT;
        if selecting {
            // The protocol: "replaces all previously-set metadata contexts (including when this command fails)".
            self.allocation = None;
            if !self.structured {
                return reply_error(output, option, rep::ERR_INVALID, "structured replies must be negotiated first");
            }
        }
        let (name, queries) = match parse_meta_context(data) {
            Ok(parsed) => parsed,
            Err(invalid) => return reply_error(output, option, invalid.reply, invalid.message),
        };
        let exact = queries.iter().any(|query| query == wire::BASE_ALLOCATION.as_bytes());
        let listed = queries.is_empty() || queries.iter().any(|query| query == b"base:".as_slice());
        if exact || (!selecting && listed) {
            let id = if selecting { super::ALLOCATION_CONTEXT } else { 0 };
            reply(output, option, rep::META_CONTEXT, &[&id.to_be_bytes(), wire::BASE_ALLOCATION.as_bytes()]);
        }
        if selecting && exact {
            self.allocation = Some(name);
        }
        reply(output, option, rep::ACK, &[]);
    }

    /// The shell's answer to [`Event::List`]; ignored when no such question is open.
    pub(super) fn answer_list(&mut self, answer: Result<Vec<String>, Refusal>, output: &mut Output) {
        let State::Question(Question::List) = self.state else { return };
        self.state = State::Header;
        match answer {
            Ok(names) => {
                for name in names.iter().take(MAX_LISTED) {
                    let name = bounded(name).as_bytes();
                    reply(output, opt::LIST, rep::SERVER, &[&narrow(name.len()).to_be_bytes(), name]);
                }
                reply(output, opt::LIST, rep::ACK, &[]);
            }
            Err(refusal) => reply_error(output, opt::LIST, refusal.kind.reply(), &refusal.message),
        }
    }

    /// The shell's answer to [`Event::Open`]; ignored when no such question is open.
    pub(super) fn answer_open(&mut self, answer: Result<Export, Refusal>, output: &mut Output) -> Answered {
        let State::Question(Question::Open { option, name, items }) = &self.state else { return Answered::Stay };
        let (option, items) = (*option, *items);
        let session =
            Session { structured: self.structured, allocation: self.allocation.as_deref() == Some(name.as_str()) };
        let result = match answer {
            Ok(export) if option == opt::EXPORT_NAME => {
                self.reply_export_name(&export, output);
                Answered::Transmit(export, session)
            }
            Ok(export) => {
                self.reply_open(option, name, items, &export, output);
                if option == opt::GO { Answered::Transmit(export, session) } else { Answered::Stay }
            }
            Err(_) if option == opt::EXPORT_NAME => Answered::Close(CloseReason::Refused),
            Err(refusal) => {
                reply_error(output, option, refusal.kind.reply(), &refusal.message);
                Answered::Stay
            }
        };
        self.state = State::Header;
        result
    }

    fn reply_export_name(&self, export: &Export, output: &mut Output) {
        let head = output.head();
        head.put_u64(export.size);
        head.put_u16(transmission_flags(export, self.structured));
        if !self.no_zeroes {
            head.put_bytes(0, wire::EXPORT_NAME_PADDING);
        }
    }

    fn reply_open(&self, option: u32, asked: &str, items: Items, export: &Export, output: &mut Output) {
        let flags = transmission_flags(export, self.structured);
        reply_info(output, option, info::EXPORT, &[&export.size.to_be_bytes(), &flags.to_be_bytes()]);
        if items.name {
            let name = export.name.as_deref().unwrap_or(asked);
            reply_info(output, option, info::NAME, &[bounded(name).as_bytes()]);
        }
        if let Some(description) = export.description.as_deref().filter(|_| items.description) {
            reply_info(output, option, info::DESCRIPTION, &[bounded(description).as_bytes()]);
        }
        if items.block_size {
            let sizes = [1_u32, PREFERRED_BLOCK, MAX_PAYLOAD].map(u32::to_be_bytes);
            reply_info(output, option, info::BLOCK_SIZE, &[sizes.as_flattened()]);
        }
        reply(output, option, rep::ACK, &[]);
    }
}

const SHUTTING_DOWN: &str = "the server is shutting down";

fn refused(output: &mut Output, option: u32, kind: u32, message: &str) -> Step {
    reply_error(output, option, kind, message);
    Step::Again
}

fn acknowledged(output: &mut Output, option: u32) -> Step {
    reply(output, option, rep::ACK, &[]);
    Step::Again
}

fn transmission_flags(export: &Export, structured: bool) -> u16 {
    use export_flag as flag;
    let mut flags = flag::HAS_FLAGS | flag::SEND_FLUSH | flag::SEND_FUA | flag::SEND_CACHE;
    flags |= if export.read_only {
        flag::READ_ONLY
    } else {
        flag::SEND_TRIM | flag::SEND_WRITE_ZEROES | flag::SEND_FAST_ZERO
    };
    if structured {
        flags |= flag::SEND_DF;
    }
    if export.multi_conn {
        flags |= flag::CAN_MULTI_CONN;
    }
    flags
}

fn reply(output: &mut Output, option: u32, kind: u32, data: &[&[u8]]) {
    let head = output.head();
    head.put_u64(wire::OPTION_REPLY_MAGIC);
    head.put_u32(option);
    head.put_u32(kind);
    head.put_u32(narrow(data.iter().map(|part| part.len()).sum()));
    data.iter().for_each(|part| head.put_slice(part));
}

fn reply_info(output: &mut Output, option: u32, item: u16, data: &[&[u8]]) {
    let head = output.head();
    let length = 2 + data.iter().map(|part| part.len()).sum::<usize>();
    head.put_u64(wire::OPTION_REPLY_MAGIC);
    head.put_u32(option);
    head.put_u32(rep::INFO);
    head.put_u32(narrow(length));
    head.put_u16(item);
    data.iter().for_each(|part| head.put_slice(part));
}

fn reply_error(output: &mut Output, option: u32, kind: u32, message: &str) {
    assert!(kind & rep::ERROR_BIT != 0);
    reply(output, option, kind, &[bounded(message).as_bytes()]);
}

/// Why an option's data was not understood.
#[derive(Debug)]
struct Invalid {
    reply: u32,
    message: &'static str,
}

const MALFORMED: Invalid = Invalid { reply: rep::ERR_INVALID, message: "malformed option data" };

impl From<bytes::TryGetError> for Invalid {
    fn from(_: bytes::TryGetError) -> Self {
        MALFORMED
    }
}

fn string(bytes: &[u8]) -> Result<String, Invalid> {
    if bytes.len() > MAX_STRING {
        return Err(Invalid { reply: rep::ERR_TOO_BIG, message: "a string is longer than 4096 bytes" });
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text.to_owned()),
        _ => Err(Invalid { reply: rep::ERR_INVALID, message: "a string is not UTF-8 without NUL" }),
    }
}

fn take_prefixed(data: &mut Bytes) -> Result<Bytes, Invalid> {
    let length = wide(data.try_get_u32()?);
    if length > data.len() {
        return Err(MALFORMED);
    }
    Ok(data.split_to(length))
}

fn parse_open(mut data: Bytes) -> Result<(String, Items), Invalid> {
    let name = string(&take_prefixed(&mut data)?)?;
    let count = data.try_get_u16()?;
    if data.len() != 2 * usize::from(count) {
        return Err(MALFORMED);
    }
    let mut items = Items::default();
    while let Ok(item) = data.try_get_u16() {
        match item {
            info::NAME => items.name = true,
            info::DESCRIPTION => items.description = true,
            info::BLOCK_SIZE => items.block_size = true,
            // The protocol: the export's size is always sent, unknown items are ignored.
            _ => {}
        }
    }
    Ok((name, items))
}

fn parse_meta_context(mut data: Bytes) -> Result<(String, Vec<Bytes>), Invalid> {
    let name = string(&take_prefixed(&mut data)?)?;
    let count = data.try_get_u32()?;
    // Each query takes four bytes at least, so `count` is bounded by the data that is really there.
    if wide(count) > data.len() / 4 {
        return Err(MALFORMED);
    }
    let mut queries = Vec::with_capacity(wide(count));
    for _ in 0..count {
        queries.push(take_prefixed(&mut data)?);
    }
    if data.is_empty() { Ok((name, queries)) } else { Err(MALFORMED) }
}
