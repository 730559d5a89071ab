//! Lambda as the worker's process sees it: environment variables, and the Runtime API on a port of its own
//! (<https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>).

use std::{
    collections::BTreeMap,
    future::pending,
    process::{Output, Stdio},
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    response::{AppendHeaders, IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value as Json, json, value::RawValue};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    net::TcpListener,
    process::{Child, Command},
    sync::{
        Mutex,
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
        oneshot,
    },
    task::{JoinHandle, JoinSet},
};

use crate::support::world::World;

/// The time of an invocation unless a test states another, and how long a test waits before it fails.
pub const PLENTY: Duration = Duration::from_mins(1);

/// The environment of the worker's process, by variable. It sees no other variable.
pub type Environment = BTreeMap<&'static str, String>;

/// The answer of an invocation.
#[derive(Debug, PartialEq)]
pub enum Answer {
    /// What the handler returned.
    Response(String),
    /// A function error.
    Error(String),
}

/// One process of the worker. Dropping it ends the process.
pub struct Lambda {
    /// X-Ray's header for the following invocations.
    pub trace: Option<String>,
    process: Child,
    stdout: JoinHandle<Vec<u8>>,
    stderr: JoinHandle<Vec<u8>>,
    invocations: UnboundedSender<Invocation>,
    answers: UnboundedReceiver<(String, Answer)>,
    invoked: u32,
    /// The Runtime API, served as long as this value lives.
    _api: JoinSet<std::io::Result<()>>,
}

struct Invocation {
    request_id: String,
    deadline: SystemTime,
    payload: String,
    trace: Option<String>,
    taken: oneshot::Sender<()>,
}

struct Service {
    invocations: Mutex<UnboundedReceiver<Invocation>>,
    answers: UnboundedSender<(String, Answer)>,
}

/// The variables set by the function's configuration and by Lambda, with the world's database as DynamoDB.
pub async fn environment(world: &World) -> Environment {
    environment_at(&world.serve().await)
}

/// Same, with DynamoDB at this address.
pub fn environment_at(dynamodb: &str) -> Environment {
    let variables = [
        ("EVENT_STORE_TABLE", "event-store"),
        ("PARKED_TABLE", "parked"),
        ("ACCOUNT_SUMMARY_TABLE", "account-summary"),
        ("ACCOUNT_STATEMENT_TABLE", "account-statement"),
        ("FORUM_COUNTERS_TABLE", "forum-counters"),
        ("TOPIC_POSTS_TABLE", "topic-posts"),
        ("USERS_AND_ORDERS_TABLE", "users-and-orders"),
        ("TRANSFERS_TABLE", "transfers"),
        ("ORDER_FULFILMENT_TABLE", "order-fulfilment"),
        ("PROCESS_STATUS_TABLE", "process-status"),
        ("AWS_ENDPOINT_URL_DYNAMODB", dynamodb),
        ("AWS_REGION", "eu-central-1"),
        ("AWS_ACCESS_KEY_ID", "id"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_SESSION_TOKEN", "token"),
        ("AWS_LAMBDA_FUNCTION_NAME", "projection-worker"),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
    ];
    variables.map(|(name, value)| (name, value.to_owned())).into()
}

impl Lambda {
    /// Starts the deployed program on the world's database.
    pub async fn start(world: &World) -> Self {
        Self::start_in(environment(world).await).await
    }

    /// Starts the deployed program in this environment.
    pub async fn start_in(environment: Environment) -> Self {
        Self::start_program(Command::new(env!("CARGO_BIN_EXE_lambda")), environment).await
    }

    /// Starts another program that serves Lambda.
    pub async fn start_program(mut program: Command, environment: Environment) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let (invocations, received) = unbounded_channel();
        let (answered, answers) = unbounded_channel();
        let service = Arc::new(Service { invocations: Mutex::new(received), answers: answered });
        let api = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{id}/response", post(response))
            .route("/2018-06-01/runtime/invocation/{id}/error", post(error))
            .with_state(service);
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, api).await });
        let mut process = program
            .env_clear()
            .envs(environment)
            .env("AWS_LAMBDA_RUNTIME_API", address)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the program starts");
        let stdout = tokio::spawn(read(process.stdout.take().expect("piped")));
        let stderr = tokio::spawn(read(process.stderr.take().expect("piped")));
        Self { trace: None, process, stdout, stderr, invocations, answers, invoked: 0, _api: serving }
    }

    /// Invokes the function with plenty of time.
    pub async fn invoke(&mut self, payload: impl Into<String>) -> Answer {
        self.invoke_until(SystemTime::now() + PLENTY, payload).await
    }

    /// Invokes the function with a deadline. Lambda would end the process then; here it continues.
    pub async fn invoke_until(&mut self, deadline: SystemTime, payload: impl Into<String>) -> Answer {
        self.invoke_or_kill(deadline, payload, pending()).await.expect("no moment comes")
    }

    /// Invokes the function, and kills its process when `moment` completes, counted from when it took the invocation. `None`: it was
    /// killed before it answered.
    pub async fn invoke_or_kill(
        &mut self,
        deadline: SystemTime,
        payload: impl Into<String>,
        moment: impl Future<Output = ()>,
    ) -> Option<Answer> {
        self.invoked += 1;
        let request_id = format!("request-{}", self.invoked);
        let (taken, is_taken) = oneshot::channel();
        let invocation = Invocation { request_id: request_id.clone(), deadline, payload: payload.into(), trace: self.trace.clone(), taken };
        self.invocations.send(invocation).unwrap_or_else(|_| panic!("the Runtime API is served as long as the test runs"));
        let moment = async {
            is_taken.await.expect("the Runtime API is served as long as the test runs");
            moment.await;
        };
        let end = async {
            tokio::select! {
                answer = self.answers.recv() => Some(answer.expect("the Runtime API is served as long as the test runs")),
                () = moment => None,
                status = self.process.wait() => panic!("the process ended: {status:?}"),
            }
        };
        let Some((answered, answer)) = tokio::time::timeout(PLENTY, end).await.expect("an answer") else {
            self.process.kill().await.expect("it still runs");
            return None;
        };
        assert_eq!(answered, request_id);
        Some(answer)
    }

    /// Kills the process and returns its output.
    pub async fn stop(mut self) -> Output {
        self.process.start_kill().expect("it still runs");
        self.ended().await
    }

    /// Waits until the process ends on its own.
    pub async fn ended(mut self) -> Output {
        let status = tokio::time::timeout(PLENTY, self.process.wait()).await.expect("it ends").expect("its status");
        Output { status, stdout: self.stdout.await.expect("read"), stderr: self.stderr.await.expect("read") }
    }
}

/// Reads while the process writes; otherwise it would block once the pipe is full.
async fn read(mut pipe: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut bytes = Vec::new();
    pipe.read_to_end(&mut bytes).await.expect("a pipe");
    bytes
}

async fn next(State(service): State<Arc<Service>>) -> Response {
    let Some(Invocation { request_id, deadline, payload, trace, taken }) = service.invocations.lock().await.recv().await else {
        return StatusCode::GONE.into_response();
    };
    let deadline_ms = deadline.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_millis().to_string();
    let mut headers = vec![
        ("lambda-runtime-aws-request-id", request_id),
        ("lambda-runtime-deadline-ms", deadline_ms),
        ("lambda-runtime-invoked-function-arn", "arn:aws:lambda:eu-central-1:123456789012:function:projection-worker".to_owned()),
        ("content-type", "application/json".to_owned()),
    ];
    headers.extend(trace.map(|trace| ("lambda-runtime-trace-id", trace)));
    // The test may no longer be waiting.
    let _ = taken.send(());
    (AppendHeaders(headers), payload).into_response()
}

async fn response(service: State<Arc<Service>>, id: Path<String>, body: String) -> StatusCode {
    answered(&service, id, Answer::Response(body))
}

async fn error(service: State<Arc<Service>>, id: Path<String>, body: String) -> StatusCode {
    answered(&service, id, Answer::Error(body))
}

fn answered(service: &Service, Path(id): Path<String>, answer: Answer) -> StatusCode {
    match service.answers.send((id, answer)) {
        Ok(()) => StatusCode::ACCEPTED,
        Err(_) => StatusCode::GONE,
    }
}

const ALL_DONE: &str = r#"{"batchItemFailures":[]}"#;

pub fn batch(records: &[Box<RawValue>]) -> String {
    json!({ "Records": records }).to_string()
}

pub fn done() -> Answer {
    Answer::Response(ALL_DONE.to_owned())
}

/// The log lines of a process. Fails unless standard error is empty and standard output is all JSON.
pub fn log_lines(output: &Output) -> Vec<Json> {
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")));
    lines.filter(|line: &Json| line.get("_aws").is_none()).collect()
}

/// Everything the process wrote.
pub fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat()
}
