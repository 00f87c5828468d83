//! The cluster init: systemd over D-Bus, agent, engine, HTTP API.
