//! Apt with lists of its own: packages are downloaded into the target folder, and nothing is installed.
//!
//! So the packages of another architecture, or of another release, can be had without adding it to the machine; mirror
//! and key are those of the machine.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::SetupError;
use crate::command;

/// How long a download, and how long unpacking may take.
const LIMIT: Duration = Duration::from_secs(900);
/// Where packages are while they are downloaded.
const INCOMING: &str = "incoming";
/// Asks again where a mirror did not answer.
const RETRIES: [&str; 2] = ["-o", "Acquire::Retries=3"];

/// Apt, with lists of its own.
pub struct OwnApt {
    /// Where its lists are, and the packages that it downloads.
    dir: PathBuf,
    /// Its only source.
    source: String,
    /// What is different from the configuration of the machine.
    configuration: String,
    /// What cannot be done without the packages.
    advice: &'static str,
}

impl OwnApt {
    /// With its files in `dir`, for packages of the architecture that Debian calls so, from one source.
    pub fn new(dir: &Path, architecture: &str, source: String, advice: &'static str) -> Self {
        Self {
            configuration: configuration(dir, architecture),
            dir: dir.into(),
            source,
            advice,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Prints the commands that prepare it, so that they can be pasted into a shell, and those in `then`.
    pub fn show(&self, then: &str) {
        let dir = command::quoted([&self.dir]);
        println!("To be done:");
        println!("mkdir -p {dir}/state/lists/partial {dir}/cache/archives/partial && cd {dir}");
        println!("tee source.sources <<'END'\n{}END", self.source);
        println!("tee apt.conf <<'END'\n{}END", self.configuration);
        println!("touch status && apt-get -c apt.conf update");
        println!("{then}");
    }

    /// Writes its files, and reads the package lists.
    pub fn update(&self) -> Result<(), SetupError> {
        for folder in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(self.file(folder))?;
        }
        fs::write(self.file("source.sources"), &self.source)?;
        fs::write(self.file("apt.conf"), &self.configuration)?;
        // No package is installed, as far as this apt knows.
        fs::write(self.file("status"), "")?;
        let words = [&RETRIES[..], &["update"]].concat();
        let mut update = self.command("apt-get", &words);
        let answer = self.succeed(&mut update, "reading package lists")?;
        if answer.contains("Failed to fetch") {
            return Err(self.failed(&update, answer));
        }
        Ok(())
    }

    /// The packages that were downloaded.
    pub fn packages(&self) -> io::Result<Vec<PathBuf>> {
        packages_in(&self.dir)
    }

    /// What is known of a package.
    pub fn about(&self, package: &str) -> Result<String, SetupError> {
        let words = ["show", "--no-all-versions", package];
        let mut show = self.command("apt-cache", &words);
        self.succeed(&mut show, "looking at the package lists")
    }

    /// Downloads packages, and nothing besides.
    pub fn download(&self, packages: &[&str]) -> Result<(), SetupError> {
        self.fetch("download", &[], packages)
    }

    /// Downloads packages and all that they depend on.
    pub fn download_whole(&self, packages: &[&str]) -> Result<(), SetupError> {
        let options = ["--yes", "--no-install-recommends", "--download-only"];
        self.fetch("install", &options, packages)
    }

    fn fetch(&self, verb: &str, options: &[&str], packages: &[&str]) -> Result<(), SetupError> {
        // Elsewhere first: half of them would be taken for all.
        let incoming = self.file(INCOMING);
        if incoming.exists() {
            fs::remove_dir_all(&incoming)?;
        }
        fs::create_dir_all(incoming.join("partial"))?;
        let archives = format!("Dir::Cache::archives={}", incoming.display());
        let place = ["-o", &archives];
        let words = [&RETRIES[..], &place, options, &[verb], packages].concat();
        let what = format!("downloading {}", packages.join(" "));
        eprintln!("{what}");
        let mut download = self.command("apt-get", &words);
        self.succeed(download.current_dir(&incoming), &what)?;
        for file in packages_in(&incoming)? {
            let name = file.file_name().unwrap_or_default();
            fs::rename(&file, self.dir.join(name))?;
        }
        Ok(())
    }

    /// Unpacks a package into a folder.
    pub fn unpack(&self, package: &Path, into: &Path) -> Result<(), SetupError> {
        let mut unpack = Command::new("dpkg-deb");
        unpack.arg("-x").arg(package).arg(into);
        self.succeed(&mut unpack, &format!("unpacking {}", package.display()))?;
        Ok(())
    }

    /// The version of a package that was downloaded.
    pub fn version(&self, package: &Path) -> Result<String, SetupError> {
        let mut version = Command::new("dpkg-deb");
        version.arg("-f").arg(package).arg("Version");
        let answer = self.succeed(&mut version, "asking for a version")?;
        Ok(answer.trim().to_owned())
    }

    /// Takes all of it away.
    pub fn remove(&self) -> io::Result<()> {
        fs::remove_dir_all(&self.dir)
    }

    fn command(&self, program: &str, words: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").current_dir(&self.dir);
        command.arg("-c").arg(self.file("apt.conf")).args(words);
        command
    }

    fn succeed(&self, command: &mut Command, what: &str) -> Result<String, SetupError> {
        let finished = command::run(command, what, Some(LIMIT), None)?;
        if finished.success() {
            return Ok(finished.tail);
        }
        Err(self.failed(command, finished.explain(15)))
    }

    fn failed(&self, command: &Command, output: String) -> SetupError {
        SetupError::Failed {
            command: command::command_line(command),
            output,
            advice: self.advice.into(),
        }
    }
}

/// Whether the programs are there that this takes.
pub fn is_possible() -> bool {
    let is_there = |name| command::find_in_path(name).is_some();
    is_there("apt-get") && is_there("dpkg-deb")
}

fn packages_in(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let files = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        files => files?,
    };
    let mut packages = Vec::new();
    for file in files {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            packages.push(path);
        }
    }
    Ok(packages)
}

fn configuration(dir: &Path, name: &str) -> String {
    let dir = dir.display();
    // The user that apt would become cannot enter every folder. Signatures are checked as always.
    format!(
        "APT::Architecture \"{name}\";\n\
         APT::Architectures {{ \"{name}\"; }};\n\
         APT::Sandbox::User \"root\";\n\
         Acquire::Languages \"none\";\n\
         Dir::State \"{dir}/state\";\n\
         Dir::State::status \"{dir}/status\";\n\
         Dir::Cache \"{dir}/cache\";\n\
         Dir::Etc::sourcelist \"{dir}/source.sources\";\n\
         Dir::Etc::sourceparts \"-\";\n"
    )
}
