//! The smallest server that Prometheus and a load balancer's check can talk to: one GET for each connection.
//!
//! Everything a stranger can make it hold is bounded: connections ([`CONNECTIONS`], more wait in the kernel's backlog), bytes of
//! a request ([`HEAD_BYTES`]), time ([`DEADLINE`] for the request, again for the answer). A body is never read.
//!
//! Why not the server that comes with the admin socket: it has to be told each of these bounds, speaks HTTP/2, keeps
//! connections, and its defaults would be the attack surface of a port that may face a network.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Served at once.
pub(crate) const CONNECTIONS: usize = 32;
/// Longest head of a request.
pub(crate) const HEAD_BYTES: usize = 8 << 10;
/// For a request to arrive, and for its answer to be taken.
pub(crate) const DEADLINE: Duration = Duration::from_secs(5);

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
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("nobody closes it");
        match listener.accept().await {
            Ok((stream, _)) => {
                let page = page.clone();
                tokio::task::spawn_local(async move {
                    // Whoever asked has gone: nobody is left to be told.
                    let _ = answer(stream, page).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of file descriptors: those that are served end soon.
                tracing::debug!(%error, "a connection to listen.metrics could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer<F: Future<Output = Answer>>(mut stream: TcpStream, page: impl Fn(String) -> F) -> std::io::Result<()> {
    let mut head = Vec::new();
    let request = match timeout(DEADLINE, read_head(&mut stream, &mut head)).await {
        Ok(read) => read?,
        Err(_) => Err(Answer::text(Status::TooLate, "expected a request within 5 s")),
    };
    let (answer, with_body) = match request.and_then(|()| parse(&head)) {
        Ok(Request { path, with_body }) => (page(path).await, with_body),
        Err(refusal) => (refusal, true),
    };
    let text = render(&answer, with_body);
    match timeout(DEADLINE, finish(&mut stream, text.as_bytes())).await {
        Ok(sent) => sent,
        Err(_) => Ok(()),
    }
}

/// Sends everything and waits until the client has it: to close a socket that was not read to its end would cut the answer off.
async fn finish(stream: &mut TcpStream, text: &[u8]) -> std::io::Result<()> {
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

fn render(answer: &Answer, with_body: bool) -> String {
    let Answer { status, kind, body } = answer;
    let allow = if *status == Status::WrongMethod { "Allow: GET, HEAD\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 {}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{allow}Cache-Control: no-store\r\n\
         X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n",
        status.line(),
        body.len()
    );
    if with_body { head + body } else { head }
}

#[cfg(test)]
mod tests;
