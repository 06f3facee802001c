//! The network card of `virtio-drivers`, unchanged, behind the IOMMU: ARP and UDP with a peer that
//! looks at every frame.

use alloc::vec;
use alloc::vec::Vec;

use virtio_drivers::device::net::VirtIONetRaw;
use virtio_iommu::adapters::virtio_drivers::{Endpoint, IommuHal};
use virtio_iommu::bind_endpoint;

use super::adapter_lab::{DESK_CHECKS, Desk, Mode, TIMEOUT, Transport};
use super::dma_lab::{Cost, Pages, compare};
use super::lab::hold;
use crate::arch::Firmware;
use crate::platform::{self, KernelHal, KernelPlatform};
use crate::report::{Checked, Report};

bind_endpoint!(
    /// The only network card.
    pub struct Card: KernelPlatform, KernelHal
);

/// Its driver.
type Net = VirtIONetRaw<IommuHal<Card>, Transport<Card>, 16>;

/// PCI vendor and device id.
const ID: (u16, u16) = (0x1af4, 0x1041);
/// What QEMU gives its first card.
const MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];
/// This end, and the other.
const HERE: [u8; 4] = [10, 0, 9, 2];
const THERE: [u8; 4] = [10, 0, 9, 1];
const EVERYONE: [u8; 6] = [0xff; 6];
/// Ports.
const MINE: u16 = 12_345;
const ECHO: u16 = 7;

/// Datagrams; the host side counts them.
const ECHOES: usize = 40;
/// Pages that the card receives into.
const BUFFERS: usize = 8;
/// The bytes that the driver has in front of each frame.
const HEADER: usize = 12;

/// `adapter-net-strict`.
pub fn strict(report: &mut Report, firmware: &Firmware) -> Checked {
    run(report, firmware, Mode::Strict)
}

/// `adapter-net-bounce`.
pub fn bounce(report: &mut Report, firmware: &Firmware) -> Checked {
    run(report, firmware, Mode::Bounce)
}

/// `adapter-net-deferred`.
pub fn deferred(report: &mut Report, firmware: &Firmware) -> Checked {
    run(report, firmware, Mode::Deferred)
}

fn run(report: &mut Report, firmware: &Firmware, mode: Mode) -> Checked {
    report.plan(DESK_CHECKS + 9);
    let desk = Desk::open::<Card>(report, firmware, ID, mode.options())?;
    let transport = desk.behind::<Card>(report)?;
    let transport = report.need("behind_the_iommu", transport)?;
    let net = report.require("the_card_is_up", Net::new(transport))?;
    report.equal("it_has_its_address", net.mac_address(), MAC);
    let mut link = Link {
        net,
        with_card: Vec::new(),
    };
    let mut begun = Cost::NONE;
    for _ in 0..BUFFERS {
        let page = desk.alloc(report, 1)?;
        report.need("elsewhere", desk.is_elsewhere(&page).then_some(()).ok_or(0))?;
        let (done, cost) = Cost::measure(|| link.lend(report, page));
        done?;
        begun.requests += cost.requests;
    }
    let wanted = match mode {
        Mode::Bounce => 0,
        Mode::Strict | Mode::Deferred => BUFFERS,
    };
    report.equal(
        "buffers_are_mapped_as_the_mode_says",
        begun.requests,
        wanted,
    );

    // The card has buffers to receive into.
    hold(report, "polled")?;
    link.send(report, &arp())?;
    let answer = link.receive(report)?;
    let from = answer.get(22..32).unwrap_or_default();
    let known = answer.len() == 42 && answer[20..22] == [0, 2] && from[6..] == THERE;
    report.that("the_peer_answers_arp", known);
    let mac: [u8; 6] = from
        .get(..6)
        .and_then(|mac| mac.try_into().ok())
        .unwrap_or_default();

    drop(answer);

    let (right, cost) = Cost::measure(|| -> Checked<usize> {
        let mut right = 0;
        for number in 0..ECHOES {
            let len = 8 + number * 36;
            let payload: Vec<u8> = (0..len).map(|at| content(number, at)).collect();
            link.send(report, &udp(mac, &payload))?;
            let answer = link.receive(report)?;
            right += usize::from(is_echo(&answer, mac, &payload));
        }
        Ok(right)
    });
    report.equal("every_datagram_comes_back_turned_around", right?, ECHOES);
    let each = match mode {
        // The page is unmapped when the frame is there, and mapped for the next.
        Mode::Strict => 2,
        Mode::Bounce | Mode::Deferred => 0,
    };
    report.equal("with_so_many_requests_each", cost.requests, ECHOES * each);
    report.equal("the_card_has_its_buffers", link.with_card.len(), BUFFERS);

    // The card still has its buffers: they come back with its reset.
    let Link { net, with_card } = link;
    drop(net);
    let usage = Card::usage();
    report.equal(
        "a_card_that_is_dropped_has_nothing",
        (usage.mapped, usage.queues, usage.from_device.used),
        (0, 0, 0),
    );
    report.need("flush", desk.domain.flush())?;
    drop(with_card);
    report.equal("its_memory_came_back", platform::live_pages(), desk.pages);
    desk.close::<Card>(report)
}

/// The card, and the pages that it receives into, with their tokens.
struct Link {
    net: Net,
    with_card: Vec<(u16, Pages)>,
}

impl Link {
    /// Gives the card a page to receive into.
    fn lend(&mut self, report: &mut Report, mut page: Pages) -> Checked {
        // SAFETY: nobody touches the page before the card has used it, or is dropped.
        let token = unsafe { self.net.receive_begin(&mut page) };
        let token = report.need("receive", token)?;
        self.with_card.push((token, page));
        Ok(())
    }

    /// Sends a frame, and waits until the card has it.
    fn send(&mut self, report: &mut Report, frame: &[u8]) -> Checked {
        let mut buffer = vec![0; HEADER];
        buffer.extend_from_slice(frame);
        let Self { net, .. } = self;
        // SAFETY: nobody touches the buffer before the card has used it; if it never does,
        // nothing goes on here, and the buffer was copied.
        let token = report.need("send", unsafe { net.transmit_begin(&buffer) })?;
        let sent = Card::binding().wait_until(TIMEOUT, || net.poll_transmit() == Some(token));
        report.need("sent_in_time", sent.then_some(()).ok_or(token))?;
        // SAFETY: the same buffer.
        let sent = unsafe { net.transmit_complete(token, &buffer) };
        report.need("sent", sent).map(drop)
    }

    /// Waits for a frame, and gives its page to the card again.
    fn receive(&mut self, report: &mut Report) -> Checked<Vec<u8>> {
        let Self { net, with_card } = self;
        let mut used = None;
        let arrived = Card::binding().wait_until(TIMEOUT, || {
            used = net.poll_receive();
            used.is_some()
        });
        report.need("frame_in_time", arrived.then_some(()).ok_or("none"))?;
        let at = with_card.iter().position(|(token, _)| Some(*token) == used);
        let at = report.need("token", at.ok_or(used))?;
        let (token, mut page) = with_card.swap_remove(at);
        // SAFETY: the same page.
        let lengths = unsafe { net.receive_complete(token, &mut page) };
        let (header, len) = report.need("received", lengths)?;
        let frame = page.get(header..).and_then(|rest| rest.get(..len));
        let frame = report.need("length", frame.ok_or(len))?.to_vec();
        self.lend(report, page)?;
        Ok(frame)
    }
}

/// Who has the address of the other end?
fn arp() -> Vec<u8> {
    let kinds = [8, 6, 0, 1, 8, 0, 6, 4, 0, 1];
    [&EVERYONE[..], &MAC, &kinds, &MAC, &HERE, &[0; 6], &THERE].concat()
}

/// The one's complement sum of 16-bit words.
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| match *pair {
        [high, low] => u32::from(u16::from_be_bytes([high, low])),
        [high] => u32::from(high) << 8,
        _ => 0,
    });
    let sum: u32 = words.sum();
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

/// A datagram to the echo service of the other end.
fn udp(to: [u8; 6], payload: &[u8]) -> Vec<u8> {
    let length = 8 + payload.len() as u16;
    let mut header = vec![0x45, 0];
    header.extend((20 + length).to_be_bytes());
    header.extend([0, 1, 0, 0, 64, 17, 0, 0]);
    header.extend([HERE, THERE].concat());
    let checksum = !sum(&header);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());

    let mut datagram = Vec::new();
    for field in [MINE, ECHO, length, 0] {
        datagram.extend(field.to_be_bytes());
    }
    datagram.extend_from_slice(payload);
    let mut summed = [HERE, THERE].concat();
    summed.extend([0, 17]);
    summed.extend(length.to_be_bytes());
    summed.extend_from_slice(&datagram);
    let checksum = match !sum(&summed) {
        0 => 0xffff,
        checksum => checksum,
    };
    datagram[6..8].copy_from_slice(&checksum.to_be_bytes());
    [&to[..], &MAC, &[8, 0], &header, &datagram].concat()
}

/// What a datagram has at an offset: the peer is to have the same idea.
fn content(number: usize, offset: usize) -> u8 {
    (number * 31 + offset * 7 + offset / 256) as u8
}

/// Whether a frame is the echo of a payload.
fn is_echo(frame: &[u8], from: [u8; 6], payload: &[u8]) -> bool {
    let Some((head, rest)) = frame.split_at_checked(42) else {
        return false;
    };
    let turned = |offset: usize| payload.get(offset).map_or(0, |byte| !byte);
    head[..6] == MAC
        && head[6..12] == from
        && head[26..34] == [THERE, HERE].concat()
        && head[34..38] == [ECHO.to_be_bytes(), MINE.to_be_bytes()].concat()
        && sum(&frame[14..34]) == 0xffff
        && rest.len() == payload.len()
        && compare(rest, turned).is_ok()
}
