//! Single commands on a host.

use super::Sentence;
use std::fs::File;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::process::Command;
use tokio::time::timeout;

/// How long ssh tries to reach a host, and how soon it notices that one is gone.
const OPTIONS: [&str; 9] = [
    "-T",
    "-o",
    "BatchMode=yes",
    "-o",
    "ConnectTimeout=10",
    "-o",
    "ServerAliveInterval=5",
    "-o",
    "ServerAliveCountMax=3",
];
/// With this status ssh says that it failed itself.
const SSH_FAILED: i32 = 255;
/// With this one a shell says that it could not run a program that is there.
const NOT_RUN: i32 = 126;

/// The way to a host.
#[derive(Clone, Debug)]
pub(super) struct Ssh {
    pub(super) host: String,
    program: Vec<String>,
}

impl Ssh {
    /// `program` may have arguments, separated by blanks; they count before ours.
    pub(super) fn new(host: &str, program: &str) -> Ssh {
        Ssh { host: host.to_owned(), program: program.split_whitespace().map(str::to_owned).collect() }
    }

    /// A call of ssh that runs these words of a POSIX shell, whatever the user's own shell is.
    pub(super) fn command(&self, script: &str) -> Command {
        let (program, args) = self.program.split_first().map_or(("ssh", &[][..]), |(p, args)| (p.as_str(), args));
        let mut command = Command::new(program);
        command.args(args).args(OPTIONS).arg(&self.host).arg(format!("exec sh -c {}", quote(script)));
        // A Ctrl-C is for us: the way to a host is needed for what is to be removed there.
        command.process_group(0).kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// What a script prints.
    pub(super) async fn run(&self, script: &str, limit: Duration) -> Result<String, Sentence> {
        self.finish(self.command(script), limit).await
    }

    /// Copies a program.
    pub(super) async fn copy(&self, from: &Path, to: &str, limit: Duration) -> Result<(), Sentence> {
        let file = File::open(from).map_err(|e| format!("could not open {}: {e}", from.display()))?;
        let to = quote(to);
        let mut command = self.command(&format!("cat >{to} && chmod 700 {to}"));
        command.stdin(file);
        self.finish(command, limit).await.map(drop)
    }

    async fn finish(&self, mut command: Command, limit: Duration) -> Result<String, Sentence> {
        let output = timeout(limit, command.output()).await;
        let output =
            output.map_err(|_| format!("{}: expected an answer by ssh within {limit:?}, found none", self.host))?;
        let Output { status, stdout, stderr } = output.map_err(|e| format!("could not run ssh: {e}; install it"))?;
        if status.success() {
            return Ok(String::from_utf8_lossy(&stdout).into_owned());
        }
        Err(self.failed(status.code(), &String::from_utf8_lossy(&stderr)))
    }

    /// Why a call of ssh did not do what it should.
    pub(super) fn failed(&self, status: Option<i32>, said: &str) -> Sentence {
        let (host, said) = (&self.host, last_words(said));
        match status {
            Some(SSH_FAILED) => {
                format!(
                    "{host}: expected to reach it by ssh without a password, found: {said}; see that `ssh {host} true` works"
                )
            }
            Some(NOT_RUN) => {
                format!("{host}: expected to run a program there, found: {said}; --dir must not be mounted noexec")
            }
            _ if said.contains("GLIBC_") => {
                format!("{host}: its C library is older than ours: {said}; run this on a machine of the hosts' kind")
            }
            _ => format!("{host}: a command failed there, which said: {said}"),
        }
    }

    /// The same of a call that had worked until then.
    pub(super) fn lost(&self, status: Option<i32>, said: &str) -> Sentence {
        if status.is_none_or(|status| status == SSH_FAILED) {
            return format!("{}: the ssh connection was lost; ssh said: {}", self.host, last_words(said));
        }
        self.failed(status, said)
    }
}

fn last_words(said: &str) -> String {
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { "nothing".to_owned() } else { lines[lines.len().saturating_sub(3)..].join(" / ") }
}

/// One word of a shell.
pub(super) fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
