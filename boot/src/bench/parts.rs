//! What a request takes besides the ring: the lock of this kernel, and the transport's notification.
//!
//! Both are in each figure of a request alone, the notification in those of the rival, too.

use core::hint::black_box;

use super::library_queue::LibraryQueue;
use super::meter::Meter;
use super::series::{Figure, Samples};
use super::subject::{BLOCKS, PAGES, WARM_UP};
use crate::lock::Mutex;

/// Takes the lock and gives it up again: nobody else wants it.
pub fn lock(meter: &Meter, samples: &mut Samples) {
    let mutex = Mutex::new(());
    let mutex = black_box(&mutex);
    part("lock", meter, samples, || drop(mutex.lock()));
}

/// Notifies the device of a queue in which there is nothing new.
pub fn notify(queue: &mut LibraryQueue<'_>, meter: &Meter, samples: &mut Samples) {
    part("notify", meter, samples, || queue.notify());
}

/// Blocks of as many as there are requests in one.
fn part(name: &'static str, meter: &Meter, samples: &mut Samples, mut work: impl FnMut()) {
    let figure = Figure {
        name,
        rival: "none",
        size: 1,
    };
    for block in 0..WARM_UP + BLOCKS {
        let (all, ()) = meter.measure(|| (0..PAGES).for_each(|_| work()));
        let each = (block >= WARM_UP).then_some(all / PAGES as u64);
        samples.add(figure, PAGES as u64, each);
    }
}
