//! What a driver must do: the 43 rules of §5.13 with a key word, and five of its running text.

use crate::conformance::Level::{May, Must, Should, Text};
use crate::conformance::Oracle::{Dma, Fuzz, Model, Qmp, Ret, Trace};
use crate::conformance::Rule;

const FEATURES: &str = "5.13.3.1";
const CONFIG: &str = "5.13.4.1";
const INIT: &str = "5.13.5.1";
const OPERATIONS: &str = "5.13.6.1";
const ATTACH: &str = "5.13.6.3.1";
const DETACH: &str = "5.13.6.4.1";
const MAP: &str = "5.13.6.5.1";
const UNMAP: &str = "5.13.6.6.1";
const PROBE: &str = "5.13.6.7.1";
const RESV_MEM: &str = "5.13.6.8.1";
const FAULTS: &str = "5.13.6.9.1";

#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    Rule::new("DN-FEAT-1", Should, FEATURES, "INPUT_RANGE, DOMAIN_RANGE and PROBE are accepted whenever they are offered.", &[Model, Qmp]),
    Rule::new("DN-CFG-1", May, CONFIG, "`bypass` is written only with BYPASS_CONFIG negotiated.", &[Model, Trace]),
    Rule::new("DN-CFG-2", Must, CONFIG, "No byte of the configuration is written but `bypass`.", &[Model]),
    Rule::new("DN-CFG-3", Must, CONFIG, "Nothing is written to `bypass` but 0 or 1.", &[Model, Trace]),
    Rule::new("DN-CFG-4", Should, CONFIG, "Bits 1 to 7 of `bypass` mean nothing when it is read.", &[Model]),
    Rule::new("DN-INIT-1", Must, INIT, "MAP_UNMAP is accepted only by a driver that can send MAP and UNMAP.", &[Model]),
    Rule::new("DN-INIT-2", Should, INIT, "With PROBE negotiated, an endpoint is probed before it is first attached.", &[Model, Trace]),
    Rule::new("DN-INIT-T1", Text, INIT, "Without MAP_UNMAP the driver gives up in good order.", &[Model]),
    Rule::new("DN-OPS-1", Should, OPERATIONS, "The reserved bytes of the head are 0.", &[Model]),
    Rule::new("DN-OPS-2", Must, OPERATIONS, "The reserved bytes of the tail are ignored.", &[Model]),
    Rule::new("DN-OPS-3", Should, OPERATIONS, "A request that comes back with used length 0 has failed.", &[Model]),
    Rule::new("DN-OPS-4", Must, OPERATIONS, "No address outside of `input_range` is sent.", &[Ret, Trace]),
    Rule::new("DN-OPS-5", Must, OPERATIONS, "No domain id outside of `domain_range` is sent.", &[Ret, Model]),
    Rule::new("DN-ATTACH-1", Should, ATTACH, "The reserved bytes of ATTACH are 0.", &[Model]),
    Rule::new("DN-ATTACH-2", Should, ATTACH, "Endpoints that cannot be isolated from each other are in the same domain.", &[Ret, Trace]),
    Rule::new("DN-ATTACH-3", Should, ATTACH, "The bypass flag is set for a domain that is a bypass domain.", &[Model]),
    Rule::new("DN-ATTACH-4", Should, ATTACH, "The bypass flag is not set for a domain that translates.", &[Model]),
    Rule::new("DN-ATTACH-T1", Text, "5.13.6.3", "The bypass flag is used only with BYPASS_CONFIG negotiated.", &[Ret]),
    Rule::new("DN-DETACH-1", Should, DETACH, "The reserved bytes of DETACH are 0.", &[Model]),
    Rule::new("DN-MAP-1", Should, MAP, "Undefined flags of MAP are 0.", &[Ret, Model]),
    Rule::new("DN-MAP-2", Should, MAP, "Nothing is mapped in a bypass domain.", &[Model]),
    Rule::new("DN-MAP-3", Must, MAP, "`virt_end` is above `virt_start`.", &[Ret]),
    Rule::new("DN-MAP-4", Should, MAP, "Device registers are mapped with the MMIO flag.", &[Model]),
    Rule::new("DN-MAP-5", Should, MAP, "One MAP is for one kind of memory: all of it RAM, or all of it registers.", &[Model]),
    Rule::new("DN-MAP-6", Must, MAP, "READ is set where the endpoint is to read.", &[Model, Dma]),
    Rule::new("DN-MAP-7", Must, MAP, "The MMIO flag is not used without the feature.", &[Ret]),
    Rule::new("DN-MAP-T1", Text, "5.13.6.5", "MAP is sent only with MAP_UNMAP negotiated, for a physical range that does not wrap.", &[Ret]),
    Rule::new("DN-UNMAP-1", Should, UNMAP, "The reserved bytes of UNMAP are 0.", &[Model]),
    Rule::new("DN-UNMAP-2", Should, UNMAP, "The range covers one or more mappings that follow each other.", &[Model, Trace]),
    Rule::new("DN-UNMAP-3", May, UNMAP, "The range may cover addresses that are not mapped.", &[Model, Trace]),
    Rule::new("DN-UNMAP-4", Must, UNMAP, "The first address is the start of a mapping, or not mapped.", &[Ret]),
    Rule::new("DN-UNMAP-5", Must, UNMAP, "The last address is the end of a mapping, or not mapped.", &[Ret]),
    Rule::new("DN-UNMAP-6", Should, UNMAP, "Nothing is unmapped in a bypass domain.", &[Model]),
    Rule::new("DN-PROBE-1", Must, PROBE, "The place for the properties has exactly `probe_size` bytes.", &[Model, Qmp]),
    Rule::new("DN-PROBE-2", Should, PROBE, "The reserved bytes of PROBE are 0.", &[Model]),
    Rule::new("DN-PROBE-3", Should, PROBE, "Properties of an unknown type are ignored.", &[Model, Fuzz]),
    Rule::new("DN-PROBE-4", Should, PROBE, "How long a property is, its length says, and not its type.", &[Model, Fuzz]),
    Rule::new("DN-PROBE-5", Must, PROBE, "A property with a reserved bit in its type is ignored.", &[Model, Fuzz]),
    Rule::new("DN-PROBE-6", Should, PROBE, "The list is read on behind a property that was ignored.", &[Model, Fuzz]),
    Rule::new("DN-RESV-1", Should, RESV_MEM, "Nothing is mapped in a reserved region.", &[Ret, Trace]),
    Rule::new("DN-RESV-2", Must, RESV_MEM, "The reserved bytes of a region are ignored.", &[Model, Fuzz]),
    Rule::new("DN-RESV-3", Should, RESV_MEM, "A region of an unknown subtype counts as RESERVED.", &[Model, Fuzz]),
    Rule::new("DN-RESV-T1", Text, "5.13.6.8", "Where no MSI region is reported, the doorbell of messages is mapped with the MMIO flag.", &[Model, Dma]),
    Rule::new("DN-FAULT-1", Must, FAULTS, "A report with a reserved byte that is not 0 is ignored.", &[Model]),
    Rule::new("DN-FAULT-2", Must, FAULTS, "`reserved1` of a report means nothing.", &[Model]),
    Rule::new("DN-FAULT-3", Must, FAULTS, "Undefined flags of a report mean nothing.", &[Model]),
    Rule::new("DN-FAULT-4", Should, FAULTS, "An unknown reason counts as UNKNOWN.", &[Model]),
    Rule::new("DN-FAULT-T1", Text, "5.13.6.9", "The event queue is filled at the start, and each buffer comes back after it was read.", &[Model, Qmp]),
];
