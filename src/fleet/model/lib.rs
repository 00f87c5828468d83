//! The cluster's decisions: unit files, registry layout, plans.
