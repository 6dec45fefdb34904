//! How threads meet: a barrier that spins briefly and then sleeps, and the hand-over of plans. A thread
//! that traps says so; one that dies without a word is missed by those who wait for it.

use core::sync::atomic::{AtomicU32, Ordering::*};

pub const MAX_THREADS: usize = 64;

/// A counter on a cache line of its own.
#[repr(C, align(64))]
#[derive(Default)]
pub struct Cursor(pub AtomicU32);

/// Shared by all threads of a backend; lives in the shared memory.
#[repr(C)]
pub struct Context {
    /// How many take part in the present plan.
    pub threads: u32,
    /// Polls of a flag before a thread sleeps: within a plan, and between plans.
    pub spin: u32,
    pub idle_spin: u32,
    /// Nanoseconds that a thread sleeps at a barrier before it looks whether the others still work.
    pub look: i64,
    pub scratch_bytes: u32,
    /// How decode kernels walk through memory, see `linear::Inputs`.
    pub streams: u32,
    /// Whether they multiply four bytes at once, see `dot::read_of_bytes`.
    pub quads: bool,
    pub scratch: *mut u8,
    /// The plan of the present generation; null tells the threads to leave at once.
    pub plan: *const u32,
    pub plan_ops: u32,
    /// Where the threads go when they are through with it: STAY, or what `serve` is to return.
    next: u32,
    /// Counts plans in its upper bits; the lowest eight say how many threads take part, so that a
    /// thread that has just come knows whether it is one of them.
    generation: Flag,
    /// Threads that have come, besides the one that starts plans.
    joined: AtomicU32,
    arrived: AtomicU32,
    phase: Flag,
    /// A thread has trapped: nobody may wait for it.
    failed: AtomicU32,
    /// There will be no plans any more.
    dismissed: AtomicU32,
    /// Tasks handed out of each thread's share, for each of an op's rounds.
    cursors: [[Cursor; MAX_THREADS]; 3],
    /// The generation that each thread has seen last, kept while it is away in another memory.
    seen: [AtomicU32; MAX_THREADS],
}

/// After the plan the threads wait for the next one here.
pub const STAY: u32 = u32::MAX;

/// Looks in a row that find nothing done after which a thread is taken for dead: 5 seconds, since on a
/// machine with more to do than processors a living one may not get its turn for one. A process that was
/// stopped for a while does not come near it: its first look is one, and then the others work again.
const PATIENCE: u32 = 25;

/// Which of an op's rounds of tasks.
#[derive(Clone, Copy)]
pub enum Round {
    Prepare = 0,
    Main = 1,
    Last = 2,
}

/// Hands out tasks: first a thread's own share, which is one run of neighbours, so that it reads memory
/// in sequence; then what is left of the others'.
pub struct Tasks<'a> {
    context: &'a Context,
    round: Round,
    count: usize,
    thread: usize,
    /// Shares that are used up, the own one first.
    done: usize,
}

impl Iterator for Tasks<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let threads = self.context.threads as usize;
        while self.done < threads {
            let owner = (self.thread + self.done) % threads;
            let start = owner * self.count / threads;
            let size = (owner + 1) * self.count / threads - start;
            let cursor = &self.context.cursors[self.round as usize][owner].0;
            // Looking first keeps the owner's cache line from being torn away for nothing.
            if (cursor.load(Relaxed) as usize) < size {
                let task = cursor.fetch_add(1, Relaxed) as usize;
                if task < size {
                    return Some(start + task);
                }
            }
            self.done += 1;
        }
        None
    }
}

/// A number that changes, and those who sleep until it does.
#[repr(C)]
pub struct Flag {
    value: AtomicU32,
    sleepers: AtomicU32,
}

impl Flag {
    pub const fn new() -> Self {
        Self {
            value: AtomicU32::new(0),
            sleepers: AtomicU32::new(0),
        }
    }

    pub fn get(&self) -> u32 {
        self.value.load(Acquire)
    }

    /// Returns once the value differs from `old`.
    pub fn wait_while(&self, old: u32, spin: u32) {
        self.watch_while(old, spin, (FOREVER, || ()));
    }

    /// As `wait_while`; calls `look` whenever it has slept for so many nanoseconds.
    fn watch_while(&self, old: u32, spin: u32, (each, mut look): (i64, impl FnMut())) {
        for _ in 0..spin {
            if self.value.load(Acquire) != old {
                return;
            }
            core::hint::spin_loop();
        }
        self.sleepers.fetch_add(1, SeqCst);
        while self.value.load(SeqCst) == old {
            if sleep(&self.value, old, each) == Woken::ByTime {
                look();
            }
        }
        self.sleepers.fetch_sub(1, SeqCst);
    }

    pub fn advance(&self) {
        self.set(self.get().wrapping_add(1));
    }

    fn set(&self, value: u32) {
        self.value.store(value, SeqCst);
        if self.sleepers.load(SeqCst) > 0 {
            wake(&self.value);
        }
    }
}

impl Default for Flag {
    fn default() -> Self {
        Self::new()
    }
}

/// A time to sleep that does not end.
const FOREVER: i64 = -1;

/// What ends a sleep.
#[derive(PartialEq)]
enum Woken {
    ByTime,
    /// The value has changed, or may have.
    ByValue,
}

#[cfg(target_arch = "wasm32")]
fn sleep(value: &AtomicU32, old: u32, nanoseconds: i64) -> Woken {
    use core::arch::wasm32::memory_atomic_wait32;
    const TIMED_OUT: i32 = 2;
    // SAFETY: the address is an aligned word of the shared memory.
    match unsafe { memory_atomic_wait32(value.as_ptr() as *mut i32, old as i32, nanoseconds) } {
        TIMED_OUT => Woken::ByTime,
        _ => Woken::ByValue,
    }
}

#[cfg(target_arch = "wasm32")]
fn wake(value: &AtomicU32) {
    // SAFETY: as for `sleep`.
    unsafe { core::arch::wasm32::memory_atomic_notify(value.as_ptr() as *mut i32, u32::MAX) };
}

#[cfg(not(target_arch = "wasm32"))]
fn sleep(value: &AtomicU32, old: u32, nanoseconds: i64) -> Woken {
    let start = std::time::Instant::now();
    while value.load(SeqCst) == old {
        if nanoseconds >= 0 && start.elapsed().as_nanos() >= nanoseconds as u128 {
            return Woken::ByTime;
        }
        std::thread::yield_now();
    }
    Woken::ByValue
}

#[cfg(not(target_arch = "wasm32"))]
fn wake(_value: &AtomicU32) {}

impl Default for Context {
    fn default() -> Self {
        Self::new()
    }
}

impl Context {
    pub fn new() -> Self {
        Self {
            threads: 1,
            spin: 6000,
            idle_spin: 100000,
            look: 200_000_000,
            scratch_bytes: 0,
            streams: 1,
            quads: crate::dot::read_of_bytes() != crate::dot::ReadOfBytes::Pieces,
            scratch: core::ptr::null_mut(),
            plan: core::ptr::null(),
            plan_ops: 0,
            next: STAY,
            generation: Flag::new(),
            joined: AtomicU32::new(0),
            arrived: AtomicU32::new(0),
            phase: Flag::new(),
            failed: AtomicU32::new(0),
            dismissed: AtomicU32::new(0),
            cursors: core::array::from_fn(|_| core::array::from_fn(|_| Cursor::default())),
            seen: [const { AtomicU32::new(0) }; MAX_THREADS],
        }
    }

    /// Calls the first `threads` threads, this one included, to the plan that has been set; after it
    /// the others go on to `next`.
    pub fn start(&mut self, threads: u32, next: u32) {
        self.threads = threads;
        self.next = next;
        if threads > 1 {
            self.call();
        }
    }

    pub fn joined(&self) -> u32 {
        self.joined.load(SeqCst)
    }

    /// Tells the other threads to leave with `code`, those too that are yet to come. No plan may be
    /// running but one that has failed.
    pub fn dismiss(&mut self, code: u32) {
        self.plan = core::ptr::null();
        self.next = code;
        self.dismissed.store(1, SeqCst);
        self.call();
    }

    fn call(&self) {
        let count = (self.generation.get() >> 8).wrapping_add(1);
        self.generation.set(count << 8 | self.threads);
    }

    /// Joins as one of the threads; returns its number.
    pub fn join(&self) -> u32 {
        // Read before joining: the first plan that counts on this thread comes after.
        let seen = self.generation.get();
        let thread = 1 + self.joined.fetch_add(1, SeqCst);
        self.seen[thread as usize].store(seen, Relaxed);
        thread
    }

    /// Calls `work` for each plan that the thread is to take part in, until one sends the threads
    /// elsewhere; returns where.
    pub fn serve(&self, thread: u32, mut work: impl FnMut()) -> u32 {
        let seen = &self.seen[thread as usize];
        loop {
            if self.dismissed.load(SeqCst) != 0 {
                return self.next;
            }
            self.generation
                .wait_while(seen.load(Relaxed), self.idle_spin);
            let generation = self.generation.get();
            seen.store(generation, Relaxed);
            // Read before the plan's last barrier, after which both may change.
            let next = self.next;
            if self.plan.is_null() {
                return next;
            }
            if thread < generation & 0xff {
                work();
                if next != STAY {
                    return next;
                }
            }
        }
    }

    /// Tasks 0..count of this op's round, shared by all threads.
    pub fn tasks(&self, round: Round, count: usize, thread: u32) -> Tasks<'_> {
        Tasks {
            context: self,
            round,
            count,
            thread: thread as usize,
            done: 0,
        }
    }

    /// Ends an op: the tasks of the next one start anew.
    pub fn end_op(&self) {
        self.barrier(|| {
            for round in &self.cursors {
                for cursor in &round[..self.threads as usize] {
                    cursor.0.store(0, Relaxed);
                }
            }
        });
    }

    /// This thread's own scratch memory.
    pub fn scratch_of(&self, thread: u32) -> *mut u8 {
        self.scratch
            .wrapping_add((thread * self.scratch_bytes) as usize)
    }

    /// Returns once all threads have come here; the last one runs `last` before any goes on. Panics
    /// where a thread has failed, or has done nothing for so long that it must be dead.
    pub fn barrier(&self, last: impl FnOnce()) {
        if self.threads == 1 {
            last();
            return;
        }
        let phase = self.phase.get();
        // After the phase: a failure that is not seen here is yet to advance it.
        self.check_failure();
        if self.arrived.fetch_add(1, AcqRel) + 1 == self.threads {
            last();
            self.arrived.store(0, Release);
            self.phase.advance();
        } else {
            let (mut seen, mut looks) = (None, 0);
            let look = || {
                let done = Some(self.done());
                looks = if done == seen { looks + 1 } else { 0 };
                seen = done;
                if looks == PATIENCE {
                    self.fail();
                }
            };
            self.phase.watch_while(phase, self.spin, (self.look, look));
        }
        self.check_failure();
    }

    /// A number that changes whenever a thread takes a task or comes to a barrier.
    fn done(&self) -> u32 {
        let threads = self.threads as usize;
        let cursors = self.cursors.iter().flat_map(|round| &round[..threads]);
        let arrived = self.arrived.load(SeqCst);
        cursors.fold(arrived, |sum, cursor| {
            sum.wrapping_add(cursor.0.load(SeqCst))
        })
    }

    fn check_failure(&self) {
        assert!(self.failed.load(SeqCst) == 0, "another thread failed");
    }

    /// Says that a thread has trapped, and lets those who wait for it trap as well.
    pub fn fail(&self) {
        self.failed.store(1, SeqCst);
        self.phase.advance();
    }

    /// What a thread that has died looks like to the others, until they have missed it.
    pub fn vanish(&self) -> ! {
        let word = AtomicU32::new(0);
        while self.failed.load(SeqCst) == 0 {
            sleep(&word, 0, self.look);
        }
        panic!("a thread has been missed");
    }
}
