//! Where an export is: the NBD URIs that QEMU and libnbd take (NetworkBlockDevice/nbd, doc/uri.md), as far as they need no TLS.

use std::path::PathBuf;

/// An export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Export {
    pub(crate) place: Place,
    pub(crate) name: String,
}

/// A socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Unix(PathBuf),
    Tcp(String),
}

const PORT: u16 = 10_809;

impl Export {
    /// # Errors
    /// What was expected and what was found.
    pub(crate) fn parse(uri: &str) -> Result<Export, String> {
        let expected = || format!("expected nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH, found {uri:?}");
        let (scheme, rest) = uri.split_once("://").ok_or_else(expected)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, name) = rest.split_once('/').unwrap_or((rest, ""));
        let name = decode(name).ok_or_else(expected)?;
        let socket = query.split('&').find_map(|pair| pair.strip_prefix("socket="));
        let place = match (scheme, socket) {
            ("nbd+unix", Some(path)) if authority.is_empty() => Place::Unix(decode(path).ok_or_else(expected)?.into()),
            ("nbd", None) if !authority.is_empty() => Place::Tcp(with_port(authority)),
            ("nbds" | "nbds+unix", _) => return Err(format!("NBD over TLS is not supported, found {uri:?}")),
            _ => return Err(expected()),
        };
        Ok(Export { place, name })
    }
}

fn with_port(authority: &str) -> String {
    // The colons of an IPv6 address stand within brackets.
    let port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
    if port { authority.to_owned() } else { format!("{authority}:{PORT}") }
}

/// `%20` as a space. `None` for what is no encoding.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris() {
        let unix = Export::parse("nbd+unix:///vm%201?socket=/run/a%2Fb.sock").expect("a URI");
        assert_eq!(unix, Export { place: Place::Unix("/run/a/b.sock".into()), name: "vm 1".to_owned() });
        let tcp = |uri| Export::parse(uri).expect("a URI").place;
        assert_eq!(tcp("nbd://10.0.0.1"), Place::Tcp("10.0.0.1:10809".to_owned()));
        assert_eq!(tcp("nbd://[::1]/x"), Place::Tcp("[::1]:10809".to_owned()));
        assert_eq!(tcp("nbd://[::1]:7/x"), Place::Tcp("[::1]:7".to_owned()));
        for bad in ["", "nbd", "nbd:///x", "nbd+unix:///x", "nbds://a/b", "http://a/b", "nbd://a/%zz", "nbd://a/%ff"] {
            assert!(Export::parse(bad).is_err(), "{bad}");
        }
    }
}
