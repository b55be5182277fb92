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

/// Real time: a deadline is what is tested.
#[tokio::test]
async fn those_who_say_nothing_hold_up_nobody_for_longer_than_the_deadline() {
    local(async {
        let address = server().await;
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut stream = TcpStream::connect(address).await.expect("it listens");
            stream.write_all(b"GET /ye").await.expect("it reads");
            silent.push(stream);
        }
        let start = Instant::now();
        let answer =
            timeout(4 * DEADLINE, ask(address, b"GET /yes HTTP/1.1\r\n\r\n")).await.expect("an answer in time");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(start.elapsed() >= DEADLINE / 2, "all places were taken");
        let mut refused = String::new();
        silent[0].read_to_string(&mut refused).await.expect("it was answered");
        assert!(refused.starts_with("HTTP/1.1 408 "), "{refused}");
    })
    .await;
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
