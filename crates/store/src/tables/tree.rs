//! One table of one copy: the pages of its tree that are in memory.
//!
//! Invariants:
//! - A page that is not in memory is what the last checkpoint made it: whoever changes a page has it here, and it stays until
//!   a checkpoint holds it.
//! - A page in memory, or on its way here, has its parent in memory. So what is read can be verified when it comes, and a
//!   change finds its way up to the root.
//! - The parent of a changed page counts as changed.
//!
//! A leaf's sum is kept in its parent with each change; checksums further up are made when a checkpoint freezes the tree.

use bytes::Bytes;
use holdfast_format::{
    LEAF_PARENT_FANOUT, NODE_FANOUT, PAGE_BYTES, PAGE_ENTRIES, TableKind, TablePage, decode_page, digest_term,
    encode_page,
};
use holdfast_types::BlockIndex;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

pub(super) type Entries = [u64; PAGE_ENTRIES];

#[derive(Debug)]
struct Page {
    entries: Arc<Entries>,
    /// Which of its two places holds what the last checkpoint wrote.
    second: bool,
    /// Changed since the last checkpoint began.
    dirty: bool,
    /// Part of the checkpoint under way, which writes its other place (true) or, for a page of zeros, nothing.
    frozen: Option<bool>,
    pins: u32,
    /// Pages below it that are here or on their way.
    children: u32,
    used: bool,
}

/// What is to be had of a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seek {
    /// It is here.
    Here,
    /// All its entries are zero, and it takes no memory.
    Zeros,
    /// This page has to come first; `begin_load` it.
    Load(TablePage),
    /// This page has to come first and is on its way.
    Coming(TablePage),
}

/// A page as a checkpoint writes it, and into which place.
#[derive(Clone, Debug)]
pub(crate) struct FrozenPage {
    pub(crate) page: TablePage,
    entries: Arc<Entries>,
    second: bool,
}

impl FrozenPage {
    pub(crate) const fn offset(&self) -> u64 {
        self.page.offset() + if self.second { PAGE_BYTES as u64 } else { 0 }
    }

    pub(crate) fn bytes(&self) -> Bytes {
        encode_page(&self.entries)
    }
}

/// The pages of one table that are in memory.
#[derive(Debug)]
pub(crate) struct Tree {
    kind: TableKind,
    pages: BTreeMap<TablePage, Page>,
    /// Pages being read, with what their parents say of them.
    coming: BTreeMap<TablePage, u64>,
    dirty: BTreeSet<TablePage>,
    frozen: Vec<TablePage>,
    /// Candidates to be forgotten, the next one first.
    clock: VecDeque<TablePage>,
}

impl Tree {
    /// A table of zeros, which takes one page.
    pub(crate) fn new(kind: TableKind) -> Tree {
        let mut tree = Tree {
            kind,
            pages: BTreeMap::new(),
            coming: BTreeMap::new(),
            dirty: BTreeSet::new(),
            frozen: Vec::new(),
            clock: VecDeque::new(),
        };
        tree.insert(TablePage::ROOT, Arc::new([0; PAGE_ENTRIES]), false);
        tree
    }

    /// The tree below a root that was read from the file's first two places. `None` unless one of them has the checksum, and
    /// its sums are `sum`.
    pub(crate) fn open(kind: TableKind, checksum: u64, sum: u64, places: &[u8]) -> Option<Tree> {
        let mut tree = Tree::new(kind);
        let (entries, second) = verified(kind, TablePage::ROOT, checksum, places)?;
        if sums_below(&entries) != sum {
            return None;
        }
        tree.pages.clear();
        tree.insert(TablePage::ROOT, entries, second);
        Some(tree)
    }

    /// The tree below a root whose content is known, and lies in its second place or not.
    pub(super) fn with_root(kind: TableKind, entries: Arc<Entries>, second: bool) -> Tree {
        let mut tree = Tree::new(kind);
        tree.pages.clear();
        tree.insert(TablePage::ROOT, entries, second);
        tree
    }

    /// Pages in memory, with the copies that a checkpoint may need of those that change meanwhile.
    pub(crate) fn len(&self) -> usize {
        self.pages.len() + self.frozen.len()
    }

    /// Of these, the ones that a checkpoint has to write before they can be forgotten, with the copies that it may need: an upper
    /// bound.
    pub(crate) fn held(&self) -> usize {
        2 * (self.dirty.len() + self.frozen.len())
    }

    pub(crate) fn changed(&self) -> usize {
        self.dirty.len()
    }

    fn insert(&mut self, page: TablePage, entries: Arc<Entries>, second: bool) {
        let held = Page { entries, second, dirty: false, frozen: None, pins: 0, children: 0, used: true };
        assert!(self.pages.insert(page, held).is_none(), "{page:?} comes once");
        if page != TablePage::ROOT {
            self.clock.push_back(page);
        }
    }

    fn at(&self, page: TablePage) -> &Page {
        self.pages.get(&page).expect("a page that is changed, or whose child is here, is here")
    }

    fn at_mut(&mut self, page: TablePage) -> &mut Page {
        self.pages.get_mut(&page).expect("a page that is changed, or whose child is here, is here")
    }

    // ---- finding and reading

    /// What is to be had of this leaf now.
    pub(crate) fn seek(&mut self, leaf: u64) -> Seek {
        self.seek_page(TablePage { level: 0, index: leaf })
    }

    /// The same for a page of any level.
    pub(crate) fn seek_page(&mut self, page: TablePage) -> Seek {
        if let Some(page) = self.pages.get_mut(&page) {
            page.used = true;
            return Seek::Here;
        }
        let mut missing = page;
        loop {
            let (parent, child) = missing.parent().expect("the root is always here");
            if let Some(page) = self.pages.get_mut(&parent) {
                page.used = true;
                return match said_of_child(parent, &page.entries, child) {
                    0 => Seek::Zeros,
                    _ if self.coming.contains_key(&missing) => Seek::Coming(missing),
                    _ => Seek::Load(missing),
                };
            }
            missing = parent;
        }
    }

    /// This page is being read from now on.
    pub(crate) fn begin_load(&mut self, page: TablePage) {
        let (parent, child) = page.parent().expect("the root is always here");
        let above = self.at_mut(parent);
        above.children += 1;
        let expected = said_of_child(parent, &above.entries, child);
        assert!(expected != 0, "{page:?} holds something");
        assert!(self.coming.insert(page, expected).is_none(), "{page:?} is read once at a time");
    }

    /// Its two places were read. False if neither holds what the parent says.
    pub(crate) fn loaded(&mut self, page: TablePage, places: &[u8]) -> bool {
        // Cut off while it was on its way: nobody needs it any more.
        let Some(expected) = self.coming.get(&page).copied() else { return true };
        let Some((entries, second)) = verified(self.kind, page, expected, places) else { return false };
        self.coming.remove(&page);
        self.insert(page, entries, second);
        true
    }

    /// A leaf's entries. Panics unless it is here or all zeros.
    pub(crate) fn entries(&mut self, leaf: u64) -> Option<Arc<Entries>> {
        match self.seek(leaf) {
            Seek::Here => Some(self.at(TablePage { level: 0, index: leaf }).entries.clone()),
            Seek::Zeros => None,
            found => unreachable!("leaf {leaf} was asked for before it is looked at: {found:?}"),
        }
    }

    /// An entry. Panics unless its leaf is here or all zeros.
    pub(crate) fn get(&mut self, entry: u64) -> u64 {
        self.entries(entry / ENTRIES).map_or(0, |entries| entries[slot(entry)])
    }

    /// What a leaf adds to the sum over the table, as its parent keeps it. Panics unless that is here or all zeros.
    pub(crate) fn leaf_sum(&mut self, leaf: u64) -> u64 {
        let (parent, child) = TablePage { level: 0, index: leaf }.parent().expect("a leaf is no root");
        match self.seek_page(parent) {
            Seek::Here => self.at(parent).entries[child],
            Seek::Zeros => 0,
            found => unreachable!("{parent:?} was asked for before it is looked at: {found:?}"),
        }
    }

    // ---- changing

    /// Makes a page of zeros where nothing is, with the pages above it that are missing.
    pub(crate) fn create(&mut self, leaf: u64) {
        let mut page = TablePage { level: 0, index: leaf };
        assert!(!self.coming.contains_key(&page), "a page that holds something is read");
        let mut children = 0;
        loop {
            self.insert(page, Arc::new([0; PAGE_ENTRIES]), false);
            self.at_mut(page).children = children;
            let (parent, _) = page.parent().expect("the root is always here");
            if let Some(above) = self.pages.get_mut(&parent) {
                above.children += 1;
                return;
            }
            (page, children) = (parent, 1);
        }
    }

    pub(crate) fn pin(&mut self, leaf: u64) {
        let page = self.at_mut(TablePage { level: 0, index: leaf });
        page.pins += 1;
    }

    pub(crate) fn unpin(&mut self, leaf: u64) {
        let page = self.at_mut(TablePage { level: 0, index: leaf });
        page.pins -= 1;
    }

    /// Sets entries `[start, end)` of one leaf, which is here: `value` gets each index and old value. Gives the change of the sum.
    pub(crate) fn fill(&mut self, start: u64, end: u64, mut value: impl FnMut(u64, u64) -> u64) -> u64 {
        let leaf = TablePage::leaf_of(start);
        assert!(start < end && TablePage::leaf_of(end - 1) == leaf, "the entries lie in one leaf");
        let page = self.at_mut(leaf);
        page.used = true;
        let (mut delta, mut changed) = (0u64, false);
        for index in start..end {
            let old = page.entries[slot(index)];
            let new = value(index, old);
            if new != old {
                Arc::make_mut(&mut page.entries)[slot(index)] = new;
                let terms = digest_term(BlockIndex(index), new).wrapping_sub(digest_term(BlockIndex(index), old));
                delta = delta.wrapping_add(terms);
                changed = true;
            }
        }
        if changed {
            self.mark_dirty(leaf);
            let (parent, child) = leaf.parent().expect("a leaf is no root");
            let above = Arc::make_mut(&mut self.at_mut(parent).entries);
            above[child] = above[child].wrapping_add(delta);
        }
        delta
    }

    fn mark_dirty(&mut self, mut page: TablePage) {
        loop {
            let held = self.at_mut(page);
            if std::mem::replace(&mut held.dirty, true) {
                return;
            }
            self.dirty.insert(page);
            match page.parent() {
                Some((parent, _)) => page = parent,
                None => return,
            }
        }
    }

    /// Sets all entries from `first` on to zero, and forgets the pages behind the one that holds `first - 1`, which is here. Costs
    /// what is in memory, whatever the table's size: what a page adds to the sum stands above it. Gives the change of the sum.
    ///
    /// No checkpoint is under way, and the next one comes before anything is put there again: a page that comes to be there
    /// anew would not know which of its places the last checkpoint needs.
    pub(crate) fn cut(&mut self, first: u64) -> u64 {
        assert!(self.frozen.is_empty() && first > 0, "a cut leaves an entry, and comes between checkpoints");
        let mut edge = TablePage::leaf_of(first - 1);
        let end = (edge.index + 1) * ENTRIES;
        let mut gone = if first < end { self.fill(first, end, |_, _| 0).wrapping_neg() } else { 0 };
        let mut kept = vec![edge];
        while let Some((parent, child)) = edge.parent() {
            let sums: Vec<u64> = (child + 1..parent.children()).map(|c| self.sum_of_child(parent, c)).collect();
            if sums.iter().any(|sum| *sum != 0) || self.says_more(parent, child) {
                self.mark_dirty(parent);
                gone = sums.into_iter().fold(gone, u64::wrapping_add);
                let width = if parent.level == 1 { 1 } else { 2 };
                Arc::make_mut(&mut self.at_mut(parent).entries)[(child + 1) * width..].fill(0);
            }
            edge = parent;
            kept.push(edge);
        }
        self.forget_behind(&kept);
        gone
    }

    /// Whether a page says anything of its children behind this one.
    fn says_more(&self, page: TablePage, child: usize) -> bool {
        (child + 1..page.children()).any(|c| said_of_child(page, &self.at(page).entries, c) != 0)
    }

    /// What all entries below a child add to the sum. Above level 1 a page knows that of a changed child from a checkpoint on.
    fn sum_of_child(&self, page: TablePage, child: usize) -> u64 {
        let entries = &self.at(page).entries;
        if page.level == 1 {
            return entries[child];
        }
        let below = page.child(child);
        match self.pages.get(&below) {
            Some(held) if below.level == 1 => sum_of(below, &held.entries),
            Some(_) => (0..below.children()).fold(0, |sum, c| sum.wrapping_add(self.sum_of_child(below, c))),
            None => entries[2 * child + 1],
        }
    }

    /// Forgets every page behind those of `kept`, one of each level.
    fn forget_behind(&mut self, kept: &[TablePage]) {
        let behind = |page: &TablePage| kept.iter().any(|k| k.level == page.level && k.index < page.index);
        let coming: Vec<TablePage> = self.coming.keys().filter(|p| behind(p)).copied().collect();
        let held: Vec<TablePage> = self.pages.keys().filter(|p| behind(p)).copied().collect();
        for page in coming.iter().chain(&held) {
            let pins = self.pages.get(page).map_or(0, |held| held.pins);
            assert_eq!(pins, 0, "{page:?} is not needed any more");
            let (parent, _) = page.parent().expect("the root stays");
            self.at_mut(parent).children -= 1;
        }
        for page in &coming {
            self.coming.remove(page);
        }
        for page in &held {
            self.pages.remove(page);
            self.dirty.remove(page);
        }
        self.clock.retain(|page| !behind(page));
    }

    // ---- checkpoints

    /// Takes the changed pages as they are now, and makes the checksums above them. Gives the root's checksum and the pages to
    /// be written; until `thaw` their other places stay as they are.
    pub(crate) fn freeze(&mut self) -> (u64, Vec<FrozenPage>) {
        assert!(self.frozen.is_empty(), "one checkpoint at a time");
        let mut root = None;
        // Leaves come first, the root last.
        for page in std::mem::take(&mut self.dirty) {
            self.frozen.push(page);
            let held = self.at_mut(page);
            held.dirty = false;
            let entries = held.entries.clone();
            let empty = entries.iter().all(|e| *e == 0);
            held.frozen = Some(!empty);
            if page.level == 0 {
                continue;
            }
            let said =
                if empty { (0, 0) } else { (page.checksum(self.kind, &encode_page(&entries)), sum_of(page, &entries)) };
            match page.parent() {
                None => root = Some(said.0),
                Some((parent, child)) => {
                    let above = Arc::make_mut(&mut self.at_mut(parent).entries);
                    (above[2 * child], above[2 * child + 1]) = said;
                }
            }
        }
        let root = root.unwrap_or_else(|| self.root_checksum());
        (root, self.frozen.iter().filter_map(|page| self.frozen_page(*page)).collect())
    }

    fn root_checksum(&self) -> u64 {
        let entries = &self.at(TablePage::ROOT).entries;
        if entries.iter().all(|e| *e == 0) { 0 } else { TablePage::ROOT.checksum(self.kind, &encode_page(entries)) }
    }

    fn frozen_page(&self, page: TablePage) -> Option<FrozenPage> {
        let held = self.at(page);
        let written = held.frozen == Some(true);
        written.then(|| FrozenPage { page, entries: held.entries.clone(), second: !held.second })
    }

    /// The checkpoint holds: what it wrote is what counts now.
    pub(crate) fn thaw(&mut self) {
        for page in std::mem::take(&mut self.frozen) {
            let held = self.at_mut(page);
            if held.frozen.take() == Some(true) {
                held.second = !held.second;
            }
        }
    }

    // ---- comparing with the file

    /// Whether a page is here and as the last checkpoint left it, and its file holds it: one of zeros is nowhere.
    pub(crate) fn rests(&self, page: TablePage) -> bool {
        let at_rest = |held: &Page| !held.dirty && held.frozen.is_none() && held.entries.iter().any(|e| *e != 0);
        self.pages.get(&page).is_some_and(at_rest)
    }

    /// Whether its place holds it.
    pub(crate) fn stands_in(&self, page: TablePage, places: &[u8]) -> bool {
        let held = self.at(page);
        let place = places.get(usize::from(held.second) * PAGE_BYTES..).and_then(|rest| rest.get(..PAGE_BYTES));
        place.is_some_and(|place| place == &encode_page(&held.entries)[..])
    }

    /// The next checkpoint writes it into its other place.
    pub(crate) fn write_again(&mut self, page: TablePage) {
        assert!(self.rests(page), "{page:?} is not on its way already");
        self.mark_dirty(page);
    }

    // ---- forgetting

    /// Forgets up to `count` pages that were not used lately; gives how many.
    pub(crate) fn forget(&mut self, count: usize) -> usize {
        let mut gone = 0;
        for _ in 0..2 * self.clock.len() {
            if gone == count {
                break;
            }
            let Some(page) = self.clock.pop_front() else { break };
            let held = self.at_mut(page);
            let busy = held.dirty || held.frozen.is_some() || held.pins > 0 || held.children > 0;
            if busy || std::mem::take(&mut held.used) {
                self.clock.push_back(page);
                continue;
            }
            self.pages.remove(&page);
            let (parent, _) = page.parent().expect("the root stays");
            self.at_mut(parent).children -= 1;
            gone += 1;
        }
        gone
    }

    /// The entries in memory that are not zero.
    #[cfg(test)]
    pub(crate) fn nonzero(&self) -> impl Iterator<Item = (u64, u64)> {
        let leaves = self.pages.iter().filter(|(page, _)| page.level == 0);
        leaves.flat_map(|(page, held)| {
            (page.index * ENTRIES..).zip(held.entries.iter().copied()).filter(|(_, value)| *value != 0)
        })
    }
}

const ENTRIES: u64 = PAGE_ENTRIES as u64;
const _: () = assert!(LEAF_PARENT_FANOUT == ENTRIES && NODE_FANOUT * 2 == ENTRIES);

/// Where an entry lies in its leaf.
pub(crate) fn slot(entry: u64) -> usize {
    usize::try_from(entry % ENTRIES).expect("below 512")
}

/// What a page says of one of its children: 0 if that is all zeros.
pub(super) const fn said_of_child(page: TablePage, entries: &Entries, child: usize) -> u64 {
    if page.level == 1 { entries[child] } else { entries[2 * child] }
}

/// The sum over all entries of the table below this page.
pub(super) fn sum_of(page: TablePage, entries: &Entries) -> u64 {
    if page.level == 1 { entries.iter().fold(0, |sum, e| sum.wrapping_add(*e)) } else { sums_below(entries) }
}

pub(super) fn sums_below(entries: &Entries) -> u64 {
    entries.iter().skip(1).step_by(2).fold(0, |sum, e| sum.wrapping_add(*e))
}

/// The content of the place that holds what is expected, and whether that is the second one.
pub(super) fn verified(kind: TableKind, page: TablePage, expected: u64, places: &[u8]) -> Option<(Arc<Entries>, bool)> {
    let place = |second: bool| {
        let bytes = places.get(usize::from(second) * PAGE_BYTES..)?.get(..PAGE_BYTES)?;
        let entries = decode_page(bytes)?;
        let found = if page.level == 0 { leaf_sum(page.index, &entries) } else { page.checksum(kind, bytes) };
        (found == expected).then(|| (Arc::from(entries), second))
    };
    place(false).or_else(|| place(true))
}

pub(super) fn leaf_sum(leaf: u64, entries: &Entries) -> u64 {
    (leaf * ENTRIES..)
        .zip(entries)
        .fold(0, |sum, (index, value)| sum.wrapping_add(digest_term(BlockIndex(index), *value)))
}
