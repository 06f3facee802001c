//! What a virtio-iommu remembers: endpoints, domains, mappings (virtio 1.2 §5.13.6), in the most
//! naive form there is. Also the judge of every DMA.

use std::collections::{BTreeMap, BTreeSet};

use super::spec::{self, MAP_F_READ, MAP_F_WRITE, status};

/// A virtual region created with a single MAP request; ends are inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    pub start: u64,
    pub end: u64,
    pub phys: u64,
    pub flags: u32,
}

/// A chunk of reserved virtual memory, as a RESV_MEM property describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    pub subtype: u8,
    pub start: u64,
    pub end: u64,
}

impl Region {
    pub const fn reserved(start: u64, end: u64) -> Self {
        Self {
            subtype: spec::RESV_MEM_T_RESERVED,
            start,
            end,
        }
    }

    pub const fn msi(start: u64, end: u64) -> Self {
        Self {
            subtype: spec::RESV_MEM_T_MSI,
            start,
            end,
        }
    }
}

/// One endpoint that exists.
#[derive(Clone, Debug, Default)]
pub struct Endpoint {
    pub regions: Vec<Region>,
    /// A PROBE of it was answered since the last reset.
    pub probed: bool,
    /// The domain that it is attached to.
    pub domain: Option<u32>,
    /// In no domain after a refused ATTACH, which some devices tell from one that was detached.
    pub astray: bool,
}

/// One domain: exists from its first ATTACH until its last endpoint has left.
#[derive(Clone, Debug, Default)]
pub struct DomainState {
    pub bypass: bool,
    pub mappings: Vec<Mapping>,
}

/// What an endpoint tries to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// Where an access lands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landing {
    /// At this guest-physical address.
    Memory(u64),
    /// At the doorbell that an MSI region describes: no memory.
    Doorbell,
}

/// Why an access does not land: a reason of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocked {
    pub reason: u8,
    /// There is a mapping, and it does not allow it.
    pub by_permission: bool,
}

impl Blocked {
    const fn because(reason: u8) -> Self {
        Self {
            reason,
            by_permission: false,
        }
    }
}

/// Ways in which real devices differ and which the specification allows, or bears.
#[derive(Clone, Debug, Default)]
pub struct Quirks {
    /// QEMU 10: attachments and mappings outlive a device reset.
    pub state_outlives_reset: bool,
    /// crosvm: no more endpoints than this in one domain, else UNSUPP.
    pub endpoints_per_domain: Option<usize>,
    /// cloud-hypervisor: no more mappings than this in one domain, else NOMEM.
    pub mappings_per_domain: Option<usize>,
    /// §5.13.6.6.2: reads of a range that was mapped for writing only are allowed.
    pub write_implies_read: bool,
    /// QEMU: an ATTACH to the same domain starts it anew, without its mappings.
    pub reattach_drops_mappings: bool,
    /// QEMU: an ATTACH that is refused leaves the endpoint without a domain.
    pub refused_attach_detaches: bool,
    /// An ATTACH of an endpoint that is attached elsewhere: UNSUPP instead of an implicit DETACH.
    pub no_implicit_detach: bool,
    /// QEMU: a refused UNMAP has removed the mappings that it covered entirely.
    pub refused_unmap_removes: bool,
    /// QEMU: neither reserved regions nor the ends of the physical space are looked at.
    pub takes_all_mappings: bool,
    /// QEMU: DETACH of an endpoint that is attached nowhere is NOENT, not INVAL.
    pub absent_is_noent: bool,
    /// QEMU: an id with higher bits exists if the lower 16 do, and to attach it has no effect.
    pub endpoint_ids_have_16_bits: bool,
    /// QEMU: faults of endpoints that are attached nowhere have the reason UNKNOWN.
    pub forgets_detached: bool,
    /// crosvm: DETACH from a domain with other endpoints in it is UNSUPP.
    pub shared_detach_is_unsupp: bool,
    /// cloud-hypervisor: no more domains than this, else NOMEM.
    pub domains: Option<usize>,
    /// cloud-hypervisor: every endpoint id exists.
    pub any_endpoint: bool,
    /// cloud-hypervisor: DETACH is answered with OK, whatever it names.
    pub detach_never_fails: bool,
    /// cloud-hypervisor: whoever has a mapping may read and write.
    pub ignores_access: bool,
}

/// The state of one virtio-iommu.
#[derive(Clone, Debug, Default)]
pub struct Unit {
    pub endpoints: BTreeMap<u32, Endpoint>,
    pub domains: BTreeMap<u32, DomainState>,
    pub quirks: Quirks,
}

/// A request that is not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: u8,
    /// The rule that makes the device refuse, if a careful driver does not send such a request.
    pub rule: Option<&'static str>,
    pub why: &'static str,
}

impl Refusal {
    /// The driver could have known.
    pub const fn broken(status: u8, rule: &'static str, why: &'static str) -> Self {
        Self {
            status,
            rule: Some(rule),
            why,
        }
    }

    /// The driver could not have known.
    pub const fn honest(status: u8, why: &'static str) -> Self {
        Self {
            status,
            rule: None,
            why,
        }
    }
}

/// How a request ended.
pub type Verdict = Result<(), Refusal>;

impl Unit {
    /// §5.13.5: "When the device is reset, endpoints are not attached to any domain."
    pub fn reset(&mut self) {
        for endpoint in self.endpoints.values_mut() {
            endpoint.probed = false;
        }
        if self.quirks.state_outlives_reset {
            return;
        }
        self.domains.clear();
        for endpoint in self.endpoints.values_mut() {
            endpoint.domain = None;
        }
    }

    /// Endpoints in `domain`.
    pub fn members(&self, domain: u32) -> BTreeSet<u32> {
        self.endpoints
            .iter()
            .filter(|(_, e)| e.domain == Some(domain))
            .map(|(id, _)| *id)
            .collect()
    }

    /// Attaches without asking: what an earlier driver left behind.
    pub fn seed(&mut self, endpoint: u32, domain: u32, mappings: &[Mapping]) {
        self.endpoints.entry(endpoint).or_default().domain = Some(domain);
        let state = self.domains.entry(domain).or_default();
        state.mappings.extend_from_slice(mappings);
    }

    pub fn attach(&mut self, domain: u32, endpoint: u32, bypass: bool) -> Verdict {
        if self.is_alias(endpoint) {
            return Ok(());
        }
        if self.quirks.any_endpoint {
            self.endpoints.entry(endpoint).or_default();
        }
        let refused = self.attach_or_refuse(domain, endpoint, bypass);
        if refused.is_err() && self.quirks.refused_attach_detaches {
            self.leave(endpoint);
            if let Some(endpoint) = self.endpoints.get_mut(&endpoint) {
                endpoint.astray = true;
            }
        }
        refused
    }

    /// An id that exists only because its higher bits are not looked at.
    fn is_alias(&self, endpoint: u32) -> bool {
        self.quirks.endpoint_ids_have_16_bits
            && endpoint > 0xffff
            && self.endpoints.contains_key(&(endpoint & 0xffff))
    }

    fn attach_or_refuse(&mut self, domain: u32, endpoint: u32, bypass: bool) -> Verdict {
        let Some(found) = self.endpoints.get(&endpoint) else {
            return Err(Refusal::honest(status::NOENT, "no such endpoint"));
        };
        let before = found.domain;
        let regions = found.regions.clone();
        if let Some(state) = self.domains.get(&domain) {
            if state.bypass != bypass {
                return Err(Refusal::broken(
                    status::INVAL,
                    "DN-ATTACH-3",
                    "bypass flag disagrees with the domain",
                ));
            }
            let others = self.members(domain).iter().any(|id| *id != endpoint);
            if others
                && self
                    .quirks
                    .endpoints_per_domain
                    .is_some_and(|limit| self.members(domain).len() >= limit)
            {
                return Err(Refusal::honest(
                    status::UNSUPP,
                    "no more endpoints in this domain",
                ));
            }
            let clash = state
                .mappings
                .iter()
                .any(|m| regions.iter().any(|r| r.start <= m.end && m.start <= r.end));
            if clash && !self.quirks.takes_all_mappings {
                return Err(Refusal::broken(
                    status::UNSUPP,
                    "DN-RESV-1",
                    "the endpoint reserves addresses that the domain has mapped",
                ));
            }
        }
        if before.is_some_and(|old| old != domain) && self.quirks.no_implicit_detach {
            return Err(Refusal::honest(
                status::UNSUPP,
                "attached to another domain",
            ));
        }
        let full = |most: usize| self.domains.len() >= most && !self.domains.contains_key(&domain);
        if self.quirks.domains.is_some_and(full) {
            return Err(Refusal::honest(status::NOMEM, "no more domains"));
        }
        if before != Some(domain) || self.quirks.reattach_drops_mappings {
            self.leave(endpoint);
        }
        self.domains.entry(domain).or_default().bypass = bypass;
        if let Some(endpoint) = self.endpoints.get_mut(&endpoint) {
            endpoint.domain = Some(domain);
            endpoint.astray = false;
        }
        Ok(())
    }

    pub fn detach(&mut self, domain: u32, endpoint: u32) -> Verdict {
        if self.quirks.detach_never_fails {
            let found = self.endpoints.get(&endpoint);
            if found.is_some_and(|found| found.domain == Some(domain)) {
                self.leave(endpoint);
            }
            return Ok(());
        }
        let Some(found) = self.endpoints.get(&endpoint) else {
            return Err(Refusal::honest(status::NOENT, "no such endpoint"));
        };
        if self.quirks.absent_is_noent && found.domain.is_none() {
            return Err(Refusal::honest(status::NOENT, "attached nowhere"));
        }
        if found.domain != Some(domain) {
            return Err(Refusal::honest(
                status::INVAL,
                "not attached to this domain",
            ));
        }
        if self.quirks.shared_detach_is_unsupp && self.members(domain).len() > 1 {
            return Err(Refusal::honest(status::UNSUPP, "others are in this domain"));
        }
        self.leave(endpoint);
        if let Some(endpoint) = self.endpoints.get_mut(&endpoint) {
            endpoint.astray = false;
        }
        Ok(())
    }

    fn leave(&mut self, endpoint: u32) {
        let Some(domain) = self
            .endpoints
            .get_mut(&endpoint)
            .and_then(|e| e.domain.take())
        else {
            return;
        };
        if self.members(domain).is_empty() {
            self.domains.remove(&domain);
        }
    }

    /// Whether a member of `domain` has a region where `mapping` shall be.
    pub fn is_reserved(&self, domain: u32, mapping: &Mapping) -> bool {
        let touches = |r: &Region| r.start <= mapping.end && mapping.start <= r.end;
        let members = self.endpoints.values().filter(|e| e.domain == Some(domain));
        members.flat_map(|e| &e.regions).any(touches)
    }

    /// A MAP whose flags and ranges were found to be well-formed, and free of reserved regions.
    pub fn map(&mut self, domain: u32, mapping: Mapping) -> Verdict {
        let limit = self.quirks.mappings_per_domain;
        let Some(state) = self.domains.get_mut(&domain) else {
            return Err(Refusal::broken(status::NOENT, "DV-MAP-4", "no such domain"));
        };
        if state.bypass {
            return Err(Refusal::broken(
                status::INVAL,
                "DN-MAP-2",
                "MAP in a bypass domain",
            ));
        }
        if state
            .mappings
            .iter()
            .any(|m| m.start <= mapping.end && mapping.start <= m.end)
        {
            return Err(Refusal::broken(
                status::INVAL,
                "DV-MAP-2",
                "a mapping exists in the range",
            ));
        }
        if limit.is_some_and(|limit| state.mappings.len() >= limit) {
            return Err(Refusal::honest(
                status::NOMEM,
                "no more mappings in this domain",
            ));
        }
        state.mappings.push(mapping);
        Ok(())
    }

    pub fn unmap(&mut self, domain: u32, start: u64, end: u64) -> Verdict {
        let remove_anyway = self.quirks.refused_unmap_removes;
        let Some(state) = self.domains.get_mut(&domain) else {
            // To ask whether a domain exists is no mistake.
            return Err(Refusal::honest(status::NOENT, "no such domain"));
        };
        if state.bypass {
            return Err(Refusal::broken(
                status::INVAL,
                "DN-UNMAP-6",
                "UNMAP in a bypass domain",
            ));
        }
        let covered = |m: &Mapping| start <= m.start && m.end <= end;
        let split = state
            .mappings
            .iter()
            .any(|m| m.start <= end && start <= m.end && !covered(m));
        if !split || remove_anyway {
            state.mappings.retain(|m| !covered(m));
        }
        if split {
            return Err(Refusal::broken(
                status::RANGE,
                "DN-UNMAP-4",
                "would split a mapping",
            ));
        }
        Ok(())
    }

    /// Where an access of `endpoint` to the byte at `iova` lands, right now.
    ///
    /// `unattached_bypass`: whether endpoints without a domain are in bypass mode.
    pub fn translate(
        &self,
        endpoint: u32,
        iova: u64,
        access: Access,
        unattached_bypass: bool,
    ) -> Result<Landing, Blocked> {
        let Some(found) = self.endpoints.get(&endpoint) else {
            return Err(Blocked::because(spec::FAULT_R_UNKNOWN));
        };
        let Some(domain) = found.domain else {
            if unattached_bypass {
                return Ok(Landing::Memory(iova));
            }
            let forgotten = self.quirks.forgets_detached && !found.astray;
            return Err(Blocked::because(match forgotten {
                true => spec::FAULT_R_UNKNOWN,
                false => spec::FAULT_R_DOMAIN,
            }));
        };
        let mapping_fault = Blocked::because(spec::FAULT_R_MAPPING);
        let state = self.domains.get(&domain).ok_or(mapping_fault)?;
        if state.bypass {
            return Ok(Landing::Memory(iova));
        }
        for region in &found.regions {
            if (region.start..=region.end).contains(&iova) {
                return if region.subtype == spec::RESV_MEM_T_MSI {
                    Ok(Landing::Doorbell)
                } else {
                    Err(mapping_fault)
                };
            }
        }
        let mapping = state
            .mappings
            .iter()
            .find(|m| (m.start..=m.end).contains(&iova))
            .ok_or(mapping_fault)?;
        let readable = mapping.flags & MAP_F_READ != 0
            || (self.quirks.write_implies_read && mapping.flags & MAP_F_WRITE != 0);
        let allowed = match access {
            Access::Read => readable,
            Access::Write => mapping.flags & MAP_F_WRITE != 0,
        };
        if !allowed && !self.quirks.ignores_access {
            return Err(Blocked {
                by_permission: true,
                ..mapping_fault
            });
        }
        let offset = iova - mapping.start;
        Ok(Landing::Memory(mapping.phys.wrapping_add(offset)))
    }
}
