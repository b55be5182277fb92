//! Executes disk operations with io_uring, or with pread and pwrite where io_uring is missing.
