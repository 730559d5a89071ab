//! The source of all randomness in a run: a seed, or a list of choices to repeat or shrink.

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

    /// These choices. After the last one, and instead of an impossible one, it makes the plainest choice.
    #[must_use]
    pub fn of_list(list: Vec<u32>) -> Self {
        Self { source: Source::List(list), made: Vec::new() }
    }

    /// The choices made so far.
    #[must_use]
    pub fn made(&self) -> &[u32] {
        &self.made
    }

    /// A number below `bound`. 0 is the plainest: shrinking moves towards it.
    ///
    /// # Panics
    /// If `bound` is 0.
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

    /// True in this number of 1,000 cases. False is plainer.
    pub fn per_mille(&mut self, share: usize) -> bool {
        share > 0 && self.below(1_000) >= 1_000 - share
    }

    /// One of the weighted options. The first is the plainest, and an option of weight 0 is never chosen.
    ///
    /// # Panics
    /// If all weights are 0.
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
