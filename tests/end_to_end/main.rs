//! End to end: the real SDK against the embedded store, and the real programs.

mod capture;
mod lambda;
mod laws;
mod replay;
mod runtime_api;
mod world;
