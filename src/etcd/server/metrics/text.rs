//! Prometheus's text format.
//!
//! Source: Prometheus, "Exposition formats", text format 0.0.4.

use std::fmt::{Display, Write as _};

use super::histogram::Histogram;

/// The content type of what `Text` makes.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A page of metrics. Values are of the family that was begun last.
#[derive(Default)]
pub struct Text {
    out: String,
    name: &'static str,
}

impl Text {
    /// The page.
    pub fn finish(self) -> String {
        self.out
    }

    /// A family that only grows, with its only value.
    pub fn counter(&mut self, name: &'static str, help: &str, value: u64) {
        self.begin(name, "counter", help).value("", value);
    }

    /// A family that goes up and down, with its only value.
    pub fn gauge(&mut self, name: &'static str, help: &str, value: impl Display) {
        self.begin(name, "gauge", help).value("", value);
    }

    /// A family of one histogram.
    pub fn histogram(&mut self, name: &'static str, help: &str, histogram: &Histogram) {
        self.begin(name, "histogram", help).buckets("", histogram);
    }

    /// Begins a family: values follow.
    pub fn begin(&mut self, name: &'static str, kind: &str, help: &str) -> &mut Self {
        self.name = name;
        // Writing to a string cannot fail; nor below.
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        self
    }

    /// One value; `labels` are as they are printed, without braces.
    pub fn value(&mut self, labels: &str, value: impl Display) {
        let _ = match labels {
            "" => writeln!(self.out, "{} {value}", self.name),
            labels => writeln!(self.out, "{}{{{labels}}} {value}", self.name),
        };
    }

    /// The values of one histogram.
    pub fn buckets(&mut self, labels: &str, histogram: &Histogram) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut count = 0;
        for (bound, below) in histogram.cumulative() {
            let bound = if bound.is_finite() { bound.to_string() } else { "+Inf".to_owned() };
            let _ = writeln!(self.out, "{}_bucket{{{labels}{comma}le=\"{bound}\"}} {below}", self.name);
            count = below;
        }
        let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(self.out, "{}_sum{braces} {}", self.name, histogram.sum_s());
        let _ = writeln!(self.out, "{}_count{braces} {count}", self.name);
    }
}

/// A label with its value, quoted.
pub fn label(name: &str, value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{name}=\"{value}\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_page_is_as_prometheus_wants_it() {
        let mut text = Text::default();
        text.counter("a_total", "Things.", 3);
        text.begin("b", "gauge", "Parts.").value(&label("of", "x\"\\\n"), 1.5);
        let histogram = Histogram::empty();
        histogram.observe(Duration::from_millis(5));
        text.histogram("c_seconds", "Times.", &histogram);
        let page = text.finish();
        let begin = "# HELP a_total Things.\n# TYPE a_total counter\na_total 3\n\
                     # HELP b Parts.\n# TYPE b gauge\nb{of=\"x\\\"\\\\\\n\"} 1.5\n\
                     # HELP c_seconds Times.\n# TYPE c_seconds histogram\nc_seconds_bucket{le=\"0.001\"} 0\n";
        assert!(page.starts_with(begin), "{page}");
        let end = "c_seconds_bucket{le=\"8.192\"} 1\nc_seconds_bucket{le=\"+Inf\"} 1\n\
                   c_seconds_sum 0.005\nc_seconds_count 1\n";
        assert!(page.ends_with(end), "{page}");
    }
}
