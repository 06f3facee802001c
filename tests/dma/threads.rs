//! Several CPUs at once, on real threads: transfers of all kinds on one domain and on several,
//! with answers out of order and late, while endpoints come and go.

use crate::each;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use virtio_iommu::dma::{Bounce, BounceOptions, DmaDevice, FromDevice, ToDevice};
use virtio_iommu::{AttachError, DomainOptions, MapError, UnmapError};

use crate::desk::{Buf, Desk, Device, wide_model};
use crate::model::device::Mode;
use crate::model::script::{Answer, Order};
use crate::model::spec::status;
use crate::model::{Model, OTHER, PLAIN};
use crate::rig::{self, endpoint};
use crate::ways::done;

const ROUNDS: usize = 60;

fn shared_desk() -> Desk {
    let model = wide_model();
    model.clock().for_threads();
    let options = DomainOptions::new(256)
        .with_quarantine(512)
        .with_deferred(16, Duration::from_nanos(5_000));
    Desk::on(model, options, Default::default())
}

/// The answers come in any order, a few at each look at the clock.
fn slow(model: &Model) {
    model.with(|d| {
        d.knobs.mode = Mode::OnTick(3);
        d.knobs.order = Order::AnswerShuffled(77);
    });
}

/// Maps, and tries again while an endpoint comes or goes. The buffer is never lost.
fn map(
    device: &Device,
    mut buffer: Buf,
) -> virtio_iommu::dma::Mapping<Buf, FromDevice, crate::model::platform::ModelPlatform> {
    loop {
        match device.map::<FromDevice, _>(buffer) {
            Ok(mapping) => return mapping,
            Err(failure) => {
                assert_eq!(failure.error, MapError::Busy);
                buffer = failure.buffer.expect("the buffer");
                std::thread::yield_now();
            }
        }
    }
}

/// One transfer: what the endpoint writes arrives, whatever others do.
fn transfer(
    model: &Model,
    id: u32,
    mapping: &virtio_iommu::dma::Mapping<Buf, FromDevice, crate::model::platform::ModelPlatform>,
    byte: u8,
) {
    let at = mapping.device_addr().0;
    let landed = model.with(|d| d.dma_write(id, at, &[byte; 16]));
    assert_eq!(landed, 16);
    let mut seen = [0; 16];
    assert!(mapping.read(0, &mut seen));
    assert_eq!(seen, [byte; 16]);
}

/// What one CPU does: every way, in turn.
fn work(model: &Model, device: &Device, id: u32, cpu: u8) -> usize {
    let mut dropped = 0;
    let mut buffer = device.alloc(0x1000).unwrap();
    for round in 0..ROUNDS {
        let byte = cpu * 16 + (round % 16) as u8;
        let mapping = map(device, buffer);
        transfer(model, id, &mapping, byte);
        buffer = match round % 6 {
            0 => done(mapping).unmap().unwrap(),
            1 => done(mapping).defer().reclaim().unwrap(),
            2 => {
                let parked = done(mapping).defer();
                match device.domain().flush() {
                    Ok(()) | Err(UnmapError::Busy) => {}
                    Err(error) => panic!("{error}"),
                }
                match parked.reuse() {
                    Ok(again) => {
                        transfer(model, id, &again, byte ^ 0xff);
                        done(again).unmap().unwrap()
                    }
                    Err(failure) => {
                        assert_eq!(failure.error, MapError::Busy);
                        failure.buffer.expect("the buffer")
                    }
                }
            }
            3 => {
                let next = device.alloc(0x1000).unwrap();
                let result = device.exchange::<_, _, _, FromDevice>(done(mapping), next);
                let first = result.unmapped.unwrap();
                assert_eq!(first[..16], [byte; 16]);
                match result.mapped {
                    Ok(mapping) => {
                        transfer(model, id, &mapping, byte);
                        drop(done(mapping).defer());
                    }
                    Err(failure) => {
                        assert_eq!(failure.error, MapError::Busy);
                        drop(failure.buffer.expect("the buffer"));
                    }
                }
                first
            }
            4 => {
                dropped += 1;
                drop(mapping);
                device.alloc(0x1000).unwrap()
            }
            _ => {
                let now = virtio_iommu::Platform::now(&model.platform());
                drop(done(mapping).defer());
                device.domain().poll(now);
                device.alloc(0x1000).unwrap()
            }
        };
    }
    drop(buffer);
    dropped
}

/// Nothing is left but what was dropped in mid-flight.
fn settle(desk: &Desk, dropped: usize) {
    desk.domain.flush().unwrap();
    assert_eq!(desk.domain.quarantined(), dropped);
    assert_eq!(desk.release(), (dropped, 0));
    desk.assert_empty();
}

#[test]
fn one_domain() {
    for _ in each!() {
        for is_slow in [false, true] {
            let desk = shared_desk();
            if is_slow {
                slow(&desk.model);
            }
            let (model, device) = (&desk.model, &desk.device);
            let dropped = std::thread::scope(|scope| {
                let cpus: Vec<_> = (0..4)
                    .map(|cpu| scope.spawn(move || work(model, device, PLAIN, cpu)))
                    .collect();
                cpus.into_iter().map(|cpu| cpu.join().unwrap()).sum()
            });
            settle(&desk, dropped);
        }
    }
}

#[test]
fn two_domains_of_one_device() {
    for _ in each!() {
        let desk = shared_desk();
        slow(&desk.model);
        let second = Arc::new(desk.iommu.create_domain(256).unwrap());
        let other = DmaDevice::attach(&second, endpoint(OTHER), Default::default()).unwrap();
        let model = &desk.model;
        let dropped: Vec<usize> = std::thread::scope(|scope| {
            let cpus = [
                (PLAIN, &desk.device),
                (OTHER, &other),
                (PLAIN, &desk.device),
                (OTHER, &other),
            ];
            let cpus: Vec<_> = cpus
                .into_iter()
                .zip(0..)
                .map(|((id, device), cpu)| scope.spawn(move || work(model, device, id, cpu)))
                .collect();
            cpus.into_iter().map(|cpu| cpu.join().unwrap()).collect()
        });
        second.flush().unwrap();
        assert_eq!(second.quarantined(), dropped[1] + dropped[3]);
        // SAFETY: the endpoints are functions of the test.
        unsafe { second.release_quarantine() };
        assert_eq!(
            (second.mapped(), second.quarantined(), second.lost()),
            (0, 0, 0)
        );
        settle(&desk, dropped[0] + dropped[2]);
    }
}

#[test]
fn endpoints_that_come_and_go_cost_nothing() {
    for _ in each!(but [(Crosvm, "one endpoint in a domain"), (CloudHypervisor, "it takes long, and is the same as under qemu")])
    {
        let desk = shared_desk();
        slow(&desk.model);
        let stop = AtomicBool::new(false);
        let (model, device, domain) = (&desk.model, &desk.device, &desk.domain);
        let dropped = std::thread::scope(|scope| {
            let guest = scope.spawn(|| {
                let mut times = 0;
                while !stop.load(Ordering::Relaxed) {
                    match domain.attach(endpoint(OTHER)) {
                        Ok(()) => times += 1,
                        Err(AttachError::Busy) => {
                            std::thread::yield_now();
                            continue;
                        }
                        Err(error) => panic!("{error}"),
                    }
                    while domain.detach(endpoint(OTHER)) == Err(AttachError::Busy) {
                        std::thread::yield_now();
                    }
                    // The others have their turn, on however few processors.
                    std::thread::yield_now();
                }
                times
            });
            let cpus: Vec<_> = (0..3)
                .map(|cpu| scope.spawn(move || work(model, device, PLAIN, cpu)))
                .collect();
            let results: Vec<_> = cpus
                .into_iter()
                .map(std::thread::ScopedJoinHandle::join)
                .collect();
            stop.store(true, Ordering::Relaxed);
            assert!(guest.join().unwrap() > 0);
            results.into_iter().map(Result::unwrap).sum()
        });
        settle(&desk, dropped);
    }
}

#[test]
fn releases_meanwhile_take_nothing_from_anybody() {
    for _ in each!() {
        // Some UNMAPs are refused, and somebody ends the quarantine all the time.
        let desk = shared_desk();
        desk.model.script(
            |seen| match rig::is_unmap(&seen.request) && seen.number % 5 == 0 {
                true => Answer::status(status::DEVERR),
                false => Answer::honest(),
            },
        );
        let stop = AtomicBool::new(false);
        let (model, device) = (&desk.model, &desk.device);
        std::thread::scope(|scope| {
            let releasing = scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    desk.release();
                    std::thread::yield_now();
                }
            });
            let cpus: Vec<_> = (0..3_u8)
                .map(|cpu| {
                    scope.spawn(move || {
                        for round in 0..4 * ROUNDS {
                            let byte = cpu * 64 + (round % 64) as u8;
                            let mapping = map(device, device.alloc(0x1000).unwrap());
                            transfer(model, PLAIN, &mapping, byte);
                            let parked = done(mapping).defer();
                            if round % 3 == 0 {
                                let _ = device.domain().flush();
                            }
                            let result = match round % 2 {
                                0 => parked.reclaim(),
                                _ => match parked.reuse() {
                                    Ok(again) => {
                                        transfer(model, PLAIN, &again, byte ^ 0x55);
                                        done(again).unmap()
                                    }
                                    Err(failure) => {
                                        assert!(failure.error.may_be_exposed(), "{failure}");
                                        continue;
                                    }
                                },
                            };
                            match result {
                                Ok(buffer) => {
                                    let first = buffer[0];
                                    assert!(first == byte || first == byte ^ 0x55);
                                }
                                Err(UnmapError::Quarantined(_)) => {}
                                Err(error) => panic!("{error}"),
                            }
                        }
                    })
                })
                .collect();
            let results: Vec<_> = cpus
                .into_iter()
                .map(std::thread::ScopedJoinHandle::join)
                .collect();
            stop.store(true, Ordering::Relaxed);
            releasing.join().unwrap();
            results.into_iter().for_each(|result| result.unwrap());
        });
        desk.model.honest();
        desk.domain.flush().unwrap();
        desk.release();
        desk.assert_empty();
    }
}

#[test]
fn one_pool_for_several() {
    for _ in each!() {
        let desk = shared_desk();
        let options = BounceOptions::default()
            .with_pools(0x1000, 0x1000)
            .with_transfers(8);
        let bounce = Bounce::new(&desk.device, options).unwrap();
        let (model, pools) = (&desk.model, &bounce);
        std::thread::scope(|scope| {
            for cpu in 1..5_u8 {
                scope.spawn(move || {
                    for round in 0..300_usize {
                        let Ok(place) = pools.from_device(1 + round % 900) else {
                            std::thread::yield_now();
                            continue;
                        };
                        let bytes = vec![cpu; place.len()];
                        model.with(|d| d.dma_write(PLAIN, place.device_addr().0, &bytes));
                        std::thread::yield_now();
                        let mut back = vec![0; place.len()];
                        assert!(place.read(0, &mut back));
                        assert_eq!(back, bytes);
                        place.finish();
                    }
                });
            }
        });
        assert_eq!(bounce.quarantined(), 0);
        // SAFETY: the endpoint is a function of the test.
        assert!(unsafe { bounce.close() }.is_ok());
        desk.assert_empty();
    }
}

#[test]
fn a_busy_domain_gives_the_buffer_back_and_waits_for_what_ends() {
    for _ in each!(but[(Crosvm, "one endpoint in a domain")]) {
        let desk = shared_desk();
        let ending = desk.device.map::<ToDevice, _>(desk.alloc(1)).unwrap();
        let dropped = desk.device.map::<ToDevice, _>(desk.alloc(1)).unwrap();
        let parked = done(desk.device.map::<ToDevice, _>(desk.alloc(1)).unwrap()).defer();
        desk.model.answer_once(rig::is_attach, Answer::late());
        std::thread::scope(|scope| {
            let attaching = scope.spawn(|| desk.domain.attach(endpoint(OTHER)));
            while desk.model.with(|d| d.waiting()) == 0 {
                std::thread::yield_now();
            }
            let failure = desk.device.map::<ToDevice, _>(desk.alloc(1)).unwrap_err();
            assert_eq!(failure.error, MapError::Busy);
            assert!(failure.buffer.is_some());
            assert_eq!(desk.domain.flush(), Err(UnmapError::Busy));
            assert!(desk.domain.poll(u64::MAX).is_some());
            // These wait until the endpoint is there.
            let ends = scope.spawn(move || done(ending).unmap());
            let drops = scope.spawn(move || drop(dropped));
            let reuses = scope.spawn(move || parked.reuse());
            std::thread::sleep(Duration::from_millis(20));
            assert!(!ends.is_finished() && !drops.is_finished() && !reuses.is_finished());
            desk.model.with(|d| d.release(1));
            attaching.join().unwrap().unwrap();
            drop(ends.join().unwrap().unwrap());
            drops.join().unwrap();
            drop(done(reuses.join().unwrap().unwrap()).unmap().unwrap());
        });
        assert_eq!(desk.domain.quarantined(), 1);
        assert_eq!(desk.release(), (1, 0));
        desk.assert_empty();
    }
}

/// While an endpoint comes back to a domain with many mappings, so slowly that the others lose their
/// patience.
fn while_busy_for_long(prepare: impl FnOnce(&Desk), work: impl FnOnce(&Desk)) -> Desk {
    let desk = shared_desk();
    prepare(&desk);
    for page in 0..100 {
        let phys = rig::phys(0x100_0000 + page * 2 * rig::GRANULE, rig::GRANULE);
        rig::map(&desk.domain, phys, rig::RW).unwrap();
    }
    desk.device.clone().detach().unwrap();
    let go = Arc::new(AtomicBool::new(false));
    let went = go.clone();
    let mut since = None;
    desk.model.on_tick(move |d, calls| {
        if d.waiting() == 0 || !went.load(Ordering::Relaxed) {
            since = None;
            return;
        }
        // Whoever waits for one answer gets it in time; whoever waits for all of them does not.
        if calls.is_multiple_of(8) {
            std::thread::sleep(Duration::from_micros(50));
        }
        if calls - *since.get_or_insert(calls) > 700 {
            d.release(usize::MAX);
            since = None;
        }
    });
    desk.model
        .script(|seen| match rig::is_unmap(&seen.request) {
            true => Answer::honest(),
            false => Answer::late(),
        });
    std::thread::scope(|scope| {
        let attaching = scope.spawn(|| desk.domain.attach(endpoint(PLAIN)));
        while desk.model.with(|d| d.waiting()) == 0 {
            std::thread::yield_now();
        }
        go.store(true, Ordering::Relaxed);
        desk.model.clock().set_step(1_000_000);
        work(&desk);
        assert!(!attaching.is_finished(), "not busy for long enough");
        desk.model.clock().set_step(1);
        attaching.join().unwrap().unwrap();
    });
    desk.model.honest();
    desk
}

#[test]
fn a_wait_for_a_busy_domain_ends_in_quarantine() {
    for _ in each!() {
        // A mapping that was made before the endpoint left: it belongs to the domain.
        let keep = |desk: &Desk| desk.device.map::<ToDevice, _>(desk.alloc(1)).unwrap();
        for way in 0..3 {
            let slot = std::cell::RefCell::new(None);
            let desk = while_busy_for_long(
                |desk| *slot.borrow_mut() = Some(keep(desk)),
                |desk| {
                    let mapping = slot.take().expect("a mapping");
                    match way {
                        0 => assert_eq!(done(mapping).unmap().unwrap_err(), UnmapError::Busy),
                        1 => drop(mapping),
                        _ => drop(done(mapping).defer()),
                    }
                    assert_eq!((desk.domain.quarantined(), desk.pages()), (1, 1));
                },
            );
            assert_eq!(desk.release(), (1, 0));
            assert_eq!((desk.pages(), desk.domain.quarantined()), (0, 0));
            assert_eq!(desk.domain.mapped(), 100);
        }
    }
}

#[test]
fn what_is_put_off_in_a_busy_domain_stays_put_off() {
    for _ in each!() {
        let slot = std::cell::RefCell::new(None);
        let desk = while_busy_for_long(
            |desk| {
                let mapping = desk.device.map::<ToDevice, _>(desk.alloc(1)).unwrap();
                *slot.borrow_mut() = Some(done(mapping).defer());
            },
            |desk| {
                let parked = slot.take().expect("a mapping");
                let failure = parked.reuse().unwrap_err();
                assert!(failure.buffer.is_none() && failure.error.may_be_exposed());
                assert_eq!((desk.domain.deferred(), desk.pages()), (1, 1));
            },
        );
        // The endpoint is done with it: it takes an UNMAP to get it back, and no reset.
        desk.domain.flush().unwrap();
        assert_eq!((desk.pages(), desk.domain.quarantined()), (0, 0));
    }
}
