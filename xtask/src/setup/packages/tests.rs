use super::super::catalogue::Package;
use super::*;
use crate::qemu::QemuError;

/// What `apt-cache policy` offered on the releases of 2024 to 2026, as far as it matters.
fn offers(packages: &[(&str, u32, u32)]) -> Packages {
    let package = |major, minor| Package {
        installed: false,
        version: (major, minor),
    };
    packages
        .iter()
        .map(|(name, major, minor)| (String::from(*name), package(*major, *minor)))
        .collect()
}

fn distribution(id: &str, version: &str) -> Distribution {
    Distribution::parse(&format!("ID={id}\nVERSION_ID={version}"))
}

fn missing_everything() -> Vec<Missing> {
    let qemu = |arch: Arch| Missing::Qemu(arch, QemuError::NotInPath(arch.qemu_binary()));
    vec![
        qemu(Arch::Riscv64),
        qemu(Arch::Aarch64),
        Missing::Std(Arch::Riscv64),
        Missing::Std(Arch::Aarch64),
    ]
}

fn bookworm() -> Packages {
    offers(&[
        ("qemu-system-misc", 7, 2),
        ("qemu-system-arm", 7, 2),
        ("opensbi", 1, 1),
        ("lld", 14, 0),
        ("rustc", 1, 63),
        ("cargo", 0, 66),
        ("rust-src", 1, 63),
        ("rust-clippy", 1, 63),
        ("rustc-web", 1, 96),
        ("cargo-web", 1, 96),
        ("rust-web-src", 1, 96),
        ("rust-web-clippy", 1, 96),
    ])
}

fn bookworm_backports() -> Packages {
    offers(&[
        ("qemu-system-riscv", 10, 0),
        ("qemu-system-misc", 10, 0),
        ("qemu-system-arm", 10, 0),
        ("opensbi", 1, 5),
        ("lld", 14, 0),
    ])
}

fn trixie() -> Packages {
    let mut packages = offers(&[
        ("qemu-system-riscv", 10, 0),
        ("qemu-system-misc", 10, 0),
        ("qemu-system-arm", 10, 0),
        ("opensbi", 1, 6),
        ("lld", 19, 0),
        ("rustc", 1, 85),
        ("cargo", 1, 85),
        ("rust-src", 1, 85),
        ("rust-clippy", 1, 85),
    ]);
    for name in ["rustc-web", "cargo-web", "rust-web-src", "rust-web-clippy"] {
        packages.extend(offers(&[(name, 1, 96)]));
    }
    packages
}

fn plain(qemu: &[(&str, u32, u32)], rust: u32) -> Catalogue {
    let mut release = offers(qemu);
    for name in ["rustc", "cargo", "rust-src", "rust-clippy"] {
        release.extend(offers(&[(name, 1, rust)]));
    }
    Catalogue {
        release,
        ..Catalogue::default()
    }
}

fn install(suite: Option<&str>, packages: &[&'static str]) -> Install {
    Install {
        suite: suite.map(String::from),
        packages: packages.to_vec(),
    }
}

const QEMU: &[&str] = &["qemu-system-riscv", "opensbi", "qemu-system-arm"];
const RUST_WEB: &[&str] = &["rustc-web", "cargo-web", "rust-web-src"];

#[test]
fn debian_12_takes_qemu_from_the_backports_and_the_compiler_from_security() {
    let catalogue = Catalogue {
        release: bookworm(),
        backports: Some(("bookworm-backports".into(), bookworm_backports())),
        is_assumed: false,
    };
    let expected = [
        install(Some("bookworm-backports"), QEMU),
        install(None, RUST_WEB),
    ];
    let debian = distribution("debian", "12");
    let missing = missing_everything();
    assert_eq!(choose(&missing, &debian, &catalogue).unwrap(), expected);

    // Before the source is added, before the list of the security suite is read, and on an image
    // that never read any list: they are not believed, and the choice is the same.
    let no_web = bookworm()
        .into_iter()
        .filter(|(name, _)| !name.contains("-web"));
    for release in [bookworm(), no_web.collect(), Packages::new()] {
        let catalogue = Catalogue {
            release,
            backports: Some(("bookworm-backports".into(), Packages::new())),
            is_assumed: false,
        };
        assert!(choose(&missing, &debian, &catalogue).is_err());
        assert_eq!(
            choose(&missing, &debian, &catalogue.assumed()).unwrap(),
            expected
        );
    }
}

#[test]
fn backports_that_are_too_old_are_not_taken() {
    let old = offers(&[("qemu-system-misc", 7, 2), ("qemu-system-arm", 8, 0)]);
    let catalogue = Catalogue {
        release: bookworm(),
        backports: Some(("bookworm-backports".into(), old)),
        is_assumed: false,
    };
    let debian = distribution("debian", "12");
    let unavailable = choose(&missing_everything(), &debian, &catalogue).unwrap_err();
    let newest: Vec<_> = unavailable.iter().map(|entry| entry.newest).collect();
    assert_eq!(newest, [Some((7, 2)), Some((8, 0))]);
}

#[test]
fn debian_13_needs_no_backports_and_no_rustc_that_is_too_old() {
    let catalogue = Catalogue {
        release: trixie(),
        ..Catalogue::default()
    };
    let expected = [install(None, QEMU), install(None, RUST_WEB)];
    let debian = distribution("debian", "13");
    assert_eq!(
        choose(&missing_everything(), &debian, &catalogue).unwrap(),
        expected
    );
    let never_read = Catalogue::default().assumed();
    assert_eq!(
        choose(&missing_everything(), &debian, &never_read).unwrap(),
        expected
    );
}

#[test]
fn debian_testing_takes_its_own_compiler() {
    let qemu = [
        ("qemu-system-riscv", 11, 1),
        ("qemu-system-arm", 11, 1),
        ("opensbi", 1, 7),
    ];
    let testing = Distribution::parse("ID=debian\nVERSION_CODENAME=forky\n");
    let own = [
        install(None, QEMU),
        install(None, &["rustc", "cargo", "rust-src"]),
    ];
    let missing = missing_everything();
    assert_eq!(choose(&missing, &testing, &plain(&qemu, 97)).unwrap(), own);
    assert_eq!(
        choose(&missing, &testing, &Catalogue::default().assumed()).unwrap(),
        own
    );

    // The other family, where it is installed already: they exclude each other.
    let mut catalogue = plain(&qemu, 97);
    catalogue.release.extend(
        trixie()
            .into_iter()
            .filter(|(name, _)| name.contains("-web")),
    );
    for package in catalogue.release.values_mut() {
        package.installed = package.version == (1, 96);
    }
    let chosen = choose(&missing, &testing, &catalogue).unwrap();
    assert_eq!(chosen[1], install(None, RUST_WEB));
}

#[test]
fn debian_11_and_ubuntu_24_04_are_told_what_is_too_old() {
    let cases = [
        (
            "debian",
            "11",
            plain(&[("qemu-system-misc", 5, 2), ("qemu-system-arm", 5, 2)], 48),
            (5, 2),
        ),
        (
            "ubuntu",
            "24.04",
            plain(&[("qemu-system-misc", 8, 2), ("qemu-system-arm", 8, 2)], 75),
            (8, 2),
        ),
    ];
    for (id, version, catalogue, qemu) in cases {
        let unavailable = choose(
            &missing_everything(),
            &distribution(id, version),
            &catalogue,
        )
        .unwrap_err();
        assert_eq!(unavailable.len(), 3, "{unavailable:?}");
        let text: Vec<String> = unavailable.iter().map(ToString::to_string).collect();
        assert!(
            text[0].contains("QEMU 9.0.0 or newer for riscv64"),
            "{}",
            text[0]
        );
        let newest = format!("the newest package is of {}.{}", qemu.0, qemu.1);
        assert!(text[0].contains(&newest), "{}", text[0]);
        assert!(text[0].contains("QEMU_DIR"), "{}", text[0]);
        assert!(text[2].contains("rustc 1.91 or newer"), "{}", text[2]);
    }
}

#[test]
fn ubuntu_24_10_has_riscv64_in_the_old_package_and_25_04_in_its_own() {
    let missing = &missing_everything()[..2];
    let oracular = [
        ("qemu-system-misc", 9, 0),
        ("qemu-system-arm", 9, 0),
        ("opensbi", 1, 5),
    ];
    let chosen = choose(
        missing,
        &distribution("ubuntu", "24.10"),
        &plain(&oracular, 80),
    );
    let expected = install(None, &["qemu-system-misc", "opensbi", "qemu-system-arm"]);
    assert_eq!(chosen.unwrap(), [expected]);
    let plucky = [
        ("qemu-system-misc", 9, 2),
        ("qemu-system-riscv", 9, 2),
        ("qemu-system-arm", 9, 2),
        ("opensbi", 1, 6),
    ];
    let ubuntu = distribution("ubuntu", "25.04");
    assert_eq!(
        choose(missing, &ubuntu, &plain(&plucky, 84)).unwrap(),
        [install(None, QEMU)]
    );
    // Its compiler is too old, and rustup is not.
    let unavailable = choose(&missing_everything(), &ubuntu, &plain(&plucky, 84)).unwrap_err();
    assert_eq!(unavailable.len(), 1);
    assert_eq!(unavailable[0].newest, Some((1, 84)));
    assert!(unavailable[0].to_string().contains("rustup"));
}

#[test]
fn a_compiler_is_taken_whole_or_not_at_all() {
    let mut catalogue = Catalogue {
        release: trixie(),
        ..Catalogue::default()
    };
    let debian = distribution("debian", "13");
    // The source of an older compiler is of no use to a newer one.
    catalogue.release.extend(offers(&[("rust-web-src", 1, 85)]));
    assert!(choose(&[Missing::Std(Arch::Riscv64)], &debian, &catalogue).is_err());
    catalogue.release.remove("rust-web-src");
    assert!(choose(&[Missing::Std(Arch::Riscv64)], &debian, &catalogue).is_err());
    let lint = choose(&[Missing::KernelClippy], &debian, &catalogue).unwrap();
    assert_eq!(lint, [install(None, &["rust-web-clippy"])]);
}

#[test]
fn only_what_is_missing_is_chosen() {
    let catalogue = Catalogue {
        release: trixie(),
        ..Catalogue::default()
    };
    let debian = distribution("debian", "13");
    let choose = |missing: &[Missing]| choose(missing, &debian, &catalogue);
    assert_eq!(choose(&[]).unwrap(), []);
    assert_eq!(
        choose(&[Missing::Linker]).unwrap(),
        [install(None, &["lld"])]
    );
    let firmware = choose(&[Missing::Firmware(Arch::Riscv64)]).unwrap();
    assert_eq!(firmware, [install(None, &["opensbi"])]);
    // Tools of rustup's toolchain are in no package.
    assert!(choose(&[Missing::Linker, Missing::Component("rustfmt")]).is_err());
}

#[test]
fn each_package_is_named_once() {
    let mut names = all_names();
    names.sort_unstable();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all);
}
