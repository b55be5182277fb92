//! Building the ring, and saying in words which part of it the kernel lacks.

use super::staging::Staging;
use crate::config::DiskConfig;
use crate::error::DiskOpenError;
use crate::wake::Wake;
use io_uring::{IoUring, Probe, opcode};
use std::io;
use std::os::fd::AsRawFd;

/// A ring that is ready, with what was registered with it.
pub(super) struct Built {
    pub(super) ring: IoUring,
    pub(super) staging: Staging,
    pub(super) deferred: bool,
}

pub(super) fn build(config: &DiskConfig, mut staging: Staging, wake: &Wake) -> Result<Built, DiskOpenError> {
    let (ring, deferred) = create(config.depth)?;
    probe(&ring)?;
    let submitter = ring.submitter();
    submitter
        .register_files_sparse(config.max_open_files * 2)
        .map_err(missing("the registered file table (sparse, Linux 5.19; `ulimit -n` must allow its size)"))?;
    submitter.register_eventfd(wake.as_raw_fd()).map_err(missing("completion by eventfd"))?;
    let iovec = staging.iovec();
    // SAFETY: the memory is one mapping that lives as long as the ring (both in `Memory`), and is unmapped after it.
    match unsafe { submitter.register_buffers(&[iovec]) } {
        Ok(()) => staging.set_registered(),
        Err(e) => tracing::warn!(
            error = %e, bytes = iovec.iov_len,
            "expected to pin the staging memory, but the kernel refused: every write now costs more CPU; raise \
             LimitMEMLOCK (systemd) or `ulimit -l` above that size"
        ),
    }
    Ok(Built { ring, staging, deferred })
}

/// DEFER_TASKRUN saves interrupts between cores (Linux 6.1); without it the ring works too.
fn create(depth: u32) -> Result<(IoUring, bool), DiskOpenError> {
    let mut best = IoUring::builder();
    best.dontfork().setup_clamp().setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
    match best.build(depth) {
        Ok(ring) => return Ok((ring, true)),
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {}
        Err(e) => return Err(unavailable(e)),
    }
    let ring = IoUring::builder().dontfork().setup_clamp().build(depth).map_err(unavailable)?;
    Ok((ring, false))
}

fn unavailable(source: io::Error) -> DiskOpenError {
    let feature = match source.raw_os_error() {
        Some(libc::ENOSYS) => "the io_uring_setup system call (not in this kernel, or hidden by seccomp)",
        Some(libc::EPERM | libc::EACCES) => "permission to use io_uring (kernel.io_uring_disabled, or seccomp)",
        Some(libc::ENOMEM) => "memory for the ring (`ulimit -l`)",
        _ => "a working ring",
    };
    DiskOpenError::RingUnavailable { feature: feature.into(), source }
}

fn probe(ring: &IoUring) -> Result<(), DiskOpenError> {
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(missing("the probe of its operations (Linux 5.6)"))?;
    let needed = [
        (opcode::Read::CODE, "READ"),
        (opcode::Write::CODE, "WRITE"),
        (opcode::WriteFixed::CODE, "WRITE_FIXED"),
        (opcode::Fsync::CODE, "FSYNC"),
        (opcode::Fallocate::CODE, "FALLOCATE"),
    ];
    for (code, name) in needed {
        if !probe.is_supported(code) {
            let source = io::Error::from_raw_os_error(libc::EOPNOTSUPP);
            return Err(DiskOpenError::RingUnavailable { feature: format!("the operation {name}"), source });
        }
    }
    Ok(())
}

fn missing(feature: &'static str) -> impl Fn(io::Error) -> DiskOpenError {
    move |source| DiskOpenError::RingUnavailable { feature: feature.into(), source }
}
