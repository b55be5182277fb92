//! Bytes of a configuration: the body of an `EpochStart` record.

use crate::DecodeError;
use crate::reader::{Prelude, Reader, put_crc, put_u64s, u64_of};
use bytes::Bytes;
use holdfast_types::{Configuration, Epoch, Incarnation, MAX_MEMBERS, Member, NodeId};

const PRELUDE: Prelude = Prelude { what: "configuration", magic: u32::from_le_bytes(*b"HFCF"), version: 1 };
const FIXED: usize = 24;
const MEMBER: usize = 16;
const CRC: usize = 4;

/// The configuration's bytes (docs/FORMAT.md, "Configuration").
///
/// Panics if it does not make sense: nobody may write one that no copy would act on.
#[must_use]
pub fn encode_configuration(configuration: &Configuration) -> Bytes {
    configuration.validate();
    let Configuration { epoch, primary, members, write_quorum } = configuration;
    // 0 stands for "no primary".
    assert!(members.iter().all(|m| m.node != NodeId(0)), "a node's id is never 0: {configuration:?}");
    let mut out = Vec::with_capacity(FIXED + MEMBER * members.len() + CRC);
    PRELUDE.write(&mut out);
    out.extend([*write_quorum, u8::try_from(members.len()).expect("at most seven members")]);
    put_u64s(&mut out, &[epoch.0, primary.map_or(0, NodeId::get)]);
    members.iter().for_each(|m| put_u64s(&mut out, &[m.node.0, m.incarnation.0]));
    put_crc(&mut out);
    out.into()
}

/// Reads a configuration.
///
/// # Errors
/// Bytes that `encode_configuration` did not make, among them every configuration that `validate` would panic on.
pub fn decode_configuration(bytes: &[u8]) -> Result<Configuration, DecodeError> {
    let mut r = Reader::new(&PRELUDE, bytes)?;
    let (write_quorum, count) = (r.u8()?, r.u8()?);
    let (epoch, primary) = (Epoch(r.u64()?), NodeId(r.u64()?));
    let members: Vec<Member> = r
        .entries(u32::from(count), MEMBER)?
        .map(|e| Member { node: NodeId(u64_of(e)), incarnation: Incarnation(u64_of(&e[8..])) })
        .collect();
    r.crc()?;
    r.end()?;
    let primary = (primary != NodeId(0)).then_some(primary);
    let configuration = Configuration { epoch, primary, members, write_quorum };
    match misfit(&configuration) {
        None => Ok(configuration),
        Some(field) => Err(r.field(field)),
    }
}

/// The field that `Configuration::validate` would panic on.
fn misfit(c: &Configuration) -> Option<&'static str> {
    let n = c.members.len();
    let ids_positive = c.members.first().is_some_and(|m| m.node != NodeId(0));
    if !(1..=MAX_MEMBERS).contains(&n) || !ids_positive || !c.members.windows(2).all(|p| p[0].node < p[1].node) {
        return Some("the list of members");
    }
    if !c.quorum_is_sound() {
        return Some("the write quorum");
    }
    let primary_fits = match c.primary {
        None => c.epoch == Epoch::ZERO,
        Some(p) => c.epoch != Epoch::ZERO && c.member(p).is_some(),
    };
    (!primary_fits).then_some("the primary")
}
