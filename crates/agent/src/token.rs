//! Join tokens: proof that an administrator wants one more node, and what the node needs to recognize the cluster.
//!
//! The text carries the cluster's id, the fingerprint of its authority (so that the joining node talks to nobody
//! else), the token's id and secret, and when it expires. The cluster keeps a hash of the secret, never the secret.

use crate::error::AgentError;
use crate::random;
use holdfast_types::ClusterId;
use std::fmt;

const PREFIX: &str = "hf1-";
const BYTES: usize = 8 + 32 + 8 + 32 + 8 + 4;

/// A join token, taken apart.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token {
    /// Of which cluster.
    pub(crate) cluster: ClusterId,
    /// SHA-256 of its authority's certificate.
    pub(crate) ca_fingerprint: [u8; 32],
    /// Which token.
    pub(crate) id: u64,
    /// What the cluster keeps a hash of.
    pub(crate) secret: [u8; 32],
    /// Seconds since 1970.
    pub(crate) expires: u64,
}

impl Token {
    /// Takes the text apart.
    ///
    /// # Errors
    /// It is not the text of a token, or a part is missing or mistyped.
    pub(crate) fn parse(text: &str) -> Result<Token, AgentError> {
        let bad = |found| AgentError::Token { found };
        let hex = text.trim().strip_prefix(PREFIX).ok_or(bad("a text that does not begin with hf1-"))?;
        let bytes: [u8; BYTES] = unhex(hex)
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(bad("a text of another length or with other characters"))?;
        let (body, check) = bytes.split_at(BYTES - 4);
        if random::sha256(body)[..4] != *check {
            return Err(bad("a mistyped one (its check digits do not fit)"));
        }
        let mut rest = body;
        Ok(Token {
            cluster: ClusterId(u64::from_be_bytes(take(&mut rest))),
            ca_fingerprint: take(&mut rest),
            id: u64::from_be_bytes(take(&mut rest)),
            secret: take(&mut rest),
            expires: u64::from_be_bytes(take(&mut rest)),
        })
    }

    /// What the cluster keeps of the secret.
    #[must_use]
    pub(crate) fn secret_hash(&self) -> [u8; 32] {
        random::sha256(&self.secret)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.extend_from_slice(&self.cluster.0.to_be_bytes());
        bytes.extend_from_slice(&self.ca_fingerprint);
        bytes.extend_from_slice(&self.id.to_be_bytes());
        bytes.extend_from_slice(&self.secret);
        bytes.extend_from_slice(&self.expires.to_be_bytes());
        let check = random::sha256(&bytes);
        bytes.extend_from_slice(&check[..4]);
        write!(f, "{PREFIX}{}", hex(&bytes))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the secret: this ends up in logs.
        write!(f, "Token {{ cluster: {}, id: {}, expires: {} }}", self.cluster, self.id, self.expires)
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    (0..digits.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).ok()).collect()
}

fn take<const N: usize>(from: &mut &[u8]) -> [u8; N] {
    let (head, rest) = from.split_first_chunk().expect("the length was checked");
    *from = rest;
    *head
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token { cluster: ClusterId(0xABCD), ca_fingerprint: [7; 32], id: 3, secret: [9; 32], expires: 1 << 40 }
    }

    #[test]
    fn a_token_survives_the_way_there_and_back_and_every_typo_is_found() {
        let text = token().to_string();
        assert_eq!(Token::parse(&format!(" {text}\n")).unwrap(), token());
        for i in PREFIX.len()..text.len() {
            let mut typo = text.clone().into_bytes();
            typo[i] = if typo[i] == b'0' { b'1' } else { b'0' };
            assert!(Token::parse(std::str::from_utf8(&typo).unwrap()).is_err());
        }
        assert!(Token::parse(&text[..text.len() - 1]).is_err());
        assert!(!format!("{:?}", token()).contains("0909"));
    }
}
