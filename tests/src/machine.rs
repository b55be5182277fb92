//! Hosts with an init of their own: a real systemd in namespaces, over a layer above this machine's files. What was written there outlives a
//! loss of power, and goes when the [`Machine`] is dropped, as everything of it does.
//!
//! What it would do to the kernel of this machine is masked: sysctls, modules, devices. Of the services that are enabled, only ours is started.

use crate::{PATIENCE, try_tool};
use holdfast_cli::harness::Host;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Keeps a host's layer while its power is off: a file system in memory at $1, seen by nobody else. Says so, and stays.
const KEEP: &str = r#"
set -e
mount --make-rprivate /
mount -t tmpfs layer "$1"
mkdir "$1/upper" "$1/work" "$1/root"
echo kept
exec sleep infinity
"#;

/// Becomes process 1 of a host: $1 its name, $2 its layer, $3 a directory for its disk.
const BOOT: &str = r#"
set -e
cd "$2"
# What a power cut left behind.
rm -rf work && mkdir work
mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root
cd root
mkdir -p var/lib/holdfast
mount --bind "$3" var/lib/holdfast
mount -t proc proc proc
mount -t tmpfs dev dev
for device in null zero full random urandom tty; do touch dev/$device && mount --bind /dev/$device dev/$device; done
mkdir dev/shm dev/pts dev/mqueue dev/hugepages
mount -t tmpfs shm dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs run run
mount -t tmpfs tmp tmp
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup sys/fs/cgroup
for unit in systemd-sysctl systemd-modules-load systemd-binfmt systemd-udevd systemd-udev-trigger systemd-tmpfiles-setup-dev \
  systemd-remount-fs systemd-logind systemd-networkd systemd-resolved systemd-timesyncd postgresql prometheus prometheus-node-exporter \
  nftables ssh cron getty@tty1 console-getty systemd-random-seed; do
  ln -sf /dev/null etc/systemd/system/$unit.service
done
for unit in dev-hugepages.mount dev-mqueue.mount tmp.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount \
  proc-sys-fs-binfmt_misc.automount timers.target; do
  ln -sf /dev/null etc/systemd/system/$unit
done
# Every service there is would start, but only these are asked for.
printf '[Unit]\nRequires=basic.target\nAfter=basic.target\nAllowIsolate=yes\n' >etc/systemd/system/host.target
mkdir -p etc/systemd/system/host.target.wants
for unit in holdfast.service; do
  if [ -L etc/systemd/system/multi-user.target.wants/$unit ]; then
    ln -sf /lib/systemd/system/$unit etc/systemd/system/host.target.wants/$unit
  fi
done
# Nothing can be downloaded: what is installed is new enough.
echo 'APT::Get::Upgrade "false";' >etc/apt/apt.conf.d/99no-network
echo "$1" >etc/hostname
hostname "$1"
# Not chroot: what hides parts of the file system from a service needs the root of a mount.
pivot_root . mnt
umount -l /mnt
exec env -i container=other PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin \
  /lib/systemd/systemd --system --unit=host.target --log-level=warning --log-target=journal
"#;

/// A host that runs.
pub struct Machine {
    /// Whose file systems hold the layer.
    keeper: Child,
    child: Child,
    /// Process 1 of its own, as this machine numbers it.
    init: u32,
    name: String,
    namespace: String,
    /// Below it are the layer, the disk and the log of its boot.
    dir: PathBuf,
}

impl Machine {
    /// Boots a host with this name on a host of a network; `dir` is for its disk and stays.
    ///
    /// # Panics
    /// It does not come up: that takes root, and a kernel with overlayfs and cgroups.
    #[must_use]
    pub fn boot(name: &str, host: &Host, dir: &Path) -> Machine {
        for sub in ["layer", "disk"] {
            fs::create_dir_all(dir.join(sub)).expect("the directory can be made");
        }
        let mut keeper = Command::new("unshare");
        keeper.args(["--mount", "bash", "-c", KEEP, "keep"]).arg(dir.join("layer")).stdout(Stdio::piped());
        let mut keeper = spawn(&mut keeper);
        let mut said = [0; 5];
        let kept = keeper.stdout.as_mut().map(|stdout| stdout.read_exact(&mut said));
        assert!(matches!(kept, Some(Ok(()))), "expected {name} to get its layer; this test must run as root");
        let child = init(name, &host.namespace, &keeper, dir);
        let namespace = host.namespace.clone();
        let mut machine = Machine { keeper, child, init: 0, name: name.to_owned(), namespace, dir: dir.to_owned() };
        machine.is_up();
        machine
    }

    /// Its power is back, and what was written before is there.
    ///
    /// # Panics
    /// It still runs, or does not come up.
    pub fn boot_again(&mut self) {
        assert!(self.has_ended(), "{} runs", self.name);
        self.child = init(&self.name, &self.namespace, &self.keeper, &self.dir);
        self.is_up();
    }

    fn is_up(&mut self) {
        let name = self.name.clone();
        let said = |dir: &Path| fs::read_to_string(dir.join("boot.log")).unwrap_or_default();
        let start = Instant::now();
        loop {
            if start.elapsed() > PATIENCE {
                let jobs =
                    self.try_sh("systemctl is-system-running; systemctl list-jobs; journalctl --no-pager --lines 30");
                let jobs = String::from_utf8_lossy(&jobs.stdout).into_owned();
                panic!("expected {name} to boot, found: {}\n{jobs}", said(&self.dir));
            }
            std::thread::sleep(Duration::from_millis(100));
            assert!(!self.has_ended(), "{name} ended: {}", said(&self.dir));
            self.init = self.children().first().copied().unwrap_or(0);
            if self.init == 0 || !self.is_init() {
                continue;
            }
            // Of what a machine has installed something may fail in a namespace ("degraded"); it is not what is tested here.
            let state = self.try_sh("systemctl is-system-running").stdout;
            if [&b"running"[..], b"degraded"].iter().any(|up| state.starts_with(up)) {
                return;
            }
        }
    }

    /// `nsenter` became `ip`, and that `unshare`, whose child is what it forked.
    fn children(&self) -> Vec<u32> {
        let pid = self.child.id();
        let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }

    fn is_init(&self) -> bool {
        fs::read_to_string(format!("/proc/{}/comm", self.init)).is_ok_and(|comm| comm.trim() == "systemd")
    }

    fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Runs a shell's line there, as root.
    ///
    /// # Panics
    /// nsenter is missing.
    #[must_use]
    pub fn try_sh(&self, line: &str) -> Output {
        let target = self.init.to_string();
        let enter = ["120", "nsenter", "--target", &target, "--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup"];
        let root = ["--root", "env", "-i", "HOME=/root", "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"];
        let line = format!("cd /root && {line}");
        let shell = ["PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "sh", "-c", &line];
        try_tool("timeout", enter.iter().chain(&root).chain(&shell))
    }

    /// The same for a line that must succeed; what it printed.
    ///
    /// # Panics
    /// It failed.
    #[must_use]
    pub fn sh(&self, line: &str) -> String {
        let output = self.try_sh(line);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{}# {line}\n{}\n{out}{err}", self.name, output.status);
        out.into_owned()
    }

    /// Puts a file there.
    ///
    /// # Panics
    /// It can't be written.
    pub fn put(&self, from: &Path, to: &str) {
        let to = self.path(to);
        fs::copy(from, &to).unwrap_or_else(|e| panic!("{} to {}: {e}", from.display(), to.display()));
    }

    /// Where a file of its is for this machine, while it runs.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    /// Its power fails.
    ///
    /// # Panics
    /// It ran no more.
    pub fn power_off(&mut self) {
        let pid = libc::pid_t::try_from(self.init).expect("process numbers are small");
        // SAFETY: kill touches no memory. Without its process 1 a namespace ends with all that runs in it.
        let killed = unsafe { libc::kill(pid, libc::SIGKILL) };
        assert_eq!(killed, 0, "{} does not run", self.name);
        // Only a process that was never started can't be waited for.
        let _ = self.child.wait();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if !self.has_ended() {
            self.power_off();
        }
        // Both fail only if it has ended; its layer goes with it.
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// Starts process 1 of a host where its layer is.
fn init(name: &str, namespace: &str, keeper: &Child, dir: &Path) -> Child {
    let log = File::create(dir.join("boot.log")).expect("the directory is writable");
    let mounts = format!("--mount=/proc/{}/ns/mnt", keeper.id());
    let mut command = Command::new("nsenter");
    command.args([&mounts, "ip", "netns", "exec", namespace, "unshare", "--pid", "--mount", "--fork", "--uts"]);
    command.args(["--ipc", "--cgroup", "--kill-child", "bash", "-c", BOOT, "boot", name]);
    command.args([dir.join("layer"), dir.join("disk")]);
    command.env("PATH", std::env::var("PATH").unwrap_or_default() + ":/usr/local/sbin:/usr/sbin:/sbin");
    command.stdout(log.try_clone().expect("a file has two names")).stderr(log);
    spawn(&mut command)
}

/// It ends with this process.
fn spawn(command: &mut Command) -> Child {
    command.stdin(Stdio::null());
    // SAFETY: between fork and exec only prctl is called, which is async-signal-safe and touches no memory.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    command.spawn().expect("util-linux is there")
}
