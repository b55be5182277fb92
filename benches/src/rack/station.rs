//! One host, seen from here: the way there, the program at its other end, and what is to be removed.

use super::facts::Facts;
use super::ssh::{Ssh, quote};
use super::{SIGN, Sentence};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::sync::{Mutex, mpsc};
use tokio::time::{sleep, timeout};

/// A step that takes no time by itself.
const STEP: Duration = Duration::from_secs(30);
/// A copy of a program.
const COPY: Duration = Duration::from_secs(300);
/// An agent that is ended, and its directory with some gigabytes.
const REMOVAL: Duration = Duration::from_secs(60);

/// A host that takes part.
pub(super) struct Station {
    pub(super) ssh: Ssh,
    /// As nodes of the cluster are called.
    pub(super) node: String,
    pub(super) facts: Facts,
    /// Ours alone.
    pub(super) dir: String,
    /// There may be something to remove.
    made: AtomicBool,
    line: OnceLock<Line>,
    trouble: mpsc::UnboundedSender<Sentence>,
}

struct Line {
    requests: mpsc::UnboundedSender<Value>,
    answers: Mutex<mpsc::UnboundedReceiver<Result<Value, Sentence>>>,
}

impl Station {
    /// Nothing is there yet. What goes wrong without having been asked for is told to `trouble`.
    pub(super) fn new(
        ssh: Ssh,
        node: String,
        facts: Facts,
        dir: String,
        trouble: mpsc::UnboundedSender<Sentence>,
    ) -> Station {
        Station { ssh, node, facts, dir, made: AtomicBool::new(false), line: OnceLock::new(), trouble }
    }

    pub(super) fn host(&self) -> &str {
        &self.ssh.host
    }

    /// Makes the directory, and starts the program there.
    pub(super) async fn begin(&self, program: &Path) -> Result<(), Sentence> {
        self.made.store(true, Ordering::Relaxed);
        self.ssh.run(&format!("mkdir -m 700 {}", quote(&self.dir)), STEP).await?;
        self.copy(program, "rack").await?;
        let mut command = self.ssh.command(&format!("exec {0}/rack host {0}", quote(&self.dir)));
        command.stdin(Stdio::piped());
        let mut child = command.spawn().map_err(|e| format!("could not run ssh: {e}; install it"))?;
        let (stdin, stdout) = (child.stdin.take().expect("it is piped"), child.stdout.take().expect("it is piped"));
        let (requests, asked) = mpsc::unbounded_channel();
        let (answered, answers) = mpsc::unbounded_channel();
        tokio::spawn(write(stdin, asked));
        tokio::spawn(read(child, stdout, self.ssh.clone(), answered, self.trouble.clone()));
        if self.line.set(Line { requests, answers: Mutex::new(answers) }).is_err() {
            return Err(format!("{}: expected to be begun once, found it begun", self.host()));
        }
        self.answer(STEP).await.map(drop)
    }

    pub(super) async fn copy(&self, program: &Path, name: &str) -> Result<(), Sentence> {
        self.ssh.copy(program, &format!("{}/{name}", self.dir), COPY).await
    }

    /// Asks the program there.
    pub(super) async fn ask(&self, request: Value, limit: Duration) -> Result<Value, Sentence> {
        if let Some(line) = self.line.get() {
            // If nobody takes it any more, the answer says why.
            let _ = line.requests.send(request);
        }
        self.answer(limit).await
    }

    async fn answer(&self, limit: Duration) -> Result<Value, Sentence> {
        let host = self.host();
        let Some(line) = self.line.get() else { return Err(format!("{host}: nothing runs there")) };
        let answer = timeout(limit, async { line.answers.lock().await.recv().await }).await;
        let answer = answer.map_err(|_| format!("{host}: expected an answer within {limit:?}, found none"))?;
        answer.unwrap_or_else(|| Err(format!("{host}: the connection is gone")))
    }

    /// Ends what we started there, and removes the directory; a sentence if that could not be seen to.
    pub(super) async fn end(&self) -> Result<(), Sentence> {
        if !self.made.load(Ordering::Relaxed) {
            return Ok(());
        }
        if let Some(line) = self.line.get()
            && line.requests.send(json!({"do": "end"})).is_ok()
        {
            // Answers to what was asked before come first.
            let removed = async {
                while let Some(answer) = line.answers.lock().await.recv().await {
                    if answer.is_ok_and(|value| value == "removed") {
                        return true;
                    }
                }
                false
            };
            if timeout(REMOVAL, removed).await.is_ok_and(|removed| removed) {
                return Ok(());
            }
        }
        self.ssh.run(&sweep(&self.dir), REMOVAL).await.map(drop).map_err(|e| {
            let (host, dir) = (self.host(), &self.dir);
            format!("could not see to it that {dir} on {host} is removed ({e}); a host that lives removes it within {:?}, else look there: \
                     ssh {host} ls -d {dir}", super::SILENCE)
        })
    }
}

/// Ends each process that runs a program of this directory, whose name no other run uses, and removes it.
fn sweep(dir: &str) -> String {
    format!(
        r#"d={}
for i in 1 2 3 4 5; do
  for p in /proc/[0-9]*; do
    e=$(readlink "$p/exe" 2>/dev/null) || continue
    case $e in "$d"/*) kill -9 "${{p#/proc/}}" ;; esac
  done
  rm -rf "$d" && [ ! -e "$d" ] && exit 0
  sleep 0.5
done
echo "$d is still there" >&2
exit 1"#,
        quote(dir)
    )
}

/// Requests, and between them signs of life.
async fn write(mut stdin: ChildStdin, mut asked: mpsc::UnboundedReceiver<Value>) {
    loop {
        let request = tokio::select! {
            request = asked.recv() => request,
            () = sleep(SIGN) => Some(json!({"do": "live"})),
        };
        let Some(request) = request else { return };
        if stdin.write_all(format!("{request}\n").as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Answers, until the line ends; why it did is the last.
async fn read(
    mut child: Child,
    stdout: ChildStdout,
    ssh: Ssh,
    answered: mpsc::UnboundedSender<Result<Value, Sentence>>,
    trouble: mpsc::UnboundedSender<Sentence>,
) {
    let said = Arc::new(Mutex::new(String::new()));
    let (mut stderr, into) = (child.stderr.take().expect("it is piped"), said.clone());
    let listening = tokio::spawn(async move {
        let mut buffer = [0; 1024];
        while let Ok(len @ 1..) = stderr.read(&mut buffer).await {
            let mut said = into.lock().await;
            if said.len() < 1 << 16 {
                said.push_str(&String::from_utf8_lossy(&buffer[..len]));
            }
        }
    });
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let value: Value = serde_json::from_str(&line).unwrap_or_default();
        let host = &ssh.host;
        // Nobody waits any more, once all is over.
        let _ = if let Some(how) = value["died"].as_str() {
            trouble.send(format!("{host}: {how}"))
        } else if let Some(error) = value["error"].as_str() {
            answered.send(Err(format!("{host}: {error}"))).map_err(|_| mpsc::error::SendError(String::new()))
        } else {
            answered.send(Ok(value["ok"].clone())).map_err(|_| mpsc::error::SendError(String::new()))
        };
    }
    let status = child.wait().await.ok().and_then(|status| status.code());
    // What still holds stderr open says nothing more of use.
    let _ = timeout(Duration::from_secs(1), listening).await;
    let why = ssh.lost(status, &said.lock().await);
    let _ = answered.send(Err(why.clone()));
    let _ = trouble.send(why);
}
