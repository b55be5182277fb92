//! Programs of the operator that are told when a volume's role changes on this node: every executable of `[hooks] dir`, in
//! the order of their names.
//!
//! What they are told is the newest role, not each change: one that was superseded before its turn is not told. Programs of one volume run
//! one after another, those of different volumes beside each other, [`AT_ONCE`] of them. Each gets `[hooks] timeout` and is killed then, with
//! everything of its process group; how it ended is an event. What a program leaves running by intent stays.
//!
//! Invariant: what was begun is ended before it is begun again, unless this node led the volume all the time. Another node may have led it
//! in between, and a machine that went on here would write over that one's what it remembers of its own. So an end is told again until it
//! succeeds, and a beginning waits for it; what was begun is noted in a file ([`Mark`]) before anybody is told, and that goes when the end has
//! succeeded. The next life of an agent that ended without a word finds it there.
//!
//! Why they can't hurt the volume: nothing waits for them. The role has changed when they are called. Only an agent that ends does, for
//! a few seconds ([`Hooks::busy`]): with its unit the supervisor ends what still runs.

mod marks;

use crate::config::HooksConfig;
use crate::control::Ask;
use crate::error::AgentError;
use holdfast_types::{Epoch, VolumeId};
pub(crate) use marks::Mark;
use marks::Marks;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{sleep, timeout};

/// Programs that run at the same time.
const AT_ONCE: usize = 8;
/// How the outcome of a program that succeeded begins.
const ENDED_WELL: &str = "ended well";
/// What is read of what a program says on stderr; its last line goes into the event.
const HEARD_BYTES: u64 = 16 << 10;
/// The same of the event.
const TOLD_CHARS: usize = 200;
/// Between two calls of programs that could not end what was begun: at first, and at most.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_AT_MOST: Duration = Duration::from_secs(30);

/// A volume's role on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RoleChange {
    pub(crate) volume: String,
    pub(crate) id: VolumeId,
    pub(crate) node: String,
    pub(crate) epoch: Epoch,
    /// It is served here now; otherwise not any more.
    pub(crate) primary: bool,
    /// Where it is attached.
    pub(crate) socket: PathBuf,
    /// Of the changes of this volume that programs are to be told, counted by [`Hooks`].
    pub(crate) number: u64,
}

/// Calls the programs.
#[derive(Debug)]
pub(crate) struct Hooks {
    config: Option<HooksConfig>,
    asks: mpsc::Sender<Ask>,
    places: Arc<Semaphore>,
    volumes: BTreeMap<String, Told>,
    marks: Arc<Marks>,
    /// Of the marks of earlier lives: what was begun in the very epoch that is active still.
    goes_on: BTreeSet<String>,
}

/// What the caller of one volume's programs was told, and how far it is.
#[derive(Debug)]
struct Told {
    newest: watch::Sender<Newest>,
    changes: u64,
    /// Of the changes, as many are over: their programs have ended, or a newer change came in their place.
    over: Arc<AtomicU64>,
}

/// What a volume's programs are to be told next.
#[derive(Clone, Debug, Default)]
struct Newest {
    role: Option<RoleChange>,
    /// The newest change to `secondary`, if it is older than `role`.
    ended: Option<RoleChange>,
}

impl Hooks {
    /// `asks`: where events go; `dir`: where it is noted what was begun.
    ///
    /// # Errors
    /// What earlier lives noted can't be read.
    pub(crate) fn new(config: HooksConfig, asks: mpsc::Sender<Ask>, dir: &Path) -> Result<Hooks, AgentError> {
        let config = Some(config).filter(|c| c.dir.is_some());
        let marks = Arc::new(Marks::open(dir)?);
        let (places, volumes) = (Arc::new(Semaphore::new(AT_ONCE)), BTreeMap::new());
        Ok(Hooks { config, asks, places, volumes, marks, goes_on: BTreeSet::new() })
    }

    /// Returns at once.
    pub(crate) fn changed(&mut self, change: RoleChange) {
        let Some(config) = &self.config else { return };
        let Some(dir) = config.dir.clone() else { return };
        let told = self.volumes.entry(change.volume.clone()).or_insert_with(|| {
            let (newest, changes) = watch::channel(Newest::default());
            let over = Arc::new(AtomicU64::new(0));
            let (asks, places, marks) = (self.asks.clone(), Arc::clone(&self.places), Arc::clone(&self.marks));
            let caller = Caller { dir, limit: config.timeout, asks, places, marks, over: Arc::clone(&over) };
            tokio::spawn(caller.run(changes));
            Told { newest, changes: 0, over }
        });
        told.changes += 1;
        let number = told.changes;
        told.newest.send_modify(|newest| {
            let before = newest.role.replace(RoleChange { number, ..change });
            newest.ended = before.filter(|before| !before.primary).or(newest.ended.take());
        });
    }

    /// Whether it was told to begin, in an earlier epoch than this.
    pub(crate) fn is_older(&self, volume: &str, epoch: Epoch) -> bool {
        self.volumes.get(volume).is_some_and(|told| told.newest.borrow().began_before(epoch))
    }

    /// It is served here without a break, in this epoch now: only the note changes.
    pub(crate) fn renews(&mut self, volume: &str, epoch: Epoch) {
        let Some(told) = self.volumes.get(volume) else { return };
        told.newest.send_if_modified(|newest| {
            let older = newest.began_before(epoch);
            newest.role.iter_mut().filter(|_| older).for_each(|role| role.epoch = epoch);
            older
        });
    }

    /// What earlier lives began, and this one has told nobody about; whether it was begun in the epoch that is active still.
    pub(crate) fn left_behind(&self) -> Vec<(String, Mark, bool)> {
        if self.config.is_none() {
            return Vec::new();
        }
        let untold = self.marks.those(|volume| !self.volumes.contains_key(volume));
        untold.into_iter().map(|(volume, mark)| (volume.clone(), mark, self.goes_on.contains(&volume))).collect()
    }

    /// The epoch in which it was begun is active.
    pub(crate) fn goes_on(&mut self, volume: String) {
        self.goes_on.insert(volume);
    }

    /// A recovery of the control plane makes epochs that nobody has claimed.
    pub(crate) fn doubt(&mut self) {
        self.goes_on.clear();
    }

    /// What is begun, or is to be, and not to be ended.
    pub(crate) fn begun(&self) -> Vec<(String, Mark)> {
        let newest = |told: &Told| told.newest.borrow().role.clone();
        let here = self.volumes.values().filter_map(newest).filter(|role| role.primary);
        let here = here.map(|role| (role.volume, Mark::new(role.id, role.epoch)));
        here.chain(self.left_behind().into_iter().map(|(volume, mark, _)| (volume, mark))).collect()
    }

    /// Volumes whose programs have not ended yet.
    pub(crate) fn busy(&self) -> Vec<&str> {
        self.volumes.iter().filter(|(_, told)| told.is_busy()).map(|(volume, _)| volume.as_str()).collect()
    }

    /// The volumes that there are; the others are told no more, once what was begun has ended.
    pub(crate) fn keep(&mut self, exists: impl Fn(VolumeId) -> bool) {
        let marks = &self.marks;
        let is_there = |told: &Told| told.newest.borrow().role.as_ref().is_some_and(|role| exists(role.id));
        self.volumes.retain(|volume, told| is_there(told) || told.is_busy() || marks.get(volume).is_some());
    }
}

impl Told {
    fn is_busy(&self) -> bool {
        self.over.load(Ordering::Acquire) < self.changes
    }
}

impl Newest {
    fn began_before(&self, epoch: Epoch) -> bool {
        self.role.as_ref().is_some_and(|role| role.primary && role.epoch < epoch)
    }
}

/// Calls the programs for one volume.
struct Caller {
    dir: PathBuf,
    limit: Duration,
    asks: mpsc::Sender<Ask>,
    places: Arc<Semaphore>,
    marks: Arc<Marks>,
    over: Arc<AtomicU64>,
}

type Changes = watch::Receiver<Newest>;

impl Caller {
    async fn run(self, mut changes: Changes) {
        let mut told = 0;
        while changes.changed().await.is_ok() {
            let Newest { role, ended } = changes.borrow_and_update().clone();
            let Some(change) = role else { continue };
            if !change.primary {
                self.end(&change, &changes).await;
            } else if change.number == told {
                self.note(&change, &changes).await;
            } else {
                if let Some(ended) = self.owed(&change, ended.filter(|ended| ended.number > told)) {
                    self.end(&ended, &changes).await;
                }
                // That may have taken long.
                if !superseded(&change, &changes) && self.note(&change, &changes).await {
                    self.call_all(&change, &changes, &mut BTreeMap::new()).await;
                }
            }
            told = change.number;
            self.over.store(change.number, Ordering::Release);
        }
    }

    /// What is to be ended before this is begun: also what was begun of an older volume of the same name.
    fn owed(&self, change: &RoleChange, ended: Option<RoleChange>) -> Option<RoleChange> {
        let other = |mark: &Mark| mark.volume() != change.id;
        let of_other = || self.marks.get(&change.volume).filter(other).map(|mark| mark.epoch());
        ended.or_else(|| of_other().map(|epoch| RoleChange { primary: false, epoch, ..change.clone() }))
    }

    /// What can't be noted is not begun: nobody would know of it after a crash. Whether it was, before a newer role came.
    async fn note(&self, change: &RoleChange, changes: &Changes) -> bool {
        let (mut pause, mut told) = (AGAIN, String::new());
        while !superseded(change, changes) {
            let (marks, volume) = (Arc::clone(&self.marks), change.volume.clone());
            let mark = Mark::new(change.id, change.epoch);
            let noted = tokio::task::spawn_blocking(move || marks.begin(&volume, mark)).await;
            let Err(error) = noted.expect("a panic of any thread ends the process") else { return true };
            let why = format!("no hook is run before this can be noted: {error}");
            if told != why {
                self.tell(change, why.clone()).await;
            }
            told = why;
            sleep(pause).await;
            pause = (pause * 2).min(AGAIN_AT_MOST);
        }
        false
    }

    /// Until it has succeeded, or nobody is there any more to be told.
    async fn end(&self, change: &RoleChange, changes: &Changes) {
        let (mut pause, mut told) = (AGAIN, BTreeMap::new());
        while !self.call_all(change, changes, &mut told).await || !self.noted_end(change).await {
            sleep(pause).await;
            if changes.has_changed().is_err() {
                return;
            }
            pause = (pause * 2).min(AGAIN_AT_MOST);
        }
    }

    async fn noted_end(&self, change: &RoleChange) -> bool {
        let (marks, volume) = (Arc::clone(&self.marks), change.volume.clone());
        let noted = tokio::task::spawn_blocking(move || marks.end(&volume)).await;
        match noted.expect("a panic of any thread ends the process") {
            Ok(()) => true,
            Err(error) => {
                self.tell(change, format!("hooks are told again that it is not served here: {error}")).await;
                false
            }
        }
    }

    /// Whether all of them ended well. What each came to is told unless it was the same before.
    async fn call_all(&self, change: &RoleChange, changes: &Changes, told: &mut BTreeMap<PathBuf, String>) -> bool {
        let mut tell = async |program: &Path, outcome: String| {
            if told.insert(program.to_path_buf(), outcome.clone()).as_ref() != Some(&outcome) {
                let again = "; told again until it succeeds, and `primary` not before";
                let failed = !change.primary && !outcome.contains(ENDED_WELL);
                self.tell(change, if failed { outcome + again } else { outcome }).await;
            }
        };
        let dir = self.dir.clone();
        // Whose file system may hang.
        let programs = tokio::task::spawn_blocking(move || programs(&dir)).await;
        let programs = match programs.expect("a panic of any thread ends the process") {
            Ok(programs) => programs,
            Err(why) => {
                tell(&self.dir, format!("no hook was run: {why}")).await;
                return false;
            }
        };
        let mut well = true;
        for program in programs {
            let place = Arc::clone(&self.places).acquire_owned().await.expect("nobody closes it");
            let outcome = call(&program, change, self.limit).await;
            drop(place);
            well &= outcome.starts_with(ENDED_WELL);
            let name = program.file_name().unwrap_or_default().to_string_lossy();
            tell(&program, format!("hook {name} ({}, epoch {}) {outcome}", role(change), change.epoch.0)).await;
            // Those that were not told of a start have nothing to end; of an end everybody is told.
            if change.primary && superseded(change, changes) {
                break;
            }
        }
        well
    }

    async fn tell(&self, change: &RoleChange, message: String) {
        // The agent is ending.
        let _ = self.asks.send(Ask::Happened("hook", Some(change.volume.clone()), message)).await;
    }
}

/// By a newer role, or there is nobody any more who would know of one.
fn superseded(change: &RoleChange, changes: &Changes) -> bool {
    changes.has_changed().is_err() || changes.borrow().role.as_ref().is_none_or(|newest| newest.number != change.number)
}

fn role(change: &RoleChange) -> &'static str {
    if change.primary { "primary" } else { "secondary" }
}

/// Executables of the directory by name. None of them, and not the directory, may be writable by others than its owner: they run with the
/// agent's rights.
fn programs(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let failed = |path: &Path, e: std::io::Error| format!("{} could not be read: {e}", path.display());
    let me = crate::peer::own_uid();
    let sound = |path: &Path| {
        let meta = std::fs::metadata(path).map_err(|e| failed(path, e))?;
        if meta.mode() & 0o022 != 0 || (meta.uid() != 0 && meta.uid() != me) {
            return Err(format!(
                "expected {} to belong to root or to the agent's user and to be writable by its owner alone, found mode {:o} of user {}",
                path.display(),
                meta.mode() & 0o7777,
                meta.uid()
            ));
        }
        Ok(meta)
    };
    sound(dir)?;
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|e| failed(dir, e))? {
        let path = entry.map_err(|e| failed(dir, e))?.path();
        let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        let meta = std::fs::metadata(&path).map_err(|e| failed(&path, e))?;
        if !hidden && meta.is_file() && meta.permissions().mode() & 0o111 != 0 {
            sound(&path)?;
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Runs one program to its end, in words.
async fn call(program: &Path, change: &RoleChange, limit: Duration) -> String {
    let mut command = Command::new(program);
    command
        .env("HOLDFAST_VOLUME", &change.volume)
        .env("HOLDFAST_EPOCH", change.epoch.0.to_string())
        .env("HOLDFAST_ROLE", role(change))
        .env("HOLDFAST_NODE", &change.node)
        .env("HOLDFAST_SOCKET", &change.socket)
        .env_remove("NOTIFY_SOCKET")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return format!("could not be started: {error}"),
    };
    // Read beside it: one that fills the pipe would wait for ever.
    let (heard, words) = watch::channel(Vec::new());
    let reader = child.stderr.take().map(|stderr| tokio::spawn(listen(stderr, heard)));
    let ended = timeout(limit, child.wait()).await;
    if ended.is_err() {
        kill_group(&child);
        // It is dead, and this takes it off the list of processes; unless it hangs in the kernel.
        let _ = timeout(Duration::from_secs(1), child.kill()).await;
    }
    if let Some(reader) = reader {
        let _ = timeout(Duration::from_millis(100), reader).await;
    }
    let said = last_line(&words.borrow());
    match ended {
        Ok(Ok(status)) if status.success() => format!("{ENDED_WELL}{said}"),
        Ok(Ok(status)) => format!("failed {}{said}", how(status)),
        Ok(Err(error)) => format!("could not be waited for: {error}"),
        Err(_) => format!("was killed after {limit:?}{said}"),
    }
}

async fn listen(mut stderr: impl tokio::io::AsyncRead + Unpin, heard: watch::Sender<Vec<u8>>) {
    let mut piece = [0; 1024];
    while let Ok(read) = stderr.read(&mut piece).await {
        if read == 0 {
            return;
        }
        heard.send_modify(|text| {
            text.extend_from_slice(&piece[..read]);
            let most = usize::try_from(HEARD_BYTES).expect("a few KiB");
            let excess = text.len().saturating_sub(most);
            text.drain(..excess);
        });
    }
}

/// The program was made the leader of a group of its own.
fn kill_group(child: &Child) {
    let Some(group) = child.id().and_then(|id| libc::pid_t::try_from(id).ok()) else { return };
    // SAFETY: kill touches no memory; the child was not waited for, so the number is its own.
    unsafe { libc::kill(-group, libc::SIGKILL) };
}

fn how(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("with status {code}"),
        (None, Some(signal)) => format!("by signal {signal}"),
        (None, None) => "in an unknown way".to_owned(),
    }
}

fn last_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let line: String = line.trim().chars().filter(|c| !c.is_control()).take(TOLD_CHARS).collect();
    if line.is_empty() { line } else { format!(": {line}") }
}

#[cfg(test)]
mod tests;
