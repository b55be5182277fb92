//! Reads little-endian fields off a slice, never past its end; the writing side is two helpers over `Vec<u8>`.

use crate::DecodeError;

/// What every encoding begins with: who it is, and in which version.
pub(crate) struct Prelude {
    pub(crate) what: &'static str,
    pub(crate) magic: u32,
    pub(crate) version: u16,
}

impl Prelude {
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.magic.to_le_bytes());
        out.extend_from_slice(&self.version.to_le_bytes());
    }
}

pub(crate) struct Reader<'a> {
    what: &'static str,
    input: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Starts behind the prelude.
    pub(crate) fn new(prelude: &Prelude, input: &'a [u8]) -> Result<Reader<'a>, DecodeError> {
        let what = prelude.what;
        let mut reader = Reader { what, input, at: 0 };
        let found = reader.u32()?;
        if found != prelude.magic {
            return Err(DecodeError::Magic { what, found });
        }
        let found = reader.u16()?;
        if found != prelude.version {
            return Err(DecodeError::Version { what, expected: prelude.version, found });
        }
        Ok(reader)
    }

    /// The next `n` bytes.
    pub(crate) fn take(&mut self, n: usize) -> Result<&'a [u8], DecodeError> {
        let left = self.input.len() - self.at;
        if n > left {
            return Err(DecodeError::Truncated { what: self.what, needed: n as u64, found: left as u64 });
        }
        let taken = &self.input[self.at..self.at + n];
        self.at += n;
        Ok(taken)
    }

    /// `count` entries of `size` bytes each. Only bytes that are there are handed out, so what the caller allocates for
    /// the entries is bounded by the input, whatever `count` claims.
    pub(crate) fn entries(&mut self, count: u32, size: usize) -> Result<std::slice::ChunksExact<'a, u8>, DecodeError> {
        let needed = u64::from(count) * size as u64;
        let found = (self.input.len() - self.at) as u64;
        let truncated = DecodeError::Truncated { what: self.what, needed, found };
        let len = usize::try_from(needed).map_err(|_| truncated)?;
        Ok(self.take(len)?.chunks_exact(size))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.take(1).map(|b| b[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.take(2).map(|b| u16::from_le_bytes(b.try_into().expect("two bytes were taken")))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.take(4).map(|b| u32::from_le_bytes(b.try_into().expect("four bytes were taken")))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.take(8).map(u64_of)
    }

    /// A byte that is always zero in this version.
    pub(crate) fn zero(&mut self) -> Result<(), DecodeError> {
        if self.u8()? == 0 { Ok(()) } else { Err(self.field("a reserved byte")) }
    }

    /// 0 or 1 in eight bytes.
    pub(crate) fn flag(&mut self, field: &'static str) -> Result<bool, DecodeError> {
        match self.u64()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.field(field)),
        }
    }

    /// CRC-32 of everything read so far.
    pub(crate) fn crc(&mut self) -> Result<(), DecodeError> {
        let computed = crc32fast::hash(&self.input[..self.at]);
        if self.u32()? == computed { Ok(()) } else { Err(DecodeError::Checksum { what: self.what }) }
    }

    /// Bytes read so far.
    pub(crate) const fn position(&self) -> usize {
        self.at
    }

    /// Nothing may be left.
    pub(crate) fn end(&self) -> Result<(), DecodeError> {
        match self.input.len() - self.at {
            0 => Ok(()),
            extra => Err(DecodeError::Trailing { what: self.what, extra: extra as u64 }),
        }
    }

    pub(crate) const fn field(&self, field: &'static str) -> DecodeError {
        DecodeError::Field { what: self.what, field }
    }
}

/// The number in the first eight bytes of `bytes`; panics if there are fewer.
pub(crate) fn u64_of(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"))
}

pub(crate) fn put_u64s(out: &mut Vec<u8>, values: &[u64]) {
    values.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes()));
}

pub(crate) fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("lists of a message are bounded far below 2^32");
    out.extend_from_slice(&count.to_le_bytes());
}

pub(crate) fn put_crc(out: &mut Vec<u8>) {
    let crc = crc32fast::hash(out);
    out.extend_from_slice(&crc.to_le_bytes());
}
