//! One model device: what it offers, what it has seen, what it is.

use std::sync::Arc;

use virtio_drivers::transport::DeviceType;

use super::config::{ConfigSpace, Generation, ResetBehaviour, Torn};
use super::events::{Events, FaultStyle};
use super::journal::Note;
use super::memory::GuestRam;
use super::personality::Manners;
use super::queue::VirtQueue;
use super::registers::{Access, Registers};
use super::requests::{Held, Seen};
use super::script::{Answer, Order};
use super::spec::{EVENT_QUEUE, REQUEST_QUEUE, feature, status_bit};
use super::unit::Unit;
use super::violations::Violations;

/// When requests are processed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Inside the notification, all of them.
    #[default]
    OnNotify,
    /// At most this many at each look at the platform's clock.
    OnTick(usize),
    /// When the test calls [`Device::process`].
    Manual,
}

/// What a test can turn before or during a run.
pub struct Knobs {
    pub device_type: DeviceType,
    pub legacy_layout: bool,
    pub offered: u64,
    /// FEATURES_OK does not stick.
    pub refuse_features: bool,
    /// The status register reads as this, whatever is written.
    pub status_reads: Option<u32>,
    pub reset: ResetBehaviour,
    pub queue_sizes: [u32; 2],
    pub torn: Option<Torn>,
    pub generation: Generation,
    /// Writes to `bypass` are lost.
    pub bypass_stuck: bool,
    /// DEVICE_NEEDS_RESET is set just before this register access, counted from 0.
    pub needs_reset_at: Option<u64>,
    pub mode: Mode,
    pub order: Order,
    /// Asks the driver not to notify, and polls at each look at the clock instead.
    pub no_notify: bool,
    /// More than one descriptor in a half of a request is noted.
    pub one_descriptor_per_half: bool,
    /// cloud-hypervisor: a refusal writes its status and returns used length 0.
    pub refusals_have_length_zero: bool,
    pub faults: FaultStyle,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            device_type: DeviceType::IOMMU,
            legacy_layout: false,
            offered: feature::ALL_OF_THE_DEVICE | feature::VERSION_1,
            refuse_features: false,
            status_reads: None,
            reset: ResetBehaviour::Immediate,
            queue_sizes: [64, 64],
            torn: None,
            generation: Generation::True,
            bypass_stuck: false,
            needs_reset_at: None,
            mode: Mode::OnNotify,
            order: Order::Fifo,
            no_notify: false,
            one_descriptor_per_half: true,
            refusals_have_length_zero: false,
            faults: FaultStyle::default(),
        }
    }
}

pub type Script = Box<dyn FnMut(&Seen) -> Answer + Send>;
pub type TickHook = Box<dyn FnMut(&mut Device, u64) + Send>;

/// One virtio-iommu.
pub struct Device {
    pub knobs: Knobs,
    pub manners: Manners,
    pub config: ConfigSpace,
    pub unit: Unit,
    /// Every access to a register, in order.
    pub log: Vec<Access>,
    /// Every request that was taken from the ring, in order.
    pub seen: Vec<Seen>,
    pub registers: Registers,
    pub events: Events,
    pub queues: [Option<VirtQueue>; 2],
    pub violations: Violations,
    pub(super) ram: Arc<GuestRam>,
    pub(super) script: Option<Script>,
    pub(super) on_tick: Option<TickHook>,
    pub(super) held: Vec<Held>,
    /// Looks at the clock so far.
    pub(super) ticks: u64,
    /// What has happened to requests, if somebody wants to know.
    pub journal: Option<Vec<Note>>,
    /// An answer of the script has misled the driver, who cannot know the state any more.
    pub(super) lied: bool,
}

impl Device {
    pub fn new(ram: Arc<GuestRam>, violations: Violations) -> Self {
        Self {
            knobs: Knobs::default(),
            manners: Manners::default(),
            config: ConfigSpace::default(),
            unit: Unit::default(),
            log: Vec::new(),
            seen: Vec::new(),
            registers: Registers::default(),
            events: Events::default(),
            queues: [None, None],
            violations,
            ram,
            script: None,
            on_tick: None,
            held: Vec::new(),
            ticks: 0,
            journal: None,
            lied: false,
        }
    }

    /// Whether the device processes its queues.
    pub fn is_live(&self) -> bool {
        let status = self.registers.status;
        status & status_bit::DRIVER_OK != 0 && status & status_bit::NEEDS_RESET == 0
    }

    pub fn negotiated(&self, bit: u64) -> bool {
        self.registers.accepted & bit != 0
    }

    pub fn offers(&self, bit: u64) -> bool {
        self.knobs.offered & bit != 0
    }

    /// Whether endpoints that are attached to no domain see guest-physical memory.
    pub fn unattached_bypass(&self) -> bool {
        let by_config = self.config.bypass & 1 != 0 || self.config.bypasses_until_written;
        (self.offers(feature::BYPASS_CONFIG) && by_config) || self.negotiated(feature::BYPASS)
    }

    /// Enters the error state that only a reset ends.
    pub fn break_down(&mut self) {
        self.registers.status |= status_bit::NEEDS_RESET;
        self.registers.isr |= 2;
    }

    /// Notifications of one queue since the last reset.
    pub fn kicks(&self, queue: u16) -> u64 {
        self.registers.kicks[usize::from(queue & 1)]
    }

    /// One look of the driver at the clock.
    pub fn tick(&mut self, calls: u64) {
        self.ticks = calls;
        self.release_due();
        if let Some(mut hook) = self.on_tick.take() {
            hook(self, calls);
            self.on_tick.get_or_insert(hook);
        }
        if self.knobs.no_notify {
            for queue in [REQUEST_QUEUE, EVENT_QUEUE] {
                if let Some(queue) = &mut self.queues[usize::from(queue)] {
                    queue.poll(&self.ram, &self.violations);
                }
            }
        }
        match self.knobs.mode {
            Mode::OnTick(most) => {
                self.process(most);
            }
            Mode::OnNotify if self.knobs.no_notify => {
                self.process(usize::MAX);
            }
            _ => {}
        }
    }
}
