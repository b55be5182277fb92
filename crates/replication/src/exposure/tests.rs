use super::*;
use holdfast_types::Rng;

fn at(ms: u64) -> Time {
    Time(5) + Duration::from_millis(ms)
}

#[test]
fn bytes_times_seconds_are_counted_and_told_once_they_last() {
    let mut meter = Exposure::default();
    assert_eq!(meter.look(0, at(0)), None);
    assert_eq!((meter.next_timeout(), meter.status()), (None, ExposureStatus::default()));
    // A record on its way is counted, and is no news.
    assert_eq!(meter.look(4_000, at(1_000)), None);
    assert_eq!(meter.look(0, at(1_500)), None);
    assert_eq!(meter.status().byte_seconds, 2_000);
    assert_eq!(meter.look(1_000, at(10_000)), None);
    assert_eq!(meter.next_timeout(), Some(at(11_000)));
    assert_eq!(meter.look(3_000, at(11_000)), Some(News::Begun { bytes: 3_000 }));
    assert_eq!(meter.look(3_000, at(12_000)), None, "told once");
    assert_eq!(meter.status(), ExposureStatus { bytes: 3_000, seconds: 2, byte_seconds: 6_000 });
    assert_eq!(meter.look(0, at(14_000)), Some(News::Ended { byte_seconds: 10_000, seconds: 4, most: 3_000 }));
    assert_eq!(meter.status(), ExposureStatus { bytes: 0, seconds: 0, byte_seconds: 12_000 });
    // A clock that goes back takes nothing away.
    meter.look(7, at(20_000));
    meter.look(7, at(19_000));
    assert!(meter.status().byte_seconds >= 12_000);
}

#[test]
fn a_counter_that_is_full_stays_where_it_is() {
    let mut meter = Exposure::default();
    meter.look(u64::MAX, at(0));
    for year in 1..1_000 {
        meter.look(u64::MAX, at(year * 365 * 86_400_000));
    }
    assert_eq!(meter.status().byte_seconds, u64::MAX);
}

/// A list of all records is the oracle: never less than it says, and exactly that as long as nothing was thinned out.
#[test]
fn the_index_agrees_with_a_list_of_all_records() {
    for seed in 0..20 {
        let mut rng = Rng::new(seed);
        let first = rng.below(1_000);
        let mut index = Written::new(Lsn(first));
        let mut all: Vec<(u64, u64)> = Vec::new();
        let (mut last, mut forgotten) = (first, first);
        let records = if seed % 2 == 0 { 3_000 } else { 30_000 };
        for _ in 0..records {
            last += 1;
            let bytes = rng.below(1 << 20);
            all.push((last, bytes));
            index.push(Lsn(last), bytes);
            if rng.chance(10_000) {
                let held = rng.range(forgotten, last + 1);
                let committed = rng.range(held, last + 1);
                let want: u64 = all.iter().filter(|(lsn, _)| (held + 1..=committed).contains(lsn)).map(|r| r.1).sum();
                let found = index.between(Lsn(held), Lsn(committed));
                assert!(found >= want, "seed {seed}: {found} of {want} bytes in {held}..={committed}");
                assert!(records > 4_000 || found == want, "seed {seed}: nothing was thinned out");
                assert_eq!(index.between(Lsn(held), Lsn(held)), 0);
            }
            if rng.chance(300) {
                forgotten = rng.range(forgotten, last + 1);
                index.forget(Lsn(forgotten));
            }
        }
        assert!(index.marks.len() <= MARKS);
        index.forget(Lsn(last));
        assert_eq!((index.marks.len(), index.between(Lsn(last), Lsn(last))), (1, 0));
    }
}
