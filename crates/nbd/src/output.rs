//! Bytes to send, as a gather list: small headers share one buffer, payloads are queued as they are.

use bytes::{Bytes, BytesMut};

#[derive(Debug, Default)]
pub(crate) struct Output {
    head: BytesMut,
    ready: Vec<Bytes>,
    ready_bytes: usize,
}

impl Output {
    /// Where the next header is written.
    pub(crate) fn head(&mut self) -> &mut BytesMut {
        &mut self.head
    }

    /// Queues a payload behind everything written so far.
    pub(crate) fn data(&mut self, data: Bytes) {
        if data.is_empty() {
            return;
        }
        self.seal();
        self.ready_bytes += data.len();
        self.ready.push(data);
    }

    pub(crate) fn len(&self) -> usize {
        self.ready_bytes + self.head.len()
    }

    pub(crate) fn take(&mut self) -> Vec<Bytes> {
        self.seal();
        self.ready_bytes = 0;
        std::mem::take(&mut self.ready)
    }

    fn seal(&mut self) {
        if !self.head.is_empty() {
            let head = self.head.split().freeze();
            self.ready_bytes += head.len();
            self.ready.push(head);
        }
    }
}
