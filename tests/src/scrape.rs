//! What an agent serves on `listen.metrics`, as a scraper sees it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Longer than an agent waits for its own threads.
const PATIENCE: Duration = Duration::from_secs(10);

/// Status and body of a GET.
///
/// # Errors
/// No answer.
pub fn get(address: SocketAddr, path: &str) -> Result<(u16, String), String> {
    let failed = |e: std::io::Error| format!("{address}{path}: {e}");
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).map_err(failed)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(failed)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("expected HTTP, found {answer:?}"))?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    Ok((status.ok_or_else(|| format!("expected a status, found {head:?}"))?, body.to_owned()))
}

/// One scrape.
#[derive(Clone, Debug)]
pub struct Scrape {
    /// As it was served.
    pub text: String,
    samples: BTreeMap<String, f64>,
}

impl Scrape {
    /// Scrapes an agent.
    ///
    /// # Errors
    /// No answer, or one that is not what it should be.
    pub fn take(address: SocketAddr) -> Result<Scrape, String> {
        match get(address, "/metrics")? {
            (200, text) => Scrape::parse(text),
            (status, text) => Err(format!("expected status 200, found {status}: {text}")),
        }
    }

    fn parse(text: String) -> Result<Scrape, String> {
        let mut samples = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (series, value) = line.rsplit_once(' ').ok_or_else(|| format!("expected a sample, found {line:?}"))?;
            let value = value.parse().map_err(|e| format!("{line}: {e}"))?;
            if samples.insert(series.to_owned(), value).is_some() {
                return Err(format!("expected each series once, found {series} again"));
            }
        }
        Ok(Scrape { text, samples })
    }

    /// The value of a series, written as it is served: `name{a="b"}`.
    #[must_use]
    pub fn get(&self, series: &str) -> Option<f64> {
        self.samples.get(series).copied()
    }

    /// All series of a metric, with their labels.
    pub fn of<'a>(&'a self, metric: &'a str) -> impl Iterator<Item = (&'a str, f64)> + 'a {
        let belongs = move |series: &str| series.split('{').next() == Some(metric);
        self.samples.iter().filter(move |(series, _)| belongs(series)).map(|(series, value)| (series.as_str(), *value))
    }

    /// Names of all metrics with samples.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.samples.keys().map(|series| series.split('{').next().unwrap_or(series))
    }

    /// Names of all families that are declared, with or without samples.
    pub fn families(&self) -> impl Iterator<Item = &str> {
        self.text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
    }

    /// How many series there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// What promtool has against it.
    ///
    /// # Panics
    /// promtool is not installed.
    #[must_use]
    pub fn lint(&self) -> String {
        let mut promtool = Command::new("promtool");
        promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            promtool.spawn().unwrap_or_else(|e| panic!("expected the tool promtool, found: {e}; run scripts/setup"));
        // It reads everything before it says anything.
        let sent = child.stdin.take().map(|mut stdin| stdin.write_all(self.text.as_bytes()));
        let output = child.wait_with_output().expect("it is our child");
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        match (output.status.success(), sent) {
            (true, Some(Ok(()))) => said,
            (_, sent) => format!("{}, {sent:?}: {said}", output.status),
        }
    }
}
