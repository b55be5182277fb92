//! Whether datagrams arrive, and how long they take: on the two ports that the agent will use, before there is one.

use super::Sentence;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Datagrams to each port of each host, and the pause after each round of them.
const TRIES: u32 = 8;
const PAUSE: Duration = Duration::from_millis(50);
/// Round trips that are measured.
const TRIPS: u64 = 100;
const LATE: Duration = Duration::from_millis(500);

/// Both ports, bound, and answering.
pub(super) struct Ports {
    sockets: Vec<Arc<UdpSocket>>,
    port: u16,
    /// Who we are in the datagrams of this run, which others do not know.
    name: String,
    nonce: String,
    heard: Arc<Mutex<BTreeSet<(usize, String)>>>,
    echoes: mpsc::UnboundedReceiver<u64>,
    tasks: JoinSet<()>,
}

impl Ports {
    pub(super) async fn bind(address: IpAddr, port: u16, name: &str, nonce: &str) -> Result<Ports, Sentence> {
        let (heard, (echo, echoes)) = (Arc::new(Mutex::new(BTreeSet::new())), mpsc::unbounded_channel());
        let (mut sockets, mut tasks) = (Vec::new(), JoinSet::new());
        for at in 0..2 {
            let number = port + u16::try_from(at).expect("one of two");
            let socket = UdpSocket::bind(SocketAddr::new(address, number)).await;
            let socket = Arc::new(socket.map_err(|e| refusal(address, number, &e))?);
            sockets.push(socket.clone());
            tasks.spawn(answer(socket, at, nonce.to_owned(), heard.clone(), echo.clone()));
        }
        let (name, nonce) = (name.to_owned(), nonce.to_owned());
        Ok(Ports { sockets, port, name, nonce, heard, echoes, tasks })
    }

    /// Datagrams from each of our ports to the same one of each peer, as agents send them.
    pub(super) async fn call(&self, peers: &[IpAddr]) {
        for _ in 0..TRIES {
            for peer in peers {
                for at in 0..self.sockets.len() {
                    self.ask(at, *peer, 0).await;
                }
            }
            sleep(PAUSE).await;
        }
    }

    async fn ask(&self, at: usize, address: IpAddr, number: u64) {
        let text = format!("holdfast-rack {} ask {} {number}", self.nonce, self.name);
        let to = SocketAddr::new(address, self.port + u16::try_from(at).expect("one of two"));
        // What does not leave does not arrive, and that is what is asked.
        let _ = self.sockets[at].send_to(text.as_bytes(), to).await;
    }

    /// Whose datagrams came, on each port.
    pub(super) fn heard(&self) -> Value {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let on =
            |at: usize| heard.iter().filter(|(port, _)| *port == at).map(|(_, name)| name.clone()).collect::<Vec<_>>();
        json!([on(0), on(1)])
    }

    /// Round trips to a peer, one after another.
    pub(super) async fn trips(&mut self, address: IpAddr) -> Value {
        while self.echoes.try_recv().is_ok() {}
        let mut took = Vec::new();
        for number in 1..=TRIPS {
            let began = Instant::now();
            self.ask(0, address, number).await;
            let echo = async { while self.echoes.recv().await.is_some_and(|echo| echo != number) {} };
            if timeout(LATE, echo).await.is_ok() {
                took.push(began.elapsed().as_secs_f64() * 1e6);
            }
        }
        took.sort_by(f64::total_cmp);
        let at = |share: usize| took.get(took.len() * share / 100).or(took.last()).copied();
        json!({"p50": at(50), "p99": at(99), "lost": TRIPS - took.len() as u64})
    }

    /// Gives the ports back.
    pub(super) async fn close(mut self) {
        self.tasks.shutdown().await;
    }
}

fn refusal(address: IpAddr, port: u16, e: &io::Error) -> Sentence {
    match e.kind() {
        io::ErrorKind::AddrInUse => {
            format!("expected UDP port {port} to be free, found it in use; name another with --port")
        }
        io::ErrorKind::AddrNotAvailable => {
            format!(
                "expected {address} to be an address of this host, found none of its interfaces with it; name the right one: HOST=ADDRESS"
            )
        }
        _ => format!("could not use UDP port {port} of {address}: {e}"),
    }
}

/// Notes who asks, and answers.
async fn answer(
    socket: Arc<UdpSocket>,
    at: usize,
    nonce: String,
    heard: Arc<Mutex<BTreeSet<(usize, String)>>>,
    echo: mpsc::UnboundedSender<u64>,
) {
    let mut buffer = [0; 256];
    loop {
        // An error here is one of an earlier datagram that was refused.
        let Ok((len, from)) = socket.recv_from(&mut buffer).await else {
            sleep(PAUSE).await;
            continue;
        };
        let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
        let words: Vec<&str> = text.split(' ').collect();
        let ["holdfast-rack", run, what, name, number] = words[..] else { continue };
        let (true, Ok(number)) = (run == nonce, number.parse()) else { continue };
        if what == "ask" {
            heard.lock().unwrap_or_else(PoisonError::into_inner).insert((at, name.to_owned()));
            let text = format!("holdfast-rack {nonce} echo {name} {number}");
            // It may be lost, as any datagram.
            let _ = socket.send_to(text.as_bytes(), from).await;
        } else if number > 0 {
            // Nobody listens once the ports are to be closed.
            let _ = echo.send(number);
        }
    }
}
