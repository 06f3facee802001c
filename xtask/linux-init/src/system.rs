//! System calls, as functions.

use core::ffi::CStr;
use core::ptr;
use core::time::Duration;

use syscalls::{Errno, Sysno, syscall};

/// Paths are whole, so the folder does not matter.
const AT_FDCWD: isize = -100;
/// Flags of `openat`, the same on all that is built for but one.
pub const O_RDONLY: usize = 0;
/// See [`O_RDONLY`].
pub const O_WRONLY: usize = 1;
/// See [`O_RDONLY`].
pub const O_RDWR: usize = 2;
/// Past the page cache.
#[cfg(target_arch = "aarch64")]
pub const O_DIRECT: usize = 0o200_000;
/// Past the page cache.
#[cfg(target_arch = "x86_64")]
pub const O_DIRECT: usize = 0o40_000;

const PROT_READ_WRITE: usize = 3;
const MAP_PRIVATE_ANONYMOUS: usize = 0x22;
const CLOCK_MONOTONIC: usize = 1;
/// `syslog`: read all that is there.
const SYSLOG_READ_ALL: usize = 3;
/// `ioctl` of a terminal: wait until all is sent.
const TCSBRK: usize = 0x5409;

/// Why the benchmark does not go on.
#[derive(Clone, Copy, Debug)]
pub struct Failure {
    /// What was wanted.
    pub what: &'static str,
    /// What Linux said, if it was Linux who refused.
    pub errno: i32,
    /// The number that is wrong, or the one of the line of the plan.
    pub number: u64,
}

impl Failure {
    /// Something is not as it should be.
    pub const fn of(what: &'static str) -> Self {
        Self::at(what, 0)
    }

    /// The same, with a number that says more.
    pub const fn at(what: &'static str, number: u64) -> Self {
        Self {
            what,
            errno: 0,
            number,
        }
    }
}

fn refused(what: &'static str) -> impl FnOnce(Errno) -> Failure {
    move |errno| Failure {
        what,
        errno: errno.into_raw(),
        number: 0,
    }
}

/// A file that is open. It stays so: this program ends soon.
#[derive(Clone, Copy)]
pub struct File(usize);

impl File {
    /// Opens it.
    pub fn open(path: &CStr, flags: usize) -> Result<Self, Failure> {
        // SAFETY: the path ends with a zero byte, and is only read.
        let opened = unsafe { syscall!(Sysno::openat, AT_FDCWD, path.as_ptr(), flags, 0) };
        opened.map(Self).map_err(refused("open"))
    }

    /// What system calls know it by.
    pub const fn number(self) -> usize {
        self.0
    }

    /// For as long as it matters to the caller: there are only so many.
    pub fn close(self) {
        // SAFETY: it touches no memory; whoever uses the number again is refused.
        let _ = unsafe { syscall!(Sysno::close, self.0) };
    }

    /// Reads up to the length of `bytes` from where the file is.
    pub fn read(self, bytes: &mut [u8]) -> Result<usize, Failure> {
        // SAFETY: Linux writes into `bytes` only.
        let read = unsafe { syscall!(Sysno::read, self.0, bytes.as_mut_ptr(), bytes.len()) };
        read.map_err(refused("read"))
    }

    /// Reads all of `bytes` at `offset`.
    pub fn read_at(self, bytes: &mut [u8], offset: u64) -> Result<(), Failure> {
        let (start, length) = (bytes.as_mut_ptr(), bytes.len());
        // SAFETY: Linux writes into `bytes` only.
        let read = unsafe { syscall!(Sysno::pread64, self.0, start, length, offset) };
        all(read.map_err(refused("pread"))?, length)
    }

    /// Writes all of `bytes`.
    pub fn write(self, bytes: &[u8]) -> Result<(), Failure> {
        // SAFETY: Linux reads from `bytes` only.
        let written = unsafe { syscall!(Sysno::write, self.0, bytes.as_ptr(), bytes.len()) };
        all(written.map_err(refused("write"))?, bytes.len())
    }

    /// Writes all of `bytes` at `offset`.
    pub fn write_at(self, bytes: &[u8], offset: u64) -> Result<(), Failure> {
        let (start, length) = (bytes.as_ptr(), bytes.len());
        // SAFETY: Linux reads from `bytes` only.
        let written = unsafe { syscall!(Sysno::pwrite64, self.0, start, length, offset) };
        all(written.map_err(refused("pwrite"))?, length)
    }

    /// Waits until a terminal has sent all.
    pub fn drain(self) {
        // SAFETY: it touches no memory of this program.
        let _ = unsafe { syscall!(Sysno::ioctl, self.0, TCSBRK, 1) };
    }
}

fn all(done: usize, wanted: usize) -> Result<(), Failure> {
    if done == wanted {
        return Ok(());
    }
    Err(Failure::at(
        "less was transferred than asked for",
        done as u64,
    ))
}

/// Reads a file of any kind into memory that is never given back.
pub fn read_whole(path: &CStr) -> Result<&'static str, Failure> {
    const ROOM: usize = 4 << 20;
    let start = memory(ROOM)?;
    // SAFETY: the mapping is that long, is nobody else's, zeroed, and never unmapped.
    let bytes: &'static mut [u8] = unsafe { core::slice::from_raw_parts_mut(start, ROOM) };
    let file = File::open(path, O_RDONLY)?;
    let mut length = 0;
    while let Some(room) = bytes.get_mut(length..).filter(|room| !room.is_empty()) {
        match file.read(room)? {
            0 => break,
            more => length += more,
        }
    }
    file.close();
    if length == ROOM {
        return Err(Failure::of("a file that is too long"));
    }
    let read = bytes.get(..length).unwrap_or_default();
    core::str::from_utf8(read).map_err(|_| Failure::of("a file that is no text"))
}

/// Reads a short file, such as one of sysfs, without the end of its line.
pub fn read_short<'a>(path: &CStr, room: &'a mut [u8]) -> Result<&'a str, Failure> {
    let file = File::open(path, O_RDONLY)?;
    let length = file.read(room);
    file.close();
    let read = room.get(..length?).unwrap_or_default();
    let text = core::str::from_utf8(read).map_err(|_| Failure::of("a file that is no text"))?;
    Ok(text.trim_end())
}

/// Writes a short file of sysfs.
pub fn write_short(path: &CStr, text: &[u8]) -> Result<(), Failure> {
    let file = File::open(path, O_WRONLY)?;
    let written = file.write(text);
    file.close();
    written
}

/// Where a symbolic link points to; `None` if there is none.
pub fn link<'a>(path: &CStr, room: &'a mut [u8]) -> Option<&'a str> {
    let (start, length) = (room.as_mut_ptr(), room.len());
    // SAFETY: the path ends with a zero byte and is only read; Linux writes into `room` only.
    let read = unsafe { syscall!(Sysno::readlinkat, AT_FDCWD, path.as_ptr(), start, length) };
    core::str::from_utf8(room.get(..read.ok()?)?).ok()
}

/// Makes a folder. One that is there already is as good.
pub fn folder(path: &CStr) {
    // SAFETY: the path ends with a zero byte, and is only read.
    let _ = unsafe { syscall!(Sysno::mkdirat, AT_FDCWD, path.as_ptr(), 0o755) };
}

/// Mounts a file system without a device.
pub fn mount(kind: &CStr, at: &CStr) -> Result<(), Failure> {
    let (kind, at, nothing) = (kind.as_ptr(), at.as_ptr(), ptr::null::<u8>());
    // SAFETY: both texts end with a zero byte, and are only read; there are no options.
    let mounted = unsafe { syscall!(Sysno::mount, kind, at, kind, 0, nothing) };
    mounted.map(drop).map_err(refused("mount"))
}

/// Loads a module of the kernel, and waits until it has begun.
pub fn load_module(file: File) -> Result<(), Failure> {
    // SAFETY: the text is only read. What a module does to this program is for whoever made the archive to say.
    let loaded = unsafe { syscall!(Sysno::finit_module, file.0, c"".as_ptr(), 0) };
    loaded.map(drop).map_err(refused("finit_module"))
}

/// New memory, zeroed, not touched yet.
pub fn memory(length: usize) -> Result<*mut u8, Failure> {
    let (where_, flags) = (ptr::null::<u8>(), MAP_PRIVATE_ANONYMOUS);
    // SAFETY: Linux chooses the place, so that nothing that there is can be in the way.
    let mapped = unsafe {
        syscall!(
            Sysno::mmap,
            where_,
            length,
            PROT_READ_WRITE,
            flags,
            -1_isize,
            0
        )
    };
    mapped
        .map(ptr::with_exposed_provenance_mut)
        .map_err(refused("mmap"))
}

/// Says what memory is for. It must not be one of the advices that change what is in it.
pub fn advise(start: *mut u8, length: usize, advice: usize) -> Result<(), Failure> {
    // SAFETY: neither advice that is given (14, 15: huge pages or not) changes what is in memory.
    let advised = unsafe { syscall!(Sysno::madvise, start, length, advice) };
    advised.map(drop).map_err(refused("madvise"))
}

/// Time since some moment.
pub fn now() -> Result<Duration, Failure> {
    let mut time = [0_u64; 2];
    // SAFETY: Linux writes two words of 64 bits there: seconds and nanoseconds.
    let told = unsafe { syscall!(Sysno::clock_gettime, CLOCK_MONOTONIC, time.as_mut_ptr()) };
    told.map_err(refused("clock_gettime"))?;
    let [seconds, nanoseconds] = time;
    Ok(Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds))
}

/// Sleeps.
pub fn sleep(milliseconds: u64) -> Result<(), Failure> {
    let time = [milliseconds / 1000, milliseconds % 1000 * 1_000_000];
    let nothing = ptr::null::<u64>();
    // SAFETY: Linux reads two words of 64 bits there.
    let slept = unsafe { syscall!(Sysno::nanosleep, time.as_ptr(), nothing) };
    slept.map(drop).map_err(refused("nanosleep"))
}

/// Opens a counter that `attributes`, a `perf_event_attr`, describe: of the first processor, whoever runs on it.
pub fn perf_event(attributes: &[u64; 8]) -> Result<File, Failure> {
    let (start, nobody) = (attributes.as_ptr(), -1_isize);
    // SAFETY: Linux reads as many bytes as the attributes say that they have: these.
    let opened = unsafe { syscall!(Sysno::perf_event_open, start, nobody, 0, nobody, 0) };
    opened.map(File).map_err(refused("perf_event_open"))
}

/// The last part of what the kernel said.
pub fn kernel_log(room: &mut [u8]) -> &[u8] {
    let (start, length) = (room.as_mut_ptr(), room.len());
    // SAFETY: Linux writes into `room` only.
    let read = unsafe { syscall!(Sysno::syslog, SYSLOG_READ_ALL, start, length) };
    room.get(..read.unwrap_or(0)).unwrap_or_default()
}

/// Makes the port of QEMU's exit device accessible.
#[cfg(target_arch = "x86_64")]
pub fn allow_port(port: u16) {
    // SAFETY: it touches no memory; the port is that of a device that ends the machine.
    let _ = unsafe { syscall!(Sysno::ioperm, usize::from(port), 4, 1) };
}

/// Makes a queue for [`submit`].
pub fn io_setup(room: usize) -> Result<u64, Failure> {
    let mut context = 0_u64;
    // SAFETY: Linux writes one word there.
    let made = unsafe { syscall!(Sysno::io_setup, room, &raw mut context) };
    made.map(|_| context).map_err(refused("io_setup"))
}

/// Begins I/Os. How many it began.
///
/// # Safety
///
/// Each address is that of an `iocb`, and the memory that it names is nobody's until the I/O has ended.
pub unsafe fn submit(context: u64, controls: &[u64]) -> Result<usize, Failure> {
    let (count, start) = (controls.len(), controls.as_ptr());
    // SAFETY: see the contract of this function.
    let begun = unsafe { syscall!(Sysno::io_submit, context, count, start) };
    begun.map_err(refused("io_submit"))
}

/// How often this program had to wait for something, so that others could run, or nobody.
pub fn waits() -> Result<u64, Failure> {
    /// Whose use of resources.
    const SELF: usize = 0;
    /// Words of the answer, and which of them is the number of voluntary switches.
    const WORDS: usize = 18;
    const SWITCHES: usize = 16;
    let mut usage = [0_u64; WORDS];
    // SAFETY: Linux writes 18 words there.
    let told = unsafe { syscall!(Sysno::getrusage, SELF, usage.as_mut_ptr()) };
    told.map_err(refused("getrusage"))?;
    Ok(usage[SWITCHES])
}

/// Waits for the end of at least one I/O. How many events there are. If none ends, whoever runs this machine ends it: a
/// limit would be a timer of Linux, and cost each I/O something.
pub fn events(context: u64, events: &mut [[u64; 4]]) -> Result<usize, Failure> {
    let (room, start, forever) = (events.len(), events.as_mut_ptr(), ptr::null::<u64>());
    // SAFETY: Linux writes at most so many events of 32 bytes there.
    let ended = unsafe { syscall!(Sysno::io_getevents, context, 1, room, start, forever) };
    ended.map_err(refused("io_getevents"))
}
