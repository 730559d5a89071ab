//! End to end: the real SDK against the embedded store, and the real programs.

mod capture;
mod laws;
mod replay;
mod world;
