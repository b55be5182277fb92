//! A client that does one thing at a time: whether a block was written is known for each.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const IHAVEOPT: u64 = 0x4948_4156_454F_5054;
const REQUEST: u32 = 0x2560_9513;
const REPLY: u32 = 0x6744_6698;
const EXPORT_NAME: u32 = 1;
const FIXED_NEWSTYLE_WITHOUT_ZEROES: u32 = 3;

/// A connection to a volume.
#[derive(Debug)]
pub struct Blocks {
    stream: UnixStream,
    next: u64,
}

impl Blocks {
    /// Attaches; no answer is waited for longer than `patience`.
    ///
    /// # Errors
    /// Refused, or no NBD server.
    pub fn attach(socket: &Path, volume: &str, patience: Duration) -> io::Result<Blocks> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(patience))?;
        stream.read_exact(&mut [0; 18])?;
        let length = u32::try_from(volume.len()).map_err(io::Error::other)?;
        let mut hello = FIXED_NEWSTYLE_WITHOUT_ZEROES.to_be_bytes().to_vec();
        hello.extend_from_slice(&IHAVEOPT.to_be_bytes());
        hello.extend_from_slice(&EXPORT_NAME.to_be_bytes());
        hello.extend_from_slice(&length.to_be_bytes());
        hello.extend_from_slice(volume.as_bytes());
        stream.write_all(&hello)?;
        stream.read_exact(&mut [0; 10])?;
        Ok(Blocks { stream, next: 0 })
    }

    /// Writes, and returns once that is acknowledged.
    ///
    /// # Errors
    /// It was not, for any reason.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.send(1, offset, data.len())?;
        self.stream.write_all(data)?;
        self.answered()
    }

    /// Reads.
    ///
    /// # Errors
    /// It could not be read.
    pub fn read(&mut self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        self.send(0, offset, length)?;
        self.answered()?;
        let mut data = vec![0; length];
        self.stream.read_exact(&mut data)?;
        Ok(data)
    }

    fn send(&mut self, kind: u16, offset: u64, length: usize) -> io::Result<()> {
        self.next += 1;
        let length = u32::try_from(length).map_err(io::Error::other)?;
        let mut request = REQUEST.to_be_bytes().to_vec();
        request.extend_from_slice(&0_u16.to_be_bytes());
        request.extend_from_slice(&kind.to_be_bytes());
        request.extend_from_slice(&self.next.to_be_bytes());
        request.extend_from_slice(&offset.to_be_bytes());
        request.extend_from_slice(&length.to_be_bytes());
        self.stream.write_all(&request)
    }

    fn answered(&mut self) -> io::Result<()> {
        let (mut magic, mut error, mut cookie) = ([0; 4], [0; 4], [0; 8]);
        self.stream.read_exact(&mut magic)?;
        self.stream.read_exact(&mut error)?;
        self.stream.read_exact(&mut cookie)?;
        let sound = u32::from_be_bytes(magic) == REPLY && u64::from_be_bytes(cookie) == self.next;
        match u32::from_be_bytes(error) {
            0 if sound => Ok(()),
            found => Err(io::Error::other(format!("expected an answer to request {}, found {found}", self.next))),
        }
    }
}
