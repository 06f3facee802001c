//! Guest memory, and the book of what the driver has allocated in it.

use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard};

use vm_memory::mmap::{GuestRegionMmap, MmapRegion};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::violations::Violations;

/// Where the pages of the driver begin: beyond 32 bits, and not where the host has them.
pub const PAGES_BASE: u64 = 0x1_2000_0000;
/// Where the buffers of the tests begin.
pub const BUFFERS_BASE: u64 = 0x1_4000_0000;
const REGION_LEN: u64 = 32 << 20;
/// Both views of memory agree on addresses modulo this, so that every smaller alignment holds in
/// both.
const CONGRUENCE: u64 = 2 << 20;
const PAGE: u64 = 4096;

const CANARY: u8 = 0xa5;
const FREED: u8 = 0xdd;

/// Who is reading or writing memory that must therefore stay where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposure {
    Ring { queue: u16 },
    Chain { queue: u16, head: u16 },
}

#[derive(Clone, Copy, Debug)]
struct Allocation {
    pages: usize,
    align: usize,
}

#[derive(Default)]
struct Book {
    live: BTreeMap<u64, Allocation>,
    next: u64,
    allocations: u64,
    peak_pages: usize,
    refuse: Option<Refuse>,
    exposed: Vec<(Exposure, u64, u64)>,
    /// What was given back, if somebody wants to know.
    freed: Option<Vec<u64>>,
}

/// Which allocations fail.
#[derive(Clone, Copy, Debug)]
pub enum Refuse {
    /// Only the k-th, counted from 0 since the model was made.
    Only(u64),
    /// The k-th and every later one.
    From(u64),
}

/// The memory of the guest.
pub struct GuestRam {
    memory: GuestMemoryMmap<()>,
    /// Host address of the byte at `PAGES_BASE`, and of the one at `BUFFERS_BASE`.
    host: [u64; 2],
    book: Mutex<Book>,
    next_buffer: Mutex<u64>,
    violations: Violations,
}

impl GuestRam {
    pub fn new(violations: Violations) -> Self {
        let mut regions = Vec::new();
        let mut host = [0; 2];
        for (base, host) in [PAGES_BASE, BUFFERS_BASE].into_iter().zip(&mut host) {
            let region = MmapRegion::<()>::new((REGION_LEN + CONGRUENCE) as usize)
                .expect("the host has memory for the guest");
            let start = region.as_ptr() as u64;
            let skip = start.next_multiple_of(CONGRUENCE) - start;
            *host = start + skip;
            let region = GuestRegionMmap::new(region, GuestAddress(base - skip))
                .expect("guest addresses do not wrap");
            regions.push(region);
        }
        let memory = GuestMemoryMmap::from_regions(regions).expect("the regions are apart");
        Self {
            memory,
            host,
            book: Mutex::new(Book {
                next: PAGES_BASE,
                ..Book::default()
            }),
            next_buffer: Mutex::new(BUFFERS_BASE),
            violations,
        }
    }

    /// The memory as the device sees it.
    pub fn memory(&self) -> &GuestMemoryMmap<()> {
        &self.memory
    }

    pub fn read(&self, phys: u64, len: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.memory
            .read_slice(&mut bytes, GuestAddress(phys))
            .ok()?;
        Some(bytes)
    }

    pub fn write(&self, phys: u64, bytes: &[u8]) -> bool {
        self.memory.write_slice(bytes, GuestAddress(phys)).is_ok()
    }

    /// Pages for a test to map: no part of what is counted.
    pub fn buffer(&self, pages: u64) -> u64 {
        let mut next = lock(&self.next_buffer);
        let start = *next;
        // One page between any two, so that nothing is contiguous by chance.
        *next += (pages + 1) * PAGE;
        assert!(*next <= BUFFERS_BASE + REGION_LEN, "buffers used up");
        start
    }

    /// Pages for the driver, zeroed, never given out twice.
    pub fn allocate(&self, pages: usize, align: usize) -> Option<(u64, NonNull<u8>)> {
        let mut book = lock(&self.book);
        let number = book.allocations;
        book.allocations += 1;
        match book.refuse {
            Some(Refuse::Only(k)) if k == number => return None,
            Some(Refuse::From(k)) if k <= number => return None,
            _ => {}
        }
        if !align.is_power_of_two() || (align as u64) < PAGE || align as u64 > CONGRUENCE {
            self.violations
                .record("PLATFORM", format!("alignment {align:#x} asked for"));
            return None;
        }
        if pages as u64 > REGION_LEN / PAGE {
            return None;
        }
        let phys = book.next.next_multiple_of(align as u64);
        let guard = phys + pages as u64 * PAGE;
        assert!(
            guard + PAGE <= PAGES_BASE + REGION_LEN,
            "guest memory used up"
        );
        book.next = guard + PAGE;
        book.live.insert(phys, Allocation { pages, align });
        let live = book.live.values().map(|a| a.pages).sum();
        book.peak_pages = book.peak_pages.max(live);
        drop(book);
        // Whoever writes past the end of the allocation writes here.
        self.fill(guard, CANARY);
        let host = self.host[0] + (phys - PAGES_BASE);
        Some((phys, NonNull::new(host as *mut u8)?))
    }

    /// Takes pages back; records what is wrong with that.
    pub fn free(&self, phys: u64, pages: usize, align: usize) {
        let mut book = lock(&self.book);
        let given = match book.live.get(&phys) {
            Some(given) => *given,
            None => {
                self.violations
                    .record("PLATFORM", format!("{phys:#x} given back, not allocated"));
                return;
            }
        };
        if given.pages != pages || given.align != align {
            self.violations.record(
                "PLATFORM",
                format!(
                    "{phys:#x} allocated as {} pages aligned to {:#x}, given back as {pages}, {align:#x}",
                    given.pages, given.align
                ),
            );
        }
        let end = phys + given.pages as u64 * PAGE;
        for (exposure, start, len) in &book.exposed {
            if *start < end && phys < start + len {
                self.violations.record(
                    "GV-VQ-6",
                    format!("{phys:#x} given back while the device uses it: {exposure:?}"),
                );
            }
        }
        book.live.remove(&phys);
        if let Some(freed) = &mut book.freed {
            freed.extend((phys..end).step_by(PAGE as usize));
        }
        drop(book);
        self.check_canary(end);
        for page in 0..given.pages as u64 {
            self.fill(phys + page * PAGE, FREED);
        }
    }

    /// The pages that were given back since the last call; the first call begins to note them.
    pub fn take_freed(&self) -> Vec<u64> {
        lock(&self.book)
            .freed
            .replace(Vec::new())
            .unwrap_or_default()
    }

    /// Whether all of `phys..phys + len` lies in one live allocation of the driver.
    pub fn is_live(&self, phys: u64, len: u64) -> bool {
        let book = lock(&self.book);
        let Some((start, allocation)) = book.live.range(..=phys).next_back() else {
            return false;
        };
        let end = start + allocation.pages as u64 * PAGE;
        phys.checked_add(len).is_some_and(|last| last <= end)
    }

    /// Notes that the device uses this memory until it is [retracted](Self::retract).
    pub fn expose(&self, exposure: Exposure, phys: u64, len: u64) {
        lock(&self.book).exposed.push((exposure, phys, len));
    }

    pub fn retract(&self, mut which: impl FnMut(Exposure) -> bool) {
        lock(&self.book).exposed.retain(|(e, _, _)| !which(*e));
    }

    /// What is exposed and overlaps the range.
    pub fn exposed_at(&self, phys: u64, len: u64) -> Option<Exposure> {
        let book = lock(&self.book);
        let hit = book
            .exposed
            .iter()
            .find(|(_, start, l)| *start < phys.saturating_add(len) && phys < start + l)?;
        Some(hit.0)
    }

    pub fn phys_of(&self, virt: NonNull<u8>) -> Option<u64> {
        let virt = virt.as_ptr() as u64;
        for (host, base) in self.host.into_iter().zip([PAGES_BASE, BUFFERS_BASE]) {
            if (host..host + REGION_LEN).contains(&virt) {
                return Some(base + (virt - host));
            }
        }
        None
    }

    /// Pages that the driver holds.
    pub fn live_pages(&self) -> usize {
        lock(&self.book).live.values().map(|a| a.pages).sum()
    }

    /// Most pages ever held at once.
    pub fn peak_pages(&self) -> usize {
        lock(&self.book).peak_pages
    }

    /// Allocations asked for, refused ones included.
    pub fn allocations(&self) -> u64 {
        lock(&self.book).allocations
    }

    pub fn refuse(&self, which: Option<Refuse>) {
        lock(&self.book).refuse = which;
    }

    /// Checks what lies behind each live allocation.
    pub fn check_canaries(&self) {
        let ends: Vec<u64> = lock(&self.book)
            .live
            .iter()
            .map(|(start, a)| start + a.pages as u64 * PAGE)
            .collect();
        for end in ends {
            self.check_canary(end);
        }
    }

    fn check_canary(&self, guard: u64) {
        let page = self.read(guard, PAGE as usize).unwrap_or_default();
        if page.iter().any(|byte| *byte != CANARY) {
            self.violations
                .record("PLATFORM", format!("written past the end at {guard:#x}"));
        }
    }

    fn fill(&self, page: u64, with: u8) {
        self.write(page, &[with; PAGE as usize]);
    }
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}
