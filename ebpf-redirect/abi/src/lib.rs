//! What the eBPF programs and their loader agree upon: map layouts, marks, slots, counters.
//!
//! ```text
//!   map         key -> value                         scope        who writes
//!   PODS        netns cookie -> CAPTURED             node         loader
//!   OWN         OwnAddress -> 1                      node         loader   is this the pod's own address?
//!   POD_OF      address -> netns cookie              node         loader   is this an enrolled local pod?
//!   EXEMPT      Flow -> time (LRU)                   node         kernel   probes and deliveries, exact tuples
//!   PROXY       cgroup id -> 1                       node         loader   whose sockets are the proxy's own
//!   HOST        0 -> netns cookie of the host        node         loader
//!   NODE_COUNT  NodeCounter -> count per CPU         node         kernel
//!   SOCKS       slot -> listener                     pod          loader
//!   RECORD      0 -> PodRecord                       pod          loader   what a restarted agent must know
//!   POD_COUNT   PodCounter -> count per CPU          pod          kernel
//! ```
//!
//! Invariants: addresses are always 16 bytes (IPv4 as `::ffff:a.b.c.d`), ports are in host order; every
//! layout is `repr(C)` without padding; a pod is its network namespace's cookie, never its IP.
//! Whoever changes a layout raises [`VERSION`], which is part of the path of every pin.

#![no_std]

/// Raised with every change of a layout: programs and maps of two versions never meet.
pub const VERSION: u32 = 1;

/// Set on an application's socket by the connect hook: the packet is delivered inside the pod.
///
/// Meaningful only inside the pod, since marks do not cross a veth.
pub const CAPTURE_MARK: u32 = 0x111;
/// Set by the agent on the proxy's own UDP sockets: they reach a resolver without being captured.
pub const BYPASS_MARK: u32 = 0x539;
/// The bits of a packet's mark that are ours.
pub const MARK_MASK: u32 = 0xfff;

/// The port of tunnelled traffic, which goes to its own listener.
pub const HBONE_PORT: u16 = 15008;
/// The port of name lookups.
pub const DNS_PORT: u16 = 53;

/// Where the IPv4 listeners are bound: an address that nobody can dial (TEST-NET-1, RFC 5737).
///
/// `sk_lookup` does not care what a listener is bound to. So no program can reach a listener but by
/// being captured, and a pod that connects to its own 127.0.0.1:15001 meets nobody.
pub const LISTEN_V4: [u8; 4] = [192, 0, 2, 150];
/// Where the IPv6 listeners are bound (discard-only prefix, RFC 6666).
pub const LISTEN_V6: [u8; 16] = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x50];

/// The value of `PODS` for an enrolled pod.
pub const CAPTURED: u32 = 1;

/// The kinds of listeners in `SOCKS`; each has a slot for IPv4 and one for IPv6.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// TCP that the pod's programs begin.
    Outbound = 0,
    /// TCP to the pod, any port.
    InboundPlaintext = 1,
    /// TCP to the pod's [`HBONE_PORT`].
    Hbone = 2,
    /// UDP to port 53 of anyone.
    DnsUdp = 3,
    /// TCP to port 53 of anyone.
    DnsTcp = 4,
}

impl Slot {
    /// Slots in `SOCKS`.
    pub const COUNT: u32 = 10;

    /// The slot's index for a family.
    #[must_use]
    pub const fn index(self, family: Family) -> u32 {
        2 * self as u32 + family as u32
    }
}

/// The family of a packet. A socket bound to an IPv6 address is implicitly IPv6 only, hence two slots.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4, also when an application speaks it through an IPv6 socket.
    V4 = 0,
    /// IPv6.
    V6 = 1,
}

/// Key of `OWN`: an address, of whichever scope, that belongs to the pod with this cookie.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnAddress {
    /// The pod.
    pub netns: u64,
    /// Its address.
    pub address: [u8; 16],
}

/// Key of `EXEMPT`: a TCP connection to a local pod that is not to be captured, for as long as it lives.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The pod that is connected to.
    pub netns: u64,
    /// Who connects.
    pub client: [u8; 16],
    /// The pod's address.
    pub server: [u8; 16],
    /// In host order.
    pub client_port: u16,
    /// In host order.
    pub server_port: u16,
    /// Always zero: keys are compared byte for byte.
    pub zero: u32,
}

/// Value of `RECORD`: what an agent that was restarted must know of a pod that it did not enroll.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodRecord {
    /// The pod.
    pub netns: u64,
    /// Device and inode of the namespace's file, to notice another one under the same name.
    pub device: u64,
    /// See `device`.
    pub inode: u64,
    /// A bit for each sysctl that enrolment turned on, in the loader's order.
    pub sysctls_turned_on: u64,
    /// Where the namespace's file was, zeros behind it.
    pub path: [u8; 128],
}

macro_rules! counters {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident => $label:literal,)+ }) => {
        $(#[$doc])*
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }

        impl $name {
            /// All of them, in the order of their index.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The name for people and for metrics.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }
        }
    };
}

counters! {
    /// What the node's programs count.
    NodeCounter {
        /// A connection was marked for the proxy.
        Captured => "captured",
        /// The proxy's own connection was left alone.
        Proxy => "proxy",
        /// A connection to loopback or to the pod itself was left alone.
        Own => "own",
        /// Refused: no listener in the pod.
        NoListener => "no_listener",
        /// Refused: the mark could not be set.
        MarkFailed => "mark_failed",
        /// A binding to a device was taken off.
        Unbound => "unbound",
        /// An exact tuple was exempted: a probe.
        ProbeExempted => "probe_exempted",
        /// An exact tuple was exempted: the proxy delivers to the application.
        DeliveryExempted => "delivery_exempted",
        /// An exemption could not be recorded: the connection is captured.
        ExemptFailed => "exempt_failed",
        /// An exemption ended with its connection.
        ExemptEnded => "exempt_ended",
    }
}

counters! {
    /// What the programs in a pod count.
    PodCounter {
        /// Steered to the outbound listener.
        Outbound => "outbound",
        /// Steered to the plaintext listener.
        InboundPlaintext => "inbound_plaintext",
        /// Steered to the HBONE listener.
        Hbone => "hbone",
        /// Steered to the DNS socket.
        DnsUdp => "dns_udp",
        /// Steered to the DNS listener.
        DnsTcp => "dns_tcp",
        /// Dropped: the listener's slot was empty.
        NoListener => "no_listener",
        /// Left alone: the pod talks to itself.
        Local => "local",
        /// Left alone: an exempt tuple.
        Exempt => "exempt",
        /// Dropped on its way out of the pod: captured traffic whose rules were gone.
        Guarded => "guarded",
    }
}

/// Keys and values of typed maps.
#[cfg(feature = "loader")]
#[expect(unsafe_code, reason = "aya asks for the promise that a layout has no padding")]
mod loader {
    // SAFETY: repr(C), integers and byte arrays only, no padding (checked by the sizes in the tests).
    unsafe impl aya::Pod for super::OwnAddress {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Flow {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::PodRecord {}
}

#[cfg(test)]
mod tests;
