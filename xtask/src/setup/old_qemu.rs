//! The oldest QEMU that is supported: that of Debian 12, downloaded and unpacked into the target folder.
//!
//! Nothing is installed. It comes with every library that it needs, down to that of C, and is started with them, so it
//! is the same on every machine, and the QEMU of the machine is not disturbed.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::distribution::Distribution;
use super::own_apt::{self, OwnApt};
use super::{ETC_APT, Options, SetupError, consent, sources};
use crate::arch::Arch;
use crate::qemu::Qemu;

/// The release whose QEMU it is.
const RELEASE: &str = "bookworm";
/// What it emulates: no older one describes the IOMMU of riscv64.
pub const ARCHS: [Arch; 2] = [Arch::Aarch64, Arch::X86_64];
/// Where apt has its files, where packages are unpacked, and the folder for `QEMU_DIR`.
const APT: &str = "apt";
const ROOT: &str = "root";
const BIN: &str = "bin";
/// What is unpacked and nobody reads.
const UNREAD: [&str; 4] = ["doc", "man", "locale", "icons"];

/// A machine that packages are built for.
struct Host {
    /// What Debian calls it.
    name: &'static str,
    /// The folders of its libraries.
    libraries: &'static str,
    /// What starts programs.
    loader: &'static str,
}

/// This machine.
fn host() -> Option<Host> {
    match std::env::consts::ARCH {
        "x86_64" => Some(Host {
            name: "amd64",
            libraries: "x86_64-linux-gnu",
            loader: "ld-linux-x86-64.so.2",
        }),
        "aarch64" => Some(Host {
            name: "arm64",
            libraries: "aarch64-linux-gnu",
            loader: "ld-linux-aarch64.so.1",
        }),
        _ => None,
    }
}

/// Makes sure that it is there, and returns its folder, which is for `QEMU_DIR`. Does nothing if it is.
///
/// On a terminal, nothing is downloaded before somebody has said yes.
///
/// # Errors
///
/// [`SetupError`].
pub fn ensure(options: Options) -> Result<PathBuf, SetupError> {
    let dir = std::path::absolute(crate::target_dir())?.join(format!("qemu-{RELEASE}"));
    let bin = dir.join(BIN);
    if is_whole(&bin) {
        return Ok(bin);
    }
    eprintln!("Missing:\n  * the QEMU of Debian's {RELEASE}");
    let distribution = Distribution::of_this_machine();
    let host = host().filter(|_| distribution.has_debian_packages() && own_apt::is_possible());
    let host = host.ok_or_else(|| SetupError::UnknownDistribution(distribution.name.clone()))?;
    let release = distribution.codename.as_deref().unwrap_or(RELEASE);
    // The mirrors of other distributions do not have it.
    let debian = distribution.id == "debian";
    let known = sources::read(Path::new(ETC_APT));
    let source = sources::suite_file(&known, release, RELEASE).filter(|_| debian);
    let source = source.ok_or_else(|| SetupError::NoMirror("this QEMU", RELEASE.into()))?;
    let advice = "Without this there is no old QEMU to test with";
    let apt = OwnApt::new(&dir.join(APT), host.name, source, advice);
    // They may have been downloaded by hand.
    if apt.packages()?.is_empty() {
        let packages: Vec<&str> = ARCHS.iter().map(|arch| arch.qemu_packages()[0]).collect();
        apt.show(&format!(
            "apt-get -c apt.conf --yes --no-install-recommends --download-only install {} && mv cache/archives/*.deb .",
            packages.join(" ")
        ));
        if options.no_install {
            return Err(SetupError::NotInstalled("--no-install was given"));
        }
        consent(false, options)?;
        apt.update()?;
        apt.download_whole(&packages)?;
    }
    unpack(&dir, &apt, &host)?;
    if is_whole(&bin) {
        // Last: without them, all of it would have to be downloaded again.
        apt.remove()?;
        return Ok(bin);
    }
    let found = ARCHS.map(|arch| Qemu::find_in(arch, &bin).err());
    let error = found.into_iter().flatten().next();
    Err(error.map_or_else(
        || io::Error::other("QEMU went away").into(),
        SetupError::QemuDir,
    ))
}

/// Whether all of it is there, and starts.
fn is_whole(bin: &Path) -> bool {
    ARCHS.iter().all(|arch| Qemu::find_in(*arch, bin).is_ok())
}

fn unpack(dir: &Path, apt: &OwnApt, host: &Host) -> Result<(), SetupError> {
    for part in [ROOT, BIN].map(|part| dir.join(part)) {
        if part.exists() {
            fs::remove_dir_all(&part)?;
        }
        fs::create_dir_all(&part)?;
    }
    let root = dir.join(ROOT);
    for package in apt.packages()? {
        apt.unpack(&package, &root)?;
    }
    for unread in UNREAD.map(|name| root.join("usr/share").join(name)) {
        if unread.exists() {
            fs::remove_dir_all(unread)?;
        }
    }
    for arch in ARCHS {
        let file = dir.join(BIN).join(arch.qemu_binary());
        fs::write(&file, launcher(arch, host))?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// A program that starts QEMU with its own libraries, modules and firmware, wherever the folder is.
fn launcher(arch: Arch, host: &Host) -> String {
    let Host {
        libraries, loader, ..
    } = host;
    let qemu = arch.qemu_binary();
    format!(
        "#!/bin/sh\n\
         root=$(cd \"$(dirname \"$0\")/../{ROOT}\" && pwd) || exit 1\n\
         QEMU_MODULE_DIR=$root/usr/lib/{libraries}/qemu\n\
         export QEMU_MODULE_DIR\n\
         exec \"$root/lib/{libraries}/{loader}\" \\\n  \
           --library-path \"$root/lib/{libraries}:$root/usr/lib/{libraries}\" \\\n  \
           \"$root/usr/bin/{qemu}\" -L \"$root/usr/share/qemu\" -L \"$root/usr/share/seabios\" \\\n  \
           -L \"$root/usr/lib/ipxe/qemu\" \"$@\"\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_not_whole() {
        assert!(!is_whole(Path::new("/nonexistent")));
    }

    #[test]
    fn the_launcher_passes_everything_on_to_the_loader() {
        let dir = std::env::temp_dir().join(format!("viommu old qemu-{}", std::process::id()));
        let host = Host {
            name: "any",
            libraries: "any-linux-gnu",
            loader: "loader",
        };
        let (bin, lib) = (dir.join(BIN), dir.join(ROOT).join("lib/any-linux-gnu"));
        for dir in [&bin, &lib] {
            fs::create_dir_all(dir).unwrap();
        }
        let script = |file: &Path, text: &str| {
            fs::write(file, text).unwrap();
            fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
        };
        let say = "#!/bin/sh\necho \"$QEMU_MODULE_DIR\"\nprintf '%s\\n' \"$@\"\n";
        script(&lib.join(host.loader), say);
        let file = bin.join(Arch::X86_64.qemu_binary());
        script(&file, &launcher(Arch::X86_64, &host));
        let mut command = std::process::Command::new(&file);
        command.args(["-M", "two words"]);
        let said = crate::command::run(&mut command, "", None, None).unwrap();
        let root = dir.join(ROOT).display().to_string();
        let modules = format!("{root}/usr/lib/any-linux-gnu/qemu\n--library-path\n");
        assert!(said.tail.starts_with(&modules), "{}", said.tail);
        let program = format!("\n{root}/usr/bin/qemu-system-x86_64\n-L\n");
        assert!(said.tail.contains(&program), "{}", said.tail);
        assert!(said.tail.ends_with("\n-M\ntwo words\n"), "{}", said.tail);
        fs::remove_dir_all(dir).unwrap();
    }
}
