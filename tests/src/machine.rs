//! Hosts with an init of their own: a real systemd in namespaces, over a layer above this machine's files, with a disk for what must last.
//!
//! What it would do to the kernel of this machine is masked: sysctls, modules, devices. Everything goes when a [`Machine`] is dropped.

use crate::{PATIENCE, try_tool};
use holdfast_cli::harness::Host;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Becomes process 1 of a host: $1 its name, $2 a directory for its disk.
const BOOT: &str = r#"
set -e
mount --make-rprivate /
mkdir -p "$2/layer" "$2/disk"
mount -t tmpfs layer "$2/layer"
cd "$2/layer"
mkdir upper work root
mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root
cd root
mkdir -p var/lib/holdfast
mount --bind "$2/disk" var/lib/holdfast
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
    child: Child,
    /// Process 1 of its own, as this machine numbers it.
    init: u32,
    name: String,
}

impl Machine {
    /// Boots a host with this name on a host of a network; `dir` is for its disk and stays.
    ///
    /// # Panics
    /// It does not come up: that takes root, and a kernel with overlayfs and cgroups.
    #[must_use]
    pub fn boot(name: &str, host: &Host, dir: &Path) -> Machine {
        fs::create_dir_all(dir).expect("the directory can be made");
        let log = File::create(dir.join("boot.log")).expect("the directory is writable");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &host.namespace, "unshare", "--pid", "--mount", "--fork", "--uts", "--ipc"]);
        command.args(["--cgroup", "--kill-child", "bash", "-c", BOOT, "boot", name]).arg(dir);
        command.env("PATH", std::env::var("PATH").unwrap_or_default() + ":/usr/local/sbin:/usr/sbin:/sbin");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file has two names")).stderr(log);
        // SAFETY: between fork and exec only prctl is called, which is async-signal-safe and touches no memory.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        let child = command.spawn().expect("ip is there");
        let mut machine = Machine { child, init: 0, name: name.to_owned() };
        let said = || fs::read_to_string(dir.join("boot.log")).unwrap_or_default();
        let start = Instant::now();
        loop {
            if start.elapsed() > PATIENCE {
                let jobs = machine
                    .try_sh("systemctl is-system-running; systemctl list-jobs; journalctl --no-pager --lines 30");
                panic!("expected {name} to boot, found: {}\n{}", said(), String::from_utf8_lossy(&jobs.stdout));
            }
            std::thread::sleep(Duration::from_millis(200));
            machine.init = machine.children().first().copied().unwrap_or(0);
            assert!(!machine.has_ended(), "{name} ended: {}", said());
            if machine.init == 0 || !machine.is_init() {
                continue;
            }
            // Of what a machine has installed something may fail in a namespace ("degraded"); it is not what is tested here.
            let state = machine.try_sh("systemctl is-system-running").stdout;
            if [&b"running"[..], b"degraded"].iter().any(|up| state.starts_with(up)) {
                return machine;
            }
        }
    }

    /// `ip` became `unshare`, whose child is what it forked.
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
        let to = format!("/proc/{}/root{to}", self.init);
        fs::copy(from, &to).unwrap_or_else(|e| panic!("{} to {to}: {e}", from.display()));
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
    }
}
