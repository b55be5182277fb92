//! `holdfast demo`: the whole story on one machine, told while it happens.
//!
//! Agents as processes, a real disk image, verified load, a switchover, SIGKILL of the primary in mid-write, the return of
//! the dead node, and the proof: every acknowledged write, the image, and equal digests.

mod image;
mod place;
pub(crate) mod report;
mod show;
mod story;

use crate::args::{DemoArgs, Output};
use crate::error::CliError;
use place::Place;
use show::Show;
use story::Story;
use tokio::signal::unix::{SignalKind, signal};

pub(crate) async fn run(args: DemoArgs, output: Output) -> Result<(), CliError> {
    let show = Show::new(output);
    let mut place = Place::new(args.dir.as_deref(), args.keep)?;
    let told = tokio::select! {
        told = Story::tell(&args, &place, &show) => told,
        signal = interrupted() => signal.and(Err(CliError::Interrupted)),
    };
    show.end();
    match told {
        Ok(report) => {
            report.print(output);
            place.explain(&show);
            report.verdict()
        }
        Err(error) => {
            if let CliError::Harness(error) = &error {
                eprint!("{}", error.tails());
            }
            // The agents' logs are the only way to find out why; before any agent ran there is nothing to keep.
            if !matches!(error, CliError::Interrupted) && place.dir().join("n1").exists() {
                place.keep();
            }
            place.explain(&show);
            Err(error)
        }
    }
}

async fn interrupted() -> Result<(), CliError> {
    let mut end = signal(SignalKind::terminate()).map_err(CliError::io("listen to SIGTERM"))?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result.map_err(CliError::io("listen to Ctrl-C")),
        _ = end.recv() => Ok(()),
    }
}
