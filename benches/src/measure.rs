//! The harness: what a piece of work costs this process.

use std::time::{Duration, Instant};

use cpu_time::ThreadTime;
use projection_worker::Usage;

/// What a piece of work has cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Time on the clock.
    pub wall: Duration,
    /// Time on a processor.
    pub cpu: Duration,
    /// Allocations on the heap.
    pub allocations: u64,
    /// The most bytes on the heap at once, above those before the work.
    pub peak_bytes: u64,
}

/// Does the work and measures it. It counts for this thread alone, so the work must stay on it.
pub fn measure<T>(work: impl FnOnce() -> T) -> (T, Cost) {
    let (mut done, mut cost) = (None, Cost::default());
    let heap = allocation_counter::measure(|| {
        let (wall, cpu) = (Instant::now(), ThreadTime::now());
        done = Some(work());
        cost = Cost { wall: wall.elapsed(), cpu: cpu.elapsed(), ..cost };
    });
    (done.expect("it was done"), Cost { allocations: heap.count_total, peak_bytes: heap.bytes_max, ..cost })
}

/// Does the work some times, on new input each time, and returns the cost of the fastest: a busy machine only ever adds time.
pub fn best<I, T>(times: usize, mut input: impl FnMut() -> I, mut work: impl FnMut(I) -> T) -> Cost {
    let costs = (0..times).map(|_| {
        let input = input();
        measure(|| std::hint::black_box(work(input))).1
    });
    costs.min_by_key(|cost| cost.cpu).expect("at least once")
}

/// One thread, as a Lambda with less than 1,769 MB has at most one processor. Everything stays on it, and so is measured.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Waits for a future on a thread of its own, and measures it.
pub fn measure_async<T>(runtime: &tokio::runtime::Runtime, work: impl Future<Output = T>) -> (T, Cost) {
    measure(|| runtime.block_on(work))
}

/// A ratio of times.
pub fn times(one: Duration, other: Duration) -> String {
    format!("{:.2}", one.as_secs_f64() / other.as_secs_f64())
}

/// Microseconds for each of these.
pub fn us_each(time: Duration, count: usize) -> String {
    format!("{:.1}", per(time.as_secs_f64() * 1e6, count))
}

/// How many of these a second.
pub fn a_second(time: Duration, count: usize) -> f64 {
    let count = count as f64;
    count / time.as_secs_f64()
}

/// A quantity for each of these.
pub fn per(quantity: f64, count: usize) -> f64 {
    let count = count as f64;
    quantity / count
}

/// Requests, write units and read units for each event.
pub fn usage_each(usage: Usage, events: usize) -> [String; 3] {
    let requests = usage.requests as f64;
    [requests, usage.write_units, usage.read_units].map(|quantity| format!("{:.3}", per(quantity, events)))
}

/// Megabytes, as DynamoDB and Lambda count them.
pub fn mb(bytes: u64) -> String {
    let bytes = bytes as f64;
    format!("{:.1}", bytes / f64::from(1 << 20))
}
