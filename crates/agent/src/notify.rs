//! Tells the supervisor that started the agent how it is: sd_notify(3), datagrams to the socket named by `NOTIFY_SOCKET`.
//!
//! The watchdog is fed only after both threads of the agent have answered: an agent that stands still, or whose shard does,
//! starves it, and is started anew. A disk that hangs is no reason: no thread waits for one.

use crate::metrics::Vitals;
use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

/// The supervisor's socket, if there is one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notifier {
    to: Option<Arc<(UnixDatagram, SocketAddr)>>,
    /// How often the watchdog is to be fed at least.
    watchdog: Option<Duration>,
}

impl Notifier {
    /// From the environment that the supervisor set.
    pub(crate) fn from_env() -> Notifier {
        let variable = |name| std::env::var_os(name);
        let (usec, pid) = (variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"));
        Notifier::new(variable("NOTIFY_SOCKET"), usec.as_ref(), pid.as_ref())
    }

    fn new(socket: Option<OsString>, usec: Option<&OsString>, pid: Option<&OsString>) -> Notifier {
        let Some(name) = socket.filter(|s| !s.is_empty()) else { return Notifier::default() };
        let to = address(&name).and_then(|to| {
            let socket = UnixDatagram::unbound()?;
            // A supervisor that does not read must not hold up the agent.
            socket.set_nonblocking(true)?;
            Ok(Arc::new((socket, to)))
        });
        let to = to.inspect_err(|error| {
            tracing::warn!(%error, socket = ?name, "expected a socket of the supervisor in NOTIFY_SOCKET; it is told nothing");
        });
        let ours = pid.and_then(number).is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = usec.and_then(number).filter(|usec| ours && *usec > 0).map(Duration::from_micros);
        Notifier { to: to.ok(), watchdog }
    }

    /// The agent does what it is for.
    pub(crate) fn ready(&self) {
        self.say("READY=1\nSTATUS=runs");
    }

    /// It was told to end, and does.
    pub(crate) fn stopping(&self) {
        self.say("STOPPING=1\nSTATUS=stops");
    }

    /// Feeds the watchdog for as long as the agent's threads answer.
    pub(crate) async fn feed_watchdog(self, vitals: Vitals) {
        let Some(period) = self.watchdog.filter(|_| self.to.is_some()) else { return };
        loop {
            // Two chances for each period, whatever the answers take.
            let silent = vitals.take(period / 4).await.silent();
            if silent.is_empty() {
                self.say("WATCHDOG=1");
            } else {
                let who = silent.join(" and the ");
                tracing::error!("the {who} did not answer within {:?}; the watchdog is not fed", period / 4);
                self.say(&format!("STATUS=the {who} stands still"));
            }
            tokio::time::sleep(period / 4).await;
        }
    }

    fn say(&self, text: &str) {
        let Some((socket, to)) = self.to.as_deref() else { return };
        if let Err(error) = socket.send_to_addr(text.as_bytes(), to) {
            tracing::debug!(%error, "the supervisor was not told: {text}");
        }
    }
}

/// A path, or a name without a file if it begins with `@`.
fn address(name: &OsString) -> std::io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest),
        _ => SocketAddr::from_pathname(name),
    }
}

fn number(text: &OsString) -> Option<u64> {
    text.to_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn os(text: &str) -> Option<OsString> {
        Some(text.into())
    }

    fn heard(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let len = socket.recv(&mut buffer).expect("something was said");
        String::from_utf8_lossy(&buffer[..len]).into_owned()
    }

    #[test]
    fn the_supervisor_hears_it_by_path_and_by_name() {
        let dir = tempfile::tempdir().expect("the temporary directory is writable");
        let path = dir.path().join("notify");
        let by_path = UnixDatagram::bind(&path).expect("it is free");
        Notifier::new(Some(path.into_os_string()), None, None).ready();
        assert_eq!(heard(&by_path), "READY=1\nSTATUS=runs");
        let name = format!("holdfast-test-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).expect("it is short");
        let by_name = UnixDatagram::bind_addr(&abstract_name).expect("it is free");
        Notifier::new(os(&format!("@{name}")), None, None).stopping();
        assert_eq!(heard(&by_name), "STOPPING=1\nSTATUS=stops");
    }

    #[test]
    fn without_a_supervisor_nothing_is_said_and_nothing_fails() {
        Notifier::default().ready();
        Notifier::new(os(""), None, None).ready();
        Notifier::new(os("/nowhere/at/all"), None, None).ready();
        let far = "x".repeat(200);
        assert!(Notifier::new(os(&far), None, None).to.is_none());
    }

    #[test]
    fn a_watchdog_is_only_ours_if_it_says_so() {
        let watchdog = |usec: Option<OsString>, pid: Option<OsString>| {
            Notifier::new(os("@none"), usec.as_ref(), pid.as_ref()).watchdog
        };
        let me = std::process::id();
        assert_eq!(watchdog(os("2000000"), None), Some(Duration::from_secs(2)));
        assert_eq!(watchdog(os("2000000"), os(&me.to_string())), Some(Duration::from_secs(2)));
        assert_eq!(watchdog(os("2000000"), os(&(me + 1).to_string())), None);
        assert_eq!(watchdog(os("soon"), None), None);
        assert_eq!(watchdog(os("0"), None), None);
    }
}
