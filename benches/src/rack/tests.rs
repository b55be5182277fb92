use super::*;
use serde_json::json;

fn args(hosts: &[&str]) -> RunArgs {
    let line = ["rack", "run", "--binaries", "/b", "--out", "/o", "--dir", "/data"];
    let Part::Run(args) = Args::try_parse_from(line.iter().chain(hosts)).expect("a good line").part else {
        unreachable!()
    };
    args
}

const GOOD: &str = "kernel=6.1.0-18-amd64\nnow=1000\nuid=1000\nuring=0\npinned=unlimited\naddress=10.0.0.1\nprocessors=64\n\
                    model=A Processor\npath=/mnt/data\ndevice=/dev/nvme0n1\nspace=99999999\nfilesystem=xfs\ndisk=1.8T MODEL";

fn judge(changes: &[(&str, &str)], host: &str) -> Result<facts::Facts, Sentence> {
    let mut said = format!("arch={}\n{GOOD}", std::env::consts::ARCH);
    for (key, value) in changes {
        said.push_str(&format!("\n{key}={value}"));
    }
    let args = args(&[host, "b", "c"]);
    facts::judge(&said, &args.hosts[0], &args, 1001)
}

#[test]
fn a_host_that_will_do() {
    let facts = judge(&[], "root@a").expect("it will do");
    assert_eq!((facts.address.to_string().as_str(), facts.clock), ("10.0.0.1", -1));
    assert_eq!((facts.path.as_str(), facts.device.as_str()), ("/mnt/data", "/dev/nvme0n1 1.8T MODEL"));
    assert_eq!((facts.processors.as_str(), facts.note), ("64 × A Processor", None));
    let named = judge(&[("address", "127.0.0.1")], "root@a=fd00::1").expect("its address was named");
    assert_eq!(named.address.to_string(), "fd00::1");
    let pinned = judge(&[("pinned", "8192")], "a").expect("it will do").note.expect("it is slower so");
    assert!(pinned.contains("may pin 8192 KiB"), "{pinned}");
    assert_eq!(judge(&[("pinned", "8192"), ("uid", "0")], "a").expect("it will do").note, None, "root may");
}

#[test]
fn a_host_that_will_not_do_is_told_why() {
    for (changes, why) in [
        (&[("arch", "s390x")][..], "found \"s390x\"; run this on a machine of the hosts' kind"),
        (&[("kernel", "5.15.0")], "expected Linux 5.19 or newer"),
        (&[("kernel", "?")], "expected Linux 5.19 or newer"),
        (&[("uring", "2")], "found kernel.io_uring_disabled = 2"),
        (&[("uring", "1")], "found kernel.io_uring_disabled = 1"),
        (&[("now", "99999")], "found 98998 s between them"),
        (&[("space", "1024")], "expected 8192 MiB of free space in /data, found 1; name another directory"),
        (&[("path", "")], "expected a directory /data that the user that ssh logs in as (1000) may write to"),
        (&[("address", "127.0.0.1")], "name it: a=ADDRESS"),
        (&[("address", "")], "name it: a=ADDRESS"),
    ] {
        let said = judge(changes, "a").expect_err(why);
        assert!(said.starts_with("a: ") && said.contains(why), "{said}");
    }
    let two = judge(&[("arch", "s390x"), ("kernel", "4.19.0")], "a").expect_err("two reasons");
    assert_eq!(two.lines().count(), 2, "{two}");
    judge(&[("uring", "1"), ("uid", "0")], "a").expect("root may");
}

#[test]
fn hosts_as_they_are_named() {
    let plain = target("root@h1").expect("a host");
    assert_eq!((plain.name.as_str(), plain.address), ("root@h1", None));
    assert_eq!(target("h1=10.0.0.7").expect("a host").address, Some("10.0.0.7".parse().expect("an address")));
    for (text, why) in [("-oProxyCommand=x", "expected a host"), ("", "expected a host"), ("h1=h2", "found \"h2\"")] {
        let said = target(text).expect_err(why);
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn each_blocked_direction_and_port_is_told() {
    let hosts =
        [("n1", "a", "10.0.0.1".to_owned()), ("n2", "b", "10.0.0.2".to_owned()), ("n3", "c", "10.0.0.3".to_owned())];
    let all =
        [json!([["n2", "n3"], ["n2", "n3"]]), json!([["n1", "n3"], ["n1", "n3"]]), json!([["n1", "n2"], ["n1", "n2"]])];
    assert_eq!(story::blocked(&hosts, 7460, &all), Vec::<String>::new());
    let one = [all[0].clone(), json!([["n1", "n3"], ["n3"]]), all[2].clone()];
    let said = story::blocked(&hosts, 7460, &one);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("UDP port 7461 is blocked from a (10.0.0.1) to b (10.0.0.2)"), "{said:?}");
    assert_eq!(story::blocked(&hosts, 7460, &[json!(null), json!(null), json!(null)]).len(), 12);
}

#[test]
fn words_of_a_shell() {
    assert_eq!(ssh::quote("it's $HOME"), r"'it'\''s $HOME'");
}
