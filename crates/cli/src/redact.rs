//! Takes secrets out of text that leaves the host.
//!
//! What a bundle holds is chosen so that no secret should be in it; this is for the day on which one is there all the same: a key
//! pasted into a comment, a token in somebody's log. It errs on the side of removing too much.
//!
//! Deliberately absent: names, addresses and paths stay, they are what the reader needs.

/// In place of what was taken out.
const REMOVED: &str = "[removed]";
/// Beginnings of tokens, after which only their own characters are removed.
const TOKEN: &str = "hf1-";
/// Hexadecimal digits in one piece: no digest of ours is so long, and a token is longer, also one whose beginning is cut off.
const HEX_DIGITS: usize = 80;
/// Characters of base64 in one piece, of both cases: a line of a key whose beginning is cut off, or a key without its lines.
const BASE64_CHARS: usize = 40;
/// Words that name a secret when a value follows them.
const SECRET_WORDS: [&str; 18] = [
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "secret",
    "token",
    "psk",
    "preshared",
    "pre_shared",
    "pre-shared",
    "api_key",
    "api-key",
    "apikey",
    "private_key",
    "private-key",
    "privatekey",
    "credential",
    "authorization",
];

/// Of base64 for URLs, where a name may be as long: it has digits, too.
const URL_SAFE_CHARS: usize = 40;

/// The text without secrets. What looks like a key goes wherever it stands, also in a certificate: a text that claims to be one, or
/// is cut off in the middle of one, decides nothing.
pub(crate) fn redact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_key = false;
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let of_keys = lines_of_keys(&lines);
    for (line, of_key) in lines.into_iter().zip(of_keys) {
        let (body, end) = line.strip_suffix('\n').map_or((line, ""), |body| (body, "\n"));
        if in_key || body.contains("PRIVATE KEY") {
            // A key without an end takes everything after it along. One in a single line has its end in it.
            let ends = body.rfind("-----END");
            let begins = body.rfind("-----BEGIN");
            if !in_key || ends.is_some() {
                out.push_str(REMOVED);
                out.push_str(end);
            }
            in_key = match (begins, ends) {
                (Some(b), Some(e)) => b > e,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (None, None) => in_key,
            };
            continue;
        }
        let body = if of_key { without_words(body) } else { without_keys(body) };
        out.push_str(&without_userinfo(&without_values(&without_tokens(&body))));
        out.push_str(end);
    }
    out
}

/// Which lines belong to a block of base64 that has a line as long as a key's: its first and its last one may be short.
fn lines_of_keys(lines: &[&str]) -> Vec<bool> {
    let is_word = |line: &&str| {
        let word = line.trim_matches(|c: char| !is_base64(c));
        !word.is_empty() && word.trim_end_matches('=').chars().all(|c| is_base64(c) && c != '=')
    };
    let of_block = |block: &[&str]| {
        let secret =
            block.len() > 1 && block.iter().all(is_word) && block.iter().any(|line| without_keys(line) != **line);
        vec![secret; block.len()]
    };
    lines.chunk_by(|a, b| is_word(a) == is_word(b)).flat_map(of_block).collect()
}

fn without_words(line: &str) -> String {
    let word = line.trim_matches(|c: char| !is_base64(c));
    line.replacen(word, REMOVED, 1)
}

fn without_tokens(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    // As long as the line: only ASCII changes.
    let lower = line.to_ascii_lowercase();
    let mut rest = line;
    while let Some(at) = lower[line.len() - rest.len()..].find(TOKEN) {
        out.push_str(&rest[..at]);
        let after = &rest[at + TOKEN.len()..];
        let len = after.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(after.len());
        // The word itself, as in a manual, is no token.
        if len == 0 {
            out.push_str(&rest[at..at + TOKEN.len()]);
        } else {
            out.push_str(REMOVED);
        }
        rest = &after[len..];
    }
    out.push_str(rest);
    out
}

/// What looks like a key or a token without anything that says so.
fn without_keys(line: &str) -> String {
    let all = |word: &str, is: fn(&u8) -> bool| word.bytes().all(|b| is(&b));
    let any = |word: &str, is: fn(&u8) -> bool| word.bytes().any(|b| is(&b));
    let mixed = |word: &str| any(word, u8::is_ascii_uppercase) && any(word, u8::is_ascii_lowercase);
    let line = without(line, is_base64, |word| {
        if all(word, u8::is_ascii_hexdigit) {
            word.len() >= HEX_DIGITS
        } else {
            word.len() >= BASE64_CHARS && mixed(word)
        }
    });
    let is_url_safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    without(&line, is_url_safe, |word| word.len() >= URL_SAFE_CHARS && mixed(word) && any(word, u8::is_ascii_digit))
}

/// The line without the words, of such characters, that are secret.
fn without(line: &str, of_word: impl Fn(char) -> bool, is_secret: impl Fn(&str) -> bool) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find(&of_word) {
        let len = rest[at..].find(|c| !of_word(c)).unwrap_or(rest.len() - at);
        let (before, word) = (&rest[..at], &rest[at..at + len]);
        out.push_str(before);
        out.push_str(if is_secret(word) { REMOVED } else { word });
        rest = &rest[at + len..];
    }
    out.push_str(rest);
    out
}

fn is_base64(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=')
}

/// `password = "x"`, `"secret": "x"`, `--token x`, `PSK "x"` and their like.
fn without_values(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    let mut out = String::with_capacity(line.len());
    let mut from = 0;
    while let Some((at, len)) = next_word(&lower, from) {
        let after = at + len;
        // A path of modules, as in a log, ends in a colon, too.
        let found = value(line, after).filter(|_| !line[..at].ends_with("::"));
        let Some((start, end)) = found else {
            out.push_str(&line[from..after]);
            from = after;
            continue;
        };
        out.push_str(&line[from..start]);
        out.push_str(REMOVED);
        from = end;
    }
    out.push_str(&line[from..]);
    out
}

/// The first word of a secret from `from` on, with what belongs to the same name.
fn next_word(lower: &str, from: usize) -> Option<(usize, usize)> {
    let found = SECRET_WORDS.iter().filter_map(|word| Some((from + lower[from..].find(word)?, word.len())));
    let (at, len) = found.min_by_key(|(at, len)| (*at, usize::MAX - len))?;
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let rest = &lower[at + len..];
    Some((at, len + rest.find(|c| !is_name(c)).unwrap_or(rest.len())))
}

/// Where the value lies that a name which ends at `at` has, if one follows: behind `=` or `:`, in quotes, or behind a flag and a space.
fn value(line: &str, at: usize) -> Option<(usize, usize)> {
    let rest = &line[at..];
    let unquoted = rest.trim_start_matches(['"', '\'', '\\']);
    let trimmed = unquoted.trim_start();
    let flag = line[..at].rsplit(char::is_whitespace).next().is_some_and(|word| word.starts_with("--"));
    let body = match trimmed.strip_prefix(['=', ':']) {
        // The name of a module.
        Some(body) if body.starts_with(':') => return None,
        Some(body) => body.trim_start_matches('=').trim_start(),
        None if trimmed.len() < unquoted.len() && (flag || trimmed.starts_with(['"', '\''])) => trimmed,
        None => return None,
    };
    let quote = body.trim_start_matches('\\').chars().next().filter(|c| *c == '"' || *c == '\'');
    let start = line.len() - body.len();
    let end = match quote {
        Some(quote) => {
            let inner = body.find(quote).expect("it was just found") + 1;
            closing(&body[inner..], quote).map_or(line.len(), |len| start + inner + len + 1)
        }
        None => line.len(),
    };
    (start < end).then_some((start, end))
}

/// Where a quoted value ends; one whose end is escaped, too, as within another one, takes the rest of the line along.
fn closing(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().find_map(|(at, c)| {
        let ends = c == quote && !escaped;
        escaped = c == '\\' && !escaped;
        ends.then_some(at)
    })
}

/// `scheme://user:password@host`.
fn without_userinfo(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("://") {
        let (head, tail) = rest.split_at(at + 3);
        out.push_str(head);
        let authority = tail.find(|c: char| c == '/' || c == '"' || c.is_whitespace()).unwrap_or(tail.len());
        match tail[..authority].rfind('@') {
            Some(end) => {
                out.push_str(REMOVED);
                rest = &tail[end..];
            }
            None => rest = tail,
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_with_everything_between_their_lines() {
        let text = "a\n-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMG\n-----END PRIVATE KEY-----\nb\n";
        assert_eq!(redact(text), "a\n[removed]\n[removed]\nb\n");
        let cut = "a\n-----BEGIN EC PRIVATE KEY-----\nMIGHAgEAMBMG\nmore";
        assert_eq!(redact(cut), "a\n[removed]\n");
        let one = r#"{"key":"-----BEGIN PRIVATE KEY-----\nMIGH\n-----END PRIVATE KEY-----\n"}"#;
        assert_eq!(redact(&format!("{one}\nb")), "[removed]\nb");
    }

    /// Certificates are public, but what claims to be one may be anything.
    #[test]
    fn no_certificate_hides_a_key() {
        let body = "MIIBszCCAVqgAwIBAgIUQ8q0zUe+B2/4gqVwH1mYJqT8nLcwCgYIKoZIzj0EAwIw";
        let (begin, end) = ("-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----");
        let cut = format!("{begin}\n{body}\nINFO the log goes on\nkey = x\n{body}\npassword=a\n");
        let expected = format!("{begin}\n[removed]\nINFO the log goes on\nkey = x\n[removed]\npassword=[removed]\n");
        assert_eq!(redact(&cut), expected, "its end never comes");
        assert_eq!(redact(&format!("{begin}\n{body}\n{end}\n")), format!("{begin}\n[removed]\n{end}\n"));
        for first in [begin, "-----BEGIN CERTIFICATE REQUEST-----", "x -----BEGIN CERTIFICATE", "-----BEGIN"] {
            let key = format!("{first}\n-----BEGIN PRIVATE KEY-----\n{body}\nAwIw\n-----END PRIVATE KEY-----\n");
            assert_eq!(redact(&key), format!("{first}\n[removed]\n[removed]\n"), "after {first}");
        }
    }

    /// A block whose lines are as long as a key's goes with the short ones at its ends.
    #[test]
    fn the_ends_of_a_key_go_with_it() {
        let body = "YIKoZIzj0DAQcDQgAEFz4nQ1rj7mXbWc+0J3Lf9s2TqUv/8aKdPpRoEhZtYyGg";
        let text = format!("a log\nhZtYyGg\n{body}\n{body}\nAwIw==\n\nwords\n");
        assert_eq!(redact(&text), "a log\n[removed]\n[removed]\n[removed]\n[removed]\n\nwords\n");
        let quoted = format!("  # {body}\n  # AwIw==\n  # and words\n");
        assert_eq!(redact(&quoted), "  # [removed]\n  # [removed]\n  # and words\n");
        assert_eq!(redact("one\ntwo\nthree\n"), "one\ntwo\nthree\n", "no line is as long");
    }

    #[test]
    fn base64_for_urls_goes() {
        let jwt = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJub2RlLTEifQ.MEUCIQDx-7_a8dKq2Zt0bWc3nQ1rj7mXbWc_0J3Lf9s2TqUv8";
        assert!(!redact(&format!("saw {jwt} here")).contains("MEUCIQDx"), "{}", redact(jwt));
        let name = "holdfast_volume_write_duration_seconds_bucket_of_the_primary-2";
        assert_eq!(redact(name), name);
    }

    /// The end of a log may begin in the middle of one.
    #[test]
    fn keys_and_tokens_go_without_their_beginnings() {
        let line = "YIKoZIzj0DAQcDQgAEFz4nQ1rj7mXbWc+0J3Lf9s2TqUv/8aKdPpRoEhZtYyGg";
        let text = format!("{line}\n  # {line}=\nkey {line}, and on\n-----END PRIVATE KEY-----\nb\n");
        assert_eq!(redact(&text), "[removed]\n  # [removed]\nkey [removed], and on\n[removed]\nb\n");
        let digest = "0123456789abcdef".repeat(4);
        assert_eq!(redact(&format!("sha256 {digest}")), format!("sha256 {digest}"));
        assert_eq!(redact(&format!("{digest}{digest} --config x")), "[removed] --config x");
    }

    #[test]
    fn tokens_go_wherever_they_stand() {
        assert_eq!(redact("holdfast join a:1 --token hf1-00ffAA --config x"), "holdfast join a:1 --token [removed]");
        assert_eq!(redact("saw hf1-00ff, and hf1-11"), "saw [removed], and [removed]");
        assert_eq!(redact("a text that begins with hf1-"), "a text that begins with hf1-");
        assert_eq!(redact("İ HF1-00FFAA, and Hf1- alone"), "İ [removed], and Hf1- alone");
    }

    #[test]
    fn values_go_and_what_names_them_stays() {
        for (text, expected) in [
            ("password = \"a b\" # why", "password = [removed] # why"),
            ("db_password: hunter2 and more", "db_password: [removed]"),
            (r#"{"a":1,"client_secret":"x\"y","b":2}"#, r#"{"a":1,"client_secret":[removed],"b":2}"#),
            (r#"{"message":"secret=\"x y\" z"}"#, r#"{"message":"secret=[removed]}"#),
            (r#"{"token": "abc", "n": 3}"#, r#"{"token": [removed], "n": 3}"#),
            ("Authorization: Bearer abc", "Authorization: [removed]"),
            ("SECRET_KEY=abc", "SECRET_KEY=[removed]"),
            ("psk=hunter2", "psk=[removed]"),
            ("10.0.0.1 10.0.0.2 : PSK \"hunter2\"", "10.0.0.1 10.0.0.2 : PSK [removed]"),
            ("PresharedKey = aHVudGVyMg==", "PresharedKey = [removed]"),
            ("PrivateKey = aHVudGVyMg==", "PrivateKey = [removed]"),
            ("pre-shared-key: hunter2", "pre-shared-key: [removed]"),
            ("wpa_psk='hunter 2' up", "wpa_psk=[removed] up"),
            ("the passphrase \"hunter2\" was typed", "the passphrase [removed] was typed"),
            ("nbd://user:pw@host/x and http://host/", "nbd://[removed]@host/x and http://host/"),
        ] {
            assert_eq!(redact(text), expected);
        }
    }

    #[test]
    fn what_is_no_secret_stays() {
        for text in [
            "this join token is unknown; make a new one",
            "INFO holdfast_agent::token: made one",
            "holdfast_volume_state{volume=\"vm1\",state=\"healthy\"} 1",
            "2026-11-29T22:10:04Z INFO holdfast: connected peer=n2 address=10.0.0.2:7400",
            "{\"command\":\"TokenCreate\",\"arguments\":{\"valid_seconds\":3600}}",
            "data_dir = \"/var/lib/holdfast\"\n\npeer = \"10.0.0.1:7400\"\n",
            "ünïcode stays: ✓ 你好\n",
            "image /var/lib/holdfast/shard-0/volumes/1f00aa11bb22cc33/image.raw of 10737418240 bytes\n",
        ] {
            assert_eq!(redact(text), text);
        }
    }

    /// Whatever comes, it is text again, and the words that must go are gone.
    #[test]
    fn nothing_panics() {
        let pieces = [
            "password", "=", ":", "\"", "\\", "'", " ", "ü", "hf1-", "ab", "://", "@", "/", "-----END", "--token", "\n",
        ];
        let mut rng = holdfast_types::Rng::new(7);
        for _ in 0..20_000 {
            let text: String =
                (0..8).map(|_| pieces[usize::try_from(rng.below(pieces.len() as u64)).expect("few")]).collect();
            let clean = redact(&text);
            assert!(!clean.contains("hf1-ab"), "{text:?} became {clean:?}");
        }
    }
}
