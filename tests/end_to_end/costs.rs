//! What fixed batches and operations cost, exactly: requests and units here, instructions in `instructions`. A change that costs more
//! fails; one that costs less is written down here, and in the tables of `infra/README.md` and `benches/README.md`.

mod counts;
mod instructions;
