//! What a stream begins with. Little endian, 40 bytes:
//!
//! ```text
//! 0  magic "HFLN"   4  version u16   6  kind u8 (0 control, 1 beat, 2 volume)   7  zero
//! 8  cluster u64    16 volume u64 (0 unless kind 2)    24 life u64    32 session u64
//! ```
//! then frames: length u32, payload. `life` is random per endpoint; `session` grows within a life, so that of two
//! streams of one life the older is known, in whatever order they arrive.

use crate::config::Lane;
use holdfast_types::{ClusterId, VolumeId};

/// Length of the header.
pub(crate) const LEN: usize = 40;
const MAGIC: [u8; 4] = *b"HFLN";
const VERSION: u16 = 1;

/// What the acceptor says once it has checked the dialler: only then are lanes opened.
pub(crate) const WELCOME: [u8; 8] = *b"HFWELC\x01\0";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) cluster: ClusterId,
    pub(crate) lane: Lane,
    pub(crate) life: u64,
    pub(crate) session: u64,
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeaderError {
    #[error("the stream does not begin like a lane")]
    Magic,
    #[error("the lane is of version {0}, expected {VERSION}; upgrade the older of the two agents")]
    Version(u16),
    #[error("the lane is of unknown kind {0}")]
    Kind(u8),
}

impl Header {
    pub(crate) fn encode(self) -> [u8; LEN] {
        let (kind, volume) = match self.lane {
            Lane::Control => (0, 0),
            Lane::Beat => (1, 0),
            Lane::Volume(v) => (2, v.get()),
        };
        let mut out = [0; LEN];
        out[..4].copy_from_slice(&MAGIC);
        out[4..6].copy_from_slice(&VERSION.to_le_bytes());
        out[6] = kind;
        for (at, value) in [(8, self.cluster.0), (16, volume), (24, self.life), (32, self.session)] {
            out[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8; LEN]) -> Result<Header, HeaderError> {
        if bytes[..4] != MAGIC {
            return Err(HeaderError::Magic);
        }
        let version = u16::from_le_bytes([bytes[4], bytes[5]]);
        if version != VERSION {
            return Err(HeaderError::Version(version));
        }
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes are eight bytes"));
        let lane = match bytes[6] {
            0 => Lane::Control,
            1 => Lane::Beat,
            2 => Lane::Volume(VolumeId(number(16))),
            kind => return Err(HeaderError::Kind(kind)),
        };
        Ok(Header { cluster: ClusterId(number(8)), lane, life: number(24), session: number(32) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_decode_back_and_nonsense_does_not() {
        for lane in [Lane::Control, Lane::Beat, Lane::Volume(VolumeId(u64::MAX))] {
            let header = Header { cluster: ClusterId(1), lane, life: 2, session: 3 };
            assert_eq!(Header::decode(&header.encode()), Ok(header));
        }
        let good = Header { cluster: ClusterId(1), lane: Lane::Beat, life: 2, session: 3 }.encode();
        for (at, error) in [(0, HeaderError::Magic), (4, HeaderError::Version(0xFE)), (6, HeaderError::Kind(0xFE))] {
            let mut bad = good;
            bad[at] ^= 0xFF;
            assert_eq!(Header::decode(&bad), Err(error));
        }
    }
}
