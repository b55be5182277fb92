//! A device that fails or does not answer: what people are told of it. Who is to lead instead is the control plane's to say.

use super::{Copy, Output, Shard};
use holdfast_replication as replication;
use holdfast_types::{Time, VolumeId};

impl Shard {
    /// Whether the device has not answered something for too long; it changes without any input but the passing of time.
    #[must_use]
    pub const fn is_hung(&self) -> bool {
        self.hung
    }

    /// What the device has not answered for too long, for people.
    pub(super) fn hung(&self, volume: VolumeId) -> Option<String> {
        let (file, patience) = self.store.hung_for(volume)?;
        let (place, patience) = (&self.config.place, patience.as_secs());
        Some(format!("the device has not answered for more than {patience} s on {file} in {place}"))
    }

    /// Where the files of a failure are.
    pub(super) fn placed(&self, reason: &str) -> String {
        format!("{reason} (in {})", self.config.place)
    }

    /// Says once that the device does not answer, and once that it does again; each copy learns of it.
    pub(super) fn tell_of_device(&mut self, now: Time, out: &mut Vec<Output>) {
        let hung = self.store.is_hung();
        if hung || self.hung {
            let changed = |(v, c): (&VolumeId, &Copy)| {
                let hung = self.store.hung(*v).is_some();
                c.replica.as_ref().is_some_and(|r| r.is_hung() != hung).then_some((*v, hung))
            };
            let changed: Vec<(VolumeId, bool)> = self.copies.iter().filter_map(changed).collect();
            for (volume, hung) in changed {
                self.replica(volume, replication::Input::Hung(hung), now, out);
            }
        }
        if std::mem::replace(&mut self.hung, hung) == hung {
            return;
        }
        let place = &self.config.place;
        let text = if hung {
            format!(
                "the device under {place} does not answer: this node's copies count for nothing while it lasts, and others \
                 lead in their place; check the device (dmesg) and its way to this host"
            )
        } else {
            format!("the device under {place} answers again")
        };
        out.push(Output::Event { volume: None, text });
    }
}
