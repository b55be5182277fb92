//! Mutant: a control plane without compare-and-swap, as its copies would see it.
//!
//! The real one decides. In between, a node that asks for a claim while another one is pending is told that its claim got
//! the same epoch, and that what it asks to activate is active.

use super::World;
use crate::checkers::{Activation, Violation};
use holdfast_node::LocalView;
use holdfast_node::control::Control;
use holdfast_types::{ControlRequest, Epoch, Life, NodeId};

/// A claim that a node believes in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forged {
    base: Epoch,
    life: Life,
    /// Told to be active.
    active: Option<Epoch>,
}

impl World {
    /// A copy asks for something: it is granted, whatever the state says.
    pub(super) fn forge_decision(&mut self, id: NodeId, request: &ControlRequest) -> Result<(), Violation> {
        let Some(state) = self.nodes[&id].control.as_ref().and_then(Control::state) else { return Ok(()) };
        let volume = match *request {
            ControlRequest::Claim { volume, base, life } => {
                if state.view(volume).is_none_or(|v| v.pending.is_none_or(|p| p.configuration.primary == Some(id))) {
                    // Nobody else's epoch is there to be given twice.
                    return Ok(());
                }
                self.forged.insert((id, volume), Forged { base, life, active: None });
                volume
            }
            ControlRequest::Activate { volume, epoch } => {
                let Some(forged) = self.forged.get_mut(&(id, volume)) else { return Ok(()) };
                if forged.active.replace(epoch).is_some() {
                    return Ok(());
                }
                volume
            }
            ControlRequest::Reconfigure { .. } | ControlRequest::NoteKept { .. } => return Ok(()),
        };
        let view = state.view(volume);
        self.note("forge", &[id.0, volume.0], || format!("{id} is granted {request:?}"));
        if let ControlRequest::Activate { epoch, .. } = *request {
            let Some(mut configuration) = view.as_ref().map(|v| v.active.clone()) else { return Ok(()) };
            (configuration.epoch, configuration.primary) = (epoch, Some(id));
            let (same_primary, added) = (false, Vec::new());
            let receipt = None;
            self.activated(&Activation { volume, epoch, primary: id, same_primary, added, configuration, receipt })?;
        }
        let state = self.nodes[&id].control.as_ref().and_then(Control::state);
        let registered = |s: &holdfast_cluster::State| {
            s.volumes.iter().filter_map(|(v, volume)| Some((*v, volume.incarnation(id)?))).collect()
        };
        let local = LocalView {
            views: view.into_iter().collect(),
            registered: state.map(registered).unwrap_or_default(),
            ..LocalView::default()
        };
        self.tell_view(id, &local);
        Ok(())
    }

    /// What a node is told is made to fit what it was granted, as long as it stands on the same base.
    pub(super) fn forge_view(&self, id: NodeId, local: &mut LocalView) {
        for view in &mut local.views {
            let Some(forged) = self.forged.get(&(id, view.volume)) else { continue };
            if view.active.epoch > forged.base && forged.active.is_none() {
                continue;
            }
            if let Some(pending) = view.pending.as_mut() {
                pending.configuration.primary = Some(id);
                pending.life = forged.life;
            }
            if let Some(epoch) = forged.active.filter(|e| *e >= view.active.epoch) {
                (view.active.epoch, view.active.primary) = (epoch, Some(id));
                view.pending = None;
            }
        }
    }
}
