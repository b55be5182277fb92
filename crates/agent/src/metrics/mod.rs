//! What `[listen] metrics` serves: `/metrics` for Prometheus, `/healthz` and `/readyz` for whoever checks the agent, and `/`, the
//! status page, for people.
//!
//! Flow: the owners count in plain integers (`shard`, the control loop); a scrape asks both for a copy of them ([`Vitals`]),
//! and a thread of its own turns it into text. So a scrape costs the shard one copy of its counters, and a hostile scraper
//! costs it no more: a page is kept for [`KEPT`].
//!
//! Invariants: an answer never waits longer than [`PATIENCE`] for a thread that stands still; the number of series is bounded by
//! a constant for each copy of this node, and on the control plane's leader for each volume of which nobody else tells, one for each pair of a led
//! volume and a holder of it, and one for each node.
//!
//! Deliberately absent: the numbers of other nodes' copies. Each node tells of its own; the lag of copies is told by the primary,
//! which alone knows the log's end.

mod control;
mod counters;
mod histogram;
mod history;
mod http;
mod node;
mod page;
mod process;
mod shard;
mod text;
mod volumes;

use crate::control::Ask;
use crate::error::AgentError;
use crate::random;
use crate::refusals::RefusalCounts;
pub(crate) use control::ControlSample;
#[cfg(test)]
pub(crate) use control::open_volume;
pub(crate) use history::History;
#[cfg(any(test, feature = "fuzz"))]
pub use http::fuzz_http;
use http::{Answer, Status};
use page::Recorder;
pub(crate) use shard::{DiskMeter, GuestCounters, ShardSample, VolumeSample};
use std::cell::RefCell;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use text::Page;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

/// How long a scrape waits for the shard, and for the control loop.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
/// The same for what the status page shows: it is the state of every volume.
const SHOWN: Duration = Duration::from_secs(1);
/// How long a page is told again without asking anybody.
const KEPT: Duration = Duration::from_millis(100);

/// Asks the agent's threads how they are.
#[derive(Clone, Debug)]
pub(crate) struct Vitals {
    pub(crate) asks: mpsc::Sender<Ask>,
}

/// What they answered; `None`: nothing, in time.
pub(crate) struct Answers {
    pub(crate) control: Option<ControlSample>,
    pub(crate) shard: Option<ShardSample>,
}

impl Vitals {
    /// Both answers, each as far as it comes within `patience`.
    pub(crate) async fn take(&self, patience: Duration) -> Answers {
        let control = async {
            let (answer, answered) = oneshot::channel();
            let look = Ask::Look(Box::new(move |view| drop(answer.send(ControlSample::take(view)))));
            self.asks.send(look).await.ok()?;
            answered.await.ok()
        };
        let shard = async {
            let (answer, answered) = oneshot::channel();
            self.asks.send(Ask::Measure(answer)).await.ok()?;
            answered.await.ok()
        };
        let (control, shard) = tokio::join!(timeout(patience, control), timeout(patience, shard));
        Answers { control: control.ok().flatten(), shard: shard.ok().flatten() }
    }
}

impl Answers {
    /// Who did not answer.
    pub(crate) fn silent(&self) -> Vec<&'static str> {
        let both = [(self.control.is_none(), "control thread"), (self.shard.is_none(), "shard thread")];
        both.into_iter().filter_map(|(silent, who)| silent.then_some(who)).collect()
    }

    /// Why the agent lives, but is of no use now.
    fn unready(&self) -> Option<String> {
        let silent = self.silent();
        if !silent.is_empty() {
            return Some(format!("expected an answer of every thread, found none of the {}", silent.join(" and the ")));
        }
        let control = self.control.as_ref().expect("it is not silent");
        if !control.knows_cluster {
            return Some("expected to know the cluster, found that it has not been heard of yet".to_owned());
        }
        if control.leader.is_none() {
            return Some(
                "expected a leader of the control plane, found none: a majority of the voters is needed".to_owned(),
            );
        }
        None
    }

    fn page(&self, refused: &RefusalCounts) -> String {
        let mut page = Page::default();
        process::write(&mut page);
        node::write_refusals(&mut page, refused);
        node::write_threads(&mut page, self);
        if let Some(control) = &self.control {
            control.write(&mut page);
        }
        if let Some(shard) = &self.shard {
            node::write_shard(&mut page, shard);
        }
        node::write_connections(&mut page, self);
        volumes::write(&mut page, self.control.as_ref(), self.shard.as_ref());
        page.finish()
    }
}

/// Takes the port; served from [`spawn`] on.
///
/// # Errors
/// The address can't be listened on.
pub(crate) fn listen(address: SocketAddr) -> Result<TcpListener, AgentError> {
    let failed = |e: std::io::Error| AgentError::Metrics { address, reason: e.to_string() };
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// Serves in a thread of its own, as long as the process lives: nobody waits for its end.
///
/// # Errors
/// The thread could not be started.
pub(crate) fn spawn(listener: TcpListener, vitals: Vitals, refused: RefusalCounts) -> Result<(), AgentError> {
    let body = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime of one thread needs two file descriptors");
        let serve = async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("it is a socket that does not block");
            let pages = Rc::new(Pages {
                vitals,
                refused,
                kept: RefCell::default(),
                shown: RefCell::default(),
                recorder: RefCell::default(),
            });
            tokio::task::spawn_local(Rc::clone(&pages).record());
            http::serve(listener, move |path| Rc::clone(&pages).answer(path)).await;
        };
        tokio::task::LocalSet::new().block_on(&runtime, serve);
    };
    let thread = std::thread::Builder::new().name("metrics".to_owned()).spawn(body);
    thread.map(drop).map_err(|e| AgentError::io("start the thread of", Path::new("listen.metrics"), e))
}

fn json(status: Status, value: &serde_json::Value) -> Answer {
    Answer { status, kind: "application/json", body: value.to_string().into() }
}

/// The last answers, and when they were asked for.
struct Pages {
    vitals: Vitals,
    refused: RefusalCounts,
    kept: RefCell<Option<(Instant, Arc<Answers>)>>,
    /// What the status page was told last.
    shown: RefCell<Option<(Instant, Answer)>>,
    recorder: RefCell<Recorder>,
}

impl Pages {
    async fn answer(self: Rc<Self>, path: String) -> Answer {
        match path.as_str() {
            "/metrics" => {
                let body = self.vitals().await.page(&self.refused).into();
                Answer { status: Status::Ok, kind: "text/plain; version=0.0.4; charset=utf-8", body }
            }
            "/healthz" => {
                let silent = self.vitals().await.silent();
                if silent.is_empty() {
                    Answer::text(Status::Ok, "ok")
                } else {
                    Answer::text(Status::Unavailable, &format!("no answer of the {}", silent.join(" and the ")))
                }
            }
            "/readyz" => match self.vitals().await.unready() {
                None => Answer::text(Status::Ok, "ready"),
                Some(why) => Answer::text(Status::Unavailable, &why),
            },
            "/" => Answer { status: Status::Ok, kind: "text/html; charset=utf-8", body: page::HTML.into() },
            "/page.css" => Answer { status: Status::Ok, kind: "text/css; charset=utf-8", body: page::CSS.into() },
            "/page.js" => Answer { status: Status::Ok, kind: "text/javascript; charset=utf-8", body: page::JS.into() },
            "/status.json" => self.status().await,
            "/history.json" => json(Status::Ok, &self.recorder.borrow().json()),
            _ => Answer::text(Status::NotFound, "expected /, /metrics, /healthz or /readyz"),
        }
    }

    /// A point for the page's charts, again and again.
    async fn record(self: Rc<Self>) {
        loop {
            let answers = self.vitals().await;
            self.recorder.borrow_mut().record(&answers, random::unix_ms());
            tokio::time::sleep(page::STEP).await;
        }
    }

    async fn status(&self) -> Answer {
        let now = Instant::now();
        if let Some((at, answer)) = &*self.shown.borrow()
            && now.duration_since(*at) < SHOWN
        {
            return answer.clone();
        }
        let answers = self.vitals().await;
        let answer = match page::status(&self.vitals, &answers, PATIENCE).await {
            Ok(told) => json(Status::Ok, &told),
            Err(why) => json(Status::Unavailable, &serde_json::json!({ "error": why })),
        };
        *self.shown.borrow_mut() = Some((now, answer.clone()));
        answer
    }

    async fn vitals(&self) -> Arc<Answers> {
        let now = Instant::now();
        if let Some((at, answers)) = &*self.kept.borrow()
            && now.duration_since(*at) < KEPT
        {
            return Arc::clone(answers);
        }
        let answers = Arc::new(self.vitals.take(PATIENCE).await);
        *self.kept.borrow_mut() = Some((now, Arc::clone(&answers)));
        answers
    }
}

/// To a thousandth: more is noise, and bytes on the wire.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
