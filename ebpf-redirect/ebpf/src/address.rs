//! Addresses of 16 bytes, and how to read them from a program's context.

/// Reads a field of the context.
///
/// Volatile: if two branches read different fields, LLVM merges them into one load at a computed offset,
/// and the verifier refuses it ("dereference of modified ctx ptr"). So read first and unconditionally.
macro_rules! read {
    ($field:expr) => {
        // SAFETY: the verifier checks each access to the context.
        unsafe { core::ptr::read_volatile(&raw const $field) }
    };
}

/// Reads the four words of an IPv6 address from the context, for the same reason.
macro_rules! read_words {
    ($field:expr) => {
        [read!($field[0]), read!($field[1]), read!($field[2]), read!($field[3])]
    };
}

pub(crate) use {read, read_words};

use weft_redirect_abi::{LISTEN_V4, LISTEN_V6};

pub const AF_INET: u32 = 2;

pub type Address = [u8; 16];

#[inline(always)]
pub fn v4(network_order: u32) -> Address {
    let [a, b, c, d] = network_order.to_ne_bytes();
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

#[inline(always)]
pub fn v6(words: [u32; 4]) -> Address {
    // SAFETY: both are 16 bytes of plain data; the words are in network order, as the bytes are.
    unsafe { core::mem::transmute(words) }
}

#[inline(always)]
pub fn of_family(family: u32, word: u32, words: [u32; 4]) -> Address {
    if family == AF_INET { v4(word) } else { v6(words) }
}

#[inline(always)]
fn halves(a: &Address) -> (u64, u64) {
    (
        u64::from_ne_bytes([a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]]),
        u64::from_ne_bytes([a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]]),
    )
}

/// Whether this is where our listeners are bound. A pod that could reach them there, or that gave itself
/// such an address, would make the proxy connect to itself without end.
#[inline(always)]
pub fn is_listeners(a: &Address) -> bool {
    halves(a) == halves(&v4(u32::from_ne_bytes(LISTEN_V4))) || halves(a) == halves(&LISTEN_V6)
}

#[inline(always)]
pub fn is_loopback(a: &Address) -> bool {
    let (high, low) = halves(a);
    let low = u64::from_be(low);
    high == 0 && (low == 1 || low >> 24 == 0xffff_7f)
}
