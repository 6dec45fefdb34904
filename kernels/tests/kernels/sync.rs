use std::sync::atomic::{AtomicU32, Ordering::*};
use std::thread;
use std::time::{Duration, Instant};

use sluice_kernels::sync::{Context, Round, STAY};

/// A context that the threads of a test share by reference.
struct Shared(Context);

// SAFETY: the fields that are not atomic are set before the threads start; this is how wasm threads
// share it.
unsafe impl Sync for Shared {}

fn shared(threads: u32) -> Shared {
    let mut context = Context::new();
    context.threads = threads;
    // There may be fewer cores than threads: giving way early keeps the tests short.
    context.spin = 50;
    Shared(context)
}

/// Runs `work` on `threads` threads, each with its number.
fn on_threads(shared: &Shared, work: impl Fn(&Context, u32) + Sync) {
    thread::scope(|scope| {
        for thread in 0..shared.0.threads {
            let work = &work;
            scope.spawn(move || work(&shared.0, thread));
        }
    });
}

const ROUNDS: [Round; 3] = [Round::Prepare, Round::Main, Round::Last];

#[test]
fn every_task_is_handed_out_exactly_once() {
    for threads in 1..=4 {
        let shared = shared(threads);
        // Few tasks an op, so that threads meet at the ends of their shares again and again.
        let counts: Vec<usize> = (0..2000).map(|op| op * 7 % 23).chain([1000]).collect();
        // One more than there are: nobody may take it.
        let taken: Vec<[Vec<AtomicU32>; 3]> = counts
            .iter()
            .map(|&n| [0; 3].map(|_| (0..=n).map(|_| AtomicU32::new(0)).collect()))
            .collect();
        on_threads(&shared, |context, thread| {
            for (&count, taken) in counts.iter().zip(&taken) {
                for (round, taken) in ROUNDS.into_iter().zip(taken) {
                    for task in context.tasks(round, count, thread) {
                        taken[task.min(count)].fetch_add(1, Relaxed);
                    }
                }
                context.end_op();
            }
        });
        for (&count, taken) in counts.iter().zip(&taken) {
            for taken in taken {
                let times: Vec<u32> = taken.iter().map(|t| t.load(Relaxed)).collect();
                assert!(times[..count].iter().all(|&n| n == 1), "{times:?}");
                assert_eq!(times[count], 0, "{threads} threads");
            }
        }
    }
}

#[test]
fn a_thread_alone_gets_the_others_shares_too() {
    let shared = shared(3);
    let mut tasks: Vec<usize> = shared.0.tasks(Round::Main, 10, 1).collect();
    // Its own run of neighbours comes first.
    assert_eq!(tasks[..3], [3, 4, 5]);
    tasks.sort();
    assert_eq!(tasks, (0..10).collect::<Vec<_>>());
    assert_eq!(shared.0.tasks(Round::Main, 10, 0).count(), 0);
}

#[test]
fn a_barrier_lets_no_thread_on_before_all_have_come() {
    const ROUNDS: u32 = 1000;
    for threads in 1..=4u32 {
        let shared = shared(threads);
        let reached: Vec<AtomicU32> = (0..threads).map(|_| AtomicU32::new(0)).collect();
        let lasts = AtomicU32::new(0);
        // Counted, since a thread that panicked would leave the others waiting.
        let violations = AtomicU32::new(0);
        let must = |holds: bool| {
            violations.fetch_add(!holds as u32, Relaxed);
        };
        on_threads(&shared, |context, thread| {
            for round in 1..=ROUNDS {
                reached[thread as usize].store(round, Relaxed);
                context.barrier(|| {
                    must(reached.iter().all(|r| r.load(Relaxed) == round));
                    lasts.fetch_add(1, Relaxed);
                });
                must(lasts.load(Relaxed) == round);
                // Others may have gone on, but none past the next barrier.
                for reached in &reached {
                    must([round, round + 1].contains(&reached.load(Relaxed)));
                }
            }
        });
        assert_eq!(violations.load(Relaxed), 0, "{threads} threads");
        assert_eq!(lasts.load(Relaxed), ROUNDS, "{threads} threads");
    }
}

#[test]
fn threads_have_scratch_memory_of_their_own() {
    let mut context = Context::new();
    let mut memory = [0u8; 300];
    context.scratch = memory.as_mut_ptr();
    context.scratch_bytes = 100;
    for thread in 0..3 {
        let at = context.scratch_of(thread) as usize - memory.as_ptr() as usize;
        assert_eq!(at, 100 * thread as usize);
    }
}

#[test]
fn a_failed_thread_stops_those_who_wait_and_those_who_come_later() {
    for late in [false, true] {
        // Neither is ever freed: were the test to fail, the thread would still use them.
        let shared: &'static Shared = Box::leak(Box::new(shared(2)));
        if late {
            shared.0.fail();
        }
        let waiting = thread::spawn(|| shared.0.barrier(|| ()));
        if !late {
            thread::sleep(Duration::from_millis(20));
            shared.0.fail();
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while !waiting.is_finished() {
            assert!(Instant::now() < deadline, "still waits, late: {late}");
            thread::sleep(Duration::from_millis(1));
        }
        assert!(waiting.join().is_err());
    }
}

#[test]
fn a_thread_that_never_comes_is_missed_by_those_who_wait() {
    let mut context = shared(2);
    context.0.look = 10_000_000;
    // Never freed, as above.
    let shared: &'static Shared = Box::leak(Box::new(context));
    let waiting = thread::spawn(|| shared.0.barrier(|| ()));
    let deadline = Instant::now() + Duration::from_secs(10);
    while !waiting.is_finished() {
        assert!(Instant::now() < deadline, "still waits");
        thread::sleep(Duration::from_millis(1));
    }
    assert!(waiting.join().is_err());
}

#[test]
fn a_thread_that_works_for_long_is_waited_for_as_long_as_it_takes_tasks() {
    let mut context = shared(2);
    context.0.look = 20_000_000;
    let started = Instant::now();
    on_threads(&context, |context, thread| {
        if thread == 1 {
            for _ in context.tasks(Round::Main, 40, thread) {
                thread::sleep(Duration::from_millis(40));
            }
        }
        context.end_op();
    });
    // Far longer than a thread is waited for that does nothing.
    assert!(started.elapsed() > Duration::from_millis(1500));
}

#[test]
fn threads_that_come_late_take_part_from_the_next_plan_on() {
    for _ in 0..20 {
        let at = sluice_kernels::create_context();
        // SAFETY: made for this; only `start` and `dismiss` change it, while no thread works.
        let context = || unsafe { &mut *(at as *mut Context) };
        context().plan = [0u32].as_ptr();
        let plans: &'static AtomicU32 = Box::leak(Box::new(AtomicU32::new(0)));
        let mut helpers = Vec::new();
        let mut wanted = 0;
        for round in 0..200 {
            if round % 50 == 10 {
                helpers.push(thread::spawn(move || {
                    // SAFETY: as above.
                    let context = unsafe { &*(at as *const Context) };
                    let left = context.serve(context.join(), || {
                        plans.fetch_add(1, SeqCst);
                        context.barrier(|| ());
                    });
                    assert_eq!(left, 7);
                }));
            }
            let threads = 1 + context().joined();
            context().start(threads, STAY);
            wanted += threads - 1;
            context().barrier(|| ());
            assert_eq!(plans.load(SeqCst), wanted, "round {round}");
        }
        while context().joined() < 4 {
            thread::yield_now();
        }
        context().start(5, STAY);
        context().barrier(|| ());
        context().dismiss(7);
        for helper in helpers {
            helper.join().unwrap();
        }
    }
}

#[test]
fn a_thread_that_comes_after_the_end_leaves() {
    let at = sluice_kernels::create_context();
    // SAFETY: made for this; no thread uses it yet.
    unsafe { (*(at as *mut Context)).dismiss(7) };
    let late = thread::spawn(move || {
        // SAFETY: as above.
        let context = unsafe { &*(at as *const Context) };
        context.serve(context.join(), || unreachable!())
    });
    let deadline = Instant::now() + Duration::from_secs(10);
    while !late.is_finished() {
        assert!(Instant::now() < deadline, "still waits");
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(late.join().unwrap(), 7);
}

/// Contexts of two memories that threads move between, and how often each thread worked in each.
struct Places {
    contexts: [usize; 2],
    worked: [[AtomicU32; 4]; 2],
}

/// What tells the threads of the test below to end.
const END: u32 = 9;

impl Places {
    fn new() -> &'static Self {
        let places = Self {
            contexts: [0; 2].map(|_| {
                let at = sluice_kernels::create_context();
                // SAFETY: made for this; no thread uses it yet. There may be fewer cores than threads.
                unsafe {
                    (*(at as *mut Context)).spin = 50;
                    (*(at as *mut Context)).idle_spin = 50;
                    (*(at as *mut Context)).plan = [0u32].as_ptr();
                }
                at
            }),
            worked: [0; 2].map(|_| [0; 4].map(|_| AtomicU32::new(0))),
        };
        Box::leak(Box::new(places))
    }

    fn context(&self, place: usize) -> &Context {
        // SAFETY: made by `new`.
        unsafe { &*(self.contexts[place] as *const Context) }
    }

    /// A thread that joins in the first context and goes where it is sent.
    fn spawn(&'static self) -> thread::JoinHandle<()> {
        thread::spawn(move || {
            let number = self.context(0).join();
            let mut place = 0;
            while place != END {
                let context = self.context(place as usize);
                let worked = &self.worked[place as usize][number as usize];
                place = context.serve(number, || {
                    worked.fetch_add(1, SeqCst);
                    context.barrier(|| ());
                });
            }
        })
    }

    /// Runs a plan in one context, from which the threads go on to the other or stay.
    fn run(&self, place: usize, threads: u32, next: u32) {
        // SAFETY: no plan is running.
        unsafe { (*(self.contexts[place] as *mut Context)).start(threads, next) };
        self.context(place).barrier(|| ());
    }

    fn times(&self, place: usize) -> [u32; 4] {
        [0, 1, 2, 3].map(|number| self.worked[place][number].load(SeqCst))
    }
}

#[test]
fn threads_go_to_another_memory_and_back_and_a_late_one_waits_to_be_counted() {
    const STEPS: u32 = 100;
    for _ in 0..10 {
        let places = Places::new();
        let mut helpers = vec![places.spawn(), places.spawn()];
        while places.context(0).joined() < 2 {
            thread::yield_now();
        }
        // Each step has a plan in the first memory, two in the second, and one in the first again.
        let step = |threads: u32| {
            places.run(0, threads, 1);
            places.run(1, threads, STAY);
            places.run(1, threads, 0);
            places.run(0, threads, STAY);
        };
        for round in 0..STEPS {
            if round == 20 {
                helpers.push(places.spawn());
            }
            step(3);
        }
        while places.context(0).joined() < 3 {
            thread::yield_now();
        }
        for place in 0..2 {
            let each = 2 * STEPS;
            assert_eq!(places.times(place), [0, each, each, 0], "memory {place}");
        }
        for _ in 0..STEPS {
            step(4);
        }
        for place in 0..2 {
            let each = 4 * STEPS;
            let late = 2 * STEPS;
            assert_eq!(places.times(place), [0, each, each, late], "memory {place}");
        }
        // Fewer threads than there are: those left out stay where they are.
        for _ in 0..STEPS {
            step(2);
        }
        assert_eq!(places.times(1), [0, 6 * STEPS, 4 * STEPS, 2 * STEPS]);
        step(4);
        assert_eq!(places.times(0)[3], 2 * STEPS + 2);
        // SAFETY: no plan is running.
        unsafe { (*(places.contexts[0] as *mut Context)).dismiss(END) };
        for helper in helpers {
            helper.join().unwrap();
        }
    }
}

#[test]
fn a_plan_for_one_thread_calls_nobody() {
    let places = Places::new();
    let helper = places.spawn();
    while places.context(0).joined() < 1 {
        thread::yield_now();
    }
    for _ in 0..100 {
        places.run(0, 1, 1);
        places.run(1, 1, 0);
    }
    places.run(0, 2, STAY);
    assert_eq!([places.times(0), places.times(1)], [[0, 1, 0, 0], [0; 4]]);
    // SAFETY: no plan is running.
    unsafe { (*(places.contexts[0] as *mut Context)).dismiss(END) };
    helper.join().unwrap();
}
