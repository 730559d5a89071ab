//! Lambdas with projections that only the tests have: the test binary, started as one of its own tests.

use projection_vocabulary::Registry;
use tokio::process::Command;

use crate::support::{
    projections::{Panicking, STAYS_2},
    runtime_api::{Environment, Lambda, environment},
    world::World,
};

/// Does nothing as a test: [`panicking_worker`] starts it as a program.
#[test]
fn a_worker_whose_rule_panics() {
    if std::env::var("AWS_LAMBDA_RUNTIME_API").is_ok() {
        let _ = projection_worker::lambda::run(Registry::new(&[&Panicking]));
    }
}

/// Does nothing as a test: [`worker_of_the_new_rule`] starts it as a program.
#[test]
fn a_worker_of_the_new_rule() {
    if std::env::var("AWS_LAMBDA_RUNTIME_API").is_ok() {
        let _ = projection_worker::lambda::run(Registry::new(STAYS_2));
    }
}

/// A Lambda whose only rule is [`Panicking`].
pub async fn panicking_worker(environment: Environment) -> Lambda {
    start("a_worker_whose_rule_panics", environment, ("PANICKING_TABLE", "panicking")).await
}

/// A Lambda with the second revision of `stays`.
pub async fn worker_of_the_new_rule(world: &World) -> Lambda {
    start("a_worker_of_the_new_rule", environment(world).await, ("STAYS_TABLE", "stays")).await
}

async fn start(test: &str, mut environment: Environment, (variable, table): (&'static str, &str)) -> Lambda {
    environment.insert(variable, table.to_owned());
    let (_crate, module) = module_path!().split_once("::").expect("a module of this crate");
    let mut program = Command::new(std::env::current_exe().expect("this program"));
    program.args(["--exact", &format!("{module}::{test}"), "--nocapture"]);
    Lambda::start_program(program, environment).await
}
