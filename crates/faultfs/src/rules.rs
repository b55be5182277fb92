//! What is to go wrong, where and how often; and what happened.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Kinds of operations that a rule can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// Reads of files.
    Read,
    /// Writes of files.
    Write,
    /// fsync, fdatasync, and the second half of a write with RWF_DSYNC.
    Sync,
    /// fallocate: zeroing, punching.
    Allocate,
    /// Changes of a file's length or mode.
    Resize,
    /// Opening what is there.
    Open,
    /// Creating, renaming and removing files and directories.
    Names,
    /// Looking at names, attributes and free space.
    Look,
}

impl Op {
    /// Every kind.
    pub const ALL: [Op; 8] = [Op::Read, Op::Write, Op::Sync, Op::Allocate, Op::Resize, Op::Open, Op::Names, Op::Look];
    /// What changes anything: what fails on a device that became read-only.
    pub const CHANGES: [Op; 5] = [Op::Write, Op::Sync, Op::Allocate, Op::Resize, Op::Names];
    /// What moves data, without looking at names.
    pub const DATA: [Op; 4] = [Op::Read, Op::Write, Op::Sync, Op::Allocate];

    const fn name(self) -> &'static str {
        match self {
            Op::Read => "read",
            Op::Write => "write",
            Op::Sync => "sync",
            Op::Allocate => "allocate",
            Op::Resize => "resize",
            Op::Open => "open",
            Op::Names => "names",
            Op::Look => "look",
        }
    }
}

/// What happens instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The operation fails with this number, and nothing is done.
    Errno(i32),
    /// It takes so much longer.
    Delay(Duration),
    /// It does not end before the rule is taken away; then it is done.
    Hang,
    /// A read or write does half of what it was asked for, and says so. The kernel makes EIO of it where the request was
    /// an asynchronous write with O_DIRECT.
    Short,
    /// A write leaves half of its data and fails with EIO.
    Torn,
    /// A write, or a sync, reports success and does nothing.
    Lost,
    /// A read returns one bit flipped; the backing file stays as it is.
    Flip,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The path below the mount point holds this text; empty: every path.
    pub path: String,
    /// Which operations; empty: all.
    pub ops: Vec<Op>,
    /// What happens.
    pub fault: Fault,
    /// So many that fit pass first.
    pub after: u64,
    /// So many are hit; `None`: all from then on.
    pub times: Option<u64>,
}

impl Rule {
    /// All operations of these kinds on paths that hold `path`, from now on.
    #[must_use]
    pub fn new(path: &str, ops: &[Op], fault: Fault) -> Rule {
        Rule { path: path.to_owned(), ops: ops.to_vec(), fault, after: 0, times: None }
    }

    /// The same, once.
    #[must_use]
    pub fn once(self) -> Rule {
        Rule { times: Some(1), ..self }
    }

    fn fits(&self, op: Op, path: &str) -> bool {
        (self.ops.is_empty() || self.ops.contains(&op)) && path.contains(&self.path)
    }
}

/// How often each kind of operation came, and how often it was hit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All of each kind.
    pub seen: BTreeMap<Op, u64>,
    /// Those that a rule made fail, wait, or lie.
    pub hit: BTreeMap<Op, u64>,
    /// Operations that hang or are delayed now.
    pub waiting: u64,
}

impl Counts {
    /// All that were hit.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.hit.values().sum()
    }
}

#[derive(Debug, Default)]
struct Inner {
    rules: Vec<(u64, Rule)>,
    next: u64,
    counts: Counts,
}

/// The rules of one file system, shared with whoever changes them.
#[derive(Debug, Default)]
pub struct Rules {
    inner: Mutex<Inner>,
    changed: Condvar,
}

impl Rules {
    /// Adds a rule below the others: the first that fits decides. Returns its number.
    pub fn add(&self, rule: Rule) -> u64 {
        let mut inner = self.lock();
        inner.next += 1;
        let id = inner.next;
        inner.rules.push((id, rule));
        id
    }

    /// Takes one away; whatever it holds up goes on.
    pub fn remove(&self, id: u64) {
        self.lock().rules.retain(|(other, _)| *other != id);
        self.changed.notify_all();
    }

    /// Takes all away.
    pub fn clear(&self) {
        self.lock().rules.clear();
        self.changed.notify_all();
    }

    /// What happened so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.lock().counts.clone()
    }

    /// What is to happen to an operation that comes now.
    pub(crate) fn judge(&self, op: Op, path: &str) -> Option<(u64, Fault)> {
        let mut inner = self.lock();
        *inner.counts.seen.entry(op).or_default() += 1;
        let mut found = None;
        for (id, rule) in inner.rules.iter_mut().filter(|(_, rule)| rule.fits(op, path)) {
            if rule.after > 0 {
                rule.after -= 1;
                continue;
            }
            match &mut rule.times {
                Some(0) => continue,
                Some(left) => *left -= 1,
                None => {}
            }
            found = Some((*id, rule.fault));
            break;
        }
        if found.is_some() {
            *inner.counts.hit.entry(op).or_default() += 1;
        }
        found
    }

    /// Waits until the rule is taken away, or for so long.
    pub(crate) fn wait(&self, id: u64, limit: Option<Duration>) {
        let mut inner = self.lock();
        inner.counts.waiting += 1;
        let held = |inner: &mut Inner| inner.rules.iter().any(|(other, _)| *other == id);
        let mut inner = match limit {
            None => self.changed.wait_while(inner, held).unwrap_or_else(PoisonError::into_inner),
            Some(limit) => {
                self.changed.wait_timeout_while(inner, limit, held).unwrap_or_else(PoisonError::into_inner).0
            }
        };
        inner.counts.waiting -= 1;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const ERRORS: [(&str, i32); 6] = [
    ("eio", libc::EIO),
    ("enospc", libc::ENOSPC),
    ("erofs", libc::EROFS),
    ("enodev", libc::ENODEV),
    ("enotconn", libc::ENOTCONN),
    ("etimedout", libc::ETIMEDOUT),
];

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Fault, String> {
        if let Some((_, number)) = ERRORS.iter().find(|(name, _)| *name == text) {
            return Ok(Fault::Errno(*number));
        }
        if let Some(ms) = text.strip_prefix("delay:").and_then(|ms| ms.parse().ok()) {
            return Ok(Fault::Delay(Duration::from_millis(ms)));
        }
        match text {
            "hang" => Ok(Fault::Hang),
            "short" => Ok(Fault::Short),
            "torn" => Ok(Fault::Torn),
            "lost" => Ok(Fault::Lost),
            "flip" => Ok(Fault::Flip),
            _ => Err(format!(
                "expected a fault (eio, enospc, erofs, enodev, enotconn, etimedout, delay:MS, hang, short, torn, lost, \
                 flip), found {text:?}"
            )),
        }
    }
}

impl FromStr for Rule {
    type Err = String;

    /// `FAULT [path=TEXT] [ops=read,write] [after=N] [times=N]`.
    fn from_str(text: &str) -> Result<Rule, String> {
        let mut words = text.split_whitespace();
        let fault = words.next().ok_or("expected a fault, found nothing")?.parse()?;
        let mut rule = Rule::new("", &[], fault);
        for word in words {
            let (key, value) = word.split_once('=').ok_or_else(|| format!("expected KEY=VALUE, found {word:?}"))?;
            let number = || value.parse::<u64>().map_err(|_| format!("expected {key} as a number, found {value:?}"));
            match key {
                "path" => value.clone_into(&mut rule.path),
                "ops" => rule.ops = value.split(',').map(op_named).collect::<Result<_, _>>()?,
                "after" => rule.after = number()?,
                "times" => rule.times = Some(number()?),
                _ => return Err(format!("expected path, ops, after or times, found {key:?}")),
            }
        }
        Ok(rule)
    }
}

fn op_named(name: &str) -> Result<Op, String> {
    let names = || Op::ALL.map(Op::name).join(", ");
    Op::ALL
        .into_iter()
        .find(|op| op.name() == name)
        .ok_or_else(|| format!("expected one of {}, found {name:?}", names()))
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for op in Op::ALL {
            let (seen, hit) = (self.seen.get(&op).unwrap_or(&0), self.hit.get(&op).unwrap_or(&0));
            write!(f, "{} {seen} hit {hit}, ", op.name())?;
        }
        write!(f, "waiting {}", self.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_and_the_first_that_fits_decides() {
        let rules = Rules::default();
        rules.add("eio path=journal ops=write,sync after=1 times=2".parse().unwrap());
        rules.add("delay:5 path=journal/head".parse().unwrap());
        let judge = |op, path| rules.judge(op, path).map(|(_, fault)| fault);
        assert_eq!(judge(Op::Write, "copies/1/image.raw"), None);
        assert_eq!(judge(Op::Write, "journal/segment-0"), None, "one passes");
        assert_eq!(judge(Op::Read, "journal/segment-0"), None);
        assert_eq!(judge(Op::Sync, "journal/segment-0"), Some(Fault::Errno(libc::EIO)));
        assert_eq!(judge(Op::Write, "journal/head"), Some(Fault::Errno(libc::EIO)));
        assert_eq!(judge(Op::Write, "journal/head"), Some(Fault::Delay(Duration::from_millis(5))), "used up");
        assert_eq!(rules.counts().hits(), 3);
        for wrong in ["", "eoi", "eio path", "eio ops=wirte", "eio times=x", "eio colour=red"] {
            assert!(wrong.parse::<Rule>().is_err(), "{wrong}");
        }
    }
}
