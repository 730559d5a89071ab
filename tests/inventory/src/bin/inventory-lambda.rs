//! The Lambda of this team.

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    projection_worker::lambda::run(projection_vocabulary::Registry::new(inventory::ALL)).await
}
