//! The Lambda function of this team.

fn main() -> std::process::ExitCode {
    projection_worker::lambda::run(projection_vocabulary::Registry::new(inventory::ALL))
}
