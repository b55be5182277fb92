//! The cluster's own certificate authority.
//!
//! A node's certificate names it by one DNS name, `node-<id>.<cluster>.holdfast`; nothing else in it matters.
//! It ends at a date, long before which the agent has it renewed; where its clock runs behind it holds all the same: a
//! certificate begins long ago. The CA's own does not end. A removed node is shut out by the peer list, at once, not by a date.
//!
//! Deliberately absent: storing keys (the agent does), revocation lists, intermediates.

use holdfast_types::{ClusterId, NodeId};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, date_time_ymd,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::fmt::Write;
use std::time::Duration;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The CA of a cluster. Whoever has `key_pem` can make members.
#[derive(Clone)]
pub struct CaMaterial {
    /// Certificate, public.
    pub cert_pem: String,
    /// Private key.
    pub key_pem: String,
}

/// A node's certificate with its key.
#[derive(Clone)]
pub struct NodeCert {
    /// Certificate, public.
    pub cert_pem: String,
    /// Private key.
    pub key_pem: String,
}

/// A request for a certificate, with the key that never leaves the joining node.
#[derive(Clone)]
pub struct Csr {
    /// To be sent to the cluster.
    pub csr_pem: String,
    /// Private key.
    pub key_pem: String,
}

/// Why certificates can't be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The library refused.
    #[error("cannot make or read {what}: {source}")]
    Certificate {
        /// Which object.
        what: &'static str,
        /// What is wrong with it.
        source: rcgen::Error,
    },
    /// No certificate where one was expected.
    #[error("expected a certificate in PEM, found none: {0}")]
    Pem(rustls_pki_types::pem::Error),
    /// PEM, and no certificate in it.
    #[error("expected a certificate, found something else: {0}")]
    Der(String),
}

fn fail(what: &'static str) -> impl FnOnce(rcgen::Error) -> PkiError {
    move |source| PkiError::Certificate { what, source }
}

/// The name in the certificate of `node`.
#[must_use]
pub fn node_name(cluster: ClusterId, node: NodeId) -> String {
    format!("node-{}.{cluster}.holdfast", node.get())
}

/// The node that a certificate's name stands for.
#[must_use]
pub fn parse_node_name(name: &str) -> Option<(ClusterId, NodeId)> {
    let (node, cluster) = name.strip_prefix("node-")?.strip_suffix(".holdfast")?.split_once('.')?;
    let parsed = (ClusterId(u64::from_str_radix(cluster, 16).ok()?), NodeId(node.parse().ok()?));
    // Each node has exactly one spelling.
    (node_name(parsed.0, parsed.1) == name).then_some(parsed)
}

/// Founds a CA.
///
/// # Errors
/// The system has no randomness.
pub fn create_ca(cluster: ClusterId) -> Result<CaMaterial, PkiError> {
    let key = KeyPair::generate().map_err(fail("the CA's key"))?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("holdfast cluster {cluster}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let cert = params.self_signed(&key).map_err(fail("the CA's certificate"))?;
    Ok(CaMaterial { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
}

/// Makes a key and a certificate for `node` that holds until then, in seconds since 1970; `None`: for ever.
///
/// # Errors
/// The CA's material is damaged, or the system has no randomness.
pub fn issue_node(ca: &CaMaterial, cluster: ClusterId, node: NodeId, until: Option<u64>) -> Result<NodeCert, PkiError> {
    let key = KeyPair::generate().map_err(fail("the node's key"))?;
    let cert_pem = sign(ca, cluster, node, &key, until)?;
    Ok(NodeCert { cert_pem, key_pem: key.serialize_pem() })
}

/// Makes a key and a request to have it certified: the joining node's part.
///
/// # Errors
/// The system has no randomness.
pub fn create_csr() -> Result<Csr, PkiError> {
    let key = KeyPair::generate().map_err(fail("the node's key"))?;
    let request = CertificateParams::default().serialize_request(&key).map_err(fail("the request"))?;
    Ok(Csr { csr_pem: request.pem().map_err(fail("the request"))?, key_pem: key.serialize_pem() })
}

/// A request to have a key certified that is there already.
///
/// # Errors
/// No key in the text.
pub fn request_for(key_pem: &str) -> Result<String, PkiError> {
    let key = KeyPair::from_pem(key_pem).map_err(fail("the node's key"))?;
    let request = CertificateParams::default().serialize_request(&key).map_err(fail("the request"))?;
    request.pem().map_err(fail("the request"))
}

/// Until when a certificate holds, in seconds since 1970.
///
/// # Errors
/// No certificate in the text.
pub fn expiry(cert_pem: &str) -> Result<u64, PkiError> {
    let der = CertificateDer::from_pem_slice(cert_pem.as_bytes()).map_err(PkiError::Pem)?;
    let (_, cert) = X509Certificate::from_der(&der).map_err(|e| PkiError::Der(e.to_string()))?;
    Ok(u64::try_from(cert.validity().not_after.timestamp()).unwrap_or(0))
}

/// Certifies the key in a request as that of `node` until then, see [`issue_node`]: the cluster's part. Of the request only
/// the public key counts, after its signature was verified; the name is ours to give.
///
/// # Errors
/// The request is no valid one, or the CA's material is damaged.
pub fn sign_csr(
    ca: &CaMaterial,
    cluster: ClusterId,
    node: NodeId,
    csr_pem: &str,
    until: Option<u64>,
) -> Result<String, PkiError> {
    let request = CertificateSigningRequestParams::from_pem(csr_pem).map_err(fail("the certificate request"))?;
    sign(ca, cluster, node, &request.public_key, until)
}

fn sign(
    ca: &CaMaterial,
    cluster: ClusterId,
    node: NodeId,
    key: &impl PublicKeyData,
    until: Option<u64>,
) -> Result<String, PkiError> {
    let ca_key = KeyPair::from_pem(&ca.key_pem).map_err(fail("the CA's key"))?;
    let issuer = Issuer::from_ca_cert_pem(&ca.cert_pem, ca_key).map_err(fail("the CA's certificate"))?;
    let name = node_name(cluster, node);
    let mut params = CertificateParams::new(vec![name.clone()]).map_err(fail("the node's name"))?;
    params.distinguished_name.push(DnType::CommonName, name);
    if let Some(seconds) = until {
        params.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let cert = params.signed_by(key, &issuer).map_err(fail("the node's certificate"))?;
    Ok(cert.pem())
}

/// SHA-256 of a certificate, in hexadecimal: what a join token pins.
///
/// # Errors
/// No certificate in the text.
pub fn fingerprint(cert_pem: &str) -> Result<String, PkiError> {
    let cert = CertificateDer::from_pem_slice(cert_pem.as_bytes()).map_err(PkiError::Pem)?;
    Ok(fingerprint_der(&cert))
}

pub(crate) fn fingerprint_der(cert: &[u8]) -> String {
    let mut hex = String::with_capacity(64);
    for byte in ring::digest::digest(&ring::digest::SHA256, cert).as_ref() {
        write!(hex, "{byte:02x}").expect("a string takes what is written to it");
    }
    hex
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_spelling() {
        let name = node_name(ClusterId(0xAB), NodeId(17));
        assert_eq!(name, "node-17.00000000000000ab.holdfast");
        assert_eq!(parse_node_name(&name), Some((ClusterId(0xAB), NodeId(17))));
        for other in [
            "node-017.00000000000000ab.holdfast",
            "node-17.ab.holdfast",
            "node-17.holdfast",
            "n17",
            "node-+1.00000000000000ab.holdfast",
        ] {
            assert_eq!(parse_node_name(other), None, "{other}");
        }
    }

    #[test]
    fn a_certificate_holds_until_it_is_said_to() {
        let ca = create_ca(ClusterId(1)).unwrap();
        for until in [1, 1_800_000_000, 4_102_444_800] {
            let cert = issue_node(&ca, ClusterId(1), NodeId(2), Some(until)).unwrap();
            assert_eq!(expiry(&cert.cert_pem).unwrap(), until);
            let again = request_for(&cert.key_pem).unwrap();
            let renewed = sign_csr(&ca, ClusterId(1), NodeId(2), &again, Some(until + 60)).unwrap();
            assert_eq!(expiry(&renewed).unwrap(), until + 60);
        }
        let ever = issue_node(&ca, ClusterId(1), NodeId(2), None).unwrap();
        assert!(expiry(&ever.cert_pem).unwrap() > 60_000_000_000);
        assert!(expiry("nothing").is_err() && request_for(&ever.cert_pem).is_err());
    }

    #[test]
    fn a_damaged_request_is_not_signed() {
        let ca = create_ca(ClusterId(1)).unwrap();
        let csr = create_csr().unwrap();
        assert!(sign_csr(&ca, ClusterId(1), NodeId(2), &csr.csr_pem, None).is_ok());
        let der = rustls_pki_types::CertificateSigningRequestDer::from_pem_slice(csr.csr_pem.as_bytes()).unwrap();
        let mut damaged = der.to_vec();
        let last = damaged.len() - 1;
        damaged[last] ^= 1;
        assert!(CertificateSigningRequestParams::from_der(&damaged.into()).is_err());
        assert!(sign_csr(&ca, ClusterId(1), NodeId(2), "nonsense", None).is_err());
    }

    #[test]
    fn fingerprints_tell_certificates_apart() {
        let (a, b) = (create_ca(ClusterId(1)).unwrap(), create_ca(ClusterId(1)).unwrap());
        let print = fingerprint(&a.cert_pem).unwrap();
        assert_eq!(print.len(), 64);
        assert_eq!(fingerprint(&a.cert_pem).unwrap(), print);
        assert_ne!(fingerprint(&b.cert_pem).unwrap(), print);
        assert!(fingerprint("nothing").is_err());
    }
}
