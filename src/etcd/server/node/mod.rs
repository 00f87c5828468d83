//! One running member: raft, log, database, peers behind one handle.
//!
//! The handle's face (all methods may be called from any thread; the `async`
//! ones need a tokio runtime with time):
//!
//! ```text
//! #[derive(Clone)] pub struct Node
//! Node::start(NodeConfig) -> Result<Node, NodeError>
//! async propose(&self, Command) -> Result<Reply, EtcdError>     // for nobody in particular
//! async propose_for(&self, Option<Requester>, Command) -> Result<Reply, EtcdError>
//! async propose_as_member(&self, Command) -> Result<Reply, EtcdError> // never what a client wants
//! async linearizable(&self) -> Result<(), EtcdError>
//! view(&self) -> Arc<ReadView>                       // ReadView { view, head, auth, applied }
//! status(&self) -> tokio::sync::watch::Receiver<Status>
//! members(&self) -> Vec<etcdserverpb::Member>         // by id
//! set_event_sink(&self, Box<dyn EventSink>)           // Fn(i64 /* revision */, Arc<Vec<Event>>) + Send + Sync is one
//! set_v2_sink(&self, V2Sink)                           // Box<dyn Fn(V2Applied) + Send + Sync>
//! leases(&self) -> Vec<(i64 /* id */, i64 /* ttl s */)> // of the applied state
//! async ask_leader(&self, Bytes) -> Result<Bytes, EtcdError>
//! set_answerer(&self, Answerer)                       // Box<dyn Fn(Bytes) -> Result<Bytes, EtcdError> + Send + Sync>
//! async change_members(&self, MemberChange) -> Result<MembersChanged, EtcdError>
//! async move_leader(&self, u64) -> Result<(), EtcdError>
//! async hand_over(&self)                              // before a stop
//! alarms(&self) -> Vec<AlarmMember>                   // of the applied state
//! stop(self)                                          // joins threads, drops the database
//! ```

mod alone;
mod applier;
mod ask;
mod assemble;
mod boot;
mod changes;
mod core;
mod entry;
mod error;
mod handle;
mod here;
mod housekeeping;
mod look;
mod membership;
mod meta;
mod outbox;
mod proposals;
mod restore;
mod shared;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
mod types;
mod writer;

pub use error::NodeError;
pub use handle::{Node, is_member};
pub use look::Seen;
pub use meta::write_durably;
pub use restore::{NewMember, create_from, create_stranger};
pub use types::{
    Answerer, AuthStamp, Bootstrap, EventSink, MemberChange, MembersChanged, NodeConfig, ReadView, Status,
    TokenGranted, TokenSink, V2Applied, V2Sink,
};
