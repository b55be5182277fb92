//! A real guest: Linux under QEMU, with the kernel of Debian's cloud images and an initramfs of busybox and one script.
//!
//! The guest mounts an ext4 file system on its volume, appends numbered records with fsync, and reports each over a serial port. What it
//! reported is what was promised to somebody outside; [`Found`] is what the volume holds afterwards.

use crate::{binary, scratch, tool, try_tool};
use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Emulated on a busy machine, a guest takes its time to boot.
const PATIENCE: Duration = Duration::from_secs(240);
/// How long QEMU holds requests back while nobody serves its volume.
const RECONNECT_DELAY: u64 = 120;
/// What the guest needs beyond what its kernel has built in.
const MODULES: [&str; 3] = ["virtio_pci", "virtio_blk", "ext4"];

/// Where the guest's writes go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// To the volume.
    None,
    /// To a file of the host, which acknowledges them and dies with it: a promise that nobody keeps.
    OfTheHost,
}

/// A guest that runs.
pub struct Guest {
    qemu: Child,
    dir: TempDir,
}

/// What the serial port says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reports {
    /// Records that were there at the boot, once it has booted.
    pub booted_with: Option<u64>,
    /// The last record that was synced; all before it were, too.
    pub last: u64,
    /// It has unmounted its file system.
    pub unmounted: bool,
    /// What failed.
    pub errors: Vec<String>,
}

/// What a volume holds, read from outside after the guest has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Whole records from the first one on.
    pub records: u64,
    /// What follows them and is none.
    pub garbage: String,
    /// What `e2fsck -fn` has to complain about.
    pub fsck: Option<String>,
}

impl Reports {
    /// What the lines of the serial port say.
    #[must_use]
    pub fn read(text: &str) -> Reports {
        // The last line may be on its way.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut reports = Reports::default();
        for line in whole.lines().map(str::trim) {
            match (line.split_at_checked(2), line) {
                (_, "U") => reports.unmounted = true,
                (Some(("B ", n)), _) => reports.booted_with = n.parse().ok(),
                (Some(("R ", n)), _) => reports.last = reports.last.max(n.parse().unwrap_or(0)),
                (Some(("E ", what)), _) => reports.errors.push(what.to_owned()),
                _ => {}
            }
        }
        reports
    }
}

/// Puts an empty ext4 file system on a volume.
///
/// # Panics
/// It could not be made.
pub fn format(uri: &str, size: u64) {
    let dir = scratch();
    let image = dir.path().join("fs");
    fs::File::create(&image).and_then(|file| file.set_len(size)).expect("the temporary directory is writable");
    let image = image.display().to_string();
    tool("mkfs.ext4", ["-q", "-F", &image]);
    tool("qemu-img", ["convert", "-n", "-f", "raw", "-O", "raw", &image, uri]);
}

impl Guest {
    /// Boots a guest on the volume behind `socket`.
    ///
    /// # Panics
    /// QEMU, the kernel or busybox is missing.
    #[must_use]
    pub fn boot(socket: &Path, volume: &str, size: u64, cache: Cache) -> Guest {
        let (kernel, dir) = (kernel(), scratch());
        let file = |name: &str| dir.path().join(name).display().to_string();
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-accel", "tcg", "-cpu", "max", "-m", "192", "-nodefaults", "-no-reboot", "-display", "none"]);
        command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(&kernel.initrd);
        command.args(["-append", "console=ttyS0 quiet panic=-1"]);
        command.args(["-serial", &format!("file:{}", file("console"))]);
        let port = format!("socket,id=port,path={},server=on,wait=off,logfile={}", file("port"), file("reports"));
        command.args(["-chardev", &port, "-serial", "chardev:port"]);
        let nbd = format!(
            "driver=nbd,node-name=volume,server.type=unix,server.path={},export={volume},reconnect-delay={RECONNECT_DELAY},\
             cache.direct=on",
            socket.display()
        );
        command.args(["-blockdev", &nbd]);
        if cache == Cache::OfTheHost {
            let overlay = file("overlay");
            tool("qemu-img", ["create", "-q", "-f", "qcow2", &overlay, &size.to_string()]);
            let over = format!("driver=qcow2,node-name=disk,file.driver=file,file.filename={overlay},backing=volume");
            command.args(["-blockdev", &over, "-device", "virtio-blk-pci,drive=disk"]);
        } else {
            command.args(["-device", "virtio-blk-pci,drive=volume"]);
        }
        let said = fs::File::create(dir.path().join("qemu")).expect("the temporary directory is writable");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
        let qemu =
            command.spawn().unwrap_or_else(|e| panic!("expected qemu-system-x86_64, found: {e}; run scripts/setup"));
        Guest { qemu, dir }
    }

    /// What it has reported so far.
    #[must_use]
    pub fn reports(&self) -> Reports {
        Reports::read(&fs::read_to_string(self.dir.path().join("reports")).unwrap_or_default())
    }

    /// Waits until it has synced this record.
    ///
    /// # Panics
    /// Not in time, or something failed in the guest.
    pub async fn reaches(&mut self, record: u64) {
        self.wait(&format!("record {record}"), |reports| reports.last >= record).await;
    }

    /// Waits until it has booted and mounted its volume; the records that it found there.
    ///
    /// # Panics
    /// Not in time, or it could not mount it.
    pub async fn booted(&mut self) -> u64 {
        self.wait("the guest to boot", |reports| reports.booted_with.is_some()).await;
        self.reports().booted_with.expect("it was waited for")
    }

    /// Lets it unmount its file system and power off; what it has reported to the end.
    ///
    /// # Panics
    /// It did not, or an I/O error has reached it.
    pub async fn shut_down(mut self) -> Reports {
        let told = UnixStream::connect(self.dir.path().join("port")).and_then(|mut port| {
            port.write_all(b"stop\n")?;
            Ok(port)
        });
        let port = told.unwrap_or_else(|e| panic!("the guest's serial port: {e}; {}", self.said()));
        self.wait("the guest to unmount", |reports| reports.unmounted).await;
        let since = Instant::now();
        while self.qemu.try_wait().expect("it is our child").is_none() {
            assert!(since.elapsed() < PATIENCE, "the guest does not power off: {}", self.said());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        drop(port);
        let console = self.console();
        for alarm in
            ["I/O error", "EXT4-fs error", "EXT4-fs warning", "Aborting journal", "remounting filesystem read-only"]
        {
            assert!(!console.to_lowercase().contains(&alarm.to_lowercase()), "the guest saw an error: {}", self.said());
        }
        self.reports()
    }

    /// Its host dies; what it had reported by then.
    #[must_use]
    pub fn die(mut self) -> Reports {
        self.end();
        self.reports()
    }

    async fn wait(&mut self, what: &str, is_so: impl Fn(&Reports) -> bool) {
        let since = Instant::now();
        loop {
            let reports = self.reports();
            assert!(reports.errors.is_empty(), "expected {what}, but the guest failed: {reports:?}; {}", self.said());
            if is_so(&reports) {
                return;
            }
            let ended = self.qemu.try_wait().expect("it is our child");
            assert!(ended.is_none(), "expected {what}, but QEMU ended with {ended:?}: {}", self.said());
            assert!(
                since.elapsed() < PATIENCE,
                "expected {what} within {PATIENCE:?}, found {reports:?}; {}",
                self.said()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.path().join("console")).unwrap_or_default()).into_owned()
    }

    fn said(&self) -> String {
        let qemu = fs::read_to_string(self.dir.path().join("qemu")).unwrap_or_default();
        format!("the console:\n{}\nQEMU:\n{qemu}", self.console())
    }

    fn end(&mut self) {
        // Both fail only for a process that has ended already.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.end();
    }
}

/// Reads a volume that no guest uses.
///
/// # Panics
/// It could not be read.
#[must_use]
pub fn look(uri: &str) -> Found {
    let dir = scratch();
    let image = dir.path().join("volume").display().to_string();
    tool("qemu-img", ["convert", "-f", "raw", "-O", "raw", uri, &image]);
    let fsck = try_tool("e2fsck", ["-f", "-n", &image]);
    let text = String::from_utf8_lossy(&fsck.stdout).into_owned();
    let fsck = (!fsck.status.success()).then_some(text);
    let log = try_tool("debugfs", ["-R", "cat /log", &image]).stdout;
    let log = String::from_utf8_lossy(&log);
    let mut records = 0;
    let mut rest: &str = &log;
    while let Some(after) = rest.strip_prefix(format!("record {:07} of the guest\n", records + 1).as_str()) {
        (records, rest) = (records + 1, after);
    }
    Found { records, garbage: rest.chars().take(200).collect(), fsck }
}

/// What is wrong with a volume whose guest had reported this much.
///
/// # Errors
/// Every broken promise, in a sentence each.
pub fn judge(reported: u64, found: &Found) -> Result<(), Vec<String>> {
    let mut wrong = Vec::new();
    if found.records < reported {
        wrong.push(format!("records {} to {reported} were reported and are not there", found.records + 1));
    }
    if !found.garbage.is_empty() {
        wrong.push(format!("after record {} comes {:?}", found.records, found.garbage));
    }
    if let Some(complaint) = &found.fsck {
        wrong.push(format!("e2fsck: {complaint}"));
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}

/// What a guest boots.
#[derive(Debug)]
pub struct Kernel {
    /// Its kernel.
    pub image: PathBuf,
    /// Its initramfs.
    pub initrd: PathBuf,
}

/// Unpacked once for each target directory; the initramfs is made anew, it takes a moment.
///
/// # Panics
/// It can't be had.
pub fn kernel() -> &'static Kernel {
    static KERNEL: OnceLock<Kernel> = OnceLock::new();
    KERNEL.get_or_init(|| {
        let target = binary().ancestors().nth(2).expect("the binary lies in target/PROFILE");
        let dir = target.join("guest-kernel");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/guest-kernel");
        tool(script.to_str().expect("the repository's path is UTF-8"), [dir.as_os_str()]);
        let image =
            find(&dir.join("boot"), &|name| name.starts_with("vmlinuz-")).expect("scripts/guest-kernel brings one");
        let initrd = dir.join(format!("initrd-{}", std::process::id()));
        fs::write(&initrd, initramfs(&dir.join("lib/modules"))).expect("the target directory is writable");
        Kernel { image, initrd }
    })
}

fn find(dir: &Path, wanted: &dyn Fn(&str) -> bool) -> Option<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path()).collect();
    entries.sort();
    entries.into_iter().find_map(|path| {
        if path.is_dir() {
            return find(&path, wanted);
        }
        path.file_name().and_then(|name| name.to_str()).is_some_and(wanted).then_some(path)
    })
}

/// An uncompressed archive in the kernel's `newc` format.
fn initramfs(modules: &Path) -> Vec<u8> {
    let busybox =
        fs::read("/bin/busybox").unwrap_or_else(|e| panic!("expected busybox-static, found: {e}; run scripts/setup"));
    let mut archive = Vec::new();
    for dir in ["bin", "proc", "sys", "dev", "mnt", "modules"] {
        entry(&mut archive, dir, 0o040_755, &[]);
    }
    entry(&mut archive, "bin/busybox", 0o100_755, &busybox);
    entry(&mut archive, "init", 0o100_755, include_bytes!("guest-init"));
    let mut order = Vec::new();
    MODULES.iter().for_each(|name| depends(modules, name, &mut order));
    for (number, (name, content)) in order.iter().enumerate() {
        entry(&mut archive, &format!("modules/{number:02}-{name}.ko"), 0o100_644, content);
    }
    entry(&mut archive, "TRAILER!!!", 0, &[]);
    archive
}

/// A module after those that it needs. One without a file is built into the kernel.
fn depends(modules: &Path, name: &str, order: &mut Vec<(String, Vec<u8>)>) {
    if order.iter().any(|(known, _)| known == name) {
        return;
    }
    let file = format!("{name}.ko");
    let Some(path) = find(modules, &|found| found.replace('-', "_") == file) else { return };
    let content = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let key = b"\0depends=";
    let at = content.windows(key.len()).position(|window| window == key).expect("every module names what it needs");
    let needs: Vec<u8> = content[at + key.len()..].iter().copied().take_while(|byte| *byte != 0).collect();
    for needed in String::from_utf8_lossy(&needs).split(',').filter(|needed| !needed.is_empty()) {
        depends(modules, needed, order);
    }
    order.push((name.to_owned(), content));
}

fn entry(archive: &mut Vec<u8>, name: &str, mode: u32, content: &[u8]) {
    let number = archive.len();
    let size = content.len();
    let fields: [usize; 13] = [number, 0, 0, 0, 1, 0, size, 0, 0, 0, 0, name.len() + 1, 0];
    let mut header = String::from("070701");
    for (at, field) in fields.into_iter().enumerate() {
        let field = if at == 1 { usize::try_from(mode).expect("a mode is small") } else { field };
        header.push_str(&format!("{field:08x}"));
    }
    archive.extend_from_slice(header.as_bytes());
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    pad(archive);
    archive.extend_from_slice(content);
    pad(archive);
}

fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}
