//! The registers of the transport: each access is logged, judged and answered.

use super::config::{Generation, ResetBehaviour, gate};
use super::device::{Device, Mode};
use super::journal::Note;
use super::queue::VirtQueue;
use super::spec::{config, feature, status_bit};

/// One access of the driver to a register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    DeviceType,
    StatusRead(u32),
    StatusWrite(u32),
    FeaturesRead,
    FeaturesWrite(u64),
    QueueSizeRead(u16),
    QueueSet {
        queue: u16,
        size: u32,
    },
    QueueUnset(u16),
    QueueUsed(u16),
    Notify(u16),
    Generation(u32),
    ConfigRead {
        offset: usize,
        width: usize,
    },
    ConfigWrite {
        offset: usize,
        bytes: Vec<u8>,
    },
    InterruptAck,
    GuestPageSize(u32),
    LegacyLayout,
    /// The transport itself was dropped.
    Dropped,
}

/// What the registers hold.
#[derive(Clone, Debug, Default)]
pub struct Registers {
    pub status: u32,
    pub accepted: u64,
    pub features_written: bool,
    pub generation: u32,
    pub isr: u32,
    pub kicks: [u64; 2],
    /// Accesses since the model was made.
    pub accesses: u64,
    /// The most that a test has a use for.
    pub limit: Option<u64>,
    config_reads: u64,
    /// Status reads until a reset that was asked for is done; `u64::MAX` for never.
    resetting: Option<u64>,
    /// The driver has not yet seen that its reset is done.
    reset_unseen: bool,
}

/// More accesses than any test has a use for.
const LIMIT: u64 = 10_000_000;

impl Device {
    fn access(&mut self, access: Access) {
        let number = self.registers.accesses;
        self.registers.accesses += 1;
        if self.knobs.needs_reset_at == Some(number) {
            self.break_down();
        }
        let limit = self.registers.limit.unwrap_or(LIMIT);
        if number > limit && !std::thread::panicking() {
            panic!("registers read without limit, at last: {access:?}");
        }
        self.log.push(access);
    }

    fn wrong(&self, rule: &'static str, what: impl Into<String>) {
        self.violations.record(rule, what);
    }

    /// What only makes sense between two steps of the initialization.
    fn expect_phase(&self, rule: &'static str, what: &str, set: u32, clear: u32) {
        let status = self.registers.status;
        if status & status_bit::FAILED != 0 {
            self.wrong("GV-INIT-5", format!("{what} after FAILED"));
        } else if status & set != set || status & clear != 0 {
            self.wrong(rule, format!("{what} with status {status:#x}"));
        }
        if self.registers.reset_unseen {
            self.wrong("GV-RST-1", format!("{what} before the reset was seen done"));
        }
    }

    pub fn read_type(&mut self) -> virtio_drivers::transport::DeviceType {
        self.access(Access::DeviceType);
        self.knobs.device_type
    }

    pub fn read_status(&mut self) -> u32 {
        if let Some(left) = &mut self.registers.resetting {
            if *left == 0 {
                self.finish_reset();
            } else if *left != u64::MAX {
                *left -= 1;
            }
        }
        let status = self.knobs.status_reads.unwrap_or(self.registers.status);
        self.access(Access::StatusRead(status));
        // The access itself may have been the one that breaks the device.
        let status = self.knobs.status_reads.unwrap_or(self.registers.status);
        if status == 0 {
            self.registers.reset_unseen = false;
        }
        status
    }

    pub fn write_status(&mut self, value: u32) {
        self.access(Access::StatusWrite(value));
        if value == 0 {
            self.registers.reset_unseen = true;
            match self.knobs.reset {
                ResetBehaviour::Immediate => self.finish_reset(),
                ResetBehaviour::AfterReads(n) => self.registers.resetting = Some(n),
                ResetBehaviour::Never => self.registers.resetting = Some(u64::MAX),
            }
            return;
        }
        let gives_up = value & status_bit::FAILED != 0;
        if self.registers.reset_unseen && !gives_up {
            self.wrong(
                "GV-RST-1",
                format!("status {value:#x} before the reset was seen done"),
            );
        }
        let before = self.registers.status & !status_bit::NEEDS_RESET;
        let value = value & !status_bit::NEEDS_RESET;
        if before & !value != 0 {
            self.wrong(
                "GV-STAT-1",
                format!("status {value:#x} after {before:#x}: a bit cleared"),
            );
        }
        if before & status_bit::FAILED != 0 {
            self.wrong("GV-INIT-5", format!("status {value:#x} after FAILED"));
        }
        let value = value | before;
        let new = value & !before;
        let known = status_bit::ACKNOWLEDGE
            | status_bit::DRIVER
            | status_bit::FEATURES_OK
            | status_bit::DRIVER_OK
            | status_bit::FAILED;
        if new & !known != 0 {
            self.wrong("GV-STAT-1", format!("status {value:#x}: undefined bits"));
        }
        let needs = [
            (status_bit::DRIVER, status_bit::ACKNOWLEDGE),
            (status_bit::FEATURES_OK, status_bit::DRIVER),
            (status_bit::DRIVER_OK, status_bit::FEATURES_OK),
        ];
        for (bit, first) in needs {
            if new & bit != 0 && before & first == 0 {
                self.wrong(
                    "GV-INIT-1",
                    format!("status {value:#x} after {before:#x}: a step left out"),
                );
            }
        }
        let mut accepted = value;
        if new & status_bit::FEATURES_OK != 0 {
            if !self.registers.features_written {
                self.wrong("GV-INIT-1", "FEATURES_OK before the features");
            }
            let missing = self.knobs.offered & feature::ACCESS_PLATFORM & !self.registers.accepted;
            if self.knobs.refuse_features || missing != 0 {
                accepted &= !status_bit::FEATURES_OK;
            }
        }
        if new & status_bit::DRIVER_OK != 0 && self.queues.iter().any(Option::is_none) {
            self.wrong("GV-INIT-1", "DRIVER_OK without both queues");
        }
        self.registers.status = accepted | (self.registers.status & status_bit::NEEDS_RESET);
    }

    fn finish_reset(&mut self) {
        self.note(Note::Reset);
        let registers = &mut self.registers;
        registers.status = 0;
        registers.accepted = 0;
        registers.features_written = false;
        registers.isr = 0;
        registers.kicks = [0; 2];
        registers.resetting = None;
        self.queues = [None, None];
        self.held.clear();
        self.events.reset();
        self.ram.retract(|_| true);
        // `bypass` stays as it is (§5.13.4.2).
        self.unit.reset();
        self.lied = false;
    }

    pub fn read_features(&mut self) -> u64 {
        self.access(Access::FeaturesRead);
        self.expect_phase("GV-INIT-1", "features read", status_bit::DRIVER, 0);
        self.knobs.offered
    }

    pub fn write_features(&mut self, value: u64) {
        self.access(Access::FeaturesWrite(value));
        self.expect_phase(
            "GV-INIT-3",
            "features written",
            status_bit::DRIVER,
            status_bit::FEATURES_OK,
        );
        let offered = self.knobs.offered;
        if value & !offered != 0 {
            self.wrong(
                "GV-FEAT-1",
                format!("accepts {:#x}, not offered", value & !offered),
            );
        }
        if value & !feature::DEFINED != 0 {
            self.wrong(
                "GV-FEAT-2",
                format!("accepts {:#x}, undefined", value & !feature::DEFINED),
            );
        }
        if value & feature::NOT_PLAYED != 0 {
            self.wrong(
                "MODEL",
                format!("accepts {:#x}, not played", value & feature::NOT_PLAYED),
            );
        }
        if offered & feature::VERSION_1 & !value != 0 {
            self.wrong("GV-V1", "VERSION_1 declined");
        }
        self.registers.accepted = value;
        self.registers.features_written = true;
    }

    pub fn read_queue_size(&mut self, queue: u16) -> u32 {
        self.access(Access::QueueSizeRead(queue));
        let sizes = self.knobs.queue_sizes;
        sizes.get(usize::from(queue)).copied().unwrap_or(0)
    }

    pub fn set_queue(&mut self, queue: u16, size: u32, parts: [u64; 3]) {
        self.access(Access::QueueSet { queue, size });
        self.expect_phase(
            "GV-INIT-1",
            "queue set up",
            status_bit::FEATURES_OK,
            status_bit::DRIVER_OK,
        );
        let Some(most) = self.knobs.queue_sizes.get(usize::from(queue)).copied() else {
            self.wrong("GV-PCI-3", format!("queue {queue} does not exist"));
            return;
        };
        if size > most || size == 0 {
            self.wrong(
                "GV-PCI-3",
                format!("queue {queue}: size {size}, at most {most}"),
            );
            return;
        }
        if self.queues[usize::from(queue)].is_some() {
            self.wrong("GV-MMIO-3", format!("queue {queue} set up twice"));
        }
        let mut ready = VirtQueue::set_up(queue, size, parts, &self.ram, &self.violations);
        if let (Some(ready), true) = (&mut ready, self.knobs.no_notify) {
            ready.set_no_notify(&self.ram, true);
        }
        self.queues[usize::from(queue)] = ready;
    }

    pub fn unset_queue(&mut self, queue: u16) {
        self.access(Access::QueueUnset(queue));
    }

    pub fn queue_is_set(&mut self, queue: u16) -> bool {
        self.access(Access::QueueUsed(queue));
        let queues = &self.queues;
        queues.get(usize::from(queue)).is_some_and(Option::is_some)
    }

    pub fn notify(&mut self, queue: u16) {
        self.access(Access::Notify(queue));
        let status = self.registers.status;
        if status & status_bit::DRIVER_OK == 0 {
            self.wrong("GV-INIT-6", format!("queue {queue} notified, {status:#x}"));
            return;
        }
        if status & status_bit::FAILED != 0 {
            self.wrong("GV-INIT-5", format!("queue {queue} notified after FAILED"));
        }
        let Some(Some(found)) = self.queues.get_mut(usize::from(queue)) else {
            self.wrong("GV-PCI-4", format!("queue {queue} notified, not set up"));
            return;
        };
        found.notified(&self.ram, &self.violations);
        let suppressed = found.no_notify(&self.ram);
        self.registers.kicks[usize::from(queue & 1)] += 1;
        if suppressed {
            self.wrong(
                "GV-NOTIF-1",
                format!("queue {queue} notified in spite of the flag"),
            );
        }
        if queue == super::spec::REQUEST_QUEUE && self.knobs.mode == Mode::OnNotify {
            self.process(usize::MAX);
        }
    }

    pub fn read_generation(&mut self) -> u32 {
        if self.knobs.generation == Generation::Restless {
            self.registers.generation = self.registers.generation.wrapping_add(1);
        }
        let generation = self.registers.generation;
        self.access(Access::Generation(generation));
        generation
    }

    /// The bytes of a configuration read, or `None` beyond the end of what is exposed.
    pub fn read_config(&mut self, offset: usize, width: usize) -> Option<Vec<u8>> {
        self.access(Access::ConfigRead { offset, width });
        if !matches!(width, 1 | 2 | 4) || !offset.is_multiple_of(width.max(1)) {
            self.wrong("GV-PCI-2", format!("config read {width} bytes at {offset}"));
        }
        for at in offset..offset.saturating_add(width) {
            if at >= config::LEN {
                self.wrong("GV-CFG-2", format!("config read at {at}: no field"));
                break;
            }
            if gate(at).is_some_and(|bit| !self.offers(bit)) {
                self.wrong("GV-CFG-2", format!("config read at {at}: not offered"));
                break;
            }
        }
        let reads = self.registers.config_reads;
        if let Some(torn) = self.knobs.torn.take_if(|torn| reads >= torn.after_reads) {
            self.config = torn.then;
            self.registers.generation = self.registers.generation.wrapping_add(1);
            self.registers.isr |= 2;
        }
        self.registers.config_reads += 1;
        if self.manners.config_width.is_some_and(|only| only != width) {
            return Some(vec![0xff; width]);
        }
        let bytes = self.config.bytes(self.knobs.offered);
        Some(bytes.get(offset..offset.checked_add(width)?)?.to_vec())
    }

    /// Whether the write lies inside what is exposed.
    pub fn write_config(&mut self, offset: usize, bytes: &[u8]) -> bool {
        self.access(Access::ConfigWrite {
            offset,
            bytes: bytes.to_vec(),
        });
        self.expect_phase("GV-INIT-2", "config written", status_bit::FEATURES_OK, 0);
        if offset != config::BYPASS || bytes.len() != 1 {
            self.wrong(
                "DN-CFG-2",
                format!("config written, {} bytes at {offset}", bytes.len()),
            );
            return offset + bytes.len() <= self.config.len;
        }
        if !self.negotiated(feature::BYPASS_CONFIG) {
            self.wrong("DN-CFG-1", "bypass written without the feature");
            self.refuse_bypass();
            return true;
        }
        let value = bytes[0];
        if value > 1 {
            self.wrong("DN-CFG-3", format!("{value:#x} written to bypass"));
            self.refuse_bypass();
            return true;
        }
        if !self.knobs.bypass_stuck {
            self.config.bypass = (self.config.bypass & !1) | value;
            self.config.bypasses_until_written = false;
        }
        offset < self.config.len
    }

    fn refuse_bypass(&mut self) {
        if self.manners.bypass_breaks {
            self.break_down();
        }
    }

    pub fn acknowledge_interrupt(&mut self) -> u32 {
        self.access(Access::InterruptAck);
        std::mem::take(&mut self.registers.isr)
    }

    pub fn set_guest_page_size(&mut self, size: u32) {
        // Only a legacy device has such a register.
        self.access(Access::GuestPageSize(size));
    }

    pub fn read_legacy_layout(&mut self) -> bool {
        self.access(Access::LegacyLayout);
        self.knobs.legacy_layout
    }

    pub fn transport_dropped(&mut self) {
        self.log.push(Access::Dropped);
    }
}
