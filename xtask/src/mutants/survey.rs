//! All mutants of the driver, numbered.

use std::io;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};

use super::MutantsError;
use super::constants::Constants;
use super::find::{self, Found, Mutant};
use super::replace::Aliases;

/// What is changed.
pub const FOLDERS: [&str; 3] = ["src/wire", "src/device", "src/domain"];

/// What calls the driver, and may need its constants.
const CALLERS: [&str; 2] = ["tests", "benches"];

/// A file of the driver.
#[derive(Debug)]
pub struct Source {
    /// Its name, from the root of the project.
    pub name: String,
    /// Its text.
    pub text: String,
    /// Its mutants.
    pub found: Found,
    /// The number of the first one.
    pub first: u32,
}

/// The driver, and its mutants.
#[derive(Debug)]
pub struct Survey {
    /// The files, in the order of their names.
    pub sources: Vec<Source>,
}

impl Survey {
    /// Reads the driver, and finds its mutants.
    ///
    /// # Errors
    ///
    /// A file cannot be read, or is not Rust.
    pub fn of_driver() -> Result<Self, MutantsError> {
        let mut constants = Constants::default();
        let mut aliases = Finder(Aliases::new());
        for folder in CALLERS {
            for name in files(folder)? {
                constants.look_at(&parse(&name)?.1, false);
            }
        }
        let mut files_of_tests = Vec::new();
        let mut read = Vec::new();
        for name in files("src")? {
            let (text, file) = parse(&name)?;
            aliases.visit_file(&file);
            files_of_tests.extend(left_out(&name, &file));
            read.push((name, text, file));
        }
        let mut parsed = Vec::new();
        for (name, text, file) in read {
            let is_wanted = FOLDERS
                .iter()
                .any(|folder| Path::new(&name).starts_with(folder))
                && !files_of_tests.contains(&name);
            constants.look_at(&file, is_wanted);
            parsed.push((name, text, file, is_wanted));
        }
        constants.close();
        let mut first = 1;
        let sources = parsed.into_iter().map(|(name, text, file, is_wanted)| {
            let found = if is_wanted {
                find::find(&name, &text, &file, &constants, &aliases.0)
            } else {
                Found::default()
            };
            let count: usize = found.sites.iter().map(|site| site.mutants.len()).sum();
            let source = Source {
                name,
                text,
                found,
                first,
            };
            first += count as u32;
            source
        });
        Ok(Self {
            sources: sources.collect(),
        })
    }

    /// The mutants, with their numbers.
    pub fn mutants(&self) -> impl Iterator<Item = (u32, &Mutant)> {
        let sites = self.sources.iter().flat_map(|source| &source.found.sites);
        let mutants = sites.flat_map(|site| &site.mutants);
        (1..).zip(mutants.map(|(mutant, _)| mutant))
    }

    /// Mutants where there can be no switch.
    pub fn constant(&self) -> impl Iterator<Item = &Mutant> {
        self.sources
            .iter()
            .flat_map(|source| &source.found.constant)
    }
}

/// The Rust files in a folder of the project, by their names from its root, in order.
fn files(folder: &str) -> io::Result<Vec<String>> {
    let mut folders = vec![PathBuf::from(folder)];
    let mut names = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(crate::project_root().join(&folder))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                names.push(path.to_string_lossy().into_owned());
            }
        }
    }
    names.sort();
    Ok(names)
}

/// The files that a file has for tests, or for builds other than this one.
fn left_out(name: &str, file: &syn::File) -> Vec<String> {
    let folder = match Path::new(name) {
        path if path.ends_with("mod.rs") || path.ends_with("lib.rs") => path.parent(),
        _ => return Vec::new(),
    };
    let modules = file.items.iter().filter_map(|item| match item {
        syn::Item::Mod(module) if find::is_left_out(&module.attrs) => Some(&module.ident),
        _ => None,
    });
    let path = |module| {
        Some(
            folder?
                .join(format!("{module}.rs"))
                .to_string_lossy()
                .into_owned(),
        )
    };
    modules.filter_map(path).collect()
}

fn parse(name: &str) -> Result<(String, syn::File), MutantsError> {
    let text = std::fs::read_to_string(crate::project_root().join(name))?;
    let file = syn::parse_file(&text).map_err(|error| MutantsError::NotRust {
        file: name.to_owned(),
        error,
    })?;
    Ok((text, file))
}

/// Finds names for types.
struct Finder(Aliases);

impl<'ast> Visit<'ast> for Finder {
    fn visit_item_type(&mut self, item: &'ast syn::ItemType) {
        if item.generics.params.is_empty() {
            self.0.insert(item.ident.to_string(), (*item.ty).clone());
        }
        visit::visit_item_type(self, item);
    }
}
