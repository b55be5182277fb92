//! `holdfast orphan`.

use super::{Agent, Client, in_time};
use crate::args::{OrphanCommand, Output};
use crate::error::CliError;
use crate::output;
use holdfast_agent::admin::pb;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub(super) async fn run(agent: &mut Agent<'_>, output: Output, command: OrphanCommand) -> Result<(), CliError> {
    match command {
        OrphanCommand::List { volume, node } => {
            let request = pb::OrphanListRequest { volume: volume.unwrap_or_default(), node: node.unwrap_or_default() };
            let orphans = agent.ask(async |c: &mut Client| c.orphan_list(request).await).await?.orphans;
            output::print(output, || output::orphans_json(&orphans), || output::orphans_text(&orphans));
        }
        OrphanCommand::Show { id } => {
            let shown = agent.ask(async |c: &mut Client| c.orphan_show(pb::OrphanRequest { id }).await).await?;
            output::print(output, || output::orphan_shown_json(&shown), || output::orphan_shown_text(&shown));
        }
        OrphanCommand::Export { id, to } => {
            let written = export(agent, &id, &to).await?;
            let listing = written.listing.display().to_string();
            let (records, bytes) = (written.records, written.bytes);
            output::print(
                output,
                || output::orphan_exported_json(&id, &to, &listing, records, bytes),
                || {
                    format!(
                        "{id}: {records} records; {bytes} bytes at their offsets of the volume in {}, the list of records in {listing}",
                        to.display()
                    )
                },
            );
        }
        OrphanCommand::Delete { id, yes } => {
            output::confirm(&format!("this deletes the records of {id}, which are nowhere else"), "yes", yes)?;
            let named = id.clone();
            agent.ask(async |c: &mut Client| c.orphan_delete(pb::OrphanRequest { id }).await).await?;
            output::print(output, || output::orphan_deleted_json(&named), || format!("{named} is being deleted"));
        }
    }
    Ok(())
}

/// What was written.
struct Written {
    listing: PathBuf,
    records: u64,
    /// Bytes of data, each counted as often as it was written.
    bytes: u64,
}

async fn export(agent: &mut Agent<'_>, id: &str, to: &Path) -> Result<Written, CliError> {
    let mut name = to.as_os_str().to_owned();
    name.push(".records");
    let request = pb::OrphanRequest { id: id.to_owned() };
    let mut stream = agent.ask(async |c: &mut Client| c.orphan_export(request).await).await?;
    // Only now: what is refused leaves no files.
    let mut sink = Sink::create(to, Path::new(&name))?;
    let limit = agent.limit.unwrap_or(super::ANSWER);
    loop {
        let next = in_time(agent.socket, limit, async { Ok(stream.message().await?) }).await;
        match next {
            Ok(Some(piece)) => sink.take(&piece)?,
            Ok(None) => return sink.finish(),
            Err(error) => {
                // What was verified is there and listed.
                sink.finish()?;
                return Err(error);
            }
        }
    }
}

/// The two files.
struct Sink {
    data: File,
    list: BufWriter<File>,
    listing: PathBuf,
    last: Option<u64>,
    records: u64,
    bytes: u64,
    /// Ranges that hold data: zeros over anything else need not be written.
    written: Vec<(u64, u64)>,
}

impl Sink {
    fn create(data: &Path, listing: &Path) -> Result<Sink, CliError> {
        let new = |path: &Path| {
            let what = format!("create {} (it must not be there yet)", path.display());
            OpenOptions::new().write(true).create_new(true).open(path).map_err(CliError::io(&what))
        };
        let (list, data) = (new(listing)?, new(data).inspect_err(|_| drop(std::fs::remove_file(listing)))?);
        let mut list = BufWriter::new(list);
        writeln!(list, "# lsn epoch kind offset length").map_err(CliError::io("write the list of records"))?;
        Ok(Sink { data, list, listing: listing.to_owned(), last: None, records: 0, bytes: 0, written: Vec::new() })
    }

    fn take(&mut self, p: &pb::OrphanPiece) -> Result<(), CliError> {
        if self.last.replace(p.lsn) != Some(p.lsn) {
            self.records += 1;
            let (kind, offset, length) = (p.kind.replace(' ', "-"), p.offset, p.length);
            writeln!(self.list, "{} {} {kind} {offset} {length}", p.lsn, p.epoch)
                .map_err(CliError::io("write the list of records"))?;
        }
        if p.data.is_empty() {
            return if matches!(p.kind.as_str(), "zeroes" | "discard") {
                self.zeros(p.offset, p.length)
            } else {
                Ok(())
            };
        }
        let length = u64::try_from(p.data.len()).expect("a piece fits in memory");
        self.bytes += length;
        self.written.push((p.offset, p.offset + length));
        self.data.write_all_at(&p.data, p.offset).map_err(CliError::io("write the data of the records"))
    }

    /// Zeros where an earlier record of the orphan wrote something; holes read as zeros anyway.
    fn zeros(&mut self, offset: u64, length: u64) -> Result<(), CliError> {
        const CHUNK: [u8; 4096] = [0; 4096];
        let end = offset + length;
        for (from, to) in self.written.clone() {
            let (mut at, to) = (from.max(offset), to.min(end));
            while at < to {
                let count = usize::try_from(to - at).unwrap_or(CHUNK.len()).min(CHUNK.len());
                self.data.write_all_at(&CHUNK[..count], at).map_err(CliError::io("write the data of the records"))?;
                at += u64::try_from(count).expect("4096 at most");
            }
        }
        let reaches = self.data.metadata().map_err(CliError::io("look at the file"))?.len().max(end);
        self.data.set_len(reaches).map_err(CliError::io("write the data of the records"))
    }

    fn finish(mut self) -> Result<Written, CliError> {
        self.list.flush().map_err(CliError::io("write the list of records"))?;
        self.data.sync_all().map_err(CliError::io("write the data of the records"))?;
        Ok(Written { listing: self.listing, records: self.records, bytes: self.bytes })
    }
}
