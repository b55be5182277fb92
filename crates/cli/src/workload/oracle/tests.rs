use super::*;

fn oracle() -> Oracle {
    Oracle::new(1, 0..64)
}

fn read(oracle: &mut Oracle, sectors: Range<u64>, bytes: &[u8]) {
    let floors = oracle.floors(sectors.clone());
    oracle.check(sectors, &floors, bytes);
}

fn kinds(oracle: &Oracle) -> Vec<Wrong> {
    oracle.violations().kept().iter().map(|v| v.wrong).collect()
}

#[test]
fn an_acknowledged_write_must_be_read() {
    let mut o = oracle();
    let data = o.issue_data(3..5, 1);
    read(&mut o, 3..5, &[0; 1024]);
    o.acknowledge(3..5, Change::Data, 1);
    read(&mut o, 3..5, &data);
    assert!(o.violations().is_empty());
    read(&mut o, 3..5, &[0; 1024]);
    assert_eq!(kinds(&o), [Wrong::Lost, Wrong::Lost]);
    assert_eq!(o.violations().lost(), 1);
}

#[test]
fn a_read_that_overlaps_writes_may_return_any_of_them() {
    let mut o = oracle();
    let first = o.issue_data(0..1, 1);
    o.acknowledge(0..1, Change::Data, 1);
    let floors = o.floors(0..1);
    let second = o.issue_data(0..1, 2);
    o.acknowledge(0..1, Change::Data, 2);
    let third = o.issue_data(0..1, 3);
    o.check(0..1, &floors, &first);
    o.check(0..1, &floors, &second);
    o.check(0..1, &floors, &third);
    assert!(o.violations().is_empty());
}

#[test]
fn what_a_read_returned_stays() {
    let mut o = oracle();
    let first = o.issue_data(0..1, 1);
    o.acknowledge(0..1, Change::Data, 1);
    let second = o.issue_data(0..1, 2);
    read(&mut o, 0..1, &second);
    read(&mut o, 0..1, &first);
    assert_eq!(kinds(&o), [Wrong::Lost]);
}

#[test]
fn the_first_read_fixes_a_fate_for_ever() {
    let mut o = oracle();
    let old = o.issue_data(0..2, 1);
    o.acknowledge(0..2, Change::Data, 1);
    let new = o.issue_data(0..2, 2);
    o.abandon(0..2, 2);
    read(&mut o, 0..1, &old[..512]);
    assert!(o.violations().is_empty());
    read(&mut o, 1..2, &new[512..]);
    assert_eq!(kinds(&o), [Wrong::Resurrected]);
}

#[test]
fn an_abandoned_write_is_whole() {
    let mut o = oracle();
    let old = o.issue_data(0..2, 1);
    o.acknowledge(0..2, Change::Data, 1);
    let new = o.issue_data(0..2, 2);
    o.abandon(0..2, 2);
    read(&mut o, 0..1, &new[..512]);
    assert!(o.violations().is_empty());
    read(&mut o, 1..2, &old[512..]);
    assert_eq!(kinds(&o), [Wrong::Lost]);
}

#[test]
fn a_later_write_says_nothing_about_limbo() {
    let mut o = oracle();
    o.issue_data(0..2, 1);
    o.abandon(0..2, 1);
    let later = o.issue_data(0..1, 2);
    o.acknowledge(0..1, Change::Data, 2);
    read(&mut o, 0..1, &later);
    read(&mut o, 1..2, &[0; 512]);
    assert!(o.violations().is_empty());
    o.late_acknowledgement(1);
    assert_eq!(kinds(&o), [Wrong::Lost]);
}

#[test]
fn a_discard_may_do_nothing_until_it_was_seen() {
    let mut o = oracle();
    let data = o.issue_data(0..1, 1);
    o.acknowledge(0..1, Change::Data, 1);
    o.issue_zeroes(0..1);
    o.acknowledge(0..1, Change::Discard, 2);
    read(&mut o, 0..1, &data);
    read(&mut o, 0..1, &[0; 512]);
    assert!(o.violations().is_empty());
    read(&mut o, 0..1, &data);
    assert_eq!(kinds(&o), [Wrong::Lost]);
}

#[test]
fn zeroes_must_take_effect() {
    let mut o = oracle();
    let data = o.issue_data(0..1, 1);
    o.acknowledge(0..1, Change::Data, 1);
    o.issue_zeroes(0..1);
    o.acknowledge(0..1, Change::Zeroes, 2);
    read(&mut o, 0..1, &[0; 512]);
    assert!(o.violations().is_empty());
    read(&mut o, 0..1, &data);
    assert_eq!(kinds(&o), [Wrong::Lost]);
}

#[test]
fn misplaced_and_foreign_data_is_corrupt() {
    let mut o = oracle();
    let data = o.issue_data(0..2, 1);
    o.acknowledge(0..2, Change::Data, 1);
    read(&mut o, 0..1, &data[512..]);
    let foreign = Oracle::new(2, 0..64).issue_data(0..1, 1);
    read(&mut o, 0..1, &foreign);
    read(&mut o, 0..1, &[9; 512]);
    assert_eq!(kinds(&o), [Wrong::Corrupt; 3]);
}
