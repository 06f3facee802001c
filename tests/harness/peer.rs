//! The peer of a network card says no: to a frame with anything wrong in it, and to too few or too many.

use crate::support::peer::{Frames, Peer, WrongFrames, answer};
use libtest_mimic::Trial;
use std::os::unix::net::UnixDatagram;

/// A question for the peer's address, byte by byte.
const ARP: [u8; 42] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0x00, 0x12, 0x34, 0x56, 0x08,
    0x06, // Ethernet
    0x00, 0x01, 0x08, 0x00, 0x06, 0x04, 0x00, 0x01, // a question
    0x52, 0x54, 0x00, 0x12, 0x34, 0x56, 10, 0, 9, 2, // from
    0, 0, 0, 0, 0, 0, 10, 0, 9, 1, // to
];

/// A datagram of four bytes, byte by byte. The sums were done by hand.
const UDP: [u8; 46] = [
    0x02, 0, 0, 0, 0, 0x09, 0x52, 0x54, 0x00, 0x12, 0x34, 0x56, 0x08, 0x00, // Ethernet
    0x45, 0x00, 0x00, 0x20, 0x00, 0x00, 0x00, 0x00, 0x40, 0x11, 0x54, 0xcb, // IPv4
    10, 0, 9, 2, 10, 0, 9, 1, // from, to
    0x30, 0x39, 0x00, 0x07, 0x00, 0x0c, 0x9b, 0x77, // ports, length, sum
    0x00, 0x07, 0x0e, 0x15, // what the first datagram has
];

fn every_byte_of_a_frame_counts() {
    for (frame, counts) in [(&ARP[..], (1, 0)), (&UDP[..], (0, 1))] {
        let mut seen = Frames::default();
        let reply = answer(frame, &mut seen).expect("nothing wrong");
        assert_eq!((seen.arps, seen.echoes), counts);
        assert_eq!(reply.len(), frame.len());
        for at in 0..frame.len() {
            for bit in 0..8 {
                let mut wrong = frame.to_vec();
                wrong[at] ^= 1 << bit;
                let mut seen = Frames::default();
                assert!(answer(&wrong, &mut seen).is_err(), "byte {at}, bit {bit}");
                assert_eq!(seen, Frames::default());
            }
            assert!(
                answer(&frame[..at], &mut Frames::default()).is_err(),
                "{at} bytes"
            );
        }
    }
}

fn an_echo_is_turned_around() {
    let reply = answer(&UDP, &mut Frames::default()).expect("nothing wrong");
    assert_eq!(reply[..12], [&UDP[6..12], &UDP[..6]].concat());
    assert_eq!(reply[26..34], [&UDP[30..34], &UDP[26..30]].concat());
    assert_eq!(reply[34..40], [0, 7, 0x30, 0x39, 0, 12]);
    assert_eq!(reply[42..], [0xff, 0xf8, 0xf1, 0xea]);
}

/// What a peer that waits for one question and one datagram says to these frames.
fn verdict(frames: &[&[u8]]) -> Option<WrongFrames> {
    let peer = Peer::start(Frames { arps: 1, echoes: 1 });
    let [_, network] = peer.arguments();
    let path = |key: &str| {
        let (_, rest) = network.split_once(key).expect("a path");
        rest.split(',').next().expect("a path").to_owned()
    };
    let card = UnixDatagram::bind(path("local.path=")).expect("a socket");
    for frame in frames {
        card.send_to(frame, path("remote.path=")).expect("sent");
    }
    peer.finish()
}

fn frames_are_counted() {
    assert_eq!(verdict(&[&ARP, &UDP]), None);
    let missing = Frames { arps: 1, echoes: 0 };
    assert_eq!(verdict(&[&ARP]), Some(WrongFrames::Count(missing)));
    let twice = Frames { arps: 2, echoes: 1 };
    assert_eq!(
        verdict(&[&ARP, &ARP, &UDP]),
        Some(WrongFrames::Count(twice))
    );
    let wrong = verdict(&[&ARP, &UDP[..45]]);
    assert!(matches!(wrong, Some(WrongFrames::Frame(_))), "{wrong:?}");
}

pub fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 3] = [
        ("every_byte_of_a_frame_counts", every_byte_of_a_frame_counts),
        ("an_echo_is_turned_around", an_echo_is_turned_around),
        ("frames_are_counted", frames_are_counted),
    ];
    let trial = |(name, test): (&str, fn())| {
        Trial::test(format!("peer::{name}"), move || {
            test();
            Ok(())
        })
    };
    tests.into_iter().map(trial).collect()
}
