//! The smallest server that Prometheus and a load balancer's check can talk to: one GET for each connection.
//!
//! Everything a stranger can make it hold is bounded: connections ([`CONNECTIONS`], [`CONNECTIONS_OF_ADDRESS`] of one address),
//! bytes of a request ([`HEAD_BYTES`]), time ([`HEAD_DEADLINE`] for the request, [`DEADLINE`] for the answer). A body is never read.
//!
//! When there is no place, the oldest connection that keeps us waiting gives up its own: one of the same address if that address
//! has its share already, otherwise any. So whoever asks at once is answered at once, however many have been opened by whom and
//! say nothing, or take no answer; one whose answer is being made is never cut for another one.
//!
//! Why not the server that comes with the admin socket: it has to be told each of these bounds, speaks HTTP/2, keeps
//! connections, and its defaults would be the attack surface of a port that may face a network.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, Ipv6Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::timeout;

/// Served at once.
pub(crate) const CONNECTIONS: usize = 64;
/// The same for one address: a browser opens six or so.
pub(crate) const CONNECTIONS_OF_ADDRESS: usize = 16;
/// Longest head of a request.
pub(crate) const HEAD_BYTES: usize = 8 << 10;
/// For a request to arrive.
pub(crate) const HEAD_DEADLINE: Duration = Duration::from_secs(2);
/// For its answer to be taken.
pub(crate) const DEADLINE: Duration = Duration::from_secs(5);

/// What a browser may do with an answer: run and draw what this port serves, ask this port, and nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: Status,
    pub(crate) kind: &'static str,
    pub(crate) body: Arc<str>,
}

impl Answer {
    pub(crate) fn text(status: Status, body: &str) -> Answer {
        Answer { status, kind: "text/plain; charset=utf-8", body: format!("{body}\n").into() }
    }
}

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Ok,
    BadRequest,
    NotFound,
    WrongMethod,
    TooLate,
    TooLarge,
    Unavailable,
}

impl Status {
    const fn line(self) -> &'static str {
        match self {
            Status::Ok => "200 OK",
            Status::BadRequest => "400 Bad Request",
            Status::NotFound => "404 Not Found",
            Status::WrongMethod => "405 Method Not Allowed",
            Status::TooLate => "408 Request Timeout",
            Status::TooLarge => "431 Request Header Fields Too Large",
            Status::Unavailable => "503 Service Unavailable",
        }
    }
}

/// Answers GETs for ever; `page` is given the path without its query.
pub(crate) async fn serve<F>(listener: TcpListener, page: impl Fn(String) -> F + Clone + 'static)
where
    F: Future<Output = Answer> + 'static,
{
    let house = House::default();
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let Some(place) = house.take(subscriber(from.ip())) else { continue };
                let (page, number) = (page.clone(), place.number);
                let task = tokio::task::spawn_local(async move {
                    // Whoever asked has gone: nobody is left to be told.
                    let _ = answer(stream, &place, page).await;
                });
                house.keeps(number, task.abort_handle());
            }
            Err(error) => {
                // Out of file descriptors: those that are served end soon.
                tracing::debug!(%error, "a connection to listen.metrics could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Whom an address belongs to: one subscriber has as many of version 6 as he likes.
fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Everybody who is served, oldest first.
#[derive(Clone, Default)]
struct House {
    guests: Rc<RefCell<BTreeMap<u64, Guest>>>,
    next: Rc<Cell<u64>>,
}

struct Guest {
    from: IpAddr,
    /// It is its turn, not ours: the request, or that it takes the answer, is missing.
    waited_for: bool,
    task: Option<AbortHandle>,
}

/// Free again when it is dropped.
struct Place {
    number: u64,
    house: House,
}

impl House {
    /// `None`: there is none, and nobody to take it from.
    fn take(&self, from: IpAddr) -> Option<Place> {
        let mut guests = self.guests.borrow_mut();
        let of_address = guests.values().filter(|g| g.from == from).count();
        if of_address >= CONNECTIONS_OF_ADDRESS || guests.len() >= CONNECTIONS {
            let may_go = |g: &Guest| g.waited_for && (of_address < CONNECTIONS_OF_ADDRESS || g.from == from);
            let oldest = guests.iter().find(|(_, guest)| may_go(guest)).map(|(number, _)| *number)?;
            // Its task may end only later: the place is free now.
            let gone = guests.remove(&oldest).and_then(|guest| guest.task);
            gone.inspect(AbortHandle::abort);
        }
        let number = self.next.replace(self.next.get() + 1);
        guests.insert(number, Guest { from, waited_for: true, task: None });
        Some(Place { number, house: self.clone() })
    }

    fn keeps(&self, number: u64, task: AbortHandle) {
        if let Some(guest) = self.guests.borrow_mut().get_mut(&number) {
            guest.task = Some(task);
        }
    }
}

impl Place {
    fn waits_for_guest(&self, waits: bool) {
        if let Some(guest) = self.house.guests.borrow_mut().get_mut(&self.number) {
            guest.waited_for = waits;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.house.guests.borrow_mut().remove(&self.number);
    }
}

async fn answer<F: Future<Output = Answer>>(
    mut stream: TcpStream,
    place: &Place,
    page: impl Fn(String) -> F,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    let request = match timeout(HEAD_DEADLINE, read_head(&mut stream, &mut head)).await {
        Ok(read) => read?,
        Err(_) => Err(Answer::text(Status::TooLate, "expected a request within 2 s")),
    };
    place.waits_for_guest(false);
    let (answer, with_body) = match request.and_then(|()| parse(&head)) {
        Ok(Request { path, with_body }) => (page(path).await, with_body),
        Err(refusal) => (refusal, true),
    };
    let text = render(&answer, with_body);
    match timeout(DEADLINE, finish(&mut stream, place, text.as_bytes())).await {
        Ok(sent) => sent,
        Err(_) => Ok(()),
    }
}

/// Sends everything and waits until the client has it: to close a socket that was not read to its end would cut the answer off.
async fn finish(stream: &mut TcpStream, place: &Place, text: &[u8]) -> std::io::Result<()> {
    place.waits_for_guest(true);
    stream.write_all(text).await?;
    stream.shutdown().await?;
    let mut rest = [0; 1024];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

/// Up to the empty line. The outer error is the connection's.
async fn read_head(stream: &mut TcpStream, head: &mut Vec<u8>) -> std::io::Result<Result<(), Answer>> {
    let mut piece = [0; 1024];
    loop {
        let read = stream.read(&mut piece).await?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        // The end may lie across two pieces.
        let from = head.len().saturating_sub(3);
        head.extend_from_slice(&piece[..read]);
        if head[from..].windows(4).any(|w| w == b"\r\n\r\n") {
            return Ok(Ok(()));
        }
        if head.len() > HEAD_BYTES {
            let text = format!("expected a request of at most {HEAD_BYTES} bytes, found more");
            return Ok(Err(Answer::text(Status::TooLarge, &text)));
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Request {
    path: String,
    with_body: bool,
}

fn parse(head: &[u8]) -> Result<Request, Answer> {
    let bad = || Answer::text(Status::BadRequest, "expected GET PATH HTTP/1.1, found something else");
    let end = head.iter().position(|b| *b == b'\r').ok_or_else(bad)?;
    let line = std::str::from_utf8(&head[..end]).map_err(|_| bad())?;
    let mut words = line.split(' ');
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(bad());
    };
    if !matches!(version, "HTTP/1.1" | "HTTP/1.0") || !target.starts_with('/') {
        return Err(bad());
    }
    let with_body = match method {
        "GET" => true,
        "HEAD" => false,
        _ => return Err(Answer::text(Status::WrongMethod, "expected GET or HEAD: nothing can be changed here")),
    };
    let path = target.split(['?', '#']).next().unwrap_or(target);
    Ok(Request { path: path.to_owned(), with_body })
}

/// What anybody in the network sends to the metrics port.
///
/// # Panics
/// A request was understood that does not read the same when it is written again, or names more than a path.
#[cfg(any(test, feature = "fuzz"))]
pub fn fuzz_http(bytes: &[u8]) {
    match parse(bytes) {
        Ok(request) => {
            assert!(request.path.starts_with('/') && !request.path.contains(['?', '#', ' ', '\r']), "{request:?}");
            let method = if request.with_body { "GET" } else { "HEAD" };
            let again = format!("{method} {} HTTP/1.1\r\n\r\n", request.path);
            assert_eq!(parse(again.as_bytes()).ok(), Some(request));
        }
        Err(refusal) => {
            let text = render(&refusal, true);
            assert!(text.starts_with("HTTP/1.1 4") && text.ends_with(&*refusal.body), "{text}");
        }
    }
}

fn render(answer: &Answer, with_body: bool) -> String {
    let Answer { status, kind, body } = answer;
    let allow = if *status == Status::WrongMethod { "Allow: GET, HEAD\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 {}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{allow}Cache-Control: no-store\r\n\
         X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\nContent-Security-Policy: {POLICY}\r\n\
         Connection: close\r\n\r\n",
        status.line(),
        body.len()
    );
    if with_body { head + body } else { head }
}

#[cfg(test)]
mod tests;
