//! The disk image that the demo keeps alive: one that was given, or an ext4 file system made for the occasion.

use crate::error::CliError;
use holdfast_types::Rng;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tokio::process::Command;

const QCOW2_MAGIC: &[u8; 4] = b"QFI\xfb";
/// Where an ext file system has its magic number, and which.
const EXT_MAGIC_AT: u64 = 1024 + 56;
const EXT_MAGIC: [u8; 2] = [0x53, 0xEF];
/// The file system made for the occasion.
const MADE_SIZE: &str = "48M";
const MADE_FILES: u64 = 120;

/// What is copied into the volume, and what is compared with it afterwards.
#[derive(Debug)]
pub(super) struct Image {
    /// Raw.
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    /// If that is how it was given: it is copied in from here, by `qemu-img convert`.
    pub(super) qcow2: Option<PathBuf>,
    /// In words.
    pub(super) description: String,
}

impl Image {
    pub(super) async fn prepare(given: Option<&Path>, dir: &Path) -> Result<Image, CliError> {
        match given {
            None => Image::make(dir).await,
            Some(path) if has_bytes(path, 0, QCOW2_MAGIC)? => Image::from_qcow2(path, dir).await,
            Some(path) => Image::at(path.to_path_buf(), None, format!("{} (raw)", path.display())),
        }
    }

    async fn make(dir: &Path) -> Result<Image, CliError> {
        let (files, path) = (dir.join("files"), dir.join("image.raw"));
        let bytes = write_files(&files).map_err(CliError::io(format!("write {}", files.display())))?;
        let args = ["-q".as_ref(), "-F".as_ref(), "-t".as_ref(), "ext4".as_ref(), "-d".as_ref(), files.as_os_str()];
        let args = args.into_iter().chain([path.as_os_str(), OsStr::new(MADE_SIZE)]);
        tool("mke2fs", "make a file system", args).await?;
        let description = format!("a fresh ext4 with {MADE_FILES} files of {} together", crate::units::bytes(bytes));
        Image::at(path, None, description)
    }

    async fn from_qcow2(given: &Path, dir: &Path) -> Result<Image, CliError> {
        let raw = dir.join("image.raw");
        let args = ["convert", "-f", "qcow2", "-O", "raw"]
            .map(OsStr::new)
            .into_iter()
            .chain([given.as_os_str(), raw.as_os_str()]);
        tool("qemu-img", "unpack the image", args).await?;
        Image::at(raw, Some(given.to_path_buf()), format!("{} (qcow2)", given.display()))
    }

    fn at(path: PathBuf, qcow2: Option<PathBuf>, description: String) -> Result<Image, CliError> {
        let meta = fs::metadata(&path).map_err(CliError::io(format!("read {}", path.display())))?;
        if meta.len() == 0 || !meta.is_file() {
            let found =
                format!("expected a file with a disk image, found {} with {} bytes", path.display(), meta.len());
            return Err(CliError::Usage(found));
        }
        Ok(Image { bytes: meta.len(), path, qcow2, description })
    }

    pub(super) fn open(&self) -> Result<File, CliError> {
        File::open(&self.path).map_err(CliError::io(format!("read {}", self.path.display())))
    }

    /// Copies a qcow2 image straight into the volume.
    pub(super) async fn convert(qcow2: &Path, volume: &str, socket: &Path) -> Result<(), CliError> {
        let uri = format!("nbd+unix:///{volume}?socket={}", socket.display());
        let args = ["convert", "-n", "-f", "qcow2", "-O", "raw"].map(OsStr::new).into_iter();
        tool("qemu-img", "copy the image into the volume", args.chain([qcow2.as_os_str(), OsStr::new(&uri)])).await
    }

    /// What `e2fsck -fn` says about the copy read back from the volume.
    pub(super) async fn check_file_system(&self, copy: &Path) -> Result<Verdict, CliError> {
        if !has_bytes(&self.path, EXT_MAGIC_AT, &EXT_MAGIC)? {
            return Ok(Verdict::NotExt);
        }
        if is_clean(copy).await? {
            return Ok(Verdict::Clean);
        }
        // An image taken from a running machine may have been unclean before.
        if is_clean(&self.path).await? { Ok(Verdict::Damaged) } else { Ok(Verdict::UncleanBefore) }
    }
}

/// What became of the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Clean,
    Damaged,
    UncleanBefore,
    NotExt,
}

impl Verdict {
    pub(super) fn name(self) -> &'static str {
        match self {
            Verdict::Clean => "clean",
            Verdict::Damaged => "damaged",
            Verdict::UncleanBefore => "unclean before",
            Verdict::NotExt => "no ext file system",
        }
    }
}

async fn is_clean(image: &Path) -> Result<bool, CliError> {
    let output = run("e2fsck", "check a file system", ["-fn".as_ref(), image.as_os_str()]).await?;
    Ok(output.status.success())
}

async fn tool(name: &'static str, what: &'static str, args: impl IntoIterator<Item = &OsStr>) -> Result<(), CliError> {
    let output = run(name, what, args).await?;
    if output.status.success() {
        return Ok(());
    }
    let found = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(CliError::Tool { tool: name, what, found })
}

async fn run(
    name: &'static str,
    what: &'static str,
    args: impl IntoIterator<Item = &OsStr>,
) -> Result<std::process::Output, CliError> {
    // Tools for file systems are not on every user's path.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/local/sbin:/usr/sbin:/sbin";
    let mut command = Command::new(name);
    command.args(args).env("PATH", path).kill_on_drop(true);
    command.output().await.map_err(|e| CliError::Tool { tool: name, what, found: e.to_string() })
}

/// Some files, different each and the same in every run.
fn write_files(dir: &Path) -> io::Result<u64> {
    let mut rng = Rng::new(42);
    let mut total = 0;
    for number in 0..MADE_FILES {
        let folder = dir.join(format!("folder-{}", number % 7));
        fs::create_dir_all(&folder)?;
        let words = rng.range(1, 16_384);
        let content: Vec<u8> = (0..words).flat_map(|_| rng.next_u64().to_le_bytes()).collect();
        fs::write(folder.join(format!("file-{number}")), &content)?;
        total += words * 8;
    }
    Ok(total)
}

fn has_bytes(path: &Path, at: u64, expected: &[u8]) -> Result<bool, CliError> {
    let file = File::open(path).map_err(CliError::io(format!("read {}", path.display())))?;
    let mut found = vec![0; expected.len()];
    match file.read_exact_at(&mut found, at) {
        Ok(()) => Ok(found == expected),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(CliError::Io { what: format!("read {}", path.display()), source: e }),
    }
}
