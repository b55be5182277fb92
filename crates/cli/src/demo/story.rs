//! The story itself, act by act.

use super::image::Image;
use super::place::Place;
use super::report::Report;
use super::show::Show;
use crate::args::DemoArgs;
use crate::error::CliError;
use crate::harness::{Cluster, ClusterOptions, HarnessError};
use crate::units;
use crate::workload::{Plan, Progress, Transfer, Workload, WorkloadError};
use holdfast_agent::admin::pb;
use std::fs::OpenOptions;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};
use tokio::time::sleep;

const VOLUME: &str = "demo";
/// Behind the image; the load works here.
const LOAD_BYTES: u64 = 64 << 20;
const ALIGNMENT: u64 = 1 << 20;
/// How long the dead node stays dead, at most: what it misses must fit into the journals of the others.
const DEAD: Duration = Duration::from_secs(5);
/// No wait of the story is longer.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);

pub(super) struct Story<'a> {
    show: &'a Show,
    cluster: Cluster,
    image: Image,
    seconds: Duration,
    seed: u64,
}

impl Story<'_> {
    pub(super) async fn tell(args: &DemoArgs, place: &Place, show: &Show) -> Result<Report, CliError> {
        show.doing("starting agents");
        let image = Image::prepare(args.image.as_deref(), place.dir()).await?;
        let binary = std::env::current_exe().map_err(CliError::io("find this program"))?;
        let mut options = ClusterOptions::new(binary, place.dir().to_path_buf());
        options.nodes = usize::from(args.nodes);
        let cluster = Cluster::start(options).await?;
        let seed = args.seed.unwrap_or_else(draw_seed);
        let mut story = Story { show, cluster, image, seconds: Duration::from_secs(args.seconds), seed };
        story.introduce(place.dir());
        story.create_volume().await?;
        story.copy_in().await?;
        let workload = story.start_load().await?;
        story.steady(&workload).await?;
        story.switch_over(&workload).await?;
        let dead = story.kill_primary(&workload).await?;
        let catch_up = story.revive(&workload, dead).await?;
        let (progress, unequal) = story.prove_copies(workload).await?;
        story.prove_image(place.dir(), &progress, catch_up, unequal).await
    }

    fn introduce(&self, dir: &Path) {
        let nodes = self.cluster.nodes();
        let pids: Vec<String> = nodes.iter().map(|n| format!("{} (pid {})", n.name(), n.pid().unwrap_or(0))).collect();
        let details = format!("{}\nall in {}, encrypted between each other", pids.join(", "), dir.display());
        self.show.happened(&format!("{} agents run on this machine", nodes.len()), &details);
    }

    fn load_start(&self) -> u64 {
        self.image.bytes.next_multiple_of(ALIGNMENT)
    }

    async fn create_volume(&self) -> Result<(), CliError> {
        self.show.doing("creating a volume");
        let size_bytes = self.load_start() + LOAD_BYTES;
        let request = pb::VolumeCreateRequest { name: VOLUME.to_owned(), size_bytes, copies: 3, ..Default::default() };
        let volume = self.cluster.create_volume(request, PATIENCE).await?;
        let copies: Vec<&str> = volume.copies.iter().map(|copy| copy.node.as_str()).collect();
        let details = format!(
            "copies on {}; {} of them must hold a write durably before it is acknowledged; primary: {}",
            copies.join(", "),
            volume.quorum,
            volume.primary
        );
        self.show.happened(&format!("Volume {VOLUME} of {} is there", units::bytes(size_bytes)), &details);
        Ok(())
    }

    async fn copy_in(&self) -> Result<(), CliError> {
        self.show.doing("copying the image in");
        let start = Instant::now();
        let sockets = self.cluster.sockets(VOLUME);
        let mut transfer = self.transfer().await?;
        if let Some(qcow2) = &self.image.qcow2 {
            Image::convert(qcow2, VOLUME, &sockets[transfer.node()]).await?;
        } else {
            let total = self.image.bytes;
            let mut done =
                |at| self.show.doing(&format!("copying the image in: {} of {}", units::bytes(at), units::bytes(total)));
            transfer.write(&self.image.open()?, total, &mut done).await.map_err(WorkloadError::from)?;
        }
        transfer.close();
        let headline = format!(
            "A disk image of {} is copied in, in {}",
            units::bytes(self.image.bytes),
            units::duration(start.elapsed())
        );
        self.show.happened(&headline, &self.image.description);
        Ok(())
    }

    async fn start_load(&self) -> Result<Workload, CliError> {
        let start = self.load_start();
        let plan = Plan::new(self.cluster.sockets(VOLUME), VOLUME, start..start + LOAD_BYTES, self.seed);
        let workload = Workload::start(plan).map_err(CliError::io("start the load"))?;
        workload.phase("steady");
        Ok(workload)
    }

    async fn steady(&self, workload: &Workload) -> Result<(), CliError> {
        let time = self.seconds * 3 / 10;
        self.under_load("verified load", workload, time).await?;
        let progress = workload.progress();
        let per_second = progress.acknowledged * 1000 / u64::try_from(time.as_millis()).unwrap_or(1).max(1);
        let headline =
            format!("{} verified writes acknowledged under load at depth 16", units::count(progress.acknowledged));
        let details = format!(
            "{} per second, half within {}, 99 of 100 within {}; {} reads checked (seed {})",
            units::count(per_second),
            units::duration(progress.write_p50),
            units::duration(progress.write_p99),
            units::count(progress.reads),
            self.seed
        );
        self.show.happened(&headline, &details);
        Ok(())
    }

    async fn switch_over(&self, workload: &Workload) -> Result<(), CliError> {
        let from = workload.progress().node;
        let copies = self.volume().await?.copies;
        let target = copies.iter().filter_map(|copy| self.cluster.index_of(&copy.node)).find(|at| *at != from);
        let target = target.ok_or_else(|| CliError::Broken("the volume has no second copy".to_owned()))?;
        let (from_name, to_name) = (self.name(from), self.name(target));
        workload.phase("switchover");
        self.cluster.failover(VOLUME, to_name, false).await?;
        self.until_attached(workload, "the load to be served by the next primary", |node| node == target).await?;
        self.under_load("load after the switchover", workload, self.seconds * 2 / 10).await?;
        let progress = workload.progress();
        let pause = progress.phase("switchover").map_or(Duration::ZERO, |phase| phase.longest_pause);
        let headline = format!(
            "Switchover from {from_name} to {to_name}, planned: {} without an acknowledgement",
            units::duration(pause)
        );
        self.show.happened(
            &headline,
            "the primary drained and handed over; the disk was slow for a moment and gave no error",
        );
        Ok(())
    }

    async fn kill_primary(&mut self, workload: &Workload) -> Result<usize, CliError> {
        let dead = workload.progress().node;
        let moves = workload.progress().attachments.len();
        workload.phase("failover");
        let pid = self.cluster.nodes()[dead].pid().unwrap_or(0);
        self.cluster.kill(dead);
        self.until_attached(workload, "another copy to become primary", |node| node != dead).await?;
        self.under_load("load after the failover", workload, (self.seconds * 2 / 10).min(DEAD)).await?;
        let progress = workload.progress();
        let pause = progress.phase("failover").map_or(Duration::ZERO, |phase| phase.longest_pause);
        let headline = format!(
            "SIGKILL of {} (pid {pid}) in mid-write: {} without an acknowledgement",
            self.name(dead),
            units::duration(pause)
        );
        let attachment = progress.attachments.get(moves).cloned();
        let (again, abandoned) = attachment.map_or((0, 0), |a| (a.reissued, a.abandoned));
        let details = format!(
            "{} serves now; {again} unanswered operations were sent again, {abandoned} writes abandoned to their fate",
            self.name(progress.node)
        );
        self.show.happened(&headline, &details);
        Ok(dead)
    }

    async fn revive(&mut self, workload: &Workload, dead: usize) -> Result<Duration, CliError> {
        let start = Instant::now();
        self.cluster.launch(dead)?;
        self.show.doing("the dead node returns");
        self.cluster.wait_copy_healthy(VOLUME, self.name(dead), PATIENCE).await?;
        let catch_up = start.elapsed();
        self.under_load("load with all copies again", workload, self.seconds * 3 / 10).await?;
        let headline = format!(
            "{} is back and has caught up, in {}, while the load went on",
            self.name(dead),
            units::duration(catch_up)
        );
        self.show.happened(&headline, "only what it had missed was sent, so the disk's size does not matter");
        Ok(catch_up)
    }

    /// What the load found, and why the copies are not equal if they are not: the story goes on to its figures.
    async fn prove_copies(&self, workload: Workload) -> Result<(Progress, Option<String>), CliError> {
        self.show.doing("comparing the copies");
        workload.hold(PATIENCE).await?;
        let unequal = match self.cluster.wait_in_sync(VOLUME, PATIENCE).await {
            Ok(all) => {
                let headline = format!("All {} copies are equal: digest {} at LSN {}", all.copies, all.digest, all.lsn);
                self.show.happened(&headline, "computed by each node over its own data");
                None
            }
            Err(error @ HarnessError::Timeout { .. }) => {
                self.show.happened("The copies are NOT equal", &error.to_string());
                Some(error.to_string())
            }
            Err(error) => return Err(error.into()),
        };
        self.show.doing("reading every sector back");
        let progress = workload.finish(PATIENCE).await?;
        let violations = &progress.violations;
        let headline = format!(
            "Every sector read back: {} of {} acknowledged writes lost, {} sectors corrupt",
            violations.lost(),
            units::count(progress.acknowledged),
            violations.corrupt()
        );
        self.show.happened(&headline, "each names its write, its place and its generation, under a checksum");
        Ok((progress, unequal))
    }

    async fn prove_image(
        &self,
        dir: &Path,
        progress: &Progress,
        catch_up: Duration,
        unequal: Option<String>,
    ) -> Result<Report, CliError> {
        self.show.doing("reading the image back");
        let copy = dir.join("readback.raw");
        let out = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&copy);
        let out = out.map_err(CliError::io(format!("create {}", copy.display())))?;
        let mut transfer = self.transfer().await?;
        transfer.read(&out, self.image.bytes, &mut |_| {}).await.map_err(WorkloadError::from)?;
        let mismatch = transfer.compare(&self.image.open()?, self.image.bytes).await.map_err(WorkloadError::from)?;
        transfer.close();
        let file_system = self.image.check_file_system(&copy).await?;
        let same = mismatch.map_or_else(|| "identical".to_owned(), |m| format!("DIFFERENT from byte {} on", m.offset));
        self.show.happened(
            &format!("The image read back from {} is {same}", self.name(progress.node)),
            &format!("e2fsck -fn: {}", file_system.name()),
        );
        let violations = progress.violations.kept().iter().map(|violation| violation.sentence.clone());
        let pause = |name| progress.phase(name).map_or(Duration::ZERO, |phase| phase.longest_pause);
        Ok(Report {
            seed: self.seed,
            acknowledged: progress.acknowledged,
            reads: progress.reads,
            lost: progress.violations.lost(),
            corrupt: progress.violations.corrupt(),
            other: progress.violations.other(),
            digests_equal: unequal.is_none(),
            findings: violations.chain(unequal).collect(),
            switchover_pause: pause("switchover"),
            failover: pause("failover"),
            catch_up,
            image_identical: mismatch.is_none(),
            file_system,
        })
    }

    async fn transfer(&self) -> Result<Transfer, CliError> {
        let transfer = Transfer::open(&self.cluster.sockets(VOLUME), VOLUME, PATIENCE).await;
        Ok(transfer.map_err(WorkloadError::from)?)
    }

    async fn volume(&self) -> Result<pb::Volume, CliError> {
        let found = self.cluster.volume(VOLUME).await;
        found.map_err(|found| HarnessError::Refused { what: format!("ask for volume {VOLUME}"), found }.into())
    }

    /// Lets the load run for a while.
    async fn under_load(&self, what: &str, workload: &Workload, time: Duration) -> Result<(), CliError> {
        let start = Instant::now();
        while start.elapsed() < time {
            sleep(LOOK).await;
            let progress = workload.progress();
            self.show.load(what, &progress);
            if let Some(failure) = progress.failure {
                return Err(WorkloadError::Ended(failure).into());
            }
        }
        Ok(())
    }

    /// Waits until the load is served by such a node, and got an acknowledgement there.
    async fn until_attached(
        &self,
        workload: &Workload,
        what: &str,
        there: impl Fn(usize) -> bool,
    ) -> Result<(), CliError> {
        let mut acknowledged_before = None;
        self.cluster
            .wait_for(what, PATIENCE, async |_| {
                let progress = workload.progress();
                self.show.load(what, &progress);
                if !there(progress.node) {
                    return Err(format!("it is still at {}", self.name(progress.node)));
                }
                let before = *acknowledged_before.get_or_insert(progress.acknowledged);
                if progress.acknowledged > before {
                    Ok(())
                } else {
                    Err("attached, but no write is acknowledged".to_owned())
                }
            })
            .await?;
        Ok(())
    }

    fn name(&self, at: usize) -> &str {
        self.cluster.nodes()[at].name()
    }
}

fn draw_seed() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::from(now.subsec_nanos()) ^ now.as_secs()
}
