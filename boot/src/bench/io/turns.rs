//! Who is measured when, and whether the data is right.

use alloc::vec::Vec;

use virtio_iommu::Iommu;
use virtio_iommu::dma::{FromDevice, ToDevice};
use virtio_iommu::topology::pci::Function;

use super::bounced::{BounceIn, BounceOut, CopyIn, CopyOut};
use super::case::{Case, DEEP, Device, LARGE, Layout, Mode};
use super::content::Content;
use super::deferred::{Fresh, Recurring};
use super::engine::{Engine, Nobody, Places, Watch};
use super::gauge::{Gauge, Told, Work};
use super::stand::{PUT_OFF, RESERVE, Stand};
use super::store::{Memory, Row, Scattered, Store};
use super::way::{IoError, Physical, Readable, Segments, Static, Strict, Way};
use crate::block::{BlockDevice, Operation, Segment};
use crate::machine::Machine;
use crate::platform::KernelPlatform;
use crate::report::{Checked, Report, Stop};

/// I/Os that warm a phase up: as many as are under way, and a few.
const WARM_UP: usize = DEEP + 4;
/// The same, if UNMAPs are put off: as many as that is possible with.
const WARM_UP_FRESH: usize = DEEP + PUT_OFF;

/// The turns of all modes.
pub struct Turns {
    gauge: Gauge,
    rounds: usize,
}

impl Turns {
    /// So many rounds.
    pub fn new(gauge: Gauge, rounds: usize) -> Self {
        Self { gauge, rounds }
    }

    /// All that is measured of one kind of disk.
    pub fn kind<D: BlockDevice>(
        &mut self,
        device: Device,
        functions: &[Function],
        machine: &mut Machine,
        iommu: &Iommu<KernelPlatform>,
        report: &mut Report,
    ) -> Checked {
        let mut stands: Vec<Stand<D>> = Vec::new();
        for (mode, function) in device.modes().iter().zip(functions) {
            let mut stand = Stand::open(*mode, function, machine, iommu, report)?;
            let look = self.gauge.cost_of_a_look(&mut stand.disk);
            stand.look = report.need("cost_of_a_look", look)?;
            stands.push(stand);
        }
        let plain = stands.iter().find_map(|stand| stand.device.as_ref());
        let plain = plain.and_then(|device| Store::new(device, DEEP));
        let mut plain = report.need("buffers", plain.ok_or("no memory left"))?;

        for (number, case) in Case::all(device).enumerate() {
            for at in 0..stands.len() {
                let version = (number * stands.len() + at + 1) as u64;
                let result = verify(&mut stands, at, &mut plain, case, version);
                worked(result, &case, stands[at].mode, report)?;
            }
        }
        for round in 0..self.rounds {
            for case in Case::all(device) {
                for turn in 0..stands.len() {
                    let at = (turn + round) % stands.len();
                    let stand = &mut stands[at];
                    self.phase(stand, &mut plain, case, report)?;
                }
                if case.is_plain() {
                    self.others(&mut stands, &mut plain, case, report)?;
                }
            }
        }
        drop(plain);
        stands.into_iter().try_for_each(|stand| stand.close(report))
    }

    /// One mode in one case.
    fn phase<D: BlockDevice>(
        &mut self,
        stand: &mut Stand<D>,
        plain: &mut Store,
        case: Case,
        report: &mut Report,
    ) -> Checked {
        let bytes = stand.disk.blocks() * stand.disk.block_size() as u64;
        let mut phase = Phase {
            ios: self.gauge.ios(&case),
            gauge: &mut self.gauge,
            look: stand.look,
            warm_up: match stand.mode {
                Mode::DeferredFresh => WARM_UP_FRESH,
                _ => WARM_UP,
            },
            told: None,
        };
        let places = Places::new(&case, area(&case, bytes), bytes / 2);
        let result = in_mode(stand, plain, case, places, &mut phase);
        let told = phase.told;
        worked(result, &case, stand.mode, report)?;
        report
            .need("phase", told.ok_or(case))?
            .record(&case, stand.mode, report);
        Ok(())
    }

    /// What is no I/O: the copies of `bounce`, the requests of `strict`.
    fn others<D: BlockDevice>(
        &mut self,
        stands: &mut [Stand<D>],
        plain: &mut Store,
        case: Case,
        report: &mut Report,
    ) -> Checked {
        let times = self.gauge.ios(&case);
        for (needs, mode) in [(Mode::Bounce, Mode::Copy), (Mode::Strict, Mode::Requests)] {
            let Some(stand) = stands.iter_mut().find(|stand| stand.mode == needs) else {
                continue;
            };
            let told = match case.layout {
                Layout::Contiguous => {
                    other::<D, Row>(stand, plain, case, &mut self.gauge, times, mode)
                }
                Layout::Scattered => {
                    other::<D, Scattered>(stand, plain, case, &mut self.gauge, times, mode)
                }
            };
            worked(told, &case, mode, report)?.record(&case, mode, report);
        }
        Ok(())
    }
}

/// Reads are of the first half of a disk, writes to the second.
fn area(case: &Case, bytes: u64) -> u64 {
    match case.operation {
        Operation::Read => 0,
        Operation::Write => bytes / 2,
    }
}

/// What does not work ends the benchmark.
fn worked<T>(
    result: Result<T, IoError>,
    case: &Case,
    mode: Mode,
    report: &mut Report,
) -> Checked<T> {
    result.map_err(|error| {
        report.fail(
            "what_is_read_and_written_is_right",
            format_args!("{case} mode={}: {error:?}", mode.name()),
        );
        Stop
    })
}

/// Something that is done with a way, whichever it is.
trait Task {
    fn perform<D: BlockDevice, W: Way>(
        &mut self,
        engine: &mut Engine<'_, D>,
        way: &mut W,
    ) -> Result<(), IoError>;
}

/// Does something in the mode of a stand.
fn in_mode<D: BlockDevice, T: Task>(
    stand: &mut Stand<D>,
    plain: &mut Store,
    case: Case,
    places: Places,
    task: &mut T,
) -> Result<(), IoError> {
    match case.layout {
        Layout::Contiguous => with_memory::<D, Row, T>(stand, plain, case, places, task),
        Layout::Scattered => with_memory::<D, Scattered, T>(stand, plain, case, places, task),
    }
}

fn with_memory<D: BlockDevice, B: Memory, T: Task>(
    stand: &mut Stand<D>,
    plain: &mut Store,
    case: Case,
    places: Places,
    task: &mut T,
) -> Result<(), IoError> {
    let store = match stand.mode {
        Mode::None | Mode::Bypass | Mode::Bounce => plain,
        _ => &mut stand.store,
    };
    let shelf = B::shelf(store, case.size);
    // Buffers that recur are as many as are usual for the depth.
    let rest = match stand.mode {
        Mode::Deferred => shelf.split_off((case.depth + RESERVE).min(shelf.len())),
        _ => Vec::new(),
    };
    let buffers = core::mem::take(shelf);
    let engine = Engine::new(&mut stand.disk, case, places);
    let back = match (stand.mode, &stand.device, &stand.pools, case.operation) {
        (Mode::Bounce, _, Some(pools), Operation::Read) => {
            with_way(engine, BounceIn::new(pools, case.size, buffers), task)
        }
        (Mode::Bounce, _, Some(pools), Operation::Write) => {
            with_way(engine, BounceOut::new(pools, buffers), task)
        }
        (mode, Some(device), ..) => match case.operation {
            Operation::Read => {
                mapped::<D, B, FromDevice, T>(mode, device, engine, buffers, case, task)
            }
            Operation::Write => {
                mapped::<D, B, ToDevice, T>(mode, device, engine, buffers, case, task)
            }
        },
        _ => with_way(engine, Physical::new(buffers), task),
    };
    *shelf = back?;
    shelf.extend(rest);
    Ok(())
}

/// In one of the modes that map.
fn mapped<D: BlockDevice, B: Memory, R: Readable, T: Task>(
    mode: Mode,
    device: &virtio_iommu::dma::DmaDevice<KernelPlatform>,
    engine: Engine<'_, D>,
    buffers: Vec<B>,
    case: Case,
    task: &mut T,
) -> Result<Vec<B>, IoError> {
    let Case { depth, size, .. } = case;
    match mode {
        Mode::Static => with_way(engine, Static::<B, R>::new(device, buffers)?, task),
        Mode::Strict => with_way(engine, Strict::<B, R>::new(device, buffers), task),
        Mode::Deferred => {
            let way = Recurring::<B, R>::new(device, depth, size, buffers)?;
            with_way(engine, way, task)
        }
        Mode::DeferredFresh => with_way(
            engine,
            Fresh::<B, R>::new(device, depth, size, buffers),
            task,
        ),
        _ => Err(IoError::Order),
    }
}

fn with_way<D: BlockDevice, W: Way, T: Task>(
    mut engine: Engine<'_, D>,
    mut way: W,
    task: &mut T,
) -> Result<Vec<W::Memory>, IoError> {
    task.perform(&mut engine, &mut way)?;
    way.finish()
}

/// Measures.
struct Phase<'a> {
    gauge: &'a mut Gauge,
    ios: usize,
    warm_up: usize,
    look: u64,
    told: Option<Told>,
}

impl Task for Phase<'_> {
    fn perform<D: BlockDevice, W: Way>(
        &mut self,
        engine: &mut Engine<'_, D>,
        way: &mut W,
    ) -> Result<(), IoError> {
        engine.run(way, &mut Nobody, self.warm_up)?;
        let work = AtWork { engine, way };
        self.told = Some(self.gauge.ios_of(self.ios, self.look, work)?);
        Ok(())
    }
}

struct AtWork<'a, 'd, D, W> {
    engine: &'a mut Engine<'d, D>,
    way: &'a mut W,
}

impl<D: BlockDevice, W: Way> Work for AtWork<'_, '_, D, W> {
    #[inline]
    fn run<O: Watch>(&mut self, watch: &mut O, ios: usize) -> Result<(), IoError> {
        self.engine.run(self.way, watch, ios)
    }
}

/// Looks at what is read, or makes what is written, and notes where.
struct Verify {
    operation: Operation,
    version: u64,
    places: Vec<u64>,
    ios: usize,
}

impl Watch for Verify {
    fn begins<W: Way>(&mut self, way: &mut W, slot: usize, at: u64) -> Result<(), IoError> {
        self.places.push(at);
        match self.operation {
            Operation::Read => Ok(()),
            Operation::Write => way.fill(slot, Content::at(at, self.version)),
        }
    }

    fn ended<W: Way>(&mut self, way: &mut W, slot: usize, at: u64) -> Result<(), IoError> {
        let right = match self.operation {
            Operation::Read => way.holds(slot, Content::at(at, 0))?,
            Operation::Write => true,
        };
        right.then_some(()).ok_or(IoError::Content(at))
    }
}

impl Task for Verify {
    fn perform<D: BlockDevice, W: Way>(
        &mut self,
        engine: &mut Engine<'_, D>,
        way: &mut W,
    ) -> Result<(), IoError> {
        engine.run(way, self, self.ios)
    }
}

/// All data of some I/Os of one mode: what is read is what the host side has put there; what is
/// written is found there by the first disk, which is not translated.
fn verify<D: BlockDevice>(
    stands: &mut [Stand<D>],
    at: usize,
    plain: &mut Store,
    case: Case,
    version: u64,
) -> Result<(), IoError> {
    let stand = stands.get_mut(at).ok_or(IoError::Order)?;
    let bytes = stand.disk.blocks() * stand.disk.block_size() as u64;
    let mut verify = Verify {
        operation: case.operation,
        version,
        places: Vec::new(),
        ios: 2 * case.depth + 4,
    };
    let places = Places::new(&case, area(&case, bytes), bytes / 2);
    in_mode(stand, plain, case, places, &mut verify)?;
    if case.operation == Operation::Read {
        return Ok(());
    }
    let first = stands.first_mut().ok_or(IoError::Order)?;
    let mut buffer = Row::shelf(plain, LARGE).pop().ok_or(IoError::Order)?;
    for at in verify.places {
        let content = Content::at(at, version);
        if !is_on_disk(&mut first.disk, at, case.size, content, &mut buffer)? {
            return Err(IoError::Content(at));
        }
    }
    Row::shelf(plain, LARGE).push(buffer);
    Ok(())
}

/// Whether content is on a disk that is told of physical addresses.
fn is_on_disk<D: BlockDevice>(
    disk: &mut D,
    at: u64,
    size: usize,
    content: Content,
    buffer: &mut Row,
) -> Result<bool, IoError> {
    // What was there before must not be taken for what was read.
    buffer[..].fill(0);
    let start = virtio_iommu::dma::DmaBuffer::pieces(buffer).next();
    let start = start.ok_or(IoError::Buffer)?.phys.start().0;
    let block = disk.block_size();
    let segments = [Segment::new(start, size as u32)];
    let _ticket = disk.offer(Operation::Read, at / block as u64, size / block, &segments)?;
    disk.submit();
    let (_, result) = disk.wait()?;
    result.map_err(IoError::Failed)?;
    let seen = buffer.get(..size).ok_or(IoError::Buffer)?;
    Ok(content.is_in(seen))
}

/// Measures the copy or the requests of a case.
fn other<D: BlockDevice, B: Memory>(
    stand: &mut Stand<D>,
    plain: &mut Store,
    case: Case,
    gauge: &mut Gauge,
    times: usize,
    mode: Mode,
) -> Result<Told, IoError> {
    let device = stand.device.as_ref().ok_or(IoError::Order)?;
    if mode == Mode::Requests {
        let shelf = B::shelf(&mut stand.store, case.size);
        let buffers = shelf.split_off(shelf.len().saturating_sub(2));
        let (told, back) = match case.operation {
            Operation::Read => {
                requests(Strict::<B, FromDevice>::new(device, buffers), gauge, times)
            }
            Operation::Write => requests(Strict::<B, ToDevice>::new(device, buffers), gauge, times),
        }?;
        shelf.extend(back);
        return Ok(told);
    }
    let pools = stand.pools.as_ref().ok_or(IoError::Order)?;
    let buffer = B::shelf(plain, case.size).pop().ok_or(IoError::Order)?;
    let (told, buffer) = match case.operation {
        Operation::Read => {
            let mut copy = CopyOut::new(pools, case.size, buffer)?;
            (0..WARM_UP).try_for_each(|_| copy.copy())?;
            let told = gauge.other(times, || copy.copy())?;
            (told, copy.finish())
        }
        Operation::Write => {
            let mut copy = CopyIn::new(device, case.size, buffer)?;
            (0..WARM_UP).try_for_each(|_| copy.copy())?;
            let told = gauge.other(times, || copy.copy())?;
            (told, copy.finish()?)
        }
    };
    B::shelf(plain, case.size).push(buffer);
    Ok(told)
}

/// Measures what a way asks of the IOMMU, without an I/O.
fn requests<W: Way>(
    mut way: W,
    gauge: &mut Gauge,
    times: usize,
) -> Result<(Told, Vec<W::Memory>), IoError> {
    let mut segments = Segments::new();
    way.begin(0, &mut segments)?;
    let mut again = || {
        // SAFETY: no disk is told of it.
        unsafe { way.again(0, &mut segments) }
    };
    (0..WARM_UP).try_for_each(|_| again())?;
    let told = gauge.other(times, again)?;
    // SAFETY: as above.
    unsafe { way.end(0) }?;
    Ok((told, way.finish()?))
}
