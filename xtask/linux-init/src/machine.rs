//! Mounts, modules, the types of IOMMU groups, disks.

use core::time::Duration;

use crate::buffer::Buffer;
use crate::plan::Disk;
use crate::system::{self, Failure, File, O_DIRECT, O_RDONLY, O_RDWR, O_WRONLY};
use crate::text::Text;
use crate::transfer::{self, Transfer};

/// How long a device may take to appear.
const LIMIT: Duration = Duration::from_secs(15);
/// How often it is looked for, in milliseconds.
const POLL: u64 = 10;
/// As many disks as there may be.
const DISKS: usize = 16;
/// The offset of the Interrupt Line in the configuration space.
const INTERRUPT_LINE: u64 = 0x3c;

/// What the content of the disks is checked by: this many bytes a time.
const BLOCK: usize = 4096;
/// How many blocks each disk reads to see that they hold what they should: the number of the block.
const STAMPED: u64 = 8;

/// Mounts what is looked at.
pub fn mount() -> Result<(), Failure> {
    for (kind, at) in [
        (c"devtmpfs", c"/dev"),
        (c"proc", c"/proc"),
        (c"sysfs", c"/sys"),
    ] {
        system::folder(at);
        system::mount(kind, at)?;
    }
    Ok(())
}

/// Loads a module out of `/modules`.
pub fn load(name: &str) -> Result<(), Failure> {
    let path = Text::new(format_args!("/modules/{name}"))?;
    let file = File::open(path.c_str()?, O_RDONLY)?;
    let loaded = system::load_module(file);
    file.close();
    loaded
}

/// Does `attempt` again and again until it gives something.
fn wait<T>(
    what: &'static str,
    mut attempt: impl FnMut() -> Result<Option<T>, Failure>,
) -> Result<T, Failure> {
    let began = system::now()?;
    loop {
        if let Some(found) = attempt()? {
            return Ok(found);
        }
        if system::now()?.saturating_sub(began) >= LIMIT {
            return Err(Failure::of(what));
        }
        system::sleep(POLL)?;
    }
}

/// The type of a group by which a mode comes about.
fn group_type(mode: &str) -> Result<&'static str, Failure> {
    match mode {
        "bypass" => Ok("identity"),
        // A disk of the first goes around the IOMMU, whatever is mapped there.
        "none" | "strict" => Ok("DMA"),
        "lazy" => Ok("DMA-FQ"),
        _ => Err(Failure::of("a mode that is not known")),
    }
}

impl Disk {
    fn path(&self, what: &str) -> Result<Text, Failure> {
        Text::new(format_args!("/sys/bus/pci/devices/{}/{what}", self.address))
    }

    /// The last part of where one of its links points to.
    fn linked<'a>(&self, what: &str, room: &'a mut [u8]) -> Result<Option<&'a str>, Failure> {
        let path = self.path(what)?;
        let target = system::link(path.c_str()?, room);
        Ok(target.and_then(|target| target.rsplit('/').next()))
    }

    /// The file with the type of its group.
    fn type_file(&self) -> Result<Text, Failure> {
        let mut room = [0; 256];
        let group = self.linked("iommu_group", &mut room)?;
        let group = group.ok_or(Failure::of("a disk is in no IOMMU group"))?;
        Text::new(format_args!("/sys/kernel/iommu_groups/{group}/type"))
    }

    fn has_type(&self, wanted: &str) -> Result<bool, Failure> {
        let mut room = [0; 64];
        let path = self.type_file()?;
        Ok(system::read_short(path.c_str()?, &mut room)? == wanted)
    }

    /// Gives its group the type of its mode, while no driver has the device. On some machines there is no group before
    /// a driver had it.
    fn set_group(&self) -> Result<(), Failure> {
        wait("a disk has no block device", || self.find_block())?;
        let mut room = [0; 256];
        let driver = self.linked("driver", &mut room)?;
        let driver = driver.ok_or(Failure::of("a disk has no driver"))?;
        let wanted = group_type(self.mode)?;
        if self.has_type(wanted)? {
            return Ok(());
        }
        let address = self.address.as_bytes();
        system::write_short(self.path("driver/unbind")?.c_str()?, address)?;
        system::write_short(self.type_file()?.c_str()?, wanted.as_bytes())?;
        let bind = Text::new(format_args!("/sys/bus/pci/drivers/{driver}/bind"))?;
        system::write_short(bind.c_str()?, address)
    }

    /// Its block device, if there is one already.
    fn find_block(&self) -> Result<Option<Block>, Failure> {
        for letter in 'a'..='z' {
            let link = Text::new(format_args!("/sys/block/vd{letter}"))?;
            if self.is_in(&link)? {
                let name = Text::new(format_args!("vd{letter}"))?;
                return Ok(Some(Block { name, path: None }));
            }
        }
        for number in 0..DISKS {
            let link = Text::new(format_args!("/sys/block/nvme{number}n1"))?;
            let name = Text::new(format_args!("nvme{number}n1"))?;
            if self.is_in(&link)? {
                return Ok(Some(Block { name, path: None }));
            }
            // Linux may put another block device in front, for controllers that share a disk. There is one here.
            for controller in 0..DISKS {
                let link = Text::new(format_args!(
                    "/sys/class/nvme-subsystem/nvme-subsys{number}/nvme{controller}"
                ))?;
                let path = Text::new(format_args!("nvme{number}c{controller}n1"))?;
                if self.is_in(&link)? && block_exists(&name)? && block_exists(&path)? {
                    return Ok(Some(Block {
                        name,
                        path: Some(path),
                    }));
                }
            }
        }
        Ok(None)
    }

    /// Whether a link points to something of this device.
    fn is_in(&self, path: &Text) -> Result<bool, Failure> {
        let mut room = [0; 256];
        let target = system::link(path.c_str()?, &mut room).unwrap_or_default();
        Ok(target.split('/').any(|part| part == self.address))
    }

    /// Opens its block device, past the page cache.
    fn open(&self) -> Result<File, Failure> {
        let block = wait("a disk has no block device", || self.find_block())?;
        for name in [Some(&block.name), block.path.as_ref()]
            .into_iter()
            .flatten()
        {
            // An I/O of this program is to be one of the device, however many are begun at once.
            let merges = Text::new(format_args!("/sys/block/{name}/queue/nomerges"))?;
            system::write_short(merges.c_str()?, b"2")?;
        }
        let path = Text::new(format_args!("/dev/{}", block.name))?;
        wait("a disk has no file", || {
            Ok(File::open(path.c_str()?, O_RDWR | O_DIRECT).ok())
        })
    }
}

/// A block device of Linux.
struct Block {
    /// What is opened.
    name: Text,
    /// Another one behind it.
    path: Option<Text>,
}

fn block_exists(name: &Text) -> Result<bool, Failure> {
    let path = Text::new(format_args!("/sys/block/{name}"))?;
    Ok(system::link(path.c_str()?, &mut [0; 256]).is_some())
}

/// All disks of the plan, in its order.
pub struct Disks {
    disks: [Option<(Disk, Option<File>)>; DISKS],
    count: usize,
}

impl Disks {
    /// None yet.
    pub const fn new() -> Self {
        Self {
            disks: [None; DISKS],
            count: 0,
        }
    }

    fn all(&self) -> impl Iterator<Item = Disk> {
        self.disks.iter().flatten().map(|(disk, _)| *disk)
    }

    /// One more.
    pub fn push(&mut self, disk: Disk) -> Result<(), Failure> {
        let room = self.disks.get_mut(self.count);
        *room.ok_or(Failure::of("too many disks"))? = Some((disk, None));
        self.count += 1;
        Ok(())
    }

    /// Gives all groups their types.
    pub fn set_groups(&self) -> Result<(), Failure> {
        self.all().try_for_each(|disk| disk.set_group())
    }

    /// Looks whether they still have them.
    pub fn check_groups(&self) -> Result<(), Failure> {
        for (index, disk) in (0..).zip(self.all()) {
            if !disk.has_type(group_type(disk.mode)?)? {
                return Err(Failure::at("a group is of another type", index));
            }
        }
        Ok(())
    }

    /// Opens all block devices.
    pub fn open(&mut self) -> Result<(), Failure> {
        for (disk, file) in self.disks.iter_mut().flatten() {
            *file = Some(disk.open()?);
        }
        Ok(())
    }

    /// One disk, and its open block device.
    pub fn get(&self, index: usize) -> Result<(Disk, File), Failure> {
        match self.disks.get(index) {
            Some(Some((disk, Some(file)))) => Ok((*disk, *file)),
            _ => Err(Failure::at("no such disk", index as u64)),
        }
    }

    /// Each disk has to read what is on all of them, and what each other wrote.
    pub fn check_content(&self, buffer: &Buffer) -> Result<(), Failure> {
        let transfer = |disk, write, block: u64| {
            let (_, file) = self.get(disk)?;
            transfer::one(&Transfer {
                file,
                write,
                place: block * BLOCK as u64,
                memory: buffer.slot(0, BLOCK)?,
                size: BLOCK,
            })
        };
        for disk in 0..self.count {
            for block in 1..=STAMPED {
                buffer.set(0, BLOCK, 0)?;
                transfer(disk, false, block)?;
                if buffer.get(0, BLOCK)? != block {
                    return Err(Failure::at("a disk reads something else", disk as u64));
                }
            }
        }
        for disk in 0..self.count {
            let word = 0x5eed_0000 + disk as u64;
            buffer.set(0, BLOCK, word)?;
            transfer(disk, true, STAMPED + 1)?;
            for reader in 0..self.count {
                buffer.set(0, BLOCK, 0)?;
                transfer(reader, false, STAMPED + 1)?;
                if buffer.get(0, BLOCK)? != word {
                    return Err(Failure::at("a disk did not write", disk as u64));
                }
            }
        }
        Ok(())
    }
}

/// The register by which phases are marked in QEMU's trace.
pub struct Marker(File);

impl Marker {
    /// Opens the configuration space of the device at `address`.
    pub fn open(address: &str) -> Result<Self, Failure> {
        let path = Text::new(format_args!("/sys/bus/pci/devices/{address}/config"))?;
        File::open(path.c_str()?, O_WRONLY).map(Self)
    }

    /// A phase begins, or ends.
    pub fn mark(&self, value: u8) -> Result<(), Failure> {
        self.0.write_at(&[value], INTERRUPT_LINE)
    }
}
