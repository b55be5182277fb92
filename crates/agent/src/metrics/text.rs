//! The text form that Prometheus reads (version 0.0.4): families, each with its help, its kind, and its samples together.

use super::histogram::{BOUNDS, Histogram};
use std::fmt::{Display, Write};

/// What a family's numbers mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Only grows, from zero at the start of the process.
    Counter,
    /// Is what it is now.
    Gauge,
    /// Durations in seconds.
    Histogram,
}

/// A page under construction.
#[derive(Debug, Default)]
pub(crate) struct Page {
    text: String,
    family: &'static str,
    /// Families so far: none may come twice.
    families: Vec<&'static str>,
}

/// Names with their values; values may be anything.
pub(crate) type Labels<'a> = &'a [(&'static str, &'a str)];

impl Page {
    /// Samples that follow belong to this family.
    pub(crate) fn family(&mut self, name: &'static str, kind: Kind, help: &'static str) -> &mut Page {
        assert!(!self.families.contains(&name), "{name} is told once, with all its samples");
        assert_eq!(kind == Kind::Counter, name.ends_with("_total"), "{name}: counters, and they alone, end in _total");
        self.families.push(name);
        self.family = name;
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
        self
    }

    /// One number of the family.
    pub(crate) fn sample(&mut self, labels: Labels<'_>, value: impl Display) -> &mut Page {
        let name = self.family;
        self.line(format_args!("{name}{} {value}", Braces(labels, None)));
        self
    }

    /// One distribution of the family.
    pub(crate) fn histogram(&mut self, labels: Labels<'_>, histogram: &Histogram) -> &mut Page {
        let name = self.family;
        let bounds = BOUNDS.iter().map(|ns| Nanos(*ns).to_string()).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(histogram.cumulative()) {
            self.line(format_args!("{name}_bucket{} {count}", Braces(labels, Some(&bound))));
        }
        self.line(format_args!("{name}_sum{} {}", Braces(labels, None), Nanos(histogram.sum_ns())));
        self.line(format_args!("{name}_count{} {}", Braces(labels, None), histogram.count()));
        self
    }

    pub(crate) fn finish(self) -> String {
        self.text
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.text, "{line}").expect("memory takes text");
    }
}

/// Nanoseconds as exact seconds.
pub(crate) struct Nanos(pub(crate) u64);

impl Display for Nanos {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (whole, part) = (self.0 / 1_000_000_000, self.0 % 1_000_000_000);
        if part == 0 {
            return write!(f, "{whole}");
        }
        let digits = format!("{part:09}");
        write!(f, "{whole}.{}", digits.trim_end_matches('0'))
    }
}

/// Labels in braces, and the bound of a bucket after them.
struct Braces<'a>(Labels<'a>, Option<&'a str>);

impl Display for Braces<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bound = self.1.map(|bound| ("le", bound));
        let mut open = '{';
        for (name, value) in self.0.iter().copied().chain(bound) {
            write!(f, "{open}{name}=\"{}\"", Escaped(value))?;
            open = ',';
        }
        if open == ',' { f.write_char('}') } else { Ok(()) }
    }
}

struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for c in self.0.chars() {
            match c {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_page_is_what_prometheus_reads() {
        let mut page = Page::default();
        page.family("a_total", Kind::Counter, "Things.").sample(&[], 3).sample(&[("v", "x\"\\\n"), ("w", "")], 4);
        let mut histogram = Histogram::default();
        histogram.record(Duration::from_micros(1_500));
        page.family("b_seconds", Kind::Histogram, "Time.").histogram(&[("v", "1")], &histogram);
        let text = page.finish();
        let expected =
            "# HELP a_total Things.\n# TYPE a_total counter\na_total 3\na_total{v=\"x\\\"\\\\\\n\",w=\"\"} 4\n";
        assert!(text.starts_with(expected), "{text}");
        for line in [
            "b_seconds_bucket{v=\"1\",le=\"0.00005\"} 0",
            "b_seconds_bucket{v=\"1\",le=\"0.001\"} 0",
            "b_seconds_bucket{v=\"1\",le=\"0.002\"} 1",
            "b_seconds_bucket{v=\"1\",le=\"10\"} 1",
            "b_seconds_bucket{v=\"1\",le=\"+Inf\"} 1",
            "b_seconds_sum{v=\"1\"} 0.0015",
            "b_seconds_count{v=\"1\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }

    #[test]
    #[should_panic(expected = "told once")]
    fn a_family_comes_once() {
        let mut page = Page::default();
        page.family("a", Kind::Gauge, "A.").family("a", Kind::Gauge, "A.");
    }
}
