//! Copies a disk image into a volume and back, and compares the two.

use super::connection::{Connection, ConnectionError, attach};
use bytes::Bytes;
use holdfast_nbd::{ClientEvent, ClientRequest, Cookie, ReplyData};
use holdfast_types::SECTOR_SIZE;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

const PIECE: u64 = 256 << 10;
const DEPTH: usize = 16;

/// The first byte that differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Where.
    pub offset: u64,
}

/// A connection for whole images.
#[derive(Debug)]
pub struct Transfer {
    connection: Connection,
    node: usize,
}

/// A piece of an image.
#[derive(Clone, Copy, Debug)]
struct Piece {
    offset: u64,
    len: u64,
}

impl Transfer {
    /// Attaches to whichever socket serves the volume.
    ///
    /// # Errors
    /// None does within `patience`.
    pub async fn open(sockets: &[PathBuf], volume: &str, patience: Duration) -> Result<Transfer, ConnectionError> {
        let (node, connection) = attach(sockets, volume, patience).await?;
        Ok(Transfer { connection, node })
    }

    /// Which of the sockets serves.
    #[must_use]
    pub fn node(&self) -> usize {
        self.node
    }

    /// The volume's size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.connection.size()
    }

    /// Copies `len` bytes of `image` to the volume's start, and flushes. Zeroes are skipped: the volume is fresh.
    ///
    /// # Errors
    /// The file or the connection.
    pub async fn write(&mut self, image: &File, len: u64, done: &mut dyn FnMut(u64)) -> Result<(), ConnectionError> {
        let request = |piece: Piece| {
            let data = read_padded(image, piece)?;
            if data.iter().all(|byte| *byte == 0) {
                return Ok(None);
            }
            Ok(Some(ClientRequest::Write { offset: piece.offset, data: data.into(), fua: false }))
        };
        let mut reply = |piece: Piece, _: ReplyData| {
            done(piece.offset + piece.len);
            Ok(())
        };
        self.pipeline(len, request, &mut reply).await?;
        self.connection.request(ClientRequest::Flush)?;
        self.reply().await.map(|_| ())
    }

    /// Copies `len` bytes of the volume's start to `out`.
    ///
    /// # Errors
    /// The file or the connection.
    pub async fn read(&mut self, out: &File, len: u64, done: &mut dyn FnMut(u64)) -> Result<(), ConnectionError> {
        out.set_len(len)?;
        let mut reply = |piece: Piece, data: ReplyData| {
            let data = data_of(data)?;
            if data.iter().any(|byte| *byte != 0) {
                let wanted = data.len().min(usize::try_from(len - piece.offset).unwrap_or(usize::MAX));
                out.write_all_at(&data[..wanted], piece.offset)?;
            }
            done(piece.offset + piece.len);
            Ok(())
        };
        self.pipeline(len, read_request, &mut reply).await
    }

    /// Compares `len` bytes of the volume's start with `image`.
    ///
    /// # Errors
    /// The file or the connection.
    pub async fn compare(&mut self, image: &File, len: u64) -> Result<Option<Mismatch>, ConnectionError> {
        let mut first: Option<Mismatch> = None;
        let mut reply = |piece: Piece, data: ReplyData| {
            let (found, expected) = (data_of(data)?, read_padded(image, piece)?);
            if let Some(at) = found.iter().zip(&expected).position(|(a, b)| a != b) {
                let offset = piece.offset + u64::try_from(at).unwrap_or(0);
                first = Some(first.map_or(Mismatch { offset }, |m| Mismatch { offset: m.offset.min(offset) }));
            }
            Ok(())
        };
        self.pipeline(len, read_request, &mut reply).await?;
        Ok(first)
    }

    /// Ends the connection in an orderly way.
    pub fn close(self) {
        self.connection.goodbye();
    }

    async fn pipeline(
        &mut self,
        len: u64,
        request: impl Fn(Piece) -> io::Result<Option<ClientRequest>>,
        reply: &mut dyn FnMut(Piece, ReplyData) -> io::Result<()>,
    ) -> Result<(), ConnectionError> {
        let mut in_flight: BTreeMap<Cookie, Piece> = BTreeMap::new();
        let mut next = 0;
        loop {
            while next < len && in_flight.len() < DEPTH {
                let piece = Piece { offset: next, len: PIECE.min(whole_sectors(len - next)) };
                next += piece.len;
                if let Some(request) = request(piece)? {
                    in_flight.insert(self.connection.request(request)?, piece);
                }
            }
            if in_flight.is_empty() {
                return Ok(());
            }
            let (cookie, data) = self.reply().await?;
            if let Some(piece) = in_flight.remove(&cookie) {
                reply(piece, data)?;
            }
        }
    }

    async fn reply(&mut self) -> Result<(Cookie, ReplyData), ConnectionError> {
        match self.connection.event().await? {
            ClientEvent::Reply { cookie, result: Ok(data) } => Ok((cookie, data)),
            ClientEvent::Reply { result: Err(error), .. } => Err(io::Error::other(error).into()),
            ClientEvent::Failed(error) => Err(ConnectionError::Client(error)),
            ClientEvent::Ready(_) => Err(ConnectionError::Closed),
        }
    }
}

fn read_request(piece: Piece) -> io::Result<Option<ClientRequest>> {
    let len = u32::try_from(piece.len).map_err(io::Error::other)?;
    Ok(Some(ClientRequest::Read { offset: piece.offset, len }))
}

fn data_of(reply: ReplyData) -> io::Result<Bytes> {
    match reply {
        ReplyData::Data(data) => Ok(data),
        ReplyData::Done | ReplyData::Extents(_) => Err(io::Error::other("a read was answered without data")),
    }
}

/// What a file holds there; zeroes beyond its end, because a volume ends with a whole sector.
fn read_padded(file: &File, piece: Piece) -> io::Result<Vec<u8>> {
    let mut data = vec![0; usize::try_from(piece.len).map_err(io::Error::other)?];
    let mut at = 0;
    while at < data.len() {
        let offset = piece.offset + u64::try_from(at).map_err(io::Error::other)?;
        match file.read_at(&mut data[at..], offset)? {
            0 => break,
            read => at += read,
        }
    }
    Ok(data)
}

fn whole_sectors(bytes: u64) -> u64 {
    bytes.next_multiple_of(SECTOR_SIZE as u64)
}
