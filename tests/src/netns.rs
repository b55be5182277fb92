//! Hosts of their own: network namespaces on a switch, with cables that can be pulled and packets that can be dropped.
//!
//! Everything has this process's id in its name and goes when [`Lan`] is dropped, also when a test panics; what an earlier process that
//! was killed has left goes before the next one begins.

use crate::{tool, try_tool};
use holdfast_cli::harness::Host;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

/// Hosts on a switch. The network of the machine itself is not touched.
pub struct Lan {
    hosts: Vec<Host>,
    switch: String,
}

/// Which packets a host drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drops {
    /// Those that come from the others: it is heard, and hears nobody.
    Incoming,
    /// Those that it sends: it hears, and nobody hears it.
    Outgoing,
    /// Both.
    All,
}

impl Lan {
    /// So many hosts.
    ///
    /// # Panics
    /// Namespaces can't be made: that takes root.
    #[must_use]
    pub fn new(hosts: u8) -> Lan {
        sweep();
        let name = |what: &str| format!("holdfast-{}-{what}", std::process::id());
        let lan = Lan {
            hosts: (1..=hosts)
                .map(|at| Host { namespace: name(&at.to_string()), address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, at)) })
                .collect(),
            switch: name("switch"),
        };
        ip(&["netns", "add", &lan.switch]);
        ip(&["-n", &lan.switch, "link", "add", "br0", "type", "bridge", "stp_state", "0", "forward_delay", "0"]);
        ip(&["-n", &lan.switch, "link", "set", "br0", "up"]);
        for (at, host) in lan.hosts.iter().enumerate() {
            let (ns, port, address) = (&host.namespace, port(at), format!("{}/24", host.address));
            ip(&["netns", "add", ns]);
            ip(&["-n", ns, "link", "set", "lo", "up"]);
            ip(&["-n", ns, "link", "add", "eth0", "type", "veth", "peer", "name", &port, "netns", &lan.switch]);
            ip(&["-n", ns, "address", "add", &address, "dev", "eth0"]);
            ip(&["-n", ns, "link", "set", "eth0", "up"]);
            ip(&["-n", &lan.switch, "link", "set", &port, "master", "br0", "up"]);
        }
        lan
    }

    /// The hosts.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Pulls a host's cable, or plugs it in.
    ///
    /// # Panics
    /// There is no such host.
    pub fn cable(&self, at: usize, plugged: bool) {
        ip(&["-n", &self.switch, "link", "set", &port(at), if plugged { "up" } else { "down" }]);
    }

    /// A host drops packets to and from these others, until [`Lan::heal`].
    ///
    /// # Panics
    /// nft is missing.
    pub fn drop_packets(&self, at: usize, drops: Drops, others: &[usize]) {
        let list: Vec<String> = others.iter().map(|other| self.hosts[*other].address.to_string()).collect();
        let list = list.join(", ");
        let mut rules = "table inet cut {\n".to_owned();
        if drops != Drops::Outgoing {
            rules += &format!("chain from {{ type filter hook input priority 0; ip saddr {{ {list} }} drop; }}\n");
        }
        if drops != Drops::Incoming {
            rules += &format!("chain to {{ type filter hook output priority 0; ip daddr {{ {list} }} drop; }}\n");
        }
        rules += "}\n";
        tool("ip", ["netns", "exec", &self.hosts[at].namespace, "nft", &rules]);
    }

    /// A host loses so many of a hundred datagrams that it sends, any of them, until [`Lan::heal`].
    ///
    /// # Panics
    /// nft is missing.
    pub fn lose_packets(&self, at: usize, percent: u8) {
        let drop = format!("meta l4proto udp numgen random mod 100 < {percent} drop;");
        let rules = format!("table inet lossy {{ chain to {{ type filter hook output priority 0; {drop} }}; }}");
        tool("ip", ["netns", "exec", &self.hosts[at].namespace, "nft", &rules]);
    }

    /// All cables are plugged in, and nothing is dropped any more.
    ///
    /// # Panics
    /// A host is gone.
    pub fn heal(&self) {
        for (at, host) in self.hosts.iter().enumerate() {
            self.cable(at, true);
            tool("ip", ["netns", "exec", &host.namespace, "nft", "flush", "ruleset"]);
        }
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for name in self.hosts.iter().map(|h| &h.namespace).chain([&self.switch]) {
            // The interfaces go with it. One that was never made is no loss.
            let _ = try_tool("ip", ["netns", "delete", name]);
        }
    }
}

fn port(at: usize) -> String {
    format!("port{at}")
}

fn ip(args: &[&str]) {
    tool("ip", args.iter());
}

/// Removes namespaces whose test process is gone.
fn sweep() {
    let list = tool("ip", ["netns", "list"]);
    for name in list.lines().filter_map(|line| line.split_whitespace().next()) {
        let owner = name.strip_prefix("holdfast-").and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists()) {
            let _ = try_tool("ip", ["netns", "delete", name]);
        }
    }
}
