//! The memory that writes leave from: page-aligned slots in one anonymous mapping, registered with the ring as one
//! buffer, so that the kernel pins and translates it once and not per write.

use memmap2::MmapMut;
use std::io;

pub(super) struct Staging {
    map: MmapMut,
    slot_bytes: usize,
    free: Vec<u32>,
    slots: usize,
    registered: bool,
}

impl Staging {
    pub(super) fn new(slots: u32, slot_bytes: u32) -> io::Result<Staging> {
        let slot_bytes = usize::try_from(slot_bytes).expect("usize has 32 bits at least");
        let count = usize::try_from(slots).expect("usize has 32 bits at least");
        let map = MmapMut::map_anon(slot_bytes * count)?;
        Ok(Staging { map, slot_bytes, free: (0..slots).rev().collect(), slots: count, registered: false })
    }

    /// The whole memory, as the kernel wants to hear of it.
    pub(super) fn iovec(&mut self) -> libc::iovec {
        libc::iovec { iov_base: self.map.as_mut_ptr().cast(), iov_len: self.map.len() }
    }

    pub(super) fn set_registered(&mut self) {
        self.registered = true;
    }

    pub(super) fn registered(&self) -> bool {
        self.registered
    }

    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    /// Slots that only durable writes take.
    pub(super) fn reserve(&self) -> usize {
        (self.slots / 8).max(1)
    }

    pub(super) fn acquire(&mut self) -> Option<u32> {
        self.free.pop()
    }

    pub(super) fn release(&mut self, slot: u32) {
        self.free.push(slot);
        assert!(self.free.len() <= self.slots, "a slot is released once");
    }

    pub(super) fn slot(&mut self, slot: u32) -> &mut [u8] {
        let start = usize::try_from(slot).expect("usize has 32 bits at least") * self.slot_bytes;
        &mut self.map[start..start + self.slot_bytes]
    }
}
