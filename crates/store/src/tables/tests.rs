//! A tree with a file of its own, against a sparse array that is summed from scratch.

use super::*;
use bytes::Bytes;
use holdfast_format::{PAGE_BYTES, PAGE_PLACES_BYTES, TablePage, digest_term};
use holdfast_types::{BlockIndex, MAX_RANGE_BLOCKS, Rng};
use std::collections::BTreeMap;

/// Places of pages that were written.
type File = BTreeMap<u64, Bytes>;

fn places(file: &File, page: TablePage) -> Vec<u8> {
    let place = |at: u64| file.get(&at).map_or_else(|| vec![0; PAGE_BYTES], |b| b.to_vec());
    [place(page.offset()), place(page.offset() + PAGE_PLACES_BYTES / 2)].concat()
}

/// Makes a leaf usable, as the store does with reads in between.
fn fetch(tree: &mut Tree, file: &File, leaf: u64) {
    loop {
        match tree.seek(leaf) {
            Seek::Here => return,
            Seek::Zeros => return tree.create(leaf),
            Seek::Load(page) => {
                tree.begin_load(page);
                assert_eq!(tree.seek(leaf), Seek::Coming(page));
                assert!(tree.loaded(page, &places(file, page)), "{page:?} is what it should be");
            }
            Seek::Coming(page) => panic!("{page:?} was read at once"),
        }
    }
}

fn forget_all(tree: &mut Tree) {
    while tree.len() > 1 {
        tree.forget(usize::MAX);
    }
}

fn slow_sum(model: &BTreeMap<u64, u64>) -> u64 {
    model.iter().fold(0, |sum, (index, value)| sum.wrapping_add(digest_term(BlockIndex(*index), *value)))
}

/// Sparse writes all over 64 TiB, pages forgotten all the time, and crashes: what a checkpoint made is found again, whatever part
/// of a later, unfinished one reached the file.
#[test]
fn a_tree_comes_back_as_the_last_checkpoint_left_it() {
    let entries = 1u64 << 34;
    for seed in 0..6 {
        let mut rng = Rng::new(seed);
        let (mut tree, mut model, mut sum) = (Tree::new(TableKind::Blocks), BTreeMap::new(), 0u64);
        let mut file = File::new();
        let mut saved = (0u64, 0u64, model.clone());
        let hot: Vec<u64> = (0..12).map(|_| rng.below(entries) / ENTRIES * ENTRIES).collect();
        for _ in 0..1500 {
            let at = if rng.chance(700_000) {
                hot[usize::try_from(rng.below(12)).expect("small")] + rng.below(ENTRIES)
            } else {
                rng.below(entries)
            };
            fetch(&mut tree, &file, at / ENTRIES);
            assert_eq!(tree.get(at), model.get(&at).copied().unwrap_or(0));
            let end = (at / ENTRIES + 1) * ENTRIES;
            if rng.chance(150_000) {
                sum = sum.wrapping_add(tree.fill(at, end, |_, _| 0));
                model.retain(|i, _| !(at..end).contains(i));
            } else {
                let value = rng.next_u64() | 1;
                sum = sum.wrapping_add(tree.fill(at, at + 1, |_, _| value));
                model.insert(at, value);
            }
            tree.forget(usize::try_from(rng.below(4)).expect("small"));
            if rng.chance(25_000) {
                let (root, pages) = tree.freeze();
                let ends = rng.chance(600_000);
                for page in &pages {
                    if ends || rng.chance(500_000) {
                        file.insert(page.offset(), page.bytes());
                    }
                }
                if ends {
                    tree.thaw();
                    assert_eq!(sum, slow_sum(&model));
                    saved = (root, sum, model.clone());
                    continue;
                }
                // The process ends before the checkpoint did.
                sum = saved.1;
                model = saved.2.clone();
                tree = if saved.0 == 0 {
                    Tree::new(TableKind::Blocks)
                } else {
                    Tree::open(TableKind::Blocks, saved.0, sum, &places(&file, TablePage::ROOT))
                        .expect("the root is there")
                };
            }
        }
        assert_eq!(sum, slow_sum(&model));
        for leaf in model.keys().map(|at| at / ENTRIES).collect::<std::collections::BTreeSet<_>>() {
            fetch(&mut tree, &file, leaf);
        }
        assert!(tree.nonzero().eq(model.iter().map(|(i, v)| (*i, *v))));
        assert!(model.len() > 100, "{}", model.len());
        let (_, pages) = tree.freeze();
        pages.iter().for_each(|page| drop(file.insert(page.offset(), page.bytes())));
        tree.thaw();
        forget_all(&mut tree);
        assert_eq!(tree.len(), 1, "the root alone stays");
    }
}

/// A discard of what is a hole already waits for the disk like any other; nothing is kept for it.
#[test]
fn holes_are_cleared_also_when_the_pages_above_them_were_forgotten() {
    let mut blocks = Tree::new(TableKind::Blocks);
    blocks.create(0);
    let mut tables = Tables::opened(blocks, Tree::new(TableKind::Regions), TableSums::default());
    tables.set_blocks(0, 3, |_| 7);
    let digest = tables.digest;
    drop(tables.blocks.freeze());
    tables.blocks.thaw();
    assert_eq!(tables.blocks.seek(1), Seek::Zeros);
    forget_all(&mut tables.blocks);
    assert!(matches!(tables.blocks.seek(1), Seek::Load(_)));
    tables.clear_blocks(ENTRIES, 2 * ENTRIES);
    assert_eq!(tables.digest, digest);
}

/// What the largest batch may change fits the least memory that a configuration may give (`limits.table_cache`).
#[test]
fn the_largest_batch_fits_the_least_cache() {
    let config = crate::StoreConfig::default();
    let (blocks, regions) =
        (MAX_RANGE_BLOCKS.div_ceil(ENTRIES) + 1, MAX_RANGE_BLOCKS.div_ceil(ENTRIES * REGION_BLOCKS) + 1);
    let leaves = |of_last: u64| config.apply_batch_pages - 1 + usize::try_from(of_last).expect("small");
    let pages = pages_for(leaves(blocks), 1 << 34) + pages_for(leaves(regions), 1 << 30);
    assert!(2 * pages * PAGE_BYTES <= 64 << 20, "{pages} pages");
}

/// Every page of a tree, damaged in each of the ways a device has.
#[test]
fn a_page_that_is_not_what_was_written_does_not_verify() {
    let mut tree = Tree::new(TableKind::Regions);
    let leaves = [0, 1, 600, 200_000];
    let mut file = File::new();
    let mut before = File::new();
    for round in 1..=3u64 {
        for leaf in leaves {
            fetch(&mut tree, &file, leaf);
            tree.fill(leaf * ENTRIES + 7, leaf * ENTRIES + 9, |index, _| index * 10 + round);
        }
        let (_, pages) = tree.freeze();
        before = file.clone();
        pages.iter().for_each(|page| drop(file.insert(page.offset(), page.bytes())));
        tree.thaw();
    }
    forget_all(&mut tree);
    let mut seen = 0;
    for leaf in leaves {
        while let Seek::Load(page) = tree.seek(leaf) {
            tree.begin_load(page);
            let good = places(&file, page);
            let newest = if places(&before, page)[..PAGE_BYTES] == good[..PAGE_BYTES] { PAGE_BYTES } else { 0 };
            let mut flipped = good.clone();
            flipped[newest + 57] ^= 4;
            let other = places(&file, TablePage { level: page.level, index: page.index + 1 });
            for bad in [flipped, vec![0; 2 * PAGE_BYTES], places(&before, page), other, good[..PAGE_BYTES / 2].to_vec()]
            {
                assert!(!tree.loaded(page, &bad), "{page:?}");
                seen += 1;
            }
            // Rot in the place that does not count does no harm.
            let mut harmless = good.clone();
            harmless[PAGE_BYTES - newest + 57] ^= 4;
            assert!(tree.loaded(page, &harmless), "{page:?}");
        }
    }
    assert!(seen >= 30, "{seen}");
}
