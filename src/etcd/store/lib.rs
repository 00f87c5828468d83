//! The replicated state machine: MVCC, transactions, leases, watch history.
