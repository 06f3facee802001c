//! `docs/conformance.html`: one file for people, made of the data and of nothing else.

use std::fmt::Write;

use super::Oracle;
use super::data::{Data, Entry, HOST, Tally, Verdict};
use super::long_runs::LongRun;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The page.
#[must_use]
pub fn page(data: &Data) -> String {
    let columns = columns(data);
    let mut text = String::from(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>virtio-iommu: conformance</title>\n",
    );
    let _ = writeln!(text, "<style>\n{STYLE}</style>");
    head(&mut text, data);
    filters(&mut text);
    text.push_str("<div class=\"scroll\"><table>\n<thead>\n<tr><th rowspan=\"2\">rule</th><th rowspan=\"2\">level</th>");
    let mut rest = columns.as_slice();
    while let Some((place, _)) = rest.first() {
        let count = rest.iter().take_while(|(of, _)| of == place).count();
        let _ = write!(text, "<th colspan=\"{count}\" class=\"place\">{place}</th>");
        rest = &rest[count..];
    }
    text.push_str("</tr>\n<tr>");
    for (index, (_, oracle)) in columns.iter().enumerate() {
        let _ = write!(
            text,
            "<th class=\"{}\">{oracle}</th>",
            edge(&columns, index)
        );
    }
    text.push_str("</tr>\n</thead>\n<tbody>\n");
    for (prefix, title) in [
        ("DN-", "The driver: what §5.13 asks of it"),
        (
            "DV-",
            "What the driver bears: the rules of §5.13 for devices",
        ),
        ("GV-", "Virtio in general, as far as it applies"),
    ] {
        let width = columns.len() + 2;
        let _ = writeln!(
            text,
            "<tr class=\"group\"><th colspan=\"{width}\">{title}</th></tr>"
        );
        for rule in data.rules.iter().filter(|rule| rule.id.starts_with(prefix)) {
            row(&mut text, rule, &columns);
        }
    }
    let _ = writeln!(
        text,
        "</tbody>\n</table></div>\n<p id=\"none\" hidden>No rule is like that.</p>"
    );
    long_runs(&mut text, &data.long_runs);
    let _ = writeln!(text, "<script>\n{SCRIPT}</script>\n</html>");
    text
}

fn long_runs(text: &mut String, runs: &[LongRun]) {
    text.push_str(
        "<details><summary>Long runs against random input, which are no part of the tests</summary>\n<dl>\n",
    );
    for run in runs {
        let _ = writeln!(
            text,
            "<dt>{}</dt><dd>{}, in {}, {}. Wrong: {}.<br><code>{}</code></dd>",
            escaped(&run.what),
            escaped(&run.reached),
            escaped(&run.time),
            escaped(&run.date),
            escaped(&run.failures),
            escaped(&run.command)
        );
    }
    text.push_str("</dl></details>\n");
}

/// The oracles of each place that has results, in order.
fn columns(data: &Data) -> Vec<(&str, Oracle)> {
    let of = |place| {
        let here = move |oracle: &Oracle| oracle.on_host() == (place == HOST);
        let oracles = Oracle::ALL.into_iter().filter(here);
        oracles.map(move |oracle| (place, oracle))
    };
    data.places().into_iter().flat_map(of).collect()
}

/// The first column of a place has a line before it.
fn edge(columns: &[(&str, Oracle)], index: usize) -> &'static str {
    let before = index.checked_sub(1).and_then(|before| columns.get(before));
    match before {
        Some((place, _)) if *place == columns[index].0 => "",
        _ => "place",
    }
}

fn head(text: &mut String, data: &Data) {
    let versions: Vec<String> = data
        .qemu
        .iter()
        .map(|(arch, version)| format!("{arch}: QEMU {}", escaped(version)))
        .collect();
    let sum = |verdict| {
        let states = ["kept", "delegated", "not applicable", "deviation"];
        states
            .map(|state| data.count(state, verdict))
            .iter()
            .sum::<usize>()
    };
    let not_applicable = data
        .rules
        .iter()
        .filter(|r| r.state == "not applicable")
        .count();
    let deviations = data.rules.iter().filter(|r| r.state == "deviation").count();
    let _ = writeln!(
        text,
        "<h1>virtio-iommu: conformance</h1>\n\
         <p>Each rule of virtio 1.2 §5.13 (the same in 1.3 and 1.4) and of virtio in general that applies to a driver, \
         and what decides whether it is kept. Nothing here that decides shares code with the driver. The texts are \
         ours, and short; the specification's word counts.</p>\n\
         <p class=\"sums\"><b class=\"green\">{} green</b> <b class=\"red\">{} red</b> \
         <span>{not_applicable} not applicable</span> <span>{deviations} deviations</span></p>\n\
         <p class=\"quiet\">Run of {}. {}. Made by <code>cargo xtask test --report</code>.</p>\n\
         <details class=\"quiet\"><summary>What the columns mean</summary><dl>\n\
         <dt>RET</dt><dd>the driver returns an error, and nothing reaches the ring</dd>\n\
         <dt>MODEL</dt><dd>a model device, written from the specification, looks at every byte, or misbehaves on purpose</dd>\n\
         <dt>FUZZ</dt><dd>random input, against a naive reader of the same bytes</dd>\n\
         <dt>TRACE</dt><dd>QEMU's trace: what reached its device</dd>\n\
         <dt>QMP</dt><dd>QEMU's monitor: what its device negotiated, where its queues are</dd>\n\
         <dt>DMA</dt><dd>a device's DMA in the guest: memory changes, or does not, and faults arrive</dd>\n\
         </dl><p>A number is of tests. ○: the rule needs this oracle, and it has not decided here.</p></details>",
        sum(Verdict::Green),
        sum(Verdict::Red),
        escaped(&data.date),
        versions.join(", "),
    );
    for (arch, scenario, why) in data.without() {
        let _ = writeln!(
            text,
            "<p class=\"quiet\">Not applicable on {}: {}, because {}.</p>",
            escaped(arch),
            escaped(scenario),
            escaped(why)
        );
    }
}

fn filters(text: &mut String) {
    text.push_str(
        "<form id=\"filters\"><input id=\"words\" type=\"search\" placeholder=\"id, words, a test\" aria-label=\"filter\">\n",
    );
    for (name, values) in [
        ("level", &["MUST", "SHOULD", "MAY", "text"][..]),
        (
            "state",
            &["kept", "delegated", "not applicable", "deviation"],
        ),
        ("verdict", &["green", "red", "open"]),
    ] {
        let _ = write!(
            text,
            "<select id=\"{name}\" aria-label=\"{name}\"><option value=\"\">any {name}</option>"
        );
        for value in values {
            let _ = write!(text, "<option>{value}</option>");
        }
        text.push_str("</select>\n");
    }
    text.push_str("<output id=\"count\"></output></form>\n");
}

fn row(text: &mut String, rule: &Entry, columns: &[(&str, Oracle)]) {
    let verdict = class(rule.whole());
    let _ = write!(
        text,
        "<tr class=\"rule {verdict}\" data-level=\"{}\" data-state=\"{}\" data-verdict=\"{verdict}\">\
         <td><b id=\"{}\">{}</b> <small>§{}</small><br>{}",
        rule.level,
        rule.state,
        rule.id,
        rule.id,
        escaped(&rule.section),
        marked(&rule.text)
    );
    if let Some(why) = &rule.reason {
        let _ = write!(text, " <em>{}: {}.</em>", rule.state, marked(why));
    }
    if !rule.tests.is_empty() {
        let _ = write!(
            text,
            "<details><summary>{} tests</summary><ul>",
            rule.tests.len()
        );
        for test in &rule.tests {
            let _ = write!(text, "<li><code>{}</code></li>", escaped(test));
        }
        text.push_str("</ul></details>");
    }
    let _ = write!(text, "</td><td class=\"level\">{}</td>", rule.level);
    for (index, (place, oracle)) in columns.iter().enumerate() {
        let edge = edge(columns, index);
        let Tally { green, red } = rule.tally(place, *oracle);
        let (content, class) = match rule.verdict(place, *oracle) {
            Verdict::Green => (green.to_string(), "green"),
            Verdict::Red => (format!("{red} of {}", green + red), "red"),
            Verdict::Open if rule.needs.contains(oracle) => ("○".into(), ""),
            Verdict::Open => (String::new(), ""),
        };
        let by = rule.results.get(*place).and_then(|of| of.get(oracle));
        let by: Vec<String> = by
            .into_iter()
            .flatten()
            .map(|(who, tally)| format!("{who}: {} green, {} red", tally.green, tally.red))
            .collect();
        let _ = write!(
            text,
            "<td class=\"cell {edge} {class}\" title=\"{}\">{content}</td>",
            escaped(&by.join("; "))
        );
    }
    text.push_str("</tr>\n");
}

fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Green => "green",
        Verdict::Red => "red",
        Verdict::Open => "open",
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// Text with `code` in it.
fn marked(text: &str) -> String {
    let escaped = escaped(text);
    let mut parts = escaped.split('`');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for (index, part) in parts.enumerate() {
        out.push_str(if index % 2 == 0 { "<code>" } else { "</code>" });
        out.push_str(part);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_html_would_read_is_escaped() {
        assert_eq!(escaped("a<b & \"c\""), "a&lt;b &amp; &quot;c&quot;");
        assert_eq!(marked("a `b<c` d"), "a <code>b&lt;c</code> d");
    }
}
