//! The command line of this team.

fn main() -> std::process::ExitCode {
    projection_worker::cli::run(
        projection_vocabulary::Registry::new(inventory::ALL),
        projection_vocabulary::Deciders::NONE,
        inventory::SAMPLES,
    )
}
