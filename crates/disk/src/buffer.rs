//! Memory that the kernel reads and writes directly: page aligned, freed by its owner alone.

use bytes::Bytes;
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// Every device's direct-I/O alignment divides it.
pub(crate) const ALIGN: usize = 4096;

/// A page-aligned buffer; the bytes after `filled` are not initialised yet.
pub(crate) struct AlignedBuf {
    ptr: NonNull<u8>,
    len: usize,
    filled: usize,
}

// SAFETY: the buffer owns its memory like a `Vec<u8>` and shares nothing.
unsafe impl Send for AlignedBuf {}
// SAFETY: a shared reference only reads initialised bytes.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    pub(crate) fn new(len: usize) -> AlignedBuf {
        let layout = Self::layout(len);
        // SAFETY: the layout's size is at least one page.
        let ptr = unsafe { alloc(layout) };
        let Some(ptr) = NonNull::new(ptr) else { handle_alloc_error(layout) };
        AlignedBuf { ptr, len, filled: 0 }
    }

    pub(crate) fn zeroed(len: usize) -> AlignedBuf {
        let mut buf = AlignedBuf::new(len);
        buf.fill_zeros();
        buf
    }

    fn layout(len: usize) -> Layout {
        Layout::from_size_align(len.max(1).next_multiple_of(ALIGN), ALIGN)
            .expect("a buffer is far smaller than the address space")
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn filled(&self) -> usize {
        self.filled
    }

    /// Where the next byte goes; valid for `len - filled` bytes.
    pub(crate) fn tail(&mut self) -> *mut u8 {
        // SAFETY: `filled` never exceeds `len`, which the allocation covers.
        unsafe { self.ptr.as_ptr().add(self.filled) }
    }

    /// # Safety
    /// The `count` bytes from [`AlignedBuf::tail`] on have been initialised.
    pub(crate) unsafe fn advance(&mut self, count: usize) {
        assert!(count <= self.len - self.filled, "the kernel fills no more than it was given");
        self.filled += count;
    }

    /// Zeros for what is not filled.
    pub(crate) fn fill_zeros(&mut self) {
        let rest = self.len - self.filled;
        // SAFETY: `tail` is valid for `rest` bytes.
        unsafe {
            self.tail().write_bytes(0, rest);
            self.advance(rest);
        }
    }

    /// The whole buffer, without a copy.
    pub(crate) fn into_bytes(self) -> Bytes {
        assert_eq!(self.filled, self.len, "a buffer leaves when every byte of it is initialised");
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the first `filled` bytes are initialised and live as long as `self`.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.filled) }
    }
}

impl AsMut<[u8]> for AlignedBuf {
    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: the first `filled` bytes are initialised, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.filled) }
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout.
        unsafe { dealloc(self.ptr.as_ptr(), Self::layout(self.len)) }
    }
}

/// Copies the bytes `[skip, skip + target.len())` of the concatenated `pieces`. Returns how many there were.
pub(crate) fn gather(pieces: &[Bytes], skip: usize, target: &mut [u8]) -> usize {
    let mut skip = skip;
    let mut filled = 0;
    for piece in pieces {
        if skip >= piece.len() {
            skip -= piece.len();
            continue;
        }
        let part = &piece[skip..];
        let count = part.len().min(target.len() - filled);
        target[filled..filled + count].copy_from_slice(&part[..count]);
        filled += count;
        skip = 0;
        if filled == target.len() {
            break;
        }
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gather_crosses_pieces() {
        let pieces = [Bytes::from_static(b"abc"), Bytes::new(), Bytes::from_static(b"defg"), Bytes::from_static(b"h")];
        let mut out = [0; 4];
        assert_eq!(gather(&pieces, 1, &mut out), 4);
        assert_eq!(&out, b"bcde");
        assert_eq!(gather(&pieces, 6, &mut out), 2);
        assert_eq!(&out[..2], b"gh");
    }
}
