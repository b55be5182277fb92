//! What the store says is carried on in order, however much of it follows from what it said before.

use super::{Output, Shard};
use holdfast_store as store;
use holdfast_types::Time;

impl Shard {
    pub(super) fn store(&mut self, input: store::Input, now: Time, out: &mut Vec<Output>) {
        let mut buffer = Vec::new();
        self.store.handle(input, now, &mut buffer);
        self.store_out.extend(buffer);
        // What the store says in answer to what follows from its outputs comes after them, and not on top of them on the stack.
        if std::mem::replace(&mut self.carrying, true) {
            return;
        }
        while let Some(output) = self.store_out.pop_front() {
            self.on_store(output, now, out);
        }
        self.carrying = false;
    }
}
