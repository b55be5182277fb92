//! Writing to a dead node's directory what is beyond doubt: copies of a header that can't be read, from an equal one that can.
//!
//! That is all. A block that fails its checksum stays as it is: another copy has it, or nobody, and a checksum over what is
//! there would only hide that. So do tables whose sums are wrong and a journal with a gap.

use super::{OfflineError, Place, Report};
use bytes::Bytes;
use holdfast_disk::Overlay;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// One write.
#[derive(Debug)]
pub(super) struct Repair {
    pub(super) path: PathBuf,
    pub(super) offset: u64,
    /// What the check found there.
    pub(super) found: Bytes,
    pub(super) right: Bytes,
    /// What it does, in words.
    pub(super) what: String,
}

/// Does what the report offers; gives a sentence for each write that was done and is on stable storage.
///
/// # Errors
/// An agent runs, or the device fails. What was done before stays done.
pub fn repair(place: &Place, report: &Report) -> Result<Vec<String>, OfflineError> {
    let _lock = Overlay::open(&place.shard)?;
    let mut done = Vec::new();
    for repair in &report.repairs {
        repair.carry_out().map_err(OfflineError::io("repair", &repair.path))?;
        let len = repair.right.len();
        done.push(format!("{} ({len} bytes at offset {})", repair.what, repair.offset));
    }
    Ok(done)
}

impl Repair {
    fn carry_out(&self) -> io::Result<()> {
        let file = File::options().read(true).write(true).open(&self.path)?;
        let mut there = vec![0; self.found.len()];
        file.read_exact_at(&mut there, self.offset)?;
        if there != self.found {
            return Err(io::Error::other("it has changed since it was checked; check again"));
        }
        file.write_all_at(&self.right, self.offset)?;
        file.sync_all()?;
        file.read_exact_at(&mut there, self.offset)?;
        if there == self.right {
            Ok(())
        } else {
            Err(io::Error::other("what was written does not come back; replace the device"))
        }
    }
}
