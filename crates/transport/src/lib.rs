//! QUIC lanes between nodes, mutual TLS.
