//! What the node agent and the proxy say to each other about pods.
//!
//! One protobuf message a packet, over `SOCK_SEQPACKET`; the agent listens, the proxy dials and says
//! [`ZdsHello`] first. Our additions have numbers from 100, which a stock peer skips.

pub use crate::proto::istio::workload::zds::{
    Ack, AddWorkload, DelWorkload, KeepWorkload, NeedSockets, SnapshotSent, SocketKind, Sockets,
    Version, WorkloadInfo, WorkloadRequest, WorkloadResponse, ZdsHello, workload_request,
    workload_response,
};

/// No packet is longer, and both ends read with a buffer of this size.
pub const PACKET_BYTES_MAX: usize = 1024;
