//! What plans need natively: memory whose addresses have 32 bits, as plans hold them, and threads that
//! run them.

use core::ffi::c_void;
use std::thread::{self, JoinHandle};

use sluice_kernels::sync::{Context, STAY};
use sluice_kernels::{
    create_context, dismiss, join, joined, run_plan, serve, set_scratch, set_streams,
};

use crate::support::Memory;

/// Numbers of ops, as in `src/backend/wasm/plan.ts`.
pub mod opcode {
    pub const EMBED: u32 = 1;
    pub const RMS_NORM: u32 = 2;
    pub const LINEAR: u32 = 3;
    pub const ROTATE: u32 = 4;
    pub const ATTENTION: u32 = 5;
    pub const GATHER: u32 = 6;
    pub const HEAD_LINEAR: u32 = 7;
    pub const ROTATE_LATENT: u32 = 8;
    pub const LATENT_ATTENTION: u32 = 9;
    pub const GATE: u32 = 10;
    pub const EXPERTS: u32 = 11;
}

/// An address as a word of a plan.
pub fn at<T>(pointer: *const T) -> u32 {
    u32::try_from(pointer as usize).expect("an address below 4 GiB")
}

/// A plan of ops with their fields: its words, and the number of its ops.
pub fn words(ops: Vec<(u32, Vec<u32>)>) -> (Vec<u32>, u32) {
    let count = ops.len() as u32;
    let words = ops.into_iter().flat_map(|(opcode, fields)| {
        let length = fields.len() as u32 + 2;
        [opcode, length].into_iter().chain(fields)
    });
    (words.collect(), count)
}

/// Threads that run plans together with the one that owns them.
pub struct Pool {
    context: usize,
    threads: u32,
    scratch: Memory,
    helpers: Vec<JoinHandle<u32>>,
}

/// What helpers leave with.
const END: u32 = 5;

impl Pool {
    pub fn new(threads: u32, streams: u32, scratch_bytes: usize) -> Self {
        let context = create_context();
        let mut scratch = Memory::new(threads as usize * scratch_bytes);
        set_scratch(context, scratch.at() as usize, scratch_bytes as u32);
        set_streams(context, streams);
        // SAFETY: no thread uses it yet. Giving way early keeps the test short on few cores.
        unsafe {
            (*(context as *mut Context)).spin = 50;
            (*(context as *mut Context)).idle_spin = 50;
        }
        let helpers: Vec<_> = (1..threads)
            .map(|_| thread::spawn(move || serve(context, join(context))))
            .collect();
        while joined(context) < threads - 1 {
            thread::yield_now();
        }
        Self {
            context,
            threads,
            scratch,
            helpers,
        }
    }

    pub fn run(&self, (words, ops): &(Vec<u32>, u32)) {
        let plan = words.as_ptr() as usize;
        run_plan(self.context, plan, *ops, self.threads, STAY);
        self.scratch.check_guard();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        dismiss(self.context, END);
        if thread::panicking() {
            return;
        }
        for helper in self.helpers.drain(..) {
            assert_eq!(helper.join().unwrap(), END);
        }
    }
}

extern "C" {
    fn mmap(
        at: *mut c_void,
        bytes: usize,
        access: i32,
        flags: i32,
        file: i32,
        from: i64,
    ) -> *mut c_void;
    fn munmap(at: *mut c_void, bytes: usize) -> i32;
}

/// Zeroed memory with 32-bit addresses, handed out from the front.
pub struct Low {
    base: usize,
    used: usize,
}

impl Low {
    const BYTES: usize = 4 << 20;

    pub fn new() -> Self {
        const READ_WRITE: i32 = 1 | 2;
        const PRIVATE_ANONYMOUS_32BIT: i32 = 0x02 | 0x20 | 0x40;
        let nowhere = core::ptr::null_mut();
        // SAFETY: maps fresh pages wherever there is room.
        let base = unsafe {
            mmap(
                nowhere,
                Self::BYTES,
                READ_WRITE,
                PRIVATE_ANONYMOUS_32BIT,
                -1,
                0,
            ) as usize
        };
        assert!(base + Self::BYTES <= 1 << 32, "no memory below 4 GiB");
        Self { base, used: 0 }
    }

    pub fn place<T: Copy>(&mut self, items: &[T]) -> *mut T {
        let at = (self.base + self.used) as *mut T;
        self.used += size_of_val(items).next_multiple_of(64);
        assert!(self.used <= Self::BYTES);
        // SAFETY: the range is mapped and not yet handed out.
        unsafe { core::ptr::copy_nonoverlapping(items.as_ptr(), at, items.len()) };
        at
    }
}

impl Drop for Low {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`; those who use it keep it.
        unsafe { munmap(self.base as *mut c_void, Self::BYTES) };
    }
}
