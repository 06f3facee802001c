//! QEMU's monitor protocol: what the device of a running machine says of itself.
//!
//! The commands `x-query-virtio*` are there since QEMU 7.2. They are no promise of QEMU, so
//! whatever they say in another form is an error and not a guess.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(5);
/// How long the socket may not be there yet.
const SOCKET: Duration = Duration::from_secs(2);
/// How long a line may be, in bytes, and how many events may come before an answer.
const LINE: u64 = 1 << 20;
const EVENTS: usize = 100;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// The socket.
    #[error("the monitor: {0}")]
    Io(#[from] io::Error),
    /// Something that is no answer, or not of the known form.
    #[error("the monitor's answer to {0}: {1}")]
    Answer(&'static str, serde_json::Error),
    /// QEMU refuses.
    #[error("the monitor refuses {0}: {1}")]
    Refused(&'static str, String),
    /// There is no such device, or no answer among many lines.
    #[error("the monitor: {0}")]
    Missing(&'static str),
}

/// What the device has negotiated, and where its queues are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// `VIRTIO_IOMMU_F_…`, `VIRTIO_F_…` and `VIRTIO_RING_F_…` that it offers.
    pub offered: Vec<String>,
    /// Those that the driver has accepted.
    pub accepted: Vec<String>,
    /// Bits that were accepted and have no name.
    pub unknown: u64,
    /// `VIRTIO_CONFIG_S_…` that are set.
    pub status: Vec<String>,
    /// Whether the device has given up.
    pub broken: bool,
    /// The request queue and the event queue.
    pub queues: Vec<Queue>,
}

/// One queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// Its entries.
    pub size: u64,
    /// Physical addresses of the descriptor table, the available and the used ring.
    pub parts: [u64; 3],
    /// What the driver has made available, modulo 65536.
    pub available: u16,
    /// What the device has used, modulo 65536.
    pub used: u16,
    /// The buffers that were made available last, at most one of each entry.
    pub elements: Vec<Element>,
}

/// One buffer: how many bytes the device reads and writes, in so many descriptors each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Element {
    /// Bytes for the device to read.
    pub readable: u64,
    /// Bytes for the device to write.
    pub writable: u64,
    /// Descriptors.
    pub descriptors: usize,
}

#[derive(Deserialize)]
struct Device {
    name: String,
    path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Status {
    broken: bool,
    status: Bits,
    guest_features: Features,
    host_features: Features,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Bits {
    statuses: Vec<String>,
    #[serde(default)]
    unknown_statuses: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Features {
    #[serde(default)]
    transports: Vec<String>,
    #[serde(default)]
    dev_features: Vec<String>,
    #[serde(default)]
    unknown_dev_features: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct QueueStatus {
    vring_num: u64,
    vring_desc: u64,
    vring_avail: u64,
    vring_used: u64,
}

#[derive(Deserialize)]
struct QueueElement {
    descs: Vec<Descriptor>,
    avail: Index,
    used: Index,
}

#[derive(Deserialize)]
struct Descriptor {
    len: u64,
    #[serde(default)]
    flags: Vec<String>,
}

#[derive(Deserialize)]
struct Index {
    idx: u16,
}

#[derive(Deserialize)]
struct Property {
    name: String,
}

#[derive(Deserialize)]
struct TraceEvent {
    state: String,
}

/// `NAME: what it means`.
fn names(list: Vec<String>) -> impl Iterator<Item = String> {
    let name = |text: String| text.split(':').next().unwrap_or_default().to_owned();
    list.into_iter().map(name)
}

impl Features {
    fn names(self) -> Vec<String> {
        names(self.dev_features)
            .chain(names(self.transports))
            .collect()
    }
}

/// A connection to the monitor of a running QEMU.
pub struct Monitor {
    input: BufReader<UnixStream>,
    output: UnixStream,
}

impl Monitor {
    /// Connects to the socket of `-qmp unix:SOCKET,server=on,wait=off`.
    ///
    /// # Errors
    ///
    /// [`MonitorError`].
    pub fn connect(socket: &Path) -> Result<Self, MonitorError> {
        let started = Instant::now();
        let output = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(error) if started.elapsed() >= SOCKET => return Err(error.into()),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        output.set_read_timeout(Some(ANSWER))?;
        output.set_write_timeout(Some(ANSWER))?;
        let input = BufReader::new(output.try_clone()?);
        let mut monitor = Self { input, output };
        monitor.line("the greeting")?;
        let _: Value = monitor.ask("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    fn line(&mut self, of: &'static str) -> Result<Value, MonitorError> {
        let mut line = String::new();
        io::Read::take(&mut self.input, LINE).read_line(&mut line)?;
        serde_json::from_str(&line).map_err(|error| MonitorError::Answer(of, error))
    }

    fn ask<T: DeserializeOwned>(
        &mut self,
        command: &'static str,
        arguments: Value,
    ) -> Result<T, MonitorError> {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.output, "{request}")?;
        for _ in 0..EVENTS {
            let mut answer = self.line(command)?;
            if let Some(error) = answer.get("error") {
                return Err(MonitorError::Refused(command, error.to_string()));
            }
            if let Some(value) = answer.get_mut("return") {
                let value = serde_json::from_value(value.take());
                return value.map_err(|error| MonitorError::Answer(command, error));
            }
        }
        Err(MonitorError::Missing("no answer behind many events"))
    }

    /// The names of a device's properties.
    ///
    /// # Errors
    ///
    /// [`MonitorError`]; there is no such device, or it has none.
    pub fn properties(&mut self, device: &str) -> Result<Vec<String>, MonitorError> {
        let kind = json!({ "typename": device });
        let found: Vec<Property> = self.ask("device-list-properties", kind)?;
        if found.is_empty() {
            return Err(MonitorError::Missing("a device without a property"));
        }
        Ok(found.into_iter().map(|property| property.name).collect())
    }

    /// Whether there is a trace event of this name, switched on or not.
    ///
    /// # Errors
    ///
    /// [`MonitorError`].
    pub fn traces(&mut self, event: &str) -> Result<bool, MonitorError> {
        // A pattern finds nothing where a name would be an error.
        let pattern = json!({ "name": format!("{event}*") });
        let found: Vec<TraceEvent> = self.ask("trace-event-get-state", pattern)?;
        Ok(found.iter().any(|event| event.state != "unavailable"))
    }

    /// Ends QEMU.
    ///
    /// # Errors
    ///
    /// [`MonitorError`].
    pub fn quit(&mut self) -> Result<(), MonitorError> {
        let _: Value = self.ask("quit", json!({}))?;
        Ok(())
    }

    /// Looks at the virtio-iommu of the machine.
    ///
    /// # Errors
    ///
    /// [`MonitorError`].
    pub fn snapshot(&mut self) -> Result<Snapshot, MonitorError> {
        let devices: Vec<Device> = self.ask("x-query-virtio", json!({}))?;
        let iommu = devices
            .into_iter()
            .find(|found| found.name == "virtio-iommu");
        let path = iommu.ok_or(MonitorError::Missing("no virtio-iommu"))?.path;
        let status: Status = self.ask("x-query-virtio-status", json!({ "path": path }))?;
        let mut snapshot = Snapshot {
            unknown: status.guest_features.unknown_dev_features,
            offered: status.host_features.names(),
            accepted: status.guest_features.names(),
            broken: status.broken,
            status: names(status.status.statuses).collect(),
            queues: Vec::new(),
        };
        if status.status.unknown_statuses != 0 {
            snapshot.status.push("unknown".into());
        }
        for queue in 0..2 {
            snapshot.queues.push(self.queue(&path, queue)?);
        }
        Ok(snapshot)
    }

    fn queue(&mut self, path: &str, number: u16) -> Result<Queue, MonitorError> {
        let place = json!({ "path": path, "queue": number });
        let status: QueueStatus = self.ask("x-query-virtio-queue-status", place)?;
        let mut queue = Queue {
            size: status.vring_num,
            parts: [status.vring_desc, status.vring_avail, status.vring_used],
            ..Queue::default()
        };
        if status.vring_desc == 0 {
            // Never set up, or reset.
            return Ok(queue);
        }
        queue.available = self.element(path, number, 0)?.avail.idx;
        let count = u64::from(queue.available).min(queue.size) as u16;
        for behind in 1..=count {
            let index = queue.available.wrapping_sub(behind);
            let found = self.element(path, number, index)?;
            queue.used = found.used.idx;
            let writes = |d: &&Descriptor| d.flags.iter().any(|flag| flag == "write");
            let all: u64 = found.descs.iter().map(|d| d.len).sum();
            let writable = found.descs.iter().filter(writes).map(|d| d.len).sum();
            queue.elements.push(Element {
                readable: all - writable,
                writable,
                descriptors: found.descs.len(),
            });
        }
        Ok(queue)
    }

    fn element(
        &mut self,
        path: &str,
        queue: u16,
        index: u16,
    ) -> Result<QueueElement, MonitorError> {
        let place = json!({ "path": path, "queue": queue, "index": index });
        self.ask("x-query-virtio-queue-element", place)
    }
}
