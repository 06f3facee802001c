//! Disk images: a fresh one for each VM, with contents that the guest knows, too, and a look at it afterwards.

use std::fs;
use std::io;
use std::path::Path;

/// The size of a sector, in bytes.
const SECTOR: usize = 512;

/// A disk of a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// What QEMU is told of the drive `disk` besides its file: how slow it is.
    pub options: &'static str,
    /// Its size, in sectors.
    pub sectors: usize,
    /// The sector that the guest turns around, bit by bit; it leaves all others alone.
    pub written: usize,
}

/// A sector that is not what it must be after the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongSector(pub usize);

impl Disk {
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
        let options = self.options;
        let drive = format!("file={file},if=none,id=disk,format=raw,{options}");
        ["-drive".into(), drive]
    }

    fn fresh(&self) -> Vec<u8> {
        let words = 1..=(self.sectors * SECTOR / 8) as u64;
        words
            .flat_map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
            .collect()
    }

    /// Compares an image with what the guest was to leave there.
    pub fn judge(&self, image: &[u8]) -> Option<WrongSector> {
        let mut wanted = self.fresh();
        let start = self.written * SECTOR;
        let written = wanted[start..start + SECTOR].iter_mut();
        written.for_each(|byte| *byte = !*byte);
        if image.len() != wanted.len() {
            return Some(WrongSector(image.len().min(wanted.len()) / SECTOR));
        }
        let mut pairs = image.chunks(SECTOR).zip(wanted.chunks(SECTOR));
        pairs
            .position(|(seen, wanted)| seen != wanted)
            .map(WrongSector)
    }
}
