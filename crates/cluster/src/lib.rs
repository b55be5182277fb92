//! The control plane's state machine: nodes, volumes, configurations, failover decisions.
