//! Where all that is random in a run comes from: a seed, or a list of choices that is to be repeated or cut down.

/// A source of choices, and a record of them.
pub struct Choices {
    source: Source,
    made: Vec<u32>,
}

enum Source {
    Seed(fastrand::Rng),
    List(Vec<u32>),
}

impl Choices {
    /// Choices of this seed.
    #[must_use]
    pub fn of_seed(seed: u64) -> Self {
        Self { source: Source::Seed(fastrand::Rng::with_seed(seed)), made: Vec::new() }
    }

    /// These choices; after the last, and in place of one that is not possible, the plainest one.
    #[must_use]
    pub fn of_list(list: Vec<u32>) -> Self {
        Self { source: Source::List(list), made: Vec::new() }
    }

    /// The choices made so far.
    #[must_use]
    pub fn made(&self) -> &[u32] {
        &self.made
    }

    /// One of so many, of which 0 is the plainest: shrinking goes towards it.
    ///
    /// # Panics
    /// If there is nothing to choose from.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = u32::try_from(bound).expect("few things to choose from");
        assert!(bound > 0, "nothing to choose from");
        let choice = match &mut self.source {
            Source::Seed(random) => random.u32(..bound),
            Source::List(list) => list.get(self.made.len()).copied().filter(|choice| *choice < bound).unwrap_or(0),
        };
        self.made.push(choice);
        choice as usize
    }

    /// Yes in so many of 1,000 cases; no is plainer.
    pub fn per_mille(&mut self, share: usize) -> bool {
        share > 0 && self.below(1_000) >= 1_000 - share
    }

    /// One of the things with a weight; the first is the plainest. Those of weight 0 are never chosen.
    ///
    /// # Panics
    /// If nothing has a weight.
    pub fn weighted<T: Copy>(&mut self, things: &[(usize, T)]) -> T {
        let mut at = self.below(things.iter().map(|(weight, _)| weight).sum());
        for (weight, thing) in things {
            if at < *weight {
                return *thing;
            }
            at -= weight;
        }
        unreachable!("the choice is below the sum of the weights")
    }
}
