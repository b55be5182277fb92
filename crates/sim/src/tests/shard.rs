//! One shard on one simulated disk, without a world: what depends on a fault at one exact operation.

use crate::disk::Disk;
use crate::faults::FaultKind;
use crate::options::Options;
use crate::setup::Setup;
use holdfast_node::LocalView;
use holdfast_node::shard::{Input, Output, Shard, ShardConfig};
use holdfast_store::io::{DiskOp, FileId};
use holdfast_types::{
    Configuration, Durability, Epoch, Incarnation, Life, Member, NodeId, Rng, Time, VolumeId, VolumeSize, VolumeView,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const V1: VolumeId = VolumeId(1);

fn options() -> Options {
    Setup::default().options(0)
}

fn shard(life: u64) -> Shard {
    let Options { timers, limits, beat, store, .. } = options();
    let config = ShardConfig {
        me: NodeId(1),
        life: Life(life),
        timers,
        beat,
        limits,
        resyncs: 1,
        store,
        seed: life,
        place: "n1".to_owned(),
    };
    Shard::new(config, Time(life * 1_000_000_000))
}

/// Feeds one input and all that follows from it; operations on `broken` end with an error.
fn feed(shard: &mut Shard, disk: &mut Disk, input: Input, life: u64, broken: Option<FileId>) -> Vec<Output> {
    let now = Time(life * 1_000_000_000);
    let (mut inputs, mut seen) = (VecDeque::from([input]), Vec::new());
    while let Some(input) = inputs.pop_front() {
        let mut out = Vec::new();
        shard.handle(input, now, &mut out);
        shard.maintain(now, &mut out);
        for output in out {
            let Output::Disk(op) = output else {
                seen.push(output);
                continue;
            };
            let fails = broken == Some(op.file);
            let (ticket, _) = disk.submit(op, 0);
            disk.fail_next = fails.then_some(FaultKind::SyncError);
            inputs.extend(disk.complete(ticket).map(|c| Input::Disk(c.done)));
            disk.fail_next = None;
        }
    }
    seen
}

/// Feeds one input; operations stay on their way, in `late`.
fn feed_late(shard: &mut Shard, input: Input, late: &mut VecDeque<DiskOp>) -> Vec<Output> {
    let (now, mut out, mut seen) = (Time(1_000_000_000), Vec::new(), Vec::new());
    shard.handle(input, now, &mut out);
    shard.maintain(now, &mut out);
    for output in out {
        match output {
            Output::Disk(op) => late.push_back(op),
            other => seen.push(other),
        }
    }
    seen
}

/// However far the creation came when the volume is deleted: nothing stays on the disk, and gone is not said before.
#[test]
fn a_copy_that_is_deleted_while_it_is_made_leaves_nothing() {
    for ended in 0..6 {
        let mut disk = Disk::new(options().disk, Rng::new(7));
        let mut shard = shard(1);
        feed(&mut shard, &mut disk, Input::Start, 1, None);
        let (mut late, mut seen) = (VecDeque::new(), Vec::new());
        let mut step = |shard: &mut Shard, late: &mut VecDeque<DiskOp>, seen: &mut Vec<Output>| {
            let Some(op) = late.pop_front() else { return false };
            let (ticket, _) = disk.submit(op, 0);
            let done = disk.complete(ticket).expect("it was submitted").done;
            seen.extend(feed_late(shard, Input::Disk(done), late));
            let files = [FileId::Superblock(V1), FileId::Image(V1), FileId::BlockTable(V1), FileId::RegionTable(V1)];
            let gone = seen.iter().any(|o| matches!(o, Output::CopyDeleted { .. }));
            assert!(!gone || files.iter().all(|f| disk.content(*f).is_none()), "{ended}: deleted, yet files are there");
            true
        };
        let create = LocalView { create: vec![(V1, VolumeSize::new(1 << 20).unwrap())], ..LocalView::default() };
        seen.extend(feed_late(&mut shard, Input::Local(create), &mut late));
        for _ in 0..ended {
            step(&mut shard, &mut late, &mut seen);
        }
        let delete = LocalView { delete: vec![V1], ..LocalView::default() };
        seen.extend(feed_late(&mut shard, Input::Local(delete), &mut late));
        while step(&mut shard, &mut late, &mut seen) {}
        let told = seen.iter().filter(|o| matches!(o, Output::CopyDeleted { volume: V1 })).count();
        assert_eq!(told, 1, "{ended}: {seen:?}");
        assert!(shard.rows().is_empty() && shard.storage().volumes().next().is_none(), "{ended}: {:?}", shard.rows());
        assert!(disk.content(FileId::Image(V1)).is_none(), "{ended}: the image is gone");
    }
}

#[test]
fn a_full_file_system_is_told_when_it_begins_and_when_it_ends() {
    let mut disk = Disk::new(options().disk, Rng::new(7));
    let mut shard = shard(1);
    feed(&mut shard, &mut disk, Input::Start, 1, None);
    let events = |seen: Vec<Output>| -> Vec<String> {
        let text = |o| if let Output::Event { volume: None, text } = o { Some(text) } else { None };
        seen.into_iter().filter_map(text).collect()
    };
    disk.no_space = true;
    let create = LocalView { create: vec![(V1, VolumeSize::new(1 << 20).unwrap())], ..LocalView::default() };
    let begins = events(feed(&mut shard, &mut disk, Input::Local(create), 1, None));
    assert!(begins.len() == 1 && begins[0].contains("is full"), "{begins:?}");
    let again = events(feed(&mut shard, &mut disk, Input::Tick, 20, None));
    assert!(again.is_empty(), "it is tried again and nothing has changed: {again:?}");
    disk.no_space = false;
    let ends = events(feed(&mut shard, &mut disk, Input::Tick, 40, None));
    assert!(ends.len() == 1 && ends[0].contains("has space again"), "{ends:?}");
    assert_eq!(shard.rows().len(), 1, "the copy is made");
}

#[test]
fn a_copy_that_can_not_be_opened_is_not_made_again() {
    let mut disk = Disk::new(options().disk, Rng::new(7));
    let wish = || {
        let create = vec![(V1, VolumeSize::new(1 << 20).unwrap())];
        Input::Local(LocalView { create, ..LocalView::default() })
    };
    let mut first = shard(1);
    feed(&mut first, &mut disk, Input::Start, 1, None);
    let made = feed(&mut first, &mut disk, wish(), 1, None);
    assert!(made.iter().any(|o| matches!(o, Output::CopyCreated { volume: V1, .. })), "{made:?}");

    let mut second = shard(2);
    feed(&mut second, &mut disk, Input::Start, 2, Some(FileId::Superblock(V1)));
    let made = feed(&mut second, &mut disk, wish(), 2, None);
    assert!(made.is_empty(), "nothing takes the broken copy's place: {made:?}");
    let rows = second.rows();
    let why = rows[0].failed.as_ref().unwrap();
    assert!(rows.len() == 1 && why.contains("its superblock can't be read"), "the reason is told: {rows:?}");

    let delete = Input::Local(LocalView { delete: vec![V1], ..LocalView::default() });
    let gone = feed(&mut second, &mut disk, delete, 2, None);
    assert!(gone.iter().any(|o| matches!(o, Output::CopyDeleted { volume: V1 })), "{gone:?}");
    assert!(disk.content(FileId::Superblock(V1)).is_none(), "its files are gone");
    let made = feed(&mut second, &mut disk, wish(), 2, None);
    assert!(made.iter().any(|o| matches!(o, Output::CopyCreated { volume: V1, .. })), "{made:?}");
}

/// A node may hold a thousand copies: neither what is decided of one of them nor a tick is work for all.
#[test]
fn what_concerns_one_copy_is_no_work_for_the_others() {
    let mut disk = Disk::new(options().disk, Rng::new(7));
    let mut shard = shard(1);
    feed(&mut shard, &mut disk, Input::Start, 1, None);
    let size = VolumeSize::new(1 << 20).unwrap();
    let create = (1..=5).map(|n| (VolumeId(n), size)).collect();
    let made = feed(&mut shard, &mut disk, Input::Local(LocalView { create, ..LocalView::default() }), 1, None);
    let registered: BTreeMap<VolumeId, Incarnation> = made
        .iter()
        .filter_map(|o| {
            if let Output::CopyCreated { volume, incarnation } = o { Some((*volume, *incarnation)) } else { None }
        })
        .collect();
    assert_eq!(registered.len(), 5, "{made:?}");
    let views = registered.iter().map(|(volume, incarnation)| {
        let members = vec![Member { node: NodeId(1), incarnation: *incarnation }];
        let active = Configuration { epoch: Epoch(0), primary: None, members, write_quorum: 1 };
        VolumeView::settled(*volume, size, Durability::Sync, active)
    });
    let mut local = LocalView { views: views.collect(), registered: registered.clone(), ..LocalView::default() };
    feed(&mut shard, &mut disk, Input::Local(local.clone()), 1, None);

    let now = Time(1_000_000_000);
    shard.maintain(now, &mut Vec::new());
    local.views[2].size = VolumeSize::new(2 << 20).unwrap();
    let told = |shard: &mut Shard, local: &LocalView| {
        shard.handle(Input::Local(local.clone()), now, &mut Vec::new());
        shard.maintain(now, &mut Vec::new());
        shard.maintained().clone()
    };
    assert_eq!(told(&mut shard, &local), BTreeSet::from([VolumeId(3)]));
    assert_eq!(told(&mut shard, &local), BTreeSet::new(), "it is known already");
    local.views.remove(1);
    assert!(
        told(&mut shard, &local).is_subset(&BTreeSet::from([VolumeId(2)])),
        "one that has gone leaves the others alone"
    );
}
