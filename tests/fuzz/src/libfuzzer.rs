//! The entry points of libFuzzer. `TARGET` names the target; half of the new inputs are changed as JSON, the others as bytes.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

fuzz_target!(|bytes: &[u8]| {
    static TARGET: OnceLock<&fuzz::Target> = OnceLock::new();
    let target = TARGET.get_or_init(|| {
        let name = std::env::var("TARGET").expect("TARGET names a target");
        fuzz::TARGETS.iter().find(|target| target.name == name).expect("TARGET is the name of a target")
    });
    (target.check)(bytes);
});

fuzz_mutator!(|bytes: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let changed = seed.is_multiple_of(2).then(|| fuzz::mutate::json(&bytes[..size], &mut fastrand::Rng::with_seed(seed.into()))).flatten();
    match changed.filter(|changed| changed.len() <= max_size) {
        Some(changed) => {
            bytes[..changed.len()].copy_from_slice(&changed);
            changed.len()
        }
        None => fuzzer_mutate(bytes, size, max_size),
    }
});
