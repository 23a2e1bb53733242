//! What every object needs: the licence that the kernel asks for, a panic that cannot happen, counting.

use aya_ebpf::maps::PerCpuArray;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // Never reached: the verifier refuses a program that could loop.
    loop {}
}

/// Helpers such as `bpf_skc_lookup_tcp` are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[inline(always)]
pub fn count(counters: &PerCpuArray<u64>, index: u32) {
    if let Some(slot) = counters.get_ptr_mut(index) {
        // SAFETY: the slot is this CPU's own, and programs are not preempted by themselves.
        unsafe { *slot += 1 }
    }
}

/// Reads a constant that the loader set in frozen read-only data.
///
/// Volatile, so that the compiler does not fold the value of build time in; the verifier then knows the
/// frozen value and prunes the branch that is not taken, with the helpers that an old kernel lacks.
#[inline(always)]
pub fn constant<T: Copy>(value: &'static T) -> T {
    // SAFETY: a reference is valid for reads.
    unsafe { core::ptr::read_volatile(value) }
}
