//! What virtio asks of every driver, as far as it applies to split rings over PCI and MMIO.

use crate::conformance::Level::{Must, Should, Text};
use crate::conformance::Oracle::{Model, Qmp, Trace};
use crate::conformance::Rule;

/// Who keeps the rules of registers.
const TRANSPORT: &str = "the transport of `virtio-drivers` does it";
const PACKED: &str = "RING_PACKED is not accepted: see GV-PACKED";

#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    Rule::new("GV-INIT-1", Must, "3.1.1", "The steps of the start are taken in their order: reset, ACKNOWLEDGE, DRIVER, features, FEATURES_OK, queues, DRIVER_OK.", &[Model, Trace]),
    Rule::new("GV-INIT-2", Must, "2.5.1", "The configuration is not written before FEATURES_OK.", &[Model]),
    Rule::new("GV-INIT-3", Must, "3.1.1", "No features are accepted after FEATURES_OK.", &[Model]),
    Rule::new("GV-INIT-4", Text, "3.1.1", "FEATURES_OK is read back; where it did not stay, the device is not used.", &[Model]),
    Rule::new("GV-INIT-5", Must, "3.1.1", "A driver that gives up sets FAILED and does not go on; a reset comes before the next try.", &[Model, Qmp]),
    Rule::new("GV-INIT-6", Must, "3.1.1", "The device is not notified before DRIVER_OK.", &[Model, Trace]),
    Rule::new("GV-STAT-1", Must, "2.1.1", "Bits of the status are set one after the other, and cleared by a reset only.", &[Model, Trace]),
    Rule::new("GV-STAT-2", Should, "2.1.1", "A device that needs a reset is not relied on; waits for it end.", &[Model]),
    Rule::new("GV-RST-1", Should, "2.4.2", "A reset is waited for until the status reads 0.", &[Model]),
    Rule::new("GV-FEAT-1", Must, "2.2.1", "No feature is accepted that was not offered, or without what it needs.", &[Model, Qmp]),
    Rule::new("GV-FEAT-2", Must, "2.2.1", "Unknown and reserved features are never accepted.", &[Model]),
    Rule::new("GV-FEAT-3", Must, "2.2.1", "An unknown feature is no reason to fail.", &[Model]),
    Rule::new("GV-V1", Must, "6.1", "VERSION_1 is accepted.", &[Model, Qmp]),
    Rule::new("GV-ACC", Must, "6.1", "ACCESS_PLATFORM is accepted.", &[Model, Qmp]),
    Rule::new("GV-ORD", Should, "6.1", "ORDER_PLATFORM is accepted, and barriers are those of the hardware.", &[Model]),
    Rule::deviation("GV-PACKED", Should, "6.1", "RING_PACKED is accepted.", "not accepted in this release: the rings are split ones, with fixed slots whose descriptors are linked once"),
    Rule::deviation("GV-NCD", Should, "6.1", "NOTIF_CONFIG_DATA is accepted.", "not accepted: the transport of `virtio-drivers` notifies with the number of the queue"),
    Rule::new("GV-SUSP", Should, "2.1.1 (1.4)", "SUSPEND is not set in the status without its feature.", &[Model]),
    Rule::new("GV-CFG-1", Must, "2.5.1", "Fields of more than 32 bits, and several fields, are read until no change came in between.", &[Model]),
    Rule::new("GV-CFG-2", Must, "2.5.1", "A field is read only if the feature it depends on is offered.", &[Model]),
    Rule::new("GV-CFG-3", Must, "2.5.1", "A configuration that is larger than known is accepted.", &[Model]),
    Rule::new("GV-VQ-1", Must, "2.7", "The parts of a queue are aligned to 16, 2 and 4 bytes.", &[Model, Qmp]),
    Rule::new("GV-VQ-2", Must, "2.7.4.2", "What the device writes comes behind what it reads.", &[Model]),
    Rule::new("GV-VQ-3", Must, "2.7.5.1", "Chains have an end, and are not longer than the queue.", &[Model]),
    Rule::new("GV-VQ-4", Must, "2.7.13.3", "The available index only grows, behind what it makes available.", &[Model]),
    Rule::new("GV-VQ-5", Must, "2.7.8", "Nothing is read beyond the used length, and no answer is taken for another.", &[Model]),
    Rule::new("GV-VQ-6", Must, "3.3.1", "What the device may use is neither changed nor given back before a confirmed reset.", &[Model]),
    Rule::new("GV-NOTIF-1", Must, "2.7.10.1", "The device is notified unless it asks not to be.", &[Model, Trace]),
    Rule::not_applicable("GV-NOTIF-2", Must, "2.7.10.1", "With EVENT_IDX, indices decide about notifications.", "EVENT_IDX is not accepted"),
    Rule::not_applicable("GV-IND", Must, "2.7.5.3.1", "Indirect tables are used only where negotiated, and are not nested.", "INDIRECT_DESC is not accepted; the model refuses an indirect descriptor"),
    Rule::not_applicable("GV-IO", Must, "2.7.9", "With IN_ORDER, descriptors are used in sequence.", "IN_ORDER is not accepted"),
    Rule::not_applicable("GV-RR", Must, "2.6.1", "A queue that is reset alone is waited for.", "RING_RESET is not accepted: queues are reset with their device"),
    Rule::not_applicable("GV-PK-1", Must, "2.8", "Packed: the parts of a queue are aligned.", PACKED),
    Rule::not_applicable("GV-PK-2", Must, "2.8.21", "Packed: the flags of the first descriptor are written behind a barrier.", PACKED),
    Rule::not_applicable("GV-PK-3", Must, "2.8.21", "Packed: the first descriptor of a list is made available last.", PACKED),
    Rule::not_applicable("GV-PK-4", Must, "2.8.6", "Packed: there is room for a whole list.", PACKED),
    Rule::not_applicable("GV-PK-5", Must, "2.8.7", "Packed: indirect descriptors have no flag but WRITE.", PACKED),
    Rule::not_applicable("GV-PK-6", Must, "2.8.1", "Packed: the wrap counters are kept.", PACKED),
    Rule::new("GV-PCI-1", Must, "4.1.2", "Vendor 1af4 and device 1057 of any revision are matched; capabilities are read as they are.", &[Model]).delegated("the walk of the bus is ours; the capabilities of virtio are read by `virtio-drivers`"),
    Rule::new("GV-PCI-2", Must, "4.1.3.1", "Fields are accessed in their own width, those of 64 bits in halves.", &[Model]).delegated(TRANSPORT),
    Rule::new("GV-PCI-3", Must, "4.1.4.3.2", "Queues are set up before they are enabled, with a size that is a power of two.", &[Model, Qmp]).delegated("`virtio-drivers` writes the registers, with the sizes that the driver says"),
    Rule::new("GV-PCI-4", Must, "4.1.5.2", "A notification is 16 bits wide: the number of the queue, at its own offset.", &[Trace]).delegated(TRANSPORT),
    Rule::not_applicable("GV-PCI-5", Must, "4.1.5.1.2", "A table of MSI-X of any size is borne, and vectors are read back.", "the driver sets no vectors: QEMU's device has no MSI-X, and interrupts by pin or polling are enough"),
    Rule::new("GV-PCI-6", Should, "4.1.4.5", "The interrupt status is read, and thereby acknowledged, only with interrupts by pin.", &[Model]).delegated(TRANSPORT),
    Rule::new("GV-MMIO-1", Must, "4.2.2.2", "Magic, version and device id are looked at before anything is written.", &[Trace]).delegated(TRANSPORT),
    Rule::new("GV-MMIO-2", Must, "4.2.2.2", "Registers are accessed with 32 bits, those for reading are not written nor those for writing read; halves of the features are selected first.", &[Trace]).delegated(TRANSPORT),
    Rule::new("GV-MMIO-3", Must, "4.2.2.2", "A queue is not larger than allowed, and is not changed while it is ready.", &[Trace]).delegated(TRANSPORT),
    Rule::new("GV-MMIO-4", Must, "4.2.2.2", "Interrupts are acknowledged with the bits that were read.", &[Trace]).delegated(TRANSPORT),
    Rule::new("GV-SHM", Must, "4.2.2.2", "Registers of shared memory are left alone.", &[Trace]).delegated(TRANSPORT),
];
