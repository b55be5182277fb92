//! Messages of the control lane, and the envelope around each command in Raft's log.
//!
//! Little endian, one tag or version byte first. What a peer sends is checked here, and dropped if it is malformed.

use crate::upkeep::Upkeep;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use holdfast_types::{Generation, Life, NodeId, Speaks};
use std::collections::BTreeMap;

/// Longest command. The largest, a volume with seven copies, takes far less.
pub(super) const MAX_COMMAND_BYTES: usize = 64 * 1024;
/// Longest heartbeat: reports of some thousands of copies.
const MAX_HEARTBEAT_BYTES: usize = 8 << 20;

const TAG_RAFT: u8 = 1;
const TAG_HEARTBEAT: u8 = 2;
const TAG_FORWARD: u8 = 3;
const TAG_ALIVE: u8 = 4;
const TAG_PEERS: u8 = 5;
const TAG_UPKEEP: u8 = 6;
const TAG_RESTARTS: u8 = 7;
const TAG_SPEAKS: u8 = 8;
/// Before any other message, if the sender's generation is not the first one.
const TAG_GENERATION: u8 = 9;
const TAG_RECOVERED: u8 = 10;
const TAG_CHANGES: u8 = 11;
const TAG_ALIVE_AT: u8 = 12;
const TAG_TELL_ALL: u8 = 13;
const TAG_ALL: u8 = 14;

/// Longest name of a build.
pub(super) const MAX_BUILD_BYTES: usize = 256;

/// Most nodes that one message introduces, and the longest address of one.
pub(super) const MAX_INTRODUCED: usize = 1024;
const MAX_ADDRESS_BYTES: usize = 1024;

const ENVELOPE_VERSION: u8 = 1;
const ENVELOPE_HEADER: usize = 1 + 4 * 8;

/// A message between two nodes' control planes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// Raft's own.
    Raft(Bytes),
    /// `cluster::Heartbeat`, encoded.
    Heartbeat(Bytes),
    /// To the leader: order this envelope.
    Forward(Bytes),
    /// A heartbeat of that life whose copies are as its last `Heartbeat` said.
    Alive(Life),
    /// The nodes of the cluster and their addresses, as the sender's state says. A node that was away, or has only just joined,
    /// may not know the one that leads now, and without a lane to it would never learn of it.
    Peers(BTreeMap<NodeId, String>),
    /// An operator's wish for a copy of the receiver.
    Upkeep(Upkeep),
    /// That life of the sender ends now, and another one is to follow within so many milliseconds: what it leads is to wait for it.
    Restarts(Life, u32),
    /// Which versions that life of the sender speaks, and which build it is. Agents of the first version neither send nor know this.
    Speaks(Life, Speaks, String),
    /// `cluster::Changes`, encoded. In clusters of version 2, as the three below.
    Changes(Bytes),
    /// A heartbeat of that life, which has told of so many changes.
    AliveAt(Life, u64),
    /// Not all that the receiver has told is known: `All` is wanted.
    TellAll,
    /// `cluster::Heartbeat`, encoded, with so many changes in it.
    All(u64, Bytes),
    /// `cluster::Recovery`, encoded: what opened the sender's generation.
    Recovered(Bytes),
}

/// A message as a node of that generation sends it.
pub(super) fn of_generation(generation: Generation, message: Bytes) -> Bytes {
    if generation == Generation::FIRST {
        return message;
    }
    let mut out = BytesMut::with_capacity(9 + message.len());
    out.put_u8(TAG_GENERATION);
    out.put_u64_le(generation.0);
    out.put_slice(&message);
    out.freeze()
}

/// Of which generation its sender is, and the message; `None`: malformed.
pub(super) fn generation_of(mut bytes: Bytes) -> Option<(Generation, Bytes)> {
    if bytes.first() != Some(&TAG_GENERATION) {
        return Some((Generation::FIRST, bytes));
    }
    bytes.advance(1);
    let generation = Generation(bytes.try_get_u64_le().ok()?);
    (generation > Generation::FIRST).then_some((generation, bytes))
}

impl Message {
    pub(super) fn encode(&self) -> Bytes {
        let alive;
        let peers;
        let upkeep;
        let restarts;
        let told;
        let (tag, body) = match self {
            Message::Raft(body) => (TAG_RAFT, body),
            Message::Heartbeat(body) => (TAG_HEARTBEAT, body),
            Message::Forward(body) => (TAG_FORWARD, body),
            Message::Recovered(body) => (TAG_RECOVERED, body),
            Message::Alive(life) => {
                alive = Bytes::copy_from_slice(&life.0.to_le_bytes());
                (TAG_ALIVE, &alive)
            }
            Message::Peers(nodes) => {
                peers = encode_peers(nodes);
                (TAG_PEERS, &peers)
            }
            Message::Upkeep(wish) => {
                upkeep = wish.encode();
                (TAG_UPKEEP, &upkeep)
            }
            Message::Restarts(life, within_ms) => {
                let mut body = BytesMut::with_capacity(12);
                body.put_u64_le(life.0);
                body.put_u32_le(*within_ms);
                restarts = body.freeze();
                (TAG_RESTARTS, &restarts)
            }
            Message::Changes(body) => (TAG_CHANGES, body),
            Message::AliveAt(life, number) => {
                let mut body = BytesMut::with_capacity(16);
                body.put_u64_le(life.0);
                body.put_u64_le(*number);
                alive = body.freeze();
                (TAG_ALIVE_AT, &alive)
            }
            Message::TellAll => (TAG_TELL_ALL, &Bytes::new()),
            Message::All(number, heartbeat) => {
                let mut body = BytesMut::with_capacity(8 + heartbeat.len());
                body.put_u64_le(*number);
                body.put_slice(heartbeat);
                alive = body.freeze();
                (TAG_ALL, &alive)
            }
            Message::Speaks(life, speaks, build) => {
                told = encode_speaks(*life, *speaks, build);
                (TAG_SPEAKS, &told)
            }
        };
        let mut out = BytesMut::with_capacity(1 + body.len());
        out.put_u8(tag);
        out.put_slice(body);
        out.freeze()
    }

    /// `None`: malformed, or of a version to come.
    pub(super) fn decode(mut bytes: Bytes) -> Option<Message> {
        if bytes.is_empty() {
            return None;
        }
        match bytes.get_u8() {
            TAG_RAFT => Some(Message::Raft(bytes)),
            TAG_HEARTBEAT if bytes.len() <= MAX_HEARTBEAT_BYTES => Some(Message::Heartbeat(bytes)),
            TAG_FORWARD if bytes.len() <= ENVELOPE_HEADER + MAX_COMMAND_BYTES => Some(Message::Forward(bytes)),
            TAG_ALIVE if bytes.len() == 8 => Some(Message::Alive(Life(bytes.get_u64_le()))),
            TAG_PEERS => decode_peers(bytes).map(Message::Peers),
            TAG_UPKEEP => Upkeep::decode(bytes).map(Message::Upkeep),
            TAG_RESTARTS if bytes.len() == 12 => Some(Message::Restarts(Life(bytes.get_u64_le()), bytes.get_u32_le())),
            TAG_SPEAKS => decode_speaks(bytes),
            TAG_CHANGES if bytes.len() <= MAX_HEARTBEAT_BYTES => Some(Message::Changes(bytes)),
            TAG_ALIVE_AT if bytes.len() == 16 => Some(Message::AliveAt(Life(bytes.get_u64_le()), bytes.get_u64_le())),
            TAG_ALL if (8..=8 + MAX_HEARTBEAT_BYTES).contains(&bytes.len()) => {
                Some(Message::All(bytes.get_u64_le(), bytes))
            }
            TAG_TELL_ALL if bytes.is_empty() => Some(Message::TellAll),
            TAG_RECOVERED => Some(Message::Recovered(bytes)),
            _ => None,
        }
    }
}

/// The life; the oldest and the newest version, and the length of the build's name, in four bytes each; the name.
fn encode_speaks(life: Life, speaks: Speaks, build: &str) -> Bytes {
    assert!(build.len() <= MAX_BUILD_BYTES, "a build's name has at most {MAX_BUILD_BYTES} bytes");
    let mut out = BytesMut::with_capacity(20 + build.len());
    out.put_u64_le(life.0);
    for field in [speaks.oldest().0, speaks.newest().0, u32::try_from(build.len()).expect("at most 256 bytes")] {
        out.put_u32_le(field);
    }
    out.put_slice(build.as_bytes());
    out.freeze()
}

/// What follows the name is of versions to come, and passed over: this message is read by whoever may be too old for all others.
fn decode_speaks(mut bytes: Bytes) -> Option<Message> {
    let life = Life(bytes.try_get_u64_le().ok()?);
    let (oldest, newest) = (bytes.try_get_u32_le().ok()?, bytes.try_get_u32_le().ok()?);
    let len = usize::try_from(bytes.try_get_u32_le().ok()?).ok()?;
    if len > MAX_BUILD_BYTES || len > bytes.remaining() {
        return None;
    }
    let build = String::from_utf8(bytes.split_to(len).into()).ok()?;
    Some(Message::Speaks(life, Speaks::new(oldest, newest)?, build))
}

/// For each node its id, the length of its address in two bytes, and the address.
fn encode_peers(nodes: &BTreeMap<NodeId, String>) -> Bytes {
    let mut out = BytesMut::new();
    for (node, address) in nodes.iter().take(MAX_INTRODUCED).filter(|(_, a)| a.len() <= MAX_ADDRESS_BYTES) {
        out.put_u64_le(node.0);
        out.put_u16_le(u16::try_from(address.len()).expect("at most 1024 bytes"));
        out.put_slice(address.as_bytes());
    }
    out.freeze()
}

fn decode_peers(mut bytes: Bytes) -> Option<BTreeMap<NodeId, String>> {
    let mut nodes = BTreeMap::new();
    while bytes.has_remaining() {
        let (node, len) = (bytes.try_get_u64_le().ok()?, usize::from(bytes.try_get_u16_le().ok()?));
        if len > MAX_ADDRESS_BYTES || len > bytes.remaining() || nodes.len() == MAX_INTRODUCED {
            return None;
        }
        let address = String::from_utf8(bytes.split_to(len).into()).ok()?;
        nodes.insert(NodeId(node), address);
    }
    Some(nodes)
}

/// A command in the log, and who waits for its outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Envelope {
    /// Who proposed it.
    pub(super) node: NodeId,
    /// In which life.
    pub(super) life: Life,
    /// Counts up within that life. A proposal may be in the log more than once; only the first one counts.
    pub(super) id: u64,
    /// The proposer waits for no id below this one, so nobody needs to remember those.
    pub(super) oldest: u64,
    /// `cluster::Command`, encoded.
    pub(super) command: Bytes,
}

impl Envelope {
    pub(super) fn encode(&self) -> Bytes {
        assert!(self.command.len() <= MAX_COMMAND_BYTES, "a command has at most {MAX_COMMAND_BYTES} bytes");
        assert!(self.oldest <= self.id, "a proposal is waited for when it leaves: {self:?}");
        let mut out = BytesMut::with_capacity(ENVELOPE_HEADER + self.command.len());
        out.put_u8(ENVELOPE_VERSION);
        for field in [self.node.0, self.life.0, self.id, self.oldest] {
            out.put_u64_le(field);
        }
        out.put_slice(&self.command);
        out.freeze()
    }

    /// `None`: malformed, or of a version to come.
    pub(super) fn decode(mut bytes: Bytes) -> Option<Envelope> {
        if bytes.len() < ENVELOPE_HEADER || bytes.len() > ENVELOPE_HEADER + MAX_COMMAND_BYTES {
            return None;
        }
        if bytes.get_u8() != ENVELOPE_VERSION {
            return None;
        }
        let node = NodeId(bytes.get_u64_le());
        let life = Life(bytes.get_u64_le());
        let (id, oldest) = (bytes.get_u64_le(), bytes.get_u64_le());
        (oldest <= id).then_some(Envelope { node, life, id, oldest, command: bytes })
    }
}

/// What a node says to another one's control plane, read as far as it is before anything is done about it.
///
/// # Panics
/// Something was understood that does not read the same when it is written again.
#[cfg(any(test, feature = "fuzz"))]
pub fn fuzz_control(bytes: &[u8]) {
    use holdfast_cluster::{Changes, Command, Heartbeat, Recovery};
    let speaks = Speaks::THIS;
    let Some((_, bytes)) = generation_of(Bytes::copy_from_slice(bytes)) else { return };
    let Some(message) = Message::decode(bytes) else { return };
    assert_eq!(Message::decode(message.encode()).as_ref(), Some(&message));
    match message {
        Message::Heartbeat(body) | Message::All(_, body) => drop(Heartbeat::decode(&body, speaks)),
        Message::Changes(body) => drop(Changes::decode(&body)),
        Message::Recovered(body) => drop(Recovery::decode(&body)),
        Message::Forward(body) => {
            let Some(envelope) = Envelope::decode(body) else { return };
            assert_eq!(Envelope::decode(envelope.encode()).as_ref(), Some(&envelope));
            let Ok(command) = Command::decode(&envelope.command, speaks) else { return };
            let again = Command::decode(&command.encode(), speaks).expect("what was read can be written");
            assert_eq!(again, command);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upkeep::Task;
    use holdfast_types::VolumeId;

    #[test]
    fn messages_and_envelopes_survive_the_way_there_and_back() {
        let body = Bytes::from_static(b"body");
        let (raft, alive) = (Message::Raft(body.clone()), Message::Alive(Life(u64::MAX - 1)));
        let peers = BTreeMap::from([(NodeId(1), "a:1".to_owned()), (NodeId(9), String::new())]);
        let wish = |task| Message::Upkeep(Upkeep { volume: VolumeId(3), run: u64::MAX, task });
        for message in [
            raft,
            alive,
            Message::Restarts(Life(7), u32::MAX),
            Message::Speaks(Life(8), Speaks::THIS, "0.1.0".to_owned()),
            Message::Speaks(Life(8), Speaks::new(3, u32::MAX).unwrap(), String::new()),
            wish(Task::Verify),
            wish(Task::Scrub { bytes_per_second: 100 << 20 }),
            Message::Peers(peers.clone()),
            Message::Heartbeat(body.clone()),
            Message::Forward(body.clone()),
            Message::Recovered(body.clone()),
        ] {
            let bytes = message.encode();
            for generation in [Generation::FIRST, Generation(1), Generation(u64::MAX)] {
                let marked = of_generation(generation, bytes.clone());
                assert_eq!(marked == bytes, generation == Generation::FIRST, "the first one says what was always said");
                assert_eq!(generation_of(marked), Some((generation, bytes.clone())));
            }
            assert_eq!(Message::decode(bytes), Some(message));
        }
        let marked = of_generation(Generation(7), body.clone());
        assert!((1..9).all(|len| generation_of(marked.slice(..len)).is_none()), "cut off in the generation");
        let mut first = marked.to_vec();
        first[1] = 0;
        assert_eq!(generation_of(first.into()), None, "the first one is never marked");
        let bytes = Message::Peers(peers).encode();
        assert!(
            (2..bytes.len() - 10).all(|len| Message::decode(bytes.slice(..len)).is_none()),
            "cut off in the first node"
        );
        let envelope = Envelope { node: NodeId(3), life: Life(u64::MAX), id: 9, oldest: 7, command: body };
        assert_eq!(Envelope::decode(envelope.encode()), Some(envelope));
    }

    #[test]
    fn every_truncation_of_an_envelope_header_is_refused() {
        let whole = Envelope { node: NodeId(3), life: Life(4), id: 9, oldest: 7, command: Bytes::new() }.encode();
        for end in 0..whole.len() {
            assert_eq!(Envelope::decode(whole.slice(..end)), None);
        }
        assert_eq!(Message::decode(Bytes::new()), None);
        assert_eq!(Message::decode(Bytes::from_static(&[77, 1])), None);
        let speaks = Message::Speaks(Life(8), Speaks::THIS, String::new()).encode();
        assert!((0..speaks.len()).all(|len| Message::decode(speaks.slice(..len)).is_none()));
        let mut longer = speaks.to_vec();
        longer.push(7);
        assert!(Message::decode(longer.into()).is_some(), "what a later version adds is passed over");
        let mut backwards = speaks.to_vec();
        backwards[9] = 9;
        assert_eq!(Message::decode(backwards.into()), None, "versions 9 to 2");
    }

    #[test]
    fn committed_inputs_of_the_fuzzer_hold() {
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/control_message");
        let files = std::fs::read_dir(corpus).unwrap();
        let inputs: Vec<_> = files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
        let understood = |input: &&Vec<u8>| {
            generation_of(Bytes::copy_from_slice(input)).is_some_and(|(_, bytes)| Message::decode(bytes).is_some())
        };
        assert_eq!(inputs.iter().filter(understood).count(), inputs.len(), "each of them means something");
        inputs.iter().for_each(|input| fuzz_control(input));
    }
}
