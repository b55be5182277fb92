//! The client's half of the negotiation: structured replies, block status, GO.
//!
//! ```text
//! Greeting ──> StructuredReply ──> MetaContext ──> Go ──> transmission
//!                    └──(not asked for, or unsupported)──┘
//! ```
//!
//! Structured replies and block status are wishes: a server that does not know them is used without. GO is not.

use bytes::{Buf, BufMut, Bytes};

use super::{ClientConfig, ClientError, ExportInfo, Step};
use crate::input::Input;
use crate::limits::{MAX_OPTION, MAX_OPTIONS};
use crate::output::Output;
use crate::wire::{self, info, narrow, opt, rep, wide};

#[derive(Debug)]
pub(super) struct Handshake {
    config: ClientConfig,
    state: State,
    export: Option<(u64, u16)>,
    block_sizes: Option<(u32, u32, u32)>,
    structured: bool,
    context: bool,
    replies: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Greeting,
    Option(u32),
}

impl Handshake {
    pub(super) fn new(config: ClientConfig) -> Self {
        Self {
            config,
            state: State::Greeting,
            export: None,
            block_sizes: None,
            structured: false,
            context: false,
            replies: 0,
        }
    }

    pub(super) fn step(&mut self, input: &mut Input, output: &mut Output) -> Step {
        match self.state {
            State::Greeting => self.greeting(input, output),
            State::Option(option) => self.option_reply(option, input, output),
        }
    }

    fn greeting(&mut self, input: &mut Input, output: &mut Output) -> Step {
        let Some(greeting) = input.array::<{ wire::GREETING_BYTES }>() else { return Step::Blocked };
        let mut greeting = greeting.as_slice();
        if greeting.get_u64() != wire::INIT_MAGIC || greeting.get_u64() != wire::OPTION_MAGIC {
            return fail("this is no NBD server of the newstyle");
        }
        let flags = greeting.get_u16();
        if flags & wire::FLAG_FIXED_NEWSTYLE == 0 {
            return fail("the server does not speak fixed newstyle");
        }
        let answer = wire::FLAG_FIXED_NEWSTYLE | (flags & wire::FLAG_NO_ZEROES);
        output.head().put_u32(u32::from(answer));
        if self.config.structured { self.send(opt::STRUCTURED_REPLY, &[], output) } else { self.send_go(output) }
    }

    fn option_reply(&mut self, option: u32, input: &mut Input, output: &mut Output) -> Step {
        let Some(header) = input.peek::<{ wire::OPTION_REPLY_HEADER_BYTES }>() else { return Step::Blocked };
        let mut header = header.as_slice();
        let (magic, echoed) = (header.get_u64(), header.get_u32());
        let (kind, length) = (header.get_u32(), header.get_u32());
        if magic != wire::OPTION_REPLY_MAGIC || echoed != option {
            return fail("a reply to no option of ours");
        }
        if length > MAX_OPTION {
            return fail("an option's reply is too long");
        }
        let Some(mut data) = input.take(wire::OPTION_REPLY_HEADER_BYTES + wide(length)) else { return Step::Blocked };
        data.advance(wire::OPTION_REPLY_HEADER_BYTES);
        self.replies += 1;
        if self.replies > MAX_OPTIONS {
            return fail("too many replies to options");
        }
        match option {
            opt::STRUCTURED_REPLY => self.structured_reply(kind, output),
            opt::SET_META_CONTEXT => self.meta_context(kind, &data, output),
            _ => self.go(kind, data),
        }
    }

    fn structured_reply(&mut self, kind: u32, output: &mut Output) -> Step {
        self.structured = kind == rep::ACK;
        if !self.structured && kind & rep::ERROR_BIT == 0 {
            return fail("an unexpected reply to STRUCTURED_REPLY");
        }
        if self.structured && self.config.block_status {
            let mut data = prefixed(self.config.export.as_bytes());
            data.put_u32(1);
            data.extend(prefixed(wire::BASE_ALLOCATION.as_bytes()));
            return self.send(opt::SET_META_CONTEXT, &data, output);
        }
        self.send_go(output)
    }

    fn meta_context(&mut self, kind: u32, data: &[u8], output: &mut Output) -> Step {
        match kind {
            rep::META_CONTEXT => {
                self.context |= data.get(4..) == Some(wire::BASE_ALLOCATION.as_bytes());
                Step::Again
            }
            rep::ACK => self.send_go(output),
            _ if kind & rep::ERROR_BIT != 0 => {
                self.context = false;
                self.send_go(output)
            }
            _ => fail("an unexpected reply to SET_META_CONTEXT"),
        }
    }

    fn go(&mut self, kind: u32, mut data: Bytes) -> Step {
        match kind {
            rep::INFO => match self.information(&mut data) {
                Ok(()) => Step::Again,
                Err(_) => fail("malformed information about the export"),
            },
            rep::ACK => match self.export {
                Some((size, flags)) => Step::Enter(ExportInfo {
                    size,
                    flags,
                    structured: self.structured,
                    block_status: self.context,
                    block_sizes: self.block_sizes,
                }),
                None => fail("the export was granted without its size"),
            },
            _ if kind & rep::ERROR_BIT != 0 => {
                let message = String::from_utf8_lossy(&data).into_owned();
                Step::Fail(ClientError::Refused { code: kind, message })
            }
            _ => fail("an unexpected reply to GO"),
        }
    }

    fn information(&mut self, data: &mut Bytes) -> Result<(), bytes::TryGetError> {
        match data.try_get_u16()? {
            info::EXPORT => self.export = Some((data.try_get_u64()?, data.try_get_u16()?)),
            info::BLOCK_SIZE => {
                self.block_sizes = Some((data.try_get_u32()?, data.try_get_u32()?, data.try_get_u32()?));
            }
            _ => {}
        }
        Ok(())
    }

    fn send_go(&mut self, output: &mut Output) -> Step {
        let mut data = prefixed(self.config.export.as_bytes());
        data.put_u16(1);
        data.put_u16(info::BLOCK_SIZE);
        self.send(opt::GO, &data, output)
    }

    fn send(&mut self, option: u32, data: &[u8], output: &mut Output) -> Step {
        let head = output.head();
        head.put_u64(wire::OPTION_MAGIC);
        head.put_u32(option);
        head.put_u32(narrow(data.len()));
        head.put_slice(data);
        self.state = State::Option(option);
        Step::Again
    }
}

fn prefixed(bytes: &[u8]) -> Vec<u8> {
    let mut data = narrow(bytes.len()).to_be_bytes().to_vec();
    data.extend_from_slice(bytes);
    data
}

fn fail(what: &'static str) -> Step {
    Step::Fail(ClientError::Violation(what))
}
