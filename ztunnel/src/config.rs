//! How this proxy was told to behave: one value, read once at the start, then only passed on in parts.
//!
//! A YAML file of sections, then Istio's environment variables over it. Every field is declared once below,
//! with its default, its range and its reason; the reader, `/config` and `docs/configuration.md` follow from
//! that. No field holds a secret: tokens and keys are named by their files.

mod load;
mod section;
mod value;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

pub use load::ConfigError;
pub use section::Field;
use section::{NotSet, section};
pub use value::{ByteSize, LogFilter, LogFormat, ServerUrl, Switch};
use value::{
    Range::{self, Any, Between},
    Value,
};
use weft_model::{Network, TrustDomain};

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

const TOKEN: &str = "/var/run/secrets/tokens/istio-token";
const ROOT: &str = "/var/run/secrets/istio/root-cert.pem";

/// The whole configuration. A part of the proxy takes its section, never all of it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Config {
    pub node: Node,
    pub zds: Zds,
    pub xds: Xds,
    pub ca: Ca,
    pub listen: Listen,
    pub limits: Limits,
    pub timeouts: Timeouts,
    pub h2: H2,
    pub tcp: Tcp,
    pub dns: Dns,
    pub log: Log,
    pub metrics: Metrics,
}

section! {
    /// Where this proxy runs, and as whom it presents itself.
    Node, "node" {
        /// The Kubernetes node. Required: endpoints and identities are scoped by it.
        name: String = String::new(), Any("the node's name"), env "NODE_NAME";
        /// The cluster, sent to the control plane and certificate service and shown in telemetry.
        cluster_id: String = "Kubernetes".to_owned(), Any("the cluster's name"), env "CLUSTER_ID";
        /// The network in which this node's pod addresses are unique.
        network: Network = Network::default(), Any("a network's name, or empty"), env "NETWORK";
        /// The trust domain of pods that the control plane did not describe.
        trust_domain: TrustDomain = TrustDomain::default(), Any("a SPIFFE trust domain"), env "TRUST_DOMAIN";
        /// This proxy's own address, as it is told to the control plane.
        instance_ip: IpAddr = IpAddr::V4(Ipv4Addr::new(1, 1, 1, 1)), Any("an IP address"), env "INSTANCE_IP";
        /// This proxy's own pod name, as it is told to the control plane.
        pod_name: String = "ztunnel".to_owned(), Any("a pod's name"), env "POD_NAME";
        /// This proxy's own namespace, as it is told to the control plane.
        pod_namespace: String = "istio-system".to_owned(), Any("a namespace"), env "POD_NAMESPACE";
        /// Where the last good configuration and the certificates are kept for a restart without control plane.
        state_dir: PathBuf = PathBuf::from("/var/lib/weft/ztunnel"), Any("a directory of mode 0700");
        /// Data-path threads; 0 means one for each core that this process may use.
        workers: u16 = 0, Between(0, 256), env "ZTUNNEL_WORKER_THREADS";
    }
}

section! {
    /// The node agent.
    Zds, "zds" {
        /// The socket on which the node agent announces pods.
        socket: PathBuf = PathBuf::from("/var/run/ztunnel/ztunnel.sock"), Any("a Unix socket"), env "INPOD_UDS";
    }
}

section! {
    /// Where workloads, services and policies come from.
    Xds, "xds" {
        /// The control plane. At least one of this and `xds.local_path` is required.
        address: Option<ServerUrl> = None, Any("https://host:port"), env "XDS_ADDRESS";
        /// The roots that the control plane's certificate must chain to.
        root: PathBuf = PathBuf::from(ROOT), Any("a PEM file"), env "XDS_ROOT_CA";
        /// The name that the control plane's certificate must carry, where it is not the host's.
        server_name: Option<String> = None, Any("a DNS name"), env "ALT_XDS_HOSTNAME";
        /// The bearer token, read again for every stream. Without the file no token is sent.
        token: PathBuf = PathBuf::from(TOKEN), Any("a file");
        /// A file in the form of `/config_dump`, watched, instead of a control plane or beside it.
        local_path: Option<PathBuf> = None, Any("a JSON or YAML file"), env "LOCAL_XDS_PATH";
    }
}

section! {
    /// The certificate service.
    Ca, "ca" {
        /// Any `IstioCertificateService`. Without one only plain text is carried.
        address: Option<ServerUrl> = None, Any("https://host:port"), env "CA_ADDRESS";
        /// The roots that its certificate must chain to; read again when the file changes.
        root: PathBuf = PathBuf::from(ROOT), Any("a PEM file"), env "CA_ROOT_CA";
        /// The name that its certificate must carry, where it is not the host's.
        server_name: Option<String> = None, Any("a DNS name"), env "ALT_CA_HOSTNAME";
        /// The bearer token, read again for every request. Without the file no token is sent.
        token: PathBuf = PathBuf::from(TOKEN), Any("a file");
        /// The lifetime asked for; renewed at half of what is granted.
        ttl: Duration = secs(86_400), Between(secs(60), secs(90 * 86_400)), env "SECRET_TTL";
        /// Whether the token is exchanged once for a certificate of this node, which then proves all calls to the
        /// control plane. Weft's control plane gives one; a stock istiod does not.
        node_certificate: Switch = Switch::Off, Any("on or off");
    }
}

section! {
    /// Addresses that this proxy serves outside of pods.
    Listen, "listen" {
        /// Inspection and control. Loopback only: whoever reaches it can stop the proxy.
        admin: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15000), Any("a loopback address and port");
        /// Metrics for Prometheus.
        stats: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 15020), Any("an address and port");
        /// Readiness for the kubelet.
        readiness: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 15021), Any("an address and port");
    }
}

section! {
    /// What one node and one pod may use, so that none takes another's share.
    Limits, "limits" {
        /// Connections of all pods at once; more wait in the listeners' backlogs.
        node_connections: usize = 65_536, Between(16, 4_000_000);
        /// Connections of one pod at once; more wait in its listeners' backlogs.
        pod_connections: usize = 16_384, Between(1, 4_000_000);
        /// Allocated memory at which new connections wait, until a tenth is free again. A tenth above it the newest
        /// streams of the identity with most are cut. 0 is no limit.
        memory: ByteSize = ByteSize(0), Between(ByteSize(0), ByteSize::gib(1024));
        /// Connections at once to each of admin, stats and readiness; more wait in the backlog.
        admin_connections: usize = 64, Between(4, 4_096);
    }
}

section! {
    /// How long each thing may take. Every state of a connection has a deadline.
    Timeouts, "timeouts" {
        /// From the stop signal until connections that are still open are cut: kubelet's grace, less a margin.
        drain: Duration = secs(25), Between(ms(100), secs(600)), env "TERMINATION_GRACE_PERIOD_SECONDS";
        /// To reach a destination over TCP.
        connect: Duration = secs(10), Between(ms(100), secs(120));
        /// From an accepted connection to the client's whole TLS greeting: a silent peer costs no more.
        client_hello: Duration = secs(5), Between(ms(100), secs(60));
        /// For the whole TLS handshake, either side.
        handshake: Duration = secs(10), Between(ms(100), secs(60));
        /// From the handshake to the HTTP/2 preface and settings.
        preface: Duration = secs(5), Between(ms(100), secs(60));
        /// For a CONNECT request's head, and for its answer on the other side.
        connect_head: Duration = secs(10), Between(ms(100), secs(120));
        /// For an unknown workload to become known before its connection is refused.
        workload_wait: Duration = secs(5), Between(secs(0), secs(60));
        /// For a first certificate before the connection that needs it is refused.
        certificate_wait: Duration = secs(10), Between(ms(100), secs(120));
        /// After which a tunnel without a stream is closed.
        tunnel_idle: Duration = secs(300), Between(secs(1), secs(86_400)), env "POOL_UNUSED_RELEASE_TIMEOUT";
    }
}

section! {
    /// The HTTP/2 of the tunnels between nodes.
    H2, "h2" {
        /// What a peer may send on one stream before it is read.
        stream_window: ByteSize = ByteSize::mib(4), Between(ByteSize::kib(64), ByteSize::mib(64)), env "HTTP2_STREAM_WINDOW_SIZE";
        /// What a peer may send on one tunnel before it is read.
        connection_window: ByteSize = ByteSize::mib(16), Between(ByteSize::kib(64), ByteSize::mib(256)), env "HTTP2_CONNECTION_WINDOW_SIZE";
        /// The largest frame that is accepted.
        frame: ByteSize = ByteSize::mib(1), Between(ByteSize::kib(16), ByteSize(16_777_215)), env "HTTP2_FRAME_SIZE";
        /// What is buffered for a stream whose peer does not read.
        send_buffer: ByteSize = ByteSize::kib(400), Between(ByteSize::kib(16), ByteSize::mib(16));
        /// The largest head that a server accepts.
        server_header_list: ByteSize = ByteSize::kib(64), Between(ByteSize::kib(4), ByteSize::mib(1));
        /// The largest head that a client accepts.
        client_header_list: ByteSize = ByteSize::kib(16), Between(ByteSize::kib(4), ByteSize::mib(1));
        /// Streams that a peer may have open on one tunnel.
        server_streams: u32 = 200, Between(1, 10_000);
        /// Streams that we open on one tunnel before another one is made.
        client_streams: u32 = 100, Between(1, 10_000), env "POOL_MAX_STREAMS_PER_CONNECTION";
        /// Between two PINGs that ask whether the peer is still there.
        ping_interval: Duration = secs(10), Between(secs(1), secs(3_600));
        /// For the answer to a PING before the tunnel is given up.
        ping_timeout: Duration = secs(20), Between(secs(1), secs(3_600));
    }
}

section! {
    /// Kernel settings of every TCP connection of the data path.
    Tcp, "tcp" {
        /// Silence before the first keepalive probe.
        keepalive_time: Duration = secs(180), Between(secs(1), secs(32_767)), env "KEEPALIVE_TIME";
        /// Between keepalive probes.
        keepalive_interval: Duration = secs(180), Between(secs(1), secs(32_767)), env "KEEPALIVE_INTERVAL";
        /// Unanswered probes until the connection is dead.
        keepalive_retries: u32 = 9, Between(1, 127), env "KEEPALIVE_RETRIES";
        /// Unacknowledged data's age until the connection is dead; 0 is the kernel's own choice.
        user_timeout: Duration = secs(0), Between(secs(0), secs(3_600));
    }
}

section! {
    /// Names of the mesh, answered inside of each pod.
    Dns, "dns" {
        /// Whether captured DNS is answered from the mesh; off forwards everything.
        proxy: Switch = Switch::On, Any("on or off"), env "ISTIO_META_DNS_CAPTURE";
        /// The cluster's domain, from which short names are completed.
        cluster_domain: String = "cluster.local".to_owned(), Any("a DNS domain"), env "CLUSTER_DOMAIN";
        /// Asked for what the mesh does not know; empty means the resolver that the pod asked.
        upstreams: Vec<SocketAddr> = Vec::new(), Any("addresses and ports, by comma");
        /// For an upstream's answer.
        timeout: Duration = secs(5), Between(ms(100), secs(60));
        /// Forwarded queries that one pod may wait for at once; more are dropped, as a busy resolver would.
        pod_queries: usize = 256, Between(1, 16_384);
        /// How long a client may keep our answer; the mesh changes under it.
        ttl: Duration = secs(30), Between(secs(0), secs(3_600));
    }
}

section! {
    /// What is written to standard output.
    Log, "log" {
        /// Which events: a level, and exceptions by module.
        level: LogFilter = LogFilter::default(), Any("a filter such as info,ztunnel::dns=debug"), env "RUST_LOG";
        /// The form of a line.
        format: LogFormat = LogFormat::Text, Any("text or json"), env "LOG_FORMAT";
    }
}

section! {
    /// Metrics.
    Metrics, "metrics" {
        /// Series in all; labels beyond it are counted as `other`, so that no peer can fill the memory.
        series: usize = 10_000, Between(100, 1_000_000);
    }
}

macro_rules! sections {
    ($($field:ident),+) => {
        impl Config {
            /// Every field, in the order of the reference page.
            pub fn fields(&self) -> Vec<Field> {
                [$(self.$field.fields()),+].concat()
            }

            fn set(&mut self, section: &str, field: &str, text: &str) -> Result<(), NotSet> {
                match section {
                    $(stringify!($field) => self.$field.set(field, text),)+
                    _ => Err(NotSet::Unknown),
                }
            }
        }
    };
}
sections!(node, zds, xds, ca, listen, limits, timeouts, h2, tcp, dns, log, metrics);

#[cfg(test)]
mod tests;
