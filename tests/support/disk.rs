//! Disk images: fresh ones for each VM, with contents that the guest knows, too, and a look at them afterwards.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;

/// The size of a sector, in bytes.
const SECTOR: usize = 512;

/// The disk of a scenario that has one: the drive `disk`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// What QEMU is told of the drive besides its file: how slow it is.
    pub options: &'static str,
    /// Its size, in sectors.
    pub sectors: usize,
    /// The sector that the guest turns around, bit by bit; it leaves all others alone.
    pub written: usize,
}

impl Disk {
    /// The same, as one of several.
    pub const fn drive(self) -> Drive {
        Drive {
            name: "disk",
            number: 0,
            filter: "",
            options: self.options,
            sectors: self.sectors,
            written: (self.written, 1),
        }
    }
}

/// A drive of a scenario that may have several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drive {
    /// What devices call it.
    pub name: &'static str,
    /// What tells its contents from those of others.
    pub number: u32,
    /// What QEMU puts between the drive and its file.
    pub filter: &'static str,
    /// What QEMU is told of it besides its file.
    pub options: &'static str,
    /// Its size, in sectors.
    pub sectors: usize,
    /// The first of the sectors that the guest turns around, bit by bit, and how many there are; it leaves all others
    /// alone.
    pub written: (usize, usize),
}

/// A sector that is not what it must be after the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongSector {
    /// The name of the drive.
    pub drive: &'static str,
    /// Its number.
    pub sector: usize,
}

impl Drive {
    /// Writes the image: each word of 8 bytes, little-endian, is a number of its own.
    ///
    /// # Errors
    ///
    /// Those of the file.
    pub fn create(&self, file: &Path) -> io::Result<()> {
        fs::write(file, self.fresh())
    }

    /// The arguments of QEMU for it.
    pub fn arguments(&self, file: &Path) -> [String; 2] {
        // A comma ends the name of a file unless there are two.
        let file = file.display().to_string().replace(',', ",,");
        let Self {
            name,
            filter,
            options,
            ..
        } = self;
        let drive = format!("file={filter}{file},if=none,id={name},format=raw,{options}");
        ["-drive".into(), drive]
    }

    fn fresh(&self) -> Vec<u8> {
        let words = 1..=(self.sectors * SECTOR / 8) as u64;
        let above = u64::from(self.number) << 32;
        words
            .flat_map(|number| {
                let number = number | above;
                number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()
            })
            .collect()
    }

    /// Compares an image with what the guest was to leave there; without an image, the first sector is wrong.
    pub fn judge(&self, image: Option<&[u8]>) -> Option<WrongSector> {
        let image = image.unwrap_or_default();
        let mut wanted = self.fresh();
        let (first, count) = self.written;
        let written: Range<usize> = first * SECTOR..(first + count) * SECTOR;
        let written = wanted[written].iter_mut();
        written.for_each(|byte| *byte = !*byte);
        let wrong = |sector| WrongSector {
            drive: self.name,
            sector,
        };
        if image.len() != wanted.len() {
            return Some(wrong(image.len().min(wanted.len()) / SECTOR));
        }
        let mut pairs = image.chunks(SECTOR).zip(wanted.chunks(SECTOR));
        pairs.position(|(seen, wanted)| seen != wanted).map(wrong)
    }
}
