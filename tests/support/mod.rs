//! What the tests that boot the kernel are made of.
//!
//! | module | what it does |
//! |---|---|
//! | [`records`], [`request`] | the guest's record lines |
//! | [`trace`] | QEMU's trace lines |
//! | [`order`] | the records of several CPUs in the device's order |
//! | [`book`] | an independent account of what the device holds |
//! | [`expect`], [`audit`], [`tally`], [`finding`] | trace against record, record against account, both against what a scenario is for |
//! | [`registers`] | the registers of the transports, by their own lines of the trace |
//! | [`scenarios`] | what is booted, on which machine |
//! | [`bench`] | the benchmark in the guest: the machine, and what it must tell |
//! | [`bench_io`] | the benchmark of disks: what each mode must ask of the IOMMU |
//! | [`disk`] | what the guest finds on its disk, and leaves there |
//! | [`peer`] | the other end of a network card |
//! | [`qmp`] | QEMU's monitor, asked while the guest waits |
//! | [`machine`], [`suite`] | boots it, as a trial |
//! | [`verdict`] | green or red, and why |

pub mod audit;
pub mod bench;
pub mod bench_io;
pub mod book;
pub mod disk;
pub mod expect;
pub mod finding;
pub mod machine;
pub mod order;
pub mod peer;
pub mod qmp;
pub mod records;
pub mod registers;
pub mod request;
pub mod scenarios;
pub mod suite;
pub mod tally;
pub mod trace;
pub mod translated;
pub mod verdict;
