//! The lines of `virtio_iommu::request`: what the driver says about its requests is what the
//! device has seen, in the words of QEMU's trace.

use crate::each;
use std::cell::RefCell;

use crate::model::requests::Request;
use crate::model::script::Answer;
use crate::model::spec::status;
use crate::model::{Model, PLAIN, RESERVING};
use crate::rig::{self, GRANULE, RW, domain, endpoint, map, map_all, phys, start, try_start};
use virtio_iommu::{Access, MapOptions};

thread_local! {
    /// The lines of this thread, while they are kept.
    static LINES: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

struct Keeper;

impl log::Log for Keeper {
    fn enabled(&self, metadata: &log::Metadata) -> bool {
        // Other tests run in other threads, and some count allocations.
        metadata.target() == "virtio_iommu::request" && LINES.with_borrow(Option::is_some)
    }

    fn log(&self, record: &log::Record) {
        if self.enabled(record.metadata()) {
            assert_eq!(record.level(), log::Level::Trace);
            LINES.with_borrow_mut(|lines| {
                let lines = lines.as_mut().expect("enabled");
                lines.push(record.args().to_string());
            });
        }
    }

    fn flush(&self) {}
}

/// The lines of `work`.
fn lines(work: impl FnOnce()) -> Vec<String> {
    static KEEPER: Keeper = Keeper;
    // Somebody else was first, in another test: the same keeper.
    let _ = log::set_logger(&KEEPER);
    log::set_max_level(log::LevelFilter::Trace);
    LINES.set(Some(Vec::new()));
    work();
    LINES.take().expect("set above")
}

/// The line for what the device has seen.
fn line(request: &Request, status: &str) -> String {
    let request = match *request {
        Request::Attach {
            domain,
            endpoint,
            flags,
        } => format!("attach domain={domain} endpoint={endpoint} flags={flags}"),
        Request::Detach { domain, endpoint } => {
            format!("detach domain={domain} endpoint={endpoint}")
        }
        Request::Map {
            domain,
            start,
            end,
            phys,
            flags,
        } => format!(
            "map domain={domain} virt_start={start:#x} virt_end={end:#x} phys_start={phys:#x} flags={flags}"
        ),
        Request::Unmap { domain, start, end } => {
            format!("unmap domain={domain} virt_start={start:#x} virt_end={end:#x}")
        }
        Request::Probe { endpoint } => format!("probe endpoint={endpoint}"),
        other => panic!("{other:?}"),
    };
    format!("{request} status={status}")
}

#[test]
fn every_request_is_logged_as_the_device_saw_it() {
    for _ in each!(but [(Crosvm, "one endpoint in a domain"), (CloudHypervisor, "no MMIO")]) {
        let model = Model::new();
        let lines = lines(|| {
            let iommu = start(&model, &[PLAIN, RESERVING]);
            let domain = domain(&iommu, 100, &[PLAIN, RESERVING]);
            let pieces: Vec<_> = (0..70)
                .map(|i| phys(0x100_0000 + i * 0x1_0000, GRANULE))
                .collect();
            let places = map_all(&domain, &pieces, MapOptions::new(Access::READ)).unwrap();
            map(&domain, phys(1 << 52, 3 * GRANULE), RW | Access::MMIO).unwrap();
            domain.unmap_all(&rig::apart(&places)).unwrap();
            domain.detach(endpoint(PLAIN)).unwrap();
        });
        let expected: Vec<String> = model.with(|d| {
            let names = ["OK", "IOERR", "UNSUPP", "DEVERR", "INVAL", "RANGE", "NOENT"];
            d.seen
                .iter()
                .map(|s| line(&s.request, names[usize::from(s.status.unwrap())]))
                .collect()
        });
        assert!(expected.len() > 140);
        assert_eq!(lines, expected);
    }
}

#[test]
fn every_status_has_its_name() {
    for _ in each!() {
        for (answer, name) in [
            (Answer::status(status::IOERR), "IOERR"),
            (Answer::status(status::UNSUPP), "UNSUPP"),
            (Answer::status(status::DEVERR), "DEVERR"),
            (Answer::status(status::INVAL), "INVAL"),
            (Answer::status(status::RANGE), "RANGE"),
            (Answer::status(status::NOENT), "NOENT"),
            (Answer::status(status::FAULT), "FAULT"),
            (Answer::status(status::NOMEM), "NOMEM"),
            (Answer::unwritten(), "unwritten"),
            (Answer::never(), "unconfirmed"),
        ] {
            let model = Model::new();
            model.answer_once(rig::is_probe, answer);
            let lines = lines(|| {
                try_start(&model, &[PLAIN]).unwrap_err();
            });
            let request = Request::Probe { endpoint: PLAIN };
            assert_eq!(lines.last(), Some(&line(&request, name)));
        }
    }
}
