//! What a connection hands over, and what it must not.

use super::{FromGuest, MAX_CONNECTIONS, Registry, ToGuest, export, registry};
use bytes::Bytes;
use holdfast_types::{SessionId, VolumeId};
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
                FromGuest::Attached => {}
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
