//! Every metric there is: its name, what it counts, and its labels.

/// Metrics that share a label set are kept together: one look-up serves all of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) enum Family {
    /// One source, one destination, one direction.
    Traffic,
    /// As `Traffic`, with why.
    Failed,
    OnDemandDns,
    Sockets,
    Handshake,
    Refused,
    XdsStream,
    XdsMessage,
    Dns,
    Pods,
    Identity,
    Proxy,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Counter,
    Gauge,
    /// Seconds, kept in microseconds.
    Histogram(&'static [u64]),
}

impl Kind {
    /// How many numbers one series keeps.
    pub(super) const fn cells(self) -> usize {
        match self {
            Self::Counter | Self::Gauge => 1,
            // Each bucket, what is above the last, and the sum.
            Self::Histogram(bounds) => bounds.len() + 2,
        }
    }

    /// How many lines one series is when written.
    pub(super) const fn series(self) -> usize {
        match self {
            Self::Counter | Self::Gauge => 1,
            Self::Histogram(bounds) => bounds.len() + 3,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Metric {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) family: Family,
    pub(super) help: &'static str,
}

/// Istio's labels of a connection, in Istio's order.
pub(super) const TRAFFIC: &[&str] = &[
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_service",
    "destination_service_namespace",
    "destination_service_name",
    "destination_workload",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "request_protocol",
    "response_flags",
    "connection_security_policy",
    "source_region",
    "source_zone",
    "destination_region",
    "destination_zone",
];

/// Istio's labels of a name that was looked up for a source.
pub(super) const ON_DEMAND_DNS: &[&str] = &[
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "hostname",
];

impl Family {
    pub(super) fn labels(self) -> &'static [&'static str] {
        match self {
            Self::Traffic | Self::Failed => TRAFFIC,
            Self::OnDemandDns => ON_DEMAND_DNS,
            Self::Sockets => &["reporter"],
            Self::Handshake => &["carrier", "side"],
            Self::Refused => &["reporter", "fault"],
            Self::XdsStream => &["reason"],
            Self::XdsMessage => &["url"],
            Self::Dns => &[
                "request_query_type",
                "request_protocol",
                "source_canonical_service",
                "source_canonical_revision",
            ],
            Self::Identity => &["result"],
            Self::Pods | Self::Proxy => &[],
        }
    }

    pub(super) fn metrics(self) -> impl Iterator<Item = &'static Metric> {
        TABLE.iter().filter(move |m| m.family == self)
    }

    /// How many numbers one label set of the family keeps.
    pub(super) fn cells(self) -> usize {
        self.metrics().map(|m| m.kind.cells()).sum()
    }

    pub(super) fn series(self) -> usize {
        self.metrics().map(|m| m.kind.series()).sum()
    }
}

const fn counter(family: Family, name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, family, help }
}

const fn gauge(family: Family, name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, family, help }
}

const fn histogram(
    family: Family,
    name: &'static str,
    bounds: &'static [u64],
    help: &'static str,
) -> Metric {
    Metric { name, kind: Kind::Histogram(bounds), family, help }
}

/// 0.5 ms to 10 s.
const LATENCY: &[u64] =
    &[500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 10_000_000];

macro_rules! table {
    ($($id:ident = $maker:ident($family:ident, $name:literal $(, $bounds:ident)?, $help:literal);)+) => {
        /// Which number a recording moves.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(super) enum Id { $($id),+ }

        pub(super) const TABLE: &[Metric] =
            &[$($maker(Family::$family, $name $(, $bounds)?, $help)),+];

        /// The place of each metric's first number among those of its family.
        const OFFSETS: [usize; TABLE.len()] = offsets();
    };
}

table! {
    Opened = counter(Traffic, "istio_tcp_connections_opened_total", "TCP connections opened.");
    Closed = counter(Traffic, "istio_tcp_connections_closed_total", "TCP connections closed.");
    Received = counter(Traffic, "istio_tcp_received_bytes_total", "Bytes received: at the source from the server, at the destination from the client.");
    Sent = counter(Traffic, "istio_tcp_sent_bytes_total", "Bytes sent: at the source to the server, at the destination to the client.");
    Failed = counter(Failed, "istio_tcp_connections_failed_total", "TCP connections that failed, by response_flags.");
    OnDemandDns = counter(OnDemandDns, "istio_on_demand_dns_total", "Endpoints known by host name only whose name was looked up for a connection.");
    SocketsOpen = gauge(Sockets, "istio_tcp_sockets_open", "Connections open.");
    Handshake = histogram(Handshake, "weft_tunnel_handshake_seconds", LATENCY, "From a connected socket to a tunnel that carries streams.");
    Refused = counter(Refused, "weft_connections_refused_total", "Connections refused before any byte was carried, by whose fault.");
    XdsTerminated = counter(XdsStream, "istio_xds_connection_terminations_total", "Streams from the control plane that ended.");
    XdsMessages = counter(XdsMessage, "istio_xds_message_total", "Messages from the control plane.");
    XdsBytes = counter(XdsMessage, "istio_xds_message_bytes_total", "Bytes of messages from the control plane.");
    DnsRequests = counter(Dns, "istio_dns_requests_total", "DNS queries received.");
    DnsUpstream = counter(Dns, "istio_dns_upstream_requests_total", "DNS queries forwarded.");
    DnsUpstreamFailures = counter(Dns, "istio_dns_upstream_failures_total", "Forwarded DNS queries without an answer.");
    DnsUpstreamTime = histogram(Dns, "istio_dns_upstream_request_duration_seconds", LATENCY, "Until an upstream answered.");
    DnsDropped = counter(Dns, "weft_dns_dropped_total", "DNS queries dropped because the pod waits for too many.");
    PodsActive = gauge(Pods, "workload_manager_active_proxy_count", "Pods being served.");
    PodsPending = gauge(Pods, "workload_manager_pending_proxy_count", "Pods that could not be served yet.");
    PodsStarted = counter(Pods, "workload_manager_proxies_started_total", "Pods taken into service.");
    PodsStopped = counter(Pods, "workload_manager_proxies_stopped_total", "Pods taken out of service.");
    Certificates = counter(Identity, "weft_certificate_requests_total", "Certificates asked for.");
    ViewGeneration = gauge(Proxy, "weft_view_generation", "Changes that led to the picture of the mesh in use.");
    ConfigAge = gauge(Proxy, "weft_config_age_seconds", "Since the control plane last confirmed the configuration in use.");
    SeriesOverflow = counter(Proxy, "weft_series_overflow_total", "Recordings counted under `other` because metrics.series was reached.");
    LogDropped = counter(Proxy, "weft_log_lines_dropped_total", "Log lines dropped because nobody read them fast enough.");
    MemoryFull = counter(Proxy, "weft_memory_limit_reached_total", "Times that new connections began to wait because limits.memory was reached.");
    Shed = counter(Proxy, "weft_streams_shed_total", "Streams cut because allocated memory passed limits.memory by a tenth.");
    Series = gauge(Proxy, "weft_series", "Series kept.");
    OpenFds = gauge(Proxy, "process_open_fds", "File descriptors in use.");
    MaxFds = gauge(Proxy, "process_max_fds", "File descriptors allowed.");
    Resident = gauge(Proxy, "process_resident_memory_bytes", "Memory resident.");
    Allocated = gauge(Proxy, "weft_memory_allocated_bytes", "Memory allocated and not freed: what limits.memory is compared with.");
}

#[expect(
    clippy::indexing_slicing,
    reason = "in a constant, an index out of range does not compile"
)]
const fn offsets() -> [usize; TABLE.len()] {
    let mut offsets = [0; TABLE.len()];
    let mut i = 0;
    while i < TABLE.len() {
        let mut j = 0;
        while j < i {
            if TABLE[j].family as usize == TABLE[i].family as usize {
                offsets[i] += TABLE[j].kind.cells();
            }
            j += 1;
        }
        i += 1;
    }
    offsets
}

impl Id {
    pub(super) fn metric(self) -> &'static Metric {
        TABLE.get(self as usize).expect("an Id is made with its row of the table")
    }

    /// Where this metric's numbers start among those of its family.
    pub(super) fn offset(self) -> usize {
        OFFSETS.get(self as usize).copied().expect("there is one offset for each row")
    }
}

/// A row of the reference page: name, type, labels, meaning.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    pub name: &'static str,
    pub kind: &'static str,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

/// Every metric, for the reference page. `istio_build` stands first: it never changes while we run.
pub fn reference() -> Vec<Row> {
    let build =
        Row { name: "istio_build", kind: "gauge", labels: BUILD, help: "Which build this is." };
    let kind = |k| match k {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram(_) => "histogram",
    };
    let rows = TABLE.iter().map(|m| Row {
        name: m.name,
        kind: kind(m.kind),
        labels: m.family.labels(),
        help: m.help,
    });
    std::iter::once(build).chain(rows).collect()
}

pub(super) const BUILD: &[&str] = &["component", "tag"];
