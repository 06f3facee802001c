//! A disk under any load, in any order, with any way of reaching memory: what is read is what was
//! written, byte by byte, and nothing is left.

use proptest::prelude::*;
use virtio_drivers::device::blk::{BlkReq, BlkResp};
use virtio_iommu::adapters::virtio_drivers::{AdapterOptions, Endpoint};
use virtio_iommu::bind_endpoint;

use crate::block::{Blk, open};
use crate::desk::{Buffer, Desk, OldHal, TestPlatform};
use crate::fake::{EVENT_IDX, Fake, INDIRECT, Kind, SECTOR};

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    /// A transfer begins: sector, sectors, offset of the buffer in its pages, write.
    Begin(usize, usize, usize, bool),
    /// The device answers one of those that it has.
    Answer(usize),
    /// The driver takes what was answered.
    Take,
    /// What was put off is unmapped.
    Flush,
    /// The driver is dropped, and made anew.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let offset = prop_oneof![Just(0), 0_usize..4096];
    let begin = (0_usize..40, 1_usize..24, offset, any::<bool>());
    prop_oneof![
        6 => begin.prop_map(|(a, b, c, d)| Step::Begin(a, b, c, d)),
        5 => any::<usize>().prop_map(Step::Answer),
        4 => Just(Step::Take),
        1 => Just(Step::Flush),
        1 => Just(Step::Restart),
    ]
}

struct Transfer {
    token: u16,
    request: Box<BlkReq>,
    answer: Box<BlkResp>,
    pages: Buffer,
    range: std::ops::Range<usize>,
    sector: usize,
    write: bool,
}

struct Load<'a, E: Endpoint> {
    desk: &'a Desk,
    fake: &'a Fake,
    disk: Option<Blk<E>>,
    live: Vec<Transfer>,
    /// Pages that are used again and again.
    spare: Vec<Buffer>,
    /// What the disk should hold.
    wanted: Vec<u8>,
    count: u8,
}

impl<E: Endpoint<Platform = TestPlatform>> Load<'_, E> {
    fn begin(&mut self, sector: usize, sectors: usize, offset: usize, write: bool) {
        // The order of transfers that touch each other would be the device's affair.
        let clash = |other: &Transfer| {
            sector * SECTOR < other.sector * SECTOR + other.range.len()
                && other.sector < sector + sectors
        };
        if self.live.iter().any(clash) {
            return;
        }
        let mut pages = self.spare.pop().unwrap_or_else(|| self.desk.pages(4));
        let len = sectors * SECTOR;
        let range = offset.min(pages.len() - len)..offset.min(pages.len() - len) + len;
        self.count = self.count.wrapping_add(1);
        let count = self.count;
        pages
            .iter_mut()
            .enumerate()
            .for_each(|(i, byte)| *byte = (i as u8) ^ count);
        let (mut request, mut answer) = (Box::<BlkReq>::default(), Box::<BlkResp>::default());
        let disk = self.disk.as_mut().unwrap();
        let token = if write {
            let buffer = &pages[range.clone()];
            // SAFETY: the buffers are kept until the answer, or the end of the disk.
            unsafe { disk.write_blocks_nb(sector, &mut request, buffer, &mut answer) }
        } else {
            let buffer = &mut pages[range.clone()];
            // SAFETY: as above.
            unsafe { disk.read_blocks_nb(sector, &mut request, buffer, &mut answer) }
        };
        let Ok(token) = token else {
            self.spare.push(pages);
            return;
        };
        self.live.push(Transfer {
            token,
            request,
            answer,
            pages,
            range,
            sector,
            write,
        });
    }

    fn answer(&mut self, pick: usize) {
        self.fake.fetch(0);
        let taken = self.fake.with(|d| d.taken.len());
        if taken > 0 {
            self.fake.complete(pick % taken);
        }
    }

    fn take(&mut self) {
        let disk = self.disk.as_mut().unwrap();
        while let Some(token) = disk.peek_used() {
            let at = self.live.iter().position(|known| known.token == token);
            let mut done = self.live.swap_remove(at.expect("a request that was made"));
            let place = done.sector * SECTOR..done.sector * SECTOR + done.range.len();
            if done.write {
                let buffer = &done.pages[done.range.clone()];
                self.wanted[place].copy_from_slice(buffer);
                // SAFETY: the same buffers.
                unsafe {
                    disk.complete_write_blocks(token, &done.request, buffer, &mut done.answer)
                }
                .unwrap();
            } else {
                let before: Vec<u8> = done.pages.to_vec();
                let buffer = &mut done.pages[done.range.clone()];
                // SAFETY: the same buffers.
                unsafe {
                    disk.complete_read_blocks(token, &done.request, buffer, &mut done.answer)
                }
                .unwrap();
                assert!(buffer[..] == self.wanted[place], "what was read");
                let Transfer { pages, range, .. } = &done;
                assert_eq!(pages[..range.start], before[..range.start], "before it");
                assert_eq!(pages[range.end..], before[range.end..], "behind it");
            }
            self.spare.push(done.pages);
        }
    }

    fn restart(&mut self) {
        self.take();
        self.disk = None;
        // What was under way never happened, or did: a write may have been carried out.
        self.spare
            .extend(self.live.drain(..).map(|transfer| transfer.pages));
        self.wanted = self.fake.with(|d| d.disk.clone());
        self.disk = Some(open::<E>(self.fake));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_load_in_any_order(
        steps in proptest::collection::vec(step(), 1..80),
        bounce_up_to in prop_oneof![Just(0_usize), Just(4096), Just(1 << 20)],
        defers in any::<bool>(),
        without in prop_oneof![Just(0), Just(INDIRECT), Just(EVENT_IDX), Just(INDIRECT | EVENT_IDX)],
    ) {
        bind_endpoint!(struct Disk: TestPlatform, OldHal);
        let desk = Desk::new();
        let mut options = AdapterOptions::default().with_bounce_up_to(bounce_up_to);
        if defers {
            // SAFETY: the pages are used for nothing but the disk.
            options = unsafe { options.deferred() };
        }
        let fake = desk.device::<Disk>(0, Kind::Block, options);
        fake.with(|d| {
            d.holds = true;
            d.offered &= !without;
        });
        let mut load = Load::<Disk> {
            desk: &desk,
            fake: &fake,
            disk: Some(open::<Disk>(&fake)),
            live: Vec::new(),
            spare: Vec::new(),
            wanted: fake.with(|d| d.disk.clone()),
            count: 0,
        };
        for step in steps {
            match step {
                Step::Begin(sector, sectors, offset, write) => {
                    load.begin(sector, sectors, offset, write);
                }
                Step::Answer(pick) => load.answer(pick),
                Step::Take => load.take(),
                Step::Flush => desk.domains[0].flush().unwrap(),
                Step::Restart => load.restart(),
            }
            fake.assert_translated();
        }
        load.disk = None;
        load.live.clear();
        load.spare.clear();
        let usage = Disk::usage();
        prop_assert_eq!((usage.mapped, usage.queues, usage.waiting), (0, 0, 0));
        prop_assert_eq!((usage.to_device.used, usage.from_device.used), (0, 0));
        prop_assert_eq!(usage.unknown, 0);
        desk.close::<Disk>(0, &fake);
        prop_assert_eq!(desk.live_pages(), 0);
    }
}
