//! A table as it is to be, made page by page beside the one in use.
//!
//! Entries are set in ascending order. So a page is complete when the way has passed it, and four pages are in memory, whatever
//! the size of the table. Each changed page goes into the place that the table in use does not need: until a superblock names the
//! new root, nothing leads there.

use super::tree::{Entries, Tree, leaf_sum, said_of_child, slot, sum_of, sums_below, verified};
use bytes::Bytes;
use holdfast_format::{PAGE_BYTES, PAGE_ENTRIES, TableKind, TablePage, encode_page};
use std::sync::Arc;

#[derive(Debug)]
struct Open {
    page: TablePage,
    /// As the table in use has it: its children are where this says.
    before: Arc<Entries>,
    entries: Arc<Entries>,
    /// Which of its places the table in use needs.
    second: bool,
    changed: bool,
}

/// A page that is complete: where it goes, and its bytes.
pub(crate) type Woven = (u64, Bytes);

/// One table on its way from one state to another.
#[derive(Debug)]
pub(crate) struct Weaver {
    kind: TableKind,
    /// Checksum of the root of the table in use.
    root: u64,
    /// The pages on the way to where it is, the root first.
    path: Vec<Open>,
    /// Entries from this one on count as zeros.
    cut: Option<u64>,
    /// The leaf that the cut goes through was gone to.
    edge_passed: bool,
}

impl Weaver {
    /// `cut`: entries of the table in use from this one on, which is above 0, count for nothing.
    pub(crate) fn new(kind: TableKind, root: u64, cut: Option<u64>) -> Weaver {
        assert!(cut != Some(0), "a volume keeps a block");
        Weaver { kind, root, path: Vec::new(), cut, edge_passed: cut.is_none() }
    }

    /// Goes to the last leaf that the cut leaves something of, if the way has not passed it.
    pub(crate) fn go_to_edge(&mut self, done: &mut Vec<Woven>) -> Option<TablePage> {
        let cut = self.cut.filter(|_| !self.edge_passed)?;
        let missing = self.walk(cut - 1, done);
        self.edge_passed = missing.is_none();
        missing
    }

    /// Goes on to the leaf of an entry, which is not before the one that it is at. `done` gets the pages passed. Gives the page that
    /// has to be read first, if any.
    pub(crate) fn go_to(&mut self, entry: u64, done: &mut Vec<Woven>) -> Option<TablePage> {
        if self.cut.is_some_and(|cut| cut <= entry)
            && let Some(missing) = self.go_to_edge(done)
        {
            return Some(missing);
        }
        self.walk(entry, done)
    }

    fn walk(&mut self, entry: u64, done: &mut Vec<Woven>) -> Option<TablePage> {
        let mut way = vec![TablePage::leaf_of(entry)];
        while let Some((parent, _)) = way.last().and_then(|page| page.parent()) {
            way.push(parent);
        }
        way.reverse();
        let common = self.path.iter().zip(&way).take_while(|(open, page)| open.page == **page).count();
        while self.path.len() > common {
            self.close(done);
        }
        for page in &way[common..] {
            if self.expected(*page) != 0 {
                return Some(*page);
            }
            self.open(*page, Arc::new([0; PAGE_ENTRIES]), false);
        }
        None
    }

    /// Both places of the page that had to be read. False if neither holds what the page above says.
    pub(crate) fn loaded(&mut self, page: TablePage, places: &[u8]) -> bool {
        let Some((entries, second)) = verified(self.kind, page, self.expected(page), places) else { return false };
        self.open(page, entries, second);
        true
    }

    /// What the table in use says of a page whose parent is the last one of the path.
    fn expected(&self, page: TablePage) -> u64 {
        match (self.path.last(), page.parent()) {
            (Some(above), Some((_, child))) => said_of_child(above.page, &above.before, child),
            _ => self.root,
        }
    }

    fn open(&mut self, page: TablePage, before: Arc<Entries>, second: bool) {
        let mut entries = before.clone();
        let kept = self.kept(page);
        let changed = entries[kept..].iter().any(|e| *e != 0);
        if changed {
            Arc::make_mut(&mut entries)[kept..].fill(0);
        }
        self.path.push(Open { page, before, entries, second, changed });
    }

    /// How much of a page's entries lies before the cut.
    fn kept(&self, page: TablePage) -> usize {
        let Some(cut) = self.cut else { return PAGE_ENTRIES };
        let fanout = u64::try_from(page.children()).expect("at most 512");
        // Children are entries, or pages of the level below.
        let mut behind = cut;
        if page.level > 0 {
            let mut edge = TablePage::leaf_of(cut - 1);
            while let Some((parent, _)) = edge.parent().filter(|_| edge.level + 1 < page.level) {
                edge = parent;
            }
            behind = edge.index + 1;
        }
        let kept = behind.saturating_sub(page.index * fanout).min(fanout);
        let width = if page.level > 1 { 2 } else { 1 };
        usize::try_from(kept).expect("at most 512") * width
    }

    fn leaf(&mut self, entry: u64) -> &mut Open {
        let leaf = self.path.last_mut().expect("a leaf was gone to");
        assert_eq!(leaf.page, TablePage::leaf_of(entry), "an entry lies in the leaf that was gone to");
        leaf
    }

    pub(crate) fn get(&mut self, entry: u64) -> u64 {
        self.leaf(entry).entries[slot(entry)]
    }

    pub(crate) fn set(&mut self, entry: u64, value: u64) {
        let leaf = self.leaf(entry);
        if leaf.entries[slot(entry)] != value {
            Arc::make_mut(&mut leaf.entries)[slot(entry)] = value;
            leaf.changed = true;
        }
    }

    /// The way has passed the lowest page.
    fn close(&mut self, done: &mut Vec<Woven>) {
        let Open { page, entries, second, changed, .. } = self.path.pop().expect("there is one to be closed");
        if !changed {
            return;
        }
        let empty = entries.iter().all(|e| *e == 0);
        let bytes = encode_page(&entries);
        let said = match (empty, page.level) {
            (true, _) => (0, 0),
            (false, 0) => (leaf_sum(page.index, &entries), 0),
            (false, _) => (page.checksum(self.kind, &bytes), sum_of(page, &entries)),
        };
        if !empty {
            done.push((page.offset() + other_place(second), bytes));
        }
        let above = self.path.last_mut().expect("the root is closed by `finish`");
        let (_, child) = page.parent().expect("the root is closed by `finish`");
        let in_it = Arc::make_mut(&mut above.entries);
        if page.level == 0 {
            in_it[child] = said.0;
        } else {
            (in_it[2 * child], in_it[2 * child + 1]) = said;
        }
        above.changed = true;
    }

    /// The whole table was passed: gives it as it is now, with the checksum of its root and the sum over its entries. `None` if nothing
    /// was ever gone to: it is as it was.
    pub(crate) fn finish(&mut self, done: &mut Vec<Woven>) -> Option<(Tree, u64, u64)> {
        while self.path.len() > 1 {
            self.close(done);
        }
        let Open { page, entries, second, changed, .. } = self.path.pop()?;
        assert_eq!(page, TablePage::ROOT, "the way begins at the root");
        let sum = sums_below(&entries);
        if entries.iter().all(|e| *e == 0) {
            return Some((Tree::new(self.kind), 0, 0));
        }
        let bytes = encode_page(&entries);
        let checksum = page.checksum(self.kind, &bytes);
        if changed {
            done.push((page.offset() + other_place(second), bytes));
        }
        Some((Tree::with_root(self.kind, entries, second != changed), checksum, sum))
    }
}

const fn other_place(second: bool) -> u64 {
    if second { 0 } else { PAGE_BYTES as u64 }
}
