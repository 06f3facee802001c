//! The Linux that this driver is measured against: Debian's kernel, downloaded and unpacked into the target folder.
//!
//! Nothing is installed: apt does it with lists of its own, see `own_apt`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::distribution::Distribution;
use super::modules::{self, Modules, Order};
use super::own_apt::{self, OwnApt};
use super::{ETC_APT, Options, SetupError, consent, sources};
use crate::arch::Arch;
use crate::toolchain::parse_version;

/// The oldest that will do: Debian built earlier ones without the driver.
const OLDEST: (u32, u32) = (6, 12);

/// The driver of the IOMMU. It has to be there before the drivers of the disks are.
const IOMMU: [&str; 1] = ["virtio_iommu"];
/// The drivers of the disks.
const DISKS: [&str; 2] = ["virtio_blk", "nvme"];

/// What is written down of a kernel that is there.
const NOTE: &str = "kernel.json";
/// The kernel itself.
const IMAGE: &str = "vmlinuz";
/// Where apt has its files.
const APT: &str = "apt";
/// The folder of its modules.
const MODULES: &str = "modules";

/// A kernel of Linux, ready to be booted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Linux {
    /// Its full name, such as `6.12.95+deb12-arm64`.
    pub release: String,
    /// The version of its package.
    pub package: String,
    /// The files with the driver of the IOMMU and what it needs, in the order in which they are loaded. Built into the
    /// kernel if there are none.
    pub iommu: Vec<String>,
    /// Those of the disks.
    pub disks: Vec<String>,
    /// The folder that all of it is in.
    #[serde(skip)]
    dir: PathBuf,
}

impl Linux {
    /// What QEMU boots.
    #[must_use]
    pub fn image(&self) -> PathBuf {
        self.dir.join(IMAGE)
    }

    /// Where a module is.
    #[must_use]
    pub fn module(&self, name: &str) -> PathBuf {
        self.dir.join(MODULES).join(name)
    }

    /// One for tests, which is nowhere.
    #[cfg(test)]
    pub(crate) fn sample() -> Self {
        Self {
            release: "6.12.95+deb12-arm64".into(),
            package: "6.12.95-1~bpo12+1".into(),
            iommu: vec!["virtio-iommu.ko".into()],
            disks: vec!["virtio_blk.ko".into(), "nvme.ko".into()],
            dir: PathBuf::new(),
        }
    }

    /// The one that was unpacked into `dir` before, if it was.
    fn read(dir: &Path) -> Option<Self> {
        let text = fs::read_to_string(dir.join(NOTE)).ok()?;
        let mut linux: Self = serde_json::from_str(&text).ok()?;
        linux.dir = dir.into();
        let mut files = linux.iommu.iter().chain(&linux.disks);
        (linux.image().is_file() && files.all(|name| linux.module(name).is_file())).then_some(linux)
    }
}

/// Debian's name of an architecture, if Linux has a driver there.
///
/// # Errors
///
/// [`SetupError::NoLinux`], with the reason.
pub fn debian_name(arch: Arch) -> Result<&'static str, SetupError> {
    match arch {
        Arch::Aarch64 => Ok("arm64"),
        Arch::X86_64 => Ok("amd64"),
        Arch::Riscv64 => Err(SetupError::NoLinux(
            "Linux has no driver for virtio-iommu on riscv64 (CONFIG_VIRTIO_IOMMU needs arm64 or \
             x86)"
                .into(),
        )),
    }
}

/// Makes sure that there is a Linux for `arch`. Does nothing if there is.
///
/// On a terminal, nothing is downloaded before somebody has said yes.
///
/// # Errors
///
/// [`SetupError`].
pub fn ensure(arch: Arch, options: Options) -> Result<Linux, SetupError> {
    let name = debian_name(arch)?;
    let dir = crate::target_dir().join("linux").join(arch.name());
    if let Some(linux) = Linux::read(&dir) {
        return Ok(linux);
    }
    let (major, minor) = OLDEST;
    eprintln!("Missing:\n  * Linux {major}.{minor} or newer for {arch}, as a package of Debian");
    let distribution = Distribution::of_this_machine();
    if !distribution.has_debian_packages() || !own_apt::is_possible() {
        return Err(SetupError::UnknownDistribution(distribution.name));
    }
    let apt = Apt::new(&dir, name, &distribution)?;
    // They may have been downloaded by hand.
    if apt.own.packages()?.is_empty() {
        apt.show();
        if options.no_install {
            return Err(SetupError::NotInstalled("--no-install was given"));
        }
        consent(false, options)?;
        apt.download()?;
    }
    unpack(&dir, &apt.own)
}

/// Apt, with lists of its own.
struct Apt {
    own: OwnApt,
    /// The package that depends on the newest kernel.
    newest: String,
}

impl Apt {
    fn new(dir: &Path, name: &str, distribution: &Distribution) -> Result<Self, SetupError> {
        let release = distribution.release_that_needs_backports();
        let suite = release.map(sources::backports_of);
        let Some(release) = release.or(distribution.codename.as_deref()) else {
            return Err(SetupError::UnknownDistribution(distribution.name.clone()));
        };
        let suite = suite.unwrap_or_else(|| release.to_owned());
        let known = sources::read(Path::new(ETC_APT));
        let source = sources::suite_file(&known, release, &suite);
        let source = source.ok_or(SetupError::NoMirror("Linux", suite))?;
        let advice = "Without this there is no Linux to be compared with";
        Ok(Self {
            own: OwnApt::new(&dir.join(APT), name, source, advice),
            newest: format!("linux-image-{name}"),
        })
    }

    fn show(&self) {
        self.own.show(&format!(
            "apt-get -c apt.conf download $(apt-cache -c apt.conf depends {} | sed -n 's/.*Depends: //p')",
            self.newest
        ));
    }

    fn download(&self) -> Result<(), SetupError> {
        self.own.update()?;
        let kernel = kernel_of(&self.own.about(&self.newest)?)?;
        let parts = parts_of(&self.own.about(&kernel)?, &kernel);
        let mut packages = vec![kernel.as_str()];
        packages.extend(parts.iter().map(String::as_str));
        self.own.download(&packages)
    }
}

/// The field `name` of the first stanza.
fn field<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    answer
        .lines()
        .take_while(|line| !line.is_empty())
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// The names of what a package depends on, alternatives left out.
fn dependencies(answer: &str) -> impl Iterator<Item = &str> {
    let all = field(answer, "Depends").unwrap_or_default().split(',');
    all.filter_map(|one| one.split_whitespace().next())
}

/// The package of the kernel that the package of the newest kernel, described by `answer`, depends on.
fn kernel_of(answer: &str) -> Result<String, SetupError> {
    let wrong = |why| SetupError::NoLinux(format!("the package of the newest kernel {why}"));
    let version = field(answer, "Version").ok_or_else(|| wrong("is not offered".into()))?;
    let upstream = version.rsplit(':').next().and_then(parse_version);
    if upstream.is_none_or(|upstream| upstream < OLDEST) {
        let (major, minor) = OLDEST;
        return Err(wrong(format!(
            "is of {version}, and {major}.{minor} is needed: earlier ones have no virtio-iommu"
        )));
    }
    let mut kernels = dependencies(answer).filter(|name| name.starts_with("linux-image-"));
    let kernel = kernels.next();
    Ok(kernel
        .ok_or_else(|| wrong("names no kernel".into()))?
        .into())
}

/// Further packages that the kernel is divided into, described by `answer`.
fn parts_of(answer: &str, kernel: &str) -> Vec<String> {
    let release = kernel.trim_start_matches("linux-image-");
    let is_part = |name: &&str| name.starts_with("linux-") && name.ends_with(release);
    dependencies(answer)
        .filter(is_part)
        .map(str::to_owned)
        .collect()
}

/// Unpacks what is needed of the packages, and forgets the rest.
fn unpack(dir: &Path, apt: &OwnApt) -> Result<Linux, SetupError> {
    let root = dir.join("unpacked");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    let modules_dir = dir.join(MODULES);
    if modules_dir.exists() {
        fs::remove_dir_all(&modules_dir)?;
    }
    fs::create_dir_all(&modules_dir)?;
    let mut versions = Vec::new();
    for package in apt.packages()? {
        apt.unpack(&package, &root)?;
        versions.push(apt.version(&package)?);
    }
    let (release, image) = find_image(&root.join("boot"))?;
    let all = ["lib", "usr/lib"]
        .map(|lib| root.join(lib).join("modules").join(&release))
        .into_iter()
        .find(|dir| dir.is_dir());
    let none = || SetupError::NoLinux(format!("there are no modules of {release}"));
    let all = Modules::find(&all.ok_or_else(none)?)?;
    let mut order = Order::new(&all, |file| modules::bring(file, &modules_dir));
    let linux = Linux {
        iommu: order.next(&IOMMU)?,
        disks: order.next(&DISKS)?,
        release,
        package: versions.into_iter().next().unwrap_or_default(),
        dir: dir.into(),
    };
    fs::rename(image, linux.image())?;
    fs::remove_dir_all(&root)?;
    let note = serde_json::to_string_pretty(&linux).map_err(io::Error::other)?;
    fs::write(dir.join(NOTE), note)?;
    // Last: without them, all of it would have to be downloaded again.
    apt.remove()?;
    Ok(linux)
}

/// The kernel in the folder `boot`, and its release.
fn find_image(boot: &Path) -> Result<(String, PathBuf), SetupError> {
    for file in fs::read_dir(boot)? {
        let path = file?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(release) = name.and_then(|name| name.strip_prefix("vmlinuz-")) {
            return Ok((release.to_owned(), path));
        }
    }
    Err(SetupError::NoLinux(
        "there is no kernel in the package".into(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEWEST: &str = "\
Package: linux-image-arm64
Source: linux-signed-arm64 (6.12.95+1~bpo12+1)
Version: 6.12.95-1~bpo12+1
Depends: linux-image-6.12.95+deb12-arm64 (= 6.12.95-1~bpo12+1)
Description: Linux for 64-bit ARMv8 machines (meta-package)

Package: linux-image-arm64
Version: 6.1.0
";

    #[test]
    fn the_kernel_is_what_the_newest_one_depends_on() {
        let kernel = "linux-image-6.12.95+deb12-arm64";
        assert_eq!(kernel_of(NEWEST).unwrap(), kernel);
        let epoch = NEWEST.replace("Version: 6.12", "Version: 1:7.0");
        assert_eq!(kernel_of(&epoch).unwrap(), kernel);
        for (from, to, why) in [
            ("Version: 6.12", "Version: 6.1", "6.12 is needed"),
            ("Version: 6.12", "Version: 5.19", "6.12 is needed"),
            ("Version: 6.12.95", "Version: none", "6.12 is needed"),
            (
                "Depends: linux-image",
                "Depends: linux-base",
                "names no kernel",
            ),
            (NEWEST, "N: Unable to locate package\n", "not offered"),
        ] {
            let answer = NEWEST.replacen(from, to, 1);
            let error = kernel_of(&answer).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_kernel_in_parts_is_whole() {
        let answer = "Version: 6.19\nDepends: kmod, linux-base (>= 4), \
                      linux-modules-6.19+deb14-amd64 (= 6.19), linux-tools-6.18, \
                      initramfs-tools | linux-initramfs-tool\n";
        let parts = parts_of(answer, "linux-image-6.19+deb14-amd64");
        assert_eq!(parts, ["linux-modules-6.19+deb14-amd64"]);
        assert!(parts_of("Version: 6.12\n", "linux-image-6.12").is_empty());
    }

    #[test]
    fn there_is_none_for_riscv64() {
        let error = ensure(Arch::Riscv64, Options::default()).unwrap_err();
        assert!(error.to_string().contains("no driver"), "{error}");
    }

    #[test]
    fn a_kernel_that_is_not_whole_is_none() {
        assert_eq!(Linux::read(Path::new("/nonexistent")), None);
    }
}
