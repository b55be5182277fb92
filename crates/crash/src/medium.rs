//! Files on stable storage, and what a power cut may add to them.

use bytes::Bytes;
use holdfast_store::io::{DiskOpKind, FileId};
use holdfast_types::{Rng, SECTOR_SIZE};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What lies on stable storage. A clone shares what is not changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Medium(pub BTreeMap<FileId, Arc<Vec<u8>>>);

/// A change that is not on stable storage for certain.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Bytes of a file.
    Write(u64, Bytes),
    /// A range that reads as zeros.
    Zero(u64, u64),
    /// A file of zeros of so many bytes, whole or not at all.
    Create(u64),
    /// A file that goes.
    Delete,
    /// A file ends here, or is zeros up to here.
    SetLen(u64),
}

/// Changes of one file in the order in which they were made; true for one that will be there.
pub type Changes = Vec<(FileId, Effect, bool)>;

/// A moment at which power may fail.
#[derive(Clone, Debug)]
pub struct Cut {
    /// What is there for certain.
    pub medium: Medium,
    /// What was changed since. Of those that are not certain any subset may be there.
    pub changes: Changes,
}

/// One way in which a cut may end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pick {
    /// For each uncertain change, in order, whether it is there.
    pub kept: Vec<bool>,
    /// Of the last one that is there, these sectors only.
    pub torn: Option<Vec<bool>>,
}

impl Effect {
    /// What an operation changes, if it changes anything.
    #[must_use]
    pub fn of(kind: &DiskOpKind) -> Option<Effect> {
        match kind {
            DiskOpKind::Write { offset, data, .. } => Some(Effect::Write(*offset, join(data))),
            DiskOpKind::Punch { offset, len } | DiskOpKind::Zero { offset, len } => Some(Effect::Zero(*offset, *len)),
            DiskOpKind::Create { len, .. } => Some(Effect::Create(*len)),
            DiskOpKind::Delete => Some(Effect::Delete),
            DiskOpKind::SetLen { len } => Some(Effect::SetLen(*len)),
            DiskOpKind::List | DiskOpKind::Read { .. } | DiskOpKind::Sync => None,
        }
    }

    /// Sectors that may each be there or not.
    #[must_use]
    pub fn sectors(&self) -> usize {
        match self {
            Effect::Write(_, data) => data.len().div_ceil(SECTOR_SIZE),
            Effect::Zero(_, len) => to_usize(*len).div_ceil(SECTOR_SIZE),
            Effect::Create(_) | Effect::Delete | Effect::SetLen(_) => 1,
        }
    }

    fn bytes(&self) -> Option<(usize, Bytes)> {
        match self {
            Effect::Write(offset, data) => Some((to_usize(*offset), data.clone())),
            Effect::Zero(offset, len) => Some((to_usize(*offset), Bytes::from(vec![0; to_usize(*len)]))),
            Effect::Create(_) | Effect::Delete | Effect::SetLen(_) => None,
        }
    }
}

impl Medium {
    /// Makes a change, or only the sectors named.
    pub fn apply(&mut self, file: FileId, effect: &Effect, sectors: Option<&[bool]>) {
        match effect {
            Effect::Create(len) => drop(self.0.insert(file, Arc::new(vec![0; to_usize(*len)]))),
            Effect::Delete => drop(self.0.remove(&file)),
            Effect::SetLen(len) => {
                if let Some(content) = self.0.get_mut(&file) {
                    Arc::make_mut(content).resize(to_usize(*len), 0);
                }
            }
            Effect::Write(..) | Effect::Zero(..) => {
                let Some(content) = self.0.get_mut(&file) else { return };
                let (offset, data) = effect.bytes().expect("it has bytes");
                let content = Arc::make_mut(content);
                content.resize(content.len().max(offset + data.len()), 0);
                for (i, sector) in data.chunks(SECTOR_SIZE).enumerate() {
                    if sectors.is_none_or(|sectors| sectors[i]) {
                        let at = offset + i * SECTOR_SIZE;
                        content[at..at + sector.len()].copy_from_slice(sector);
                    }
                }
            }
        }
    }

    /// A number that tells media apart.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.0.iter().fold(0, |sum, (file, content)| {
            let name = xxhash_rust::xxh3::xxh3_64_with_seed(format!("{file:?}").as_bytes(), sum);
            xxhash_rust::xxh3::xxh3_64_with_seed(content, name)
        })
    }

    /// A file for a test to damage. Panics if it is not there.
    pub fn file_mut(&mut self, file: FileId) -> &mut Vec<u8> {
        Arc::make_mut(self.0.get_mut(&file).expect("the file exists"))
    }
}

impl Cut {
    /// The changes that may or may not be there.
    pub fn uncertain(&self) -> impl Iterator<Item = &(FileId, Effect, bool)> {
        self.changes.iter().filter(|(_, _, certain)| !certain)
    }

    /// The medium after the cut.
    #[must_use]
    pub fn state(&self, pick: &Pick) -> Medium {
        let mut medium = self.medium.clone();
        let last = pick.kept.iter().rposition(|kept| *kept);
        let mut n = 0;
        for (file, effect, certain) in &self.changes {
            let (kept, torn) =
                if *certain { (true, None) } else { (pick.kept[n], pick.torn.as_deref().filter(|_| Some(n) == last)) };
            n += usize::from(!certain);
            if kept {
                medium.apply(*file, effect, torn);
            }
        }
        medium
    }

    /// Every subset if there are at most `most`, else so many of them: all, none, all but one, one alone, and others drawn. Of
    /// each the last change also torn: its prefixes, its last sector alone, and sectors drawn.
    #[must_use]
    pub fn picks(&self, most: usize, torn: usize, rng: &mut Rng) -> Vec<Pick> {
        let sectors: Vec<usize> = self.uncertain().map(|(_, effect, _)| effect.sectors()).collect();
        let mut picks = Vec::new();
        for kept in subsets(sectors.len(), most, rng) {
            let last = kept.iter().rposition(|kept| *kept);
            if let Some(last) = last.filter(|last| sectors[*last] > 1) {
                let masks = tears(sectors[last], torn, rng);
                picks.extend(masks.into_iter().map(|mask| Pick { kept: kept.clone(), torn: Some(mask) }));
            }
            picks.push(Pick { kept, torn: None });
        }
        picks
    }
}

fn subsets(n: usize, most: usize, rng: &mut Rng) -> Vec<Vec<bool>> {
    if n < 20 && 1 << n <= most {
        return (0..1u64 << n).map(|mask| (0..n).map(|i| mask & (1 << i) != 0).collect()).collect();
    }
    let mut all = vec![vec![true; n], vec![false; n]];
    for i in (0..n).take(most / 3) {
        all.push((0..n).map(|k| k == i).collect());
        all.push((0..n).map(|k| k != i).collect());
    }
    while all.len() < most {
        all.push((0..n).map(|_| rng.chance(500_000)).collect());
    }
    all
}

fn tears(sectors: usize, most: usize, rng: &mut Rng) -> Vec<Vec<bool>> {
    let mut masks = Vec::new();
    let prefix = |k: usize| (0..sectors).map(|i| i < k).collect::<Vec<_>>();
    if sectors <= most {
        masks.extend((1..sectors).map(prefix));
    } else if most > 0 {
        masks.push(prefix(1));
        masks.push(prefix(sectors - 1));
        let draw = |rng: &mut Rng| 1 + to_usize(rng.below(to_u64(sectors - 1)));
        masks.extend((2..most).map(|_| prefix(draw(rng))));
    }
    if most > 1 {
        masks.push((0..sectors).map(|i| i + 1 == sectors).collect());
        masks.push((0..sectors).map(|_| rng.chance(500_000)).collect());
    }
    masks
}

pub(crate) fn join(parts: &[Bytes]) -> Bytes {
    if let [one] = parts { one.clone() } else { Bytes::from(parts.concat()) }
}

pub(crate) fn to_usize(n: u64) -> usize {
    usize::try_from(n).expect("sizes of a test fit in memory")
}

pub(crate) fn to_u64(n: usize) -> u64 {
    u64::try_from(n).expect("usize has at most 64 bits")
}
