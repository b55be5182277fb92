//! What a read may return, per sector.
//!
//! Every write of a sector has a generation, counted up from 1; 0 is the fresh volume, which reads as zeroes. No two
//! writes in flight overlap, so at most one generation of a sector is issued and not acknowledged. A read returns a
//! generation between the *floor* when it was invoked and the one last *issued* before its answer:
//!
//! - the floor rises with each acknowledgement (S1) and with what a completed read returned (S9);
//! - a write abandoned at a failover (its answer never came and it is not sent again) is *in limbo*: the first read that
//!   tells fixes its fate, whole (S2), for every sector of it and for ever (S8).
//!
//! A discard may or may not take effect, so it adds a possible generation and never raises the floor.

use super::pattern::{self, Found, Stamp};
use super::violations::{Violation, Violations, Wrong};
use holdfast_types::SECTOR_SIZE;
use std::collections::BTreeMap;
use std::ops::Range;

/// Generations of zeroes remembered per sector. A read would have to last while one sector is zeroed that often before
/// a correct answer could be mistaken for a wrong one.
const ZEROES_KEPT: usize = 64;

/// How an operation changes the sectors that it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Stamps.
    Data,
    /// Zeroes.
    Zeroes,
    /// Zeroes, or nothing.
    Discard,
}

#[derive(Clone, Debug, Default)]
struct Sector {
    /// Reads invoked now return this generation or a later one.
    floor: u32,
    /// The last generation issued.
    issued: u32,
    /// Who raised the floor.
    request: u64,
    /// Generations above 0 that are zeroes, oldest first.
    zeroes: Vec<u32>,
}

/// Whether an answer tells about the present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Now,
    Late,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Unknown,
    Present,
    Absent,
}

#[derive(Debug)]
struct Limbo {
    sectors: Range<u64>,
    /// Of each sector.
    generations: Vec<u32>,
    fate: Fate,
}

/// The oracle of one region.
#[derive(Debug)]
pub(super) struct Oracle {
    run: u64,
    region: Range<u64>,
    sectors: Vec<Sector>,
    limbo: BTreeMap<u64, Limbo>,
    /// The abandoned requests of each sector.
    in_limbo: BTreeMap<u64, Vec<u64>>,
    violations: Violations,
}

impl Oracle {
    /// For a region of sectors that reads as zeroes.
    pub(super) fn new(run: u64, region: Range<u64>) -> Oracle {
        let count = index(region.end - region.start);
        Oracle {
            run,
            region,
            sectors: vec![Sector::default(); count],
            limbo: BTreeMap::new(),
            in_limbo: BTreeMap::new(),
            violations: Violations::default(),
        }
    }

    pub(super) fn region(&self) -> Range<u64> {
        self.region.clone()
    }

    pub(super) fn violations(&self) -> &Violations {
        &self.violations
    }

    pub(super) fn violate(&mut self, violation: Violation) {
        self.violations.add(violation);
    }

    /// A write is about to be sent; its content.
    pub(super) fn issue_data(&mut self, sectors: Range<u64>, request: u64) -> Vec<u8> {
        let mut data = vec![0; index(sectors.end - sectors.start) * SECTOR_SIZE];
        let run = self.run;
        for (sector, out) in sectors.zip(data.chunks_exact_mut(SECTOR_SIZE)) {
            let state = self.sector(sector);
            state.issued += 1;
            pattern::fill(Stamp { run, sector, generation: state.issued, request }, out);
        }
        data
    }

    /// Zeroes or a discard are about to be sent.
    pub(super) fn issue_zeroes(&mut self, sectors: Range<u64>) {
        for sector in sectors {
            let state = self.sector(sector);
            state.issued += 1;
            state.zeroes.push(state.issued);
            if state.zeroes.len() > ZEROES_KEPT {
                state.zeroes.remove(0);
            }
        }
    }

    /// The change last issued to these sectors is acknowledged.
    pub(super) fn acknowledge(&mut self, sectors: Range<u64>, change: Change, request: u64) {
        if change == Change::Discard {
            return;
        }
        for sector in sectors {
            let state = self.sector(sector);
            state.floor = state.issued;
            state.request = request;
        }
    }

    /// The answer to a write never came, and it will not be sent again.
    pub(super) fn abandon(&mut self, sectors: Range<u64>, request: u64) {
        let mut generations = Vec::new();
        for sector in sectors.clone() {
            generations.push(self.sector(sector).issued);
            self.in_limbo.entry(sector).or_default().push(request);
        }
        self.limbo.insert(request, Limbo { sectors, generations, fate: Fate::Unknown });
    }

    /// A deposed primary acknowledged a write in limbo after all: true only if the write is in the log.
    pub(super) fn late_acknowledgement(&mut self, request: u64) {
        let fate = self.limbo.get(&request).map(|limbo| limbo.fate);
        match fate {
            Some(Fate::Unknown) => self.settle(request, Fate::Present),
            Some(Fate::Absent) => self.violations.add(Violation {
                wrong: Wrong::Lost,
                request,
                sentence: format!(
                    "write {request} was acknowledged by a deposed primary after a read had found it absent"
                ),
            }),
            Some(Fate::Present) | None => {}
        }
    }

    /// What a read invoked now may not fall behind.
    pub(super) fn floors(&mut self, sectors: Range<u64>) -> Vec<u32> {
        sectors.map(|sector| self.sector(sector).floor).collect()
    }

    /// A read that was invoked at these floors returned `bytes`.
    pub(super) fn check(&mut self, sectors: Range<u64>, floors: &[u32], bytes: &[u8]) {
        self.check_as(sectors, floors, bytes, Told::Now);
    }

    /// The same, of an answer that a deposed primary may have had ready before it was deposed: it must not be wrong, and
    /// says nothing about the present.
    pub(super) fn check_late(&mut self, sectors: Range<u64>, floors: &[u32], bytes: &[u8]) {
        self.check_as(sectors, floors, bytes, Told::Late);
    }

    fn check_as(&mut self, sectors: Range<u64>, floors: &[u32], bytes: &[u8], told: Told) {
        assert_eq!(floors.len() * SECTOR_SIZE, bytes.len(), "one floor for each sector read");
        for ((sector, floor), found) in sectors.zip(floors).zip(bytes.chunks_exact(SECTOR_SIZE)) {
            let result = match pattern::recognise(found) {
                Found::Zeroes => self.check_zeroes(sector, *floor, told),
                Found::Stamp(stamp) => self.check_stamp(sector, *floor, stamp, told),
                Found::Damaged(what) => Err((Wrong::Corrupt, what.to_owned())),
            };
            if let Err((wrong, what)) = result {
                let Sector { issued, request, .. } = self.sector(sector).clone();
                let sentence = format!(
                    "sector {sector}: expected a generation from {floor} to {issued} (write {request} or later), found {what}"
                );
                self.violations.add(Violation { wrong, request, sentence });
            }
        }
    }

    fn check_zeroes(&mut self, sector: u64, floor: u32, told: Told) -> Result<(), (Wrong, String)> {
        let state = self.sector(sector);
        let possible = |generation: &u32| (floor..=state.issued).contains(generation);
        let mut candidates: Vec<u32> = [0].iter().chain(&state.zeroes).copied().filter(possible).collect();
        let Some(lowest) = candidates.first().copied() else { return Err((Wrong::Lost, "zeroes".to_owned())) };
        if told == Told::Late {
            return Ok(());
        }
        state.floor = state.floor.max(lowest);
        candidates.retain(|generation| *generation > lowest);
        // Zeroes do not name their generation: they tell about a write in limbo only if all candidates agree.
        let highest = candidates.last().copied().unwrap_or(lowest);
        self.tell_absent(sector, highest)
    }

    fn check_stamp(&mut self, sector: u64, floor: u32, stamp: Stamp, told: Told) -> Result<(), (Wrong, String)> {
        let (run, generation) = (self.run, stamp.generation);
        let state = self.sector(sector);
        if stamp.run != run {
            return Err((Wrong::Corrupt, format!("data of another run ({:#x})", stamp.run)));
        }
        if stamp.sector != sector {
            return Err((Wrong::Corrupt, format!("the data of sector {}", stamp.sector)));
        }
        if generation > state.issued {
            return Err((Wrong::Corrupt, format!("generation {generation}, which was never issued")));
        }
        if generation < floor {
            return Err((Wrong::Lost, format!("generation {generation} of write {}", stamp.request)));
        }
        if told == Told::Late {
            return Ok(());
        }
        if generation > state.floor {
            state.floor = generation;
            state.request = stamp.request;
        }
        self.tell_present(sector, stamp)?;
        self.tell_absent(sector, generation)
    }

    /// A read found a generation of a write that may be in limbo.
    fn tell_present(&mut self, sector: u64, stamp: Stamp) -> Result<(), (Wrong, String)> {
        match self.limbo.get(&stamp.request).map(|limbo| limbo.fate) {
            Some(Fate::Absent) => {
                let what = format!("write {}, which an earlier read had found absent", stamp.request);
                Err((Wrong::Resurrected, what))
            }
            Some(Fate::Unknown) => {
                self.settle(stamp.request, Fate::Present);
                assert!(self.sector(sector).floor >= stamp.generation, "what was read raises the floor");
                Ok(())
            }
            Some(Fate::Present) | None => Ok(()),
        }
    }

    /// A read found at most `generation` here: what is in limbo above it does not exist.
    fn tell_absent(&mut self, sector: u64, generation: u32) -> Result<(), (Wrong, String)> {
        let requests = self.in_limbo.get(&sector).cloned().unwrap_or_default();
        for request in requests {
            let Some(limbo) = self.limbo.get(&request) else { continue };
            if limbo.generations[index(sector - limbo.sectors.start)] <= generation {
                continue;
            }
            match limbo.fate {
                Fate::Unknown => self.settle(request, Fate::Absent),
                Fate::Absent => {}
                Fate::Present => {
                    let what = format!("the state before write {request}, which an earlier read had found present");
                    return Err((Wrong::Torn, what));
                }
            }
        }
        Ok(())
    }

    /// Fixes the fate of a write in limbo, for all of its sectors at once: a request is applied whole or not at all.
    fn settle(&mut self, request: u64, fate: Fate) {
        let Some(limbo) = self.limbo.get_mut(&request) else { return };
        limbo.fate = fate;
        if fate != Fate::Present {
            return;
        }
        let (sectors, generations) = (limbo.sectors.clone(), limbo.generations.clone());
        for (sector, generation) in sectors.zip(generations) {
            let state = self.sector(sector);
            if state.floor < generation {
                state.floor = generation;
                state.request = request;
            }
        }
    }

    fn sector(&mut self, sector: u64) -> &mut Sector {
        assert!(self.region.contains(&sector), "sector {sector} lies in the region {:?}", self.region);
        let at = index(sector - self.region.start);
        &mut self.sectors[at]
    }
}

/// A number of sectors of a region held in memory.
pub(super) fn index(sectors: u64) -> usize {
    usize::try_from(sectors).expect("a region has fewer sectors than memory has bytes")
}

#[cfg(test)]
mod tests;
