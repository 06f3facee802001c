//! What a device does, or should, and what a driver makes of it: the rules of §5.13 for devices,
//! and three things that are not rules and happen all the same.

use crate::conformance::Level::{May, Must, Should, Text};
use crate::conformance::Oracle::{Dma, Model, Ret, Trace};
use crate::conformance::Rule;

const FEATURES: &str = "5.13.3.2";
const CONFIG: &str = "5.13.4.2";
const INIT: &str = "5.13.5.2";
const OPERATIONS: &str = "5.13.6.2";
const ATTACH: &str = "5.13.6.3.2";
const DETACH: &str = "5.13.6.4.2";
const MAP: &str = "5.13.6.5.2";
const UNMAP: &str = "5.13.6.6.2";
const PROBE: &str = "5.13.6.7.2";
const RESV_MEM: &str = "5.13.6.8.2";
const FAULTS: &str = "5.13.6.9.2";

/// The driver has nothing to bear.
const DUTY: &str = "a duty of the device, on which this driver does not rely";
/// The device need not decide.
const NEVER_SENT: &str =
    "the driver never sends what this would decide: see the rule of the driver";

#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    Rule::new("DV-FEAT-1", Should, FEATURES, "MAP_UNMAP is offered; a device without it is refused in good order.", &[Model]),
    Rule::new("DV-FEAT-2", Should, FEATURES, "BYPASS, the old feature, is not offered; where it is, it is not accepted.", &[Model]),
    Rule::new("DV-FEAT-3", Should, FEATURES, "BYPASS and BYPASS_CONFIG are not offered together; where they are, the new one is accepted.", &[Model]),
    Rule::new("DV-CFG-1", Must, CONFIG, "`page_size_mask` has a bit; 0 is refused.", &[Model]),
    Rule::new("DV-CFG-2", May, CONFIG, "`page_size_mask` may have more; the lowest is the granule.", &[Model]),
    Rule::new("DV-CFG-3", May, CONFIG, "`bypass` may be 1 at first; it is 0 before an endpoint is trusted to be blocked.", &[Model, Dma]),
    Rule::new("DV-CFG-4", Should, CONFIG, "`bypass` outlives a reset of the device; it is written again at each start.", &[Model, Dma]),
    Rule::not_applicable("DV-CFG-5", Should, CONFIG, "`bypass` comes back with a reset of the machine.", DUTY),
    Rule::new("DV-CFG-6", Must, CONFIG, "`bypass` reads as 0 or 1; other bits are masked all the same.", &[Model]),
    Rule::new("DV-RST-T", Text, INIT, "A reset detaches all endpoints; QEMU's does not: each is scrubbed at the start.", &[Model, Dma]),
    Rule::not_applicable("DV-OPS-1", Should, OPERATIONS, "The status of what was done is OK.", DUTY),
    Rule::new("DV-OPS-2", Should, OPERATIONS, "Nothing is written for an unknown type; used length 0 is a failure.", &[Model]),
    Rule::new("DV-OPS-3", Should, OPERATIONS, "The used length is 0 then; QEMU says UNSUPP instead: both are failures.", &[Model]),
    Rule::not_applicable("DV-OPS-4", Must, OPERATIONS, "The reserved bytes of the head are ignored.", NEVER_SENT),
    Rule::new("DV-OPS-5", Should, OPERATIONS, "The reserved bytes of the tail are 0; others do no harm.", &[Model]),
    Rule::new("DV-OPS-6", Should, OPERATIONS, "Endpoints without a domain reach no memory.", &[Dma]),
    Rule::not_applicable("DV-ATT-1", Must, ATTACH, "Reserved bytes of ATTACH that are not 0 are refused.", NEVER_SENT),
    Rule::not_applicable("DV-ATT-2", Must, ATTACH, "Unknown flags of ATTACH are refused.", NEVER_SENT),
    Rule::new("DV-ATT-3", Must, ATTACH, "Unknown endpoints are refused; ids that were not listed are not even sent.", &[Ret]),
    Rule::new("DV-ATT-4", May, ATTACH, "Several endpoints may share a domain.", &[Model]),
    Rule::new("DV-ATT-5", Must, ATTACH, "Where they may not, the second is refused with UNSUPP, and the first keeps working.", &[Model]),
    Rule::new("DV-ATT-6", Should, ATTACH, "A refused ATTACH may leave the endpoint without its old domain; it counts as detached.", &[Model]),
    Rule::new("DV-ATT-7", Should, ATTACH, "An ATTACH elsewhere detaches first, and ends a domain that is left by its last endpoint.", &[Model, Dma]),
    Rule::new("DV-ATT-8", Should, ATTACH, "The old mappings are out of reach then.", &[Model, Dma]),
    Rule::new("DV-ATT-9", Must, ATTACH, "A device that cannot do so says UNSUPP; DETACH is sent first then.", &[Model]),
    Rule::new("DV-ATT-10", Should, ATTACH, "Endpoints that fit together are attached together; the driver merges their regions.", &[Ret]),
    Rule::new("DV-ATT-11", Should, ATTACH, "Endpoints that do not fit are refused; the driver refuses before.", &[Ret]),
    Rule::new("DV-ATT-12", Must, ATTACH, "What was not refused is attached.", &[Dma]),
    Rule::not_applicable("DV-DET-1", Must, DETACH, "The reserved bytes of DETACH are ignored.", NEVER_SENT),
    Rule::new("DV-DET-2", Must, DETACH, "Unknown endpoints: NOENT; an endpoint that is not attached counts as detached.", &[Model]),
    Rule::new("DV-DET-3", May, DETACH, "The wrong domain: INVAL; the endpoint counts as detached.", &[Model]),
    Rule::new("DV-DET-4", Must, DETACH, "Old mappings are out of reach after DETACH.", &[Dma]),
    Rule::new("DV-MAP-1", Should, MAP, "What is not aligned is refused; QEMU's device takes it: the driver refuses.", &[Ret]),
    Rule::new("DV-MAP-2", Should, MAP, "What overlaps is refused; the driver refuses before.", &[Ret]),
    Rule::not_applicable("DV-MAP-3", Must, MAP, "Unknown flags of MAP are refused.", NEVER_SENT),
    Rule::new("DV-MAP-4", Should, MAP, "A domain without endpoints does not exist: nothing is mapped there, and its mappings are restored with the next endpoint.", &[Ret, Model]),
    Rule::not_applicable("DV-MAP-5", Should, MAP, "MAP in a bypass domain is refused.", NEVER_SENT),
    Rule::new("DV-MAP-6", Must, MAP, "No write without WRITE.", &[Dma]),
    Rule::not_applicable("DV-MAP-7", May, MAP, "Reads of what is mapped for writing may be allowed.", "nothing that an endpoint must not read is mapped for writing: new contents are concealed first"),
    Rule::not_applicable("DV-UNM-1", May, UNMAP, "Reserved bytes of UNMAP that are not 0 may be refused.", NEVER_SENT),
    Rule::not_applicable("DV-UNM-2", May, UNMAP, "They may be ignored as well.", NEVER_SENT),
    Rule::new("DV-UNM-3", Should, UNMAP, "An unknown domain: NOENT; so the driver learns which ids are free.", &[Model]),
    Rule::not_applicable("DV-UNM-4", Should, UNMAP, "UNMAP in a bypass domain is refused.", NEVER_SENT),
    Rule::new("DV-UNM-5", Should, UNMAP, "What would split a mapping is refused; the driver refuses before.", &[Ret]),
    Rule::new("DV-UNM-6", Should, UNMAP, "A refused UNMAP removes nothing; QEMU's may: its addresses are quarantined.", &[Model]),
    Rule::new("DV-UNM-7", Should, UNMAP, "A range that is mapped in part is unmapped; one UNMAP may end several mappings.", &[Model, Trace]),
    Rule::not_applicable("DV-PRB-1", Must, PROBE, "The reserved bytes of PROBE are ignored.", NEVER_SENT),
    Rule::new("DV-PRB-2", Should, PROBE, "An unknown endpoint: NOENT, and the start fails.", &[Model]),
    Rule::new("DV-PRB-3", Should, PROBE, "Without the feature, PROBE is not answered; it is not sent.", &[Model]),
    Rule::new("DV-PRB-4", Should, PROBE, "Its used length is 0 then; it is not sent.", &[Model]),
    Rule::not_applicable("DV-PRB-5", Should, PROBE, "The reserved bits of a type are 0.", DUTY),
    Rule::new("DV-PRB-6", Must, PROBE, "The length does not count the head of a property; one beyond the end is noticed.", &[Model]),
    Rule::new("DV-PRB-7", Must, PROBE, "The next property is right behind; a list may end anywhere.", &[Model]),
    Rule::new("DV-PRB-8", Should, PROBE, "Where there is no room, nothing is written; a used length that does not fit is not believed.", &[Model]),
    Rule::new("DV-PRB-9", Should, PROBE, "The status is INVAL then; the tail is read only where the used length covers it.", &[Model]),
    Rule::new("DV-PRB-10", Should, PROBE, "The rest of the place is 0; what is behind the end of the list means nothing.", &[Model]),
    Rule::not_applicable("DV-RSV-1", Should, RESV_MEM, "The reserved bytes of a region are 0.", DUTY),
    Rule::new("DV-RSV-2", Should, RESV_MEM, "One MSI region; several are borne.", &[Model]),
    Rule::new("DV-RSV-3", Should, RESV_MEM, "Regions do not overlap; where they do, they are merged.", &[Model]),
    Rule::new("DV-RSV-4", Should, RESV_MEM, "MAP over a region is refused; QEMU's device takes it: the driver refuses.", &[Ret]),
    Rule::not_applicable("DV-RSV-5", Should, RESV_MEM, "Accesses to a region concern nobody else.", DUTY),
    Rule::not_applicable("DV-FLT-1", Should, FAULTS, "Reserved bytes of a report are 0.", DUTY),
    Rule::not_applicable("DV-FLT-2", Should, FAULTS, "Undefined flags of a report are 0.", DUTY),
    Rule::new("DV-FLT-3", Should, FAULTS, "The endpoint is one that exists; any other does no harm.", &[Model]),
    Rule::new("DV-FLT-4", May, FAULTS, "The address may be left out, and the direction.", &[Model]),
    Rule::new("DV-FLT-5", Should, FAULTS, "A report does not span buffers; each buffer has room for a whole one.", &[Model]),
    Rule::new("DV-FLT-6", May, FAULTS, "A report may be of an older, shorter form; it is counted, and its buffer comes back.", &[Model]),
    Rule::new("DV-FLT-T", Text, FAULTS, "Without a buffer, reports are lost; the driver says that some may be.", &[Model, Dma]),
    Rule::new("DV-FLT-R", Text, FAULTS, "QEMU's device says UNKNOWN where DOMAIN is meant; both are borne.", &[Dma]),
];
