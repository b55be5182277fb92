//! Randomness for secrets and ids, hashes, and the clocks: everything a daemon asks the system and a core gets passed.

use holdfast_types::Time;
use rustls::crypto::ring;
use std::time::{SystemTime, UNIX_EPOCH};

/// `N` bytes nobody can guess.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    ring::default_provider().secure_random.fill(&mut bytes).expect("the kernel gives random bytes once it has booted");
    bytes
}

/// A random number above 0.
pub(crate) fn id() -> u64 {
    loop {
        let id = u64::from_le_bytes(bytes());
        if id != 0 {
            return id;
        }
    }
}

pub(crate) fn sha256(data: &[u8]) -> [u8; 32] {
    let suite = ring::cipher_suite::TLS13_AES_128_GCM_SHA256.tls13().expect("this suite belongs to TLS 1.3");
    let hash = suite.common.hash_provider.hash(data);
    hash.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// `CLOCK_BOOTTIME`: it runs while the host sleeps, so that a lease ends in time.
pub(crate) fn now() -> Time {
    let mut reading = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `reading` is a timespec that lives through the call.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut reading) };
    assert_eq!(result, 0, "every Linux since 2.6.39 has CLOCK_BOOTTIME");
    let part = |n: i64| u64::try_from(n).expect("the boot clock starts at zero");
    Time(part(reading.tv_sec) * 1_000_000_000 + part(reading.tv_nsec))
}

/// Milliseconds since 1970, for people; nothing is decided by it.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha256_is_sha256() {
        let hash = crate::token::hex(&sha256(b"abc"));
        assert_eq!(hash, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_ne!(bytes::<16>(), bytes::<16>());
    }
}
