//! End to end: the real SDK against the embedded store, and the real programs.

mod laws;
mod world;
