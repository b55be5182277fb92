//! Clients of others: libnbd, QEMU, fio. A tool that is missing fails the test.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_tests::{PATIENCE, TestCluster, scratch, tool, try_tool};
use holdfast_types::Rng;
use std::path::{Path, PathBuf};

const VOLUME: &str = "guest";
const SIZE: u64 = 64 << 20;

#[tokio::test]
async fn libnbd_reads_and_copies() {
    let dir = scratch();
    let cluster = TestCluster::start().await;
    cluster.volume(VOLUME, SIZE).await;
    let uri = cluster.uri(cluster.primary(VOLUME).await, VOLUME);
    let info = tool("nbdinfo", [uri.as_str()]);
    assert!(info.contains(&SIZE.to_string()), "{info}");
    for promised in ["can_flush: true", "can_fua: true", "can_trim: true", "can_zero: true", "is_read_only: false"] {
        assert!(info.contains(promised), "expected {promised:?} in:\n{info}");
    }
    assert_eq!(tool("nbdinfo", ["--size", &uri]).trim(), SIZE.to_string());
    let (image, copy) = (random_image(dir.path(), SIZE), dir.path().join("copy"));
    tool("nbdcopy", [image.to_str().unwrap(), &uri]);
    tool("nbdcopy", [uri.as_str(), copy.to_str().unwrap()]);
    assert!(std::fs::read(image).unwrap() == std::fs::read(copy).unwrap(), "the copy differs from what was copied in");
    tool("nbdinfo", ["--map", &uri]);
}

#[tokio::test]
async fn a_secondary_names_the_primary() {
    let cluster = TestCluster::start().await;
    cluster.volume(VOLUME, SIZE).await;
    let primary = cluster.primary(VOLUME).await;
    // QEMU passes on what the server says.
    let output = try_tool("qemu-img", ["info", &cluster.uri((primary + 1) % 3, VOLUME)]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "a secondary served the volume");
    let name = cluster.nodes()[primary].name();
    assert!(message.contains(name), "expected the name of the primary, {name}, in: {message}");
}

#[tokio::test]
async fn an_image_is_identical_after_a_failover() {
    let dir = scratch();
    let mut cluster = TestCluster::start().await;
    cluster.volume(VOLUME, SIZE).await;
    let primary = cluster.primary(VOLUME).await;
    let image = random_image(dir.path(), SIZE);
    let (image, uri) = (image.to_str().unwrap(), cluster.uri(primary, VOLUME));
    tool("qemu-img", ["convert", "-n", "-f", "raw", "-O", "raw", image, &uri]);
    tool("qemu-img", ["compare", "-f", "raw", "-F", "raw", image, &uri]);
    let map = tool("qemu-img", ["map", "--output=json", "-f", "raw", &uri]);
    assert!(map.contains("\"data\": true"), "{map}");
    cluster.kill(primary);
    let sockets = cluster.sockets(VOLUME);
    let next = holdfast_cli::workload::Transfer::open(&sockets, VOLUME, PATIENCE).await.unwrap();
    let uri = cluster.uri(next.node(), VOLUME);
    next.close();
    tool("qemu-img", ["compare", "-f", "raw", "-F", "raw", image, &uri]);
}

#[tokio::test]
async fn qemu_io_finds_what_it_wrote() {
    let cluster = TestCluster::start().await;
    cluster.volume(VOLUME, SIZE).await;
    let uri = cluster.uri(cluster.primary(VOLUME).await, VOLUME);
    let script = [
        "write -P 0x11 0 1M",
        "write -P 0x22 512 512",
        "write -P 0x33 4095k 3k",
        "read -P 0x11 0 512",
        "read -P 0x22 512 512",
        "read -P 0x11 1024 1047552",
        "read -P 0x33 4095k 3k",
        "write -z 64k 64k",
        "read -P 0 64k 64k",
        "write -z -u 128k 64k",
        "read -P 0 128k 64k",
        "discard 256k 64k",
        "read -P 0 256k 64k",
        "write -f -P 0x44 1M 4k",
        "read -P 0x44 1M 4k",
        "aio_write -P 0x55 8M 1M",
        "aio_write -P 0x66 9M 1M",
        "aio_flush",
        "read -P 0x55 8M 1M",
        "read -P 0x66 9M 1M",
        "read -P 0 63M 1M",
        "flush",
    ];
    let args = ["-f", "raw"].into_iter().chain(script.iter().flat_map(|line| ["-c", line])).chain([uri.as_str()]);
    let out = tool("qemu-io", args);
    assert!(!out.contains("failed") && !out.contains("error"), "{out}");
    // Without -u QEMU asks for zeroes that keep their space.
    tool("qemu-io", ["-f", "raw", "-c", "write -z 32M 1M", "-c", "write -z -u 40M 1M", "-c", "flush", &uri]);
    let map = tool("nbdinfo", ["--map", &uri]);
    let holes: Vec<(u64, u64)> = map.lines().filter(|l| l.contains("hole")).filter_map(span).collect();
    let is_hole = |at: u64| holes.iter().any(|(from, len)| (*from..from + len).contains(&at));
    assert!(!is_hole(32 << 20) && !is_hole((33 << 20) - 1), "zeroes with NO_HOLE are no hole:\n{map}");
    assert!(is_hole(40 << 20) && is_hole(33 << 20), "zeroes that may be a hole are one:\n{map}");
}

/// Offset and length of a line of nbdinfo's map.
fn span(line: &str) -> Option<(u64, u64)> {
    let mut words = line.split_whitespace();
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

#[tokio::test]
async fn fio_verifies() {
    let dir = scratch();
    let cluster = TestCluster::start().await;
    cluster.volume(VOLUME, SIZE).await;
    let uri = cluster.uri(cluster.primary(VOLUME).await, VOLUME);
    let job = format!(
        "[global]\nioengine=nbd\nuri={uri}\nsize={SIZE}\nverify=crc32c\nverify_fatal=1\nrandseed=7\n\
         [writes]\nrw=randwrite\nbsrange=512-128k\nbs_unaligned=0\niodepth=16\nio_size=64m\ndo_verify=1\nfsync=64\n"
    );
    let path = dir.path().join("job.fio");
    std::fs::write(&path, job).unwrap();
    // fio keeps its verify state in the present directory otherwise.
    tool("fio", ["--aux-path".as_ref(), dir.path().as_os_str(), path.as_os_str()]);
}

/// Random data with holes.
fn random_image(dir: &Path, size: u64) -> PathBuf {
    let mut rng = Rng::new(3);
    let mut image = vec![0; usize::try_from(size).unwrap()];
    for (number, piece) in image.chunks_mut(256 << 10).enumerate() {
        if number % 4 != 3 {
            piece.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&rng.next_u64().to_le_bytes()));
        }
    }
    let path = dir.join("image");
    std::fs::write(&path, image).unwrap();
    path
}
