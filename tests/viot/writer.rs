//! A writer of VIOTs with offsets and lengths of its own, from the tables of the specification.

/// Where the nodes begin.
pub const FIRST_NODE: u16 = 48;

/// A table in the making. Each node is appended, and its offset returned.
pub struct Table {
    pub bytes: Vec<u8>,
    pub nodes: u16,
}

/// What a PCI range node says.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    pub endpoint: u32,
    pub segments: (u16, u16),
    pub requesters: (u16, u16),
    pub output: u16,
}

impl Table {
    pub fn new() -> Self {
        let mut bytes = Vec::new();
        bytes.extend(b"VIOT");
        bytes.extend([0; 4]); // length, later
        bytes.extend([0, 0]); // revision; checksum, later
        bytes.extend(b"OEM ID");
        bytes.extend(b"TABLE ID");
        bytes.extend(7_u32.to_le_bytes());
        bytes.extend(b"MAKE");
        bytes.extend(9_u32.to_le_bytes());
        bytes.extend([0; 2]); // node count, later
        bytes.extend(FIRST_NODE.to_le_bytes());
        bytes.extend([0; 8]);
        assert_eq!(bytes.len(), 48);
        Self { bytes, nodes: 0 }
    }

    /// The offset of the next node.
    pub fn here(&self) -> u16 {
        u16::try_from(self.bytes.len()).unwrap_or(u16::MAX)
    }

    /// A node of any type with any contents.
    pub fn node(&mut self, kind: u8, payload: &[u8]) -> u16 {
        let length = u16::try_from(4 + payload.len()).unwrap();
        self.node_of_length(kind, length, payload)
    }

    /// A node whose length may be a lie.
    pub fn node_of_length(&mut self, kind: u8, length: u16, payload: &[u8]) -> u16 {
        let here = self.here();
        self.bytes.extend([kind, 0]);
        self.bytes.extend(length.to_le_bytes());
        self.bytes.extend(payload);
        self.nodes += 1;
        here
    }

    pub fn pci_iommu(&mut self, segment: u16, requester: u16) -> u16 {
        let mut payload = Vec::new();
        payload.extend(segment.to_le_bytes());
        payload.extend(requester.to_le_bytes());
        payload.extend([0; 8]);
        self.node(3, &payload)
    }

    pub fn mmio_iommu(&mut self, base: u64) -> u16 {
        let mut payload = vec![0; 4];
        payload.extend(base.to_le_bytes());
        self.node(4, &payload)
    }

    pub fn range(&mut self, range: Range) -> u16 {
        self.node(1, &range_payload(range))
    }

    pub fn mmio_endpoint(&mut self, endpoint: u32, base: u64, output: u16) -> u16 {
        let mut payload = Vec::new();
        payload.extend(endpoint.to_le_bytes());
        payload.extend(base.to_le_bytes());
        payload.extend(output.to_le_bytes());
        payload.extend([0; 6]);
        self.node(2, &payload)
    }

    /// The table with count, length and checksum.
    pub fn finish(self) -> Vec<u8> {
        let mut bytes = self.bytes;
        bytes[36..38].copy_from_slice(&self.nodes.to_le_bytes());
        let length = u32::try_from(bytes.len()).unwrap();
        bytes[4..8].copy_from_slice(&length.to_le_bytes());
        seal(&mut bytes);
        bytes
    }
}

pub fn range_payload(range: Range) -> Vec<u8> {
    let mut payload = Vec::new();
    payload.extend(range.endpoint.to_le_bytes());
    for word in [
        range.segments.0,
        range.segments.1,
        range.requesters.0,
        range.requesters.1,
        range.output,
    ] {
        payload.extend(word.to_le_bytes());
    }
    payload.extend([0; 6]);
    payload
}

/// Segment 0, endpoint ids equal to requester ids.
pub fn plain(first: u16, last: u16, output: u16) -> Range {
    Range {
        endpoint: first.into(),
        segments: (0, 0),
        requesters: (first, last),
        output,
    }
}

/// Makes the first `length` bytes, as the header says it, add up to 0.
pub fn seal(bytes: &mut [u8]) {
    let length = u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize;
    let length = length.min(bytes.len());
    bytes[9] = 0;
    let sum = bytes[..length]
        .iter()
        .fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    bytes[9] = sum.wrapping_neg();
}
