//! Properties that hold for any input: each target takes bytes, and panics if a property does not hold.
//!
//! `cargo test` runs the targets over the corpus and a short random walk from it. `.ci/fuzz SECONDS` runs a coverage-guided search for that
//! time, on the stable toolchain: `.ci/fuzz 3600` takes an hour for each target. It writes input that breaks a target to `target/fuzz`, and
//! `.ci/fuzz 0 TARGET FILE` runs that input again. Once the cause is fixed, move the file to `corpus/`, under a name that says what was wrong.
//!
//! In the seeds, event data contains the words and numbers of `MARKED`. No message may repeat one.

mod decode;
mod input;
pub mod mutate;
mod values;

/// A property that must hold for any bytes.
#[derive(Debug)]
pub struct Target {
    /// Its name, which is also the name of its folder in `corpus`.
    pub name: &'static str,
    /// Panics if the property does not hold for these bytes.
    pub check: fn(&[u8]),
}

/// All targets.
pub const TARGETS: [Target; 3] = [
    Target { name: "decode", check: decode::check },
    Target { name: "input", check: input::check },
    Target { name: "values", check: values::check },
];

/// Parts of the event data in the seeds: a message that contains one leaks event data.
const MARKED: [&str; 2] = ["swordfish", "47114711"];

/// Neither the message nor its sources contain event data.
fn tells_no_data(error: &dyn std::error::Error) {
    let told = std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ");
    assert!(!MARKED.iter().any(|word| told.contains(word)), "a message holds data: {told}");
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// Finds shallow bugs in a second or two for each target.
    const STEPS: u64 = 3_000;
    /// The longest input of a random walk: longer ones only cost time.
    const LEN_MAX: usize = 8 * 1024;

    fn corpus(target: &Target) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
        let mut seeds: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        seeds.sort();
        seeds.iter().map(|seed| fs::read(seed).unwrap()).collect()
    }

    /// Prints the input if the target panics.
    struct Told<'a>(&'a [u8]);

    impl Drop for Told<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("for {:?}", String::from_utf8_lossy(self.0));
            }
        }
    }

    fn check(target: &Target, bytes: &[u8]) {
        let told = Told(bytes);
        (target.check)(bytes);
        drop(told);
    }

    fn holds(name: &str) {
        let target = TARGETS.iter().find(|target| target.name == name).unwrap();
        let seeds = corpus(target);
        assert!(seeds.len() >= 5);
        for seed in &seeds {
            check(target, seed);
        }
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..STEPS {
            let mut bytes = random.choice(&seeds).expect("there are seeds").clone();
            for _ in 0..random.usize(1..5) {
                bytes = mutate::any(&bytes, &mut random);
            }
            bytes.truncate(LEN_MAX);
            check(target, &bytes);
        }
    }

    #[test]
    fn what_decodes_encodes_back_to_the_same_event() {
        holds("decode");
    }

    #[test]
    fn a_capture_reads_the_same_compressed_and_a_broken_line_breaks_alone() {
        holds("input");
    }

    #[test]
    fn numbers_values_and_timestamps_survive_their_text() {
        holds("values");
    }

    #[test]
    #[should_panic(expected = "a message holds data")]
    fn a_message_with_data_is_found() {
        tells_no_data(&std::io::Error::other("not a number: swordfish"));
    }
}
