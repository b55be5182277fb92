//! What strangers may send.

use super::*;
use std::net::SocketAddr;
use tokio::time::Instant;

async fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("the loopback has free ports");
    let address = listener.local_addr().expect("it is bound");
    tokio::task::spawn_local(serve(listener, |path| async move {
        let status = if path == "/yes" { Status::Ok } else { Status::NotFound };
        Answer::text(status, &path)
    }));
    address
}

async fn ask(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    // It may answer, and close, before it has taken everything.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

async fn local(test: impl Future<Output = ()>) {
    tokio::task::LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_get_is_answered_and_the_connection_closed() {
    local(async {
        let address = server().await;
        let answer = ask(address, b"GET /yes?x=1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n/yes\n"), "{answer}");
        assert!(answer.contains("Content-Length: 5\r\n") && answer.contains("Connection: close\r\n"), "{answer}");
        let answer = ask(address, b"HEAD /yes HTTP/1.0\r\n\r\n").await;
        assert!(answer.contains("Content-Length: 5\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
        assert!(ask(address, b"GET /no HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 404 "));
    })
    .await;
}

#[tokio::test]
async fn what_is_no_get_is_refused() {
    local(async {
        let address = server().await;
        let long = [b"GET /".as_slice(), &vec![b'a'; 2 * HEAD_BYTES]].concat();
        let refusals: [(&[u8], &str); 8] = [
            (b"POST /yes HTTP/1.1\r\nContent-Length: 9\r\n\r\n", "405"),
            (b"GET /yes\r\n\r\n", "400"),
            (b"GET yes HTTP/1.1\r\n\r\n", "400"),
            (b"GET /yes HTTP/2\r\n\r\n", "400"),
            (b"GET  /yes HTTP/1.1\r\n\r\n", "400"),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400"),
            (b"\x16\x03\x01\xff\xfe\r\n\r\n", "400"),
            (&long, "431"),
        ];
        for (request, status) in refusals {
            let answer = ask(address, request).await;
            let head = format!("HTTP/1.1 {status} ");
            assert!(answer.starts_with(&head), "{status} to {:?}: {answer}", String::from_utf8_lossy(request));
        }
    })
    .await;
}

/// Connects from an address of its own.
async fn from(ip: &str, address: SocketAddr) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::new(ip.parse().expect("an address"), 0)).expect("all of 127.0.0.0/8 is this host's");
    socket.connect(address).await.expect("it listens")
}

/// Connections that are begun and never ended, of one address and of many: whoever asks is answered without waiting for any of them.
#[tokio::test]
async fn those_who_say_nothing_hold_up_nobody() {
    local(async {
        let address = server().await;
        let mut silent = Vec::new();
        let mut waited = 0;
        for at in 0..4 * CONNECTIONS {
            let ip = format!("127.0.0.{}", 1 + at % 10);
            let mut stream = from(&ip, address).await;
            // One that was thrown out meanwhile takes nothing any more.
            let _ = stream.write_all(if at % 2 == 0 { b"GET /ye" } else { b"GET /yes HTTP/1.1\r\n\r\n" }).await;
            silent.push(stream);
            if at >= CONNECTIONS {
                let start = Instant::now();
                let answer = ask(address, b"GET /yes HTTP/1.1\r\n\r\n").await;
                assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{at}: {answer}");
                waited += usize::from(start.elapsed() >= HEAD_DEADLINE);
            }
        }
        // A place was made for each, not waited for until somebody had been silent for long enough.
        assert!(waited < CONNECTIONS, "{waited} of {} waited", 3 * CONNECTIONS);
    })
    .await;
}

/// Real time: a deadline is what is tested.
#[tokio::test]
async fn who_says_nothing_for_too_long_is_told_so() {
    local(async {
        let mut silent = TcpStream::connect(server().await).await.expect("it listens");
        silent.write_all(b"GET /ye").await.expect("it reads");
        let mut refused = String::new();
        silent.read_to_string(&mut refused).await.expect("it was answered");
        assert!(refused.starts_with("HTTP/1.1 408 "), "{refused}");
    })
    .await;
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn places_are_taken_from_who_keeps_us_waiting_and_from_nobody_else() {
    let house = House::default();
    let one = ip("10.0.0.1");
    let of_one: Vec<Place> = (0..CONNECTIONS_OF_ADDRESS).map_while(|_| house.take(one)).collect();
    assert_eq!(of_one.len(), CONNECTIONS_OF_ADDRESS);
    // All of them are being answered: one more of the same address goes, others come.
    of_one.iter().for_each(|place| place.waits_for_guest(false));
    assert!(house.take(one).is_none());
    let others: Vec<Place> =
        (0..CONNECTIONS - CONNECTIONS_OF_ADDRESS).map_while(|n| house.take(ip(&format!("10.0.1.{n}")))).collect();
    assert_eq!((others.len(), house.guests.borrow().len()), (CONNECTIONS - CONNECTIONS_OF_ADDRESS, CONNECTIONS));
    // The oldest one that is waited for gives up its place, and only once.
    let new = house.take(ip("10.0.2.1")).expect("it is taken from another");
    assert!(!house.guests.borrow().contains_key(&others[0].number));
    assert!(of_one.iter().chain(&others[1..]).all(|place| house.guests.borrow().contains_key(&place.number)));
    // Its end, later, frees nothing twice.
    drop(others);
    assert_eq!(house.guests.borrow().len(), CONNECTIONS_OF_ADDRESS + 1);
    of_one[3].waits_for_guest(true);
    assert!(house.take(one).is_some_and(|place| place.number > new.number));
    assert!(!house.guests.borrow().contains_key(&of_one[3].number));
}

#[test]
fn one_subscriber_is_one_address() {
    assert_eq!(subscriber(ip("2001:db8::1")), subscriber(ip("2001:db8::ffff:1:2:3")));
    assert_ne!(subscriber(ip("2001:db8::1")), subscriber(ip("2001:db8:0:1::1")));
    assert_eq!(subscriber(ip("::ffff:10.0.0.1")), ip("10.0.0.1"));
    assert_ne!(subscriber(ip("10.0.0.1")), subscriber(ip("10.0.0.2")));
}

#[tokio::test]
async fn random_bytes_are_answered_or_dropped() {
    local(async {
        let address = server().await;
        let mut state = 7u64;
        for len in 0..200 {
            let bytes: Vec<u8> = (0..len)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    state.to_le_bytes()[7]
                })
                .collect();
            let request = [&bytes[..], b"\r\n\r\n"].concat();
            let answer = ask(address, &request).await;
            assert!(answer.starts_with("HTTP/1.1 400 "), "{bytes:?}: {answer}");
        }
        assert!(ask(address, b"GET /yes HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 200 "));
    })
    .await;
}
