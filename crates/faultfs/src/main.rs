//! `holdfast-faultfs BACKING MOUNTPOINT`: mounts, and takes commands on its standard input.
//!
//! ```text
//! FAULT [path=TEXT] [ops=read,write,…] [after=N] [times=N]   adds a rule and prints its number
//! remove N | clear | counts | quit
//! ```

use holdfast_faultfs::{FaultFs, Options, Rule};
use std::io::{BufRead, stdin};
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [backing, mount_point] = args.as_slice() else {
        eprintln!("holdfast-faultfs: expected BACKING MOUNTPOINT, found {} arguments", args.len());
        return ExitCode::from(2);
    };
    match FaultFs::mount(Path::new(backing), Path::new(mount_point), Options { sync: true }) {
        Ok(fs) => {
            obey(&fs);
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("holdfast-faultfs: {e}");
            ExitCode::FAILURE
        }
    }
}

fn obey(fs: &FaultFs) {
    for line in stdin().lock().lines().map_while(Result::ok) {
        match line.trim() {
            "" => {}
            "quit" => return,
            "clear" => fs.rules().clear(),
            "counts" => println!("{}", fs.rules().counts()),
            text => match text.strip_prefix("remove ").map(|n| n.trim().parse()) {
                Some(Ok(number)) => fs.rules().remove(number),
                Some(Err(_)) => eprintln!("expected the number of a rule, found {text:?}"),
                None => match text.parse::<Rule>() {
                    Ok(rule) => println!("{}", fs.rules().add(rule)),
                    Err(e) => eprintln!("{e}"),
                },
            },
        }
    }
}
