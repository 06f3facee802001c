//! The other end of a network card: a host that answers ARP and echoes UDP, over a pair of sockets that nobody else has.
//!
//! It shares no code with the guest, looks at every byte of every frame that it gets, and says what was wrong first.

use std::io::{self, ErrorKind};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{env, fs, process};

/// What the guest has to send, exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frames {
    /// Who has the address of the peer?
    pub arps: usize,
    /// Datagrams to be echoed.
    pub echoes: usize,
}

/// What is wrong with the frames of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WrongFrames {
    /// There were others than these.
    Count(Frames),
    /// One of them is wrong.
    Frame(String),
    /// No peer could be started, or it ended too early.
    Lost(String),
}

/// The peer.
const PEER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x09];
const PEER_IP: [u8; 4] = [10, 0, 9, 1];
/// The guest: the address that QEMU gives its first card.
const GUEST_MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];
const GUEST_IP: [u8; 4] = [10, 0, 9, 2];
/// The port of the echo service.
const ECHO: u16 = 7;

/// A peer that is running.
pub struct Peer {
    wanted: Frames,
    thread: Result<JoinHandle<Result<Frames, WrongFrames>>, String>,
    stop: Arc<AtomicBool>,
    /// The sockets of QEMU, and of the peer.
    paths: [PathBuf; 2],
}

impl Peer {
    /// Starts a peer that waits for these frames.
    pub fn start(wanted: Frames) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        // The name of a socket may have 107 bytes, so not in the target folder.
        let name = |end: &str| format!("viommu-{}-{number}-{end}", process::id());
        let paths = ["vm", "peer"].map(|end| env::temp_dir().join(name(end)));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = Self::socket(&paths[1]).map_err(|error| error.to_string());
        let thread = thread.map(|socket| {
            let (stop, to) = (stop.clone(), paths[0].clone());
            thread::spawn(move || serve(&socket, &to, &stop))
        });
        Self {
            wanted,
            thread,
            stop,
            paths,
        }
    }

    fn socket(path: &PathBuf) -> io::Result<UnixDatagram> {
        let socket = UnixDatagram::bind(path)?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        Ok(socket)
    }

    /// The arguments of QEMU for the network `net`.
    pub fn arguments(&self) -> [String; 2] {
        // A comma ends a name unless there are two.
        let [vm, peer] = self.paths.each_ref();
        let [vm, peer] = [vm, peer].map(|path| path.display().to_string().replace(',', ",,"));
        let local = format!("local.type=unix,local.path={vm}");
        let remote = format!("remote.type=unix,remote.path={peer}");
        ["-netdev".into(), format!("dgram,id=net,{local},{remote}")]
    }

    /// Ends it, and judges what it has seen.
    pub fn finish(self) -> Option<WrongFrames> {
        self.stop.store(true, Ordering::Relaxed);
        let seen = match self.thread {
            Ok(thread) => thread.join(),
            Err(error) => return Some(WrongFrames::Lost(error)),
        };
        for path in self.paths {
            // What stays behind is a name in the folder for temporary files.
            let _ = fs::remove_file(path);
        }
        match seen {
            Ok(Ok(seen)) if seen == self.wanted => None,
            Ok(Ok(seen)) => Some(WrongFrames::Count(seen)),
            Ok(Err(wrong)) => Some(wrong),
            Err(_) => Some(WrongFrames::Lost("the peer panicked".into())),
        }
    }
}

/// Answers until it is told to stop.
fn serve(socket: &UnixDatagram, to: &PathBuf, stop: &AtomicBool) -> Result<Frames, WrongFrames> {
    let mut seen = Frames::default();
    let mut buffer = [0; 4096];
    loop {
        let len = match socket.recv(&mut buffer) {
            Ok(len) => len,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if stop.load(Ordering::Relaxed) {
                    return Ok(seen);
                }
                continue;
            }
            Err(error) => return Err(WrongFrames::Lost(error.to_string())),
        };
        let answer = answer(&buffer[..len], &mut seen).map_err(|what| {
            let (number, what) = (seen.arps + seen.echoes, what);
            WrongFrames::Frame(format!("frame {number}: {what}"))
        })?;
        socket
            .send_to(&answer, to)
            .map_err(|error| WrongFrames::Lost(error.to_string()))?;
    }
}

/// Says what is wrong with a value, if it is.
fn check<T: PartialEq + std::fmt::Debug>(what: &str, seen: T, wanted: T) -> Result<(), String> {
    if seen == wanted {
        return Ok(());
    }
    Err(format!("{what} is {seen:x?}, not {wanted:x?}"))
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The answer to a frame of the guest.
///
/// # Errors
///
/// What is wrong with it.
pub fn answer(frame: &[u8], seen: &mut Frames) -> Result<Vec<u8>, String> {
    if frame.len() < 14 {
        return Err(format!("{} bytes", frame.len()));
    }
    check("the source", &frame[6..12], &GUEST_MAC)?;
    match word(frame, 12) {
        0x0806 => {
            let answer = arp(frame)?;
            seen.arps += 1;
            Ok(answer)
        }
        0x0800 => {
            check("the destination", &frame[..6], &PEER_MAC)?;
            let answer = echo(&frame[14..], seen.echoes)?;
            seen.echoes += 1;
            Ok([&GUEST_MAC[..], &PEER_MAC, &[0x08, 0x00], &answer].concat())
        }
        other => Err(format!("of type {other:#x}")),
    }
}

/// Who has the address of the peer (RFC 826)?
fn arp(frame: &[u8]) -> Result<Vec<u8>, String> {
    check("the length", frame.len(), 42)?;
    check("the destination", &frame[..6], &[0xff; 6])?;
    check("hardware, protocol", &frame[14..20], &[0, 1, 8, 0, 6, 4])?;
    check("the operation", word(frame, 20), 1)?;
    check(
        "the sender",
        &frame[22..32],
        &[&GUEST_MAC[..], &GUEST_IP].concat(),
    )?;
    check(
        "the target",
        &frame[32..42],
        &[&[0; 6][..], &PEER_IP].concat(),
    )?;
    let head = [
        &GUEST_MAC[..],
        &PEER_MAC,
        &[0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 2],
    ]
    .concat();
    Ok([&head[..], &PEER_MAC, &PEER_IP, &GUEST_MAC, &GUEST_IP].concat())
}

/// The sum of RFC 1071: of bytes with a right checksum among them it is `0xffff`.
fn sum(parts: &[&[u8]]) -> u16 {
    let bytes: Vec<u8> = parts.concat();
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// What has no checksum yet gets one.
fn seal(bytes: &mut [u8], at: usize, before: &[u8]) {
    bytes[at..at + 2].fill(0);
    let value = match !sum(&[before, bytes]) {
        0 => 0xffff,
        value => value,
    };
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// The pseudo header of a datagram (RFC 768).
fn pseudo(from: [u8; 4], to: [u8; 4], len: usize) -> Vec<u8> {
    [&from[..], &to, &[0, 17], &(len as u16).to_be_bytes()].concat()
}

/// What a datagram has at an offset: the guest is to have the same idea.
fn content(number: usize, offset: usize) -> u8 {
    (number * 31 + offset * 7 + offset / 256) as u8
}

/// The payload of a datagram comes back with all its bits turned around.
fn echo(packet: &[u8], number: usize) -> Result<Vec<u8>, String> {
    if packet.len() < 28 {
        return Err(format!("a packet of {} bytes", packet.len()));
    }
    check("version, length of the header", packet[0], 0x45)?;
    check("the length", usize::from(word(packet, 2)), packet.len())?;
    check("fragments", word(packet, 6) & 0xbfff, 0)?;
    check("the protocol", packet[9], 17)?;
    check("the sum of the header", sum(&[&packet[..20]]), 0xffff)?;
    check("from", &packet[12..16], &GUEST_IP)?;
    check("to", &packet[16..20], &PEER_IP)?;
    let datagram = &packet[20..];
    check(
        "the length of the datagram",
        usize::from(word(datagram, 4)),
        datagram.len(),
    )?;
    check("the port", word(datagram, 2), ECHO)?;
    let before = pseudo(GUEST_IP, PEER_IP, datagram.len());
    check("the sum of the datagram", sum(&[&before, datagram]), 0xffff)?;
    let payload = &datagram[8..];
    let wanted: Vec<u8> = (0..payload.len()).map(|at| content(number, at)).collect();
    if let Some(at) = (0..payload.len()).find(|at| payload[*at] != wanted[*at]) {
        return Err(format!(
            "datagram {number}: byte {at} is {:#x}",
            payload[at]
        ));
    }

    let turned = payload.iter().map(|byte| !byte);
    let ports = [&ECHO.to_be_bytes()[..], &datagram[..2]].concat();
    let length = (datagram.len() as u16).to_be_bytes();
    let mut reply: Vec<u8> = [&ports[..], &length, &[0, 0]].concat();
    reply.extend(turned);
    let before = pseudo(PEER_IP, GUEST_IP, reply.len());
    seal(&mut reply, 6, &before);
    let total = ((20 + reply.len()) as u16).to_be_bytes();
    let mut header = [&[0x45, 0][..], &total, &[0, 0, 0, 0, 64, 17, 0, 0]].concat();
    header.extend_from_slice(&[PEER_IP, GUEST_IP].concat());
    seal(&mut header, 10, &[]);
    Ok([header, reply].concat())
}
