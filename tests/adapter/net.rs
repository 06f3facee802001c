//! The network card of `virtio-drivers`, unchanged: two queues, and buffers that stay with the
//! device.

use virtio_drivers::device::net::{VirtIONet, VirtIONetRaw};
use virtio_iommu::adapters::virtio_drivers::{AdapterOptions, Endpoint, IommuHal};
use virtio_iommu::bind_endpoint;

use crate::desk::{Desk, OldHal, TestPlatform, behind};
use crate::fake::Kind;

#[test]
fn frames_go_out_and_come_in() {
    bind_endpoint!(struct Card: TestPlatform, OldHal);
    let desk = Desk::new();
    let fake = desk.device::<Card>(1, Kind::Net, AdapterOptions::default());
    let card = VirtIONet::<IommuHal<Card>, _, 16>::new(behind::<Card>(&fake), 2048);
    let mut card = card.expect("a card");
    assert_eq!(card.mac_address(), [2, 0, 0, 0, 0, 7]);
    for round in 0..40_u8 {
        let frame: Vec<u8> = (0..60 + usize::from(round))
            .map(|i| i as u8 ^ round)
            .collect();
        let mut buffer = card.new_tx_buffer(frame.len());
        buffer.packet_mut().copy_from_slice(&frame);
        let (sent, requests, kicks) = desk.cost(|| card.send(buffer));
        assert_eq!((sent, requests.as_str(), kicks), (Ok(()), "", 0));
        assert_eq!(fake.with(|d| d.sent.pop()), Some(frame.clone()));

        fake.receive(&frame);
        let seen = card.receive().expect("a frame");
        assert_eq!(seen.packet(), &frame[..]);
        card.recycle_rx_buffer(seen).unwrap();
    }
    // 16 buffers are with the card: they come back with its reset.
    assert_eq!(Card::usage().from_device.used, 16 * 2048);
    drop(card);
    assert_eq!(Card::usage().from_device.used, 0);
    desk.close::<Card>(1, &fake);
    assert_eq!(desk.live_pages(), 0);
}

#[test]
fn whole_pages_are_mapped_for_as_long_as_the_card_has_them() {
    bind_endpoint!(struct Card: TestPlatform, OldHal);
    let desk = Desk::new();
    let options = AdapterOptions::default().with_bounce_up_to(0);
    let fake = desk.device::<Card>(0, Kind::Net, options);
    let card = VirtIONetRaw::<IommuHal<Card>, _, 16>::new(behind::<Card>(&fake));
    let mut card = card.expect("a card");
    let mut page = desk.pages(1);
    // SAFETY: the page is not touched until it is received.
    let begun = desk.cost(|| unsafe { card.receive_begin(&mut page) });
    let (token, requests, kicks) = begun;
    assert_eq!((requests.as_str(), kicks), ("M", 1));
    let token = token.unwrap();
    fake.receive(b"a frame of some length");
    assert_eq!(card.poll_receive(), Some(token));
    // SAFETY: the same page.
    let ended = desk.cost(|| unsafe { card.receive_complete(token, &mut page) });
    let (lengths, requests, kicks) = ended;
    assert_eq!((requests.as_str(), kicks), ("U", 1));
    assert_eq!(lengths, Ok((12, 22)));
    assert_eq!(&page[12..34], b"a frame of some length");
    drop(card);
    desk.close::<Card>(0, &fake);
}
