//! Every committed fuzz input goes through its decoder in every test run, without a fuzzer.
#![allow(missing_docs)]

use bytes::Bytes;
use holdfast_format::message::{Message, ShardMessage};
use holdfast_format::{
    FrameHeader, JournalHead, JournalHeadFound, RecordHeader, SegmentHeader, Superblock, decode_configuration,
    decode_page, encode_configuration, encode_page,
};
use std::fs;
use std::path::Path;

/// What the fuzz target of the same name does.
fn run(target: &str, bytes: &[u8]) -> bool {
    match target {
        "record_header" => RecordHeader::decode(bytes).map(|h| assert_eq!(h.encode(), bytes)).is_some(),
        "message" => {
            Message::decode(Bytes::copy_from_slice(bytes)).map(|m| assert_eq!(m.encode().concat(), bytes)).is_ok()
        }
        "shard_message" => ShardMessage::decode(bytes).map(|m| assert_eq!(m.encode(), bytes)).is_ok(),
        "configuration" => decode_configuration(bytes).map(|c| assert_eq!(encode_configuration(&c), bytes)).is_ok(),
        "frame" => FrameHeader::decode(bytes)
            .map(|h| {
                assert_eq!(h.encode(), bytes[..FrameHeader::LEN]);
                h.slots_of(bytes)
            })
            .is_some(),
        "segment" => SegmentHeader::decode(bytes)
            .map(|h| assert_eq!(SegmentHeader::decode(&h.encode()).as_ref(), Some(&h)))
            .is_some(),
        "superblock" => {
            let _ = Superblock::judge(bytes);
            Superblock::decode(bytes).map(|s| assert_eq!(s.encode(), bytes)).is_some()
        }
        "journal_head" => match JournalHead::judge(bytes) {
            JournalHeadFound::Valid(head) => {
                assert_eq!(JournalHead::judge(&head.encode()), JournalHeadFound::Valid(head));
                true
            }
            JournalHeadFound::Empty | JournalHeadFound::Damaged => false,
        },
        "table" => decode_page(bytes).map(|page| assert_eq!(encode_page(&page), bytes)).is_some(),
        // Targets of other crates, whose corpora their own tests run.
        _ => true,
    }
}

#[test]
fn committed_inputs_decode_or_fail_but_never_panic() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let mut decoded = std::collections::BTreeMap::<String, usize>::new();
    for dir in fs::read_dir(&corpus).expect("fuzz/corpus is part of the repository") {
        let dir = dir.expect("the corpus is readable").path();
        let target = dir.file_name().expect("a directory has a name").to_string_lossy().into_owned();
        for file in fs::read_dir(&dir).expect("the corpus is readable") {
            let bytes = fs::read(file.expect("the corpus is readable").path()).expect("an input is readable");
            *decoded.entry(target.clone()).or_default() += usize::from(run(&target, &bytes));
        }
    }
    let targets = [
        "record_header",
        "message",
        "shard_message",
        "configuration",
        "frame",
        "segment",
        "superblock",
        "journal_head",
        "table",
    ];
    for target in targets {
        assert!(decoded.get(target).is_some_and(|n| *n > 0), "no input of fuzz/corpus/{target} decodes");
    }
}
