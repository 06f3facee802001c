//! Words and columns.

use alloc::string::String;
use core::fmt::{self, Write};

use virtio_iommu::{Access, Fault, FaultReason, Features, Geometry, ReservedKind, ReservedRegion};

use crate::buffer::Buffer;
use crate::console::println;

/// Columns of a terminal.
const WIDTH: usize = 100;
/// Where the values start.
const INDENT: usize = 20;

/// Bits that devices offer and this driver does not know, with their names.
const OTHER_FEATURES: [(u32, &str); 9] = [
    (3, "BYPASS"),
    (28, "INDIRECT_DESC"),
    (29, "EVENT_IDX"),
    (34, "RING_PACKED"),
    (35, "IN_ORDER"),
    (36, "ORDER_PLATFORM"),
    (37, "SR_IOV"),
    (38, "NOTIFICATION_DATA"),
    (40, "RING_RESET"),
];

/// A line: what it is about, and a value.
pub fn say(about: &str, value: impl fmt::Display) {
    println!("      {about:<13} {value}");
}

/// Lines of words, broken at the edge of the terminal.
pub fn say_words(about: &str, words: &str) {
    let mut about = about;
    let mut line = String::new();
    for word in words.split(' ') {
        if !line.is_empty() && INDENT + line.len() + 1 + word.len() > WIDTH {
            say(about, &line);
            about = "";
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    say(about, &line);
}

/// Feature bits by name, lowest first.
pub fn features(bits: u64) -> String {
    let mut words = String::new();
    for bit in 0..u64::BITS {
        if bits >> bit & 1 == 0 {
            continue;
        }
        if !words.is_empty() {
            words.push(' ');
        }
        let known = Features::from_bits(1 << bit).and_then(|feature| {
            let (name, _) = feature.iter_names().next()?;
            Some(name)
        });
        let other = || OTHER_FEATURES.iter().find(|(other, _)| *other == bit);
        let _ = match known.or_else(|| Some(other()?.1)) {
            Some(name) => words.write_str(name),
            None => write!(words, "bit-{bit}"),
        };
    }
    words
}

/// What the device can translate.
pub struct Ranges(pub Geometry);

impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "granule {} KiB, addresses {}, domains {}",
            self.0.granule() / 1024,
            self.0.input_range(),
            self.0.domain_range()
        )
    }
}

/// Reserved regions in a row.
pub struct Regions<'a>(pub &'a [ReservedRegion]);

impl fmt::Display for Regions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no reserved region");
        }
        for (i, region) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            let kind = match region.kind {
                ReservedKind::Msi => "MSI",
                _ => "reserved",
            };
            write!(f, "{comma}{} ({kind})", region.range)?;
        }
        Ok(())
    }
}

/// An access in words.
pub fn access(access: Access) -> &'static str {
    if access == Access::READ {
        "read"
    } else if access == Access::WRITE {
        "write"
    } else if access.contains(Access::READ | Access::WRITE) {
        "read and write"
    } else {
        "no access"
    }
}

/// Faults, summed up: the first and the last tell the story.
pub fn faults(faults: &[Fault]) {
    let (Some(first), Some(last)) = (faults.first(), faults.last()) else {
        say("faults", "none");
        return;
    };
    let reason = match first.reason {
        FaultReason::Unknown => "unknown (no domain)",
        FaultReason::Domain => "no domain",
        _ => "no mapping",
    };
    let direction = match first.access {
        Some(direction) => access(direction),
        None => "not told",
    };
    let count = faults.len();
    match (first.address, last.address) {
        (Some(first), Some(last)) if first != last => say(
            "faults",
            format_args!("{count}, one per word, from {first} to {last}"),
        ),
        (Some(first), _) => say("faults", format_args!("{count}, at {first}")),
        (None, _) => say("faults", format_args!("{count}, address not told")),
    }
    let endpoint = first.endpoint;
    say(
        "",
        format_args!("endpoint {endpoint}, reason: {reason}, access: {direction}"),
    );
}

/// The first bytes of a buffer.
pub struct Bytes<'a>(pub &'a Buffer, pub usize);

impl fmt::Display for Bytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for offset in 0..16 {
            write!(f, "{:02x} ", self.0.byte(self.1 + offset))?;
        }
        f.write_str("...")
    }
}
