//! `holdfast failover --force --accept-loss`: says what may be lost, asks, and gives up the copies that are gone.

use super::{Agent, Client};
use crate::args::{FailoverArgs, Output};
use crate::error::CliError;
use crate::output;
use holdfast_agent::admin::pb;
use std::time::Duration;

pub(super) async fn run(agent: &mut Agent<'_>, output: Output, args: FailoverArgs) -> Result<(), CliError> {
    let name = args.volume.clone();
    let request = pb::RecoveryPlanRequest { volume: name.clone(), to: args.to.clone().unwrap_or_default() };
    let plan = agent.ask(async |c: &mut Client| c.recovery_plan(request).await).await?;
    let old_primary = agent.volume(&name).await?.primary;
    // People read stderr; what is printed in the end is the answer's.
    eprintln!("{}", output::plan_text(&name, &old_primary, &plan));
    output::confirm(&format!("this gives copies of {name} up for ever, as told above"), &name, args.yes)?;
    let request = pb::RecoverRequest {
        volume: name.clone(),
        primary: plan.primary.clone(),
        epoch: plan.epoch,
        survivors: plan.survivors.clone(),
    };
    let ordered = agent.ask(async |c: &mut Client| c.recover(request).await).await?;
    let reached = if args.no_wait {
        None
    } else {
        let what = format!("{} is to recover {name}, expected it to serve", plan.primary);
        Some(agent.wait_open(&name, |v| v.epoch > ordered.epoch, Duration::ZERO, &what).await?)
    };
    let reached = reached.as_ref();
    output::print(output, || output::recovered_json(&name, &plan, reached), || output::recovered_text(&name, reached));
    Ok(())
}
