//! Shrinks a failing run to the shortest failing run near it.

use crate::{choices::Choices, run::run};

/// The number of runs to try. Each takes a few milliseconds.
const TRIES_MAX: usize = 4_000;

/// Reduces the choices of a failing run as long as it still fails, for whatever reason.
#[must_use]
pub fn shrink(made: Vec<u32>) -> Vec<u32> {
    let mut best = made;
    let mut tries = 0;
    let mut fails = |choices: &[u32]| {
        tries += 1;
        tries <= TRIES_MAX && run(Choices::of_list(choices.to_vec()), false).failure.is_some()
    };
    loop {
        let before = best.clone();
        for size in [256, 64, 16, 4, 1] {
            let mut at = best.len();
            while at > 0 {
                let from = at.saturating_sub(size);
                let without: Vec<_> = best[..from].iter().chain(&best[at..]).copied().collect();
                let mut plain = best.clone();
                plain[from..at].fill(0);
                if fails(&without) {
                    best = without;
                } else if plain != best && fails(&plain) {
                    best = plain;
                }
                at = from.min(best.len());
            }
        }
        for at in 0..best.len() {
            for smaller in [best[at] / 2, best[at].saturating_sub(1)] {
                let mut less = best.clone();
                less[at] = smaller;
                if smaller < best[at] && fails(&less) {
                    best = less;
                }
            }
        }
        // The default choices at the end need no list.
        while best.last() == Some(&0) {
            best.pop();
        }
        if best == before {
            return best;
        }
    }
}
