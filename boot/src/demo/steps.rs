//! The steps.

use virtio_iommu::{Access, Bypass, FaultReason, IovaRange, MapOptions};

use super::stage::{Actor, OTHER, SHORT, SOURCE, Stage, TARGET};
use super::tell::{self, Bytes, access, say};
use super::{Told, wrong};
use crate::buffer::{Buffer, Difference};
use crate::edu::{self, EduError, MAX_TRANSFER};
use crate::platform;
use crate::refusal::{NO_DOMAIN, NO_MAPPING, Refusal, drain};

/// What a step does.
type Step = fn(&mut Stage) -> Told;

/// All steps, in order.
pub const STEPS: &[(&str, Step)] = &[
    (
        "lock-down: a device without a domain reaches nothing",
        lock_down,
    ),
    (
        "attach: the device gets an address space of its own, empty",
        attach,
    ),
    ("map: one page to read, one page to write", map),
    (
        "dma: the device reads the one and writes it to the other",
        dma,
    ),
    ("unmapped: an address that leads nowhere", unmapped),
    (
        "read-only: what is mapped for reading cannot be written",
        read_only,
    ),
    (
        "second device: it does not see what the first one sees",
        second_device,
    ),
    ("unmap: a page that is taken back is out of reach", unmap),
    (
        "detach: without a domain, nothing is in reach again",
        detach,
    ),
    ("the end: nothing is left behind", the_end),
];

fn lock_down(stage: &mut Stage) -> Told {
    let phys = stage.target.phys();
    write(&mut stage.first, phys, SHORT, "the physical address")?;
    let faults = drain(stage.iommu()?);
    // The device has 28 bits of address, unless its property `dma_mask` says more.
    let address = faults.first().and_then(|fault| fault.address);
    let start = match address {
        Some(address) if address.0 == phys => phys,
        _ => phys & edu::LIMIT.0,
    };
    if start != phys {
        say(
            "",
            format_args!("its 28 bits of address cut {phys:#x} down to {start:#x}"),
        );
    }
    unchanged(&stage.target)?;
    tell::faults(&faults);
    let refusal = Refusal {
        endpoint: stage.first.endpoint,
        reasons: without_domain(stage)?,
        start,
        len: SHORT as u64,
        access: Access::WRITE,
    };
    match refusal.compare(&faults) {
        Ok(()) => Ok(()),
        Err(mismatch) => wrong("faults that describe the access", mismatch),
    }
}

fn attach(stage: &mut Stage) -> Told {
    let endpoint = stage.first.endpoint;
    let domain = match stage.iommu()?.create_domain(16) {
        Ok(domain) => domain,
        Err(error) => return wrong("a new domain", error),
    };
    if let Err(error) = domain.attach(endpoint) {
        return wrong("an endpoint that is attached", error);
    }
    say("domain", domain.id());
    say("endpoint", endpoint);
    let iova = 0x10_0000;
    write(&mut stage.first, iova, SHORT, "in an empty domain")?;
    unchanged(&stage.target)?;
    stage.domain = Some(domain);
    stage.refused(&Refusal {
        endpoint,
        reasons: NO_MAPPING,
        start: iova,
        len: SHORT as u64,
        access: Access::WRITE,
    })
}

fn map(stage: &mut Stage) -> Told {
    let granule = stage.iommu()?.geometry().granule() as usize;
    let domain = stage.domain()?;
    let place = |name: &str, phys, rights| {
        let options = MapOptions::new(rights).with_limit(edu::LIMIT);
        // SAFETY: the pages are the device's own until the last step, after its domain is gone.
        match unsafe { domain.map(phys, options) } {
            Ok(range) => {
                say(name, format_args!("{phys} physical"));
                say(
                    "",
                    format_args!("{range} for the device, {}", access(rights)),
                );
                Ok(range)
            }
            Err(error) => wrong("a mapping", error),
        }
    };
    let from = place("source", stage.source.range(), Access::READ)?;
    let to = place("target", stage.target.part(0, granule), Access::WRITE)?;
    if from.end() > edu::LIMIT || to.end() > edu::LIMIT {
        return wrong(
            "addresses of at most 28 bits",
            format_args!("{from} and {to}"),
        );
    }
    if stage.source.phys() > edu::LIMIT.0 {
        say(
            "",
            "the memory is beyond its 28 bits of address, these addresses are not",
        );
    }
    (stage.from, stage.to) = (Some(from), Some(to));
    Ok(())
}

fn dma(stage: &mut Stage) -> Told {
    let (from, to) = stage.mapped()?;
    say("source", Bytes(&stage.source, 0));
    say("target before", Bytes(&stage.target, 0));
    read(&mut stage.first, from.start().0, MAX_TRANSFER, "the source")?;
    write(&mut stage.first, to.start().0, MAX_TRANSFER, "the target")?;
    say("target after", Bytes(&stage.target, 0));
    let moved = stage
        .target
        .compare_part(0, MAX_TRANSFER, |offset| SOURCE.at(offset));
    same("the bytes of the source in the target", moved)?;
    say(
        "verified",
        format_args!("{MAX_TRANSFER} of {MAX_TRANSFER} bytes"),
    );
    let rest = stage.target.len() - MAX_TRANSFER;
    let behind = stage
        .target
        .compare_part(MAX_TRANSFER, rest, |offset| TARGET.at(offset));
    same("the old bytes behind the target", behind)?;
    say(
        "behind it",
        format_args!("{rest} of {rest} bytes unchanged"),
    );
    same("the source as it was", stage.source.compare(SOURCE))?;
    stage.nothing_refused()
}

fn unmapped(stage: &mut Stage) -> Told {
    let (_, to) = stage.mapped()?;
    // Below the lowest mapping, where memory may be, but not for this device.
    let granule = stage.iommu()?.geometry().granule();
    let start = to.start().0 - 16 * granule;
    read(&mut stage.first, start, SHORT, "nothing is mapped there")?;
    stage.refused(&Refusal {
        endpoint: stage.first.endpoint,
        reasons: NO_MAPPING,
        start,
        len: SHORT as u64,
        access: Access::READ,
    })?;
    // What the device holds now, it can only show by writing it.
    write(&mut stage.first, to.start().0, SHORT, "the target")?;
    let zeros = stage.target.compare_part(0, SHORT, |_| 0);
    same("zeros, which is what a refused read gives", zeros)?;
    say("it had read", Bytes(&stage.target, 0));
    stage.nothing_refused()
}

fn read_only(stage: &mut Stage) -> Told {
    let (from, _) = stage.mapped()?;
    let start = from.start().0;
    // The device holds zeros since the step before, so that a write would be seen.
    write(&mut stage.first, start, SHORT, "zeros, over the source")?;
    same("the source as it was", stage.source.compare(SOURCE))?;
    let len = stage.source.len();
    say("memory", format_args!("{len} of {len} bytes unchanged"));
    stage.refused(&Refusal {
        endpoint: stage.first.endpoint,
        reasons: NO_MAPPING,
        start,
        len: SHORT as u64,
        access: Access::WRITE,
    })
}

fn second_device(stage: &mut Stage) -> Told {
    let (from, to) = stage.mapped()?;
    let endpoint = stage.second.endpoint;
    stage.target.fill(TARGET);
    let domain = match stage.iommu()?.create_domain(4) {
        Ok(domain) => domain,
        Err(error) => return wrong("a new domain", error),
    };
    if let Err(error) = domain.attach(endpoint) {
        return wrong("an endpoint that is attached", error);
    }
    read(
        &mut stage.second,
        from.start().0,
        SHORT,
        "the first one's source",
    )?;
    let refused = |start: IovaRange, access| Refusal {
        endpoint,
        reasons: NO_MAPPING,
        start: start.start().0,
        len: SHORT as u64,
        access,
    };
    stage.refused(&refused(from, Access::READ))?;
    write(
        &mut stage.second,
        to.start().0,
        SHORT,
        "the first one's target",
    )?;
    unchanged(&stage.target)?;
    stage.refused(&refused(to, Access::WRITE))?;

    // The same address, in its own address space.
    // SAFETY: the page is the second device's own until its domain is gone, with this step.
    let own = unsafe { domain.map_at(to.start(), stage.other.range(), Access::WRITE) };
    if let Err(error) = own {
        return wrong("the same address, mapped for the second device", error);
    }
    write(
        &mut stage.second,
        to.start().0,
        SHORT,
        "the same address, its own page",
    )?;
    let own = stage.other.compare_part(0, stage.other.len(), |offset| {
        if offset < SHORT { 0 } else { OTHER.at(offset) }
    });
    same("the write in the second device's own page", own)?;
    say("its own page", Bytes(&stage.other, 0));
    unchanged(&stage.target)?;
    stage.nothing_refused()?;
    if let Err(error) = domain.detach(endpoint) {
        return wrong("an endpoint that is detached", error);
    }
    Ok(())
}

fn unmap(stage: &mut Stage) -> Told {
    let (_, to) = stage.mapped()?;
    if let Err(error) = stage.domain()?.unmap(to) {
        return wrong("a mapping that ends", error);
    }
    write(
        &mut stage.first,
        to.start().0,
        SHORT,
        "where the target was",
    )?;
    unchanged(&stage.target)?;
    stage.to = None;
    stage.refused(&Refusal {
        endpoint: stage.first.endpoint,
        reasons: NO_MAPPING,
        start: to.start().0,
        len: SHORT as u64,
        access: Access::WRITE,
    })
}

fn detach(stage: &mut Stage) -> Told {
    let endpoint = stage.first.endpoint;
    let Some(from) = stage.from.take() else {
        return wrong("a mapping", "none");
    };
    let domain = stage.domain()?;
    if let Err(error) = domain.unmap(from) {
        return wrong("a mapping that ends", error);
    }
    if let Err(error) = domain.detach(endpoint) {
        return wrong("an endpoint that is detached", error);
    }
    read(
        &mut stage.first,
        from.start().0,
        SHORT,
        "where the source was",
    )?;
    let reasons = without_domain(stage)?;
    stage.refused(&Refusal {
        endpoint,
        reasons,
        start: from.start().0,
        len: SHORT as u64,
        access: Access::READ,
    })
}

fn the_end(stage: &mut Stage) -> Told {
    let domain = stage.domain()?;
    let (mapped, quarantined) = (domain.mapped(), domain.quarantined());
    say("mapped", mapped);
    say("quarantined", quarantined);
    if (mapped, quarantined) != (0, 0) {
        return wrong("no mapping", format_args!("{mapped} and {quarantined}"));
    }
    stage.domain = None;
    let iommu = stage.take_iommu()?;
    let counters = iommu.fault_counters();
    say("faults", format_args!("{} received", counters.received));
    say(
        "faults lost",
        format_args!("{} overflows", counters.overflows),
    );
    if counters.overflows != 0 {
        return wrong("no overflow", counters.overflows);
    }
    if let Err(error) = iommu.shutdown() {
        return wrong("a device that confirms its reset", error);
    }
    let pages = platform::live_pages();
    say("pages in use", pages);
    if pages != 0 {
        return wrong("no page in use by the driver", pages);
    }
    Ok(())
}

/// How the device calls an access of an endpoint that was detached, or never attached.
fn without_domain(stage: &Stage) -> Told<&'static [FaultReason]> {
    Ok(match stage.iommu()?.bypass() {
        Bypass::Locked => NO_DOMAIN,
        _ => NO_MAPPING,
    })
}

fn read(actor: &mut Actor, from: u64, len: usize, what: &str) -> Told {
    told(actor, "reads", "from", from, len, what);
    done(actor.edu.read_memory(from, len))
}

fn write(actor: &mut Actor, to: u64, len: usize, what: &str) -> Told {
    told(actor, "writes", "to", to, len, what);
    done(actor.edu.write_memory(to, len))
}

fn told(actor: &Actor, verb: &str, preposition: &str, address: u64, len: usize, what: &str) {
    let endpoint = actor.endpoint;
    let subject = alloc::format!("edu {endpoint}");
    say(
        &subject,
        format_args!("{verb} {len} bytes {preposition} {address:#x} ({what})"),
    );
}

fn done(result: Result<(), EduError>) -> Told {
    match result {
        Ok(()) => Ok(()),
        Err(error) => wrong("a transfer that ends", error),
    }
}

/// The target is as it was.
fn unchanged(target: &Buffer) -> Told {
    same("memory as it was", target.compare(TARGET))?;
    let len = target.len();
    say("memory", format_args!("{len} of {len} bytes unchanged"));
    Ok(())
}

fn same(expected: &str, compared: Result<(), Difference>) -> Told {
    match compared {
        Ok(()) => Ok(()),
        Err(difference) => wrong(expected, difference),
    }
}
