//! Modules of a Linux kernel: where they are, and in which order they are loaded.
//!
//! The package has no list of dependencies, which is made on the machine that it is installed on; each module names its
//! own, in its section `.modinfo`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use object::{Object, ObjectSection};

use super::SetupError;
use crate::command;

/// The list of what is not a module, but in the kernel itself.
const BUILT_IN: &str = "modules.builtin";

/// All modules of a kernel, by name.
#[derive(Debug, Default)]
pub struct Modules {
    files: BTreeMap<String, PathBuf>,
    built_in: Vec<String>,
}

impl Modules {
    /// Looks for them in `dir` and below.
    ///
    /// # Errors
    ///
    /// A folder, or the list of what is built in, cannot be read.
    pub fn find(dir: &Path) -> io::Result<Self> {
        let list = fs::read_to_string(dir.join(BUILT_IN))?;
        let mut modules = Self {
            files: BTreeMap::new(),
            built_in: list.lines().filter_map(name_of).collect(),
        };
        let mut folders = vec![dir.to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                // A link would lead out of the package.
                if entry.file_type()?.is_dir() {
                    folders.push(entry.path());
                } else if let Some(name) = entry.path().to_str().and_then(name_of) {
                    modules.files.insert(name, entry.path());
                }
            }
        }
        Ok(modules)
    }
}

/// The name of a module: that of its file, where `-` and `_` are the same.
fn name_of(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let (name, compression) = file.split_once(".ko")?;
    matches!(compression, "" | ".xz" | ".zst" | ".gz").then(|| name.replace('-', "_"))
}

/// A module that can be loaded.
#[derive(Clone, Debug)]
pub struct Module {
    /// What its file is called.
    pub file: String,
    /// The modules that it needs.
    pub needs: Vec<String>,
}

/// In which order modules are loaded.
pub struct Order<'a, B> {
    modules: &'a Modules,
    /// Makes the file of a module ready to be loaded.
    bring: B,
    done: BTreeSet<String>,
}

impl<'a, B: FnMut(&Path) -> Result<Module, SetupError>> Order<'a, B> {
    /// Nothing is loaded yet.
    pub fn new(modules: &'a Modules, bring: B) -> Self {
        Self {
            modules,
            bring,
            done: BTreeSet::new(),
        }
    }

    /// The files of the modules `names`, and of all that they need, in the order in which they are loaded; without what
    /// is loaded already, or built in.
    ///
    /// # Errors
    ///
    /// A module is not there, or cannot be read.
    pub fn next(&mut self, names: &[&str]) -> Result<Vec<String>, SetupError> {
        let mut files = Vec::new();
        for name in names {
            self.add(name, &mut files)?;
        }
        Ok(files)
    }

    fn add(&mut self, name: &str, files: &mut Vec<String>) -> Result<(), SetupError> {
        let name = name.replace('-', "_");
        // Noted before its dependencies are looked at: a circle ends.
        if self.modules.built_in.contains(&name) || !self.done.insert(name.clone()) {
            return Ok(());
        }
        let file = self.modules.files.get(&name).ok_or_else(|| {
            SetupError::NoLinux(format!(
                "the kernel has no `{name}`, neither built in nor as a module"
            ))
        })?;
        let module = (self.bring)(file)?;
        for needed in &module.needs {
            self.add(needed, files)?;
        }
        files.push(module.file);
        Ok(())
    }
}

/// Puts a module into `dir`, not compressed.
///
/// # Errors
///
/// It cannot be read, written, or uncompressed.
pub fn bring(file: &Path, dir: &Path) -> Result<Module, SetupError> {
    let name = file.file_name().unwrap_or_default();
    let copy = dir.join(name);
    fs::copy(file, &copy)?;
    let plain = match file.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => copy,
        Some(compression) => {
            uncompress(&copy, compression)?;
            copy.with_extension("")
        }
        None => copy,
    };
    let needs = needs(&fs::read(&plain)?)
        .map_err(|why| SetupError::NoLinux(format!("{} cannot be read: {why}", plain.display())))?;
    let name = plain.file_name().and_then(|name| name.to_str());
    Ok(Module {
        file: name.unwrap_or_default().to_owned(),
        needs,
    })
}

fn uncompress(file: &Path, compression: &str) -> Result<(), SetupError> {
    let (program, package) = match compression {
        "xz" => ("xz", "xz-utils"),
        "zst" => ("zstd", "zstd"),
        _ => ("gzip", "gzip"),
    };
    let mut command = Command::new(program);
    command.args(["-d", "-f"]).arg(file);
    let output = match command::run(&mut command, "uncompressing a module", None, None) {
        Ok(finished) if finished.success() => return Ok(()),
        Ok(finished) => finished.explain(5),
        Err(error) => error.to_string(),
    };
    Err(SetupError::Failed {
        command: command::command_line(&command),
        output,
        advice: format!("The package `{package}` has this program"),
    })
}

/// The modules that the module `file` needs.
fn needs(file: &[u8]) -> object::Result<Vec<String>> {
    let file = object::File::parse(file)?;
    let section = file.section_by_name(".modinfo");
    let text = section.map_or(Ok(&[][..]), |section| section.data())?;
    Ok(depends(text))
}

/// Reads `.modinfo`: `key=value` with a zero byte behind each.
fn depends(text: &[u8]) -> Vec<String> {
    let entries = text.split(|byte| *byte == 0);
    let mut lists = entries.filter_map(|entry| entry.strip_prefix(b"depends="));
    let list = String::from_utf8_lossy(lists.next().unwrap_or_default()).into_owned();
    list.split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules() -> Modules {
        let file = |name: &str| (name.to_owned(), PathBuf::from(format!("/{name}.ko.xz")));
        Modules {
            files: ["nvme", "nvme_core", "nvme_auth", "hash", "virtio_blk"]
                .map(file)
                .into(),
            built_in: vec!["crc".into()],
        }
    }

    /// What a module of [`modules`] needs.
    fn bring(file: &Path) -> Result<Module, SetupError> {
        let name = file.to_str().and_then(name_of).unwrap();
        let needs: &[&str] = match &*name {
            "nvme" => &["nvme-core", "crc"],
            "nvme_core" => &["nvme-auth", "hash"],
            // A circle.
            "nvme_auth" => &["hash", "nvme-core"],
            _ => &[],
        };
        let needs = needs.iter().map(|name| String::from(*name)).collect();
        let file = format!("{name}.ko");
        Ok(Module { file, needs })
    }

    #[test]
    fn what_is_needed_is_loaded_before_and_once() {
        let modules = modules();
        let mut order = Order::new(&modules, bring);
        assert_eq!(
            order.next(&["virtio-blk", "crc"]).unwrap(),
            ["virtio_blk.ko"]
        );
        let expected = ["hash.ko", "nvme_auth.ko", "nvme_core.ko", "nvme.ko"];
        assert_eq!(order.next(&["virtio_blk", "nvme"]).unwrap(), expected);
        let error = order.next(&["virtio_iommu"]).unwrap_err().to_string();
        assert!(error.contains("virtio_iommu"), "{error}");
    }

    #[test]
    fn names_are_those_of_files() {
        for (path, name) in [
            ("kernel/drivers/iommu/virtio-iommu.ko", Some("virtio_iommu")),
            ("/x/virtio_blk.ko.xz", Some("virtio_blk")),
            ("nvme.ko.zst", Some("nvme")),
            ("nvme.ko.bak", None),
            ("modules.order", None),
        ] {
            assert_eq!(name_of(path).as_deref(), name, "{path}");
        }
    }

    #[test]
    fn a_module_says_what_it_needs() {
        let text = b"license=GPL\0xdepends=no\0depends=nvme-core,nvme_auth\0name=nvme\0";
        assert_eq!(depends(text), ["nvme-core", "nvme_auth"]);
        assert!(depends(b"license=GPL\0depends=\0").is_empty());
        assert!(depends(b"").is_empty());
        assert!(needs(b"no module").is_err());
    }
}
