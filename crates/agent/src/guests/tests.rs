//! What a connection hands over, and what it must not.

use super::{FromGuest, MAX_CONNECTIONS, Registry, ToGuest, export, registry};
use bytes::Bytes;
use holdfast_node::Grant;
use holdfast_types::{GuestLimits, SessionId, VolumeId};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

const VOLUME: VolumeId = VolumeId(1);
const MAGIC: &[u8] = b"IHAVEOPT";

/// A client in its transmission phase, by the shortest negotiation there is.
async fn attach(socket: &Path) -> UnixStream {
    let mut client = UnixStream::connect(socket).await.unwrap();
    client.read_exact(&mut [0; 18]).await.unwrap();
    let export_name = [&3u32.to_be_bytes(), MAGIC, &1u32.to_be_bytes(), &0u32.to_be_bytes()].concat();
    client.write_all(&export_name).await.unwrap();
    client.read_exact(&mut [0; 10]).await.unwrap();
    client
}

/// A write of one sector at offset 0.
fn write() -> Vec<u8> {
    let head: [&[u8]; 6] = [
        &0x2560_9513u32.to_be_bytes(),
        &0u16.to_be_bytes(),
        &1u16.to_be_bytes(),
        &7u64.to_be_bytes(),
        &0u64.to_be_bytes(),
        &512u32.to_be_bytes(),
    ];
    [head.concat(), vec![1; 512]].concat()
}

fn serve(registry: &mut Registry, accepts: bool) {
    registry.set_serving(VOLUME, true, "");
    registry.set_accepts(VOLUME, accepts);
}

/// S12: a client gives a connection up whose request was not taken yet, sends it again over another one, and goes on. Taken
/// afterwards, the old request would undo what was answered since.
#[test]
fn what_a_client_gave_up_is_not_taken_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let (shared, mut from_guests) = registry(dir.path(), 16).unwrap();
        export(&shared, VOLUME, "v", 1 << 20).unwrap();
        serve(&mut shared.borrow_mut(), false);
        let socket = dir.path().join("v.sock");
        let mut given_up = attach(&socket).await;
        given_up.write_all(&write()).await.unwrap();
        drop(given_up);
        let mut next = attach(&socket).await;
        next.write_all(&write()).await.unwrap();
        serve(&mut shared.borrow_mut(), true);
        let mut requests = Vec::new();
        let mut closed = Vec::new();
        while closed.is_empty() || requests.is_empty() {
            let message = tokio::time::timeout(Duration::from_secs(20), from_guests.recv()).await.unwrap();
            match message.unwrap() {
                FromGuest::Request { request, .. } => requests.push(request.key.session),
                FromGuest::Closed { session, .. } => closed.push(session),
                FromGuest::Extents { .. } => unreachable!("nobody asked"),
                FromGuest::Attached | FromGuest::Trouble { .. } => {}
            }
        }
        assert_eq!((requests, closed), (vec![SessionId(2)], vec![SessionId(1)]));
    });
}

/// A client that opens connections without end takes no more of the agent's descriptors than its volume may have.
#[test]
fn the_connections_of_a_volume_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let (shared, _from_guests) = registry(dir.path(), 16).unwrap();
        export(&shared, VOLUME, "v", 1 << 20).unwrap();
        serve(&mut shared.borrow_mut(), true);
        let socket = dir.path().join("v.sock");
        let mut held = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            held.push(attach(&socket).await);
        }
        let mut waits = UnixStream::connect(&socket).await.unwrap();
        tokio::task::yield_now().await;
        let greeted = tokio::time::timeout(Duration::from_millis(100), waits.read_exact(&mut [0; 18])).await;
        assert!(greeted.is_err(), "it waits in the backlog");
        held.pop();
        waits.read_exact(&mut [0; 18]).await.unwrap();
    });
}

/// A request to read from offset 0.
fn read(len: u32) -> Vec<u8> {
    let head: [&[u8]; 6] = [
        &0x2560_9513u32.to_be_bytes(),
        &0u16.to_be_bytes(),
        &0u16.to_be_bytes(),
        &7u64.to_be_bytes(),
        &0u64.to_be_bytes(),
        &len.to_be_bytes(),
    ];
    head.concat()
}

/// Clients that ask for much and never read the answers pin what the budget says, and others are served. Who reads again
/// gets everything.
#[test]
fn unread_replies_are_bounded_and_hold_up_nobody_else() {
    const BIG: usize = 32 << 20;
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let (shared, mut from_guests) = registry(dir.path(), 16).unwrap();
        let budget = BIG + (8 << 20);
        shared.borrow_mut().reply_budget = budget;
        export(&shared, VOLUME, "v", 64 << 20).unwrap();
        serve(&mut shared.borrow_mut(), true);
        let most = std::rc::Rc::new(std::cell::Cell::new(0));
        let (watched, answering) = (std::rc::Rc::clone(&most), std::rc::Rc::clone(&shared));
        tokio::task::spawn_local(async move {
            while let Some(message) = from_guests.recv().await {
                let FromGuest::Request { request, .. } = message else { continue };
                let result = Ok(vec![Bytes::from(vec![0; usize::try_from(request.len).unwrap()])]);
                let registry = answering.borrow();
                registry.send(VOLUME, request.key.session, ToGuest::Reply { request: request.key.request, result });
                watched.set(registry.reply_bytes.max(watched.get()));
            }
        });
        let socket = dir.path().join("v.sock");
        let mut hogs = Vec::new();
        for _ in 0..6 {
            let mut hog = attach(&socket).await;
            hog.write_all(&read(32 << 20).repeat(4)).await.unwrap();
            hogs.push(hog);
        }
        let mut modest = attach(&socket).await;
        for _ in 0..50 {
            modest.write_all(&read(4096)).await.unwrap();
            let mut reply = [0; 16 + 4096];
            let reply = modest.read_exact(&mut reply);
            tokio::time::timeout(Duration::from_secs(20), reply).await.expect("it is served").unwrap();
        }
        assert!(most.get() >= BIG && most.get() <= budget + (1 << 20), "{} bytes of replies were held", most.get());
        let read_all = |mut hog: UnixStream| {
            tokio::task::spawn_local(async move { hog.read_exact(&mut vec![0; 4 * (16 + BIG)]).await })
        };
        for all in hogs.into_iter().map(read_all).collect::<Vec<_>>() {
            tokio::time::timeout(Duration::from_secs(60), all).await.expect("who reads is served").unwrap().unwrap();
        }
        assert!(most.get() <= budget + (1 << 20), "{} bytes of replies were held", most.get());
        tokio::time::timeout(Duration::from_secs(20), async {
            while shared.borrow().reply_bytes > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("what was sent or given up is not counted any more");
    });
}

/// What the shard is handed next, within a bound that only a hung test reaches.
async fn handed(from_guests: &mut tokio::sync::mpsc::UnboundedReceiver<FromGuest>) -> FromGuest {
    tokio::time::timeout(Duration::from_secs(20), from_guests.recv())
        .await
        .expect("in time")
        .expect("the registry lives")
}

fn limited(iops: u64) -> Grant {
    Grant { limits: GuestLimits { iops, bandwidth: 0, burst_ms: 10 }, ..Grant::default() }
}

/// With limits the requests of all connections go one after another, at the rate, in the order in which they came to wait; those
/// that ask for nothing wait for nothing.
#[test]
fn requests_beyond_the_limit_wait_in_order_and_what_waits_stays_in_the_socket() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let (shared, mut from_guests) = registry(dir.path(), 16).unwrap();
        export(&shared, VOLUME, "v", 1 << 20).unwrap();
        serve(&mut shared.borrow_mut(), true);
        shared.borrow_mut().set_grant(VOLUME, &limited(20));
        let socket = dir.path().join("v.sock");
        let mut clients = Vec::new();
        for _ in 0..3 {
            let mut client = attach(&socket).await;
            client.write_all(&write().repeat(4)).await.unwrap();
            clients.push(client);
        }
        let began = std::time::Instant::now();
        let mut sessions = Vec::new();
        while sessions.len() < 12 {
            let FromGuest::Request { request, .. } = handed(&mut from_guests).await else { continue };
            sessions.push(request.key.session.0);
            // One in the queue for each connection, and no more.
            assert!(shared.borrow().exports[&VOLUME].gate.waiting() <= 3);
        }
        // Two go at once, ten more at 20 in a second; a slow machine takes longer.
        assert!(began.elapsed() >= Duration::from_millis(480), "{:?}", began.elapsed());
        // First in, first out: one that came earlier is ahead by the two that went at once, and by no more.
        let mut served = std::collections::BTreeMap::from([1, 2, 3].map(|session| (session, 0_u32)));
        for session in &sessions {
            *served.get_mut(session).expect("one of the three") += 1;
            let (least, most) = (served.values().min().expect("three"), served.values().max().expect("three"));
            assert!(most - least <= 2, "{sessions:?}");
        }
        let counters = shared.borrow().counters(VOLUME).unwrap().clone();
        assert!(counters.held_back >= 9 && counters.held_back_ns > 1_000_000_000, "{counters:?}");
        assert_eq!(shared.borrow().exports[&VOLUME].gate.waiting(), 0);
        // Lifted while somebody waits: at once.
        shared.borrow_mut().set_grant(VOLUME, &limited(1));
        clients[0].write_all(&write().repeat(3)).await.unwrap();
        for _ in 0..2 {
            while !matches!(handed(&mut from_guests).await, FromGuest::Request { .. }) {}
        }
        while shared.borrow().exports[&VOLUME].gate.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        shared.borrow_mut().set_grant(VOLUME, &Grant::default());
        let began = std::time::Instant::now();
        while !matches!(handed(&mut from_guests).await, FromGuest::Request { .. }) {}
        assert!(
            began.elapsed() < Duration::from_millis(900),
            "{:?}: it did not wait for its turn of a second",
            began.elapsed()
        );
    });
}

/// S12 with limits: a client that hangs up while its request waits has given it up, and nobody waits behind it.
#[test]
fn what_waits_for_its_turn_is_given_up_with_its_connection() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let (shared, mut from_guests) = registry(dir.path(), 16).unwrap();
        export(&shared, VOLUME, "v", 1 << 20).unwrap();
        serve(&mut shared.borrow_mut(), true);
        shared.borrow_mut().set_grant(VOLUME, &limited(4));
        let socket = dir.path().join("v.sock");
        let mut given_up = attach(&socket).await;
        given_up.write_all(&write().repeat(3)).await.unwrap();
        let mut taken = 0;
        while taken < 2 {
            taken += u32::from(matches!(handed(&mut from_guests).await, FromGuest::Request { .. }));
        }
        while shared.borrow().exports[&VOLUME].gate.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        drop(given_up);
        let mut next = attach(&socket).await;
        next.write_all(&write()).await.unwrap();
        let (mut closed, mut request) = (None, None);
        while closed.is_none() || request.is_none() {
            match handed(&mut from_guests).await {
                FromGuest::Request { request: r, .. } => request = Some(r.key.session),
                FromGuest::Closed { session, .. } => closed = Some(session),
                _ => {}
            }
        }
        assert_eq!((request, closed), (Some(SessionId(2)), Some(SessionId(1))));
    });
}
